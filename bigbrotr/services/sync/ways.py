"""Ways: asks a relay for a span in the way that it understands, and in others until it answers."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from bigbrotr.models.coverage import Gap, Span, uncovered
from bigbrotr.nostr.message import refusal_of
from bigbrotr.nostr.paging import Paging
from bigbrotr.nostr.questions import GapReason, Habits, Progress
from bigbrotr.services.sync.context import VisitContext, VisitState, is_over, most_at_once
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.dialect import ABOUT_US, ASIDE, Dialect, WayToAsk, common_reason
from bigbrotr.services.sync.ingest import Ingest
from bigbrotr.services.sync.pages import Aside, Pages

CHECK_ONE_IN = 64  # pages, of which a part is asked for again
TEST_FINISH = 8  # one in so many `finish` of a relay that has never lied
BATCH_OF_AUTHORS = 20
DAY_S = 86_400
LEAST_STRETCH_S = 3600
OPEN = Habits(newest_first=True, is_open=True)  # asked for kinds, a relay shows them or not


class Walked(NamedTuple):
    """What came of one walk over a span."""

    progress: Progress = Progress([], [])
    left: Sequence[Span] = ()  # where it stopped, since most of what came was known
    is_interrupted: bool = False  # by the end of the visit


class Paged(NamedTuple):
    """What came of paging a span: if it was not interrupted, all but `left` is proven or a gap."""

    gaps: Sequence[Gap] = ()  # recorded already
    left: Sequence[Span] = ()  # where it stopped, since most of what came was known
    is_interrupted: bool = False  # by the end of the visit


INTERRUPTED = Paged(is_interrupted=True)


class Ways:
    """Pages through spans of one relay's past, in the way that it understands."""

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        conversation: Conversation,
        ingest: Ingest,
        pages: Pages,
    ) -> None:
        self._context, self._state = context, state
        self._conversation, self._ingest, self._pages = conversation, ingest, pages

    async def page(self, span: Span, *, with_top: bool = False, may_stop: bool = False) -> Paged:
        """Walks a span page by page, newest first, and records the gaps that it leaves. Where
        nothing comes, it is asked for in other ways.

        `with_top`: what lies above, and is not settled, comes along. `may_stop`: the walk stops
        once most of what comes is known.
        """
        state = self._state
        tried: set[tuple[WayToAsk, int]] = set()
        ahead: list[Dialect] = []
        first, gaps_first = state.dialect, None
        while True:
            if is_over(self._context, state):
                return INTERRUPTED
            is_first = not tried
            tried.add((state.dialect.way, state.dialect.limit))
            walked, reason = await self._try(span, is_first, with_top=with_top, may_stop=may_stop)
            left = walked.progress.gaps
            if reason is None or self._is_about_the_line(reason):
                break
            gaps_first = gaps_first or left
            ahead += state.dialect.others(reason, refusal_of(left[-1].detail))
            ahead = [each for each in ahead if (each.way, each.limit) not in tried]
            if not ahead:
                break
            if reason in (GapReason.TIMEOUT, GapReason.CUT):  # one such wait is enough for a visit
                first = ahead[0]
                break
            state.dialect = replace(ahead.pop(0), habits=state.dialect.habits)
        if reason is not None:
            state.dialect = replace(first, habits=state.dialect.habits)
            left = gaps_first or left  # why it does not answer the plain question
        await self._ingest.note_gaps(left)
        return Paged(left, walked.left, walked.is_interrupted)

    def _is_about_the_line(self, reason: GapReason) -> bool:
        """Whether a walk failed for the connection, and not for the question: others were
        answered."""
        return reason is GapReason.CUT and self._conversation.answers > 0

    async def _try(
        self, span: Span, is_first: bool, *, with_top: bool, may_stop: bool
    ) -> tuple[Walked, GapReason | None]:
        """Walks a span in the way of the moment; returns what came of it, and why the relay has not
        answered, if it has not."""
        taken = self._state.taken
        self._state.limit = most_at_once(self._context, self._state)
        walked = await self._walk(span, with_top=with_top, may_stop=may_stop)
        # What has worked at the last visit is right where nothing has come since, as well.
        is_right = is_first and self._state.dialect.way in ASIDE and self._conversation.answers > 0
        if is_right or self._state.taken > taken or walked.progress.proven:
            return walked, None
        return walked, common_reason(walked.progress.gaps)

    async def _walk(self, span: Span, *, with_top: bool, may_stop: bool) -> Walked:
        if self._state.dialect.way is WayToAsk.DAYS:
            return await self._walk_by_days(span, with_top=with_top)
        if self._state.dialect.way in ASIDE:
            return await self._walk_aside(span)
        paging = self._paging(span, with_top=with_top)
        progress = await self._pages.walk(paging, may_stop=may_stop)
        if paging.ask() is None:
            return Walked(progress)
        if not may_stop or is_over(self._context, self._state):
            return Walked(progress, is_interrupted=True)
        covered = [proof.span for proof in progress.proven] + [gap.span for gap in progress.gaps]
        return Walked(progress, uncovered(span, covered))

    async def _walk_by_days(self, span: Span, *, with_top: bool) -> Walked:
        """Walks in short stretches, newest first; they grow while little is in them."""
        whole = Progress([], [])
        until, stretch_s, most_s = span.until, DAY_S, span.until
        while until > span.since:
            if is_over(self._context, self._state):
                return Walked(whole, is_interrupted=True)
            part = Span(max(span.since, until - stretch_s), until)
            taken = self._state.taken
            paging = self._paging(part, with_top=with_top and until == span.until)
            walk = await self._pages.walk(paging)
            if paging.ask() is not None:
                return Walked(whole, is_interrupted=True)
            reason = None if walk.proven else common_reason(walk.gaps)
            if reason is not None:
                is_first = until == span.until and stretch_s == DAY_S
                if is_first or reason is GapReason.CUT or is_about_us(walk.gaps[-1]):
                    whole.gaps.append(Gap(Span(span.since, until), *walk.gaps[-1][1:]))
                    break
                if stretch_s > LEAST_STRETCH_S:
                    most_s = stretch_s // 2
                    stretch_s = max(LEAST_STRETCH_S, stretch_s // 4)
                    continue
            whole = whole.then(Progress(walk.proven, walk.gaps))
            if self._state.taken - taken < self._state.limit:
                stretch_s = max(stretch_s, min(2 * stretch_s, most_s))
            until = part.since
        return Walked(whole)

    async def _walk_aside(self, span: Span) -> Walked:
        """Archives what a relay shows that wants to be asked for kinds or authors. What it shows is
        not all there is: nothing is proven by it."""
        way = self._state.dialect.way
        batches = [Aside()]
        if way is WayToAsk.AUTHORS:
            authors = (await self._pages.known_elsewhere()).authors
            starts = range(0, len(authors), BATCH_OF_AUTHORS)
            batches = [Aside(authors[start : start + BATCH_OF_AUTHORS]) for start in starts]
        reason, words = GapReason.SUSPECTED_EMPTY, f"only asked for {way}, it answers"
        for batch in batches:
            paging = Paging(span, limit=self._state.limit, habits=OPEN)
            walk = await self._pages.walk(paging, aside=batch)
            if paging.ask() is not None:
                return Walked(is_interrupted=True)
            if walk.gaps and not walk.proven:
                reason, words = GapReason(walk.gaps[-1].reason), walk.gaps[-1].detail
                break
        return Walked(Progress([], [Gap(span, reason, words)]))

    def _paging(self, span: Span, *, with_top: bool) -> Paging:
        """Makes the machine for a walk over a span, with what is known of the relay."""
        habits = self._state.dialect.habits
        if self._state.dialect.way is WayToAsk.DAYS:  # what it does not answer, it refuses in words
            habits = replace(habits, is_open=True)
        return Paging(
            span,
            limit=self._state.limit,
            open_top=with_top,
            expects_events=self._expects_events(span),
            is_broad=not self._context.policy.filter.key,
            habits=habits,
            check_after=random.randrange(CHECK_ONE_IN) if habits.checks else 0,
            believes_finish=habits.finishes > 2 and random.randrange(TEST_FINISH) > 0,
        )

    def _expects_events(self, span: Span) -> bool:
        """Whether the archive knows events of this relay in a span of which nothing is proven;
        it does not know how many of them are of some kind or time."""
        policy, claim = self._context.policy, self._state.claim
        is_all = not policy.filter.key and policy.filter.until is None
        return is_all and span == claim.wanted and policy.since == 0 and claim.pairs > 0


def is_about_us(gap: Gap) -> bool:
    """Whether a relay's words say that it refuses us, or this moment, and not the question."""
    return refusal_of(gap.detail) in ABOUT_US
