"""New events reach the subscriptions that want them, each once, and none falls in between."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import anyio

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from tests.kit.events import NOW, pubkey, verified
from tests.kit.processes import until
from tests.serve.relay.client import Client, client_of, ids_of, relay_of, store


async def test_subscriptions_are_told_of_what_they_want(brotr: Brotr, dsn: str) -> None:
    target = verified()
    filters = {
        "all": {},
        "kind": {"kinds": [7]},
        "author": {"authors": [pubkey(1)]},
        "both": {"authors": [pubkey(1)], "kinds": [1]},
        "tag": {"#e": [target.id.hex()]},
        "id": {"ids": [target.id.hex()]},
        "since": {"since": NOW + 1000},
        "none": {"kinds": []},
    }
    like = verified(kind=7, tags=[["e", target.id.hex()]])
    ours = verified(key=1)
    late = verified(kind=4, created_at=NOW + 1000, key=1)
    wanted = {
        "all": {target, like, ours, late},
        "kind": {like},
        "author": {ours, late},
        "both": {ours},
        "tag": {like},
        "id": {target},
        "since": {late},
    }
    async with relay_of(dsn) as place, client_of(place.url) as client:
        for name, query in filters.items():
            assert (await client.ask("REQ", name, query, query))[0] == "EOSE"
        await store(brotr, [target, like])
        await store(brotr, [ours, late])
        number = sum(map(len, wanted.values()))
        frames = [await client.hear() for _ in range(number)]
        assert Counter((frame[1], frame[2]["id"]) for frame in frames) == Counter(
            (name, event.id.hex()) for name, events in wanted.items() for event in events
        )
        assert (await client.ask("COUNT", "n", {}))[0] == "COUNT"  # nothing else has come


async def test_no_event_falls_between_stored_and_live(brotr: Brotr, dsn: str) -> None:
    """Subscriptions begin while events are stored: each is told of every event, once."""
    events = [verified(f"{n}", created_at=NOW + n) for n in range(400)]
    async with relay_of(dsn) as place, client_of(place.url) as client:

        async def write() -> None:
            for start in range(0, len(events), 10):
                await store(brotr, events[start : start + 10])

        found: dict[str, list[str]] = {}
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            for number in range(30):
                found[f"{number}"] = []
                await client.say("REQ", f"{number}", {"kinds": [1]})
                await asyncio.sleep(0.005)
        # This one comes last.
        last = verified("last", created_at=NOW + 1000)
        await store(brotr, [last])
        left = set(found)
        while left:
            frame = await client.hear()
            if frame[0] == "EVENT":
                found[frame[1]].append(frame[2]["id"])
                if frame[2]["id"] == last.id.hex():
                    left.discard(frame[1])
        every = Counter(event.id.hex() for event in [*events, last])
        for ids in found.values():
            assert Counter(ids) == every


async def test_a_transaction_that_ends_late_is_told_once(brotr: Brotr, dsn: str) -> None:
    """The log of arrivals waits for it; who has seen its neighbours stored is not told again."""
    pool = brotr.pool
    async with relay_of(dsn) as place, client_of(place.url) as client, pool.acquire() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT pg_catalog.pg_current_xact_id()")
        early = verified()
        await store(brotr, [early])
        ids, _ = await client.stored({}, name="first")
        assert ids == [early.id.hex()]
        await client.say("REQ", "a", {})
        assert ids_of(await client.until("EOSE")) == [early.id.hex()]
        (subscription,) = place.relay.owners

        async def is_looked_at() -> bool:
            return subscription.past is not None

        await until(is_looked_at, "a look at the log")
        assert subscription._sent == {early.id}  # it may still come
        await transaction.rollback()

        async def is_settled() -> bool:
            return subscription._sent is None

        await until(is_settled, "the end of the transaction")
        new = verified()
        await store(brotr, [new])
        assert ids_of([await client.hear()]) == [new.id.hex()]


async def test_what_comes_while_an_answer_is_sent_comes_after_it(brotr: Brotr, dsn: str) -> None:
    large = [verified(f"{n}" + 700_000 * "x", created_at=NOW + n) for n in range(40)]
    await store(brotr, large)
    async with relay_of(dsn) as place, client_of(place.url, max_queue=1) as client:
        await client.say("REQ", "a", {})
        first = await client.hear()
        new = verified("new", created_at=NOW + 1000)
        await store(brotr, [new])
        (subscription,) = place.relay.owners

        async def is_held() -> bool:
            return bool(subscription._held)

        await until(is_held, "the new event, held back")
        frames = [first, *await client.until("EOSE"), await client.hear()]
        assert frames[-2][0] == "EOSE"
        assert ids_of(frames) == [e.id.hex() for e in reversed(large)] + [new.id.hex()]


async def test_nobody_is_followed_for(brotr: Brotr, dsn: str) -> None:
    async with relay_of(dsn) as place:
        follower = place.relay.follower
        async with client_of(place.url) as client:
            assert (await client.ask("REQ", "a", {}))[0] == "EOSE"
            assert follower._arrivals is not None

        async def is_over() -> bool:
            return follower._arrivals is None

        await until(is_over, "the end of following")
        assert not place.relay.owners
        assert not place.relay.views["/"].live._entries
        # And then again.
        async with client_of(place.archive) as client:
            assert (await client.ask("REQ", "a", {}))[0] == "EOSE"
            new = verified()
            await store(brotr, [new])
            assert ids_of([await client.hear()]) == [new.id.hex()]


async def test_many_clients_are_told(brotr: Brotr, dsn: str) -> None:
    new = verified()

    async def listen(client: Client) -> None:
        assert ids_of([await client.hear()]) == [new.id.hex()]

    async with relay_of(dsn) as place, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                client_of(place.url, compression="deflate" if number % 2 else None)
            )
            for number in range(60)
        ]
        for client in clients:
            assert (await client.ask("REQ", "live", {"since": NOW}))[0] == "EOSE"
        async with anyio.create_task_group() as group:
            for client in clients:
                group.start_soon(listen, client)
            await store(brotr, [new])


async def test_after_the_database_was_away_all_is_told_once(brotr: Brotr, dsn: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert (await client.ask("REQ", "a", {}))[0] == "EOSE"
        pool: Pool = place.server.service.pool
        await brotr.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'bigbrotr serve' AND datname = current_database()"
        )
        events = [verified() for _ in range(20)]
        for event in events:
            await store(brotr, [event])
        frames = [await client.hear() for _ in events]
        assert Counter(ids_of(frames)) == Counter(event.id.hex() for event in events)
        assert pool.is_connected


async def test_what_was_pruned_unread_ends_subscriptions(brotr: Brotr, dsn: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert (await client.ask("REQ", "a", {}))[0] == "EOSE"
        # As if this process had slept while others stored and pruned.
        arrivals = place.relay.follower._arrivals
        async with brotr.pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO bigbrotr.arrivals_pruned (xid, id)"
                " VALUES (pg_catalog.pg_current_xact_id(), 1)"
            )
        assert arrivals is not None
        await store(brotr, [verified()])
        frames = await client.until("CLOSED")
        assert frames[-1][2].startswith("error: ")
        assert (await client.ask("REQ", "a", {}))[0] == "EVENT"
