"""The synchronizer's worker: a process that copies relays for a while and reports in plain values.

Memory is arithmetic: a worker holds at most `width` conversations, each with one page in flight
and one being stored, so width x 2 x max_page_bytes of frames, and as much again while a page is
decoded. Nothing queues: a stalled database stops the sockets.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

import anyio
import asyncpg
import msgspec
import uvloop
from msgspec import Struct

from bigbrotr.config import Config
from bigbrotr.core.brotr import Brotr, Rejected, Visit
from bigbrotr.core.logger import Logger, configure
from bigbrotr.core.pool import Pool
from bigbrotr.errors import DatabaseError, LeaseLostError, leaves
from bigbrotr.models.coverage import Proof, Span
from bigbrotr.models.event import MAX_CREATED_AT, Event, WireEvent, wire_id
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.dial import OURS, Unreached, dial
from bigbrotr.nostr.paging import Answer, Ask, Gap, GapReason, Paging, Progress
from bigbrotr.nostr.session import Bounds, Page, Session

PAGE_ROUNDS = 12  # reply time-outs that a whole page may take: three bounds, the third is the slice
LEASE_SLICES = 3  # a lease outlasts its slice, and the page that was under way at its end
IDLE_S = 0.5  # between looks for due relays while others are under way
NARROW_KINDS = [0, 1, 3, 10002]  # what any relay with users holds


class Order(Struct, frozen=True):
    """One slice of work: how long, and how many conversations at once in each network."""

    owner: str
    seconds: float
    widths: dict[Network, int]


class Report(Struct):
    """What a slice came to, in plain values."""

    visits: int = 0
    received: int = 0  # events that were sent to us
    new: int = 0  # events that were not archived before
    pairs: int = 0  # pairs of event and relay that were not known before
    rejected: int = 0
    pages: int = 0
    bytes: int = 0
    gaps: int = 0
    outcomes: dict[str, int] = {}


class Worker:
    """Copies relays: claims those that are due, visits them side by side, and records."""

    def __init__(self, config: Config, brotr: Brotr, *, log: Logger | None = None) -> None:
        self.config = config
        self.brotr = brotr
        self.log = log or Logger("worker")
        self.stop = asyncio.Event()

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
                for task in done:
                    task.result()
            if running:
                done, running = await asyncio.wait(running)
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _visit(self, visit: Visit, network: Network, deadline: float, report: Report) -> None:
        relay = Relay(visit.url)
        call = Call(self, visit, relay, network, deadline, report)
        try:
            verdict, outcome, detail = await call.copy()
        except LeaseLostError as error:
            self.log.warning("lease lost", relay=relay.url, error=str(error))
            return
        except asyncio.CancelledError:
            # Shutdown or a crash elsewhere: what was stored stays, the rest comes at once.
            with suppress(Exception):
                async with asyncio.timeout(2):
                    await self.brotr.finish_visit(
                        visit, "unfinished", next_at=0, outcome="interrupted"
                    )
            raise
        report.visits += 1
        report.outcomes[outcome] = report.outcomes.get(outcome, 0) + 1
        await self.brotr.finish_visit(
            visit,
            verdict,
            next_at=int(time.time() + self.config.synchronizer.revisit_s),
            outcome=outcome,
            detail=detail,
        )
        self.log.debug("visited", relay=relay.url, outcome=outcome, detail=detail, new=call.new)


class Call:
    """One visit to one relay: follows the paging machine and stores page by page."""

    def __init__(
        self,
        worker: Worker,
        visit: Visit,
        relay: Relay,
        network: Network,
        deadline: float,
        report: Report,
    ) -> None:
        self.brotr, self.visit, self.relay = worker.brotr, visit, relay
        self.settings = worker.config.synchronizer
        self.link = worker.config.networks.link(network)
        self.allow_local = worker.config.networks.local.enabled
        self.stop, self.deadline, self.report = worker.stop, deadline, report
        self.limit = self.settings.page_limit
        self.new = 0
        self.bounds = Bounds(
            self.link.timeout_s, PAGE_ROUNDS * self.link.timeout_s, self.settings.max_page_bytes
        )

    async def copy(self) -> tuple[str, str, str]:
        """Copies what is missing; returns verdict, outcome and detail for `finish_visit`."""
        connection = await dial(
            self.relay,
            self.link,
            max_frame_bytes=self.settings.max_event_bytes,
            allow_local=self.allow_local,
        )
        if isinstance(connection, Unreached):
            # When the fault is ours, the relay is only asked again later, and not blamed.
            verdict = "done" if connection.failure in OURS else "failed"
            return verdict, connection.failure.value, connection.detail
        async with Session(connection) as session:
            # Newest first: what is of most interest comes first, and the top is asked each time.
            spans = [Span(*span) for span in reversed(self.visit.missing)]
            reason = detail = ""
            for index, span in enumerate(spans):
                if self._is_over():
                    return "unfinished", "unfinished", ""
                paging = Paging(
                    span,
                    limit=self.limit,
                    open_top=index == 0,
                    expects_events=self.visit.pairs > 0 and span.since == self.settings.since,
                )
                gaps = await self._walk(session, paging)
                if paging.ask() is not None:
                    return "unfinished", "unfinished", ""
                for gap in gaps:
                    reason, detail = gap.reason, gap.detail
            return ("done", reason or "complete", detail)

    def _is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.deadline

    async def _walk(self, session: Session, paging: Paging) -> list[Gap]:
        """Follows one walk; a page is stored while the next is on its way."""
        gaps: list[Gap] = []
        storing: asyncio.Task[None] | None = None
        try:
            while (ask := paging.ask()) is not None and not self._is_over():
                page = await session.fetch(self._filter(ask), self.bounds)
                answer, haul = sift(page, ask)
                progress = paging.answer(answer)
                if not session.is_open and paging.ask() is not None:
                    given_up = paging.give_up(GapReason.CUT, page.reason)
                    progress = Progress(
                        proven=progress.proven + given_up.proven,
                        gaps=progress.gaps + given_up.gaps,
                    )
                gaps += progress.gaps
                if storing is not None:
                    await storing
                storing = asyncio.create_task(self._store(page, haul, progress))
            if storing is not None:
                await storing
        except BaseException:
            if storing is not None:
                storing.cancel()
                await asyncio.gather(storing, return_exceptions=True)
            raise
        return gaps

    def _filter(self, ask: Ask) -> dict[str, object]:
        filter_: dict[str, object] = {"since": ask.since, "limit": min(ask.limit, self.limit)}
        if ask.until is not None:
            filter_["until"] = ask.until
        if ask.narrow:
            filter_["kinds"] = NARROW_KINDS
        return filter_

    async def _store(self, page: Page, haul: "Haul", progress: Progress) -> None:
        """Stores what a page brought: known events are only noted, unknown ones verified first."""
        now = int(time.time())
        unknown: list[int] = []
        if haul.events:
            # In a transaction of its own, so that no row is locked while signatures are verified,
            # and ahead of the proof: a crash in between costs one question more.
            unknown = await self.brotr.note_presence(
                self.visit.relay_id, [event[:2] for event in haul.events], now
            )
        fresh: list[Event] = []
        for position in unknown:
            _, event_id, wire = haul.events[position]
            try:
                fresh.append(wire if isinstance(wire, Event) else Event.from_wire(wire))
            except ValueError as error:
                haul.reject(str(error), event_id)
        rejected = [Rejected(reason, *entry) for reason, entry in haul.rejected.items()]
        new, pairs = await self.brotr.store_page(
            self.visit,
            fresh,
            proofs=[Proof(*proof) for proof in progress.proven],
            gaps=progress.gaps,
            rejected=rejected,
            now=now,
        )
        self.new += new
        report = self.report
        report.pages += 1
        report.bytes += page.size
        report.received += len(page.events)
        report.new += new
        report.pairs += pairs
        report.gaps += len(progress.gaps)
        report.rejected += sum(entry.times for entry in rejected)


class Haul:
    """What a page brought: events with a proven id, sorted by (created_at, id), and the rest."""

    def __init__(self, malformed: Mapping[str, tuple[int, bytes]]) -> None:
        self.events: list[tuple[int, bytes, WireEvent | Event]] = []
        self.rejected: dict[str, tuple[int, bytes]] = {}
        for reason, (count, sample) in malformed.items():
            self.reject(reason, sample, count)

    def reject(self, reason: str, sample: bytes, count: int = 1) -> None:
        """Counts what is no valid event, by the first words of the reason."""
        reason = reason.partition(":")[0]
        before, first = self.rejected.get(reason, (0, sample))
        self.rejected[reason] = (before + count, first)


def sift(page: Page, ask: Ask) -> tuple[Answer, Haul]:
    """Sorts out a page: what it says to the paging machine, and what there is to store.

    Events whose id is not the hash of their bytes are rejected here; signatures come later, and
    only of events that are not archived yet.
    """
    haul = Haul(page.malformed)
    times: list[int] = []
    seen: set[bytes] = set()
    off_filter = 0
    until = MAX_CREATED_AT if ask.until is None else ask.until
    for event in page.events:
        try:
            event_id, event = identify(event)
        except ValueError as error:
            haul.reject(str(error), sample_of(event))
            continue
        if event_id in seen:
            continue
        seen.add(event_id)
        if not ask.since <= event.created_at <= until:
            off_filter += 1
            continue
        times.append(event.created_at)
        haul.events.append((event.created_at, event_id, event))
    haul.events.sort(key=lambda entry: entry[:2])
    answer = Answer(
        created_ats=times,
        end=page.end,
        off_filter=off_filter,
        reason=page.reason,
        finish="finish" in page.hints,
        more="more" in page.hints,
        elapsed_s=page.elapsed_s,
    )
    return answer, haul


def identify(event: WireEvent | Event) -> tuple[bytes, WireEvent | Event]:
    """The proven id of an event: cheaply when its bytes hash to it, else by decoding it whole.

    Raises:
        ValueError: it is no valid event.
    """
    if isinstance(event, Event):
        return event.id, event
    if (event_id := wire_id(event)) is not None:
        if not 0 <= event.created_at <= MAX_CREATED_AT:
            raise ValueError("malformed: created_at out of range")
        return event_id, event
    decoded = Event.from_wire(event)
    return decoded.id, decoded


def sample_of(event: WireEvent | Event) -> bytes:
    """An event as JSON, near enough to the bytes that came."""
    return msgspec.json.encode(event) if isinstance(event, WireEvent) else event.id


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
