"""The rescue service: chosen authors' events live on where they were, when a relay is gone."""

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from bigbrotr.reads.where import where
from tests.kit.events import NOW, make_event, pubkey
from tests.kit.real import free_port, local_relay
from tests.kit.scripted import ScriptedRelay
from tests.services.rescue.town import (
    DEAD,
    WELL,
    archive,
    cycle,
    holders,
    make_due,
    states,
)

KILL = """
    INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, checked_at, outcome, failed)
    SELECT r.id, 0, 'down', 7, 8, 'refused', '{}' FROM bigbrotr.relays r WHERE r.url = $1
"""


async def test_events_of_a_relay_that_is_gone_live_on_elsewhere(brotr: Brotr) -> None:
    events = [make_event(NOW - n, content=f"note {n}") for n in range(70)]
    async with ScriptedRelay(events) as gone:
        mine = await archive(brotr, events, Relay(gone.url))
        (other,) = await archive(brotr, [make_event(content="another's", key=1)], Relay(gone.url))
    await brotr.pool.execute(KILL, gone.url)
    async with local_relay() as url:
        await brotr.insert_relays([Relay(url)])
        for _ in range(2):  # a relay is sent 50 events in a conversation
            await cycle(brotr, to=(url,), below=1)
            await make_due(brotr)
        assert set((await states(brotr)).values()) == {("held", "")}
        for event in mine:
            assert await holders(brotr, event.id) == {gone.url, url}
        assert await holders(brotr, other.id) == {gone.url}
        found = await where(brotr.pool, mine[0].id)
        assert {each.relay for each in found.present} == {gone.url, url}


async def test_nothing_is_sent_twice(brotr: Brotr) -> None:
    async with ScriptedRelay() as target:
        events = await archive(
            brotr,
            [make_event(NOW - n, content=f"{n}") for n in range(3)],
            DEAD,
            targets=[target.url],
        )
        for _ in range(3):
            await cycle(brotr, to=(target.url,), below=2)
            await make_due(brotr)
        assert len(target.seen.events) == 3
        # As soon as it is proven not to hold one any more, that one is sent again.
        number = (await brotr.known_relays())[target.url]
        lost = events[1]
        await brotr.pool.execute(
            "UPDATE bigbrotr.presence SET seen_ats = ARRAY[NULL]::integer[] WHERE relay_id = $1",
            number,
        )
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.dropped VALUES ($1, 0, 2^40::bigint, $2, $3, $4)",
            lost.created_at,
            number,
            lost.created_at // 604_800,
            lost.id,
        )
        target.events = [each for each in target.events if each["id"] != lost.id.hex()]
        await cycle(brotr, to=(target.url,), below=2)
        sent = [each["id"] for each in target.seen.events]
        assert sent[3:] == [lost.id.hex()]


async def test_only_what_too_few_relays_hold_that_are_well(brotr: Brotr) -> None:
    async with ScriptedRelay() as target:
        (safe,) = await archive(brotr, [make_event(content="safe")], DEAD, WELL)
        (scarce,) = await archive(brotr, [make_event(content="scarce")], DEAD)
        await brotr.pool.execute(KILL, DEAD.url)
        await cycle(brotr, to=(target.url,), below=1)
        assert set(await states(brotr)) == {scarce.id}
        await cycle(brotr, to=(target.url,), below=2)
        assert set(await states(brotr)) == {scarce.id, safe.id}


async def test_without_relays_they_go_where_their_author_writes(brotr: Brotr) -> None:
    async with ScriptedRelay() as first, ScriptedRelay() as second, ScriptedRelay() as third:
        old = make_event(NOW - 9, 10002, [["r", third.url]])
        tags = [
            ["r", first.url],
            ["r", second.url, "write"],
            ["r", third.url, "read"],
            ["r", "nonsense"],
            ["r"],
            ["r", f"ws://127.0.0.1:{free_port()}/" + "x" * 3000],
        ]
        lists = [old, make_event(NOW, 10002, tags)]
        _, newest = await archive(brotr, lists, DEAD)
        (note,) = await archive(brotr, [make_event(content="mine")], DEAD)
        await archive(brotr, [make_event(content="another's", key=1)], DEAD)
        await cycle(brotr, authors=(pubkey(0), pubkey(1)))
        wanted = {newest.id.hex(), note.id.hex()}
        assert {each["id"] for each in first.events} == wanted
        assert {each["id"] for each in second.events} == wanted
        assert third.events == []


async def test_off_by_default_and_without_authors_nothing_is_selected(brotr: Brotr) -> None:
    await archive(brotr, [make_event()], DEAD)
    await cycle(brotr, authors=(), to=("wss://target.example.com",))
    assert await states(brotr) == {}
