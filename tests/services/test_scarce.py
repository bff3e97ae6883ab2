"""What few relays hold: the sums equal a dumb recount, whatever happens in which order."""

import random
from collections import Counter
from typing import NamedTuple

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.reads.at_risk import AtRiskReads, author_risk, kinds_at_risk, risk_summary
from bigbrotr.services.statistics import Statistics
from tests.kit.archive import relay_id
from tests.kit.events import NOW, make_event, pubkey, verified

RELAYS = [Relay(f"wss://r{n}.example.com") for n in range(6)]


class Held(NamedTuple):
    """An event, and the URLs of the relays that hold it, in order."""

    kind: int
    pubkey: bytes
    holders: list[str]


async def recount(brotr: Brotr) -> list[Held]:
    """All events that a relay holds, each looked at."""
    holders: dict[bytes, list[str]] = {}
    query = "SELECT event_id, relay_url FROM bigbrotr.events_relays ORDER BY relay_url"
    for row in await brotr.pool.fetch(query):
        holders.setdefault(row["event_id"], []).append(row["relay_url"])
    events = await brotr.pool.fetch("SELECT id, kind, pubkey FROM bigbrotr.events_stored")
    return [
        Held(row["kind"], row["pubkey"], holders[row["id"]])
        for row in events
        if row["id"] in holders
    ]


async def count(brotr: Brotr) -> None:
    await brotr.pool.execute("UPDATE bigbrotr.day_totals SET made_at = 0")
    async with Statistics(brotr) as statistics:
        await statistics.run()


async def check(brotr: Brotr, failing: set[str]) -> None:
    rows = await recount(brotr)
    sums: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for row in rows:
        if len(row.holders) <= 3:
            sums[row.kind, tuple(row.holders)] += 1
    found = await brotr.pool.fetch(
        "SELECT s.kind, s.events, ARRAY(SELECT r.url FROM bigbrotr.relays r"
        " WHERE r.id = ANY (s.holders) ORDER BY r.url) AS holders FROM bigbrotr.scarce s"
    )
    assert {(row["kind"], tuple(row["holders"])): row["events"] for row in found} == sums
    alone = sum(n for (_, held), n in sums.items() if len(held) == 1)
    doomed = sum(n for (_, held), n in sums.items() if failing.issuperset(held))
    summary = await risk_summary(brotr.pool)
    assert (summary.alone, summary.endangered, summary.days_waiting) == (alone, doomed, 0)
    by_relay = {row.relay: row for _, row in await AtRiskReads(brotr.pool).page("risk", None, 99)}
    for relay in RELAYS:
        mine = {key: n for key, n in sums.items() if relay.url in key[1]}
        known = by_relay.get(relay.url)
        risky = sum(n for (_, held), n in mine.items() if failing.issuperset(held))
        single = sum(n for (_, held), n in mine.items() if len(held) == 1)
        said = (0, 0) if known is None else (known.alone, known.endangered)
        assert said == (single, risky)
        kinds = await kinds_at_risk(brotr.pool, relay.url)
        if kinds is not None:
            assert sum(each.alone for each in kinds) == single
            assert sum(each.endangered for each in kinds) == risky
    for key in range(2):
        risk = await author_risk(brotr.pool, bytes.fromhex(pubkey(key)))
        theirs = [row.holders for row in rows if row.pubkey.hex() == pubkey(key)]
        assert risk.alone == sum(len(held) == 1 for held in theirs)
        assert risk.endangered == sum(failing.issuperset(held) for held in theirs)
        archived = await brotr.pool.fetchval(
            "SELECT count(*) FROM bigbrotr.events_stored WHERE pubkey = $1",
            bytes.fromhex(pubkey(key)),
        )
        assert risk.events == archived
        assert risk.lost == archived - len(theirs)


async def test_the_sums_are_always_those_of_a_recount(brotr: Brotr) -> None:
    dice = random.Random(7)
    events = [
        verified(kind=dice.choice([1, 7]), created_at=NOW - dice.randrange(5) * 86_400, key=n % 2)
        for n in range(60)
    ]
    await brotr.insert_relays(RELAYS)
    failing: set[str] = set()
    for turn in range(4):
        for relay in RELAYS:
            some = dice.sample(events, 12)
            await brotr.insert_events([EventRelay(event, relay, NOW + turn) for event in some])
        await count(brotr)
        await check(brotr, failing)
        # Relays fail, come back, are deleted, and drop what they held.
        ill = dice.sample(RELAYS, 3)
        failing = {relay.url for relay in ill}
        await brotr.pool.execute("UPDATE bigbrotr.visits SET retired_at = NULL")
        await brotr.pool.execute(
            "UPDATE bigbrotr.visits v SET retired_at = 1 FROM bigbrotr.relays r"
            " WHERE r.id = v.relay_id AND r.url = ANY ($1)",
            sorted(failing),
        )
        await check(brotr, failing)  # without a count
        gone = await brotr.pool.fetch(
            "UPDATE bigbrotr.presence SET seen_ats[3:5] = ARRAY[NULL, NULL, NULL]::integer[]"
            " WHERE relay_id = $1 AND cardinality(seen_ats) >= 5 RETURNING slice",
            await relay_id(brotr, dice.choice(RELAYS)),
        )
        for row in gone:
            week = row["slice"] * 7
            await brotr.pool.execute(
                "INSERT INTO bigbrotr.dirty_days SELECT generate_series($1::bigint, $1 + 6)", week
            )
        await count(brotr)
        await check(brotr, failing)
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", RELAYS[0].url)
    await count(brotr)
    await check(brotr, failing - {RELAYS[0].url})


async def test_an_empty_archive_has_nothing_at_risk(brotr: Brotr) -> None:
    summary = await risk_summary(brotr.pool)
    assert (summary.alone, summary.counted, summary.archived, summary.counted_at) == (0, 0, 0, None)
    assert await kinds_at_risk(brotr.pool) == []
    assert await kinds_at_risk(brotr.pool, "wss://unknown.example.com") is None
    risk = await author_risk(brotr.pool, bytes(32))
    assert (risk.events, risk.is_complete, risk.relays) == (0, True, ())


async def test_only_the_newest_events_of_an_author_are_looked_at(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    events = [verified(created_at=NOW - n) for n in range(9)]
    await brotr.insert_events([EventRelay(event, RELAYS[0], NOW) for event in events])
    risk = await author_risk(brotr.pool, bytes.fromhex(make_event()["pubkey"]), most=4)
    assert (risk.events, risk.alone, risk.is_complete) == (4, 4, False)
