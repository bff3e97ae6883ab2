"""A real Tor network: a hidden relay is proven and copied, and no resolver hears its name."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.monitor.service import Monitor
from bigbrotr.services.sync.worker import Slice, Worker
from bigbrotr.services.validator import Validator, greet
from tests.kit import tor
from tests.kit.events import make_event
from tests.kit.scripted import ScriptedRelay
from tests.net.test_dial import onion

EVENTS = [make_event(1_600_000_000 + n, content=str(n)) for n in range(30)]
READY_S = 45.0
NETWORKS = 3  # made one after the other: authorities that miss their first vote take minutes
TRIES = 3  # circuits of so small a network break


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not tor.is_installed(), reason="no tor here: Debian's package `tor`")
async def test_relay_behind_an_onion(
    brotr: Brotr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise OSError("no resolver here")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with ScriptedRelay(EVENTS) as relay:
        for number in range(NETWORKS):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with tor.tor_network(folder, relay.port) as network:
                if came_up := await is_up(network):
                    await look_through(network, brotr)
                    break
    assert asked == []
    if not came_up:
        pytest.skip(f"none of {NETWORKS} private Tor networks came up in {READY_S:g} s each")


async def is_up(network: tor.Tor) -> bool:
    """Whether the hidden service is reached in time."""
    link = Link(proxy=network.proxy, timeout_s=4.0)
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        greeting = await greet(Relay(f"ws://{network.onion}"), link, allow_local=False)
        if greeting.outcome == "speaks-nostr":
            return True
        await asyncio.sleep(0.2)
    return False


async def look_through(network: tor.Tor, brotr: Brotr) -> None:
    """Proves, copies and measures the hidden relay."""
    link = Link(proxy=network.proxy, timeout_s=15.0)
    hidden, nobody = Relay(f"ws://{network.onion}"), Relay(onion(bytes(range(32))))
    assert hidden.network is Network.TOR
    config = Config(
        networks=Networks(clearnet=Link(enabled=False), tor=link),
        synchronizer=SynchronizerSettings(settle_s=0),
    )
    await brotr.insert_candidates([hidden, nobody], "test")
    async with Validator(brotr, context=Context(config)) as validator:
        for _ in range(TRIES):
            await brotr.pool.execute(
                "UPDATE bigbrotr.candidates SET due_at = 0 WHERE url = $1", hidden.url
            )
            await validator.run()
    rows = await brotr.pool.fetch("SELECT url, outcome, attempts FROM bigbrotr.candidates")
    assert [(row["url"], row["attempts"]) for row in rows] == [(nobody.url, 1)]
    assert rows[0]["outcome"] in ("unreachable", "timeout")  # as soon as Tor has given up
    new, outcomes = 0, ""
    for _ in range(TRIES):
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        report = await Worker(config, brotr).work(Slice("test", 60.0, {Network.TOR: 2}))
        new, outcomes = new + report.new, ",".join(report.outcomes)
        if outcomes == "complete":
            break
    assert (new, outcomes) == (len(EVENTS), "complete")
    async with Monitor(brotr, context=Context(config)) as monitor:
        for _ in range(TRIES):
            await brotr.pool.execute("UPDATE bigbrotr.checks SET due_at = 0")
            await monitor.run()
            row = await brotr.pool.fetchrow(
                "SELECT s.state, t.* FROM bigbrotr.relay_states s"
                " JOIN bigbrotr.relay_rtts t USING (relay_url)"
                " ORDER BY t.checked_at DESC LIMIT 1"
            )
            assert row is not None
            if row["state"] == "up":
                break
    assert row is not None
    assert (row["state"], row["relay_url"], row["dns_ms"]) == ("up", hidden.url, None)
    assert min(row["tcp_ms"], row["upgrade_ms"], row["read_ms"]) > 0
