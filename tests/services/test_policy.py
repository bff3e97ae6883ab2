"""The policy service: what is hidden equals a dumb recount, in whatever order things come."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from bigbrotr.config.settings import PolicySettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.models.policy import Reason, Rule, View
from bigbrotr.services.policy import Policy
from tests.kit.archive import BOTH, A, B, C, check_totals, ordered, pairs
from tests.kit.events import NOW, pubkey, verified
from tests.kit.policy import hidden, judge, recount

ALL_RELAYS = ["relay", "ALL_RELAYS"]
KEYS = 3


async def whys(brotr: Brotr, *events: Event) -> list[int]:
    marks = await hidden(brotr)
    return [marks.get(event.id, (0, None))[0] for event in events]


def histories(chance: random.Random, size: int) -> list[Event]:
    """Events that have to do with each other; also with events that never come."""
    made: list[Event] = []

    def tags() -> list[list[str]]:
        some = chance.sample(made, min(len(made), chance.randrange(4)))
        key = pubkey(chance.randrange(KEYS))
        found = [["e", event.id.hex()] for event in some]
        found += [["p", key]] * chance.randrange(2)
        found += [["a", f"{chance.choice((0, 30_023, 1))}:{key}:{chance.choice('xy')}"]]
        found += [["a", f"0:{key}:"]] * chance.randrange(2)
        found += [["expiration", str(NOW + chance.randrange(9))]] * (chance.random() < 0.2)
        found += [["-"]] * (chance.random() < 0.1)
        return [*found, ["d", chance.choice("xy")], ["relay", chance.choice(ALL_RELAYS)]]

    for _ in range(size):
        kind = chance.choice((0, 0, 1, 1, 5, 5, 5, 1059, 30_023, 30_023, 20_001))
        kind = 62 if chance.random() < 0.03 else kind
        at = NOW + chance.randrange(9)
        event = verified(tags=tags(), kind=kind, created_at=at, key=chance.randrange(KEYS))
        made.append(event)
    return made


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_hidden_equals_a_recount(brotr: Brotr, seed: int) -> None:
    """Random histories that come in a random order, from relays of which one goes; the service is
    broken off at random points, finds the log pruned, and the archive older than itself."""
    chance = random.Random(seed)
    history = histories(chance, 120)
    chance.shuffle(history)
    ever: list[Event] = []
    while history:
        page = [history.pop() for _ in range(min(len(history), chance.randrange(1, 15)))]
        ever += page
        await brotr.insert_events(pairs(page, chance.choice((A, B, C))))
        if chance.random() < 0.2:
            await brotr.prune_arrivals(2**40)
        async with Policy(brotr) as policy:
            task = asyncio.create_task(policy.run())
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await judge(brotr)
    assert await hidden(brotr) == recount(ever, ever)
    reasons = [why for why, _ in (await hidden(brotr)).values()]
    assert all(any(why & reason for why in reasons) for reason in (1, 2, 16, 32))

    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", C.url)
    gone = await brotr.delete_orphan_events()
    assert gone > 0
    await judge(brotr)
    rows = await brotr.pool.fetch("SELECT id FROM bigbrotr.events_stored")
    ids = {row["id"] for row in rows}
    assert len(ids) == len(ever) - gone
    archived = [event for event in ever if event.id in ids]
    assert await hidden(brotr) == recount(archived, ever)
    # What has gone comes back.
    await brotr.insert_events(pairs(ever, A))
    await judge(brotr)
    assert await hidden(brotr) == recount(ever, ever)


async def test_a_request_for_deletion_may_come_first_or_last(brotr: Brotr) -> None:
    first, last, foreign = (verified(key=key) for key in (0, 0, 1))
    request = verified(
        kind=5, tags=[["e", event.id.hex()] for event in (first, last, foreign)], created_at=NOW
    )
    again = verified(kind=5, tags=[["e", request.id.hex()]])
    await brotr.insert_events(pairs([first, foreign], A))
    await judge(brotr)
    assert await whys(brotr, first, foreign) == [0, 0]
    await brotr.insert_events(pairs([request, again], A))
    await judge(brotr)
    await brotr.insert_events(pairs([last], A))
    await judge(brotr)
    assert await whys(brotr, first, last, foreign, request, again) == [2, 2, 0, 0, 0]


async def test_the_lowest_id_of_a_second_is_the_newest(brotr: Brotr) -> None:
    events = sorted((verified(kind=0) for _ in range(4)), key=lambda event: event.id)
    for event in events[2], events[1], events[3], events[0]:
        await brotr.insert_events(pairs([event], A))
        await judge(brotr)
    assert await whys(brotr, *events) == [0, 1, 1, 1]


async def test_who_vanishes_has_many_events(brotr: Brotr) -> None:
    """More than one step judges, of several weeks; and gift wraps for the key."""
    own = [verified(created_at=NOW - 9000 * n) for n in range(1, 1200)]
    wrap = verified(kind=1059, tags=[["p", pubkey()]], created_at=NOW - 5, key=1)
    later = verified(created_at=NOW + 1)
    await brotr.insert_events(pairs([*own, wrap, later], A))
    await judge(brotr)
    assert await hidden(brotr) == {}
    vanishing = verified(kind=62, tags=[ALL_RELAYS])
    await brotr.insert_events(pairs([vanishing], A))
    await judge(brotr)
    assert await hidden(brotr) == {event.id: (8, None) for event in (*own, wrap)}


async def test_who_vanishes_from_us_alone(brotr: Brotr) -> None:
    """It counts once we say that this is our address, also for what came before."""
    event = verified(created_at=NOW - 1)
    vanishing = verified(kind=62, tags=[["relay", "wss://archive.example.com/"]])
    await brotr.insert_events(pairs([event, vanishing], A))
    await judge(brotr)
    await judge(brotr, public_url="https://other.example.com")
    assert await whys(brotr, event) == [0]
    await judge(brotr, public_url="https://archive.example.com")
    assert await whys(brotr, event, vanishing) == [Reason.VANISHED, 0]


@BOTH
async def test_what_a_profile_can_tell(brotr: Brotr, profile: Profile) -> None:
    """Without tags: plain replaceable events, ephemeral ones and takedowns."""
    old, new = (verified(kind=0, created_at=NOW + n) for n in range(2))
    note = verified(tags=[["-"]])
    other = verified(kind=20_001)
    addressed = [verified(kind=30_023, tags=[["d", "x"]], created_at=NOW + n) for n in range(2)]
    request = verified(kind=5, tags=[["e", note.id.hex()]])
    every = [old, new, note, other, *addressed, request]
    await brotr.insert_events(pairs(every, A))
    await judge(brotr)
    is_full = profile is Profile.FULL
    assert await whys(brotr, *every) == [1, 0, 18 * is_full, 32, 1 * is_full, 0, 0]
    assert await brotr.take_down("event", new.id, why="x", who="me")
    assert await brotr.take_down("pubkey", bytes.fromhex(pubkey()), why="x", who="me")
    await judge(brotr)
    assert await whys(brotr, new, addressed[1]) == [64, 64]
    assert await brotr.undo_takedown("pubkey", bytes.fromhex(pubkey()), why="x", who="me")
    await judge(brotr)
    assert await whys(brotr, new, addressed[1]) == [64, 0]


async def test_an_archive_that_is_older_is_walked_through(brotr: Brotr) -> None:
    events = [verified(kind=0, created_at=NOW + n, key=n % 7) for n in range(2500)]
    await brotr.insert_events(pairs(events, A))
    await brotr.pool.execute("TRUNCATE bigbrotr.arrivals")
    async with Policy(brotr) as policy:
        await brotr.begin_policy([], 0, 255, 254)
        assert (await brotr.judge_review([])).events == 1000
        del policy
    await judge(brotr)
    assert await hidden(brotr) == recount(events, events)


async def test_after_a_restore_onto_another_server(brotr: Brotr) -> None:
    """It has counted fewer transactions: all are judged again, and new ones are not missed."""
    await judge(brotr)
    await brotr.pool.execute("UPDATE bigbrotr.policy_state SET xid = 99999999999, id = 5")
    old, new = (verified(kind=0, created_at=NOW + n) for n in range(2))
    await brotr.insert_events(pairs([old], A))
    await judge(brotr)
    await brotr.insert_events(pairs([new], A))
    await judge(brotr)
    assert await whys(brotr, old, new) == [1, 0]


async def test_several_judge_at_once(brotr: Brotr) -> None:
    history = histories(random.Random(9), 60)
    await brotr.insert_events(pairs(history, A))
    services = [Policy(brotr) for _ in range(4)]
    await asyncio.gather(*(service.run() for service in services))
    await judge(brotr)
    assert await hidden(brotr) == recount(history, history)


def of_text(events: Sequence[Event]) -> list[str]:
    return [word for event in events for word in (event.content, event.sig.hex())]


async def everything(brotr: Brotr) -> str:
    """All rows of all tables, as text; bytes in hex."""
    names = await brotr.pool.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'bigbrotr'::regnamespace"
        " AND relkind = 'r'"
    )
    assert len(names) > 30
    found = []
    for row in names:
        texts = await brotr.pool.fetch(f"SELECT t::text FROM bigbrotr.{row['relname']} AS t")
        found += [each[0] for each in texts]
    return "\n".join(found)


async def test_what_is_erased_is_nowhere(brotr: Brotr) -> None:
    """Not in any table; but it is known to be archived, and which relays hold it."""
    secret = verified("a secret\0of mine", [["t", "hush"], ["expiration", "7"]], kind=30_023, key=1)
    newer = verified("newer secret", [["t", "hush"]], kind=30_023, key=1, created_at=NOW + 1)
    other = verified("something else", key=2)
    await brotr.insert_events(pairs([secret, newer, other], A, B))
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.rejected (relay_id, reason, count, first_at, last_at, samples)"
        " SELECT id, 'bad signature', 2, 0, 0, ARRAY[$1::bytea, $2] FROM bigbrotr.relays",
        newer.to_json().encode(),
        other.to_json().encode(),
    )
    await judge(brotr)
    assert b"newer secret".hex() in await everything(brotr)
    for event in secret, newer:
        assert await brotr.take_down("event", event.id, why="asked", who="me", erase=True)
    left = await everything(brotr)
    words = [*of_text([newer]), secret.sig.hex(), "secret", "hush"]
    assert [word for word in words if word in left or word.encode().hex() in left] == []
    assert other.content in left
    assert other.content.encode().hex() in left
    assert await whys(brotr, secret, newer) == [64 | 128 | 1, 64 | 128]
    await check_totals(brotr)
    assert await brotr.insert_events(pairs([secret, newer], C)) == (0, 2)
    assert await brotr.vacuum_erased() > 0
    assert await brotr.vacuum_erased() == 0


async def test_what_is_taken_down_before_it_comes_is_erased_at_once(brotr: Brotr) -> None:
    lone, hidden_one = verified("lone"), verified("hidden")
    of_key = [verified(f"of the key {n}", key=1) for n in range(3)]
    await brotr.take_down("event", lone.id, why="x", who="me", erase=True)
    await brotr.take_down("event", hidden_one.id, why="x", who="me")
    await brotr.take_down("pubkey", of_key[0].pubkey, why="x", who="me", erase=True)
    await judge(brotr)
    await brotr.insert_events(pairs([lone, hidden_one, *of_key], A))
    await judge(brotr)
    rows = await brotr.pool.fetch("SELECT id, kind, content FROM bigbrotr.events_stored")
    kept = {row["id"]: row["content"] for row in rows if row["kind"] >= 0}
    assert kept == {hidden_one.id: "hidden"}
    assert len(rows) == 5
    assert await whys(brotr, lone, hidden_one, *of_key) == [192, 64, 192, 192, 192]


async def test_what_a_rule_erases(brotr: Brotr) -> None:
    """Also what was hidden before the rule, and what expires, once its time has come."""
    note, later = verified("deleted"), verified("later", [["expiration", str(2**40)]])
    over = verified("over", [["expiration", "5"]])
    request = verified(kind=5, tags=[["e", note.id.hex()]])
    await brotr.insert_events(pairs([note, later, over, request], A))
    await judge(brotr)
    assert await whys(brotr, note, later, over) == [2, 0, 0]
    await judge(brotr, PolicySettings(deleted=Rule.ERASE, expired=Rule.ERASE))
    assert await whys(brotr, note, later, over, request) == [130, 0, 128, 0]
    assert await brotr.policy_is_due(2**40)
    assert await brotr.erase_expired(2**40) == 1
    assert await whys(brotr, later) == [128]


async def test_the_log_of_takedowns(brotr: Brotr) -> None:
    event = verified()
    await brotr.insert_events(pairs([event], A))
    await judge(brotr)
    assert await brotr.take_down("event", event.id, why="spam", who="anna")
    assert not await brotr.take_down("event", event.id, why="spam", who="anna")
    assert await brotr.undo_takedown("event", event.id, why="no spam", who="ben")
    assert not await brotr.undo_takedown("event", event.id, why="no spam", who="ben")
    assert await hidden(brotr) == {}
    assert await brotr.take_down("event", event.id, why="spam", who="anna")
    assert await brotr.take_down("event", event.id, why="law", who="anna", erase=True)
    assert not await brotr.take_down("event", event.id, why="spam", who="anna")
    log = await brotr.takedowns()
    assert [(each.why, each.is_erasing, each.undone_why) for each in log] == [
        ("law", True, None),
        ("spam", False, "erased from then on"),
        ("spam", False, "no spam"),
    ]
    assert {each.what for each in log} == {"event"}
    assert log[2].undone_who == "ben"


async def test_which_of_some_events_a_view_hides(brotr: Brotr) -> None:
    old, new = (verified(kind=0, created_at=NOW + n) for n in range(2))
    ending = verified(tags=[["expiration", str(NOW)]], created_at=NOW - 10_000_000)
    protected = verified(tags=[["-"]], created_at=NOW + 10_000_000)
    some = ordered([old, new, ending, protected])
    await brotr.insert_events(pairs(some, A))
    await judge(brotr)

    async def seen(view: View, now: int) -> set[bytes]:
        positions = await brotr.pool.fetchval(
            "SELECT bigbrotr.hidden_of(p_view => $1, p_now => $2, p_created_ats => $3,"
            " p_ids => $4)",
            view.value,
            now,
            [event.created_at for event in some],
            [event.id for event in some],
        )
        return {event.id for place, event in enumerate(some, 1) if place not in positions}

    assert await seen(View.CURRENT, NOW - 1) == {new.id, ending.id}
    assert await seen(View.CURRENT, NOW) == {new.id}
    assert await seen(View.ARCHIVE, NOW) == {old.id, new.id}
    assert await seen(View.KEPT, NOW) == {event.id for event in some}
