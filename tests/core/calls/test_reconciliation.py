"""What two sides compare: ids in order, windows, drops, and what a relay withholds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.reconciliation import Window
from bigbrotr.core.calls.visits import Visit
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.coverage import Span
from bigbrotr.models.event import Event
from bigbrotr.models.filter import Filter
from bigbrotr.models.relay import Relay
from tests.kit.archive import (
    BOTH,
    CLEARNET,
    A,
    B,
    C,
    check_totals,
    claim,
    claim_a,
    claim_one,
    held,
    keys,
    ordered,
    pairs,
    relay_id,
    spans_of,
)
from tests.kit.events import NOW, verified


async def test_ids_are_read_in_order(brotr: Brotr) -> None:
    events = ordered([verified(created_at=NOW + n // 3) for n in range(20)])
    await brotr.insert_events([*pairs(events, A), *pairs(events[::2], B)])
    everything = Span(0, NOW + 100)

    async def read(span: Span, limit: int, **conditions: Any) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        after = b""
        while True:
            times, ids = await brotr.read_ids(span, after, limit, **conditions)
            assert len(times) // 8 == len(ids) // 32 <= limit
            found += [
                (int.from_bytes(times[8 * n : 8 * n + 8]), ids[32 * n : 32 * n + 32])
                for n in range(len(ids) // 32)
            ]
            if len(ids) // 32 < limit:
                return found
            span, after = Span(found[-1][0], span.until), found[-1][1]

    b = await relay_id(brotr, B)
    for limit in (1, 3, 7, 1000):
        assert await read(everything, limit) == keys(events)
        assert await read(everything, limit, held_by=b) == keys(events[::2])
        assert await read(Span(NOW + 2, NOW + 4), limit) == keys(events[6:12])
    assert await read(everything, 5, kinds={7}) == []
    some = {events[3].pubkey.hex()}
    expected = keys([event for event in events if event.pubkey == events[3].pubkey])
    assert await read(everything, 5, authors=some, kinds={events[3].kind}) == expected
    assert await brotr.find_events([events[4].id, bytes(32), events[0].id], everything) == [
        events[4].created_at,
        None,
        events[0].created_at,
    ]
    assert await brotr.find_events([events[4].id], Span(0, 5)) == [None]


@pytest.mark.one_server  # what a worker has read, only it knows
async def test_reading_ids_reads_the_index_only(brotr: Brotr) -> None:
    await brotr.insert_events(pairs([verified(created_at=NOW + n) for n in range(50)], A))
    await brotr.pool.execute("CHECKPOINT")  # what is not on the disk yet is not taken for visible
    await brotr.pool.execute("VACUUM bigbrotr.events_stored")
    fetched = (
        "SELECT sum(idx_tup_fetch), sum(seq_tup_read) FROM pg_stat_xact_user_tables"
        " WHERE relname LIKE 'events%'"
    )
    read = "SELECT length(ids) FROM bigbrotr.read_ids(0, $1, '', 100, $2, NULL)"
    async with brotr.pool.transaction() as connection:
        assert await connection.fetchval(read, NOW + 100, None) == 50 * 32
        assert tuple(await connection.fetchrow(fetched) or ()) == (0, 0)
        assert await connection.fetchval(read, NOW + 100, [1]) is not None  # this one has to
        assert tuple(await connection.fetchrow(fetched) or ()) == (50, 0)


@pytest.mark.one_server
async def test_reading_what_a_relay_holds_ends_where_it_has_enough(brotr: Brotr) -> None:
    """A plan that sorts reads all there is for each part of it."""
    events = ordered([verified(created_at=NOW - n * 100_000) for n in range(500)])
    await brotr.insert_events(pairs(events, A))
    await brotr.pool.execute("VACUUM ANALYZE bigbrotr.events_stored")
    await brotr.pool.execute("VACUUM ANALYZE bigbrotr.presence")
    relay_id = await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays WHERE url = $1", A.url)
    async with brotr.pool.transaction() as connection:
        for setting in (
            "parallel_setup_cost",
            "parallel_tuple_cost",
            "min_parallel_index_scan_size",
        ):
            await connection.execute(f"SET LOCAL {setting} = 0")  # as if the tables were large
        ids = await connection.fetchval(
            "SELECT ids FROM bigbrotr.read_held_ids($1, $2, $3, '', 30, NULL, NULL, NULL)",
            relay_id,
            0,
            NOW + 1,
        )
        assert ids == b"".join(event.id for event in events[:30])
        fetched = await connection.fetchval(
            "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables"
            " WHERE relname LIKE 'events%'"
        )
        assert fetched < 100


async def test_a_window_is_marked_in_one_pass(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    events = ordered([verified(created_at=NOW + n // 2) for n in range(30)])
    await brotr.insert_events(pairs(events, B))
    await brotr.note_presence(visit, keys(events[:3]), NOW)
    span = Span(NOW, NOW + 10)
    absent = [events[5].id, events[19].id, events[25].id]
    ids = b"".join(event.id for event in events[:20])
    # As many, but others: one was deleted, and one has come since.
    for other in (ids[:-32], ids[32:] + bytes(32), ids + bytes(32), b""):
        assert await brotr.mark_window(visit, span, other, absent) is None
    assert {each for each, url in await held(brotr) if url == A.url} == {
        event.id for event in events[:3]
    }
    assert await brotr.mark_window(visit, span, ids, absent) == 15
    assert await brotr.mark_window(visit, span, ids, absent) == 0
    assert await brotr.mark_window(visit, Span(5, 9), b"", []) == 0
    theirs = {each for each, url in await held(brotr) if url == A.url}
    assert theirs == {event.id for event in events[:20]} - set(absent)
    await check_totals(brotr)


async def test_what_a_reconciliation_found_is_recorded_as_one(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    events = ordered([verified(created_at=NOW + n) for n in range(30)])
    await brotr.insert_events([*pairs(events, B), *pairs(events[:20], A)])
    span = Span(NOW, NOW + 20)
    gone = keys(events[7:9])
    window = Window(span, span, 18, bytes(32), dropped=gone)

    async def record(window: Window) -> int:
        return await brotr.record_window(visit, window, filter="", identity=None, now=NOW)

    assert await record(window) == 2
    assert await record(window) == 0
    await check_totals(brotr)
    digests = [(span, 18, bytes(32))]
    assert await brotr.digests(visit, "") == digests
    rows = await brotr.pool.fetch(
        "SELECT event_id, seen_at, dropped_at FROM bigbrotr.dropped ORDER BY 1"
    )
    assert {row["event_id"] for row in rows} == {event.id for event in events[7:9]}
    assert await spans_of(brotr, "SELECT proven FROM bigbrotr.coverage") == [span]
    await brotr.pool.execute("UPDATE bigbrotr.visits SET epoch = epoch + 1")
    with pytest.raises(LeaseLostError):
        await record(window._replace(digest_span=Span(0, 5), dropped=keys(events[1:3])))
    assert await brotr.digests(visit, "") == digests
    await check_totals(brotr)


@pytest.mark.parametrize(
    "write",
    [
        lambda brotr, visit, events: brotr.note_presence(visit, keys(events), NOW),
        lambda brotr, visit, events: brotr.mark_window(
            visit, Span(0, NOW + 99), b"".join(event.id for event in events), []
        ),
        lambda brotr, visit, events: brotr.note_drops(visit, keys(events), before=NOW + 1, now=NOW),
        lambda brotr, visit, events: brotr.note_withheld(visit, {bytes(32): "x"}, Span(0, 9)),
        lambda brotr, visit, events: brotr.note_reconciliation(visit, "works", "", due_at=0),
        lambda brotr, visit, events: brotr.distrust(visit),
        lambda brotr, visit, events: brotr.store_page(visit, events, now=NOW),
    ],
    ids=["presence", "window", "drops", "withheld", "reconciliation", "distrust", "page"],
)
async def test_who_slept_past_its_lease_writes_nothing(
    brotr: Brotr, write: Callable[[Brotr, Visit, list[Event]], Awaitable[object]]
) -> None:
    """Else it would bring back what another has taken away meanwhile."""
    visit = await claim_a(brotr)
    events = ordered([verified(created_at=NOW + n) for n in range(5)])
    await brotr.insert_events([*pairs(events, B), *pairs(events[:3], A)])
    window = Window(Span(0, NOW + 99), Span(0, NOW + 99), 3, bytes(32))
    await brotr.record_window(visit, window, filter="", identity=None, now=NOW)
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    taken_over = [each for each in await claim(brotr) if each.url == A.url]
    tables = ("presence", "tallies", "dropped", "withheld", "reconciliation", "digests", "coverage")

    async def state() -> list[list[tuple[object, ...]]]:
        rows = [
            await brotr.pool.fetch(f"SELECT * FROM bigbrotr.{name} ORDER BY 1, 2")
            for name in tables
        ]
        return [[tuple(row) for row in table] for table in rows]

    before = await state()
    with pytest.raises(LeaseLostError):
        await write(brotr, visit, events)
    assert await state() == before
    await write(brotr, taken_over[0], events)
    assert await state() != before
    await check_totals(brotr)


async def test_where_a_relay_may_have_pairs(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    assert await brotr.touched(visit) == []
    events = ordered([verified(created_at=NOW + 10 * n) for n in range(6)])
    await brotr.insert_events(pairs(events, B))
    await brotr.note_presence(visit, keys(events[:2]), NOW)
    assert await brotr.touched(visit) == [(NOW, NOW + 11)]
    await brotr.store_page(visit, [verified(created_at=at) for at in (5, 9)], now=NOW)
    assert await brotr.touched(visit) == [(5, 10), (NOW, NOW + 11)]
    await brotr.mark_window(visit, Span(NOW + 15, NOW + 25), events[2].id, [])
    assert await brotr.touched(visit) == [(5, 10), (NOW, NOW + 11), (NOW + 15, NOW + 25)]
    before = await brotr.touched(visit)
    await brotr.note_presence(visit, keys(events[:2]), NOW)
    await brotr.note_drops(visit, keys(events), before=NOW + 1, now=NOW)
    assert await brotr.touched(visit) == before
    # The last second that there is; and of very many stretches, what lies between them as well.
    await brotr.store_page(visit, [verified(created_at=2**63 - 1)], now=NOW)
    assert (await brotr.touched(visit))[-1] == (2**63 - 1, 2**63)
    for at in range(100, 400, 3):
        await brotr.store_page(visit, [verified(created_at=at)], now=NOW)
    assert len(await brotr.touched(visit)) < 100


async def test_pairs_end_that_were_there_before(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    events = ordered([verified(created_at=NOW + n) for n in range(6)])
    for n, event in enumerate(events):
        await brotr.insert_events(pairs([event], A, B, seen_at=NOW + n))
    assert await brotr.note_drops(visit, keys(events), before=NOW + 2, now=NOW + 50) == 2
    assert await brotr.note_drops(visit, keys(events), before=NOW + 2, now=NOW + 60) == 0
    assert {each for each, url in await held(brotr) if url == A.url} == {
        event.id for event in events[2:]
    }
    # By a clock that was ahead the last one would have come later than now.
    assert await brotr.note_drops(visit, keys(events), before=NOW + 2, now=NOW + 4) == 1
    rows = await brotr.pool.fetch("SELECT seen_at, dropped_at FROM bigbrotr.dropped ORDER BY 1")
    assert [tuple(row) for row in rows] == [
        (NOW, NOW + 50),
        (NOW + 1, NOW + 50),
        (NOW + 5, NOW + 4),
    ]
    await check_totals(brotr)


@BOTH
async def test_held_ids_of_events_with_tags(brotr: Brotr, profile: Profile) -> None:
    """As a filter has it; where tags are not kept, nothing is said."""
    tagged = [
        verified(tags=tags, created_at=NOW)
        for tags in (
            [["t", "a"], ["p", "x"]],
            [["t", "b", "a"], ["t", "c"]],
            [["x", "t", "a"]],
            [["t"]],
            [],
        )
    ]
    await brotr.insert_events(pairs(tagged, A))
    a, span = await relay_id(brotr, A), Span(0, NOW + 1)
    for tags in ({"t": {"a"}}, {"t": {"c", "z"}}, {"t": {"a", "b"}, "p": {"x"}}, {"q": {"a"}}, {}):
        _, ids = await brotr.read_ids(span, b"", 99, held_by=a, tags=tags)
        wanted = Filter(tags={name: frozenset(values) for name, values in tags.items()})
        expected = {event.id for event in tagged if wanted.matches(event)}
        found = {ids[at : at + 32] for at in range(0, len(ids), 32)}
        assert found == (expected if profile is Profile.FULL or not tags else set())


async def test_few_events_are_noted_as_withheld(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one relay, those that were asked for longest; and not for ever."""
    monkeypatch.setattr("bigbrotr.core.calls.reconciliation.MOST_WITHHELD", 5)
    visit, other = await claim_a(brotr), await claim_one(brotr, B)
    ids = [bytes([n]) * 32 for n in range(9)]
    span = Span(0, 9)

    async def note(visit: Visit, *places: int) -> int:
        return await brotr.note_withheld(visit, {ids[n]: "why" for n in places}, span)

    async def noted() -> dict[int, int]:
        rows = await brotr.withheld(visit, span)
        return {each[0]: attempts for each, (attempts, _) in rows.items()}

    assert await note(visit, 0, 1, 2) == 3
    assert await note(visit, 2, 3, 4, 5, 6) == 3
    assert await noted() == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}
    assert await note(visit, 0, 8) == 1
    assert await note(other, 7, 8) == 2
    await brotr.pool.execute("UPDATE bigbrotr.withheld SET noted_at = 0 WHERE attempts = 1")
    assert await note(visit, 5, 6) == 2
    assert await noted() == {0: 2, 2: 2, 5: 1, 6: 1}


async def test_windows_and_pages_at_once(brotr: Brotr) -> None:
    """Many relays are marked, noted and stored over the same events without a deadlock."""
    events = ordered([verified(created_at=NOW + n // 2) for n in range(300)])
    await brotr.insert_events(pairs(events[:200], C))
    relays = [Relay(f"wss://r{n}.example.com", NOW) for n in range(8)]
    await brotr.insert_relays(relays)
    visits = await brotr.claim_visits(
        CLEARNET, limit=20, owner="me", lease_s=600, since=0, until=NOW + 1000
    )
    span = Span(NOW, NOW + 1000)

    async def work(number: int, visit: Visit) -> None:
        if number % 2:
            for start in range(0, 300, 50):
                batch = events[start : start + 50]
                await brotr.store_page(visit, batch, now=NOW)
                await brotr.note_presence(visit, keys(batch), NOW)
            return
        while True:
            _, ids = await brotr.read_ids(span, b"", 1000)
            if await brotr.mark_window(visit, span, ids, []) is not None:
                return

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number, visit in enumerate(visits):
            group.create_task(work(number, visit))
    await check_totals(brotr)
