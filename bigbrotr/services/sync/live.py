"""The live stay: subscribed to a relay that is complete, new events are stored within seconds."""

import time

from msgspec.structs import replace

from bigbrotr.models.coverage import Span
from bigbrotr.nostr.paging import Paging
from bigbrotr.nostr.questions import Question
from bigbrotr.services.sync.context import VisitContext, VisitResult, VisitState
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.dialect import filters_for
from bigbrotr.services.sync.ingest import Ingest
from bigbrotr.services.sync.pages import Pages

GOOD_STAY_S = 30.0  # after a shorter one, coming back at once would be hammering
LIVE_S = 1.0  # what comes in live is stored at least this often


class LiveStay:
    """Stays subscribed to one relay; late events with old dates are stored as well.

    A relay that ends a good stay is come back to at once, so that little is late; one that does
    not let us stay, at the next visit.
    """

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
        self._session = conversation.session  # the subscription ends with it
        self._everything = Question(context.policy.since, None, 1)
        self._began = time.monotonic()

    async def begin(self) -> None:
        """Subscribes, and fetches what has come in since the last walk."""
        # `limit` 1, not 0, and `since`: some relays refuse the one or need the other.
        filters = filters_for(self._everything, self._context.policy)
        await self._session.subscribe(filters[0], self._context.bounds.reply_s)
        # What came in between the walk and the subscription lies above what is settled.
        settled = self._state.claim.wanted[1]
        habits = replace(self._state.dialect.habits, pending=None)
        span = Span(settled - 1, settled)
        top = Paging(span, limit=self._state.limit, open_top=True, habits=habits)
        self._state.deadline = time.monotonic() + self._context.settings.slice_s
        await self._pages.walk(top)

    async def follow(self) -> VisitResult | None:
        """Stores what comes in until the seconds that have settled are to be walked; returns what
        the visit came to, if the stay has ended."""
        stop = self._context.stop
        refresh_at = time.monotonic() + self._context.settings.revisit_s
        while self._session.is_listening and not stop.is_set():
            left_s = refresh_at - time.monotonic()
            if left_s <= 0 or self._conversation.is_contested:
                break
            await self._listen(min(left_s, LIVE_S))
        if stop.is_set():
            return VisitResult("unfinished", "stopped")
        if not self._session.is_listening:
            is_good = time.monotonic() - self._began >= GOOD_STAY_S
            words = self._session.lost or self._session.notice
            return VisitResult("unfinished" if is_good else "done", "subscription-ended", words)
        if self._conversation.is_contested:
            return VisitResult("done", "complete", "made room for others at its address")
        return None

    async def _listen(self, seconds: float) -> None:
        page = await self._session.listen(seconds, self._context.bounds.page_bytes)
        if page.events or page.malformed:
            await self._ingest.take_unasked(page, self._everything)
        if page.late:  # for a walk that has ended
            await self._pages.late.take(page)
