"""What events say that is counted; zaps count if their receipt, request and invoice agree."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.ranks import (
    COUNTED,
    MOST_ADDRESS,
    MOST_SUBJECTS,
    Fact,
    What,
    Zap,
    address_in,
    facts_of,
    followed_in,
    read_zap,
)
from tests.kit.events import make_event, pubkey
from tests.kit.invoices import invoice, zap

ME = bytes(32)
A, B, C = (letter * 64 for letter in "abc")
ARTICLE = f"30023:{A}:on-ranks"


def facts(kind: int, *tags: list[str]) -> set[tuple[int, str]]:
    found = facts_of(ME, kind, tags)
    assert len(set(found)) == len(found)
    return {
        (what, "me" if subject == ME else subject.hex() if len(subject) == 32 else subject.decode())
        for what, subject, _ in found
    }


def test_notes_and_replies() -> None:
    assert facts(1) == {(What.POST, "me")}
    assert facts(1, ["p", A], ["t", "x"]) == {(What.POST, "me")}
    root, parent = ["e", A, "", "root"], ["e", B, "", "reply", C]
    assert facts(1, root) == {(What.REPLY, "me"), (What.COMMENTED, A)}
    both = {(What.REPLY, "me"), (What.COMMENTED, A), (What.COMMENTED, B)}
    assert facts(1, root, parent) == both
    assert facts(1, ["e", A], ["e", C], ["e", B]) == both  # without markers: the first and last
    assert facts(1, ["e", A, "", "mention"]) == {(What.POST, "me")}
    assert facts(1, ["q", A], ["q", ARTICLE]) == {
        (What.POST, "me"),
        (What.QUOTED, A),
        (What.QUOTED + 10, ARTICLE),
    }
    assert facts(1, ["a", ARTICLE, "", "root"], parent) == {
        (What.REPLY, "me"),
        (What.COMMENTED + 10, ARTICLE),
        (What.COMMENTED, B),
    }
    assert facts(30023, ["d", "x"], ["e", A]) == {(What.POST, "me")}
    assert facts(1111, ["A", ARTICLE], ["a", ARTICLE], ["e", B], ["I", "isbn:1"]) == {
        (What.REPLY, "me"),
        (What.COMMENTED + 10, ARTICLE),
        (What.COMMENTED, B),
    }


def test_reposts_reactions_and_reports() -> None:
    assert facts(6, ["e", A], ["p", B]) == {(What.REPOSTED, A)}
    assert facts(16, ["e", A], ["a", ARTICLE]) == {
        (What.REPOSTED, A),
        (What.REPOSTED + 10, ARTICLE),
    }
    assert facts(7, ["e", A], ["e", B]) == {(What.REACTED, "me"), (What.REACTION_TO, B)}
    assert facts(1984, ["p", A, "spam"]) == {(What.REPORT_SENT, "me"), (What.REPORT_RECEIVED, A)}
    assert facts(1984, ["p", "nonsense"]) == {(What.REPORT_SENT, "me")}
    assert facts(3, ["p", A]) == set()
    assert facts(0) == set()


def test_a_zap() -> None:
    receipt = zap(1, 2, 21, ["e", A], ["a", ARTICLE])
    assert facts_of(receipt.pubkey, 9735, receipt.tags) == [
        Fact(What.ZAP_RECEIVED, bytes.fromhex(pubkey(2)), 21_000),
        Fact(What.ZAP_SENT, bytes.fromhex(pubkey(1)), 21_000),
        Fact(What.ZAPPED, bytes.fromhex(A), 21_000),
        Fact(What.ZAPPED + 10, ARTICLE.encode(), 21_000),
    ]
    found = read_zap(receipt.tags)
    assert isinstance(found, Zap)
    assert (found.sender, found.receiver, found.msat) == (pubkey(1), pubkey(2), 21_000)


REQUEST = json.dumps(make_event(kind=9734, tags=[["p", pubkey(2)]], key=1))
FORGED = json.dumps({**json.loads(REQUEST), "content": "another"})
OTHER_KIND = json.dumps(make_event(kind=1, tags=[["p", pubkey(2)]], key=1))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"said_msat": 22_000}, "other-amount"),
        ({"bolt11": invoice("220n")}, "other-amount"),
        ({"bolt11": invoice("210n", bytes(32))}, "other-request"),
        ({"bolt11": invoice("210n", network="bcrt")}, "bad-invoice"),
        ({"bolt11": invoice("")}, "bad-invoice"),
        ({"bolt11": invoice("0u")}, "bad-invoice"),
        ({"bolt11": "lnbc210n1nonsense"}, "bad-invoice"),
        ({"p": pubkey(3)}, "other-receiver"),
        ({"p": "nobody"}, "other-receiver"),
        ({"description": FORGED, "bolt11": invoice("210n")}, "bad-request"),
        ({"description": OTHER_KIND, "bolt11": invoice("210n")}, "bad-request"),
        ({"description": "{}", "bolt11": invoice("210n")}, "bad-request"),
        ({"description": "[" * 100_000, "bolt11": invoice("210n")}, "bad-request"),
    ],
)
def test_zaps_that_do_not_count(changed: dict[str, Any], word: str) -> None:
    receipt = zap(1, 2, 21, ["e", A], **changed)
    assert read_zap(receipt.tags) == word
    assert facts_of(receipt.pubkey, 9735, receipt.tags) == []


def test_a_zap_whose_request_names_no_amount() -> None:
    receipt = zap(1, 2, 21, description=REQUEST, bolt11=invoice("210n"))
    assert isinstance(read_zap(receipt.tags), Zap)
    assert read_zap([*receipt.tags, ["bolt11", invoice("1m")]]) == "incomplete"
    assert read_zap([]) == "incomplete"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (ARTICLE, True),
        (f"30023:{A}:", True),
        (f"0:{A}:", True),
        (f"030023:{A}:x", False),
        (f"10002:{A}:d", False),
        (f"1:{A}:", False),
        (f"30023:{A.upper()}:x", False),
        (f"30023:{A}", False),
        (f"30023:{A}:{'x' * MOST_ADDRESS}", False),
        (f"30023:{A}:\ud800", False),
    ],
)
def test_addresses(text: str, is_one: bool) -> None:
    assert (address_in(text) is not None) == is_one


@given(
    kind=st.sampled_from(sorted(COUNTED)),
    tags=st.lists(
        st.lists(st.sampled_from([*"eapqEAP", "bolt11", "description", A, ARTICLE, "", "root"])),
        max_size=8,
    ),
)
def test_any_tags(kind: int, tags: list[list[str]]) -> None:
    tags = [tag or ["x"] for tag in tags]
    assert facts_of(ME, kind, tags) == facts_of(ME, kind, tags)


def test_how_much_an_event_counts_for_has_a_bound() -> None:
    quotes = [["q", f"{number:064x}"] for number in range(5000)]
    assert len(facts_of(ME, 1, quotes)) == MOST_SUBJECTS


def test_followed() -> None:
    assert followed_in([["p", A], ["p"], ["p", "x"], ["e", B], ["p", C, "wss://r", "name"]]) == [
        bytes.fromhex(A),
        bytes.fromhex(C),
    ]
