"""What the monitor tells the world: what it says, how often, and to whom."""

import asyncio
import json
from typing import Any

import nostr_sdk
import pytest
from websockets.asyncio.client import connect

from bigbrotr.config.settings import PublishSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.models.keys import Keys
from bigbrotr.models.nip66 import Announcement, Nip66
from bigbrotr.models.relay import Relay
from tests.kit.real import free_port, local_relay
from tests.kit.scripted import ScriptedRelay
from tests.services.monitor.cycle import DOCUMENT, EVENT, SECRET, deliveries, look, monitor, publish

KEYS = Keys(SECRET)


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


async def test_publishing_needs_a_key(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIVATE_KEY", raising=False)
    with pytest.raises(ConfigError, match="PRIVATE_KEY"):
        monitor(brotr, publish=publish("ws://127.0.0.1:1"))
    monkeypatch.setenv("PRIVATE_KEY", "npub1x")
    with pytest.raises(ConfigError, match="public one"):
        monitor(brotr, publish=publish("ws://127.0.0.1:1"))


@pytest.mark.usefixtures("private_key")
async def test_changes_of_state_are_told_to_stay(brotr: Brotr) -> None:
    async with ScriptedRelay([EVENT], nip11=DOCUMENT) as relay, local_relay() as target:
        settings = publish(target, history=(1066, 1166))
        await look(brotr, relay.url, publish=settings)
        assert await held(target, kinds=[1066, 1166]) == []  # it was never in another state
        url, place = relay.url, f"{relay.url}/"
        await brotr.pool.execute("UPDATE bigbrotr.checks SET state = 'down', since = 5")
        await look(brotr, url, publish=settings)
        ups = {event["kind"]: event for event in await held(target, kinds=[1066, 1166])}
        assert ups[1066]["tags"][2:] == [["D", "online"], ["online", "true"]]
        assert ["online", "true"] in ups[1166]["tags"]
        assert Nip66.parse(ups[1166]["tags"]).nips == (1, 11)
    for _ in range(2):  # it has to fail twice
        async with local_relay() as target_of_down:
            await look(brotr, url, publish=publish(target_of_down, history=(1066, 1166)))
            downs = await held(target_of_down, kinds=[1066, 1166])
        if downs:
            break
    (delta,) = [event for event in downs if event["kind"] == 1066]
    assert delta["tags"][:4] == [
        ["r", place],
        ["a", f"30166:{KEYS.public_key}:{place}"],
        ["D", "online"],
        ["online", "false"],
    ]
    assert delta["tags"][4] == ["D", "reason"]
    (whole,) = [event for event in downs if event["kind"] == 1166]
    assert whole["tags"][:2] == [["d", place], ["online", "false"]]
    states = await brotr.pool.fetch("SELECT before, state FROM bigbrotr.changes ORDER BY id")
    assert [tuple(row) for row in states] == [("unknown", "up"), ("down", "up"), ("up", "down")]


@pytest.mark.usefixtures("private_key")
async def test_changes_of_state_do_not_replace_each_other(brotr: Brotr) -> None:
    """In the outbox, while nobody delivers them; and off by default nothing is told."""
    async with ScriptedRelay([EVENT], nip11=DOCUMENT) as relay:
        for history in ((), (1066,), (1066,)):
            await brotr.insert_relays([Relay(relay.url)])
            await brotr.pool.execute("UPDATE bigbrotr.checks SET state = 'down', due_at = 0")
            await brotr.pool.execute("UPDATE bigbrotr.outbox SET d = d || ' earlier' WHERE d <> ''")
            settings = publish(f"ws://127.0.0.1:{free_port()}", history=history)
            async with monitor(brotr, publish=settings) as service:
                await service.run()
    rows = await brotr.pool.fetch("SELECT event FROM bigbrotr.outbox WHERE kind = 1066")
    told = [json.loads(row["event"])["tags"] for row in rows]
    assert len(told) == 2
    assert all(["online", "true"] in tags for tags in told)
