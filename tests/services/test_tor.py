"""A real Tor network: a hidden relay is proven and copied, and no resolver hears its name."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.config import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.base_service import Surroundings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.monitor import Monitor
from bigbrotr.services.validator import Validator, greet
from bigbrotr.services.worker import Order, Worker
from tests.nostr.test_dial import onion
from tests.processes import until
from tests.relays import tor
from tests.relays.events import make_event
from tests.relays.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n, content=str(n)) for n in range(30)]
READY_S = 75.0


@pytest.mark.slow
@pytest.mark.skipif(not tor.is_installed(), reason="no tor here: Debian's package `tor`")
async def test_relay_behind_an_onion(
    brotr: Brotr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise OSError("no resolver here")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with ScriptedRelay(EVENTS) as relay, tor.tor_network(tmp_path, relay.port) as network:
        link = Link(proxy=network.proxy, timeout_s=15.0)
        hidden, nobody = Relay(f"ws://{network.onion}"), Relay(onion(bytes(range(32))))
        assert hidden.network is Network.TOR

        async def is_reached() -> bool:
            impatient = Link(proxy=network.proxy, timeout_s=4.0)
            greeting = await greet(hidden, impatient, allow_local=False)
            return greeting.outcome == "speaks-nostr"

        started = time.monotonic()
        await until(is_reached, "the hidden service is reached", READY_S)
        print(f"reached through Tor after {time.monotonic() - started:.1f} s")

        config = Config(
            networks=Networks(clearnet=Link(enabled=False), tor=link),
            synchronizer=SynchronizerSettings(settle_s=0),
        )
        await brotr.insert_candidates([hidden, nobody], "test")
        async with Validator(brotr, around=Surroundings(config)) as validator:
            await validator.run()
        row = await brotr.pool.fetchrow("SELECT url, outcome, attempts FROM candidates")
        assert row is not None
        assert (row["url"], row["attempts"]) == (nobody.url, 1)
        assert row["outcome"] in ("unreachable", "timeout")  # as soon as Tor has given up
        report = await Worker(config, brotr).work(Order("test", 60.0, {Network.TOR: 2}))
        assert report.new == len(EVENTS)
        assert report.outcomes == {"complete": 1}
        async with Monitor(brotr, around=Surroundings(config)) as monitor:
            await monitor.run()
        row = await brotr.pool.fetchrow(
            "SELECT s.state, t.* FROM relay_states s JOIN relay_rtts t USING (relay_url)"
        )
        assert row is not None
        assert (row["state"], row["relay_url"], row["dns_ms"]) == ("up", hidden.url, None)
        assert min(row["tcp_ms"], row["upgrade_ms"], row["read_ms"]) > 0
    assert asked == []
