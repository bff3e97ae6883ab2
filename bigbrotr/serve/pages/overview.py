"""The overview: what is in the archive, how it grows, and what is new."""

import time
from collections import Counter
from typing import Any

from bigbrotr.models.query import Query
from bigbrotr.reads import relay_list, relays, statistics, status
from bigbrotr.reads.policy import UnsettledError
from bigbrotr.reads.statistics import DAY_S, STATISTICS
from bigbrotr.serve.pages import charts, kinds
from bigbrotr.serve.pages.page import Ask, Page
from bigbrotr.serve.pages.relay_table import map_of
from bigbrotr.serve.readers import events_of, relays_of

DAYS = 90
REPLICATION_DAYS = 7
NEWEST = 8
MOST_KINDS = 5  # that have a colour of their own


async def page(ask: Ask) -> Page:
    """The page."""
    pool, now = ask.pool, int(time.time())
    found = await status.overview(pool)
    try:
        events = (await events_of(pool).page(Query(), NEWEST, budget_s=0.5)).events
    except UnsettledError:
        events = None
    newest = await relays_of(pool).page(relay_list.RelayFilter(), "discovered_at", None, NEWEST)
    return Page(
        "overview.html",
        {
            "found": found,
            "fresh": await status.freshness(pool),
            "map": await map_of(pool),
            "by_kind": await _by_kind(ask, now),
            "growth": await _growth(ask, now),
            "networks": [row for _, row in await statistics.figures(pool, STATISTICS["access"])],
            "replication": await _replication(ask, now),
            "events": None if events is None else [kinds.shown(event) for event in events],
            "relays": [row for _, row in newest],
            "alone": await relays.alone(pool),
        },
    )


async def _of_days(ask: Ask, name: str, days: int, now: int) -> list[Any]:
    rows = await statistics.figures(
        ask.pool, STATISTICS[name], since=now - days * DAY_S, until=now + DAY_S
    )
    return [row for _, row in rows]


def last_days(now: int, days: int) -> list[str]:
    """The dates of so many days, up to today, of UTC."""
    return [
        time.strftime("%Y-%m-%d", time.gmtime(now - back * DAY_S)) for back in reversed(range(days))
    ]


async def _by_kind(ask: Ask, now: int) -> charts.Chart:
    rows = await _of_days(ask, "kinds", DAYS, now)
    total: Counter[int] = Counter()
    for row in rows:
        total[row.kind] += row.events
    shown = [kind for kind, _ in total.most_common(MOST_KINDS)]
    labels = last_days(now, DAYS)
    values: dict[tuple[str, int | None], float] = {}
    for row in rows:
        key = (row.day, row.kind if row.kind in shown else None)
        values[key] = values.get(key, 0.0) + row.events
    series = [
        charts.Series(kinds.name(kind), [values.get((day, kind)) for day in labels])
        for kind in shown
    ]
    if len(total) > len(shown):
        series.append(charts.Series("other kinds", [values.get((day, None)) for day in labels]))
    return charts.bars(labels, series)


async def first_seen(ask: Ask, now: int) -> list[float | None]:
    """How many events were first seen on each of the last `DAYS` days; None: it is not counted."""
    rows = {row.day: row.events for row in await _of_days(ask, "growth", DAYS, now)}
    return [rows.get(day) for day in last_days(now, DAYS)]


async def _growth(ask: Ask, now: int) -> charts.Chart:
    series = charts.Series("first seen", await first_seen(ask, now))
    return charts.bars(last_days(now, DAYS), [series])


async def _replication(ask: Ask, now: int) -> charts.Chart:
    """How many events so many relays hold, of the last days."""
    held: Counter[int] = Counter()
    for row in await _of_days(ask, "replication", REPLICATION_DAYS, now):
        held[row.relays] += row.events
    most = max(held, default=0)
    edges = [*range(min(most, 10) + 1)]
    labels = [str(edge) for edge in edges]
    values: list[float | None] = [held[edge] for edge in edges]
    low = 11
    while low <= most:
        high = low * 2 - 2 if low == 11 else low * 2 - 1
        labels.append(f"{low} to {high}")
        values.append(sum(held[number] for number in range(low, high + 1)))
        low = high + 1
    return charts.bars(labels, [charts.Series("events", values)])
