"""Plain events: those in the very bytes in which we would write them. C finds them, many at once.

Nearly all events are plain. Of any other nothing is said here, valid or not, and of none where
`bigbrotr_native` is not installed: they go the way of `event`, one by one.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from bigbrotr.models import native
from bigbrotr.models.event import Event, Unsigned, WireEvent, decode_identified

FEW = 4  # frames: they take as long one by one

_frame_decoder = msgspec.json.Decoder(tuple[str, str, WireEvent])


class Plain(msgspec.Struct, frozen=True, gc=False):
    """An event whose bytes hash to its id, as it came in a frame; `claim` is what there is to
    verify: its `sig` (64 bytes), `id` (32) and `pubkey` (32)."""

    id: bytes
    created_at: int
    kind: int
    claim: bytes
    frame: bytes

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


def find_plain(frames: Sequence[bytes], subscription: str) -> list[Plain | None]:
    """Returns of each frame the event in it, where it is a plain one for the subscription.

    None of what stands for a frame that is something else: a sample may look like an event.
    """
    if native.here is None or len(frames) < FEW:
        return [None] * len(frames)
    found = zip(frames, native.here.scan(frames, subscription.encode()), strict=True)
    return [
        Plain(claim[64:96], created_at, kind, claim, frame)
        if is_plain and type(frame) is bytes
        else None
        for frame, (is_plain, kind, created_at, claim) in found
    ]


def unpacked(event: Heard) -> WireEvent | Event:
    """An event as it came, or decoded."""
    return event.wire() if isinstance(event, Plain) else event
