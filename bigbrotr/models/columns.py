"""Events of a page side by side: as columns, so that what is done to each is done to all at once.

An object for each event costs more than all that there is to decide about it. Plain events become
objects only for those who ask for one; what is not plain stands among them as what it is.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from bigbrotr.models import native
from bigbrotr.models.event import Event, Identified, Unsigned, WireEvent
from bigbrotr.models.plain import Heard, Plain, Scan
from bigbrotr.models.signatures import CLAIM_BYTES

Key: TypeAlias = tuple[int, bytes]  # (created_at, id)
Found: TypeAlias = Plain | Identified | Unsigned | Event  # its id is proven
T = TypeVar("T", Heard, Found)

_SIG_BYTES, _ID_END = 64, 96  # in a claim


class Columns(Generic[T]):
    """Events in any order. The one at a place is among `others`, or is plain and made on demand.

    `created_ats` (int64) and `claims` (128 bytes each: signature, id, public key) say nothing of an
    event whose id is not proven, and no signature of one that is not decoded: that is 0.
    """

    def __init__(self) -> None:
        self.created_ats = array("q")
        self.claims = bytearray()
        self.others: dict[int, T] = {}  # by place
        self.addresses = array("Q")  # of the frames of plain events, of others 0 ...
        self.lengths = array("I")  # ... and their lengths
        self.kinds = array("I")  # of plain events
        self.kept: list[bytes] = []  # where these frames lie
        self._ids: list[bytes] | None = None  # as the claims have them

    @classmethod
    def of(cls, events: "Iterable[T] | Columns[T]") -> "Columns[T]":
        """The same events as columns."""
        if isinstance(events, Columns):
            return events
        columns: Columns[T] = cls()
        for event in events:
            columns.append(event)
        return columns

    def take(self, scan: Scan, start: int, end: int) -> None:
        """Appends the messages between two places of a burst, all of which are plain events."""
        said, self._ids = scan.said, None
        assert said is not None
        self.created_ats += said.created_ats[start:end]
        self.claims += said.claims[CLAIM_BYTES * start : CLAIM_BYTES * end]
        self.addresses += said.addresses[start:end]
        self.lengths += said.lengths[start:end]
        self.kinds += said.kinds[start:end]
        if not self.kept or self.kept[-1] is not scan.data:
            self.kept.append(scan.data)

    def append(self, event: T) -> None:
        """Appends an event as it is."""
        self._ids = None
        self.created_ats.append(0)
        self.claims += bytes(CLAIM_BYTES)
        for column in (self.addresses, self.lengths, self.kinds):
            column.append(0)
        place = len(self) - 1
        if isinstance(event, WireEvent):
            self.others[place] = event
        else:
            self.put(place, event)

    def put(self, place: int, found: T) -> None:
        """Puts an event whose id is proven into a place."""
        assert not isinstance(found, WireEvent)
        self.others[place], self._ids = found, None
        start = CLAIM_BYTES * place
        if isinstance(found, Identified):
            self.created_ats[place] = found.wire.created_at
            self.claims[start + _SIG_BYTES : start + _ID_END] = found.id
        else:
            self.created_ats[place] = found.created_at
            self.claims[start : start + CLAIM_BYTES] = found.claim

    def __len__(self) -> int:
        return len(self.created_ats)

    def __getitem__(self, place: int) -> T | Plain:
        if (other := self.others.get(place)) is not None:
            return other
        if not (address := self.addresses[place]) or native.here is None:
            raise LookupError(f"no event at {place}")
        frame = native.here.frame_at(address, self.lengths[place])
        return Plain(self.created_ats[place], self.kinds[place], self.claim(place), frame)

    def __iter__(self) -> Iterator[T | Plain]:
        return map(self.__getitem__, range(len(self)))

    def claim(self, place: int) -> bytes:
        """What there is to verify of one."""
        return bytes(self.claims[CLAIM_BYTES * place : CLAIM_BYTES * (place + 1)])

    def kind(self, place: int) -> int:
        """The kind of one."""
        other = self.others.get(place)
        return self.kinds[place] if other is None else kind_of(other)

    @property
    def ids(self) -> list[bytes]:
        """Their ids (32 bytes each)."""
        if self._ids is None:
            claims, size = bytes(self.claims), len(self.claims)
            starts = range(_SIG_BYTES, size, CLAIM_BYTES)
            self._ids = [claims[start : start + 32] for start in starts]
        return self._ids

    @property
    def keys(self) -> list[Key]:
        """Their times and ids."""
        return list(zip(self.created_ats, self.ids, strict=True))

    def order(self) -> tuple["array[int]", bool]:
        """The places in the order of (created_at, id), and whether no id is there twice."""
        if native.here is not None:
            return native.here.order(self.created_ats, self.claims)
        keys = self.keys
        return array("I", sorted(range(len(keys)), key=keys.__getitem__)), len(set(keys)) == len(
            keys
        )

    def pick(self, places: "array[int]") -> "Columns[T]":
        """Those at the places (uint32), in that order."""
        picked: Columns[T] = Columns()
        columns = (self.created_ats, self.claims, self.addresses, self.lengths, self.kinds)
        pick = pick_by_python if native.here is None else native.here.pick
        picked.created_ats, picked.claims, picked.addresses, picked.lengths, picked.kinds = pick(
            places, *columns
        )
        picked.kept = self.kept if places else []
        if (ids := self._ids) is not None:
            picked._ids = [ids[at] for at in places]
        if others := self.others:
            picked.others = {n: others[at] for n, at in enumerate(places) if at in others}
        return picked

    def plain_only(self) -> "Columns[Found]":
        """The same, with nothing known of those that are not plain: a copy where there are any."""
        if not self.others:
            same: Any = self  # of which others do not matter: there are none
            return cast(Columns[Found], same)
        plain: Columns[Found] = Columns()
        plain.created_ats, plain.claims = self.created_ats[:], self.claims[:]
        plain.addresses, plain.lengths = self.addresses[:], self.lengths[:]
        plain.kinds, plain.kept = self.kinds[:], self.kept
        return plain

    def part(self, start: int, end: int) -> "Columns[T]":
        """Those between two places."""
        if start == 0 and end >= len(self):
            return self
        return self.pick(array("I", range(start, min(end, len(self)))))

    @classmethod
    def joined(cls, parts: "Sequence[Columns[T]]") -> "Columns[T]":
        """All events of several, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        both: Columns[T] = cls()
        for part in parts:
            both.others |= {len(both) + at: each for at, each in part.others.items()}
            both.created_ats += part.created_ats
            both.claims += part.claims
            both.addresses += part.addresses
            both.lengths += part.lengths
            both.kinds += part.kinds
        both.kept = list({id(data): data for part in parts for data in part.kept}.values())
        return both


def pick_by_python(
    places: "array[int]", created_ats: "array[int]", claims: bytearray, *others: "array[int]"
) -> tuple["array[int]", bytearray, "array[int]", "array[int]", "array[int]"]:
    """As C does it: what stands in columns at the places."""
    times, *rest = (
        array(column.typecode, map(column.__getitem__, places)) for column in (created_ats, *others)
    )
    some = (claims[CLAIM_BYTES * at : CLAIM_BYTES * (at + 1)] for at in places)
    addresses, lengths, kinds = rest
    return times, bytearray(b"".join(some)), addresses, lengths, kinds


def kind_of(event: Heard | Found) -> int:
    """The kind of an event."""
    return event.wire.kind if isinstance(event, Identified) else event.kind
