"""Authors, and what relays hold of a sample: each figure is what a look at every event gives."""

import json
from collections import Counter

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query
from bigbrotr.models.relay import Relay
from bigbrotr.reads import authors, samples
from bigbrotr.reads.authors import ListedRelay, profile_in, relays_in
from bigbrotr.reads.events import EventReads
from tests.kit.archive import BOTH
from tests.kit.events import NOW, make_event, pubkey

RELAYS = [Relay(f"wss://{name}.example.com") for name in "abcd"]
WEEK = 7 * 86_400
EVENTS = [
    Event.from_object(
        make_event(
            NOW - n * WEEK // 10, n % 5, [["t", "x" if n % 3 else "y"], ["p", "z"]], f"{n}", n % 2
        )
    )
    for n in range(60)
]
# The third relay ended long ago; the fourth holds nothing.
HELD: dict[str, list[Event]] = {
    RELAYS[0].url: EVENTS[::2] + EVENTS[1::4],
    RELAYS[1].url: EVENTS[::3],
    RELAYS[2].url: EVENTS[40::5],
    RELAYS[3].url: [],
}


async def fill(brotr: Brotr) -> list[Event]:
    """Puts the events into relays; those that are archived, newest first."""
    await brotr.insert_relays(RELAYS)
    for relay in RELAYS:
        for event in HELD[relay.url]:
            await brotr.insert_events([EventRelay(event, relay, NOW)])
    await brotr.analyze()
    archived = {event.id: event for events in HELD.values() for event in events}
    return sorted(archived.values(), key=lambda event: -event.created_at)


def holders(event: Event) -> list[str]:
    return [url for url, events in HELD.items() if event in events]


@BOTH
@pytest.mark.parametrize(("counted", "sample"), [(1000, 1000), (7, 5)])
async def test_an_author(brotr: Brotr, profile: Profile, counted: int, sample: int) -> None:
    archived = await fill(brotr)
    for key in range(3):  # the last has written nothing
        author = bytes.fromhex(pubkey(key))
        own = [event for event in archived if event.pubkey == author]
        found = await authors.author_summary(brotr.pool, author, counted=counted, sample=sample)
        newest = own[:counted]
        assert found.pubkey == pubkey(key)
        assert found.is_complete is (len(own) < counted)
        assert found.events == len(newest)
        assert found.last_at == (own[0].created_at if own else None)
        assert found.first_at == (own[-1].created_at if own else None)
        assert {each.kind: each.events for each in found.kinds} == Counter(
            event.kind for event in newest
        )
        for each in found.kinds:
            times = [event.created_at for event in newest if event.kind == each.kind]
            assert (each.first_at, each.last_at) == (min(times), max(times))
        looked = own[:sample]
        held = Counter(url for event in looked for url in holders(event))
        alone = Counter(holders(event)[0] for event in looked if len(holders(event)) == 1)
        assert found.holders.sample == len(looked)
        assert found.holders.alone == alone.total()
        assert {each.relay: each.held for each in found.holders.relays} == held
        assert {each.relay: each.alone for each in found.holders.relays if each.alone} == alone


@BOTH
@pytest.mark.parametrize("examined", [9, 1000])
@pytest.mark.parametrize("until", [None, NOW - WEEK])
async def test_what_a_relay_holds_of_a_sample(
    brotr: Brotr, profile: Profile, examined: int, until: int | None
) -> None:
    archived = await fill(brotr)
    for url, held in HELD.items():
        end = NOW + 1 if until is None else until
        weeks = {event.created_at // WEEK for event in held if event.created_at < end}
        weeks |= {
            event.created_at // WEEK for event in held if event.created_at // WEEK == end // WEEK
        }
        top = (max(weeks) + 1) * WEEK if weeks else 0
        sample = [event for event in archived if event.created_at < min(end, top)][:examined]
        own = [event for event in sample if event in held]
        kinds = await samples.relay_kinds(brotr.pool, url, until, examined=examined)
        overlap = await samples.relay_overlap(brotr.pool, url, until, examined=examined)
        assert kinds is not None
        assert overlap is not None
        for found in (kinds, overlap):
            assert (found.relay, found.sample.events, found.held) == (url, len(sample), len(own))
            assert found.sample.since == (sample[-1].created_at if sample else None)
            assert found.sample.until == (sample[0].created_at + 1 if sample else None)
        assert {each.kind: each.archived for each in kinds.kinds} == Counter(
            event.kind for event in sample
        )
        assert {each.kind: each.held for each in kinds.kinds if each.held} == Counter(
            event.kind for event in own
        )
        shared = Counter(other for event in own for other in holders(event) if other != url)
        assert {each.relay: each.held for each in overlap.others} == shared
        assert overlap.alone == sum(holders(event) == [url] for event in own)
    assert await samples.relay_kinds(brotr.pool, "wss://none.example.com") is None
    assert await samples.relay_overlap(brotr.pool, "wss://none.example.com") is None


@BOTH
async def test_how_many_match(brotr: Brotr, profile: Profile) -> None:
    """Exactly up to a bound; beyond, at least as many as were counted."""
    archived = await fill(brotr)
    reads = EventReads(brotr.pool, View.CURRENT, examined=7)
    first = archived[0]
    cases = [
        (Query(), lambda _: True),
        (Query(kinds=frozenset([1, 2])), lambda e: e.kind in (1, 2)),
        (Query(kinds=frozenset([77])), lambda _: False),
        (Query(kinds=frozenset()), lambda _: False),
        (Query(authors=frozenset([first.pubkey])), lambda e: e.pubkey == first.pubkey),
        (Query(ids=frozenset([first.id, bytes(32)])), lambda e: e == first),
        (Query(since=NOW - WEEK, until=NOW - 5), lambda e: NOW - WEEK <= e.created_at <= NOW - 5),
    ]
    if profile is Profile.FULL:
        cases += [
            (Query(tags={"t": frozenset("x")}), lambda e: ("t", "x") in e.tags),
            (
                Query(tags={"t": frozenset("y"), "p": frozenset("z")}, kinds=frozenset([0])),
                lambda e: ("t", "y") in e.tags and e.kind == 0,
            ),
        ]
    for query, condition in cases:
        number = sum(map(condition, archived))
        for most in (1, 5, number, 1000):
            found = await reads.count(query, max(most, 1))
            if number <= max(most, 1):
                assert found == (number, True)
            else:
                assert not found.is_exact
                assert found.events > most
        late = await reads.count(query, 1000, budget_s=0.0)
        assert late.is_exact is False or late.events == number


async def test_a_page_ends_where_it_is_large_enough(brotr: Brotr) -> None:
    """With at least one event, and the next page goes on behind the last."""
    archived = await fill(brotr)
    reads = EventReads(brotr.pool, View.CURRENT)
    size = max(len(event.content) + len(json.dumps(event.tags)) for event in archived)
    for most_bytes in (1, 5 * size):
        found, after = [], None
        while True:
            page = await reads.page(Query(), 500, after, most_bytes=most_bytes)
            assert len(page.events) <= 12
            found += [event.id for event in page.events]
            if page.next is None:
                break
            assert page.events
            after = page.next
        assert found == [event.id for event in archived]


@pytest.mark.parametrize(
    ("content", "name", "is_readable"),
    [
        ('{"name": "Ann", "about": "x", "extra": [1]}', "Ann", True),
        ('{"name": 5}', None, True),
        ('{"name": "' + "n" * 9000 + '"}', "n" * authors.MAX_TEXT, True),
        ("[]", None, False),
        ("{", None, False),
        ("", None, False),
        ("[" * 100_000, None, False),
        ('"\\ud800"', None, False),
    ],
)
def test_a_profile_is_read_as_far_as_it_can_be(
    content: str, name: str | None, is_readable: bool
) -> None:
    found = profile_in("a", "b", 1, content)
    assert (found.name, found.is_readable) == (name, is_readable)


def test_a_list_of_relays() -> None:
    tags = [
        ["r", "wss://a.example.com"],
        ["r", "WSS://b.example.com/", "read"],
        ["r", "wss://b.example.com", "write"],
        ["r", "wss://c.example.com", "write"],
        ["r", "no relay"],
        ["r"],
        [],
        ["relay", "wss://d.example.com"],
    ]
    found, invalid = relays_in(10002, tags)
    assert found == (
        ListedRelay("wss://a.example.com", read=True, write=True),
        ListedRelay("wss://b.example.com", read=True, write=True),
        ListedRelay("wss://c.example.com", read=False, write=True),
    )
    assert invalid == 2
    assert relays_in(10050, tags) == (
        (ListedRelay("wss://d.example.com", read=True, write=False),),
        0,
    )
