"""Relays are joined under one operator on evidence, and never by what one side alone can say."""

import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import EventRelay
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.operators import Compared
from bigbrotr.models.relay import Relay
from bigbrotr.reads.operators import RelayOperator, list_operators, relay_operator
from bigbrotr.reads.statistics import STATISTICS, figures
from bigbrotr.services.statistics import Statistics
from tests.kit.events import NOW, verified
from tests.kit.processes import call
from tests.kit.served import served
from tests.models.test_relay import onion

WEEK = 604_800
ONION = Relay(f"ws://{onion(b'a' * 32)}.onion")
OTHER_ONION = Relay(f"ws://{onion(b'b' * 32)}.onion")
CLEAR, COPY, FAR = (Relay(f"wss://{name}.example.com") for name in ("clear", "copy", "far"))
PATH = Relay("wss://clear.example.com/inbox")
KEY = "ab" * 32


async def says(brotr: Brotr, relay: Relay, kind: MetadataType, data: dict[str, Any]) -> None:
    await brotr.insert_relay_metadata(
        [RelayMetadata(relay, Metadata(data), kind, int(time.time()))]
    )


async def document(brotr: Brotr, relay: Relay, **data: Any) -> None:
    await says(brotr, relay, MetadataType.NIP11, data)


async def newest(brotr: Brotr, relay: Relay, **data: Any) -> None:
    """A document that comes later than all others."""
    latest = await brotr.pool.fetchval("SELECT max(snapshot_at) FROM bigbrotr.snapshots")
    made = RelayMetadata(relay, Metadata(data), MetadataType.NIP11, latest + 1)
    await brotr.insert_relay_metadata([made])


async def certificate(brotr: Brotr, *relays: Relay, names: list[str], valid: bool = True) -> None:
    fingerprint = hashlib.sha256(repr(names).encode()).hexdigest()
    for relay in relays:
        data = {"valid": valid, "fingerprint": fingerprint, "names": names, "for": relay.url}
        await says(brotr, relay, MetadataType.NIP66_SSL, data)


async def hold(brotr: Brotr, *relays: Relay, events: int = 200, first: int = 0) -> None:
    """These relays hold the same events of five weeks, of which they are proven complete."""
    made = [
        verified(f"{first + n}", created_at=NOW - (n % 5) * WEEK, key=n % 3) for n in range(events)
    ]
    made.sort(key=lambda event: (event.created_at, event.id))
    for relay in relays:
        await brotr.insert_events([EventRelay(event, relay, NOW) for event in made])
    await prove(brotr, *relays)


async def prove(brotr: Brotr, *relays: Relay) -> None:
    for relay in relays:
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)"
            " SELECT r.id, 'paging', int8multirange(int8range($2, $3)), $3 FROM bigbrotr.relays r"
            " WHERE r.url = $1 ON CONFLICT DO NOTHING",
            relay.url,
            NOW - 10 * WEEK,
            NOW + 10 * WEEK,
        )


async def look(brotr: Brotr) -> None:
    """A look of a process of its own, an hour after the one before."""
    await brotr.pool.execute("UPDATE bigbrotr.operator_state SET joined_at = joined_at - 3600")
    async with Statistics(brotr) as statistics:
        await statistics._join_operators()


async def groups(brotr: Brotr) -> list[set[str]]:
    return [set(each.relays) for _, each in await list_operators(brotr.pool, None, 100)]


async def of(brotr: Brotr, relay: Relay) -> RelayOperator:
    found = await relay_operator(brotr.pool, relay.url)
    assert found is not None
    return found


async def kinds(brotr: Brotr, relay: Relay) -> dict[str, bool]:
    return {each.kind: each.joins for each in (await of(brotr, relay)).evidence}


async def test_each_names_the_other(brotr: Brotr) -> None:
    await document(brotr, CLEAR, description=f"also at {ONION.url}")
    await document(brotr, ONION, name="the onion", url=CLEAR.url)
    await document(brotr, FAR, description=f"I am {CLEAR.url} and {ONION.url}")  # one side's word
    await look(brotr)
    assert await groups(brotr) == [{CLEAR.url, ONION.url}]
    assert await kinds(brotr, CLEAR) == {"word": True}
    assert (await of(brotr, FAR)).relays == (FAR.url,)
    # It takes its word back.
    await newest(brotr, CLEAR, description="here alone")
    await look(brotr)
    assert await groups(brotr) == []
    assert await kinds(brotr, CLEAR) == {}


async def test_what_anybody_can_copy_joins_nothing(brotr: Brotr) -> None:
    same = {"name": "ours", "self": KEY, "pubkey": KEY, "contact": "mailto:a@example.com"}
    for relay in (CLEAR, COPY, ONION):
        await document(brotr, relay, **same)
    await look(brotr)
    assert await groups(brotr) == []
    assert await kinds(brotr, COPY) == {"self": False, "document": False}  # it is shown
    for relay in (CLEAR, FAR):
        await newest(brotr, relay, pubkey=KEY, name=relay.url)
    await look(brotr)
    assert await kinds(brotr, FAR) == {}  # a pubkey is no evidence at all


async def test_a_document_that_names_nobody_is_no_evidence(brotr: Brotr) -> None:
    for relay in (CLEAR, COPY):
        await document(brotr, relay, name="strfry default", software="strfry")
    await certificate(brotr, CLEAR, COPY, names=["*.example.com"])
    await look(brotr)
    assert await kinds(brotr, CLEAR) == {}


async def test_one_certificate_and_one_document(brotr: Brotr) -> None:
    names = ["clear.example.com", "far.example.com"]
    await certificate(brotr, CLEAR, FAR, names=names)
    await look(brotr)
    assert await groups(brotr) == []
    assert await kinds(brotr, CLEAR) == {"certificate": False}
    for relay in (CLEAR, FAR, COPY):
        await document(brotr, relay, self=KEY.upper())
    await look(brotr)
    assert await groups(brotr) == [{CLEAR.url, FAR.url}]


@pytest.mark.parametrize(
    ("names", "valid", "relays"),
    [
        (["*.example.com", "example.com"], True, (CLEAR, COPY)),  # a neighbour has it as well
        (["clear.example.com", "far.example.com"], True, (CLEAR, COPY)),  # it does not name both
        (["clear.example.com", "copy.example.com"], False, (CLEAR, COPY)),
        (["clear.example.com", "x.example.com"], True, (CLEAR, PATH)),  # a neighbour on one host
        (
            [f"{n}.example.com" for n in range(30)] + ["clear.example.com", "copy.example.com"],
            True,
            (CLEAR, COPY),  # of a provider
        ),
    ],
)
async def test_a_certificate_of_neighbours(
    brotr: Brotr, names: list[str], valid: bool, relays: tuple[Relay, ...]
) -> None:
    await certificate(brotr, *relays, names=names, valid=valid)
    for relay in relays:
        await document(brotr, relay, self=KEY)
    await look(brotr)
    assert await groups(brotr) == []
    assert "certificate" not in await kinds(brotr, CLEAR)


async def test_twins_hold_the_same(brotr: Brotr) -> None:
    for relay in (CLEAR, ONION, OTHER_ONION):
        await document(brotr, relay, self=KEY)
    await hold(brotr, CLEAR, ONION)
    await hold(brotr, OTHER_ONION, events=150, first=1000)  # the same key, other events
    await look(brotr)
    assert await groups(brotr) == [{CLEAR.url, ONION.url}]
    found = await of(brotr, ONION)
    events = [each for each in found.evidence if each.kind == "events"]
    assert events
    assert "200 of 200 events of" in events[0].detail
    assert OTHER_ONION.url not in found.relays
    row = await brotr.pool.fetchrow(
        "SELECT t.weeks, t.by_both, t.by_one FROM bigbrotr.operator_tests t"
        " JOIN bigbrotr.relays r ON r.id IN (t.relay_a, t.relay_b) WHERE r.url = $1",
        OTHER_ONION.url,
    )
    assert row is not None
    assert (row["by_both"], row["by_one"] > 0) == (0, True)


async def test_a_mirror_that_copies_the_document(brotr: Brotr) -> None:
    """Without a certificate that names both hosts, nobody knows whose the onion is."""
    for relay in (CLEAR, ONION, COPY):
        await document(brotr, relay, self=KEY)
    await hold(brotr, CLEAR, ONION, COPY)
    await look(brotr)
    assert await groups(brotr) == []
    assert await kinds(brotr, COPY) == {"self": False, "document": False, "events": False}
    await newest(brotr, CLEAR, self=KEY, description=ONION.url)
    await newest(brotr, ONION, self=KEY, description=CLEAR.url)
    await look(brotr)
    assert await groups(brotr) == [{CLEAR.url, ONION.url}]  # by the word of both


async def test_what_is_not_proven_is_not_compared(brotr: Brotr) -> None:
    """Two relays of which a little of the same was copied are not the same for that."""
    for relay in (CLEAR, ONION):
        await document(brotr, relay, self=KEY)
    await hold(brotr, CLEAR, ONION)
    await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
    await look(brotr)
    assert await groups(brotr) == []
    await prove(brotr, CLEAR, ONION)
    await brotr.pool.execute("UPDATE bigbrotr.coverage SET how = 'import'")  # another says so
    await brotr.pool.execute("UPDATE bigbrotr.operator_tests SET tested_at = 1")
    await look(brotr)
    assert await groups(brotr) == []
    await brotr.pool.execute("UPDATE bigbrotr.coverage SET how = 'paging'")
    await look(brotr)
    assert await groups(brotr) == []  # it was compared a moment ago
    await brotr.pool.execute("UPDATE bigbrotr.operator_tests SET tested_at = 1")
    await look(brotr)
    assert await groups(brotr) == [{CLEAR.url, ONION.url}]
    # A week later it holds other events as well.
    await hold(brotr, ONION, events=100, first=5000)
    await brotr.pool.execute("UPDATE bigbrotr.operator_tests SET tested_at = 1")
    await look(brotr)
    assert await groups(brotr) == []


async def test_comparison_of_weeks_beside_a_dumb_count(brotr: Brotr) -> None:
    chance = random.Random(5)
    made = [verified(f"{n}", created_at=NOW - chance.randrange(3 * WEEK)) for n in range(300)]
    made.sort(key=lambda event: (event.created_at, event.id))
    held = {relay: [e for e in made if chance.random() < 0.6] for relay in (CLEAR, ONION)}
    for relay, events in held.items():
        await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    rows = await brotr.pool.fetch("SELECT id, url FROM bigbrotr.relays")
    numbers = {row["url"]: row["id"] for row in rows}
    for week in {event.created_at // WEEK for event in made}:
        one, other = (
            {event.id for event in events if event.created_at // WEEK == week}
            for events in held.values()
        )
        ids = numbers[CLEAR.url], numbers[ONION.url]
        found = await brotr.compare_weeks([1, week], *ids)
        assert found == Compared(1, len(one & other), len(one ^ other))


async def test_a_crowd_that_copies_hides_nobody(brotr: Brotr) -> None:
    for relay in (CLEAR, ONION):
        await document(brotr, relay, self=KEY)
    await hold(brotr, CLEAR, ONION)
    crowd = [Relay(f"wss://crowd{n}.example.com") for n in range(60)]
    await brotr.insert_relay_metadata(
        [
            RelayMetadata(relay, Metadata({"self": KEY}), MetadataType.NIP11, int(time.time()))
            for relay in crowd
        ]
    )
    await look(brotr)
    assert await groups(brotr) == [{CLEAR.url, ONION.url}]
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.operator_evidence") < 150


async def test_joining_changes_nothing_about_what_is_archived(brotr: Brotr) -> None:
    for relay in (CLEAR, ONION):
        await document(brotr, relay, self=KEY)
    await hold(brotr, CLEAR, ONION)

    async def state() -> list[Any]:
        tables = ("relays", "visits", "tallies", "coverage", "candidates", "presence", "checks")
        return [
            [tuple(row) for row in await brotr.pool.fetch(f"SELECT * FROM bigbrotr.{table}")]
            for table in tables
        ]

    before = await state()
    await look(brotr)
    assert await groups(brotr) == [{CLEAR.url, ONION.url}]
    assert await state() == before
    evidence = await brotr.pool.fetch("SELECT * FROM bigbrotr.operator_evidence")
    first = {row["first_at"] for row in evidence}
    await look(brotr)
    again = await brotr.pool.fetch("SELECT * FROM bigbrotr.operator_evidence")
    assert {row["first_at"] for row in again} == first
    assert await groups(brotr) == [{CLEAR.url, ONION.url}]


async def test_a_relay_that_is_deleted(brotr: Brotr) -> None:
    await document(brotr, CLEAR, description=ONION.url)
    await document(brotr, ONION, description=CLEAR.url)
    await look(brotr)
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", ONION.url)
    assert await kinds(brotr, CLEAR) == {}
    await look(brotr)
    assert await groups(brotr) == []


async def test_a_clock_that_was_ahead(brotr: Brotr) -> None:
    await document(brotr, CLEAR, description=ONION.url)
    await document(brotr, ONION, description=CLEAR.url)
    await look(brotr)
    ahead = int(time.time()) + 10**7
    await brotr.pool.execute("UPDATE bigbrotr.operator_evidence SET seen_at = $1::bigint", ahead)
    await brotr.pool.execute("UPDATE bigbrotr.operator_state SET joined_at = $1::bigint", ahead)
    async with Statistics(brotr) as statistics:
        await statistics._join_operators()
    found = await of(brotr, CLEAR)
    assert found.as_of is not None
    assert found.as_of < ahead
    assert [each.seen_at < ahead for each in found.evidence] == [True]


async def test_statistics_count_operators(brotr: Brotr) -> None:
    await document(brotr, CLEAR, software="x", description=ONION.url)
    await document(brotr, ONION, software="x", description=CLEAR.url)
    await document(brotr, FAR, software="x")

    async def counted() -> dict[str, tuple[int, int]]:
        rows = await figures(brotr.pool, STATISTICS["access"])
        found = {row.network: (row.relays, row.operators) for _, row in rows}
        ((_, software),) = await figures(brotr.pool, STATISTICS["software"])
        return found | {"x": (software.relays, software.operators)}

    assert (await counted())["x"] == (3, 3)
    await look(brotr)
    assert await counted() == {"x": (3, 2), "clearnet": (2, 2), "tor": (1, 1)}


async def test_api_and_terminal(brotr: Brotr, dsn: str, tmp_path: Path) -> None:
    await document(brotr, CLEAR, description=ONION.url)
    await document(brotr, ONION, description=f"\x1b[31m{CLEAR.url}")
    await document(brotr, FAR, name="far")
    await brotr.insert_relays([Relay("wss://nobody.example.com")])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.candidates (url, network, source, discovered_at, due_at, alias_of)"
        " SELECT $1, 'clearnet', 'seed', 1, 1, id FROM bigbrotr.relays WHERE url = $2",
        PATH.url,
        CLEAR.url,
    )
    await look(brotr)
    async with served(dsn) as api:
        (item,) = (await api.get("operators")).json["items"]
        assert set(item["relays"]) == {CLEAR.url, ONION.url}
        assert item["aliases"] == [PATH.url]
        found = (await api.get("relays/clear.example.com/operator")).json
        assert [each["kind"] for each in found["evidence"]] == ["word"]
        assert found["share"] == 0.75
        await api.get("relays/unknown.example.com/operator", status=404)
    path = tmp_path / "operators.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    config = ["--config", str(path)]
    done = await call("operators", *config)
    assert (done.code, done.err) == (0, "")
    assert f"({PATH.url})" in done.out
    done = await call("operators", ONION.url, *config)
    assert " of the relays a document or a certificate is known" in done.out
    assert done.code == 0
    assert "joins" in done.out
    assert "75%" in done.out
    done = await call("operators", "--json", FAR.url, *config)
    assert json.loads(done.out)["relays"] == [FAR.url]
