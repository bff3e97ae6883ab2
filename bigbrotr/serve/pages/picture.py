"""Pictures of pages, for those who show links to them: drawn here, as PNG."""

import asyncio
import io
import time
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from bigbrotr.models.query import Query as EventFilter
from bigbrotr.reads import authors, relays, status
from bigbrotr.reads.where import where
from bigbrotr.serve.pages import kinds, overview, relay, words
from bigbrotr.serve.pages.page import Ask, Drawn
from bigbrotr.serve.readers import events_of
from bigbrotr.view.words import day

PNG = "image/png"
FRESH_S = 600  # for which a picture may be kept
WIDE, TALL = 1200, 630  # as those who show links expect it
MARGIN = 72
LEFT, RIGHT, BOTTOM = MARGIN, WIDE - MARGIN, TALL - MARGIN
CHART = 96  # how high bars are, at most
MOST_TITLE = 200  # characters that are looked at
# As in the style sheet, where it is light.
PAPER, INK, SOFT, LINE, ACCENT = "#fbfaf8", "#1c1e22", "#5d6068", "#e4e1db", "#4a3aa7"
COLOURS = {"good": "#1f7a4d", "part": "#b07d10", "bad": "#b3362b", "none": "#dedbd5"}
STATES = {"up": "good", "down": "bad"}


class Bar(NamedTuple):
    """One of many that stand beside each other: how high (0 to 1), in which colour."""

    height: float
    colour: str


class Picture(NamedTuple):
    """What a picture says."""

    over: str  # a line above the title
    title: str
    under: str  # a line below it
    facts: Sequence[tuple[str, str]]  # up to four names, each with a figure
    bars: Sequence[Bar] = ()
    below: str = ""  # what the bars are
    dot: str | None = None  # a colour before the line above the title


async def of_archive(ask: Ask) -> Drawn:
    """The picture of the archive."""
    found = await status.overview(ask.pool)
    days = [each or 0 for each in await overview.first_seen(ask, int(time.time()))]
    most = max(days)
    return await _drawn(
        Picture(
            "An archive of the Nostr network",
            ask.settings.relay.name,
            "It knows which relay holds which event.",
            [
                ("events", words.short(found.events)),
                ("relays", words.short(found.relays)),
                ("of them up", words.short(found.up)),
                ("times seen", words.short(found.pairs)),
            ],
            [Bar(each / most, ACCENT) for each in days] if most else (),
            f"events first seen, a bar a day, of {overview.DAYS} days",
        )
    )


async def of_relay(ask: Ask) -> Drawn | None:
    """The picture of a relay."""
    url: str = ask.query.relay
    now = int(time.time())
    report = await relays.report(ask.pool, url, days=relay.DAYS)
    if report is None:
        return None
    state = "unknown" if report.check is None else report.check.state
    days = await relay.days_up(ask.pool, url, report.uptime.incidents, now)
    return await _drawn(
        Picture(
            {"up": "This relay is up", "down": "This relay is down"}.get(
                state, "A relay that has not been checked"
            ),
            words.host(url),
            f"known here since {day(report.progress.discovered_at)}",
            [
                (f"up, of {relay.DAYS} days", words.share(report.uptime.uptime)),
                ("events held", words.short(report.progress.holds)),
                ("held by it alone", words.short(report.alone)),
                ("gaps", words.short(report.progress.gaps)),
            ],
            [Bar(0.6 if each.kind == "none" else 1.0, COLOURS[each.kind]) for each in days],
            f"how it was, a bar a day, of {relay.DAYS} days",
            COLOURS[STATES.get(state, "none")],
        )
    )


async def of_event(ask: Ask) -> Drawn | None:
    """The picture of an event."""
    event_id: str = ask.query.event
    found = await events_of(ask.pool).page(EventFilter(ids=frozenset([bytes.fromhex(event_id)])), 1)
    places = await where(ask.pool, bytes.fromhex(event_id))
    if not found.events:
        return None
    shown = kinds.shown(found.events[0])
    return await _drawn(
        Picture(
            f"{shown.kind_name[0].upper()}{shown.kind_name[1:]} of {day(shown.created_at)}",
            shown.text or words.brief(event_id),
            f"by {words.brief(words.npub(shown.pubkey))}",
            [
                ("relays hold it", words.number(len(places.present))),
                ("proven not to", words.number(len(places.absent))),
                ("nobody knows", words.number(len(places.unknown))),
            ],
        )
    )


async def of_person(ask: Ask) -> Drawn | None:
    """The picture of a person."""
    pubkey: str = ask.query.author
    key = bytes.fromhex(pubkey)
    summary = await authors.author_summary(ask.pool, key)
    if not summary.events:
        return None
    about = await events_of(ask.pool).page(
        EventFilter(authors=frozenset([key]), kinds=frozenset([0])), 1
    )
    fields = kinds.fields_in(about.events[0].content or "") if about.events else {}
    called = str(fields.get("display_name") or fields.get("name") or "")
    npub = words.brief(words.npub(pubkey))
    holders = summary.holders
    return await _drawn(
        Picture(
            "A person on Nostr",
            _plain(called) or npub,
            npub,
            [
                ("archived events", words.short(summary.events)),
                ("first", day(summary.first_at) if summary.first_at is not None else "-"),
                ("relays hold them", words.short(len(holders.relays))),
                (
                    "at one relay alone",
                    words.share(holders.alone / holders.sample, 0) if holders.sample else "-",
                ),
            ],
        )
    )


async def _drawn(picture: Picture) -> Drawn:
    return Drawn(await asyncio.to_thread(draw, picture), PNG, FRESH_S)


def draw(picture: Picture) -> bytes:
    """The picture as PNG. What its font cannot show is left out."""
    image = Image.new("RGB", (WIDE, TALL), PAPER)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, WIDE, 10), fill=ACCENT)
    x = LEFT
    if picture.dot is not None:
        _dot(image, LEFT, 80, 20, picture.dot)
        x += 36
    _write(pen, (x, 72), picture.over, 32, SOFT, RIGHT - 240 - x)
    wide = pen.textlength("bigbrotr", _font(32))
    _write(pen, (round(RIGHT - wide), 72), "bigbrotr", 32, ACCENT, 240, is_bold=True)
    y = _title(pen, _plain(picture.title) or "?", 136)
    _write(pen, (LEFT, y), picture.under, 30, SOFT, RIGHT - LEFT)
    if picture.bars:
        _bars(pen, picture.bars, picture.below)
    facts = picture.facts
    step = (RIGHT - LEFT) // max(1, len(facts))
    top = BOTTOM - (CHART + 162 if picture.bars else 84)
    for place, (name, figure) in enumerate(facts):
        at = LEFT + place * step
        _write(pen, (at, top), figure, 54, INK, step - 16, is_bold=True)
        _write(pen, (at, top + 62), name, 25, SOFT, step - 16)
    body = io.BytesIO()
    image.quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(body, "PNG")
    return body.getvalue()


def _title(pen: ImageDraw.ImageDraw, text: str, top: int) -> int:
    """Writes a title on one line if it fits, or smaller on two; returns where the next line is."""
    for size in (84, 72, 60):
        if pen.textlength(text, _font(size)) <= RIGHT - LEFT:
            _write(pen, (LEFT, top), text, size, INK, RIGHT - LEFT, is_bold=True)
            return top + round(size * 1.35)
    fits = _fitting(pen, text, _font(50), RIGHT - LEFT)
    cut = text.rfind(" ", 0, fits + 1)
    cut = cut if cut > 0 and fits < len(text) else fits
    first, rest = text[:cut], text[cut:].strip()
    _write(pen, (LEFT, top), first, 50, INK, RIGHT - LEFT, is_bold=True)
    _write(pen, (LEFT, top + 62), rest, 50, INK, RIGHT - LEFT, is_bold=True)
    return top + 138


def _bars(pen: ImageDraw.ImageDraw, bars: Sequence[Bar], below: str) -> None:
    floor = BOTTOM - 42
    step = (RIGHT - LEFT) / len(bars)
    for place, bar in enumerate(bars):
        left = LEFT + place * step
        high = max(3, round(bar.height * CHART))
        pen.rectangle((left, floor - high, left + step * 0.78, floor), fill=bar.colour)
    _write(pen, (LEFT, floor + 14), below, 25, SOFT, RIGHT - LEFT)


def _dot(image: Image.Image, x: int, y: int, size: int, colour: str) -> None:
    """A circle whose edge is smooth."""
    mask = Image.new("L", (size * 4, size * 4))
    ImageDraw.Draw(mask).ellipse((0, 0, size * 4 - 1, size * 4 - 1), fill=255)
    image.paste(colour, (x, y), mask.resize((size, size), Image.Resampling.LANCZOS))


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: str,
    wide: float,
    *,
    is_bold: bool = False,
) -> None:
    """Writes a line, cut where it would be too long."""
    font = _font(size)
    text = _plain(text)
    if pen.textlength(text, font) > wide:
        text = text[: _fitting(pen, text, font, wide - pen.textlength("...", font))]
        text = f"{text.rstrip()}..."
    pen.text(at, text, colour, font, stroke_width=size / 60 if is_bold else 0)


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, wide: float) -> int:
    """How many letters of a text fit, found in a few looks: each takes as long as a letter does to
    be drawn, for each of them."""
    return max(
        0,
        bisect_right(range(len(text) + 1), wide, key=lambda n: pen.textlength(text[:n], font)) - 1,
    )


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def _plain(text: str) -> str:
    """A text in the letters that the font has; "" where too little of it would be left."""
    known = " ".join(text[:MOST_TITLE].split())
    spelled = unicodedata.normalize("NFKD", known)
    spelled = "".join(each for each in spelled if not unicodedata.combining(each))
    shown = " ".join("".join(each for each in spelled if " " <= each <= "~").split())
    return shown if 2 * len(shown) >= len(known) else ""
