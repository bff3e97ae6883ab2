"""A visit to one relay: copies what is missing, looks again at what is stale, stays for more."""

import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from msgspec.structs import replace

from bigbrotr.models.coverage import Gap, Span
from bigbrotr.net.connect import Failure
from bigbrotr.nostr.message import Refusal, refusal_of
from bigbrotr.nostr.questions import GapReason
from bigbrotr.services.sync.context import (
    Ending,
    VisitContext,
    VisitResult,
    VisitState,
    is_stuck,
    lease_s,
    most_at_once,
    patience,
)
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.dialect import WayToAsk
from bigbrotr.services.sync.ingest import Ingest
from bigbrotr.services.sync.live import LiveStay
from bigbrotr.services.sync.pages import Pages
from bigbrotr.services.sync.reconcile import Reconciliation, Step
from bigbrotr.services.sync.ways import Ways

PLAIN_AGAIN = 8  # one in so many visits, where only another way of asking has worked
PENDING_S = 3600  # for which what the last page of a visit showed is taken up by the next


class Covered(NamedTuple):
    """What came of copying a span: if it was not interrupted, all of it is proven or a gap."""

    gaps: list[Gap]
    is_interrupted: bool = False  # by the end of the visit


class RelayVisit:
    """Visits one relay: by reconciliation where it can, else page by page.

    `is_our_fault` is told how the visit began; `may_stay` says whether there is room to stay
    subscribed.
    """

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        *,
        is_our_fault: Callable[[Failure | None], bool],
        may_stay: Callable[[], bool] = lambda: False,
    ) -> None:
        self.context, self.state = context, state
        self._is_our_fault, self._may_stay = is_our_fault, may_stay
        self._conversation = Conversation(context, state)
        self._ingest = Ingest(context, state)
        self._pages = Pages(context, state, self._conversation, self._ingest)
        self._ways = Ways(context, state, self._conversation, self._ingest, self._pages)
        state.limit = most_at_once(context, state)

    async def run(self) -> VisitResult:
        """Copies what is missing, and stays for what comes in live, if that is wanted."""
        claim = self.state.claim
        if not claim.missing and not claim.stale and not self._is_to_stay():
            return VisitResult("done", "complete")
        async with self._conversation as conversation:
            unreached = await conversation.begin()
            is_ours = self._is_our_fault(unreached.failure if unreached is not None else None)
            if unreached is not None:  # if that is our fault, the relay is not blamed
                verdict = "throttled" if is_ours else "failed"
                return VisitResult(verdict, unreached.failure, unreached.detail)
            if not random.randrange(PLAIN_AGAIN):
                self.state.dialect = replace(self.state.dialect, way=WayToAsk.PLAIN, limit=0)
            result = await self._copy()
            if result.verdict == "done" and conversation.session.is_open and self._is_to_stay():
                self.state.is_live = True
                try:
                    result = await self._stay()
                finally:  # at once: while this visit ends, the next one may take its place
                    self.state.is_live = False
            return result

    def _is_to_stay(self) -> bool:
        """Whether to stay subscribed: not for what is all in the past."""
        policy = self.context.policy
        is_to_come = policy.filter.newest >= time.time()
        is_wanted = policy.live and is_to_come and self._may_stay()
        return is_wanted and not self._conversation.is_contested

    async def _stay(self) -> VisitResult:
        """Stays subscribed; from time to time the seconds that have settled are walked, and gaps
        that are due."""
        live = LiveStay(self.context, self.state, self._conversation, self._ingest, self._pages)
        await live.begin()
        await self._renew()  # whoever asks is told at once that it is followed
        while (result := await live.follow()) is None:
            await self._renew()
            result = await self._copy()
            if result.verdict != "done":
                break
        return result

    async def _renew(self) -> None:
        """Prolongs the lease, and learns what is missing by now."""
        settings, policy = self.context.settings, self.context.policy
        self.state.claim = await self.context.brotr.renew_visit(
            self.state.claim,
            lease_s=lease_s(settings.slice_s, settings.revisit_s, self.context.link.timeout_s),
            until=policy.until(int(time.time()) - settings.settle_s),
            by_ids=policy.by_ids,
            patience=patience(settings),
        )
        self.state.deadline = time.monotonic() + settings.slice_s

    async def _copy(self) -> VisitResult:
        """Copies what is missing, newest first, since that is of most interest; then what is stale
        is looked at again."""
        state = self.state
        reconciliation = Reconciliation(self.context, state, self._conversation, self._ingest)
        self._forget_what_is_old()
        gaps: list[Gap] = []
        before = state.new
        top = state.claim.wanted[1]
        for span in self._in_turn():
            with_top = span.until == top <= self.context.policy.filter.newest
            covered = await self._cover(span, reconciliation, with_top=with_top)
            gaps += covered.gaps
            if covered.is_interrupted:
                return self._unfinished()
        for stale in reversed(state.claim.stale):
            covered = await self._look_again(Span(*stale), reconciliation)
            gaps += covered.gaps
            if covered.is_interrupted:
                return self._unfinished()
        state.claim = state.claim._replace(may_reconcile=reconciliation.may_try)
        detail = reconciliation.throttled or (gaps[-1].detail if gaps else "")
        if refusal_of(detail) is Refusal.RATE_LIMITED:
            return VisitResult("throttled", "rate-limited", detail)
        outcome: Ending | GapReason = GapReason(gaps[-1].reason) if gaps else "complete"
        is_vain = bool(gaps) and not state.has_proven and state.new == before
        return VisitResult("refused" if is_vain else "done", outcome, detail)

    def _unfinished(self) -> VisitResult:
        if is_stuck(self.context, self.state):
            return VisitResult("failed", "timeout", "a whole visit proved nothing")
        return VisitResult("unfinished", "unfinished")

    def _forget_what_is_old(self) -> None:
        """Takes up nothing that was shown long ago, for events of that time may have come since;
        or for another filter."""
        dialect = self.state.dialect
        is_old = dialect.habits_at < time.time() - PENDING_S
        if is_old or dialect.habits_for != self.context.policy.filter.key:
            self.state.dialect = replace(dialect, habits=replace(dialect.habits, pending=None))

    def _in_turn(self) -> list[Span]:
        """Returns what is missing, newest first; but what the last visit has been shown, and has
        not had the time to prove, comes before all, so that each visit gets on."""
        spans = [Span(*missing) for missing in reversed(self.state.claim.missing)]
        pending = self.state.dialect.habits.pending
        if pending is not None:
            spans.sort(
                key=lambda span: not span.since < pending.since < pending.until <= span.until
            )
        return spans

    async def _cover(self, span: Span, ids: Reconciliation, *, with_top: bool) -> Covered:
        """Proves a span, or records the gaps that are left of it: by ids where both sides know most
        of it, else page by page.

        Pages give way to ids once most of what they bring is known, and do so once. `with_top`:
        what lies above, and is not settled, comes along.
        """
        gaps: list[Gap] = []
        todo = [(span, True)]
        while todo:
            part, may_stop = todo.pop()
            step = await self._by_ids(ids, ids.meet, part)
            self.state.has_proven = self.state.has_proven or ids.windows > 0
            if step.rest is not None:
                todo.append((step.rest, may_stop))
            if step.page is None:
                continue
            may_stop = may_stop and ids.may_try
            is_top = with_top and step.page.until == span.until
            paged = await self._ways.page(step.page, with_top=is_top, may_stop=may_stop)
            gaps += paged.gaps
            if paged.is_interrupted:
                return Covered(gaps, is_interrupted=True)
            with_top = with_top and not is_top
            todo += [(left, False) for left in paged.left]
        if with_top:  # above it, nothing is reconciled
            top = Span(span.until - 1, span.until)
            paged = await self._ways.page(top, with_top=True)
            return Covered([*gaps, *paged.gaps], paged.is_interrupted)
        return Covered(gaps)

    async def _look_again(self, span: Span, ids: Reconciliation) -> Covered:
        """Looks again at what is proven."""
        gaps: list[Gap] = []
        todo: Span | None = span
        while todo is not None:
            step = await self._by_ids(ids, ids.audit, todo)
            todo = step.rest
            if step.page is None:
                continue
            paged = await self._ways.page(step.page)
            gaps += paged.gaps
            if paged.is_interrupted:
                return Covered(gaps, is_interrupted=True)
        return Covered(gaps)

    async def _by_ids(
        self, ids: Reconciliation, look: Callable[[Span], Awaitable[Step]], span: Span
    ) -> Step:
        """Returns what ids say of a span. A relay that hangs up at them is dialled again, for
        pages."""
        if not self._conversation.session.is_open:
            await self._conversation.come_back()
        return await look(span)
