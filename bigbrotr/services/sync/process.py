"""A worker process: started by the service, it works slice by slice and reports in plain values."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection as Pipe

import asyncpg
import msgspec
import uvloop

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import configure, open_up
from bigbrotr.core.pool import Pool
from bigbrotr.core.values import tell_arrays_by_type
from bigbrotr.errors import DatabaseError, leaves
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.shares import Shares
from bigbrotr.services.sync.verifier import Beside, fork_verifier
from bigbrotr.services.sync.worker import Slice, Worker

CONNECTIONS = 2  # to the database, of one worker: more get into each other's way


def pool_of(config: Config, dsn: str | None) -> Pool:
    """Makes a worker's pool: few connections, and as much patience for one as a statement may take.

    What waits has stopped its socket; two statements that are held up don't make others fail.
    """
    limits, timeouts = config.pool.limits, config.pool.timeouts
    limits = msgspec.structs.replace(limits, min_size=1, max_size=min(limits.max_size, CONNECTIONS))
    return Pool(
        config.database,
        msgspec.structs.replace(config.pool, limits=limits),
        dsn=dsn,
        # The archive may lose its last moments in a crash of the server, and coverage with them:
        # both are fetched again.
        session={"synchronous_commit": "off"},
        patience_s=max(timeouts.acquisition, timeouts.command),
    )


_worker: "Process | None" = None


class Process:
    """What a worker process keeps from slice to slice: its loop, connections and lifeline."""

    def __init__(
        self, config: Config, dsn: str | None, lifeline: Pipe, parent: int, shares: Shares
    ) -> None:
        # First of all: a process with threads must not be forked.
        self.verifier = Beside(fork_verifier()) if len(os.sched_getaffinity(0)) > 1 else None
        self.config = config
        self.lifeline = lifeline
        self.parent = parent  # told, not looked up: it may have gone while this one started
        # Runs all the time, so that live visits go on between slices.
        self.loop = uvloop.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True, name="loop").start()
        self.brotr = Brotr(pool_of(config, dsn), notes_mentions=config.finder.enabled)
        self.worker = Worker(config, self.brotr, shares=shares, verifier=self.verifier)
        threading.Thread(target=self._watch, daemon=True, name="lifeline").start()

    def _watch(self) -> None:
        """Waits for the supervisor to let go of the lifeline: by closing it, or by dying."""
        with suppress(EOFError, OSError):
            self.lifeline.recv()
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.worker.stop.set)
        while os.getppid() == self.parent:
            time.sleep(0.2)
        os._exit(1)  # nobody is left to report to

    def run(self, slice_: Slice) -> Report:
        """Works for one slice, in this process's loop."""
        return asyncio.run_coroutine_threadsafe(self._slice(slice_), self.loop).result()

    async def _slice(self, slice_: Slice) -> Report:
        await self.brotr.pool.connect()
        if self.verifier is not None:
            await self.verifier.connect()
        return await self.worker.work(slice_)


# To stop is the supervisor's business, also where a signal goes to all processes of a group.
NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def holding_signals() -> Iterator[None]:
    """Processes that are started meanwhile hold back these signals until they ignore them."""
    resource_tracker.ensure_running()  # it would let them pass again when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_process(
    config: Config, dsn: str | None, lifeline: Pipe, parent: int, shares: Shares
) -> None:
    """Makes this process a worker of `parent`: called once in it, before its first slice."""
    global _worker  # the process is the object
    for number in NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOT_FOR_WORKERS)
    tell_arrays_by_type()
    open_up(sys.stderr)
    configure(config.log.level, config.log.json, sys.stderr)
    _worker = Process(config, dsn, lifeline, parent, shares)


def run_slice(slice_: Slice) -> Report:
    """Works for one slice in this process.

    Raises:
        DatabaseError: the database went away; it comes back as the supervisor's own.
    """
    assert _worker is not None
    try:
        return _worker.run(slice_)
    except* (
        OSError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ) as group:
        lost = leaves(group)[0]
    raise DatabaseError(f"worker: {lost}") from lost
