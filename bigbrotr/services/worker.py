"""The synchronizer's worker: a process that copies relays for a while and reports in plain values.

Memory is arithmetic: a worker holds at most `width` conversations, each with one page on its way,
one being verified and one being stored, so width x 3 x max_page_bytes of frames, and about as much
again in decoded events. Nothing queues: a stalled database stops the sockets.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

import anyio
import asyncpg
import uvloop
from msgspec import Struct

from bigbrotr.config import Config
from bigbrotr.core.brotr import Brotr, Visit
from bigbrotr.core.logger import Logger, configure
from bigbrotr.core.pool import Pool
from bigbrotr.errors import DatabaseError, LeaseLostError, leaves
from bigbrotr.models.relay import Network
from bigbrotr.nostr.paging import Habits
from bigbrotr.services.call import Call, Report

LEASE_SLICES = 3  # a lease outlasts its slice, and the page that was under way at its end
IDLE_S = 0.5  # between looks for due relays while others are under way
REMEMBERED_RELAYS = 10_000  # of which a worker remembers the habits


class Order(Struct, frozen=True):
    """One slice of work: how long, and how many conversations at once in each network."""

    owner: str
    seconds: float
    widths: dict[Network, int]


class Worker:
    """Copies relays: claims those that are due, visits them side by side, and records."""

    def __init__(self, config: Config, brotr: Brotr, *, log: Logger | None = None) -> None:
        self.config = config
        self.brotr = brotr
        self.log = log or Logger("worker")
        self.stop = asyncio.Event()
        self.habits: dict[int, Habits] = {}  # by relay, the latest last

    async def work(self, order: Order) -> Report:
        """Visits due relays until the slice is over or nothing is due."""
        report = Report()
        deadline = time.monotonic() + order.seconds
        async with anyio.create_task_group() as group:
            for network, width in order.widths.items():
                group.start_soon(self._work_off, network, width, order, deadline, report)
        return report

    async def _work_off(
        self, network: Network, width: int, order: Order, deadline: float, report: Report
    ) -> None:
        """Keeps up to `width` conversations of one network going."""
        running: set[asyncio.Task[None]] = set()
        settings = self.config.synchronizer
        try:
            while not self.stop.is_set() and time.monotonic() < deadline:
                if len(running) < width:
                    visits = await self.brotr.claim_visits(
                        [network],
                        limit=width - len(running),
                        owner=order.owner,
                        lease_s=LEASE_SLICES * order.seconds + 30,
                        since=settings.since,
                        until=int(time.time()) - settings.settle_s,
                    )
                    for visit in visits:
                        running.add(
                            asyncio.create_task(self._visit(visit, network, deadline, report))
                        )
                if not running:
                    return
                done, running = await asyncio.wait(
                    running, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED
                )
                raise_first(done)
            if running:
                done, running = await asyncio.wait(running)
                raise_first(done)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _visit(self, visit: Visit, network: Network, deadline: float, report: Report) -> None:
        call = Call(
            visit,
            network,
            report,
            brotr=self.brotr,
            config=self.config,
            stop=self.stop,
            deadline=deadline,
            habits=self.habits.pop(visit.relay_id, None),
        )
        try:
            verdict, outcome, detail = await call.copy()
        except LeaseLostError as error:
            self.log.warning("lease lost", relay=visit.url, error=str(error))
            return
        except asyncio.CancelledError:
            # Shutdown or a crash elsewhere: what was stored stays, the rest comes at once.
            with suppress(Exception):
                async with asyncio.timeout(2):
                    await self.brotr.finish_visit(
                        visit, "unfinished", next_at=0, outcome="interrupted"
                    )
            raise
        self._remember(visit.relay_id, call.habits)
        report.visits += 1
        report.outcomes[outcome] = report.outcomes.get(outcome, 0) + 1
        await self.brotr.finish_visit(
            visit,
            verdict,
            next_at=int(time.time() + self.config.synchronizer.revisit_s),
            outcome=outcome,
            detail=detail,
        )
        self.log.debug("visited", relay=visit.url, outcome=outcome, detail=detail, new=call.new)

    def _remember(self, relay_id: int, habits: Habits | None) -> None:
        """Keeps what was learned of a relay for the next visit, of the latest few relays."""
        if habits is not None:
            self.habits[relay_id] = habits
            if len(self.habits) > REMEMBERED_RELAYS:
                del self.habits[next(iter(self.habits))]


def raise_first(done: set[asyncio.Task[None]]) -> None:
    """The error of a task that failed; those of others are taken note of, or asyncio complains."""
    for error in [task.exception() for task in done]:
        if error is not None:
            raise error


# The process

_worker: "Process | None" = None


class Process:
    """What a worker process keeps from slice to slice: its loop, connections and lifeline."""

    def __init__(self, config: Config, dsn: str | None, lifeline: Pipe) -> None:
        self.config = config
        self.lifeline = lifeline
        self.parent = os.getppid()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.loop = self.runner.get_loop()
        # The archive may lose its last moments in a crash of the server, and coverage with them:
        # both are fetched again.
        self.brotr = Brotr(
            Pool(config.database, config.pool, dsn=dsn, session={"synchronous_commit": "off"})
        )
        self.worker = Worker(config, self.brotr)
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

    def run(self, order: Order) -> Report:
        """One slice, in this process's loop."""
        return self.runner.run(self._slice(order))

    async def _slice(self, order: Order) -> Report:
        await self.brotr.pool.connect()
        return await self.worker.work(order)


def start_process(config: Config, dsn: str | None, lifeline: Pipe) -> None:
    """Makes this process a worker: called once in it, before its first slice."""
    global _worker  # the process is the object
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    configure(config.log.level, config.log.json, sys.stderr)
    _worker = Process(config, dsn, lifeline)


def run_slice(order: Order) -> Report:
    """Works for one slice in this process.

    Raises:
        DatabaseError: the database went away; it comes back as the supervisor's own.
    """
    assert _worker is not None
    try:
        return _worker.run(order)
    except* (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as group:
        lost = leaves(group)[0]
    raise DatabaseError(f"worker: {lost}") from lost
