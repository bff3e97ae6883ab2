"""The statistics service: each figure equals a recount, whatever has happened to the archive."""

import random
from collections import Counter, defaultdict
from typing import Any

from bigbrotr.config.settings import StatisticsSettings
from bigbrotr.core.brotr import Brotr
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
