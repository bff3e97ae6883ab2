"""Reaching relays: names, addresses, proxies and TLS, each failure under its own name."""

import asyncio
import errno
import hashlib
import socket
from base64 import b32encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.config.settings import Link, PolitenessSettings
from bigbrotr.models.relay import Relay
from bigbrotr.net import connect as connecting
from bigbrotr.net.connect import UNTRIED, Failure, Unreached, is_offline, tls_context
from bigbrotr.net.dial import dial
from bigbrotr.net.politeness import Politeness
from tests.kit.certificates import Authority, handshakes
from tests.kit.model import Vices
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay


def onion(key: bytes) -> str:
    """The address of a hidden service, by Tor's rend-spec-v3."""
    checksum = hashlib.sha3_256(b".onion checksum" + key + b"\x03").digest()[:2]
    name = b32encode(key + checksum + b"\x03").decode().lower()
    return f"ws://{name}.onion"


ONION = onion(bytes(range(32)))
LINK = Link(timeout_s=5.0)


async def reach(url: str, link: Link = LINK, *, allow_local: bool = True) -> Unreached | str:
    """ "connected", or why not."""
    answer = await dial(Relay(url), link, max_frame_bytes=1 << 20, allow_local=allow_local)
    if isinstance(answer, Unreached):
        assert answer.detail
        return answer
    answer.abort()
    return "connected"


async def failure(url: str, link: Link = LINK, *, allow_local: bool = True) -> Failure:
    answer = await reach(url, link, allow_local=allow_local)
    assert isinstance(answer, Unreached), answer
    return answer.failure


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, list[str] | int]], list[str]]:
    """Sets names and their addresses (or the resolver's error); returns the names asked for."""

    def serve(names: Mapping[str, list[str] | int]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            asked.append(host)
            found = names[host]
            if isinstance(found, int):
                raise socket.gaierror(found, "no luck")
            families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in found]
            return [
                (family, socket.SOCK_STREAM, 6, "", (address, port))
                for family, address in zip(families, found, strict=True)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return serve


# Names and addresses


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:127.0.0.1"]
)
async def test_name_that_leads_inside_is_refused(address: str, zone: Any) -> None:
    async with ScriptedRelay() as relay:
        zone({"relay.example": [address]})
        url = f"ws://relay.example:{relay.port}"
        assert await failure(url, allow_local=False) is Failure.FORBIDDEN
        assert relay.seen.headers == []


async def test_only_the_outer_addresses_of_a_name_are_used(zone: Any) -> None:
    zone({"relay.example": ["127.0.0.1", "192.0.2.1"]})
    async with ScriptedRelay() as relay:
        answer = await failure(
            f"ws://relay.example:{relay.port}", Link(timeout_s=0.5), allow_local=False
        )
        assert answer is not Failure.REFUSED
        assert relay.seen.headers == []


async def test_name_that_leads_inside_is_used_where_allowed(zone: Any) -> None:
    zone({"relay.example": ["127.0.0.1"]})
    async with ScriptedRelay() as relay:
        assert await reach(f"ws://relay.example:{relay.port}") == "connected"
        assert relay.seen.headers[0]["Host"] == f"relay.example:{relay.port}"
        assert relay.seen.headers[0]["User-Agent"].startswith("bigbrotr/")


async def test_dead_first_address_keeps_nobody_waiting(zone: Any) -> None:
    async with ScriptedRelay() as relay:
        # Nobody answers at the first, nobody listens at the second, the third is it.
        zone({"relay.example": ["240.0.0.1", "127.0.0.2", "127.0.0.1"]})
        assert await reach(f"ws://relay.example:{relay.port}") == "connected"


async def test_two_addresses_that_answer_at_once_make_one_connection(
    zone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "STAGGER_S", 0.0)
    async with ScriptedRelay() as relay:
        zone({"relay.example": ["127.0.0.1"] * 6})
        for _ in range(5):
            assert await reach(f"ws://relay.example:{relay.port}") == "connected"
        assert relay.seen.connections <= 5


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (socket.EAI_NONAME, Failure.NO_NAME),
        (socket.EAI_AGAIN, Failure.OFFLINE),
        (socket.EAI_FAIL, Failure.NO_NAME),
        (socket.EAI_SYSTEM, Failure.OVERLOADED),
        (socket.EAI_MEMORY, Failure.OVERLOADED),
    ],
)
async def test_names_that_do_not_resolve(number: int, wanted: Failure, zone: Any) -> None:
    zone({"relay.example": number})
    assert await failure("wss://relay.example") is wanted


async def test_name_without_addresses(zone: Any) -> None:
    zone({"relay.example": []})
    assert await failure("wss://relay.example") is Failure.NO_NAME


async def test_machine_without_room_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedRelay() as relay:
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):

            def full(*_: Any, number: int = number) -> Any:
                raise OSError(number, "no room")

            with monkeypatch.context() as patch:
                patch.setattr(socket, "socket", full)
                assert await failure(relay.url) is Failure.OVERLOADED
    assert Failure.OVERLOADED in UNTRIED


# Servers


async def test_nobody_listens() -> None:
    assert await failure(f"ws://127.0.0.1:{free_port()}") is Failure.REFUSED


async def test_http_only() -> None:
    async with ScriptedRelay(vices=Vices(http_only=True)) as relay:
        assert await failure(relay.url) is Failure.NOT_WEBSOCKET


@asynccontextmanager
async def server(
    say: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any
) -> AsyncIterator[int]:
    """Any TCP server; its port."""
    tasks: set[asyncio.Task[Any]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await say(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0, **options)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


ANSWERS = {
    "forbidden": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "too many": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
    "nonsense": b"\x00\x01\x02 220 smtp.example ESMTP\r\n\r\n",
    "no": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "wrong key": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: bm9wZQ==\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_server_that_does_not_upgrade(answer: str) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWERS[answer])
        await writer.drain()

    wanted = {"forbidden": Failure.REFUSES_US, "too many": Failure.RATE_LIMITED}
    async with server(say) as port:
        found = await failure(f"ws://127.0.0.1:{port}")
        assert found is wanted.get(answer, Failure.NOT_WEBSOCKET)


async def test_server_that_says_nothing() -> None:
    async def say(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with server(say) as port:
        assert await failure(f"ws://127.0.0.1:{port}", Link(timeout_s=0.3)) is Failure.SLOW
        assert await failure(f"wss://127.0.0.1:{port}", Link(timeout_s=0.3)) is Failure.SLOW


async def test_endless_headers() -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async with server(say) as port:
        answer = await failure(f"ws://127.0.0.1:{port}", Link(timeout_s=1.0))
        assert answer in (Failure.NOT_WEBSOCKET, Failure.SLOW)


async def test_tls_where_there_is_none() -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.write(ANSWERS["no"])
        await reader.read(-1)

    async with server(say) as port:
        assert await failure(f"wss://127.0.0.1:{port}") is Failure.TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """Signs certificates that we trust."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.path))
    tls_context.cache_clear()
    yield made
    tls_context.cache_clear()


@pytest.mark.parametrize(
    ("certificate", "wanted"),
    [
        ({"names": ["127.0.0.1", "relay.example"]}, "connected"),
        ({"names": ["127.0.0.1", "relay.example"], "days": -3}, Failure.TLS_EXPIRED),
        ({"names": ["127.0.0.2", "another.example"]}, Failure.TLS_WRONG_NAME),
        ({"names": ["127.0.0.1"], "is_self_signed": True}, Failure.TLS_UNTRUSTED),
    ],
)
async def test_what_is_wrong_with_tls(
    certificate: dict[str, Any], wanted: str, authority: Authority
) -> None:
    context = authority.context(*certificate.pop("names"), **certificate)
    async with ScriptedRelay(tls=context) as relay:
        answer = await reach(relay.url)
        assert (answer.failure if isinstance(answer, Unreached) else answer) == wanted


async def test_tls_of_long_ago(authority: Authority) -> None:
    with handshakes(authority.context("127.0.0.1", is_old=True)) as server:
        port = server.getsockname()[1]
        assert await failure(f"wss://127.0.0.1:{port}") is Failure.TLS_OLD


async def test_name_in_the_certificate_is_the_one_that_was_dialled(
    authority: Authority, zone: Any
) -> None:
    zone({"relay.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    async with ScriptedRelay(tls=authority.context("relay.example")) as relay:
        assert await reach(f"wss://relay.example:{relay.port}") == "connected"
        wrong = await failure(f"wss://other.example:{relay.port}")
        assert wrong is Failure.TLS_WRONG_NAME


async def test_authority_that_we_do_not_know(tmp_path: Path) -> None:
    context = Authority(tmp_path).context("127.0.0.1")
    async with ScriptedRelay(tls=context) as relay:
        assert await failure(relay.url) is Failure.TLS_UNTRUSTED


# Proxies


@asynccontextmanager
async def socks5(
    target: int, *, code: int = 0, greeting: bytes = b"\x05\x00"
) -> AsyncIterator[tuple[str, list[tuple[int, bytes]]]]:
    """A SOCKS5 server that leads everywhere to one port, or answers with an error.

    Yields its address, and what it was asked for: (type of address, address).
    """
    asked: list[tuple[int, bytes]] = []

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, methods = await reader.readexactly(2)
        assert version == 5
        await reader.readexactly(methods)
        writer.write(greeting)
        _, _, _, kind = await reader.readexactly(4)
        length = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        asked.append((kind, await reader.readexactly(length)))
        await reader.readexactly(2)
        writer.write(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))
        if code:
            return
        back, out = await asyncio.open_connection("127.0.0.1", target)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        try:
            await asyncio.gather(copy(reader, out), copy(back, writer))
        finally:
            out.close()

    async with server(say) as port:
        yield f"socks5h://127.0.0.1:{port}", asked


def through(proxy: str) -> Link:
    return Link(timeout_s=5.0, proxy=proxy)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_proxy_gets_the_name_and_no_resolver_is_asked(
    scheme: str, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """Of hidden networks always; of others, by one that is there to resolve names."""

    def leak(host: str, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"a resolver was asked for {host}")

    monkeypatch.setattr(socket, "getaddrinfo", leak)
    async with ScriptedRelay() as relay, socks5(relay.port) as (proxy, asked):
        link = through(proxy.replace("socks5h", scheme))
        assert await reach(ONION, link, allow_local=False) == "connected"
        assert asked == [(3, ONION[5:].encode())]
        assert len(relay.seen.headers) == 1
    if scheme == "socks5":
        return
    context = authority.context("relay.example")
    async with ScriptedRelay(tls=context) as relay, socks5(relay.port) as (proxy, asked):
        assert await reach("wss://relay.example", through(proxy), allow_local=False) == "connected"
        # Nobody can tell where a name leads that somebody else resolves, unless by a certificate.
        assert await failure("ws://relay.example", through(proxy), allow_local=False) is (
            Failure.UNJUDGED
        )
        wrong = await failure("wss://other.example", through(proxy), allow_local=False)
        assert wrong is Failure.TLS_WRONG_NAME
        assert asked == [(3, b"relay.example"), (3, b"other.example")]
    async with ScriptedRelay() as relay, socks5(relay.port) as (proxy, _):
        assert await reach("ws://relay.example", through(proxy)) == "connected"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"])
async def test_proxy_does_not_reach_inside(address: str, zone: Any) -> None:
    zone({"relay.example": [address]})
    async with ScriptedRelay() as relay, socks5(relay.port) as (proxy, asked):
        link = through(proxy.replace("socks5h", "socks5"))
        assert await failure("ws://relay.example", link, allow_local=False) is Failure.FORBIDDEN
        shown = f"[{address}]" if ":" in address else address
        for way in (link, through(proxy)):
            assert await failure(f"ws://{shown}", way, allow_local=False) is Failure.FORBIDDEN
        assert asked == []
        assert relay.seen.headers == []


async def test_plain_proxy_gets_the_address_that_was_judged(zone: Any) -> None:
    names = zone({"relay.example": ["127.0.0.1", "8.8.8.8", "2606:4700::1"]})
    politeness = Politeness(PolitenessSettings(per_address=1))
    async with ScriptedRelay() as relay, socks5(relay.port) as (proxy, asked):
        link = through(proxy.replace("socks5h", "socks5"))
        for _ in range(2):  # the second has the place of the first
            stream = await dial(
                Relay("ws://relay.example"),
                link,
                max_frame_bytes=1 << 20,
                allow_local=False,
                politeness=politeness,
            )
            assert not isinstance(stream, Unreached), stream
            assert relay.seen.headers[-1]["Host"] == "relay.example"
            stream.abort()
            await until(lambda: not politeness._taken, "it has left")
    v6 = socket.inet_pton(socket.AF_INET6, "2606:4700::1")
    assert asked == [(4, v6)] * 2
    assert names == ["relay.example"] * 2


async def test_plain_proxy_tries_the_next_address(zone: Any) -> None:
    zone({"relay.example": ["2606:4700::1", "8.8.8.8"]})
    async with socks5(1, code=3) as (proxy, asked):
        link = through(proxy.replace("socks5h", "socks5"))
        found = await failure("ws://relay.example", link, allow_local=False)
        assert found is Failure.UNREACHABLE
    assert [kind for kind, _ in asked] == [4, 1]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (1, Failure.UNREACHABLE),
        (3, Failure.UNREACHABLE),
        (4, Failure.UNREACHABLE),
        (5, Failure.REFUSED),
        (6, Failure.TIMEOUT),
        (2, Failure.PROXY),
        (7, Failure.PROXY),
        (8, Failure.PROXY),
        *((code, Failure.NO_SERVICE) for code in (0xF0, 0xF1, 0xF2, 0xF3, 0xF6, 0xF7)),
        (0xF4, Failure.REFUSES_US),
        (0xF5, Failure.REFUSES_US),
        (0xF8, Failure.PROXY),
        (0xFF, Failure.PROXY),
    ],
)
async def test_proxy_says_why(code: int, wanted: Failure) -> None:
    async with socks5(1, code=code) as (proxy, _):
        assert await failure(ONION, through(proxy)) is wanted


async def test_proxy_is_down() -> None:
    proxy = f"socks5h://127.0.0.1:{free_port()}"
    assert await failure(ONION, through(proxy)) is Failure.PROXY


@pytest.mark.parametrize("greeting", [b"\x05\xff", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_proxy_is_no_proxy_for_us(greeting: bytes) -> None:
    async with socks5(1, greeting=greeting) as (proxy, _):
        assert await failure(ONION, through(proxy)) is Failure.PROXY


async def test_redirects_are_not_followed_through_a_proxy_either() -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWERS["redirect"])
        await writer.drain()

    async with server(say) as target, socks5(target) as (proxy, asked):
        assert await failure(ONION, through(proxy)) is Failure.NOT_WEBSOCKET
        assert len(asked) == 1


async def test_onion_without_a_proxy_is_never_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert await failure(ONION) is Failure.PROXY


def test_when_it_is_us() -> None:
    assert is_offline([Failure.NO_NAME] * 4)
    assert is_offline([Failure.OFFLINE, Failure.TIMEOUT] * 4)
    assert not is_offline([Failure.NO_NAME] * 3)
    assert not is_offline([*[Failure.NO_NAME] * 9, Failure.REFUSED])
    assert not is_offline([*[Failure.NO_NAME] * 9, None])
    assert not is_offline([])
