"""Events as rows for COPY: PostgreSQL's binary format, made at once for a whole page.

An array for each column, as a function takes it, costs this process half as much again, and the
server a quarter: what is copied it writes a page of the table at a time. Rows of plain events are
made in C where that is installed.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from struct import Struct
from typing import overload

import msgspec

from bigbrotr.models import native
from bigbrotr.models.columns import Columns, Found
from bigbrotr.models.event import Event, Identified, Unsigned, decode, storable, tag_hashes
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
_ESSENTIAL_BYTES = Struct("!h iq ii ii i32s i32s").size  # of a row: the first columns, but for num
_until_tags = Struct("!h iq ii ii i32s i32s i64s i")
_columns = Struct("!h").pack
_length = Struct("!i").pack
_number = Struct("!iq").pack

_encode = msgspec.json.Encoder().encode


class Rows(Sequence[Event]):
    """Events with their rows, all but their numbers: sorted, and to be verified (`claims`) before
    they are stored. Each is made into an event for those only who ask for one.

    `data`: rows of the profile full, one behind the other, and `lengths` (uint32) of each how long
    it is. `naming`: by place, of those that may name relays, the lines of their tags that begin
    like the URL of one; None where its content, or what is not ASCII, may do so as well.
    """

    def __init__(
        self,
        events: Columns[Found] | None = None,
        data: bytes = b"",
        lengths: "array[int] | None" = None,
        naming: dict[int, bytes | None] | None = None,
    ) -> None:
        self.events: Columns[Found] = Columns() if events is None else events
        self.data = data
        self.lengths = array("I") if lengths is None else lengths
        self.naming = {} if naming is None else naming

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Rows":
        """The same events with rows."""
        return events if isinstance(events, Rows) else make_rows(Columns.of(events), _refuse)

    @property
    def created_ats(self) -> list[int]:
        """When they were created."""
        return self.events.created_ats.tolist()

    @property
    def ids(self) -> list[bytes]:
        """Their ids."""
        return self.events.ids

    @property
    def kinds(self) -> list[int]:
        """Their kinds."""
        return list(map(self.events.kind, range(len(self))))

    @property
    def pubkeys(self) -> list[bytes]:
        """Their authors' public keys (32 bytes each)."""
        return [self.events.claim(place)[96:] for place in range(len(self))]

    @property
    def claims(self) -> bytes:
        """What there is to verify, 128 bytes each."""
        return bytes(self.events.claims)

    @property
    def raws(self) -> list[bytes | None] | None:
        """What was hashed, of those whose columns cannot give it back; None: of all they can."""
        raws: list[bytes | None] = [None] * len(self)
        for place, event in self.events.others.items():
            raws[place] = None if isinstance(event, Plain | Identified) else event.raw
        return raws if any(raws) else None

    def __len__(self) -> int:
        return len(self.events)

    @overload
    def __getitem__(self, place: int) -> Event: ...
    @overload
    def __getitem__(self, place: slice) -> "Rows": ...
    def __getitem__(self, place: int | slice) -> "Event | Rows":
        if isinstance(place, slice):
            return self.pick(array("I", range(*place.indices(len(self)))))
        event = decoded(self.events[range(len(self))[place]])
        return event if isinstance(event, Event) else event.event(is_signed=True)

    def __iter__(self) -> Iterator[Event]:
        return map(self.__getitem__, range(len(self)))

    def pick(self, places: "array[int]") -> "Rows":
        """Those at the places (uint32), in that order."""
        data, lengths, naming, ends = self.data, self.lengths, self.naming, self._ends()
        count = len(places)
        if count and places == array("I", range(places[0], places[0] + count)):
            first, last = places[0], places[-1]  # nearly always: few at an end are left out
            data = data[ends[first] - lengths[first] : ends[last]]
            lengths = lengths[first : last + 1]
            naming = {at - first: texts for at, texts in naming.items() if first <= at <= last}
        else:
            data = b"".join([data[ends[at] - lengths[at] : ends[at]] for at in places])
            lengths = array("I", [lengths[at] for at in places])
            naming = {n: naming[at] for n, at in enumerate(places) if at in naming}
        return Rows(self.events.pick(places), data, lengths, naming)

    def _ends(self) -> list[int]:
        return list(accumulate(self.lengths))

    @classmethod
    def joined(cls, parts: "Sequence[Rows]") -> "Rows":
        """All of several, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        lengths, naming = array("I"), dict[int, bytes | None]()
        for part in parts:
            naming |= {len(lengths) + at: texts for at, texts in part.naming.items()}
            lengths += part.lengths
        events: Columns[Found] = Columns.joined([part.events for part in parts])
        return cls(events, b"".join([part.data for part in parts]), lengths, naming)

    def in_order(self) -> "Rows":
        """The same, sorted by (created_at, id)."""
        return self.pick(self.events.order()[0])

    def complete(self, reject: Callable[[str, bytes], None]) -> "Rows":
        """The same with the rows of those of which C makes none; without those that turn out to be
        no events."""
        parts, refused, ends, done = list[bytes](), set[int](), self._ends(), 0
        for place in [place for place, length in enumerate(self.lengths) if not length]:
            parts.append(self.data[done : ends[place]])
            done, found = ends[place], self.events[place]
            try:
                event = decoded(found)
            except ValueError as error:
                reject(str(error), found.id)
                refused.add(place)
                continue
            parts.append(row := _full_row(event))
            self.lengths[place], self.naming[place] = len(row), None
            self.events.put(place, event)
        self.data = b"".join((*parts, self.data[done:]))
        self.naming = dict(sorted(self.naming.items(), key=itemgetter(0)))
        if not refused:
            return self
        return self.pick(array("I", [n for n in range(len(self)) if n not in refused]))

    def named(self) -> Iterator[tuple[int, int, Sequence[str]]]:
        """The relays that events name: the place of an event, of how many the same is said, and the
        relays. Those come first that are named first."""
        times = Counter(self.naming.values())
        firsts = dict(zip(reversed(self.naming.values()), reversed(self.naming), strict=True))
        for place, texts in self.naming.items():
            if texts is None:
                yield place, 1, self.urls(place)
            elif firsts[texts] == place:
                yield place, times[texts], self.urls(place)

    def urls(self, place: int) -> Sequence[str]:
        """The relays that one event names."""
        texts = self.naming.get(place, b"")
        if texts is None:
            event = self[place]
            return mentioned(event.kind, event.tags, event.content)
        return _urls_remembered(texts) if len(texts) <= MOST_REMEMBERED else _urls_in(texts)

    def copied(self, nums: Sequence[int], columns: Sequence[str]) -> bytes:
        """All as COPY takes them, with their numbers; `columns` of `columns_of`."""
        most = _ESSENTIAL_BYTES if columns is ESSENTIAL else 0
        if native.here is not None:
            numbers = array("q", nums)
            rows = self.data, self.lengths
            return native.here.number(rows, numbers, len(columns), most, (_HEAD, _END))
        parts, head = [_HEAD], _columns(len(columns))
        for length, end, num in zip(self.lengths, self._ends(), nums, strict=True):
            start = end - length
            kept = self.data[start + len(head) : min(end, start + (most or length))]
            parts += (head, kept, _number(8, num))
        parts.append(_END)
        return b"".join(parts)


def make_rows(events: Columns[Found], reject: Callable[[str, bytes], None]) -> Rows:
    """The rows of events, in their order; without those that turn out to be none, which are
    rejected with a reason and their id."""
    if native.here is None:
        return Rows(events, lengths=array("I", bytes(4 * len(events)))).complete(reject)
    made = native.here.rows(events.addresses, events.lengths, events.claims)
    naming: dict[int, bytes | None] = {}
    start = 0
    for place, length in enumerate(made.text_lengths):
        if length:
            naming[place] = made.texts[start : start + length]
            start += length
    if made.look_deeper:
        naming |= dict.fromkeys(made.look_deeper)
        naming = dict(sorted(naming.items(), key=itemgetter(0)))
    rows = Rows(events, made.data, made.lengths, naming)
    return rows.complete(reject) if 0 in made.lengths else rows


def decoded(found: Found) -> Unsigned | Event:
    """All that an event says.

    Raises:
        ValueError: it is no valid event.
    """
    if isinstance(found, Event):
        return found
    return found.decode() if isinstance(found, Plain) else decode(found)


def _refuse(reason: str, event_id: bytes) -> None:
    raise ValueError(f"{event_id.hex()}: {reason}")


def _urls_in(texts: bytes) -> Sequence[str]:
    return tuple(normal_urls(texts[:-1].decode().split("\n"))) if texts else ()


_urls_remembered = lru_cache(maxsize=4096)(_urls_in)  # the same few are named all the time


def columns_of(kept: Collection[str]) -> Sequence[str] | None:
    """The columns of the rows for a profile that keeps these; None: it has none of ours."""
    if not kept:
        return ESSENTIAL
    return FULL if {"sig", "tags", "content"} <= set(kept) else None


def _full_row(event: Unsigned | Event) -> bytes:
    at, tags, content = event.created_at, tags_of(event), content_of(event).encode()
    json = _encode(tags)
    head = _until_tags.pack(
        *(len(FULL), 8, at, 4, event.kind, 4, _slice_of(at), 32, event.id),
        *(32, event.pubkey, 64, event.sig, len(json)),
    )
    return b"".join((head, json, _integers(tag_hashes(tags)), _length(len(content)), content))


def _slice_of(created_at: int) -> int:
    return min(created_at // WEEK_S, LAST_SLICE)


def tags_of(event: Unsigned | Event) -> tuple[tuple[str, ...], ...]:
    """The tags as they are stored; without `raw`, PostgreSQL can hold them as they are."""
    if event.raw is None:
        return event.tags
    return tuple(tuple(map(storable, tag)) for tag in event.tags)


def content_of(event: Unsigned | Event) -> str:
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
