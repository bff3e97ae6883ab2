"""Reconciles two sets of event ids: Negentropy V1, as NIP-77 carries it, in pure machines.

Bytes in, bytes out: no socket, no database, no hex. `Items` are what one side holds, `Client` asks
until it knows both differences, `Server` answers and keeps nothing between two messages.

How it reasons. A message describes ranges of the order (created_at, id), each by its upper bound:
nothing to say, a fingerprint of all the ids in it, or these ids themselves. A fingerprint that
differs is answered with those of its parts, one of few items with the ids. The client remembers
which stretches are open and which of these it asked about, so that nothing that is settled is ever
opened again, and an answer that was cut short only leaves the rest of the question as it was.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from hashlib import sha256
from itertools import compress, count, groupby, islice, pairwise
from operator import eq, gt
from typing import NamedTuple, Protocol

__all__ = [
    "Bound",
    "Client",
    "Digest",
    "Items",
    "NegentropyError",
    "Server",
    "TooManyNeededError",
    "is_settled",
]

VERSION = 0x61
SKIP, FINGERPRINT, ID_LIST = range(3)
ID_SIZE = 32
FINGERPRINT_SIZE = 16
INFINITY = 2**64 - 1  # no item has this timestamp
MODULUS = 2**256

FRAME_LIMIT = 60_000  # bytes, 120,000 in hex: strfry takes websocket frames of up to 131,072
SMALLEST_FRAME_LIMIT = 4096
BUCKETS = 16  # a stretch that differs is split into these; below twice as many items, the ids go
BOUND_SIZE = 10 + 1 + ID_SIZE  # at most: varint, length, prefix
# The end of an answer that is cut short: a Skip to where it stopped, the fingerprint of the rest.
TAIL_SIZE = BOUND_SIZE + 1 + 3 + FINGERPRINT_SIZE
PART_SIZE = 23  # of a fingerprint and its bound, mostly
BLOCK = 16  # items for each sum that is kept: two bytes an item
CHUNK = 10_000  # rows taken over at a time

SPARE_ROUNDS = 32  # the fuse: this many answers, ...
SETTLED_PER_ROUND = 8  # ... and one more for so many items settled; honest peers settle far more
# An answer is as long as the question makes it: in a stretch, some ids or the fingerprints of its
# parts. Honest ones have 1,200 bytes a stretch at most, and strfry ends them at 500,000.
SPARE_BYTES, BYTES_PER_STRETCH, MOST_BYTES = 65_536, 4096, 512_000
# And so are all of them together: honest peers need a range an item at most, of theirs or ours.
SPARE_PARTS, PARTS_PER_ITEM = 20_000, 4
STEP = 500  # ranges that are judged at a time, about 15 ms
SEALED_AT_ONCE = 16_000  # items that are summed up at a time, 10 ms
MOST_OPEN = 100_000  # stretches, about 300 bytes each; honest answers of 500 kB open a third


class NegentropyError(ValueError):
    """The peer's message is malformed, or goes nowhere; the text is short and stable."""


class TooManyNeededError(NegentropyError):
    """The peer has more that we lack than we wanted to hold: ask about less time."""


class Bound(NamedTuple):
    """A place in the order of items; the prefix of an id has no trailing zeros."""

    timestamp: int
    prefix: bytes = b""


START = Bound(0)
END = Bound(INFINITY)


class Stretch(NamedTuple):
    """A range [lower, upper) of the order, and the positions [lo, hi) of our items in it."""

    lower: Bound
    upper: Bound
    lo: int
    hi: int


class Open(NamedTuple):
    """A stretch that is not settled; unless it is known to be different, its fingerprint is to be
    asked again as it is."""

    stretch: Stretch
    is_different: bool


class Digest(NamedTuple):
    """A set of ids in 40 bytes: their number, and their sum as little-endian integers mod 2^256.

    It tells whether a peer still has just this set, and no more; those of disjoint sets add up.
    """

    items: int
    sum: int

    def __add__(self, other: object) -> "Digest":
        if not isinstance(other, Digest):
            return NotImplemented
        return Digest(self.items + other.items, (self.sum + other.sum) % MODULUS)

    @property
    def fingerprint(self) -> bytes:
        """What stands for the set in a message: 16 bytes."""
        content = self.sum.to_bytes(ID_SIZE, "little") + varint(self.items)
        return sha256(content).digest()[:FINGERPRINT_SIZE]

    def ask(self) -> bytes:
        """Returns the message that asks a peer whether it has just this; see `is_settled`."""
        return bytes([VERSION]) + encode_bound(END, START) + varint(FINGERPRINT) + self.fingerprint


def is_settled(answer: bytes) -> bool:
    """Whether an answer says that nothing differs; NegentropyError if it is no good."""
    if answer[:1] != bytes([VERSION]):
        raise NegentropyError("another protocol version")
    if len(answer) > SPARE_BYTES:
        raise NegentropyError("longer than what was asked for")
    return all(part.mode == SKIP for part in read_parts(answer))


class Ordered(Protocol):
    """Ids in the order (created_at, id), by position: see `Items`, which has them all."""

    def __len__(self) -> int: ...

    def seal(self) -> None: ...

    def ids(self, lo: int, hi: int) -> bytes: ...

    def position(self, bound: "Bound", lo: int = 0) -> int: ...

    def bound(self, position: int) -> "Bound": ...

    def fingerprints(self, cuts: Iterable[int]) -> list[bytes]: ...

    def fingerprint(self, lo: int, hi: int) -> bytes: ...


class Items:
    """What one side has: 42 bytes an item, sorted by (created_at, id), without duplicates.

    Fill with `add` or `extend`, in any order; `seal` ends that, as taking them into a `Client` or a
    `Server` does. Input in order costs no extra memory, other input is sorted by `seal`: about
    100 bytes an item for a moment. A sealed one may serve any number of clients and servers.
    """

    def __init__(self, rows: Iterable[tuple[int, bytes]] = ()) -> None:
        self._created_ats = array("Q")
        self._ids = bytearray()
        self._sums: bytearray | None = None  # of all ids before each block
        self.extend(rows)

    def __len__(self) -> int:
        return len(self._created_ats)

    def add(self, created_at: int, event_id: bytes) -> None:
        """Takes one item; ValueError unless 0 <= created_at < 2^63 and the id has 32 bytes."""
        self.extend([(created_at, event_id)])

    def extend(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """Takes items, each as `add` does."""
        rest = iter(rows)
        while rows := list(islice(rest, CHUNK)):
            if self._sums is not None:
                raise RuntimeError("the items are sealed")
            created_ats, ids = zip(*rows, strict=True)
            if min(created_ats) < 0 or max(created_ats) >= 2**63:
                raise ValueError("created_at out of range")
            if set(map(len, ids)) != {ID_SIZE}:
                raise ValueError("an id has 32 bytes")
            self._ids += b"".join(ids)
            self._created_ats.extend(created_ats)

    def extend_packed(self, created_ats: bytes, ids: bytes) -> None:
        """Takes items as columns: times of 8 bytes, most significant first, and ids of 32."""
        if self._sums is not None:
            raise RuntimeError("the items are sealed")
        times = array("Q", created_ats)
        if sys.byteorder == "little":
            times.byteswap()
        if len(times) * ID_SIZE != len(ids):
            raise ValueError("as many times as ids")
        if times and max(times) >= 2**63:
            raise ValueError("created_at out of range")
        self._created_ats.extend(times)
        self._ids += ids

    def cut(self, until: int) -> None:
        """Leaves out what was created at or after `until`; the items have come in order."""
        if self._sums is not None:
            raise RuntimeError("the items are sealed")
        place = bisect_left(self._created_ats, until)
        del self._created_ats[place:]
        del self._ids[place * ID_SIZE :]

    def seal(self) -> None:
        """Puts the items in order, and sums their ids; doing so again changes nothing."""
        for _ in self.sealing():
            pass

    def sealing(self) -> Iterator[None]:
        """Does what `seal` does, in steps of some milliseconds where the items have come in
        order."""
        if self._sums is not None:
            return
        if not self._is_in_order():
            self._sort()
        sums = bytearray()
        total = 0
        for block in range(0, len(self), BLOCK):
            if block % SEALED_AT_ONCE == 0:
                yield
            sums += (total % MODULUS).to_bytes(ID_SIZE, "little")
            total += self._sum(block, block + BLOCK)
        if len(self) % BLOCK == 0:
            sums += (total % MODULUS).to_bytes(ID_SIZE, "little")
        self._sums = sums

    def created_at(self, position: int) -> int:
        """Returns when the event at a position was created."""
        return self._created_ats[position]

    def id(self, position: int) -> bytes:
        """Returns the id at a position."""
        return self.ids(position, position + 1)

    def ids(self, lo: int, hi: int) -> bytes:
        """Returns the ids at the positions [lo, hi), one after the other."""
        return bytes(memoryview(self._ids)[lo * ID_SIZE : hi * ID_SIZE])

    def position(self, bound: Bound, lo: int = 0) -> int:
        """Returns the position of the first item at or after a bound, which is not before `lo`."""
        if bound.timestamp == INFINITY:
            return len(self)
        first = bisect_left(self._created_ats, bound.timestamp, lo)
        if not bound.prefix:
            return first
        last = bisect_right(self._created_ats, bound.timestamp, first)
        return first + bisect_left(range(first, last), bound.prefix, key=self.id)

    def bound(self, position: int) -> Bound:
        """Returns the shortest bound between an item and the one before it."""
        timestamp = self._created_ats[position]
        if timestamp != self._created_ats[position - 1]:
            return Bound(timestamp)
        before, item = self.id(position - 1), self.id(position)
        shared = next(n for n in range(ID_SIZE) if before[n] != item[n])
        return Bound(timestamp, item[: shared + 1])

    def fingerprints(self, cuts: Iterable[int]) -> list[bytes]:
        """Returns the fingerprints of the ids between each position and the next."""
        sums = [(position, self._sum_before(position)) for position in cuts]
        return [
            Digest(hi - lo, (after - before) % MODULUS).fingerprint
            for (lo, before), (hi, after) in pairwise(sums)
        ]

    def fingerprint(self, lo: int, hi: int) -> bytes:
        """Returns the fingerprint of the ids at the positions [lo, hi), whatever their number."""
        return self.fingerprints((lo, hi))[0]

    def digest(self, lo: int, hi: int) -> Digest:
        """Returns the ids at the positions [lo, hi) in short, whatever their number."""
        return Digest(hi - lo, (self._sum_before(hi) - self._sum_before(lo)) % MODULUS)

    def _sum_before(self, position: int) -> int:
        assert self._sums is not None, "the items are not sealed"
        block = position // BLOCK
        kept = self._sums[block * ID_SIZE : (block + 1) * ID_SIZE]
        return int.from_bytes(kept, "little") + self._sum(block * BLOCK, position)

    def _sum(self, lo: int, hi: int) -> int:
        ids, size, number = self.ids(lo, hi), ID_SIZE, int.from_bytes
        return sum([number(ids[n : n + size], "little") for n in range(0, len(ids), size)])

    def _is_in_order(self) -> bool:
        times = self._created_ats
        if any(map(gt, times, islice(times, 1, None))):
            return False
        ties = compress(count(), map(eq, times, islice(times, 1, None)))
        return all(self.id(n) < self.id(n + 1) for n in ties)

    def _sort(self) -> None:
        keys = sorted(time.to_bytes(8) + self.id(n) for n, time in enumerate(self._created_ats))
        self._created_ats, self._ids = array("Q"), bytearray()
        self.extend((int.from_bytes(key[:8]), key[8:]) for key, _ in groupby(keys))


class Client:
    """The side that asks, and learns both differences.

    `initiate` gives the first message, `reconcile` the next one to each answer, until it is None;
    `reconciling` does the same in steps, after which others may have their turn, and leaves it in
    `following`. Then `have` holds the positions of the items that the peer lacks, and `need` the
    ids that it has and we lack; as ids travel without their times, those are as true as the peer
    is. After an error neither means anything.

    `frame_limit`: bytes of a message of ours, before hex. `max_needed`: ids in `need` at most, else
    TooManyNeededError. What is settled stays so; a peer that settles nothing comes to an end after
    32 answers, any other after 32 + (len(items) + max_needed) / 8, by NegentropyError, and so does
    one whose answers are longer than the questions make them. Memory: the items, what was found,
    one message each way and 30 MB for a peer that splits without end.
    """

    def __init__(self, items: Items, *, max_needed: int, frame_limit: int = FRAME_LIMIT) -> None:
        items.seal()
        self.have = array("I")
        self.need: set[bytes] = set()
        self.rounds = 0  # answers that came
        self.following: bytes | None = None  # the next message, once an answer is judged
        self._parts = 0  # ranges in them
        self._items = items
        self._max_needed = max_needed
        self._frame_limit = checked(frame_limit)
        self._open = deque([Open(Stretch(START, END, 0, len(items)), is_different=True)])
        self._asked: list[Stretch] = []
        self._levels: list[int | None] = []  # of each fingerprint among them; None: ids
        self._seen: dict[int, tuple[int, int]] = {}  # asked and different, by level
        self._room = FRAME_LIMIT  # bytes that an answer may have without being cut short, we think
        self._most_room = MOST_BYTES * 3 // 4

    @property
    def theirs(self) -> Digest:
        """What the peer has, once it is finished."""
        mine = self._items.digest(0, len(self._items))
        lacking = sum(int.from_bytes(self._items.id(place), "little") for place in self.have)
        more = sum(int.from_bytes(event_id, "little") for event_id in self.need)
        items = mine.items - len(self.have) + len(self.need)
        return Digest(items, (mine.sum - lacking + more) % MODULUS)

    def initiate(self) -> bytes:
        """Returns the first message."""
        if self._asked or self.rounds:
            raise RuntimeError("initiated already")
        return self._ask()

    def reconcile(self, message: bytes) -> bytes | None:
        """Returns the next message, or None: it is finished. NegentropyError if the answer is no
        good."""
        for _ in self.reconciling(message):
            pass
        return self.following

    def reconciling(self, message: bytes) -> Iterator[None]:
        """Does what `reconcile` does, in steps of some milliseconds; `following` is what it
        returns."""
        if not self._asked:
            raise RuntimeError("an answer without a question")
        if message[:1] != bytes([VERSION]):
            raise NegentropyError("another protocol version")
        if len(message) > min(SPARE_BYTES + BYTES_PER_STRETCH * len(self._asked), MOST_BYTES):
            raise NegentropyError("longer than what was asked for")
        self.rounds += 1
        asked, self._asked, self.following = self._asked, [], None
        levels, self._levels = self._levels, []
        again = yield from self._judge(message, asked, levels)
        self._open.extendleft(reversed(again))
        if len(self._open) > MOST_OPEN:
            raise NegentropyError("too many ranges")
        if not self._open:
            return
        settled = len(self._items) + len(self.need) - sum(s.hi - s.lo for s, _ in self._open)
        if self.rounds > SPARE_ROUNDS + settled // SETTLED_PER_ROUND:
            raise NegentropyError("no progress")
        yield
        self.following = self._ask()

    def _ask(self) -> bytes:
        """Says something about the first open stretches, as much as fits, and as the answer to it
        should fit; what comes after them is skipped."""
        writer = Writer(self._items, self._frame_limit)
        expected = 0.0
        while self._open and expected < self._room:
            stretch, is_different = self._open.popleft()
            is_listed = is_different and stretch.hi - stretch.lo < 2 * BUCKETS
            rest = (writer.describe if is_different else writer.repeat)(stretch)
            for part in writer.described[len(self._levels) :]:
                size = part.hi - part.lo
                level = None if is_listed else size.bit_length()
                self._levels.append(level)
                expected += expected_bytes(size) * self._share(level)
            if rest is not None:
                self._open.appendleft(Open(rest, is_different))
                break
        self._asked = writer.described
        return bytes(writer.message)

    def _share(self, level: int | None) -> float:
        """Which part of the stretches of about this length differs; ids are answered always."""
        asked, different = self._seen.get(0 if level is None else level, (0, 0))
        return 1.0 if level is None else (different + 1) / (asked + 1)

    def _judge(
        self, message: bytes, asked: list[Stretch], levels: list[int | None]
    ) -> Generator[None, None, list["Open"]]:
        """Settles what the answer settles of what was asked; returns what is open still."""
        again: list[Open] = []
        different: set[int] = set()
        answered = len(asked)
        first = lo = 0
        for number, part in enumerate(read_parts(message), 1):
            if number % STEP == 0:
                yield
            hi = self._items.position(part.upper, lo)
            while first < len(asked) and asked[first].upper <= part.lower:
                first += 1
            is_inside = first < len(asked) and is_within(part, asked[first])
            if part.mode == ID_LIST:
                if not is_inside:
                    raise NegentropyError("ids that were not asked for")
                self._compare(lo, hi, part.ids)
            elif part.mode == FINGERPRINT:
                differs = part.fingerprint != self._items.fingerprint(lo, hi)
                if not is_inside and part.upper > part.lower:
                    answered = min(answered, first)  # the answer was cut short
                if differs:
                    met = overlap(Stretch(part.lower, part.upper, lo, hi), asked, first)
                    # Of the rest of an answer nobody knows yet which parts differ.
                    again += (
                        Open(each, is_inside or levels[first + n] is None)
                        for n, each in enumerate(met)
                    )
            if is_inside and part.mode != SKIP:
                different.add(first)
            lo = hi
            self._parts += 1
            most = SPARE_PARTS + PARTS_PER_ITEM * (len(self._items) + len(self.need))
            if self._parts > most:
                raise NegentropyError("too many ranges in all")
        self._learn(levels[:answered], different)
        if answered < len(asked):
            self._room = self._most_room = max(len(message), SMALLEST_FRAME_LIMIT)
        elif len(message) > self._room // 2:
            self._room = min(2 * self._room, self._most_room)
        return again

    def _learn(self, levels: list[int | None], different: set[int]) -> None:
        """Counts which fingerprints that were answered were different."""
        for number, level in enumerate(levels):
            if level is not None:
                asked, differed = self._seen.get(level, (0, 0))
                self._seen[level] = asked + 1, differed + (number in different)

    def _compare(self, lo: int, hi: int, theirs: set[bytes]) -> None:
        """Finds both differences between our items at [lo, hi) and all that they have there."""
        ours = self._items.ids(lo, hi)
        for position in range(lo, hi):
            at = (position - lo) * ID_SIZE
            event_id = ours[at : at + ID_SIZE]
            if event_id in theirs:
                theirs.remove(event_id)
            else:
                self.have.append(position)
        if len(self.need) + len(theirs) > self._max_needed:
            raise TooManyNeededError("too many ids that we lack")
        if not self.need.isdisjoint(theirs):
            raise NegentropyError("an id twice")
        self.need |= theirs


class Server:
    """The side that answers; it keeps nothing between messages.

    `frame_limit`: bytes of an answer, before hex. One that does not fit ends with the fingerprint
    of all that is left.
    """

    def __init__(self, items: Ordered, *, frame_limit: int = FRAME_LIMIT) -> None:
        items.seal()
        self._items = items
        self._frame_limit = checked(frame_limit)

    def reconcile(self, message: bytes) -> bytes:
        """Returns the answer to a client's message; NegentropyError if that is no good."""
        if not message:
            raise NegentropyError("truncated")
        if message[0] != VERSION:
            return bytes([VERSION])  # the one that we speak: the client may try again
        writer = Writer(self._items, self._frame_limit - TAIL_SIZE)
        lo = 0
        for part in read_parts(message):
            hi = self._items.position(part.upper, lo)
            stretch = Stretch(part.lower, part.upper, lo, hi)
            rest = None
            if part.mode == ID_LIST:
                rest = writer.list_ids(stretch)
            elif part.mode == FINGERPRINT and part.fingerprint != self._items.fingerprint(lo, hi):
                rest = writer.describe(stretch)
            if rest is not None:
                writer.end_early(rest)
                break
            lo = hi
        return bytes(writer.message)


class Writer:
    """A message of ours in the making: stretches in ascending order, with a Skip between them."""

    def __init__(self, items: Ordered, limit: int) -> None:
        self.message = bytearray([VERSION])
        self.described: list[Stretch] = []
        self._items = items
        self._limit = limit
        self._at = START

    def describe(self, stretch: Stretch) -> Stretch | None:
        """Says what we have in a stretch: ids, or fingerprints of its parts; returns what did not
        fit."""
        items, size = self._items, stretch.hi - stretch.lo
        if size < 2 * BUCKETS:
            return self.list_ids(stretch)
        cuts = [stretch.lo + size * n // BUCKETS for n in range(1, BUCKETS)]
        bounds = [stretch.lower, *map(items.bound, cuts), stretch.upper]
        cuts = [stretch.lo, *cuts, stretch.hi]
        parts = zip(pairwise(bounds), pairwise(cuts), items.fingerprints(cuts), strict=True)
        for (lower, upper), (lo, hi), fingerprint in parts:
            if not self._put(Stretch(lower, upper, lo, hi), FINGERPRINT, fingerprint):
                return Stretch(lower, stretch.upper, lo, stretch.hi)
        return None

    def repeat(self, stretch: Stretch) -> Stretch | None:
        """Says the fingerprint of a stretch; returns the stretch if that did not fit."""
        fingerprint = self._items.fingerprint(stretch.lo, stretch.hi)
        return None if self._put(stretch, FINGERPRINT, fingerprint) else stretch

    def list_ids(self, stretch: Stretch) -> Stretch | None:
        """Says which ids we have in a stretch, or in as much of it as fits; returns what did
        not."""
        lower, upper, lo, hi = stretch
        room = self._limit - len(self.message) - 2 * (BOUND_SIZE + 1) - 10
        fits = max(room, 0) // ID_SIZE
        if hi - lo <= fits:
            is_put = self._put(stretch, ID_LIST, varint(hi - lo) + self._items.ids(lo, hi))
            return None if is_put else stretch
        if not fits:
            return stretch
        cut = self._items.bound(lo + fits)
        part = Stretch(lower, cut, lo, lo + fits)
        self._put(part, ID_LIST, varint(fits) + self._items.ids(lo, lo + fits))
        return Stretch(cut, upper, lo + fits, hi)

    def end_early(self, rest: Stretch) -> None:
        """Says what we have from the beginning of `rest` to the end of all: in TAIL_SIZE bytes."""
        self._limit += TAIL_SIZE
        stretch = Stretch(rest.lower, END, rest.lo, len(self._items))
        if stretch.lo == stretch.hi:
            # The fingerprint of nothing could equal that of a peer which leaves out, as the first
            # implementations do, the range that did not fit from that of its own rest.
            self._put(stretch, ID_LIST, varint(0))
        else:
            self._put(stretch, FINGERPRINT, self._items.fingerprint(stretch.lo, stretch.hi))

    def _put(self, stretch: Stretch, mode: int, payload: bytes) -> bool:
        at = self._at
        head = b""
        if stretch.lower > at:
            head = encode_bound(stretch.lower, at) + varint(SKIP)
            at = stretch.lower
        head += encode_bound(stretch.upper, at) + varint(mode)
        if len(self.message) + len(head) + len(payload) > self._limit:
            return False
        self.message += head + payload
        self.described.append(stretch)
        self._at = stretch.upper
        return True


class Part(NamedTuple):
    """A range of a message; `fingerprint` and `ids` say something in their own modes only."""

    lower: Bound
    upper: Bound
    mode: int
    fingerprint: bytes
    ids: set[bytes]


def read_parts(message: bytes) -> Iterator[Part]:
    """Yields the ranges of a message after its version.

    Raises:
        NegentropyError: at the first that is no good.
    """
    at, lower = 1, START
    while at < len(message):
        upper, at = read_bound(message, at, lower)
        mode, at = read_varint(message, at)
        fingerprint, ids = b"", set[bytes]()
        if mode == FINGERPRINT:
            fingerprint, at = take(message, at, FINGERPRINT_SIZE)
        elif mode == ID_LIST:
            number, at = read_varint(message, at)
            listed, at = take(message, at, number * ID_SIZE)
            ids = {listed[n : n + ID_SIZE] for n in range(0, len(listed), ID_SIZE)}
            if len(ids) < number:
                raise NegentropyError("an id twice")
            if ids and not may_hold(lower, upper, ids):
                raise NegentropyError("an id out of its range")
        elif mode != SKIP:
            raise NegentropyError("unknown mode")
        yield Part(lower, upper, mode, fingerprint, ids)
        lower = upper


def read_bound(message: bytes, at: int, lower: Bound) -> tuple[Bound, int]:
    """Returns the bound at an offset and the offset after it; `lower` is the bound before it."""
    if lower == END:
        raise NegentropyError("a range after the last")
    offset, at = read_varint(message, at)
    length, at = read_varint(message, at)
    if length > ID_SIZE:
        raise NegentropyError("id prefix too long")
    prefix, at = take(message, at, length)
    if not offset:
        return END, at
    timestamp = lower.timestamp + offset - 1
    if timestamp >= INFINITY:
        raise NegentropyError("timestamp too large")
    upper = Bound(timestamp, prefix.rstrip(b"\0"))
    if upper < lower:
        raise NegentropyError("ranges out of order")
    return upper, at


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns the number at an offset, below 2^64, and the offset after it."""
    value = 0
    for end in range(at, min(at + 10, len(message))):
        digit = message[end]
        value = value << 7 | digit & 0x7F
        if not digit & 0x80:
            if value > INFINITY or (end > at and message[at] == 0x80):
                raise NegentropyError("bad number")
            return value, end + 1
    raise NegentropyError("truncated" if len(message) < at + 10 else "bad number")


def take(message: bytes, at: int, size: int) -> tuple[bytes, int]:
    """Returns so many bytes at an offset, and the offset after them."""
    if size > len(message) - at:
        raise NegentropyError("truncated")
    return message[at : at + size], at + size


def may_hold(lower: Bound, upper: Bound, ids: set[bytes]) -> bool:
    """Whether items with these ids can lie in a range: only one of one timestamp tells."""
    if upper.timestamp == lower.timestamp:
        return lower.prefix <= min(ids) and max(ids) < upper.prefix
    if upper == (lower.timestamp + 1, b""):
        return lower.prefix <= min(ids)
    return upper > lower


def is_within(part: Part, stretch: Stretch) -> bool:
    """Whether a range lies in a stretch."""
    return stretch.lower <= part.lower and part.upper <= stretch.upper


def overlap(stretch: Stretch, others: list[Stretch], first: int) -> list[Stretch]:
    """Returns what a stretch has in common with others, in ascending order, from `first` on."""
    met = []
    for n in range(first, len(others)):
        other = others[n]
        if other.lower >= stretch.upper:
            break
        lower, upper = max(stretch.lower, other.lower), min(stretch.upper, other.upper)
        if lower < upper:
            met.append(Stretch(lower, upper, max(stretch.lo, other.lo), min(stretch.hi, other.hi)))
    return met


def expected_bytes(items: int) -> int:
    """About how long the answer is to so many ids, or to the fingerprint of so many that differ."""
    return BUCKETS * PART_SIZE if items >= 2 * BUCKETS else items * ID_SIZE + PART_SIZE


def encode_bound(bound: Bound, before: Bound) -> bytes:
    """Encodes a bound, where `before` is the one before it."""
    if bound.timestamp == INFINITY:
        return b"\0\0"
    offset = varint(1 + bound.timestamp - before.timestamp)
    return offset + varint(len(bound.prefix)) + bound.prefix


def varint(number: int) -> bytes:
    """Encodes a number in base 128, most significant digit first."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


def checked(frame_limit: int) -> int:
    """Returns the limit itself; ValueError if a message could not say anything in it."""
    if frame_limit < SMALLEST_FRAME_LIMIT:
        raise ValueError(f"a frame limit is at least {SMALLEST_FRAME_LIMIT} bytes")
    return frame_limit
