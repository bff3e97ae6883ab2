"""The floors: what each step costs by itself, one after the other, with nothing else going on."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from bigbrotr.core.brotr import Visit
from bigbrotr.models.event import Event, WireEvent, is_signed, wire_id
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr import message
from bigbrotr.nostr.websocket import FrameReader
from tests.bench.relay import header
from tests.bench.stage import Stage

T = TypeVar("T")

CHUNK = 65_536  # bytes that a socket hands over at a time
PAGE = 500


def measure(events: Sequence[tuple[int, bytes]]) -> dict[str, float]:
    """Microseconds an event of reading and decoding a frame, hashing and verifying."""
    frames = [b'["EVENT","b1",%b]' % body for _, body in events]
    decoder = msgspec.json.Decoder(tuple[str, str, WireEvent])
    wires = [decoder.decode(frame)[2] for frame in frames]
    whole = [Event.from_wire(wire) for wire in wires]
    stream = b"".join(header(len(frame)) + frame for frame in frames)
    chunks = [stream[start : start + CHUNK] for start in range(0, len(stream), CHUNK)]
    reader = FrameReader(1 << 20)
    return {
        "read": each(reader.feed, chunks) * len(chunks) / len(events),
        "decode": each(message.decode, frames),
        "hash": each(wire_id, wires),
        "verify": each(lambda event: is_signed(event.id, event.pubkey, event.sig), whole),
    }


async def insert(on: Stage, events: Sequence[tuple[int, bytes]]) -> dict[str, float]:
    """Microseconds an event of storing pages of verified events, one writer."""
    ordered = sorted(
        (Event.from_json(body) for _, body in events), key=lambda e: (e.created_at, e.id)
    )
    async with on.archive() as archive:
        brotr = archive.brotr
        await brotr.insert_relays([Relay("ws://127.0.0.1:9")])
        [visit] = await brotr.claim_visits(
            [Network.LOCAL], limit=1, owner="floor", lease_s=600, since=0, until=0
        )
        assert isinstance(visit, Visit)
        started = time.perf_counter()
        for start in range(0, len(ordered), PAGE):
            await brotr.store_page(visit, ordered[start : start + PAGE], now=int(time.time()))
        return {"insert": (time.perf_counter() - started) / len(ordered) * 1e6}


def each(work: Callable[[T], object], items: Sequence[T]) -> float:
    """Microseconds that the work takes for each of the items, at best."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for item in items:
            work(item)
        best = min(best, time.perf_counter() - started)
    return best / len(items) * 1e6
