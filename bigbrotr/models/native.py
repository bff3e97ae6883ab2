"""What C does with many events at once, where `bigbrotr_native` is installed; else None."""

from array import array
from collections.abc import Callable
from typing import NamedTuple, Protocol

INTERFACE = 2  # of `bigbrotr_native`


class Scanned(Protocol):
    """What was said of frames, as columns."""

    @property
    def are_plain(self) -> bytes:
        """Of each, 1, or 0: nobody knows, and nothing else is said."""

    @property
    def kinds(self) -> "array[int]":
        """The kinds of events (uint32) ..."""

    @property
    def created_ats(self) -> "array[int]":
        """... and when they were created (int64)."""

    @property
    def claims(self) -> bytearray:
        """What there is to verify: 128 bytes each."""

    @property
    def addresses(self) -> "array[int]":
        """Where frames lie (uint64), as long as the bytes live that were scanned ..."""

    @property
    def lengths(self) -> "array[int]":
        """... and their lengths (uint32)."""


class Made(Protocol):
    """Rows, one behind the other."""

    @property
    def data(self) -> bytes:
        """All of them, as a binary COPY takes them, without their last column."""

    @property
    def lengths(self) -> "array[int]":
        """Of each event its row's length (uint32), 0 where there is none."""

    @property
    def texts(self) -> bytes:
        """What their tags say that begins like the URL of a relay: lines."""

    @property
    def text_lengths(self) -> "array[int]":
        """Of each event, how many bytes of that are its own (uint32)."""

    @property
    def look_deeper(self) -> list[int]:
        """The places of events that may name further relays elsewhere."""


class Native(NamedTuple):
    """The functions of `bigbrotr_native`."""

    are_right: Callable[[bytes], bool]
    messages: Callable[[bytes, int, int], tuple["array[int]", int]]
    scan: Callable[[bytes, "array[int]", bytes], Scanned]
    order: Callable[["array[int]", bytearray], tuple["array[int]", bool]]
    pick: Callable[..., tuple["array[int]", bytearray, "array[int]", "array[int]", "array[int]"]]
    rows: Callable[["array[int]", "array[int]", bytearray], Made]
    number: Callable[
        [tuple[bytes, "array[int]"], "array[int]", int, int, tuple[bytes, bytes]], bytes
    ]
    frame_at: Callable[[int, int], bytes]


def installed() -> Native | None:
    """Returns what is installed, if it is what we know."""
    try:
        import bigbrotr_native as it
    except (ImportError, OSError):  # OSError: its library is not for this machine
        return None
    if getattr(it, "INTERFACE", 1) != INTERFACE:
        return None
    return Native(*(getattr(it, name) for name in Native._fields))


here = installed()
