"""Reads whole tables, as of one moment, for files that people take home.

All is read in one transaction that sees one moment of the database (REPEATABLE READ). As long as it
is open, PostgreSQL removes no row that anybody has deleted or changed since: it should not stay
open for days.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from bigbrotr.core.pool import Connection, Pool
from bigbrotr.core.schema import is_distributed
from bigbrotr.errors import SchemaError
from bigbrotr.models.policy import View
from bigbrotr.reads.statistics import Statistic

MOST_ROWS = 5000  # that are read at once
BATCH_BYTES = 16 << 20  # about what is read at once, if the next rows are like those before
LONGEST_S = 3600.0  # until some more rows are there

Rows = list[asyncpg.Record]


class Part(NamedTuple):
    """What there is of a month, and a mark that changes with it."""

    events: int  # that the view shows
    mark: str


class Moment:
    """The archive as it was at one moment, as a view shows it."""

    def __init__(
        self,
        connection: Connection,
        view: View,
        now: int,
        hides: tuple[int, int | None],
        relays: Mapping[int, str],
        *,
        is_whole: bool,
    ) -> None:
        self._connection = connection
        self.view = view
        self.taken_at = now
        self._hides = hides
        self.relays = relays  # their URLs by number
        self.is_whole = is_whole  # events are kept whole: the profile is full

    async def spans_of_events(self) -> list[tuple[int, int]]:
        """The weeks in which there may be events: first and last second (Unix)."""
        rows = await self._connection.fetch(
            "SELECT bigbrotr.slice_start(p_slice => x.slice),"
            " bigbrotr.slice_end(p_slice => x.slice)"
            " FROM (SELECT DISTINCT s.slice FROM bigbrotr.slices s) AS x ORDER BY 1"
        )
        return [(row[0], min(row[1], 2**63 - 1) - 1) for row in rows]

    async def span_of_round_trips(self) -> tuple[int, int] | None:
        """The times of the first and the last check (Unix); None: there is none."""
        return await self._span("checked_at", "rtts")

    async def span_of_documents(self) -> tuple[int, int] | None:
        """The times of the first and the last document (Unix); None: there is none."""
        return await self._span("snapshot_at", "snapshots")

    async def _span(self, column: str, table: str) -> tuple[int, int] | None:
        row = await self._connection.fetchrow(
            f"SELECT min(t.{column}), max(t.{column}) FROM bigbrotr.{table} t",  # noqa: S608
            timeout=LONGEST_S,
        )
        assert row is not None
        return None if row[0] is None else (row[0], row[1])

    async def part(self, first: int, last: int) -> Part:
        """What there is of the events created from `first` to `last` (Unix seconds, both included).

        The mark changes when anything does that is told of these events; now and then also when
        nothing has.
        """
        await self._connection.execute(_FREELY)
        row = await self._connection.fetchrow(_PART, first, last, *self._hides, timeout=LONGEST_S)
        assert row is not None
        return Part(row[0], "-".join(str(value) for value in row))

    async def events(self, first: int, last: int) -> AsyncIterator[Rows]:
        """The events created from `first` to `last` in the order (created_at, id), some at a time.

        `raw`: the bytes that were hashed, where the columns do not hold what was signed. `relays`
        and `seen_ats`: who holds it, since when; 4 bytes each, most significant first, the latter
        as in presence.
        """
        await self._connection.execute(_IN_ORDER)
        async for rows in self._read(_EVENTS, first, last, *self._hides):
            yield rows

    async def dropped(self, first: int, last: int) -> AsyncIterator[Rows]:
        """What relays have dropped of the events created from `first` to `last`."""
        await self._connection.execute(_IN_ORDER)
        async for rows in self._read(_DROPPED, first, last, *self._hides):
            yield rows

    async def table(self, name: str, *arguments: object) -> AsyncIterator[Rows]:
        """The rows of one of the other tables, see `QUERIES`."""
        await self._connection.execute(_FREELY)
        async for rows in self._read(QUERIES[name], *arguments):
            yield rows

    async def figures(self, statistic: Statistic) -> AsyncIterator[Rows]:
        """The rows of a list of figures; the last column of some is not its own."""
        await self._connection.execute(_FREELY)
        days = (0, 2**62) if statistic.is_by_day else ()
        begun = (None,) * len(statistic.key)
        async for rows in self._read(statistic.query, None, *days, *begun):
            yield rows

    async def proven(self) -> Rows:
        """For each relay what is proven of its past for all events, and its gaps, in numbers."""
        return await self._connection.fetch(_PROVEN, timeout=LONGEST_S)

    async def _read(self, query: str, *arguments: object) -> AsyncIterator[Rows]:
        cursor = await self._connection.cursor(query, *arguments, timeout=LONGEST_S)
        wanted = 100
        while rows := await cursor.fetch(wanted, timeout=LONGEST_S):
            yield rows
            size = sum(map(_size, rows)) // len(rows) + 1
            wanted = max(10, min(2 * wanted, MOST_ROWS, BATCH_BYTES // size))


def _size(row: asyncpg.Record) -> int:
    return 64 + sum(len(value) for value in row if isinstance(value, bytes | str))


@asynccontextmanager
async def moment(pool: Pool, view: View, now: int | None = None) -> AsyncIterator[Moment]:
    """Opens one moment of the archive, for the length of the block. `now`: Unix seconds.

    Raises:
        SchemaError: a cluster has no such moment.
    """
    at = int(time.time()) if now is None else now
    async with pool.acquire() as connection:
        if await is_distributed(connection):
            raise SchemaError(
                "the events lie on the machines of a cluster, which have no moment in common: "
                "`bigbrotr export jsonl` reads them, as they are meanwhile"
            )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_SETTINGS)
            hides = await connection.fetchrow(
                "SELECT v.hides, v.expired_by FROM bigbrotr.view_hides("
                "p_view => $1, p_now => $2) AS v",
                view.value,
                at,
            )
            assert hides is not None
            relays = await connection.fetch("SELECT r.id, r.url FROM bigbrotr.relays r")
            kept: Sequence[str] = await connection.fetchval("SELECT * FROM bigbrotr.kept_columns()")
            yield Moment(
                connection,
                view,
                at,
                (hides[0], hides[1]),
                {row[0]: row[1] for row in relays},
                is_whole="tags" in kept,
            )


# The search path: behind PgBouncer a session keeps none, and what is read here is long.
_SETTINGS = """
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL jit = off;
SET LOCAL max_parallel_workers_per_gather = 0
"""
# A walk through the key, whatever the planner believes: nothing is sorted, the first row comes at
# once, and what was read is not kept.
_ORDERED = ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin")
_IN_ORDER = ";".join(f"SET LOCAL enable_{name} = off" for name in _ORDERED)
_FREELY = ";".join(f"SET LOCAL enable_{name} = on" for name in _ORDERED)

_SHOWN = """(SELECT true FROM bigbrotr.hidden h
       WHERE h.created_at = {0}.created_at AND h.slice = {0}.slice AND h.id = {0}.{1}
         AND (h.why & $3::pg_catalog.int4 <> 0 OR h.expires_at <= $4::pg_catalog.int8)) IS NULL"""

_EVENTS = f"""
SELECT e.created_at, e.id, e.pubkey, e.kind, e.tags, e.content, e.sig,
       (SELECT w.raw FROM bigbrotr.events_raw w WHERE w.event_id = e.id AND w.slice = e.slice),
       p.relays, p.seen_ats
FROM bigbrotr.events_stored e
CROSS JOIN LATERAL (
    SELECT string_agg(int4send(x.relay_id), '' ORDER BY x.relay_id) AS relays,
           string_agg(int4send(x.seen_ats[(e.num & 255)::pg_catalog.int4 + 1]), ''
                      ORDER BY x.relay_id) AS seen_ats
    FROM bigbrotr.presence x
    WHERE x.slice = e.slice AND x.chunk = e.num >> 8
      AND x.slice >= bigbrotr.slice_of(p_created_at => $1)
      AND x.slice <= bigbrotr.slice_of(p_created_at => $2)
      AND x.seen_ats[(e.num & 255)::pg_catalog.int4 + 1] IS NOT NULL
) AS p
WHERE e.created_at >= $1 AND e.created_at <= $2 AND {_SHOWN.format("e", "id")}
ORDER BY e.created_at, e.id
"""  # noqa: S608 -- our own words

_DROPPED = f"""
SELECT d.created_at, d.event_id, r.url, d.seen_at, d.dropped_at
FROM bigbrotr.dropped d JOIN bigbrotr.relays r ON r.id = d.relay_id
WHERE d.created_at >= $1 AND d.created_at <= $2 AND {_SHOWN.format("d", "event_id")}
ORDER BY d.created_at, d.slice, d.event_id, d.relay_id
"""  # noqa: S608

# Of all that a month's files are made of. Who computes events for nothing else can make a change of
# his own events pass for none; he gains no more than that they are published as they were before.
_PART = f"""
SELECT e.number, e.ids, p.number, p.rows, d.number, d.rows
FROM (
    SELECT count(*) AS number,
           coalesce(bit_xor(hash_record_extended(ROW(e.created_at, e.id), 0)), 0) AS ids
    FROM bigbrotr.events_stored e
    WHERE e.created_at >= $1 AND e.created_at <= $2 AND {_SHOWN.format("e", "id")}
) AS e, (
    SELECT count(*) AS number,
           coalesce(bit_xor(hash_record_extended(
               ROW(p.slice, p.chunk, p.relay_id, p.seen_ats), 0)), 0) AS rows
    FROM bigbrotr.presence p
    WHERE p.slice >= bigbrotr.slice_of(p_created_at => $1)
      AND p.slice <= bigbrotr.slice_of(p_created_at => $2)
) AS p, (
    SELECT count(*) AS number,
           coalesce(bit_xor(hash_record_extended(
               ROW(d.event_id, d.relay_id, d.seen_at, d.dropped_at), 0)), 0) AS rows
    FROM bigbrotr.dropped d WHERE d.created_at >= $1 AND d.created_at <= $2
) AS d
"""  # noqa: S608

_PROVEN = """
SELECT r.url,
       coalesce((SELECT pg_catalog.range_agg(c.proven) FROM bigbrotr.coverage c
                 WHERE c.relay_id = r.id AND c.filter = ''), '{}') AS proven,
       (SELECT pg_catalog.max(c.proven_at) FROM bigbrotr.coverage c
        WHERE c.relay_id = r.id) AS proven_at,
       (SELECT pg_catalog.count(*) FROM bigbrotr.gaps g WHERE g.relay_id = r.id) AS gaps
FROM bigbrotr.relays r ORDER BY r.url
"""

QUERIES = {
    "relays": "SELECT r.url, r.network, r.discovered_at FROM bigbrotr.relays r ORDER BY r.url",
    "coverage": "SELECT r.url, c.filter, c.how, pg_catalog.lower(s.span),"
    " pg_catalog.upper(s.span), c.proven_at FROM bigbrotr.coverage c"
    " JOIN bigbrotr.relays r ON r.id = c.relay_id"
    " CROSS JOIN LATERAL pg_catalog.unnest(c.proven) AS s (span)"
    " ORDER BY r.url, c.filter, c.proven_at, c.how, s.span",
    "gaps": "SELECT r.url, g.filter, pg_catalog.lower(g.span), pg_catalog.upper(g.span),"
    " g.reason, g.detail, g.attempts, g.noted_at FROM bigbrotr.gaps g"
    " JOIN bigbrotr.relays r ON r.id = g.relay_id"
    " ORDER BY r.url, g.filter, g.span",
    "checks": "SELECT r.url, c.state, c.since, c.failures, c.checked_at, c.outcome, c.detail"
    " FROM bigbrotr.checks c JOIN bigbrotr.relays r ON r.id = c.relay_id ORDER BY r.url",
    "round_trips": "SELECT r.url, s.checked_at, s.outcome IS NULL, s.outcome, s.holds_s, s.dns_ms,"
    " s.tcp_ms, s.tls_ms, s.upgrade_ms, s.read_ms, s.write_ms"
    " FROM bigbrotr.rtts s JOIN bigbrotr.relays r ON r.id = s.relay_id"
    " WHERE s.checked_at >= $1 AND s.checked_at <= $2 ORDER BY s.checked_at, r.url",
    "documents": "SELECT r.url, s.type, s.snapshot_at, s.metadata_id, m.data::pg_catalog.text"
    " FROM bigbrotr.snapshots s JOIN bigbrotr.relays r ON r.id = s.relay_id"
    " JOIN bigbrotr.metadata m ON m.id = s.metadata_id"
    " WHERE s.snapshot_at >= $1 AND s.snapshot_at <= $2 ORDER BY s.snapshot_at, r.url, s.type",
}
