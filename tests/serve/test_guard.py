"""Whom a browser may bring: by which hosts we are called, and which pages may read us."""

import socket

import pytest

from bigbrotr.serve.guard import Guard
from bigbrotr.serve.problems import RefusedError


def let_in(guard: Guard, host: str, origin: str = "", site: str = "", mode: str = "") -> str:
    """Empty, or the kind of problem."""
    try:
        guard.check(host, origin, site, mode)
    except RefusedError as error:
        return error.kind
    return ""


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("127.0.0.1:7447", True),
        ("203.0.113.7", True),
        ("[::1]:7447", True),
        ("localhost", True),
        ("LocalHost.:7447", True),
        (socket.gethostname(), True),
        ("archive.example", True),
        ("ARCHIVE.example:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@localhost", True),  # no host: a browser never says it
        ("[::1", False),
        (":80", False),
    ],
)
def test_what_we_are_called(host: str, is_known: bool) -> None:
    public = Guard("127.0.0.1", "https://archive.example")
    for _ in range(2):  # remembered
        assert let_in(public, host) == ("" if is_known else "wrong-host")
    assert let_in(public, "") == ""  # HTTP/1.0


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("http://127.0.0.1:7447", True),
        ("http://127.0.0.1:3000", True),
        ("http://localhost:3000", True),
        ("http://[::1]:3000", True),
        ("https://evil.example", False),
        ("http://192.0.2.1", False),
        ("http://127.0.0.1.evil.example", False),
        ("null", False),
        ("http://[", False),
        ("file://", False),
    ],
)
def test_which_pages_may_read(origin: str, may: bool) -> None:
    private = Guard("127.0.0.1", None)
    assert let_in(private, "127.0.0.1:7447", origin) == ("" if may else "foreign-origin")
    assert let_in(Guard("127.0.0.1", "https://a.example"), "127.0.0.1:7447", origin) == ""


def test_a_page_may_lead_here_and_not_embed_us() -> None:
    private = Guard("127.0.0.1", None)
    for mode in ("no-cors", "cors", "websocket"):
        assert let_in(private, "127.0.0.1", "", "cross-site", mode) == "foreign-origin"
    assert let_in(private, "127.0.0.1", "", "cross-site", "navigate") == ""
    assert let_in(private, "127.0.0.1", "", "same-origin", "cors") == ""
    # In a network, by name: its own pages, and those of the reader's machine.
    wide = Guard("0.0.0.0", None)
    assert let_in(wide, "192.0.2.7:7447", "http://192.0.2.7:7447") == ""
    assert let_in(wide, "192.0.2.7:7447", "http://192.0.2.8") == "foreign-origin"


def test_memory_has_a_bound() -> None:
    guard = Guard("127.0.0.1", None)
    for number in range(300):
        assert let_in(guard, f"192.0.2.{number % 256}:{number}") == ""
    assert len(guard._known) == 100
