"""Queries to the archive: any filter gives what a look at every event would give, page by page."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.config.settings import Profile, StatisticsSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay, tag_hash
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.models.relay import Relay
from bigbrotr.reads import events as events_module
from bigbrotr.reads import plan
from bigbrotr.reads.events import EventReads, NotKeptError, StoredEvent, _Search
from bigbrotr.reads.plan import Way
from bigbrotr.services.statistics import Statistics
from tests.conftest import CLUSTER
from tests.kit.archive import BOTH
from tests.kit.events import NOW, make_event, pubkey, verified

AUTHORS = [bytes.fromhex(pubkey(key)) for key in range(4)]
KINDS = [0, 1, 7, 30023]
QUARTER = 92 * 86_400
TIMES = [0, 5, NOW - 9 * QUARTER, NOW - QUARTER, NOW - 1, NOW, NOW + 1, 2**40]


def archive_events() -> list[Event]:
    """Events that share seconds, authors, kinds and tags in all combinations, and two quarters
    whose tags share hashes."""
    combinations = itertools.product(TIMES, range(len(AUTHORS)), range(5))
    return [
        Event.from_object(
            make_event(
                at,
                KINDS[(key + n) % 4],
                [["t", TEXTS[n % 3]], ["e", TEXTS[key]], ["x"], ["long", "t"]][: n + 1],
                f"{n}",
                key,
            )
        )
        for at, key, n in combinations
    ]


def twins() -> list[str]:
    """Two values of the tag t with one hash."""
    seen: dict[int, str] = {}
    for n in itertools.count():
        value = f"{n * 7919:x}"
        if (hashed := tag_hash("t", value)) in seen:
            return [seen[hashed], value]
        seen[hashed] = value
    raise AssertionError


TEXTS = [*twins(), "a", "b"]
EVENTS = archive_events()
VALUES = st.sets(st.sampled_from(TEXTS), max_size=3).map(frozenset)
QUERIES = st.builds(
    Query,
    ids=st.none()
    | st.sets(st.sampled_from([event.id for event in EVENTS] + [bytes(32)]), max_size=5).map(
        frozenset
    ),
    authors=st.none() | st.sets(st.sampled_from([*AUTHORS, bytes(32)]), max_size=3).map(frozenset),
    kinds=st.none() | st.sets(st.sampled_from([*KINDS, 4]), max_size=3).map(frozenset),
    tags=st.dictionaries(st.sampled_from("tex"), VALUES, max_size=2),
    since=st.sampled_from([0, *TIMES]),
    until=st.sampled_from([*TIMES, 2**63 - 1]),
)


def matching(query: Query, events: list[Event]) -> list[bytes]:
    """The ids of the events that match, newest first: each is looked at."""

    def is_wanted(event: Event) -> bool:
        return (
            (query.ids is None or event.id in query.ids)
            and (query.authors is None or event.pubkey in query.authors)
            and (query.kinds is None or event.kind in query.kinds)
            and query.since <= event.created_at <= query.until
            and all(
                any(tag[0] == letter and tag[1:2] and tag[1] in values for tag in event.tags)
                for letter, values in query.tags.items()
            )
        )

    found = sorted(filter(is_wanted, events), key=lambda event: (-event.created_at, event.id))
    return [event.id for event in found]


async def paged(
    reads: EventReads, query: Query, limit: int, budget_s: float | None = None
) -> list[StoredEvent]:
    """All that matches, page by page."""
    found: list[StoredEvent] = []
    after: Position | None = None
    while True:
        page = await reads.page(query, limit, after, budget_s=budget_s)
        assert len(page.events) == limit or page.next is None or budget_s is not None
        found += page.events
        if page.next is None:
            return found
        assert page.next != after
        after = page.next


async def fill(brotr: Brotr) -> None:
    relay = Relay("wss://a.example.com")
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in EVENTS])


@BOTH
@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_any_query_gives_what_a_look_at_every_event_gives(
    brotr: Brotr, profile: Profile, is_analyzed: bool
) -> None:
    await fill(brotr)
    if is_analyzed:
        await brotr.analyze()
    reads = EventReads(brotr.pool, View.CURRENT, examined=7)
    checked = 0

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(query=QUERIES, limit=st.sampled_from([1, 2, 3, 10, 500]))
    def generate(query: Query, limit: int) -> None:
        cases.append((query, limit))

    cases: list[tuple[Query, int]] = []
    generate()
    for query, limit in cases:
        if query.tags and profile is Profile.LITE:
            with pytest.raises(NotKeptError, match="lite"):
                await reads.page(query, limit)
            continue
        for budget_s in (None, 0.0):
            found = await paged(reads, query, limit, budget_s)
            assert [event.id for event in found] == matching(query, EVENTS)
        checked += 1
    assert checked > 10


async def counted(brotr: Brotr) -> None:
    async with Statistics(brotr, StatisticsSettings(every_s=0)) as statistics:
        await statistics.run()


def counted_events() -> list[Event]:
    """Days of events that bear a common tag in some kinds, in others now and then or never."""
    days = [NOW - 5 * QUARTER, *(NOW - each * 86_400 for each in range(1, 9))]
    bearing = {1: "ab", 7: "a", 0: "", 30023: "b"}
    return [
        Event.from_object(
            make_event(
                at - at % 86_400 + n,
                kind,
                [["t", value] for value in values if value != "b" or day % 3 == 0],
                f"{n}",
                n % 4,
            )
        )
        for day, at in enumerate(days)
        for kind, values in bearing.items()
        for n in range(25)
    ]


@pytest.mark.parametrize("most", [1, 64])
async def test_days_on_which_no_kind_bears_a_tag_are_left_out(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """…as long as nothing has changed since they were counted."""
    monkeypatch.setattr(events_module, "LONG_US", -1.0)
    monkeypatch.setattr(plan, "MOST_STRETCHES", most)
    events = counted_events()
    relay = Relay("wss://a.example.com")
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    await brotr.analyze()
    await counted(brotr)
    late = [
        Event.from_object(make_event(NOW - 4 * 86_400, kind, [["t", "a"], ["t", "b"]], "late"))
        for kind in KINDS
    ]
    looked: list[tuple[int, int]] = []
    look_up = EventReads._look_up

    async def seen(
        self: EventReads, way: Way, letter: str, query: Query, *rest: Any
    ) -> events_module.Look:
        looked.append((query.since, query.until))
        return await look_up(self, way, letter, query, *rest)

    monkeypatch.setattr(EventReads, "_look_up", seen)
    for found in (events, events + late):
        reads = EventReads(brotr.pool, View.CURRENT)
        for kinds, values in itertools.product(
            [{0}, {7}, {30023}, {0, 30023}, {1}], [{"a"}, {"b"}, {"a", "b"}, {"a", "c"}]
        ):
            query = Query(kinds=frozenset(kinds), tags={"t": frozenset(values)})
            page = await reads.page(query, 500)
            assert [each.id for each in page.events] == matching(query, found)
        looked.clear()
        await reads.page(Query(kinds=frozenset([0]), tags={"t": frozenset(["a"])}))
        counted_days = {event.created_at // 86_400 for event in events}
        seen_days = {
            day for day in counted_days for since, until in looked if since // 86_400 <= day
            and until // 86_400 >= day
        }  # fmt: skip
        # Without statistics of values, as on a cluster, all days are looked at.
        is_all = most == 1 or CLUSTER is not None
        assert seen_days == ({NOW // 86_400 - 4} if found is not events else set()) or is_all
        await brotr.insert_events([EventRelay(event, relay, NOW) for event in late])


@pytest.mark.one_server  # a cluster is asked slice by slice
@pytest.mark.parametrize("way", list(Way))
async def test_each_way_finds_the_same(brotr: Brotr, way: Way) -> None:
    await fill(brotr)
    reads = EventReads(brotr.pool, View.CURRENT, examined=3)
    for authors, kinds, after in itertools.product(
        (AUTHORS[:2], AUTHORS), (KINDS[:1], KINDS), (None, Position(NOW, bytes(32)))
    ):
        query = Query(
            authors=frozenset(authors),
            kinds=frozenset(kinds),
            tags={"t": frozenset(TEXTS), "e": frozenset(TEXTS[:3])},
        )
        expected = [
            each for each in matching(query, EVENTS) if after is None or each in older_than(after)
        ][:25]
        pieces = await reads._pieces(query)
        if way is Way.WALK:
            found = await reads._walk(pieces, query, 25, after)
        else:
            found = await reads._look_up(way, "e", query, 25, after)
        assert [each.id for each in found.events] == expected
        if way is not Way.WALK:
            counted = await reads._look_up(way, "e", query, 25, after, _Search(is_read=False))
            assert counted.found == found.found


@pytest.mark.parametrize("is_by_ids", [False, True])
async def test_a_page_ends_with_the_event_that_passes_its_bytes(
    brotr: Brotr, is_by_ids: bool
) -> None:
    """Bytes are counted as PostgreSQL counts them, also where a letter takes several."""
    relay = Relay("wss://a.example.com")
    events = [verified("é" * 50, created_at=NOW + n) for n in range(5)]
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    reads = EventReads(brotr.pool, View.CURRENT)
    ids = frozenset(event.id for event in events) if is_by_ids else None
    left = [event.id for event in reversed(events)]
    after = None
    for size in (2, 2, 1):
        page = await reads.page(Query(ids=ids), after=after, most_bytes=150)
        assert [event.id for event in page.events] == left[:size]
        left, after = left[size:], page.next
    assert after is None


async def test_what_was_seen_of_conditions_that_exclude_each_other_is_kept_in_mind(
    brotr: Brotr,
) -> None:
    await fill(brotr)
    await brotr.analyze()
    reads = EventReads(brotr.pool, View.CURRENT, examined=2)
    query = Query(kinds=frozenset([0]), tags={"t": frozenset(["b"]), "e": frozenset(["a"])})
    for _ in range(2):
        page = await reads.page(query)
        assert [event.id for event in page.events] == matching(query, EVENTS)
    assert all(share < 1 for share in reads._shares.values())
    assert reads._shares


def older_than(after: Position) -> set[bytes]:
    return {
        event.id
        for event in EVENTS
        if event.created_at < after.created_at
        or (event.created_at == after.created_at and event.id > after.id)
    }


async def test_a_stored_event_is_given_back_as_it_was_signed(brotr: Brotr) -> None:
    """Also where columns cannot hold it."""
    events = [
        verified('"quoted" \\ \n\u2028 é', tags=[["t", 'a"b'], ["p"], ["x", "\u0001"]]),
        verified("nul \0 within", tags=[["t", "\0"]]),
        verified("lone \ud800 surrogate"),
        verified("bell \x07", verbatim=True),
    ]
    relay = Relay("wss://a.example.com")
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    page = await EventReads(brotr.pool, View.CURRENT).page(Query())
    texts = {stored.id: stored.to_json() for stored in page.events}
    assert len(texts) == len(events)
    for event in events:
        again = Event.from_json(texts[event.id])  # verifies it
        assert (again.tags, again.content, again.sig) == (event.tags, event.content, event.sig)


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_lite_gives_what_it_has(brotr: Brotr) -> None:
    event = verified("x", tags=[["t", "a"]])
    await brotr.insert_events([EventRelay(event, Relay("wss://a.example.com"), NOW)])
    (stored,) = (await EventReads(brotr.pool, View.CURRENT).page(Query())).events
    assert json.loads(stored.to_json()) == {
        "id": event.id.hex(),
        "pubkey": event.pubkey.hex(),
        "created_at": event.created_at,
        "kind": event.kind,
    }


async def test_a_limit_ends_a_stream(brotr: Brotr) -> None:
    await fill(brotr)
    reads = EventReads(brotr.pool, View.CURRENT)
    for limit in (0, 1, 150, None):
        found = [event.id async for event in reads.all(Query(limit=limit))]
        assert found == matching(Query(), EVENTS)[:limit]


@pytest.mark.parametrize(
    ("filter_", "words"),
    [
        ("[]", "object"),
        ("{", "no JSON"),
        ('{"id": []}', "'id' is no part of a filter"),
        ('{"#tt": []}', "'#tt' is no part"),
        ('{"ids": "a"}', "ids: a list"),
        ('{"ids": ["abc"]}', "ids: 64 hex digits each, not 'abc'"),
        ('{"authors": ["npub1xyz"]}', "authors: 64 hex"),
        ('{"kinds": [true]}', "kinds: a list of numbers"),
        ('{"kinds": [70000]}', "kinds: each"),
        ('{"#e": [1]}', "#e: a list of texts"),
        ('{"since": -1}', "since: a number"),
        ('{"limit": "5"}', "limit: a number"),
    ],
)
def test_what_is_no_filter_is_told_so(filter_: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Query.from_json(filter_)


def test_a_filter_is_read_as_nip_01_has_it() -> None:
    value: dict[str, Any] = {
        "ids": ["0" * 64, "A" * 64],
        "authors": ["1" * 64],
        "kinds": [1, 1],
        "#e": ["x"],
        "#E": [],
        "since": 5,
        "until": 2**70,
        "limit": 3,
    }
    assert Query.from_json(json.dumps(value)) == Query(
        ids=frozenset([bytes(32), b"\xaa" * 32]),
        authors=frozenset([b"\x11" * 32]),
        kinds=frozenset([1]),
        tags={"e": frozenset("x"), "E": frozenset()},
        since=5,
        until=2**63 - 1,
        limit=3,
    )


async def test_a_walk_ends_when_its_time_is_over(brotr: Brotr) -> None:
    """And says how far it has looked."""
    await fill(brotr)
    await brotr.analyze()
    reads = EventReads(brotr.pool, View.CURRENT, examined=2)
    query = Query(kinds=frozenset([4]))
    pieces = await reads._pieces(query)
    look = await reads._walk(pieces, query, 5, None, _Search(deadline=0.0))
    assert (look.events, look.is_late, look.examined) == ([], True, 2)
    newest = sorted(EVENTS, key=lambda event: (-event.created_at, event.id))
    assert look.at == Position(newest[1].created_at, newest[1].id)
    assert not (await reads._walk(pieces, query, 5, None, _Search())).is_late


@pytest.mark.one_server  # detaches a partition
async def test_what_comes_for_a_quarter_that_is_detached_is_found(brotr: Brotr) -> None:
    relay = Relay("wss://a.example.com")
    await brotr.pool.fetchval("SELECT bigbrotr.detach_quarter('2022q1', $1)", NOW)
    at = 1_645_000_000  # in its midst
    events = [verified(created_at=at + n) for n in range(3)]
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    reads = EventReads(brotr.pool, View.CURRENT)
    for query in (Query(since=at, until=at + 10), Query(), Query(since=at, kinds=frozenset([1]))):
        page = await reads.page(query)
        assert [event.id for event in page.events] == [event.id for event in reversed(events)]
