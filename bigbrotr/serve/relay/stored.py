"""Reads the stored events of a request: each filter on its own, merged newest first."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable

from bigbrotr.models.query import Position, Query
from bigbrotr.reads.events import PAGE, EventPage, EventReads, StoredEvent
from bigbrotr.serve.relay.views import PAGE_BYTES

LEAST_BYTES = 1 << 18  # of a page of each of many filters
PAGE_S = 1.0  # after which a page ends, where little of much matches

Asking = Callable[[Callable[[], Awaitable[EventPage]]], Awaitable[EventPage]]


class TooSlowError(Exception):
    """An answer takes more of the database's time than one request may."""


class Stored:
    """The answer to a request. Memory: a page of each filter, of a megabyte together or of 256 kB
    each, and an event more each."""

    def __init__(
        self,
        reads: EventReads,
        queries: list[Query],
        ask: Asking,
        *,
        default_limit: int,
        max_limit: int,
        answer_s: float,
    ) -> None:
        self._streams = []
        for query in queries:
            # Who names ids wants them all, and does not think of a limit.
            default = max(default_limit, len(query.ids or ()))
            limit = default if query.limit is None else query.limit
            most_bytes = max(PAGE_BYTES // len(queries), LEAST_BYTES)
            stream = _Stream(reads, query, min(limit, max_limit), most_bytes)
            self._streams.append(stream)
        self._ask = ask
        self._left_s = answer_s
        self.is_asked = any(stream.left for stream in self._streams)

    @property
    def has_more(self) -> bool:
        """Whether more is stored than was asked for, or than is handed out at once."""
        return any(stream.has_more for stream in self._streams)

    async def pages(self) -> AsyncIterator[list[StoredEvent]]:
        """The events newest first, by id within a second, each once.

        Raises:
            TooSlowError: the database worked for so long that the answer ends before its end.
        """
        sent: bytes | None = None
        page: list[StoredEvent] = []
        while True:
            for stream in self._streams:
                while stream.is_hungry:
                    if page:  # what there is, before the database is waited for
                        yield page
                        page = []
                    await self._fill(stream)
            ahead = [stream for stream in self._streams if stream.events]
            if not ahead:
                break
            if len(ahead) == 1 and len(self._streams) == 1:
                page, ahead[0].events = ahead[0].events[::-1], []
                continue
            first = min(ahead, key=lambda each: (-each.events[-1].created_at, each.events[-1].id))
            event = first.events.pop()
            if event.id != sent:
                page.append(event)
                sent = event.id
        if page:
            yield page

    async def _fill(self, stream: "_Stream") -> None:
        if self._left_s <= 0:
            raise TooSlowError

        async def look() -> EventPage:
            began = time.monotonic()
            try:
                return await stream.read()
            finally:
                self._left_s -= time.monotonic() - began

        stream.take(await self._ask(look))


class _Stream:
    """The events of one filter, as far as they are read; the next is the last."""

    def __init__(self, reads: EventReads, query: Query, limit: int, most_bytes: int) -> None:
        self.events: list[StoredEvent] = []
        self.left = limit
        self.has_more = False
        self._reads = reads
        self._query = query
        self._most_bytes = most_bytes
        self._after: Position | None = None
        self._is_over = not limit
        self._is_late = False
        self._is_probe = False  # all that was wanted is here: is there one more?

    @property
    def is_hungry(self) -> bool:
        """Whether the next event has to be read."""
        return not self.events and not self._is_over

    async def read(self) -> EventPage:
        """Reads the next page."""
        size = 1 if self._is_probe else min(PAGE, self.left)
        began = time.monotonic()
        page = await self._reads.page(
            self._query, size, self._after, budget_s=PAGE_S, most_bytes=self._most_bytes
        )
        self._is_late = time.monotonic() > began + PAGE_S
        return page

    def take(self, page: EventPage) -> None:
        """Takes a page over."""
        self._after = page.next
        if self._is_probe:
            self.has_more = bool(page.events)
            self._is_over = self.has_more or page.next is None
            return
        self.events = page.events[::-1]
        self.left -= len(page.events)
        if page.next is None:
            self._is_over = True
        elif not self.left:
            # A page that time or bytes have ended may just be the last; another goes on.
            self._is_probe = self._is_late or size_of(page.events) >= self._most_bytes
            self._is_over = self.has_more = not self._is_probe


def size_of(events: list[StoredEvent]) -> int:
    """Bytes of tags and contents."""
    return sum(
        len((event.tags or "").encode()) + len((event.content or "").encode()) for event in events
    )
