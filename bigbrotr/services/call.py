"""A call at one relay: copies what is missing, looks again at what is stale, and stays for more."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from bigbrotr.config import Config, SynchronizerSettings, Terms
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Patience, Visit
from bigbrotr.models.coverage import Gap, Span
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.auth import Signer
from bigbrotr.nostr.dial import dial
from bigbrotr.nostr.manners import Manners
from bigbrotr.nostr.paging import (
    Answer,
    Ask,
    End,
    GapReason,
    Habits,
    Paging,
    Progress,
    uncovered,
)
from bigbrotr.nostr.reach import Failure, Unreached
from bigbrotr.nostr.session import Bounds, Page, Session
from bigbrotr.nostr.stream import Stream
from bigbrotr.services.intake import Crowd, Intake, Report, sift
from bigbrotr.services.reconciliation import Reconciliation
from bigbrotr.services.shown import Absences

PAGE_ROUNDS = 12  # reply time-outs that a whole page may take: three bounds, the third is the slice
LIVE_S = 1.0  # what comes in live is stored at least this often
PAGES_TO_JUDGE = 8  # after as many of a walk, is most of it known? ...
KNOWN_SHARE = 4  # ... as many times what is new: then ids say it in less
NARROW_KINDS = [0, 1, 3, 10002]  # what any relay with users holds


Ending: TypeAlias = Literal[
    "complete", "unfinished", "stopped", "subscription-ended", "rate-limited", "timeout"
]


class Result(NamedTuple):
    """What a call came to, in the words of `finish_visit` in sql/."""

    verdict: str  # 'done', 'failed', 'throttled' or 'unfinished'
    outcome: Ending | Failure | GapReason
    detail: str = ""


def lease_s(slice_s: float, revisit_s: float, timeout_s: float) -> float:
    """A lease outlasts a slice and the page that is under way at its end, and what a live call
    lets pass before it renews it; `timeout_s` is that of the relay's network."""
    return 2 * slice_s + revisit_s + PAGE_ROUNDS * timeout_s


class Call:
    """One visit to one relay: by reconciliation where it can, else following the paging machine,
    and stored page by page."""

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
        window_gate: asyncio.Semaphore,
        crowd: Crowd,
        is_our_fault: Callable[[Failure | None], bool],
        is_live_wanted: Callable[[], bool] = lambda: False,
        signer: Signer | None = None,
        manners: Manners | None = None,
    ) -> None:
        self.visit, self.network, self.brotr = visit, network, brotr
        self.relay = Relay(visit.url)
        self.habits = habits  # of the relay, from an earlier visit; and what this one taught
        self.stop, self.deadline = stop, deadline  # in monotonic seconds
        self.settings = config.synchronizer
        self.link = config.networks.link(network)
        self.allow_local = config.networks.local.enabled
        self.gate = gate  # to the pages that are worked on
        self.window_gate = window_gate  # to the windows that are reconciled
        self.is_our_fault = is_our_fault  # told how the call began
        self.is_live_wanted = is_live_wanted
        self.is_live = False
        self.terms = self.settings.terms(self.relay.url)
        self.limit = self.terms.page_limit
        self.manners = manners
        self.stream: Stream | None = None  # once it is open
        self.signer = signer  # for a relay that insists on knowing who asks
        self.intake = Intake(brotr, visit, self.terms, crowd, report)
        self.timeouts = 0  # pages that ended in one
        self.has_proven = False
        self.bounds = Bounds(
            self.link.timeout_s, PAGE_ROUNDS * self.link.timeout_s, self.settings.max_page_bytes
        )

    async def run(self) -> Result:
        """Copies what is missing, and stays for what comes in live, if that is wanted."""
        if not self.visit.missing and not self.visit.stale and not self._may_be_live():
            return Result("done", "complete")
        stream = await dial(
            self.relay,
            self.link,
            max_frame_bytes=self.settings.max_event_bytes,
            allow_local=self.allow_local,
            manners=self.manners,
        )
        is_ours = self.is_our_fault(stream.failure if isinstance(stream, Unreached) else None)
        if isinstance(stream, Unreached):
            if is_ours:  # the relay is asked again later, and not blamed
                return Result("throttled", stream.failure, stream.detail)
            return Result("failed", stream.failure, stream.detail)
        self.stream = stream
        async with Session(stream, self.relay.url, self.signer) as session:
            result = await self._copy(session)
            if result.verdict == "done" and session.is_open and self._may_be_live():
                self.is_live = True
                result = await self._stay(session)
            return result

    def _may_be_live(self) -> bool:
        """Whether to stay subscribed: not for what is all in the past."""
        is_to_come = self.terms.filter.newest >= time.time()
        is_wanted = self.terms.live and is_to_come and self.is_live_wanted()
        return is_wanted and not self._is_in_the_way()

    def _is_in_the_way(self) -> bool:
        """Whether others wait for this call's place among those with the relay's address."""
        return self.stream is not None and self.stream.is_contested

    async def _copy(self, session: Session) -> Result:
        """Copies what is missing, newest first, since that is of most interest; then what is stale
        is looked at again."""
        reconciliation = Reconciliation(
            session,
            self.intake,
            bounds=self.bounds,
            gate=self.window_gate,
            is_over=self._is_over,
        )
        gaps: list[Gap] = []
        for index, missing in enumerate(reversed(self.visit.missing)):
            span = Span(*missing)
            with_top = index == 0 and self.terms.filter.newest >= self.visit.wanted[1]
            if not await self._cover(session, span, reconciliation, gaps, with_top=with_top):
                return self._unfinished()
        for stale in reversed(self.visit.stale):
            if not await self._look_again(session, Span(*stale), reconciliation, gaps):
                return self._unfinished()
        self.visit = self.visit._replace(may_reconcile=reconciliation.may_try)
        detail = reconciliation.throttled or (gaps[-1].detail if gaps else "")
        if detail.startswith("rate-limited"):
            return Result("throttled", "rate-limited", detail)
        return Result("done", GapReason(gaps[-1].reason) if gaps else "complete", detail)

    async def _cover(
        self,
        session: Session,
        span: Span,
        reconciliation: Reconciliation,
        gaps: list[Gap],
        *,
        with_top: bool,
    ) -> bool:
        """Proves a span, or adds the gaps that are left of it: by ids where both sides know most of
        it, else page by page. False when there is more to do.

        Pages give way to ids once most of what they bring is known, and do so once. `with_top`:
        what lies above, and is not settled, comes along.
        """
        left = [(span, True)]
        while left:
            part, may_stop = left.pop()
            step = await reconciliation.meet(part)
            self.has_proven = self.has_proven or reconciliation.windows > 0
            if step.rest is not None:
                left.append((step.rest, may_stop))
            if step.page is None:
                continue
            may_stop = may_stop and reconciliation.may_try
            is_top = with_top and step.page.until == span.until
            rests = await self._page(session, step.page, gaps, with_top=is_top, may_stop=may_stop)
            if rests is None:
                return False
            with_top = with_top and not is_top
            left += [(rest, False) for rest in rests]
        if with_top:  # above it, nothing is reconciled
            top = Span(span.until - 1, span.until)
            return await self._page(session, top, gaps, with_top=True) is not None
        return True

    async def _look_again(
        self, session: Session, span: Span, reconciliation: Reconciliation, gaps: list[Gap]
    ) -> bool:
        """Looks again at what is proven; False when there is more to do."""
        left: Span | None = span
        while left is not None:
            step = await reconciliation.audit(left)
            left = step.rest
            if step.page is not None and await self._page(session, step.page, gaps) is None:
                return False
        return True

    async def _page(
        self,
        session: Session,
        span: Span,
        gaps: list[Gap],
        *,
        with_top: bool = False,
        may_stop: bool = False,
    ) -> list[Span] | None:
        """Walks a span page by page, newest first, and adds the gaps that it leaves.

        Returns what is left of it where the walk has stopped, as it may, since most of what came is
        known; None when there is more to do.
        """
        if self._is_over():
            return None
        paging = Paging(
            span,
            limit=self.limit,
            open_top=with_top,
            expects_events=self._expects_events(span),
            habits=self.habits,
        )
        walk = await self._walk(session, paging, may_stop=may_stop)
        gaps += walk.gaps
        self.habits = wiser(self.habits, paging.habits)
        if paging.ask() is None:
            return []
        if not may_stop or self._is_over():
            return None
        covered = [proof.span for proof in walk.proven] + [gap.span for gap in walk.gaps]
        return uncovered(span, covered)

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
                if left_s <= 0 or self._is_in_the_way():
                    break
                page = await session.listen(min(left_s, LIVE_S), self.bounds.page_bytes)
                if page.events or page.malformed:
                    await self._store_live(page)
            if self.stop.is_set():
                return Result("unfinished", "stopped")
            if not session.is_listening:
                return Result("done", "subscription-ended", session.notice)
            if self._is_in_the_way():
                return Result("done", "complete", "made room for others at its address")
            self.visit = await self.brotr.renew_visit(
                self.visit,
                lease_s=lease_s(
                    self.settings.slice_s, self.settings.revisit_s, self.link.timeout_s
                ),
                until=self.terms.until(int(time.time()) - self.settings.settle_s),
                by_ids=self.terms.by_ids,
                patience=patience(self.settings),
            )
            self.intake.visit = self.visit
            self.deadline = time.monotonic() + self.settings.slice_s
            result = await self._copy(session)
            if result.verdict != "done":
                return result

    async def _store_live(self, page: Page) -> None:
        """Stores what came in live; it proves nothing."""
        _, haul = sift(page, Ask(self.terms.since, None, 1), self.terms)
        # A relay passes ephemeral events on, but it does not hold them (NIP-01).
        haul.events = [event for event in haul.events if not 20_000 <= event[2].kind < 30_000]
        await self.intake.prepare(haul)
        await self.intake.store(page, haul, Progress([], []))

    def _expects_events(self, span: Span) -> bool:
        """Whether the archive knows events of this relay in a span of which nothing is proven;
        it does not know how many of them are of some kind or time."""
        is_all = not self.terms.filter.key and self.terms.filter.until is None
        is_whole = span == self.visit.wanted and self.terms.since == 0
        return is_all and is_whole and self.visit.pairs > 0

    def _unfinished(self) -> Result:
        if self._is_stuck():
            return Result("failed", "timeout", "a whole visit proved nothing")
        return Result("unfinished", "unfinished")

    def _is_stuck(self) -> bool:
        """Whether this visit waited in vain only: then the next one must not begin at once, and
        not with the same question."""
        return self.timeouts > 0 and not self.has_proven and not self.stop.is_set()

    def _is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.deadline

    async def _walk(self, session: Session, paging: Paging, *, may_stop: bool = False) -> Progress:
        """Follows one walk: while a page is verified, the one before it is being stored and the
        one after it is on its way. It may stop once most of what comes is known.

        Returns what became certain.
        """
        walk = Progress([], [])
        absences = await Absences.of(self.intake)
        new, known, pages = self.intake.new, self.intake.known, 0

        def is_over() -> bool:
            if self._is_over():
                return True
            seen, fresh = self.intake.known - known, self.intake.new - new
            is_known = seen > 0 and seen >= KNOWN_SHARE * fresh
            return may_stop and pages >= PAGES_TO_JUDGE and bool(walk.proven) and is_known

        asking: asyncio.Task[Page] | None = None
        storing: asyncio.Task[None] | None = None
        under_way: set[bytes] = set()  # events that the next page may bring again
        ask = paging.ask()
        try:
            while ask is not None and not self._is_over() and not (asking is None and is_over()):
                if asking is None:
                    asking = self._fetch(session, ask)
                page = await asking
                pages += 1
                self.intake.identity = session.identity
                # Few pages are worked on at once, and who waits here has asked for no other.
                await self.gate.acquire()
                try:
                    answer, haul = sift(page, ask, self.terms, under_way)
                    absences.saw(haul.events)
                    progress = self._judge(session, paging, page, answer)
                    walk.proven.extend(progress.proven)
                    walk.gaps.extend(progress.gaps)
                    ask, asking = paging.ask(), None
                    if ask is not None and not is_over():
                        asking = self._fetch(session, ask)
                    await self.intake.prepare(haul)
                    await absences.conclude(progress.proven)
                    under_way = haul.oldest()
                    if storing is not None:
                        await storing
                except BaseException:
                    self.gate.release()
                    raise
                storing = asyncio.create_task(self.intake.store(page, haul, progress))
                storing.add_done_callback(lambda _: self.gate.release())
                del page, haul  # the task holds what it needs, no longer than it needs it
            if storing is not None:
                await storing
        finally:
            tasks = [task for task in (asking, storing) if task is not None]
            for task in tasks:
                task.cancel()
            # Also when they are done: asyncio complains of errors that nobody looks at. Together,
            # for this may be cancelled while it waits.
            await asyncio.gather(*tasks, return_exceptions=True)
        return walk

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


def patience(settings: SynchronizerSettings) -> Patience:
    """When what is proven is looked at again."""
    return Patience(settings.audit_s, settings.lookback_s, settings.rewalk_s)


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
