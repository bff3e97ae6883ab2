"""Which evidence joins relays, and which never does."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.operators import (
    KINDS,
    MAX_NAMED,
    Compared,
    Pair,
    is_joined,
    join,
    named_relays,
)
from tests.models.test_relay import onion

ONION = f"{onion(b'a' * 32)}.onion"
OWN = "wss://own.example.com"


def pair(*kinds: str, is_apart: bool = False, a: int = 1, b: int = 2) -> Pair:
    return Pair(a, b, frozenset(kinds), is_apart)


@pytest.mark.parametrize(
    ("kinds", "together", "apart"),
    [
        ((), False, False),
        (("word",), False, True),  # friends name each other as well
        (("word", "self"), True, True),
        (("word", "events"), True, True),
        # What anybody can copy, or a mirror has, or a host gives its tenants: never alone.
        (("self",), False, False),
        (("document",), False, False),
        (("self", "document"), False, False),
        (("events",), False, False),
        (("certificate",), False, False),
        # Together.
        (("certificate", "self"), True, True),
        (("certificate", "document"), True, True),
        (("certificate", "events"), True, True),
        (("events", "self"), False, True),
        (("alike", "self"), False, True),
        (("alike",), False, False),
        (("alike", "events"), False, False),
        (("certificate", "alike"), True, True),
        (("events", "document"), False, True),
    ],
)
def test_which_evidence_suffices(kinds: tuple[str, ...], together: bool, apart: bool) -> None:
    assert is_joined(pair(*kinds)) is together
    assert is_joined(pair(*kinds, is_apart=True)) is apart


def test_more_evidence_never_parts() -> None:
    every = [set(some) for size in range(7) for some in combinations(KINDS, size)]
    for is_apart in (False, True):
        for some in every:
            for more in every:
                if some <= more and is_joined(pair(*some, is_apart=is_apart)):
                    assert is_joined(pair(*more, is_apart=is_apart))


def test_what_one_side_can_copy_joins_nothing() -> None:
    """Without a certificate of both, the same events, or the word of both."""
    for some in (("self",), ("document",), ("self", "document")):
        for is_apart in (False, True):
            assert not is_joined(pair(*some, is_apart=is_apart))


def weak(a: int, b: int, hosts: tuple[str, str]) -> Pair:
    return Pair(a, b, frozenset(("events", "self")), True, hosts)


def test_what_no_certificate_can_confirm_leads_to_one_host() -> None:
    twin, mirror = weak(1, 2, ("a", "")), weak(2, 3, ("", "b"))
    assert join([twin]) == {1: 1, 2: 1}
    assert join([twin, weak(2, 4, ("", ""))]) == {1: 1, 2: 1, 4: 1}  # a second overlay network
    assert join([twin, weak(1, 5, ("a", "a"))]) == {1: 1, 2: 1, 5: 1}  # a path of the host
    assert join([twin, mirror]) == {}
    # Of the mirror it is known that it is the same operator's, or of the twin.
    assert join([twin, mirror, pair("word", "self", a=1, b=3)]) == {1: 1, 2: 1, 3: 1}
    assert join([twin, mirror, pair("word", "self", a=1, b=2)]) == {1: 1, 2: 1}


def test_groups_beside_a_dumb_search() -> None:
    chance = random.Random(3)
    for _ in range(200):
        pairs = [
            pair(chance.choice(["word", "self"]), a=a, b=b, is_apart=True)
            for a, b in combinations(range(1, 9), 2)
            if chance.random() < 0.3
        ]
        groups = {number: {number} for number in range(1, 9)}
        for _ in range(9):
            for each in pairs:
                if is_joined(each):
                    both = groups[each.a] | groups[each.b]
                    groups |= dict.fromkeys(both, both)
        wanted = {number: min(group) for number, group in groups.items() if len(group) > 1}
        assert join(pairs) == dict(sorted(wanted.items()))


@pytest.mark.parametrize(
    ("found", "is_equal"),
    [
        (Compared(0, 0, 0), False),
        (Compared(8, 99, 0), False),  # too few
        (Compared(2, 10_000, 0), False),  # of too few weeks
        (Compared(3, 100, 0), True),
        (Compared(3, 990, 10), True),
        (Compared(3, 989, 11), False),
    ],
)
def test_the_same_events(found: Compared, is_equal: bool) -> None:
    assert found.is_equal is is_equal


def test_relays_that_a_document_names() -> None:
    document = {
        "name": "x",
        "description": f"Also at WSS://Other.Example.com/chat, and {ONION}.",
        "urls": ["ws://a.example.com:4848", {"more": "see wss://own.example.com!"}],
        "icon": "https://other.example.com/icon.png",
        "contact": f"mail@{ONION} evil-{ONION} {ONION}x",
        "limitation": {"max_limit": 5},
    }
    assert named_relays(document, OWN) == [
        "wss://other.example.com/chat",
        f"ws://{ONION}",
        f"wss://{ONION}",
        "ws://a.example.com:4848",
    ]


def test_hostile_documents() -> None:
    many = {"d": " ".join(f"wss://r{n}.example.com" for n in range(5000))}
    assert len(named_relays(many, OWN)) == MAX_NAMED
    deep: object = "wss://deep.example.com"
    for _ in range(50):
        deep = {"x": [deep]}
    for document in (deep, None, 7, [], {"x": "wss://" * 9000}, {"x": "wss://\0 wss://[::1"}):
        assert named_relays(document, OWN) == []


JSON = st.recursive(
    st.none() | st.text() | st.integers() | st.just("wss://x.example.com/a?b#c"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_nothing_makes_it_fail(document: object) -> None:
    assert len(named_relays(document, OWN)) <= MAX_NAMED
