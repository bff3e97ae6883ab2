"""Readers who mean no good, or do not know better: they are refused, and nobody else notices."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest

from bigbrotr.config.settings import ServeLimits
from bigbrotr.core.brotr import Brotr
from bigbrotr.serve import service
from bigbrotr.serve.service import PREFIX
from tests.conftest import Filling
from tests.kit.processes import until
from tests.kit.served import Served, fill, served


@pytest.fixture
def filling(request: pytest.FixtureRequest) -> Filling | None:
    return fill if "urls" in request.fixturenames else None


@pytest.fixture
def urls(filled: list[str]) -> list[str]:
    return filled


@pytest.fixture
async def api(dsn: str, urls: list[str], caplog: pytest.LogCaptureFixture) -> AsyncIterator[Served]:
    """An API that logs no word about what is sent to it."""
    async with served(dsn) as found:
        yield found
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def talk(api: Served, data: bytes) -> bytes:
    """Sends bytes; all that comes back until the other side closes."""
    parts = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    with suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    try:
        with anyio.fail_after(20):
            return await reader.read()
    finally:
        writer.close()


STATUS = b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        STATUS + b"A: b\r\n" * 500 + b"\r\n",
        STATUS + b"Content-Length: x\r\n\r\n",
        STATUS + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        STATUS + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"\xff" * 1000,
    ],
)
async def test_what_is_not_http(api: Served, data: bytes) -> None:
    reply = await talk(api, data)
    assert re.match(rb"HTTP/1\.[01] 400 ", reply)
    assert b"application/problem+json" in reply
    assert (await api.get("status")).status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/api/v1/relays/%00", 400),
        (b"/api/v1/relays/%ff", 400),
        (b"/api/v1/relays/..%2f..%2fetc%2fpasswd", 400),
        (b"/api/v1/relays/", 404),
        (b"/api/v1//relays", 404),
        (b"/api/v1/relays?a=1&&&=&", 400),
        (b"/api/v1/relays?limit=99999999999999999999999", 400),
        (b"/api/v1/relays?text=%F0%9F%98%80", 200),
        (b"/api/v1/relays?text='%20OR%201=1--", 200),
        (b"/api/v1/relays/relay1.example.com/rtts?since=9007199254740993", 400),
        (b"/api/v1/events/zz/where", 400),
        (b"/metrics", 404),
        (b"/healthz", 404),
        (b"http://127.0.0.1/api/v1/status", 200),
        (b"*", 400),
    ],
)
async def test_odd_targets(api: Served, target: bytes, status: int) -> None:
    reply = await talk(
        api, b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )
    assert int(reply.split()[1]) == status, reply[:300]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "QUERY"])
async def test_nothing_can_be_changed(api: Served, method: str) -> None:
    reply = await api.get("relays", method=method, status=405)
    assert reply.headers["Allow"] == "GET, HEAD, OPTIONS"


async def test_many_requests_are_slowed_down(dsn: str) -> None:
    limits = ServeLimits(requests_per_s=0.1, burst=5)
    async with served(dsn, limits=limits, trusted_proxies=("127.0.0.1",)) as api:
        for _ in range(5):
            await api.get("relays", X_Forwarded_For="192.0.2.1")
        reply = await api.get("relays", status=429, X_Forwarded_For="192.0.2.1")
        assert 1 <= int(reply.headers["Retry-After"]) <= 11
        assert "Retry-After" in reply.json["detail"]
        await api.get("relays", X_Forwarded_For="6.6.6.6, 192.0.2.2")  # somebody else
        assert api.service.counts == {"2xx": 6, "4xx": 1}
    async with served(dsn, limits=limits) as api:
        for number in range(5):
            await api.get("relays", X_Forwarded_For=f"192.0.2.{number}")
        await api.get("relays", status=429, X_Forwarded_For="192.0.2.9")  # nobody's word


async def test_a_stream_waits_for_its_turn(
    dsn: str, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not broken off where a list would be refused: each page takes a token."""
    monkeypatch.setattr(service, "MAX_ROWS", 5)
    async with served(dsn, limits=ServeLimits(requests_per_s=50, burst=1)) as api:
        assert [item["url"] for item in await api.stream("relays")] == urls


async def test_a_question_that_takes_too_long(dsn: str, brotr: Brotr) -> None:
    await brotr.pool.execute(
        "CREATE OR REPLACE FUNCTION bigbrotr.totals() RETURNS TABLE (relays bigint,"
        " candidates bigint, events bigint, pairs bigint, gaps bigint, rejected bigint)"
        " LANGUAGE sql AS 'SELECT 1, 2, 3, 4, 5, 6 FROM pg_catalog.pg_sleep(60)'"
    )
    async with served(dsn, limits=ServeLimits(requests_per_s=0, statement_timeout_s=0.1)) as api:
        reply = await api.get("status", status=503)
        assert reply.json["type"].endswith("#problem-too-slow")
        assert "0.1 s" in reply.json["detail"]
        await api.get("relays")


async def test_too_many_questions_at_once(dsn: str, brotr: Brotr, urls: list[str]) -> None:
    """Who waits for the database is counted; beyond a bound nobody waits."""
    limits = ServeLimits(requests_per_s=0, database_connections=1, statement_timeout_s=20)
    async with served(dsn, limits=limits) as api, brotr.pool.transaction() as connection:
        await connection.execute("LOCK TABLE bigbrotr.candidates IN ACCESS EXCLUSIVE MODE")
        statuses: list[int] = []

        async def ask() -> None:
            async with api.client.get(f"{api.url}/candidates") as response:
                statuses.append(response.status)

        async with anyio.create_task_group() as group:
            for _ in range(service.WAITING + 3):
                group.start_soon(ask)
            await until(lambda: len(statuses) >= 3, "those that are too many")
            group.cancel_scope.cancel()
        assert set(statuses) == {503}
        await connection.execute("ROLLBACK; BEGIN")
        await until(lambda: api.service._asking == 0, "those who have gone to be forgotten")
        await api.get("candidates")


async def test_a_reader_who_has_gone_is_not_asked_for(dsn: str, brotr: Brotr) -> None:
    """His question is broken off in the database as well."""
    running = (
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity"
        " WHERE application_name = 'bigbrotr serve' AND state = 'active'"
        " AND datname = pg_catalog.current_database()"
    )
    async with served(dsn) as api, brotr.pool.transaction() as connection:
        await connection.execute("LOCK TABLE bigbrotr.candidates IN ACCESS EXCLUSIVE MODE")

        async def number() -> int:
            return int(await brotr.pool.fetchval(running))

        async def is_asked() -> bool:
            return await number() == 1

        async def is_over() -> bool:
            return await number() == 0

        async with anyio.create_task_group() as group:
            group.start_soon(api.client.get, f"{api.url}/candidates")
            await until(is_asked, "the question")
            group.cancel_scope.cancel()
        await until(is_over, "the end of the question")


@pytest.mark.parametrize("accept", ["application/x-ndjson", "application/json"])
async def test_a_reader_who_does_not_read(
    dsn: str, urls: list[str], monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    """Is cut, and holds nothing of the database meanwhile."""
    monkeypatch.setattr(service, "STALL_S", 0.3)
    monkeypatch.setattr(service, "MAX_ROWS", 5)
    async with served(dsn) as api:

        async def rows(*_: object) -> list[tuple[tuple[float, str], str]]:
            return [((0.0, "a"), "x" * 2_000_000)] * 5

        monkeypatch.setattr(api.service, "_rows", rows)
        with await slow_reader(api.url, accept):
            await until(lambda: api.service.connections.open >= 1, "the connection")
            assert api.service._asking == 0
            await until(lambda: api.service.connections.open == 0, "the cut")


async def test_a_reader_who_reads_slowly(
    dsn: str, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gets all, however many looks that takes, if it takes enough in each."""
    monkeypatch.setattr(service, "STALL_S", 0.2)
    size = 16_000_000
    looks: list[int] = []
    look = service._Connection._look

    def counted(self: service._Connection, transport: asyncio.Transport, before: int) -> None:
        looks.append(before)
        look(self, transport, before)

    monkeypatch.setattr(service._Connection, "_look", counted)
    async with served(dsn) as api:

        async def rows(*_: object) -> list[tuple[tuple[float, str], str]]:
            return [((0.0, "a"), "x" * size)]

        monkeypatch.setattr(api.service, "_rows", rows)
        loop = asyncio.get_running_loop()
        with await slow_reader(api.url, "application/json") as slow:
            got = 0
            for wanted in (1, 2, 3, 4):
                while got < wanted * size // 4:
                    found = await loop.sock_recv(slow, 100_000)
                    assert found
                    got += len(found)
                if wanted < 4:
                    await until(lambda number=wanted: len(looks) >= number, "a look")
            assert api.service.connections.open == 1


async def slow_reader(url: str, accept: str, path: str = "relays") -> socket.socket:
    """A connection that has asked for relays, say, and takes little at once."""
    parts = urlsplit(url)
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(lazy, (parts.hostname, parts.port))
    asked = f"GET {PREFIX}/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n"
    await loop.sock_sendall(lazy, asked.encode())
    return lazy


async def test_a_stream_that_breaks_is_no_whole_one(
    dsn: str, urls: list[str], brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_ROWS", 5)
    async with served(dsn) as api:
        ask = api.service._rows
        asked = 0

        async def rows(*arguments: object) -> object:
            nonlocal asked
            asked += 1
            if asked == 3:
                await brotr.pool.execute("ALTER TABLE bigbrotr.relays RENAME TO elsewhere")
            return await ask(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(api.service, "_rows", rows)
        with pytest.raises(aiohttp.ClientPayloadError):
            await api.stream("relays")


async def test_many_connections(dsn: str) -> None:
    limits = ServeLimits(requests_per_s=0, connections_per_address=3)
    async with served(dsn, limits=limits) as api:
        parts = urlsplit(api.url)
        assert parts.hostname is not None
        taken = api.service.connections.open
        found = [
            await asyncio.open_connection(parts.hostname, parts.port) for _ in range(5 - taken)
        ]
        with anyio.fail_after(20):
            for reader, _ in found[3 - taken :]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        await until(lambda: api.service.connections.open == 3, "the others to be cut")
        for _, writer in found:
            writer.close()
        await until(lambda: api.service.connections.open == 0, "all to go")
        await api.get("status")


async def test_a_connection_on_which_nothing_is_asked(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that asks for ever, a byte at a time."""
    monkeypatch.setattr(service, "IDLE_S", 0.3)
    async with served(dsn) as api:
        parts = urlsplit(api.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"GET /api/v1/status HT")
        with anyio.fail_after(20):
            assert await reader.read() == b""
        writer.close()


async def test_a_database_that_goes_away(dsn: str, brotr: Brotr, urls: list[str]) -> None:
    """Its sessions are cut: somebody may be told so, and the next are answered."""
    async with served(dsn) as api:
        await api.get("relays")
        await brotr.pool.execute(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
            " WHERE application_name = 'bigbrotr serve'"
            " AND datname = pg_catalog.current_database()"
        )

        async def is_back() -> bool:
            async with api.client.get(f"{api.url}/relays") as response:
                assert response.status in (200, 503)
                return response.status == 200

        await until(is_back, "the database")


async def test_a_defect_of_ours(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told as one, without a word about our insides, and logged."""
    async with served(dsn) as api:

        async def fail(*_: object) -> None:
            raise ZeroDivisionError("secret insides")

        monkeypatch.setattr(api.service, "_rows", fail)
        reply = await api.get("relays", status=500)
        assert reply.json["type"].endswith("#problem-defect")
        assert b"secret" not in reply.body
    assert [each for each in caplog.records if each.levelno == logging.ERROR]
