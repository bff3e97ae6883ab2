"""Where an event is: what follows from presence, coverage, drops and refusals; and event ids."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import nostr_sdk
import pytest

from bigbrotr.models.event import WireEvent
from bigbrotr.models.filter import Filter
from bigbrotr.models.whereabouts import Absent, Present, locate, parse_event_id

ID = "5c83da77af1dec6d7289834998ad7aafbd9e2191396d75ec3cc27f5a77226f36"
AUTHOR = "f7234bd4c1394dda46d09f35bd384dd30cc552ad5541990f98844fb06676e9ca"
URL = "wss://a.example.com"


def event(created_at: int = 1000, kind: int = 1, tags: str = '[["t","x"]]') -> WireEvent:
    raw = msgspec.Raw(tags.encode())
    return WireEvent(ID, AUTHOR, created_at, kind, raw, msgspec.Raw(b'""'), "")


def row(*proofs: tuple[str, str, int], **known: int) -> Mapping[str, Any]:
    unknown = dict.fromkeys(["seen_at", "dropped_seen_at", "dropped_at", "withheld_at"])
    told = [{"filter": key, "how": how, "proven_at": at} for key, how, at in proofs]
    return {"url": URL, "proofs": json.dumps(told)} | unknown | known


def test_present() -> None:
    assert locate(event(), [row(seen_at=7)]).present == [Present(URL, 7, False)]
    assert locate(event(), [row(("", "paging", 9), seen_at=7)]).present[0].first_seen == 7
    # It held it before, and does so again.
    again = row(seen_at=7, dropped_seen_at=3, dropped_at=5)
    assert locate(event(), [again]).present == [Present(URL, 3, False)]
    assert locate(event(), [row(withheld_at=8)]).present == [Present(URL, 8, True)]
    assert locate(None, [row(withheld_at=8)]).present == [Present(URL, 8, True)]


def test_absent() -> None:
    proofs = [("", "paging", 5000), ("", "reconciliation", 7000)]
    assert locate(event(), [row(*proofs)]).absent == [
        Absent(URL, 7000, "reconciliation", None, None)
    ]
    # The time of a proof is that of the oldest in a row: no second is proven before it came.
    assert locate(event(9000), [row(*proofs)]).absent[0].as_of == 9000
    dropped = row(*proofs, dropped_seen_at=3, dropped_at=8000)
    assert locate(event(), [dropped]).absent == [Absent(URL, 8000, "reconciliation", 3, 8000)]


def test_unknown() -> None:
    assert locate(event(), [row()]).unknown == [URL]
    assert locate(None, [row(("", "paging", 5000))]).unknown == [URL]


@pytest.mark.parametrize(
    ("filter_", "is_about"),
    [
        (Filter(kinds=frozenset([1, 7])), True),
        (Filter(kinds=frozenset([7])), False),
        (Filter(authors=frozenset([AUTHOR])), True),
        (Filter(authors=frozenset(["00" * 32])), False),
        (Filter(tags={"t": frozenset(["x"])}), True),
        (Filter(tags={"t": frozenset(["y"])}), False),
    ],
)
def test_proofs_for_some_events_only(filter_: Filter, is_about: bool) -> None:
    assert Filter.from_key(filter_.key) == filter_
    known = row((filter_.key, "paging", 5000))
    assert bool(locate(event(), [known]).absent) is is_about
    # An archive without tags cannot tell.
    without = locate(event(tags="null"), [known])
    assert bool(without.absent) is (is_about and not filter_.tags)


def test_a_proof_for_a_filter_that_is_known_by_its_hash_only() -> None:
    many = Filter(authors=frozenset(f"{n:064x}" for n in range(100)))
    assert Filter.from_key(many.key) is None
    assert locate(event(), [row((many.key, "paging", 5000))]).unknown == [URL]


def test_event_ids() -> None:
    note = nostr_sdk.EventId.parse(ID).to_bech32()
    relays = [nostr_sdk.RelayUrl.parse(URL)]
    nevent = nostr_sdk.Nip19Event(nostr_sdk.EventId.parse(ID), relays=relays).to_bech32()
    for text in (ID, ID.upper(), note, nevent, f"nostr:{nevent}", f" {note}\n"):
        assert parse_event_id(text).hex() == ID
    for text in (
        "",
        "5c83",
        ID + "0",
        note[:-1],
        nevent[:-3],
        "npub1xyz",
        "nevent1",
        "\ud800",
        "é",
    ):
        with pytest.raises(ValueError, match="no event id"):
            parse_event_id(text)
