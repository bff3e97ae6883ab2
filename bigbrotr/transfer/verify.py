"""Verifies an archive: whether it still holds what it claims. Each check says what it looked at,
and what is wrong; with `mends`, what can be derived is derived again."""

import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from typing import Any

import anyio
import asyncpg
from msgspec import Struct

from bigbrotr.config.settings import Config, Profile
from bigbrotr.core.calls.base import call_of
from bigbrotr.core.pool import Connection, Pool
from bigbrotr.core.schema import is_distributed
from bigbrotr.errors import WorkerLostError
from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.transfer.process import end
from bigbrotr.transfer.verify_worker import Looked, Span, look_at, start_verifier

WINDOW = 8000  # events that a process looks at in one go ...
SAMPLED = 500  # ... and where only a sample is looked at
LONG_S = 86_400.0  # for what reads the whole archive
NAMED = 5  # places that are named


class Finding(Struct, frozen=True):
    """Something that is wrong; `mended`: it no longer is."""

    words: str
    is_mended: bool = False


class Result(Struct):
    """What a check has looked at, and what is wrong. `skipped`: why it did not look."""

    check: str
    looked_at: str = ""
    skipped: str | None = None
    findings: list[Finding] = []

    def find(self, words: str, *, is_mended: bool = False) -> None:
        """Notes something that is wrong."""
        self.findings.append(Finding(words, is_mended))

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong now."""
        return all(finding.is_mended for finding in self.findings)


Tell = Callable[[str, int, float], None]  # what is under way, events or places so far, share


class Verification:
    """Verifies an archive, check by check."""

    def __init__(
        self,
        pool: Pool,
        config: Config,
        profile: Profile,
        *,
        dsn: str | None = None,
        sample: float = 1.0,
        mends: bool = False,
        tell: Tell = lambda *_: None,
        seed: int | None = None,
    ) -> None:
        """`sample`: the share of the events whose hashes and signatures are verified."""
        self._pool, self._config, self._profile, self._dsn = pool, config, profile, dsn
        self._sample, self._mends, self._tell = sample, mends, tell
        self._random = random.Random(seed)
        self._workers = len(os.sched_getaffinity(0))

    @property
    def checks(self) -> dict[str, Callable[[], Awaitable[Result]]]:
        """All checks, in the order in which they are made: what is mended counts in the next."""
        return {
            "partitions": self.partitions,
            "indexes": self.indexes,
            "events": self.events,
            "presence": self.presence,
            "coverage": self.coverage,
        }

    # Partitions

    async def partitions(self) -> Result:
        """Whether each event lies in the partition of its time, and in the week of its time."""
        result = Result("partitions")
        self._tell("partitions", 0, 0.0)
        if await self._is_distributed():
            result.skipped = "a cluster has shards instead"
            return result
        rows = await self._call("verify_partitions")
        for row in rows:
            if row["outside"]:
                result.find(
                    f"{row['outside']:,} events in {row['name']} are outside its bounds"
                    f" ({row['bounds']}): it holds {row['first_at']} to {row['last_at']}"
                )
        edges = sorted((r["lower_at"], r["upper_at"]) for r in rows if r["lower_at"] is not None)
        for (_, upper), (lower, _) in pairwise(edges):
            if lower < upper:
                result.find(f"two partitions hold {lower} to {upper}")
        result.looked_at = f"{len(rows):,} partitions"
        return result

    # Indexes

    async def indexes(self) -> Result:
        """What amcheck says of tables and indexes."""
        result = Result("indexes")
        self._tell("indexes", 0, 0.0)
        if not await self._pool.fetchval(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_available_extensions a"
            " WHERE a.name = 'amcheck'"
        ):
            result.skipped = "this PostgreSQL has no extension amcheck (Debian: postgresql-contrib)"
            return result
        broken: list[str] = []
        try:
            async with self._pool.acquire() as connection:
                await self._amcheck(connection, result, broken)
        except asyncpg.InsufficientPrivilegeError:
            result.skipped = (
                "only a superuser may use the extension amcheck: make it once as one"
                " (CREATE EXTENSION amcheck), and grant its functions"
            )
            return result
        if await self._is_distributed():
            result.looked_at += "; those of the workers are for pg_amcheck, on each of them"
        if self._mends:
            for index in broken:
                await self._reindex(index, result)
        return result

    async def _amcheck(self, connection: Connection, result: Result, broken: list[str]) -> None:
        """Looks at all indexes and tables, each in a transaction of its own: what is locked is
        locked for others who change tables, and they for those who store."""
        schema = await connection.fetchval(_AMCHECK_SCHEMA)
        places = await connection.fetch(_PLACES)
        for number, place in enumerate(places):
            self._tell("indexes", number, number / len(places))
            words = await self._damage(connection, schema, place["name"], place["kind"])
            if words is not None:
                result.find(f"{place['name']}: {words}")
                if place["kind"] == "index":
                    broken.append(place["name"])
        kinds = [place["kind"] for place in places]
        result.looked_at = (
            f"{kinds.count('index'):,} B-tree indexes and {kinds.count('table'):,} tables"
        )

    async def _damage(
        self, connection: Connection, schema: str | None, name: str, kind: str
    ) -> str | None:
        """What is wrong with an index or a table; None: nothing is. Where the extension is not
        there, it is for the length of the transaction, which is rolled back."""
        transaction = connection.transaction()
        await transaction.start()
        row: Any = None
        try:
            if schema is None:
                await connection.execute("CREATE EXTENSION amcheck WITH SCHEMA pg_catalog")
                schema = "pg_catalog"
            if kind == "index":
                await connection.execute(
                    f"SELECT {schema}.bt_index_check($1, true)", name, timeout=LONG_S
                )
            else:
                row = await connection.fetchrow(_heap(schema), name, timeout=LONG_S)
        except asyncpg.InsufficientPrivilegeError:
            raise
        except (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError) as error:
            return str(error)
        except asyncpg.PostgresError as error:
            return f"cannot be looked at: {error}"
        finally:
            await transaction.rollback()
        return None if not row or not row["times"] else f"{row['times']:,} times: {row['words']}"

    async def _reindex(self, index: str, result: Result) -> None:
        """Makes an index again, beside those who use it."""
        async with self._pool.acquire() as connection:
            try:
                await connection.execute(f"REINDEX INDEX CONCURRENTLY {index}", timeout=LONG_S)
            except asyncpg.PostgresError as error:
                result.find(f"{index} cannot be made again: {error}")
                return
        result.findings = [
            Finding(each.words, is_mended=True) if each.words.startswith(f"{index}: ") else each
            for each in result.findings
        ]

    # Events

    async def events(self) -> Result:
        """Whether the bytes of events hash to their ids, and their signatures are right."""
        is_whole = self._profile is Profile.FULL
        result = Result("events")
        looked = Looked()
        total = await self._pool.fetchval(
            "SELECT coalesce(pg_catalog.sum(events), 0)::pg_catalog.int8 FROM bigbrotr.tallies"
        )
        total = max(1, total)
        executor = ProcessPoolExecutor(
            self._workers,
            multiprocessing.get_context("spawn"),
            start_verifier,
            (self._config, self._dsn, os.getpid(), is_whole, self._mends),
        )
        room = asyncio.Semaphore(2 * self._workers)
        loop = asyncio.get_running_loop()
        passed = 0

        async def work(span: Span) -> None:
            try:
                looked.add(await loop.run_in_executor(executor, look_at, span))
            except BrokenProcessPool:
                raise WorkerLostError("a process of the verification was killed") from None
            finally:
                room.release()
            self._tell("events", looked.events, min(1.0, passed / total))

        try:
            async with anyio.create_task_group() as group:
                async for span, is_chosen in self._windows():
                    passed += SAMPLED if self._sample < 1 else WINDOW
                    if is_chosen:
                        await room.acquire()
                        group.start_soon(work, span)
        finally:
            end(executor)
        self._tell_events(result, looked, is_whole=is_whole)
        return result

    def _tell_events(self, result: Result, looked: Looked, *, is_whole: bool) -> None:
        kept = "hashes and signatures" if is_whole else "lengths and weeks"
        result.looked_at = f"{kept} of {looked.events:,} events"
        if looked.erased:
            result.looked_at += f" ({looked.erased:,} erased)"
        if not is_whole:
            result.looked_at += (
                "; the profile lite keeps nothing of which ids and signatures could be verified"
            )
        for what, count in sorted(looked.wrong.items()):
            ids = ", ".join(looked.first[what][:NAMED])
            more = ", …" if count > NAMED else ""
            is_mended = self._mends and what.startswith("the index of tags")
            result.find(f"{what}: {count:,} events ({ids}{more})", is_mended=is_mended)

    async def _windows(self) -> AsyncIterator[tuple[Span, bool]]:
        """All of the past in stretches, and whether each belongs to the sample."""
        size = WINDOW if self._sample >= 1 else SAMPLED
        since = 0
        while True:
            (row,) = await self._call(
                "export_bound",
                p_since=since,
                p_until=MAX_CREATED_AT,
                p_count=size,
                p_is_reversed=False,
            )
            bound = MAX_CREATED_AT if row[0] is None else row[0]
            yield Span(since, bound), self._random.random() < self._sample
            if bound == MAX_CREATED_AT:
                return
            since = bound + 1

    # Presence and tallies

    async def presence(self) -> Result:
        """Whether the pairs are of events that are there, and the tallies are what is there."""
        result = Result("presence")
        counted = await self._count()
        if self._mends and counted.lone:
            for week, relays in counted.lone.items():
                await self._call("mend_presence", p_week=week, p_relay_ids=sorted(relays))
        if self._mends and counted.unlisted:
            await self._call("mend_weeks", p_weeks=counted.unlisted)
        self._tell_presence(result, counted)
        if self._mends and (counted.lone or counted.unlisted):
            counted = await self._count()
        wrong = {
            relay: counted.pairs.get(relay, 0) - noted
            for relay, noted in counted.tallies.items()
            if counted.pairs.get(relay, 0) != noted
        }
        missing = counted.events - counted.noted_events
        if self._mends and (wrong or missing):
            await self._call(
                "mend_tallies",
                p_relay_ids=list(wrong),
                p_pairs=list(wrong.values()),
                p_events=missing,
            )
        for relay, difference in wrong.items():
            found = counted.pairs.get(relay, 0)
            result.find(
                f"{counted.urls[relay]} holds {found:,} events, and its tally says"
                f" {found - difference:,}",
                is_mended=self._mends,
            )
        if missing:
            result.find(
                f"{counted.events:,} events are archived, and the tallies say"
                f" {counted.noted_events:,}",
                is_mended=self._mends,
            )
        result.looked_at = (
            f"{sum(counted.pairs.values()):,} pairs of {counted.events:,} events and"
            f" {len(counted.tallies):,} relays"
        )
        return result

    def _tell_presence(self, result: Result, counted: "_Counted") -> None:
        for week, relays in sorted(counted.lone.items()):
            names = ", ".join(sorted(counted.urls.get(relay, f"relay {relay}") for relay in relays))
            result.find(
                f"{sum(relays.values()):,} pairs of the week {week} are of events that are not"
                f" there ({names})",
                is_mended=self._mends,
            )
        if counted.doubles:
            result.find(f"{counted.doubles:,} events share their number with another one")
        if counted.astray:
            result.find(f"{counted.astray:,} events have the number of another week than theirs")
        if counted.unlisted:
            result.find(
                f"{len(counted.unlisted):,} weeks with events are not in the list of weeks"
                f" ({', '.join(map(str, counted.unlisted[:NAMED]))})",
                is_mended=self._mends,
            )

    async def _count(self) -> "_Counted":
        """Counts everything as of one moment, while others go on."""
        counted = _Counted()
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            rows = await connection.fetch(_TALLIES)
            counted.noted_events = await connection.fetchval(
                "SELECT coalesce(pg_catalog.sum(events), 0)::pg_catalog.int8 FROM bigbrotr.tallies"
            )
            counted.tallies = {row["id"]: row["pairs"] for row in rows}
            counted.urls = {row["id"]: row["url"] for row in rows}
            weeks = [
                row["slice"]
                for row in await connection.fetch(
                    "SELECT DISTINCT slice FROM bigbrotr.slices ORDER BY slice"
                )
            ]
            row = await connection.fetchrow(call_of("verify_weeks"), timeout=LONG_S)
            assert row is not None
            counted.events, counted.astray = int(row["events"]), int(row["astray"])
            counted.unlisted = sorted(row["unlisted"])
            for number, week in enumerate(sorted({*weeks, *counted.unlisted})):
                self._tell("presence", number, number / max(1, len(weeks)))
                row = await connection.fetchrow(
                    call_of("verify_week", "p_week"), week, timeout=LONG_S
                )
                assert row is not None
                counted.add(week, row)
        return counted

    # Coverage

    async def coverage(self) -> Result:
        """Whether coverage and gaps agree with themselves."""
        result = Result("coverage")
        self._tell("coverage", 0, 0.0)
        now = int(time.time())
        rows = await self._call("verify_coverage", p_now=now)
        if self._mends and rows:
            await self._call("mend_coverage", p_now=now)
        for row in rows:
            conditions = f", filter {row['filter'][:60]}" if row["filter"] else ""
            result.find(
                f"{row['url']}{conditions}: {row['what']}: {row['spans'][:100]}",
                is_mended=self._mends and row["what"] != "two gaps",
            )
        number = await self._pool.fetchval("SELECT pg_catalog.count(*) FROM bigbrotr.coverage")
        gaps = await self._pool.fetchval("SELECT pg_catalog.count(*) FROM bigbrotr.gaps")
        result.looked_at = f"{number:,} proofs and {gaps:,} gaps"
        return result

    async def _is_distributed(self) -> bool:
        async with self._pool.acquire() as connection:
            return await is_distributed(connection)

    async def _call(self, function: str, **arguments: object) -> list[Any]:
        query = call_of(function, *arguments)
        return await self._pool.fetch(query, *arguments.values(), timeout=LONG_S)


class _Counted(Struct):
    """What is there, and what is noted of it."""

    events: int = 0
    noted_events: int = 0
    doubles: int = 0
    astray: int = 0
    unlisted: list[int] = []
    pairs: dict[int, int] = {}  # by relay
    tallies: dict[int, int] = {}
    urls: dict[int, str] = {}
    lone: dict[int, dict[int, int]] = {}  # by week and relay

    def add(self, week: int, row: Any) -> None:
        """Adds what `verify_slice` has counted."""
        self.doubles += row["doubles"]
        for relay, pairs, lone in zip(
            row["relay_ids"] or (), row["pairs"] or (), row["lone"] or (), strict=True
        ):
            self.pairs[relay] = self.pairs.get(relay, 0) + pairs
            if lone:
                self.lone.setdefault(week, {})[relay] = lone


def _heap(schema: str) -> str:
    """What asks a table for damage; the schema is quoted."""
    columns = "pg_catalog.count(*) AS times, pg_catalog.min(msg) AS words"
    return f"SELECT {columns} FROM {schema}.verify_heapam($1)"  # noqa: S608


_TALLIES = """
    SELECT r.id, r.url, t.pairs FROM bigbrotr.relays r JOIN bigbrotr.tallies t ON t.relay_id = r.id
    ORDER BY r.url
"""
_AMCHECK_SCHEMA = """
    SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'
"""
_PLACES = """
    SELECT c.oid::pg_catalog.regclass::pg_catalog.text AS name,
        CASE c.relkind WHEN 'i' THEN 'index' ELSE 'table' END AS kind
    FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
    WHERE c.relnamespace = 'bigbrotr'::pg_catalog.regnamespace AND c.relpersistence = 'p'
        AND (c.relkind = 'r' OR (c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid))
    ORDER BY c.relkind DESC, 2
"""
