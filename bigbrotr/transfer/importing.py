"""Imports files of events: reads them, and shares the lines out to processes.

What is stored is stored page by page: an import that was killed at any moment is complete once it
was repeated, and a repetition changes nothing. Memory is arithmetic: each process has a piece of
lines under work, and as many wait.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import anyio
from msgspec import Struct

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.imports import Import
from bigbrotr.errors import WorkerLostError
from bigbrotr.models.relay import Relay
from bigbrotr.transfer.import_worker import Order, Outcome, run_piece, start_worker
from bigbrotr.transfer.lines import Piece, Source, digest_of
from bigbrotr.transfer.parquet_source import source_of
from bigbrotr.transfer.process import end


class Held(Struct, frozen=True):
    """Says of whom a file is a dump, and of when (Unix seconds)."""

    relay: Relay
    as_of: int


class Importer:
    """Imports files into an archive, one after the other."""

    def __init__(
        self,
        brotr: Brotr,
        config: Config,
        *,
        dsn: str | None = None,
        held: Held | None = None,
        name: str | None = None,
        is_dry: bool = False,
        workers: int | None = None,
    ) -> None:
        """`dsn`: of the embedded server; `name`: what the source is called, unless as its file;
        `is_dry`: nothing is written."""
        self._brotr, self._config, self._dsn = brotr, config, dsn
        self._held, self._name, self._is_dry = held, name, is_dry
        self._workers = workers or len(os.sched_getaffinity(0))

    async def run(self, file: str | Source, tell: Callable[[Source, Outcome], None]) -> Outcome:
        """Imports a file; tells now and then how far it is. Returns what was in it.

        Raises:
            ConfigError: the file cannot be read.
            DatabaseError: the database went away: what was stored stays, and a repetition goes on.
        """
        source = source_of(file) if isinstance(file, str) else file
        try:
            order = await self._order(source)
            outcome = Outcome()
            with self._processes(order) as executor:
                await self._share_out(source, executor, outcome, tell)
            tell(source, outcome)
            if not self._is_dry and source.damage is None:
                await self._brotr.finish_import(
                    order.import_.id,
                    source.sha256,
                    outcome.lines,
                    outcome.events,
                    outcome.invalid,
                    int(time.time()),
                )
            return outcome
        finally:
            source.close()

    async def _order(self, source: Source) -> Order:
        """What is to be done with the lines of a file; notes that it is imported."""
        if self._is_dry:
            return Order(Import(0), is_dry=True)
        name = self._name or ("standard input" if source.is_stdin else source.name)
        digest = None
        if not source.is_stdin:
            digest = await anyio.to_thread.run_sync(digest_of, source.name)
        import_ = await self._brotr.begin_import(
            f"name:{name}" if digest is None else f"sha256:{digest.hex()}",
            name,
            source.path,
            digest,
            None if self._held is None else self._held.relay,
            None if self._held is None else self._held.as_of,
            int(time.time()),
        )
        if import_.relay_id is None:
            return Order(import_)
        spans = await self._brotr.proven_after(import_.relay_id, import_.as_of)
        return Order(import_, tuple(spans))

    @contextmanager
    def _processes(self, order: Order) -> Iterator[ProcessPoolExecutor]:
        """The workers; what they are at is given up where the block ends early."""
        executor = ProcessPoolExecutor(
            self._workers,
            multiprocessing.get_context("spawn"),
            start_worker,
            (self._config, self._dsn, os.getpid(), order),
        )
        try:
            yield executor
        finally:
            end(executor)

    async def _share_out(
        self,
        source: Source,
        executor: ProcessPoolExecutor,
        outcome: Outcome,
        tell: Callable[[Source, Outcome], None],
    ) -> None:
        """Hands all pieces of a file to the workers, and adds up what becomes of them."""
        room = asyncio.Semaphore(2 * self._workers)
        loop = asyncio.get_running_loop()
        pieces = source.pieces()

        async def work(piece: Piece) -> None:
            try:
                outcome.add(await loop.run_in_executor(executor, run_piece, piece))
            except BrokenProcessPool:
                raise WorkerLostError(
                    "a process of the import was killed: import the file again, and it goes on"
                    " with what is missing"
                ) from None
            finally:
                room.release()
            tell(source, outcome)

        async with anyio.create_task_group() as group:
            while True:
                await room.acquire()
                piece = await anyio.to_thread.run_sync(next, pieces, None, abandon_on_cancel=True)
                if piece is None:
                    return
                group.start_soon(work, piece)
