"""Candidates: where they come from, how many one host may have, and how they are given up."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
import pytest

from bigbrotr.config.settings import PoolSettings, Profile, ServerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.base import value_of
from bigbrotr.core.calls.candidates import WALK, Archived, Mention, Resolution, Walk
from bigbrotr.core.calls.events import event_columns
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Network, Relay
from bigbrotr.reads import relays
from tests.kit.archive import CLEARNET, A, B, C, check_totals, claim, pairs
from tests.kit.events import NOW, verified

HOLDER = Relay("wss://holder.example.com")
OPEN = [network for network in Network if network is not Network.LOCAL]
MANY = 1000
DAY_S = 86_400


async def candidates(brotr: Brotr) -> dict[str, dict[str, Any]]:
    rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.candidates")
    return {row["url"]: dict(row) for row in rows}


async def named(brotr: Brotr) -> dict[str, tuple[str, int]]:
    """Where each candidate was first seen, and how often it was named."""
    return {url: (row["source"], row["named"]) for url, row in (await candidates(brotr)).items()}


def names(*relays: Relay, kind: int = 10002, created_at: int = NOW) -> Event:
    """An event that names relays, unlike any other."""
    return verified(None, [["r", relay.url] for relay in relays], kind=kind, created_at=created_at)


async def store(brotr: Brotr, *events: Event, at: Relay = HOLDER) -> tuple[int, int]:
    return await brotr.insert_events([EventRelay(event, at, NOW) for event in events])


async def absorb(brotr: Brotr) -> tuple[int, int, int]:
    return await brotr.absorb_mentions(1000, OPEN, MANY)


# --- what new events name -------------------------------------------------------------------------


@pytest.mark.parametrize("profile", list(Profile))
async def test_new_events_name_candidates_once(brotr: Brotr) -> None:
    first, second = names(A, B), names(A, kind=30002)
    assert await store(brotr, first) == (1, 0)
    assert await named(brotr) == {}  # they wait in the queue
    # Neither the same event from another relay nor again from this one is a further name.
    assert await store(brotr, first, second, at=C) == (1, 1)
    assert await store(brotr, first, second) == (0, 2)
    assert await absorb(brotr) == (2, 3, 2)
    assert await named(brotr) == {A.url: ("kind 10002", 2), B.url: ("kind 10002", 1)}
    assert await absorb(brotr) == (0, 0, 0)
    # Known ones add their names and keep their history.
    await brotr.resolve_candidates([Resolution(A.url, "failed", "refused", "no")])
    before = await candidates(brotr)
    await store(brotr, names(A, C, HOLDER, kind=1))
    assert await absorb(brotr) == (1, 3, 0)  # the others are relays
    after = await candidates(brotr)
    assert after[A.url] == before[A.url] | {"named": 3}
    assert after[B.url] == before[B.url]


async def test_local_addresses_and_junk_in_the_queue(brotr: Brotr) -> None:
    await store(brotr, names(A, Relay("ws://127.0.0.1:7777"), Relay("ws://nas.local")))
    await brotr.pool.execute(
        "SELECT bigbrotr.note_mentions('{no URL,wss://b.example.com}', '{1,1}', '{1,1}')"
    )
    assert await absorb(brotr) == (2, 5, 2)
    assert (await named(brotr)).keys() == {A.url, B.url}
    await store(brotr, names(Relay("ws://127.0.0.1:7777")))
    await brotr.absorb_mentions(10, list(Network), MANY)
    assert "ws://127.0.0.1:7777" in await named(brotr)


async def test_only_new_events_of_a_page_count(brotr: Brotr) -> None:
    """Also where a page that was looked through holds events that others have stored since."""
    third = Relay("wss://third.example.com")
    old, new = names(A, B, kind=3), names(A, third, kind=1)
    await store(brotr, old)
    await absorb(brotr)
    for events in ((old, new), (new, old)):
        await store(brotr, *events, at=C)
        await absorb(brotr)
    assert await named(brotr) == {
        A.url: ("kind 3", 2),
        B.url: ("kind 3", 1),
        third.url: ("kind 1", 1),
    }


async def test_networks_that_are_disabled_collect_candidates(brotr: Brotr) -> None:
    onion = Relay("ws://oxtrdevav64z64yb7x6rjg4ntzqjhedm5b5zjqulugknhzr46ny2qbad.onion")
    await store(brotr, names(onion))
    await absorb(brotr)
    assert (await candidates(brotr))[onion.url]["network"] == "tor"


async def test_nothing_is_noted_without_a_finder(dsn: str) -> None:
    async with Brotr(Pool(dsn=dsn), notes_mentions=False) as brotr:
        await store(brotr, names(A))
        assert await absorb(brotr) == (0, 0, 0)


async def test_page_that_is_rolled_back_names_nothing(brotr: Brotr) -> None:
    class Crash(Exception):  # noqa: N818
        pass

    event = names(A)
    (relay_id,) = await relay_ids(brotr, HOLDER)
    kept = await brotr._kept_columns()

    async def crash() -> None:
        async with brotr.pool.transaction() as connection:
            columns = event_columns([event], [NOW], kept, True)
            assert await value_of(connection, "insert_events", p_relay_id=relay_id, **columns) == 1
            raise Crash

    with pytest.raises(Crash):
        await crash()
    assert await absorb(brotr) == (0, 0, 0)
    await store(brotr, event)
    assert await absorb(brotr) == (1, 1, 1)


async def relay_ids(brotr: Brotr, *relays: Relay) -> list[int]:
    await brotr.insert_relays(relays)
    return [
        await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays WHERE url = $1", relay.url)
        for relay in relays
    ]


async def test_late_commit_is_not_passed_by(brotr: Brotr) -> None:
    (relay_id,) = await relay_ids(brotr, HOLDER)
    kept = await brotr._kept_columns()
    async with brotr.pool.transaction() as connection:
        early = names(A, created_at=NOW - 9)
        columns = event_columns([early], [NOW], kept, True)
        assert await value_of(connection, "insert_events", p_relay_id=relay_id, **columns) == 1
        # Others write, commit and are taken; all after the one that is not committed yet.
        await store(brotr, names(B, created_at=NOW + 9), at=C)
        assert await absorb(brotr) == (1, 1, 1)
    assert await absorb(brotr) == (1, 1, 1)
    assert (await named(brotr)).keys() == {A.url, B.url}


async def test_killed_while_absorbing_loses_nothing_and_counts_once(brotr: Brotr, dsn: str) -> None:
    relays = [Relay(f"wss://r{n}.example.com") for n in range(60)]
    for relay in relays:
        await store(brotr, names(relay, A))
    chance = random.Random(1)
    known_as = ServerSettings(application_name="victim")
    cut_off = 0
    async with Brotr(Pool(settings=PoolSettings(server_settings=known_as), dsn=dsn)) as victim:
        while (await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.mentions")) > 0:
            task = asyncio.create_task(victim.absorb_mentions(5, OPEN, MANY))
            await asyncio.sleep(chance.random() * 0.006)
            await brotr.pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'victim' AND datname = current_database()"
            )
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            cut_off += isinstance(outcome, BaseException)
    assert cut_off > 3
    assert await named(brotr) == {A.url: ("kind 10002", 60)} | {
        relay.url: ("kind 10002", 1) for relay in relays
    }


async def test_several_write_and_take_at_once(brotr: Brotr) -> None:
    relays = [Relay(f"wss://r{n}.example.com") for n in range(30)]
    chance = random.Random(2)
    batches = [[names(*chance.sample(relays, 8)) for _ in range(5)] for _ in range(24)]
    expected = {
        relay.url: sum(relay.url in str(event.tags) for batch in batches for event in batch)
        for relay in relays
    }

    async def write(batch: Sequence[Event], at: Relay) -> None:
        await store(brotr, *batch, at=at)

    async def take() -> None:
        for _ in range(10):
            await brotr.absorb_mentions(2, OPEN, MANY)

    async def resolve() -> None:
        for _ in range(10):
            urls = chance.sample(list(expected), 10)
            await brotr.resolve_candidates([Resolution(url, "failed", "x") for url in urls])

    async with asyncio.TaskGroup() as group:
        for number, batch in enumerate(batches):
            group.create_task(write(batch, Relay(f"wss://holder{number % 3}.example.com")))
            group.create_task(write(batch, Relay(f"wss://holder{number % 3 + 3}.example.com")))
        for _ in range(3):
            group.create_task(take())
        group.create_task(resolve())
    while (await absorb(brotr))[0]:
        pass
    assert {url: times for url, (_, times) in (await named(brotr)).items()} == expected


# --- the archive from before ----------------------------------------------------------------------


async def order_walk(brotr: Brotr, until: int) -> None:
    await brotr.upsert_service_data([(*WALK, Walk(until, -1, "")._asdict())])


async def walk(brotr: Brotr, limit: int = 2) -> list[Archived]:
    seen: list[Archived] = []
    while (place := await brotr.read_walk()) is not None:
        batch = await brotr.read_archive(place, limit)
        seen += batch
        goal = Walk(place.until, batch[-1].created_at, batch[-1].id.hex()) if batch else None
        mentions = [Mention(A, "kind 1", int(each.seen_at < place.until)) for each in batch]
        await brotr.advance_walk(place, goal, mentions, MANY)
    return seen


async def test_walk_sees_each_event_once(dsn: str) -> None:
    async with Brotr(Pool(dsn=dsn), notes_mentions=False) as brotr:
        assert await brotr.read_walk() is None  # a new archive has nothing from before
        events = [names(A, created_at=NOW + n // 3) for n in range(7)]
        await store(brotr, *events)
        await order_walk(brotr, NOW + 1)
        found = await walk(brotr)
        assert [(each.created_at, each.id) for each in found] == sorted(
            (event.created_at, event.id) for event in events
        )
        assert {each.seen_at for each in found} == {NOW}
        assert await named(brotr) == {A.url: ("kind 1", 7)}
        assert await brotr.read_walk() is None


async def test_walk_moves_once(brotr: Brotr) -> None:
    await store(brotr, names(A))
    await order_walk(brotr, NOW + 1)
    place = await brotr.read_walk()
    assert place is not None
    goal = Walk(place.until, 5, "ab")
    mentions = [Mention(B, "kind 1")]
    assert await asyncio.gather(
        *(brotr.advance_walk(place, goal, mentions, MANY) for _ in range(4))
    ) in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1])
    assert (await named(brotr))[B.url] == ("kind 1", 1)
    assert await brotr.read_walk() == goal


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_lite_has_nothing_to_walk(brotr: Brotr) -> None:
    await store(brotr, names(A))
    await order_walk(brotr, NOW + 1)
    assert await walk(brotr) == []
    assert await brotr.read_walk() is None


# --- caps -----------------------------------------------------------------------------------------


async def discover(brotr: Brotr, relays: Iterable[Relay], max_per_host: int) -> int:
    return await brotr.add_mentions([Mention(r, "x", 0) for r in relays], max_per_host)


@pytest.mark.slow
async def test_host_has_a_few_addresses_and_always_itself(brotr: Brotr) -> None:
    paths = [Relay(f"wss://one.example.com/{n}") for n in range(10_000)]
    ports = [Relay(f"wss://one.example.com:{n}") for n in range(1000, 1100)]
    other = [Relay("wss://two.example.com/x"), Relay("wss://two.example.com/y")]
    await brotr.insert_relays([Relay("wss://one.example.com/known")])
    added = await discover(brotr, [*paths, *ports, *other], 5)
    assert added == 4 + 2
    assert await discover(brotr, [*ports, *paths], 5) == 0
    root = [Relay("wss://one.example.com"), Relay("ws://one.example.com")]
    assert await discover(brotr, [*paths, *root], 5) == 2
    # What people list has no bound.
    assert await brotr.add_mentions([Mention(r, "x", 1) for r in ports[:3]], 6) == 1
    assert await discover(brotr, ports, 6) == 0
    assert await brotr.insert_candidates(ports, "command", is_typed=True) == 99


async def test_junk_keeps_no_place_from_others(brotr: Brotr) -> None:
    """Neither what has failed, nor what was given up, nor aliases, nor relays that rest."""

    def named_by(source: str, first: int, count: int) -> list[Mention]:
        some = (Relay(f"wss://one.example.com/{n}") for n in range(first, first + count))
        return [Mention(relay, source, 1) for relay in some]

    assert await brotr.add_mentions(named_by("kind 1", 0, 10), 4) == 4
    assert await brotr.add_mentions(named_by("kind 1", 10, 10), 4) == 0
    # What is listed has places of its own, and keeps them from what events name.
    assert await brotr.add_mentions(named_by("api x", 20, 10), 4) == 4
    assert await brotr.add_mentions(named_by("monitor", 30, 10), 4) == 0
    first = 40
    for spend in (
        "UPDATE bigbrotr.candidates SET attempts = 5",
        "UPDATE bigbrotr.candidates SET alias_of = (SELECT id FROM bigbrotr.relays LIMIT 1)",
    ):
        await brotr.insert_relays([HOLDER])
        await brotr.pool.execute(spend)
        assert await brotr.add_mentions(named_by("kind 1", first, 10), 4) == 4
        first += 10
    await brotr.pool.execute("UPDATE bigbrotr.candidates SET attempts = 20")
    await brotr.delete_failed_candidates(20)
    assert await brotr.add_mentions(named_by("kind 1", first, 10), 4) == 4
    # Nor do they pile up.
    for n in range(20):
        await brotr.pool.execute("UPDATE bigbrotr.candidates SET attempts = 5 + $1", n)
        assert await brotr.add_mentions(named_by("kind 1", 1000 + 10 * n, 10), 4) == 4
    assert len(await candidates(brotr)) == 4 + 4 * 4
    # A relay counts while it is one.
    await brotr.pool.execute("DELETE FROM bigbrotr.candidates")
    await brotr.insert_relays([each.relay for each in named_by("", 0, 4)])
    assert await brotr.add_mentions(named_by("api x", first, 10), 4) == 0
    await brotr.pool.execute("UPDATE bigbrotr.visits SET retired_at = 1")
    assert await brotr.add_mentions(named_by("api x", first, 10), 4) == 4


async def test_the_most_named_of_a_host_are_taken(brotr: Brotr) -> None:
    mentions = [Mention(Relay(f"wss://one.example.com/{n}"), "x", n % 7) for n in range(21)]
    await brotr.add_mentions(mentions, 3)
    assert sorted((await named(brotr)).values()) == [("x", 6)] * 3


async def test_hosts_in_every_spelling(brotr: Brotr) -> None:
    hosts = {
        "ws://[2606:4700::1111]:81/x": "[2606:4700::1111]",
        "wss://a.example.com:8080": "a.example.com",
        "wss://a.example.com": "a.example.com",
        "ws://1.2.3.4/:5": "1.2.3.4",
    }
    for url, host in hosts.items():
        assert await brotr.pool.fetchval("SELECT bigbrotr.host_of($1)", Relay(url).url) == host


async def test_cap_holds_when_several_add_at_once(brotr: Brotr) -> None:
    async with asyncio.TaskGroup() as group:
        for start in range(8):
            relays = [Relay(f"wss://one.example.com/{start}/{n}") for n in range(5)]
            group.create_task(discover(brotr, relays, 6))
    assert len(await candidates(brotr)) == 6


# --- tombstones -----------------------------------------------------------------------------------


async def test_given_up_stays_given_up_for_a_while(brotr: Brotr) -> None:
    await brotr.insert_candidates([A, B], "seed")
    await brotr.resolve_candidates([Resolution(A.url, "failed", "refused")])
    assert await brotr.delete_failed_candidates(1, tombstone_s=30 * DAY_S) == 1
    (stone,) = await brotr.pool.fetch("SELECT * FROM bigbrotr.tombstones")
    assert (stone["url"], stone["outcome"]) == (A.url, "refused")
    assert abs(stone["expires_at"] - time.time() - 30 * DAY_S) < 60
    # The next day it is named by everybody.
    assert await brotr.insert_candidates([A, B], "seed") == 0
    await store(brotr, names(A, C))
    assert await absorb(brotr) == (1, 2, 1)
    assert (await named(brotr)).keys() == {B.url, C.url}
    # After its time it may come again, as anyone.
    await brotr.pool.execute("UPDATE bigbrotr.tombstones SET expires_at = $1", int(time.time()))
    assert await brotr.insert_candidates([A], "seed") == 1
    assert await brotr.delete_failed_candidates(99) == 0
    assert await brotr.pool.fetch("SELECT * FROM bigbrotr.tombstones") == []


async def test_a_person_insists(brotr: Brotr) -> None:
    await brotr.insert_candidates([A], "seed")
    await brotr.resolve_candidates([Resolution(A.url, "failed", "refused")])
    await brotr.delete_failed_candidates(1)
    assert await brotr.insert_candidates([A], "command", is_typed=True) == 1
    row = (await candidates(brotr))[A.url]
    assert (row["attempts"], row["source"]) == (0, "command")
    assert await brotr.pool.fetch("SELECT * FROM bigbrotr.tombstones") == []


# --- one after the other --------------------------------------------------------------------------


async def candidate(brotr: Brotr, relay: Relay) -> asyncpg.Record | None:
    return await brotr.pool.fetchrow("SELECT * FROM bigbrotr.candidates WHERE url = $1", relay.url)


async def test_candidates_are_added_once(brotr: Brotr) -> None:
    await brotr.insert_relays([A])
    assert await brotr.insert_candidates([A, B, B, C], "seed") == 2
    assert await brotr.insert_candidates([A, B, C], "finder") == 0
    assert await candidate(brotr, A) is None
    row = await candidate(brotr, B)
    assert row is not None
    assert (row["source"], row["network"], row["attempts"]) == ("seed", "clearnet", 0)
    assert await brotr.insert_relays([B]) == 1
    assert await candidate(brotr, B) is None


async def test_candidates_are_resolved(brotr: Brotr) -> None:
    await brotr.insert_candidates([A, B, C], "seed")
    promoted = await brotr.resolve_candidates(
        [
            Resolution(A.url, "relay", "event"),
            Resolution(B.url, "failed", "refused", "no"),
            Resolution(C.url, "postponed", "our network"),
            Resolution("wss://unknown.example.com", "relay", "event"),
        ]
    )
    assert promoted == 1
    assert await brotr.pool.fetchval("SELECT array_agg(url) FROM bigbrotr.relays") == [A.url]
    now = int(time.time())
    b, c = await candidate(brotr, B), await candidate(brotr, C)
    assert await candidate(brotr, A) is None
    assert b is not None
    assert c is not None
    assert (b["attempts"], b["outcome"], b["detail"]) == (1, "refused", "no")
    assert now + 40 <= b["due_at"] <= now + 76
    assert (c["attempts"], c["outcome"]) == (0, "our network")
    assert now + 55 <= c["due_at"] <= now + 60
    assert await brotr.resolve_candidates([Resolution(A.url, "relay", "event")]) == 0
    assert await brotr.resolve_candidates([]) == 0
    await check_totals(brotr)


async def test_a_candidate_backs_off_until_it_rests(brotr: Brotr) -> None:
    await brotr.insert_candidates([A], "seed")
    for attempts in range(1, 20):
        before = int(time.time())
        await brotr.resolve_candidates([Resolution(A.url, "failed", "refused")])
        row = await candidate(brotr, A)
        assert row is not None
        full = min(604_800, 60 * 2 ** (attempts - 1))
        assert row["attempts"] == attempts
        assert before + full * 0.75 - 1 <= row["due_at"] <= time.time() + full * 1.25 + 1
    await brotr.pool.execute("UPDATE bigbrotr.candidates SET due_at = 0")
    wanted = {"limit": 5, "owner": "me", "lease_s": 60}
    assert await brotr.claim_candidates(Network.CLEARNET, max_attempts=19, **wanted) == []  # type: ignore[arg-type]
    assert await brotr.claim_candidates(Network.TOR, max_attempts=99, **wanted) == []  # type: ignore[arg-type]
    found = await brotr.claim_candidates(Network.CLEARNET, max_attempts=20, **wanted)  # type: ignore[arg-type]
    assert found == [A]
    assert await brotr.delete_failed_candidates(20) == 0
    assert await brotr.delete_failed_candidates(19) == 1
    assert await brotr.delete_failed_candidates(19) == 0


async def test_who_asks_for_rest_gets_it(brotr: Brotr) -> None:
    await brotr.insert_candidates([A, B, C], "seed")
    now = int(time.time())
    await brotr.resolve_candidates(
        [
            Resolution(A.url, "relay", "rate-limited", wait_s=600),
            Resolution(B.url, "failed", "rate-limited", wait_s=600),
            Resolution(C.url, "postponed", "opted-out", wait_s=86_400),
        ]
    )
    assert await brotr.next_visit_at(CLEARNET) in range(now + 600, now + 660)
    b, c = await candidate(brotr, B), await candidate(brotr, C)
    assert b is not None
    assert c is not None
    assert b["due_at"] in range(now + 600, now + 660)
    assert c["due_at"] in range(now + 86_400, now + 86_460)


async def test_more_names_sooner_tried(brotr: Brotr) -> None:
    await brotr.insert_candidates([A, B, C], "seed")
    await brotr.pool.execute("UPDATE bigbrotr.candidates SET named = 3 WHERE url = $1", C.url)
    claimed = await brotr.claim_candidates(
        Network.CLEARNET, limit=1, max_attempts=9, owner="me", lease_s=60
    )
    assert claimed == [C]


async def fail_visit(brotr: Brotr) -> None:
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    (visit,) = await claim(brotr)
    assert await brotr.finish_visit(visit, "failed", next_at=0, outcome="timeout", detail="gone")


async def test_relay_that_fails_for_long_is_a_candidate_again(brotr: Brotr) -> None:
    await brotr.insert_events([EventRelay(verified(), A, NOW)])
    relay_id = await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays")
    for _ in range(4):
        await fail_visit(brotr)
    assert await brotr.retire_relays(0) == 0  # too few to say
    await fail_visit(brotr)
    assert await brotr.retire_relays(3600) == 0  # not for long
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    (visit,) = await claim(brotr)
    assert await brotr.retire_relays(0) == 0  # somebody is there
    await brotr.finish_visit(visit, "failed", next_at=0, outcome="timeout", detail="gone")

    assert await brotr.retire_relays(0) == 1
    assert await brotr.retire_relays(0) == 0
    row = await candidate(brotr, A)
    assert row is not None
    history = {name: row[name] for name in ("source", "discovered_at", "attempts", "outcome")}
    assert history == {
        "source": "retired",
        "discovered_at": NOW,
        "attempts": 6,
        "outcome": "timeout",
    }
    assert row["due_at"] > time.time() + 1000
    # Nobody calls, and nothing is forgotten.
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    assert await claim(brotr) == []
    assert await brotr.next_visit_at(CLEARNET) is None
    (progress,) = await relays.progress(brotr.pool)
    assert (progress.holds, progress.stage) == (1, relays.Stage.RETIRED)
    assert progress.retired_at is not None
    # Who names it, or brings its events, does not wake it.
    assert await brotr.insert_candidates([A], "finder") == 0
    assert await brotr.insert_relays([A]) == 0
    assert (await candidate(brotr, A)) == row
    # It is tried for ever.
    await brotr.pool.execute("UPDATE bigbrotr.candidates SET due_at = 0, attempts = 500")
    assert await brotr.delete_failed_candidates(20) == 0
    assert await brotr.claim_candidates(
        Network.CLEARNET, limit=1, max_attempts=20, owner="me", lease_s=60
    ) == [A]
    # And is the same relay again.
    assert await brotr.resolve_candidates([Resolution(A.url, "relay", "speaks-nostr")]) == 1
    assert await candidate(brotr, A) is None
    (visit,) = await claim(brotr)
    assert (visit.relay_id, visit.pairs) == (relay_id, 1)
    row = await brotr.pool.fetchrow("SELECT failures, failing_since FROM bigbrotr.visits")
    assert row is not None
    assert tuple(row) == (0, None)
    await check_totals(brotr)


async def test_alias_is_remembered_with_its_relay(brotr: Brotr) -> None:
    path = Relay(f"{A.url}/path")
    await brotr.insert_candidates([A, path], "seed")
    await brotr.resolve_candidates(
        [
            Resolution(path.url, "alias", "alias", wait_s=30 * 86_400, target=A.url),
            Resolution(A.url, "relay", "speaks-nostr"),
        ]
    )
    row = await candidate(brotr, path)
    assert row is not None
    assert row["alias_of"] == await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays")
    assert row["due_at"] > time.time() + 29 * 86_400
    totals = await brotr.totals()
    assert (totals.relays, totals.candidates) == (1, 0)
    assert await brotr.insert_candidates([path], "finder") == 0
    assert await brotr.relays_at([A.url, B.url]) == [A]
    assert await brotr.relays_at([A.url[:-1]]) == []
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    row = await candidate(brotr, path)
    assert row is not None
    assert row["alias_of"] is None


async def test_orphan_relays_are_those_of_which_nothing_is_known(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B, C])
    await brotr.insert_events(pairs([verified()], A))
    await brotr.insert_relay_metadata([RelayMetadata(B, Metadata({}), MetadataType.NIP11, NOW)])
    assert await brotr.cleanup_orphans() == {"metadata": 0, "events": 0, "relays": 1}
    assert await brotr.delete_orphan_relays() == 0
    urls = await brotr.pool.fetchval("SELECT array_agg(url ORDER BY url) FROM bigbrotr.relays")
    assert urls == [A.url, B.url]
    await check_totals(brotr)
