"""Pages: follows the paging machine over a span, and stores each page with what it proves."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from bigbrotr.core.defects import end_of
from bigbrotr.models.columns import Columns
from bigbrotr.models.coverage import How
from bigbrotr.nostr.paging import Paging
from bigbrotr.nostr.questions import End, GapReason, PageAnswer, Probe, Progress, Question
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.absences import Absences
from bigbrotr.services.sync.context import VisitContext, VisitState, is_over, is_stuck
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.dialect import (
    COMMON_KINDS,
    LEAST_LIMIT,
    NOBODY,
    KnownElsewhere,
    WayToAsk,
    filters_for,
)
from bigbrotr.services.sync.ingest import Batch, Ingest, sift
from bigbrotr.services.sync.late import Late, LateEvents

PAGES_TO_JUDGE = 8  # after as many of a walk, is most of it known? ...
KNOWN_SHARE = 4  # ... as many times what is new: then ids say it in less
AT_WORK = 3  # pages of a walk that are verified, copied and noted
LINGER_S = 1.0  # how long to wait for events that come after EOSE, once some have
SOME_KNOWN = 100  # authors and ids that an empty relay is asked for


class Aside(NamedTuple):
    """Conditions that are not the archive's: these authors, or (without any) common kinds. What a
    relay shows within them proves nothing."""

    authors: Sequence[str] = ()


class Pages:
    """Walks spans of one relay's past, page by page."""

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        conversation: Conversation,
        ingest: Ingest,
    ) -> None:
        self.context, self.state = context, state
        self.conversation, self.ingest = conversation, ingest
        self.late = LateEvents(context, state, conversation, ingest)
        self._known: KnownElsewhere | None = None

    async def walk(
        self, paging: Paging, *, may_stop: bool = False, aside: Aside | None = None
    ) -> Progress:
        """Follows a walk to its end, or to that of the visit; returns what became certain. What it
        proves is recorded, the gaps are not yet. `may_stop`: once most of what comes is known."""
        return await PageWalk(self, paging, may_stop=may_stop, aside=aside).run()

    async def known_elsewhere(self) -> KnownElsewhere:
        """Returns some authors and events that are known from other relays."""
        if self._known is None:
            url, now = self.context.relay.url, int(time.time())
            found = await self.context.brotr.some_known(url, SOME_KNOWN, now)
            self._known = KnownElsewhere(*([each.hex() for each in some] for some in found))
        return self._known


class PageWalk:
    """One walk: while the database notes what a page has proven, the events of the next one are
    copied, those of a third are verified, the fourth waits, and a fifth is on its way."""

    def __init__(
        self, pages: Pages, paging: Paging, *, may_stop: bool, aside: Aside | None
    ) -> None:
        self._pages, self._paging = pages, paging
        self._context, self._state = pages.context, pages.state
        self._conversation, self._ingest = pages.conversation, pages.ingest
        self._may_stop, self._aside = may_stop, aside
        self._progress = Progress([], [])
        self._fetched = 0  # pages
        self._new, self._known = self._state.new, self._state.known  # before it began
        self._asking: asyncio.Task[Page] | None = None
        self._at_work: deque[asyncio.Task[None]] = deque()  # pages: verified, then stored in order
        self._newest = Batch({})  # of these; the next page may bring some of it again
        self._newest.has_begun.set()
        self._lies: set[How] = set()  # that are acted upon
        self._absences: Absences

    async def run(self) -> Progress:
        """Follows the walk; returns what became certain."""
        self._absences = await self._expected()
        try:
            while (ask := self._next_ask()) is not None:
                if self._asking is None:
                    self._asking = await self._fetch(ask)
                page, self._asking = await self._asking, None
                self._fetched += 1
                self._state.identity = self._conversation.session.identity
                if page.end is End.CUT and not page.events:
                    if await self._come_back():
                        continue  # with the same question
                else:
                    self._conversation.note_answer()
                await self._take(page, ask)
            await self._finish(0)
        finally:
            await self._cancel()
        if self._aside is None:
            self._learn()
        return self._progress

    async def _expected(self) -> Absences:
        """Returns what the relay held before; where it did, its silence is to be tested."""
        absences = await Absences.of(self._context, self._state)
        is_plain = self._aside is None and self._state.dialect.way is WayToAsk.PLAIN
        if (pending := self._paging.pending) is not None:
            absences.leave_out([pending.span])
        elif is_plain and absences.touch(self._paging.wanted):
            self._paging.be_wary()
        return absences

    # What is asked

    def _next_ask(self) -> Question | None:
        """Returns the question to ask, or that is on its way; None when the walk is over."""
        ask = self._paging.ask()
        if ask is None or is_over(self._context, self._state):
            return None
        return None if self._asking is None and self._is_enough() else ask

    def _is_enough(self) -> bool:
        """Whether to ask no further: the visit is over, or most of what comes is known, so that
        ids say it in less."""
        if is_over(self._context, self._state):
            return True
        if not self._may_stop or self._fetched < PAGES_TO_JUDGE or not self._progress.proven:
            return False
        seen, fresh = self._state.known - self._known, self._state.new - self._new
        return seen > 0 and seen >= KNOWN_SHARE * fresh

    async def _fetch(self, ask: Question) -> asyncio.Task[Page]:
        known = await self._pages.known_elsewhere() if ask.probe is Probe.KNOWN else NOBODY
        authors = () if self._aside is None else self._aside.authors
        filters = filters_for(ask, self._context.policy, known, authors)
        if self._aside is not None and not authors:
            filters[0].setdefault("kinds", list(COMMON_KINDS))
        bounds = replace(self._context.bounds, linger_s=self._state.dialect.linger_s)
        session = self._conversation.session
        return asyncio.create_task(session.fetch(filters[0], bounds, *filters[1:]))

    async def _come_back(self) -> bool:
        """Dials a relay again that hung up instead of answering; returns whether it can be asked
        again."""
        had_returned = self._conversation.has_returned
        if not await self._conversation.come_back():
            return False
        if not had_returned:  # it may have been too much for it
            self._lower_limit(self._state.limit // 4)
        return True

    def _lower_limit(self, limit: int) -> None:
        """Asks for less at once from now on, and at the next visit."""
        self._state.limit = max(LEAST_LIMIT, limit)
        self._paging.lower_limit(self._state.limit)
        self._state.dialect = replace(self._state.dialect, limit=self._state.limit)

    # What is answered

    async def _take(self, page: Page, ask: Question) -> None:
        """Takes a page in: decides what follows from it, asks on, and begins to store it."""
        late = await self._take_late(page, ask)
        await self._finish(0 if self._newest.is_crowded else AT_WORK - 1)
        # Few pages are worked on at once, and who waits here has asked for no other.
        gate = self._context.page_gate
        await gate.acquire()
        try:
            answer, batch = sift(page, ask, self._context.policy, self._newest.taken)
            page.events = Columns()  # they are in the batch
            self._absences.saw(batch.events)
            progress = self._judge(page, answer, batch, late)
            if self._aside is not None:
                progress = Progress([], progress.gaps)
            self._progress = self._progress.then(progress)
            following = self._paging.ask()
            batch.go_on_from(self._newest, following)
            if following is not None and not self._is_enough():
                self._asking = await self._fetch(following)
        except BaseException:
            gate.release()
            raise
        before = self._at_work[-1] if self._at_work else None
        work = asyncio.create_task(self._store(batch, progress, self._newest, before))
        work.add_done_callback(lambda _: gate.release())
        self._at_work.append(work)
        self._newest = batch

    async def _store(
        self,
        batch: Batch,
        progress: Progress,
        above: Batch,
        storing: asyncio.Task[None] | None,
    ) -> None:
        """Verifies a page, and stores it after the one `above`, which may still be `storing`."""
        try:
            await self._ingest.prepare(batch, may_guess=True)
            await above.has_begun.wait()
            if storing is not None and (batch.events or self._is_unsettled(progress)):
                await end_of(storing)
            batch.leave_out(above.taken)
            await self._settle(progress)
            await self._ingest.store(batch, Progress(progress.proven, []), storing)
            batch.forget()
        finally:
            batch.has_begun.set()

    async def _finish(self, left: int) -> None:
        """Waits until no more than `left` pages are at work."""
        while len(self._at_work) > left:
            await end_of(self._at_work[0])
            self._at_work.popleft()

    async def _take_late(self, page: Page, ask: Question) -> Late:
        """Stores what came for earlier questions: nothing is proven where it lies.

        A relay that shows nothing to broad questions is listened to for a while before it is
        believed.
        """
        session = self._conversation.session
        if ask.probe is Probe.KINDS and not page.events and session.is_open:
            drained = await session.drain(LINGER_S, self._context.bounds.page_bytes)
            page.late = [*page.late, *drained]
            self._paging.knows_others = bool((await self._pages.known_elsewhere()).authors)
        self._pages.late.remember(page, ask)
        late = await self._pages.late.take(page)
        self._paging.doubt(late.seconds)
        return late

    def _judge(self, page: Page, answer: PageAnswer, batch: Batch, late: Late) -> Progress:
        """Returns what an answer proves, and the gaps that it leaves when the conversation cannot
        go on."""
        if page.end is End.OVERSIZE:
            self._lower_limit(min(self._state.limit, batch.received) // 2)
        if late.is_habit:
            self._pages.late.settle(page.number)
            return self._start_over(late)
        if page.end is End.CUT and not batch.received:
            progress = self._paging.give_up(GapReason.CUT, page.reason)
        else:
            progress = self._paging.answer(answer)
        self._state.timeouts += page.end is End.TIMEOUT
        self._state.has_proven = self._state.has_proven or bool(progress.proven)
        is_last = is_over(self._context, self._state)
        if is_last and is_stuck(self._context, self._state):
            words = "a whole visit proved nothing"
            progress = progress.then(self._paging.give_up(GapReason.TIMEOUT, words))
        return progress

    def _start_over(self, late: Late) -> Progress:
        """Asks a relay again, with patience, that says EOSE before its events come; once."""
        linger_s = self._state.dialect.linger_s
        patient_s = min(max(LINGER_S, 2 * linger_s), self._context.bounds.reply_s / 2)
        self._state.dialect = replace(self._state.dialect, linger_s=patient_s)
        self._paging.lies.add(How.PAGING)
        progress = self._paging.start_over()
        if linger_s > 0:  # it was patient already
            words = f"{late.events} events came after EOSE"
            progress = progress.then(self._paging.give_up(GapReason.LATE, words))
        return progress

    def _is_unsettled(self, progress: Progress) -> bool:
        """Whether `_settle` may have something to do."""
        is_taken_back = progress.retracted or self._paging.lies - self._lies
        return bool(is_taken_back) or any(
            self._absences.touch(proof.span) for proof in progress.proven
        )

    async def _settle(self, progress: Progress) -> None:
        """Records what is no longer held, and what the relay has lost its word for, before what is
        proven."""
        brotr, claim = self._context.brotr, self._state.claim
        if progress.retracted:
            self._absences.leave_out(progress.retracted)
            await brotr.take_back(claim, How, progress.retracted)
        if self._paging.lies - self._lies:
            self._lies |= self._paging.lies
            await brotr.take_back(claim, worthless(self._lies))
        await self._absences.conclude(progress.proven)

    # The end

    async def _cancel(self) -> None:
        tasks = [task for task in (self._asking, *self._at_work) if task is not None]
        for task in tasks:
            task.cancel()
        # Also when they are done: asyncio complains of errors that nobody looks at. Together,
        # for this may be cancelled while it waits.
        await asyncio.gather(*tasks, return_exceptions=True)

    def _learn(self) -> None:
        """Keeps what the walk has taught about the relay."""
        habits, before = self._paging.habits, self._state.dialect.habits.pending
        is_old = before and habits.pending and before.until == habits.pending.until
        self._state.dialect = replace(
            self._state.dialect,
            habits=habits,
            habits_at=self._state.dialect.habits_at if is_old else int(time.time()),
            habits_for=self._context.policy.filter.key,
        )


def worthless(lies: set[How]) -> set[How]:
    """Returns the ways of proof that are worth nothing at a relay that lied in some."""
    return {How.PAGING, How.FINISH} if How.PAGING in lies else lies
