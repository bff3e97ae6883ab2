"""Prints what an archive holds, all about one relay, and where an event is."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from bigbrotr.core.logger import ascii_json, printable
from bigbrotr.reads.relays import Candidate, OpenGap, RelayProgress, RelayReport, Stage
from bigbrotr.reads.status import LastRound, Status
from bigbrotr.reads.where import Where
from bigbrotr.view.table import Column, lay_out
from bigbrotr.view.words import (
    ago,
    due_in,
    duration,
    how_proven,
    last_visit,
    moment,
    proven_back_to,
    stretch,
)

SHOWN_SOURCES = 8
SHOWN_GAPS = 20
SHOWN_INCIDENTS = 10
MAX_URL = 50  # cells of a terminal; longer ones are cut there
SORTS: dict[str, Callable[[RelayProgress], int | str]] = {  # what `--sort` may say
    "holds": lambda relay: -relay.holds,
    "url": lambda relay: relay.url,
    "gaps": lambda relay: -relay.gaps,
    "rejected": lambda relay: -relay.rejected,
    "failures": lambda relay: -relay.failures,
    "visited": lambda relay: -(relay.visited_at or 0),
    "due": lambda relay: relay.due_at,
}


def in_json(found: Any) -> str:
    """Plain values for programs, in one line."""
    return ascii_json(msgspec.to_builtins(found))


def width_of(console: Console) -> int | None:
    """How wide lines may be: as wide as the terminal; None where it is none."""
    return console.width if console.is_terminal else None


def chosen(
    relays: Iterable[RelayProgress], *, sort: str = "holds", is_failing: bool = False
) -> list[RelayProgress]:
    """The relays in an order of `SORTS`; those alone whose visits fail, if that is asked for."""
    wanted = [
        relay
        for relay in relays
        if not is_failing or relay.failures or relay.stage in (Stage.FAILING, Stage.RETIRED)
    ]
    return sorted(wanted, key=lambda relay: (SORTS[sort](relay), relay.url))


def relay_lines(relays: Sequence[RelayProgress], width: int | None, *, ways: bool) -> list[Text]:
    """How far each relay is, a line each; with `ways`, in which ways that was proven."""
    columns = [
        Column("relay", [relay.url for relay in relays], least=width and min(MAX_URL, width // 2)),
        Column("holds", [f"{relay.holds:,}" for relay in relays], is_number=True),
    ]
    # A column of zeros says less than the room it takes.
    if any(relay.gaps for relay in relays):
        columns.append(Column("gaps", [f"{r.gaps:,}" for r in relays], rank=3, is_number=True))
    if any(relay.rejected for relay in relays):
        cells = [f"{relay.rejected:,}" for relay in relays]
        columns.append(Column("rejected", cells, rank=4, is_number=True))
    columns.append(
        Column("proven back to", [proven_back_to(relay.proven) for relay in relays], rank=2)
    )
    if ways:
        columns.append(Column("by", [how_proven(relay.ways) for relay in relays], rank=5))
    columns.append(Column("last visit", [last_visit(relay) for relay in relays], rank=1, least=14))
    return lay_out(columns, width)


def measured_lines(found: LastRound, round_s: float) -> list[str]:
    """What the monitor has found, in lines; none where there never was one."""
    if not found.relays and not found.undelivered:
        return []
    known = f"monitored {found.relays:,}   up {found.up:,}   down {found.down:,}"
    if found.unchecked:
        known += f"   not checked yet {found.unchecked:,}"
    if found.newest_at is not None:
        known += f"   newest check {ago(found.newest_at)}"
    opens = "" if found.open_ms is None else f" in {found.open_ms:,.0f} ms (median)"
    writable = "not tried" if found.writable is None else f"{found.writable:,}"
    lines = [f"{known}   undelivered {found.undelivered:,}"]
    if found.newest_at is not None:
        lines.append(
            f"checked within {duration(round_s)} {found.checked:,}   open {found.open:,}{opens}   "
            f"readable {found.readable:,}   writable {writable}"
        )
    return lines


def print_status(
    found: Status,
    place: str,
    round_s: float,
    relays: Sequence[RelayProgress] | None = None,
    console: Console | None = None,
) -> None:
    """Prints what is in an archive, what the monitor has found in a round of checks of so many
    seconds, where candidates come from, and how far each of `relays` (default: all) is."""
    console = console or Console()
    shown = found.progress if relays is None else relays
    say(console, place, "bold")
    say(
        console,
        f"relays {found.relays:,}   candidates {found.candidates:,}   "
        f"events {found.events:,}   pairs of event and relay {found.pairs:,}   "
        f"gaps {found.gaps:,}   rejected {found.rejected:,}",
    )
    for line in measured_lines(found.measured, round_s):
        say(console, line)
    if sources := found.candidate_sources:
        first = [f"{source} {count:,}" for source, count in islice(sources.items(), SHOWN_SOURCES)]
        more = [f"{len(sources) - len(first)} more"] if len(sources) > len(first) else []
        say(console, f"candidates by source: {', '.join(first + more)}")
    if shown:
        console.print()
        print_lines(console, relay_lines(shown, width_of(console), ways=True))
    if len(shown) < len(found.progress):
        say(console, f"{len(shown):,} of {len(found.progress):,} relays")


def print_relay(found: RelayReport, console: Console | None = None) -> None:
    """Prints all that is known of one relay."""
    console = console or Console()
    relay = found.progress
    say(console, relay.url, "bold")
    say(console, f"{relay.network}, {relay.stage}, found {moment(relay.discovered_at)}")
    _entry(console, "holds", f"{relay.holds:,} archived events; {relay.brought:,} were new with it")
    _entry(console, "last visit", last_visit(relay))
    if relay.stage is Stage.RETIRED:
        _entry(console, "retired", f"{ago(relay.retired_at or 0)}, and tried as a candidate")
    else:
        _entry(console, "next visit", due_in(relay.due_at))
    if relay.failures:
        _entry(console, "failures", f"{relay.failures:,} in a row")
    _entry(console, "wanted", relay.filter or "all events")
    _entry(console, "proven", "; ".join(map(stretch, relay.proven)) or "nothing yet")
    _entry(console, "proven by", how_proven(relay.ways))
    _entry(console, "missing", "; ".join(map(stretch, found.missing)) or "nothing")
    if relay.nip77 is not None:
        tried = "" if relay.nip77_tried_at is None else f", tried {ago(relay.nip77_tried_at)}"
        _entry(console, "NIP-77", f"{relay.nip77}{tried}")
    if relay.identity is not None:
        _entry(console, "shown key", relay.identity)
    if relay.withheld:
        _entry(console, "withheld", f"{relay.withheld:,} events that it names, not handed over")
    if found.rejected:
        words = ", ".join(f"{reason} {count:,}" for reason, count in found.rejected.items())
        _entry(console, "rejected", words)
    _entry(console, "gaps", f"{len(found.gaps):,}")
    for gap in found.gaps[:SHOWN_GAPS]:
        say(console, f"  {_gap(gap)}")
    if len(found.gaps) > SHOWN_GAPS:
        say(console, f"  and {len(found.gaps) - SHOWN_GAPS:,} more: --json has all")
    _print_checks(console, found)


def _gap(gap: OpenGap) -> str:
    detail = f" ({gap.detail})" if gap.detail else ""
    return (
        f"{stretch(gap.span)}: {gap.reason}{detail}, tried {gap.attempts:,} times, "
        f"again {due_in(gap.due_at)}"
    )


def _print_checks(console: Console, found: RelayReport) -> None:
    check, uptime = found.check, found.uptime
    if check is None or check.checked_at is None:
        _entry(console, "checked", "not yet")
        return
    since = "" if check.since is None else f" since {moment(check.since)}"
    detail = f": {check.outcome}" if check.outcome not in (None, check.state) else ""
    detail += f" ({check.detail})" if check.detail else ""
    _entry(console, "checked", f"{check.state}{since}{detail}; {ago(check.checked_at)}")
    for name, reason in check.failed.items():
        say(console, f"  {name} failed: {reason}")
    if uptime.uptime is not None:
        _entry(
            console,
            "uptime",
            f"{uptime.uptime:.2%} of what is known of the last {uptime.days} days "
            f"({duration(uptime.up_s + uptime.down_s)}, {uptime.checks:,} checks)",
        )
    for incident in uptime.incidents[-SHOWN_INCIDENTS:]:
        until = "now" if incident.until is None else moment(incident.until)
        say(console, f"  down from {moment(incident.since)} to {until}: {incident.reason}")
    for name, document in found.documents.items():
        words = msgspec.json.encode(document.data).decode()
        _entry(console, name, f"{words}, {ago(document.snapshot_at)}")


def print_candidate(found: Candidate, console: Console | None = None) -> None:
    """Prints what is known of a URL that is no relay yet."""
    console = console or Console()
    say(console, found.url, "bold")
    what = "a candidate" if found.alias_of is None else f"another name of {found.alias_of}"
    say(console, f"{found.network}, {what}, found {moment(found.discovered_at)} by {found.source}")
    if found.tried_at is None:
        _entry(console, "tried", "not yet")
    else:
        detail = f" ({found.detail})" if found.detail else ""
        _entry(console, "tried", f"{found.outcome}{detail}, {ago(found.tried_at)}")
        _entry(console, "failures", f"{found.attempts:,} in a row")
    _entry(console, "next try", due_in(found.due_at))


def _entry(console: Console, name: str, words: str) -> None:
    say(console, f"{name:<11}  {words}")


def print_where(found: Where, console: Console | None = None) -> None:
    """Prints where an event is."""
    console = console or Console()
    say(console, found.event, "bold")
    words = "not in the archive"
    if found.is_archived:
        kind = "its kind erased" if found.kind is None else f"kind {found.kind}"
        words = f"{kind}, created {moment(found.created_at or 0)}, archived"
    say(console, words)
    for why in found.hidden:
        say(console, f"  hidden   {why.reason}: {why.words}")
    for holder in found.present:
        what = ", not handed over" if holder.is_withheld else ""
        _place(console, "present", holder.relay, f"since {moment(holder.first_seen)}{what}")
    for other in found.absent:
        what = f"as of {moment(other.as_of)}, by {other.how}"
        if other.dropped_at is not None:
            what += f"; held it since {moment(other.first_seen or 0)}"
        _place(console, "absent", other.relay, what)
    for url in found.unknown:
        _place(console, "unknown", url, "")
    say(
        console,
        f"present on {len(found.present)}, absent from {len(found.absent)}, "
        f"unknown for {len(found.unknown)}",
    )


def _place(console: Console, state: str, url: str, what: str) -> None:
    say(console, f"  {state:8} {url}  {what}".rstrip())


def say(console: Console, words: str, style: str = "") -> None:
    """Prints a line, whoever wrote some of its words."""
    console.print(Text(printable(words), style=style), highlight=False, soft_wrap=True)


def print_lines(console: Console, lines: Iterable[Text]) -> None:
    """Prints lines that are laid out already."""
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
