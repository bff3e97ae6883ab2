"""The stage: a PostgreSQL server, relays in a process of their own, and fresh databases."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import asyncpg

from bigbrotr.config.settings import (
    Config,
    Link,
    Networks,
    PoolSettings,
    Profile,
    SynchronizerSettings,
)
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.services.sync.service import Synchronizer
from tests.bench import corpus
from tests.kit.processes import children

WARM_UP = 20  # events of the relays that start the worker processes


class Stage:
    """Where benchmarks run, those that the machine's pace matters to in `rounds`."""

    def __init__(self, folder: Path, server: EmbeddedPostgres, rounds: int = 1) -> None:
        self.folder = folder
        self.server = server
        self.rounds = rounds
        self._databases = 0

    def address(self, database: str) -> str:
        """The address of one database of the server."""
        return self.server.url.replace("/bigbrotr?", f"/{database}?")

    async def new_database(self) -> str:
        """The address of a new, empty database."""
        self._databases += 1
        name = f"bench_{self._databases}"
        connection = await asyncpg.connect(self.server.url)
        try:
            await connection.execute(f"DROP DATABASE IF EXISTS {name}")  # of a run before
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        return self.address(name)

    async def clear(self) -> None:
        """Drops the databases of before, and settles."""
        connection = await asyncpg.connect(self.server.url)
        try:
            for number in range(1, self._databases + 1):
                await connection.execute(f"DROP DATABASE IF EXISTS bench_{number} WITH (FORCE)")
        finally:
            await connection.close()
        await self.settle()

    async def settle(self) -> None:
        """Waits until all that was stored is on the disk: nobody is to pay for another."""
        connection = await asyncpg.connect(self.server.url)
        try:
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()
        await asyncio.to_thread(os.sync)

    @asynccontextmanager
    async def relays(
        self, events: list[tuple[int, bytes]], count: int = 1, shared: float = 1.0
    ) -> AsyncIterator[list[str]]:
        """Relays that serve the events; yields their URLs."""
        path = self.folder / "corpus.jsonl"
        corpus.write(path, events)
        arguments = [str(path), "--relays", str(count), "--shared", str(shared)]
        process = subprocess.Popen(  # noqa: ASYNC220 -- before anything is timed
            [sys.executable, "-m", "tests.bench.relay", *arguments], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            yield [f"ws://127.0.0.1:{port}" for port in json.loads(process.stdout.readline())]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    async def fill(self, archive: "Archive", stored: int) -> None:
        """Puts as many made-up rows into the tables, over the same year as the corpus."""
        await archive.brotr.pool.execute(
            "WITH made AS ("
            " SELECT n, $2::bigint - (random() * $3)::bigint AS created_at,"
            "  sha256(n::text::bytea) AS id, nextval('bigbrotr.event_numbers') AS num"
            " FROM generate_series(1, $1) AS n"
            "), stored AS ("
            " INSERT INTO bigbrotr.events_stored (created_at, num, kind, slice, id, pubkey, sig,"
            "  tags, tag_hashes, content)"
            " SELECT created_at, num, 1, bigbrotr.slice_of(created_at), id,"
            "  sha256(substring(id FOR 1)), id || id, '[]', ARRAY[hashint8(n)],"
            "  repeat(encode(id, 'hex'), 4) FROM made"
            ") INSERT INTO bigbrotr.presence (slice, chunk, relay_id, seen_ats)"
            " SELECT bigbrotr.slice_of(created_at), num >> 8, 1,"
            "  ('[' || min(num & 255) + 1 || ':' || min(num & 255) + 1 || ']={1}')::int[]"
            " FROM made GROUP BY 1, 2",
            stored,
            corpus.NEWEST,
            corpus.SPREAD_S,
        )
        # Not within the transaction of a pool's connection.
        connection = await asyncpg.connect(archive.brotr.pool.address)
        try:
            await connection.execute("VACUUM ANALYZE bigbrotr.events_stored")
            await connection.execute("VACUUM ANALYZE bigbrotr.presence")
        finally:
            await connection.close()
        await self.settle()

    async def store(self, archive: "Archive", events: list[tuple[int, bytes]]) -> None:
        """Stores events as if a relay had brought them before anybody looked for relays in them."""
        holder = Relay("ws://127.0.0.1:9")
        pairs = [EventRelay(Event.from_json(body), holder, corpus.NEWEST) for _, body in events]
        async with Brotr(Pool(dsn=archive.brotr.pool.address), notes_mentions=False) as brotr:
            await brotr.insert_events(pairs)
        connection = await asyncpg.connect(archive.brotr.pool.address)
        try:
            await connection.execute("VACUUM ANALYZE")
        finally:
            await connection.close()

    @contextmanager
    def one_core(self) -> Iterator[None]:
        """Has this process and the server share one core for the length of the block."""
        cores = os.sched_getaffinity(0)
        self._keep_to({min(cores)})
        try:
            yield
        finally:
            self._keep_to(cores)

    def _keep_to(self, cores: set[int]) -> None:
        assert self.server.pid is not None
        for pid in (os.getpid(), self.server.pid, *children(self.server.pid)):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(pid, cores)

    @asynccontextmanager
    async def archive(
        self,
        profile: Profile = Profile.FULL,
        workers: int = 0,
        width: int = 50,
        address: str | None = None,
    ) -> AsyncIterator["Archive"]:
        """An archive, fresh or at an address, with a synchronizer whose worker processes are up."""
        address = address or await self.new_database()
        config = Config(
            pool=PoolSettings(),
            networks=Networks(clearnet=Link(enabled=False), local=Link(width=width)),
            # By pages: what ids cost instead is a benchmark of its own.
            synchronizer=SynchronizerSettings(workers=workers, slice_s=60, reconcile=False),
        )
        async with Brotr(Pool(settings=config.pool, dsn=address)) as brotr:
            async with brotr.pool.acquire() as connection:
                await Schema().migrate(connection, profile, int(time.time()))
            context = Context(config, address, "bench")
            async with Synchronizer(brotr, context=context) as synchronizer:
                async with self.relays(
                    corpus.build(WARM_UP, seed=99), synchronizer.workers
                ) as urls:
                    assert self.server.pid is not None
                    archive = Archive(brotr, synchronizer, self.server.pid)
                    await archive.copy(urls)  # starts the processes
                yield archive


class Spent(NamedTuple):
    """Seconds, on the clock and of CPU by who spent them."""

    wall_s: float
    workers_s: float
    server_s: float


class Archive:
    """An archive to be filled."""

    def __init__(self, brotr: Brotr, synchronizer: Synchronizer, server_pid: int) -> None:
        self.brotr = brotr
        self.synchronizer = synchronizer
        self._server_pid = server_pid

    def worker_pids(self) -> list[int]:
        """The worker processes, and their verifiers."""
        executor = self.synchronizer._executor
        workers = list(executor._processes or {}) if executor is not None else []
        return [pid for worker in workers for pid in (worker, *children(worker))]

    async def copy(self, urls: list[str]) -> float:
        """Copies relays that it has not met; returns the seconds that it took."""
        await self.brotr.insert_relays([Relay(url) for url in urls])
        return (await self.visit()).wall_s

    async def visit(self) -> Spent:
        """Visits the relays that are due; returns what it took."""
        before = self._spent()
        await self.synchronizer.run()
        return Spent(*(now - then for now, then in zip(self._spent(), before, strict=True)))

    async def make_due(self) -> None:
        """Lets all relays that were visited be due again."""
        await self.brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")

    def _spent(self) -> Spent:
        server = self._server_pid
        return Spent(
            time.perf_counter(),
            sum(map(cpu_s, self.worker_pids())),
            sum(map(cpu_s, (server, *children(server)))),
        )


def cpu_s(pid: int) -> float:
    """Returns the seconds of CPU that a process, and children of it that have ended, have used."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@asynccontextmanager
async def stage(kept: Path | None = None, rounds: int = 1) -> AsyncIterator[Stage]:
    """A server with the settings that `bigbrotr run` would give it, in a temporary folder or in one
    that is kept."""
    with tempfile.TemporaryDirectory(prefix="bigbrotr-bench-") as folder:
        async with EmbeddedPostgres((kept or Path(folder)) / "data") as server:
            yield Stage(Path(folder), server, rounds)
