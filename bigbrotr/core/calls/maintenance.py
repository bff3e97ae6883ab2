"""Maintenance: what there is in numbers, roles, statistics and partitions."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls
from bigbrotr.core.metrics import Sample
from bigbrotr.core.reading_pool import IS_READER, READER
from bigbrotr.core.schema import is_distributed
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
        if await self._is_distributed():
            await self.pool.execute("SELECT bigbrotr.admit_reader()")
        await self.grant_roles()
        return made

    async def set_search_path(self) -> bool:
        """Lets each new session of the database find our relations by their bare names; False if
        only the owner of the database may do that."""
        return bool(await self._value("set_search_path"))

    async def refused_reader(self) -> list[str]:
        """Which workers of a cluster do not let bigbrotr_reader in, and in which words; none where
        there is no cluster, or where that role may not be taken on."""
        async with self.pool.transaction() as connection:
            if not await is_distributed(connection) or not await connection.fetchval(
                IS_READER, READER
            ):
                return []
            await connection.execute(f"SET LOCAL ROLE {READER}")
            return [
                f"{row['nodename']}:{row['nodeport']}: {row['result']}"
                for row in await connection.fetch(
                    "SELECT nodename, nodeport, result"
                    " FROM pg_catalog.run_command_on_workers('SELECT 1') WHERE NOT success"
                )
            ]

    async def grant_roles(self) -> None:
        """Gives those of the roles that exist their rights in this database."""
        await self._value("grant_roles")

    async def analyze(self) -> None:
        """Renews the statistics of whole tables: autovacuum sees to their partitions alone."""
        tables = "bigbrotr.events_stored, bigbrotr.presence"
        await self.pool.execute(f"ANALYZE {tables}", timeout=MAINTENANCE_S)

    async def vacuum_debt(self) -> list[asyncpg.Record]:
        """Tables that autovacuum does not get to: `name`, `dead` rows, and the `age` of the oldest
        transaction; the worst first. Those of the workers of a cluster are among them."""
        query = _DEBT_EVERYWHERE if await self._is_distributed() else _DEBT
        return await self.pool.fetch(query, OLD_TRANSACTIONS, DEAD_ROWS)

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
        is_distributed = await self._is_distributed()
        for name in await self._names(_BROKEN_OFF):  # by a crash in the midst of it
            await self.pool.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        if is_distributed:
            for name in await self._names(_BROKEN_OFF_THERE):
                await self.pool.execute(_DROPPED_THERE, name, timeout=MAINTENANCE_S)
        for name in await self._names(_LOOSE_THERE if is_distributed else _LOOSE, least_bytes):
            await self.pool.execute(f"REINDEX INDEX CONCURRENTLY {name}", timeout=MAINTENANCE_S)
            packed.append(name)
        return packed

    async def _is_distributed(self) -> bool:
        async with self.pool.acquire() as connection:
            return await is_distributed(connection)

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


_DEBT = """
    SELECT s.relname AS name, s.n_dead_tup AS dead, pg_catalog.age(c.relfrozenxid) AS age
    FROM pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
    WHERE c.relkind = 'r' AND (pg_catalog.age(c.relfrozenxid) > $1
        OR (s.n_dead_tup > $2 AND s.n_dead_tup > s.n_live_tup / 2))
    ORDER BY pg_catalog.age(c.relfrozenxid) > $1 DESC, s.n_dead_tup DESC LIMIT 5
"""
_DEBT_EVERYWHERE = f"""
    SELECT x.name, x.dead, x.age FROM (
        SELECT d.name::text, d.dead, d.age FROM ({_DEBT}) AS d
        UNION ALL
        SELECT j.name || ' at ' || w.nodename || ':' || w.nodeport, j.dead, j.age
        FROM pg_catalog.run_command_on_workers(pg_catalog.format($x$
            SELECT pg_catalog.json_agg(pg_catalog.to_json(d)) FROM ({
    _DEBT.replace("$1", "%1$s").replace("$2", "%2$s")
}) AS d $x$, $1::integer::text, $2::bigint::text)) AS w,
        pg_catalog.json_to_recordset(CASE WHEN w.success THEN nullif(w.result, '')::json END)
            AS j (name text, dead bigint, age integer)
    ) AS x ORDER BY x.age > $1::integer DESC, x.dead DESC LIMIT 5
"""  # noqa: S608 -- texts of ours

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
# On a cluster each shard has its part of an index, whose name ends with the shard's number; what
# makes the index anew, does so with all parts.
_LOOSE_THERE = """
    SELECT pg_catalog.format('bigbrotr.%I', j.name) AS name
    FROM pg_catalog.run_command_on_shards('bigbrotr.events_stored', $x$
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
            'relname', i.relname, 'size', pg_catalog.pg_relation_size(i.oid),
            'packed', p.reltuples * (4 + 8 * pg_catalog.ceil((8 + w.keys) / 8.0)) / 0.9))
        FROM pg_catalog.pg_class AS p
        JOIN pg_catalog.pg_index AS x ON x.indrelid = p.oid AND x.indisvalid
        JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
        JOIN pg_catalog.pg_am AS m ON m.oid = i.relam AND m.amname = 'btree',
        LATERAL (
            SELECT pg_catalog.sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 33 END) AS keys
            FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = i.oid
        ) AS w
        WHERE p.oid = '%s'::pg_catalog.regclass $x$) AS r,
    pg_catalog.json_to_recordset(CASE WHEN r.success THEN nullif(r.result, '')::json END)
        AS s (relname text, size bigint, packed float8),
    pg_catalog.left(s.relname, -1 - pg_catalog.length(r.shardid::text)) AS j (name)
    GROUP BY j.name
    HAVING pg_catalog.sum(s.size) > $1::bigint
       AND pg_catalog.sum(s.size) > 1.4 * pg_catalog.sum(s.packed)
    ORDER BY pg_catalog.sum(s.size)
"""
_BROKEN_OFF = """
    SELECT pg_catalog.format('%I.%I', n.nspname, i.relname) AS name
    FROM pg_catalog.pg_index AS x
    JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = i.relnamespace AND n.nspname = 'bigbrotr'
    WHERE NOT x.indisvalid AND (
        pg_catalog.strpos(i.relname, '_ccnew') > 0 OR pg_catalog.strpos(i.relname, '_ccold') > 0)
"""
_BROKEN_OFF_THERE = f"""
    SELECT DISTINCT j.name FROM pg_catalog.run_command_on_workers($x$
        SELECT pg_catalog.json_agg(pg_catalog.to_json(b)) FROM ({_BROKEN_OFF}) AS b $x$) AS w,
    pg_catalog.json_to_recordset(CASE WHEN w.success THEN nullif(w.result, '')::json END)
        AS j (name text)
"""  # noqa: S608 -- texts of ours
_DROPPED_THERE = """
    SELECT pg_catalog.count(*)
    FROM pg_catalog.run_command_on_workers('DROP INDEX CONCURRENTLY IF EXISTS ' || $1)
"""
