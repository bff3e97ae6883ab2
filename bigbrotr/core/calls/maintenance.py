"""Maintenance: what there is in numbers, roles, statistics and partitions."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls
from bigbrotr.core.metrics import Sample
from bigbrotr.errors import DatabaseError
from bigbrotr.models.relay import Network

OLD_TRANSACTIONS = 1_000_000_000  # of the 2**31 that there are; autovacuum acts at a fifth of it
DEAD_ROWS = 100_000  # fewer are never worth a word
PACKED_BYTES = 16 << 20  # smaller indexes are left as they are


class Totals(NamedTuple):
    """What is in the database."""

    relays: int
    candidates: int
    events: int
    pairs: int
    gaps: int
    rejected: int


class MaintenanceCalls(Calls):
    """What is there, and what keeps it in order."""

    async def totals(self) -> Totals:
        """What is in the database, exactly, at the cost of one row a relay."""
        row = await self._row("totals")
        assert row is not None
        return Totals(*row)

    async def metrics(self, networks: Iterable[Network] = Network) -> list[Sample]:
        """The state of the archive in numbers: see `METRICS`; as backlog count those that wait for
        their turn in the given networks."""
        rows = await self._rows(
            "metrics", p_now=int(time.time()), p_networks=[network.value for network in networks]
        )
        return [Sample(row["name"], row["value"], tuple(row["labels"])) for row in rows]

    async def failing_relays(self, failures: int) -> list[asyncpg.Record]:
        """The relays that failed so often in a row, summed up by `outcome`: how many `relays`, and
        of the one that has failed most the `url` and `failures`."""
        return await self.pool.fetch(
            "SELECT v.outcome, pg_catalog.count(*) AS relays,"
            " (pg_catalog.array_agg(r.url ORDER BY v.failures DESC, r.url))[1] AS url,"
            " pg_catalog.max(v.failures) AS failures"
            " FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id"
            " WHERE v.failures >= $1 AND v.retired_at IS NULL"
            " GROUP BY v.outcome ORDER BY relays DESC, v.outcome",
            failures,
        )

    async def make_roles(self) -> int:
        """Makes the roles bigbrotr_reader, _writer and _admin and gives them their rights.

        Returns how many were made.
        """
        made: int = await self._value("make_roles")
        await self.grant_roles()
        return made

    async def set_search_path(self) -> bool:
        """Lets each new session of the database find our relations by their bare names; False if
        only the owner of the database may do that."""
        return bool(await self._value("set_search_path"))

    async def grant_roles(self) -> None:
        """Gives those of the roles that exist their rights in this database."""
        await self._value("grant_roles")

    async def analyze(self) -> None:
        """Renews the statistics of whole tables: autovacuum sees to their partitions alone."""
        tables = "bigbrotr.events_stored, bigbrotr.presence"
        await self.pool.execute(f"ANALYZE {tables}", timeout=MAINTENANCE_S)

    async def vacuum_debt(self) -> list[asyncpg.Record]:
        """Tables that autovacuum does not get to: `name`, `dead` rows, and the `age` of the oldest
        transaction; the worst first."""
        return await self.pool.fetch(
            "SELECT s.relname AS name, s.n_dead_tup AS dead,"
            " pg_catalog.age(c.relfrozenxid) AS age"
            " FROM pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid"
            " WHERE c.relkind = 'r' AND (pg_catalog.age(c.relfrozenxid) > $1"
            "  OR (s.n_dead_tup > $2 AND s.n_dead_tup > s.n_live_tup / 2))"
            " ORDER BY pg_catalog.age(c.relfrozenxid) > $1 DESC, s.n_dead_tup DESC LIMIT 5",
            OLD_TRANSACTIONS,
            DEAD_ROWS,
        )

    async def merge_old_coverage(self, before: int, limit: int = 10) -> int:
        """Merges proofs of before `before` (Unix seconds), of up to `limit` relays, into one for
        each month; returns of how many relays."""
        merged: int = await self._value(
            "merge_old_coverage", p_before=before, p_limit=limit, timeout=MAINTENANCE_S
        )
        return merged

    async def pack_indexes(self, least_bytes: int = PACKED_BYTES) -> list[str]:
        """Makes those indexes of events anew that take 1.4 times what they could, one after
        the other, while others read and write; returns their names.

        A relay is copied from the newest event to the oldest, and a B-tree that is filled from its
        end to its beginning has half-empty pages.

        Raises:
            asyncpg.InsufficientPrivilegeError: only the owner of the tables may do so.
        """
        packed = []
        for name in await self._names(_BROKEN_OFF):  # by a crash in the midst of it
            await self.pool.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        for name in await self._names(_LOOSE, least_bytes):
            await self.pool.execute(f"REINDEX INDEX CONCURRENTLY {name}", timeout=MAINTENANCE_S)
            packed.append(name)
        return packed

    async def _names(self, query: str, *arguments: object) -> list[str]:
        return [row["name"] for row in await self.pool.fetch(query, *arguments)]

    async def strays(self) -> int:
        """How many events lie in the default partition: they claim to be from far ahead, or the
        partition of their time could not be made. A hundred at most are counted."""
        if not await self.pool.fetchval(
            "SELECT pg_catalog.to_regclass('bigbrotr.events_default') IS NOT NULL"
        ):
            return 0  # a cluster has no partitions
        found: int = await self.pool.fetchval(
            "SELECT pg_catalog.count(*) FROM (SELECT FROM bigbrotr.events_default LIMIT 100) AS e"
        )
        return found

    async def ensure_partitions(self) -> int:
        """Makes the partitions up to the quarter after the next; returns how many.

        Raises:
            DatabaseError: somebody reads the tables and does not let go of them.
        """
        try:
            made: int = await self._value(
                "ensure_partitions", p_now=int(time.time()), timeout=MAINTENANCE_S
            )
        except asyncpg.LockNotAvailableError:
            raise DatabaseError(
                "no partition was made: a transaction goes on reading the events, see "
                "pg_stat_activity; maintenance tries again"
            ) from None
        return made


# What an entry takes: its header and keys, aligned to 8 bytes, and its place in the page, which is
# filled to nine tenths when the index is made; ids and keys have 32 bytes and one for their length.
_LOOSE = """
    SELECT pg_catalog.format('%I.%I', n.nspname, i.relname) AS name
    FROM pg_catalog.pg_partition_tree('bigbrotr.events_stored') AS t
    JOIN pg_catalog.pg_class AS p ON p.oid = t.relid
    JOIN pg_catalog.pg_index AS x ON x.indrelid = t.relid AND x.indisvalid
    JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = i.relnamespace
    JOIN pg_catalog.pg_am AS m ON m.oid = i.relam AND m.amname = 'btree',
    LATERAL (
        SELECT pg_catalog.sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 33 END) AS keys
        FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = i.oid
    ) AS w
    WHERE t.isleaf AND p.relkind = 'r' AND pg_catalog.pg_relation_size(i.oid) > $1::bigint
      AND pg_catalog.pg_relation_size(i.oid)
          > 1.4 * p.reltuples * (4 + 8 * pg_catalog.ceil((8 + w.keys) / 8.0)) / 0.9
    ORDER BY pg_catalog.pg_relation_size(i.oid)
"""
_BROKEN_OFF = """
    SELECT pg_catalog.format('%I.%I', n.nspname, i.relname) AS name
    FROM pg_catalog.pg_index AS x
    JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = i.relnamespace AND n.nspname = 'bigbrotr'
    WHERE NOT x.indisvalid AND (
        pg_catalog.strpos(i.relname, '_ccnew') > 0 OR pg_catalog.strpos(i.relname, '_ccold') > 0)
"""
