"""The database in the words of the domain, on real PostgreSQL: each promise of each call."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.config.settings import Limits, PoolSettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.candidates import Resolution
from bigbrotr.core.calls.events import Rejected
from bigbrotr.core.calls.reconciliation import Window
from bigbrotr.core.calls.visits import Visit, Wanted
from bigbrotr.core.pool import Pool
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.coverage import Gap, How, Proof, Span
from bigbrotr.models.event import Event, EventRelay, preimage, tag_values
from bigbrotr.models.filter import Filter
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Network, Relay
from bigbrotr.reads import relays
from bigbrotr.reads.where import where
from tests.kit.events import NOW, serialise, verified
from tests.kit.processes import until

Make = Callable[[Profile | None], Awaitable[str]]

A, B, C = (Relay(f"wss://{name}.example.com", NOW) for name in "abc")
CLEARNET = [Network.CLEARNET]
BOTH = pytest.mark.parametrize("profile", list(Profile))


def pairs(events: Sequence[Event], *relays: Relay, seen_at: int = NOW) -> list[EventRelay]:
    return [EventRelay(event, relay, seen_at) for relay in relays for event in events]


def keys(events: Sequence[Event]) -> list[tuple[int, bytes]]:
    return [(event.created_at, event.id) for event in events]


def ordered(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event.created_at, event.id))


async def held(brotr: Brotr) -> set[tuple[bytes, str]]:
    rows = await brotr.pool.fetch("SELECT event_id, relay_url FROM bigbrotr.events_relays")
    assert len(rows) == len({tuple(row)[:2] for row in rows})
    return {(row["event_id"], row["relay_url"]) for row in rows}


async def relay_id(brotr: Brotr, relay: Relay) -> int:
    number = await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays WHERE url = $1", relay.url)
    assert isinstance(number, int)
    return number


async def check_totals(brotr: Brotr) -> None:
    """What is counted along the way equals what is there, counted slowly."""
    row = await brotr.pool.fetchrow(
        "SELECT (SELECT count(*) FROM bigbrotr.relays), (SELECT count(*) FROM bigbrotr.candidates),"
        " (SELECT count(*) FROM bigbrotr.events), (SELECT count(*) FROM bigbrotr.events_relays),"
        " (SELECT count(*) FROM bigbrotr.gaps), (SELECT coalesce(sum(count), 0)::bigint"
        " FROM bigbrotr.rejected)"
    )
    assert row is not None
    assert tuple(await brotr.totals()) == tuple(row)
    lone = await brotr.pool.fetchval(
        "SELECT count(*) FROM bigbrotr.events e FULL JOIN bigbrotr.presence p"
        " ON p.created_at = e.created_at AND p.event_id = e.id"
        " WHERE e.id IS NULL OR p.event_id IS NULL"
    )
    assert lone == 0
    torn = await brotr.pool.fetchval(
        "SELECT count(*) FROM bigbrotr.presence"
        " WHERE cardinality(relay_ids) <> cardinality(seen_ats)"
    )
    assert torn == 0


async def claim(
    brotr: Brotr, *, until: int = NOW, limit: int = 10, owner: str = "me"
) -> list[Visit]:
    return await brotr.claim_visits(
        CLEARNET, limit=limit, owner=owner, lease_s=60, since=0, until=until
    )


async def claim_a(brotr: Brotr, *, until: int = NOW) -> Visit:
    await brotr.insert_relays([A])
    (visit,) = await claim(brotr, until=until)
    return visit


async def claim_one(brotr: Brotr, relay: Relay) -> Visit:
    """A relay of several, whoever else has it."""
    await brotr.insert_relays([relay])
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET due_at = CASE WHEN relay_id = $1 THEN 0 ELSE 2^40 END",
        await relay_id(brotr, relay),
    )
    (visit,) = await claim(brotr)
    return visit


# --- events ---------------------------------------------------------------------------------------


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
        held = await brotr.pool.fetchval(
            "SELECT sum(cardinality(relay_ids)) FROM bigbrotr.presence"
        )
        assert held == 5 * len(events)
        assert (await brotr.totals()).pairs == held
        await brotr.pool.execute("TRUNCATE bigbrotr.events, bigbrotr.presence")
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


async def test_a_large_batch_is_split(dsn: str) -> None:
    limits = PoolSettings(max_batch_size=7)
    async with Brotr(Pool(settings=limits, dsn=dsn)) as brotr:
        events = [verified() for _ in range(20)]
        assert await brotr.insert_events(pairs(events, A, B)) == (20, 20)
        relays = [Relay(f"wss://r{n}.example.com") for n in range(20)]
        assert await brotr.insert_relays(relays) == 20
        assert (
            await brotr.insert_candidates(
                [Relay(f"wss://c{n}.example.com") for n in range(20)], "seed"
            )
            == 20
        )
        document = Metadata({})
        snapshots = [RelayMetadata(relay, document, MetadataType.NIP11, NOW) for relay in relays]
        assert await brotr.insert_relay_metadata(snapshots) == 20
        records = [("finder", "cursor", str(n), n) for n in range(20)]
        assert await brotr.upsert_service_data(records) == 20
        assert await brotr.delete_service_data([record[:3] for record in records]) == 20
        await check_totals(brotr)


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
        assert row["tagvalues"] == tag_values(event.tags)
    assert all(len(value.encode()) <= 1000 for value in row["tagvalues"])
    for value in row["tagvalues"]:
        found = await brotr.pool.fetchval(
            "SELECT id FROM bigbrotr.events WHERE tagvalues @> $1", [value]
        )
        assert found == event.id
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


# --- presence and pages ---------------------------------------------------------------------------


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


async def test_a_page_is_stored_with_its_coverage(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    assert visit.missing == [(0, NOW)]
    events = ordered([verified(created_at=at) for at in (NOW - 1, NOW - 2, NOW - 3)])
    counts = await brotr.store_page(
        visit,
        events,
        proofs=[Proof(Span(100, 200), How.PAGING), Proof(Span(150, 300), How.FINISH)],
        gaps=[Gap(Span(500, 600), "dense", "more than a page in one second")],
        rejected=[Rejected("bad id", 3, b"x" * 9000), Rejected("bad signature", 1, b"y")],
        now=NOW,
    )
    assert counts == (3, 3)
    assert await brotr.store_page(visit, events, now=NOW) == (0, 0)
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


async def spans_of(brotr: Brotr, query: str, *arguments: object) -> list[tuple[int, int]]:
    return [(span.lower, span.upper) for span in await brotr.pool.fetchval(query, *arguments)]


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


async def test_what_is_stale(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    for since, end, at in ((0, 500, 1000), (500, 900, 9000)):
        proof = Proof(Span(since, end), How.PAGING)
        await brotr.store_page(visit, [], proofs=[proof], now=at)
    query = "SELECT bigbrotr.stale_spans($1, 0, 1000, $5, $2, $3, $4, 10000)"

    async def stale(
        audit_s: int, lookback_s: int, rewalk_s: int, by_ids: bool = True
    ) -> list[tuple[int, int]]:
        return await spans_of(brotr, query, visit.relay_id, audit_s, lookback_s, rewalk_s, by_ids)

    assert await stale(500, 0, 0) == []
    assert await stale(500, 9400, 0) == [(600, 900)]
    assert await stale(500, 9600, 0) == [(400, 900)]
    assert await stale(2000, 9600, 0) == [(400, 500)]
    assert await stale(500, 0, 2000) == [(0, 500)]
    assert await stale(500, 9400, 2000) == [(0, 500), (600, 900)]
    await brotr.note_reconciliation(visit, "works", "", due_at=0, most_items=None)
    assert await stale(500, 0, 0) == [(0, 900)]
    assert await stale(500, 0, 0, by_ids=False) == []
    assert await stale(2000, 0, 0) == [(0, 500)]
    # What was tried in vain has to wait.
    gaps = [Gap(Span(100, 200), "cut", "")]
    await brotr.store_page(visit, [], gaps=gaps, now=9990)
    assert await stale(2000, 0, 0) == [(0, 100), (200, 500)]


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


async def test_reading_ids_reads_the_index_only(brotr: Brotr) -> None:
    await brotr.insert_events(pairs([verified(created_at=NOW + n) for n in range(50)], A))
    await brotr.pool.execute("CHECKPOINT")  # what is not on the disk yet is not taken for visible
    await brotr.pool.execute("VACUUM bigbrotr.events")
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


async def test_a_lease_that_passes_on_while_a_writer_waits(brotr: Brotr) -> None:
    """It looks at its lease when all is written, not when it begins."""
    visit = await claim_a(brotr)
    events = ordered([verified(created_at=NOW + n) for n in range(5)])
    await brotr.insert_events(pairs(events, B))
    waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with brotr.pool.transaction() as connection:
        await connection.execute("SELECT FROM bigbrotr.presence FOR UPDATE")
        writing = asyncio.create_task(brotr.note_presence(visit, keys(events), NOW))
        await until(lambda: brotr.pool.fetchval(waits), "the writer waits")
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        assert {each.url for each in await claim(brotr)} == {A.url, B.url}
    with pytest.raises(LeaseLostError):
        await writing
    assert {url for _, url in await held(brotr)} == {B.url}


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


async def test_what_a_relay_says_of_its_limits(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B])
    said = {
        "limitation": {
            "max_limit": 300,
            "max_message_length": 65536,
            "max_filters": "ten",
            "max_subscriptions": -1,
            "auth_required": True,
            "min_pow_difficulty": 0,
            "max_content_length": 1.5,
            "max_event_tags": 10**30,
        }
    }
    for relay, document in ((A, said), (B, {"limitation": ["max_limit", 3]})):
        snapshot = RelayMetadata(relay, Metadata(document), MetadataType.NIP11, NOW)
        await brotr.insert_relay_metadata([snapshot])
    limits = {visit.url: visit.limits for visit in await claim(brotr)}
    assert limits == {A.url: {"max_limit": 300, "max_message_length": 65536}, B.url: {}}
    assert (await claim_one(brotr, C)).limits == {}


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
    assert await brotr.store_page(other, [event], now=NOW) == (1, 1)
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


def stretches(seconds: set[int]) -> list[set[int]]:
    """The seconds in stretches without a hole."""
    found: list[set[int]] = []
    for second in sorted(seconds):
        if found and second - 1 in found[-1]:
            found[-1].add(second)
        else:
            found.append({second})
    return found


SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda s: (s[0], s[0] + s[1])), max_size=4
)
STEPS = st.lists(
    st.tuples(SPANS, SPANS, st.sampled_from(list(How)), st.booleans()), min_size=1, max_size=5
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS, st.integers(0, 20), st.integers(0, 60))
async def test_what_is_missing_agrees_with_counting_seconds(
    brotr: Brotr,
    steps: list[tuple[list[tuple[int, int]], list[tuple[int, int]], How, bool]],
    since: int,
    until: int,
) -> None:
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    visit = await claim_a(brotr)
    proven: set[int] = set()
    waiting: list[tuple[set[int], int]] = []  # seconds of a gap, attempts
    for proofs, gaps, how, overdue in steps:
        await brotr.store_page(
            visit,
            [],
            proofs=[Proof(Span(*span), how) for span in proofs],
            gaps=[Gap(Span(*span), "cut", "") for span in gaps],
            now=NOW,
        )
        for span in proofs:
            proven.update(range(*span))
        now_proven = {second for span in proofs for second in range(*span)}
        # Progress on a gap: what is left of it is counted anew.
        waiting = [
            (piece, 0 if gap & now_proven else n)
            for gap, n in waiting
            for piece in stretches(gap - now_proven)
        ]
        for seconds in stretches({second for span in gaps for second in range(*span)}):
            near = seconds | {min(seconds) - 1, max(seconds) + 1}
            # What adjoins was met within the same visit: the same attempt, and the same gap.
            tries = max([1, *(n + bool(gap & seconds) for gap, n in waiting if gap & near)])
            pieces = [(piece, n) for gap, n in waiting for piece in stretches(gap - seconds)]
            waiting = [(piece, n) for piece, n in pieces if not piece & near]
            whole = seconds.union(*(piece for piece, _ in pieces if piece & near))
            waiting.append((whole, tries))
        at = NOW + 10**6 if overdue else NOW
        missing = await brotr.pool.fetchval(
            "SELECT bigbrotr.missing_spans($1, $2, $3, $4)", visit.relay_id, since, until, at
        )
        seconds = {s for span in missing for s in range(span.lower, span.upper)}
        attempts = {second: n for gap, n in waiting for second in gap}
        assert seconds == set(range(since, until)) - proven - (set() if overdue else set(attempts))
        rows = await brotr.pool.fetch("SELECT span, attempts FROM bigbrotr.gaps")
        there = Counter(s for row in rows for s in range(row["span"].lower, row["span"].upper))
        assert set(there) == set(attempts)
        assert set(there.values()) <= {1}  # gaps don't overlap
        for row in rows:
            for second in range(row["span"].lower, row["span"].upper):
                assert attempts[second] == row["attempts"]


# --- filters --------------------------------------------------------------------------------------

KEYS = ["", "a", "b"]


async def claim_for(
    brotr: Brotr, key: str, *, since: int = 0, until: int = 60, at: int = 0
) -> Visit:
    """A visit that wants what `key` stands for, of the only relay; gaps are overdue."""
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = $1", at)
    (visit,) = await brotr.claim_visits(
        CLEARNET, limit=1, owner="me", lease_s=60, since=since, until=until, filter=key
    )
    return visit


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(KEYS), SPANS, SPANS, st.booleans()), max_size=6))
async def test_what_is_missing_for_a_filter_agrees_with_counting_seconds(
    brotr: Brotr, steps: list[tuple[str, list[tuple[int, int]], list[tuple[int, int]], bool]]
) -> None:
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    await brotr.insert_relays([A])
    proven: dict[str, set[int]] = {key: set() for key in KEYS}
    waiting: dict[str, set[int]] = {key: set() for key in KEYS}
    for key, proofs, gaps, is_overdue in steps:
        visit = await claim_for(brotr, key)
        await brotr.store_page(
            visit,
            [],
            proofs=[Proof(Span(*span), How.PAGING) for span in proofs],
            gaps=[Gap(Span(*span), "cut", "") for span in gaps],
            now=NOW,
        )
        seconds = {second for span in proofs for second in range(*span)}
        proven[key] |= seconds
        for other in KEYS:
            if key in ("", other):  # all events: whatever the filter
                waiting[other] -= seconds
        waiting[key] |= {second for span in gaps for second in range(*span)}
        for other in KEYS:
            at = 0 if is_overdue else 2**40
            missing = (await claim_for(brotr, other, at=at)).missing
            rest = set(range(60)) - proven[""] - proven[other]
            rest -= set() if is_overdue else waiting[other]
            assert {s for span in missing for s in range(*span)} == rest
            (row,) = await relays.progress(brotr.pool)
            counted = await brotr.pool.fetchval(
                "SELECT range_agg(span) FROM bigbrotr.gaps WHERE filter = $1", other
            )
            held = {s for span in counted or () for s in range(span.lower, span.upper)}
            assert held == waiting[other]
            assert row.filter == other
            assert (await brotr.totals()).gaps == row.gaps


async def test_gaps_in_what_is_no_longer_wanted_set_no_visit(brotr: Brotr) -> None:
    """Else a relay would be due at once for ever: nobody asks for them."""
    await brotr.insert_relays([A])
    later = int(time.time()) + 10**6
    visit = await claim_for(brotr, "a")
    await brotr.store_page(visit, [], gaps=[Gap(Span(1, 5), "cut", "")], now=NOW)
    for key, since, is_due in [("a", 0, True), ("b", 0, False), ("", 0, False), ("a", 5, False)]:
        visit = await claim_for(brotr, key, since=since)
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = $1", later - 1000)
        await brotr.finish_visit(visit, "done", next_at=later, outcome="complete")
        due_at = await brotr.next_visit_at(CLEARNET)
        assert due_at == (later - 1000 if is_due else later), (key, since)


async def test_relays_apart(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B, C])
    apart = {B.url: Wanted(5, 9, "b"), "wss://unknown.example.com": Wanted(1, 2, "x")}
    visits = await brotr.claim_visits(
        CLEARNET,
        limit=9,
        owner="me",
        lease_s=60,
        since=1,
        until=100,
        filter="a",
        apart=apart,
        refused=[C.url],
    )
    found = {visit.url: (visit.missing, visit.wanted) for visit in visits}
    assert found == {A.url: ([(1, 100)], (1, 100)), B.url: ([(5, 9)], (5, 9))}
    rows = await brotr.pool.fetch(
        "SELECT url, filter, since, until FROM bigbrotr.visits v"
        " JOIN bigbrotr.relays r ON r.id = v.relay_id"
    )
    assert {tuple(row) for row in rows} == {
        (A.url, "a", 1, 100),
        (B.url, "b", 5, 9),
        (C.url, "", 0, 0),
    }
    for visit in visits:
        await brotr.store_page(visit, [], proofs=[Proof(Span(5, 7), How.PAGING)], now=NOW)
    (b,) = [visit for visit in visits if visit.url == B.url]
    renewed = await brotr.renew_visit(b, lease_s=60, until=12)
    assert (renewed.missing, renewed.wanted) == ([(7, 12)], (5, 12))
    # A refused one is not due.
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 2^40 WHERE owner IS NOT NULL")
    assert await brotr.next_visit_at(CLEARNET) != 2**40
    assert await brotr.next_visit_at(CLEARNET, [C.url]) == 2**40
    assert await brotr.next_visit_at(CLEARNET, [A.url, B.url, C.url]) is None


async def test_nothing_is_missing_of_an_empty_span(brotr: Brotr) -> None:
    await brotr.insert_relays([A])
    visit = await claim_for(brotr, "", since=50, until=10)
    assert visit.missing == []
    assert await brotr.finish_visit(visit, "done", next_at=7, outcome="complete")


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


# --- visits ---------------------------------------------------------------------------------------


async def test_a_visit_is_claimed_once_and_ends(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    assert (visit.url, visit.epoch, visit.pairs) == (A.url, 1, 0)
    assert await claim(brotr) == []
    assert await brotr.finish_visit(visit, "unfinished", next_at=0, outcome="busy")
    (visit,) = await claim(brotr)
    now = int(time.time())
    assert await brotr.finish_visit(visit, "done", next_at=now + 500, outcome="complete")
    assert await brotr.next_visit_at(CLEARNET) == now + 500
    assert await claim(brotr) == []
    assert await brotr.next_visit_at([Network.TOR]) is None
    assert not await brotr.finish_visit(visit._replace(epoch=1), "done", next_at=0, outcome="late")


async def test_a_gap_that_is_due_first_sets_the_next_visit(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    now = int(time.time())
    await brotr.store_page(visit, [], gaps=[Gap(Span(1, 2), "dense", "")], now=now)
    await brotr.finish_visit(visit, "done", next_at=now + 10_000, outcome="dense")
    due = await brotr.next_visit_at(CLEARNET)
    assert due is not None
    assert now + 45 <= due <= now + 75


async def test_failures_wait_longer_and_longer(brotr: Brotr) -> None:
    await brotr.insert_relays([A])
    for failures in range(1, 30):
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        (visit,) = await claim(brotr)
        before = int(time.time())
        await brotr.finish_visit(visit, "failed", next_at=0, outcome="refused")
        after = int(time.time())
        due = await brotr.next_visit_at(CLEARNET)
        assert due is not None
        full = min(604_800, 60 * 2 ** (failures - 1))
        assert before + full * 0.75 - 1 <= due <= after + full * 1.25 + 1
    assert await brotr.pool.fetchval("SELECT failures FROM bigbrotr.visits") == 29
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    (visit,) = await claim(brotr)
    await brotr.finish_visit(visit, "done", next_at=0, outcome="complete")
    assert await brotr.pool.fetchval("SELECT failures FROM bigbrotr.visits") == 0


async def test_a_new_relay_is_due_at_once_whatever_its_discovery(brotr: Brotr) -> None:
    assert await brotr.insert_relays([Relay(A.url, 2**40), Relay(B.url, 0), C]) == 3
    assert await brotr.insert_relays([A, B, C]) == 0
    assert {visit.url for visit in await claim(brotr)} == {A.url, B.url, C.url}


async def test_claimers_never_share(brotr: Brotr) -> None:
    relays = [Relay(f"wss://r{n}.example.com") for n in range(100)]
    await brotr.insert_relays(relays[:50])
    await brotr.insert_candidates(relays[50:], "seed")

    async def claimer(number: int) -> list[str]:
        found: list[str] = []
        while True:
            visits = await claim(brotr, limit=3, owner=str(number))
            candidates = await brotr.claim_candidates(
                Network.CLEARNET, limit=3, max_attempts=5, owner=str(number), lease_s=60
            )
            if not visits and not candidates:
                return found
            found += [visit.url for visit in visits]
            found += [relay.url for relay in candidates]

    claimed = await asyncio.gather(*(claimer(number) for number in range(8)))
    counted = Counter(url for each in claimed for url in each)
    assert counted == Counter(relay.url for relay in relays)


async def test_leases_are_given_back(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B])
    await brotr.insert_candidates([C], "seed")
    await claim(brotr, limit=1, owner="crashed")
    await claim(brotr, limit=1, owner="alive")
    await brotr.claim_candidates(
        Network.CLEARNET, limit=9, max_attempts=5, owner="crashed", lease_s=60
    )
    assert await brotr.release_leases("crashed") == 2
    assert await brotr.release_leases("crashed") == 0
    assert len(await claim(brotr)) == 1


# --- candidates -----------------------------------------------------------------------------------


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


async def test_one_answer_ends_the_failures(brotr: Brotr) -> None:
    await brotr.insert_relays([A])
    for verdict in ("failed", "done"):
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        (visit,) = await claim(brotr)
        await brotr.finish_visit(visit, verdict, next_at=0, outcome="x")
        since = await brotr.pool.fetchval("SELECT failing_since FROM bigbrotr.visits")
        assert (since is None) == (verdict == "done")


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


# --- orphans --------------------------------------------------------------------------------------


@BOTH
async def test_a_deleted_relay_takes_its_own_along(brotr: Brotr) -> None:
    both, only_a = verified(), verified("\0")
    await brotr.insert_events([*pairs([both, only_a], A), *pairs([both], B)])
    await brotr.insert_relay_metadata(
        [RelayMetadata(A, Metadata({"name": "a"}), MetadataType.NIP11, NOW)]
    )
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", A.url)
    assert await held(brotr) == {(both.id, B.url)}
    for table in ("relay_metadata", "relay_metadata_latest", "snapshots", "snapshots_latest"):
        assert await brotr.pool.fetchval(f"SELECT count(*) FROM bigbrotr.{table}") == 0
    await check_totals(brotr)
    assert await brotr.cleanup_orphans(include_relays=False) == {
        "metadata": 1,
        "events": 1,
        "relays": 0,
    }
    assert await brotr.pool.fetchval("SELECT array_agg(id) FROM bigbrotr.events") == [both.id]
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_raw") == 0
    await check_totals(brotr)
    assert await brotr.insert_events(pairs([only_a, both], A)) == (1, 1)
    await check_totals(brotr)


async def test_orphan_relays_are_those_of_which_nothing_is_known(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B, C])
    await brotr.insert_events(pairs([verified()], A))
    await brotr.insert_relay_metadata([RelayMetadata(B, Metadata({}), MetadataType.NIP11, NOW)])
    assert await brotr.cleanup_orphans() == {"metadata": 0, "events": 0, "relays": 1}
    assert await brotr.delete_orphan_relays() == 0
    urls = await brotr.pool.fetchval("SELECT array_agg(url ORDER BY url) FROM bigbrotr.relays")
    assert urls == [A.url, B.url]
    await check_totals(brotr)


POOL_OF_EVENTS = [verified(f"number {n}", created_at=NOW - 10**7 * n) for n in range(6)]
RELAYS = [A, B, C]
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("insert"),
            st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=6),
        ),
        st.tuples(st.just("note"), st.integers(0, 2)),
        st.tuples(st.just("page"), st.lists(st.integers(0, 5), max_size=4, unique=True)),
        st.tuples(st.just("delete"), st.integers(0, 2)),
        st.tuples(st.just("orphans"), st.booleans()),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(OPERATIONS)
async def test_totals_and_pairs_agree_with_a_dumb_archive(
    brotr: Brotr, operations: list[tuple[str, Any]]
) -> None:
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    await brotr.cleanup_orphans()
    assert tuple(await brotr.totals()) == (0, 0, 0, 0, 0, 0)
    holders: dict[bytes, set[str]] = {}
    known: set[str] = set()
    for operation, given_ in operations:
        if operation == "insert":
            batch = [EventRelay(POOL_OF_EVENTS[e], RELAYS[r], NOW) for e, r in given_]
            new = {pair.event.id for pair in batch} - set(holders)
            assert await brotr.insert_events(batch) == (len(new), len(batch) - len(new))
            for pair in batch:
                holders.setdefault(pair.event.id, set()).add(pair.relay.url)
                known.add(pair.relay.url)
        elif operation == "note" and RELAYS[given_].url in known:
            visit = await claim_one(brotr, RELAYS[given_])
            listed = ordered(POOL_OF_EVENTS)
            unknown = await brotr.note_presence(visit, keys(listed), NOW)
            assert unknown == [n for n, e in enumerate(listed) if e.id not in holders]
            for each in holders.values():
                each.add(RELAYS[given_].url)
        elif operation == "page":
            await brotr.insert_relays([A])
            known.add(A.url)
            await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
            visit = next(each for each in await claim(brotr) if each.url == A.url)
            events = ordered([POOL_OF_EVENTS[e] for e in given_])
            pairs_ = sum(A.url not in holders.get(event.id, ()) for event in events)
            assert await brotr.store_page(visit, events, now=NOW) == (
                sum(event.id not in holders for event in events),
                pairs_,
            )
            for event in events:
                holders.setdefault(event.id, set()).add(A.url)
        elif operation == "delete":
            await brotr.pool.execute(
                "DELETE FROM bigbrotr.relays WHERE url = $1", RELAYS[given_].url
            )
            known.discard(RELAYS[given_].url)
            for each in holders.values():
                each.discard(RELAYS[given_].url)
        elif operation == "orphans":
            gone = await brotr.cleanup_orphans(include_relays=given_)
            assert gone["events"] == sum(not each for each in holders.values())
            holders = {event: each for event, each in holders.items() if each}
            if given_:
                known = {url for url in known if any(url in each for each in holders.values())}
        assert await held(brotr) == {(e, url) for e, each in holders.items() for url in each}
        totals = await brotr.totals()
        assert (totals.relays, totals.events) == (len(known), len(holders))
        await check_totals(brotr)


# --- metadata -------------------------------------------------------------------------------------


async def latest(brotr: Brotr) -> dict[tuple[str, str], tuple[int, Any]]:
    rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.relay_metadata_latest")
    return {
        (row["relay_url"], row["type"]): (row["snapshot_at"], json.loads(row["data"]))
        for row in rows
    }


async def test_snapshots_and_the_newest(brotr: Brotr) -> None:
    one, two = Metadata({"name": "one"}), Metadata({"name": "two"})
    batch = [
        RelayMetadata(A, one, MetadataType.NIP11, NOW),
        RelayMetadata(A, two, MetadataType.NIP11, NOW + 10),
        RelayMetadata(A, one, MetadataType.NIP66_RTT, NOW + 20),
        RelayMetadata(B, one, MetadataType.NIP11, NOW),
        RelayMetadata(B, one, MetadataType.NIP11, NOW),
    ]
    assert await brotr.insert_relay_metadata(batch) == 4
    assert await brotr.insert_relay_metadata(batch) == 0
    assert await brotr.insert_relay_metadata([]) == 0
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.metadata") == 2
    newest = {
        (A.url, "nip11"): (NOW + 10, {"name": "two"}),
        (A.url, "nip66_rtt"): (NOW + 20, {"name": "one"}),
        (B.url, "nip11"): (NOW, {"name": "one"}),
    }
    assert await latest(brotr) == newest
    # What comes late changes the series, not the newest.
    late = RelayMetadata(A, one, MetadataType.NIP11, NOW + 5)
    assert await brotr.insert_relay_metadata([late]) == 1
    assert await latest(brotr) == newest
    await brotr.pool.execute("DELETE FROM bigbrotr.snapshots WHERE snapshot_at = $1", NOW + 10)
    await brotr.pool.execute("DELETE FROM bigbrotr.snapshots WHERE type = 'nip66_rtt'")
    await brotr.refresh_metadata_latest()
    del newest[A.url, "nip66_rtt"]
    newest[A.url, "nip11"] = (NOW + 5, {"name": "one"})
    assert await latest(brotr) == newest
    assert await brotr.delete_orphan_metadata() == 1
    assert await brotr.delete_orphan_metadata() == 0


HOSTILE: list[dict[str, Any]] = [
    {},
    {"": "", "a\0": "\0", "\ud800": "\udfff", "a": "\ufffd"},
    {"supported_nips": [10**300, -(10**308), 1e308, 5e-324, 1.0, -0.0, 0.1, 2**64, "x", None]},
    {"numbers": [10**4000, 1 << 5000, 1e16, 123456789.123456789, 1e-7]},
    {"long": "x" * 200_000, "k" * 3000: 1},
    {"deep": json.loads("[" * 60 + "]" * 60)},
    {"keys": {str(n): n for n in range(2000)}},
    {"text": '\\u0000 " \\ / \b\f\n\r\t \x01 \x7f \u2028 \U0001d54f é e\u0301'},
    {"sorted": {"b": 1, "a": 2, "aa": 3, "é": 4, "Z": 5, "\U0001d54f": 6, "\uffff": 7}},
]


@pytest.mark.parametrize("document", HOSTILE)
async def test_hostile_documents_survive_with_the_same_id(
    brotr: Brotr, document: dict[str, Any]
) -> None:
    metadata = Metadata(document)
    assert (
        await brotr.insert_relay_metadata([RelayMetadata(A, metadata, MetadataType.NIP11, NOW)])
        == 1
    )
    row = await brotr.pool.fetchrow("SELECT id, data FROM bigbrotr.metadata")
    assert row is not None
    assert row["id"] == metadata.id == Metadata.from_json(row["data"]).id


# --- service data ---------------------------------------------------------------------------------


async def test_service_data(brotr: Brotr) -> None:
    records = [
        ("finder", "cursor", "b", {"at": [1, None, "é"]}),
        ("finder", "cursor", "a", "first"),
        ("finder", "cursor", "a", "second"),
        ("finder", "other", "a", 1.5),
        ("monitor", "cursor", "a", None),
    ]
    assert await brotr.upsert_service_data(records) == 4
    got = await brotr.get_service_data("finder", "cursor")
    assert [(each["key"], each["value"]) for each in got] == [
        ("a", "second"),
        ("b", {"at": [1, None, "é"]}),
    ]
    assert all(abs(each["updated_at"] - time.time()) < 60 for each in got)
    (one,) = await brotr.get_service_data("finder", "cursor", "a")
    assert one["value"] == "second"
    assert await brotr.get_service_data("finder", "cursor", "c") == []
    (null,) = await brotr.get_service_data("monitor", "cursor")
    assert null["value"] is None
    assert await brotr.delete_service_data([("finder", "cursor", "a"), ("x", "y", "z")]) == 1
    assert await brotr.delete_service_data([("finder", "cursor", "a")]) == 0
    assert await brotr.upsert_service_data([]) == 0
    assert await brotr.delete_service_data([]) == 0


async def test_an_empty_key_is_a_key(brotr: Brotr) -> None:
    await brotr.upsert_service_data([("s", "t", "", 1), ("s", "t", "x", 2)])
    assert [each["value"] for each in await brotr.get_service_data("s", "t", "")] == [1]


# --- many at once ---------------------------------------------------------------------------------


@pytest.fixture
async def crowd(dsn: str) -> AsyncIterator[Brotr]:
    limits = Limits(min_size=1, max_size=20)
    async with Brotr(Pool(settings=PoolSettings(limits=limits), dsn=dsn)) as brotr:
        await brotr.pool.execute("SELECT 1")
        yield brotr


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


async def test_pages_batches_and_upkeep_at_once(crowd: Brotr) -> None:
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

    async def upkeep() -> None:
        for _ in range(6):
            await crowd.cleanup_orphans(include_relays=False)

    await asyncio.gather(*map(pages, visits), *map(batches, range(6)), upkeep(), upkeep())
    await crowd.delete_orphan_events()
    await check_totals(crowd)


@pytest.mark.parametrize("way", ["noted", "stored"])
async def test_an_orphan_that_finds_a_relay_in_time_stays(crowd: Brotr, way: str) -> None:
    """The deletion waits for who writes, and judges by what that has written."""
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
    assert await writing == ([] if way == "noted" else (0, 2))
    assert await deleting == 1
    assert await held(crowd) == {(event.id, visit.url) for event in found}
    assert not (await where(crowd.pool, lost.id)).is_archived
    await check_totals(crowd)


async def test_documents_and_their_upkeep_at_once(crowd: Brotr) -> None:
    documents = [Metadata({"n": n}) for n in range(4)]

    async def measure(number: int) -> None:
        relay = Relay(f"wss://r{number % 3}.example.com")
        for n in range(15):
            at = NOW + 100 * number + n
            snapshot = RelayMetadata(relay, documents[n % 4], MetadataType.NIP11, at)
            assert await crowd.insert_relay_metadata([snapshot]) == 1
            if n % 5 == 4:
                await crowd.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", relay.url)

    async def upkeep() -> None:
        for _ in range(40):
            await crowd.delete_orphan_metadata()

    await asyncio.gather(*map(measure, range(6)), upkeep(), upkeep())
    await crowd.delete_orphan_metadata()
    before = await latest(crowd)
    await crowd.refresh_metadata_latest()
    assert await latest(crowd) == before
