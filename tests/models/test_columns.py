"""Events as columns: each is what it was, whoever puts them side by side."""

from array import array

import msgspec
import pytest

from bigbrotr.models import native
from bigbrotr.models.burst import Burst
from bigbrotr.models.columns import Columns, Found, pick_by_python
from bigbrotr.models.event import WireEvent, decode, identify
from bigbrotr.models.plain import Heard, Plain, Scan
from tests.kit.c import NATIVE
from tests.kit.events import make_event, verified, wire

MADE = [make_event(1_700_000_000 - n // 3, content=f"{n}", kind=n) for n in range(20)]
TEXTS = [wire(event) for event in MADE]
WIRE = [msgspec.json.decode(text, type=WireEvent) for text in TEXTS]
KEYS = [(event["created_at"], bytes.fromhex(event["id"])) for event in MADE]


def scanned() -> Columns[Found]:
    """The events as they come from a relay: all are plain where C says so."""
    burst = Burst.of([b'["EVENT","s",%b]' % text for text in TEXTS])
    scan, columns = Scan(burst, "s"), Columns[Found]()
    if scan.plain_until(0) == len(burst):
        columns.take(scan, 0, len(burst))
        return columns
    for each in WIRE:
        columns.append(identify(each))
    return columns


@pytest.fixture(params=[pytest.param("C", marks=NATIVE), "Python"], autouse=True)
def _c(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "Python":
        monkeypatch.setattr(native, "here", None)


def test_the_same_events_whoever_asks() -> None:
    columns = scanned()
    assert columns.keys == KEYS
    assert [columns.kind(place) for place in range(20)] == list(range(20))
    for found, each in zip(columns, WIRE, strict=True):
        assert (found.decode() if isinstance(found, Plain) else found) == (
            decode(identify(each)) if isinstance(found, Plain) else identify(each)
        )


def test_places_in_order() -> None:
    columns = scanned()
    places, is_unique = columns.order()
    assert is_unique
    picked = columns.pick(places)
    assert picked.keys == sorted(KEYS)
    assert [picked.kind(n) for n in range(20)] == list(places)
    assert picked.part(5, 100).keys == sorted(KEYS)[5:]
    assert picked.part(0, 100) is picked
    assert picked.part(3, 3).keys == []
    assert columns.pick(array("I", [7, 7])).order()[1] is False
    both = Columns.joined([picked.part(0, 5), picked.part(5, 20)])
    assert len(both.kept) == len(columns.kept)  # each once
    assert columns.pick(array("I")).kept == []
    assert both.keys == picked.keys
    assert list(both) == list(picked)


def test_others_stand_among_them() -> None:
    event = verified("other", created_at=5)
    columns = scanned()
    columns.append(event)
    assert columns.keys == [*KEYS, (5, event.id)]
    assert columns[20] is event
    assert columns.claim(20) == event.claim
    turned = columns.pick(array("I", [20, 0]))
    assert (turned[0], turned.keys[1]) == (event, KEYS[0])
    joined = Columns.joined([columns, turned])
    assert (joined[20], joined[21], joined.kind(22)) == (event, event, 0)


def test_what_is_not_proven_has_no_time_yet() -> None:
    heard: Columns[Heard] = Columns.of([WIRE[0], verified("proven", created_at=5)])
    assert list(heard.created_ats) == [0, 5]
    found = heard.plain_only()
    assert (len(found), found.others, len(heard.others)) == (2, {}, 2)
    found.put(0, identify(WIRE[0]))
    assert found.keys[0] == KEYS[0]
    assert list(heard.created_ats) == [0, 5]  # a copy
    with pytest.raises(LookupError):
        found[1]


@NATIVE
def test_python_picks_as_c_does() -> None:
    from bigbrotr_native import pick

    columns, places = scanned(), array("I", [3, 0, 3, 19])
    given = (columns.created_ats, columns.claims, columns.addresses, columns.lengths, columns.kinds)
    assert pick(places, *given) == pick_by_python(places, *given)
    for wrong in (pick, pick_by_python):
        with pytest.raises((ValueError, IndexError)):
            wrong(array("I", [20]), *given)


def test_events_are_what_they_are() -> None:
    events = [verified("a"), verified("b")]
    columns: Columns[Found] = Columns.of(events)
    assert list(columns) == events
    assert Columns.of(columns) is columns
