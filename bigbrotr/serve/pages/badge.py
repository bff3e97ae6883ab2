"""A relay's badge: a small picture that its operator shows elsewhere, made here."""

import time
from typing import NamedTuple

from bigbrotr.reads import relays
from bigbrotr.serve.pages import words
from bigbrotr.serve.pages.page import SVG, Ask, Page

DAYS = 30
MOST_NAME = 40  # characters of a host
FRESH_S = 60  # for which it may be kept
COLOURS = {"up": "#1f7a4d", "down": "#b3362b"}
OTHER = "#5d6068"  # nobody knows
# Widths of letters at 11 pixels, in pixels; the text is stretched to their sum in any font.
NARROW, WIDE = frozenset(" .,:;!'|/ijlt1()[]\u202f·"), frozenset("mwMW%@—…")
PADDING = 7


class Part(NamedTuple):
    """A text on a colour."""

    text: str
    colour: str
    at: int  # from the left, in pixels
    wide: int

    @property
    def text_wide(self) -> int:
        """The width of the text."""
        return self.wide - 2 * PADDING


async def page(ask: Ask) -> Page:
    """The badge; of a relay that is not known, that it is not."""
    url: str = ask.query.relay
    found = await relays.standing(ask.pool, url, DAYS, int(time.time()))
    if found is None:
        state, told = "unknown", "not known here"
    else:
        state = found.state
        said = [state if state in COLOURS else "not checked"]
        if found.uptime is not None:
            said.append(f"{words.share(found.uptime)} of {DAYS} days")
        said.append(f"{words.short(found.holds)} event{'' if found.holds == 1 else 's'}")
        told = " · ".join(said)
    left = _part(words.clean(words.host(url), MOST_NAME), "#2c3038", 0)
    right = _part(told, COLOURS.get(state, OTHER), left.wide)
    return Page(
        "badge.svg",
        {
            "parts": (left, right),
            "wide": left.wide + right.wide,
            "title": f"{words.host(url)}: {told}",
        },
        max_age_s=FRESH_S,
        kind=SVG,
    )


def _part(text: str, colour: str, at: int) -> Part:
    wide = sum(3.9 if each in NARROW else 9.6 if each in WIDE else 6.6 for each in text)
    return Part(text, colour, at, round(wide) + 2 * PADDING)
