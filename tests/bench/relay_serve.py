"""The archive as a relay: whole events a second, many subscribers, and reconciliation."""

import argparse
import asyncio
import base64
import itertools
import json
import os
import random
import statistics
import struct
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import asyncpg
import uvloop

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.metrics import memory_of
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.nostr.negentropy import Client, Items
from tests.bench import corpus, large
from tests.bench.stage import Stage, stage
from tests.kit.events import make_event, wire
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.kit.served import addresses, serving

SECONDS = 5.0
CLIENTS = 8  # each asks again as soon as it is answered
SUBSCRIBERS = 2000
LACKING = 1000
BATCH = 500
MOST_SIGNED = 100_000  # events: above, they are made by SQL, and nobody could verify them
LIMITS = """requests_per_s = 0
connections = 5000
connections_per_address = 5000
[serve.relay]
enabled = true
[serve.relay.limits]
messages_per_s = 0
work_per_s = 0
max_reconciled = 20_000_000
reconciliation_mb = 2000
"""
HOLDER = Relay("wss://relay1.example.com")


class Wire:
    """A WebSocket client that does as little as it can, so that the relay is what is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.bytes = 0

    @classmethod
    async def open(cls, url: str) -> "Wire":
        """Connects, without compression."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(head.decode())
        return cls(reader, writer)

    def say(self, *values: object) -> None:
        """Sends a frame; its mask changes nothing."""
        data = json.dumps(values).encode()
        size = len(data)
        if size < 126:
            head = bytes([0x81, 0x80 | size])
        elif size < 65536:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x81, 0x80 | 127, size)
        self.bytes += len(head) + 4 + size
        self._writer.write(head + bytes(4) + data)

    async def hear(self) -> bytes:
        """The next frame of text."""
        while True:
            first, size = await self._reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await self._reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await self._reader.readexactly(8))
            data = await self._reader.readexactly(size)
            self.bytes += 2 + size
            if first == 0x81:
                return data

    async def skip_until(self, end: bytes) -> int:
        """Reads up to a frame that ends like this; how many bytes those are."""
        taken, tail = 0, b""
        while not tail.endswith(end):
            data = await self._reader.read(1 << 18)
            if not data:
                raise SystemExit("the relay has gone")
            taken += len(data)
            tail = (tail + data)[-len(end) :]
        return taken

    def close(self) -> None:
        """Goes away."""
        self._writer.close()


async def measure(on: Stage, events: int) -> None:
    """Prints what a relay over so many events gives; many are made by SQL."""
    address = await on.new_database()
    if events > MOST_SIGNED:
        await large.build(address, events)
        keys = await keys_of(address)
    else:
        keys = await signed(address, events)
    async with Brotr(Pool(dsn=address)) as brotr:
        await brotr.insert_relays([HOLDER])
        with TemporaryDirectory() as folder:
            await pages(Path(folder) / "pages", address, keys)
            await subscribers(Path(folder) / "subscribers", address, brotr)
            await reconciliation(Path(folder) / "reconciliation", address, await keys_of(address))


async def signed(address: str, events: int) -> list[tuple[int, bytes]]:
    """Archives events of the corpus; their keys in order."""
    connection = await asyncpg.connect(address)
    await Schema().migrate(connection, Profile.FULL, int(time.time()))
    await connection.close()
    async with Brotr(Pool(dsn=address)) as brotr:
        await brotr.insert_relays([HOLDER])
        found: list[EventRelay] = []
        for _, body in corpus.build(events):
            found.append(EventRelay(Event.from_json(body), HOLDER, 1))
            if len(found) == BATCH:
                await brotr.insert_events(found)
                found = []
        await brotr.insert_events(found)
        await brotr.pool.execute("ANALYZE")
    return await keys_of(address)


async def keys_of(address: str) -> list[tuple[int, bytes]]:
    """The keys of all events, in order."""
    connection = await asyncpg.connect(address)
    try:
        rows = await connection.fetch("SELECT created_at, id FROM bigbrotr.events_stored")
    finally:
        await connection.close()
    return sorted((row[0], row[1]) for row in rows)


async def pages(folder: Path, address: str, keys: list[tuple[int, bytes]]) -> None:
    """Requests for five hundred whole events, each from another place in time."""
    chance = random.Random(1)
    processes = os.cpu_count() or 1
    serve = f"processes = {processes}"
    where = f"127.0.0.1:{free_port()}"
    async with serving(folder, address, listen=where, serve=serve, limits=LIMITS) as (running, api):
        url = api.removesuffix("/api/v1")
        await until(lambda: len(addresses(running.err)) == processes, "all to listen")
        times, sizes = [], []
        numbers = itertools.count()

        async def ask(client: Wire) -> None:
            name = f"s{next(numbers)}"
            at = keys[chance.randrange(len(keys) // 10, len(keys))][0]
            client.say("REQ", name, {"until": at, "limit": 500})
            sizes.append(await client.skip_until(f'"EOSE","{name}",["more"]]'.encode()))
            client.say("CLOSE", name)

        one = await Wire.open(url)
        for number in range(150):
            began = time.perf_counter()
            await ask(one)
            if number >= 50:
                times.append((time.perf_counter() - began) * 1000)
        one.close()
        done = 0
        end = time.perf_counter() + SECONDS

        async def flood() -> None:
            nonlocal done
            client = await Wire.open(url)
            while time.perf_counter() < end:
                await ask(client)
                done += 1
            client.close()

        await asyncio.gather(*(flood() for _ in range(CLIENTS)))
        print(
            f"  500 whole events of {statistics.mean(sizes) / 500:.0f} bytes: median alone"
            f" {statistics.median(times):.1f} ms, 90 % within {statistics.quantiles(times)[2]:.1f};"
            f" {done / SECONDS:.0f} a second by {processes} processes",
            flush=True,
        )


async def subscribers(folder: Path, address: str, brotr: Brotr) -> None:
    """Many that wait for an event: how soon the last is told, and what they cost."""
    async with serving(folder, address, limits=LIMITS) as (running, api):
        url = api.removesuffix("/api/v1")
        pid = running.process.pid
        (await Wire.open(url)).close()
        before = memory_of([pid])
        clients = []
        for number in range(SUBSCRIBERS):
            clients.append(await Wire.open(url))
            clients[-1].say("REQ", "live", {"kinds": [1], "since": 1, "limit": 0})
            if number % 50 == 49:
                for client in clients[-50:]:
                    await client.hear()
        memory = (memory_of([pid]) - before) / SUBSCRIBERS / 1000
        spans, whole = [], []
        for number in range(7):
            event = Event.from_json(wire(make_event(int(time.time()), content=f"{number}")))
            waits = [asyncio.create_task(arrival(client)) for client in clients]
            await asyncio.sleep(0.5)
            await brotr.insert_events([EventRelay(event, HOLDER, 1)])
            stored = time.perf_counter()
            heard = await asyncio.gather(*waits)
            spans.append((max(heard) - min(heard)) * 1000)
            whole.append((max(heard) - stored) * 1000)
        print(
            f"  {SUBSCRIBERS} subscribers told of an event within {statistics.median(spans):.0f} ms"
            f" of the first, {statistics.median(whole):.0f} ms of its commit;"
            f" {memory:.0f} kB a connection",
            flush=True,
        )
        for client in clients:
            client.close()


async def arrival(client: Wire) -> float:
    """When the next frame has come."""
    await client.hear()
    return time.perf_counter()


async def reconciliation(folder: Path, address: str, keys: list[tuple[int, bytes]]) -> None:
    """Comparing ids: with and without differences, from the database and from memory."""
    chance = random.Random(2)
    lacking = set(chance.sample(range(len(keys)), min(LACKING, len(keys) // 10)))
    some = [key for number, key in enumerate(keys) if number not in lacking]
    async with serving(folder, address, limits=LIMITS) as (running, api):
        url = api.removesuffix("/api/v1")
        pid = running.process.pid
        query = {"until": keys[-1][0]}
        before = memory_of([pid])
        for words, held in (
            ("lacks some, the ids are read", some),
            ("lacks some", some),
            ("has the same", keys),
        ):
            items = Items(held)
            items.seal()
            client = await Wire.open(url)
            began = time.perf_counter()
            asker = Client(items, max_needed=10_000)
            said: bytes | None = asker.initiate()
            kind = "NEG-OPEN"
            rounds = 0
            while said is not None:
                rest = [query, said.hex()] if kind == "NEG-OPEN" else [said.hex()]
                client.say(kind, "n", *rest)
                answer = json.loads(await client.hear())
                if answer[0] != "NEG-MSG":
                    raise SystemExit(str(answer))
                said = asker.reconcile(bytes.fromhex(answer[2]))
                kind = "NEG-MSG"
                rounds += 1
            took = time.perf_counter() - began
            if len(asker.need) != len(keys) - len(held):
                raise SystemExit("the difference is another")
            print(
                f"  a client that {words} of {len(keys):,}: {took:.2f} s, {rounds} rounds,"
                f" {client.bytes / 1e6:.2f} MB; {len(asker.need):,} found",
                flush=True,
            )
            client.close()
        grown = (memory_of([pid]) - before) / len(keys)
        print(f"  memory for the ids: {grown:.0f} bytes each", flush=True)


async def _reconcile_large(events: int, folder: Path | None) -> None:
    """Compares the ids of a large archive that is kept."""
    async with stage(folder) as on:
        address = await large.archive_of(on, events)
        connection = await asyncpg.connect(address)
        keys: list[tuple[int, bytes]] = []
        async with connection.transaction(readonly=True):
            query = "SELECT created_at, id FROM bigbrotr.events_stored ORDER BY created_at, id"
            cursor = await connection.cursor(query)
            while rows := await cursor.fetch(50_000):
                keys += [(row[0], row[1]) for row in rows]
        await connection.close()
        with TemporaryDirectory() as place:
            await reconciliation(Path(place) / "serve", address, keys)


def main() -> None:
    """`python -m tests.bench.relay_serve`: NIP-77 with a large archive, see tests.bench.large."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay_serve")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the archive is kept")
    options = parser.parse_args()
    uvloop.run(_reconcile_large(options.events, options.folder))


if __name__ == "__main__":
    main()
