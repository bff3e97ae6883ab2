"""Fetches by id the events that a relay holds and we lack, until they are there or it is clear why
not."""

import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from bigbrotr.models.columns import Columns, Key
from bigbrotr.models.coverage import Span
from bigbrotr.nostr.message import Refusal
from bigbrotr.nostr.questions import End, Question
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.context import VisitContext, VisitState, is_over
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.ingest import Batch, Ingest, sift
from bigbrotr.services.sync.report import Report

ID_BATCHES = (250, 16, 1)  # ids a question: 17 kB; fewer for those that were asked for in vain
ID_BYTES, ENVELOPE_BYTES = 67, 200  # of a question: for each id, and for all that is around them
SPARE_COPIES = 10  # more events than ids are asked for: some relays send forged copies first
MOST_ASKS = 4  # for one id, within a visit
MOST_REFUSALS = 8  # of single ids in a row: then it hands over none of the others either
MOST_TIMEOUTS = 3
PAIRS = 5_000  # that are noted at once, by name


class Interruption(NamedTuple):
    """Why asking by id ended early: the visit is over, the relay asks for a pause, or is lost."""

    blamed: Sequence[bytes] = ()  # ids that were asked for just then: one of them may be why
    throttled: str = ""  # the words with which the relay asked for a pause


class Fetched(NamedTuple):
    """What became of events that a relay was asked for by id."""

    keys: list[Key]  # of those that it handed over
    reasons: dict[bytes, str]  # why it did not hand over others, by id
    interruption: Interruption | None = None  # the rest was not asked for to the end


class Collected(NamedTuple):
    """What became of the events of a window that we lack."""

    withheld: set[bytes]  # ids that the relay does not hand over
    refused: set[bytes]  # those of them that it was asked for just now
    keys: list[Key]  # of the events that it did
    is_much: bool = False  # it does not hand over more than can be noted: that is no holding
    interruption: Interruption | None = None  # not all were asked for


class FetchById:
    """Asks one relay for events by id, and stores what it hands over."""

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        conversation: Conversation,
        ingest: Ingest,
    ) -> None:
        self._context, self._state = context, state
        self._brotr = context.brotr
        self._conversation, self._ingest = conversation, ingest
        limits = state.claim.limits
        fits = (limits.get("max_message_length", 1 << 20) - ENVELOPE_BYTES) // ID_BYTES
        self.most_ids = max(1, min(ID_BATCHES[0], fits, limits.get("max_limit", ID_BATCHES[0])))

    async def collect(
        self, span: Span, need: Collection[bytes], known: Sequence[Key] = ()
    ) -> Collected:
        """Gets the events that we lack, and notes the relay as a holder of those that are archived,
        and `known` as such."""
        missing = set(need)
        collected = Collected(set(), set(), [])
        for start in range(0, len(known), PAIRS):
            missing -= await self.note_presence(known[start : start + PAIRS])
        if not missing:
            return collected
        tried = await self._brotr.withheld(self._state.claim, span)
        now = time.time()
        waiting = collected.withheld
        waiting.update(each for each in missing if tried.get(each, (0, 0))[1] > now)
        for attempts, size in enumerate(ID_BATCHES):
            is_last = size == ID_BATCHES[-1]
            ids = [
                event_id
                for event_id in missing - waiting
                if (times := tried.get(event_id, (0, 0))[0]) == attempts
                or (is_last and times > attempts)
            ]
            fetched = await self.fetch(ids, span, most=size)
            collected.keys.extend(fetched.keys)
            is_much = await self._note(fetched, span, collected, is_last=is_last)
            if is_much or fetched.interruption is not None:
                return collected._replace(
                    is_much=is_much, interruption=None if is_much else fetched.interruption
                )
        return collected

    async def _note(
        self, fetched: Fetched, span: Span, collected: Collected, *, is_last: bool
    ) -> bool:
        """Notes what was not handed over; returns whether that is more than can be noted."""
        claim, reasons = self._state.claim, fetched.reasons
        if fetched.interruption is not None:
            # One of them may have been its end: next time they are asked for apart.
            again = dict.fromkeys(fetched.interruption.blamed, "interrupted")
            await self._brotr.note_withheld(claim, again, span, is_final=is_last)
        if not reasons:
            return False
        noted = await self._brotr.note_withheld(claim, reasons, span)
        self._context.report(Report(withheld=noted))
        collected.withheld.update(reasons)
        collected.refused.update(reasons)
        return noted < len(reasons)

    async def archived(self, ids: Collection[bytes], span: Span) -> list[Key]:
        """Returns those of the ids whose events are archived in a span: other relays have brought
        them."""
        keys: list[Key] = []
        waiting = sorted(ids)
        for start in range(0, len(waiting), PAIRS):
            batch = waiting[start : start + PAIRS]
            times = await self._brotr.find_events(batch, span)
            keys += [(at, each) for at, each in zip(times, batch, strict=True) if at is not None]
        return sorted(keys)

    async def note_presence(self, keys: Sequence[Key]) -> set[bytes]:
        """Notes the relay as a holder of archived events, by sorted key; returns their ids."""
        unknown = await self._brotr.note_presence(self._state.claim, keys, int(time.time()))
        self._context.report(Report(matched=len(keys) - len(unknown)))
        return {event_id for _, event_id in keys} - {keys[place][1] for place in unknown}

    async def fetch(self, ids: Collection[bytes], span: Span, *, most: int = 1 << 20) -> Fetched:
        """Asks for events by id, at most so many at once, until they are there, or it is clear why
        not. A relay may take fewer ids in a question than we ask for, with or without saying so."""
        fetched = Fetched([], {})
        queue = deque(ids)
        asks: Counter[bytes] = Counter()
        size = min(most, self.most_ids)
        refusals = timeouts = 0
        while queue:
            if is_over(self._context, self._state):
                return fetched._replace(interruption=Interruption())
            batch = [queue.popleft() for _ in range(min(size, len(queue)))]
            page = await self._ask(batch)
            found = await self.take(page, span, batch)
            fetched.keys.extend((at, event_id) for event_id, at in found.items())
            left = [event_id for event_id in batch if event_id not in found]
            timeouts += page.end is End.TIMEOUT
            interruption = self._interruption(page, left, timeouts)
            if interruption is not None:
                return fetched._replace(interruption=interruption)
            asks.update(left)
            if len(batch) == 1 and left:
                refusals += 1
                if refusals >= MOST_REFUSALS:
                    left += queue
                    queue.clear()
                is_silent = page.end is End.EOSE
                reason = "not-handed-over" if is_silent else page.end.value
                fetched.reasons.update(dict.fromkeys(left, reason))
                continue
            refusals = 0
            size = max(1, len(found) or len(batch) // 8) if left else size
            for event_id in left:
                if asks[event_id] < MOST_ASKS:
                    queue.append(event_id)
                else:
                    fetched.reasons[event_id] = "not-handed-over"
        return fetched

    def _interruption(
        self, page: Page, left: Sequence[bytes], timeouts: int
    ) -> Interruption | None:
        if page.end is End.CLOSED and page.refusal is Refusal.RATE_LIMITED:
            return Interruption(throttled=page.reason)
        if not self._conversation.session.is_open or timeouts >= MOST_TIMEOUTS:
            return Interruption(left)
        return None

    async def _ask(self, ids: Collection[bytes]) -> Page:
        """Returns what the relay answers when it is asked for these events."""
        most = self._state.claim.limits.get("max_limit", 1 << 20)
        limit = min(len(ids) + SPARE_COPIES, most)
        asked = {"ids": [event_id.hex() for event_id in ids], "limit": limit}
        return await self._conversation.session.fetch(asked, self._context.bounds)

    async def take(
        self, page: Page, span: Span, wanted: Collection[bytes] | None = None
    ) -> dict[bytes, int]:
        """Stores what a page brought of a span; returns what is archived of it now, by id, and
        when it was created."""
        keys = await self.take_keys(page, span, wanted)
        ids = [event_id for _, event_id in keys]
        times = await self._brotr.find_events(ids, span)
        return {event_id: at for event_id, at in zip(ids, times, strict=True) if at is not None}

    async def take_keys(
        self, page: Page, span: Span, wanted: Collection[bytes] | None = None
    ) -> list[Key]:
        """Stores what a page brought of a span; returns the keys whose ids were proven."""
        batch = self._sift(page, span)
        if wanted is not None:
            chosen = set(wanted)
            batch.keep(event_id in chosen for event_id in batch.events.ids)
        keys = batch.events.keys
        await self._ingest.take(batch)
        return keys

    async def look_at(self, page: Page, span: Span) -> list[Key]:
        """Returns the keys of what a page brought of a span, which is not stored.

        What is no valid event is noted and counted all the same.
        """
        batch = self._sift(page, span)
        keys, batch.events = batch.events.keys, Columns()
        if batch.rejected:
            await self._ingest.take(batch)
        else:
            self._context.report(Report(received=batch.received, bytes=batch.size))
        return keys

    def _sift(self, page: Page, span: Span) -> Batch:
        ask = Question(span.since, span.until - 1, max(1, len(page.events)))
        return sift(page, ask, self._context.policy)[1]
