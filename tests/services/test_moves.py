"""Lists of relays: who has moved and which relays are listed, equal to a dumb recount."""

import random
import time
from collections import Counter
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.references import month_of
from bigbrotr.models.relay import Relay
from bigbrotr.reads.statistics import STATISTICS, figures
from bigbrotr.services.statistics import Statistics
from tests.kit.events import NOW, make_event

HOLDER = Relay("wss://holder.example.com")
URLS = [f"wss://r{n}.example.com" for n in range(8)]


async def store(brotr: Brotr, events: list[dict[str, Any]]) -> list[Event]:
    found = [Event.from_object(event) for event in events]
    await brotr.insert_relays([HOLDER])
    await brotr.insert_events([EventRelay(event, HOLDER, NOW) for event in found])
    return found


async def count(brotr: Brotr) -> None:
    await brotr.pool.execute("UPDATE bigbrotr.day_totals SET made_at = 0")
    async with Statistics(brotr) as statistics:
        await statistics.run()
    now = int(time.time())
    await brotr.sum_lists(now, now)


async def read(brotr: Brotr, name: str) -> list[Any]:
    return [row for _, row in await figures(brotr.pool, STATISTICS[name])]


def listed(event: Event) -> set[str]:
    return {tag[1] for tag in event.tags if tag[0] == "r"}


async def test_the_sums_are_those_of_a_recount(brotr: Brotr) -> None:
    dice = random.Random(2)
    events = [
        make_event(
            NOW - dice.randrange(200) * 86_400,
            10002,
            [["r", url] for url in dice.sample(URLS, dice.randrange(5))],
            f"{n}",
            n % 9,
        )
        for n in range(80)
    ]
    archived: list[Event] = []
    for start in (0, 30):
        archived += await store(brotr, events[start : start + 50][: 30 if start == 0 else 50])
        await count(brotr)
        by_author: dict[bytes, list[Event]] = {}
        for event in sorted(archived, key=lambda each: (each.created_at, each.id)):
            by_author.setdefault(event.pubkey, []).append(event)
        months: dict[int, Counter[str]] = {}
        authors: dict[int, set[bytes]] = {}
        movers: dict[int, set[bytes]] = {}
        for author, versions in by_author.items():
            # Of one second, the lowest id is the newest.
            versions.sort(key=lambda each: (each.created_at, bytes(255 - x for x in each.id)))
            before: set[str] | None = None
            for version in versions:
                month = month_of(version.created_at)
                authors.setdefault(month, set()).add(author)
                now = listed(version)
                if before is not None:
                    changes = Counter(added=len(now - before), removed=len(before - now))
                    months.setdefault(month, Counter()).update(changes)
                    if changes.total():
                        movers.setdefault(month, set()).add(author)
                before = now
        rows = await read(brotr, "moves")
        assert {(row.month, row.authors, row.moved, row.added, row.removed) for row in rows} == {
            (
                f"{1970 + month // 12:04}-{month % 12 + 1:02}",
                len(each),
                len(movers.get(month, ())),
                months.get(month, Counter())["added"],
                months.get(month, Counter())["removed"],
            )
            for month, each in authors.items()
        }
        newest = Counter(url for versions in by_author.values() for url in listed(versions[-1]))
        rows = await read(brotr, "listed")
        assert {row.relay: row.authors for row in rows} == dict(newest)
        (state,) = await read(brotr, "listed_states")
        assert (state.state, state.entries, state.entries_share) == ("unknown", newest.total(), 1.0)


async def test_which_share_of_the_listed_relays_is_dead(brotr: Brotr) -> None:
    await store(
        brotr,
        [
            make_event(NOW, 10002, [["r", URLS[0]], ["r", URLS[1]], ["r", URLS[2]]], key=0),
            make_event(NOW, 10002, [["r", URLS[0].upper().replace("WSS", "wss") + "/"]], key=1),
        ],
    )
    await brotr.insert_relays([Relay(URLS[0]), Relay(URLS[1])])
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits v SET retired_at = 1 FROM bigbrotr.relays r"
        " WHERE r.id = v.relay_id AND r.url = $1",
        URLS[0],
    )
    await count(brotr)
    found = {row.state: (row.relays, row.entries) for row in await read(brotr, "listed_states")}
    assert found == {"failing": (1, 2), "unknown": (2, 2)}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (" WSS://A.Example.com/ ", "wss://a.example.com"),
        ("wss://a.example.com/Path/", "wss://a.example.com/Path"),
        ("wss://a.example.com:7777", "wss://a.example.com:7777"),
        ("http://a.example.com", None),
        ("wss://", None),
        ("wss:///x", None),
        ("", None),
        ("wss://a.example.com/ and more", None),
        ("wss://" + "x" * 300, None),
    ],
)
async def test_urls_in_lists(brotr: Brotr, text: str, url: str | None) -> None:
    assert await brotr.pool.fetchval("SELECT bigbrotr.listed_url(p_text => $1)", text) == url


async def test_garbage_in_lists_keeps_no_day_from_being_counted(brotr: Brotr) -> None:
    tags = [
        ["r"],
        ["r", ""],
        ["r", "\0"],
        ["r", "\ud800"],
        ["x", URLS[0]],
        ["r", URLS[1], "x", "y"],
    ]
    many = [["r", f"wss://r{n}.example.com"] for n in range(3000)]
    await store(
        brotr,
        [
            make_event(NOW, 10002, tags),
            make_event(NOW + 1, 10002, many, key=1),
            make_event(2**62, 10002, [["r", URLS[0]]], key=2),
        ],
    )
    await count(brotr)
    assert len(await read(brotr, "listed")) == 100  # as many as are kept of a list
    assert {row.month for row in await read(brotr, "moves")} == {"2025-06", "9999-12"}
