"""Events as rows for COPY: PostgreSQL's binary format, made at once for a whole page.

An array for each column, as a function takes it, costs this process half as much again, and the
server a quarter: what is copied it writes a page of the table at a time. Rows of plain events are
made in C (`make_rows`) where that is installed.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from struct import Struct
from typing import TypeAlias

import msgspec

from bigbrotr.models import native
from bigbrotr.models.event import Event, storable, tag_hashes
from bigbrotr.models.mentions import mentioned, normal_urls
from bigbrotr.models.plain import Plain

WEEK_S = 604_800
LAST_SLICE = 2**31 - 1  # of all that is later, see slice_of

MOST_REMEMBERED = 200  # bytes of the texts of an event
_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)  # no flags, no extension
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_INT4 = 23  # PostgreSQL's number of the type

# The columns that every profile keeps, and those of the profile full: each value after its length.
# The number comes last: it is drawn when all else is made.
ESSENTIAL = ("created_at", "kind", "slice", "id", "pubkey", "num")
FULL = (*ESSENTIAL[:-1], "sig", "tags", "tag_hashes", "content", "num")
_essential = Struct("!h iq ii ii i32s i32s")
_until_tags = Struct("!h iq ii ii i32s i32s i64s i")
_length = Struct("!i").pack
_number = Struct("!iq").pack

_encode = msgspec.json.Encoder().encode


class Row(msgspec.Struct, frozen=True, gc=False):
    """A plain event as a row of the profile full, all but its number. `claim` is to be verified
    before it is stored."""

    id: bytes
    created_at: int
    kind: int
    claim: bytes
    frame: bytes  # in which it came
    data: bytes
    texts: bytes  # of its tags, that begin like the URL of a relay: lines
    looks_deeper: bool  # its content, or what is not ASCII, may name further relays

    @property
    def pubkey(self) -> bytes:
        """Its author's public key (32 bytes)."""
        return self.claim[96:]

    def event(self) -> Event:
        """The event, of a row that was verified."""
        plain = Plain(self.id, self.created_at, self.kind, self.claim, self.frame)
        return plain.decode().event(is_signed=True)


Stored: TypeAlias = Event | Row  # verified: what is to be stored


def make_rows(events: Sequence[Plain]) -> list[Row | None]:
    """The row of each event; None: it is not plain enough for that."""
    if native.here is None or not events:
        return [None] * len(events)
    made = zip(events, native.here.rows([event.frame for event in events]), strict=True)
    return [
        Row(event.id, event.created_at, event.kind, event.claim, event.frame, *row) if row else None
        for event, row in made
    ]


def urls_of(event: Stored) -> Sequence[str]:
    """The relays that an event names."""
    if not isinstance(event, Row):
        return mentioned(event.kind, event.tags, event.content)
    if event.looks_deeper:
        return urls_of(event.event())
    if len(event.texts) > MOST_REMEMBERED:
        return _urls_in(event.texts)
    return _urls_remembered(event.texts) if event.texts else ()


def _urls_in(texts: bytes) -> Sequence[str]:
    return tuple(normal_urls(texts[:-1].decode().split("\n")))


_urls_remembered = lru_cache(maxsize=4096)(_urls_in)  # the same few are named all the time


def raw_of(event: Stored) -> bytes | None:
    """What was hashed, of an event whose columns cannot give it back."""
    return None if isinstance(event, Row) else event.raw


def whole(event: Stored) -> Event:
    """An event with all that it says."""
    return event.event() if isinstance(event, Row) else event


def columns_of(kept: Collection[str]) -> Sequence[str] | None:
    """The columns of the rows for a profile that keeps these; None: it has none of ours."""
    if not kept:
        return ESSENTIAL
    return FULL if {"sig", "tags", "content"} <= set(kept) else None


def rows(events: Sequence[Stored], nums: Sequence[int], columns: Sequence[str]) -> bytes:
    """Returns events with their numbers as COPY takes them, whole; `columns` of `columns_of`."""
    row_of = _essential_row if columns is ESSENTIAL else _full_row
    parts = [_HEAD]
    for event, num in zip(events, nums, strict=True):
        parts += (row_of(event), _number(8, num))
    parts.append(_END)
    return b"".join(parts)


def _essential_row(event: Stored) -> bytes:
    at = event.created_at
    fixed = (8, at, 4, event.kind, 4, _slice_of(at), 32, event.id, 32, event.pubkey)
    return _essential.pack(len(ESSENTIAL), *fixed)


def _full_row(event: Stored) -> bytes:
    if isinstance(event, Row):
        return event.data
    at, tags, content = event.created_at, tags_of(event), content_of(event).encode()
    json = _encode(tags)
    head = _until_tags.pack(
        *(len(FULL), 8, at, 4, event.kind, 4, _slice_of(at), 32, event.id),
        *(32, event.pubkey, 64, event.sig, len(json)),
    )
    return b"".join((head, json, _integers(tag_hashes(tags)), _length(len(content)), content))


def _slice_of(created_at: int) -> int:
    return min(created_at // WEEK_S, LAST_SLICE)


def tags_of(event: Event) -> tuple[tuple[str, ...], ...]:
    """The tags as they are stored; without `raw`, PostgreSQL can hold them as they are."""
    if event.raw is None:
        return event.tags
    return tuple(tuple(map(storable, tag)) for tag in event.tags)


def content_of(event: Event) -> str:
    """The content as it is stored."""
    return event.content if event.raw is None else storable(event.content)


def _integers(values: Sequence[int]) -> bytes:
    """An array after its length; NULL for an empty one."""
    count = len(values)
    if not count:
        return _NULL
    sized = [4] * (2 * count)
    sized[1::2] = values
    size = 20 + 8 * count
    return _array(count).pack(size, 1, 0, _INT4, count, 1, *sized)


@lru_cache(maxsize=256)
def _array(count: int) -> Struct:
    return Struct(f"!iiiiii{'ii' * count}")
