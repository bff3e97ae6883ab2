"""Shows the state of a run below its log lines, and sums it up at the end."""

import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import asyncpg
import msgspec
from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bigbrotr.config.settings import LogSettings
from bigbrotr.core.calls.maintenance import Totals
from bigbrotr.core.logger import configure, printable
from bigbrotr.core.pool import NotConnectedError
from bigbrotr.reads import relays, status
from bigbrotr.reads.relays import Counts, RelayProgress
from bigbrotr.runner import Runner, State
from bigbrotr.supervisor import Supervisor
from bigbrotr.view.archive import relay_lines
from bigbrotr.view.words import duration, roughly

REFRESH_S = 1.0
SHARE = 10  # of the time that the questions take, one part of so many: they must not cost much
RATE_WINDOW_S = 10.0
PACE_WINDOW_S = 60.0  # over which the pace is taken that the estimate goes by
LEAST_WINDOW_S = 5.0
MAX_ROWS = 40
AROUND_ROWS = 16  # lines of a terminal that are not rows of relays: the log's and the panel's own
COLOURS = {
    State.RUNNING: "green",
    State.RESTARTING: "yellow",
    State.FAILED: "red",
}


class Moment(Struct, frozen=True):
    """What there was at a moment (monotonic seconds)."""

    at: float
    events: int
    pairs: int


class Service(Struct, frozen=True):
    """A service as it is shown."""

    name: str
    state: State
    trouble: str = ""  # what keeps it from its work, in words


class Picture(Struct, frozen=True, kw_only=True):
    """What the panel shows."""

    profile: str
    up_s: float
    services: tuple[Service, ...]
    doing: str = ""  # instead of its work: starting, stopping
    trouble: str = ""  # of the database
    totals: Totals | None = None
    counts: Counts | None = None
    relays: tuple[RelayProgress, ...] = ()
    new_per_s: float = 0.0
    pairs_per_s: float | None = None  # None: not known yet


class Panel:
    """Looks at a run again and again, and remembers what it takes to compare."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._samples: deque[Moment] = deque()
        self._first: Moment | None = None
        self._last: tuple[Moment, Counts] | None = None

    async def look(self, rows: int) -> Picture:
        """How the run is now, and up to so many relays."""
        supervisor = self._supervisor
        services = tuple(
            Service(runner.name, runner.state, trouble_of(runner)) for runner in supervisor.runners
        )
        picture = Picture(
            profile=supervisor.profile,
            up_s=time.monotonic() - supervisor.started_at,
            services=services,
            doing=supervisor.telemetry.doing,
            trouble=supervisor.telemetry.trouble_of_database(),
        )
        brotr = supervisor.brotr
        if brotr is None or not brotr.pool.is_connected:
            return picture
        networks = [network for network, _ in supervisor.config.networks.enabled()]
        try:
            totals = await status.totals(brotr)
            counts = await relays.counts(brotr.pool, networks)
            shown = await relays.progress(brotr.pool, rows, is_active_first=True)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return picture  # the database is away for a moment: the services say more about it
        except NotConnectedError:
            return picture  # the run has ended while we looked
        self._note(Moment(time.monotonic(), totals.events, totals.pairs), counts)
        new_per_s, _ = rates(self._samples, RATE_WINDOW_S)
        has_pace = self._samples[-1].at - self._samples[0].at >= LEAST_WINDOW_S
        _, pairs_per_s = rates(self._samples, PACE_WINDOW_S)
        return msgspec.structs.replace(
            picture,
            totals=totals,
            counts=counts,
            relays=tuple(shown),
            new_per_s=new_per_s,
            pairs_per_s=pairs_per_s if has_pace else None,
        )

    def _note(self, sample: Moment, counts: Counts) -> None:
        self._first = self._first or sample
        self._last = (sample, counts)
        self._samples.append(sample)
        while self._samples[0].at < sample.at - PACE_WINDOW_S:
            self._samples.popleft()

    def summary(self) -> str:
        """What the run came to, in a line; empty when it did not get to work."""
        if self._first is None or self._last is None:
            return ""
        last, counts = self._last
        up = duration(time.monotonic() - self._supervisor.started_at)
        return (
            f"In {up}: {last.events - self._first.events:,} new events and "
            f"{last.pairs - self._first.pairs:,} new pairs of event and relay. "
            f"{counts.complete:,} of {counts.relays:,} relays are complete, "
            f"{last.events:,} events are archived. The next start goes on from here."
        )


@asynccontextmanager
async def live(supervisor: Supervisor, log: LogSettings) -> AsyncIterator[None]:
    """Shows the state of a run for the length of the block, and sums it up at the end."""
    console = Console(stderr=True)
    panel = Panel(supervisor)
    with Live(console=console, auto_refresh=False, transient=True) as screen:
        configure(log.level, log.json, sys.stderr)  # rich has put itself in front of it
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_refresh, panel, screen)
                yield
                group.cancel_scope.cancel()
        finally:
            screen.stop()
            configure(log.level, log.json, sys.stderr)
            if words := panel.summary():
                console.print(Text(words), highlight=False)


async def _refresh(panel: Panel, screen: Live) -> None:
    while True:
        begun = time.monotonic()
        size = screen.console.size
        picture = await panel.look(rows_of(size.height))
        screen.update(draw(picture, size.width), refresh=True)
        await anyio.sleep(max(REFRESH_S, SHARE * (time.monotonic() - begun)))


def rows_of(height: int) -> int:
    """How many relays there is room for on a terminal of so many lines."""
    return max(1, min(MAX_ROWS, height - AROUND_ROWS))


def trouble_of(runner: Runner) -> str:
    """What keeps a service from its work, in words."""
    if runner.state in (State.RESTARTING, State.FAILED):
        return runner.error
    return "" if runner.service is None else runner.service.trouble


def rates(samples: Sequence[Moment], window_s: float) -> tuple[float, float]:
    """New events and new pairs a second over the window."""
    if not samples:
        return 0.0, 0.0
    last = samples[-1]
    first = next(sample for sample in samples if sample.at >= last.at - window_s)
    seconds = last.at - first.at
    if seconds <= 0:
        return 0.0, 0.0
    return (last.events - first.events) / seconds, (last.pairs - first.pairs) / seconds


def draw(picture: Picture, width: int) -> RenderableType:
    """The panel, in lines of at most `width` cells."""
    head = Text(f"bigbrotr  {picture.profile}  up {duration(picture.up_s)}", style="bold")
    if picture.doing:
        head.append(f"  {printable(picture.doing)}", style="yellow")
    lines: list[Text] = [Text(), head, *_services(picture.services)]
    if picture.trouble:
        lines.append(Text(printable(picture.trouble), style="bold red"))
    totals, counts = picture.totals, picture.counts
    if totals is not None and counts is not None:
        lines.append(
            Text(
                f"relays {totals.relays:,}   candidates {totals.candidates:,}   "
                f"events {totals.events:,}   pairs {totals.pairs:,}"
            )
        )
        lines += _progress(counts, picture)
    if picture.relays:
        lines += [Text(), *relay_lines(picture.relays, width, ways=False)]
    hidden = (totals.relays if totals else 0) - len(picture.relays)
    if hidden > 0:
        lines.append(Text(f"and {hidden:,} more relays: `bigbrotr status` shows all", style="dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _services(services: Sequence[Service]) -> list[Text]:
    """The services by state, a line each state; and their troubles, each once."""
    by_state: dict[State, list[str]] = {}
    for service in services:
        by_state.setdefault(service.state, []).append(service.name)
    lines = []
    for state, names in by_state.items():
        line = Text(f"{state:<10}", style=COLOURS.get(state, "dim"))
        lines.append(line.append(f" {' '.join(names)}", style="default"))
    by_trouble: dict[str, list[str]] = {}
    for service in services:
        if service.trouble:
            by_trouble.setdefault(service.trouble, []).append(service.name)
    lines += [
        Text(printable(f"{', '.join(names)}: {words}"), style="red")
        for words, names in by_trouble.items()
    ]
    return lines


def _progress(counts: Counts, picture: Picture) -> list[Text]:
    """How many relays are complete, and what is left, as far as one can tell."""
    words = f"complete {counts.complete:,} of {counts.relays:,}"
    for name, count in (
        ("live", counts.live),
        ("copying", counts.copying),
        ("failing", counts.failing),
    ):
        if count:
            words += f"   {name} {count:,}"
    pace = f"{picture.new_per_s:,.0f} new events/s"
    if counts.left:
        pace += f"   about {roughly(counts.left)} left to copy"
        if picture.pairs_per_s:
            pace += f": {duration(counts.left / picture.pairs_per_s)} at this pace"
    return [Text(words), Text(pace)]
