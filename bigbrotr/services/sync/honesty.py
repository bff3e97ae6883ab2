"""Tests whether what a relay says of its ids (NIP-77) is true, before it is believed."""

import random
from collections.abc import Collection, Sequence
from enum import Enum
from typing import NamedTuple

from bigbrotr.models.columns import Key
from bigbrotr.models.coverage import Span
from bigbrotr.nostr.message import Refusal
from bigbrotr.nostr.negentropy import Bound, Items
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.fetch_by_id import FetchById
from bigbrotr.services.sync.holdings import Comparison

# What a relay names is tested before it is noted: it is asked for some of it by id, and for a page.
# That a tenth of it is not there escapes 140 questions once in two million times; 640, one in 45.
TESTED, TESTED_SHARE = 140, 200  # so many, and one more for each so many that are named
RETESTED = 32  # of what it was seen to hold before
HIDDEN = 32  # that it does not name are asked for: they must not be there
LIES = 4  # missing events, and a quarter of all, are a lie; fewer are kept from us
MOST_TRIES = 3  # of one window, while events come and go


class Honesty(Enum):
    """What a test has shown of a relay."""

    HONEST = "what it said is true"
    UNSURE = "something was wrong, which may be an accident: to be compared once more"
    TOO_UNSURE = "something was wrong each time, but never the same: pages are better here"
    LIES = "it lies"
    WITHHOLDS = "it names what it does not hand over: pages are better here"
    UNTESTABLE = "it does not answer the questions of the test"
    INTERRUPTED = "it could not be asked to the end"


class Evidence(NamedTuple):
    """What a test has shown, and in what words."""

    honesty: Honesty
    words: str = ""
    throttled: str = ""  # the words with which the relay asked for a pause


class HonestyTest:
    """Tests one relay, window by window.

    Events come and go between two questions: what looked wrong must be so once more, after another
    comparison, to be a lie.
    """

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        conversation: Conversation,
        by_id: FetchById,
    ) -> None:
        self._context, self._state = context, state
        self._conversation, self._by_id = conversation, by_id
        self._strangers: set[bytes] = set()  # events of this window that it showed and did not name
        self._missing: set[bytes] = set()  # ... that it named and did not show
        self._tries = 0  # of this window

    def forget(self) -> None:
        """Turns to another window."""
        self._strangers, self._missing, self._tries = set(), set(), 0

    async def test(self, compared: Comparison, known: Sequence[Key]) -> Evidence:
        """Tests what the relay says it has, in proportion to what that is: some of what it names
        must be there when asked for, what it does not name must not, and a page must show nothing
        that it did not name. `known` are events of others that it names."""
        asked = self._chosen(compared, known)
        strangers = await self._strangers_in(compared)
        if isinstance(strangers, Evidence):
            return strangers
        fetched = await self._by_id.fetch(asked, compared.span)
        if fetched.interruption is not None:
            return Evidence(Honesty.INTERRUPTED, throttled=fetched.interruption.throttled)
        missing = fetched.reasons
        if missing and len(missing) == len(asked) and {*missing.values()} == {End.CLOSED.value}:
            return Evidence(Honesty.UNTESTABLE, "cannot be tested: it is not asked by id")
        return self._judge(strangers, missing.keys(), len(asked))

    def _chosen(self, compared: Comparison, known: Sequence[Key]) -> set[bytes]:
        """Returns the ids that the relay names and is asked for."""
        _, items, client, is_held = compared
        absent = set(client.have)
        shares = TESTED + len(known) // TESTED_SHARE
        asked = {event_id for _, event_id in random.sample(known, min(shares, len(known)))}
        named = [place for place in range(len(items)) if place not in absent]
        most = RETESTED if is_held else TESTED + len(named) // TESTED_SHARE
        asked |= {items.id(place) for place in random.sample(named, min(most, len(named)))}
        if self._missing:
            still = {items.id(place) for place in named} | client.need
            asked |= self._missing & still
        return asked

    def _judge(
        self, strangers: Collection[bytes], missing: Collection[bytes], asked: int
    ) -> Evidence:
        """Returns what follows from the events that it showed and did not name, and those that it
        named and did not show when it was asked for so many."""
        if not self._strangers.isdisjoint(strangers):
            return Evidence(Honesty.LIES, "shows events that it did not name")
        if not self._missing.isdisjoint(missing):
            if len(missing) >= max(LIES, asked // 4):
                return Evidence(Honesty.LIES, "does not show events that it named")
            return Evidence(Honesty.WITHHOLDS, "names events that it does not hand over")
        if not strangers and not missing:
            return Evidence(Honesty.HONEST)
        self._strangers.update(strangers)
        self._missing.update(missing)
        self._tries += 1
        return Evidence(Honesty.UNSURE if self._tries < MOST_TRIES else Honesty.TOO_UNSURE)

    async def _strangers_in(self, compared: Comparison) -> set[bytes] | Evidence:
        """Returns the events that the relay did not name and shows: in a page somewhere in the
        window, or asked for those that it is said to lack. Evidence if that cannot be told."""
        span, items, client, is_held = compared
        absent = set(client.have)
        most = RETESTED if is_held else TESTED
        questions = self._questions(span, items, absent, most)
        at_once = 1 if self._state.claim.limits.get("max_filters") == 1 else len(questions)
        shown: list[Key] = []
        for start in range(0, len(questions), at_once):
            batch = questions[start : start + at_once]
            session = self._conversation.session
            page = await session.fetch(batch[0], self._context.bounds, *batch[1:])
            if page.end is not End.EOSE:
                return await self._untestable(page, span)
            shown += await self._by_id.take_keys(page, span)
        return {
            event_id
            for created_at, event_id in shown
            if event_id not in client.need and not is_named(items, absent, created_at, event_id)
        }

    def _questions(
        self, span: Span, items: Items, absent: set[int], size: int
    ) -> list[dict[str, object]]:
        policy, limits = self._context.policy, self._state.claim.limits
        limit = min(size, policy.page_limit, limits.get("max_limit", size))
        until = items.created_at(random.randrange(len(items))) if len(items) else span.until - 1
        window = policy.filter.to_request() | {"since": span.since}
        questions: list[dict[str, object]] = [window | {"until": until, "limit": limit}]
        # What it has shown and not named must not be there now: else that was no accident.
        hidden = set(list(self._strangers)[: self._by_id.most_ids])
        most = min(HIDDEN, len(absent), self._by_id.most_ids - len(hidden))
        hidden.update(items.id(place) for place in random.sample(sorted(absent), most))
        if hidden:
            ids = [event_id.hex() for event_id in sorted(hidden)]
            questions.append({"ids": ids, "limit": len(ids)})
        return questions

    async def _untestable(self, page: Page, span: Span) -> Evidence:
        """Takes note of an answer that tells nothing: what cannot be tested is not believed, and
        pages have to tell."""
        await self._by_id.look_at(page, span)
        if page.refusal is Refusal.RATE_LIMITED:
            return Evidence(Honesty.INTERRUPTED, throttled=page.reason)
        if page.end is End.CLOSED:
            return Evidence(Honesty.UNTESTABLE, f"cannot be tested: {page.reason}")
        return Evidence(Honesty.INTERRUPTED)


def is_named(items: Items, absent: Collection[int], created_at: int, event_id: bytes) -> bool:
    """Whether an event is among our items, and not one that the relay is said to lack."""
    place = items.position(Bound(created_at, event_id))
    return place < len(items) and items.id(place) == event_id and place not in absent
