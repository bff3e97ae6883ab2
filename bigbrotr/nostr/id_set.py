"""A set of event ids that changes while it is reconciled: what a server of NIP-77 holds.

The ids stand in chunks, in the order (created_at, id). A chunk keeps sums of its ids up to every
sixteenth, and the set sums of the chunks before each: a fingerprint costs a few additions,
whatever its length, and a new event touches one chunk. Memory: 42 bytes an id, and some hundred a
chunk.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, compress, count, islice, pairwise
from operator import eq, gt

from bigbrotr.nostr.negentropy import BLOCK, ID_SIZE, INFINITY, MODULUS, Bound, Digest

CHUNK = 2048  # ids, as they are read; one of twice as many is split
ITEM_BYTES = 46  # what an id takes, chunks and their sums included

Key = tuple[int, bytes]  # created_at and id


class IdSet:
    """Ids of events by time. `update` and `discard` change it between two messages of any number of
    servers: none of them keeps anything."""

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._firsts: list[Key] = []  # the first of each chunk
        self._starts = [0]  # positions of the chunks, and of the end
        self._sums = [0]  # of all before each
        self._is_summed = True
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: Key) -> bool:
        place = self._chunk_of(key)
        return place is not None and self._chunks[place].has(key)

    def update(self, keys: Iterable[Key]) -> None:
        """Takes events; those that are here already change nothing."""
        for key in keys:
            place = self._chunk_of(key)
            if place is None:
                if not self._chunks:
                    self._insert_chunk(0, _Chunk(array("Q", [key[0]]), key[1]))
                    self._size = 1
                    continue
                place = 0
            chunk = self._chunks[place]
            if not chunk.add(key):
                continue
            self._is_summed = False
            self._size += 1
            if len(chunk) >= 2 * CHUNK:
                self._chunks[place], after = chunk.halves()
                self._insert_chunk(place + 1, after)
            self._firsts[place] = self._chunks[place].key(0)

    def discard(self, keys: Iterable[Key]) -> None:
        """Leaves events out; those that are not here change nothing."""
        for key in keys:
            place = self._chunk_of(key)
            if place is None or not self._chunks[place].drop(key):
                continue
            self._is_summed = False
            self._size -= 1
            if len(self._chunks[place]):
                self._firsts[place] = self._chunks[place].key(0)
            else:
                del self._chunks[place], self._firsts[place]

    def extend_packed(self, created_ats: bytes, ids: bytes) -> None:
        """Takes events as columns: times of 8 bytes, most significant first, and ids of 32.

        What comes in order and after all others is taken over in masses.
        """
        times = array("Q", created_ats)
        if sys.byteorder == "little":
            times.byteswap()
        if len(times) * ID_SIZE != len(ids):
            raise ValueError("as many times as ids")
        if not times:
            return
        if not self._is_next(times, ids):
            self.update((at, ids[n * ID_SIZE : (n + 1) * ID_SIZE]) for n, at in enumerate(times))
            return
        self._size += len(times)
        for start in range(0, len(times), CHUNK):
            end = min(start + CHUNK, len(times))
            made = _Chunk(times[start:end], ids[start * ID_SIZE : end * ID_SIZE])
            self._insert_chunk(len(self._chunks), made)

    def _is_next(self, times: "array[int]", ids: bytes) -> bool:
        """Whether these come in order, and after all others."""
        if any(map(gt, times, islice(times, 1, None))):
            return False
        if self._chunks and self._chunks[-1].key(len(self._chunks[-1]) - 1) >= (times[0], ids[:32]):
            return False
        ties = compress(count(), map(eq, times, islice(times, 1, None)))
        return all(
            ids[n * ID_SIZE : (n + 1) * ID_SIZE] < ids[(n + 1) * ID_SIZE : (n + 2) * ID_SIZE]
            for n in ties
        )

    def summing(self) -> Iterator[None]:
        """Sums up what has changed, in steps of less than a millisecond."""
        for chunk in self._chunks:
            if chunk.is_behind:
                chunk.sum_before(len(chunk))
                yield

    def window(self, since: int, until: int) -> "Window":
        """Those that were created from `since` to `until` (Unix seconds, both included)."""
        return Window(self, self.position(Bound(since)), self.position(Bound(until + 1)))

    # What a server asks

    def seal(self) -> None:
        """Does nothing: sums are made when they are needed."""

    def ids(self, lo: int, hi: int) -> bytes:
        """Returns the ids at the positions [lo, hi), one after the other."""
        self._sum_up()
        parts = []
        place = bisect_right(self._starts, lo) - 1
        while lo < hi:
            start, end = self._starts[place], min(hi, self._starts[place + 1])
            ids = self._chunks[place].ids
            parts.append(ids[(lo - start) * ID_SIZE : (end - start) * ID_SIZE])
            lo, place = end, place + 1
        return b"".join(parts)

    def position(self, bound: Bound, lo: int = 0) -> int:
        """Returns the position of the first item at or after a bound, which is not before `lo`."""
        self._sum_up()
        if bound.timestamp >= INFINITY:
            return self._starts[-1]
        place = max(0, bisect_left(self._firsts, (bound.timestamp, bound.prefix)) - 1)
        if place == len(self._chunks):
            return 0
        return max(lo, self._starts[place] + self._chunks[place].position(*bound))

    def bound(self, position: int) -> Bound:
        """Returns the shortest bound between an item and the one before it."""
        timestamp, item = self._key(position)
        earlier, before = self._key(position - 1)
        if timestamp != earlier:
            return Bound(timestamp)
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

    def _key(self, position: int) -> Key:
        self._sum_up()
        place = bisect_right(self._starts, position) - 1
        return self._chunks[place].key(position - self._starts[place])

    def _sum_before(self, position: int) -> int:
        self._sum_up()
        place = bisect_right(self._starts, position) - 1
        if place == len(self._chunks):
            return self._sums[-1]
        return self._sums[place] + self._chunks[place].sum_before(position - self._starts[place])

    def _sum_up(self) -> None:
        if not self._is_summed:
            self._starts = [0, *accumulate(map(len, self._chunks))]
            self._sums = [0, *accumulate(chunk.total for chunk in self._chunks)]
            self._is_summed = True

    def _chunk_of(self, key: Key) -> int | None:
        """The chunk in which an event is, if it is here; None: it is before all."""
        place = bisect_right(self._firsts, key) - 1
        return None if place < 0 else place

    def _insert_chunk(self, place: int, chunk: "_Chunk") -> None:
        self._chunks.insert(place, chunk)
        self._firsts.insert(place, chunk.key(0))
        self._is_summed = False


class _Chunk:
    """Some events that follow one another; `ids` are one after the other."""

    __slots__ = ("_sums", "ids", "times", "total")

    def __init__(self, times: "array[int]", ids: bytes) -> None:
        self.times = times
        self.ids = ids
        self._sums = bytearray(ID_SIZE)  # of all ids before each block, as far as they are known
        self.total = self.sum_before(len(times))  # of all ids

    def __len__(self) -> int:
        return len(self.times)

    @property
    def is_behind(self) -> bool:
        """Whether sums are not known that somebody may ask for."""
        return len(self._sums) // ID_SIZE <= len(self.times) // BLOCK

    def key(self, place: int) -> Key:
        return self.times[place], self.ids[place * ID_SIZE : (place + 1) * ID_SIZE]

    def position(self, timestamp: int, prefix: bytes) -> int:
        """How many are before (timestamp, prefix)."""
        first = bisect_left(self.times, timestamp)
        if not prefix:
            return first
        last = bisect_right(self.times, timestamp, first)
        return first + bisect_left(range(first, last), prefix, key=lambda n: self.key(n)[1])

    def has(self, key: Key) -> bool:
        place = self.position(*key)
        return place < len(self) and self.key(place) == key

    def add(self, key: Key) -> bool:
        """Takes an event; False: it is here already."""
        place = self.position(*key)
        if place < len(self) and self.key(place) == key:
            return False
        self.times.insert(place, key[0])
        at = place * ID_SIZE
        self.ids = self.ids[:at] + key[1] + self.ids[at:]
        self.total += int.from_bytes(key[1], "little")
        self._forget_sums(place)
        return True

    def drop(self, key: Key) -> bool:
        """Leaves an event out; False: it is not here."""
        place = self.position(*key)
        if place == len(self) or self.key(place) != key:
            return False
        del self.times[place]
        at = place * ID_SIZE
        self.ids = self.ids[:at] + self.ids[at + ID_SIZE :]
        self.total -= int.from_bytes(key[1], "little")
        self._forget_sums(place)
        return True

    def halves(self) -> tuple["_Chunk", "_Chunk"]:
        """The same in two."""
        half = len(self) // 2
        at = half * ID_SIZE
        return _Chunk(self.times[:half], self.ids[:at]), _Chunk(self.times[half:], self.ids[at:])

    def sum_before(self, place: int) -> int:
        """The sum of the ids before a place, not reduced."""
        block = place // BLOCK
        known = len(self._sums) // ID_SIZE - 1
        if known < block:
            total = int.from_bytes(self._sums[known * ID_SIZE :], "little")
            size = BLOCK * ID_SIZE
            for n in range(known, block):
                total += _sum(self.ids[n * size : (n + 1) * size])
                self._sums += (total % MODULUS).to_bytes(ID_SIZE, "little")
        kept = self._sums[block * ID_SIZE : (block + 1) * ID_SIZE]
        rest = self.ids[block * BLOCK * ID_SIZE : place * ID_SIZE]
        return int.from_bytes(kept, "little") + _sum(rest)

    def _forget_sums(self, place: int) -> None:
        del self._sums[(place // BLOCK + 1) * ID_SIZE :]


class Window:
    """The part of a set between two positions, as long as the set does not change."""

    def __init__(self, whole: IdSet, start: int, end: int) -> None:
        self._whole = whole
        self._start = start
        self._end = max(start, end)

    def __len__(self) -> int:
        return self._end - self._start

    def seal(self) -> None:
        """Does nothing: see the whole."""

    def ids(self, lo: int, hi: int) -> bytes:
        """Returns the ids at the positions [lo, hi), one after the other."""
        return self._whole.ids(self._start + lo, self._start + hi)

    def position(self, bound: Bound, lo: int = 0) -> int:
        """Returns the position of the first item at or after a bound, which is not before `lo`."""
        found = min(max(self._whole.position(bound), self._start), self._end)
        return max(lo, found - self._start)

    def bound(self, position: int) -> Bound:
        """Returns the shortest bound between an item and the one before it."""
        return self._whole.bound(self._start + position)

    def fingerprints(self, cuts: Iterable[int]) -> list[bytes]:
        """Returns the fingerprints of the ids between each position and the next."""
        return self._whole.fingerprints(self._start + cut for cut in cuts)

    def fingerprint(self, lo: int, hi: int) -> bytes:
        """Returns the fingerprint of the ids at the positions [lo, hi), whatever their number."""
        return self._whole.fingerprint(self._start + lo, self._start + hi)


def _sum(ids: bytes) -> int:
    size, number = ID_SIZE, int.from_bytes
    return sum([number(ids[n : n + size], "little") for n in range(0, len(ids), size)])
