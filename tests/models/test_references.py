"""What an event refers to, whatever stands in its tags; and which events are in a sample."""

import json
import random
from datetime import UTC, datetime

import hypothesis
from hypothesis import strategies as st

from bigbrotr.models.policy import address_of
from bigbrotr.models.references import (
    MONTHS,
    MOST,
    Reference,
    bound_of,
    is_sampled,
    kind_of_address,
    month_of,
    references,
)
from tests.kit.events import make_event, pubkey

ME, ID, OTHER = b"\x01" * 32, "ab" * 32, "cd" * 32
KEY = pubkey(3)
HINT = "wss://hint.example.com"


def of(kind: int, *tags: list[str], content: str | None = None) -> list[Reference]:
    return references(ME, kind, tags, content)


def test_each_way_to_refer() -> None:
    target, key = bytes.fromhex(ID), bytes.fromhex(KEY)
    assert of(1, ["e", ID, HINT, "reply", KEY]) == [Reference("e", target, HINT, key)]
    assert of(1, ["q", ID, HINT, KEY]) == [Reference("q", target, HINT, key)]
    assert of(9735, ["e", ID]) == [Reference("zap", target)]
    assert of(6, ["e", ID, HINT + "/"]) == [Reference("repost", target, HINT)]
    address = key + address_of(30023, "a:b")
    assert of(1, ["a", f"30023:{KEY}:a:b", HINT]) == [Reference("a", address, HINT, key, "a:b")]
    assert of(1, ["q", f"30023:{KEY}:a:b"]) == [Reference("q", address, "", key, "a:b")]
    assert of(9735, ["a", f"30023:{KEY}:a:b"])[0].via == "zap"
    assert of(1, ["a", f"0:{KEY}:"]) == [Reference("a", key + address_of(0, ""), "", key)]
    assert kind_of_address(address) == 30023
    inner = make_event(1, content="inner")
    assert of(6, content=json.dumps(inner)) == [
        Reference("repost", bytes.fromhex(inner["id"])),
    ]
    assert of(1, content=json.dumps(inner)) == []


def test_what_refers_to_nothing() -> None:
    tags = [
        [],
        ["e"],
        ["e", ""],
        ["e", ID[:-1]],
        ["e", "zz" * 32],
        ["E", ID],
        ["p", KEY],
        ["a", ""],
        ["a", f"1:{KEY}:"],
        ["a", f"0:{KEY}:x"],
        ["a", f"99999:{KEY}:"],
        ["a", f"30023:{KEY[1:]}:"],
        ["a", "30023"],
        ["a", f"-1:{KEY}:"],
        ["a", f"30023:{KEY}:{'x' * 1001}"],
        ["q", "x"],
        ["a", f"30023:{KEY}:\ud800"],
        ["a", f"30023:{KEY}:\0"],
        ["e", "00" * 32],
        ["e", ME.hex()],
    ]
    assert of(1, *tags) == []
    for kind in (5, 62, 1059, 20_001):
        assert of(kind, ["e", ID]) == []


def test_hints_and_authors_that_are_none_are_left_out() -> None:
    for hint in ("", "x", "http://a.example.com", "wss://", "wss://" + "x" * 400, "\0", "\ud800"):
        assert of(1, ["e", ID, hint, "", "nobody"]) == [Reference("e", bytes.fromhex(ID))]


def test_each_once_and_no_more_than_can_be_followed() -> None:
    assert of(1, ["e", ID], ["q", ID], ["e", ID.upper()]) == [Reference("e", bytes.fromhex(ID))]
    many = [["e", f"{n + 1:064x}"] for n in range(5000)]
    assert len(of(30001, *many)) == MOST


@hypothesis.given(st.lists(st.lists(st.text(max_size=80), max_size=5), max_size=20), st.text())
def test_nothing_that_anybody_writes_breaks_it(tags: list[list[str]], content: str) -> None:
    for kind in (1, 6, 9735):
        references(ME, kind, tags, content)


def test_a_sample_has_its_share_and_is_always_the_same() -> None:
    dice = random.Random(5)
    ids = [dice.randbytes(32) for _ in range(4000)]
    for share in (0.05, 0.5):
        bound = bound_of(share)
        assert abs(sum(is_sampled(each, bound) for each in ids) / 4000 - share) < 0.03
    assert all(is_sampled(each, bound_of(1)) for each in [*ids, b"\xff" * 32])
    assert not any(is_sampled(each, bound_of(1e-12)) for each in ids)
    smaller, larger = bound_of(0.1), bound_of(0.2)
    assert all(is_sampled(each, larger) for each in ids if is_sampled(each, smaller))


@hypothesis.given(st.integers(0, 253_402_300_799))
def test_months(at: int) -> None:
    date = datetime.fromtimestamp(at, UTC)
    assert month_of(at) == (date.year - 1970) * 12 + date.month - 1


def test_months_of_no_calendar() -> None:
    assert month_of(2**63 - 1) == MONTHS
