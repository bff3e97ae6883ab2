"""NIP-11 documents, honest and hostile: each field on its own, nothing raised but ValueError."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.nip11 import NUMBERS, SWITCHES, TEXTS, WORD_LISTS, Nip11

DOCUMENT = {
    "name": "a relay",
    "description": "of ours",
    "pubkey": "52b4a076bcbbbdc3a1aefa3735816cf74993b1b8db202b01c883c58be7fad8bd",
    "supported_nips": [1, 2, 11, 42],
    "software": "https://example.com/relay",
    "version": "1.0.1",
    "limitation": {"max_limit": 500, "auth_required": False, "payment_required": True},
    "language_tags": ["en", "en-419"],
    "something_new": {"deep": [1, 2, {"x": None}]},
}


def parse(**fields: Any) -> Nip11:
    return Nip11.parse(json.dumps(fields).encode())


def test_an_honest_document() -> None:
    raw = json.dumps(DOCUMENT, indent=2).encode()
    document = Nip11.parse(raw)
    assert document.raw == raw
    assert document.metadata.data == DOCUMENT
    assert document.texts["name"] == "a relay"
    assert document.nips == (1, 2, 11, 42)
    assert (document.claims(42), document.claims(50)) == (True, False)
    assert document.limit("max_limit") == 500
    assert document.limit("auth_required") is None  # of the other kind
    assert document.requires("auth_required") is False
    assert document.requires("payment_required") is True
    assert document.requires("restricted_writes") is None
    assert document.words["language_tags"] == ("en", "en-419")
    assert document.dropped == ()


@pytest.mark.parametrize(
    ("value", "nips"),
    [
        ([1, "11", 11.0, 11], (1, 11)),
        ([1, 10**400, 2**70, -5, 0, 1.5, None, [], {}, True, "NIP-09", "B7"], (1, 9)),
        (["NIP-01", "nip42: auth", "nip 11", "#50", "077", 1.0], (1, 11, 42, 50, 77)),
        ("1, 11,NIP-42", (1, 11, 42)),
        (["B7", "7d"], ()),
        (["1.5", "one", "2x", "1.2.3"], None),
        ([[1, 2]], None),
        (11, (11,)),
        ("11", (11,)),
        ("all of them", None),
        ({"1": True}, None),
        (True, None),
        (None, None),
        ([], ()),
    ],
)
def test_supported_nips(value: Any, nips: tuple[int, ...] | None) -> None:
    document = parse(supported_nips=value)
    assert document.nips == nips
    assert document.dropped == (("supported_nips",) if value and nips is None else ())
    assert document.claims(1) == (None if nips is None else 1 in nips)


def test_what_cannot_be_read_is_not_denied() -> None:
    document = parse(supported_nips=[1, "and others", 42])
    assert (document.nips, document.names_more) == ((1, 42), True)
    assert [document.claims(nip) for nip in (1, 42, 50)] == [True, True, None]
    document = parse(supported_nips=["1", "B7", 42.0])
    assert (document.names_more, document.claims(50)) == (False, False)


@pytest.mark.parametrize(
    ("encoding", "charset"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("latin-1", "cp1252"),
        ("cp1252", "cp1252"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16", "utf-16"),
        ("utf-32-be", "utf-32-be"),
    ],
)
def test_documents_in_other_character_sets(encoding: str, charset: str) -> None:
    name = "Café für alle" + ("" if encoding == "latin-1" else " — €")
    text = json.dumps({"name": name, "supported_nips": [1]}, ensure_ascii=False)
    document = Nip11.parse(text.encode(encoding))
    assert (document.texts["name"], document.charset) == (name, charset)
    assert document.raw == text.encode(encoding)
    assert Nip11.parse(b'{"name": "\x81\xe9"}').texts["name"] == "\x81é"


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (500, 500),
        (500.0, 500),
        ("500", 500),
        ("500.0", 500),
        (0, 0),
        (-1, None),
        (1.5, None),
        (10**400, None),
        (2**60, None),
        (True, None),
        ("many", None),
        ([500], None),
    ],
)
def test_numbers(value: Any, limit: int | None) -> None:
    document = parse(limitation={"max_limit": value, "max_subscriptions": 20})
    assert document.limit("max_limit") == limit
    assert document.limit("max_subscriptions") == 20
    assert document.dropped == (() if limit is not None else ("limitation.max_limit",))


@pytest.mark.parametrize(
    ("value", "switch"),
    [
        (True, True),
        ("true", True),
        (1, True),
        ("No", False),
        (0, False),
        (2, None),
        ("perhaps", None),
        ({}, None),
    ],
)
def test_switches(value: Any, switch: bool | None) -> None:
    assert parse(limitation={"auth_required": value}).requires("auth_required") is switch


def test_texts_are_coerced_or_dropped_one_by_one() -> None:
    document = parse(version=1.5, name=["a"], description=None, contact="x", icon=True)
    assert document.texts == {"version": "1.5", "contact": "x"}
    assert document.dropped == ("name", "icon")
    assert document.metadata.data["name"] == ["a"]  # what was said is kept


def test_word_lists() -> None:
    document = parse(tags="one", language_tags=["en", 5, "en", " de ", "x" * 500], attributes={})
    assert document.words == {"tags": ("one",), "language_tags": ("en", "de")}
    assert document.dropped == ("attributes",)


def test_limitation_that_is_none() -> None:
    assert parse(limitation="none").dropped == ("limitation",)
    assert parse(limitation=None).dropped == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"relay"',
        b"{",
        b"<html>",
        b'{"name": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)
def test_what_is_no_document(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Nip11.parse(raw)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"name":"a\\u0000b"}', "a\u2400b"),
        (b'{"name":"a\\ud800b"}', "a\ufffdb"),
        (b'\xef\xbb\xbf{"name":"bom"}', "bom"),
        (b'{"name":"first","name":"last"}', "last"),
    ],
)
def test_what_the_database_could_not_hold(raw: bytes, name: str) -> None:
    document = Nip11.parse(raw)
    assert document.texts["name"] == name
    assert document.raw == raw


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
known_fields = st.dictionaries(
    st.sampled_from([*TEXTS, *WORD_LISTS, "supported_nips", "fees", "retention"]) | st.text(),
    json_values,
    max_size=12,
)
limitations = st.dictionaries(st.sampled_from([*NUMBERS, *SWITCHES]), json_values)


@given(known_fields, limitations | json_values)
def test_any_document_is_understood_as_far_as_possible(
    fields: dict[str, Any], limitation: Any
) -> None:
    raw = json.dumps({**fields, "limitation": limitation}).encode()
    document = Nip11.parse(raw)
    assert document.raw == raw
    assert all(isinstance(text, str) for text in document.texts.values())
    assert all(0 < nip < 10_000 for nip in document.nips or ())
    for name, limit in document.limits.items():
        assert isinstance(limit, bool) == (name in SWITCHES)
    # Nothing that was said is lost: it is understood, dropped by name, or unknown.
    known = {*TEXTS, *WORD_LISTS} & {name for name, value in fields.items() if value is not None}
    assert known == {*document.texts, *document.words} | (known & set(document.dropped))


@given(st.binary())
def test_any_bytes(raw: bytes) -> None:
    try:
        document = Nip11.parse(raw)
    except ValueError:
        return
    assert document.raw == raw
