"""A call at one relay: follows the paging machine and stores page by page."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bigbrotr.config import Config, Terms
from bigbrotr.core.brotr import Brotr, Rejected, Visit
from bigbrotr.models.coverage import Gap, Span
from bigbrotr.models.event import MAX_CREATED_AT, Event, WireEvent, wire_id
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.auth import Signer
from bigbrotr.nostr.dial import dial
from bigbrotr.nostr.paging import Answer, Ask, End, GapReason, Habits, Paging, Progress
from bigbrotr.nostr.reach import Failure, Unreached
from bigbrotr.nostr.session import Bounds, Page, Session

PAGE_ROUNDS = 12  # reply time-outs that a whole page may take: three bounds, the third is the slice
REASONS = ("malformed", "bad id", "bad signature")  # why events are rejected
REMEMBERED_EVENTS = 5_000  # verified last, of this size at most: about 10 MB
REMEMBERED_CHARACTERS = 2_000
REMEMBERED_TAGS = 20
LIVE_S = 1.0  # what comes in live is stored at least this often
NARROW_KINDS = [0, 1, 3, 10002]  # what any relay with users holds


class Report(Struct):
    """What was done, in plain values."""

    visits: int = 0
    received: int = 0  # events that were sent to us
    new: int = 0  # events that were not archived before
    known: int = 0  # events that were archived already
    rejected: int = 0
    pages: int = 0
    bytes: int = 0
    gaps: int = 0
    live: int = 0  # relays that are subscribed to now: not added up
    outcomes: dict[str, int] = {}

    def add(self, other: "Report") -> None:
        """Adds what another report counts."""
        for name in ("visits", "received", "new", "known", "rejected", "pages", "bytes", "gaps"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for outcome, times in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + times


class Result(NamedTuple):
    """What a call came to, in the words of `finish_visit` in sql/."""

    verdict: str  # 'done', 'failed', 'throttled' or 'unfinished'
    outcome: str
    detail: str = ""


def lease_s(slice_s: float, revisit_s: float) -> float:
    """A lease outlasts a slice and the page that is under way at its end, and what a live call
    lets pass before it renews it."""
    return 2 * slice_s + revisit_s + 60


class Call:
    """One visit to one relay: follows the paging machine and stores page by page."""

    def __init__(
        self,
        visit: Visit,
        network: Network,
        report: Callable[[Report], None],
        *,
        brotr: Brotr,
        config: Config,
        stop: asyncio.Event,
        deadline: float,
        habits: Habits | None = None,
        gate: asyncio.Semaphore,
        verified: "VerifiedEvents",
        is_our_fault: Callable[[Failure | None], bool],
        is_live_wanted: Callable[[], bool] = lambda: False,
        signer: Signer | None = None,
    ) -> None:
        self.visit, self.network, self.report, self.brotr = visit, network, report, brotr
        self.relay = Relay(visit.url)
        self.habits = habits  # of the relay, from an earlier visit; and what this one taught
        self.stop, self.deadline = stop, deadline  # in monotonic seconds
        self.settings = config.synchronizer
        self.link = config.networks.link(network)
        self.allow_local = config.networks.local.enabled
        self.gate = gate  # to the pages that are worked on
        self.verified = verified  # lately, in this worker
        self.is_our_fault = is_our_fault  # told how the call began
        self.is_live_wanted = is_live_wanted
        self.is_live = False
        self.terms = self.settings.terms(self.relay.url)
        self.limit = self.terms.page_limit
        self.signer = signer  # for a relay that insists on knowing who asks
        self.identity: str | None = None  # the public key with which it answers
        self.new = 0
        self.timeouts = 0  # pages that ended in one
        self.has_proven = False
        self.bounds = Bounds(
            self.link.timeout_s, PAGE_ROUNDS * self.link.timeout_s, self.settings.max_page_bytes
        )

    async def run(self) -> Result:
        """Copies what is missing, and stays for what comes in live, if that is wanted."""
        if not self.visit.missing and not self._may_be_live():
            return Result("done", "complete")
        stream = await dial(
            self.relay,
            self.link,
            max_frame_bytes=self.settings.max_event_bytes,
            allow_local=self.allow_local,
        )
        is_ours = self.is_our_fault(stream.failure if isinstance(stream, Unreached) else None)
        if isinstance(stream, Unreached):
            if is_ours:  # the relay is asked again later, and not blamed
                return Result("done", stream.failure.value, stream.detail)
            return Result("failed", stream.failure.value, stream.detail)
        async with Session(stream, self.relay.url, self.signer) as session:
            result = await self._copy(session)
            if result.verdict == "done" and session.is_open and self._may_be_live():
                self.is_live = True
                result = await self._stay(session)
            return result

    def _may_be_live(self) -> bool:
        """Whether to stay subscribed: not for what is all in the past."""
        is_to_come = self.terms.filter.newest >= time.time()
        return self.terms.live and is_to_come and self.is_live_wanted()

    async def _copy(self, session: Session) -> Result:
        """Walks what is missing, newest first: it is of most interest, and its top is asked for
        each time."""
        reason = detail = ""
        for index, missing in enumerate(reversed(self.visit.missing)):
            span = Span(*missing)
            if self._is_over():
                return self._unfinished()
            paging = Paging(
                span,
                limit=self.limit,
                open_top=index == 0 and self.terms.filter.newest >= self.visit.wanted[1],
                expects_events=self._expects_events(span),
                habits=self.habits,
            )
            gaps = await self._walk(session, paging)
            self.habits = wiser(self.habits, paging.habits)
            if paging.ask() is not None:
                return self._unfinished()
            for gap in gaps:
                reason, detail = gap.reason, gap.detail
        if detail.startswith("rate-limited"):
            return Result("throttled", "rate-limited", detail)
        return Result("done", reason or "complete", detail)

    async def _stay(self, session: Session) -> Result:
        """Stays subscribed: new events are stored within seconds, late ones with old dates too;
        from time to time the seconds that have settled are walked, and gaps that are due."""
        # `limit` 1, not 0, and `since`: some relays refuse the one or need the other.
        await session.subscribe(
            request(Ask(self.terms.since, None, 1), self.terms), self.bounds.reply_s
        )
        # What came in between the walk and the subscription lies above what is settled.
        settled = self.visit.wanted[1]
        top = Paging(
            Span(settled - 1, settled), limit=self.limit, open_top=True, habits=self.habits
        )
        self.deadline = time.monotonic() + self.settings.slice_s
        await self._walk(session, top)
        while True:
            refresh_at = time.monotonic() + self.settings.revisit_s
            while session.is_listening and not self.stop.is_set():
                left_s = refresh_at - time.monotonic()
                if left_s <= 0:
                    break
                page = await session.listen(min(left_s, LIVE_S), self.bounds.page_bytes)
                if page.events or page.malformed:
                    await self._store_live(page)
            if self.stop.is_set():
                return Result("unfinished", "stopped")
            if not session.is_listening:
                return Result("done", "subscription-ended", session.notice)
            self.visit = await self.brotr.renew_visit(
                self.visit,
                lease_s=lease_s(self.settings.slice_s, self.settings.revisit_s),
                until=self.terms.until(int(time.time()) - self.settings.settle_s),
            )
            self.deadline = time.monotonic() + self.settings.slice_s
            result = await self._copy(session)
            if result.verdict != "done":
                return result

    async def _store_live(self, page: Page) -> None:
        """Stores what came in live; it proves nothing."""
        _, haul = sift(page, Ask(self.terms.since, None, 1), self.terms)
        # A relay passes ephemeral events on, but it does not hold them (NIP-01).
        haul.events = [event for event in haul.events if not 20_000 <= event[2].kind < 30_000]
        fresh = await self._verify(haul)
        await self._store(page, haul, fresh, Progress([], []))

    def _expects_events(self, span: Span) -> bool:
        """Whether the archive knows events of this relay in a span of which nothing is proven;
        it does not know how many of them are of some kind or time."""
        is_all = not self.terms.filter.key and self.terms.filter.until is None
        is_whole = span == self.visit.wanted and self.terms.since == 0
        return is_all and is_whole and self.visit.pairs > 0

    def _unfinished(self) -> Result:
        if self._is_stuck():
            return Result("failed", End.TIMEOUT.value, "a whole visit proved nothing")
        return Result("unfinished", "unfinished")

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
                    asking = self._fetch(session, ask)
                page = await asking
                self.identity = session.identity
                # Few pages are worked on at once, and who waits here has asked for no other.
                await self.gate.acquire()
                try:
                    answer, haul = sift(page, ask, self.terms)
                    progress = self._judge(session, paging, page, answer)
                    gaps += progress.gaps
                    ask, asking = paging.ask(), None
                    if ask is not None and not self._is_over():
                        asking = self._fetch(session, ask)
                    fresh = await self._verify(haul)
                    if storing is not None:
                        await storing
                except BaseException:
                    self.gate.release()
                    raise
                storing = asyncio.create_task(self._store(page, haul, fresh, progress))
                storing.add_done_callback(lambda _: self.gate.release())
                del page, haul, fresh  # the task holds what it needs, no longer than it needs it
            if storing is not None:
                await storing
        finally:
            for task in (asking, storing):
                if task is not None:
                    task.cancel()
                    # Also when it is done: asyncio complains of errors that nobody looks at.
                    await asyncio.gather(task, return_exceptions=True)
        return gaps

    def _fetch(self, session: Session, ask: Ask) -> asyncio.Task[Page]:
        return asyncio.create_task(session.fetch(request(ask, self.terms), self.bounds))

    def _judge(self, session: Session, paging: Paging, page: Page, answer: Answer) -> Progress:
        """What an answer proves, and the gaps that it leaves when the conversation cannot go on."""
        if page.end is End.OVERSIZE:
            self.limit = max(1, min(self.limit, page.received) // 2)
            paging.lower_limit(self.limit)
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
        self.report(Report(known=len(haul.events) - len(unknown)))
        fresh: list[Event] = []
        for position in unknown:
            _, event_id, wire = haul.events[position]
            try:
                fresh.append(self.verified.take(event_id, wire))
            except ValueError as error:
                haul.reject(str(error), event_id)
        haul.events.clear()
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
            identity=self.identity,
            now=int(time.time()),
        )
        self.new += new
        self.report(
            Report(
                received=page.received,
                new=new,
                rejected=sum(entry.times for entry in rejected),
                pages=1,
                bytes=page.size,
                gaps=len(progress.gaps),
            )
        )


def request(ask: Ask, terms: Terms) -> dict[str, object]:
    """The filter of the REQ that asks for what is wanted."""
    conditions = terms.filter.to_request()
    asked = {"since": ask.since, "limit": min(ask.limit, terms.page_limit)} | conditions
    until = terms.filter.until if ask.until is None else ask.until
    if until is not None:
        asked["until"] = until
    if ask.narrow:
        kinds = conditions.get("kinds", NARROW_KINDS)
        common = [kind for kind in kinds if kind in NARROW_KINDS]
        asked["kinds"] = common or kinds[: len(NARROW_KINDS)]
    return asked


def wiser(before: Habits | None, now: Habits) -> Habits:
    """What is known of a relay after one more walk; a walk over little teaches little."""
    return before if before is not None and before.capacity > now.capacity else now


class VerifiedEvents:
    """The events that were verified last: several relays bring the same new ones at once."""

    def __init__(self) -> None:
        self._events: dict[bytes, Event] = {}  # the latest last

    def take(self, event_id: bytes, wire: WireEvent | Event) -> Event:
        """The verified event of this (proven) id.

        Raises:
            ValueError: it is no valid event.
        """
        if (known := self._events.get(event_id)) is not None:
            return known
        event = wire if isinstance(wire, Event) else Event.from_wire(wire)
        if len(event.content) <= REMEMBERED_CHARACTERS and len(event.tags) <= REMEMBERED_TAGS:
            self._events[event_id] = event
            if len(self._events) > REMEMBERED_EVENTS:
                del self._events[next(iter(self._events))]
        return event


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
        if reason not in REASONS:  # each makes a row
            reason = "malformed"
        before, first = self.rejected.get(reason, (0, sample))
        self.rejected[reason] = (before + count, first)


def sift(page: Page, ask: Ask, terms: Terms) -> tuple[Answer, Haul]:
    """Sorts out a page: what it says to the paging machine, and what there is to store.

    A question may go a second beyond what is wanted: what lies there is heard and not stored.

    Events whose id is not the hash of their bytes are rejected here; signatures come later, and
    only of events that are not archived yet.
    """
    haul = Haul(page.malformed)
    times: list[int] = []
    seen: set[bytes] = set()
    off_filter = page.unreadable  # they took places in the page as well
    filter_ = terms.filter
    until = filter_.newest if ask.until is None else ask.until
    for event in page.events:
        try:
            event_id, event = identify(event)
            is_wanted = filter_.matches(event)
        except ValueError as error:
            haul.reject(str(error), sample_of(event))
            # It took the place of another in the page: the walk has to go on below it.
            if ask.since <= event.created_at <= until:
                times.append(event.created_at)
            else:
                off_filter += 1
            continue
        if event_id in seen:
            continue
        seen.add(event_id)
        if not is_wanted or not ask.since <= event.created_at <= until:
            off_filter += 1
            continue
        times.append(event.created_at)
        if terms.since <= event.created_at <= filter_.newest:
            haul.events.append((event.created_at, event_id, event))
    haul.events.sort(key=lambda entry: entry[:2])
    page.received, page.events = len(page.events), []
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
