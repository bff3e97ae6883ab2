"""NIP-66 events: built to the letter, read back, checked by nostr-sdk."""

import json

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.keys import Keys
from bigbrotr.models.nip66 import (
    ANNOUNCEMENT,
    ASN,
    CITY,
    COUNTRY,
    DISCOVERY,
    REQUIREMENTS,
    RTTS,
    Announcement,
    Nip66,
    Tags,
    geohash,
    relay_list_tags,
)
from bigbrotr.models.relay import Network, Relay

REPORT = Nip66(
    relay=Relay("wss://some.relay"),
    rtts={"open": 234, "read": 12},
    network=Network.CLEARNET,
    types=("Search",),
    nips=(1, 11, 42),
    requirements={"auth": True, "payment": False},
    topics=("cats", "dogs"),
    kinds={1: True, 4: False},
    geohash="u33dc1r4t",
    labels=((COUNTRY, "DE"), (CITY, "Berlin"), (ASN, "64500")),
    software="https://example.com/relay",
    is_tls_valid=True,
    content='{"name":"x"}',
)
KEYS = Keys("11" * 32)


def test_the_tags_of_a_relay() -> None:
    assert REPORT.tags() == [
        ["d", "wss://some.relay/"],
        ["n", "clearnet"],
        ["rtt-open", "234"],
        ["rtt-read", "12"],
        ["T", "Search"],
        ["N", "1"],
        ["N", "11"],
        ["N", "42"],
        ["R", "auth"],
        ["R", "!payment"],
        ["R", "ssl"],
        ["t", "cats"],
        ["t", "dogs"],
        ["k", "1"],
        ["k", "!4"],
        *(["g", "u33dc1r4t"[:size]] for size in range(9, 0, -1)),
        ["L", "ISO-3166-1"],
        ["L", "nip66.label.city"],
        ["L", "IANA-asn"],
        ["l", "DE", "ISO-3166-1"],
        ["l", "Berlin", "nip66.label.city"],
        ["l", "64500", "IANA-asn"],
        ["s", "https://example.com/relay"],
        ["ssl", "valid"],
    ]


def test_each_value_stands_once() -> None:
    twice = Nip66(
        Relay("wss://some.relay"),
        topics=("cats", "cats"),
        labels=((CITY, "Berlin"), (CITY, "Berlin"), (COUNTRY, "DE")),
    )
    tags = twice.tags()
    assert len(tags) == len({tuple(tag) for tag in tags})
    assert [tag for tag in tags if tag[0] == "l"] == [
        ["l", "Berlin", CITY],
        ["l", "DE", COUNTRY],
    ]


def test_a_certificate_in_the_form_of_others() -> None:
    tags = [["d", "wss://some.relay"], ["R", "!ssl"], ["g", "u3"], ["g", "u33d"]]
    found = Nip66.parse(tags)
    assert (found.is_tls_valid, found.geohash, found.requirements) == (False, "u33d", {})


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert Nip66(Relay("wss://some.relay/path")).tags() == [["d", "wss://some.relay/path"]]
    assert Nip66(Relay("ws://127.0.0.1:81"), network=Network.LOCAL).tags() == [
        ["d", "ws://127.0.0.1:81/"]
    ]


def test_the_tags_of_a_monitor() -> None:
    announcement = Announcement(3600, {"open": 5000, "read": 3000}, ("ws", "nip11"), "ww8p1r4t8")
    assert announcement.tags() == [
        ["frequency", "3600"],
        ["timeout", "open", "5000"],
        ["timeout", "read", "3000"],
        ["c", "ws"],
        ["c", "nip11"],
        ["g", "ww8p1r4t8"],
    ]
    assert Announcement.parse(announcement.tags()) == announcement


def test_timeouts_in_either_order() -> None:
    tags = [["frequency", "60"], ["timeout", "5000", "open"], ["timeout", "read", "30"]]
    parsed = Announcement.parse([*tags, ["timeout", "9"], ["timeout"], ["timeout", "x", "y"], []])
    assert parsed.timeouts_ms == {"open": 5000, "read": 30, "": 9}
    with pytest.raises(ValueError, match="no frequency"):
        Announcement.parse(tags[1:])


def test_relay_lists() -> None:
    assert relay_list_tags(["wss://a.example", "wss://b.example"]) == [
        ["r", "wss://a.example", "write"],
        ["r", "wss://b.example", "write"],
    ]


@pytest.mark.parametrize(
    ("latitude", "longitude", "wanted"),
    [
        (57.64911, 10.40744, "u4pruydqqvj"),  # the example that everybody uses
        (0.0, 0.0, "s0000000000"),
        (-90.0, -180.0, "00000000000"),
        (90.0, 180.0, "zzzzzzzzzzz"),
    ],
)
def test_geohash(latitude: float, longitude: float, wanted: str) -> None:
    assert geohash(latitude, longitude, 11) == wanted
    assert geohash(latitude, longitude) == wanted[:9]


@pytest.mark.parametrize(
    ("kind", "tags", "content"),
    [
        (DISCOVERY, REPORT.tags(), REPORT.content),
        (ANNOUNCEMENT, Announcement(60, {"open": 1}, ("open",)).tags(), ""),
        (10002, relay_list_tags(["wss://a.example"]), ""),
        (0, [], '{"name":"a monitor"}'),
    ],
)
def test_nostr_sdk_agrees(kind: int, tags: Tags, content: str) -> None:
    text = KEYS.sign_event(kind, content, tags, 1_700_000_000)
    event = nostr_sdk.Event.from_json(text)
    assert event.verify()
    assert event.kind().as_u16() == kind
    assert [tag.to_vec() for tag in event.tags()] == tags == json.loads(text)["tags"]


words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="!"), min_size=1, max_size=20
)
reports = st.builds(
    Nip66,
    relay=st.sampled_from(["wss://a.example", "ws://b.example:81/x"]).map(Relay),
    rtts=st.dictionaries(st.sampled_from(RTTS), st.integers(0, 60_000)),
    network=st.none() | st.sampled_from([Network.CLEARNET, Network.TOR]),
    types=st.lists(words, unique=True).map(tuple),
    nips=st.sets(st.integers(1, 9999)).map(lambda found: tuple(sorted(found))),
    requirements=st.fixed_dictionaries({}, optional={name: st.booleans() for name in REQUIREMENTS}),
    topics=st.lists(words, unique=True).map(tuple),
    kinds=st.dictionaries(st.integers(0, 65535), st.booleans()),
    geohash=st.none() | words,
    labels=st.lists(st.tuples(words, words), unique=True).map(tuple),
    software=st.none() | words,
    is_tls_valid=st.none() | st.booleans(),
    content=words,
)


@given(reports)
def test_what_is_built_is_read_back(report: Nip66) -> None:
    tags = report.tags()
    assert Nip66.parse(tags, report.content) == report
    for tag in tags:
        assert all(isinstance(each, str) for each in tag)
        assert len(tag) == (3 if tag[0] == "l" else 2)


@given(
    st.lists(
        st.lists(
            st.sampled_from(["d", "N", "rtt-open", "l", "k", "!1", "wss://a.example", "", "٣"]),
            max_size=4,
        )
    )
)
def test_anybodys_tags(tags: Tags) -> None:
    try:
        report = Nip66.parse(tags)
    except ValueError:
        return
    assert Nip66.parse(report.tags()) == report
