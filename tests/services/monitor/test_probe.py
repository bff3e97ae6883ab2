"""What one connection measures of a relay, and what it says when there is nothing to measure."""

import asyncio
import json
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bigbrotr.config.settings import Link, PolitenessSettings
from bigbrotr.models.check import Failed, Measured
from bigbrotr.models.relay import Relay
from bigbrotr.net.certificate import observing_context
from bigbrotr.net.connect import Failure
from bigbrotr.net.politeness import Politeness
from bigbrotr.net.timed_socket import keep_stamps
from bigbrotr.nostr.auth import Throwaway
from bigbrotr.nostr.message import prefix_of
from bigbrotr.services.monitor.claims import compare
from bigbrotr.services.monitor.probe import Missed, ProbeConnection, open_probe
from bigbrotr.services.monitor.trial import make_trial
from tests.kit.certificates import Authority, handshakes
from tests.kit.events import is_valid
from tests.kit.model import Vices
from tests.kit.punctual import Punctual, pause
from tests.kit.real import free_port, local_relay, nostr_relay
from tests.kit.scripted import ScriptedRelay
from tests.net.test_dial import server, socks5
from tests.services.monitor.contact import EVENT, LINK, answering, contact, meet


@pytest.fixture(autouse=True)
def _stamps() -> Iterator[None]:
    with keep_stamps():
        yield


async def missed(url: str, link: Link = LINK) -> Missed:
    met = await meet(url, link)
    assert isinstance(met, Missed)
    return met


# Reading and writing


@pytest.mark.parametrize(
    ("vices", "wanted"),
    [
        (Vices(), "measured"),
        (Vices(no_eose=True), "measured"),  # it has shown an event
        (Vices(garbage=frozenset({"not-json", "wrong-shape"})), "measured"),
        (Vices(refuses="restricted: members only"), "restricted"),
        (Vices(refuses="no"), "closed"),
        (Vices(needs_auth=True), "auth-required"),
        (Vices(silent=True), "no-answer"),
        (Vices(drop_after_pages=0), "lost"),
        (Vices(garbage=frozenset({"endless"})), "lost"),
    ],
)
async def test_reading(vices: Vices, wanted: str) -> None:
    async with ScriptedRelay([EVENT], vices) as relay, await contact(relay.url) as met:
        check = await met.read(1.0)
        if wanted == "measured":
            assert isinstance(check, Measured)
            assert 0 < check.value < 1
        else:
            assert isinstance(check, Failed)
            assert check.reason == wanted
        assert (met.challenge is not None) == vices.needs_auth


async def test_an_empty_relay_reads_well() -> None:
    async with ScriptedRelay() as relay, await contact(relay.url) as met:
        assert isinstance(await met.read(1.0), Measured)
        for _ in range(100):
            if relay.seen.closed:
                break
            await asyncio.sleep(0.01)
        (closed,) = relay.seen.closed
        assert len(closed) == 16


@pytest.mark.slow
async def test_an_answer_before_the_question_is_none() -> None:
    words = ("read", "count", "search", "neg", "")

    async def guess(connection: ServerConnection) -> None:
        for sub in words:
            await connection.send(json.dumps(["EVENT", sub, EVENT]))
            await connection.send(json.dumps(["EOSE", sub, ["finish"]]))
            await connection.send(json.dumps(["COUNT", sub, {"count": 1}]))
            await connection.send(json.dumps(["NEG-MSG", sub, "61"]))
        await connection.send(json.dumps(["NOTICE", "error: bad command"]))
        await connection.send(json.dumps(["AUTH", "a challenge"]))
        await connection.wait_closed()

    async with serve(guess, "127.0.0.1", 0) as relay:
        port = next(iter(relay.sockets)).getsockname()[1]
        async with await contact(f"ws://127.0.0.1:{port}") as met:
            await asyncio.to_thread(select.select, [met._sock._sock], [], [], 5.0)
            check = await met.read(0.2)
            assert isinstance(check, Failed)
            assert check.reason == "no-answer"
            assert met.challenge == "a challenge"  # which needs no question
            claims = await compare(met, None, 0.1)
            del claims["nips"]["42"]
            assert {nip["seen"] for nip in claims["nips"].values()} == {None}


async def test_writing() -> None:
    trial = make_trial(Throwaway(), int(time.time()))
    async with ScriptedRelay() as relay, await contact(relay.url) as met:
        assert isinstance(await met.write(trial, 1.0), Measured)
        (event,) = relay.seen.events
        assert is_valid(event)
        assert 20_000 <= event["kind"] < 30_000
        assert relay.events == []  # kept by nobody, and that is all right


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("blocked: not you", "blocked"),
        ("auth-required: who are you?", "auth-required"),
        ("pow: 30 bits needed", "pow"),
        ("Sorry", "refused"),
        ("see https://example.com", "refused"),
        (": nothing", "refused"),
        ("", "refused"),
    ],
)
async def test_refusals_keep_their_prefix(text: str, reason: str) -> None:
    trial = make_trial(Throwaway(), 0)

    def reply(frame: list[Any]) -> list[list[Any]]:
        return [["OK", "0" * 64, True, ""], ["OK", frame[1]["id"], False, text]]

    check = await answering(reply, lambda met: met.write(trial, 1.0))
    assert check == Failed(reason, text)
    assert prefix_of(text, "refused") == reason


# Opening


async def test_opening_is_measured_step_by_step() -> None:
    async with ScriptedRelay() as relay, await contact(relay.url) as met:
        opening = met.opening
        assert opening.dns_s is None
        assert opening.tls_s is None
        assert opening.open_s == opening.tcp_s + opening.upgrade_s
        assert 0 < opening.tcp_s < 0.1
        assert 0 < opening.upgrade_s < 1
        assert met.peer == "127.0.0.1"
        assert "server" in met.headers
        assert "date" not in met.headers


async def test_names_are_looked_up_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> Any:
        time.sleep(0.05)
        return real("127.0.0.1" if host == "relay.example" else host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with (
        ScriptedRelay() as relay,
        await contact(f"ws://relay.example:{relay.port}") as met,
    ):
        assert met.opening.dns_s is not None
        assert met.opening.dns_s > 0.05
        assert met.opening.open_s < met.opening.dns_s + 0.05


@pytest.mark.parametrize(
    ("vices", "failure"),
    [(Vices(http_only=True), Failure.NOT_WEBSOCKET)],
)
async def test_no_upgrade(vices: Vices, failure: Failure) -> None:
    async with ScriptedRelay(vices=vices) as relay:
        found = await missed(relay.url)
        assert (found.why.failure, found.peer, found.tls) == (failure, "127.0.0.1", None)


async def test_nobody_there() -> None:
    found = await missed(f"ws://127.0.0.1:{free_port()}")
    assert (found.why.failure, found.peer) == (Failure.REFUSED, "")


async def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        link = Link(timeout_s=0.2)
        assert (await missed(f"ws://127.0.0.1:{port}", link)).why.failure is Failure.SLOW
        assert (await missed(f"wss://127.0.0.1:{port}", link)).why.failure is Failure.SLOW


async def test_through_a_proxy() -> None:
    onion = "ws://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
    politeness = Politeness(PolitenessSettings(per_address=1))
    async with ScriptedRelay([EVENT]) as relay, socks5(relay.port) as (proxy, asked):
        link = Link(timeout_s=5.0, proxy=proxy)
        for _ in range(2):  # the second has the place of the first
            met = await open_probe(Relay(onion), link, allow_local=False, politeness=politeness)
            assert isinstance(met, ProbeConnection)
            async with met:
                assert met.opening.dns_s is None
                assert met.opening.tcp_s > 0
                assert met.peer == ""
                assert isinstance(await met.read(1.0), Measured)
        relay.vices = Vices(http_only=True)
        for _ in range(2):
            met = await open_probe(Relay(onion), link, allow_local=False, politeness=politeness)
            assert isinstance(met, Missed)
            assert met.why.failure is Failure.NOT_WEBSOCKET
        assert {name for _, name in asked} == {onion[5:].encode()}


# TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """Signs certificates that we trust."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.path))
    observing_context.cache_clear()
    yield made
    observing_context.cache_clear()


async def test_a_valid_certificate(authority: Authority) -> None:
    context = authority.context("127.0.0.1", "relay.example", days=30)
    async with ScriptedRelay([EVENT], tls=context) as relay, await contact(relay.url) as met:
        tls = met.tls
        assert tls is not None
        assert (tls.is_valid, tls.reason, tls.protocol) == (True, "", "TLSv1.3")
        assert tls.cipher is not None
        certificate = tls.certificate
        assert certificate is not None
        assert certificate.issuer == "an authority for tests"
        assert certificate.names == ["127.0.0.1", "relay.example"]
        assert abs(certificate.not_after - time.time() - 30 * 86_400) < 60
        assert len(certificate.fingerprint) == 64
        assert met.opening.tls_s is not None
        assert met.opening.tls_s > 0
        assert isinstance(await met.read(1.0), Measured)


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ({"names": ["127.0.0.1"], "days": -3}, Failure.TLS_EXPIRED),
        ({"names": ["another.example"]}, Failure.TLS_WRONG_NAME),
        ({"names": ["127.0.0.1"], "is_self_signed": True}, Failure.TLS_UNTRUSTED),
    ],
)
@pytest.mark.parametrize("is_tls12", [False, True])
async def test_a_bad_certificate_is_looked_at_in_the_same_handshake(
    certificate: dict[str, Any], reason: Failure, is_tls12: bool, authority: Authority
) -> None:
    names = certificate["names"]
    options = {name: value for name, value in certificate.items() if name != "names"}
    context = authority.context(*names, **options)
    if is_tls12:
        context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_2
    with handshakes(context) as listener:
        port = listener.getsockname()[1]
        found = await missed(f"wss://127.0.0.1:{port}")
    assert found.why.failure is reason
    assert found.tls is not None
    assert (found.tls.is_valid, found.tls.reason) == (False, reason.value)
    assert found.tls.certificate is not None
    assert found.tls.certificate.names == names
    assert (found.tls.certificate.not_after < time.time()) == (reason is Failure.TLS_EXPIRED)


async def test_a_server_that_hangs_up_politely(authority: Authority) -> None:
    async def say(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with server(say, ssl=authority.context("127.0.0.1")) as port:
        found = await missed(f"wss://127.0.0.1:{port}")
    assert found.why.failure is Failure.NOT_WEBSOCKET
    assert found.tls is not None
    assert found.tls.is_valid


async def test_tls_of_long_ago(authority: Authority) -> None:
    with handshakes(authority.context("127.0.0.1", is_old=True)) as listener:
        found = await missed(f"wss://127.0.0.1:{listener.getsockname()[1]}")
    assert (found.why.failure, found.tls) == (Failure.TLS_OLD, None)


@pytest.mark.slow
async def test_real_relays(tmp_path: Path) -> None:
    async with local_relay([EVENT]) as url, await contact(url) as met:
        assert isinstance(await met.read(2.0), Measured)
        assert isinstance(await met.write(make_trial(Throwaway(), int(time.time())), 2.0), Measured)
        claims = await compare(met, None, 2.0)
        assert claims["nips"]["77"]["seen"] is True
    async with nostr_relay(tmp_path, [EVENT]) as url, await contact(url) as met:
        assert isinstance(await met.read(2.0), Measured)
        claims = await compare(met, None, 1.0)
        assert claims["nips"]["77"]["seen"] is not True


# The clock


@contextmanager
def hogged(step_s: float = 0.05) -> Iterator[None]:
    """Meanwhile our own event loop is kept busy, again and again for a while."""
    loop = asyncio.get_running_loop()
    handle = None

    def hog() -> None:
        nonlocal handle
        pause(step_s)
        handle = loop.call_soon(hog)

    handle = loop.call_soon(hog)
    try:
        yield
    finally:
        handle.cancel()


async def test_a_busy_loop_disturbs_no_figure() -> None:
    with Punctual(0.02) as relay, hogged():
        async with await contact(relay.url) as met:
            figures = [met.opening.upgrade_s]
            for check in (
                await met.read(5.0),
                await met.write(make_trial(Throwaway(), 0), 5.0),
                await met.read(5.0),
            ):
                assert isinstance(check, Measured)
                figures.append(check.value)
        assert met.opening.tcp_s < 0.005
    (truth,) = relay.truths
    for figure, (_, true_s) in zip(figures, truth, strict=True):
        assert abs(figure - true_s) < 0.005, (figures, truth)


async def test_without_stamps_the_reading_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigbrotr.net.timed_socket.SO_TIMESTAMPNS", 9999)
    with Punctual(0.02) as relay:
        async with await contact(relay.url) as met:
            check = await met.read(5.0)
    assert isinstance(check, Measured)
    ((_, (_, true_s)),) = relay.truths
    assert true_s - 0.001 < check.value < true_s + 0.5


async def test_our_own_work_is_not_counted() -> None:
    with Punctual(0.0) as relay:
        async with await contact(relay.url) as met:
            met._sock.lap()
            pause(0.1)
            check = await met.read(5.0)
    assert isinstance(check, Measured)
    assert check.value < 0.05
