"""The floors: what each step costs by itself, in one process, on one core."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from bigbrotr.models.event import Event, WireEvent, is_signed, wire_id
from bigbrotr.nostr import message

T = TypeVar("T")


def measure(events: Sequence[tuple[int, bytes]]) -> dict[str, float]:
    """Microseconds an event of decoding a frame, hashing and verifying."""
    frames = [b'["EVENT","b1",%b]' % body for _, body in events]
    decoder = msgspec.json.Decoder(tuple[str, str, WireEvent])
    wires = [decoder.decode(frame)[2] for frame in frames]
    whole = [Event.from_wire(wire) for wire in wires]
    return {
        "decode": _each(message.decode, frames),
        "hash": _each(wire_id, wires),
        "verify": _each(lambda event: is_signed(event.id, event.pubkey, event.sig), whole),
        "decode whole, hash and verify": _each(Event.from_wire, wires),
    }


def _each(work: Callable[[T], object], items: Sequence[T]) -> float:
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for item in items:
            work(item)
        best = min(best, time.perf_counter() - started)
    return best / len(items) * 1e6
