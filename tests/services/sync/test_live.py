"""Live: relays that are complete are followed, through interruptions, without losing an event."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Network, Relay
from bigbrotr.reads import relays
from bigbrotr.services.sync import live
from bigbrotr.services.sync.worker import Slice, Worker
from tests.kit.events import make_event
from tests.kit.processes import Archive, Place, Running, until
from tests.kit.real import fill, local_relay, nostr_relay
from tests.kit.scripted import ScriptedRelay

NOW = int(time.time())
OLD = [make_event(NOW - 5000 + n, content=f"old {n}") for n in range(60)]


async def archived(place: Place) -> set[str]:
    async with place.look() as connection:
        return set((await Archive.read(connection)).events)


async def is_live(place: Place, relays: int) -> None:
    async def all_live() -> bool:
        async with place.look() as connection:
            count = await connection.fetchval(
                "SELECT count(*) FROM bigbrotr.visits WHERE outcome = 'live'"
            )
            return bool(count == relays)

    await until(all_live, "all relays are followed live")


@pytest.mark.slow
async def test_new_and_late_events_arrive_within_seconds(tmp_path: Path) -> None:
    async with ScriptedRelay(OLD) as relay:
        place = Place(
            tmp_path / "place", [relay.url], live=True, revisit_s=1, settle_s=60, workers=2
        )
        async with place.start() as running:
            await running.says("ready")
            await is_live(place, 1)
            connections = relay.seen.connections
            new = make_event(int(time.time()), content="new")
            late = make_event(NOW - 40_000_000, content="late, with an old date")
            ephemeral = make_event(int(time.time()), kind=20_001, content="held by nobody")
            for event in (new, late, ephemeral):
                await relay.add(event)

            async def both_are_there() -> bool:
                return {new["id"], late["id"]} <= await archived(place)

            await until(both_are_there, "the new and the late event are archived")
            assert ephemeral["id"] not in await archived(place)
            # Walking what has settled meanwhile needs no other connection.
            asked = len(relay.seen.filters)
            await until(lambda: len(relay.seen.filters) > asked + 1, "it is walked again")
            assert relay.seen.connections == connections
            assert await running.end() == 0


async def test_it_is_said_at_once_that_a_relay_is_followed(brotr: Brotr) -> None:
    """Not only after the next look at what has settled."""
    config = Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=10.0)),
        synchronizer=SynchronizerSettings(settle_s=60, revisit_s=3600),
    )
    async with ScriptedRelay(OLD) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        worker = Worker(config, brotr)
        order = Slice("test", 60.0, {Network.LOCAL: 5}, live_visits=1)
        work = asyncio.create_task(worker.work(order))

        async def is_said() -> bool:
            (progress,) = await relays.progress(brotr.pool)
            return progress.stage is relays.Stage.LIVE

        await until(is_said, "it is said")
        worker.stop.set()
        async with asyncio.timeout(30):
            await work


@pytest.mark.slow
async def test_what_comes_in_live_is_counted_too(brotr: Brotr) -> None:
    config = Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=10.0)),
        synchronizer=SynchronizerSettings(settle_s=60),
    )
    async with ScriptedRelay(OLD) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        worker = Worker(config, brotr)
        order = Slice("test", 60.0, {Network.LOCAL: 5}, live_visits=1)
        work = asyncio.create_task(worker.work(order))

        def is_followed() -> bool:  # it has subscribed, and walked what came in meanwhile
            limits = [asked[0].get("limit") for asked in relay.seen.filters]
            return 1 in limits[:-1]

        await until(is_followed, "it is followed")
        good, bad = (make_event(int(time.time()), content=words) for words in ("new", "signed"))
        for event in (good, {**bad, "content": "by hand"}):
            await relay.add(event)
        await until(lambda: len(relay.seen.closed) == len(relay.seen.filters) - 1, "it stays")
        late = make_event(NOW - 50_000, content="after the answer to an earlier question")
        for event in (make_event(2**63 - 1), late):  # the one is of the last second of all
            await relay.show_late(event)

        async def is_there() -> bool:
            found = "SELECT EXISTS (SELECT 1 FROM bigbrotr.events WHERE id = decode($1, 'hex'))"
            return bool(await brotr.pool.fetchval(found, late["id"]))

        await until(is_there, "the late one is archived")
        covered = "SELECT coalesce(range_agg(proven) @> $1::bigint, false) FROM bigbrotr.coverage"

        async def is_taken_back() -> bool:  # after the event has been stored
            return not await brotr.pool.fetchval(covered, late["created_at"])

        await until(is_taken_back, "what was proven of its second is taken back")
        assert await brotr.pool.fetchval(covered, late["created_at"] - 1)

        async def is_noted() -> bool:
            return bool(await brotr.pool.fetchval("SELECT count > 0 FROM bigbrotr.rejected"))

        await until(is_noted, "the forged one is noted")
        worker.stop.set()
        async with asyncio.timeout(30):
            report = await work
    assert report.reasons == {
        "bad id": await brotr.pool.fetchval("SELECT count FROM bigbrotr.rejected")
    }
    assert report.new == len(OLD) + 3


@pytest.mark.slow
@pytest.mark.parametrize("is_good", [True, False])
async def test_after_a_good_stay_one_comes_back_at_once(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, is_good: bool
) -> None:
    """A relay that drops us again and again is not hammered."""
    ended = asyncio.Event()
    finish_visit = brotr.finish_visit

    async def finish_slowly(*words: Any, **more: Any) -> bool:
        is_ours = await finish_visit(*words, **more)
        await ended.wait()
        return is_ours

    if is_good:  # the next visit begins while this one still ends, and in the same second
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now)
        monkeypatch.setattr(live, "GOOD_STAY_S", 0.0)
        monkeypatch.setattr(brotr, "finish_visit", finish_slowly)
    config = Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=10.0)),
        synchronizer=SynchronizerSettings(settle_s=60, revisit_s=3600),
    )
    async with ScriptedRelay(OLD) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        worker = Worker(config, brotr)
        order = Slice("test", 60.0, {Network.LOCAL: 5}, live_visits=1)
        work = asyncio.create_task(worker.work(order))

        def is_followed() -> bool:  # it has subscribed, and walked what came in meanwhile
            limits = [asked[0].get("limit") for asked in relay.seen.filters]
            return 1 in limits[:-1]

        await until(is_followed, "it is followed")
        missed = make_event(int(time.time()), content="while nobody listened")
        relay.cut_all()
        await relay.add(missed)

        async def is_made_good() -> bool:
            return bool(
                await brotr.pool.fetchval("SELECT count(*) = $1 FROM bigbrotr.events", len(OLD) + 1)
            )

        async def is_left_alone() -> bool:
            row = await brotr.pool.fetchrow("SELECT outcome, due_at, failures FROM bigbrotr.visits")
            assert row is not None
            is_late = row["due_at"] > time.time() + 30
            return is_late and (row["outcome"], row["failures"]) == ("subscription-ended", 0)

        if is_good:
            await until(is_made_good, "what came in between is archived")
            ended.set()
        else:
            await until(is_left_alone, "it is left alone for a while")
        assert relay.seen.connections == 1 + is_good
        worker.stop.set()
        async with asyncio.timeout(30):
            await work


@pytest.mark.slow
async def test_a_cut_connection_is_made_good(tmp_path: Path) -> None:
    async with ScriptedRelay(OLD) as relay:
        place = Place(
            tmp_path / "place", [relay.url], live=True, revisit_s=1, settle_s=60, workers=2
        )
        async with place.start() as running:
            await running.says("ready")
            await is_live(place, 1)
            relay.cut_all()
            missed = make_event(int(time.time()), content="while nobody listened")
            await relay.add(missed)

            async def is_there() -> bool:
                return missed["id"] in await archived(place)

            await until(is_there, "what came in between is archived")
            assert await running.end() == 0


@pytest.mark.slow
async def test_three_relays_followed_through_two_kills_end_as_their_union(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        scripted = await enter(ScriptedRelay(OLD[30:]))
        local = await enter(local_relay(OLD[:40]))
        package = await enter(nostr_relay(tmp_path / "package", OLD[20:50]))
        held = {scripted.url: OLD[30:], local: OLD[:40], package: OLD[20:50]}
        place = Place(
            tmp_path / "place", list(held), live=True, revisit_s=1, settle_s=60, workers=2
        )

        async def publish(run: int, count: int) -> None:
            """New events come in, some at one relay, some at all."""
            for n in range(count):
                event = make_event(int(time.time()), content=f"run {run}, {n}", key=n % 3)
                where = list(held)[n % 3 :][:1] if n % 4 else list(held)
                for url in where:
                    held[url] = [*held[url], event]
                    if url == scripted.url:
                        await scripted.add(event)
                    else:
                        await fill(url, [event])

        for run, end in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)):
            async with place.start() as running:
                await running.says("ready")
                await is_live_or_on_the_way(place, run)
                await publish(run, 12)
                if end is signal.SIGTERM:
                    await until_union(place, held)
                await end_with(running, end)
            await publish(run + 10, 6 if end is signal.SIGKILL else 0)  # while nobody is there
        async with place.database() as connection:
            archive = await Archive.read(connection)
        pairs = {(e["id"], url.rstrip("/")) for url, events in held.items() for e in events}
        assert set(archive.events) == {e["id"] for events in held.values() for e in events}
        assert archive.pairs == pairs


async def is_live_or_on_the_way(place: Place, run: int) -> None:
    """The first time wait until all is followed; later the events come in at any moment."""
    if run == 0:
        await is_live(place, 3)


async def until_union(place: Place, held: dict[str, list[dict[str, object]]]) -> None:
    wanted = {(e["id"], url.rstrip("/")) for url, events in held.items() for e in events}

    async def is_union() -> bool:
        async with place.look() as connection:
            return (await Archive.read(connection)).pairs == wanted

    await until(is_union, "the archive is the union")


async def end_with(running: Running, number: signal.Signals) -> None:
    code = await running.end(number)
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
