"""Reads what an archive holds, what was measured, and where its candidates come from."""

import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.maintenance import Totals
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import read_ledger
from bigbrotr.reads import relays
from bigbrotr.reads.relays import RelayProgress

ROUND = 1.2  # times the interval: by then each relay that is up was checked again, give or take


class LastRound(Struct, frozen=True, kw_only=True):
    """What the monitor knows: relays by state, and what was measured since `since`."""

    relays: int  # that are monitored
    up: int
    down: int
    unchecked: int  # no verdict yet
    newest_at: int | None  # the newest verdict, in Unix seconds; None: there was none
    since: int
    checked: int  # since then, by the newest verdict of each relay, as are the following
    open: int
    open_ms: float | None  # the median
    readable: int  # answered a question
    writable: int | None  # took an event; None: nobody tried
    undelivered: int  # events of our own that wait for their relay


class Status(Struct, frozen=True, kw_only=True):
    """What is in an archive, and how far each relay is."""

    profile: str | None
    revision: int | None
    relays: int
    candidates: int
    events: int
    pairs: int  # of event and relay: the sum of what each relay holds
    gaps: int
    rejected: int
    measured: LastRound
    candidate_sources: dict[str, int]
    progress: tuple[RelayProgress, ...]


async def status(brotr: Brotr, check_every_s: float, *, writes: bool = False) -> Status:
    """The state of an archive.

    `check_every_s`: how often relays are checked, which says what a round of checks is. `writes`:
    whether relays are tried for writing.
    """
    async with brotr.pool.acquire() as connection:
        ledger = await read_ledger(connection)
    return Status(
        profile=None if ledger is None else ledger.profile.value,
        revision=None if ledger is None else ledger.revision,
        **(await brotr.totals())._asdict(),
        measured=await measured(brotr, check_every_s, writes=writes),
        candidate_sources=await candidate_sources(brotr.pool),
        progress=tuple(await relays.progress(brotr.pool)),
    )


async def totals(brotr: Brotr) -> Totals:
    """What is in the archive, in numbers."""
    return await brotr.totals()


async def measured(brotr: Brotr, check_every_s: float, *, writes: bool = False) -> LastRound:
    """What the monitor has found, in the last round of checks."""
    since = int(time.time() - ROUND * check_every_s)
    found = await brotr.monitoring(since)
    return LastRound(
        relays=found.relays,
        up=found.up,
        down=found.down,
        unchecked=found.relays - found.up - found.down,
        newest_at=found.newest_at,
        since=since,
        checked=found.checked,
        open=found.open,
        open_ms=found.open_ms,
        readable=found.readable,
        writable=found.writable if writes or found.writable else None,
        undelivered=found.undelivered,
    )


async def candidate_sources(pool: Pool) -> dict[str, int]:
    """How many candidates were first seen where, the most frequent first."""
    rows = await pool.fetch(
        "SELECT source, pg_catalog.count(*) AS found FROM bigbrotr.candidates"
        " GROUP BY source ORDER BY found DESC, source"
    )
    return {row["source"]: row["found"] for row in rows}


def with_progress(found: Status, progress: Sequence[RelayProgress]) -> Status:
    """The same status, of some relays alone."""
    return msgspec.structs.replace(found, progress=tuple(progress))


class Overview(Struct, frozen=True, kw_only=True):
    """What is in an archive, in numbers."""

    profile: str | None
    relays: int
    candidates: int
    events: int
    pairs: int  # of event and relay: the sum of what each relay holds
    gaps: int
    rejected: int
    up: int  # relays that the monitor found up
    down: int
    visited: int  # relays from which events are copied
    complete: int  # of these: all that is wanted is proven, or a gap with a reason
    live: int  # of these: followed as events come
    made_at: int  # Unix seconds


async def overview(pool: Pool) -> Overview:
    """What is in an archive, in numbers; looks at each relay once."""
    async with pool.acquire() as connection:
        ledger = await read_ledger(connection)
    totals = await pool.fetchrow("SELECT * FROM bigbrotr.totals()")
    states = await pool.fetch(
        "SELECT state, pg_catalog.count(*) AS found FROM bigbrotr.checks GROUP BY state"
    )
    by_state = {row["state"]: row["found"] for row in states}
    counts = await relays.counts(pool)
    assert totals is not None
    return Overview(
        profile=None if ledger is None else ledger.profile.value,
        **dict(totals),
        up=by_state.get("up", 0),
        down=by_state.get("down", 0),
        visited=counts.relays,
        complete=counts.complete,
        live=counts.live,
        made_at=int(time.time()),
    )


class Freshness(Struct, frozen=True, kw_only=True):
    """How recent an archive is, and what waits. Times are Unix seconds; None: it never was."""

    visited_at: int | None  # the newest visit of a relay
    checked_at: int | None  # the newest check of one
    visits: int  # that are due
    gaps: int  # that are due to be tried again
    days: int  # that are to be counted anew
    reviews: int  # walks through archived events, to judge whether they are shown
    bytes: int  # of the database


async def freshness(pool: Pool) -> Freshness:
    """How recent an archive is; looks at each relay and gap once."""
    row = await pool.fetchrow(
        "SELECT pg_catalog.max(v.visited_at) AS visited_at,"
        " (SELECT pg_catalog.max(c.checked_at) FROM bigbrotr.checks c) AS checked_at,"
        " pg_catalog.count(*) FILTER (WHERE v.due_at <= $1 AND v.retired_at IS NULL) AS visits,"
        " (SELECT pg_catalog.count(*) FROM bigbrotr.gaps g WHERE g.due_at <= $1) AS gaps,"
        " (SELECT pg_catalog.count(*) FROM"
        "  bigbrotr.days_due(p_made_before => $1, p_now => $1, p_limit => NULL)) AS days,"
        " (SELECT pg_catalog.count(*) FROM bigbrotr.reviews) AS reviews,"
        " pg_catalog.pg_database_size(pg_catalog.current_database()) AS bytes"
        " FROM bigbrotr.visits v",
        int(time.time()),
    )
    assert row is not None
    return Freshness(**dict(row))
