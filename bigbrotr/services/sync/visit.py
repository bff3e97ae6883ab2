"""A call at one relay: copies what is missing, looks again at what is stale, and stays for more."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from bigbrotr.config.settings import Config, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Patience, Visit
from bigbrotr.models.coverage import Gap, How, Proof, Span, merge, uncovered
from bigbrotr.models.event import MAX_CREATED_AT, Event, WireEvent
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import Failure, Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.politeness import Politeness
from bigbrotr.net.websocket import Stream
from bigbrotr.nostr.auth import Signer
from bigbrotr.nostr.paging import Paging
from bigbrotr.nostr.questions import Answer, Ask, End, GapReason, Habits, Probe, Progress
from bigbrotr.nostr.session import Bounds, Page, Session
from bigbrotr.services.sync.dialect import (
    ABOUT_US,
    ASIDE,
    COMMON_KINDS,
    NOBODY,
    Dialect,
    Known,
    Way,
    is_in_vain,
    request,
)
from bigbrotr.services.sync.ingest import Crowd, Intake, Report, sift
from bigbrotr.services.sync.reconcile import Reconciliation, Step
from bigbrotr.services.sync.shown import Absences

PAGE_ROUNDS = 12  # reply time-outs that a whole page may take: three bounds, the third is the slice
GOOD_STAY_S = 30.0  # after a shorter one, coming back at once would be hammering
LIVE_S = 1.0  # what comes in live is stored at least this often
PAGES_TO_JUDGE = 8  # after as many of a walk, is most of it known? ...
KNOWN_SHARE = 4  # ... as many times what is new: then ids say it in less
MOST_RETURNS = 20  # in a visit, to a relay that hangs up
LINGER_S = 1.0  # how long to wait for events that come after EOSE, once some have
LATE_FEW = 3  # events after EOSE may have been published just then
REMEMBERED_ASKS = 32
CHECK_ONE_IN = 64  # pages, of which a part is asked for again
TEST_FINISH = 8  # one in so many `finish` of a relay that has never lied
PLAIN_AGAIN = 8  # one in so many visits, where only another way of asking has worked
PENDING_S = 3600  # for which what the last page of a visit showed is taken up by the next
LEAST_LIMIT = 2  # events at once: a page of one never goes beyond its second
SOME_KNOWN = 100  # authors and ids that an empty relay is asked for
BATCH_OF_AUTHORS = 20
DAY_S = 86_400
LEAST_STRETCH_S = 3600


Ending: TypeAlias = Literal[
    "complete", "unfinished", "stopped", "subscription-ended", "rate-limited", "timeout"
]


class Result(NamedTuple):
    """What a call came to, in the words of `finish_visit` in sql/."""

    verdict: str  # 'done', 'failed', 'refused', 'throttled' or 'unfinished'
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
        gate: asyncio.Semaphore,
        window_gate: asyncio.Semaphore,
        crowd: Crowd,
        is_our_fault: Callable[[Failure | None], bool],
        is_live_wanted: Callable[[], bool] = lambda: False,
        signer: Signer | None = None,
        politeness: Politeness | None = None,
    ) -> None:
        self.visit, self.network, self.brotr = visit, network, brotr
        self.relay = Relay(visit.url)
        self.dialect = dialect_of(visit)  # from earlier visits; and what this one teaches
        self.stop, self.deadline = stop, deadline  # in monotonic seconds
        self.settings = config.synchronizer
        self.link = config.networks.link(network)
        self.allow_local = config.networks.local.enabled
        self.gate = gate  # to the pages that are worked on
        self.window_gate = window_gate  # to the windows that are reconciled
        self.is_our_fault = is_our_fault  # told how the call began
        self.is_live_wanted = is_live_wanted
        self.is_live = False
        self.policy = self.settings.policy(self.relay.url)
        self.limit = self._most_at_once()
        self.politeness = politeness
        self.stream: Stream | None = None  # once it is open
        self.session: Session | None = None
        self._sessions = AsyncExitStack()
        self._returns = 0  # to a relay that hung up
        self._answers = 0  # on this connection
        self._has_gained = True  # an answer, on this connection; or the relay has one try more
        # The last questions by number, with the events that came, and whether that was to be all.
        self._asked: dict[int, tuple[Ask, int, bool]] = {}
        self._asked_in: Session | None = None  # the conversation in which these numbers count
        self._hasty = 0  # the last question that was asked without patience
        self._known: Known | None = None
        self.signer = signer  # for a relay that insists on knowing who asks
        self.intake = Intake(brotr, visit, self.policy, crowd, report)
        self.timeouts = 0  # pages that ended in one
        self.has_proven = False
        self.bounds = Bounds(
            self.link.timeout_s, PAGE_ROUNDS * self.link.timeout_s, self.settings.max_page_bytes
        )

    async def run(self) -> Result:
        """Copies what is missing, and stays for what comes in live, if that is wanted."""
        if not self.visit.missing and not self.visit.stale and not self._may_be_live():
            return Result("done", "complete")
        stream = await self._dial()
        is_ours = self.is_our_fault(stream.failure if isinstance(stream, Unreached) else None)
        if isinstance(stream, Unreached):
            if is_ours:  # the relay is asked again later, and not blamed
                return Result("throttled", stream.failure, stream.detail)
            return Result("failed", stream.failure, stream.detail)
        if not random.randrange(PLAIN_AGAIN):
            self.dialect = replace(self.dialect, way=Way.PLAIN, limit=0)
        async with self._sessions:
            session = await self._converse(stream)
            result = await self._copy(session)
            session = self.session or session
            if result.verdict == "done" and session.is_open and self._may_be_live():
                self.is_live = True
                result = await self._stay(session)
            return result

    async def _dial(self) -> Stream | Unreached:
        return await dial(
            self.relay,
            self.link,
            max_frame_bytes=self.settings.max_event_bytes,
            allow_local=self.allow_local,
            politeness=self.politeness,
        )

    async def _converse(self, stream: Stream) -> Session:
        self.stream, self._answers = stream, 0
        session = Session(stream, self.relay.url, self.signer)
        self.session = await self._sessions.enter_async_context(session)
        return session

    async def _come_back(self) -> Session | None:
        """Dials a relay again that has hung up: some do after each answer, or at a word that they
        don't know. Not without end, and only once where a conversation has brought nothing."""
        if self._is_over() or self._returns >= MOST_RETURNS or not self._has_gained:
            return None
        self._returns += 1
        stream = await self._dial()
        if isinstance(stream, Unreached):
            return None
        self._has_gained = False
        return await self._converse(stream)

    def _most_at_once(self) -> int:
        """Events in a question: as configured, as the relay's document says, as it has taken."""
        limits = (self.policy.page_limit, self.dialect.limit, self.visit.limits.get("max_limit", 0))
        return max(LEAST_LIMIT, min(limit for limit in limits if limit > 0))

    def _may_be_live(self) -> bool:
        """Whether to stay subscribed: not for what is all in the past."""
        is_to_come = self.policy.filter.newest >= time.time()
        is_wanted = self.policy.live and is_to_come and self.is_live_wanted()
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
        self._forget_what_is_old()
        before = self.intake.new
        top = self.visit.wanted[1]
        for span in self._in_turn():
            with_top = span.until == top <= self.policy.filter.newest
            if not await self._cover(span, reconciliation, gaps, with_top=with_top):
                return self._unfinished()
        for stale in reversed(self.visit.stale):
            if not await self._look_again(Span(*stale), reconciliation, gaps):
                return self._unfinished()
        self.visit = self.visit._replace(may_reconcile=reconciliation.may_try)
        detail = reconciliation.throttled or (gaps[-1].detail if gaps else "")
        if detail.startswith("rate-limited"):
            return Result("throttled", "rate-limited", detail)
        outcome: Ending | GapReason = GapReason(gaps[-1].reason) if gaps else "complete"
        is_vain = bool(gaps) and not self.has_proven and self.intake.new == before
        return Result("refused" if is_vain else "done", outcome, detail)

    def _forget_what_is_old(self) -> None:
        """Takes up nothing that was shown long ago, for events of that time may have come since;
        or for another filter."""
        is_old = self.dialect.habits_at < time.time() - PENDING_S
        if is_old or self.dialect.habits_for != self.policy.filter.key:
            habits = replace(self.dialect.habits, pending=None)
            self.dialect = replace(self.dialect, habits=habits)

    def _in_turn(self) -> list[Span]:
        """What is missing, newest first; but what the last visit has been shown, and has not had
        the time to prove, comes before all, so that each visit gets on."""
        spans = [Span(*missing) for missing in reversed(self.visit.missing)]
        pending = self.dialect.habits.pending
        if pending is not None:
            spans.sort(
                key=lambda span: not span.since < pending.since < pending.until <= span.until
            )
        return spans

    async def _cover(
        self,
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
            step = await self._by_ids(reconciliation, reconciliation.meet, part)
            self.has_proven = self.has_proven or reconciliation.windows > 0
            if step.rest is not None:
                left.append((step.rest, may_stop))
            if step.page is None:
                continue
            may_stop = may_stop and reconciliation.may_try
            is_top = with_top and step.page.until == span.until
            rests = await self._page(step.page, gaps, with_top=is_top, may_stop=may_stop)
            if rests is None:
                return False
            with_top = with_top and not is_top
            left += [(rest, False) for rest in rests]
        if with_top:  # above it, nothing is reconciled
            top = Span(span.until - 1, span.until)
            return await self._page(top, gaps, with_top=True) is not None
        return True

    async def _by_ids(
        self,
        reconciliation: Reconciliation,
        look: Callable[[Span], Awaitable[Step]],
        span: Span,
    ) -> Step:
        """What ids say of a span. A relay that hangs up at them is dialled again, for pages."""
        assert self.session is not None
        if not self.session.is_open:
            await self._come_back()
        reconciliation.use(self.session)
        return await look(span)

    async def _look_again(
        self, span: Span, reconciliation: Reconciliation, gaps: list[Gap]
    ) -> bool:
        """Looks again at what is proven; False when there is more to do."""
        left: Span | None = span
        while left is not None:
            step = await self._by_ids(reconciliation, reconciliation.audit, left)
            left = step.rest
            if step.page is not None and await self._page(step.page, gaps) is None:
                return False
        return True

    async def _page(
        self, span: Span, gaps: list[Gap], *, with_top: bool = False, may_stop: bool = False
    ) -> list[Span] | None:
        """Walks a span page by page, newest first, and adds the gaps that it leaves. Where nothing
        comes, it is asked for in other ways.

        Returns what is left of it where the walk has stopped, as it may, since most of what came is
        known; None when there is more to do.
        """
        tried: set[tuple[Way, int]] = set()
        ahead: list[Dialect] = []
        first, gaps_first = self.dialect, None
        while True:
            if self._is_over():
                return None
            tried.add((self.dialect.way, self.dialect.limit))
            self.limit = self._most_at_once()
            found = self.intake.new + self.intake.known
            walk, rests = await self._walk_by(span, with_top=with_top, may_stop=may_stop)
            # What has worked at the last visit is right where nothing has come since, as well.
            is_right = self.dialect.way in ASIDE and len(tried) == 1 and self._answers > 0
            is_right = is_right or self.intake.new + self.intake.known > found
            reason = None if is_right or walk.proven else is_in_vain(walk.gaps)
            if reason is GapReason.CUT and self._answers > 0:
                break  # it was not this question
            if reason is not None:
                words = walk.gaps[-1].detail
                gaps_first = gaps_first or walk.gaps
                ahead += self.dialect.others(reason, words)
                ahead = [each for each in ahead if (each.way, each.limit) not in tried]
            if reason is None or not ahead:
                break
            if reason in (GapReason.TIMEOUT, GapReason.CUT):  # one such wait is enough for a visit
                first = ahead[0]
                break
            self.dialect = replace(ahead.pop(0), habits=self.dialect.habits)
        left = walk.gaps
        if reason is not None:
            self.dialect = replace(first, habits=self.dialect.habits)
            left = gaps_first or left  # why it does not answer the plain question
        await self._note(left)
        gaps += left
        return rests

    async def _walk_by(
        self, span: Span, *, with_top: bool, may_stop: bool
    ) -> tuple[Progress, list[Span] | None]:
        """One walk over a span, in the way that the relay understands: what became certain, and
        what is left to do (see `_page`)."""
        if self.dialect.way is Way.DAYS:
            return await self._walk_by_days(span, with_top=with_top)
        if self.dialect.way in ASIDE:
            return await self._walk_aside(span)
        paging = self._paging(span, with_top=with_top)
        walk = await self._walk(paging, may_stop=may_stop)
        return walk, self._left_of(span, paging, walk, may_stop=may_stop)

    def _left_of(
        self, span: Span, paging: Paging, walk: Progress, *, may_stop: bool
    ) -> list[Span] | None:
        if paging.ask() is None:
            return []
        if not may_stop or self._is_over():
            return None
        covered = [proof.span for proof in walk.proven] + [gap.span for gap in walk.gaps]
        return uncovered(span, covered)

    async def _walk_by_days(
        self, span: Span, *, with_top: bool
    ) -> tuple[Progress, list[Span] | None]:
        """A walk in short stretches, newest first; they grow while little is in them."""
        whole = Progress([], [])
        until, stretch_s, most_s = span.until, DAY_S, span.until
        while until > span.since:
            if self._is_over():
                return whole, None
            part = Span(max(span.since, until - stretch_s), until)
            received = self.intake.new + self.intake.known
            paging = self._paging(part, with_top=with_top and until == span.until)
            walk = await self._walk(paging)
            if paging.ask() is not None:
                return whole, None
            reason = None if walk.proven else is_in_vain(walk.gaps)
            is_first = until == span.until and stretch_s == DAY_S
            words = walk.gaps[-1].detail if reason else ""
            is_over = reason is GapReason.CUT or words.startswith(ABOUT_US)
            if is_over or (reason and is_first):
                whole.gaps.append(Gap(Span(span.since, until), *walk.gaps[-1][1:]))
                return whole, []
            if reason and stretch_s > LEAST_STRETCH_S:
                most_s = stretch_s // 2
                stretch_s = max(LEAST_STRETCH_S, stretch_s // 4)
                continue
            whole.proven.extend(walk.proven)
            whole.gaps.extend(walk.gaps)
            if self.intake.new + self.intake.known - received < self.limit:
                stretch_s = max(stretch_s, min(2 * stretch_s, most_s))
            until = part.since
        return whole, []

    async def _walk_aside(self, span: Span) -> tuple[Progress, list[Span] | None]:
        """Archives what a relay shows that wants to be asked for kinds or authors. What it shows is
        not all there is: nothing is proven by it."""
        batches: list[Sequence[str]] = [()]
        if self.dialect.way is Way.AUTHORS:
            authors = (await self._some_known()).authors
            starts = range(0, len(authors), BATCH_OF_AUTHORS)
            batches = [authors[start : start + BATCH_OF_AUTHORS] for start in starts]
        reason, words = GapReason.SUSPECTED_EMPTY, f"only asked for {self.dialect.way}, it answers"
        for batch in batches:
            paging = Paging(span, limit=self.limit, habits=OPEN)
            walk = await self._walk(paging, aside=batch)
            if paging.ask() is not None:
                return Progress([], []), None
            if walk.gaps and not walk.proven:
                reason, words = GapReason(walk.gaps[-1].reason), walk.gaps[-1].detail
                break
        return Progress([], [Gap(span, reason, words)]), []

    def _paging(self, span: Span, *, with_top: bool) -> Paging:
        """The machine for a walk over a span, with what is known of the relay."""
        habits = self.dialect.habits
        if self.dialect.way is Way.DAYS:  # what it does not answer, it refuses in words
            habits = replace(habits, is_open=True)
        return Paging(
            span,
            limit=self.limit,
            open_top=with_top,
            expects_events=self._expects_events(span),
            is_broad=not self.policy.filter.key,
            habits=habits,
            check_after=random.randrange(CHECK_ONE_IN) if habits.checks else 0,
            believes_finish=habits.finishes > 2 and random.randrange(TEST_FINISH) > 0,
        )

    async def _some_known(self) -> Known:
        if self._known is None:
            found = await self.brotr.some_known(self.relay.url, SOME_KNOWN, int(time.time()))
            self._known = Known(*([each.hex() for each in some] for some in found))
        return self._known

    async def _note(self, gaps: Sequence[Gap]) -> None:
        """Records the gaps that a walk has left."""
        if gaps:
            await self.brotr.store_page(
                self.visit, [], gaps=gaps, identity=self.intake.identity, now=int(time.time())
            )
            self.intake.report(Report(gaps=len(gaps)))

    async def _stay(self, session: Session) -> Result:
        """Stays subscribed: new events are stored within seconds, late ones with old dates too;
        from time to time the seconds that have settled are walked, and gaps that are due.

        A relay that ends a good stay is come back to at once, so that little is late; one that does
        not let us stay, at the next visit."""
        began = time.monotonic()
        # `limit` 1, not 0, and `since`: some relays refuse the one or need the other.
        await session.subscribe(
            request(Ask(self.policy.since, None, 1), self.policy)[0], self.bounds.reply_s
        )
        # What came in between the walk and the subscription lies above what is settled.
        settled = self.visit.wanted[1]
        habits = replace(self.dialect.habits, pending=None)
        top = Paging(Span(settled - 1, settled), limit=self.limit, open_top=True, habits=habits)
        self.deadline = time.monotonic() + self.settings.slice_s
        await self._walk(top)
        while True:
            refresh_at = time.monotonic() + self.settings.revisit_s
            while session.is_listening and not self.stop.is_set():
                left_s = refresh_at - time.monotonic()
                if left_s <= 0 or self._is_in_the_way():
                    break
                page = await session.listen(min(left_s, LIVE_S), self.bounds.page_bytes)
                if page.events or page.malformed:
                    await self._store_live(page)
                if page.late:  # for a walk that has ended
                    await self._take_late(page, Ask(self.policy.since, None, 1), top)
            if self.stop.is_set():
                return Result("unfinished", "stopped")
            if not session.is_listening:
                is_good = time.monotonic() - began >= GOOD_STAY_S
                words = session.lost or session.notice
                return Result("unfinished" if is_good else "done", "subscription-ended", words)
            if self._is_in_the_way():
                return Result("done", "complete", "made room for others at its address")
            self.visit = await self.brotr.renew_visit(
                self.visit,
                lease_s=lease_s(
                    self.settings.slice_s, self.settings.revisit_s, self.link.timeout_s
                ),
                until=self.policy.until(int(time.time()) - self.settings.settle_s),
                by_ids=self.policy.by_ids,
                patience=patience(self.settings),
            )
            self.intake.visit = self.visit
            self.deadline = time.monotonic() + self.settings.slice_s
            result = await self._copy(session)
            if result.verdict != "done":
                return result

    async def _store_live(self, page: Page) -> None:
        """Stores what came in live."""
        await self._store_unasked(page, Ask(self.policy.since, None, 1))

    def _expects_events(self, span: Span) -> bool:
        """Whether the archive knows events of this relay in a span of which nothing is proven;
        it does not know how many of them are of some kind or time."""
        is_all = not self.policy.filter.key and self.policy.filter.until is None
        is_whole = span == self.visit.wanted and self.policy.since == 0
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

    async def _walk(
        self, paging: Paging, *, may_stop: bool = False, aside: Sequence[str] | None = None
    ) -> Progress:
        """Follows one walk: while a page is verified, the one before it is being stored and the
        one after it is on its way. It may stop once most of what comes is known.

        `aside`: with conditions that are not the archive's, these authors or (none) common kinds;
        then nothing is proven. Returns what became certain; gaps are not recorded yet.
        """
        walk = Progress([], [])
        absences = await Absences.of(self.intake)
        if (pending := paging.pending) is not None:
            absences.leave_out([pending.span])
        elif aside is None and self.dialect.way is Way.PLAIN and absences.touch(paging.wanted):
            paging.be_wary()
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
        lies: set[How] = set()
        ask = paging.ask()
        try:
            while ask is not None and not self._is_over() and not (asking is None and is_over()):
                if asking is None:
                    asking = await self._fetch(ask, aside)
                page = await asking
                pages += 1
                assert self.session is not None
                self.intake.identity = self.session.identity
                if page.end is End.CUT and not page.events and await self._ask_again(paging):
                    ask, asking = paging.ask(), None
                    continue
                if page.end is not End.CUT or page.events:
                    self._answers += 1
                    self._has_gained = True
                late = await self._take_late(page, ask, paging)
                # Few pages are worked on at once, and who waits here has asked for no other.
                await self.gate.acquire()
                try:
                    answer, haul = sift(page, ask, self.policy, under_way)
                    absences.saw(haul.events)
                    progress = self._judge(paging, page, answer, late)
                    if aside is not None:
                        progress = Progress([], progress.gaps)
                    walk = told(walk, progress)
                    ask, asking = paging.ask(), None
                    if ask is not None and not is_over():
                        asking = await self._fetch(ask, aside)
                    await self.intake.prepare(haul)
                    under_way = haul.oldest()
                    if storing is not None:
                        await storing
                    if progress.retracted:
                        absences.leave_out(progress.retracted)
                        await self.brotr.take_back(self.visit, How, progress.retracted)
                    if paging.lies - lies:
                        lies |= paging.lies
                        await self.brotr.take_back(self.visit, worthless(lies))
                    await absences.conclude(progress.proven)
                except BaseException:
                    self.gate.release()
                    raise
                stored = Progress(progress.proven, [])
                storing = asyncio.create_task(self.intake.store(page, haul, stored))
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
        if aside is None:
            self._learn(paging)
        return walk

    async def _fetch(self, ask: Ask, aside: Sequence[str] | None) -> asyncio.Task[Page]:
        assert self.session is not None
        known = await self._some_known() if ask.probe is Probe.KNOWN else NOBODY
        filters = request(ask, self.policy, known, aside or ())
        if aside is not None and not aside:
            filters[0].setdefault("kinds", list(COMMON_KINDS))
        bounds = replace(self.bounds, linger_s=self.dialect.linger_s)
        return asyncio.create_task(self.session.fetch(filters[0], bounds, *filters[1:]))

    async def _ask_again(self, paging: Paging) -> bool:
        """Whether a question can be asked again of a relay that hung up instead of answering it."""
        has_gained = self._has_gained and self._returns > 0
        if await self._come_back() is None:
            return False
        if not has_gained:  # it may have been too much for it
            self._lower_limit(paging, self.limit // 4)
        return True

    def _lower_limit(self, paging: Paging, limit: int) -> None:
        """Asks for less at once from now on, and at the next visit."""
        self.limit = max(LEAST_LIMIT, limit)
        paging.lower_limit(self.limit)
        self.dialect = replace(self.dialect, limit=self.limit)

    def _judge(self, paging: Paging, page: Page, answer: Answer, late: int) -> Progress:
        """What an answer proves, and the gaps that it leaves when the conversation cannot go on."""
        if page.end is End.OVERSIZE:
            self._lower_limit(paging, min(self.limit, page.received) // 2)
        if late:
            self._hasty = page.number
            return self._judge_late(paging, late)
        if page.end is End.CUT and not page.received:
            progress = paging.give_up(GapReason.CUT, page.reason)
        else:
            progress = paging.answer(answer)
        self.timeouts += page.end is End.TIMEOUT
        self.has_proven = self.has_proven or bool(progress.proven)
        if self._is_over() and self._is_stuck():
            given_up = paging.give_up(GapReason.TIMEOUT, "a whole visit proved nothing")
            progress = told(progress, given_up)
        return progress

    def _judge_late(self, paging: Paging, late: int) -> Progress:
        """A relay that says EOSE before its events come is asked again, with patience; once."""
        words = f"{late} events came after EOSE"
        patient_s = max(LINGER_S, 2 * self.dialect.linger_s)
        is_patient = self.dialect.linger_s > 0
        self.dialect = replace(self.dialect, linger_s=min(patient_s, self.bounds.reply_s / 2))
        paging.lies.add(How.PAGING)
        progress = paging.start_over()
        return told(progress, paging.give_up(GapReason.LATE, words)) if is_patient else progress

    async def _take_late(self, page: Page, ask: Ask, paging: Paging) -> int:
        """Stores the events that came for questions before this one, after the relay had said that
        it had no more: what it was asked then is not proven where they lie. Returns how many,
        if they are too many to have been published just then.

        Who shows nothing to broad questions is listened to for a while before it is believed.
        """
        assert self.session is not None
        if self._asked_in is not self.session:
            self._asked, self._asked_in, self._hasty = {}, self.session, 0
        late: list[tuple[int, WireEvent | Event]] = list(page.late)
        if ask.probe is Probe.KINDS and not page.events and self.session.is_open:
            late += await self.session.drain(LINGER_S, self.bounds.page_bytes)
            paging.knows_others = bool((await self._some_known()).authors)
        self._asked[page.number] = (ask, len(page.events), page.end is End.EOSE)
        while len(self._asked) > REMEMBERED_ASKS:
            del self._asked[next(iter(self._asked))]
        seconds: list[int] = []
        # So many came that not all were kept: nobody knows where they lie.
        is_habit = any(
            number > self._hasty and self._asked[number][2]
            for number in page.late_dropped & self._asked.keys()
        )
        for number in {number for number, _ in late}:
            events = [event for asked, event in late if asked == number]
            anything = (Ask(self.policy.since, None, 1), 0, True)
            asked_then, answered, was_all = self._asked.get(number, anything)
            came = await self._store_unasked(Page(events=events, end=End.EOSE), asked_then)
            # Not where all that was proven by it is taken back already, nor where we had enough.
            if number > self._hasty and was_all:
                seconds += came
                is_habit |= len(came) > LATE_FEW or (len(came) > 1 and 4 * len(came) > answered)
        if seconds:
            # Nothing is proven of the last second of all, and no bigint bounds it.
            spans = merge(Span(at, min(at + 1, MAX_CREATED_AT)) for at in seconds)
            paging.doubt(seconds)
            await self.brotr.take_back(self.visit, [How.PAGING, How.FINISH], spans)
        return max(1, len(seconds)) if is_habit else 0

    async def _store_unasked(self, page: Page, ask: Ask) -> Sequence[int]:
        """Stores what came within a question, but not in answer to it; it proves nothing. Returns
        when it was created."""
        answer, haul = sift(page, ask, self.policy)
        # A relay passes ephemeral events on, but it does not hold them (NIP-01).
        haul.events = [event for event in haul.events if not 20_000 <= event[2].kind < 30_000]
        await self.intake.prepare(haul)
        await self.intake.store(page, haul, Progress([], []))
        return answer.created_ats

    def _learn(self, paging: Paging) -> None:
        """Keeps what a walk has taught about the relay."""
        habits, before = paging.habits, self.dialect.habits.pending
        is_old = before and habits.pending and before.until == habits.pending.until
        at = self.dialect.habits_at if is_old else int(time.time())
        key = self.policy.filter.key
        self.dialect = replace(self.dialect, habits=habits, habits_at=at, habits_for=key)


OPEN = Habits(newest_first=True, is_open=True)  # asked for kinds, a relay shows them or not


def dialect_of(visit: Visit) -> Dialect:
    """How a relay wants to be asked, as earlier visits have left it."""
    try:
        return msgspec.json.decode(visit.dialect, type=Dialect)
    except msgspec.MsgspecError:  # of another release
        return Dialect()


def told(walk: Progress, more: Progress) -> Progress:
    """What a walk has made certain together with what one more answer has (which may take back
    some of it)."""
    if back := more.retracted:
        proven = [Proof(left, how) for span, how in walk.proven for left in uncovered(span, back)]
        gaps = [Gap(left, *why) for span, *why in walk.gaps for left in uncovered(span, back)]
        return Progress(proven + more.proven, gaps + more.gaps, [*walk.retracted, *back])
    walk.proven.extend(more.proven)
    walk.gaps.extend(more.gaps)
    return walk


def worthless(lies: set[How]) -> set[How]:
    """The ways of proof that are worth nothing at a relay that lied in some."""
    return {How.PAGING, How.FINISH} if How.PAGING in lies else lies


def patience(settings: SynchronizerSettings) -> Patience:
    """When what is proven is looked at again."""
    return Patience(settings.audit_s, settings.lookback_s, settings.rewalk_s)
