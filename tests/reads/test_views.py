"""Views: what is hidden is in no answer, whatever is asked in whatever way."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.config.settings import PolicySettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.models.policy import Reason, Rule, View
from bigbrotr.models.query import Query
from bigbrotr.reads.arrivals import Arrivals
from bigbrotr.reads.event_lines import EventLines
from bigbrotr.reads.events import EventReads
from bigbrotr.reads.plan import Way
from bigbrotr.reads.policy import hidden_of, why_hidden
from tests.kit.archive import A, ordered, pairs
from tests.kit.events import NOW, pubkey, verified
from tests.kit.policy import judge, recount
from tests.reads.test_event_lines import paged as sent_lines
from tests.reads.test_events import AUTHORS, EVENTS, KINDS, QUERIES, TEXTS, matching, paged

CHANCE = random.Random(3)
REQUESTS = [
    verified(kind=5, tags=[["e", event.id.hex()]], key=AUTHORS.index(event.pubkey))
    for event in CHANCE.sample(EVENTS, 25)
] + [verified(kind=5, tags=[["a", f"30023:{pubkey(1)}:"]], created_at=NOW - 1, key=1)]
EVERY = [*EVENTS, *REQUESTS]
DOWN = [EVENTS[3].id, AUTHORS[2]]


async def fill(brotr: Brotr) -> None:
    await brotr.insert_events(pairs(EVERY, A))
    await brotr.take_down("event", DOWN[0], why="spam", who="me")
    await brotr.take_down("pubkey", DOWN[1], why="spam", who="me", erase=True)
    await judge(brotr)
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.hidden") > 100


def shown(view: View) -> list[Event]:
    """What a view shows: a dumb recount."""
    marks = recount(EVERY, EVERY, DOWN)
    hides = PolicySettings().hides(view)
    return [
        event
        for event in EVERY
        if event.pubkey != AUTHORS[2] and not marks.get(event.id, (0, None))[0] & hides
    ]


@pytest.mark.parametrize("view", list(View))
async def test_any_query_gives_what_the_view_shows(brotr: Brotr, view: View) -> None:
    await fill(brotr)
    events = shown(view)
    reads = EventReads(brotr.pool, view, examined=7)
    lines = EventLines(brotr.pool, view, examined=7)

    @settings(
        max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(query=QUERIES, limit=st.sampled_from([1, 3, 500]))
    def generate(query: Query, limit: int) -> None:
        cases.append((query, limit))

    cases: list[tuple[Query, int]] = [(Query(), 500), (Query(kinds=frozenset([0])), 7)]
    generate()
    for query, limit in cases:
        expected = matching(query, events)
        assert [event.id for event in await paged(reads, query, limit)] == expected
        assert await reads.count(query, 1000) == (len(expected), True)
        sent = await sent_lines(lines, query, limit, budget_s=9, most_bytes=10**9)
        assert [line["id"] for line in sent] == [each.hex() for each in expected]
    assert len(events) < len(EVERY) - 10


@pytest.mark.one_server  # a cluster is asked slice by slice
@pytest.mark.parametrize("way", list(Way))
async def test_each_way_leaves_out_what_is_hidden(brotr: Brotr, way: Way) -> None:
    await fill(brotr)
    for view, authors in itertools.product(View, (AUTHORS[:2], AUTHORS)):
        reads = EventReads(brotr.pool, view, examined=3)
        query = Query(
            authors=frozenset(authors), kinds=frozenset(KINDS), tags={"t": frozenset(TEXTS)}
        )
        if way is Way.WALK:
            found = await reads._walk(await reads._pieces(query), query, 25, None)
        else:
            found = await reads._look_up(way, "t", query, 25, None)
        assert [each.id for each in found.events] == matching(query, shown(view))[:25]


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("kinds", [None, [0, 1]])
async def test_ids_in_masses(brotr: Brotr, view: View, kinds: list[int] | None) -> None:
    await fill(brotr)
    wanted = [event for event in shown(view) if kinds is None or event.kind in kinds]
    found: list[bytes] = []
    since, after = 5, b""
    while True:
        row = await brotr.pool.fetchrow(
            "SELECT * FROM bigbrotr.read_shown_ids(p_view => $1, p_now => $2, p_since => $3,"
            " p_until => $4, p_after => $5, p_limit => 9, p_kinds => $6, p_pubkeys => NULL)",
            *(view.value, NOW, since, NOW + 1, after, kinds),
        )
        assert row is not None
        if not row["ids"]:
            break
        ids: bytes = row["ids"]
        found += [ids[at : at + 32] for at in range(0, len(ids), 32)]
        since, after = int.from_bytes(row["created_ats"][-8:]), ids[-32:]
    assert found == [each.id for each in ordered(wanted) if 5 <= each.created_at <= NOW]


async def seen(brotr: Brotr, view: View, events: Sequence[Event]) -> set[bytes]:
    page = await EventReads(brotr.pool, view).page(Query())
    assert {event.id for event in page.events} <= {event.id for event in events}
    return {event.id for event in page.events}


async def test_what_expires_is_hidden_when_its_time_comes(brotr: Brotr) -> None:
    """Whether the service runs or not: readers know the time."""
    over, later = (verified(tags=[["expiration", str(at)]]) for at in (5, 2**40))
    await brotr.insert_events(pairs([over, later], A))
    await judge(brotr)
    assert await seen(brotr, View.CURRENT, [over, later]) == {later.id}
    assert await seen(brotr, View.KEPT, [over, later]) == {over.id, later.id}
    keys = [(event.created_at, event.id) for event in ordered([over, later])]
    assert await hidden_of(brotr.pool, View.CURRENT, keys, 2**40) == {0, 1}
    assert len(await hidden_of(brotr.pool, View.CURRENT, keys, 2**40 - 1)) == 1


async def test_rules_are_the_archives(brotr: Brotr) -> None:
    """A reader asks for a view; what it hides changes with the settings of the services."""
    old, new = (verified(kind=0, created_at=NOW + n) for n in range(2))
    await brotr.insert_events(pairs([old, new], A))
    await judge(brotr)
    assert await seen(brotr, View.CURRENT, [old, new]) == {new.id}
    assert await seen(brotr, View.ARCHIVE, [old, new]) == {old.id, new.id}
    await judge(brotr, PolicySettings(superseded=Rule.SERVE))
    assert await seen(brotr, View.CURRENT, [old, new]) == {old.id, new.id}
    await judge(brotr, PolicySettings(superseded=Rule.HIDE))
    assert await seen(brotr, View.ARCHIVE, [old, new]) == {new.id}


async def test_why_an_event_is_hidden(brotr: Brotr) -> None:
    old, new = (
        verified(kind=0, created_at=NOW + n, tags=[["-"], ["expiration", "7"]]) for n in range(2)
    )
    await brotr.insert_events(pairs([old, new], A))
    await judge(brotr)

    async def reasons(event_id: bytes, now: int = NOW) -> list[str]:
        return [each.reason for each in await why_hidden(brotr.pool, event_id, now)]

    assert await reasons(old.id) == ["superseded", "expired", "protected"]
    assert await reasons(new.id, 6) == ["protected"]
    assert await reasons(bytes(32)) == []
    await brotr.take_down("event", bytes(32), why="law", who="me")
    (why,) = await why_hidden(brotr.pool, bytes(32))
    assert why.words == f"{Reason.TAKEN_DOWN.words}: law"
    await brotr.take_down("event", new.id, why="law", who="me", erase=True)
    assert await reasons(new.id) == ["protected", "taken_down", "erased"]


async def test_new_events_are_told_once_they_are_judged(brotr: Brotr) -> None:
    await judge(brotr)
    log = await Arrivals.from_now(brotr.pool, judged=True)
    first, second = verified(), verified()
    await brotr.insert_events(pairs([first], A))
    assert await log.read() == []
    await judge(brotr)
    await brotr.insert_events(pairs([second], A))
    (arrival,) = await log.read()
    assert list(arrival.ids) == [first.id]
    assert await log.read() == []
    await judge(brotr)
    (arrival,) = await log.read()
    assert list(arrival.ids) == [second.id]
