"""What a visit costs by ids and by pages: nostr-sdk's LocalRelay, near and far, in its own process.

As a process it serves a file of events, through doors that count bytes and keep each waiting for
half of a round trip.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.worker import Slice, Worker
from tests.bench import corpus
from tests.bench.stage import Stage
from tests.kit.real import fill, local_relay

REGULAR = {1, 4, 6, 7, 9735}  # a relay keeps only the newest of others
NEAR_S, FAR_S = 0.0, 0.05  # round trips: on the machine itself, and across a continent
LATE = 500


async def measure(on: Stage, events: int) -> None:
    """Prints what it costs to meet a relay all of whose events are known, and to come again.

    At most 50,000: LocalRelay reconciles no more at once.
    """
    regular = [
        (created_at, body)
        for created_at, body in corpus.build((events + LATE) * 5 // 4)
        if json.loads(body)["kind"] in REGULAR
    ]
    late = regular[:: len(regular) // LATE][:LATE]
    later = set(late)
    data = [entry for entry in regular if entry not in later][: events - LATE]
    async with on.archive() as archive, relay(on, data) as place:
        another, now = Relay("ws://127.0.0.1:9"), int(time.time())
        known = [EventRelay(Event.from_json(body), another, now) for _, body in data]
        await archive.brotr.insert_events(known)
        await archive.brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 2000000000000")
        await archive.brotr.pool.execute("VACUUM ANALYZE")
        for name, door in (("near", place.near), ("far", place.far)):
            print(
                f"  {len(data):,} events, all known; round trip {door.round_trip_s * 1000:.0f} ms"
            )
            paged = await visit(archive.brotr, place, f"{door.url}/pages", reconcile=False)
            ids = await visit(archive.brotr, place, f"{door.url}/ids")
            again = await visit(archive.brotr, place, f"{door.url}/ids", is_old=True)
            _say(f"{name}: by pages", paged, paged)
            _say(f"{name}: by ids, newly met", ids, paged)
            _say(f"{name}: by ids, again, unchanged", again, paged)
        await fill(place.url, [json.loads(body) for _, body in late])
        changed = await visit(archive.brotr, place, f"{place.near.url}/ids", is_old=True)
        _say(f"near: {changed.report.new} of them have come, with old dates", changed, None)
        assert changed.report.new == len(late), changed


class Door:
    """A port that leads to the relay."""

    def __init__(self, port: int, round_trip_s: float) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self.round_trip_s = round_trip_s


class Place:
    """Where the relay is, and how many bytes have passed its doors."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.url: str = told["url"]
        self.near, self.far = Door(told["near"], NEAR_S), Door(told["far"], FAR_S)
        self._count: int = told["count"]

    async def bytes(self) -> int:
        """The bytes that have passed, both ways."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._count)
        passed = int(await reader.read())
        writer.close()
        return passed


class Cost:
    """What a visit took."""

    def __init__(self, seconds: float, size: int, report: Report) -> None:
        self.seconds, self.size, self.report = seconds, size, report


async def visit(
    brotr: Brotr, place: Place, url: str, *, reconcile: bool = True, is_old: bool = False
) -> Cost:
    """One visit; `is_old`: what was proven is to be looked at again."""
    await brotr.insert_relays([Relay(url)])
    mine = "relay_id = (SELECT id FROM bigbrotr.relays WHERE url = $1)"
    await brotr.pool.execute(f"UPDATE bigbrotr.visits SET due_at = 0 WHERE {mine}", url)
    if is_old:
        await brotr.pool.execute(
            f"UPDATE bigbrotr.coverage SET proven_at = proven_at - 100000 WHERE {mine}", url
        )
    config = Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link()),
        synchronizer=SynchronizerSettings(reconcile=reconcile, live=False),
    )
    worker = Worker(config, brotr)
    before, started = await place.bytes(), time.perf_counter()
    report = await worker.work(Slice("bench", 600.0, {Network.LOCAL: 1}))
    seconds = time.perf_counter() - started
    return Cost(seconds, await place.bytes() - before, report)


def _say(what: str, cost: Cost, paged: Cost | None) -> None:
    ratio = ""
    if paged is not None and paged is not cost:
        ratio = (
            f"{paged.seconds / cost.seconds:6.1f} times as fast, "
            f"{cost.size / paged.size:.2%} of the bytes"
        )
    print(f"  {what:50} {cost.seconds:6.3f} s {cost.size / 1000:10,.1f} kB  {ratio}")


@asynccontextmanager
async def relay(on: Stage, events: list[tuple[int, bytes]]) -> AsyncIterator[Place]:
    """The relay, in a process of its own, while the block runs."""
    path = on.folder / "reconciled.jsonl"
    corpus.write(path, events)
    process = subprocess.Popen(  # noqa: ASYNC220 -- before anything is timed
        [sys.executable, "-m", "tests.bench.reconcile", str(path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Place(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def serve(path: Path) -> None:
    """Serves the events of a file until it is killed."""
    events = [json.loads(body) for _, body in corpus.read(path)]
    async with local_relay(events) as url:
        port = urlsplit(url).port
        assert port is not None
        passed = 0

        def hand_over(writer: asyncio.StreamWriter, data: bytes) -> None:
            if not writer.is_closing():
                writer.write(data)

        async def carry(
            from_: socket.socket,
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            wait_s: float,
        ) -> None:
            nonlocal passed
            loop = asyncio.get_running_loop()
            while data := await reader.read(1 << 16):
                passed += len(data)
                # As our own sockets do, or the relay would wait for it.
                from_.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                if wait_s:
                    loop.call_later(wait_s, hand_over, writer, data)
                else:
                    hand_over(writer, data)
            loop.call_later(wait_s, writer.close)

        async def door(round_trip_s: float) -> int:
            async def open_(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
                ours, theirs = (each.get_extra_info("socket") for each in (writer, inner_writer))
                await asyncio.gather(
                    carry(ours, reader, inner_writer, round_trip_s / 2),
                    carry(theirs, inner_reader, writer, round_trip_s / 2),
                    return_exceptions=True,
                )

            server = await asyncio.start_server(open_, "127.0.0.1", 0)
            found: int = server.sockets[0].getsockname()[1]
            return found

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(str(passed).encode())
            writer.close()

        counter = await asyncio.start_server(tell, "127.0.0.1", 0)
        told = {
            "url": url,
            "near": await door(NEAR_S),
            "far": await door(FAR_S),
            "count": counter.sockets[0].getsockname()[1],
        }
        print(json.dumps(told), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    uvloop.run(serve(parser.parse_args().file))
