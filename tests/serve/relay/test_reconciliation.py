"""Reconciliation with the relay (NIP-77): both differences, for any filter, and its bounds."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from bigbrotr.config.settings import PolicySettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import MAX_CREATED_AT, Event
from bigbrotr.models.policy import Rule
from bigbrotr.models.query import Query
from bigbrotr.nostr.negentropy import Client as Asker
from bigbrotr.nostr.negentropy import Items
from bigbrotr.serve.relay import upkeep
from tests.kit.events import NOW, pubkey, verified
from tests.kit.policy import judge
from tests.kit.processes import until
from tests.serve.relay.client import Client, client_of, relay_of, store


def some(number: int) -> list[Event]:
    return [
        verified(f"{n}", [["t", f"{n % 2}"]], kind=n % 3, created_at=NOW + n // 5, key=n % 4)
        for n in range(number)
    ]


async def reconcile(
    client: Client,
    query: dict[str, Any] | list[dict[str, Any]],
    ours: Sequence[Event],
    name: str = "neg",
) -> tuple[set[bytes], set[bytes]]:
    """The ids that the relay lacks, and those that we lack."""
    asker = Asker(
        Items(sorted((event.created_at, event.id) for event in ours)),
        max_needed=100_000,
        frame_limit=50_000,
    )
    said: bytes | None = asker.initiate()
    assert said is not None
    await client.say("NEG-OPEN", name, query, said.hex())
    while True:
        kind, named, answer, *_ = await client.hear()
        assert (kind, named) == ("NEG-MSG", name), answer
        assert len(answer) <= 2 * 61_440
        said = asker.reconcile(bytes.fromhex(answer))
        if said is None:
            break
        await client.say("NEG-MSG", name, said.hex())
    await client.say("NEG-CLOSE", name)
    held = sorted((event.created_at, event.id) for event in ours)
    return {held[place][1] for place in asker.have}, set(asker.need)


QUERIES: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda event: True),
    ({"kinds": [1, 2]}, lambda event: event.kind in (1, 2)),
    ({"authors": [pubkey(1)]}, lambda event: event.pubkey.hex() == pubkey(1)),
    ({"#t": ["1"]}, lambda event: event.tags[0][1] == "1"),
    ({"since": NOW + 20, "until": NOW + 60}, lambda event: 20 <= event.created_at - NOW <= 60),
    ({"#t": ["0"], "kinds": [0], "until": NOW + 50}, None),
    ({"limit": 33}, None),
]


@pytest.mark.parametrize(("query", "is_wanted"), QUERIES)
async def test_both_differences_are_found(
    brotr: Brotr, dsn: str, query: dict[str, Any], is_wanted: Any
) -> None:
    everything = some(500)
    theirs = [event for n, event in enumerate(everything) if n % 7]
    edge = verified(created_at=MAX_CREATED_AT)
    await store(brotr, [*theirs, edge])
    async with relay_of(dsn) as place, client_of(place.archive) as client:
        wanted, _ = await client.stored(query | ({} if "limit" in query else {"limit": 5000}))
        if is_wanted is not None and not query.get("#t"):
            assert set(wanted) == {e.id.hex() for e in [*theirs, edge] if is_wanted(e)}
        held = {bytes.fromhex(each) for each in wanted}
        ours = [event for n, event in enumerate(everything) if n % 5]
        have, need = await reconcile(client, query, ours)
        assert need == held - {event.id for event in ours}
        assert have == {event.id for event in ours} - held
        # Who has the same learns just that.
        same = [event for event in [*everything, edge] if event.id in held]
        assert await reconcile(client, query, same) == (set(), set())


async def test_any_of_several_filters_may_match(brotr: Brotr, dsn: str) -> None:
    events = some(300)
    await store(brotr, events)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        filters: list[dict[str, Any]] = [{"kinds": [1]}, {"#t": ["1"]}, {"since": NOW + 40}]
        wanted = {
            event.id
            for event in events
            if event.kind == 1 or event.tags[0][1] == "1" or event.created_at >= NOW + 40
        }
        assert await reconcile(client, filters, events[:100]) == (
            {event.id for event in events[:100]} - wanted,
            wanted - {event.id for event in events[:100]},
        )
        assert await reconcile(client, [{}], events) == (set(), set())


async def test_many_reconcile_at_once_and_share_the_ids(brotr: Brotr, dsn: str) -> None:
    events = some(2000)
    await store(brotr, events)
    async with relay_of(dsn) as place, client_of(place.url) as client:

        async def work(number: int) -> None:
            async with client_of(place.url) as other:
                ours = events[number::7]
                have, need = await reconcile(other, {}, ours)
                assert not have
                assert need == {event.id for event in events} - {event.id for event in ours}

        async with anyio.create_task_group() as group:
            for number in range(7):
                group.start_soon(work, number)
        holdings = place.relay.holdings
        assert holdings.items <= 2 * len(events)  # not a set for each
        # Several of one client.
        for name in "abc":
            assert (await client.ask("NEG-OPEN", name, {}, "6100000200"))[0] == "NEG-MSG"
        for name in "cab":
            assert (await client.ask("NEG-MSG", name, "6100000200"))[:2] == ["NEG-MSG", name]
        kept = list(holdings._kept.values())
        assert sum(each.users for each in kept) == 3
        await client.say("NEG-CLOSE", "a")
        assert (await client.ask("NEG-MSG", "a", "6100000200"))[2].startswith("closed: ")
        assert sum(each.users for each in kept) == 2
        await client.socket.close()

        async def is_given_back() -> bool:
            return not sum(each.users for each in kept)

        await until(is_given_back, "the ids")


async def test_new_events_are_compared_as_well(brotr: Brotr, dsn: str) -> None:
    events = some(100)
    await store(brotr, events[:50])
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert await reconcile(client, {}, events[:50]) == (set(), set())
        await store(brotr, events[50:])
        (kept,) = place.relay.holdings._kept.values()
        read = kept.ids
        _, need = await reconcile(client, {}, events[:50])
        assert need == {event.id for event in events[50:]}
        # A part of it in time as well; nothing is read anew.
        _, need = await reconcile(client, {"since": NOW + 5, "until": NOW + 12}, events[:50])
        assert need == {event.id for event in events[50:] if event.created_at <= NOW + 12}
        assert list(place.relay.holdings._kept.values()) == [kept]
        assert kept.ids is read
        # Of the newest so many it is not known what comes and goes.
        assert await reconcile(client, {"limit": 100}, events) == (set(), set())
        later = verified("later", created_at=NOW + 1000)
        await store(brotr, [later])
        for kept in place.relay.holdings._kept.values():
            kept.made_at -= 0 if kept.is_changing else 100  # as if time had passed
        _, need = await reconcile(client, {"limit": 100}, events)
        assert need == {later.id}


async def test_what_is_no_longer_shown_is_compared_no_longer(brotr: Brotr, dsn: str) -> None:
    """What the policy hides, what expires and what is erased leaves the sets, and comes back."""
    events = [
        verified(f"{n}", [["t", f"{n % 2}"]], kind=(1, 7)[n % 3 % 2], created_at=NOW + n, key=n % 4)
        for n in range(60)
    ]
    old, new = (verified(f"{n}", kind=10002, created_at=NOW + n) for n in range(2))
    mortal = verified("mortal", [["expiration", f"{NOW + 5}"]])
    await store(brotr, [*events, new])
    await judge(brotr)
    known = {event.id for event in [*events, new]}
    asked: list[dict[str, Any]] = [{}, {"kinds": [1]}, {"#t": ["1"]}, {"authors": [pubkey(2)]}]

    async with relay_of(dsn) as place, client_of(place.url) as client:

        async def held(query: dict[str, Any]) -> set[bytes]:
            have, need = await reconcile(client, query, [])
            assert not have
            return need

        before = [await held(query) for query in asked]
        assert before[0] == known
        kept = dict(place.relay.holdings._kept)
        # One that is superseded when it comes, one that is deleted, one that is taken down.
        deletion = verified("", [["e", events[1].id.hex()]], kind=5, key=1, created_at=NOW + 50)
        await store(brotr, [old, deletion])
        await judge(brotr)
        await brotr.take_down("event", events[7].id, why="a test", who="me")
        gone = {events[1].id, events[7].id}
        assert await held({}) == known - gone | {deletion.id}
        for query, whole in zip(asked[1:], before[1:], strict=True):
            assert await held(query) == whole - gone
        await brotr.undo_takedown("event", events[7].id, why="a test", who="me")
        await brotr.take_down("pubkey", events[2].pubkey, why="a test", who="me", erase=True)
        await judge(brotr)
        theirs = {event.id for event in events if event.pubkey == events[2].pubkey}
        assert await held({}) == known - {events[1].id} - theirs | {deletion.id}
        assert await held(asked[3]) == set()
        # All of it without a set that was read anew.
        assert place.relay.holdings._kept == kept
        # What is over leaves at its time.
        await store(brotr, [mortal])
        await judge(brotr)
        keep_up = place.relay.holdings.keep_up
        assert mortal.id not in await held({})
        (ids,) = {each.ids for each in kept.values() if each.queries == [Query()]}
        ids.update([(mortal.created_at, mortal.id)])
        keep_up._expired_at = NOW
        assert mortal.id not in await held({})
        # Where views hide for other reasons, the sets are read anew.
        await judge(brotr, PolicySettings(deleted=Rule.SERVE))
        assert await held({}) == known - theirs | {deletion.id}


async def test_sets_are_read_anew_where_too_much_has_changed(
    brotr: Brotr, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = some(100)
    await store(brotr, events[:10])
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert (await reconcile(client, {}, []))[1] == {event.id for event in events[:10]}
        (first,) = place.relay.holdings._kept.values()
        monkeypatch.setattr(upkeep, "MOST", 20)
        await store(brotr, events[10:50])
        assert (await reconcile(client, {}, []))[1] == {event.id for event in events[:50]}
        (second,) = place.relay.holdings._kept.values()
        assert second is not first
        # Or where the log was pruned.
        await store(brotr, events[50:60])
        await brotr.prune_arrivals(2**40)
        assert (await reconcile(client, {}, []))[1] == {event.id for event in events[:60]}
        (third,) = place.relay.holdings._kept.values()
        assert third is not second
        # Or where the database was away while changes were read.
        await store(brotr, events[60:61])

        async def fail(*_: object) -> None:
            raise TimeoutError

        with monkeypatch.context() as broken:
            broken.setattr(place.relay.holdings.keep_up, "_tell", fail)
            kind, _, reason = await client.ask("NEG-OPEN", "a", {}, "6100000200")
            assert (kind, reason) == ("NEG-ERR", "error: the database has no time; ask again")
        assert (await reconcile(client, {}, []))[1] == {event.id for event in events[:61]}


async def test_too_much_is_refused_with_how_much_may_be(brotr: Brotr, dsn: str) -> None:
    await store(brotr, some(300))
    bounds = {"max_reconciled": 200, "max_reconciliations": 2}
    async with relay_of(dsn, bounds=bounds) as place, client_of(place.url) as client:
        kind, name, reason, most = await client.ask("NEG-OPEN", "a", {}, "6100000200")
        assert (kind, name, most) == ("NEG-ERR", "a", 200)
        assert reason.startswith("blocked: ")
        assert place.relay.holdings.items == 0
        less = {"until": NOW + 20}
        for name in "ab":
            assert (await client.ask("NEG-OPEN", name, less, "6100000200"))[0] == "NEG-MSG"
        kind, _, reason = await client.ask("NEG-OPEN", "c", less, "6100000200")
        assert (kind, reason.partition(":")[0]) == ("NEG-ERR", "blocked")
        # Opened again, it is another one, and takes no more room.
        assert (await client.ask("NEG-OPEN", "b", less, "6100000200"))[0] == "NEG-MSG"


async def test_memory_is_bounded_for_all_together(brotr: Brotr, dsn: str) -> None:
    await store(brotr, some(300))
    async with relay_of(dsn) as place, client_of(place.url) as client:
        holdings = place.relay.holdings
        holdings._room = 500
        assert (await client.ask("NEG-OPEN", "a", {}, "6100000200"))[0] == "NEG-MSG"
        kind, _, reason, most = await client.ask(
            "NEG-OPEN", "b", {"kinds": [0, 1, 2]}, "6100000200"
        )
        assert (kind, reason.partition(":")[0]) == ("NEG-ERR", "blocked")
        assert most == 200
        assert holdings.items == 300
        # What nobody uses any more makes room.
        await client.say("NEG-CLOSE", "a")
        again = await client.ask("NEG-OPEN", "b", {"kinds": [0, 1, 2]}, "6100000200")
        assert again[0] == "NEG-MSG"
        assert holdings.items == 300


@pytest.mark.parametrize(
    ("rest", "answer"),
    [
        ([{}], "takes a filter and a message"),
        ([{}, "xyz"], "hex digits"),
        ([{}, 5], "hex digits"),
        ([{"ids": ["a"]}, "61"], "64 hex digits"),
        ([["a"], "61"], "JSON object"),
        ([[], "61"], "1 to 20 filters, not 0"),
        ([[{}] * 21, "61"], "1 to 20 filters, not 21"),
        ([{}, ""], "truncated"),
        ([{}, "6100"], "truncated"),
        ([{}, "610000"], "truncated"),
        ([{}, "61000009"], "unknown mode"),
    ],
)
async def test_what_makes_no_sense_is_refused(dsn: str, rest: list[Any], answer: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        kind, name, reason = await client.ask("NEG-OPEN", "a", *rest)
        assert (kind, name) == ("NEG-ERR", "a")
        assert reason.startswith("invalid: ")
        assert answer in reason
        assert not place.relay.holdings.items or not any(
            each.users for each in place.relay.holdings._kept.values()
        )


async def test_another_version_is_answered_by_ours(dsn: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert await client.ask("NEG-OPEN", "a", {}, "6200000200") == ["NEG-MSG", "a", "61"]
