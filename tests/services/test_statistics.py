"""The statistics service: each figure equals a recount, whatever has happened to the archive."""

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from bigbrotr.config.settings import StatisticsSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.statistics import DayAuthors
from bigbrotr.core.pool import Pool
from bigbrotr.models.coverage import Span
from bigbrotr.models.event import Event
from bigbrotr.models.relay import Relay
from bigbrotr.services.statistics import Statistics
from tests.kit.archive import BOTH, A, B, C, claim_one, keys, ordered, pairs, relay_id
from tests.kit.events import NOW, verified

SETTINGS = StatisticsSettings(every_s=0)
I2P = Relay("ws://relay.example.i2p", NOW)
DAY = 86_400
TOPS = (1, 2, 3, 5, 10, 20, 50, 100)
HOLDS = (3600, 86_400, 604_800, 2_592_000, 31_536_000)


async def count(brotr: Brotr) -> None:
    """Counts until nothing is left to do."""
    for _ in range(20):
        async with Statistics(brotr, SETTINGS) as statistics:
            await statistics.run()
        if not await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.dirty_days"):
            return
    raise AssertionError("the queue does not get empty")


async def recount(brotr: Brotr) -> dict[str, Any]:
    """All figures, by a dumb look at everything."""
    events = await brotr.pool.fetch(
        "SELECT id, pubkey, created_at / 86400 AS day, kind FROM bigbrotr.events_stored"
    )
    seen: dict[bytes, dict[str, int]] = defaultdict(dict)
    for event_id, url, at in await brotr.pool.fetch("SELECT * FROM bigbrotr.events_relays"):
        seen[event_id][url] = at
    rows = await brotr.pool.fetch("SELECT id, url, network FROM bigbrotr.relays")
    networks = {row["url"]: row["network"] for row in rows}
    ids = {row["url"]: row["id"] for row in rows}
    first: dict[bytes, int] = {}
    having: dict[int, set[bytes]] = {0: set(), 3: set()}
    for row in events:
        if row["kind"] not in (445, 1059):
            first[row["pubkey"]] = min(first.get(row["pubkey"], row["day"]), row["day"])
        if row["kind"] in having:
            having[row["kind"]].add(row["pubkey"])

    def classes(authors: set[bytes]) -> list[int]:
        return [len(authors), len(authors & having[0]), len(authors & having[3])]

    dropped: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * 6)
    for row in await brotr.pool.fetch("SELECT * FROM bigbrotr.dropped"):
        place = sum(row["dropped_at"] - row["seen_at"] >= bound for bound in HOLDS)
        dropped[row["created_at"] // DAY, row["relay_id"]][place] += 1
    found: dict[str, Any] = {"days": {}, "kinds": {}, "relays": {}, "networks": {}}
    for day in {row["day"] for row in events}:
        rows = [row for row in events if row["day"] == day]
        held_by = {row["id"]: set(seen[row["id"]]) for row in rows}
        sizes = Counter(url for urls in held_by.values() for url in urls)
        largest = sorted(sizes, key=lambda url: (-sizes[url], ids[url]))
        arrivals = Counter(min(seen[row["id"]].values()) // DAY for row in rows if seen[row["id"]])
        authors = {row["pubkey"] for row in rows if row["kind"] not in (445, 1059)}
        found["days"][day] = {
            "events": len(rows),
            "pairs": sum(sizes.values()),
            "held": sum(bool(urls) for urls in held_by.values()),
            "authors": classes(authors),
            "new_authors": classes({key for key, at in first.items() if at == day}),
            "covered": [
                sum(bool(urls & set(largest[:top])) for urls in held_by.values()) for top in TOPS
            ],
            "arrival_days": sorted(arrivals),
            "arrivals": [arrivals[each] for each in sorted(arrivals)],
        }
        for kind in {row["kind"] for row in rows}:
            of_kind = [row["id"] for row in rows if row["kind"] == kind]
            times = Counter(len(held_by[each]) for each in of_kind)
            found["kinds"][day, kind] = (len(of_kind), dict(times))
        for url, number in sizes.items():
            alone = sum(urls == {url} for urls in held_by.values())
            found["relays"][day, ids[url]] = (number, alone, [0] * 6)
        for network in {networks[url] for url in sizes}:
            its = {url for url in networks if networks[url] == network}
            found["networks"][day, network] = (
                sum(bool(urls & its) for urls in held_by.values()),
                sum(len(urls & its) for urls in held_by.values()),
            )
    for key, times_ in dropped.items():
        number, alone, _ = found["relays"].get(key, (0, 0, []))
        found["relays"][key] = (number, alone, times_)
    return found


async def counted(brotr: Brotr) -> dict[str, Any]:
    """All figures, as they were counted."""
    fetch = brotr.pool.fetch
    days = await fetch(
        "SELECT day, events, pairs, held, authors, new_authors, covered, arrival_days, arrivals"
        " FROM bigbrotr.day_totals"
    )
    kinds = await fetch("SELECT day, kind, events, held_by, held_events FROM bigbrotr.day_kinds")
    relays = await fetch("SELECT day, relay_id, events, alone, dropped FROM bigbrotr.day_relays")
    networks = await fetch("SELECT day, network, events, pairs FROM bigbrotr.day_networks")
    return {
        "days": {row["day"]: dict(list(row.items())[1:]) for row in days},
        "kinds": {
            tuple(row)[:2]: (row[2], dict(zip(row[3], row[4], strict=True))) for row in kinds
        },
        "relays": {tuple(row)[:2]: tuple(row)[2:] for row in relays},
        "networks": {tuple(row)[:2]: tuple(row)[2:] for row in networks},
    }


async def check(brotr: Brotr) -> None:
    await count(brotr)
    assert await counted(brotr) == await recount(brotr)


def events_of(day: int, *kinds: int, key: int = 0) -> list[Event]:
    return ordered([verified(kind=kind, created_at=day * DAY + 100, key=key) for kind in kinds])


@BOTH
async def test_figures_equal_a_recount(brotr: Brotr) -> None:
    random.seed(7)
    pages = [
        (
            relay,
            [
                verified(kind=random.choice((0, 1, 1, 3, 445, 1059)), created_at=at, key=key)
                for at, key in [
                    (NOW - random.randrange(20 * DAY), random.randrange(9)) for _ in range(30)
                ]
            ],
        )
        for relay in (A, B, C, I2P)
    ]
    shared = pages[0][1][:20]
    for relay, events in pages:
        await brotr.insert_events(pairs(events, relay, seen_at=NOW - random.randrange(5 * DAY)))
        await brotr.insert_events(pairs(shared[: random.randrange(20)], relay, seen_at=NOW))
        await check(brotr)
    assert len((await counted(brotr))["days"]) > 10


async def test_an_author_who_is_older_than_was_known(brotr: Brotr) -> None:
    """An event with an old date moves the first day, and a profile counts on all days."""
    await brotr.insert_events(pairs(events_of(20_000, 1) + events_of(20_005, 1), A))
    await check(brotr)
    await brotr.insert_events(pairs(events_of(19_000, 1), A))
    await check(brotr)
    figures = (await counted(brotr))["days"]
    assert [figures[day]["new_authors"][0] for day in (19_000, 20_000, 20_005)] == [1, 0, 0]
    await brotr.insert_events(pairs(events_of(20_003, 0, 3), A))
    await check(brotr)
    assert (await counted(brotr))["days"][19_000]["new_authors"] == [1, 1, 1]


async def test_events_and_relays_that_go(brotr: Brotr) -> None:
    """Relays that drop events, and relays that are deleted with what they alone held."""
    events = ordered(events_of(20_000, 0, 1, 1059) + events_of(20_009, 1, 3, key=1))
    visit = await claim_one(brotr, A)
    await brotr.insert_events(pairs(events, A, B) + pairs(events_of(20_001, 0, 3, key=2), C))
    await brotr.insert_events(pairs(events_of(20_002, 1, key=2), A))
    await brotr.insert_events(pairs(events_of(20_001, 1, key=2), C))
    await check(brotr)
    assert (await counted(brotr))["days"][20_002]["authors"] == [1, 1, 1]
    gone = keys(events)[:3]
    await brotr.note_drops(visit, gone, before=NOW + 1, now=NOW + 2 * DAY)
    await check(brotr)
    number = await relay_id(brotr, A)
    assert (await counted(brotr))["relays"][20_000, number][2] == [0, 0, 3, 0, 0, 0]
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", C.url)
    await check(brotr)
    await brotr.delete_orphan_events()
    await check(brotr)
    assert 20_001 not in (await counted(brotr))["days"]
    assert (await counted(brotr))["days"][20_002]["authors"] == [1, 0, 0]
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    await brotr.delete_orphan_events()
    await check(brotr)
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.authors") == 0


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_done_to_an_archive(brotr: Brotr, seed: int) -> None:
    """Pages, presence, windows, drops, distrust and deleted relays, in any order."""
    chance = random.Random(seed)
    visits = {relay: await claim_one(brotr, relay) for relay in (A, B, C)}
    every: list[Event] = []

    async def page(relay: Relay) -> None:
        fresh = [
            verified(
                kind=chance.choice((0, 1, 3, 1059)),
                created_at=NOW - chance.randrange(12 * DAY),
                key=chance.randrange(6),
            )
            for _ in range(12)
        ]
        every.extend(fresh)
        some = fresh + chance.sample(every, min(len(every), 5))
        await brotr.store_page(visits[relay], ordered(list(set(some))), now=NOW)

    async def presence(relay: Relay) -> None:
        some = ordered(chance.sample(every, min(len(every), 9)))
        await brotr.note_presence(visits[relay], keys(some), NOW + 5)

    async def window(relay: Relay) -> None:
        since = NOW - chance.randrange(12 * DAY)
        span = Span(since, since + 3 * DAY)
        _, ids = await brotr.read_ids(span, b"", 10_000)
        assert await brotr.mark_window(visits[relay], span, ids, [ids[:32]]) is not None

    async def drops(relay: Relay) -> None:
        some = ordered(chance.sample(every, min(len(every), 9)))
        late = chance.randrange(400 * DAY)
        await brotr.note_drops(visits[relay], keys(some), before=NOW + DAY, now=NOW + DAY + late)

    async def distrust(relay: Relay) -> None:
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)"
            " VALUES ($1, 'reconciliation', int8multirange(int8range($2, $3)), $3)"
            " ON CONFLICT DO NOTHING",
            visits[relay].relay_id,
            NOW - 9 * DAY,
            NOW - 2 * DAY,
        )
        await brotr.distrust(visits[relay])

    async def delete(relay: Relay) -> None:
        if chance.random() < 0.5:
            await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", relay.url)
            visits[relay] = await claim_one(brotr, relay)
        await brotr.delete_orphan_events()

    for relay in (A, B, C):
        await page(relay)
    for _ in range(8):
        for _ in range(3):
            work = chance.choice((page, presence, window, drops, distrust, delete))
            await work(chance.choice((A, B, C)))
        await check(brotr)


async def test_a_page_that_commits_late_is_counted(brotr: Brotr) -> None:
    """It is open while its day is counted, and noted when it commits."""
    await brotr.insert_events(pairs(events_of(20_000, 1), A))
    late = events_of(20_000, 7)
    async with brotr.pool.transaction() as connection:
        await connection.execute(
            "INSERT INTO bigbrotr.events_stored (created_at, num, slice, kind, id, pubkey)"
            " VALUES ($1, 99999, bigbrotr.slice_of($1), 7, $2, $2)",
            late[0].created_at,
            late[0].id,
        )
        await connection.execute(
            "SELECT bigbrotr.note_days(ARRAY[$1::bigint], 1)", late[0].created_at
        )
        await count(brotr)
        assert (await counted(brotr))["days"][20_000]["events"] == 1
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.dirty_days") == 1
    await check(brotr)


async def test_a_service_that_dies_begins_again(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is between two days or in the midst of one."""
    for day in range(20_000, 20_006):
        await brotr.insert_events(pairs(events_of(day, 0, 1, key=day % 2), A))
    good = Statistics._sketch
    left = 0

    async def dying(self: Statistics, authors: DayAuthors) -> list[bytes]:
        nonlocal left
        left -= 1
        if left < 0:
            raise ZeroDivisionError
        return await good(self, authors)

    monkeypatch.setattr(Statistics, "_sketch", dying)
    for days in (0, 2, 1):
        left = days
        with pytest.raises(ZeroDivisionError):
            await count(brotr)
    monkeypatch.undo()
    await check(brotr)


async def test_several_services_at_once(dsn: str, brotr: Brotr) -> None:
    """They wait for each other, and what comes meanwhile is counted."""
    for day in range(20_000, 20_010):
        await brotr.insert_events(pairs(events_of(day, 0, 1, 3, key=day % 3), A, B))
    async with Brotr(Pool(dsn=dsn)) as other, asyncio.timeout(60), asyncio.TaskGroup() as group:
        for each in (brotr, other):
            group.create_task(Statistics(each, SETTINGS).run())
        for day in range(19_990, 20_010):
            await brotr.insert_events(pairs(events_of(day, 1, key=day % 4), B))
    await check(brotr)


async def test_windows_of_authors(brotr: Brotr) -> None:
    """Few authors are estimated as they are; a day that changes changes the 30 after it."""

    async def windows() -> dict[int, tuple[int, int]]:
        rows = await brotr.pool.fetch(
            "SELECT day, authors_7_days[1], authors_30_days[1] FROM bigbrotr.day_totals"
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    for day in (20_000, 20_006, 20_007, 20_029, 20_030):
        await brotr.insert_events(pairs(events_of(day, 1, key=day - 20_000), A))
    await count(brotr)
    assert await windows() == {
        20_000: (1, 1), 20_006: (2, 2), 20_007: (2, 3), 20_029: (1, 4), 20_030: (2, 4)
    }  # fmt: skip
    await brotr.insert_events(pairs(events_of(20_001, 1, key=50), A))
    await count(brotr)
    assert await windows() == {
        20_000: (1, 1), 20_001: (2, 2), 20_006: (3, 3), 20_007: (3, 4), 20_029: (1, 5),
        20_030: (2, 5),
    }  # fmt: skip


async def test_a_day_is_not_counted_all_the_time(brotr: Brotr) -> None:
    settings = StatisticsSettings(every_s=600)

    async def events() -> int:
        async with Statistics(brotr, settings) as statistics:
            await statistics.run()
        return int((await counted(brotr))["days"][20_000]["events"])

    for number, expected in ((1, 1), (2, 1), (3, 1)):
        await brotr.insert_events(pairs(events_of(20_000, number), A))
        assert await events() == expected
    assert [s.value for s in await brotr.metrics() if s.labels == ("statistics",)] == [1]
    await brotr.pool.execute("UPDATE bigbrotr.day_totals SET made_at = made_at - 601")
    assert await events() == 3
    await brotr.insert_events(pairs(events_of(20_000, 4), A))
    # A clock that was ahead: its days are not waited for.
    await brotr.pool.execute("UPDATE bigbrotr.day_totals SET made_at = made_at + 90000")
    assert await events() == 4


async def test_the_queue_stays_small_while_nobody_counts(brotr: Brotr) -> None:
    for number in range(6):
        await brotr.insert_events(pairs(events_of(20_000 + number % 2, number), A))
    assert await brotr.thin_dirty_days() == 4
    assert await brotr.thin_dirty_days() == 0
    await check(brotr)
