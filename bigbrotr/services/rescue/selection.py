"""Finds the events that are to be at other relays: which ones, and at which relays."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.rescues import ToRescue
from bigbrotr.models.coverage import Span
from bigbrotr.models.event import MAX_CREATED_AT, decode_tags
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.models.relay import Relay
from bigbrotr.models.rescue import Left, Sendable, closed_by, refusal_in_advance
from bigbrotr.reads.authors import RELAY_LISTS, ListedRelay, relays_in
from bigbrotr.reads.events import EventReads, StoredEvent
from bigbrotr.services.rescue.judging import judge, nothing, settle_policy

PAGE = 500  # events that are looked at once
PAGE_BYTES = 8 << 20  # of their tags and contents
HELD_IDS = 2000  # of a relay that are looked at once
MOST_LISTS = 20_000  # relay lists that are kept in mind


class Selection(Struct, frozen=True, kw_only=True):
    """Which events are to be where. `to` empty: at the relays to which their author writes."""

    query: Query
    to: tuple[str, ...] = ()
    held_by: str | None = None  # only what this relay holds, which does not count as a holder
    below: int | None = None  # only what fewer relays hold that are well
    most_relays: int = 5  # of an author's list
    limit: int | None = None  # events

    def __post_init__(self) -> None:
        if self.held_by is not None and self.held_by in self.to:
            raise ValueError("the relay from which events are rescued cannot be where they go")


class Found(NamedTuple):
    """Some of the events that were looked at: what is to be sent, and what is not, by why."""

    looked: int
    events: list[ToRescue]
    left: Counter[tuple[str, Left]]  # by URL of the target ("": any) and reason
    at: int | None  # when the last one was created, in Unix seconds


class Selecting:
    """Walks through what was selected, in pages, after what is to be hidden was judged."""

    def __init__(
        self,
        brotr: Brotr,
        config: Config,
        selection: Selection,
        *,
        heeds_documents: bool = False,
        on_judged: Callable[[int], None] = nothing,
    ) -> None:
        self._brotr = brotr
        self._config = config
        self._on_judged = on_judged
        self._networks = config.networks
        self._heeds_documents = heeds_documents  # those that are archived
        self._limits: dict[str, Mapping[str, int | bool]] = {}
        self._selection = selection
        self._reads = EventReads(brotr.pool, View.KEPT)
        self._lists = EventReads(brotr.pool, View.CURRENT)
        self._written: dict[bytes, tuple[str, ...]] = {}  # by author
        self._numbers: dict[str, int] = {}
        self._failing: frozenset[int] = frozenset()
        self._passed = 0  # events that were looked at and are on no page

    async def pages(self) -> AsyncIterator[Found]:
        """What is to be sent, page by page."""
        await settle_policy(self._brotr, self._config, self._on_judged)
        self._numbers = await self._brotr.known_relays()
        self._failing = await self._brotr.unwell_relays()
        left = self._selection.limit
        async for events in self._events():
            found = await self._judge(events, left)
            yield found
            if left is not None:
                left -= len({each.id for each in found.events})
                if left <= 0:
                    return

    async def _events(self) -> AsyncIterator[list[StoredEvent]]:
        query = self._selection.query
        if self._selection.held_by is not None:
            async for keys in self._held(self._selection.held_by):
                if not keys:  # that much was looked at, and is safe
                    yield []
                    continue
                wanted = replace(
                    query,
                    ids=frozenset(key for _, key in keys),
                    since=keys[0][0],
                    until=keys[-1][0],
                )
                async for page in self._pages(wanted):
                    yield page
            return
        async for page in self._pages(query):
            yield page

    async def _pages(self, query: Query) -> AsyncIterator[list[StoredEvent]]:
        after: Position | None = None
        while True:
            page = await self._reads.page(query, PAGE, after, most_bytes=PAGE_BYTES)
            if page.events:
                yield page.events
            if (after := page.next) is None:
                return

    async def _held(self, url: str) -> AsyncIterator[list[tuple[int, bytes]]]:
        """The keys of what a relay holds, oldest first: those that too few others hold."""
        number = self._numbers.get(url)
        if number is None:
            return
        query = self._selection.query
        span, after = Span(query.since, min(query.until, MAX_CREATED_AT - 1) + 1), b""
        while True:
            created_ats, ids = await self._brotr.read_ids(
                span,
                after,
                HELD_IDS,
                kinds=query.kinds,
                authors=_hex(query.authors),
                held_by=number,
            )
            keys = [
                (int.from_bytes(created_ats[8 * n : 8 * n + 8]), ids[32 * n : 32 * n + 32])
                for n in range(len(ids) // 32)
            ]
            holders = await self._brotr.holders_of_each(keys)
            kept = [key for key, held in zip(keys, holders, strict=True) if self._is_scarce(held)]
            self._passed += len(keys) - len(kept)
            for start in range(0, max(1, len(kept)), PAGE):
                yield kept[start : start + PAGE]
            if len(keys) < HELD_IDS:
                return
            span, after = Span(keys[-1][0], span.until), keys[-1][1]

    def _is_scarce(self, holders: frozenset[int]) -> bool:
        """Whether few enough relays hold an event that are well."""
        below = self._selection.below
        if below is None:
            return True
        doomed = self._failing
        if self._selection.held_by is not None:
            doomed |= {self._numbers.get(self._selection.held_by, 0)}
        return len(holders - doomed) < below

    async def _judge(self, events: Sequence[StoredEvent], most: int | None) -> Found:
        """What is to be sent of a page, and what is not."""
        now = int(time.time())
        passed, self._passed = self._passed, 0
        events = sorted(events, key=lambda event: (event.created_at, event.id))
        keys = [(event.created_at, event.id) for event in events]
        holders = await self._brotr.holders_of_each(keys)
        scarce = [
            (event, held)
            for event, held in zip(events, holders, strict=True)
            if self._is_scarce(held)
        ]
        judged = await judge(self._brotr, [event for event, _ in scarce], now)
        left: Counter[tuple[str, Left]] = Counter()
        chosen: list[ToRescue] = []
        taken = 0
        sendable = [event for event, _ in scarce if isinstance(judged[event.id], Sendable)]
        targets = await self._targets(sendable)
        away = await self._brotr.vanished_from(
            {url for urls in targets.values() for url in urls}, {each.pubkey for each in sendable}
        )
        for event, held in reversed(scarce):  # the newest first
            if most is not None and taken >= most:
                break
            verdict = judged[event.id]
            if isinstance(verdict, Left):
                left["", verdict] += 1
                continue
            urls = targets.get(event.pubkey, ())
            if not urls:
                left["", Left.NO_LIST] += 1
                continue
            before = len(chosen)
            for url in urls:
                if self._numbers.get(url, 0) in held:
                    left[url, Left.HELD] += 1
                elif away.get((url, event.pubkey), -1) >= event.created_at:
                    left[url, Left.VANISHED] += 1
                elif not self._networks.link(Relay(url).network).enabled:
                    left[url, Left.NETWORK_OFF] += 1
                elif (why := await self._refused(url, verdict, now)) is not None:
                    left[url, why] += 1
                else:
                    chosen.append(ToRescue(url, event.created_at, event.id, event.pubkey))
            taken += len(chosen) > before
        last = max((event.created_at for event in events), default=None)
        return Found(len(events) + passed, await self._with_drops(chosen), left, last)

    async def _refused(self, url: str, event: Sendable, now: int) -> Left | None:
        """Why a relay would not take an event, as its last document says that is archived."""
        if not self._heeds_documents:
            return None
        if url not in self._limits:
            self._limits[url] = await self._brotr.archived_limits(url)
        limits = self._limits[url]
        closed = None if url in self._config.rescue.known_at else closed_by(limits)
        return closed or refusal_in_advance(limits, event, now)

    async def _with_drops(self, chosen: Sequence[ToRescue]) -> list[ToRescue]:
        """Adds when targets were proven to hold an event no more."""
        found = []
        by_url: dict[str, list[ToRescue]] = {}
        for each in chosen:
            by_url.setdefault(each.url, []).append(each)
        for url, events in by_url.items():
            events.sort(key=lambda event: (event.created_at, event.id))
            drops: list[int | None] = [None] * len(events)
            if (number := self._numbers.get(url)) is not None:
                drops = await self._brotr.drops_of(
                    number, [(event.created_at, event.id) for event in events]
                )
            found += [
                event._replace(dropped_at=at) for event, at in zip(events, drops, strict=True)
            ]
        return found

    async def _targets(self, events: Sequence[StoredEvent]) -> dict[bytes, tuple[str, ...]]:
        """Where events are to be, by author."""
        authors = {event.pubkey for event in events}
        if self._selection.to:
            return dict.fromkeys(authors, self._selection.to)
        missing = authors - self._written.keys()
        if len(self._written) + len(missing) > MOST_LISTS:
            self._written.clear()
            missing = authors
        if missing:
            self._written.update(dict.fromkeys(missing, ()))
            query = Query(authors=frozenset(missing), kinds=frozenset([RELAY_LISTS]))
            seen: set[bytes] = set()
            async for event in self._lists.all(query):
                if event.pubkey not in seen:  # the newest comes first
                    seen.add(event.pubkey)
                    listed, _ = relays_in(event.kind, decode_tags(event.tags or "[]"))
                    self._written[event.pubkey] = self._chosen(listed)
        return {author: self._written[author] for author in authors}

    def _chosen(self, listed: Collection[ListedRelay]) -> tuple[str, ...]:
        """A few of the relays to which an author writes, those that are well first."""

        def rank(url: str) -> int:
            number = self._numbers.get(url)
            return 1 if number is None else 2 if number in self._failing else 0

        urls = [
            each.url
            for each in listed
            if each.write
            and each.url != self._selection.held_by
            and self._networks.link(Relay(each.url).network).enabled
        ]
        return tuple(sorted(urls, key=rank)[: self._selection.most_relays])


def _hex(keys: Collection[bytes] | None) -> list[str] | None:
    return None if keys is None else [key.hex() for key in keys]
