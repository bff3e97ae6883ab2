"""Examining one relay: what is found, what is switched off, and documents that are hostile."""

import asyncio
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.config.settings import (
    ClaimsSettings,
    DnsSettings,
    GeoSettings,
    MonitorSettings,
    Nip11Settings,
    ReadSettings,
    WriteSettings,
)
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.models.check import Failed, Measured, Unmeasured
from bigbrotr.models.relay import Relay
from bigbrotr.net.certificate import observing_context
from bigbrotr.net.connect import Failure, tls_context
from bigbrotr.services.monitor.probe import Opening
from bigbrotr.services.monitor.service import Monitor
from bigbrotr.services.monitor.verdict import Findings, Verdict, failures, judge
from tests.kit.certificates import Authority, handshakes
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay
from tests.net.test_dial import server
from tests.net.test_dns import answer, nameserver
from tests.services.monitor.cycle import (
    DOCUMENT,
    EVENT,
    LINK,
    QUICK,
    context,
    latest,
    look,
    monitor,
    states,
)
from tests.services.monitor.test_geoip import NESTED, make_database


async def examine(brotr: Brotr, url: str, **settings: Any) -> Findings:
    service = monitor(brotr, **settings)
    async with service:
        await service.checker.geoip.refresh()
        return await service.checker.examine(Relay(url), LINK)


async def test_every_check_has_a_switch(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT], nip11=DOCUMENT) as relay:
        found = await examine(
            brotr,
            relay.url,
            tls=False,
            http=False,
            nip11=Nip11Settings(enabled=False),
            read=ReadSettings(enabled=False),
            claims=ClaimsSettings(enabled=False),
            dns=DnsSettings(enabled=False),
        )
        assert relay.seen.filters == []
        assert len(relay.seen.headers) == 1
    assert isinstance(found.opened, Opening)
    for check in found[2:]:
        assert isinstance(check, Unmeasured)
    assert judge(found, is_down=False, is_suspect=False).verdict is Verdict.UP


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"name": "nul \\u0000 and \\ud800"}', None),
        (b'{"supported_nips": [1, 1e400, ' + b"9" * 5000 + b"]}", None),
        (b'{"name": 5, "limitation": [], "supported_nips": "x"}', None),
        (b"[1, 2]", "not-json"),
        (b"<html></html>", "not-json"),
        (b"\xff" * 100, "not-json"),
        (b'{"a":' * 50_000, "too-large"),
        (b'{"a":' * 5_000, "not-json"),
        (b" " * (10 << 20), "too-large"),
    ],
)
async def test_hostile_documents(body: bytes, reason: str | None, brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT], nip11=body) as relay:
        await look(brotr, relay.url)
    assert await states(brotr) == {relay.url: ("up", "up")}
    failed = json.loads(await brotr.pool.fetchval("SELECT failed FROM bigbrotr.relay_states"))
    assert failed.get("nip11") == reason
    assert ("nip11" in await latest(brotr)) == (reason is None)
    raw = await brotr.pool.fetchval("SELECT raw FROM bigbrotr.metadata_raw")
    assert raw == (body if reason is None else None)


HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: application/nostr+json\r\n"


@asynccontextmanager
async def document_server(
    say: Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server of documents that never upgrades."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade" in head.lower():
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            await say(writer)
        await writer.drain()

    async with server(talk) as port:
        yield f"ws://127.0.0.1:{port}"


async def test_a_document_that_drips(brotr: Brotr) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(HTTP + b"Content-Length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with document_server(drip) as url:
        found = await examine(brotr, url, nip11=Nip11Settings(timeout_s=0.4))
    assert isinstance(found.nip11, Failed)
    assert found.nip11.reason == "slow"


async def test_a_document_that_is_a_bomb(brotr: Brotr) -> None:
    packed = zlib.compress(b" " * (50 << 20), 9)

    async def bomb(writer: asyncio.StreamWriter) -> None:
        head = b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(packed)
        writer.write(HTTP + head + packed)

    async with document_server(bomb) as url:
        found = await examine(brotr, url)
    assert isinstance(found.nip11, Failed)
    assert found.nip11.reason == "too-large"


async def test_a_document_elsewhere(brotr: Brotr) -> None:
    async with ScriptedRelay(nip11=DOCUMENT) as other:

        async def redirect(writer: asyncio.StreamWriter) -> None:
            head = f"HTTP/1.1 302 Found\r\nLocation: {other.url.replace('ws', 'http')}\r\n"
            writer.write(head.encode() + b"Content-Length: 0\r\n\r\n")

        async with document_server(redirect) as url:
            found = await examine(brotr, url)
    assert isinstance(found.nip11, Measured)
    assert found.nip11.value.texts["name"] == "a relay"
    assert found.failure is Failure.NOT_WEBSOCKET  # and is no relay for all that


@pytest.mark.parametrize(("bits", "is_written"), [(0, True), (8, True), (12, False), (200, False)])
async def test_work_is_done_up_to_a_bound(bits: int, is_written: bool, brotr: Brotr) -> None:
    document = {"limitation": {"min_pow_difficulty": bits}}
    async with ScriptedRelay([EVENT], nip11=document) as relay:
        found = await examine(
            brotr,
            relay.url,
            write=WriteSettings(enabled=True, max_pow_bits=10),
            claims=ClaimsSettings(enabled=False),
        )
        if is_written:
            (event,) = relay.seen.events
            assert int(event["id"], 16) < 1 << 256 - bits
            assert isinstance(found.write, Measured)
        else:
            assert relay.seen.events == []
            assert isinstance(found.write, Unmeasured)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """Signs certificates that we trust."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.path))
    observing_context.cache_clear()
    tls_context.cache_clear()
    yield made
    observing_context.cache_clear()
    tls_context.cache_clear()


async def test_certificates_are_kept_good_and_bad(brotr: Brotr, authority: Authority) -> None:
    async with (
        ScriptedRelay([EVENT], tls=authority.context("127.0.0.1")) as good,
        ScriptedRelay([EVENT], tls=authority.context("127.0.0.1", days=-2)) as bad,
    ):
        await look(brotr, good.url, bad.url)
        assert await states(brotr) == {good.url: ("up", "up"), bad.url: ("down", "tls-expired")}
    rows = await brotr.pool.fetch(
        "SELECT relay_url, data FROM bigbrotr.relay_metadata_latest WHERE type = 'nip66_ssl'"
    )
    found = {row["relay_url"]: json.loads(row["data"]) for row in rows}
    assert found[good.url]["valid"]
    assert found[good.url]["protocol"] == "TLSv1.3"
    assert not found[bad.url]["valid"]
    assert found[bad.url]["reason"] == "tls-expired"
    assert found[bad.url]["not_after"] < time.time()
    assert set(found[bad.url]) == {*found[good.url], "reason"}


async def test_what_was_not_looked_at_is_not_measured(brotr: Brotr, authority: Authority) -> None:
    gone = f"wss://127.0.0.1:{free_port()}"
    with handshakes(authority.context("127.0.0.1", is_old=True)) as listener:
        old = f"wss://127.0.0.1:{listener.getsockname()[1]}"
        found = await examine(brotr, old)
        assert found.failure is Failure.TLS_OLD
        assert isinstance(found.tls, Failed)
        assert failures(found) == {"tls": "tls-too-old"}
    found = await examine(brotr, gone)
    assert found.failure is Failure.REFUSED
    assert failures(found) == {}
    for check in found[2:]:
        assert isinstance(check, Unmeasured)


async def test_places_networks_and_zones(
    brotr: Brotr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "plain.example.com" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    network = {"autonomous_system_number": 64500, "autonomous_system_organization": "An Operator"}
    geo = GeoSettings(
        city_db=make_database(tmp_path / "city.mmdb", {"127.0.0.0/8": NESTED}),
        asn_db=make_database(tmp_path / "asn.mmdb", {"127.0.0.0/8": network}),
    )
    async with ScriptedRelay([EVENT]) as relay, nameserver(answer) as (address, _):
        settings = MonitorSettings(claims=QUICK, geo=geo, dns=DnsSettings(nameservers=(address,)))
        place = context(clearnet=LINK, local=LINK)
        await brotr.insert_relays([Relay(f"ws://plain.example.com:{relay.port}")])
        async with Monitor(brotr, settings, place) as service:
            await service.run()
    found = await latest(brotr)
    assert found["nip66_geo"]["city"] == "Berlin"
    assert found["nip66_net"] == {"address": "127.0.0.1", "asn": 64500, "operator": "An Operator"}
    assert found["nip66_dns"]["a"] == ["192.0.2.9"]
    assert found["nip66_rtt"]["dns_ms"] >= 0
    assert await brotr.pool.fetchval("SELECT ttl_s FROM bigbrotr.relay_rtts") == 120


async def test_a_database_that_cannot_be_read(brotr: Brotr) -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/city\.mmdb: No such file"):
        await look(brotr, geo=GeoSettings(city_db="/nowhere/city.mmdb"))


async def test_a_certificate_of_no_version_is_a_verdict(brotr: Brotr, authority: Authority) -> None:
    context = authority.context("127.0.0.1", version=9)
    async with (
        ScriptedRelay([EVENT], tls=authority.context("127.0.0.1")) as good,
        ScriptedRelay([EVENT], tls=context) as odd,
    ):
        await look(brotr, good.url, odd.url)
    found = await states(brotr)
    assert found[good.url] == ("up", "up")
    assert found[odd.url][0] == "down"
    assert found[odd.url][1].startswith("tls")
