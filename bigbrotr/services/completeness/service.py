"""The completeness service: follows references on a sample, and has what is missing fetched."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Self

from bigbrotr.config.settings import CompletenessSettings
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.completeness import CompletenessPosition, Noted, Referring
from bigbrotr.core.metrics import Sample
from bigbrotr.models.coverage import Span
from bigbrotr.models.event import MAX_CREATED_AT, decode_tags
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query
from bigbrotr.models.references import bound_of, is_sampled, month_of, references
from bigbrotr.models.rescue import REPOSTS
from bigbrotr.reads.arrivals import Arrivals
from bigbrotr.reads.arrivals import Position as Place
from bigbrotr.reads.events import EventReads
from bigbrotr.services.completeness.fetching import OUTCOMES, Fetching

ROWS = 4  # of the log of new events that are read at once
EXAMINED = 5_000  # archived events that are looked at in one step of the walk
STEP = 200  # events whose tags are read before others have their turn
ADDRESSES_S = 60.0  # from one look for addresses that have come to the next
EVERYTHING = Span(0, MAX_CREATED_AT)


class Completeness(BaseService[CompletenessSettings]):
    """Notes what the events of the sample refer to, and whether that is archived.

    Of the supervisors that share a database, any may do so: of two that have read the same, the
    second begins again.
    """

    SERVICE_NAME = "completeness"
    CONFIG_CLASS = CompletenessSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: CompletenessSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self._reads = EventReads(brotr.pool, View.KEPT)
        self._fetching = Fetching(brotr, self.context.config, owner=self.owner, log=self.log)
        self._addresses_at = float("-inf")  # monotonic
        self._fetched_at = float("-inf")

    def metrics(self) -> Iterator[Sample]:
        """What came of asking for missing events."""
        for outcome in OUTCOMES:
            yield Sample("missing_events", self._fetching.counts[outcome], (outcome,))

    async def __aenter__(self) -> Self:
        await self.brotr.release_missing(self.owner)
        return await super().__aenter__()

    async def run(self) -> None:
        """Looks at all there is, and asks for some of what is missing."""
        if "tags" not in await self.brotr.pool.fetchval("SELECT * FROM bigbrotr.kept_columns()"):
            self.log.debug("nothing is known of references: this archive keeps no tags")
            return
        if await self.brotr.begin_completeness(bound_of(self.settings.share)):
            self.log.info("a sample begins", share=self.settings.share)
        begun, looked = time.monotonic(), 0
        while not self._stop.is_set():
            before = await self.brotr.completeness_position()
            assert before is not None
            done = await self._follow(before)
            if done is None:
                done = await self._walk(before)
            if done is None:
                break
            looked += done
        if looked:
            took_s = round(time.monotonic() - begun, 1)
            self.log.debug("references were looked at", events=looked, took_s=took_s)
        if time.monotonic() - self._addresses_at >= ADDRESSES_S:
            await self.brotr.find_addresses()
            self._addresses_at = time.monotonic()
        is_time = time.monotonic() - self._fetched_at >= self.settings.fetch_every_s
        if self.settings.fetch and is_time and not self._stop.is_set():
            self._fetched_at = time.monotonic()
            await self._fetching.fetch()

    async def _follow(self, before: CompletenessPosition) -> int | None:
        """Looks at the next new events; None: there are none."""
        arrivals = Arrivals(self.brotr.pool, Place(before.xid, before.id))
        found = await arrivals.read(ROWS)
        if arrivals.is_missing:
            await self.brotr.begin_completeness(before.bound, is_missing=True)
            return 0
        if not found:
            return None
        came = [each for arrival in found for each in arrival.ids]
        sampled = frozenset(each for each in came if is_sampled(each, before.bound))
        events: list[Referring] = []
        if sampled:
            times = [at for arrival in found for at in arrival.created_ats]
            query = Query(ids=sampled, since=min(times), until=max(times))
            async for event in self._reads.all(query):
                content = event.content if event.kind in REPOSTS else None
                events.append(
                    Referring(event.created_at, event.id, event.kind, event.tags or "[]", content)
                )
        moved = before._replace(xid=arrivals.position.xid, id=arrivals.position.id)
        return await self._note(events, came, before, moved)

    async def _walk(self, before: CompletenessPosition) -> int | None:
        """Looks at the next events of the archive; None: it is at its end."""
        if before.after_at is None:
            return None
        sample = await self.brotr.next_sample(before, EXAMINED)
        if sample.examined < EXAMINED:
            self.log.info("what all archived events of the sample refer to is known")
            moved = before._replace(after_at=None, after_id=None)
        else:
            moved = before._replace(after_at=sample.last_at, after_id=sample.last_id)
        return await self._note(sample.events, (), before, moved)

    async def _note(
        self,
        events: Sequence[Referring],
        came: Sequence[bytes],
        before: CompletenessPosition,
        moved: CompletenessPosition,
    ) -> int:
        found = []
        for place, event in enumerate(events, 1):
            for each in references(event.id, event.kind, decode_tags(event.tags), event.content):
                found.append((event, each))  # noqa: PERF401 -- others have their turn meanwhile
            if place % STEP == 0:
                await asyncio.sleep(0)
        ids = sorted({each.target for _, each in found if len(each.target) == 32})
        times = await self.brotr.find_events(ids, EVERYTHING)
        held = {each for at, each in zip(times, ids, strict=True) if at is not None}
        held |= await self.brotr.held_addresses(
            {each.target for _, each in found if len(each.target) != 32}
        )
        noted = [
            Noted(month_of(event.created_at), event.kind, event.id, each, each.target in held)
            for event, each in found
        ]
        most = self.settings.most_missing if self.settings.fetch else 0
        is_ours = await self.brotr.note_references(noted, came, before, moved, most_missing=most)
        return max(1, len(events)) if is_ours else 0
