"""What the finder finds in events, in lists on the web and from monitors, and what it does not."""

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from bigbrotr.config.settings import (
    Config,
    FinderSettings,
    Link,
    MonitorsSettings,
    Networks,
    Profile,
    SourceSettings,
    ValidatorSettings,
)
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.candidates import WALK, Walk
from bigbrotr.core.calls.monitoring import INTRODUCED
from bigbrotr.core.logger import configure
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.services.finder import MAX_LISTED, Finder, read_list
from tests.kit.events import make_event, pubkey, verified
from tests.kit.model import Vices
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay
from tests.net.test_http import give, http, raw

A, B, C = (f"wss://{name}.example.com" for name in "abc")
LIST = json.dumps([A, B]).encode()
NOW = int(time.time())
HOLDER = Relay("wss://holder.example.com")
LOCAL = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=1.0))


def finder(brotr: Brotr, networks: Networks = LOCAL, **settings: Any) -> Finder:
    config = Config(
        networks=networks,
        finder=FinderSettings(**settings),
        validator=ValidatorSettings(max_attempts=3),
    )
    return Finder(brotr, context=Context(config, None, "test"))


async def run(
    brotr: Brotr, networks: Networks = LOCAL, **settings: Any
) -> dict[tuple[str, ...], float]:
    """One cycle; its metrics by name and labels."""
    async with finder(brotr, networks, **settings) as service:
        async with asyncio.timeout(30):
            await service.run()
    return {(name, *labels): value for name, value, labels in service.metrics()}


async def found(brotr: Brotr) -> dict[str, tuple[str, int]]:
    rows = await brotr.pool.fetch("SELECT url, source, named FROM bigbrotr.candidates")
    return {row["url"]: (row["source"], row["named"]) for row in rows}


async def remembered(brotr: Brotr, what: str) -> dict[str, Any]:
    return {row["key"]: row["value"] for row in await brotr.get_service_data("finder", what)}


async def make_due(brotr: Brotr) -> None:
    await brotr.pool.execute("UPDATE bigbrotr.service_data SET data = data || '{\"due_at\": 0}'")


# --- events ---------------------------------------------------------------------------------------


async def test_what_events_name_becomes_a_candidate(brotr: Brotr) -> None:
    events = [verified(None, [["r", url]], kind=10002) for url in (A, A, B, HOLDER.url)]
    local = verified(None, [["e", "x", "ws://127.0.0.1:1"]])
    await brotr.insert_events([EventRelay(each, HOLDER, NOW) for each in (*events, local)])
    told = await run(brotr, Networks())
    assert told["candidates_found", "events"] == 2
    assert await found(brotr) == {A: ("kind 10002", 2), B: ("kind 10002", 1)}
    await run(brotr, Networks())
    assert await found(brotr) == {A: ("kind 10002", 2), B: ("kind 10002", 1)}


@pytest.mark.slow
async def test_archive_from_before_is_walked_once(dsn: str, brotr: Brotr) -> None:
    profile_text = "nevent and nprofile: " + json.dumps({B: {}})
    before = [verified(None, [["r", A], ["t", "x"]], created_at=NOW - n) for n in range(4500)]
    contacts = verified(json.dumps({B: {}}), [["p", "ab" * 32, C]], kind=3)
    raw_one = verified("a\0b " + profile_text, [["r", C + "/\ud800"], ["r", C]])
    async with Brotr(Pool(dsn=dsn), notes_mentions=False) as older:
        await older.insert_events(
            [EventRelay(each, HOLDER, NOW - 100) for each in (*before, contacts, raw_one)]
        )
    # An event that came by the queue is not counted again.
    after = verified(None, [["r", A], ["r", "wss://d.example.com"]])
    await brotr.insert_events([EventRelay(after, HOLDER, NOW)])
    await brotr.upsert_service_data([(*WALK, Walk(NOW, -1, "")._asdict())])
    await run(brotr)
    assert await brotr.read_walk() is None
    counts = {url: named for url, (_, named) in (await found(brotr)).items()}
    assert counts == {A: 4501, B: 1, C: 2, "wss://d.example.com": 1}


@pytest.mark.slow
async def test_shutdown_ends_a_walk_where_it_goes_on(dsn: str, brotr: Brotr) -> None:
    events = [verified(None, [["r", A]], created_at=NOW - n) for n in range(2500)]
    async with Brotr(Pool(dsn=dsn), notes_mentions=False) as older:
        await older.insert_events([EventRelay(each, HOLDER, NOW - 100) for each in events])
    await brotr.upsert_service_data([(*WALK, Walk(NOW, -1, "")._asdict())])
    async with finder(brotr) as service:
        task = asyncio.create_task(service.run())

        async def has_begun() -> bool:
            return bool(await found(brotr))

        await until(has_begun, "the walk begins")
        service.request_shutdown()
        await task
    await run(brotr)
    assert await found(brotr) == {A: ("kind 1", 2500)}


async def test_hopeless_candidates_are_given_up(brotr: Brotr) -> None:
    await brotr.insert_candidates([Relay(A), Relay(B)], "seed")
    await brotr.pool.execute("UPDATE bigbrotr.candidates SET attempts = 3 WHERE url = $1", A)
    await run(brotr, tombstone_s=1000.0)
    assert (await found(brotr)).keys() == {B}
    (stone,) = await brotr.pool.fetch(
        "SELECT url, expires_at - buried_at AS kept FROM bigbrotr.tombstones"
    )
    assert tuple(stone) == (A, 1000)


# --- lists on the web -----------------------------------------------------------------------------


def source(url: str, path: str = "$[*]", **more: Any) -> dict[str, SourceSettings]:
    return {"it": SourceSettings(url=url, path=path, **more)}


@pytest.mark.parametrize(
    ("document", "path", "wanted"),
    [
        ([A, B, "no relay", 7, None, {}, A + "/"], "$[*]", {A, B}),
        ({"relays": [{"url": A}, {"url": 3}, {"x": B}]}, "$.relays[*].url", {A}),
        ({"relays": {A: {}, B: {}, "x": 1}}, "$.relays.~", {A, B}),
        ({"a": {"b": [{"url": A}], "c": {"url": B}}}, "$..url", {A, B}),
    ],
)
async def test_lists_of_any_shape(
    brotr: Brotr, document: object, path: str, wanted: set[str]
) -> None:
    async with http(give(json.dumps(document).encode())) as url:
        await run(brotr, sources=source(url, path))
    assert await found(brotr) == dict.fromkeys(wanted, ("api it", 1))


async def test_list_is_asked_again_after_a_while(brotr: Brotr) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=gzip.compress(LIST), headers={"Content-Encoding": "gzip"})

    async with http(answer) as url:
        await run(brotr, sources=source(url, interval_s=3600.0))
        await run(brotr, sources=source(url, interval_s=3600.0))
        assert len(asked) == 1
        due_in_s = (await remembered(brotr, "list"))["it"]["due_at"] - time.time()
        assert 3500 < due_in_s <= 3600
        await make_due(brotr)
        await run(brotr, sources=source(url))
        assert len(asked) == 2
        # Who repeats himself names a relay once.
        assert await found(brotr) == {A: ("api it", 1), B: ("api it", 1)}
        # Another address under the same name is asked at once; a disabled one never.
        await run(brotr, sources=source(f"{url}/other"))
        await run(brotr, sources=source(f"{url}/third", enabled=False))
        assert asked[2:] == ["/other"]


@pytest.mark.slow
async def test_bad_lists_beside_a_good_one(
    brotr: Brotr, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    bad = {
        "huge": give(b"[" + b'"x",' * 100_000),
        "bomb": give(gzip.compress(bytes(50 << 20)), Content_Encoding="gzip"),
        "elsewhere": give(b"", 302, Location="https://example.com/"),
        "status": give(LIST, 503),
        "words": give(b"<html>wss://a.example.com</html>"),
        "broken": give(b'["wss://a.example.com'),
        "not-text": give(b'["\xff"]'),
        "deep": give(b"[" * 60_000),
        "junk": give(json.dumps({"relays": [1, "x", None]}).encode()),
        "empty": give(b"[]"),
    }
    drip = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"["] * 1000]

    @asynccontextmanager
    async def server() -> AsyncIterator[str]:
        async def answer(request: web.Request) -> web.StreamResponse:
            return await bad.get(request.path[1:], give(LIST))(request)

        async with http(answer) as url:
            yield url

    networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=2.0))
    async with server() as url, raw(*drip, pause_s=0.1) as slow:
        sources = {name: SourceSettings(f"{url}/{name}", "$..*", max_bytes=100_000) for name in bad}
        sources["drip"] = SourceSettings(slow, timeout_s=1.0)
        sources["nobody"] = SourceSettings(f"http://127.0.0.1:{free_port()}/")
        sources["good"] = SourceSettings(f"{url}/good")
        began = time.monotonic()
        told = await run(brotr, networks, sources=sources)
        assert time.monotonic() - began < 20
    assert await found(brotr) == {A: ("api good", 1), B: ("api good", 1)}
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = {
        name: [line for line in said.splitlines() if f" list={name} " in line] for name in sources
    }
    troubles = {
        "huge": "too-large",
        "bomb": "too-large",
        "elsewhere": "forbidden-address",
        "status": "http-status",
        "drip": "slow",
        "nobody": "refused",
    }
    outcomes = Counter("ok" if n == "good" else troubles.get(n, "unusable") for n in sources)
    asked = {labels[1]: times for (name, *labels), times in told.items() if name[:6] == "finder"}
    assert asked == outcomes
    assert (told["candidates_found", "list"], told["candidates_found", "events"]) == (2, 0)
    memories = await remembered(brotr, "list")
    for name in sources:
        assert len(lines[name]) == 1
        if name == "good":
            assert "relays=2 new=2" in lines[name][0]
        else:
            assert f"trouble={troubles.get(name, 'unusable')}" in lines[name][0]
            assert memories[name]["failures"] == 1
            assert 40 <= memories[name]["due_at"] - time.time() <= 76
    # It is asked again after a growing while, and never more seldom than when all is well.
    await make_due(brotr)
    await run(brotr, networks, sources={"nobody": sources["nobody"]})
    memory = (await remembered(brotr, "list"))["nobody"]
    assert memory["failures"] == 2
    assert 80 <= memory["due_at"] - time.time() <= 151


async def test_without_a_network_it_is_quiet(
    brotr: Brotr, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def nobody(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    configure("INFO")
    monitors = MonitorsSettings(pubkeys=(pubkey(1),), relays=("wss://relay.example",))
    sources = source("https://api.example/v1/online")
    await run(brotr, Networks(), sources=sources, monitors=monitors)
    await run(brotr, Networks(), sources=sources, monitors=monitors)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "asked for relays" in line
        assert "trouble=offline" in line


@pytest.mark.slow
def test_long_lists_are_cut() -> None:
    many = [f"wss://r{n}.example.com" for n in range(MAX_LISTED + 10)]
    listed = read_list(json.dumps(many).encode(), "$[*]")
    assert (len(listed.relays), listed.junk) == (MAX_LISTED, 0)


async def test_list_may_begin_with_a_mark(brotr: Brotr) -> None:
    async with http(give("\ufeff".encode() + LIST)) as url:
        await run(brotr, sources=source(url))
    assert (await found(brotr)).keys() == {A, B}


async def test_queries_of_lists_are_dropped_and_that_is_said(
    brotr: Brotr, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    named = [f"{A}/x/?broadcast=true", f"{A}/x/?b", f"{B}#?", C]
    async with http(give(json.dumps(named).encode())) as url:
        await run(brotr, sources=source(url))
    assert (await found(brotr)).keys() == {f"{A}/x/", B, C}
    assert "queries_dropped=2" in capsys.readouterr().err


async def test_hosts_of_lists_are_capped(brotr: Brotr) -> None:
    many = [f"wss://one.example.com/{n}" for n in range(500)]
    async with http(give(json.dumps(many).encode())) as url:
        await run(brotr, sources=source(url), max_per_host=7)
    assert len(await found(brotr)) == 7


# --- monitors -------------------------------------------------------------------------------------


def word(url: str, key: int = 1, created_at: int = NOW - 5000, **more: Any) -> Mapping[str, Any]:
    """A monitor's word on a relay."""
    return make_event(
        created_at, kind=more.get("kind", 30166), tags=[["d", url], ["n", "clearnet"]], key=key
    )


def of(*relays: str) -> MonitorsSettings:
    return MonitorsSettings(pubkeys=(pubkey(1), pubkey(2)), relays=relays)


async def test_what_known_monitors_say(brotr: Brotr) -> None:
    words = [word(A), word(B, key=2), word(C, key=3), word("wss://d.example.com", kind=1)]
    async with ScriptedRelay([*words, word("not a URL")]) as relay:
        await run(brotr, monitors=of(relay.url))
        assert await found(brotr) == {A: ("monitor", 1), B: ("monitor", 1)}
        asked = len(relay.seen.filters)
        assert relay.seen.filters[0][0]["authors"] == sorted([pubkey(1), pubkey(2)])
        await run(brotr, monitors=of(relay.url))
        assert len(relay.seen.filters) == asked
        # When it is due, only what is newer is asked for.
        await relay.add(word("wss://e.example.com", created_at=int(time.time())))
        await make_due(brotr)
        await run(brotr, monitors=of(relay.url))
        assert relay.seen.filters[asked][0]["since"] >= NOW - 1000
        assert "wss://e.example.com" in await found(brotr)
        # Another set of monitors is asked for from the beginning.
        other = MonitorsSettings(pubkeys=(pubkey(3),), relays=(relay.url,))
        await run(brotr, monitors=other)
        assert C in await found(brotr)


async def test_what_monitors_say_is_the_word_of_a_witness(brotr: Brotr) -> None:
    await brotr.insert_relays([Relay(A), Relay(B)])
    await brotr.upsert_service_data([(*INTRODUCED, "0", {"said": [pubkey(2), "", [], []]})])
    now = int(time.time())
    words = [word(A, created_at=now), word(B, created_at=now - 10_000_000)]
    words += [word("wss://unknown.example.com", created_at=now), word(A, created_at=now, key=2)]
    async with ScriptedRelay(words) as relay:
        await run(brotr, monitors=of(relay.url))
    rows = await brotr.pool.fetch(
        "SELECT w.pubkey, r.url FROM bigbrotr.witness_words w"
        " JOIN bigbrotr.relays r ON r.id = w.relay_id"
    )
    assert [(row["pubkey"].hex(), row["url"]) for row in rows] == [(pubkey(1), A)]


@pytest.mark.slow
async def test_monitors_are_read_page_by_page(brotr: Brotr) -> None:
    words = [
        word(f"wss://r{n}.example.com", created_at=NOW - 10_000 + n // 3, key=1 + n % 2)
        for n in range(900)
    ]
    async with ScriptedRelay(words, Vices(clamp=100)) as relay:
        await run(brotr, monitors=of(relay.url))
    assert len(await found(brotr)) == 900
    assert (await remembered(brotr, "monitors"))[relay.url]["since"] > NOW - 1000


async def test_what_is_forged_is_not_believed(
    brotr: Brotr, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    honest = word(A)
    lies = [
        {**word(B), "id": "ab" * 32},
        {**word(C), "sig": honest["sig"]},
        {**word("wss://d.example.com", key=3), "pubkey": pubkey(1)},
        {**honest, "tags": [["d", "wss://e.example.com"]]},
    ]
    vices = Vices(forged=frozenset({"id", "content", "signature", "type"}))
    async with ScriptedRelay([honest, *lies], vices) as relay:
        await run(brotr, monitors=of(relay.url))
    assert (await found(brotr)).keys() == {A}
    assert "rejected=" in capsys.readouterr().err


@pytest.mark.parametrize(
    "forgery",
    [
        {"sig": "ab" * 64},
        {"id": "ab" * 32},
        {"content": "forged"},
        {"sig": 7},
        {"content": None},
    ],
)
@pytest.mark.parametrize("place", [0, 7, 29])
async def test_one_that_is_forged_hides_no_other(
    brotr: Brotr, forgery: Mapping[str, Any], place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    words = [word(f"wss://r{n}.example.com", created_at=NOW - 10_000 + n) for n in range(30)]
    forged = {**words[place], **forgery}
    shown = [*words[:place], forged, *words[place + 1 :]]
    async with ScriptedRelay(shown, Vices(clamp=12)) as relay:
        await run(brotr, monitors=of(relay.url))
        assert len(await found(brotr)) == 29
        memory = (await remembered(brotr, "monitors"))[relay.url]
        assert (memory["failures"], memory["since"] > NOW - 1000) == (0, True)
        said = capsys.readouterr().err
        assert "trouble" not in said
        assert "rejected=" in said


@pytest.mark.parametrize(
    ("vices", "trouble"),
    [
        (Vices(silent=True), "timeout"),
        (Vices(http_only=True), "not-websocket"),
        (Vices(drop_after_pages=1, clamp=5), "cut"),
        (Vices(refuses="blocked: no"), "closed"),
        (Vices(rate_limited_after=1, clamp=5), "closed"),
    ],
)
async def test_relays_of_monitors_that_fail(
    brotr: Brotr, vices: Vices, trouble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    words = [word(f"wss://r{n}.example.com", created_at=NOW - 10_000 + n) for n in range(20)]
    async with ScriptedRelay(words, vices) as relay:
        told = await run(brotr, monitors=of(relay.url, f"ws://127.0.0.1:{free_port()}"))
        assert told["finder_requests", "monitors", "refused"] == 1
        said = capsys.readouterr().err
        assert f"trouble={trouble} " in said
        assert "trouble=refused" in said
        memory = (await remembered(brotr, "monitors"))[relay.url]
        assert (memory["failures"], memory["since"]) == (1, 0)
        # What it did say is kept; the rest comes when it is well again.
        assert len(await found(brotr)) in (0, 5)
        relay.vices = Vices()
        await make_due(brotr)
        await run(brotr, monitors=of(relay.url))
        assert len(await found(brotr)) == 20


async def test_endless_relays_end(brotr: Brotr) -> None:
    vices = Vices(ignores=frozenset({"since", "until", "limit"}), extras=3)
    words = [word(f"wss://r{n}.example.com", created_at=NOW - 10_000 + n) for n in range(50)]
    async with ScriptedRelay(words, vices) as relay:
        await run(brotr, monitors=of(relay.url))
    assert len(await found(brotr)) == 50


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_networks_without_a_way_are_not_asked(brotr: Brotr) -> None:
    onion = "ws://oxtrdevav64z64yb7x6rjg4ntzqjhedm5b5zjqulugknhzr46ny2qbad.onion"
    await run(brotr, monitors=of(onion))
    assert await remembered(brotr, "monitors") == {}


async def test_what_one_source_makes_our_code_raise_is_its_alone(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")

    def read(body: bytes, path: str) -> Any:
        if path == "$.poison":
            raise ZeroDivisionError("nobody thought of this")
        return read_list(body, path)

    monkeypatch.setattr("bigbrotr.services.finder.read_list", read)
    async with http(give(LIST)) as url, ScriptedRelay([word(C)]) as relay:
        sources = {"bad": SourceSettings(url, "$.poison"), "good": SourceSettings(url)}
        told = await run(brotr, sources=sources, monitors=of(relay.url))
    assert (await found(brotr)).keys() == {A, B, C}
    assert told["finder_requests", "list", "defect"] == 1
    memory = (await remembered(brotr, "list"))["bad"]
    assert (memory["failures"], memory["due_at"] > time.time() + 30) == (1, True)
    said = capsys.readouterr().err
    assert said.count("Traceback") == 1
    assert 'trouble=defect detail="ZeroDivisionError: nobody thought of this"' in said
