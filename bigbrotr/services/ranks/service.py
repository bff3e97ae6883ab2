"""The ranks service: counts what events say of public keys and of others, and ranks by follows."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice

from bigbrotr.config.settings import RanksSettings
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.ranks import Counted, RankPosition
from bigbrotr.models.event import decode_tags
from bigbrotr.models.page_rank import FollowGraph, Ranked, require
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.models.ranks import COUNTED, FOLLOWS, facts_of, followed_in
from bigbrotr.reads.arrivals import Arrivals
from bigbrotr.reads.arrivals import Position as Place
from bigbrotr.reads.events import PAGE, EventReads, StoredEvent
from bigbrotr.services.ranks.assertions import Assertions, keys_of

ROWS = 20  # of a log that are read at once
EXPIRING = 2000  # events whose time is over that are looked at together
PAGE_BYTES = 4 << 20  # of contents and tags that are read at once
STEP_BYTES = 100_000  # of tags that are read before others have their turn
KEPT = 5000  # ranks that are written together
LATE_S = 60  # how far the last run may be in the future before our clock was ahead


Key = tuple[int, bytes]  # time and id of an event


class Ranks(BaseService[RanksSettings]):
    """Follows the log of new events and that of what was judged again, walks through the archive,
    and now and then puts the follow graph together.

    Of the supervisors that share a database, any may do so: of two that have read the same, the
    second begins again.
    """

    SERVICE_NAME = "ranks"
    CONFIG_CLASS = RanksSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: RanksSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        keys = keys_of(self.settings)
        self._assertions = None if keys is None else Assertions(brotr, self.settings, keys)
        self._publish_at = float("-inf")  # monotonic
        self._reads: EventReads | None = None  # which keeps statistics in mind
        self._judged: RankPosition | None = None  # behind all that was judged again, if it was read

    async def run(self) -> None:
        """Counts all there is; new events come first. Then ranks, if that is due."""
        require()
        if "tags" not in await self.brotr.pool.fetchval("SELECT * FROM bigbrotr.kept_columns()"):
            self.log.debug("nothing can be ranked: this archive keeps no tags")
            return
        reads = self._reads = self._reads or EventReads(self.brotr.pool, View.CURRENT)
        if await self.brotr.begin_ranks():
            self.log.info("counts what is archived")
        while not self._stop.is_set() and await self._step(reads):
            pass
        if not self._stop.is_set():
            await self._rank(reads)
        if not self._stop.is_set():
            await self._publish(reads)

    async def _publish(self, reads: EventReads) -> None:
        """Says what has changed, if that is due, and all was counted and ranked once."""
        if self._assertions is None or time.monotonic() < self._publish_at:
            return
        position, last = await self.brotr.rank_position(), await self.brotr.rank_run()
        if position is None or position.after_at is not None or last.ranked_at is None:
            return
        self._publish_at = time.monotonic() + self.settings.publish.every_s
        if posted := await self._assertions.publish(reads):
            self.log.info("ranks wait in the outbox", events=posted)

    # Counting

    async def _step(self, reads: EventReads) -> bool:
        """Counts the next events; whether there may be more."""
        before = await self.brotr.rank_position()
        if before is None:
            return False
        # What new events say first, then what is shown no longer, or again; the past at the end.
        for step in (self._follow, self._judge, self._expire, self._walk):
            if await step(reads, before):
                return True
        if self._judged is not None:  # else what is pruned one day would seem to be unread
            await self.brotr.count_events([], [], before, self._judged)
        return False

    async def _follow(self, reads: EventReads, before: RankPosition) -> bool:
        arrivals = Arrivals(self.brotr.pool, Place(before.xid, before.id), judged=True)
        found = await arrivals.read(ROWS)
        if arrivals.is_missing:
            await self.brotr.begin_ranks(is_again=True)
            return True
        if not found:
            return False
        keys = [
            key for arrival in found for key in zip(arrival.created_ats, arrival.ids, strict=True)
        ]
        after = before._replace(xid=arrivals.position.xid, id=arrivals.position.id)
        await self._look_at(reads, keys, before, after)
        return True

    async def _judge(self, reads: EventReads, before: RankPosition) -> bool:
        self._judged = None
        state = await self.brotr.pool.fetchrow(
            "SELECT * FROM bigbrotr.shown_state(p_xid => $1)", before.judged_xid
        )
        assert state is not None
        if state["is_missing"]:
            await self.brotr.begin_ranks(is_again=True)
            return True
        until = state["xid"]
        rows = await self.brotr.next_rejudged(before, until, ROWS)
        if not rows:
            self._judged = before._replace(judged_xid=until, judged_id=0)
            return False
        keys = [key for row in rows for key in zip(row[2], row[3], strict=True)]
        after = before._replace(judged_xid=rows[-1][0], judged_id=rows[-1][1])
        await self._look_at(reads, keys, before, after)
        return True

    async def _expire(self, reads: EventReads, before: RankPosition) -> bool:
        now = int(time.time())
        rows = await self.brotr.pool.fetch(
            "SELECT * FROM bigbrotr.read_expiring(p_after => $1, p_until => $2, p_limit => $3)",
            before.expired_at,
            now,
            EXPIRING,
        )
        if not rows:
            return False
        if len(rows) == EXPIRING:  # those of the last second may not all be here
            await self.brotr.begin_ranks(is_again=True)
            return True
        keys = [(row["created_at"], row["id"]) for row in rows]
        await self._look_at(reads, keys, before, before._replace(expired_at=now))
        return True

    async def _walk(self, reads: EventReads, before: RankPosition) -> bool:
        if before.after_at is None:
            return False
        at = Position(before.after_at, before.after_id or b"")
        query = Query(kinds=COUNTED)
        page = await reads.page(query, PAGE, at, budget_s=1.0, most_bytes=PAGE_BYTES)
        moved = before._replace(after_at=None, after_id=None)
        if page.next is not None:
            moved = before._replace(after_at=page.next.created_at, after_id=page.next.id)
        counted = await _counted(page.events)
        if await self.brotr.count_events(counted, [], before, moved) and page.next is None:
            self.log.info("all that is archived is counted")
        return True

    async def _look_at(
        self, reads: EventReads, keys: Sequence[Key], before: RankPosition, after: RankPosition
    ) -> None:
        """Counts those of some events that are shown, and takes back what others have counted
        for."""
        shown: list[Counted] = []
        for start in range(0, len(keys), PAGE):
            part = keys[start : start + PAGE]
            times = [at for at, _ in part]
            query = Query(
                ids=frozenset(event_id for _, event_id in part),
                kinds=COUNTED,
                since=min(times),
                until=max(times),
            )
            at: Position | None = None
            while True:
                page = await reads.page(query, PAGE, at, most_bytes=PAGE_BYTES)
                shown += await _counted(page.events)
                if (at := page.next) is None:
                    break
        there = {each.id for each in shown}
        others = [event_id for _, event_id in keys if event_id not in there]
        await self.brotr.count_events(shown, others, before, after)

    # Ranking

    async def _rank(self, reads: EventReads) -> None:
        """Ranks by the current lists of follows, if that is due."""
        now = int(time.time())
        last = await self.brotr.rank_run()
        if (
            last.ranked_at is not None
            and -LATE_S <= now - last.ranked_at < self.settings.rank_every_s
        ):
            return
        begun = time.monotonic()
        graph = FollowGraph()
        after: Position | None = None
        while True:
            page = await reads.page(
                Query(kinds=frozenset((FOLLOWS,))), PAGE, after, most_bytes=PAGE_BYTES
            )
            # The newest come first; where older versions are shown as well, they do not count.
            async for event, tags in _spread(page.events):
                graph.add(event.pubkey, followed_in(tags))
            if self._stop.is_set():
                return
            if (after := page.next) is None:
                break
        ranked = await asyncio.to_thread(graph.ranks)
        run = last.run + 1
        while batch := await asyncio.to_thread(_some, ranked):
            await self.brotr.keep_ranks(run, batch)
            if self._stop.is_set():
                return
        ended = await self.brotr.end_ranking(
            run,
            listed=graph.authors,
            follows=graph.follows,
            iterations=graph.iterations,
            at=now,
        )
        if ended:
            self.log.info(
                "ranked by follows",
                pubkeys=graph.pubkeys,
                follows=graph.follows,
                iterations=graph.iterations,
                took_s=round(time.monotonic() - begun, 1),
            )


async def _spread(
    events: Sequence[StoredEvent],
) -> AsyncIterator[tuple[StoredEvent, list[list[str]]]]:
    """Events with their tags; others have their turn now and then."""
    size = 0
    for event in events:
        text = event.tags or "[]"
        yield event, [tag for tag in decode_tags(text) if tag]
        if (size := size + len(text)) > STEP_BYTES:
            size = 0
            await asyncio.sleep(0)


def _some(ranked: Iterator[Ranked]) -> list[Ranked]:
    return list(islice(ranked, KEPT))


async def _counted(events: Sequence[StoredEvent]) -> list[Counted]:
    return [
        Counted(event.id, event.created_at, facts_of(event.pubkey, event.kind, tags))
        async for event, tags in _spread(events)
    ]
