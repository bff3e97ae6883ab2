"""The API flat out: answers of a hundred rows a second, and what they cost the monitor's timer."""

import asyncio
import os
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import asyncpg

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.serve.api import CandidatesQuery, RelaysQuery
from bigbrotr.serve.resource import make_cursor
from tests.bench import corpus
from tests.bench.late import supervised
from tests.bench.stage import Stage, cpu_s
from tests.kit.processes import children, until
from tests.kit.real import free_port
from tests.kit.served import addresses, fill, serving

RELAYS = 2000
SECONDS = 4.0
CLIENTS = 8  # each asks again as soon as it is answered
BATCH = 500
HEAD = 4096  # bytes that any head is shorter than


def _relays(number: int) -> str:
    cursor = make_cursor(RelaysQuery(), (0.0, f"wss://relay{1000 + number % 400}.e{number}"))
    return f"relays?limit=100&cursor={cursor}"


def _candidates(number: int) -> str:
    cursor = make_cursor(CandidatesQuery(), f"wss://candidate{1000 + number % 400}.e{number}")
    return f"candidates?limit=100&cursor={cursor}"


# Of a number that is another one each time: a question that nobody has asked before.
PATHS: dict[str, Callable[[int], str]] = {
    "a hundred events": lambda number: f"events?limit=100&since={number}",
    "a hundred candidates": _candidates,
    "a hundred relays with all that is known": _relays,
    "a hundred checks of a relay": (
        lambda number: f"relays/relay1.example.com/rtts?limit=100&since={number}"
    ),
    "a hundred events, the same for all": lambda _: "events?limit=100",
    "the description, from memory": lambda _: "openapi.json",
}


class Load(NamedTuple):
    """What a load has brought, and the CPU that each answer took, in ms."""

    rate: float  # answers a second
    bytes: int  # of an answer
    serve_ms: float
    server_ms: float
    ours_ms: float  # of who asks
    late_ms: float  # of a timer beside it, 99th percentile


async def measure(on: Stage, events: int) -> None:
    """Prints the answers a second of each path, and how late a timer of ours was meanwhile."""
    address = await filled(on, events)
    processes = os.cpu_count() or 1
    serve = f"processes = {processes}"
    with TemporaryDirectory() as folder:
        where = f"127.0.0.1:{free_port()}"
        async with serving(Path(folder), address, listen=where, serve=serve) as (running, url):
            await until(lambda: len(addresses(running.err)) == processes, "all to listen")
            assert on.server.pid is not None
            for words, path in PATHS.items():
                found = await load(url, path, children(running.pid, ""), on.server.pid)
                print(
                    f"  {words:40} {found.rate:6,.0f} a second of {found.bytes:,} bytes; CPU of"
                    f" each, in ms: {found.serve_ms:.2f} here, {found.server_ms:.2f} in PostgreSQL,"
                    f" {found.ours_ms:.2f} of who asks; a timer is late by {found.late_ms:.1f} ms",
                    flush=True,
                )


async def measure_lag(on: Stage, events: int) -> None:
    """Prints how late the supervisor's timer is, at rest and while its children answer."""
    address = await filled(on, events)
    processes = os.cpu_count() or 1
    assert on.server.pid is not None
    with TemporaryDirectory() as folder:
        where = f"127.0.0.1:{free_port()}"
        async with supervised(Path(folder), address, where, processes) as watched:
            await asyncio.sleep(SECONDS)
            await watched.late()  # of its start
            await asyncio.sleep(SECONDS)
            rest = await watched.late()
            pids = children(watched.running.pid, "-m bigbrotr.serve")
            path = PATHS["a hundred events"]
            found = await load(watched.url, path, pids, on.server.pid)
            late = await watched.late()
    for words, each in (("at rest", rest), (f"{found.rate:,.0f} answers a second", late)):
        print(
            f"  {words:25} {each.timers:,} timers: median {each.median_ms:.1f} ms, 99th percentile"
            f" {each.p99_ms:.1f} ms, at most {each.most_ms:.1f} ms late",
            flush=True,
        )


async def filled(on: Stage, events: int) -> str:
    """The address of a database with relays, what is known of them, and events."""
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
    connection = await asyncpg.connect(address)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    await on.settle()
    return address


class Asking(asyncio.BufferedProtocol):
    """One connection that asks again as soon as it is answered; it looks at heads alone."""

    def __init__(self, ask: Callable[[], bytes]) -> None:
        self._ask = ask
        self._buffer = bytearray(1 << 18)
        self._head = bytearray()
        self._left = 0  # bytes of the answer that are still to come
        self.done = 0
        self.bytes = 0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for the first time."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.go_on()

    def go_on(self) -> None:
        """Asks."""
        if text := self._ask():
            self._transport.write(text)
        else:
            self._transport.close()

    def get_buffer(self, _: int) -> bytearray:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, number: int) -> None:
        """Takes bytes; only those of the head are looked at."""
        if self._left > 0:
            self._left -= number
        else:
            self._head += memoryview(self._buffer)[: min(number, HEAD)]
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(self._head.decode())
            head = bytes(self._head[:end]).lower()
            before = len(self._head) - min(number, HEAD)
            self.bytes = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
            self._left = self.bytes - (before + number - end - 4)
            self._head.clear()
        if self._left == 0:
            self.done += 1
            self.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells that it is over."""
        self.ended.set_result(exc)


async def load(
    url: str, path: Callable[[int], str], serving_pids: list[int], server_pid: int
) -> Load:
    """Asks flat out for `SECONDS`."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    assert host is not None
    assert port is not None
    number = 0
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + SECONDS
    late: list[float] = []

    def ask() -> bytes:
        nonlocal number
        if time.perf_counter() > end:
            return b""
        number += 1
        return f"GET {parts.path}/{path(number)} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()

    async def watch() -> None:
        while time.perf_counter() < end:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            late.append((time.perf_counter() - due) * 1000)

    def spent() -> tuple[float, float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return (
            sum(map(cpu_s, serving_pids)),
            sum(map(cpu_s, (server_pid, *children(server_pid)))),
            used.ru_utime + used.ru_stime,
        )

    before, started = spent(), time.perf_counter()
    asking: list[Asking] = []
    for _ in range(CLIENTS):
        _, protocol = await loop.create_connection(lambda: Asking(ask), host, port)
        asking.append(protocol)
    ended: list[Awaitable[object]] = [each.ended for each in asking]
    await asyncio.gather(watch(), *ended)
    seconds = time.perf_counter() - started
    done = sum(each.done for each in asking)
    serve_ms, server_ms, ours_ms = (
        (now - then) / done * 1000 for now, then in zip(spent(), before, strict=True)
    )
    late_ms = statistics.quantiles(late, n=100)[98]
    return Load(done / seconds, asking[0].bytes, serve_ms, server_ms, ours_ms, late_ms)
