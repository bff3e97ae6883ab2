"""The witnesses service: keeps what other monitors say of relays, and compares it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

from bigbrotr.config.settings import WitnessesSettings
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.witnesses import Known, Noted
from bigbrotr.core.metrics import Sample
from bigbrotr.models.event import decode_tags
from bigbrotr.models.nip66 import ANNOUNCEMENT, DISCOVERY
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.models.witnesses import (
    CHECKED_S,
    FRESH_S,
    Introduction,
    Statement,
    Tally,
    Word,
    compare,
    read_introduction,
    read_word,
    reliability,
    statement,
)
from bigbrotr.reads.arrivals import Arrivals
from bigbrotr.reads.arrivals import Position as Place
from bigbrotr.reads.events import PAGE, EventReads, StoredEvent

ROWS = 20  # of the log of new events that are read at once
PAGE_BYTES = 4 << 20  # of contents and tags that are read at once
RELAYS = 50  # that are compared before others have their turn
LATE_S = 60  # how far a comparison may be in the future before our clock was ahead


class Witnesses(BaseService[WitnessesSettings]):
    """Follows the log of new events for announcements of monitors, and compares what is newest.

    Of the supervisors that share a database, any may do so: of two that have read the same, the
    second begins again.
    """

    SERVICE_NAME = "witnesses"
    CONFIG_CLASS = WitnessesSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: WitnessesSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self.words: Counter[str] = Counter()  # by what became of them
        self._reads: EventReads | None = None  # which keeps statistics in mind
        self._own: frozenset[bytes] = frozenset()

    def metrics(self) -> Iterator[Sample]:
        """What became of the words of witnesses."""
        for outcome, number in self.words.items():
            yield Sample("witness_words", number, (outcome,))

    async def run(self) -> None:
        """Takes the words that have come, and compares when it is time."""
        self._own = await self.brotr.own_monitors()
        if "tags" in await self.brotr.pool.fetchval("SELECT * FROM bigbrotr.kept_columns()"):
            self._reads = self._reads or EventReads(self.brotr.pool, View.ARCHIVE)
            while not self._stop.is_set() and await self._take(self._reads):
                pass
        else:
            # The finder brings what it fetches; in the log there is nothing for us.
            end = (await Arrivals.from_now(self.brotr.pool)).position
            await self.brotr.begin_witnesses(end.xid, end.id, is_again=True)
        await self._compare()

    # Taking

    async def _take(self, reads: EventReads) -> bool:
        """Takes the next announcements; whether there may be more."""
        before = await self.brotr.witness_position()
        if before is None:
            await self._begin(reads)
            return True
        arrivals = Arrivals(self.brotr.pool, Place(*before))
        found = await arrivals.read(ROWS)
        if arrivals.is_missing:
            await self._begin(reads)
            return True
        if not found:
            return False
        since = int(time.time()) - FRESH_S
        # What is archived of the past says nothing of today, and costs no look here.
        ids = [
            (event_id, at)
            for arrival in found
            for event_id, at in zip(arrival.ids, arrival.created_ats, strict=True)
            if at >= since
        ]
        taken = Taken()
        for start in range(0, len(ids), PAGE):
            part = ids[start : start + PAGE]
            times = [at for _, at in part]
            query = Query(
                ids=frozenset(event_id for event_id, _ in part),
                kinds=frozenset((DISCOVERY, ANNOUNCEMENT)),
                since=min(times),
                until=max(times),
            )
            async for events in self._pages(reads, query):
                taken.add(events, self._wanted, int(time.time()))
        after = arrivals.position.xid, arrivals.position.id
        await self._note(reads, taken, moved=(before, after))
        return True

    async def _begin(self, reads: EventReads) -> None:
        """Takes what is newest in the archive; what comes meanwhile is in the log."""
        start = (await Arrivals.from_now(self.brotr.pool)).position
        query = Query(kinds=frozenset((DISCOVERY,)), since=int(time.time()) - FRESH_S)
        async for events in self._pages(reads, query):
            if self._stop.is_set():
                return
            taken = Taken()
            taken.add(events, self._wanted, int(time.time()))
            await self._note(reads, taken)
        await self.brotr.begin_witnesses(start.xid, start.id, is_again=True)
        self.log.info("follows what other monitors say")

    async def _pages(self, reads: EventReads, query: Query) -> AsyncIterator[list[StoredEvent]]:
        """The events of a query, a page in memory."""
        after: Position | None = None
        while True:
            page = await reads.page(query, PAGE, after, most_bytes=PAGE_BYTES)
            yield page.events
            if (after := page.next) is None:
                return

    async def _note(
        self,
        reads: EventReads,
        taken: "Taken",
        moved: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ) -> None:
        done = await self.brotr.note_words(
            taken.words,
            taken.introductions,
            most=self.settings.most,
            protected=self.settings.keys,
            moved=moved,
        )
        if done is None:  # another was quicker
            return
        self.words.update(taken.refused)
        self.words.update(outcomes(done))
        if done.admitted:
            await self._introduce(reads, done.admitted)
        if done.refused:
            self.log.debug("no room for other witnesses", words=done.refused)

    async def _introduce(self, reads: EventReads, pubkeys: Sequence[bytes]) -> None:
        """Looks for what new witnesses say of themselves: that was announced long ago, perhaps."""
        query = Query(kinds=frozenset((ANNOUNCEMENT,)), authors=frozenset(pubkeys))
        taken = Taken()
        async for events in self._pages(reads, query):
            taken.add(events, self._wanted, int(time.time()))
        if taken.introductions:
            await self.brotr.note_words([], taken.introductions, most=self.settings.most)

    def _wanted(self, pubkey: bytes) -> bool:
        return pubkey not in self._own and (
            not self.settings.only_these or pubkey in self.settings.keys
        )

    # Comparing

    async def _compare(self) -> None:
        """Compares all that is said now, if that is due; of each relay in turn."""
        now = int(time.time())
        compared_at = await self.brotr.pool.fetchval(
            "SELECT s.compared_at FROM bigbrotr.witness_state AS s"
        )
        if compared_at is not None and -LATE_S <= now - compared_at < self.settings.compare_every_s:
            return
        begun = time.monotonic()
        known = await self.brotr.known_witnesses()
        by_key = {each.pubkey: each for each in known if each.pubkey not in self._own}
        tallies = {pubkey: Tally() for pubkey in by_key}
        weights = {pubkey: each.reliability for pubkey, each in by_key.items()}
        judged = witnessed = after = 0
        while not self._stop.is_set():
            ours, words = await self.brotr.words_of_relays(after, RELAYS, now, now - CHECKED_S)
            if not ours:
                break
            after = ours[-1][0]
            done = await asyncio.to_thread(
                compare_relays, ours, words, by_key, weights, tallies, now
            )
            judged += done[0]
            witnessed += done[1]
        else:
            return
        reliabilities = {
            pubkey: reliability(
                each.reliability,
                tallies[pubkey].agreed,
                tallies[pubkey].compared,
                self.settings.compare_every_s
                if each.compared_at is None
                else now - each.compared_at,
            )
            for pubkey, each in by_key.items()
        }
        await self.brotr.keep_comparison(
            tallies, reliabilities, judged=judged, witnessed=witnessed, now=now
        )
        if by_key:
            took_s = round(time.monotonic() - begun, 1)
            self.log.info(
                "compared witnesses", witnesses=len(by_key), relays=witnessed, took_s=took_s
            )


def compare_relays(
    ours: Sequence[tuple[int, Statement]],
    words: Iterable[tuple[int, Word]],
    known: dict[bytes, Known],
    weights: dict[bytes, float],
    tallies: dict[bytes, Tally],
    now: int,
) -> tuple[int, int]:
    """Compares what is said of some relays; how many of them we have judged, and of how many of
    these a witness says something."""
    said: dict[int, dict[bytes, Statement]] = {}
    for relay_id, word in words:
        if (witness := known.get(word.pubkey)) is not None:
            said.setdefault(relay_id, {})[word.pubkey] = statement(
                word, frequency_s=witness.frequency_s, heard_at=witness.heard_at, now=now
            )
    judged = witnessed = 0
    for relay_id, own in ours:
        theirs = said.get(relay_id, {})
        judged += own.online is not None
        witnessed += own.online is not None and any(each != Statement() for each in theirs.values())
        if theirs:
            compare(theirs, own, weights, tallies)
    return judged, witnessed


class Taken:
    """What is taken from events: what is large of them is not kept."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self.introductions: list[Introduction] = []
        self.refused: Counter[str] = Counter()  # events that say nothing, by the reason

    def add(self, events: Iterable[StoredEvent], wants: Callable[[bytes], bool], now: int) -> None:
        """Takes the words and introductions of those who are wanted."""
        for event in events:
            if not wants(event.pubkey):
                continue
            tags = decode_tags(event.tags or "[]")
            about = event.pubkey, event.created_at, event.id
            if event.kind == DISCOVERY:
                word = read_word(*about, tags, now)
                if isinstance(word, Word):
                    self.words.append(word)
                else:
                    self.refused[word] += 1
            elif event.kind == ANNOUNCEMENT:
                said = read_introduction(*about, tags, now)
                if isinstance(said, Introduction):
                    self.introductions.append(said)
                else:
                    self.refused[said] += 1


def outcomes(done: Noted) -> dict[str, int]:
    """What became of words, as it is counted."""
    return {"noted": done.noted, "unknown-relay": done.unknown, "no-room": done.refused}
