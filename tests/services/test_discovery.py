"""From relay to relay: what the events of one name becomes the next, in real processes."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import Place, children, until
from tests.kit.scripted import ScriptedRelay


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["full", "lite"])
async def test_one_seed_leads_to_the_next_relay(profile: str, tmp_path: Path) -> None:
    held = [make_event(1_700_000_000 + n, tags=[["t", "x"]]) for n in range(5)]
    async with ScriptedRelay(held) as hidden:
        names = [
            make_event(1_700_000_100, kind=10002, tags=[["r", hidden.url]]),
            make_event(1_700_000_101, tags=[["e", "ab" * 32, f"{hidden.url}/"]]),
        ]
        # The same event at two relays is one name.
        async with ScriptedRelay(names) as one, ScriptedRelay(names[:1]) as two:
            place = Place(tmp_path / "place", [one.url, two.url], profile=profile, workers=2)
            await place.run_once()
            said = await place.run_once("--only", "finder")
            assert "found in events new=1 names=2" in said
            async with place.database() as connection:
                rows = await connection.fetch("SELECT url, source, named FROM bigbrotr.candidates")
                assert [tuple(row) for row in rows] == [(hidden.url, "kind 10002", 2)]
            assert "candidates by source: kind 10002 1" in (await place.call("status")).out
            await place.run_once()
            async with place.database() as connection:
                relays = await connection.fetch("SELECT url FROM bigbrotr.relays")
                assert {row["url"] for row in relays} == {one.url, two.url, hidden.url}
                assert await connection.fetchval("SELECT count(*) FROM bigbrotr.events") == 7
                assert await connection.fetchval("SELECT count(*) FROM bigbrotr.candidates") == 0


@pytest.mark.slow
async def test_killed_at_random_moments_each_event_counts_once(tmp_path: Path) -> None:
    chance = random.Random(3)
    urls = [f"wss://r{n}.example.com" for n in range(30)]  # of a network that is not enabled
    events = [
        make_event(1_600_000_000 + n, tags=[["r", url] for url in chance.sample(urls, 3)])
        for n in range(200)
    ]
    wanted = {url: sum(["r", url] in event["tags"] for event in events) for url in urls}
    slow = Vices(delay_s=0.02)
    async with ScriptedRelay(events[:150], slow) as one, ScriptedRelay(events[50:], slow) as two:
        more = "[finder]\ninterval_s = 0.1\n"
        place = Place(
            tmp_path / "place", [one.url, two.url], page_limit=8, revisit_s=1, more=more, workers=2
        )
        for victim in ("supervisor", "postmaster", "worker"):
            goal = sum(len(relay.seen.filters) for relay in (one, two)) + chance.randint(4, 14)

            def has_asked(goal: int = goal) -> bool:
                return sum(len(relay.seen.filters) for relay in (one, two)) >= goal

            async with place.start() as running:
                await running.says("ready")
                await until(has_asked, "progress")
                pids = {
                    "supervisor": [running.pid],
                    "postmaster": [place.postmaster],
                    "worker": children(running.pid, "spawn_main"),
                }
                os.kill(chance.choice(pids[victim]), signal.SIGKILL)
                if victim == "supervisor":
                    await running.wait()
                else:
                    await until(lambda goal=goal: has_asked(goal + 4), "it goes on")
                    await running.end()
        await place.run_once()
        await place.run_once("--only", "finder")
    async with place.database() as connection:
        assert await connection.fetchval("SELECT count(*) FROM bigbrotr.events") == 200
        rows = await connection.fetch("SELECT url, named FROM bigbrotr.candidates")
        assert {row["url"]: row["named"] for row in rows} == wanted
