"""The index of words has what is archived, as it comes, and finds what a dumb reader would find."""

import json
import random
from collections.abc import AsyncIterator

import pytest

from bigbrotr.config.settings import Config, MaintenanceSettings, Profile, SearchSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query
from bigbrotr.models.search import Search as Words
from bigbrotr.models.search import words_of_event
from bigbrotr.reads import events as reading
from bigbrotr.reads.events import EventReads, NotSearchedError
from bigbrotr.services import search as service
from bigbrotr.services.maintenance import Maintenance
from bigbrotr.services.search import Search
from tests.kit.archive import pairs
from tests.kit.events import NOW, verified
from tests.kit.policy import judge
from tests.serve.relay.client import HOLDER, store

KINDS = (0, 1, 30023)
VOCABULARY = ["nostr", "Ünïcödé", "東京タワー", "relay", "foo-bar", "ß", "中", "the", "the", "the"]
SEARCHES = [
    "nostr",
    "the",
    "the relay",
    '"the relay"',
    "the -nostr",
    "-the",
    "foo-bar",
    "bar",
    "ÜNÏCÖDÉ",
    "東京",
    "京",
    "タワー 中",
    "ss",
    "nowhere",
    "the language:en",
    '"relay the" -東',
]


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SEARCH_FRESH_S", -1.0)


@pytest.fixture
async def search(brotr: Brotr) -> AsyncIterator[Search]:
    config = Config(search=SearchSettings(enabled=True, kinds=KINDS))
    async with Search(brotr, context=Context(config)) as made:
        yield made


def some_events(number: int, seed: int = 1, start: int = 0) -> list[Event]:
    chance = random.Random(seed)
    events = []
    for n in range(start, start + number):
        text = " ".join(chance.choices(VOCABULARY, k=chance.randint(0, 6)))
        kind = chance.choice([0, 1, 1, 1, 7, 30023])
        tags = [["d", f"{n}"], ["title", chance.choice(VOCABULARY)]] if kind == 30023 else []
        content = json.dumps({"about": text}) if kind == 0 else text
        at = chance.choice([NOW - n, NOW - n * 86_400, NOW - n % 3, 1, NOW + 10**9])
        events.append(verified(content, tags, kind=kind, created_at=at, key=n))
    return events


def expected(events: list[Event], query: Query) -> list[bytes]:
    """What one finds who looks at each event."""
    assert query.search is not None
    found = [
        event
        for event in events
        if event.kind in KINDS
        and (query.kinds is None or event.kind in query.kinds)
        and (query.authors is None or event.pubkey in query.authors)
        and query.since <= event.created_at <= query.until
        and query.search.matches(words_of_event(event.kind, event.tags, event.content))
    ]
    return [event.id for event in sorted(found, key=lambda each: (-each.created_at, each.id))]


async def found_of(brotr: Brotr, query: Query, view: View = View.CURRENT) -> list[bytes]:
    return [event.id async for event in EventReads(brotr.pool, view).all(query)]


async def indexed(brotr: Brotr) -> set[bytes]:
    return {row["id"] for row in await brotr.pool.fetch("SELECT id FROM bigbrotr.search")}


async def test_it_finds_what_a_dumb_reader_finds(
    brotr: Brotr, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE", 7)
    events = some_events(150)
    await store(brotr, events[:60])  # before there is an index
    await search.run()
    await store(brotr, events[60:])
    await search.run()
    queries = [
        Query(search=Words.parse(text), kinds=kinds, since=since, until=until, authors=authors)
        for text in SEARCHES
        for kinds, since, until, authors in (
            (None, 0, 2**62, None),
            (frozenset([1, 7]), 0, 2**62, None),
            (None, NOW - 40 * 86_400, NOW, None),
            (frozenset([0, 30023]), 1, NOW + 10**9, frozenset(e.pubkey for e in events[::2])),
        )
    ]
    reads = EventReads(brotr.pool, View.CURRENT)
    for query in queries:
        wanted = expected(events, query)
        assert await found_of(brotr, query) == wanted, query
        counted = await reads.count(query, 1000)
        assert (counted.events, counted.is_exact) == (len(wanted), True)
        assert (await reads.count(query, 3)).events >= min(len(wanted), 4)
    by_id = Query(search=Words.parse("the"), ids=frozenset(event.id for event in events[:50]))
    assert await found_of(brotr, by_id) == expected(events[:50], by_id)
    # Nothing of a kind that is not in the index.
    query = Query(search=Words.parse("the"), kinds=frozenset([7]))
    assert await found_of(brotr, query) == []


async def test_tags_are_asked_for_as_well(brotr: Brotr, search: Search) -> None:
    events = [verified(f"same word {n}", [["t", f"{n % 3}"]], created_at=NOW + n) for n in range(9)]
    await store(brotr, events)
    await search.run()
    query = Query(search=Words.parse("word"), tags={"t": frozenset(["1"])})
    assert await found_of(brotr, query) == [events[n].id for n in (7, 4, 1)]


async def test_it_goes_on_where_it_was(
    brotr: Brotr, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAGE", 10)
    events = [event for event in some_events(80) if event.kind in KINDS]
    await store(brotr, events)
    assert await brotr.begin_search(KINDS)
    assert not await brotr.begin_search(KINDS)
    # Step by step, by one after the other: as after each a process might have been killed.
    reads = EventReads(brotr.pool, View.KEPT)
    steps = 0
    while (position := await brotr.search_position()) and position.after_at is not None:
        done = await search._walk(reads, position)
        assert done is not None
        steps += 1
        assert len(await indexed(brotr)) == min(10 * steps, len(events))
        # The same again is another's: it changes nothing.
        assert await search._walk(reads, position) in (0, None)
    assert steps > 3
    assert await indexed(brotr) == {event.id for event in events}
    # And the log.
    await store(brotr, some_events(5, seed=2, start=100))
    before = await brotr.search_position()
    assert before is not None
    assert await search._follow(reads, before)
    assert await search._follow(reads, before) == 0
    samples = {(s.name, s.labels): s.value for s in await brotr.metrics()}
    assert samples["backlog", ("search",)] == 0
    assert samples["search_filling", ()] == 0


async def test_it_begins_again_where_the_log_was_pruned_or_other_kinds_are_wanted(
    brotr: Brotr, search: Search
) -> None:
    events = some_events(40)
    await search.run()
    await store(brotr, events)
    await brotr.prune_arrivals(2**40)
    await store(brotr, [verified("late")])
    await search.run()
    wanted = {event.id for event in events if event.kind in KINDS}
    assert wanted <= await indexed(brotr)
    config = Config(search=SearchSettings(enabled=True, kinds=(7,)))
    async with Search(brotr, context=Context(config)) as other:
        await other.run()
    assert {event.id for event in events if event.kind == 7} <= await indexed(brotr)
    query = Query(search=Words.parse("the"))
    assert set(await found_of(brotr, query)) == {
        event.id for event in events if event.kind == 7 and "the" in event.content.split()
    }


async def test_what_is_hidden_is_not_found_and_what_is_erased_is_in_no_index(
    brotr: Brotr, search: Search
) -> None:
    events = [verified(f"secret {n}", created_at=NOW + n, key=n % 2) for n in range(6)]
    await store(brotr, events)
    await judge(brotr)
    await search.run()
    query = Query(search=Words.parse("secret"))
    assert len(await found_of(brotr, query)) == 6
    await brotr.take_down("event", events[0].id, why="a test", who="me")
    assert events[0].id not in await found_of(brotr, query)
    assert events[0].id in await found_of(brotr, query, View.KEPT)
    await brotr.take_down("event", events[1].id, why="a test", who="me", erase=True)
    assert events[1].id not in await found_of(brotr, query, View.KEPT)
    assert events[1].id not in await indexed(brotr)
    # Nor does it come back when what was read before is written after.
    position = await brotr.search_position()
    assert position is not None
    late = await service._indexed(
        [event async for event in EventReads(brotr.pool, View.KEPT).all(Query())]
    )
    stale = [late[0]._replace(created_at=events[1].created_at, id=events[1].id), *late]
    assert await brotr.index_words(stale, position, position)
    assert events[1].id not in await indexed(brotr)
    # What leaves the archive leaves the index.
    await brotr.pool.execute("DELETE FROM bigbrotr.events_stored WHERE id = $1", events[2].id)
    await brotr.pool.execute(
        "SELECT bigbrotr.note_departures(ARRAY[$1::bigint], ARRAY[$2::bytea])",
        events[2].created_at,
        events[2].id,
    )
    await judge(brotr)
    assert events[2].id not in await indexed(brotr)


async def test_where_it_is_off_nothing_is_found_and_nothing_is_left(
    brotr: Brotr, search: Search
) -> None:
    await store(brotr, some_events(20))
    with pytest.raises(NotSearchedError):
        await found_of(brotr, Query(search=Words.parse("the")))
    await search.run()
    assert await indexed(brotr)
    config = Config(maintenance=MaintenanceSettings())
    async with Maintenance(brotr, context=Context(config)) as maintenance:
        await maintenance.run()
    assert not await indexed(brotr)
    with pytest.raises(NotSearchedError):
        await found_of(brotr, Query(search=Words.parse("the")))
    # On again, all is found again.
    await search.run()
    assert await found_of(brotr, Query(search=Words.parse("the")))


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_contents_has_none(brotr: Brotr, search: Search) -> None:
    await brotr.insert_events(pairs(some_events(5), HOLDER))
    await search.run()
    assert await brotr.search_position() is None


async def test_a_text_of_any_size_is_put_in(brotr: Brotr, search: Search) -> None:
    large = verified(" ".join(f"w{n}" for n in range(9000)))
    odd = verified("\x00 \ud800 nul")
    await store(brotr, [large, odd])
    await search.run()
    assert await found_of(brotr, Query(search=Words.parse("w17"))) == [large.id]
    assert await found_of(brotr, Query(search=Words.parse("nul"))) == [odd.id]
