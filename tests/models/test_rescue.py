"""Which events may be sent to other relays, and what a relay says it takes."""

import json

import pytest

from bigbrotr.models.policy import Reason
from bigbrotr.models.rescue import (
    HIDDEN,
    Embedded,
    Left,
    Sendable,
    embedded_in,
    left_of,
    refusal_in_advance,
    work_of,
)
from tests.kit.events import NOW, make_event

KEY = b"\x01" * 32
EVENT = Sendable(b"\x00\x0f" + b"\xff" * 30, NOW, 3, 100, b"x" * 500)


def test_each_reason_that_hides_an_event_keeps_it_here() -> None:
    for reason in Reason:
        why = left_of(KEY, NOW, 1, [], int(reason), None, NOW)
        assert (why is None) is (reason is Reason.EXPIRED)  # that is told by the time
    assert set(HIDDEN) == set(Reason) - {Reason.EXPIRED}
    assert left_of(KEY, NOW, 1, [["-"]], 0, None, NOW) is Left.PROTECTED
    assert left_of(KEY, NOW, 20_000, [], 0, None, NOW) is Left.EPHEMERAL
    assert left_of(KEY, NOW, 1, [], 0, NOW, NOW) is Left.EXPIRED
    assert left_of(KEY, NOW, 1, [], 0, NOW + 1, NOW) is None
    assert left_of(KEY, NOW, 1, [["expiration", str(NOW)]], 0, NOW + 9, NOW) is Left.EXPIRED
    assert all(each.words for each in Left)


@pytest.mark.parametrize("content", ["", " \n", "[]", "7", "nonsense", "[" * 5000, '{"a": NaN}'])
def test_a_repost_of_nothing_that_can_be_read_forbids_nothing(content: str) -> None:
    assert embedded_in(6, content, NOW) == Embedded()


def test_a_repost_may_hold_a_repost_and_so_on() -> None:
    inner = make_event(1, content="in the middle")
    content = json.dumps(inner)
    for _ in range(3):
        content = json.dumps(make_event(2, 16, content=content))
    found = embedded_in(6, content, NOW)
    assert not found.is_forbidden
    assert found.ids[-1].hex() == inner["id"]
    assert len(found.ids) == 4
    for _ in range(9):
        content = json.dumps(make_event(2, 16, content=content))
    assert embedded_in(6, content, NOW).is_forbidden  # nobody looks further


@pytest.mark.parametrize("number", ["true", "1.0", '"6"', "null", "1e400", "-1", "{}"])
def test_odd_values_in_what_is_embedded(number: str) -> None:
    text = f'{{"id": {number}, "kind": {number}, "tags": {number}, "content": {number}}}'
    assert embedded_in(6, text, NOW) == Embedded()


def test_limits() -> None:
    def why(**limits: int | bool) -> Left | None:
        return refusal_in_advance(limits, EVENT, NOW)

    assert why() is None
    assert why(max_message_length=510) is None
    assert why(max_message_length=509) is Left.MESSAGE
    assert why(max_content_length=100, max_event_tags=3, created_at_lower_limit=0) is None
    assert why(max_content_length=0, max_event_tags=0, max_message_length=0) is None
    assert why(created_at_upper_limit=0) is None
    assert refusal_in_advance({"created_at_upper_limit": 0}, EVENT, NOW - 1) is Left.TOO_NEW
    assert why(min_pow_difficulty=12) is None
    assert why(min_pow_difficulty=13) is Left.WORK
    assert why(max_event_tags=True) is None  # no number


def test_work_is_counted_in_bits() -> None:
    assert work_of(b"\xff" * 32) == 0
    assert work_of(EVENT.id) == 12
    assert work_of(bytes(32)) == 256
