"""Tells subscriptions of new events: once a process, the log of arrivals is followed for all."""

import asyncio
from collections.abc import Callable, Collection

from bigbrotr.core.defects import Defects, refusal
from bigbrotr.core.logger import Logger
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import decode_tags
from bigbrotr.models.query import Query
from bigbrotr.reads.arrivals import Arrival, Arrivals, horizon
from bigbrotr.reads.events import PAGE, StoredEvent
from bigbrotr.serve.relay.subscription import Subscription
from bigbrotr.serve.relay.views import PAGE_BYTES, View

LOOK_S = 0.1  # from one look at the log to the next
PAGES = 20  # of the log that are read at once
AGAIN_S = 1.0  # after the database did not answer


class Follower:
    """Follows the log of arrivals while somebody waits for events; `end` closes a subscription,
    `count` is told how many events were sent."""

    def __init__(
        self,
        pool: Pool,
        views: Collection[View],
        end: Callable[[Subscription, str], None],
        count: Callable[[int], None],
        log: Logger,
    ) -> None:
        self._pool = pool
        self._views = views
        self._end = end
        self._count = count
        self._log = log
        self._defects = Defects(log)
        self._arrivals: Arrivals | None = None
        self._beginning = asyncio.Lock()
        self._is_wanted = asyncio.Event()
        self._settling: dict[Subscription, None] = {}  # which keep the ids that they have sent
        self._is_away = False
        self._told: set[tuple[str, bytes]] = set()  # of what is told now, by view

    async def begin(self) -> None:
        """Sees to it that all that is stored from now on will be told. Whoever wants it is in the
        index of its view already."""
        if self._arrivals is None:
            async with self._beginning:
                if self._arrivals is None:
                    self._arrivals = await Arrivals.from_now(self._pool, judged=True)
        self._is_wanted.set()

    def settle(self, subscription: Subscription) -> None:
        """Its stored events are read: after a while none of them can come any more."""
        self._settling[subscription] = None

    def leave(self, subscription: Subscription) -> None:
        """It is closed."""
        self._settling.pop(subscription, None)

    async def run(self) -> None:
        """Looks, tells, and rests, until it is cancelled."""
        while True:
            await self._is_wanted.wait()
            if not any(len(view.live) for view in self._views):
                self._arrivals = None
                self._is_wanted.clear()
                continue
            delay_s = LOOK_S
            try:
                await self._look()
                self._is_away = False
            except Exception as error:
                delay_s = AGAIN_S
                if (known := refusal(error)) is None and not isinstance(error, TimeoutError):
                    self._defects.note(error)
                elif not self._is_away:
                    self._log.warning("new events are told later", reason=str(known or "busy"))
                    self._is_away = True
            await asyncio.sleep(delay_s)

    async def _look(self) -> None:
        arrivals = self._arrivals
        assert arrivals is not None
        settling = list(self._settling)
        reached = await horizon(self._pool)
        for subscription in settling:
            if subscription.past is None:
                subscription.past = reached.next
        while True:
            # The place goes on once all that was found is told: the database may fail between.
            ahead = Arrivals(self._pool, arrivals.position, judged=True)
            found = await ahead.read(PAGES)
            if ahead.is_missing:
                self._give_up()
            await self._tell(found)
            arrivals.position = ahead.position
            self._told.clear()
            if not found:
                break
        for subscription in settling:
            if subscription.past is not None and subscription.past <= reached.oldest:
                subscription.forget_sent()
                self._settling.pop(subscription, None)

    def _give_up(self) -> None:
        """New events were pruned before they were read, by a process that has slept for hours."""
        for view in self._views:
            for subscription in list(view.live):
                self._end(subscription, "error: new events were missed here; subscribe again")

    async def _tell(self, found: Collection[Arrival]) -> None:
        for view in self._views:
            if not len(view.live):
                continue
            times = {
                event_id: at
                for arrival in found
                for at, event_id in zip(arrival.created_ats, arrival.ids, strict=True)
            }
            ids = list(times)
            for start in range(0, len(ids), PAGE):
                part = ids[start : start + PAGE]
                ats = [times[each] for each in part]
                query = Query(ids=frozenset(part), since=min(ats), until=max(ats))
                after = None
                while True:
                    page = await view.events.page(query, PAGE, after, most_bytes=PAGE_BYTES)
                    for event in reversed(page.events):
                        self._tell_of(view, event)
                    if (after := page.next) is None:
                        break

    def _tell_of(self, view: View, event: StoredEvent) -> None:
        if event.tags is None or (view.path, event.id) in self._told:
            return
        self._told.add((view.path, event.id))
        told = view.live.matching(event, decode_tags(event.tags))
        if not told:
            return
        text = event.to_json()
        self._count(len(told))
        for subscription in told:
            if not subscription.tell(event.id, text):
                self._end(subscription, "error: too much comes at once; subscribe again")
