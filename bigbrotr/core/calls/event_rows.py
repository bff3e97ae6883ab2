"""Events as rows for COPY: PostgreSQL's binary format, made at once for a whole page.

An array for each column, as a function takes it, costs this process half as much again, and the
server a quarter: what is copied it writes a page of the table at a time.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from struct import Struct

import msgspec

from bigbrotr.models.event import Event, storable, tag_hashes

WEEK_S = 604_800
LAST_SLICE = 2**31 - 1  # of all that is later, see slice_of

_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)  # no flags, no extension
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_INT4 = 23  # PostgreSQL's number of the type

# The columns that every profile keeps, and those of the profile full: each value after its length.
ESSENTIAL = ("created_at", "num", "kind", "slice", "id", "pubkey")
FULL = (*ESSENTIAL, "sig", "tags", "tag_hashes", "content")
_essential = Struct("!h iq iq ii ii i32s i32s")
_until_tags = Struct("!h iq iq ii ii i32s i32s i64s i")
_length = Struct("!i").pack

_encode = msgspec.json.Encoder().encode


def columns_of(kept: Collection[str]) -> Sequence[str] | None:
    """The columns of the rows for a profile that keeps these; None: it has none of ours."""
    if not kept:
        return ESSENTIAL
    return FULL if {"sig", "tags", "content"} <= set(kept) else None


def rows(events: Sequence[Event], nums: Sequence[int], columns: Sequence[str]) -> bytes:
    """Returns events with their numbers as COPY takes them, whole; `columns` of `columns_of`."""
    parts = [_HEAD]
    for event, num in zip(events, nums, strict=True):
        at = event.created_at
        slice_ = min(at // WEEK_S, LAST_SLICE)
        if columns is ESSENTIAL:
            fixed = (8, at, 8, num, 4, event.kind, 4, slice_, 32, event.id, 32, event.pubkey)
            parts.append(_essential.pack(len(ESSENTIAL), *fixed))
            continue
        tags, content = tags_of(event), content_of(event).encode()
        json = _encode(tags)
        parts += (
            _until_tags.pack(
                *(len(FULL), 8, at, 8, num, 4, event.kind, 4, slice_, 32, event.id),
                *(32, event.pubkey, 64, event.sig, len(json)),
            ),
            json,
            _integers(tag_hashes(tags)),
            _length(len(content)),
            content,
        )
    parts.append(_END)
    return b"".join(parts)


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
