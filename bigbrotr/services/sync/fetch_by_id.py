"""The events that a relay holds and we lack: asked for by their ids, until they are there or it is
clear why not."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from bigbrotr.models.coverage import Span
from bigbrotr.nostr.questions import Ask, End, Progress
from bigbrotr.nostr.session import Bounds, Page, Session
from bigbrotr.services.sync.ingest import Haul, Intake, Report, sift

ID_BATCHES = (250, 16, 1)  # ids a question: 17 kB; fewer for those that were asked for in vain
ID_BYTES, ENVELOPE_BYTES = 67, 200  # of a question: for each id, and for all that is around them
SPARE_COPIES = 10  # more events than ids are asked for: some relays send forged copies first
MOST_ASKS = 4  # for one id, within a visit
MOST_REFUSALS = 8  # of single ids in a row: then it hands over none of the others either
MOST_TIMEOUTS = 3
PAIRS = 5_000  # that are noted at once, by name


Key = tuple[int, bytes]  # (created_at, id)


class Collected(NamedTuple):
    """What became of the events that we lacked."""

    withheld: set[bytes]  # ids that the relay does not hand over
    refused: set[bytes]  # those of them that it was asked for just now
    keys: list[Key]  # of the events that it did
    is_much: bool = False  # it does not hand over more than can be noted: that is no holding


class Collector:
    """Asks one relay for events by id, over an open conversation, and stores what it hands over."""

    def __init__(
        self, session: Session, intake: Intake, bounds: Bounds, is_over: Callable[[], bool]
    ) -> None:
        self.session, self.intake, self.bounds = session, intake, bounds
        self.brotr, self.visit, self.policy = intake.brotr, intake.visit, intake.policy
        self.is_over = is_over
        self.throttled = ""  # the words with which the relay asked for a pause
        limits = self.visit.limits
        fits = (limits.get("max_message_length", 1 << 20) - ENVELOPE_BYTES) // ID_BYTES
        self.most_ids = max(1, min(ID_BATCHES[0], fits, limits.get("max_limit", ID_BATCHES[0])))

    async def collect(
        self, span: Span, need: Collection[bytes], known: Sequence[Key] = ()
    ) -> Collected | None:
        """Gets the events that we lack, and notes the relay as a holder of those that are archived,
        and `known` as such; None when it was interrupted."""
        missing = set(need)
        collected = Collected(set(), set(), [])
        for start in range(0, len(known), PAIRS):
            missing -= await self.note_presence(known[start : start + PAIRS])
        if not missing:
            return collected
        tried = await self.brotr.withheld(self.visit, span)
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
            reasons: dict[bytes, str] = {}
            most = min(size, self.most_ids)
            blamed = await self._fetch_all(ids, most, span, reasons, collected.keys)
            if blamed is not None:
                # One of them may have been its end: next time they are asked for apart.
                again = dict.fromkeys(blamed, "interrupted")
                await self.brotr.note_withheld(self.visit, again, span, is_final=is_last)
            if reasons:
                noted = await self.brotr.note_withheld(self.visit, reasons, span)
                self.intake.report(Report(withheld=noted))
                waiting.update(reasons)
                collected.refused.update(reasons)
                if noted < len(reasons):
                    return collected._replace(is_much=True)
            if blamed is not None:
                return None
        return collected

    async def archived(self, ids: Collection[bytes], span: Span) -> list[Key]:
        """Those of the ids whose events are archived in a span: other relays have brought them."""
        keys: list[Key] = []
        waiting = sorted(ids)
        for start in range(0, len(waiting), PAIRS):
            batch = waiting[start : start + PAIRS]
            times = await self.brotr.find_events(batch, span)
            keys += [(at, each) for at, each in zip(times, batch, strict=True) if at is not None]
        return sorted(keys)

    async def missing(self, ids: Collection[bytes], span: Span) -> dict[bytes, str] | None:
        """Which of the events the relay does not hand over, by id, and why; None when it was
        interrupted."""
        reasons: dict[bytes, str] = {}
        blamed = await self._fetch_all(list(ids), self.most_ids, span, reasons, [])
        return None if blamed is not None else reasons

    async def note_presence(self, keys: Sequence[Key]) -> set[bytes]:
        """Notes the relay as a holder of archived events, by sorted key; returns their ids."""
        unknown = await self.brotr.note_presence(self.visit, keys, int(time.time()))
        self.intake.report(Report(matched=len(keys) - len(unknown)))
        return {event_id for _, event_id in keys} - {keys[place][1] for place in unknown}

    async def _fetch_all(
        self,
        ids: list[bytes],
        size: int,
        span: Span,
        reasons: dict[bytes, str],
        keys: list[Key],
    ) -> list[bytes] | None:
        """Asks for events by id until they are there (`keys`), or it is clear why not (`reasons`).

        A relay may take fewer ids in a question than we ask for, with or without saying so.
        Returns what was asked for when it was interrupted, maybe for that; None when it was not.
        """
        queue = deque(ids)
        asks: Counter[bytes] = Counter()
        refusals = timeouts = 0
        while queue:
            if self.is_over():
                return []
            batch = [queue.popleft() for _ in range(min(size, len(queue)))]
            page = await self.ask_ids(batch)
            end, words = page.end, page.reason
            found = await self.take(page, span, batch)
            keys += [(created_at, event_id) for event_id, created_at in found.items()]
            left = [event_id for event_id in batch if event_id not in found]
            if end is End.CLOSED and words.startswith("rate-limited"):
                self.throttled = words
                return []
            if not self.session.is_open:
                return left
            timeouts += end is End.TIMEOUT
            if timeouts >= MOST_TIMEOUTS:
                return left
            asks.update(left)
            if len(batch) == 1 and left:
                refusals += 1
                if refusals >= MOST_REFUSALS:
                    left += queue
                    queue.clear()
                reasons |= dict.fromkeys(left, "not-handed-over" if end is End.EOSE else end.value)
                continue
            refusals = 0
            size = max(1, len(found) or len(batch) // 8) if left else size
            for event_id in left:
                if asks[event_id] < MOST_ASKS:
                    queue.append(event_id)
                else:
                    reasons[event_id] = "not-handed-over"
        return None

    async def ask_ids(self, ids: Collection[bytes]) -> Page:
        """What the relay answers when it is asked for these events."""
        limit = min(len(ids) + SPARE_COPIES, self.visit.limits.get("max_limit", 1 << 20))
        asked = {"ids": [event_id.hex() for event_id in ids], "limit": limit}
        return await self.session.fetch(asked, self.bounds)

    async def take(
        self, page: Page, span: Span, wanted: Collection[bytes] | None = None
    ) -> dict[bytes, int]:
        """Stores what a page brought of a span; returns what is archived of it now, by id, and
        when it was created."""
        keys = await self.take_keys(page, span, wanted)
        ids = [event_id for _, event_id in keys]
        times = await self.brotr.find_events(ids, span)
        return {event_id: at for event_id, at in zip(ids, times, strict=True) if at is not None}

    async def take_keys(
        self, page: Page, span: Span, wanted: Collection[bytes] | None = None
    ) -> list[Key]:
        """Stores what a page brought of a span; returns the keys whose ids were proven."""
        haul = self._sift(page, span)
        if wanted is not None:
            chosen = set(wanted)
            haul.events = [event for event in haul.events if event[1] in chosen]
        keys = [event[:2] for event in haul.events]
        await self._store(page, haul)
        return keys

    async def look_at(self, page: Page, span: Span) -> list[Key]:
        """The keys of what a page brought of a span, which is not stored.

        What is no valid event is noted and counted all the same.
        """
        haul = self._sift(page, span)
        keys = [event[:2] for event in haul.events]
        haul.events = []
        if haul.rejected:
            await self._store(page, haul)
        else:
            self.intake.report(Report(received=page.received, bytes=page.size))
        return keys

    def _sift(self, page: Page, span: Span) -> Haul:
        ask = Ask(span.since, span.until - 1, max(1, len(page.events)))
        return sift(page, ask, self.policy)[1]

    async def _store(self, page: Page, haul: Haul) -> None:
        await self.intake.prepare(haul)
        await self.intake.store(page, haul, Progress([], []))
