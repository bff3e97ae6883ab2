"""The synchronizer: copies every event of every relay, in worker processes."""

import asyncio
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from typing import Self

import anyio
import msgspec

from bigbrotr.config.settings import SynchronizerSettings
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.metrics import Sample, memory_of
from bigbrotr.core.reasons import Reasons
from bigbrotr.errors import WorkerLostError
from bigbrotr.models.relay import Network
from bigbrotr.services.sync.process import holding_signals, run_slice, start_process
from bigbrotr.services.sync.report import COUNTED, REASONS, Report
from bigbrotr.services.sync.shares import Shares
from bigbrotr.services.sync.worker import Slice

SLICES_PER_EXECUTOR = 500  # then its processes are replaced, with whatever their libraries leaked
IDLE_S = 0.1  # a lane without work looks again while another is still busy
QUIET_S = 10.0  # between two lines in the log about what was copied
JUMP_S = 30.0  # by which the clock may differ from one cycle to the next


class Synchronizer(BaseService[SynchronizerSettings]):
    """Keeps its worker processes busy with slices of work; they claim, copy and record.

    One lane a worker: the next slice begins when the last is over. The supervisor's loop only
    waits.
    """

    SERVICE_NAME = "synchronizer"
    CONFIG_CLASS = SynchronizerSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: SynchronizerSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self.workers = self.settings.processes
        self._shares = Shares(self.workers)
        self.copied = Report()  # since the start
        self._executor: ProcessPoolExecutor | None = None
        self._lifeline: Pipe | None = None
        self._lost: list[Exception] = []  # how slices failed, in the newest cycle
        self._slices = 0
        self._busy = 0
        self._is_endless = False  # one cycle alone would never end with live visits
        self.reasons = Reasons()
        self._told = Report()
        self._told_at = 0.0
        self._clock = Clock()

    async def run_forever(
        self, interval: float | None = None, max_consecutive_failures: int | None = None
    ) -> None:
        """Runs as any service does; only here it stays subscribed to relays (`live`)."""
        self._is_endless = self.settings.is_live_anywhere
        try:
            await super().run_forever(interval, max_consecutive_failures)
        finally:
            self._is_endless = False

    async def run(self) -> None:
        """Copies until no relay is due, and none is subscribed to."""
        await self._look_at_clock()
        if self._slices >= SLICES_PER_EXECUTOR:
            await self._retire_executor()
        if self._lost:
            # Their leases must not keep relays waiting. Not sooner: the database may be away.
            await self.brotr.release_leases(self.owner)
            self._lost.clear()
        if await self._is_anything_due():
            is_over = asyncio.Event()
            async with anyio.create_task_group() as group:
                for lane in range(self.workers):
                    group.start_soon(self._keep_busy, lane, is_over)
            if self._lost:
                await self._give_up_cycle(self._lost[0])
        self._tell(is_final=not self._stop.is_set())

    async def _look_at_clock(self) -> None:
        """Notices a clock that jumps, and puts right what was written while it was ahead."""
        jumped_s = self._clock.jump()
        if abs(jumped_s) > JUMP_S:
            self.log.warning(
                "the clock has jumped: what is proven is only as right as the clock is",
                seconds=round(jumped_s),
            )
        if jumped_s < -JUMP_S or self._clock.is_new:
            self._clock.is_new = True  # until it is put right: the database may be away
            relays, rows = await self.brotr.forget_the_future()
            self._clock.is_new = False
            if relays or rows:
                self.log.warning(
                    "the clock was ahead: proofs of a time to come are taken back, and what was to"
                    " wait for it is due now",
                    relays=relays,
                    rows=rows,
                )

    async def _give_up_cycle(self, error: Exception) -> None:
        if isinstance(error, BrokenProcessPool):
            # The others were told to end by a signal that workers leave to us.
            await self._retire_executor(kills=True)
            raise WorkerLostError("a worker process died; what it had not committed is done again")
        raise error

    def metrics(self) -> Iterator[Sample]:
        """Yields what the workers have reported, and what they take."""
        copied = self.copied
        for name, value in {
            "events_received": copied.received,
            "events_new": copied.new,
            "events_known": copied.known,
            "events_matched": copied.matched,
            "events_dropped": copied.dropped,
            "events_withheld": copied.withheld,
            "pages": copied.pages,
            "received_bytes": copied.bytes,
            "reconciliations": copied.windows,
            "gaps_noted": copied.gaps,
        }.items():
            yield Sample(name, value)
        for reason in REASONS:
            yield Sample("events_rejected", copied.reasons.get(reason, 0), (reason,))
        workers = "workers"
        yield Sample("database_uses", copied.database_uses, (workers,))
        yield Sample("database_seconds", copied.database_s, (workers,))
        yield Sample("database_wait_seconds", copied.database_wait_s, (workers,))
        for reason, times, seconds in (
            ("pace", copied.paced, copied.paced_s),
            ("address", copied.crowded, copied.crowded_s),
        ):
            yield Sample("politeness_waits", times, (workers, reason))
            yield Sample("politeness_wait_seconds", seconds, (workers, reason))
        for (network, outcome), times in copied.visited.items():
            yield Sample("connections", times, (self.SERVICE_NAME, network, outcome))
        processes = self._executor and self._executor._processes  # noqa: SLF001 -- no public way
        pids = [pid for pid, process in (processes or {}).items() if process.is_alive()]
        yield Sample("workers", len(pids))
        yield Sample("memory_bytes", memory_of(pids), (workers,))

    def _is_cycle_over(self) -> bool:
        return self._stop.is_set() or bool(self._lost) or self._slices >= SLICES_PER_EXECUTOR

    async def _is_anything_due(self) -> bool:
        due = await self.brotr.next_visit_at(self._networks(), self.settings.refused)
        return due is not None and due <= time.time()

    def _networks(self) -> list[Network]:
        return [network for network, _ in self.context.config.networks.enabled()]

    async def _keep_busy(self, lane: int, is_over: asyncio.Event) -> None:
        """Keeps one worker busy, slice after slice, until no lane of the cycle finds anything due.

        When a slice fails, the other lanes end theirs: all leases are given back together.
        """
        slice_ = Slice(
            owner=self.owner,
            seconds=self.settings.slice_s,
            widths={
                network: share(link.width, self.workers, lane)
                for network, link in self.context.config.networks.enabled()
                if share(link.width, self.workers, lane)
            },
            worker=lane,
        )
        if self._is_endless:
            live_visits = share(self.settings.live_relays, self.workers, lane)
            slice_ = msgspec.structs.replace(slice_, live_visits=live_visits)
        for network in slice_.widths:
            self._shares.enter(lane, network)
        try:
            await self._work_off(slice_, is_over)
        finally:
            self._shares.leave(lane)

    async def _work_off(self, slice_: Slice, is_over: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not is_over.is_set() and not self._is_cycle_over():
            self._busy += 1
            try:
                with holding_signals():  # the process may be started now
                    working = loop.run_in_executor(self._running_executor(), run_slice, slice_)
                report = await working
            except Exception as error:
                self._lost.append(error)
                return
            finally:
                self._busy -= 1
            self._slices += 1
            self.copied.add(report)
            self._tell()
            if report.visits == 0 and report.live == 0:
                if self._busy == 0:
                    is_over.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await is_over.wait()

    def _running_executor(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # `spawn`: a fork would copy this process's loop, sockets and locks. Only the reading
            # end of the lifeline goes along, so that it ends with this process, however that ends.
            context = multiprocessing.get_context("spawn")
            reader, self._lifeline = context.Pipe(duplex=False)
            config = msgspec.structs.replace(self.context.config, synchronizer=self.settings)
            self._executor = ProcessPoolExecutor(
                self.workers,
                mp_context=context,
                initializer=start_process,
                initargs=(config, self.context.dsn, reader, os.getpid(), self._shares),
            )
            self._slices = 0
        return self._executor

    async def _retire_executor(self, *, kills: bool = False) -> None:
        """Lets the worker processes end what they are doing; those that don't end are killed, and
        at once when this `kills` or is cancelled."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        processes = list((executor._processes or {}).values())  # noqa: SLF001 -- no public way
        if self._lifeline is not None:
            self._lifeline.close()
        executor.shutdown(wait=False, cancel_futures=True)
        patience_s = self.context.config.supervisor.shutdown_timeout_s / 2
        deadline = time.monotonic() + (0.0 if kills else patience_s)
        try:
            while any(process.is_alive() for process in processes):
                if time.monotonic() > deadline:
                    return
                await asyncio.sleep(0.05)
        finally:
            for process in processes:
                process.kill()  # nothing to one that has ended

    def request_shutdown(self) -> None:
        """Asks the workers to stop after the page that is under way."""
        super().request_shutdown()
        if self._lifeline is not None:
            self._lifeline.close()

    def _tell(self, is_final: bool = False) -> None:
        """Logs what was copied since the last time."""
        before, now = self._told, self.copied
        if (now.visits, now.pages, now.windows) == (before.visits, before.pages, before.windows):
            return
        if not is_final and time.monotonic() - self._told_at < QUIET_S:
            return
        failing = self.reasons.words(now.troubles)
        now.troubles.clear()
        self.log.info(
            "copied",
            visits=now.visits - before.visits,
            new_events=now.new - before.new,
            received=now.received - before.received,
            rejected=now.rejected - before.rejected,
            gaps=now.gaps - before.gaps,
            windows=now.windows - before.windows,
            matched=now.matched - before.matched,
            **(Counter(now.outcomes) - Counter(before.outcomes)),
            **({"failing": failing} if failing else {}),
        )
        self._told = Report(
            **{name: getattr(now, name) for name in COUNTED}, outcomes=dict(now.outcomes)
        )
        self._told_at = time.monotonic()

    async def __aenter__(self) -> Self:
        await self.brotr.release_leases(self.owner)
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        await self._retire_executor()


class Clock:
    """The wall clock, held against one that cannot be set."""

    def __init__(self) -> None:
        self.is_new = True  # what was written before is not put right yet
        self._ahead_s = self._look()

    def jump(self) -> float:
        """Returns by how many seconds it was set forward, or (negative) back, since the last
        look."""
        before, self._ahead_s = self._ahead_s, self._look()
        return self._ahead_s - before

    def _look(self) -> float:
        # The one that goes on while the machine sleeps: waking up is no jump.
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def share(width: int, parts: int, part: int) -> int:
    """Returns the part of `width` conversations that falls to one of `parts` workers."""
    return width // parts + (part < width % parts)
