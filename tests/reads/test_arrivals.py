"""The log of new events: who follows it sees each once, also what commits late."""

from contextlib import suppress

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import EventRelay
from bigbrotr.reads.arrivals import Arrivals, Position
from tests.kit.archive import BOTH, A, B, pairs
from tests.kit.events import NOW, verified

BEGINNING = Position(0, 0)


async def ids_of(log: Arrivals) -> list[bytes]:
    return [event_id async for arrival in log.all() for event_id in arrival.ids]


@BOTH
async def test_new_events_alone_are_in_it(brotr: Brotr) -> None:
    log = await Arrivals.from_now(brotr.pool)
    events = sorted(
        (verified(created_at=NOW - n) for n in range(6)), key=lambda e: (e.created_at, e.id)
    )
    await brotr.insert_events(pairs(events[1:4], A))
    await brotr.insert_events(pairs(events, B))  # three of them are known
    await brotr.insert_events(pairs(events, A, B))
    first, second = await log.read()
    assert list(first.ids) == [event.id for event in events[1:4]]
    assert list(second.ids) == [event.id for event in (events[0], *events[4:])]
    assert list(second.created_ats) == [NOW - 5, NOW - 1, NOW]
    assert await log.read() == []
    assert await Arrivals(brotr.pool, first.position).read() == [second]
    assert not log.is_missing


async def test_what_commits_late_is_not_missed(brotr: Brotr) -> None:
    """One transaction stores first and commits last: what the other stored waits for it."""
    log = await Arrivals.from_now(brotr.pool)
    early, late = verified(), verified()
    note = "INSERT INTO bigbrotr.arrivals (created_ats, ids) VALUES ($1, $2)"
    async with brotr.pool.transaction() as one:
        await one.execute(note, [late.created_at], [late.id])
        async with brotr.pool.transaction() as other:
            await other.execute(note, [early.created_at], [early.id])
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.arrivals") == 1
        assert await ids_of(log) == []
    assert await ids_of(log) == [late.id, early.id]
    assert await ids_of(log) == []


async def test_what_is_taken_back_is_not_in_it(brotr: Brotr) -> None:
    log = await Arrivals.from_now(brotr.pool)
    note = "INSERT INTO bigbrotr.arrivals (created_ats, ids) VALUES ('{1}', '{a}')"
    with suppress(ZeroDivisionError):
        async with brotr.pool.transaction() as one:
            await one.execute(note)
            raise ZeroDivisionError
    event = verified()
    await brotr.insert_events([EventRelay(event, A, NOW)])
    assert await ids_of(log) == [event.id]


async def test_what_was_pruned_unread_is_told(brotr: Brotr) -> None:
    slow, quick = (Arrivals(brotr.pool, BEGINNING) for _ in range(2))
    for number in range(5):
        await brotr.insert_events(pairs([verified(created_at=NOW + number)], A))
    read = await quick.read(3)
    await brotr.pool.execute(
        "UPDATE bigbrotr.arrivals SET noted_at = 7 WHERE xid <= $1::bigint::text::xid8",
        read[-1].position.xid,
    )
    assert await brotr.prune_arrivals(8) == 3
    assert await brotr.prune_arrivals(8) == 0
    assert len(await ids_of(slow)) == len(await ids_of(quick)) == 2
    assert (slow.is_missing, quick.is_missing) == (True, False)


async def test_what_another_server_has_counted_goes(brotr: Brotr) -> None:
    """After a restore: nobody could read it here, nor go on behind it."""
    ahead = "'99999999999'::xid8"
    await brotr.insert_events(pairs([verified()], A))
    await brotr.pool.execute(
        f"INSERT INTO bigbrotr.arrivals (xid, created_ats, ids) VALUES ({ahead}, '{{}}', '{{}}')"
    )
    await brotr.pool.execute(f"INSERT INTO bigbrotr.arrivals_pruned (xid, id) VALUES ({ahead}, 5)")
    assert await brotr.prune_arrivals(0) == 0
    log = Arrivals(brotr.pool, BEGINNING)
    assert len(await ids_of(log)) == 1
    assert not log.is_missing
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.arrivals") == 1


async def test_a_position_of_another_server_is_given_up(brotr: Brotr) -> None:
    """After a restore onto one that has counted fewer: what is stored then is not missed."""
    log = Arrivals(brotr.pool, Position(10**12, 7))
    assert await log.read() == []
    assert log.is_missing
    event = verified()
    await brotr.insert_events(pairs([event], A))
    assert await ids_of(log) == [event.id]
