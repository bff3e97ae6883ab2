"""Says numbers, times and strangers' texts as pages show them."""

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

import nostr_sdk
from markupsafe import Markup, escape

from bigbrotr.view.words import day
from bigbrotr.view.words import duration as length
from bigbrotr.view.words import moment as exact

THIN = "\u202f"  # a narrow space that does not break, between thousands and before units
NOTHING = "\u2013"  # a dash: it is not known
MOST_SHOWN = 20_000  # characters of a text on a page of its own
MOST_IN_LINE = 300  # of one among others
# What would turn the text around it: controls, and marks of direction that reach beyond their end;
# and what XML cannot hold.
_unfit = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def number(value: float | None) -> str:
    """A number with thin spaces between thousands; a dash for what is not known."""
    if value is None:
        return NOTHING
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
    return text.replace(",", THIN)


def count(value: int, what: str) -> str:
    """So many of something: 1 relay, 2 relays."""
    return f"{number(value)} {what}{'' if value == 1 else 's'}"


def short(value: float | None) -> str:
    """A number in three digits or so, with k, M or G."""
    if value is None:
        return NOTHING
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or unit == "T":
            digits = 1 if abs(value) < (99.95 if unit else 19.95) else 0
            if not unit and 0 < abs(value) < 0.95:
                digits = 2
            text = f"{value:.{digits}f}".removesuffix(".0")
            return f"{text}{THIN}{unit}" if unit else text
        value /= 1000
    raise AssertionError


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; only what is all of it is 100 %."""
    if value is None:
        return NOTHING
    shown = f"{value * 100:.{digits}f}"
    if value < 1 and float(shown) == 100:
        shown = f"{100 - 10**-digits:.{digits}f}"
    return f"{shown.removesuffix('.0')}{THIN}%"


def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None:
        return NOTHING
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.3g}{THIN}{unit}"
        count /= 1000
    raise AssertionError


def milliseconds(value: float | None) -> str:
    """A length of time in milliseconds; beyond ten seconds in seconds."""
    if value is None:
        return NOTHING
    if value >= 10_000:
        return f"{value / 1000:.1f}{THIN}s"
    return f"{value:.0f}{THIN}ms"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    return NOTHING if seconds is None else length(seconds)


def when(seconds: int | None, now: float | None = None) -> Markup:
    """How long ago a time was, or until it comes; the exact one on hover."""
    if seconds is None:
        return escape(NOTHING)
    left = seconds - (time.time() if now is None else now)
    said = length(abs(left)).split(" ")
    about = " ".join(said[:2])  # the larger unit is enough
    text = "now" if abs(left) < 1 else f"in {about}" if left > 0 else f"{about} ago"
    return _time(seconds, text, exact(seconds))


def date(seconds: int | None) -> Markup:
    """The day of a time, the exact one on hover."""
    if seconds is None:
        return escape(NOTHING)
    return _time(seconds, day(seconds), exact(seconds))


def moment(seconds: int | None) -> Markup:
    """A time to the second."""
    if seconds is None:
        return escape(NOTHING)
    return _time(seconds, exact(seconds), exact(seconds))


def _time(seconds: int, text: str, title: str) -> Markup:
    try:
        iso = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # events may be of any time
        return escape(text)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso, title, text)


def clean(text: object, most: int = MOST_IN_LINE) -> str:
    """A stranger's text without what would turn the page around, and not longer than that."""
    found = str(text)
    cut = found[:most]
    return _unfit.sub("\ufffd", cut) + ("…" if len(found) > most else "")


def foreign(text: object, most: int = MOST_IN_LINE) -> Markup:
    """The same, kept apart from what stands around it whatever its direction."""
    return Markup("<bdi>{}</bdi>").format(clean(text, most))


@lru_cache(maxsize=4096)
def npub(pubkey: str) -> str:
    """A public key (64 hex digits) as npub; as it is, where it is no point of the curve."""
    try:
        return str(nostr_sdk.PublicKey.parse(pubkey).to_bech32())
    except nostr_sdk.NostrSdkError:
        return pubkey


def brief(key: str) -> str:
    """The beginning and the end of an id or key."""
    return key if len(key) <= 20 else f"{key[:12]}…{key[-6:]}"


def host(url: str) -> str:
    """A relay's URL as it is known: without a scheme that goes without saying."""
    return clean(url.removeprefix("wss://"))


def path_of(what: str, kind: str) -> str:
    """The address of the page of a relay, an event or an author."""
    if kind == "relay":
        return f"/relays/{quote(what.removeprefix('wss://'), safe='/:')}"
    if kind == "author":
        return f"/authors/{npub(what)}"
    return f"/events/{what}"


def rfc3339(seconds: int) -> str:
    """A time as feeds have it; the beginning of 1970 for what no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00Z"
