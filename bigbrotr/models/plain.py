"""Plain events: those in the very bytes in which we would write them. C finds them, many at once.

Nearly all events are plain. Of any other nothing is said here, valid or not, and of none where
`bigbrotr_native` is not installed: they go the way of `event`, one by one.
"""

from functools import cached_property
from itertools import compress
from typing import TypeAlias

import msgspec

from bigbrotr.models import native
from bigbrotr.models.burst import Burst
from bigbrotr.models.event import Event, Unsigned, WireEvent, decode_identified
from bigbrotr.models.signatures import CLAIM_BYTES

FEW = 4  # frames: they take as long one by one

_frame_decoder = msgspec.json.Decoder(tuple[str, str, WireEvent])


class Plain(msgspec.Struct, frozen=True, gc=False):
    """An event whose bytes hash to its id, as it came in a frame; `claim` is what there is to
    verify: its `sig` (64 bytes), `id` (32) and `pubkey` (32)."""

    created_at: int
    kind: int
    claim: bytes
    frame: bytes

    @property
    def id(self) -> bytes:
        """Its id (32 bytes)."""
        return self.claim[64:96]

    @property
    def pubkey(self) -> bytes:
        """Its author's public key (32 bytes)."""
        return self.claim[96:]

    def wire(self) -> WireEvent:
        """The event as it came."""
        return _frame_decoder.decode(self.frame)[2]

    def decode(self) -> Unsigned:
        """All that the event says."""
        return decode_identified(self.wire())


Heard: TypeAlias = WireEvent | Event | Plain  # what came for a subscription


def unpacked(event: Heard) -> WireEvent | Event:
    """An event as it came, or decoded."""
    return event.wire() if isinstance(event, Plain) else event


class Scan:
    """Which messages of a burst are plain events for a subscription; of none is that known where C
    is not installed, or there are few."""

    def __init__(self, burst: Burst, subscription: str) -> None:
        self._burst, self._subscription = burst, subscription
        self.data = burst.data
        self.said: native.Scanned | None = None
        if native.here is not None and len(burst) >= FEW:
            self.said = native.here.scan(burst.data, burst.bounds, subscription.encode())

    def plain_until(self, start: int) -> int:
        """The place of the first message from `start` on that is none."""
        if self.said is None:
            return start
        end = self.said.are_plain.find(0, start)
        return len(self.said.are_plain) if end < 0 else end

    def size(self, start: int, end: int) -> int:
        """The bytes of the messages between two places."""
        return 0 if self.said is None else sum(self.said.lengths[start:end])

    @cached_property
    def _is_mostly_plain(self) -> bool:
        if self.said is None:
            return False
        return 2 * sum(compress(self.said.lengths, self.said.are_plain)) > len(self.data)

    def event(self, place: int, frame: bytes) -> Plain:
        """The plain event at a place, whose message is given."""
        assert self.said is not None
        claim = bytes(self.said.claims[CLAIM_BYTES * place : CLAIM_BYTES * (place + 1)])
        return Plain(self.said.created_ats[place], self.said.kinds[place], claim, frame)

    def worth_keeping(self, start: int, end: int, size: int) -> "tuple[Scan, int, int] | None":
        """The plain events between two places, of `size` bytes, in bytes that hold little else,
        since whoever keeps an event keeps alive all in which it came; None where there are few,
        beside much else."""
        if 2 * size > len(self.data) or self._is_mostly_plain:
            return self, start, end
        if end - start < FEW:
            return None
        some = [self._burst[place] for place in range(start, end)]
        return Scan(Burst.of(some), self._subscription), 0, end - start
