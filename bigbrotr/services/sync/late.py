"""What comes late: events for a question after the relay had said that it had no more."""

from collections.abc import Sequence
from typing import NamedTuple

from bigbrotr.models.columns import Columns
from bigbrotr.models.coverage import How, Span, merge
from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.nostr.questions import End, Question
from bigbrotr.nostr.session import Page, Session
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.ingest import Ingest

LATE_FEW = 3  # events after EOSE may have been published just then
REMEMBERED_ASKS = 32


class Asked(NamedTuple):
    """An earlier question, and how it was answered."""

    ask: Question
    events: int
    was_all: bool  # the relay said that it had no more


class Late(NamedTuple):
    """What came late: the second of each event, and whether the relay makes a habit of it."""

    seconds: Sequence[int] = ()
    is_habit: bool = False

    @property
    def events(self) -> int:
        """How many they were, at least."""
        return max(1, len(self.seconds))


class LateEvents:
    """Remembers what was asked in a session, and stores what comes for it later."""

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        conversation: Conversation,
        ingest: Ingest,
    ) -> None:
        self._context, self._state = context, state
        self._conversation, self._ingest = conversation, ingest
        self._asked: dict[int, Asked] = {}  # by number
        self._asked_in: Session | None = None  # where these numbers count
        self._settled = 0  # the last question whose late events say nothing new

    def remember(self, page: Page, ask: Question) -> None:
        """Remembers a question with the page that answered it."""
        self._turn_to_session()
        self._asked[page.number] = Asked(ask, len(page.events), page.end is End.EOSE)
        while len(self._asked) > REMEMBERED_ASKS:
            del self._asked[next(iter(self._asked))]

    def settle(self, number: int) -> None:
        """Forgives what comes for questions up to this one: all that they proved is taken back."""
        self._settled = number

    async def take(self, page: Page) -> Late:
        """Stores the late events that came with a page. What their questions have proven is taken
        back where they lie, unless they may have been published just then."""
        self._turn_to_session()
        seconds: list[int] = []
        # So many came that not all were kept: nobody knows where they lie.
        is_habit = any(
            number > self._settled and self._asked[number].was_all
            for number in page.late_dropped & self._asked.keys()
        )
        anything = Asked(Question(self._context.policy.since, None, 1), 0, True)
        for number in {number for number, _ in page.late}:
            events = Columns.of(event for asked, event in page.late if asked == number)
            asked = self._asked.get(number, anything)
            came = await self._ingest.take_unasked(Page(events=events, end=End.EOSE), asked.ask)
            # Not where all that was proven by it is taken back already, nor where we had enough.
            if number > self._settled and asked.was_all:
                seconds += came
                is_most = len(came) > 1 and 4 * len(came) > asked.events
                is_habit |= len(came) > LATE_FEW or is_most
        if seconds:
            # Nothing is proven of the last second of all, and no bigint bounds it.
            spans = merge(Span(at, min(at + 1, MAX_CREATED_AT)) for at in seconds)
            hows = [How.PAGING, How.FINISH]
            await self._context.brotr.take_back(self._state.claim, hows, spans)
        return Late(seconds, is_habit)

    def _turn_to_session(self) -> None:
        """Begins anew where the relay was dialled again: its questions count from one."""
        if self._asked_in is not self._conversation.session:
            self._asked, self._asked_in, self._settled = {}, self._conversation.session, 0
