"""Reads the archived events that match a query, newest first, page by page."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from bigbrotr.core.calls.base import call_of
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import Event, tag_hash
from bigbrotr.models.query import Position, Query
from bigbrotr.reads.plan import Partition, Piece, Way, choose, partitions_of

PAGE = 500  # events that are read at once
EXAMINED = 20_000  # events that a walk looks at before it is judged again
MOST_IDS = 1000  # that are looked up at once
FRESH_S = 300.0  # for which statistics are used
LAST_ID = b"\xff" * 32  # comes after all others of its second

_encode = msgspec.json.Encoder().encode
_decode_tags = msgspec.json.Decoder(list[list[str]]).decode


class NotKeptError(Exception):
    """The archive does not keep what would have to be looked at (the profile lite)."""


class StoredEvent(NamedTuple):
    """An event as the archive keeps it. In the profile lite the last five are None."""

    created_at: int
    id: bytes
    pubkey: bytes
    kind: int
    tags: str | None  # JSON
    content: str | None
    sig: bytes | None
    raw: bytes | None  # what was hashed, where tags and content cannot give it back
    num: int

    def to_json(self) -> bytes:
        """The event as signed, as one JSON object; what is not kept is left out."""
        if self.raw is not None and self.sig is not None:
            return self._exactly().encode()
        head = (
            f'{{"id":"{self.id.hex()}","pubkey":"{self.pubkey.hex()}",'
            f'"created_at":{self.created_at},"kind":{self.kind}'
        ).encode()
        if self.tags is None or self.sig is None:
            return head + b"}"
        return b'%b,"tags":%b,"content":%b,"sig":"%b"}' % (
            head,
            self.tags.encode(),
            _encode(self.content),
            self.sig.hex().encode(),
        )

    def _exactly(self) -> str:
        """The JSON that hashes to the id; it was verified when it was stored."""
        assert self.raw is not None
        assert self.sig is not None
        # Unescaped control characters are no JSON, but Python can be asked to read them.
        fields = json.JSONDecoder(strict=False).decode(self.raw.decode())
        tags = tuple(map(tuple, fields[4]))
        return Event(
            self.id, self.pubkey, self.created_at, self.kind, tags, fields[5], self.sig
        ).to_json()


class EventPage(NamedTuple):
    """Some events of an answer, and where the next page begins; None at the end. A page may be
    short, or empty, before the end: where little of much matches, and time was up."""

    events: list[StoredEvent]
    next: Position | None


class Found(NamedTuple):
    """What was found, and up to where everything was looked at; None: to the end."""

    positions: list[Position]
    reached: Position | None


class EventReads:
    """Finds events in whatever way is quickest, as far as the statistics tell."""

    def __init__(self, pool: Pool, *, examined: int = EXAMINED) -> None:
        self._pool = pool
        self._examined = examined
        self._partitions: list[Partition] = []
        self._read_at = 0.0  # monotonic
        self._keeps_tags: bool | None = None

    async def page(
        self,
        query: Query,
        limit: int = PAGE,
        after: Position | None = None,
        *,
        budget_s: float | None = None,
    ) -> EventPage:
        """Up to `limit` events that match, after those of the page before. With `budget_s`, the
        page ends with what one more look brings when that time is over.

        Raises:
            NotKeptError: the query asks for tags, and the archive keeps none.
        """
        if query.tags and not await self._has_tags():
            raise NotKeptError("this archive keeps no tags (its profile is lite)")
        events: list[StoredEvent] = []
        if query.is_empty or limit < 1:
            return EventPage(events, None)
        deadline = None if budget_s is None else time.monotonic() + budget_s
        while True:
            wanted = limit + 1 - len(events)  # one more tells whether there is a next page
            found = await self._find(query, wanted, after, deadline)
            events += await self._read(query, found.positions)
            if len(events) > limit:
                last = events[limit - 1]
                return EventPage(events[:limit], Position(last.created_at, last.id))
            if found.reached is None or _is_over(deadline):
                return EventPage(events, found.reached)
            after = found.reached

    async def all(self, query: Query, after: Position | None = None) -> AsyncIterator[StoredEvent]:
        """All events that match, or the first `limit` of them, a page in memory at a time."""
        left = query.limit
        while left is None or left > 0:
            page = await self.page(query, PAGE if left is None else min(PAGE, left), after)
            for event in page.events:
                yield event
            if page.next is None:
                return
            after = page.next
            left = None if left is None else left - len(page.events)

    async def _has_tags(self) -> bool:
        if self._keeps_tags is None:
            kept = await self._pool.fetchval("SELECT * FROM bigbrotr.kept_columns()")
            self._keeps_tags = "tags" in kept
        return self._keeps_tags

    async def _read(self, query: Query, found: Sequence[Position]) -> list[StoredEvent]:
        """The events at these positions, without those whose tags only have the same hash."""
        if not found:
            return []
        rows = await self._call(
            "read_events",
            p_created_ats=[each.created_at for each in found],
            p_ids=[each.id for each in found],
        )
        events = [StoredEvent(*row) for row in rows]
        if query.tags:
            return [
                e for e in events if e.tags is not None and query.has_tags(_decode_tags(e.tags))
            ]
        return events

    # Where they are

    async def _find(
        self, query: Query, wanted: int, after: Position | None, deadline: float | None
    ) -> Found:
        """The positions of the next events whose columns and tag hashes match."""
        if after is not None:
            query = replace(query, until=min(query.until, after.created_at))
        if query.ids is not None:
            found = await self._find_ids(query, wanted, after)
            return Found(found, found[-1] if len(found) == wanted else None)
        found = []
        pieces = await self._pieces(query)
        while pieces and (left := wanted - len(found)) > 0:
            plan = choose(pieces, query, left)
            run, pieces = pieces[: plan.pieces], pieces[plan.pieces :]
            span = replace(query, since=run[-1].since, until=run[0].until)
            if plan.way is Way.WALK:
                found += await self._walk(run, span, left, after)
            else:
                found += await self._look_up(plan.way, plan.letter, span, left, after)
            if pieces and _is_over(deadline) and len(found) < wanted:
                return Found(found, Position(span.since, LAST_ID))
        return Found(found, found[-1] if len(found) == wanted else None)

    async def _find_ids(self, query: Query, wanted: int, after: Position | None) -> list[Position]:
        ids = sorted(query.ids or ())
        found: list[Position] = []
        for start in range(0, len(ids), MOST_IDS):
            rows = await self._call(
                "find_by_ids",
                p_ids=ids[start : start + MOST_IDS],
                **_conditions(query, after),
                p_limit=wanted,
            )
            found += [Position(*row) for row in rows]
        return sorted(found, key=lambda each: (-each.created_at, each.id))[:wanted]

    async def _walk(
        self, pieces: list[Piece], query: Query, wanted: int, after: Position | None
    ) -> list[Position]:
        """Looks at one event after the other. Where that finds less than was expected, it is judged
        again whether another way is quicker."""
        found: list[Position] = []
        examined = 0
        while len(found) < wanted:
            row = await self._pool.fetchrow(
                call_of("walk_events", *_WALK),
                *_conditions(query, after).values(),
                wanted - len(found),
                self._examined,
            )
            assert row is not None
            found += map(Position, row["created_ats"], row["ids"])
            examined += row["examined"]
            if row["examined"] < self._examined or len(found) >= wanted:
                break
            after = Position(row["last_at"], row["last_id"])
            query = replace(query, until=after.created_at)
            share = (len(found) + 1) / examined
            plan = choose(pieces, query, wanted - len(found), share=share)
            if plan.way is not Way.WALK:
                return found + await self._look_up(
                    plan.way, plan.letter, query, wanted - len(found), after
                )
        return found

    async def _look_up(
        self, way: Way, letter: str, query: Query, wanted: int, after: Position | None
    ) -> list[Position]:
        rows = await self._call(
            way.value, **_conditions(query, after, first=letter), p_limit=wanted
        )
        return [Position(*row) for row in rows]

    async def _pieces(self, query: Query) -> list[Piece]:
        """The partitions that the query touches, newest first, each with the part of its time."""
        now = time.monotonic()
        if not self._partitions or now - self._read_at > FRESH_S:
            self._partitions = partitions_of(await self._call("events_statistics"))
            self._read_at = now
        return [
            Piece(part, max(query.since, part.since), min(query.until, part.until))
            for part in self._partitions
            if part.since <= query.until and part.until >= query.since
        ]

    async def _call(self, function: str, **arguments: object) -> list[Any]:
        return await self._pool.fetch(call_of(function, *arguments), *arguments.values())


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _conditions(query: Query, after: Position | None, first: str = "") -> dict[str, Any]:
    """The arguments that all functions take; the tags of the letter `first` come first."""
    letters = sorted(query.tags, key=lambda letter: letter != first)
    hashes = [sorted({tag_hash(each, v) for v in query.tags[each]}) for each in letters]
    return {
        "p_since": query.since,
        "p_until": query.until,
        "p_after_at": None if after is None else after.created_at,
        "p_after_id": None if after is None else after.id,
        "p_kinds": None if query.kinds is None else sorted(query.kinds),
        "p_pubkeys": None if query.authors is None else sorted(query.authors),
        "p_hashes": hashes[0] if hashes else None,
        "p_more": [f"{{{','.join(map(str, each))}}}" for each in hashes[1:]] or None,
    }


_WALK = (*_conditions(Query(), None), "p_limit", "p_examine")
