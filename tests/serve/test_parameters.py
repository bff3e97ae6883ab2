"""Parameters of a request: read into a struct, or refused in words that say what to do."""

from contextlib import suppress
from typing import Annotated, Literal
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from bigbrotr.models.relay import Network
from bigbrotr.serve.parameters import (
    MAX_PARAMETERS,
    PARSE,
    parameters_of,
    read_parameters,
    split_query,
)
from bigbrotr.serve.problems import RefusedError
from bigbrotr.serve.resource import BIGINT, ListQuery, make_cursor, read_cursor


def whole(text: str) -> str:
    if not text.isalpha():
        raise ValueError("letters alone")
    return text.upper()


class Asked(Struct, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=5, extra={PARSE: whole})]
    kinds: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=65_535)], ...] | None, Meta(description="of these kinds")
    ] = None
    network: tuple[Network, ...] | None = None
    sort: Annotated[Literal["up", "down"], Meta(description="the order")] = "up"
    flag: bool | None = None
    share: Annotated[float, Meta(ge=0, le=1)] | None = None


KNOWN = parameters_of(Asked, "things/{name}")


def read(query: str, name: str = "abc") -> Asked:
    return read_parameters(Asked, KNOWN, {"name": name}, split_query(query))


def test_what_is_declared() -> None:
    assert KNOWN["name"].is_in_path
    assert KNOWN["name"].is_required
    assert KNOWN["kinds"].is_list
    assert KNOWN["kinds"].words == "of these kinds"
    assert KNOWN["kinds"].schema == {
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer", "minimum": 0, "maximum": 65_535},
    }
    assert KNOWN["network"].schema["items"] == {"enum": sorted(Network)}
    assert KNOWN["sort"].default == "up"


def test_what_is_read() -> None:
    assert read("") == Asked(name="ABC")
    asked = read("kinds=1,2&kinds=3&sort=down&flag=true&share=0.5&&network=tor")
    assert asked == Asked(
        name="ABC",
        kinds=(1, 2, 3),
        sort="down",
        flag=True,
        share=0.5,
        network=(Network.TOR,),
    )
    assert read("k%69nds=1%2C2").kinds == (1, 2)


@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        ("kind=1", "unknown-parameter", "'kind': do you mean kinds?"),
        ("zzz=1", "unknown-parameter", "there are kinds, network, sort, flag, share"),
        ("name=x", "unknown-parameter", "no parameter is called 'name'"),
        ("kinds=-1", "bad-parameter", "each a whole number from 0 to 65535, not '-1'"),
        ("kinds=1,x", "bad-parameter", "not '1,x'"),
        ("kinds=", "bad-parameter", "not ''"),
        ("kinds=1.5", "bad-parameter", "not '1.5'"),
        ("kinds=9" + "9" * 400, "bad-parameter", "from 0 to 65535"),
        ("sort=left", "bad-parameter", "sort is one of down, up, not 'left'"),
        ("sort=up&sort=down", "bad-parameter", "sort is there twice"),
        ("flag=maybe", "bad-parameter", "flag is true or false"),
        ("share=2", "bad-parameter", "share is a number from 0 to 1, not '2'"),
        ("share=nan", "bad-parameter", "not 'nan'"),
        ("sort=%00", "bad-request", "U+0000"),
        ("sort=%ff", "bad-request", "UTF-8"),
        ("sort=%ed%a0%80", "bad-request", "UTF-8"),
        ("&".join(f"a{n}=1" for n in range(MAX_PARAMETERS + 1)), "bad-request", "at most 100"),
        ("sort=" + "x" * 500, "bad-parameter", "xxx\\u2026'"),
        ("sort=%1b[2J", "bad-parameter", "'\\x1b[2J'"),
    ],
)
def test_what_is_refused(query: str, kind: str, words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read(query)
    assert refused.value.kind == kind
    assert words in refused.value.detail
    assert refused.value.detail.isascii()


def test_what_is_refused_of_a_path() -> None:
    for name, words in (("a1", "name: letters alone"), ("abcdef", "a text of 1 to 5 characters")):
        with pytest.raises(RefusedError, match=words):
            read("", name)


@given(st.text(), st.text())
def test_any_text_is_read_or_refused(name: str, value: str) -> None:
    for query in (f"{name}={value}", f"{quote(name)}={quote(value)}", value):
        with suppress(RefusedError):
            read(query)


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(RefusedError):
        read(f"sort={quote(data)}")


class Listed(ListQuery, frozen=True, kw_only=True):
    kind: int | None = None


KEY = tuple[BIGINT, str]


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_characters="\0")))
def test_a_cursor_comes_back(number: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeError:
        return
    query = Listed(kind=1)
    cursor = make_cursor(query, (number, text))
    assert read_cursor(cursor, Listed(kind=1, limit=7, cursor=cursor), KEY) == (number, text)
    with pytest.raises(RefusedError, match="another question"):
        read_cursor(cursor, Listed(kind=2), KEY)
    with pytest.raises(RefusedError, match="none of ours"):
        read_cursor(cursor, query, tuple[BIGINT])


@given(st.text() | st.binary().map(lambda data: data.hex()))
def test_any_cursor_is_read_or_refused(cursor: str) -> None:
    with pytest.raises(RefusedError):
        read_cursor(cursor, Listed(), KEY)


def test_a_cursor_holds_what_postgresql_can() -> None:
    for key in ((2**63, "x"), (1, "\0"), ("x", 1), (None, "x"), (1.5, "x")):
        with pytest.raises(RefusedError):
            read_cursor(make_cursor(Listed(), key), Listed(), KEY)
