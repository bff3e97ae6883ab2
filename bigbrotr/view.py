"""What a person sees on a terminal: the live status of a run, and the state of an archive."""

import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import anyio
import asyncpg
import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bigbrotr.config.settings import LogSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import Monitoring
from bigbrotr.core.calls.upkeep import Totals
from bigbrotr.core.logger import ascii_json, configure, printable
from bigbrotr.models.event import WireEvent
from bigbrotr.models.where import locate
from bigbrotr.runner import State
from bigbrotr.supervisor import Supervisor

REFRESH_S = 1.0
RATE_WINDOW_S = 10.0
SHOWN_RELAYS = 12
SHOWN_SOURCES = 8
ROUND = 1.2  # times the interval: by then each relay that is up was checked again, give or take
COLOURS = {
    State.RUNNING: "green",
    State.RESTARTING: "yellow",
    State.FAILED: "red",
}


@asynccontextmanager
async def live(supervisor: Supervisor, log: LogSettings) -> AsyncIterator[None]:
    """Shows the state of a run below its log lines, for the length of the block."""
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as screen:
        configure(log.level, log.json, sys.stderr)  # rich has put itself in front of it
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_refresh, supervisor, screen)
                yield
                group.cancel_scope.cancel()
        finally:
            screen.stop()
            configure(log.level, log.json, sys.stderr)


async def _refresh(supervisor: Supervisor, screen: Live) -> None:
    samples: deque[tuple[float, int]] = deque()
    while True:
        totals, relays = None, []
        if supervisor.brotr is not None and supervisor.brotr.pool.is_connected:
            try:
                totals = await supervisor.brotr.totals()
                relays = await supervisor.brotr.progress(SHOWN_RELAYS)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass  # the database is away for a moment: the services say more about it
        if totals is not None:
            samples.append((time.monotonic(), totals.events))
            while samples[0][0] < time.monotonic() - RATE_WINDOW_S:
                samples.popleft()
        screen.update(_run(supervisor, totals, _rate(samples), relays), refresh=True)
        await anyio.sleep(REFRESH_S)


def _rate(samples: Sequence[tuple[float, int]]) -> float:
    """Events a second over the window."""
    if len(samples) < 2:
        return 0.0
    (begin, first), (end, last) = samples[0], samples[-1]
    return (last - first) / (end - begin)


def _run(
    supervisor: Supervisor, totals: Totals | None, rate: float, relays: Sequence[asyncpg.Record]
) -> RenderableType:
    services = Text("services  ")
    for runner in supervisor.runners:
        services.append(f"{runner.name} ")
        services.append(f"{runner.state}   ", style=COLOURS.get(runner.state, "dim"))
    up = time.monotonic() - supervisor.started_at
    head = Text(f"bigbrotr  {supervisor.profile}  up {duration(up)}", style="bold")
    if totals is None:
        return Group(Text(), head, services)
    counts = Text(
        f"relays {totals.relays:,}   candidates {totals.candidates:,}   "
        f"events {totals.events:,}   pairs {totals.pairs:,}   {rate:,.0f} new events/s"
    )
    return Group(Text(), head, counts, services, relay_table(relays))


def relay_table(relays: Sequence[asyncpg.Record], *, with_ways: bool = False) -> Table:
    """How far each relay is, a row each; and in which ways that was proven."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("relay", overflow="ellipsis", no_wrap=True, ratio=3)
    counted = [("events", "pairs")]
    # A column of zeros says less than the room it takes.
    counted += [(name, name) for name in ("gaps", "rejected") if any(r[name] for r in relays)]
    for name, _ in counted:
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    table.add_column("proven back to", justify="right", no_wrap=True, min_width=14)
    if with_ways:
        table.add_column("by", overflow="fold", ratio=2)
    table.add_column("last visit", overflow="ellipsis", no_wrap=True, ratio=2)
    for relay in relays:
        cells = (
            relay["url"],
            *(f"{relay[column]:,}" for _, column in counted),
            proven_back_to(relay["proven"]),
            *([how_proven(relay["how"])] if with_ways else []),
            last_visit(relay),
        )
        # Relays choose some of the words: no markup, no escape sequence may come of them.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def last_visit(relay: asyncpg.Record) -> str:
    """What the last visit came to, and when."""
    if relay["in_progress"]:
        return "followed live" if relay["outcome"] == "live" else "copying now"
    if relay["visited_at"] is None:
        return "not yet"
    ago = duration(time.time() - relay["visited_at"])
    words = relay["outcome"] + (f" ({relay['detail']})" if relay["detail"] else "")
    return f"{words}, {ago} ago"


def how_proven(how: str | None) -> str:
    """In which ways a relay's past is proven, the one of most seconds first, and when last."""
    ways = msgspec.json.decode(how or "{}")
    seconds = {name: sum(b - a for a, b in way["proven"]) for name, way in ways.items()}
    names = sorted(ways, key=lambda name: -seconds[name])
    ago = [f"{name} {duration(time.time() - ways[name]['newest_at'])} ago" for name in names]
    return ", ".join(ago) or "-"


def proven_back_to(proven: Sequence["asyncpg.Range[int]"] | None) -> str:
    """Up to which day of the past the newest unbroken stretch is proven complete."""
    if not proven:
        return "-"
    since = proven[-1].lower or 0
    return "the beginning" if since == 0 else day(since)


def day(seconds: int) -> str:
    """A time as a date; or as it is, where it is no date of this millennium."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = int(max(0, seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


async def state(brotr: Brotr, check_every_s: float) -> dict[str, Any]:
    """What is in a database, how far each relay is, and what the monitor has found in the last
    round of checks, as plain values."""
    totals = await brotr.totals()
    since = int(time.time() - ROUND * check_every_s)
    return totals._asdict() | {
        "monitoring": (await brotr.monitoring(since))._asdict() | {"since": since},
        "candidate_sources": await brotr.candidate_sources(),
        "progress": [
            dict(relay)
            | {"proven": [[s.lower, s.upper] for s in relay["proven"] or ()]}
            | {"how": msgspec.json.decode(relay["how"] or "{}")}
            for relay in await brotr.progress()
        ],
    }


def monitored(found: Monitoring, round_s: float) -> list[str]:
    """What the monitor has found, in lines; none where there never was one."""
    if not found.relays and not found.undelivered:
        return []
    ago = "never"
    if found.newest_at is not None:
        ago = f"{duration(time.time() - found.newest_at)} ago"
    opens = "" if found.open_ms is None else f" in {found.open_ms:,.0f} ms (median)"
    known = (
        f"monitored {found.relays:,}   up {found.up:,}   down {found.down:,}   newest check {ago}"
    )
    measured = (
        f"checked within {duration(round_s)} {found.checked:,}   open {found.open:,}{opens}   "
        f"readable {found.readable:,}   writable {found.writable:,}"
    )
    return [f"{known}   undelivered {found.undelivered:,}", measured]


async def print_status(brotr: Brotr, place: str, check_every_s: float) -> None:
    """Prints what is in a database, what the monitor has found, where candidates come from, and how
    far each relay is."""
    totals, relays = await brotr.totals(), await brotr.progress()
    console = Console()
    console.print(Text(printable(place), style="bold"))
    console.print(
        f"relays {totals.relays:,}   candidates {totals.candidates:,}   "
        f"events {totals.events:,}   pairs of event and relay {totals.pairs:,}   "
        f"gaps {totals.gaps:,}   rejected {totals.rejected:,}",
        highlight=False,
    )
    round_s = ROUND * check_every_s
    for line in monitored(await brotr.monitoring(int(time.time() - round_s)), round_s):
        console.print(line, highlight=False)
    if sources := await brotr.candidate_sources():
        shown = [f"{source} {found:,}" for source, found in islice(sources.items(), SHOWN_SOURCES)]
        more = [f"{len(sources) - len(shown)} more"] if len(sources) > len(shown) else []
        words = f"candidates by source: {', '.join(shown + more)}"
        console.print(Text(printable(words)))
    if relays:
        console.print(relay_table(relays, with_ways=True))


async def where(brotr: Brotr, event_id: bytes) -> dict[str, Any]:
    """Where an event is, as plain values: times in Unix seconds."""
    event = await brotr.event(event_id)
    places = locate(as_wire(event), map(dict, await brotr.where(event_id)))
    return {
        "event": event_id.hex(),
        "is_archived": event is not None,
        "created_at": event and event["created_at"],
        "kind": event and event["kind"],
        "present": [each._asdict() for each in places.present],
        "absent": [each._asdict() for each in places.absent],
        "unknown": [{"relay": url} for url in places.unknown],
    }


def in_json(found: dict[str, Any]) -> str:
    """Plain values for programs, in one line."""
    return ascii_json(msgspec.to_builtins(found))


def as_wire(event: asyncpg.Record | None) -> WireEvent | None:
    """An archived event, as far as the archive keeps it, in the form in which filters take it."""
    if event is None:
        return None
    return WireEvent(
        event["id"].hex(),
        event["pubkey"].hex(),
        event["created_at"],
        event["kind"],
        msgspec.Raw((event["tags"] or "null").encode()),
        msgspec.Raw(b'""'),
        "",
    )


async def print_where(brotr: Brotr, event_id: bytes) -> None:
    """Prints where an event is."""
    found = await where(brotr, event_id)
    console = Console()
    words = "not in the archive"
    if found["is_archived"]:
        words = f"kind {found['kind']}, created {moment(found['created_at'])}, archived"
    console.print(Text(found["event"], style="bold"))
    console.print(words, highlight=False)
    present, absent, unknown = found["present"], found["absent"], found["unknown"]
    for relay in present:
        what = ", not handed over" if relay["is_withheld"] else ""
        _print_place(console, "present", relay, f"since {moment(relay['first_seen'])}{what}")
    for relay in absent:
        what = f"as of {moment(relay['as_of'])}, by {relay['how']}"
        if relay["dropped_at"] is not None:
            what += f"; held it since {moment(relay['first_seen'])}"
        _print_place(console, "absent", relay, what)
    for relay in unknown:
        _print_place(console, "unknown", relay, "")
    counts = f"present on {len(present)}, absent from {len(absent)}, unknown for {len(unknown)}"
    console.print(counts, highlight=False)


def _print_place(console: Console, state: str, relay: dict[str, Any], what: str) -> None:
    line = f"  {state:8} {relay['relay']}  {what}".rstrip()
    console.print(Text(printable(line)), highlight=False, soft_wrap=True)


def moment(seconds: int) -> str:
    """A time as date and time (UTC); or as it is, where it is no date of this millennium."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
