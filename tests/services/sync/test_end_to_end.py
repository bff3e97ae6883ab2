"""From a seed file to an archive: real processes, sockets and PostgreSQL, also when killed."""

import asyncio
import json
import os
import random
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import Archive, Place, Running, children, command, parent, until
from tests.kit.real import local_relay, nostr_relay
from tests.kit.scripted import ScriptedRelay

Event = Mapping[str, Any]

EVENTS = [
    make_event(
        1_600_000_000 + 37 * (n // 3),
        kind=(1, 7, 1111)[n % 3],
        tags=[["e", f"{n:064x}"], ["t", f"tag {n % 5}"], ["long", "x" * 300]],
        content=f'event {n}: "quoted", \n\t\\ and ünïcödé 🦣',
        key=n % 4,
    )
    for n in range(240)
]


def normal(url: str) -> str:
    return url.rstrip("/")


def wanted_pairs(shares: Mapping[str, Sequence[Event]]) -> set[tuple[str, str]]:
    return {(event["id"], normal(url)) for url, share in shares.items() for event in share}


def expect_union(archive: Archive, shares: Mapping[str, Sequence[Event]], profile: str) -> None:
    """The archive holds exactly what these relays hold, and knows of each where it is."""
    union = {event["id"]: event for share in shares.values() for event in share}
    assert archive.events.keys() == union.keys()
    assert archive.pairs == wanted_pairs(shares)
    assert archive.relays == {normal(url) for url in shares}
    assert archive.candidates == set()
    for event_id, (pubkey, created_at, kind, tags, content, sig) in archive.events.items():
        event = union[event_id]
        assert (pubkey, created_at, kind) == (event["pubkey"], event["created_at"], event["kind"])
        if profile == "full":
            assert (json.loads(tags), content, sig) == (
                *(event["tags"], event["content"], event["sig"]),
            )
        else:
            assert (tags, content, sig) == (None, None, None)
    assert archive.totals["events"] == len(union)
    assert archive.totals["pairs"] == len(archive.pairs)
    assert archive.totals["relays"] == len(shares)


async def expect_complete(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Every relay is proven complete from the beginning up to its last visit."""
    rows = await connection.fetch(
        "SELECT r.url, v.visited_at, v.owner,"
        " missing_spans(r.id, 0, v.visited_at - 60, v.visited_at) AS missing,"
        " (SELECT count(*) FROM bigbrotr.gaps g WHERE g.relay_id = r.id) AS gaps"
        " FROM bigbrotr.relays r JOIN bigbrotr.visits v ON v.relay_id = r.id"
    )
    for row in rows:
        assert list(row["missing"]) == [], row
        assert row["gaps"] == 0, row
        assert row["owner"] is None, row


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["full", "lite"])
async def test_archive_is_the_union_of_three_relays(profile: str, tmp_path: Path) -> None:
    thirds = [EVENTS[:150], EVENTS[60:210], EVENTS[::2]]
    (tmp_path / "package").mkdir()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        scripted = await enter(ScriptedRelay(thirds[2]))
        urls = [
            await enter(local_relay(thirds[0])),
            await enter(nostr_relay(tmp_path / "package", thirds[1])),
            scripted.url,
        ]
        shares = dict(zip(urls, thirds, strict=True))
        place = Place(tmp_path / "place", urls, profile=profile, page_limit=50, workers=2)
        await place.run_once()
        async with place.database() as connection:
            first = await Archive.read(connection)
            expect_union(first, shares, profile)
            await expect_complete(connection)
            assert first.totals["gaps"] == first.totals["rejected"] == 0
            await connection.execute("UPDATE bigbrotr.visits SET due_at = 0")
        before = len(scripted.seen.filters)
        await place.run_once()
        assert len(scripted.seen.filters) > before  # it was asked again
        async with place.database() as connection:
            assert await Archive.read(connection) == first
            await expect_complete(connection)


@pytest.mark.slow
async def test_new_events_of_two_relays_arrive_while_it_runs(tmp_path: Path) -> None:
    async with ScriptedRelay(EVENTS[:50]) as one, ScriptedRelay(EVENTS[40:80]) as two:
        place = Place(tmp_path / "place", [one.url, two.url], revisit_s=1, workers=2)
        async with place.start() as running:
            await running.says("ready")
            async with place.look() as connection:

                async def holds(pairs: int) -> bool:
                    return bool(
                        await connection.fetchval("SELECT pairs FROM bigbrotr.totals()") == pairs
                    )

                await until(lambda: holds(90), "the first copy")
                fresh = make_event(int(time.time()), content="fresh")
                await one.add(fresh)
                await until(lambda: holds(91), "the new event")
            assert await running.end() == 0
        async with place.database() as connection:
            archive = await Archive.read(connection)
            shares = {one.url: [*EVENTS[:50], fresh], two.url: EVENTS[40:80]}
            expect_union(archive, shares, "full")


# Killed at any moment


class Victims:
    """Who may be killed, and how each is found."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def supervisor(self, running: Running) -> int:
        return running.pid

    def worker(self, running: Running) -> int:
        found = children(running.pid, "spawn_main")
        return random.Random(len(found)).choice(found) if found else 0

    def postmaster(self, running: Running) -> int:
        try:
            return self.place.postmaster
        except (OSError, IndexError, ValueError):  # it is being started again
            return 0

    def backend(self, running: Running) -> int:
        postmaster = self.postmaster(running)
        found = children(postmaster, "bigbrotr bigbrotr") if postmaster else []
        return found[-1] if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_kill_at_random_moments_loses_nothing(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    slow = Vices(delay_s=0.03)
    thirds = [EVENTS[:150], EVENTS[60:210], EVENTS[::2]]
    rounds = ["supervisor", "worker", "postmaster", "backend"] * 2
    chance.shuffle(rounds)
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(ScriptedRelay(t, slow)) for t in thirds]
        shares = {relay.url: share for relay, share in zip(relays, thirds, strict=True)}
        place = Place(tmp_path / "place", shares, page_limit=12, revisit_s=1, workers=2)
        victims = Victims(place)

        def asked() -> int:
            return sum(len(relay.seen.filters) for relay in relays)

        while rounds:
            async with place.start() as running:
                await running.says("ready")
                while rounds:
                    goal = asked() + chance.randint(3, 15)
                    await until(lambda goal=goal: asked() >= goal, "progress")
                    victim = rounds.pop()
                    pid = 0
                    while not pid:
                        pid = getattr(victims, victim)(running)
                        await asyncio.sleep(0)
                    os.kill(pid, signal.SIGKILL)
                    if victim == "supervisor":
                        assert await running.wait() == -signal.SIGKILL
                        break
                else:
                    async with asyncio.timeout(60):
                        await finish(place, shares)
                    assert await running.end() == 0, running.err
                assert "Traceback" not in without_asyncpg(running.err)
        await place.run_once()
        async with place.database() as connection:
            expect_union(await Archive.read(connection), shares, "full")
            await expect_complete(connection)


def without_asyncpg(log: str) -> str:
    """Without the warnings of asyncpg's own pool, which come with a traceback."""
    return re.sub(r"(?m)^.* asyncpg.pool: .*\n(  \| .*\n)*", "", log)


async def finish(place: Place, shares: Mapping[str, Sequence[Event]]) -> None:
    """Waits until the archive is whole, whatever happens to the connection meanwhile."""
    goal = len(wanted_pairs(shares))
    found = 0
    while found < goal:
        try:
            async with place.look() as connection:
                found = await connection.fetchval("SELECT pairs FROM bigbrotr.totals()")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass
        await asyncio.sleep(0.05)


# Stopped


async def gone(place: Place) -> None:
    """Waits until no process of the place is left."""
    await until(
        lambda: not place.processes(),
        f"left over: {[(pid, parent(pid), command(pid)) for pid in place.processes()]}",
    )


def slow_relay() -> ScriptedRelay:
    return ScriptedRelay(EVENTS, Vices(delay_s=0.05))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "is_group"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)],
    ids=["SIGTERM", "SIGTERM to the group", "SIGINT to the group"],
)
async def test_stops_cleanly_in_mid_copy(
    number: signal.Signals, is_group: bool, tmp_path: Path
) -> None:
    async with slow_relay() as relay:
        place = Place(tmp_path / "place", [relay.url], page_limit=10, workers=2)
        async with place.start() as running:
            await until(lambda: len(relay.seen.filters) > 8, "it copies")
            workers = children(running.pid, "spawn_main")
            assert workers
            (os.killpg if is_group else os.kill)(running.pid, number)
            async with asyncio.timeout(20):
                assert await running.wait() == 0, running.err
            assert "stopping" in running.err
            assert "cancelling" not in running.err
            assert "cycle failed" not in running.err
            assert "Traceback" not in running.err
        assert not any(command(pid) for pid in workers)
        await gone(place)
        async with place.database() as connection:
            archive = await Archive.read(connection)
            assert 0 < len(archive.events) < len(EVENTS)
            assert len(archive.pairs) == len(archive.events) == archive.totals["events"]
            # Nothing waits for a lease to run out.
            assert (
                await connection.fetchval(
                    "SELECT count(*) FROM bigbrotr.visits WHERE owner IS NULL"
                )
                == 1
            )
        relay.vices = Vices()
        await place.run_once()
        async with place.database() as connection:
            expect_union(await Archive.read(connection), {relay.url: EVENTS}, "full")
            await expect_complete(connection)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["", "asyncpg"])
async def test_stops_cleanly_while_workers_start(library: str, tmp_path: Path) -> None:
    """Whom a signal to the group finds before it knows that signals are not for it."""
    async with slow_relay() as relay:
        place = Place(tmp_path / "place", [relay.url], page_limit=10, workers=2)
        async with place.start() as running:
            await until(lambda: has_worker(running, library), "a worker starts")
            os.killpg(running.pid, signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await running.wait() == 0, running.err
            assert "cycle failed" not in running.err
            assert "Traceback" not in running.err
        await gone(place)


@pytest.mark.slow
async def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    async with ScriptedRelay(EVENTS, Vices(silent=True)) as relay, ScriptedRelay() as good:
        place = Place(tmp_path / "place", [good.url], timeout_s=60, workers=2)
        await place.run_once()
        async with place.database() as connection:
            await connection.execute(
                "SELECT bigbrotr.insert_relays($1, '{local}', '{0}')", [relay.url]
            )
        async with place.start() as running:
            await until(lambda: len(relay.seen.filters) > 0, "it copies")
            running.process.send_signal(signal.SIGTERM)
            await running.says("stopping")
            assert running.process.returncode is None
            running.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(14):  # less than the shutdown time-out
                assert await running.wait() == 0
            assert "stopping at once" in running.err
            assert "Traceback" not in running.err
        await gone(place)


@pytest.mark.slow
async def test_kill_leaves_no_orphans(tmp_path: Path) -> None:
    async with slow_relay() as relay:
        place = Place(tmp_path / "place", [relay.url], page_limit=10, workers=2)
        async with place.start() as running:
            await until(lambda: len(relay.seen.filters) > 5, "it copies")
            started = place.processes()
            assert len(started) > 5
            running.process.kill()
            await running.wait()
            await until(lambda: not any(command(pid) for pid in started), "all are gone")


# A library that a worker loads while it starts; "": as soon as it is there.
@pytest.mark.slow
@pytest.mark.parametrize("library", ["", "uvloop"])
async def test_kill_at_the_start_leaves_no_orphans(library: str, tmp_path: Path) -> None:
    async with slow_relay() as relay:
        place = Place(tmp_path / "place", [relay.url], page_limit=10, workers=2)
        async with place.start() as running:
            await until(lambda: has_worker(running, library), "a worker starts")
            started = place.processes()
            running.process.kill()
            await running.wait()
            await until(lambda: not any(command(pid) for pid in started), "all are gone", 20.0)


def has_worker(running: Running, library: str) -> bool:
    """Whether a worker process is there, and has loaded a library (or, with "", anything)."""
    assert running.process.returncode is None, running.err
    workers = children(running.pid, "spawn_main")
    return any(not library or library in maps(pid) for pid in workers)


def maps(pid: int) -> str:
    """The files that a process has mapped into its memory."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


# Beside bad relays


@pytest.mark.slow
async def test_bad_relays_beside_a_good_one(tmp_path: Path) -> None:
    vices = {
        "good": Vices(),
        "slow": Vices(delay_s=0.1),
        "never-ends": Vices(no_eose=True),
        "drops": Vices(drop_after=30),
        "litters": Vices(
            garbage=frozenset({"not-json", "wrong-shape", "binary"}),
            forged=frozenset({"id", "content", "signature", "type"}),
        ),
        "closes": Vices(closed_after=30, closed_text="error: enough"),
        "lies": Vices(empty_when_broad=True),
        "huge": Vices(garbage=frozenset({"huge"})),
    }
    async with AsyncExitStack() as stack:
        relays = {name: await stack.enter_async_context(ScriptedRelay(EVENTS)) for name in vices}
        urls = {name: relay.url for name, relay in relays.items()}
        place = Place(tmp_path / "place", timeout_s=4, page_limit=120, workers=2)
        place.seeds.write_text("".join(f"{url}\n" for url in urls.values()))
        await place.run_once("--only", "seeder,validator")
        for name, relay in relays.items():
            relay.vices = vices[name]
        said = await place.run_once("--only", "synchronizer")
        assert "Traceback" not in said
        async with place.database() as connection:
            archive = await Archive.read(connection)
            ids = {event["id"] for event in EVENTS}
            assert archive.events.keys() == ids
            for name in ("good", "slow", "litters", "closes"):
                held = {event_id for event_id, url in archive.pairs if url == urls[name]}
                assert held == ids, name
            gaps = {
                name: {
                    row["reason"]
                    for row in await connection.fetch(
                        "SELECT reason FROM bigbrotr.gaps g"
                        " JOIN bigbrotr.relays r ON r.id = g.relay_id"
                        " WHERE r.url = $1",
                        url,
                    )
                }
                for name, url in urls.items()
            }
            assert gaps == {
                "good": set(),
                "slow": set(),
                "litters": set(),
                "never-ends": {"timeout"},
                "drops": set(),  # each conversation brings some, and it is asked for the rest
                "closes": set(),  # after some events each time: it is asked for the rest
                "lies": {"suspected-empty"},
                "huge": set(),
            }
            rejected = {
                row["reason"]: row["count"]
                for row in await connection.fetch(
                    "SELECT reason, count FROM bigbrotr.rejected x"
                    " JOIN bigbrotr.relays r ON r.id = x.relay_id"
                    " WHERE r.url = $1",
                    urls["litters"],
                )
            }
            assert {"malformed", "bad id", "bad signature"} <= rejected.keys()
            assert all(rejected.values())
            others = await connection.fetchval(
                "SELECT count(*) FROM bigbrotr.rejected x"
                " JOIN bigbrotr.relays r ON r.id = x.relay_id"
                " WHERE r.url <> $1",
                urls["litters"],
            )
            assert others == 0
            # No second is both proven and a gap, and none is neither.
            for name, url in urls.items():
                row = await connection.fetchrow(
                    "SELECT (SELECT range_agg(proven)"
                    " FROM bigbrotr.coverage WHERE relay_id = r.id) AS p,"
                    " (SELECT range_agg(span) FROM bigbrotr.gaps WHERE relay_id = r.id) AS g,"
                    " missing_spans(r.id, 0, v.visited_at - 60, v.visited_at) AS missing,"
                    " coalesce((SELECT range_agg(proven)"
                    " FROM bigbrotr.coverage WHERE relay_id = r.id)"
                    " && (SELECT range_agg(span) FROM bigbrotr.gaps"
                    " WHERE relay_id = r.id), false) AS both"
                    " FROM bigbrotr.relays r"
                    " JOIN bigbrotr.visits v ON v.relay_id = r.id WHERE r.url = $1",
                    url,
                )
                assert row is not None
                assert list(row["missing"]) == [], (name, row)
                assert not row["both"], (name, row)
