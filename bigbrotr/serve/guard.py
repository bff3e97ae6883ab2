"""Decides whom a browser may bring here: by what hosts we are called, and which pages may read us.

A page of a stranger can make its reader's browser ask a server on that reader's own machine or
network. A server without a public URL is private: it answers to addresses and names of its own
alone (else a stranger's name could be bent to our address: DNS rebinding), and lets no page of
another site read it.
"""

import socket
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from bigbrotr.serve.problems import RefusedError


def is_called(host: str, names: Collection[str]) -> bool:
    """Whether `host` (of an HTTP request) is an address, which cannot be bent, or one of our names.

    This machine's name and localhost are among them.
    """
    name = host_in(f"//{host}")
    with suppress(ValueError):
        ip_address(name)
        return True
    ours = ("localhost", socket.gethostname(), *names)
    return bool(name) and name in {each.lower().rstrip(".") for each in ours}


def host_in(url: str) -> str:
    """The host in a URL, in lower case; empty: there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


class Guard:
    """Checks the headers Host and Origin, and what the browser says of its page."""

    def __init__(self, host: str, public_url: str | None) -> None:
        self.is_public = public_url is not None
        public = host_in(public_url) if public_url is not None else ""
        self._names = tuple(each for each in (host, public) if each)
        self._known: set[str] = set()  # hosts that were let in

    def check(self, host: str, origin: str, site: str, mode: str) -> None:
        """Lets a request pass by its headers Host, Origin, Sec-Fetch-Site and -Mode; empty: none.

        Raises:
            RefusedError: it is meant for somebody else, or comes from a stranger's page.
        """
        if host and host not in self._known:
            if not is_called(host, self._names):
                raise RefusedError(
                    "wrong-host",
                    "nobody here is called that: ask by an address, or set [serve] public_url",
                )
            if len(self._known) < 100:
                self._known.add(host)
        if self.is_public:
            return
        is_foreign = site == "cross-site" and mode not in ("", "navigate")
        if origin:
            # What runs on the reader's own machine may read; a page from a file has no origin.
            page = netloc_of(origin)
            is_foreign = page != host and not is_loopback(page)
        if is_foreign:
            raise RefusedError(
                "foreign-origin",
                "this server is private: [serve] public_url, if it is set, opens it to all pages",
            )

    def allowed(self, origin: str) -> str | None:
        """What to say in Access-Control-Allow-Origin to a page; None: nothing."""
        return "*" if self.is_public else (origin or None)


def netloc_of(origin: str) -> str:
    """Host and port of an origin; empty: it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether host and port are of this machine alone."""
    name = host_in(f"//{host}")
    with suppress(ValueError):
        return ip_address(name).is_loopback
    return name == "localhost"
