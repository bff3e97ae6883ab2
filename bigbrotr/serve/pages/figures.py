"""The pages of statistics: each with a chart, its table, and the SQL behind it."""

import csv
import io
import time
from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from bigbrotr.reads import statistics
from bigbrotr.reads.statistics import DAY_S, STATISTICS, Statistic
from bigbrotr.serve.api import RESOURCES
from bigbrotr.serve.pages import charts
from bigbrotr.serve.pages.overview import last_days
from bigbrotr.serve.pages.page import Ask, Page
from bigbrotr.serve.resource import Form, ListQuery, Many, Query

ROWS = 200
DAYS = 90
# What of a list by day is drawn: the column that parts it, and the one that is drawn.
DRAWN: dict[str, tuple[str | None, str]] = {
    "days": (None, "events"),
    "authors": ("group", "authors"),
    "kinds": ("kind", "events"),
    "top_relays": ("relays", "share"),
    "networks": ("network", "pairs"),
    "growth": (None, "events"),
    "checks": (None, "uptime"),
}
BARS = {"days", "kinds", "networks", "growth"}


class FiguresQuery(Query, frozen=True, kw_only=True):
    """Which figures."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]


async def index(ask: Ask) -> Page:
    """All lists of figures."""
    return Page(
        "statistics.html",
        {
            "by_day": [each for each in STATISTICS.values() if each.is_by_day],
            "others": [each for each in STATISTICS.values() if not each.is_by_day],
        },
        max_age_s=300,
    )


async def page(ask: Ask) -> Page | None:
    """One of them."""
    statistic = STATISTICS.get(ask.query.name)
    if statistic is None:
        return None
    now = int(time.time())
    rows = [row for _, row in await statistics.figures(ask.pool, statistic, None, ROWS + 1)]
    return Page(
        "figures.html",
        {
            "statistic": statistic,
            "columns": statistic.columns,
            "rows": rows[:ROWS],
            "is_cut": len(rows) > ROWS,
            "chart": await _chart(ask, statistic, now) if statistic.name in DRAWN else None,
            "drawn": DRAWN.get(statistic.name, (None, ""))[1],
            "days": DAYS,
            "view": f"bigbrotr.statistics_{statistic.name}",
        },
        max_age_s=60,
    )


async def _chart(ask: Ask, statistic: Statistic, now: int) -> charts.Chart:
    parted, drawn = DRAWN[statistic.name]
    found = await statistics.figures(
        ask.pool, statistic, since=now - DAYS * DAY_S, until=now + DAY_S
    )
    values: dict[str, dict[str, float]] = {}
    for _, row in found:
        name = drawn if parted is None else str(getattr(row, parted))
        value: Any = getattr(row, drawn)
        if value is not None:
            scaled = value * 100 if drawn in ("share", "uptime") else value
            values.setdefault(name, {})[row.day] = scaled
    labels = last_days(now, DAYS)
    ordered = sorted(values, key=lambda name: -sum(values[name].values()))[: charts.MOST_SERIES]
    series = [charts.Series(name, [values[name].get(day) for day in labels]) for name in ordered]
    draw = charts.bars if statistic.name in BARS else charts.lines
    return draw(labels, series, " %" if drawn in ("share", "uptime") else "")


def download(name: str) -> tuple[Many, ListQuery, None, Form] | None:
    """All rows of a list of figures, for spreadsheets; None: there is none of that name."""
    statistic = STATISTICS.get(name)
    if statistic is None:
        return None
    (resource,) = (each for each in RESOURCES if each.name == f"statistics_{name}")
    assert isinstance(resource, Many)

    def line(item: Any) -> bytes:
        return _csv([getattr(item, column) for column in statistic.columns])

    kind = "text/csv; charset=utf-8"
    form = Form(kind, line, _csv(statistic.columns), f"bigbrotr-{name}.csv")
    return resource, resource.query(), None, form  # type: ignore[return-value]


def _csv(values: Sequence[object]) -> bytes:
    # What begins like a formula is one to a spreadsheet: relays choose their own names.
    safe = [
        f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
        for value in values
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(safe)
    return text.getvalue().encode()
