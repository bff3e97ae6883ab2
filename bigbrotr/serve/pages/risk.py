"""The page of what is at risk: relays that alone hold events, the most endangered first."""

from urllib.parse import urlencode

from bigbrotr.serve.api import AtRiskQuery
from bigbrotr.serve.pages.page import Ask, Page
from bigbrotr.serve.readers import at_risk_of
from bigbrotr.serve.resource import make_cursor, read_cursor

__all__ = ["RiskQuery", "page"]

ROWS = 100
RiskQuery = AtRiskQuery
KEY = tuple[int, int, str]


async def page(ask: Ask) -> Page:
    """The page."""
    query: AtRiskQuery = ask.query
    reads = at_risk_of(ask.pool)
    after = None if query.cursor is None else read_cursor(query.cursor, query, KEY)
    limit = query.limit or ROWS
    rows = await reads.page(
        query.sort,
        after,
        limit + 1,
        networks=query.network,
        states=query.state,
        stages=query.stage,
        kinds=query.kind,
    )
    given: list[tuple[str, object]] = [("sort", query.sort)] if query.sort != "risk" else []
    given += [("kind", kind) for kind in query.kind or ()]
    following = make_cursor(query, rows[limit - 1][0]) if len(rows) > limit else None
    return Page(
        "risk.html",
        {
            "rows": [row for _, row in rows[:limit]],
            "query": query,
            "summary": await reads.summary(),
            "next": None if following is None else urlencode([*given, ("cursor", following)]),
        },
        max_age_s=60,
    )
