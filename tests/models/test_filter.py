"""Filters: they select what nostr-sdk's select, and equal ones have one key."""

import json
from typing import Any

import msgspec
import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbrotr.models.event import Event, WireEvent
from bigbrotr.models.filter import MAX_KEY, Filter, public_key
from tests.kit.events import make_event, pubkey, wire
from tests.kit.model import matches

HEX = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"
NPUB = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"

values = st.sampled_from(["", "nostr", "Nostr", "é", "a\x00b", '"\\'])
names = st.sampled_from(["t", "T", "d", "relay"])
tags = st.lists(
    st.builds(lambda name, rest: [name, *rest], names, st.lists(values, max_size=2)), max_size=4
)
events = st.builds(
    make_event,
    st.integers(0, 5),
    st.sampled_from([0, 1, 7]),
    tags,
    st.just(""),
    st.integers(0, 2),
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "kinds": st.lists(st.sampled_from([0, 1, 3, 7]), min_size=1),
        "authors": st.lists(st.integers(0, 3).map(pubkey), min_size=1),
        "tags": st.dictionaries(
            st.sampled_from(["t", "T", "d"]), st.lists(values, min_size=1), max_size=2
        ),
    },
)


def make(said: dict[str, Any]) -> Filter:
    return msgspec.convert(said, Filter)


def decode(event: dict[str, Any]) -> WireEvent:
    return msgspec.json.decode(wire(event), type=WireEvent)


@settings(deadline=None)
@given(filters, events)
def test_selects_what_others_select(said: dict[str, Any], event: dict[str, Any]) -> None:
    chosen = make(said)
    request = chosen.to_request()
    is_match = chosen.matches(decode(event))
    assert chosen.matches(Event.from_json(json.dumps(event))) is is_match
    assert matches(event, request) is is_match
    sdk = nostr_sdk.Filter.from_json(json.dumps(request))
    assert sdk.match_event(nostr_sdk.Event.from_json(json.dumps(event))) is is_match


@given(filters, st.randoms())
def test_one_key_for_equal_ones(said: dict[str, Any], chance: Any) -> None:
    other = {name: list(each) if name != "tags" else dict(each) for name, each in said.items()}
    for each in other.values():
        if isinstance(each, list):
            each += each[:1]
            chance.shuffle(each)
    assert make(other).key == make(said).key
    assert make(said | {"until": 7}).key == make(said).key  # time apart
    assert bool(make(said).key) is bool(make(said).to_request())
    assert json.loads(make(said).key or "{}") == make(said).to_request()


def test_long_keys_are_bounded() -> None:
    many = [f"{n:064x}" for n in range(1000)]
    keys = {make({"authors": many[n:]}).key for n in range(10)}
    assert len(keys) == 10
    assert all(len(key) <= MAX_KEY for key in keys)


def test_authors() -> None:
    assert public_key(NPUB) == public_key(HEX.upper()) == HEX
    assert make({"authors": [NPUB, HEX]}).authors == frozenset([HEX])
    for wrong in ("", "npub1", NPUB[:-1], f"nostr:{NPUB}", HEX[:-1], "é" * 64):
        with pytest.raises(ValueError, match="no public key"):
            public_key(wrong)
    with pytest.raises(ValueError, match="npub is needed") as raised:
        public_key("nsec1secret")
    assert "secret" not in str(raised.value)


def test_tags_that_are_none() -> None:
    event = msgspec.structs.replace(decode(make_event()), tags=msgspec.Raw(b'[["t",7]]'))
    assert make({"kinds": [1]}).matches(event)
    with pytest.raises(ValueError, match="malformed"):
        make({"tags": {"t": ["7"]}}).matches(event)
