"""The table of relays, and where in the world they are."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from bigbrotr.core.pool import Pool
from bigbrotr.models.relay import Network
from bigbrotr.reads import measurements, relay_list
from bigbrotr.reads.relays import BEGINNING
from bigbrotr.serve.api import RelaysQuery
from bigbrotr.serve.pages import world
from bigbrotr.serve.pages.page import Ask, Page
from bigbrotr.serve.readers import relays_of
from bigbrotr.serve.resource import make_cursor, read_cursor

__all__ = ["RelaysQuery", "map_of", "page", "world_map"]

ROWS = 100
GRID = 4.0  # of the map: what is nearer than that is one dot
SORTS = {
    "url": "URL",
    "holds": "holds most",
    "alone": "holds most alone",
    "coverage": "proven best",
    "brought": "brought most",
    "uptime": "up most of the time",
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
            "beginning": BEGINNING,
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


class Dot(NamedTuple):
    """Relays of one place on the map."""

    x: float
    y: float
    r: float
    state: str  # up, down or part: of some
    relays: Sequence[measurements.Place]


class Map(NamedTuple):
    """The map, and who is on it."""

    dots: Sequence[Dot]
    places: Sequence[measurements.Place]
    wide: float
    tall: float


async def map_of(pool: Pool) -> Map:
    """Where relays are, by what their addresses say; those that are near each other are one dot."""
    places = await measurements.places(pool)
    near: dict[tuple[int, int], list[measurements.Place]] = {}
    for each in places:
        x, y = world.place(each.latitude, each.longitude)
        if 0 <= y <= world.TALL:
            near.setdefault((round(x / GRID), round(y / GRID)), []).append(each)
    dots = []
    for (x, y), some in sorted(near.items(), key=lambda dot: -len(dot[1])):
        up = sum(each.state == "up" for each in some)
        state = "up" if up == len(some) else "part" if up else "down"
        size = 2.2 + 1.1 * min(len(some), 200) ** 0.5
        dots.append(Dot(x * GRID, y * GRID, round(size, 1), state, some))
    return Map(dots, places, world.WIDE, world.TALL)


async def world_map(ask: Ask) -> Page:
    """Relays on the map, and by country."""
    found = await map_of(ask.pool)
    countries = Counter(each.country or "" for each in found.places)
    return Page(
        "map.html",
        {
            "map": found,
            "countries": sorted(countries.items(), key=lambda item: (-item[1], item[0])),
        },
        max_age_s=60,
    )
