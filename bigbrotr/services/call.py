"""A call at one relay: follows the paging machine and stores page by page."""

import asyncio
import time
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from bigbrotr.config import Config
from bigbrotr.core.brotr import Brotr, Rejected, Visit
from bigbrotr.models.coverage import Gap, Span
from bigbrotr.models.event import MAX_CREATED_AT, Event, WireEvent, wire_id
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.dial import OURS, Unreached, dial
from bigbrotr.nostr.paging import Answer, Ask, End, GapReason, Habits, Paging, Progress
from bigbrotr.nostr.session import Bounds, Page, Session

PAGE_ROUNDS = 12  # reply time-outs that a whole page may take: three bounds, the third is the slice
NARROW_KINDS = [0, 1, 3, 10002]  # what any relay with users holds


class Report(Struct):
    """What a slice came to, in plain values."""

    visits: int = 0
    received: int = 0  # events that were sent to us
    new: int = 0  # events that were not archived before
    known: int = 0  # events that were archived already
    rejected: int = 0
    pages: int = 0
    bytes: int = 0
    gaps: int = 0
    outcomes: dict[str, int] = {}


class Call:
    """One visit to one relay: follows the paging machine and stores page by page."""

    def __init__(
        self,
        visit: Visit,
        network: Network,
        report: Report,
        *,
        brotr: Brotr,
        config: Config,
        stop: asyncio.Event,
        deadline: float,
        habits: Habits | None = None,
    ) -> None:
        self.visit, self.report, self.brotr = visit, report, brotr
        self.relay = Relay(visit.url)
        self.habits = habits  # of the relay, from an earlier visit; and what this one taught
        self.stop, self.deadline = stop, deadline  # in monotonic seconds
        self.settings = config.synchronizer
        self.link = config.networks.link(network)
        self.allow_local = config.networks.local.enabled
        self.limit = self.settings.page_limit
        self.new = 0
        self.timeouts = 0  # pages that ended in one
        self.has_proven = False
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
                    return self._unfinished()
                paging = Paging(
                    span,
                    limit=self.limit,
                    open_top=index == 0,
                    # Nothing is proven yet, and events of it are here: the span is not empty.
                    expects_events=self.visit.pairs > 0 and span == self.visit.wanted,
                    habits=self.habits,
                )
                gaps = await self._walk(session, paging)
                self.habits = wiser(self.habits, paging.habits)
                if paging.ask() is not None:
                    return self._unfinished()
                for gap in gaps:
                    reason, detail = gap.reason, gap.detail
            return ("done", reason or "complete", detail)

    def _unfinished(self) -> tuple[str, str, str]:
        if self._is_stuck():
            return "failed", End.TIMEOUT.value, "a whole visit proved nothing"
        return "unfinished", "unfinished", ""

    def _is_stuck(self) -> bool:
        """Whether this visit waited in vain only: then the next one must not begin at once, and
        not with the same question."""
        return self.timeouts > 0 and not self.has_proven and not self.stop.is_set()

    def _is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.deadline

    async def _walk(self, session: Session, paging: Paging) -> list[Gap]:
        """Follows one walk: while a page is verified, the one before it is being stored and the
        one after it is on its way."""
        gaps: list[Gap] = []
        asking: asyncio.Task[Page] | None = None
        storing: asyncio.Task[None] | None = None
        ask = paging.ask()
        try:
            while ask is not None and not self._is_over():
                if asking is None:
                    asking = asyncio.create_task(session.fetch(self._filter(ask), self.bounds))
                page = await asking
                answer, haul = sift(page, ask)
                progress = self._judge(session, paging, page, answer)
                gaps += progress.gaps
                ask, asking = paging.ask(), None
                if ask is not None and not self._is_over():
                    asking = asyncio.create_task(session.fetch(self._filter(ask), self.bounds))
                fresh = await self._verify(haul)
                if storing is not None:
                    await storing
                storing = asyncio.create_task(self._store(page, haul, fresh, progress))
            if storing is not None:
                await storing
        finally:
            for task in (asking, storing):
                if task is not None and not task.done():
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
        return gaps

    def _judge(self, session: Session, paging: Paging, page: Page, answer: Answer) -> Progress:
        """What an answer proves, and the gaps that it leaves when the conversation cannot go on."""
        progress = paging.answer(answer)
        self.timeouts += page.end is End.TIMEOUT
        self.has_proven = self.has_proven or bool(progress.proven)
        if not session.is_open and paging.ask() is not None:
            given_up = paging.give_up(GapReason.CUT, page.reason)
        elif self._is_over() and self._is_stuck():
            given_up = paging.give_up(GapReason.TIMEOUT, "a whole visit proved nothing")
        else:
            return progress
        return Progress(progress.proven + given_up.proven, progress.gaps + given_up.gaps)

    def _filter(self, ask: Ask) -> dict[str, object]:
        filter_: dict[str, object] = {"since": ask.since, "limit": min(ask.limit, self.limit)}
        if ask.until is not None:
            filter_["until"] = ask.until
        if ask.narrow:
            filter_["kinds"] = NARROW_KINDS
        return filter_

    async def _verify(self, haul: "Haul") -> list[Event]:
        """The valid events that are not archived yet; the archived ones are noted as held here.

        Noting is a transaction of its own, so that no row is locked while signatures are verified,
        and comes ahead of the proof: a crash in between costs one question more.
        """
        if not haul.events:
            return []
        unknown = await self.brotr.note_presence(
            self.visit.relay_id, [event[:2] for event in haul.events], int(time.time())
        )
        self.report.known += len(haul.events) - len(unknown)
        fresh: list[Event] = []
        for position in unknown:
            _, event_id, wire = haul.events[position]
            try:
                fresh.append(wire if isinstance(wire, Event) else Event.from_wire(wire))
            except ValueError as error:
                haul.reject(str(error), event_id)
        return fresh

    async def _store(
        self, page: Page, haul: "Haul", fresh: list[Event], progress: Progress
    ) -> None:
        """Stores new events together with what the page proved."""
        rejected = [Rejected(reason, *entry) for reason, entry in haul.rejected.items()]
        new, _ = await self.brotr.store_page(
            self.visit,
            fresh,
            proofs=progress.proven,
            gaps=progress.gaps,
            rejected=rejected,
            now=int(time.time()),
        )
        self.new += new
        report = self.report
        report.pages += 1
        report.bytes += page.size
        report.received += len(page.events)
        report.new += new
        report.gaps += len(progress.gaps)
        report.rejected += sum(entry.times for entry in rejected)


def wiser(before: Habits | None, now: Habits) -> Habits:
    """What is known of a relay after one more walk; a walk over little teaches little."""
    return before if before is not None and before.capacity > now.capacity else now


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
