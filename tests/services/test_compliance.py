"""Deletion compliance: what is counted of each relay equals a dumb recount, whatever comes when."""

import random
import time
from typing import NamedTuple

import pytest

from bigbrotr.config.settings import StatisticsSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.rescues import RescueOutcome, TargetOutcome, ToRescue
from bigbrotr.models.coverage import Span
from bigbrotr.models.event import Event
from bigbrotr.models.relay import Relay
from bigbrotr.reads.compliance import Kept, kept_by
from bigbrotr.reads.statistics import STATISTICS, Compliance, figures
from bigbrotr.services.statistics import Statistics
from tests.kit.archive import A, B, C, claim_one, keys, ordered, pairs, relay_id
from tests.kit.events import NOW, pubkey, verified
from tests.kit.policy import deletes, judge, makes_vanish

DAY = 86_400
SETTINGS = StatisticsSettings(every_s=0)
RELAYS = (A, B, C)


async def count(brotr: Brotr) -> None:
    await judge(brotr)
    async with Statistics(brotr, SETTINGS) as statistics:
        await statistics.run()
    assert not await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.compliance_days")


async def counted(brotr: Brotr) -> dict[str, Compliance]:
    rows = await figures(brotr.pool, STATISTICS["compliance"])
    return {row.relay: row for _, row in rows}


class Asked(NamedTuple):
    """That a relay was asked to delete an event."""

    asked_at: int
    seen_at: int
    dropped_at: int | None


def asks(request: Event, event: Event, relay: str) -> bool:
    if event.kind in (5, 62):
        return False
    return deletes(request, event) or makes_vanish(request, event, relay)


async def recount(brotr: Brotr, events: list[Event]) -> dict[tuple[str, bytes], Asked]:
    """By relay and event, by a look at each event and each request."""
    seen: dict[tuple[str, bytes], tuple[int, int | None]] = {}
    for row in await brotr.pool.fetch(
        "SELECT r.url, d.event_id, d.seen_at, d.dropped_at FROM bigbrotr.dropped d"
        " JOIN bigbrotr.relays r ON r.id = d.relay_id"
    ):
        seen[row["url"], row["event_id"]] = (row["seen_at"], row["dropped_at"])
    for event_id, url, at in await brotr.pool.fetch("SELECT * FROM bigbrotr.events_relays"):
        seen[url, event_id] = (at, None)
    found = {}
    for (url, event_id), (seen_at, dropped_at) in seen.items():
        (event,) = (each for each in events if each.id == event_id)
        asked = [
            seen[url, request.id][0]
            for request in events
            if request.kind in (5, 62) and (url, request.id) in seen and asks(request, event, url)
        ]
        if asked and (dropped_at is None or dropped_at > min(asked)):
            found[url, event_id] = Asked(min(asked), seen_at, dropped_at)
    return found


async def check(brotr: Brotr, events: list[Event], proven: dict[str, int]) -> int:
    """Compares; returns how many events relays were asked to delete. `proven`: as of when each
    relay is proven, from the beginning until now."""
    await count(brotr)
    expected = await recount(brotr, events)
    by_day: dict[tuple[str, int], list[Asked]] = {}
    created = {event.id: event.created_at for event in events}
    for (url, event_id), each in expected.items():
        by_day.setdefault((url, created[event_id] // DAY), []).append(each)
    figures_of = await counted(brotr)
    assert figures_of.keys() == {url for url, _ in expected}
    for url, found in figures_of.items():
        deleted = kept = unknown = 0
        for (relay, _), of_day in by_day.items():
            if relay != url:
                continue
            still = [each for each in of_day if each.dropped_at is None]
            deleted += len(of_day) - len(still)
            # What is known of a day is known of all of it.
            last = max(
                (each.asked_at for each in still if each.seen_at <= each.asked_at), default=0
            )
            is_known = last < proven.get(url, 1)
            kept += len(still) * is_known
            unknown += len(still) * (not is_known)
        assert (found.deleted, found.kept, found.unknown) == (deleted, kept, unknown)
        listed = [each async for each in kept_by(brotr.pool, url)]
        assert {(url, bytes.fromhex(each.event)) for each in listed} == {
            key for key, each in expected.items() if key[0] == url and each.dropped_at is None
        }
        for entry in listed:
            asked = expected[url, bytes.fromhex(entry.event)]
            assert entry.asked_at == asked.asked_at
            proofs = [at for at in (proven.get(url, 0), asked.seen_at) if at > asked.asked_at]
            assert entry.held_as_of == max(proofs, default=None)
    return len(expected)


async def prove(brotr: Brotr, relay: Relay, at: int) -> None:
    """All that the relay holds was looked at."""
    await brotr.pool.execute(
        "DELETE FROM bigbrotr.coverage c USING bigbrotr.relays r"
        " WHERE r.id = c.relay_id AND r.url = $1",
        relay.url,
    )
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.coverage (relay_id, filter, how, proven, proven_at)"
        " SELECT id, '', 'paging', int8multirange(int8range(0, $2)), $3"
        " FROM bigbrotr.relays WHERE url = $1",
        relay.url,
        NOW + DAY,
        at,
    )


def history(chance: random.Random, size: int) -> list[Event]:
    """Events of three authors, and requests for their deletion, some of which are void."""
    made: list[Event] = []
    for number in range(size):
        key = chance.randrange(3)
        kind = chance.choice((1, 1, 0, 30_023, 1059, 5, 5))
        if chance.random() < 0.05:
            kind = 62
        tags: list[list[str]] = [["d", chance.choice("xy")]]
        if kind == 1059:
            tags.append(["p", pubkey(chance.randrange(3))])
        if kind == 5:
            tags += [["e", event.id.hex()] for event in chance.sample(made, min(len(made), 3))]
            tags.append(["a", f"30023:{pubkey(key)}:{chance.choice('xy')}"])
        if kind == 62:
            tags.append(["relay", chance.choice(("ALL_RELAYS", A.url, B.url))])
        at = NOW - chance.randrange(4) * DAY - chance.randrange(1000)
        made.append(verified(f"{number}", kind=kind, created_at=at, key=key, tags=tags))
    return made


@pytest.mark.parametrize("seed", range(4))
async def test_compliance_equals_a_recount(brotr: Brotr, seed: int) -> None:
    """Pages, drops, proofs and a relay that goes, in any order; requests before their targets."""
    chance = random.Random(seed)
    left = history(chance, 70)
    chance.shuffle(left)
    visits = {relay: await claim_one(brotr, relay) for relay in RELAYS}
    ever: list[Event] = []
    proven: dict[str, int] = {}
    asked = 0
    now = NOW
    while left:
        now += 10
        page = [left.pop() for _ in range(min(len(left), 10))]
        ever += page
        relays = chance.sample(RELAYS, chance.randrange(1, 4))
        again = chance.sample(ever, min(len(ever), 10))
        await brotr.insert_events(pairs(ordered(list({*page, *again})), *relays, seen_at=now))
        now += 10
        relay = chance.choice(RELAYS)
        some = ordered(chance.sample(ever, min(len(ever), 6)))
        await brotr.note_drops(visits[relay], keys(some), before=now + 1, now=now)
        if chance.random() < 0.6:
            now += 10
            relay = chance.choice(RELAYS)
            await prove(brotr, relay, now)
            proven[relay.url] = now
        asked = max(asked, await check(brotr, ever, proven))
    assert asked > 20
    found = (await counted(brotr)).values()
    assert all(sum(getattr(row, name) for row in found) for name in ("deleted", "kept"))
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", C.url)
    await brotr.delete_orphan_events()
    rows = await brotr.pool.fetch("SELECT id FROM bigbrotr.events_stored")
    ids = {row["id"] for row in rows}
    await check(brotr, [event for event in ever if event.id in ids], proven)


async def test_a_relay_that_obeys_and_one_that_does_not(brotr: Brotr) -> None:
    """…nor does one count that was never asked, or only asked by somebody else."""
    event, other = verified("mine"), verified("theirs", key=1)
    request = verified(
        kind=5,
        created_at=NOW + 5,
        tags=[["e", event.id.hex()], ["e", other.id.hex()]],
    )
    visit = await claim_one(brotr, A)
    both = ordered([event, other])
    await brotr.insert_events(pairs(both, A, B, C))
    await brotr.insert_events(pairs([request], A, B, seen_at=NOW + 9))
    await count(brotr)
    unknown = Compliance(A.url, "clearnet", 0, 0, 1, None)
    assert await counted(brotr) == {
        A.url: unknown,
        B.url: Compliance(B.url, "clearnet", 0, 0, 1, None),
    }
    await brotr.note_drops(visit, keys([event]), before=NOW + 20, now=NOW + 20)
    await prove(brotr, B, NOW + 30)
    await count(brotr)
    assert await counted(brotr) == {
        A.url: Compliance(A.url, "clearnet", 1, 0, 0, None),
        B.url: Compliance(B.url, "clearnet", 0, 1, 0, NOW + 30),
    }
    assert [each async for each in kept_by(brotr.pool, B.url)] == [
        Kept(event.id.hex(), NOW, 1, request.id.hex(), NOW + 9, NOW + 30)
    ]
    assert await relay_id(brotr, C)


async def test_what_comes_again_after_it_was_deleted(brotr: Brotr) -> None:
    """It is kept, as of when it was seen again."""
    event = verified("mine")
    request = verified(kind=5, created_at=NOW + 5, tags=[["e", event.id.hex()]])
    visit = await claim_one(brotr, A)
    await brotr.insert_events(pairs([event, request], A))
    await brotr.note_drops(visit, keys([event]), before=NOW + 20, now=NOW + 20)
    await count(brotr)
    assert (await counted(brotr))[A.url].deleted == 1
    await brotr.insert_events(pairs([event], A, seen_at=NOW + 60))
    await count(brotr)
    assert (await counted(brotr))[A.url] == Compliance(A.url, "clearnet", 0, 1, 0, None)
    (kept,) = [each async for each in kept_by(brotr.pool, A.url)]
    assert kept.held_as_of == NOW + 60


async def test_requests_to_leave_one_relay(brotr: Brotr) -> None:
    """They are meant for that one, wherever else they are held."""
    event = verified("mine", created_at=NOW - 3 * DAY)
    request = verified(kind=62, created_at=NOW, tags=[["relay", B.url]])
    await brotr.insert_events(pairs(ordered([event, request]), A, B))
    await count(brotr)
    assert (await counted(brotr)).keys() == {B.url}
    assert not await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.hidden WHERE why & 8 > 0")


async def test_a_day_that_is_not_proven_as_a_whole(brotr: Brotr) -> None:
    number = None
    await brotr.insert_events(pairs([verified()], A))
    number = await relay_id(brotr, A)
    proven_at = "SELECT bigbrotr.proven_at_of(p_relay_id => $1, p_day => $2)"
    assert await brotr.pool.fetchval(proven_at, number, NOW // DAY) is None
    start = NOW // DAY * DAY
    for span, at in ((Span(start, start + 9), 7), (Span(start + 9, start + DAY), 5)):
        assert await brotr.pool.fetchval(proven_at, number, NOW // DAY) is None
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.coverage (relay_id, filter, how, proven, proven_at)"
            " VALUES ($1, '', 'paging', int8multirange(int8range($2, $3)), $4)",
            number,
            span.since,
            span.until,
            at,
        )
    assert await brotr.pool.fetchval(proven_at, number, NOW // DAY) == 5


async def test_what_a_relay_was_sent_counts_as_asked(brotr: Brotr) -> None:
    """Also where it did not keep the request; not before it has accepted it."""
    event = verified("to be deleted")
    request = verified(kind=5, created_at=NOW + 1, tags=[["e", event.id.hex()]])
    await brotr.insert_events(pairs([event], A, B))
    await brotr.insert_events(pairs([request], B))
    await count(brotr)
    assert set(await counted(brotr)) == {B.url}
    await brotr.queue_rescues([ToRescue(A.url, request.created_at, request.id, request.pubkey)])
    await count(brotr)
    assert set(await counted(brotr)) == {B.url}
    owner = "sender"
    ((rescue,),) = await brotr.claim_rescues(None, limit=10, owner=owner, lease_s=60)
    accepted = RescueOutcome(request.id, "accepted", is_answer=True)
    done = TargetOutcome("ok", has_taken=True)
    await brotr.settle_rescues(rescue.target_id, [accepted], done, owner=owner, max_attempts=3)
    assert await brotr.compliance_due()
    await count(brotr)
    found = await counted(brotr)
    assert set(found) == {A.url, B.url}
    assert (found[A.url].deleted, found[A.url].kept + found[A.url].unknown) == (0, 1)
    visit = await claim_one(brotr, A)
    await brotr.note_drops(visit, keys([event]), before=NOW + 100, now=int(time.time()) + 5)
    await count(brotr)
    found = await counted(brotr)
    assert (found[A.url].deleted, found[A.url].kept + found[A.url].unknown) == (1, 0)
