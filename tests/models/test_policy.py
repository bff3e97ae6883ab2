"""What an event says that matters to whether it is shown, and what views hide."""

from typing import Any

import pytest

from bigbrotr.config.settings import PolicySettings
from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.models.policy import (
    Facts,
    Reason,
    Request,
    Rule,
    View,
    address_of,
    erasing,
    facts_of,
    urls_of,
)
from tests.kit.events import pubkey

OURS = bytes.fromhex(pubkey(0))
OTHER = pubkey(1)
ID = "ab" * 32
URLS = urls_of("https://archive.example.com/")


def facts(kind: int = 1, *tags: list[str]) -> Facts:
    return facts_of(OURS, 1000, kind, tags, URLS)


@pytest.mark.parametrize(
    ("kind", "tags", "expected"),
    [
        (1, [["e", ID], ["a", f"0:{OTHER}:"]], Facts()),
        (1, [["-"]], Facts(why=Reason.PROTECTED)),
        (20_000, [], Facts(why=Reason.EPHEMERAL)),
        (29_999, [["-"]], Facts(why=Reason.EPHEMERAL | Reason.PROTECTED)),
        (1, [["expiration", "17"]], Facts(expires_at=17)),
        (1, [["expiration"], ["expiration", "x"], ["expiration", "5"]], Facts(expires_at=5)),
        (1, [["expiration", "-5"]], Facts()),
        (1, [["expiration", "9" * 19]], Facts()),
        (1, [["expiration", "\u0663"]], Facts()),
        (0, [], Facts(address=address_of(0, ""))),
        (3, [["d", "x"]], Facts(address=address_of(3, ""))),
        (10_002, [["d", "x"]], Facts(address=address_of(10_002, ""))),
        (30_023, [["d", "x"], ["d", "y"]], Facts(address=address_of(30_023, "x"))),
        (39_999, [], Facts(address=address_of(39_999, ""))),
        (39_999, [["d"]], Facts(address=address_of(39_999, ""))),
        (40_000, [["d", "x"]], Facts()),
        (
            1059,
            [["p", OTHER], ["p", OTHER], ["p", "short"]],
            Facts(recipients=(bytes.fromhex(OTHER),)),
        ),
        (1, [["p", OTHER]], Facts()),
        (
            5,
            [["e", ID], ["e", ID], ["e", "zz" * 32], ["e"], ["k", "1"]],
            Facts(requests=(Request(bytes.fromhex(ID), MAX_CREATED_AT),)),
        ),
        (
            5,
            [
                ["a", f"30023:{pubkey(0)}:a:b"],
                ["a", f"0:{pubkey(0)}"],
                ["a", f"30023:{OTHER}:x"],  # of somebody else
                ["a", f"3:{pubkey(0)}:x"],  # has no names
                ["a", f"1:{pubkey(0)}:x"],  # not replaceable
                ["a", f"x:{pubkey(0)}:x"],
                ["a", "30023"],
                ["a"],
            ],
            Facts(
                requests=(
                    Request(address_of(30_023, "a:b"), 1000),
                    Request(address_of(0, ""), 1000),
                )
            ),
        ),
        (62, [["relay", "ALL_RELAYS"]], Facts(vanishes=True)),
        (62, [["relay", "wss://archive.example.com"]], Facts(vanishes=True)),
        (62, [["relay", "WSS://Archive.Example.com:443/archive"]], Facts(vanishes=True)),
        (
            62,
            [["relay", "wss://relay.example.com"], ["relay", "x y"], ["relay"]],
            Facts(vanishes_from=("wss://relay.example.com",)),
        ),
        (62, [["relay", "ALL_RELAYS"], ["relay", "wss://x.example.com"]], Facts(vanishes=True)),
        (
            62,
            [["relay", "wss://archive.example.com"], ["relay", "wss://x.example.com"]],
            Facts(vanishes=True, vanishes_from=("wss://x.example.com",)),
        ),
        (62, [["relay", "all_relays"]], Facts()),
        (62, [], Facts()),
        (1, [["relay", "ALL_RELAYS"]], Facts()),
    ],
)
def test_what_an_event_says(kind: int, tags: list[list[str]], expected: Facts) -> None:
    assert facts(kind, *tags) == expected


def test_what_can_be_told_without_tags() -> None:
    assert facts_of(OURS, 1000, 0, None) == Facts(address=address_of(0, ""))
    assert facts_of(OURS, 1000, 30_023, None) == Facts()
    assert facts_of(OURS, 1000, 20_001, None) == Facts(why=Reason.EPHEMERAL)


def test_addresses_differ_by_kind_and_name() -> None:
    addresses = {address_of(kind, d) for kind in (30_000, 30_001) for d in ("", "x", "X", "\ud800")}
    assert len(addresses) == 8
    assert {len(each) for each in addresses} == {20}
    assert address_of(30_023, "x")[:4] == (30_023).to_bytes(4, "big")


def test_without_a_public_url_no_request_names_us() -> None:
    assert urls_of(None) == frozenset()
    assert urls_of("http://x.example:8080") == {
        "ws://x.example:8080",
        "ws://x.example:8080/archive",
    }


ALL = sum(Reason)


@pytest.mark.parametrize(
    ("settings", "view", "expected"),
    [
        ({}, View.CURRENT, ALL),
        ({}, View.ARCHIVE, ALL - Reason.SUPERSEDED),
        ({}, View.KEPT, Reason.ERASED),
        ({"expired": Rule.SERVE}, View.CURRENT, ALL - Reason.EXPIRED),
        ({"expired": Rule.ARCHIVE}, View.CURRENT, ALL),
        ({"expired": Rule.ARCHIVE}, View.ARCHIVE, ALL - Reason.SUPERSEDED - Reason.EXPIRED),
        ({"expired": Rule.ERASE}, View.ARCHIVE, ALL - Reason.SUPERSEDED),
        ({"expired": Rule.ERASE}, View.KEPT, Reason.ERASED),
        ({"superseded": Rule.HIDE}, View.ARCHIVE, ALL),
    ],
)
def test_what_a_view_hides(settings: dict[str, Any], view: View, expected: int) -> None:
    assert PolicySettings(**settings).hides(view) == expected


def test_what_is_erased() -> None:
    assert PolicySettings().erases == 0
    settings = PolicySettings(deleted=Rule.ERASE, expired=Rule.ERASE)
    assert settings.erases == erasing(settings.rules) == Reason.DELETED | Reason.EXPIRED


def test_each_reason_has_words() -> None:
    assert all(reason.words for reason in Reason)
