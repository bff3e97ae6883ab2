"""The search service: puts the words of events into an index, so that readers can look for them."""

import asyncio
import time
from collections.abc import Sequence

from bigbrotr.config.settings import SearchSettings
from bigbrotr.core.base_service import BaseService
from bigbrotr.core.calls.search import Indexed, SearchPosition
from bigbrotr.models.event import decode_tags
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.models.search import hashes_of, words_of_event
from bigbrotr.reads.arrivals import Arrivals
from bigbrotr.reads.arrivals import Position as Place
from bigbrotr.reads.events import PAGE, EventReads, StoredEvent

ROWS = 4  # of the log of new events that are read at once
PAGE_BYTES = 4 << 20  # of contents and tags that are read at once
STEP_BYTES = 100_000  # of text that is cut into words before others have their turn: 10 ms


class Search(BaseService[SearchSettings]):
    """Follows the log of new events, and walks through the archive, from the newest event back.

    Of the supervisors that share a database, any may do so: of two that have read the same, the
    second begins again.
    """

    SERVICE_NAME = "search"
    CONFIG_CLASS = SearchSettings

    _reads: EventReads | None = None  # which keeps statistics in mind

    async def run(self) -> None:
        """Puts in all there is; new events come first."""
        if "content" not in await self.brotr.pool.fetchval("SELECT * FROM bigbrotr.kept_columns()"):
            self.log.debug("nothing can be searched for: this archive keeps no contents")
            return
        there = await self.brotr.search_position()
        kinds = sorted(self.settings.kinds)
        if (there is None or list(there.kinds) != kinds) and await self.brotr.begin_search(kinds):
            self.log.info("an index of words begins", kinds=kinds)
        reads = self._reads = self._reads or EventReads(self.brotr.pool, View.KEPT)
        begun, put_in = time.monotonic(), 0
        while not self._stop.is_set():
            before = await self.brotr.search_position()
            if before is None:  # another has switched it off
                return
            done = await self._follow(reads, before)
            if done is None:
                done = await self._walk(reads, before)
            if done is None:
                break
            put_in += done
        if put_in:
            took_s = round(time.monotonic() - begun, 1)
            self.log.debug("words were put in", events=put_in, took_s=took_s)

    async def _follow(self, reads: EventReads, before: SearchPosition) -> int | None:
        """Puts the next new events in; None: there are none."""
        arrivals = Arrivals(self.brotr.pool, Place(before.xid, before.id))
        found = await arrivals.read(ROWS)
        if arrivals.is_missing:
            await self.brotr.begin_search(before.kinds, is_missing=True)
            return 0
        if not found:
            return None
        ids = frozenset(each for arrival in found for each in arrival.ids)
        times = [at for arrival in found for at in arrival.created_ats]
        query = Query(ids=ids, kinds=frozenset(before.kinds), since=min(times), until=max(times))
        events: list[Indexed] = []
        after: Position | None = None
        while True:
            page = await reads.page(query, PAGE, after, most_bytes=PAGE_BYTES)
            events += await _indexed(page.events)
            if (after := page.next) is None:
                break
        xid, number = arrivals.position.xid, arrivals.position.id
        moved = before._replace(xid=xid, id=number)
        return len(events) if await self.brotr.index_words(events, before, moved) else 0

    async def _walk(self, reads: EventReads, before: SearchPosition) -> int | None:
        """Puts the next events of the archive in; None: it is at its end."""
        if before.after_at is None or before.after_id is None:
            return None
        at = Position(before.after_at, before.after_id) if before.after_id else None
        query = Query(kinds=frozenset(before.kinds))
        page = await reads.page(query, PAGE, at, budget_s=1.0, most_bytes=PAGE_BYTES)
        events = await _indexed(page.events)
        moved = before._replace(after_at=None, after_id=None)
        if page.next is not None:
            moved = before._replace(after_at=page.next.created_at, after_id=page.next.id)
        else:
            self.log.info("the index of words has all that is archived")
        return len(events) if await self.brotr.index_words(events, before, moved) else 0


async def _indexed(events: Sequence[StoredEvent]) -> list[Indexed]:
    found = []
    size = 0
    for event in events:
        content = event.content or ""
        tags = decode_tags(event.tags or "[]")
        hashes = sorted(hashes_of(words_of_event(event.kind, tags, content)))
        found.append(Indexed(event.created_at, event.id, event.kind, hashes))
        size += len(content)
        if size > STEP_BYTES:
            size = 0
            await asyncio.sleep(0)
    return found
