"""Events as they are sent: lines of JSON that PostgreSQL makes are those that Python makes."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.models.relay import Relay
from bigbrotr.reads import event_lines
from bigbrotr.reads.event_lines import EventLines
from bigbrotr.reads.plan import Piece, Plan, Way
from tests.kit.archive import BOTH
from tests.kit.events import NOW, verified
from tests.reads.test_events import EVENTS, KINDS, QUERIES, fill, matching

MANY = 10**9  # bytes


async def paged(
    reads: EventLines, query: Query, limit: int, budget_s: float, most_bytes: int
) -> list[dict[str, Any]]:
    """All that matches, page by page."""
    lines: list[bytes] = []
    after: Position | None = None
    while True:
        page = await reads.lines(query, limit, after, budget_s=budget_s, most_bytes=most_bytes)
        found = page.lines.splitlines()
        assert len(found) == page.number
        lines += found
        if page.next is None:
            return list(map(json.loads, lines))
        assert page.next != after
        assert found or not budget_s
        after = page.next


@BOTH
@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_any_query_gives_what_a_look_at_every_event_gives(
    brotr: Brotr, profile: Profile, is_analyzed: bool
) -> None:
    await fill(brotr)
    if is_analyzed:
        await brotr.analyze()
    reads = EventLines(brotr.pool, View.CURRENT, examined=7)
    signed = {event.id.hex(): json.loads(event.to_json()) for event in EVENTS}
    cases: list[tuple[Query, int, int]] = []

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(QUERIES, st.sampled_from([1, 2, 10, 500]), st.sampled_from([MANY, 1, 40]))
    def generate(query: Query, limit: int, most_bytes: int) -> None:
        if not query.tags or profile is Profile.FULL:
            cases.append((query, limit, most_bytes))

    generate()
    for query, limit, most_bytes in cases:
        for budget_s in (20.0, 0.0):
            found = await paged(reads, query, limit, budget_s, most_bytes)
            assert [bytes.fromhex(each["id"]) for each in found] == matching(query, EVENTS)
            for each in found if profile is Profile.FULL else ():
                assert each == signed[each["id"]]
    assert len(cases) > 10


@pytest.mark.one_server
@pytest.mark.parametrize(
    "query",
    [
        Query(),
        Query(kinds=frozenset(KINDS[:1])),
        Query(authors=frozenset(event.pubkey for event in EVENTS[:3])),
        Query(until=NOW),
    ],
)
async def test_postgresql_makes_the_lines(
    brotr: Brotr, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(brotr)
    await brotr.analyze()
    reads = EventLines(brotr.pool, View.CURRENT)
    wanted = matching(query, EVENTS)

    async def fail(*_: object, **__: object) -> None:
        raise AssertionError("another way")

    monkeypatch.setattr(reads, "page", fail)
    page = await reads.lines(query, 10, budget_s=20, most_bytes=MANY)
    assert [json.loads(line)["id"] for line in page.lines.splitlines()] == [
        each.hex() for each in wanted[:10]
    ]
    assert page.next is not None


async def test_events_are_sent_as_they_were_signed(brotr: Brotr) -> None:
    """Also where columns cannot hold them."""
    events = [
        verified('"quoted" \\ \n\u2028 é \x7f \b\f\r\t', tags=[["t", 'a"b\n'], ["p"]]),
        verified("a" * 100_000),
        verified("", tags=[["x", "\u0001"]]),
    ]
    odd = [
        verified("nul \0 within", tags=[["t", "\0"]]),
        verified("lone \ud800 surrogate"),
        verified("bell \x07", verbatim=True),
    ]
    relay = Relay("wss://a.example.com")
    reads = EventLines(brotr.pool, View.CURRENT)
    for some in (events, odd):
        await brotr.insert_events([EventRelay(event, relay, NOW) for event in some])
        page = await reads.lines(Query(), 100, budget_s=20, most_bytes=MANY)
        found = {event.id: event for event in map(Event.from_json, page.lines.splitlines())}
        for event in some:  # each was verified
            again = found[event.id]
            assert (again.tags, again.content, again.sig) == (event.tags, event.content, event.sig)


@pytest.mark.one_server
async def test_a_walk_looks_for_authors_too(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(brotr)
    monkeypatch.setattr(event_lines, "choose", lambda pieces, *_: walk(pieces))
    reads = EventLines(brotr.pool, View.CURRENT)
    query = Query(authors=frozenset([EVENTS[0].pubkey, bytes(32)]))
    page = await reads.lines(query, 10, budget_s=20, most_bytes=MANY)
    assert [json.loads(line)["id"] for line in page.lines.splitlines()] == [
        each.hex() for each in matching(query, EVENTS)[:10]
    ]


def walk(pieces: list[Piece]) -> Plan:
    return Plan(Way.WALK, "", len(pieces), pieces[-1].since)
