"""The table of relays, and where in the world they are."""

from typing import Any
from urllib.parse import urlencode

from bigbrotr.models.relay import Network
from bigbrotr.reads import measurements, relay_list
from bigbrotr.serve.api import RelaysQuery
from bigbrotr.serve.pages import world
from bigbrotr.serve.pages.page import Ask, Page
from bigbrotr.serve.readers import at_risk_of, relays_of
from bigbrotr.serve.resource import make_cursor, read_cursor

__all__ = ["RelaysQuery", "page", "world_map"]

ROWS = 100
SORTS = {
    "url": "URL",
    "holds": "holds most",
    "brought": "brought most",
    "open_ms": "opens fastest",
    "discovered_at": "found last",
    "checked_at": "checked last",
}
KEY = tuple[float, str]


async def page(ask: Ask) -> Page:
    """The table: filtered and sorted by its address."""
    query: RelaysQuery = ask.query
    wanted = relay_list.RelayFilter(
        networks=query.network,
        states=query.state,
        stages=query.stage,
        country=query.country,
        software=query.software,
        nips=query.nip,
        text=query.text,
    )
    after = None if query.cursor is None else read_cursor(query.cursor, query, KEY)
    limit = query.limit or ROWS
    rows = await relays_of(ask.pool).page(wanted, query.sort, after, limit + 1)
    alone = {
        row.relay: row.alone for _, row in await at_risk_of(ask.pool).page("alone", None, 10**9)
    }
    following = make_cursor(query, rows[limit - 1][0]) if len(rows) > limit else None
    given = {
        name: value
        for name in ("network", "state", "country", "software", "nip", "text", "sort")
        if (value := _text(getattr(query, name))) and (name != "sort" or value != "url")
    }
    return Page(
        "relays.html",
        {
            "rows": [row for _, row in rows[:limit]],
            "alone": alone,
            "query": query,
            "given": given,
            "sorts": SORTS,
            "networks": [each.value for each in Network],
            "is_filtered": any(name != "sort" for name in given),
            "is_first": query.cursor is None,
            "next": None if following is None else urlencode(given | {"cursor": following}),
            "with_sort": {
                name: urlencode({**given, "sort": name})
                if name != "url"
                else urlencode({key: value for key, value in given.items() if key != "sort"})
                for name in SORTS
            },
        },
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


async def world_map(ask: Ask) -> Page:
    """Relays on the map, by what their addresses say."""
    places = await measurements.places(ask.pool)
    dots: dict[tuple[int, int], list[measurements.Place]] = {}
    for each in places:
        x, y = world.place(each.latitude, each.longitude)
        if 0 <= y <= world.TALL:
            dots.setdefault((round(x / 4), round(y / 4)), []).append(each)
    countries: dict[str, int] = {}
    for each in places:
        countries[each.country or ""] = countries.get(each.country or "", 0) + 1
    return Page(
        "map.html",
        {
            "dots": [
                {
                    "x": round(x * 4.0, 1),
                    "y": round(y * 4.0, 1),
                    "r": round(2.2 + 1.1 * len(some) ** 0.5, 1),
                    "up": sum(each.state == "up" for each in some),
                    "relays": some,
                }
                for (x, y), some in sorted(dots.items(), key=lambda dot: -len(dot[1]))
            ],
            "places": places,
            "countries": sorted(countries.items(), key=lambda item: (-item[1], item[0])),
            "wide": world.WIDE,
            "tall": world.TALL,
        },
        max_age_s=60,
    )
