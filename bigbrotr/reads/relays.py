"""Reads how far each relay is, and all that is known of one."""

import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import asyncpg
import msgspec
from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.relay import Network

# Events are hardly older than the protocol. What is missing before does not count as left to do.
BEGINNING = 1_604_707_200  # 2020-11-07
CHECK = (
    "SELECT state, since, checked_at, outcome, detail, failed, due_at"
    " FROM bigbrotr.relay_states WHERE relay_url = $1"
)

# Spans of time: [since, until) in Unix seconds; None: open to that side.
Span = tuple[int | None, int | None]


class Stage(StrEnum):
    """What a relay is up to."""

    RETIRED = "retired"  # it failed for long, and is tried as a candidate again
    LIVE = "live"  # followed: its new events are stored as they come
    COPYING = "copying"
    FAILING = "failing"
    WAITING = "waiting"  # until its next visit


class Way(Struct, frozen=True):
    """What was proven in one way (paging, finish, reconciliation)."""

    proven: tuple[Span, ...]
    oldest_at: int
    newest_at: int

    @property
    def seconds(self) -> int:
        """How much of the past it is."""
        return sum((until or 0) - (since or 0) for since, until in self.proven)


class RelayProgress(Struct, frozen=True, kw_only=True):
    """How far one relay is with what is wanted of it now. Times are Unix seconds."""

    url: str
    network: str
    stage: Stage
    discovered_at: int
    holds: int  # archived events that it holds
    brought: int  # archived events that were first met there
    gaps: int
    rejected: int  # events of its that were not valid
    withheld: int  # events that it says it holds and does not hand over
    due_at: int
    visited_at: int | None
    outcome: str | None  # of the last visit
    detail: str | None
    failures: int  # visits in a row that brought no answer
    retired_at: int | None
    filter: str  # which events are wanted; "": all
    identity: str | None  # the public key with which it was last copied
    proven: tuple[Span, ...]
    ways: dict[str, Way]
    nip77: str | None  # what came of trying to compare ids
    nip77_tried_at: int | None


class Counts(Struct, frozen=True):
    """How far all relays together are."""

    relays: int  # that are visited: of networks that are enabled, and not retired
    complete: int  # all that is wanted of them is proven, or a gap with a reason
    live: int
    copying: int
    failing: int
    left: int  # events that are still to be copied, estimated


class Due(Struct, frozen=True):
    """When something is to be done next, in Unix seconds; None: nothing is."""

    candidates: int | None = None
    visits: int | None = None
    checks: int | None = None


class OpenGap(Struct, frozen=True):
    """A stretch of the past that is not proven, and why."""

    span: Span
    reason: str
    detail: str
    attempts: int
    noted_at: int
    due_at: int


class LatestCheck(Struct, frozen=True):
    """What the monitor found when it last looked."""

    state: str  # unknown, up, down
    since: int | None
    checked_at: int | None
    outcome: str | None
    detail: str | None
    failed: dict[str, str]  # checks that failed, and why
    due_at: int


class Incident(Struct, frozen=True):
    """A time for which a relay was down."""

    since: int
    until: int | None
    reason: str | None


class Uptime(Struct, frozen=True):
    """How much of the last `days` a relay was up."""

    days: int
    uptime: float | None  # of what is known; None: nothing is
    up_s: int
    down_s: int
    unknown_s: int
    checks: int
    incidents: tuple[Incident, ...]


class StoredDocument(Struct, frozen=True):
    """The newest snapshot of one type."""

    snapshot_at: int
    data: Any


class Candidate(Struct, frozen=True):
    """A URL that may be a relay."""

    url: str
    network: str
    source: str
    discovered_at: int
    attempts: int  # failures in a row
    tried_at: int | None
    outcome: str | None
    detail: str | None
    due_at: int
    alias_of: str | None  # the relay that answers the same


class Standing(Struct, frozen=True):
    """A relay in three words."""

    state: str  # unknown, up, down
    uptime: float | None  # of what is known; None: nothing is
    holds: int  # archived events that it holds


class RelayReport(Struct, frozen=True, kw_only=True):
    """All that is known of one relay."""

    progress: RelayProgress
    missing: tuple[Span, ...]  # neither proven nor a gap that has to wait
    gaps: tuple[OpenGap, ...]
    rejected: dict[str, int]  # by reason
    check: LatestCheck | None
    uptime: Uptime
    alone: int  # archived events that no other relay is known to hold, of the days counted
    documents: dict[str, StoredDocument]


async def progress(
    pool: Pool, limit: int | None = None, *, is_active_first: bool = False
) -> list[RelayProgress]:
    """How far each relay is, those that hold most first; before them those that are being copied,
    if `is_active_first`."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.relay_progress"
        " ORDER BY $2 AND stage = 'copying' DESC, pairs DESC, url LIMIT $1",
        limit,
        is_active_first,
    )
    return [_progress(row) for row in rows]


async def alone(pool: Pool) -> int:
    """How many archived events one relay alone is known to hold, as of the newest sums."""
    found: int = await pool.fetchval(
        "SELECT coalesce(pg_catalog.sum(s.alone), 0)::bigint FROM bigbrotr.relay_sums s"
    )
    return found


async def counts(pool: Pool, networks: Iterable[Network] = Network) -> Counts:
    """How far all relays of the networks together are. Looks at each relay's coverage once."""
    row = await pool.fetchrow(
        "SELECT * FROM bigbrotr.progress_counts(p_networks => $1, p_beginning => $2, p_now => $3)",
        [network.value for network in networks],
        BEGINNING,
        int(time.time()),
    )
    assert row is not None
    return Counts(*row)


async def due(pool: Pool, networks: Iterable[Network] = Network) -> Due:
    """When the next candidate, relay and check in the networks are due."""
    row = await pool.fetchrow(
        "SELECT * FROM bigbrotr.next_due(p_networks => $1)",
        [network.value for network in networks],
    )
    return Due(*row) if row else Due()


async def candidate(pool: Pool, url: str) -> Candidate | None:
    """A candidate by its normalised URL; None: there is no such."""
    row = await pool.fetchrow(
        "SELECT c.url, c.network, c.source, c.discovered_at, c.attempts, c.tried_at, c.outcome,"
        " c.detail, c.due_at, r.url AS alias_of"
        " FROM bigbrotr.candidates c LEFT JOIN bigbrotr.relays r ON r.id = c.alias_of"
        " WHERE c.url = $1",
        url,
    )
    return None if row is None else Candidate(*row)


async def report(pool: Pool, url: str, *, days: int = 30) -> RelayReport | None:
    """All that is known of a relay by its normalised URL, its uptime of the last `days`; None: it
    is no relay of this archive."""
    row = await pool.fetchrow("SELECT * FROM bigbrotr.relay_progress WHERE url = $1", url)
    if row is None:
        return None
    now = int(time.time())
    missing = await pool.fetchval(
        "SELECT bigbrotr.missing_spans(p_relay_id => v.relay_id, p_since => v.since,"
        " p_until => v.until, p_filter => v.filter, p_now => $2)"
        " FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id WHERE r.url = $1",
        url,
        now,
    )
    gaps = await pool.fetch(
        "SELECT g.span, g.reason, g.detail, g.attempts, g.noted_at, g.due_at FROM bigbrotr.gaps g"
        " JOIN bigbrotr.visits v ON v.relay_id = g.relay_id AND v.filter = g.filter"
        " JOIN bigbrotr.relays r ON r.id = g.relay_id WHERE r.url = $1 ORDER BY g.span DESC",
        url,
    )
    rejected = await pool.fetch(
        "SELECT x.reason, x.count FROM bigbrotr.rejected x"
        " JOIN bigbrotr.relays r ON r.id = x.relay_id"
        " WHERE r.url = $1 ORDER BY x.count DESC, x.reason",
        url,
    )
    check = await pool.fetchrow(CHECK, url)
    documents = await pool.fetch(
        "SELECT type, snapshot_at, data FROM bigbrotr.relay_metadata_latest WHERE relay_url = $1"
        " ORDER BY type",
        url,
    )
    return RelayReport(
        progress=_progress(row),
        missing=spans_of(missing),
        gaps=tuple(OpenGap((gap["span"].lower, gap["span"].upper), *list(gap)[1:]) for gap in gaps),
        rejected={each["reason"]: each["count"] for each in rejected},
        check=None if check is None else _check(check),
        uptime=await uptime_of(pool, url, days, now),
        alone=await pool.fetchval(
            "SELECT coalesce(pg_catalog.sum(d.alone), 0)::bigint FROM bigbrotr.day_relays d"
            " JOIN bigbrotr.relays r ON r.id = d.relay_id WHERE r.url = $1",
            url,
        ),
        documents={
            each["type"]: StoredDocument(
                each["snapshot_at"], msgspec.json.decode(each["data"] or "null")
            )
            for each in documents
        },
    )


def _progress(row: asyncpg.Record) -> RelayProgress:
    return RelayProgress(
        url=row["url"],
        network=row["network"],
        stage=Stage(row["stage"]),
        discovered_at=row["discovered_at"],
        holds=row["pairs"],
        brought=row["events"],
        gaps=row["gaps"],
        rejected=row["rejected"],
        withheld=row["withheld"],
        due_at=row["due_at"],
        visited_at=row["visited_at"],
        outcome=row["outcome"],
        detail=row["detail"],
        failures=row["failures"],
        retired_at=row["retired_at"],
        filter=row["filter"],
        identity=row["identity"],
        proven=spans_of(row["proven"]),
        ways=msgspec.json.decode(row["how"] or "{}", type=dict[str, Way]),
        nip77=row["reconciliation"],
        nip77_tried_at=row["reconciliation_tried_at"],
    )


def spans_of(ranges: "Iterable[asyncpg.Range[int]] | None") -> tuple[Span, ...]:
    """Ranges of PostgreSQL as spans; None: there are none."""
    return tuple((each.lower, each.upper) for each in ranges or ())


def _check(row: asyncpg.Record) -> LatestCheck:
    failed = msgspec.json.decode(row["failed"] or "{}", type=dict[str, str])
    return LatestCheck(**(dict(row) | {"failed": failed}))


async def uptime_of(pool: Pool, url: str, days: int, now: int) -> Uptime:
    """How much of the `days` before `now` (Unix seconds) a relay was up."""
    row = await pool.fetchrow(
        "SELECT uptime, up_s, down_s, unknown_s, checks, incidents"
        " FROM bigbrotr.relay_uptime(p_relay => $1, p_days => $2, p_now => $3)",
        url,
        days,
        now,
    )
    if row is None:
        return Uptime(days, None, 0, 0, 0, 0, ())
    incidents = msgspec.json.decode(row["incidents"] or "[]", type=tuple[Incident, ...])
    return Uptime(days, **(dict(row) | {"incidents": incidents}))


async def standing(pool: Pool, url: str, days: int, now: int) -> Standing | None:
    """The state of a relay by its normalised URL, and its uptime of the `days` before `now` (Unix
    seconds); None: it is no relay of this archive."""
    row = await pool.fetchrow(
        "SELECT coalesce(s.state, 'unknown') AS state, p.pairs FROM bigbrotr.relay_progress p"
        " LEFT JOIN bigbrotr.relay_states s ON s.relay_url = p.url WHERE p.url = $1",
        url,
    )
    if row is None:
        return None
    uptime = await uptime_of(pool, url, days, now)
    return Standing(row["state"], uptime.uptime, row["pairs"])


async def incidents(
    pool: Pool, url: str, days: int
) -> tuple[int, LatestCheck | None, tuple[Incident, ...]] | None:
    """When a relay was discovered, its newest check, and its incidents of the last `days`, oldest
    first; None: it is no relay of this archive."""
    discovered_at = await pool.fetchval(
        "SELECT r.discovered_at FROM bigbrotr.relays r WHERE r.url = $1", url
    )
    if discovered_at is None:
        return None
    check = await pool.fetchrow(CHECK, url)
    uptime = await uptime_of(pool, url, days, int(time.time()))
    return discovered_at, None if check is None else _check(check), uptime.incidents
