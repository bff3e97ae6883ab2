"""The page of a relay: whether it is well, what it says, what was copied and who else holds it."""

import calendar
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from bigbrotr.core.pool import Pool
from bigbrotr.models.query import Query as EventFilter
from bigbrotr.reads import coverage, measurements, operators, relays, samples, witnesses
from bigbrotr.reads.compliance import compliance_of
from bigbrotr.reads.policy import UnsettledError
from bigbrotr.reads.relays import BEGINNING, Incident
from bigbrotr.reads.statistics import DAY_S
from bigbrotr.serve.api import RelayQuery
from bigbrotr.serve.pages import charts, kinds, words
from bigbrotr.serve.pages.page import Ask, Page, Redirect
from bigbrotr.serve.readers import events_of
from bigbrotr.view.words import day as date_of
from bigbrotr.view.words import moment as time_of

__all__ = ["RelayQuery", "page"]

DAYS = 90
MOST_RTTS = 2000  # checks that are drawn
POINTS = 120  # of the chart of round trips
MOST_GAPS = 200  # that are drawn and listed
WITNESSES = 12  # that are listed, the most reliable ones
OVERLAP = 12  # other relays
ONLY_HERE = 8  # events that are listed
KINDS_EXAMINED, OVERLAP_EXAMINED = 3_000, 1_000  # events: a page does not wait for more


class Said(dict[str, Any]):
    """What a relay says of itself: None for what it does not say."""

    def __missing__(self, name: str) -> None:
        return None


async def page(ask: Ask) -> Page | Redirect | None:
    """The page; with .json at the end, where programs find the same."""
    url: str = ask.query.relay
    if url.endswith(".json"):
        rest = ask.path.removeprefix("/relays/").removesuffix(".json").replace("/", "%2F")
        return Redirect(f"/api/v1/relays/{rest}")
    pool, now = ask.pool, int(time.time())
    report = await relays.report(pool, url, days=DAYS)
    if report is None:
        candidate = await relays.candidate(pool, url)
        if candidate is None:
            return None
        return Page("candidate.html", {"candidate": candidate})
    rtts = await measurements.list_rtts(pool, url, None, MOST_RTTS, since=None, until=None) or []
    gaps = await coverage.list_gaps(pool, url, None, MOST_GAPS, reasons=None) or []
    documents = {
        name: Said(each.data)
        for name, each in report.documents.items()
        if isinstance(each.data, dict)
    }
    days = await days_up(pool, url, report.uptime.incidents, now)
    return Page(
        "relay.html",
        {
            "url": url,
            "badge_page": f"{ask.site}{words.path_of(url, 'relay')}",
            "badge_alt": "status of this relay",
            "is_public": ask.settings.public_url is not None,
            "report": report,
            "progress": report.progress,
            "check": report.check,
            "days": DAYS,
            "uptime": charts.strip(_uptime_bar(days)),
            "rtts": _round_trips(rtts),
            "coverage": charts.strip(_timeline(report, gaps, now)),
            "years": _years(now),
            "gaps": gaps,
            "nip11": documents.get("nip11", Said()),
            "nip11_at": report.documents["nip11"].snapshot_at if "nip11" in documents else None,
            "geo": documents.get("nip66_geo", Said()),
            "net": documents.get("nip66_net", Said()),
            "tls": documents.get("nip66_ssl", Said()),
            "raw": {
                name: msgspec.json.format(msgspec.json.encode(data)).decode()
                for name, data in documents.items()
            },
            "claims": await measurements.claims(pool, url),
            "kinds": await _kinds(ask, url),
            "overlap": await samples.relay_overlap(pool, url, examined=OVERLAP_EXAMINED),
            "overlap_shown": OVERLAP,
            "shown_witnesses": WITNESSES,
            "alone": report.alone,
            "compliance": await compliance_of(pool, url),
            "only_here": await _only_here(ask, url) if report.alone else [],
            "witnesses": await witnesses.relay_witnesses(pool, url, now),
            "operator": await operators.relay_operator(pool, url),
        },
    )


class Day(NamedTuple):
    """How a relay was on a day."""

    since: int  # its beginning, in Unix seconds
    kind: str  # good, part, bad or none
    told: str


async def days_up(pool: Pool, url: str, incidents: Sequence[Incident], now: int) -> list[Day]:
    """How a relay was on the last `DAYS` days, the oldest first: up, down, or partly."""
    begun = await measurements.first_check(pool, url, now - DAYS * DAY_S)
    days = []
    today = now // DAY_S
    for back in reversed(range(DAYS)):
        day = today - back
        since, until = day * DAY_S, min((day + 1) * DAY_S, now)
        down = sum(
            max(0, min(each.until or now, until) - max(each.since, since)) for each in incidents
        )
        if begun is None or until <= begun or until <= since:
            kind, told = "none", "not checked"
        elif down == 0:
            kind, told = "good", "up"
        elif down >= 0.98 * (until - max(since, begun)):
            kind, told = "bad", "down"
        else:
            kind, told = "part", f"down for {words.duration(down)}"
        days.append(Day(since, kind, told))
    return days


def _uptime_bar(days: Sequence[Day]) -> list[charts.Part]:
    """A part a day."""
    return [
        charts.Part(
            (place + 0.06) / DAYS,
            (place + 0.94) / DAYS,
            day.kind,
            f"{date_of(day.since)}: {day.told}",
        )
        for place, day in enumerate(days)
    ]


def _round_trips(rtts: Sequence[measurements.Rtt]) -> charts.Chart:
    """Medians of the times to open it and to read from it, over the checks that are known."""
    found = sorted(rtts, key=lambda each: each.checked_at)
    per = max(1, -(-len(found) // POINTS))
    groups = [found[start : start + per] for start in range(0, len(found), per)]
    labels = [time_of(group[0].checked_at)[:16] for group in groups]
    return charts.lines(
        labels,
        [
            charts.Series("to open", [_median(each.open_ms for each in group) for group in groups]),
            charts.Series("to read", [_median(each.read_ms for each in group) for group in groups]),
        ],
        unit=" ms",
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def _timeline(
    report: relays.RelayReport, gaps: Sequence[coverage.Gap], now: int
) -> list[charts.Part]:
    """What of its past is proven, and where the gaps are."""
    whole = now - BEGINNING

    def at(seconds: int | None, default: float) -> float:
        return default if seconds is None else min(1.0, max(0.0, (seconds - BEGINNING) / whole))

    def title(since: int | None, until: int | None) -> str:
        first = "the beginning" if since is None or since <= 0 else date_of(since)
        last = "now" if until is None or until >= now else date_of(until)
        return f"{first} to {last}"

    parts = [
        charts.Part(at(since, 0.0), at(until, 1.0), "good", f"proven: {title(since, until)}")
        for since, until in report.progress.proven
    ]
    parts += [
        charts.Part(
            at(gap.since, 0.0),
            at(gap.until, 1.0),
            "bad",
            f"gap ({gap.reason}): {title(gap.since, gap.until)}",
        )
        for gap in gaps
    ]
    return [part for part in parts if part.until > 0.0]


def _years(now: int) -> list[tuple[int, float]]:
    """The beginnings of years on the same line, as percentages."""
    whole = now - BEGINNING
    return [
        (year, round(100 * (start - BEGINNING) / whole, 2))
        for year in range(2021, time.gmtime(now).tm_year + 1)
        if (start := calendar.timegm((year, 1, 1, 0, 0, 0)))
    ]


async def _only_here(ask: Ask, url: str) -> list[kinds.Shown]:
    """The newest events that it alone is known to hold, as far as they may be shown."""
    ids = await samples.held_alone(ask.pool, url, ONLY_HERE)
    if not ids:
        return []
    try:
        found = await events_of(ask.pool).page(EventFilter(ids=frozenset(ids)), ONLY_HERE)
    except UnsettledError:
        return []
    return [kinds.shown(event) for event in found.events]


async def _kinds(ask: Ask, url: str) -> dict[str, Any] | None:
    found = await samples.relay_kinds(ask.pool, url, examined=KINDS_EXAMINED)
    if found is None:
        return None
    ordered = sorted(found.kinds, key=lambda each: -each.held)
    return {
        "sample": found.sample,
        "held": found.held,
        "rows": [(kinds.name(each.kind), each) for each in ordered[:12]],
    }
