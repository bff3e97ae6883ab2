"""Which events are plain; of all others nothing is said."""

import json
from typing import Any

import msgspec
import pytest

from bigbrotr.models import native
from bigbrotr.models.burst import Burst
from bigbrotr.models.event import Event, WireEvent, decode, identify
from bigbrotr.models.filter import Filter
from bigbrotr.models.plain import FEW, Plain, Scan, unpacked
from tests.kit.c import NATIVE
from tests.kit.events import make_event, wire

EVENT = make_event(tags=[["t", "nostr"], ["e", "00", ""]], content='say "ünï"\n\t\x01\x7f 🦤')
TEXT = wire(EVENT)
PAD = [b"[]"] * FEW  # few frames are not worth a look


def found(frame: bytes, subscription: str = "sub") -> Plain | None:
    """What is found of one frame among others."""
    scan = Scan(Burst.of([*PAD, frame, *PAD]), subscription)
    return scan.event(FEW, frame) if scan.plain_until(FEW) > FEW else None


def framed(text: bytes) -> bytes:
    return b'["EVENT","sub",%b]' % text


@NATIVE
def test_a_plain_event_is_what_it_is() -> None:
    one = found(framed(TEXT))
    assert one is not None
    event = Event.from_json(TEXT)
    assert (one.id, one.pubkey, one.created_at, one.kind) == (
        *(event.id, event.pubkey, event.created_at, event.kind),
    )
    assert one.claim == event.sig + event.id + event.pubkey
    assert one.decode() == decode(identify(one.wire()))
    assert one.decode().event(is_signed=True) == event
    assert unpacked(one) == one.wire() == msgspec.json.decode(TEXT, type=WireEvent)
    assert Filter(tags={"t": frozenset({"nostr"})}).matches(one)
    assert not Filter(tags={"t": frozenset({"other"})}).matches(one)
    assert Filter(authors=frozenset({EVENT["pubkey"]}), kinds=frozenset({1})).matches(one)
    assert not Filter(authors=frozenset({"00" * 32})).matches(one)


@NATIVE
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"content": ""},
        {"tags": []},
        {"tags": [[""]]},
        {"tags": [["t", 'quo"te\\'], ["e"] * 3]},
        {"kind": 0},
        {"kind": 65535},
        {"created_at": 0},
        {"created_at": 10**18 - 1},
        {"content": "".join(map(chr, range(1, 32)))},
        {"content": "\ud7ff\ue000\uffff\U00010000\U0010ffff"},
    ],
)
def test_plain(changed: dict[str, Any]) -> None:
    names = {"tags": EVENT["tags"], "content": "c", **changed}
    event = make_event(**names)
    for fields in (list(event), sorted(event), sorted(event, reverse=True)):
        text = wire({name: event[name] for name in fields})
        one = found(b' [ "EVENT" , "sub" ,\t' + text.replace(b'"kind":', b'"kind" :\n') + b" ]\r\n")
        assert one is not None, text
        assert one.id.hex() == event["id"]


@NATIVE
def test_not_plain() -> None:
    """Most of these are events; all are left to others."""
    odd = make_event(content="\x00")
    bell = make_event(content="\x07", verbatim=True)
    lone = make_event(content="\ud800")
    late = make_event(created_at=10**18)
    frames = {
        "another subscription": b'["EVENT","sib",%b]' % TEXT,
        "no event": b'["EOSE","sub"]',
        "more behind it": framed(TEXT) + b"]",
        "an array with more": b'["EVENT","sub",%b,1]' % TEXT,
        "cut": framed(TEXT)[:-1],
        "an unknown field": framed(TEXT[:-1] + b',"more":1}'),
        "a field twice": framed(TEXT[:-1] + b',"kind":1}'),
        "a field less": framed(wire({n: v for n, v in EVENT.items() if n != "sig"})),
        "upper case": framed(TEXT.replace(EVENT["sig"].encode(), EVENT["sig"].upper().encode())),
        "a long id": framed(TEXT.replace(EVENT["id"].encode(), EVENT["id"].encode() + b"00")),
        "another id": framed(TEXT.replace(EVENT["id"].encode(), b"00" * 32)),
        "white space in tags": framed(TEXT.replace(b'["t","nostr"]', b'["t", "nostr"]')),
        "an empty tag": framed(TEXT.replace(b'["t","nostr"]', b"[]")),
        "a slash with an escape": framed(TEXT.replace(b"say", b"s\\/y")),
        "a letter with an escape": framed(TEXT.replace(b"say", b"s\\u0061y")),
        "an escape in capitals": framed(TEXT.replace(b"\\u0001", b"\\u001F")),
        "a long way to write one": framed(TEXT.replace(b"\\n", b"\\u000a")),
        "no escape": framed(TEXT.replace(b"say", b"s\\xy")),
        "an escape that is cut": framed(TEXT[: TEXT.index(b"\\u0001") + 4]),
        "a raw control character": framed(wire(bell)),
        "NUL": framed(wire(odd)),
        "a lone surrogate": framed(json.dumps(lone, separators=(",", ":")).encode()),
        "no UTF-8": framed(TEXT.replace(b"say", b"s\xff\xfey")),
        "UTF-8 that is too long": framed(TEXT.replace(b"say", b"s\xc0\xafy")),
        "a surrogate in UTF-8": framed(TEXT.replace(b"say", b"s\xed\xa0\x80")),
        "beyond Unicode": framed(TEXT.replace(b"say", b"\xf4\x90\x80\x80")),
        "a number with a zero before it": framed(TEXT.replace(b'"kind":1', b'"kind":01')),
        "a negative number": framed(TEXT.replace(b'"kind":1', b'"kind":-1')),
        "a fraction": framed(TEXT.replace(b'"kind":1', b'"kind":1.0')),
        "a kind beyond all": framed(TEXT.replace(b'"kind":1', b'"kind":65536')),
        "a time of 19 digits": framed(wire(late)),
        "nothing": b"",
        "a text": b'"EVENT"',
    }
    assert {name: found(frame) for name, frame in frames.items()} == dict.fromkeys(frames)


@NATIVE
def test_another_subscription_is_another_question() -> None:
    frames = [b'["EVENT","a",%b]' % TEXT, b'["EVENT","",%b]' % TEXT] * FEW

    def are_plain(frames: list[bytes], subscription: str) -> list[bool]:
        scan = Scan(Burst.of(frames), subscription)
        return [scan.plain_until(place) > place for place in range(len(frames))]

    assert are_plain(frames, "a") == [True, False] * FEW
    assert are_plain(frames, "") == [False, True] * FEW
    assert are_plain(frames[: FEW - 1], "a") == [False] * (FEW - 1)
    assert are_plain([], "a") == []


def test_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "here", None)
    assert found(framed(TEXT)) is None
