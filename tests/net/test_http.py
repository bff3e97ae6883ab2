"""Documents over HTTP: good ones whole, and whatever a server does instead within bounds."""

import asyncio
import gzip
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.config.settings import Link, Networks, PolitenessSettings
from bigbrotr.net import connect
from bigbrotr.net.connect import Failure
from bigbrotr.net.http import (
    Document,
    Fault,
    Sent,
    Unfetched,
    _Answer,
    _FaultError,
    _place,
    fetch,
    post,
)
from bigbrotr.net.politeness import Politeness
from tests.kit.certificates import Authority
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.net.test_dial import socks5

LOCAL = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=2.0))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LIST = b'["wss://a.example.com", "wss://b.example.com"]'
MAX = 100_000


@asynccontextmanager
async def http(handler: Handler, ssl_context: Any = None) -> AsyncIterator[str]:
    """A server on loopback that answers every request by `handler`."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http{'s' if ssl_context else ''}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw(*chunks: bytes, pause_s: float = 0.0, hold: bool = False) -> AsyncIterator[str]:
    """A server that sends these bytes to whoever connects."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(pause_s)
            if hold:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if hold else writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def give(body: bytes, status: int = 200, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, headers=names)

    return answer


async def get(url: str, networks: Networks = LOCAL, **more: Any) -> Document | Unfetched:
    return await fetch(url, networks, **({"max_bytes": MAX, "timeout_s": 5.0} | more))


async def document(url: str, **more: Any) -> Document:
    answer = await get(url, **more)
    assert isinstance(answer, Document), answer
    return answer


async def reason(url: str, networks: Networks = LOCAL, **more: Any) -> Failure | Fault:
    answer = await get(url, networks, **more)
    assert isinstance(answer, Unfetched), answer
    return answer.reason


async def test_what_is_asked_and_what_comes() -> None:
    asked: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request)
        return web.Response(body=LIST, content_type="application/json")

    async with http(answer) as url:
        found = await document(f"{url}/v1/on%20line?x=ü&y=[1]", accept="application/nostr+json")
    assert (found.status, found.body) == (200, LIST)
    assert dict(found.headers)["content-type"] == "application/json"
    assert 0 < found.connected_s <= found.answered_s <= found.elapsed_s < 5
    (request,) = asked
    assert request.raw_path == "/v1/on%20line?x=%C3%BC&y=[1]"
    assert request.headers["Host"] == url.removeprefix("http://")
    assert request.headers["User-Agent"].startswith("bigbrotr/")
    assert request.headers["Accept"] == "application/nostr+json"


@pytest.mark.parametrize("status", [200, 204, 304, 402, 404, 429, 500])
async def test_any_status_is_an_answer(status: int) -> None:
    body = b"" if status in (204, 304) else LIST
    async with http(give(body, status)) as url:
        found = await document(url)
    assert (found.status, found.body) == (status, body)


PACKED = {
    "gzip": gzip.compress(LIST),
    "deflate": zlib.compress(LIST),
    "Deflate": zlib.compress(LIST)[2:-4],  # without a frame, as some servers do
    "identity": LIST,
}


@pytest.mark.parametrize("encoding", PACKED)
async def test_packed_answers(encoding: str) -> None:
    async with http(give(PACKED[encoding], Content_Encoding=encoding)) as url:
        assert (await document(url)).body == LIST


async def test_chunks_and_answers_without_a_length() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for byte in LIST:
            await response.write(bytes([byte]))
        return response

    async with http(answer) as url:
        assert (await document(url)).body == LIST
    async with raw(b"HTTP/1.0 200 OK\r\n\r\n", LIST) as url:
        assert (await document(url)).body == LIST
    async with raw(
        b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    ) as url:
        assert (await document(url)).body == b""


# Within bounds


BOMB = gzip.compress(bytes(50 << 20))
TOO_MUCH = {
    "a length": give(bytes(MAX + 1)),
    "a bomb": give(BOMB, Content_Encoding="gzip"),
    "another bomb": give(zlib.compress(bytes(50 << 20)), Content_Encoding="deflate"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
async def test_too_much(what: str) -> None:
    async with http(TOO_MUCH[what]) as url:
        assert await reason(url) is Fault.TOO_LARGE
    async with http(give(bytes(MAX))) as url:
        assert len((await document(url)).body) == MAX


async def test_endless_answers() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65_536))

    async with http(answer) as url:
        assert await reason(url) is Fault.TOO_LARGE
    async with raw(b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n" * 1000] * 100) as url:
        assert await reason(url) is Fault.NOT_HTTP
    async with raw(*[b"HTTP/1.1 103 Early\r\n\r\n" * 1000] * 20) as url:
        assert await reason(url) is Fault.TOO_LARGE


@pytest.mark.parametrize(
    ("chunks", "hold", "wanted"),
    [
        ((), False, Fault.CUT),
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), False, Fault.NOT_HTTP),
        ((b"\xff\0\xfe" * 100,), False, Fault.NOT_HTTP),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123",), False, Fault.CUT),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",), False, Fault.NOT_HTTP),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcZ",), False, Fault.CUT),
        ((b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\nx",), False, Fault.ENCODING),
        (
            (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + b"no" * 50,),
            False,
            Fault.ENCODING,
        ),
        (
            (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", PACKED["gzip"][:-9]),
            *(False, Fault.CUT),
        ),
        ((), True, Failure.SLOW),
        ((b"HTTP/1.1 200 OK\r\n",), True, Failure.SLOW),
    ],
)
async def test_broken_answers(
    chunks: tuple[bytes, ...], hold: bool, wanted: Failure | Fault
) -> None:
    networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=0.5))
    async with raw(*chunks, hold=hold) as url:
        assert await reason(url, networks) is wanted


async def test_drip_ends_in_time() -> None:
    drip = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 1000]
    began = time.monotonic()
    async with raw(*drip, pause_s=0.05) as url:
        assert await reason(url, timeout_s=0.6) is Failure.SLOW
    assert time.monotonic() - began < 3


async def test_nobody_listens() -> None:
    assert await reason(f"http://127.0.0.1:{free_port()}") is Failure.REFUSED


# Redirects, and where they may lead


async def test_redirects_are_followed() -> None:
    async def answer(request: web.Request) -> web.Response:
        steps = {"/": "/one", "/one": "two?x=1#y", "/two": f"//{request.host}/three"}
        target = steps.get(request.path)
        if target is None:
            return web.Response(body=LIST)
        return web.Response(status=302, headers={"Location": target}, body=b"moved")

    async with http(answer) as url:
        found = await document(url)
    assert (found.body, found.url) == (LIST, f"{url}/three")


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/", Fault.REDIRECT),  # for ever
        ("ftp://example.com/", Fault.REDIRECT),
        ("file:///etc/passwd", Fault.REDIRECT),
        ("http://[::1/", Fault.REDIRECT),
        ("http://", Fault.REDIRECT),
        ("http://bad host/", Fault.REDIRECT),
        ("http://0x7f.1/", Fault.REDIRECT),
        ("https://example.com/", Failure.FORBIDDEN),  # a network that is not enabled
        (f"http://{'a' * 56}.onion/", Fault.REDIRECT),
    ],
)
async def test_redirects_to_where_nobody_goes(target: str, wanted: Failure | Fault) -> None:
    async with http(give(b"", 301, Location=target)) as url:
        assert await reason(url) is wanted


async def test_redirect_without_a_target_is_an_answer() -> None:
    async with http(give(LIST, 302)) as url:
        assert (await document(url)).status == 302


@pytest.mark.parametrize(
    "target",
    [
        *("http://127.0.0.1:{port}/", "http://10.0.0.1/", "http://localhost:{port}/"),
        *("http://[::1]/", "http://169.254.169.254/latest/meta-data/"),
    ],
)
async def test_redirect_to_the_inside_is_refused(target: str) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.host)
        where = target.format(port=port)
        return web.Response(status=307, headers={"Location": where}, body=b"secret")

    async with http(answer) as url:
        port = int(url.rpartition(":")[2])
        # Through a proxy, so that a host of the open internet can be had on one machine.
        async with socks5(port) as (proxy, _):
            plain = proxy.replace("socks5h", "socks5")
            outside = Networks(clearnet=Link(timeout_s=5.0, proxy=plain))
            assert await reason("http://8.8.8.8/", outside) is Failure.FORBIDDEN
    assert seen == ["8.8.8.8"]


async def test_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def inside(host: str, port: int, **_: object) -> Any:
        asked.append(host)  # a second look-up might say something else
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", inside)
    async with http(give(LIST)) as url:
        target = url.replace("127.0.0.1", "inside.example")
        assert await reason(target, Networks()) is Failure.FORBIDDEN
        assert asked == ["inside.example"]
        allowed = Networks(clearnet=Link(timeout_s=5.0), local=Link())
        assert isinstance(await get(target, allowed), Document)


async def test_onions_go_through_the_proxy_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    onion = "oxtrdevav64z64yb7x6rjg4ntzqjhedm5b5zjqulugknhzr46ny2qbad.onion"
    async with http(give(LIST)) as url, socks5(int(url.rpartition(":")[2])) as (proxy, asked):
        tor = Networks(tor=Link(timeout_s=5.0, proxy=proxy))
        answer = await get(f"http://{onion}/list", tor)
        assert isinstance(answer, Document)
        assert answer.body == LIST
        assert str(asked).count(onion) == 1
        assert await reason(f"http://{onion}/list", Networks()) is Failure.FORBIDDEN


# TLS


async def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    connect.tls_context.cache_clear()
    try:
        async with http(give(LIST), authority.context("127.0.0.1")) as url:
            assert (await document(url)).body == LIST
        for context, wanted in (
            (authority.context("other.example"), Failure.TLS_WRONG_NAME),
            (authority.context("127.0.0.1", days=-1), Failure.TLS_EXPIRED),
            (authority.context("127.0.0.1", is_self_signed=True), Failure.TLS_UNTRUSTED),
        ):
            async with http(give(LIST), context) as url:
                assert await reason(url) is wanted
        async with http(give(LIST)) as url:
            assert await reason(url.replace("http:", "https:")) is Failure.TLS
    finally:
        connect.tls_context.cache_clear()


# Any bytes at all


@given(
    st.lists(
        st.binary(max_size=80)
        | st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.0 301 x\r\n",
                b"\r\n",
                b"\r\n\r\n",
                b"5\r\nhello\r\n",
                b"0\r\n",
                b"Content-Length: 5\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Encoding: gzip\r\n",
                PACKED["gzip"],
                PACKED["gzip"][:9],
                BOMB[:4000],
            ]
        ),
        max_size=12,
    )
)
def test_any_bytes_are_an_answer_or_a_fault(chunks: list[bytes]) -> None:
    answer = _Answer(1000)
    answer.request(_place("http://a.example.com/"), "*/*", "me")
    fault = None
    try:
        for chunk in filter(None, chunks):
            if not answer.is_whole:
                answer.feed(chunk, 0.0)
        if not answer.is_whole:
            answer.feed(b"", 0.0)
    except _FaultError as error:
        fault = error.value.reason
    assert answer.is_whole == (fault is None)
    assert fault is None or fault in Fault
    assert len(answer.body) <= 1000 or fault is Fault.TOO_LARGE


async def test_waiting_for_our_own_sake_is_not_the_server_s_time() -> None:
    """For room at its address, say, as long as somebody else is there."""
    politeness = Politeness(PolitenessSettings(per_address=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connect, "is_special", lambda _: False)  # which are not spared
        async with http(give(LIST)) as url:
            slot, _ = await politeness.take_slot(["127.0.0.1"], 1.0)
            waits = asyncio.create_task(get(url, politeness=politeness, timeout_s=0.3))
            await until(lambda: bool(politeness._waiting), "it waits")
            await asyncio.sleep(0.4)
            slot.leave()
            answer = await waits
    assert isinstance(answer, Document), answer
    assert answer.elapsed_s < 0.3


async def test_what_is_sent_arrives_whole_and_is_sent_nowhere_else() -> None:
    came: list[tuple[str, dict[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        came.append((request.method, dict(request.headers), await request.read()))
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    body = bytes(range(256)) * 1000
    async with http(take) as url:
        sent = Sent(body, [("Content-Type", "text/plain"), ("Title", "a b")])
        found = await post(f"{url}/hook?x=1", LOCAL, sent, max_bytes=MAX, timeout_s=5.0)
    assert isinstance(found, Document)
    assert found.status == 307
    ((method, headers, there),) = came
    assert (method, there) == ("POST", body)
    assert headers["Content-Type"] == "text/plain"
    assert headers["Title"] == "a b"


async def test_what_is_sent_has_bounds() -> None:
    async with raw(b"HTTP/1.1 200 OK\r\n", hold=True) as url:
        found = await post(url, LOCAL, Sent(b"x", []), max_bytes=MAX, timeout_s=0.2)
    assert isinstance(found, Unfetched)
    assert found.reason is Failure.SLOW
    gone = f"http://127.0.0.1:{free_port()}"
    found = await post(gone, LOCAL, Sent(b"x", []), max_bytes=MAX, timeout_s=5.0)
    assert isinstance(found, Unfetched)
    assert found.reason is Failure.REFUSED
    off = Networks(clearnet=Link(enabled=False))
    found = await post(gone, off, Sent(b"x", []), max_bytes=MAX, timeout_s=5.0)
    assert isinstance(found, Unfetched)
    assert found.reason is Failure.FORBIDDEN
