"""Events, who holds them, and pages: each pair is kept once, and each event as it came."""

import asyncio
import hashlib
import itertools
import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls import event_rows
from bigbrotr.core.calls.candidates import Resolution
from bigbrotr.core.calls.events import Rejected
from bigbrotr.core.calls.visits import Visit
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.coverage import Gap, How, Proof, Span
from bigbrotr.models.event import Event, EventRelay, preimage, tag_hash
from bigbrotr.models.relay import Relay
from bigbrotr.reads import relays
from bigbrotr.reads.where import where
from tests.conftest import CLUSTER
from tests.kit.archive import (
    BOTH,
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
)
from tests.kit.events import NOW, serialise, verified
from tests.kit.processes import until


@pytest.mark.slow
async def test_relays_that_bring_the_same_new_events_at_once_lose_no_pair(brotr: Brotr) -> None:
    """An event that another relay's page commits between our look and our insert is not unknown
    to nobody: either it is noted, or it is inserted."""
    events = sorted(
        (verified(str(n), created_at=NOW - n) for n in range(400)),
        key=lambda event: (event.created_at, event.id),
    )
    await brotr.insert_relays([Relay(f"wss://r{n}.example.com") for n in range(5)])
    visits = await claim(brotr, until=NOW)
    assert len(visits) == 5

    async def copy(visit: Visit) -> None:
        for start in range(0, len(events), 40):
            page = events[start : start + 40]
            keys = [(event.created_at, event.id) for event in page]
            unknown = await brotr.note_presence(visit, keys, NOW)
            await brotr.store_page(visit, [page[position] for position in unknown], now=NOW)

    for _ in range(4):
        await asyncio.gather(*map(copy, visits))
        held = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_relays")
        assert held == 5 * len(events)
        assert (await brotr.totals()).pairs == held
        await brotr.pool.execute("TRUNCATE bigbrotr.events_stored, bigbrotr.presence")
        await brotr.pool.execute("UPDATE bigbrotr.tallies SET events = 0, pairs = 0")


@BOTH
async def test_new_known_and_repeated_events(brotr: Brotr) -> None:
    events = [verified() for _ in range(5)]
    assert await brotr.insert_events(pairs(events[:3], A)) == (3, 0)
    assert await brotr.insert_events(pairs(events, A)) == (2, 3)
    assert await brotr.insert_events(pairs(events, A)) == (0, 5)
    assert await brotr.insert_events(pairs(events, B)) == (0, 5)
    assert await brotr.insert_events([]) == (0, 0)
    assert await held(brotr) == {(e.id, r.url) for e in events for r in (A, B)}
    await check_totals(brotr)


@BOTH
async def test_several_relays_and_repetitions_in_one_batch(brotr: Brotr) -> None:
    events = [verified(created_at=NOW - n) for n in range(4)]
    batch = pairs(events, A, B, C) + pairs(events[:2], B, A)
    random.Random(1).shuffle(batch)
    assert await brotr.insert_events(batch) == (4, 12)
    assert await held(brotr) == {(e.id, r.url) for e in events for r in (A, B, C)}
    await check_totals(brotr)


async def test_the_first_sight_counts(brotr: Brotr) -> None:
    event = verified()
    batch = [
        EventRelay(event, A, NOW + 5),
        EventRelay(event, A, NOW),
        EventRelay(event, A, NOW + 9),
    ]
    await brotr.insert_events(batch)
    await brotr.insert_events(pairs([event], A, seen_at=NOW - 5))
    assert await brotr.pool.fetchval("SELECT seen_at FROM bigbrotr.events_relays") == NOW


async def test_the_relay_comes_along(brotr: Brotr) -> None:
    old = Relay("ws://old.example.com", 0)
    await brotr.insert_events([*pairs([verified()], A), *pairs([verified()], old)])
    rows = await brotr.pool.fetch(
        "SELECT url, network, discovered_at FROM bigbrotr.relays ORDER BY url"
    )
    assert [tuple(row) for row in rows] == [
        ("ws://old.example.com", "clearnet", 0),
        ("wss://a.example.com", "clearnet", NOW),
    ]


async def test_a_batch_is_stored_whole_or_not_at_all(brotr: Brotr) -> None:
    events = [verified() for _ in range(3)]
    await brotr.pool.execute(
        "CREATE FUNCTION bigbrotr.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'full'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON bigbrotr.relays FOR EACH ROW"
        " WHEN (NEW.url = 'wss://b.example.com') EXECUTE FUNCTION bigbrotr.refuse()"
    )
    with pytest.raises(asyncpg.RaiseError):
        await brotr.insert_events([*pairs(events, A), *pairs(events, B)])
    assert tuple(await brotr.totals()) == (0, 0, 0, 0, 0, 0)
    await check_totals(brotr)


NASTY: dict[str, Callable[[], Event]] = {
    "plain": lambda: verified("hello", [["e", "00" * 32, "wss://a.example.com"]]),
    "empty": lambda: verified("", []),
    "nul": lambda: verified("a\0b", [["t", "\0"], ["\0"]]),
    "nul, verbatim": lambda: verified("a\0b", [["t", "\0"]], verbatim=True),
    "nul in tags only": lambda: verified("", [["t", "x\0"]]),
    "its picture": lambda: verified("\ufffd", [["t", "\ufffd"]]),
    "surrogates": lambda: verified("\ud800", [["t", "\udfff"], ["d", "a\udc00b"]]),
    "swapped surrogates": lambda: verified("\udc00\ud800"),
    "controls": lambda: verified("".join(map(chr, range(1, 32))) + "\x7f\u2028", [["t", "\x1f"]]),
    "controls, verbatim": lambda: verified(
        "".join(map(chr, range(1, 32))) + "\\u0001", [["t", "\x1f\x01"]], verbatim=True
    ),
    "backslashes before controls": lambda: verified("\\\x01\\\\\x02\\u0003", verbatim=True),
    "spelled escapes": lambda: verified("\\u0000 \\ud800 \\\\u0000"),
    "array literals": lambda: verified(
        "", [["t", v] for v in ("", '"', "\\", "{", "}", ",", "NULL", "{}", '\\"', " ", "\n", "'")]
    ),
    "json in tags": lambda: verified("", [["t", '{"a": [1, "\\u0000"]}'], ["x"], ["y", ""]]),
    "not quite letters": lambda: verified("", [["é", "1"], ["", "2"], ["ab", "3"], ["1", "4"]]),
    "a large tag": lambda: verified("", [["t", "x" * 100_000], ["t", "é" * 50_000]]),
    "incompressible": lambda: verified(
        "", [["r", random.Random(1).randbytes(50_000).hex()], ["p", *["q" * 1000] * 20]]
    ),
    "many tags": lambda: verified("", [["e", f"{n:064x}"] for n in range(2500)]),
    "large content": lambda: verified("\U0001d54f" * 60_000),
    "the beginning": lambda: verified(created_at=0),
    "beyond doubles": lambda: verified(created_at=2**53 + 1),
    "the end": lambda: verified(created_at=2**63 - 1),
    "the last kind": lambda: verified(kind=65535),
    "kind 0": lambda: verified('{"name":"x"}', kind=0),
}


async def given_back(brotr: Brotr, event: Event) -> tuple[Event, dict[str, Any]]:
    """An event made again from its row, verified as it is made, and the row."""
    row = await brotr.pool.fetchrow(
        "SELECT e.*, w.raw FROM bigbrotr.events e LEFT"
        " JOIN bigbrotr.events_raw w ON w.event_id = e.id"
        " WHERE e.created_at = $1 AND e.id = $2",
        event.created_at,
        event.id,
    )
    assert row is not None
    if row["raw"] is None:
        tags, content = json.loads(row["tags"]), row["content"]
    else:
        # Unescaped control characters are no JSON, but Python can be asked to read them.
        _, _, _, _, tags, content = json.JSONDecoder(strict=False).decode(row["raw"].decode())
    again = Event(
        row["id"],
        row["pubkey"],
        row["created_at"],
        row["kind"],
        tuple(map(tuple, tags)),
        content,
        row["sig"],
    )
    return again, dict(row)


async def tagged(brotr: Brotr, letter: str, *values: str) -> list[bytes]:
    rows = await brotr.pool.fetch(
        "SELECT id FROM bigbrotr.events_tagged($1, $2) ORDER BY id", letter, values
    )
    return [row["id"] for row in rows]


async def test_tags_are_found_by_the_index_and_only_true_ones(brotr: Brotr) -> None:
    """Values that share a hash are told apart, and the index is used."""
    twins = collide()
    assert len({tag_hash("t", value) for value in twins}) == 1
    first, second = (verified(tags=[["t", value], ["x", "1"], ["t"]]) for value in twins)
    other = verified(tags=[["tt", twins[0]], ["x", "1"]])
    await brotr.insert_events(pairs([first, second, other], A))
    assert await tagged(brotr, "t", twins[0]) == [first.id]
    assert await tagged(brotr, "t", twins[1]) == [second.id]
    assert await tagged(brotr, "t", *twins) == sorted([first.id, second.id])
    assert await tagged(brotr, "x", "1", "2") == sorted([first.id, second.id, other.id])
    assert await tagged(brotr, "e", "1") == []
    if CLUSTER is not None:  # its plans are the workers'
        return
    async with brotr.pool.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT id FROM bigbrotr.events_tagged('t', '{nostr}')"
        )
    assert any("tag_hashes_idx" in row[0] for row in plan), plan


def collide() -> list[str]:
    """Two values of the tag t with one hash: a CRC is linear, so few values have to be tried."""
    seen: dict[int, str] = {}
    for n in itertools.count():
        value = hashlib.sha256(str(n).encode()).hexdigest()
        if (hashed := tag_hash("t", value)) in seen:
            return [seen[hashed], value]
        seen[hashed] = value
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("name", NASTY)
async def test_the_exact_event_comes_back(brotr: Brotr, name: str) -> None:
    event = NASTY[name]()
    assert await brotr.insert_events(pairs([event], A)) == (1, 0)
    assert await brotr.insert_events(pairs([event], B)) == (0, 1)
    again, row = await given_back(brotr, event)
    assert again == event
    assert (again.tags, again.content, again.sig) == (event.tags, event.content, event.sig)
    assert (row["raw"] is not None) == (event.raw is not None)
    if event.raw is None:
        hashed = preimage(
            row["pubkey"].hex().encode(),
            row["created_at"],
            row["kind"],
            serialise(json.loads(row["tags"])).encode(),
            serialise(row["content"]).encode(),
        )
        assert hashed == preimage(
            event.pubkey.hex().encode(),
            event.created_at,
            event.kind,
            serialise(event.tags).encode(),
            serialise(event.content).encode(),
        )
        single = [tag for tag in event.tags if re.fullmatch("[A-Za-z]", tag[0]) and len(tag) > 1]
        assert row["tagvalues"] == [f"{tag[0]}:{tag[1]}" for tag in single]
    for value in row["tagvalues"][:3]:
        letter, _, rest = value.partition(":")
        assert await tagged(brotr, letter, rest) == [event.id]
        assert await brotr.pool.fetchval("SELECT bigbrotr.tag_hash($1)", value) == tag_hash(
            letter, rest
        )
    await check_totals(brotr)


@BOTH
async def test_all_nasty_events_in_one_batch(brotr: Brotr, profile: Profile) -> None:
    events = [make() for make in NASTY.values()]
    assert await brotr.insert_events(pairs(events, A, B)) == (len(events), len(events))
    for event in events:
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.events WHERE id = $1", event.id)
        assert row is not None
        assert (row["pubkey"], row["created_at"], row["kind"]) == (
            event.pubkey,
            event.created_at,
            event.kind,
        )
        if profile is Profile.LITE:
            assert (row["sig"], row["tags"], row["tagvalues"], row["content"]) == (None,) * 4
    raws = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_raw")
    assert raws == (0 if profile is Profile.LITE else sum(e.raw is not None for e in events))
    await check_totals(brotr)


@BOTH
async def test_presence_is_noted_of_what_is_archived(brotr: Brotr) -> None:
    events = ordered([verified(created_at=NOW - 10**7 * n) for n in range(8)])
    await brotr.insert_events(pairs(events[::2], A))
    b = await claim_one(brotr, B)
    for seen_at in (NOW, NOW + 1):
        assert await brotr.note_presence(b, keys(events), seen_at) == [1, 3, 5, 7]
        assert await held(brotr) == {(e.id, r.url) for e in events[::2] for r in (A, B)}
        await check_totals(brotr)
    assert await brotr.note_presence(b, [], NOW) == []
    assert await brotr.note_presence(b, keys(events[::2]), NOW) == []
    seen = await brotr.pool.fetch("SELECT DISTINCT seen_at FROM bigbrotr.events_relays")
    assert [row[0] for row in seen] == [NOW]


async def test_pairs_side_by_side_are_noted_with_what_is_between_them(brotr: Brotr) -> None:
    events = ordered([verified(created_at=NOW - n) for n in range(40)])
    await brotr.insert_events(pairs(events, A))
    b = await claim_one(brotr, B)
    expected: dict[bytes, int] = {}
    for at, some in enumerate((events[12:17], events[20:21], events[:30], events[::3], events)):
        assert await brotr.note_presence(b, keys(some), NOW + at) == []
        expected = dict.fromkeys((event.id for event in some), NOW + at) | expected
        rows = await brotr.pool.fetch(
            "SELECT event_id, seen_at FROM bigbrotr.events_relays WHERE relay_url = $1", B.url
        )
        assert {row["event_id"]: row["seen_at"] for row in rows} == expected
        await check_totals(brotr)


async def test_what_is_named_twice_says_nothing_of_its_neighbours(brotr: Brotr) -> None:
    events = ordered([verified(created_at=NOW - n) for n in range(3)])
    await brotr.insert_events(pairs(events, A))
    b = await claim_one(brotr, B)
    named = [events[0], events[0], events[2]]
    assert await brotr.note_presence(b, keys(named), NOW) == []
    rows = await brotr.pool.fetch(
        "SELECT event_id FROM bigbrotr.events_relays WHERE relay_url = $1", B.url
    )
    assert sorted(row["event_id"] for row in rows) == sorted(e.id for e in named[1:])
    await check_totals(brotr)


WEEK_S, DAY_S, LAST = 604_800, 86_400, 2**63 - 1
LAST_SLICE = 2**31 - 1  # of all that is later


@pytest.mark.parametrize("seed", range(20))
async def test_times_fall_into_slices_and_days(seed: int, brotr: Brotr) -> None:
    """Whatever lies at their bounds, and where time ends."""
    chance = random.Random(seed)
    bounds = [n * of + by for n in (0, 1, 2, 2900) for of in (DAY_S, WEEK_S) for by in (0, 1, -1)]
    bounds += [
        LAST_SLICE * WEEK_S - 1,
        LAST_SLICE * WEEK_S,
        LAST // DAY_S * DAY_S - 1,
        LAST - 1,
        LAST,
    ]
    several = [chance.choice(bounds), NOW, NOW + 1, *(chance.randrange(2**40) for _ in range(9))]
    times = sorted(max(0, at) for at in chance.choices(bounds + several, k=chance.randrange(1, 60)))
    runs = [
        (slice_, [at for _, at in run])
        for slice_, run in itertools.groupby(
            enumerate(times), lambda e: min(e[1] // WEEK_S, LAST_SLICE)
        )
    ]
    found = await brotr.pool.fetch("SELECT * FROM bigbrotr.runs_of($1)", times)
    assert [(r["slice"], times[r["first"] - 1 : r["last"]]) for r in found] == runs
    await brotr.pool.execute("DELETE FROM bigbrotr.dirty_days")
    await brotr.pool.execute("SELECT bigbrotr.note_days($1, 1)", times)
    noted = await brotr.pool.fetch("SELECT day FROM bigbrotr.dirty_days")
    assert [row["day"] for row in noted] == [
        day for day, _ in itertools.groupby(at // DAY_S for at in times)
    ]
    await brotr.pool.execute("DELETE FROM bigbrotr.dirty_days")
    await brotr.pool.execute("SELECT bigbrotr.note_days($1, 0)", times)
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.dirty_days") == 0


START = NOW // 604_800 * 604_800  # of a slice
SHAPES: dict[str, tuple[list[int], list[int], bool]] = {  # seconds there, seconds asked for, dense
    "all of them": ([*range(400)], [*range(400)], True),
    "half of them": ([*range(600)], [*range(0, 600, 2)], True),
    "none": ([], [*range(400)], True),
    "far apart": ([*range(4000)], [*range(0, 4000, 20)], False),
    "in one second": ([7] * 2000, [7] * 100, True),
    "few": ([*range(40)], [*range(40)], False),
    "dense first": ([*range(100), *range(1000, 4000)], [*range(100), *range(1000, 4000, 30)], True),
    "dense last": (
        [*range(2000), *range(9000, 9200)],
        [*range(0, 2000, 40), *range(9000, 9200)],
        False,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_numbers_are_found_however_events_lie(shape: str, brotr: Brotr) -> None:
    there, asked, is_dense = SHAPES[shape]
    rows = [(START + at, b"%031d?" % n) for n, at in enumerate(there)]
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.events_stored (created_at, num, kind, slice, id, pubkey)"
        " SELECT u.created_at, 7 * u.num, 1, bigbrotr.slice_of(u.created_at), u.id, '\\x00'"
        " FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS u (created_at, id, num)",
        [at for at, _ in rows],
        [event_id for _, event_id in rows],
    )
    numbers = {key: 7 * num for num, key in enumerate(rows, 1)}
    known = random.Random(shape).sample(rows, len(rows)) if shape == "in one second" else rows
    wanted = {START + at for at in asked}
    some = [key for key in known if key[0] in wanted][: len(asked)]
    some += [(START + at, b"%031d!" % n) for n, at in enumerate(asked) if n % 3 == 0]
    some.sort()
    arrays = [at for at, _ in some], [event_id for _, event_id in some]
    found = await brotr.pool.fetchrow(
        "SELECT places, nums FROM bigbrotr.numbers_of("
        " bigbrotr.slice_of(($1::bigint[])[1]), $1::bigint[], $2::bytea[])",
        *arrays,
    )
    assert found is not None
    expected = [(place, numbers[key]) for place, key in enumerate(some, 1) if key in numbers]
    assert list(zip(found["places"], found["nums"], strict=True)) == expected
    said = "SELECT bigbrotr.are_dense(bigbrotr.slice_of(($1::bigint[])[1]), $1::bigint[])"
    assert await brotr.pool.fetchval(said, arrays[0]) == is_dense


async def test_a_page_is_stored_with_its_coverage(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    assert visit.missing == [(0, NOW)]
    events = ordered([verified(created_at=at) for at in (NOW - 1, NOW - 2, NOW - 3)])
    stored = await brotr.store_page(
        visit,
        events,
        proofs=[Proof(Span(100, 200), How.PAGING), Proof(Span(150, 300), How.FINISH)],
        gaps=[Gap(Span(500, 600), "dense", "more than a page in one second")],
        rejected=[Rejected("bad id", 3, b"x" * 9000), Rejected("bad signature", 1, b"y")],
        now=NOW,
    )
    assert stored == 3
    assert await brotr.store_page(visit, events, now=NOW) == 0
    assert await held(brotr) == {(event.id, A.url) for event in events}
    missing = await brotr.pool.fetchval(
        "SELECT bigbrotr.missing_spans($1, 0, 1000, $2)", visit.relay_id, NOW
    )
    assert [(span.lower, span.upper) for span in missing] == [(0, 100), (300, 500), (600, 1000)]
    later = await brotr.pool.fetchval(
        "SELECT bigbrotr.missing_spans($1, 0, 1000, $2)", visit.relay_id, NOW + 10**6
    )
    assert [(span.lower, span.upper) for span in later] == [(0, 100), (300, 1000)]
    row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.rejected WHERE reason = 'bad id'")
    assert row is not None
    assert (row["count"], [len(sample) for sample in row["samples"]]) == (3, [4096])
    await check_totals(brotr)


async def test_each_proof_keeps_its_time(brotr: Brotr) -> None:
    """What was proven within an hour stands together, as of the first; a new proof replaces an
    old one, in whatever way each was got."""
    visit = await claim_a(brotr)

    async def prove(since: int, until: int, how: How, now: int) -> None:
        await brotr.store_page(visit, [], proofs=[Proof(Span(since, until), how)], now=now)

    async def rows() -> list[tuple[str, int, list[tuple[int, int]]]]:
        found = await brotr.pool.fetch("SELECT * FROM bigbrotr.coverage ORDER BY proven_at, how")
        return [
            (row["how"], row["proven_at"], [(s.lower, s.upper) for s in row["proven"]])
            for row in found
        ]

    await prove(0, 100, How.PAGING, 10_000)
    await prove(100, 150, How.PAGING, 12_000)
    assert await rows() == [("paging", 10_000, [(0, 150)])]
    await prove(150, 200, How.PAGING, 14_000)
    await prove(50, 60, How.RECONCILIATION, 20_000)
    assert await rows() == [
        ("paging", 10_000, [(0, 50), (60, 150)]),
        ("paging", 14_000, [(150, 200)]),
        ("reconciliation", 20_000, [(50, 60)]),
    ]
    await prove(0, 200, How.RECONCILIATION, 20_500)
    assert await rows() == [("reconciliation", 20_500, [(0, 200)])]
    await prove(10, 20, How.PAGING, 20_500)
    assert await rows() == [
        ("paging", 20_500, [(10, 20)]),
        ("reconciliation", 20_500, [(0, 10), (20, 200)]),
    ]


async def test_a_lease_that_passes_on_while_a_writer_waits(brotr: Brotr) -> None:
    """It looks at its lease when all is written, not when it begins."""
    visit = await claim_a(brotr)
    events = ordered([verified(created_at=NOW + n) for n in range(5)])
    await brotr.insert_events(pairs(events, B))
    waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with brotr.pool.transaction() as connection:
        await connection.execute("LOCK TABLE bigbrotr.presence_lock IN EXCLUSIVE MODE")
        writing = asyncio.create_task(brotr.note_presence(visit, keys(events), NOW))
        await until(lambda: brotr.pool.fetchval(waits), "the writer waits")
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        assert {each.url for each in await claim(brotr)} == {A.url, B.url}
    with pytest.raises(LeaseLostError):
        await writing
    assert {url for _, url in await held(brotr)} == {B.url}


async def test_one_turn_at_a_time(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to wait knows so; and nobody waits for ever for a process that is stopped."""
    inside, waited = 0, []

    async def take() -> None:
        nonlocal inside
        async with brotr.ingest_lock() as has_waited:
            inside += 1
            waited.append(has_waited)
            await asyncio.sleep(0.01)
            assert inside == 1
            inside -= 1

    await asyncio.gather(*(take() for _ in range(5)))
    assert (len(waited), any(waited)) == (5, True)
    monkeypatch.setattr("bigbrotr.core.calls.events.INGEST_LOCK_S", 1)
    async with brotr.ingest_lock() as has_waited:
        assert not has_waited
        started = time.monotonic()
        async with brotr.ingest_lock() as has_waited:
            assert has_waited
            assert 0.9 < time.monotonic() - started < 10
    async with brotr.ingest_lock() as has_waited:
        assert not has_waited


async def test_rejected_samples_are_few(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    for number in range(5):
        rejected = [Rejected("bad id", 2, b"%d" % number)]
        await brotr.store_page(visit, [], rejected=rejected, now=NOW)
    row = await brotr.pool.fetchrow("SELECT count, samples FROM bigbrotr.rejected")
    assert row is not None
    assert (row["count"], row["samples"]) == (10, [b"0", b"1", b"2"])


async def test_words_of_a_relay_are_made_storable(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    nasty = "\0\ud800" + "x" * 1000
    await brotr.store_page(visit, [], gaps=[Gap(Span(1, 2), "closed", nasty)], now=NOW)
    assert await brotr.finish_visit(visit, "done", next_at=NOW, outcome="closed", detail=nasty)
    await brotr.insert_candidates([B], "seed")
    await brotr.resolve_candidates([Resolution(B.url, "failed", "refused", nasty)])
    for table in ("gaps", "visits", "candidates"):
        detail = await brotr.pool.fetchval(f"SELECT detail FROM bigbrotr.{table}")
        assert detail == "\ufffd\ufffd" + "x" * 498


async def test_a_lost_lease_stores_nothing(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")  # the lease ran out
    (other,) = await claim(brotr, owner="another")
    assert other.epoch == visit.epoch + 1
    before = await brotr.totals()
    event = verified()
    with pytest.raises(LeaseLostError, match="passed to another"):
        await brotr.store_page(
            visit,
            [event],
            proofs=[Proof(Span(0, NOW), How.PAGING)],
            gaps=[Gap(Span(1, 2), "dense", "")],
            rejected=[Rejected("bad id", 1, b"")],
            now=NOW,
        )
    assert await brotr.totals() == before
    assert not await brotr.finish_visit(visit, "done", next_at=0, outcome="late")
    assert await brotr.store_page(other, [event], now=NOW) == 1
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    with pytest.raises(LeaseLostError):
        await brotr.store_page(other, [verified()], now=NOW)
    await check_totals(brotr)


async def test_gaps_are_carved_and_counted(brotr: Brotr) -> None:
    visit = await claim_a(brotr)

    async def gaps() -> list[tuple[int, int, str, int]]:
        rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.gaps ORDER BY span")
        return [(r["span"].lower, r["span"].upper, r["reason"], r["attempts"]) for r in rows]

    async def page(proofs: list[Span], *found: tuple[int, int, str]) -> None:
        await brotr.store_page(
            visit,
            [],
            proofs=[Proof(span, How.PAGING) for span in proofs],
            gaps=[Gap(Span(since, until), reason, "") for since, until, reason in found],
            now=NOW,
        )

    await page([], (100, 200, "cut"))
    assert await gaps() == [(100, 200, "cut", 1)]
    await page([Span(120, 140)])
    # Progress: what is left is counted anew.
    assert await gaps() == [(100, 120, "cut", 0), (140, 200, "cut", 0)]
    await page([], (150, 160, "dense"))
    assert await gaps() == [
        (100, 120, "cut", 0),
        (140, 150, "cut", 0),
        (150, 160, "dense", 1),
        (160, 200, "cut", 0),
    ]
    await page([], (90, 170, "silence"))
    assert await gaps() == [(90, 170, "silence", 2), (170, 200, "cut", 0)]
    due = await brotr.pool.fetch("SELECT due_at - $1 AS wait FROM bigbrotr.gaps ORDER BY span", NOW)
    assert 90 <= due[0]["wait"] <= 150
    assert 45 <= due[1]["wait"] <= 75
    await page([Span(0, 1000)])
    assert await gaps() == []
    await check_totals(brotr)


async def test_identity_of_the_newest_proof(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    proofs = [Proof(Span(1, 2), How.PAGING)]
    for identity, said, shown in [
        ("ab" * 32, proofs, "ab" * 32),
        (None, [], "ab" * 32),
        ("cd" * 32, proofs, "cd" * 32),
        (None, proofs, None),
    ]:
        await brotr.store_page(visit, [], proofs=said, identity=identity, now=NOW)
        (row,) = await relays.progress(brotr.pool)
        assert row.identity == shown


async def test_sixteen_writers_of_the_same_events(crowd: Brotr) -> None:
    """Each with several relays, in an order of its own: no deadlock surfaces, nothing is lost."""
    rng = random.Random(7)
    events = [verified(created_at=NOW - rng.randrange(10**7)) for _ in range(120)]
    relays = [Relay(f"wss://r{n}.example.com") for n in range(6)]
    union: set[tuple[bytes, str]] = set()
    batches = []
    for _ in range(16):
        batch = [EventRelay(e, r, NOW) for e in events for r in relays if rng.random() < 0.4]
        rng.shuffle(batch)
        union |= {(pair.event.id, pair.relay.url) for pair in batch}
        batches.append(batch)

    async def write(batch: list[EventRelay]) -> int:
        inserted = 0
        for start in range(0, len(batch), 60):
            new, known = await crowd.insert_events(batch[start : start + 60])
            assert new + known == len(batch[start : start + 60])
            inserted += new
        return inserted

    inserted = await asyncio.gather(*map(write, batches))
    assert sum(inserted) == len({event for event, _ in union})
    assert await held(crowd) == union
    await check_totals(crowd)


async def test_pages_batches_and_maintenance_at_once(crowd: Brotr) -> None:
    rng = random.Random(11)
    events = ordered([verified(created_at=NOW - rng.randrange(10**7)) for _ in range(60)])
    relays = [Relay(f"wss://r{n}.example.com") for n in range(8)]
    await crowd.insert_relays(relays)
    visits = await claim(crowd)
    assert len(visits) == 8

    async def pages(visit: Visit) -> None:
        for _ in range(6):
            chosen = [event for event in events if rng.random() < 0.5]
            unknown = await crowd.note_presence(visit, keys(chosen), NOW)
            fresh = [chosen[position] for position in unknown]
            proofs = [Proof(Span(rng.randrange(100), 200), How.PAGING)]
            await crowd.store_page(visit, fresh, proofs=proofs, now=NOW)

    async def batches(number: int) -> None:
        passing = Relay(f"wss://passing{number}.example.com")
        for _ in range(6):
            chosen = rng.sample(events, 20)
            await crowd.insert_events(pairs(chosen, passing, relays[number]))
            await crowd.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", passing.url)

    async def maintenance() -> None:
        for _ in range(6):
            await crowd.cleanup_orphans(include_relays=False)

    await asyncio.gather(*map(pages, visits), *map(batches, range(6)), maintenance(), maintenance())
    await crowd.delete_orphan_events()
    await check_totals(crowd)


@pytest.mark.parametrize("way", ["noted", "stored"])
async def test_an_orphan_that_finds_a_relay_in_time_stays(
    crowd: Brotr, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion waits for who writes, and judges by what that has written."""
    monkeypatch.setattr(event_rows, "columns_of", lambda _: None)  # what is known is not copied
    *found, lost = ordered([verified(created_at=NOW + n) for n in range(3)])
    await crowd.insert_events(pairs([*found, lost], A, B))
    await crowd.pool.execute("DELETE FROM bigbrotr.relays WHERE url = ANY ($1)", [A.url, B.url])
    visit = await claim_a(crowd)

    async def wait_for_waiting(count: int) -> None:
        waiting = (
            "SELECT count(*) = $1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        await until(lambda: crowd.pool.fetchval(waiting, count), f"{count} wait for locks")

    async with crowd.pool.transaction() as connection:
        await connection.execute(  # where a writer comes last
            "SELECT FROM bigbrotr.tallies WHERE relay_id = $1 FOR UPDATE", visit.relay_id
        )
        writing = asyncio.create_task(
            crowd.note_presence(visit, keys(found), NOW)
            if way == "noted"
            else crowd.store_page(visit, found, now=NOW)
        )
        await wait_for_waiting(1)
        deleting = asyncio.create_task(crowd.delete_orphan_events())
        await wait_for_waiting(2)
    assert await writing == ([] if way == "noted" else 0)
    assert await deleting == 1
    assert await held(crowd) == {(event.id, visit.url) for event in found}
    assert not (await where(crowd.pool, lost.id)).is_archived
    await check_totals(crowd)
