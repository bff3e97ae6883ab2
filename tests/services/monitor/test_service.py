"""The monitor: what it finds, whom it blames, when it comes back, and what it tells the world."""

import asyncio
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nostr_sdk
import pytest
from websockets.asyncio.client import connect

from bigbrotr.config.settings import (
    ClaimsSettings,
    Config,
    DnsSettings,
    GeoSettings,
    Link,
    MonitorSettings,
    Networks,
    Nip11Settings,
    PublisherSettings,
    PublishSettings,
    ReadSettings,
    WriteSettings,
)
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import configure
from bigbrotr.core.metrics import Sample
from bigbrotr.errors import ConfigError
from bigbrotr.models.check import Failed, Measured, Unmeasured
from bigbrotr.models.keys import Keys
from bigbrotr.models.nip66 import Announcement, Nip66
from bigbrotr.models.relay import Relay
from bigbrotr.net.certificate import observing_context
from bigbrotr.net.connect import Failure, Unreached, tls_context
from bigbrotr.nostr.delivery import Delivery
from bigbrotr.nostr.delivery import deliver as really_deliver
from bigbrotr.reads import status as reads
from bigbrotr.services.monitor.checks import read_document
from bigbrotr.services.monitor.probe import Opening
from bigbrotr.services.monitor.service import Monitor
from bigbrotr.services.monitor.verdict import Findings, Verdict, failures, judge, milliseconds
from bigbrotr.services.publisher import Publisher
from bigbrotr.view.archive import print_status
from tests.kit.certificates import Authority, handshakes
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.real import free_port, local_relay
from tests.kit.scripted import ScriptedRelay
from tests.net.test_dial import server
from tests.net.test_dns import answer, nameserver
from tests.services.monitor.test_geoip import NESTED, make_database

EVENT = make_event()
SECRET = "11" * 32
KEYS = Keys(SECRET)
LINK = Link(timeout_s=5.0, width=20)
BRIEF = ReadSettings(timeout_s=0.4)
QUICK = ClaimsSettings(timeout_s=0.2)
DOCUMENT = {"name": "a relay", "supported_nips": [1, 11], "limitation": {"max_limit": 500}}


def context(link: Link = LINK, **networks: Link) -> Context:
    made = Networks(**networks) if networks else Networks(clearnet=Link(enabled=False), local=link)
    return Context(Config(networks=made), None, "test")


def monitor(brotr: Brotr, link: Link = LINK, **settings: Any) -> Monitor:
    settings.setdefault("claims", QUICK)
    return Monitor(brotr, MonitorSettings(**settings), context(link))


async def examine(brotr: Brotr, url: str, **settings: Any) -> Findings:
    service = monitor(brotr, **settings)
    async with service:
        await service.checker.geoip.refresh()
        return await service.checker.examine(Relay(url), LINK)


async def look(
    brotr: Brotr, *urls: str, max_attempts: int = 5, **settings: Any
) -> dict[tuple[str, ...], float]:
    """One cycle in which these relays are due, and the delivery of what it announces; their metrics
    by name and labels."""
    await brotr.insert_relays([Relay(url) for url in urls])
    await brotr.pool.execute("UPDATE bigbrotr.checks SET due_at = 0")
    found: list[Sample] = []
    async with monitor(brotr, **settings) as service:
        await service.run()
        found += service.metrics()
    if "publish" in settings:
        sending = PublisherSettings(max_attempts=max_attempts)
        async with Publisher(brotr, sending, context()) as publisher:
            await publisher.run()
            found += publisher.metrics()
    return {(name, *labels): value for name, value, labels in found}


async def states(brotr: Brotr) -> dict[str, tuple[str, str]]:
    rows = await brotr.pool.fetch("SELECT relay_url, state, outcome FROM bigbrotr.relay_states")
    return {row["relay_url"]: (row["state"], row["outcome"]) for row in rows}


async def latest(brotr: Brotr) -> dict[str, Any]:
    rows = await brotr.pool.fetch("SELECT type, data FROM bigbrotr.relay_metadata_latest")
    return {row["type"]: json.loads(row["data"]) for row in rows}


# Checks


async def test_all_that_is_found(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT], nip11=DOCUMENT) as relay:
        await look(brotr, relay.url, write=WriteSettings(enabled=True))
        # One connection, and one for the document.
        assert relay.seen.connections == 1
        assert len(relay.seen.headers) == 2
        assert all(each["User-Agent"].startswith("bigbrotr/") for each in relay.seen.headers)
    assert await states(brotr) == {relay.url: ("up", "up")}
    found = await latest(brotr)
    assert set(found) == {"nip11", "nip66_rtt", "nip66_http", "claims"}
    assert found["nip11"] == DOCUMENT
    assert found["nip66_http"]["server"].startswith("Python")
    assert found["claims"]["max_limit"] == {"claimed": 500, "seen": None}
    assert set(found["nip66_rtt"]) == {"tcp_ms", "upgrade_ms", "open_ms", "read_ms", "write_ms"}
    row = await brotr.pool.fetchrow("SELECT failed FROM bigbrotr.relay_states")
    assert row is not None
    assert row["failed"] == "{}"


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


# Verdicts


def unreached(failure: Failure) -> Findings:
    return Findings(Unreached(failure, "words"))


@pytest.mark.parametrize(
    ("failure", "first", "second"),
    [
        (Failure.TIMEOUT, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.SLOW, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.UNREACHABLE, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.NO_NAME, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.OFFLINE, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.REFUSED, Verdict.DOWN, Verdict.DOWN),
        (Failure.TLS_EXPIRED, Verdict.DOWN, Verdict.DOWN),
        (Failure.NOT_WEBSOCKET, Verdict.DOWN, Verdict.DOWN),
        (Failure.PROXY, Verdict.VOID, Verdict.VOID),
        (Failure.BUSY, Verdict.VOID, Verdict.VOID),
        (Failure.RESTING, Verdict.VOID, Verdict.VOID),
        (Failure.OPTED_OUT, Verdict.SPARED, Verdict.SPARED),
        (Failure.RATE_LIMITED, Verdict.SPARED, Verdict.SPARED),
    ],
)
def test_what_failures_mean(failure: Failure, first: Verdict, second: Verdict) -> None:
    found = unreached(failure)
    assert judge(found, is_down=False, is_suspect=False) == (first, failure.value, "words")
    assert judge(found, is_down=False, is_suspect=True).verdict is second
    assert judge(found, is_down=True, is_suspect=False).verdict is second


@pytest.mark.parametrize(
    ("read", "is_challenged", "verdict"),
    [
        (Measured(0.1), False, Verdict.UP),
        (Failed("restricted", "members only"), False, Verdict.UP),
        (Failed("no-answer"), False, Verdict.SUSPECT),
        (Failed("lost"), False, Verdict.SUSPECT),
        (Failed("no-answer"), True, Verdict.UP),
    ],
)
def test_what_answers_mean(read: Any, is_challenged: bool, verdict: Verdict) -> None:
    found = Findings(Opening(None, 0.1, None, 0.1), is_challenged, read)
    assert judge(found, is_down=False, is_suspect=False).verdict is verdict
    assert failures(found) == ({"read": read.reason} if isinstance(read, Failed) else {})


async def test_two_time_outs_before_down(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as relay, ScriptedRelay([EVENT]) as other:
        await look(brotr, relay.url, other.url)
        relay.vices = Vices(silent=True)
        await look(brotr, read=BRIEF)
        assert (await states(brotr))[relay.url] == ("up", "up")
        await look(brotr, read=BRIEF)
        assert (await states(brotr))[relay.url] == ("down", "no-answer")
        relay.vices = Vices()
        await look(brotr)
    assert (await states(brotr))[relay.url] == ("up", "up")


async def test_one_time_out_is_forgotten(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as relay:
        for vices in (Vices(), Vices(silent=True), Vices(), Vices(silent=True), Vices()):
            relay.vices = vices
            await look(brotr, relay.url, read=BRIEF if vices.silent else ReadSettings())
    rows = await brotr.pool.fetch("SELECT is_up FROM bigbrotr.relay_rtts")
    assert {row["is_up"] for row in rows} == {True}


async def test_a_relay_that_has_gone(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as relay:
        await look(brotr, relay.url)
    await look(brotr)
    assert await states(brotr) == {relay.url: ("down", "refused")}
    found = await brotr.pool.fetchrow(
        "SELECT * FROM bigbrotr.relay_uptime($1, 1, $2)", relay.url, int(time.time()) + 60
    )
    assert found is not None
    assert found["down_s"] > 0
    assert json.loads(found["incidents"])[0]["reason"] == "refused"


async def test_many_that_fail_at_once_mean_that_we_are_down(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure("INFO")
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(ScriptedRelay([EVENT])) for _ in range(6)]
        urls = [relay.url for relay in relays]
        dead = f"ws://127.0.0.1:{free_port()}"
        await look(brotr, *urls, dead)
        before = await states(brotr)
        assert before[dead] == ("down", "refused")

        async def unplugged(*_: Any) -> Any:
            raise OSError(101, "Network is unreachable")

        with monkeypatch.context() as patch:
            patch.setattr("bigbrotr.net.connect._connect_one", unplugged)
            for _ in range(3):
                await look(brotr)
                assert await states(brotr) == before
        assert "seems to be offline" in caplog.text
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.rtts") == 7
        await brotr.pool.execute("UPDATE bigbrotr.rtts SET checked_at = checked_at - 100")
        await look(brotr)
        assert await states(brotr) == before
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.rtts") == 14


async def test_one_that_fails_alone_is_judged_by_the_others(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one is due when the network goes: others are asked, and when they fail as well nobody
    is blamed."""
    async with ScriptedRelay([EVENT]) as relay, ScriptedRelay([EVENT]) as other:
        await look(brotr, relay.url, other.url)
        due = (
            "UPDATE bigbrotr.checks c SET due_at = 0"
            " FROM bigbrotr.relays r WHERE r.id = c.relay_id AND r.url = $1"
        )

        async def unplugged(*_: Any) -> Any:
            raise OSError(101, "Network is unreachable")

        with monkeypatch.context() as patch:
            patch.setattr("bigbrotr.net.connect._connect_one", unplugged)
            for _ in range(3):
                await brotr.pool.execute(due, relay.url)
                async with monitor(brotr) as service:
                    await service.run()
    assert set((await states(brotr)).values()) == {("up", "up")}
    assert (
        await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.checks WHERE suspect_at > 0") == 0
    )


# Defects of ours


async def test_what_one_relay_makes_our_code_raise_is_its_alone(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure("INFO")
    poison = {**DOCUMENT, "name": "poison"}

    def parse(body: bytes) -> Any:
        if b"poison" in body:
            raise KeyError("nobody thought of this")
        return read_document(body)

    monkeypatch.setattr("bigbrotr.services.monitor.checks.read_document", parse)
    async with (
        ScriptedRelay([EVENT], nip11=DOCUMENT) as good,
        ScriptedRelay([EVENT], nip11=poison) as bad,
        ScriptedRelay([EVENT], nip11=poison) as worse,
    ):
        metrics = await look(brotr, good.url, bad.url, worse.url)
        assert metrics["connections", "monitor", "local", "defect"] == 2
        assert metrics["checks", "local", "defect"] == 2
        assert await states(brotr) == {
            good.url: ("up", "up"),
            bad.url: ("unknown", "defect"),
            worse.url: ("unknown", "defect"),
        }
        row = await brotr.pool.fetchrow(
            "SELECT * FROM bigbrotr.relay_states WHERE relay_url = $1", bad.url
        )
        assert row is not None
        assert row["detail"] == "KeyError: 'nobody thought of this'"
        assert row["due_at"] > time.time() + 3000  # not again and again
        # Where it happened, once and not for each relay.
        (record,) = [each for each in caplog.records if each.exc_info]
        assert "nobody thought of this" in record.getMessage()
        # The state that was known stays.
        good.nip11 = poison
        await look(brotr)
        assert (await states(brotr))[good.url] == ("up", "defect")
        monkeypatch.undo()
        await look(brotr)
        assert set((await states(brotr)).values()) == {("up", "up")}


async def test_a_result_that_the_database_refuses_is_one_relay_s(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def round_trips(found: Findings) -> dict[str, float | None]:
        times = milliseconds(found)
        if isinstance(found.nip11, Measured) and found.nip11.value.texts["name"] == "poison":
            times["read_ms"] = 1e300  # no real
        return times

    monkeypatch.setattr("bigbrotr.services.monitor.service.milliseconds", round_trips)
    async with AsyncExitStack() as stack:
        documents = [{**DOCUMENT, "name": "poison" if n == 3 else "good"} for n in range(6)]
        relays = [
            await stack.enter_async_context(ScriptedRelay([EVENT], nip11=each))
            for each in documents
        ]
        await look(brotr, *(relay.url for relay in relays))
    found = await states(brotr)
    assert found.pop(relays[3].url) == ("unknown", "defect")
    assert set(found.values()) == {("up", "up")}


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


# Publishing


@pytest.fixture
def private_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE_KEY", SECRET)


def publish(*relays: str, **more: Any) -> PublishSettings:
    return PublishSettings(enabled=True, relays=relays, **more)


async def held(url: str, **filter_: Any) -> list[Any]:
    """The events that a real relay hands out, verified by nostr-sdk."""
    found = []
    async with connect(url) as client, asyncio.timeout(10.0):
        await client.send(json.dumps(["REQ", "x", filter_]))
        while (frame := json.loads(await client.recv()))[0] != "EOSE":
            if frame[0] == "EVENT":
                event = nostr_sdk.Event.from_json(json.dumps(frame[2]))
                assert event.verify()
                assert event.author().to_hex() == KEYS.public_key
                found.append(frame[2])
    return found


async def deliveries(brotr: Brotr) -> dict[tuple[str, str, str], int]:
    rows = await brotr.pool.fetch("SELECT target, outcome, reason, times FROM bigbrotr.deliveries")
    return {(row["target"], row["outcome"], row["reason"]): row["times"] for row in rows}


@pytest.mark.usefixtures("private_key")
async def test_what_is_published_is_read_back_from_a_real_relay(brotr: Brotr) -> None:
    dead = f"ws://127.0.0.1:{free_port()}"
    async with ScriptedRelay([EVENT], nip11=DOCUMENT) as relay, local_relay() as target:
        await look(brotr, relay.url, dead, publish=publish(target, geohash="u33d"))
        found = {event["kind"]: event for event in await held(target, authors=[KEYS.public_key])}
        assert set(found) == {0, 10002, 10166, 30166}
        assert json.loads(found[0]["content"]) == {"name": "bigbrotr", "about": "measures relays"}
        assert found[10002]["tags"] == [["r", target, "write"]]
        announcement = Announcement.parse(found[10166]["tags"])
        assert announcement == Announcement(
            3600,
            {"open": 10_000, "read": 10_000, "nip11": 10_000, "dns": 5000},
            ("ws", "open", "read", "nip11", "dns", "ssl"),
            "u33d",
        )
        event = found[30166]  # of the one that is up
        report = Nip66.parse(event["tags"], event["content"])
        assert report.relay == Relay(relay.url)
        assert event["tags"][0] == ["d", f"{relay.url}/"]
        assert report.nips == (1, 11)
        assert report.requirements == {"auth": False}
        assert set(report.rtts) == {"open", "read"}
        assert json.loads(report.content) == DOCUMENT
        for tag in event["tags"]:
            assert all(isinstance(each, str) for each in tag)
            assert len(tag) == 2
        assert (await deliveries(brotr)) == {(target, "accepted", ""): 4}
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.outbox") == 0


@pytest.mark.usefixtures("private_key")
async def test_what_has_not_changed_is_told_again_on_schedule(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT], nip11=DOCUMENT) as relay, ScriptedRelay() as target:
        settings: dict[str, Any] = {
            "publish": publish(target.url, refresh_s=7200.0),
            "check_every_s": 3600.0,
        }

        async def told() -> int:
            await look(brotr, relay.url, **settings)
            found = [event for event in target.seen.events if event["kind"] == 30166]
            target.seen.events.clear()
            return len(found)

        assert await told() == 1
        assert await told() == 0
        await brotr.pool.execute("UPDATE bigbrotr.checks SET published_at = published_at - 5500")
        assert await told() == 1  # rather now than at the next look
        relay.nip11 = {**DOCUMENT, "name": "another name"}
        await brotr.pool.execute("UPDATE bigbrotr.checks SET published_at = published_at - 10")
        assert await told() == 1
        assert await told() == 0


@pytest.mark.usefixtures("private_key")
async def test_a_relay_is_told_what_is_said_of_it(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as relay, ScriptedRelay([EVENT]) as other:
        settings = PublishSettings(enabled=True, to_monitored=True)
        await look(brotr, relay.url, other.url, publish=settings)
        for each in (relay, other):
            (event,) = each.seen.events
            assert Nip66.parse(event["tags"]).relay == Relay(each.url)


@pytest.mark.usefixtures("private_key")
async def test_targets_that_fail_cost_no_check(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as relay, ScriptedRelay(vices=Vices(http_only=True)) as bad:
        gone = f"ws://127.0.0.1:{free_port()}"
        onion = "ws://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
        await look(brotr, relay.url, publish=publish(bad.url, gone, onion))
        assert await states(brotr) == {relay.url: ("up", "up")}
    found = await deliveries(brotr)
    assert found == {
        (bad.url, "failed", "not-websocket"): 4,
        (gone, "failed", "refused"): 4,
        (onion, "failed", "network-off"): 3,  # what is local is told to nobody elsewhere
    }
    assert await brotr.pool.fetchval("SELECT min(due_at) FROM bigbrotr.outbox") > time.time() + 30


@pytest.mark.usefixtures("private_key")
async def test_what_one_target_makes_our_code_raise_is_its_alone(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedRelay([EVENT]) as relay, ScriptedRelay() as bad, ScriptedRelay() as good:
        odd = f"ws://127.0.0.1:{free_port()}"

        async def deliver(target: Relay, *rest: Any, **more: Any) -> dict[str, Delivery]:
            if target.url == bad.url:
                raise KeyError("nobody thought of this")
            found = await really_deliver(target, *rest, **more)
            if target.url == odd:  # what the database refuses
                return {key: each._replace(outcome="lost") for key, each in found.items()}  # type: ignore[arg-type]
            return found

        monkeypatch.setattr("bigbrotr.services.publisher.deliver", deliver)
        await look(brotr, relay.url, publish=publish(bad.url, odd, good.url))
        assert await states(brotr) == {relay.url: ("up", "up")}
        assert {event["kind"] for event in good.events} == {0, 10002, 10166, 30166}
    assert await deliveries(brotr) == {
        (bad.url, "failed", "defect"): 4,
        (odd, "failed", "defect"): 4,
        (good.url, "accepted", ""): 4,
    }
    # They are tried again, later.
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.outbox") == 8
    assert await brotr.pool.fetchval("SELECT min(due_at) FROM bigbrotr.outbox") > time.time() + 30


@pytest.mark.usefixtures("private_key")
async def test_a_relay_that_wants_pauses_has_everything_in_the_end(brotr: Brotr) -> None:
    """More pauses than attempts: what was not taken beside what was is kept for later."""
    async with ScriptedRelay([EVENT]) as relay, ScriptedRelay(vices=Vices(takes=1)) as target:
        for _ in range(4):
            await look(brotr, relay.url, publish=publish(target.url), max_attempts=2)
            await brotr.pool.execute("UPDATE bigbrotr.outbox SET due_at = 0")
        assert {event["kind"] for event in target.events} == {0, 10002, 10166, 30166}
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.outbox") == 0


async def test_what_it_counts(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dead, gone = (f"ws://127.0.0.1:{free_port()}" for _ in range(2))
    async with ScriptedRelay([EVENT]) as relay, ScriptedRelay() as target:
        assert await look(brotr, relay.url, dead) == {
            ("connections", "monitor", "local", "up"): 1,
            ("connections", "monitor", "local", "refused"): 1,
            ("checks", "local", "up"): 1,
            ("checks", "local", "down"): 1,
        }
        monkeypatch.setenv("PRIVATE_KEY", SECRET)
        told = await look(brotr, publish=publish(target.url, gone))
    assert told["announcements",] == 1
    status = await reads.status(brotr, 3600.0)
    known = msgspec.structs.asdict(status.measured)
    assert (known["relays"], known["up"], known["down"], known["undelivered"]) == (2, 1, 1, 4)
    assert (known["checked"], known["open"], known["readable"], known["writable"]) == (
        2,
        1,
        1,
        None,
    )
    print_status(status, "a database", 3600.0)
    said = capsys.readouterr().out
    assert "monitored 2   up 1   down 1   newest check " in said
    assert "writable not tried" in said
    found = {labels[0]: value for (name, *labels), value in told.items() if name == "deliveries"}
    assert found == {"accepted": 4, "failed": 4, "refused": 0}
    metrics = {(name, *labels): value for name, value, labels in await brotr.metrics()}
    assert metrics["relays_checked", "local", "up"] == 1
    assert metrics["relays_checked", "local", "down"] == 1
    # Nothing is due: checks come back in an hour, deliveries that failed in a while.
    assert metrics["backlog", "checks"] == metrics["backlog", "outbox"] == 0
    await brotr.pool.execute("UPDATE bigbrotr.outbox SET due_at = due_at - 7200")
    await brotr.pool.execute("UPDATE bigbrotr.checks SET due_at = due_at - 7200")
    metrics = {(name, *labels): value for name, value, labels in await brotr.metrics()}
    assert (metrics["backlog", "outbox"], metrics["backlog", "checks"]) == (4, 2)
    assert 3600 < metrics["backlog_age_seconds", "outbox"] < 7300


async def test_publishing_needs_a_key(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIVATE_KEY", raising=False)
    with pytest.raises(ConfigError, match="PRIVATE_KEY"):
        monitor(brotr, publish=publish("ws://127.0.0.1:1"))
    monkeypatch.setenv("PRIVATE_KEY", "npub1x")
    with pytest.raises(ConfigError, match="public one"):
        monitor(brotr, publish=publish("ws://127.0.0.1:1"))
