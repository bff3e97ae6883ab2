"""Reads the ids of events in masses."""

import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from bigbrotr.core.pool import Pool
from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.models.query import Query
from bigbrotr.reads.events import PAGE, EventReads

PACKED = 20_000  # ids that are read at once: 800 kB


class PackedIds(NamedTuple):
    """Some events: their times, 8 bytes each, most significant first, and their ids, 32 each."""

    created_ats: bytes
    ids: bytes

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.ids) // 32


async def packed_ids(
    pool: Pool, events: EventReads, query: Query, *, most_bytes: int | None = None
) -> AsyncIterator[PackedIds]:
    """The ids of all events that match, or of the newest `limit` of them, some at a time.

    They come in the order (created_at, id) where kinds, authors and time alone are asked for; with
    other conditions they come newest first, by way of the events themselves.

    Raises:
        NotKeptError: the query asks for tags, and the archive keeps none.
    """
    if query.is_empty:
        return
    is_plain = not query.tags and query.ids is None and query.limit is None
    if is_plain:
        since, after = query.since, b""
        until = min(query.until + 1, MAX_CREATED_AT)
        while since < until:
            row = await pool.fetchrow(
                "SELECT * FROM bigbrotr.read_shown_ids(p_view => $1, p_now => $2, p_since => $3,"
                " p_until => $4, p_after => $5, p_limit => $6, p_kinds => $7, p_pubkeys => $8)",
                events.view.value,
                int(time.time()),
                since,
                until,
                after,
                PACKED,
                None if query.kinds is None else sorted(query.kinds),
                None if query.authors is None else sorted(query.authors),
            )
            assert row is not None
            found = PackedIds(row["created_ats"] or b"", row["ids"] or b"")
            if found.ids:
                yield found
            if found.number < PACKED:
                break
            since, after = int.from_bytes(found.created_ats[-8:]), found.ids[-32:]
        if query.until < MAX_CREATED_AT:
            return
        # The last second of all: a span that ends after it cannot be said.
        query = Query(
            kinds=query.kinds, authors=query.authors, since=MAX_CREATED_AT, until=MAX_CREATED_AT
        )
    at, left = None, query.limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = await events.page(query, size, at, most_bytes=most_bytes)
        if page.events:
            yield PackedIds(
                b"".join(event.created_at.to_bytes(8) for event in page.events),
                b"".join(event.id for event in page.events),
            )
        if page.next is None:
            return
        at = page.next
        left = None if left is None else left - len(page.events)
