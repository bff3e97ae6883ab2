"""The floors: what each step costs by itself, on all cores at once, with nothing else going on.

Not on one core and divided by their number: cores that share their units, or a cache, do each step
slower together, and no pipeline can be faster than that.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from typing import TypeVar

import uvloop

from bigbrotr.config.settings import PoolSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.event_rows import make_rows
from bigbrotr.core.pool import Pool
from bigbrotr.core.values import tell_arrays_by_type
from bigbrotr.models import signatures
from bigbrotr.models.burst import Burst
from bigbrotr.models.columns import Columns, Found
from bigbrotr.models.event import Event, WireEvent, identify, is_signed
from bigbrotr.models.plain import Scan
from bigbrotr.models.relay import Network, Relay
from bigbrotr.models.signatures import CLAIM_BYTES, MAX_BATCH
from bigbrotr.net.frames import FrameReader
from bigbrotr.nostr import message
from tests.bench.relay import header
from tests.bench.stage import Stage

T = TypeVar("T")

CORES = os.cpu_count() or 1
CHUNK = 65_536  # bytes that a socket hands over at a time
PAGE = 500
SINGLY = "verify singly"
SAMPLE = 5000  # events for the steps that need no database ...
ROUNDS = 3  # ... which are done so often

Events = Sequence[tuple[int, bytes]]


async def measure(on: Stage, events: Events) -> dict[str, float]:
    """Microseconds an event that each step takes when all cores do it: read, decode and hash,
    verify one by one (`SINGLY`) and as it is done here, insert."""
    async with on.archive() as archive:
        address = archive.brotr.pool.address
        await archive.brotr.insert_relays([Relay(f"ws://127.0.0.1:{n + 1}") for n in range(CORES)])
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(CORES)
        with context.Manager() as manager:
            found = manager.list()
            processes = [
                context.Process(target=work, args=(barrier, address, list(events[n::CORES]), found))
                for n in range(CORES)
            ]
            for process in processes:
                process.start()
            for process in processes:
                await asyncio.to_thread(process.join)
            assert len(found) == CORES, "a process failed"
            steps = [dict(each) for each in found]
    return {name: sum(step[name] for step in steps) / CORES / CORES for name in steps[0]}


def work(barrier: Barrier, address: str, events: Events, found: list[dict[str, float]]) -> None:
    """One core's part, each step at the same time as the others'."""
    tell_arrays_by_type()  # as the workers do
    frames = frames_of(events[:SAMPLE])
    whole = [Event.from_json(body) for _, body in events[:SAMPLE]]
    asked = [frames[start : start + PAGE] for start in range(0, len(frames), PAGE)]
    stream = b"".join(header(len(frame)) + frame for frame in frames)
    chunks = [stream[start : start + CHUNK] for start in range(0, len(stream), CHUNK)]
    reader = FrameReader(1 << 20)
    claims = b"".join(part for event in whole for part in (event.sig, event.id, event.pubkey))
    size = CLAIM_BYTES * MAX_BATCH
    pages = [claims[start : start + size] for start in range(0, len(claims), size)]
    steps: dict[str, Callable[[], float]] = {
        "read": lambda: each(reader.feed, chunks) * len(chunks) / len(frames),
        "decode": lambda: each(decode, asked) * len(asked) / len(frames),
        SINGLY: lambda: each(lambda e: is_signed(e.id, e.pubkey, e.sig), whole),
        "verify": lambda: each(signatures.here.judge, pages) * len(pages) / len(whole),
        "insert": lambda: uvloop.run(_insert(address, events, barrier)),
    }
    took = {}
    for name, step in steps.items():
        barrier.wait()
        took[name] = step()
    found.append(took)


async def _insert(address: str, events: Events, barrier: Barrier) -> float:
    """Microseconds an event of storing pages of verified events as one of the writers."""
    frames = frames_of(sorted(events, key=lambda event: event[0]))
    pages = [decode(frames[start : start + PAGE]) for start in range(0, len(frames), PAGE)]
    session = {"synchronous_commit": "off"}  # as the workers have it
    async with Brotr(Pool(settings=PoolSettings(), dsn=address, session=session)) as brotr:
        [visit] = await brotr.claim_visits(
            [Network.LOCAL], limit=1, owner="floor", lease_s=600, since=0, until=0
        )
        barrier.wait()
        started = time.perf_counter()
        for page in pages:
            rows = make_rows(page.pick(page.order()[0]), refuse)
            await brotr.store_page(visit, rows, now=int(time.time()))
        return (time.perf_counter() - started) / len(frames) * 1e6


def frames_of(events: Events) -> list[bytes]:
    """The frames in which a relay would send events."""
    return [b'["EVENT","b1",%b]' % body for _, body in events]


def decode(frames: Sequence[bytes]) -> Columns[Found]:
    """The events in frames, with ids that are proven: in C, where it can."""
    scan, found, place = Scan(Burst.of(frames), "b1"), Columns[Found](), 0
    while place < len(frames):
        if (end := scan.plain_until(place)) > place:
            found.take(scan, place, end)
            place = end
            continue
        answer = message.decode(frames[place])
        assert isinstance(answer, message.EventMessage)
        assert isinstance(answer.event, WireEvent)
        found.append(identify(answer.event))
        place += 1
    return found


def refuse(reason: str, event_id: bytes) -> None:
    """Nothing in the corpus is to be refused."""
    raise AssertionError(f"{event_id.hex()}: {reason}")


def each(work: Callable[[T], object], items: Sequence[T]) -> float:
    """Microseconds an item: the mean of some rounds. Not the best, which has the caches for itself
    and a quiet moment of the machine: what is held against it has neither."""
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for item in items:
            work(item)
    return (time.perf_counter() - started) / ROUNDS / len(items) * 1e6
