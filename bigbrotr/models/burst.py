"""A burst: messages that came together, as slices of the bytes in which they came."""

from array import array
from collections.abc import Sequence
from itertools import accumulate


class Burst(Sequence[bytes]):
    """Messages that came together, in the bytes in which they came."""

    def __init__(self, data: bytes, bounds: "array[int]") -> None:
        self.data = data
        self.bounds = bounds  # where each begins and ends, by turns (uint32)

    @classmethod
    def of(cls, frames: Sequence[bytes]) -> "Burst":
        """Messages that came one by one."""
        bounds = array("I", bytes(8 * len(frames)))
        ends = array("I", accumulate(map(len, frames)))
        bounds[1::2] = ends
        bounds[2::2] = ends[:-1]
        return cls(b"".join(frames), bounds)

    def __len__(self) -> int:
        return len(self.bounds) // 2

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override]  # nobody slices it
        return self.data[self.bounds[2 * place] : self.bounds[2 * place + 1]]
