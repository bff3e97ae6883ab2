"""The monitor: what it finds, whom it blames, when it comes back, and what it counts."""

import json
import time
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from bigbrotr.config.settings import ReadSettings, WriteSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import configure
from bigbrotr.models.check import Measured
from bigbrotr.reads import status as reads
from bigbrotr.services.monitor.checks import read_document
from bigbrotr.services.monitor.verdict import Findings, milliseconds
from bigbrotr.view.archive import print_status
from tests.kit.model import Vices
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay
from tests.services.monitor.cycle import (
    DOCUMENT,
    EVENT,
    SECRET,
    latest,
    look,
    monitor,
    publish,
    states,
)

BRIEF = ReadSettings(timeout_s=0.4)


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
