"""Reads the archived events that match a query, newest first, page by page."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from bigbrotr.core.calls.base import call_of
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import Event, decode_tags, tag_hash
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.models.search import Search as Words
from bigbrotr.models.search import words_of_event
from bigbrotr.reads.plan import (
    Partition,
    Piece,
    Stretch,
    Way,
    choose,
    common_letters,
    expected,
    hashes_of,
    partitions_of,
    without,
)
from bigbrotr.reads.policy import Settled

PAGE = 500  # events that are read at once
EXAMINED = 20_000  # events that a walk looks at before it is judged again
MOST_IDS = 1000  # that are looked up at once
MOST_SHARES = 1000  # that are kept in mind
LONG_US = 20_000.0  # of a search: the statistics by day may spare some of it
FRESH_S = 300.0  # for which statistics are used
SEARCH_FRESH_S = 5.0  # for which it is known whether there is an index of words
SEARCHED_S = 604_800  # of the past that a search looks through first, and then ...
SEARCHED_MORE = 4  # ... so many times as much
LAST_ID = b"\xff" * 32  # comes after all others of its second

_encode = msgspec.json.Encoder().encode


class NotKeptError(Exception):
    """The archive does not keep what would have to be looked at (the profile lite)."""


class NotSearchedError(Exception):
    """The archive has no index of words (`[search] enabled`)."""


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


class Count(NamedTuple):
    """How many events match; `is_exact` false: about so many, by statistics."""

    events: int
    is_exact: bool


class Found(NamedTuple):
    """What was found, and up to where everything was looked at; None: to the end."""

    events: list[StoredEvent]
    number: int  # of those found: with another tag of the same hash, more than events
    reached: Position | None
    is_cut: bool = False  # the bytes were enough


class Look(NamedTuple):
    """What one statement has brought."""

    events: list[StoredEvent]  # whose tags are as wanted
    found: int
    last: Position | None  # of those found
    examined: int  # by a walk
    at: Position | None  # the last that a walk has looked at
    is_cut: bool
    is_late: bool = False  # time was up before a walk had come to its end


COLUMNS = len(StoredEvent._fields)


class EventReads:
    """Finds events in whatever way is quickest, as far as the statistics tell: those that a view
    shows, and no others. With `settled`, any question may raise UnsettledError."""

    def __init__(
        self,
        pool: Pool,
        view: View,
        *,
        examined: int = EXAMINED,
        settled: Settled | None = None,
    ) -> None:
        self._pool = pool
        self._settled = settled
        self.view = view
        self._examined = examined
        self._partitions: list[Partition] = []
        self._read_at = 0.0  # monotonic
        self._shares: dict[object, float] = {}  # of the events that match, where it was seen
        self._keeps_tags: bool | None = None
        self._searched: frozenset[int] | None = None
        self._searched_at = float("-inf")  # monotonic

    async def page(
        self,
        query: Query,
        limit: int = PAGE,
        after: Position | None = None,
        *,
        budget_s: float | None = None,
        most_bytes: int | None = None,
    ) -> EventPage:
        """Up to `limit` events that match, after those of the page before. With `budget_s`, the
        page ends with what one more look brings when that time is over; with `most_bytes`, with
        the event whose content and tags pass them.

        Raises:
            NotKeptError: the query asks for tags, and the archive keeps none.
            NotSearchedError: it asks for words, and there is no index of them.
        """
        query = await self._checked(query)
        events: list[StoredEvent] = []
        if query.is_empty or limit < 1:
            return EventPage(events, None)
        search = _Search(_deadline(budget_s), most_bytes)
        while True:
            wanted = limit + 1 - len(events)  # one more tells whether there is a next page
            found = await self._find(query, wanted, after, search)
            events += found.events
            if len(events) > limit:
                last = events[limit - 1]
                return EventPage(events[:limit], Position(last.created_at, last.id))
            if found.reached is None or found.is_cut or _is_over(search.deadline):
                return EventPage(events, found.reached)
            after = found.reached

    async def count(self, query: Query, most: int, *, budget_s: float | None = None) -> Count:
        """How many events match: exactly up to `most`, and as far as `budget_s` seconds reach.
        Beyond, about so many, as statistics have it; at least as many as were counted.

        Raises:
            NotKeptError: the query asks for tags, and the archive keeps none.
            NotSearchedError: it asks for words, and there is no index of them.
        """
        query = await self._checked(query)
        if query.is_empty:
            return Count(0, is_exact=True)
        # Tags and texts are read: two may share a hash.
        is_read = bool(query.tags) or query.search is not None
        search = _Search(_deadline(budget_s), None, is_read=is_read)
        number, after = 0, None
        while True:
            step = min(PAGE, most + 1 - number) if is_read else most + 1 - number
            found = await self._find(query, step, after, search)
            number += len(found.events) if is_read else found.number
            if found.reached is None and number <= most:
                return Count(number, is_exact=True)
            if number > most or _is_over(search.deadline):
                if query.search is not None:  # of words there are no statistics
                    return Count(number, is_exact=False)
                about = expected(await self._pieces(query), query)
                return Count(max(number, round(about)), is_exact=False)
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

    async def searched_kinds(self) -> frozenset[int] | None:
        """Of which kinds events can be searched for by words; None: there is no index."""
        now = time.monotonic()
        if now - self._searched_at > SEARCH_FRESH_S:
            (row,) = await self._call("search_position")
            self._searched = None if row["kinds"] is None else frozenset(row["kinds"])
            self._searched_at = now
        return self._searched

    async def _checked(self, query: Query) -> Query:
        """The query, with the kinds that can be searched for where it asks for words."""
        if self._settled is not None:
            await self._settled.check()
        if query.tags and not await self._has_tags():
            raise NotKeptError("this archive keeps no tags (its profile is lite)")
        if query.search is None:
            return query
        if (kinds := await self.searched_kinds()) is None:
            raise NotSearchedError("this archive has no index of words ([search] enabled)")
        return replace(query, kinds=kinds if query.kinds is None else query.kinds & kinds)

    # Where they are

    async def _find(
        self, query: Query, wanted: int, after: Position | None, search: "_Search"
    ) -> Found:
        """The next events that match; those with other tags of the same hash are looked at, and
        left out."""
        if after is not None:
            query = replace(query, until=min(query.until, after.created_at))
        if query.ids is not None:
            look = await self._find_ids(query, wanted, after, search)
            is_all = look.found < wanted and not look.is_cut
            return Found(look.events, look.found, None if is_all else look.last, look.is_cut)
        if query.search is not None:
            return await self._find_words(query, query.search, wanted, after, search)
        events: list[StoredEvent] = []
        number = 0
        reached: Position | None = None
        pieces = await self._pieces(query)
        kind = (query.authors, query.kinds, *sorted(query.tags.items()))
        is_first, is_long = True, False
        while pieces and (left := wanted - number) > 0:
            plan = choose(pieces, query, left, share=self._shares.get(kind), is_first=is_first)
            if plan.cost_us > LONG_US and not is_long:
                is_long = True
                left_over = await self._promising(pieces, query)
                if left_over != pieces:
                    pieces = left_over
                    continue
            is_first = False
            run, pieces = plan.cut(pieces)
            span = replace(query, since=run[-1].since, until=run[0].until)
            if plan.way is Way.WALK:
                look = await self._walk(run, span, left, after, search)
            else:
                look = await self._look_up(plan.way, plan.letter, span, left, after, search)
            self._learn(kind, run, look, is_full=look.found >= left)
            events += look.events
            number += look.found
            reached = look.last or reached
            if look.is_cut:
                return Found(events, number, reached, is_cut=True)
            if look.is_late:
                return Found(events, number, look.at)
            if pieces and _is_over(search.deadline) and number < wanted:
                return Found(events, number, Position(span.since, LAST_ID))
        return Found(events, number, reached if number == wanted else None)

    async def _find_words(
        self, query: Query, words: Words, wanted: int, after: Position | None, search: "_Search"
    ) -> Found:
        """Looks through the index of words, from the newest event back, in longer and longer
        stretches of time: a common word is found in the first, and for a rare one there are few."""
        until, length = query.until, SEARCHED_S
        events: list[StoredEvent] = []
        number = 0
        hashes = words.hashes
        while True:
            since = max(query.since, min(until, int(time.time())) - length)
            span = replace(query, since=since, until=until)
            rows = await self._call(
                "read_by_words",
                p_tokens=hashes,
                **_conditions(span, after),
                **self._seen(),
                p_limit=wanted - number,
                p_most_bytes=search.bytes_left,
            )
            look = search.take(query, rows)
            events += look.events
            number += look.found
            if look.is_cut or number >= wanted:
                return Found(events, number, look.last, look.is_cut)
            if since <= query.since:
                return Found(events, number, None)
            if _is_over(search.deadline):
                return Found(events, number, Position(since, LAST_ID))
            until, length = since - 1, length * SEARCHED_MORE

    async def _promising(self, pieces: list[Piece], query: Query) -> list[Piece]:
        """The pieces without the days of which it is known that none of the kinds bears one of the
        tags: an index of kinds and one of tags would have to be read as a whole to see that."""
        for letter in common_letters(pieces, query) if query.kinds is not None else ():
            days = await self._pool.fetchval(
                call_of("days_without", "p_kinds", "p_hashes", "p_since", "p_until"),
                sorted(query.kinds or ()),
                hashes_of(query)[letter],
                pieces[-1].since,
                pieces[0].until,
            )
            pieces = without(pieces, [Stretch(each.lower, each.upper - 1) for each in days])
        return pieces

    def _learn(self, kind: object, run: list[Piece], look: Look, *, is_full: bool) -> None:
        """Keeps in mind which share of the events matched: conditions may exclude each other, of
        which statistics know nothing."""
        rows = float(look.examined)
        if not rows and not is_full and not look.is_cut:
            rows = sum(float(piece.rows) for piece in run if piece.partition.is_filled)
        if rows >= self._examined:
            if len(self._shares) >= MOST_SHARES:
                self._shares.clear()
            self._shares[kind] = (look.found + 1) / rows

    async def _find_ids(
        self, query: Query, wanted: int, after: Position | None, search: "_Search"
    ) -> Look:
        ids = sorted(query.ids or ())
        if search.is_read and len(ids) <= MOST_IDS:
            rows = await self._call(
                "read_by_ids",
                p_ids=ids,
                **_conditions(query, after),
                **self._seen(),
                p_limit=wanted,
                p_most_bytes=search.bytes_left,
            )
            return search.take(query, rows)
        found: list[Position] = []
        for start in range(0, len(ids), MOST_IDS):
            rows = await self._call(
                "find_by_ids",
                p_ids=ids[start : start + MOST_IDS],
                **_conditions(query, after),
                p_limit=wanted,
                **self._seen(),
            )
            found += [Position(*row) for row in rows]
        found = sorted(found, key=lambda each: (-each.created_at, each.id))[:wanted]
        if not search.is_read or not found:
            return Look([], len(found), found[-1] if found else None, 0, None, is_cut=False)
        rows = await self._call(
            "read_page",
            p_created_ats=[each.created_at for each in found],
            p_ids=[each.id for each in found],
            p_most_bytes=search.bytes_left,
        )
        return search.take_page(query, rows)

    async def _walk(
        self,
        pieces: list[Piece],
        query: Query,
        wanted: int,
        after: Position | None,
        search: "_Search | None" = None,
    ) -> Look:
        """Looks at one event after the other. Where that finds less than was expected, it is judged
        again whether another way is quicker."""
        search = search or _Search()
        whole = Look([], 0, None, 0, None, is_cut=False)
        while True:
            left = wanted - whole.found
            look = await self._look_up(Way.WALK, "", query, left, after, search)
            whole = _joined(whole, look)
            if look.is_cut or look.examined < self._examined or whole.found >= wanted:
                return whole
            after = look.at
            assert after is not None
            if _is_over(search.deadline):
                return whole._replace(at=after, is_late=True)
            query = replace(query, until=after.created_at)
            share = (whole.found + 1) / whole.examined
            left = wanted - whole.found
            plan = choose(pieces, query, left, share=share)
            if plan.way is not Way.WALK:
                look = await self._look_up(plan.way, plan.letter, query, left, after, search)
                return _joined(whole, look)

    async def _look_up(
        self,
        way: Way,
        letter: str,
        query: Query,
        wanted: int,
        after: Position | None,
        search: "_Search | None" = None,
    ) -> Look:
        search = search or _Search()
        conditions = _conditions(query, after, first=letter) | self._seen()
        if not search.is_read:
            rows = await self._call(
                "events_page",
                p_way=way.value,
                **conditions,
                p_limit=wanted,
                p_examine=self._examined,
                p_read=False,
                p_most_bytes=None,
            )
            return search.take_page(query, rows)
        if way is Way.TAGS:
            rows = await self._call(
                "read_by_tags", **conditions, p_limit=wanted, p_most_bytes=search.bytes_left
            )
        else:
            rows = await self._call(
                "read_in_order",
                p_way=way.value,
                **conditions,
                p_limit=wanted,
                p_examine=self._examined,
                p_most_bytes=search.bytes_left,
            )
        return search.take(query, rows)

    async def _pieces(self, query: Query) -> list[Piece]:
        """The partitions that the query touches, newest first, each with the part of its time."""
        now = time.monotonic()
        if not self._partitions or now - self._read_at > FRESH_S:
            self._partitions = partitions_of(await self._call("events_statistics"))
            self._shares.clear()
            self._read_at = now
        return [
            Piece(part, max(query.since, part.since), min(query.until, part.until))
            for part in self._partitions
            if part.since <= query.until and part.until >= query.since
        ]

    def _seen(self) -> dict[str, Any]:
        """What is looked at, and when."""
        return {"p_view": self.view.value, "p_now": int(time.time())}

    async def _call(self, function: str, **arguments: object) -> list[Any]:
        return await self._pool.fetch(call_of(function, *arguments), *arguments.values())


class _Search:
    """What bounds one search, and what it has taken so far."""

    def __init__(
        self,
        deadline: float | None = None,
        most_bytes: int | None = None,
        *,
        is_read: bool = True,
    ) -> None:
        self.deadline = deadline
        self.is_read = is_read
        self.bytes_left = most_bytes

    def take(self, query: Query, rows: list[Any]) -> Look:
        """What a statement has read. Where a walk has ended early, its last row tells of that."""
        examined, reached = 0, None
        if rows and rows[-1]["id"] is None:
            told = rows.pop()
            examined, reached = told["examined"], Position(told["last_at"], told["last_id"])
        events = [StoredEvent._make(row[:COLUMNS]) for row in rows]
        last = Position(events[-1].created_at, events[-1].id) if events else None
        is_cut = False
        if self.bytes_left is not None:
            self.bytes_left -= sum(_size(e.content) + _size(e.tags) for e in events)
            is_cut = bool(events) and self.bytes_left <= 0
        wanted = _with_tags(query, events) if query.tags else events
        if query.search is not None:
            wanted = [event for event in wanted if has_words(query.search, event)]
        return Look(wanted, len(events), last, examined, reached, is_cut)

    def take_page(self, query: Query, rows: list[Any]) -> Look:
        """The same, where the last row always tells of the look itself, and of how many matched."""
        *rows, told = rows
        at = told["last_at"]
        reached = None if at is None else Position(at, told["last_id"])
        last = None if told["created_at"] is None else Position(told["created_at"], told["id"])
        look = self.take(query, rows)
        is_cut = self.is_read and (look.is_cut or look.found < told["matches"])
        if self.is_read:
            last = look.last
        return Look(look.events, told["matches"], last, told["examined"], reached, is_cut)


def _size(text: str | None) -> int:
    """How many bytes a text has, as PostgreSQL counts them."""
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def _with_tags(query: Query, events: list[StoredEvent]) -> list[StoredEvent]:
    return [e for e in events if e.tags is not None and query.has_tags(decode_tags(e.tags))]


def has_words(search: Words, event: StoredEvent, tags: list[list[str]] | None = None) -> bool:
    """Whether an event has the words that are looked for; `tags` are its own, decoded."""
    if event.content is None:
        return False
    if tags is None:
        tags = decode_tags(event.tags or "[]")
    return search.matches(words_of_event(event.kind, tags, event.content))


def _joined(before: Look, look: Look) -> Look:
    return Look(
        before.events + look.events,
        before.found + look.found,
        look.last or before.last,
        before.examined + look.examined,
        look.at,
        look.is_cut,
    )


def _deadline(budget_s: float | None) -> float | None:
    return None if budget_s is None else time.monotonic() + budget_s


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
