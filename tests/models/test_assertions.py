"""What is said of public keys, when it is said again, and to whom."""

from typing import Any

import pytest

from bigbrotr.models.assertions import (
    has_changed,
    places_in,
    said_of,
    said_of_subject,
    tags_of,
)

KEY, OTHER = "a" * 64, "b" * 64
KNOWN: dict[str, Any] = {
    "rank": 42,
    "followers": 100,
    "first_at": 7,
    "posts": 3,
    "replies": 2,
    "reactions": 1,
    "zaps_received": 5,
    "msat_received": 21_999,
    "zaps_sent": 0,
    "msat_sent": 999,
    "reports_received": 0,
    "reports_sent": 0,
}


def test_tags() -> None:
    assert tags_of(30382, KEY, said_of(KNOWN)) == [
        ["d", KEY],
        ["p", KEY],
        ["rank", "42"],
        ["followers", "100"],
        ["post_cnt", "3"],
        ["reply_cnt", "2"],
        ["reactions_cnt", "1"],
        ["zap_cnt_recd", "5"],
        ["zap_cnt_sent", "0"],
        ["reports_cnt_recd", "0"],
        ["reports_cnt_sent", "0"],
        ["zap_amt_recd", "21"],
        ["zap_amt_sent", "0"],
        ["first_created_at", "7"],
    ]
    nothing = said_of(dict.fromkeys(KNOWN))
    assert set(nothing.values()) == {0}
    assert "first_created_at" not in nothing


def test_tags_of_events_and_addresses() -> None:
    names = ("comments", "quotes", "reposts", "reactions", "zaps")
    said = said_of_subject({**dict.fromkeys(names, 2), "msat": 1999})
    assert tags_of(30383, KEY, said) == [
        ["d", KEY],
        ["e", KEY],
        ["comment_cnt", "2"],
        ["quote_cnt", "2"],
        ["repost_cnt", "2"],
        ["reaction_cnt", "2"],
        ["zap_cnt", "2"],
        ["zap_amount", "1"],
    ]
    address = f"30023:{KEY}:d"
    assert tags_of(30384, address, said)[:2] == [["d", address], ["a", address]]


@pytest.mark.parametrize(
    ("change", "is_said"),
    [
        ({}, False),
        ({"followers": 102}, False),
        ({"followers": 98}, False),
        ({"followers": 103}, True),
        ({"rank": 43}, True),
        ({"zaps_sent": 1}, True),
        ({"first_at": 8}, True),
        ({"first_at": None}, True),
        ({"msat_received": 21_000}, False),
    ],
)
def test_small_changes_are_not_said(change: dict[str, Any], is_said: bool) -> None:
    before = said_of(KNOWN)
    assert has_changed(before, said_of(KNOWN | change), 0.02) == is_said
    assert has_changed(None, before, 0.02)


def test_relays_of_a_list() -> None:
    tags = [
        ["30382:rank", KEY, "wss://One.example.com"],
        ["30382:followers", KEY, "wss://one.example.com/"],
        ["30382:rank", OTHER, "wss://other.example.com"],
        ["30383:rank", KEY, "wss://events.example.com"],
        ["30382:rank", KEY, "nonsense"],
        ["30382:rank", KEY],
        ["30382:zap_amt_sent", KEY, "wss://two.example.com"],
    ]
    assert places_in(tags, KEY) == [
        (30382, "wss://one.example.com"),
        (30383, "wss://events.example.com"),
        (30382, "wss://two.example.com"),
    ]
