"""What bigbrotr does with each event, in C, many events at once: see `README.md`.

All of it is optional: bigbrotr has its own way for whatever this says nothing of.
"""

import ctypes
import hashlib
import os
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from struct import Struct

CLAIM_BYTES = (
    128  # a signature (64), the message that was signed (32) and an x-only public key (32)
)
COEFFICIENT_BYTES = 16
MOST_MESSAGES = 4096  # at once
MOST_KEPT = 4 << 20  # bytes, in each thread, from call to call
ROW_COLUMNS = (
    *("created_at", "kind", "slice", "id", "pubkey", "sig", "tags", "tag_hashes", "content"),
)

_scanned = Struct("@IIq128s")
_made = Struct("@III")
_bounds = Struct("@II")

_library = ctypes.CDLL(str(Path(__file__).with_name("native.so")))
_are_right = _library.bigbrotr_native_are_right
_are_right.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
_are_right.restype = ctypes.c_int
_frames = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_scan = _library.bigbrotr_native_scan
_scan.argtypes = [*_frames, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
_scan.restype = ctypes.c_int
_rows = _library.bigbrotr_native_rows
_rows.argtypes = [*_frames, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
_rows.restype = ctypes.c_int64


_messages = _library.bigbrotr_native_messages
_messages.argtypes = [
    *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t),
    *(ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)),
]
_messages.restype = ctypes.c_size_t


class _Scratch(threading.local):
    """Memory that one call leaves to the next: fresh pages cost as much as writing there."""

    def __init__(self) -> None:
        self._kept: dict[str, bytearray] = {}

    def of(self, name: str, size: int) -> bytearray:
        """At least `size` bytes."""
        if len(found := self._kept.get(name, b"")) < size or not isinstance(found, bytearray):
            found = bytearray(size)
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


def messages(data: bytes, start: int, largest: int) -> tuple[list[bytes], int]:
    """Returns the whole text messages (RFC 6455, as a server sends them) that follow on each other
    from `start` on, up to 4,096 of them, and where they cease: with what is not whole yet, is
    larger than `largest`, or is no text in one frame.
    """
    bounds, count = _scratch.of("bounds", _bounds.size * MOST_MESSAGES), ctypes.c_size_t()
    end = _messages(
        *(data, len(data), start, largest, MOST_MESSAGES, _address_of(bounds)), ctypes.byref(count)
    )
    found = memoryview(bounds)[: _bounds.size * count.value]
    return [data[first:last] for first, last in _bounds.iter_unpack(found)], end


def scan(frames: Sequence[bytes], subscription: bytes) -> list[tuple[int, int, int, bytes]]:
    """Returns of each frame, whether it is a plain event for the subscription (1; 0: nobody knows),
    and then its kind, when it was created and its claim.

    A plain event hashes to its id, and came in the very bytes in which bigbrotr would write it.

    Raises:
        MemoryError: there is no memory.
    """
    lengths, count = array("I", map(len, frames)), len(frames)
    found = bytearray(_scanned.size * count)
    if not _scan(
        *(b"".join(frames), lengths.buffer_info()[0], count, subscription, len(subscription)),
        _address_of(found),
    ):
        raise MemoryError
    return list(_scanned.iter_unpack(found))


def rows(frames: Sequence[bytes]) -> list[tuple[bytes, bytes, bool] | None]:
    """Returns of each frame with a plain event, which `scan` has found, its row; None: it is not
    plain enough for that.

    A row is what a binary COPY takes, without its last column: the number of columns, one more than
    there are in ROW_COLUMNS, and these. Behind it there are the texts of its tags that begin like
    the URL of a relay, each with a line feed behind it, and whether its content, or what is not
    ASCII, may name further relays.

    Raises:
        MemoryError: there is no memory.
    """
    lengths, count = array("I", map(len, frames)), len(frames)
    joined = b"".join(frames)
    data = _scratch.of("data", 2 * len(joined) + 300 * count)
    texts = _scratch.of("texts", len(joined))
    found = bytearray(_made.size * count)
    end = _rows(
        *(joined, lengths.buffer_info()[0], count),
        *(_address_of(data), _address_of(found), _address_of(texts)),
    )
    if end < 0:
        raise MemoryError
    made: list[tuple[bytes, bytes, bool] | None] = []
    at = start = 0
    whole = bytes(memoryview(data)[:end])
    for flags, length, named in _made.iter_unpack(found):
        if not flags:
            made.append(None)
            continue
        names = bytes(texts[at : at + named]) if named else b""
        made.append((whole[start : start + length], names, flags > 1))
        at += named
        start += length
    return made


def _address_of(buffer: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer)) if buffer else 0
