"""What bigbrotr does with each event, in C, many events at once: see `README.md`.

All of it is optional: bigbrotr has its own way for whatever this says nothing of.
"""

import ctypes
import hashlib
import os
import threading
from array import array
from pathlib import Path
from typing import NamedTuple

INTERFACE = 2  # changes with what functions take or return: whoever calls them asks for one
CLAIM_BYTES = (
    128  # a signature (64), the message that was signed (32) and an x-only public key (32)
)
COEFFICIENT_BYTES = 16
MOST_MESSAGES = 4096  # at once
MOST_KEPT = 4 << 20  # bytes, in each thread, from call to call
ROW_COLUMNS = (
    *("created_at", "kind", "slice", "id", "pubkey", "sig", "tags", "tag_hashes", "content"),
)

_BOUNDS = 8  # bytes: of where a message begins and ends

_library = ctypes.CDLL(str(Path(__file__).with_name("native.so")))
_are_right = _library.bigbrotr_native_are_right
_are_right.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
_are_right.restype = ctypes.c_int
_size, _pointer = ctypes.c_size_t, ctypes.c_void_p
_messages = _library.bigbrotr_native_messages
_messages.argtypes = [
    *(ctypes.c_char_p, _size, _size, _size, _size, _pointer, ctypes.POINTER(_size)),
]
_messages.restype = _size
_scan = _library.bigbrotr_native_scan
_scan.argtypes = [ctypes.c_char_p, _pointer, _size, ctypes.c_char_p, _size, *[_pointer] * 6]
_scan.restype = ctypes.c_int
_order = _library.bigbrotr_native_order
_order.argtypes = [_pointer, _pointer, _size, _pointer]
_order.restype = ctypes.c_int
_pick = _library.bigbrotr_native_pick
_pick.argtypes = [_pointer, _size, _size, *[_pointer] * 10]
_pick.restype = ctypes.c_int
_rows = _library.bigbrotr_native_rows
_rows.argtypes = [_pointer, _pointer, _pointer, _size, *[_pointer] * 5]
_rows.restype = ctypes.c_int64
_number = _library.bigbrotr_native_number
_number.argtypes = [
    *(ctypes.c_char_p, _pointer, _pointer, _size, ctypes.c_uint32, ctypes.c_uint32, _pointer)
]
_number.restype = _size


class _Scratch(threading.local):
    """Memory that one call leaves to the next: fresh pages cost as much as writing there."""

    def __init__(self) -> None:
        self._kept: dict[str, bytearray] = {}

    def of(self, name: str, size: int) -> bytearray:
        """At least `size` bytes."""
        if len(found := self._kept.get(name, b"")) < size or not isinstance(found, bytearray):
            # Some more than that: the next call may need a little more.
            found = bytearray(size if size > MOST_KEPT else 1 << (size - 1).bit_length())
            if size <= MOST_KEPT:
                self._kept[name] = found
        return found


_scratch = _Scratch()


def are_right(claims: bytes) -> bool:
    """Returns whether all claims, 128 bytes each and one behind the other, are right.

    Other threads may run meanwhile. False means as well that there was no memory to find out.

    Raises:
        ValueError: the bytes are not a whole number of claims.
    """
    count, rest = divmod(len(claims), CLAIM_BYTES)
    if rest:
        raise ValueError(f"a claim has {CLAIM_BYTES} bytes, and {len(claims):,} came")
    # Wrong signatures could be made so that their errors add up to nothing, if their maker knew
    # what each is multiplied by. Nobody does: the numbers hang on every byte of all claims, so that
    # they change as soon as one byte does, and on fresh randomness, so that all bytes do not tell.
    seed = os.urandom(32) + claims
    coefficients = hashlib.shake_128(seed).digest(COEFFICIENT_BYTES * count)
    return bool(_are_right(claims, count, coefficients) == 1)


class Scanned(NamedTuple):
    """What was said of frames, as columns of so many items; of those that are no plain events only
    that counts. Where they lie counts as long as the bytes live that were scanned."""

    are_plain: bytes  # 1, or 0: nobody knows
    kinds: "array[int]"  # uint32
    created_ats: "array[int]"  # int64
    claims: bytearray  # 128 bytes each
    addresses: "array[int]"  # uint64
    lengths: "array[int]"  # uint32


class Made(NamedTuple):
    """Rows one behind the other, and of each how long it is (0: there is none) and which relays
    its tags may name: of `texts`, a line each, the number of bytes."""

    data: bytes
    lengths: "array[int]"  # uint32
    texts: bytes
    text_lengths: "array[int]"  # uint32
    look_deeper: list[int]  # those whose content, or what is not ASCII, may name further relays


def messages(data: bytes, start: int, largest: int) -> tuple["array[int]", int]:
    """Returns where the whole text messages (RFC 6455, as a server sends them) begin and end, by
    turns (uint32), that follow on each other from `start` on, up to 4,096 of them, and where they
    cease: with what is not whole yet, is larger than `largest`, or is no text in one frame.
    """
    found, count = _scratch.of("bounds", _BOUNDS * MOST_MESSAGES), _size()
    end = _messages(
        *(data, len(data), start, largest, MOST_MESSAGES, _start_of(found)), ctypes.byref(count)
    )
    bounds = array("I")
    bounds.frombytes(memoryview(found)[: _BOUNDS * count.value])
    return bounds, end


def scan(data: bytes, bounds: "array[int]", subscription: bytes) -> Scanned:
    """Returns which frames are plain events for the subscription, and what is in these: `bounds`
    says where in `data` frames begin and end, by turns (uint32).

    A plain event hashes to its id, and came in the very bytes in which bigbrotr would write it.

    Raises:
        MemoryError: there is no memory.
        ValueError: the bounds are not in order within the data.
    """
    count, rest = divmod(len(bounds), 2)
    if rest or bounds.itemsize != 4 or (count and bounds[-1] > len(data)):
        raise ValueError(f"{len(bounds)} bounds in {len(data):,} bytes")
    are_plain, claims = bytearray(count), bytearray(CLAIM_BYTES * count)
    kinds, lengths = array("I", bytes(4 * count)), array("I", bytes(4 * count))
    created_ats, addresses = array("q", bytes(8 * count)), array("Q", bytes(8 * count))
    said = _scan(
        *(data, _start_of(bounds), count, subscription, len(subscription)),
        *_starts_of(are_plain, kinds, created_ats, claims, addresses, lengths),
    )
    if said < 0:
        raise ValueError(f"{count} frames that are not in order")
    if not said:
        raise MemoryError
    return Scanned(bytes(are_plain), kinds, created_ats, claims, addresses, lengths)


def order(created_ats: "array[int]", claims: bytearray) -> tuple["array[int]", bool]:
    """Returns the places of events in the order of (created_at, id), and whether no two have the
    same id.

    Raises:
        MemoryError: there is no memory.
        ValueError: there are not as many claims as times.
    """
    count = len(created_ats)
    if len(claims) != CLAIM_BYTES * count or created_ats.itemsize != 8:
        raise ValueError(f"{count} times, and {len(claims):,} bytes of claims")
    found = array("I", bytes(4 * count))
    said = _order(created_ats.buffer_info()[0], _start_of(claims), count, found.buffer_info()[0])
    if said < 0:
        raise MemoryError
    return found, said == 1


def pick(
    places: "array[int]",
    created_ats: "array[int]",
    claims: bytearray,
    addresses: "array[int]",
    lengths: "array[int]",
    kinds: "array[int]",
) -> tuple["array[int]", bytearray, "array[int]", "array[int]", "array[int]"]:
    """Returns what stands in columns, those of `Scanned`, at the places (uint32), in their order.

    Raises:
        ValueError: there is no such place, or the columns are not of one length.
    """
    count, all_ = len(places), len(created_ats)
    if not len(addresses) == len(lengths) == len(kinds) == len(claims) // CLAIM_BYTES == all_:
        raise ValueError("columns of several lengths")
    found = (
        array("q", bytes(8 * count)),
        bytearray(CLAIM_BYTES * count),
        array("Q", bytes(8 * count)),
        array("I", bytes(4 * count)),
        array("I", bytes(4 * count)),
    )
    if not _pick(
        *(_start_of(places), count, all_),
        *_starts_of(created_ats, claims, addresses, lengths, kinds),
        *_starts_of(*found),
    ):
        raise ValueError(f"no place {max(places)} among {all_}")
    return found


def rows(addresses: "array[int]", lengths: "array[int]", claims: bytearray) -> Made:
    """Returns the rows of plain events, whose frames `scan` has found to lie at the addresses (0:
    there is none). Of one that is not plain enough for that there is none.

    A row is what a binary COPY takes, without its last column: the number of columns, one more than
    there are in ROW_COLUMNS, and these.

    Raises:
        MemoryError: there is no memory.
        ValueError: there are not as many lengths and claims as addresses.
    """
    count, total = len(lengths), sum(lengths)
    if len(addresses) != count or len(claims) != CLAIM_BYTES * count:
        raise ValueError(f"{len(addresses)} addresses, {count} lengths, {len(claims):,} bytes")
    data, texts = _scratch.of("data", 2 * total + 300 * count), _scratch.of("texts", total)
    row_lengths, text_lengths = array("I", bytes(4 * count)), array("I", bytes(4 * count))
    flags = bytearray(count)
    end = _rows(
        *(*_starts_of(addresses, lengths, claims), count),
        *_starts_of(data, row_lengths, flags, texts, text_lengths),
    )
    if end < 0:
        raise MemoryError
    named = bytes(memoryview(texts)[: sum(text_lengths)])
    deeper = [place for place, flag in enumerate(flags) if flag > 1] if 3 in flags else []
    return Made(bytes(memoryview(data)[:end]), row_lengths, named, text_lengths, deeper)


def number(
    rows: tuple[bytes, "array[int]"],
    numbers: "array[int]",
    columns: int,
    most: int,
    around: tuple[bytes, bytes],
) -> bytes:
    """Returns rows, given with their lengths (uint32), with their numbers (int64) behind them and
    `columns` before them, which counts the number, and all between the bytes of `around`. `most`:
    the bytes that are kept of each row, all if 0.

    Raises:
        ValueError: there are not as many numbers as rows, or these are not whole.
    """
    (data, lengths), (head, tail), count = rows, around, len(numbers)
    if len(lengths) != count or sum(lengths) != len(data) or min(lengths, default=2) < 2:
        raise ValueError(f"{count} numbers for {len(lengths)} rows of {len(data):,} bytes")
    room = _scratch.of("numbered", len(head) + len(data) + 12 * count + len(tail))
    room[: len(head)] = head
    end = len(head) + _number(
        *(data, _start_of(lengths), _start_of(numbers), count, columns, most),
        _start_of(room) + len(head),
    )
    room[end : end + len(tail)] = tail
    return bytes(memoryview(room)[: end + len(tail)])


def frame_at(address: int, length: int) -> bytes:
    """Returns a frame that `scan` has found, of bytes that live."""
    return ctypes.string_at(address, length)


def _starts_of(*buffers: "bytearray | array[int]") -> list[int]:
    return [_start_of(buffer) for buffer in buffers]


def _start_of(buffer: "bytearray | array[int]") -> int:
    if isinstance(buffer, array):
        return buffer.buffer_info()[0]
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if buffer else 0
