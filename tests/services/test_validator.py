"""What becomes a relay, what does not, and who is blamed."""

import asyncio
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bigbrotr.config.settings import Config, Link, Networks, PolitenessSettings, ValidatorSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import configure
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.operators import join
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net import lookup
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.worker import Slice, Worker
from bigbrotr.services.validator import (
    OFFLINE_CROWD,
    Decision,
    Greeting,
    Validator,
    decide,
    greet,
)
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

LINK = Link(timeout_s=1.0, width=20)
EVENT = make_event()


def context(**networks: Link) -> Context:
    local = Networks(clearnet=Link(enabled=False), local=LINK)
    return Context(Config(networks=Networks(**networks) if networks else local), None, "test")


@asynccontextmanager
async def echo(*frames: str) -> AsyncIterator[str]:
    """A WebSocket server that says the same to everything."""

    async def talk(connection: ServerConnection) -> None:
        async for _ in connection:
            for frame in frames:
                await connection.send(frame)

    async with serve(talk, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


async def meet(url: str) -> Greeting:
    return await greet(Relay(url), LINK, allow_local=True)


@pytest.mark.parametrize(
    ("vices", "decision", "outcome"),
    [
        (Vices(), "relay", "speaks-nostr"),
        (Vices(refuses="restricted: members only"), "relay", "refuses-us"),
        (Vices(refuses="error: no such filter"), "relay", "refuses-us"),
        (Vices(rate_limited_after=0), "relay", "rate-limited"),
        (Vices(needs_auth=True), "relay", "needs-auth"),
        (Vices(no_eose=True), "relay", "speaks-nostr"),  # it has shown an event
        (Vices(garbage=frozenset({"not-json", "wrong-shape"})), "relay", "speaks-nostr"),
        (Vices(silent=True), "failed", "slow"),
        (Vices(silent=True, needs_auth=True), "relay", "needs-auth"),
        (Vices(http_only=True), "failed", "not-websocket"),
        (Vices(drop_after_pages=0), "failed", "no-answer"),
        (Vices(garbage=frozenset({"endless"})), "failed", "no-answer"),
    ],
)
async def test_decision_on_a_server(vices: Vices, decision: str, outcome: str) -> None:
    async with ScriptedRelay([EVENT], vices) as relay:
        greeting = await meet(relay.url)
    assert (greeting.decision, greeting.outcome) == (decision, outcome)


@pytest.mark.parametrize(
    ("frames", "outcome"),
    [
        (["hello", "{}"], "not-nostr"),
        ([json.dumps(["EOSE", "somebody-else"])], "no-answer"),
        ([json.dumps(["NOTICE", "I am a chat server"])], "no-answer"),
        ([json.dumps(["EVENT", "other", EVENT])], "no-answer"),
    ],
)
async def test_any_websocket_server_is_no_relay(frames: list[str], outcome: str) -> None:
    async with echo(*frames) as url:
        greeting = await meet(url)
    assert (greeting.decision, greeting.outcome) == (Decision.FAILED, outcome)


async def test_nobody_listens() -> None:
    greeting = await meet(f"ws://127.0.0.1:{free_port()}")
    assert (greeting.decision, greeting.outcome) == (Decision.FAILED, "refused")


async def test_server_that_accepts_and_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        greeting = await meet(f"ws://127.0.0.1:{silent.getsockname()[1]}")
    assert (greeting.decision, greeting.outcome) == (Decision.FAILED, "slow")


# With the database


async def candidates(brotr: Brotr) -> dict[str, dict[str, Any]]:
    rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.candidates")
    return {row["url"]: dict(row) for row in rows}


async def run(brotr: Brotr, wanted: Context | None = None) -> None:
    async with Validator(brotr, ValidatorSettings(max_attempts=3), wanted or context()) as it:
        await it.run()


async def test_promotes_and_postpones(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as good, ScriptedRelay(vices=Vices(http_only=True)) as bad:
        dead = f"ws://127.0.0.1:{free_port()}"
        await brotr.insert_candidates([Relay(url) for url in (good.url, bad.url, dead)], "test")
        await run(brotr)
        assert [
            row["url"] for row in await brotr.pool.fetch("SELECT url FROM bigbrotr.relays")
        ] == [good.url]
        left = await candidates(brotr)
        assert left.keys() == {bad.url, dead}
        assert (left[bad.url]["attempts"], left[bad.url]["outcome"]) == (1, "not-websocket")
        assert (left[dead]["attempts"], left[dead]["outcome"]) == (1, "refused")
        assert left[dead]["owner"] is None
        first = left[dead]["due_at"] - left[dead]["tried_at"]
        assert first >= 30
        # Nothing is due: nobody is asked again.
        await run(brotr)
        assert (await candidates(brotr)) == left
        waits = [first]
        for _ in range(2):
            await brotr.pool.execute("UPDATE bigbrotr.candidates SET due_at = 0")
            await run(brotr)
            row = (await candidates(brotr))[dead]
            waits.append(row["due_at"] - row["tried_at"])
        assert waits[0] < waits[1] < waits[2]
        # After max_attempts it rests for good.
        await brotr.pool.execute("UPDATE bigbrotr.candidates SET due_at = 0")
        asked = len(bad.seen.headers)
        await run(brotr)
        assert len(bad.seen.headers) == asked
        assert {row["attempts"] for row in (await candidates(brotr)).values()} == {3}
        # A seed file that names it again changes nothing.
        assert await brotr.insert_candidates([Relay(dead), Relay(good.url)], "seed") == 0
        assert (await candidates(brotr))[dead]["attempts"] == 3


async def test_networks_that_are_not_enabled_are_left_alone(brotr: Brotr) -> None:
    urls = ["ws://127.0.0.1:1", f"ws://{'a' * 56}.onion", "wss://relay.example"]
    relays = [Relay(url) for url in urls if _is_relay(url)]
    await brotr.insert_candidates(relays, "test")
    before = await candidates(brotr)
    await run(brotr, context(clearnet=Link(enabled=False)))
    assert await candidates(brotr) == before


def _is_relay(url: str) -> bool:
    try:
        Relay(url)
    except ValueError:
        return False
    return True


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone in which no name server answers: a machine without a network."""

    def nobody(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)


async def test_offline_blames_nobody(
    brotr: Brotr, no_names: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    relays = [Relay(f"wss://relay{n}.example") for n in range(6)]
    await brotr.insert_candidates(relays, "test")
    await run(brotr, context(clearnet=LINK))
    for row in (await candidates(brotr)).values():
        assert (row["attempts"], row["outcome"]) == (0, "offline")
        assert row["due_at"] - row["tried_at"] == 60
    assert "this machine seems to be offline" in capsys.readouterr().err


@pytest.mark.parametrize("count", [OFFLINE_CROWD - 1, OFFLINE_CROWD])
async def test_many_names_that_nobody_knows_at_a_first_start(
    brotr: Brotr,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: int,
) -> None:
    """Some resolvers deny every name at once where there is no network; a few may be dead."""

    def nowhere(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    configure("INFO")
    await brotr.insert_candidates([Relay(f"wss://no{n}.example") for n in range(count)], "test")
    await run(brotr, context(clearnet=LINK))
    is_offline = count == OFFLINE_CROWD
    attempts = {row["attempts"] for row in (await candidates(brotr)).values()}
    assert attempts == {0 if is_offline else 1}
    assert ("seems to be offline" in capsys.readouterr().err) is is_offline


async def test_unresolvable_names(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    configure("INFO")
    await brotr.insert_candidates([Relay("wss://no.example")], "test")
    await run(brotr, context(clearnet=LINK))
    (row,) = (await candidates(brotr)).values()
    assert (row["attempts"], row["outcome"]) == (1, "no-such-name")  # one alone proves nothing
    assert "offline" not in capsys.readouterr().err


async def test_candidate_of_a_crashed_validator_comes_back(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as relay:
        await brotr.insert_candidates([Relay(relay.url)], "test")
        claimed = await brotr.claim_candidates(
            Network.LOCAL, limit=10, max_attempts=3, owner="test/validator", lease_s=600
        )
        assert [each.url for each in claimed] == [relay.url]
        await run(brotr)  # the one that bears the name now
        assert await candidates(brotr) == {}


async def test_shutdown_ends_a_long_sweep(brotr: Brotr) -> None:
    relays = [Relay(f"ws://127.0.0.1:{port}") for port in range(1, 30)]
    await brotr.insert_candidates(relays, "test")
    validator = Validator(brotr, None, context())
    async with validator, asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(validator.run_forever(0.1))
        await asyncio.sleep(0)
        validator.request_shutdown()
    assert not validator.is_running


async def test_a_relay_appears_as_soon_as_it_is_known(
    brotr: Brotr, capfd: pytest.CaptureFixture[str]
) -> None:
    """While another one still keeps everybody waiting; and the log names who fails, and why."""
    link = Link(timeout_s=60.0, width=20)
    configure("INFO", stream=sys.stderr)
    dead = f"ws://127.0.0.1:{free_port()}"
    there = context(clearnet=Link(enabled=False), local=link)
    async with (
        ScriptedRelay([EVENT]) as quick,
        Validator(brotr, None, there) as validator,
        asyncio.TaskGroup() as group,
        ScriptedRelay(vices=Vices(silent=True)) as slow,
    ):
        urls = (quick.url, slow.url, dead)
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        running = group.create_task(validator.run())

        async def is_there() -> bool:
            return await relays(brotr) == [quick.url]

        await until(is_there, "the quick one")
        assert not running.done()
    said = capfd.readouterr().err
    assert "tried=3 new_relays=1" in said
    assert f"refused: {dead}" in said


async def test_seeds_are_looked_at_at_once(brotr: Brotr) -> None:
    """They come a moment after the validator's first look, and its next one is far."""
    async with ScriptedRelay([EVENT]) as relay:
        validator = Validator(brotr, ValidatorSettings(interval_s=3600.0), context())
        async with validator, asyncio.TaskGroup() as group:
            group.create_task(validator.run_forever())

            async def has_looked() -> bool:
                return validator.cycles > 0

            await until(has_looked, "its first look")
            await brotr.insert_candidates([Relay(relay.url)], "seed")

            async def is_there() -> bool:
                return await relays(brotr) == [relay.url]

            await until(is_there, "the seed")
            validator.request_shutdown()
        assert validator.hurry_s() is None


# One host, many paths


def many(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [make_event(1_600_000_000 + n, content=str(n)) for n in range(first, first + count)]


async def relays(brotr: Brotr) -> list[str]:
    return [
        row["url"] for row in await brotr.pool.fetch("SELECT url FROM bigbrotr.relays ORDER BY url")
    ]


async def test_paths_that_answer_alike_are_one_relay(brotr: Brotr) -> None:
    async with ScriptedRelay(many(60)) as relay:
        urls = [relay.url, f"{relay.url}/a", f"{relay.url}/b", f"{relay.url}/b/c"]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
        assert await relays(brotr) == [relay.url]
        aliases = await candidates(brotr)
        assert aliases.keys() == set(urls[1:])
        for row in aliases.values():
            assert (row["outcome"], row["attempts"]) == ("alias", 0)
            assert row["alias_of"] is not None
        # One that is named later joins a relay that is known.
        await brotr.insert_candidates([Relay(f"{relay.url}/late")], "test")
        await run(brotr)
        assert await relays(brotr) == [relay.url]
        assert (await brotr.totals()).candidates == 0
        # Nobody is asked again soon.
        asked = relay.seen.connections
        await run(brotr)
        assert relay.seen.connections == asked


async def test_paths_of_many_tenants_stay_apart(brotr: Brotr) -> None:
    tenants = {"/a": many(60), "/b": many(60, first=30), "/c": []}
    async with ScriptedRelay([], paths=tenants) as relay:
        urls = [f"{relay.url}{path}" for path in tenants]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
        assert await relays(brotr) == urls


async def test_addresses_are_dialled_as_they_are_written(brotr: Brotr) -> None:
    """A slash at the end is a part of them, and so is the query of what people name."""
    paths = {"/relay/": many(60), "/npub1?broadcast=true": many(60, first=100)}
    async with ScriptedRelay([], Vices(), paths=paths) as relay:
        urls = [f"{relay.url}{path}" for path in paths]
        await brotr.insert_candidates([Relay(url) for url in urls], "seed")
        await run(brotr)
        assert await relays(brotr) == sorted(urls)
        await Worker(context().config, brotr).work(Slice("test", 60.0, {Network.LOCAL: 10}))
        rows = await brotr.pool.fetch(
            "SELECT relay_url, count(*) FROM bigbrotr.events_relays GROUP BY 1"
        )
        assert {row["relay_url"]: row["count"] for row in rows} == dict.fromkeys(urls, 60)
    assert await brotr.relays_at([relay.url]) == [Relay(url) for url in sorted(urls)]


async def test_a_neighbour_cannot_take_a_relay_away(brotr: Brotr) -> None:
    """By naming its events, or by showing some of them."""
    events = many(300)
    forged = [{**event, "content": "forged"} for event in events]
    unsigned = [{**event, "sig": events[0]["sig"]} for event in events]
    old = many(60, first=1000)
    tenants = {
        "/a": forged,
        "/b": unsigned,
        "/c": events[-60:],  # the newest ones
        "/d": [*events[:-60], *old],
        "/honest": events,
        "/honest/": events,
    }
    async with ScriptedRelay([], paths=tenants) as relay:
        urls = [f"{relay.url}{path}" for path in tenants]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
        assert await relays(brotr) == urls[:5]


@pytest.mark.parametrize(
    "vices", [Vices(), Vices(refuses="restricted: members only"), Vices(needs_auth=True)]
)
async def test_paths_that_show_nothing_are_not_joined(brotr: Brotr, vices: Vices) -> None:
    async with ScriptedRelay([], vices) as relay:
        urls = [relay.url, f"{relay.url}/a"]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
        assert await relays(brotr) == urls


async def test_flood_of_paths_costs_a_dead_host_one_connection(brotr: Brotr) -> None:
    tries = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        origin = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"  # no TLS there
        urls = [f"{origin}/{n}" for n in range(300)]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
    assert {row["attempts"] for row in (await candidates(brotr)).values()} == {1}
    assert tries <= 300 / (8 * LINK.width) + 1  # one a claim


async def test_host_that_limits_the_rate_is_left_alone(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT], Vices(rate_limited_after=0)) as relay:
        urls = [relay.url, f"{relay.url}/a", f"{relay.url}/b"]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
        assert relay.seen.connections == 1
        assert await relays(brotr) == [relay.url]  # CLOSED is Nostr
        for row in (await candidates(brotr)).values():
            assert (row["outcome"], row["attempts"]) == ("resting", 0)
            assert row["due_at"] - row["tried_at"] == 600
        due_at = await brotr.pool.fetchval("SELECT due_at FROM bigbrotr.visits")
        assert due_at > time.time() + 500


# Time


@pytest.mark.slow
async def test_the_slow_do_not_hold_up_the_others(brotr: Brotr) -> None:
    link = Link(width=1, quick_s=0.2, timeout_s=3.0)
    async with (
        ScriptedRelay([EVENT]) as good,
        ScriptedRelay([EVENT], Vices(delay_s=1.0)) as patient,
        ScriptedRelay([EVENT], Vices(silent=True)) as silent,
    ):
        # The slow ones come first.
        for relay in (silent, patient, good):
            await brotr.insert_candidates([Relay(relay.url)], "test")
            await brotr.pool.execute("UPDATE bigbrotr.candidates SET due_at = due_at - 60")
        began = time.monotonic()
        await run(brotr, context(clearnet=Link(enabled=False), local=link))
        assert time.monotonic() - began < 4.5  # one after the other: 3 + 1 + ...
        assert await relays(brotr) == sorted([good.url, patient.url])
        assert (await candidates(brotr))[silent.url]["outcome"] == "slow"


async def test_slow_host_is_waited_for_once(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT], Vices(silent=True)) as relay:
        urls = [f"{relay.url}/{n}" for n in range(5)]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
        assert relay.seen.connections == 1
        rows = [row for _, row in sorted((await candidates(brotr)).items())]
        assert [row["attempts"] for row in rows] == [1, 0, 0, 0, 0]
        assert {row["outcome"] for row in rows} == {"slow"}


@pytest.mark.slow
@pytest.mark.parametrize("most_slow", [30, 4])
async def test_slow_names_are_nobody_else_s_time(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, most_slow: int
) -> None:
    """Those whose look-up does not come to its turn are not blamed for that."""
    is_over = threading.Event()

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> Any:
        if host.startswith("slow"):
            is_over.wait(30.0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(lookup, "AT_ONCE", 4)
    monkeypatch.setattr(lookup, "MOST_SLOW", most_slow)
    monkeypatch.setattr(lookup, "SLOW_S", 0.02)
    link = Link(timeout_s=1.0, quick_s=0.1, width=20)
    place = context(clearnet=link, local=link)
    try:
        async with ScriptedRelay([EVENT]) as relay:
            slow = [Relay(f"ws://slow{n}.example:{relay.port}") for n in range(30)]
            honest = [Relay(f"ws://name{n}.example:{relay.port}") for n in range(20)]
            await brotr.insert_candidates(slow, "test")
            await brotr.pool.execute(
                "UPDATE bigbrotr.candidates SET due_at = due_at - 60"
            )  # the first ones
            await brotr.insert_candidates(honest, "test")
            await run(brotr, place)
            proven, left = await relays(brotr), await candidates(brotr)
            for each in honest:
                row = left.get(each.url)
                assert each.url in proven or (row and not row["attempts"]), row
            outcomes = Counter(row["outcome"] for row in left.values())
            if most_slow >= len(slow):
                assert len(proven) == len(honest)
                assert outcomes == {"timeout": 30}
            else:
                assert outcomes["timeout"] == 8
                assert outcomes["overloaded"] == 42 - len(proven)
            is_over.set()
            await brotr.pool.execute("UPDATE bigbrotr.candidates SET due_at = 0")
            await run(brotr, place)
            assert len(await relays(brotr)) == 50
    finally:
        is_over.set()


# Who wants none of us


async def test_opted_out_hosts_and_networks_are_never_dialled(brotr: Brotr) -> None:
    settings = PolitenessSettings(opt_out=("127.0.0.0/8",))
    wanted = Context(
        Config(networks=Networks(clearnet=Link(enabled=False), local=LINK), politeness=settings)
    )
    async with ScriptedRelay([EVENT]) as relay:
        await brotr.insert_candidates([Relay(relay.url)], "test")
        await run(brotr, wanted)
        assert relay.seen.connections == 0
        (row,) = (await candidates(brotr)).values()
        assert (row["outcome"], row["attempts"]) == ("opted-out", 0)
        assert row["due_at"] - row["tried_at"] == 86_400
        # Nor by those who copy.
        await brotr.insert_relays([Relay(relay.url)])
        order = Slice("test", 60.0, {Network.LOCAL: 10})
        await Worker(wanted.config, brotr).work(order)
        assert relay.seen.headers == []
        assert await brotr.pool.fetchval("SELECT outcome FROM bigbrotr.visits") == "opted-out"


async def test_relay_that_rests_is_tried_again_and_is_the_same(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        before = await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays")
        await brotr.pool.execute(
            "UPDATE bigbrotr.visits SET failures = 9, failing_since = 0, due_at = 9e15"
        )
        await run(brotr)
        assert (await candidates(brotr))[relay.url]["source"] == "retired"
        assert relay.seen.connections == 0
        await brotr.pool.execute("UPDATE bigbrotr.candidates SET due_at = 0")
        await run(brotr)
        assert await candidates(brotr) == {}
        assert await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays") == before
        assert await brotr.next_visit_at([Network.LOCAL]) is not None


async def test_relay_that_rests_is_no_hot_loop(brotr: Brotr) -> None:
    """Gaps that are due must not call a relay that is to be left alone again and again."""
    events = many(60)
    config = context().config
    order = Slice("test", 2.0, {Network.LOCAL: 10})
    async with ScriptedRelay(events, Vices(clamp=20, rate_limited_after=2)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        worker = Worker(config, brotr)
        assert (await worker.work(order)).outcomes == {"rate-limited": 1}
        for table in ("visits", "gaps"):
            await brotr.pool.execute(f"UPDATE bigbrotr.{table} SET due_at = 0")
        assert (await worker.work(order)).outcomes == {"resting": 1}
        assert relay.seen.connections == 1


# Defects of ours


async def test_what_one_candidate_makes_our_code_raise_is_its_alone(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure("INFO")

    def decide_or_not(relay: Relay, page: Page, **more: Any) -> Greeting:
        if not page.events:
            raise ZeroDivisionError("nobody thought of nothing")
        return decide(relay, page, **more)

    monkeypatch.setattr("bigbrotr.services.validator.decide", decide_or_not)
    async with ScriptedRelay([EVENT]) as good, ScriptedRelay() as bad, ScriptedRelay() as worse:
        urls = (good.url, bad.url, worse.url)
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
    assert await relays(brotr) == [good.url]
    left = await candidates(brotr)
    assert left.keys() == {bad.url, worse.url}
    for row in left.values():
        assert (row["outcome"], row["attempts"], row["owner"]) == ("defect", 0, None)
        assert row["detail"] == "ZeroDivisionError: nobody thought of nothing"
        assert row["due_at"] - row["tried_at"] == 86_400
    (record,) = [each for each in caplog.records if each.exc_info]
    assert "nobody thought of nothing" in record.getMessage()


async def test_a_comparison_that_fails_makes_no_alias(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Validator, "_newest", look)
    async with ScriptedRelay(many(60)) as relay, ScriptedRelay([EVENT]) as other:
        urls = [relay.url, f"{relay.url}/a", other.url]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        await run(brotr)
        assert await relays(brotr) == sorted(urls)


# Twins: what something says is one operator's is asked for the same


async def claim(brotr: Brotr, *urls: str) -> None:
    """These relays are up, and give the same key as their own: a claim of one side."""
    await brotr.insert_relays([Relay(url) for url in urls])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.checks (relay_id, due_at, state)"
        " SELECT id, 0, 'up' FROM bigbrotr.relays ON CONFLICT DO NOTHING"
    )
    own = Metadata({"self": "ab" * 32})
    await brotr.insert_relay_metadata(
        [RelayMetadata(Relay(url), own, MetadataType.NIP11, int(time.time())) for url in urls]
    )
    await brotr.gather_evidence(int(time.time()))


async def kinds_of(brotr: Brotr) -> list[tuple[str, str, str]]:
    rows = await brotr.pool.fetch(
        "SELECT a.url, b.url AS other, e.kind FROM bigbrotr.operator_evidence e"
        " JOIN bigbrotr.relays a ON a.id = e.relay_a JOIN bigbrotr.relays b ON b.id = e.relay_b"
        " WHERE e.kind NOT IN ('self', 'document') ORDER BY a.url, b.url"
    )
    return [(row["url"], row["other"], row["kind"]) for row in rows]


async def test_twins_answer_alike(brotr: Brotr) -> None:
    async with ScriptedRelay(many(60)) as one, ScriptedRelay(many(60)) as other:
        await claim(brotr, one.url, other.url)
        await run(brotr)
        assert await kinds_of(brotr) == [(*sorted((one.url, other.url)), "alike")]
        asked = len(one.seen.filters)
        assert asked > 5  # at several moments
        await run(brotr)  # not again for a month
        assert len(one.seen.filters) == asked
        assert await relays(brotr) == sorted([one.url, other.url])  # nothing else follows
        joined = join(await brotr.operator_pairs())
        assert len(joined) == 2
        assert len(set(joined.values())) == 1


async def test_who_copies_a_document_is_no_twin(brotr: Brotr) -> None:
    """Its events are others, or forged: named alone, they prove nothing."""
    forged = [{**event, "sig": "ab" * 64} for event in many(60)]
    async with (
        ScriptedRelay(many(60)) as one,
        ScriptedRelay(many(60, first=30)) as other,
        ScriptedRelay(forged, Vices(forged=frozenset({"signature"}))) as third,
    ):
        await claim(brotr, one.url, other.url, third.url)
        for _ in range(3):
            await run(brotr)
        assert await kinds_of(brotr) == []
        assert join(await brotr.operator_pairs()) == {}


async def test_a_twin_that_cannot_be_reached(brotr: Brotr) -> None:
    """Says nothing against it; one that answers otherwise for a week does."""
    async with ScriptedRelay(many(60)) as one:
        async with ScriptedRelay(many(60)) as other:
            await claim(brotr, one.url, other.url)
            await run(brotr)
        await brotr.pool.execute("UPDATE bigbrotr.operator_tests SET asked_at = 1")
        await run(brotr)
        assert len(await kinds_of(brotr)) == 1
        for ago_s, left in ((0, 1), (40 * 86_400, 0)):
            await brotr.pool.execute(
                "UPDATE bigbrotr.operator_evidence SET seen_at = seen_at - $1::bigint", ago_s
            )
            rows = await brotr.pool.fetch("SELECT relay_a, relay_b FROM bigbrotr.operator_tests")
            for row in rows:
                await brotr.note_twins(row["relay_a"], row["relay_b"], are_alike=False)
            assert len(await kinds_of(brotr)) == left
        asked_at = await brotr.pool.fetchval("SELECT asked_at FROM bigbrotr.operator_tests")
        assert asked_at < time.time() - 20 * 86_400  # so that it is asked tomorrow
