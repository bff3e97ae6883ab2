"""What C does with many events at once, where `bigbrotr_native` is installed; else None."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Native(NamedTuple):
    """The functions of `bigbrotr_native`."""

    are_right: Callable[[bytes], bool]
    scan: Callable[[Sequence[bytes], bytes], list[tuple[int, int, int, bytes]]]
    messages: Callable[[bytes, int, int], tuple[list[bytes], int]]
    rows: Callable[[Sequence[bytes]], list[tuple[bytes, bytes, bool] | None]]


def installed() -> Native | None:
    """Returns what is installed."""
    try:
        from bigbrotr_native import are_right, messages, rows, scan
    except (ImportError, OSError):  # OSError: its library is not for this machine
        return None
    return Native(are_right, scan, messages, rows)


here = installed()
