"""Where an event is: what follows from presence, coverage, drops and refusals; and event ids."""

import json
from typing import Any

import msgspec
import nostr_sdk
import pytest

from bigbrotr.models.event import WireEvent
from bigbrotr.models.filter import Filter
from bigbrotr.models.where import Absent, Known, Present, locate, parse_event_id

ID = "5c83da77af1dec6d7289834998ad7aafbd9e2191396d75ec3cc27f5a77226f36"
AUTHOR = "f7234bd4c1394dda46d09f35bd384dd30cc552ad5541990f98844fb06676e9ca"
URL = "wss://a.example.com"


def event(created_at: int = 1000, kind: int = 1, tags: str = '[["t","x"]]') -> WireEvent:
    raw = msgspec.Raw(tags.encode())
    return WireEvent(ID, AUTHOR, created_at, kind, raw, msgspec.Raw(b'""'), "")


def bech32(prefix: str, data: bytes) -> str:
    """BIP-173, written down once more."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    values = [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]
    state = 1
    spread = [ord(each) >> 5 for each in prefix] + [0] + [ord(each) & 31 for each in prefix]
    for value in [*spread, *values, 0, 0, 0, 0, 0, 0]:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(
            (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
        ):
            state ^= generator if top >> bit & 1 else 0
    state ^= 1
    values += [state >> 5 * (5 - at) & 31 for at in range(6)]
    return f"{prefix}1{''.join(letters[value] for value in values)}"


def row(*proofs: tuple[str, str, int], **known: int) -> Known:
    columns: dict[str, Any] = dict.fromkeys(
        ["seen_at", "dropped_seen_at", "dropped_at", "withheld_at"]
    )
    told = [{"filter": key, "how": how, "proven_at": at} for key, how, at in proofs]
    return Known(**(columns | {"url": URL, "proofs": json.dumps(told)} | known))


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
    # As people paste them: BIP-173 allows capitals, and links and marks come along.
    for text in (
        *(note.upper(), nevent.upper(), f"NOSTR:{note.upper()}", f"Nostr:{nevent}", f"<{note}>."),
        *(f"web+nostr:{nevent}", f"https://njump.me/{nevent}?x=1#y", f"@{note}", f"nostr://{note}"),
    ):
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
        with pytest.raises(ValueError, match="not an event id"):
            parse_event_id(text)


def record(type_: int, value: bytes) -> bytes:
    return bytes([type_, len(value)]) + value


@pytest.mark.parametrize(
    "odd",
    [
        record(1, b"not a relay"),
        record(1, b"\xff\xfe"),
        record(1, b""),
        record(2, b"short"),
        record(2, b"\xff" * 32),  # no point of the curve
        record(3, b"1"),
        record(3, b"\xff" * 4),
        record(9, b"from a later NIP"),
        record(0, b"another"),
        b"\x01\xffcut off",
    ],
)
def test_an_nevent_counts_for_its_id(odd: bytes) -> None:
    text = bech32("nevent", record(0, bytes.fromhex(ID)) + odd)
    assert parse_event_id(text).hex() == ID
    assert parse_event_id(f"nostr:{text.upper()}").hex() == ID


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bech32("nevent", record(1, b"wss://a.example.com")), "there is none in it"),
        (bech32("nevent", record(0, b"short")), "it holds 5 bytes instead of 32"),
        (bech32("note", b"short"), "it holds 5 bytes instead of 32"),
        (bech32("naddr", b"x"), "an naddr names what an author replaces"),
        (bech32("npub", b"x" * 32), "an npub names an author"),
        (bech32("nprofile", b"x" * 32).upper(), "an nprofile names an author"),
        (bech32("note", bytes.fromhex(ID))[:-1] + "b", "its checksum"),
        ("note1\u00e9", "its checksum"),
        ("hello", "'hello' is not an event id"),
    ],
)
def test_what_is_odd_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_event_id(text)


def test_a_private_key_is_not_repeated() -> None:
    nsec = bech32("nsec", bytes.fromhex(ID))
    for text in (
        *(nsec, nsec.upper(), f"nostr:{nsec}", nsec[:-3], f"key {nsec}", f"{nsec} x"),
        *(bech32("ncryptsec", bytes(91)), f"{ID}0", ID[:-1], f"{ID[:50]} {ID[50:]}"),
    ):
        with pytest.raises(ValueError, match="not an event id") as raised:
            parse_event_id(text)
        for secret in (nsec[5:20], nsec[5:20].upper(), ID[:10], "qqqqqqqq"):
            assert secret not in str(raised.value)
