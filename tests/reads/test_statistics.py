"""Statistics as they are read: page by page, by day, and equal to a recount of what relays say."""

from typing import Any

import msgspec
import pytest

from bigbrotr.config.settings import CompletenessSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from bigbrotr.reads.statistics import DAY_S, STATISTICS, descriptions, figures
from bigbrotr.services.completeness.service import Completeness
from bigbrotr.services.statistics import Statistics
from tests.conftest import Filling
from tests.kit.archive import A, B, C, claim_one, keys, pairs, relay_id
from tests.kit.events import NOW, pubkey, verified
from tests.kit.policy import judge

FIRST = NOW // DAY_S - 40
DOCUMENTS: list[tuple[Relay, str, dict[str, Any]]] = [
    (A, "nip11", {"software": "strfry", "version": "1", "supported_nips": [1, 45, "x"]}),
    (B, "nip11", {"software": "strfry", "limitation": {"auth_required": True}}),
    (C, "nip11", {"supported_nips": [1, 1], "limitation": {"payment_required": True}}),
    (A, "nip66_geo", {"country": "DE"}),
    (B, "nip66_geo", {"country": "DE"}),
    (A, "claims", {"nips": {"45": {"claimed": True, "seen": False}, "77": {"seen": True}}}),
    (B, "claims", {"nips": {"45": {"seen": None}}}),
]


async def fill(brotr: Brotr) -> None:
    """Something of everything, counted."""
    visit = await claim_one(brotr, A)
    for place in range(40):
        at = (FIRST + place) * DAY_S + 7
        events = [verified(kind=kind, created_at=at, key=place % 3) for kind in (0, 1, 3)]
        events.sort(key=lambda event: (event.created_at, event.id))
        await brotr.insert_events(pairs(events, A, seen_at=NOW - DAY_S * (place % 4)))
        await brotr.insert_events(pairs(events[: place % 3], B, C, seen_at=NOW))
    await brotr.note_drops(visit, keys(events)[:1], before=NOW + 1, now=NOW + 9 * DAY_S)
    for place, (relay, type_, data) in enumerate(DOCUMENTS):
        await brotr.pool.execute(
            "SELECT bigbrotr.insert_relay_metadata(p_urls => $1, p_types => $2,"
            " p_snapshot_ats => $3, p_ids => $4, p_datas => $5)",
            *([relay.url], [type_], [NOW], [bytes([place])], [msgspec.json.encode(data).decode()]),
        )
    for relay in (A, B):
        number = await relay_id(brotr, relay)
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.rtts (relay_id, holds_s, checked_at, outcome, tcp_ms, upgrade_ms)"
            " SELECT $1, 60, $2 + 3600 * n, CASE WHEN n % 5 = $1 % 5 THEN 'timeout' END,"
            " CASE WHEN n % 5 <> $1 % 5 THEN n END, CASE WHEN n % 5 <> $1 % 5 THEN 10 END"
            " FROM generate_series(0, 60) AS n",
            number,
            NOW,
        )
    async with Statistics(brotr) as statistics:
        await statistics.run()


@pytest.fixture
def filling(request: pytest.FixtureRequest) -> Filling | None:
    return fill if "archive" in request.fixturenames else None


@pytest.fixture
def archive(brotr: Brotr) -> Brotr:
    """An archive with something of everything, counted."""
    return brotr


@pytest.mark.parametrize("name", list(STATISTICS))
async def test_figures_page_by_page(archive: Brotr, name: str) -> None:
    """Every row once, in one order, whatever the size of a page."""
    statistic = STATISTICS[name]
    if name == "compliance":
        await ask_for_deletion(archive)
    elif name == "completeness":
        await refer(archive)
    elif name in ("moves", "listed", "listed_states"):
        await list_relays(archive)
    whole = await figures(archive.pool, statistic)
    assert len(whole) >= 2 or name in ("countries", "access")
    for size in (1, 7):
        paged: list[Any] = []
        after = None
        while page := await figures(archive.pool, statistic, after, size):
            paged += page
            after = page[-1][0]
        assert paged == whole
    if statistic.is_by_day:
        numbers = [key[0] for key, _ in whole]
        assert numbers == sorted(numbers, reverse=True)
        day = numbers[len(numbers) // 2]
        some = await figures(archive.pool, statistic, since=day * DAY_S, until=(day + 1) * DAY_S)
        assert some == [row for row in whole if row[0][0] == day]


async def list_relays(brotr: Brotr) -> None:
    """Authors list relays in several months, of which one is known."""
    events = [
        verified(
            kind=10002, created_at=NOW - 3_000_000 * n, key=n, tags=[["r", url] for url in urls]
        )
        for n in range(3)
        for urls in [[A.url, f"wss://listed{n}.example.com"]]
    ]
    await brotr.insert_events(pairs(events, A))
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, checked_at, failed)"
        " SELECT r.id, 0, 'up', 7, 8, '{}' FROM bigbrotr.relays r WHERE r.url = $1"
        " ON CONFLICT (relay_id) DO UPDATE SET state = 'up'",
        A.url,
    )
    async with Statistics(brotr) as statistics:
        await statistics.run()
    await brotr.sum_lists(2**40, 2**40)


async def refer(brotr: Brotr) -> None:
    """Events refer to others, in several ways and months."""
    events = [
        verified(
            kind=kind, created_at=NOW - 3_000_000 * n, tags=[["e", "ab" * 32], ["q", "cd" * 32]]
        )
        for kind in (1, 7)
        for n in range(3)
    ]
    await brotr.insert_events(pairs(events, A))
    settings = CompletenessSettings(share=1.0, fetch=False)
    async with Completeness(brotr, settings) as service:
        await service.run()


async def ask_for_deletion(brotr: Brotr) -> None:
    """One author asks all relays to delete everything."""
    author = bytes.fromhex(pubkey(2))
    rows = await brotr.pool.fetch(
        "SELECT encode(id, 'hex') AS id FROM bigbrotr.events_stored WHERE pubkey = $1", author
    )
    request = verified(kind=5, created_at=NOW, key=2, tags=[["e", row["id"]] for row in rows])
    await brotr.insert_events(pairs([request], A, B, C))
    await judge(brotr)
    async with Statistics(brotr) as statistics:
        await statistics.run()


async def read(brotr: Brotr, name: str) -> list[tuple[Any, ...]]:
    return [msgspec.structs.astuple(row) for _, row in await figures(brotr.pool, STATISTICS[name])]


async def test_what_relays_say(archive: Brotr) -> None:
    assert await read(archive, "software") == [
        ("", "", 1, 1),
        ("strfry", "", 1, 1),
        ("strfry", "1", 1, 1),
    ]
    assert await read(archive, "nips") == [
        ("1", 2, 0, 0, 0),
        ("45", 1, 1, 0, 1),
        ("77", 0, 1, 1, 0),
    ]
    assert await read(archive, "countries") == [("DE", 2, 2)]
    assert await read(archive, "access") == [("clearnet", 3, 0, 3, 1, 1, 0, 3)]


async def test_figures_of_events(archive: Brotr) -> None:
    days = await read(archive, "days")
    assert days[0] == ("2025-06-14", 3, 2, 2)  # the third was dropped by the only one
    assert days[-1] == ("2025-05-06", 3, 3, 3)
    authors = {row[:2]: row[2:] for row in await read(archive, "authors")}
    assert authors["2025-05-06", "with profile"] == (1, 1, 1, 1)
    assert authors["2025-06-14", "all"] == (1, 0, 3, 3)
    replication = [row[1:] for row in await read(archive, "replication") if row[0] == "2025-06-12"]
    assert max(replication, key=lambda row: row[1])[1:] == (3, 1)
    assert sorted(held_by for _, held_by, _ in replication) == [1, 1, 3]
    growth = await read(archive, "growth")
    assert sum(row[1] for row in growth) == sum(row[3] for row in days)
    relays = {row[0]: row[1:] for row in await read(archive, "relays")}
    assert relays[A.url][-2:] == (0, 0)
    assert relays[A.url][6] == 1  # later than a week after it was seen there
    assert {row[3] for row in await read(archive, "top_relays")} <= {1.0, 0.5, 0.6667}


async def test_checks_are_counted_as_they_are(archive: Brotr) -> None:
    """Each day's checks, also those that came after the day was counted first."""
    query = (
        "SELECT (checked_at / 86400), count(DISTINCT relay_id), count(*),"
        " count(*) FILTER (WHERE outcome IS NULL),"
        " percentile_cont(0.5) WITHIN GROUP (ORDER BY tcp_ms + upgrade_ms)"
        " FROM bigbrotr.rtts GROUP BY 1 ORDER BY 1 DESC"
    )
    counted = (
        "SELECT day, relays, checks, checks_up, open_ms FROM bigbrotr.day_checks ORDER BY 1 DESC"
    )
    rows = [tuple(row) for row in await archive.pool.fetch(query)]
    assert [tuple(row) for row in await archive.pool.fetch(counted)] == rows
    await archive.pool.execute("DELETE FROM bigbrotr.day_checks")
    for hours in (1, 20, 30, 61, 62):
        await archive.count_checks(NOW + 3600 * hours)
    assert [tuple(row) for row in await archive.pool.fetch(counted)] == rows
    await archive.pool.execute("DELETE FROM bigbrotr.rtts")
    await archive.count_checks(NOW + 3600 * 70)
    assert [tuple(row) for row in await archive.pool.fetch(counted)] == rows


def test_each_statistic_says_what_it_is() -> None:
    assert [each.name for each in descriptions()] == list(STATISTICS)
    assert all(each.words.endswith(".") and each.columns for each in descriptions())


async def test_a_day_far_ahead(brotr: Brotr) -> None:
    """Events may claim any time; a slice without an end holds many days."""
    far = [verified(created_at=at) for at in (2**40, 2**62, 2**63 - 1)]
    await brotr.insert_events(pairs(far, A))
    async with Statistics(brotr) as statistics:
        await statistics.run()
    assert await read(brotr, "days") == [("infinity", 1, 1, 1)] * 3
    (first, *_), *_ = await figures(brotr.pool, STATISTICS["days"], limit=1)
    assert first == ((2**63 - 1) // DAY_S,)
