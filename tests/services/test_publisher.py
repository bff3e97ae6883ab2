"""The publisher, by itself and with what the monitor posts."""

import time
from typing import Any

import pytest

from bigbrotr.config.settings import Config, Link, MonitorSettings, Networks, PublishSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.errors import ConfigError
from bigbrotr.models.relay import Relay
from bigbrotr.nostr.delivery import Delivery
from bigbrotr.nostr.delivery import deliver as really_deliver
from bigbrotr.services.publisher import Publisher
from bigbrotr.supervisor import choose
from tests.kit.model import Vices
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay
from tests.services.monitor.cycle import EVENT, deliveries, look, publish, states


async def test_without_any_network_it_waits(brotr: Brotr) -> None:
    context = Context(Config(networks=Networks(clearnet=Link(enabled=False))))
    async with Publisher(brotr, context=context) as publisher:
        await publisher.run()
    assert set(publisher.offered.values()) == {0}


def test_only_where_something_is_published_a_wrong_key_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRIVATE_KEY", "nonsense")
    assert choose(Config(), ["publisher"]) == ["publisher"]
    Publisher(Brotr(Pool()))
    publish = PublishSettings(enabled=True, relays=("wss://relay.example",))
    with pytest.raises(ConfigError, match="PRIVATE_KEY is not a private key"):
        choose(Config(monitor=MonitorSettings(publish=publish)), ["publisher"])


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
