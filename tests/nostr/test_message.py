"""Frames: whatever bytes a relay sends, they are read as a message, never an exception."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.event import Event, WireEvent
from bigbrotr.net.frames import Oversized
from bigbrotr.nostr import message
from bigbrotr.nostr.message import (
    Auth,
    Closed,
    Eose,
    EventMessage,
    Malformed,
    NegErr,
    NegMsg,
    Notice,
    Ok,
    Other,
    TooLarge,
)
from tests.kit.events import make_event, wire

EVENT = make_event(content="hello", tags=[["t", "x"], ["e", "ab" * 32, "wss://relay.example"]])
FRAME = b'["EVENT","sub",' + wire(EVENT) + b"]"
KINDS = (EventMessage, Eose, Closed, Ok, Notice, Auth, NegMsg, NegErr, Other, Malformed)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
verbs = st.sampled_from(
    ["EVENT", "EOSE", "CLOSED", "OK", "NOTICE", "AUTH", "COUNT", "NEG-MSG", "NEG-ERR", ""]
)


def read(frame: bytes) -> message.Message:
    """The message, after looking at all of it."""
    decoded = message.decode(frame)
    assert isinstance(decoded, KINDS)
    repr(decoded)
    if isinstance(decoded, EventMessage):
        assert isinstance(decoded.subscription, str)
        assert isinstance(decoded.event, WireEvent | Event)
    if isinstance(decoded, Malformed):
        assert decoded.reason
    return decoded


@given(st.binary(max_size=300))
def test_any_bytes(frame: bytes) -> None:
    read(frame)


@given(st.lists(json_values, max_size=5))
def test_any_json(values: list[Any]) -> None:
    read(json.dumps(values).encode())


@given(verbs, st.lists(json_values | st.just("sub"), max_size=4))
def test_any_arguments(verb: str, values: list[Any]) -> None:
    read(json.dumps([verb, *values]).encode())


@given(st.dictionaries(st.sampled_from(list(EVENT)), json_values))
def test_events_with_any_fields(changes: dict[str, Any]) -> None:
    read(json.dumps(["EVENT", "sub", EVENT | changes]).encode())


@given(st.integers(0, len(FRAME) - 1), st.binary(max_size=4))
def test_damaged_frames(place: int, junk: bytes) -> None:
    read(FRAME[:place] + junk + FRAME[place + len(junk) :])
    read(FRAME[:place])


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
@pytest.mark.parametrize("piece", [b"[", b'{"a":', b'["EVENT",'])
def test_deep_nesting(piece: bytes, depth: int) -> None:
    assert isinstance(read(piece * depth), Malformed)


@pytest.mark.parametrize(
    ("frame", "wanted"),
    [
        (b'["EOSE","s"]', Eose("s", ())),
        (b'["EOSE","s",["finish"]]', Eose("s", ("finish",))),
        (b'["EOSE","s",["more",7,"new"]]', Eose("s", ("more", "new"))),
        (b'["EOSE","s","finish"]', Eose("s", ())),
        (b'["CLOSED","s","error: x"]', Closed("s", "error: x")),
        (b'["CLOSED","s"]', Closed("s", "")),
        (b'["OK","ab",true,""]', Ok("ab", True, "")),
        (b'["OK","ab",false]', Ok("ab", False, "")),
        (b'["NOTICE","hi"]', Notice("hi")),
        (b'["AUTH","challenge"]', Auth("challenge")),
        (b'["NEG-MSG","s","6100"]', NegMsg("s", b"a\0")),
        (b'["NEG-ERR","s","blocked: x"]', NegErr("s", "blocked: x")),
        (b'["NEG-ERR","s","blocked: x",500]', NegErr("s", "blocked: x", 500)),
        (b'["NEG-ERR","s"]', NegErr("s", "")),
        (b'["COUNT","s",{"count":1}]', Other("COUNT", ["s", {"count": 1}])),
        (b' [ "EOSE" , "s" ] \n', Eose("s", ())),
    ],
)
def test_frames(frame: bytes, wanted: message.Message) -> None:
    assert read(frame) == wanted


@pytest.mark.parametrize(
    "frame", [b"", b"null", b"7", b'"EOSE"', b"{}", b"[]", b"[null]", b'["EVENT"]', b'["EOSE"]']
)
def test_no_frames(frame: bytes) -> None:
    assert isinstance(read(frame), Malformed)


def test_event_frames() -> None:
    decoded = read(FRAME)
    assert isinstance(decoded, EventMessage)
    assert decoded.subscription == "sub"
    event = decoded.event
    assert isinstance(event, WireEvent)
    event = Event.from_wire(event)
    assert event.id.hex() == EVENT["id"]
    for broken in (b'["EVENT","sub",{}]', b'["EVENT","sub",7]', b' ["EVENT","sub"'):
        assert isinstance(answer := read(broken), Malformed)
        assert answer.is_event
    assert isinstance(answer := read(b'["EOSE",7]'), Malformed)
    assert not answer.is_event


@pytest.mark.parametrize(
    "frame",
    [b'["NEG-MSG","s","610"]', b'["NEG-MSG","s","xy"]', b'["NEG-MSG","s",7]', b'["NEG-ERR",7]'],
)
def test_broken_reconciliations(frame: bytes) -> None:
    assert isinstance(answer := read(frame), Malformed)
    assert not answer.is_event


def test_reconciliations() -> None:
    opening = message.open_reconciliation("a", {"since": 0}, b"a\1")
    assert opening == b'["NEG-OPEN","a",{"since":0},"6101"]'
    assert message.reconcile('"', b"a\xff") == b'["NEG-MSG","\\"","61ff"]'
    assert message.close_reconciliation("a") == b'["NEG-CLOSE","a"]'


def test_requests() -> None:
    assert message.request("a", {"since": 0, "limit": 5}) == b'["REQ","a",{"since":0,"limit":5}]'
    assert message.close("a") == b'["CLOSE","a"]'
    event = Event.from_json(json.dumps(EVENT))
    assert json.loads(message.publish(event)) == ["EVENT", EVENT]


@pytest.mark.parametrize(
    ("sample", "kind", "subscription"),
    [
        (FRAME, "EVENT", "sub"),  # also if the sample alone could be read
        (b' [ "EVENT" , "a b" , {"id":"', "EVENT", "a b"),
        (b'["NEG-MSG","n","61', "NEG-MSG", "n"),
        (b'["NOTICE","xxx', "NOTICE", ""),
        (b'["EVENT","' + b"x" * 100 + b'",{', "EVENT", ""),
        (b'["EVENT",{"id":', "EVENT", ""),
        (b"\xff\xfe", "", None),
        (b'{"EVENT":"sub",', "", None),
        (b"", "", None),
    ],
)
def test_what_is_too_large(sample: bytes, kind: str, subscription: str | None) -> None:
    oversized = Oversized(sample)
    oversized.size = 5_000_000
    assert message.decode(oversized) == TooLarge(kind, subscription, 5_000_000)
