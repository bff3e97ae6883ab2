"""The API flat out: answers of a hundred rows a second, and what they cost the monitor's timer."""

import asyncio
import itertools
import os
import statistics
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import asyncpg

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from tests.bench import corpus
from tests.bench.stage import Stage
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.kit.served import addresses, fill, serving

RELAYS = 2000
SECONDS = 4.0
CLIENTS = 8  # each asks again as soon as it is answered
BATCH = 500
# {} is another number each time: nobody has asked for that before.
PATHS = {
    "events?limit=100": "a hundred events, the same for all",
    "events?limit=100&since={}": "a hundred events, another question each time",
    "candidates?limit=100": "a hundred candidates, the same for all",
    "relays?limit=100": "a hundred relays with all that is known, the same for all",
    "relays/relay1.example.com/rtts?limit=30": "the checks of a relay",
    "openapi.json": "36 kB from memory",
}


async def measure(on: Stage, events: int) -> None:
    """Prints the answers a second of each path, and how late a timer of ours was meanwhile."""
    address = await on.new_database()
    connection = await asyncpg.connect(address)
    await Schema().migrate(connection, Profile.FULL, int(time.time()))
    await connection.close()
    async with Brotr(Pool(dsn=address)) as brotr:
        await fill(brotr, RELAYS)
        relay = Relay("wss://relay1.example.com")
        found = [Event.from_json(body) for _, body in corpus.build(events)]
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            await brotr.insert_events([EventRelay(event, relay, 1) for event in batch])
        await brotr.pool.execute("ANALYZE")
    processes = os.cpu_count() or 1
    serve = f"processes = {processes}"
    with TemporaryDirectory() as folder:
        where = f"127.0.0.1:{free_port()}"
        async with serving(Path(folder), address, listen=where, serve=serve) as (running, url):
            await until(lambda: len(addresses(running.err)) == processes, "all to listen")
            for path, words in PATHS.items():
                rate, size, late_ms = await load(url, path)
                print(
                    f"  {words:56} {rate:7.0f} a second of {size:,} bytes; a timer beside them is"
                    f" late by {late_ms:.1f} ms (99th percentile)",
                    flush=True,
                )


async def load(url: str, path: str) -> tuple[float, int, float]:
    """Answers a second, the size of one, and how late a timer of this process was."""
    parts = urlsplit(f"{url}/{path}")
    text = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
    numbers = itertools.count(1)
    end = time.perf_counter() + SECONDS
    done, size = 0, 0
    late: list[float] = []

    async def ask() -> None:
        nonlocal done, size
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while time.perf_counter() < end:
            writer.write(text.replace("{}", str(next(numbers))).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(head.decode())
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            size = len(await reader.readexactly(int(length)))
            done += 1
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def watch() -> None:
        while time.perf_counter() < end:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            late.append((time.perf_counter() - due) * 1000)

    await asyncio.gather(watch(), *(ask() for _ in range(CLIENTS)))
    return done / SECONDS, size, statistics.quantiles(late, n=100)[98]
