"""Completeness: in whatever order events come, the sums are those of a look at all of them; and
what is missing is asked for where it may be."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from bigbrotr.config.settings import (
    CompletenessSettings,
    Config,
    Link,
    Networks,
    Profile,
    SynchronizerSettings,
)
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.filter import Filter
from bigbrotr.models.policy import facts_of
from bigbrotr.models.references import bound_of, is_sampled, month_of, references
from bigbrotr.models.relay import Relay
from bigbrotr.services.completeness.fetching import PER_RELAY
from bigbrotr.services.completeness.service import Completeness
from tests.kit.events import NOW, make_event, pubkey
from tests.kit.model import Vices
from tests.kit.policy import judge
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

HOLDER = Relay("wss://holder.example.com")


def context(filter_: Filter | None = None, **more: Any) -> Context:
    return Context(
        Config(
            networks=Networks(clearnet=Link(enabled=False), local=Link(enabled=True, timeout_s=5)),
            synchronizer=SynchronizerSettings(filter=filter_ or Filter()),
            completeness=CompletenessSettings(**{"share": 1.0, "fetch": False, **more}),
        )
    )


async def cycle(brotr: Brotr, filter_: Filter | None = None, **more: Any) -> None:
    async with Completeness(brotr, context=context(filter_, **more)) as service:
        await service.run()


async def store(
    brotr: Brotr, events: Sequence[dict[str, Any]], relay: Relay = HOLDER
) -> list[Event]:
    found = [Event.from_object(event) for event in events]
    await brotr.insert_relays([relay])
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in found])
    return found


async def sums(brotr: Brotr) -> dict[tuple[int, int, str], tuple[int, int]]:
    rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.reference_sums")
    return {(row["month"], row["kind"], row["via"]): (row["total"], row["held"]) for row in rows}


async def missing(brotr: Brotr) -> dict[bytes, tuple[str, int]]:
    rows = await brotr.pool.fetch("SELECT target, state, times FROM bigbrotr.missing_events")
    return {row["target"]: (row["state"], row["times"]) for row in rows}


def recount(archived: Sequence[Event], bound: bytes) -> dict[tuple[int, int, str], tuple[int, int]]:
    """What the sums are to be, by a look at everything."""
    there = {event.id for event in archived}
    for event in archived:
        facts = facts_of(event.pubkey, event.created_at, event.kind, event.tags)
        if facts.address is not None:
            there.add(event.pubkey + facts.address)
    counts: dict[tuple[int, int, str], Counter[bool]] = {}
    for event in archived:
        if is_sampled(event.id, bound):
            for each in references(event.id, event.kind, event.tags, event.content):
                place = (month_of(event.created_at), event.kind, each.via)
                counts.setdefault(place, Counter())[each.target in there] += 1
    return {place: (each.total(), each[True]) for place, each in counts.items()}


def town(dice: random.Random) -> list[dict[str, Any]]:
    """Events that refer to each other in all ways, and to what nobody has."""
    roots = [make_event(NOW - n * 1_000_000, content=f"root {n}", key=n % 3) for n in range(30)]
    papers = [
        make_event(NOW - n, 30023, [["d", f"paper {n}"]], content=f"{n}", key=n % 3)
        for n in range(9)
    ]
    ids = [each["id"] for each in roots] + [f"{n + 1:064x}" for n in range(20)]
    addresses = [f"30023:{pubkey(n % 3)}:paper {n}" for n in range(14)]
    answers = []
    for n in range(120):
        tags = [["e", dice.choice(ids)] for _ in range(dice.randrange(3))]
        tags += [["a", dice.choice(addresses)]] * dice.randrange(2)
        tags += [["q", dice.choice(ids)]] * dice.randrange(2)
        kind = dice.choice([1, 6, 7, 9735])
        answers.append(make_event(NOW - dice.randrange(10**7), kind, tags, f"answer {n}", 4))
    return [*roots, *papers, *answers]


@pytest.mark.parametrize("share", [1.0, 0.4])
async def test_in_any_order_the_sums_are_those_of_a_recount(brotr: Brotr, share: float) -> None:
    dice = random.Random(11)
    events = town(dice)
    dice.shuffle(events)
    archived: list[Event] = []
    for start in range(0, len(events), 30):
        archived += await store(brotr, events[start : start + 30])
        if start != 60:  # sometimes more has come
            await judge(brotr)
            await cycle(brotr, share=share)
            assert await sums(brotr) == recount(archived, bound_of(share))
    await cycle(brotr, share=share)
    assert await sums(brotr) == recount(archived, bound_of(share))
    # Another sample begins anew, and so does one whose log was pruned unread.
    await cycle(brotr, share=0.7)
    assert await sums(brotr) == recount(archived, bound_of(0.7))
    more = await store(brotr, [make_event(NOW + 1, 1, [["e", events[0]["id"]]])])
    await brotr.prune_arrivals(2**40)
    await cycle(brotr, share=0.7)
    assert await sums(brotr) == recount([*archived, *more], bound_of(0.7))


async def test_two_that_do_the_same_count_once(brotr: Brotr) -> None:
    archived = await store(brotr, town(random.Random(3)))
    await judge(brotr)
    async with (
        Completeness(brotr, context=context()) as first,
        Completeness(brotr, context=context()) as second,
    ):
        await asyncio.gather(first.run(), second.run())
        more = await store(brotr, [make_event(NOW + n, 1, [["e", "ef" * 32]]) for n in range(9)])
        await asyncio.gather(first.run(), second.run())
    assert await sums(brotr) == recount([*archived, *more], bound_of(1))


async def test_a_walk_goes_on_where_it_was(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigbrotr.services.completeness.service.EXAMINED", 7)
    archived = await store(brotr, town(random.Random(3)))
    await judge(brotr)
    service = Completeness(brotr, context=context())
    await brotr.begin_completeness(bound_of(1))
    position = await brotr.completeness_position()
    assert position is not None
    await service._walk(position)
    await service._walk(position)  # the same again: nothing is counted twice
    await cycle(brotr)
    assert await sums(brotr) == recount(archived, bound_of(1))
    assert await brotr.pool.fetchval("SELECT after_at FROM bigbrotr.completeness_state") is None


async def test_what_is_missing_is_fetched_where_others_say_it_is(brotr: Brotr) -> None:
    lost = make_event(NOW - 50, content="lost", key=7)
    paper = make_event(NOW - 60, 30023, [["d", "x"]], content="paper", key=8)
    older = make_event(NOW - 70, 30023, [["d", "x"]], content="older", key=8)
    secret = make_event(NOW - 80, content="only at the author's own", key=9)
    async with (
        ScriptedRelay([lost, make_event(content="not asked for")]) as hinted,
        ScriptedRelay([paper, older]) as other,
        ScriptedRelay([secret]) as own,
    ):
        await brotr.insert_relays([Relay(each.url) for each in (hinted, other, own)])
        await store(
            brotr,
            [
                make_event(NOW, 1, [["e", lost["id"], hinted.url]]),
                make_event(NOW, 1, [["a", f"30023:{pubkey(8)}:x", other.url]]),
                make_event(NOW, 10002, [["r", own.url]], key=9),
                make_event(NOW, 1, [["e", secret["id"], "", "", pubkey(9)]]),
            ],
        )
        await judge(brotr)
        await cycle(brotr, fetch=True)
        await judge(brotr)
        await cycle(brotr)
        found = await brotr.pool.fetch(
            "SELECT event_id, relay_url FROM bigbrotr.events_relays WHERE relay_url LIKE 'ws:%'"
        )
        assert {(row["event_id"].hex(), row["relay_url"]) for row in found} == {
            (lost["id"], hinted.url),
            (paper["id"], other.url),
            (secret["id"], own.url),
        }
        assert {state for state, _ in (await missing(brotr)).values()} == {"found"}
        totals = list((await sums(brotr)).values())
        assert [total - held for total, held in totals] == [0] * len(totals)
        places = await brotr.pool.fetch("SELECT relay_url FROM bigbrotr.missing_events")
        assert {row["relay_url"] for row in places} == {hinted.url, other.url, own.url}


async def test_what_is_asked_for_most_comes_first_and_the_queue_is_bounded(brotr: Brotr) -> None:
    ids = [f"{n + 1:064x}" for n in range(9)]
    answers = [
        make_event(NOW - n - 10 * m, 1, [["e", ids[n]]], f"{m}") for n in range(9) for m in range(n)
    ]
    await store(brotr, answers)
    await judge(brotr)
    await cycle(brotr, fetch=True, most_missing=4, fetch_at_once=1)
    found = await missing(brotr)
    assert len(found) == 4
    assert {times for _, times in found.values()} == {8, 7, 6, 5}
    tried = await brotr.pool.fetch("SELECT target FROM bigbrotr.missing_events WHERE attempts > 0")
    assert [row["target"].hex() for row in tried] == [ids[8]]
    # What is known already is counted on, however full the queue is.
    await store(brotr, [make_event(NOW + 1, 1, [["e", ids[5]]])])
    await judge(brotr)
    await cycle(brotr, most_missing=4, fetch=True, fetch_at_once=1)
    assert (await missing(brotr))[bytes.fromhex(ids[5])][1] == 6


async def test_what_nobody_has_is_given_up_and_found_when_it_comes(brotr: Brotr) -> None:
    lost = make_event(NOW - 50, content="lost", key=7)
    async with ScriptedRelay() as empty:
        await brotr.insert_relays([Relay(empty.url)])
        await store(brotr, [make_event(NOW, 1, [["e", lost["id"]]])])
        await judge(brotr)
        states = []
        for _ in range(3):
            await cycle(brotr, fetch=True)
            states.append((await missing(brotr))[bytes.fromhex(lost["id"])][0])
            await brotr.pool.execute("UPDATE bigbrotr.missing_events SET due_at = 0")
        assert states == ["waiting", "gone", "gone"]
        asked = [each for each in empty.seen.filters if "ids" in each[0]]
        assert len(asked) == 1  # no relay is asked twice
        # Until somebody names another one.
        async with ScriptedRelay() as other:
            await brotr.insert_relays([Relay(other.url)])
            await store(brotr, [make_event(NOW + 1, 1, [["e", lost["id"], other.url]])])
            await judge(brotr)
            await cycle(brotr, fetch=True)
            assert any("ids" in each[0] for each in other.seen.filters)
    await store(brotr, [lost])
    await cycle(brotr)
    assert (await missing(brotr))[bytes.fromhex(lost["id"])][0] == "found"
    assert set((await sums(brotr)).values()) == {(2, 2)}


async def test_what_nobody_was_asked_for_is_not_given_up(brotr: Brotr) -> None:
    """There was no room for it, or nobody could be reached: it waits for the next time."""
    lost = [make_event(NOW - n, content=f"lost {n}", key=7) for n in range(PER_RELAY + 10)]
    ids = [each["id"] for each in lost]
    tags = [[["e", each] for each in ids[start : start + 30]] for start in (0, 30)]
    await store(brotr, [make_event(NOW + n, 1, each) for n, each in enumerate(tags)])
    await judge(brotr)
    tried = "SELECT count(*) FROM bigbrotr.missing_events WHERE attempts > 0 OR state <> 'waiting'"
    dead = Relay(f"ws://127.0.0.1:{free_port()}")
    await brotr.insert_relays([dead])
    await cycle(brotr, fetch=True)
    assert await brotr.pool.fetchval(tried) == 0
    async with ScriptedRelay() as empty:
        await brotr.insert_relays([Relay(empty.url)])
        await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", dead.url)
        await cycle(brotr, fetch=True)
        assert await brotr.pool.fetchval(tried) == PER_RELAY
        await cycle(brotr, fetch=True)
        assert await brotr.pool.fetchval(tried) == len(ids)
        asked = [key for each in empty.seen.filters for key in each[0].get("ids", ())]
        assert sorted(asked) == sorted(ids)


async def test_a_clock_that_was_ahead_puts_nothing_off(brotr: Brotr) -> None:
    """What was asked for in vain then is due when it is right again; what waits as it should,
    waits on."""
    lost = make_event(NOW - 50, content="lost", key=7)
    async with ScriptedRelay() as empty:
        await brotr.insert_relays([Relay(empty.url)])
        await store(brotr, [make_event(NOW, 1, [["e", lost["id"]]])])
        await judge(brotr)
        await cycle(brotr, fetch=True)
        due = "SELECT due_at FROM bigbrotr.missing_events WHERE state = 'waiting' AND attempts = 1"
        before = await brotr.pool.fetchval(due)
        assert before > NOW
        assert await brotr.forget_the_future() == (0, 0)
        assert await brotr.pool.fetchval(due) == before
        await brotr.pool.execute("UPDATE bigbrotr.missing_events SET due_at = due_at + 864000")
        assert await brotr.forget_the_future() == (0, 1)
        assert await brotr.pool.fetchval(due) < before


@pytest.mark.parametrize(
    "vices",
    [
        Vices(forged=frozenset({"id", "content", "signature", "type"})),
        Vices(garbage=frozenset({"not-json", "wrong-shape", "binary"})),
        Vices(extras=5),
    ],
)
async def test_nothing_is_believed_that_was_not_proven(brotr: Brotr, vices: Vices) -> None:
    lost = make_event(NOW - 50, content="lost", key=7)
    others = [make_event(NOW - n, content=f"{n}", key=6) for n in range(9)]
    async with ScriptedRelay([lost, *others], vices=vices) as relay:
        await store(brotr, [make_event(NOW, 1, [["e", lost["id"], relay.url]])], Relay(relay.url))
        await judge(brotr)
        await cycle(brotr, fetch=True)
        ids = await brotr.pool.fetch("SELECT id FROM bigbrotr.events_stored")
        assert len(ids) == 2
        assert (await missing(brotr))[bytes.fromhex(lost["id"])][0] == "found"


@pytest.mark.parametrize(
    "vices", [Vices(silent=True), Vices(http_only=True), Vices(drop_after_pages=0)]
)
async def test_a_relay_that_does_not_answer_was_not_asked(brotr: Brotr, vices: Vices) -> None:
    lost = make_event(NOW - 50, content="lost", key=7)
    async with ScriptedRelay([lost], vices=vices) as relay:
        await store(brotr, [make_event(NOW, 1, [["e", lost["id"], relay.url]])], Relay(relay.url))
        await judge(brotr)
        for _ in range(3):  # it comes back, as often as something is tried
            await cycle(brotr, fetch=True)
            row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.missing_events")
            assert row is not None
            assert (row["state"], row["asked"]) == ("waiting", [])
            await brotr.pool.execute("UPDATE bigbrotr.missing_events SET due_at = 0")
        relay.vices = Vices()
        await cycle(brotr, fetch=True)
        assert set(await missing(brotr)) == {bytes.fromhex(lost["id"])}
        assert await brotr.pool.fetchval("SELECT state FROM bigbrotr.missing_events") == "found"


async def test_what_this_archive_does_not_want_is_not_fetched(brotr: Brotr) -> None:
    lost = make_event(NOW - 50, 7, content="lost", key=7)
    async with ScriptedRelay([lost]) as relay:
        await store(brotr, [make_event(NOW, 1, [["e", lost["id"], relay.url]])], Relay(relay.url))
        await judge(brotr)
        await cycle(brotr, Filter(kinds=frozenset([1])), fetch=True)
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_stored") == 1


async def test_measuring_alone_asks_nobody(brotr: Brotr) -> None:
    async with ScriptedRelay() as relay:
        await store(brotr, [make_event(NOW, 1, [["e", "ab" * 32, relay.url]])], Relay(relay.url))
        await judge(brotr)
        await cycle(brotr)
        assert relay.seen.connections == 0
        assert await missing(brotr) == {}
        assert set((await sums(brotr)).values()) == {(1, 0)}


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_tags_measures_nothing(brotr: Brotr) -> None:
    await store(brotr, [make_event(NOW, 1, [["e", "ab" * 32]])])
    await cycle(brotr)
    assert await brotr.completeness_position() is None
