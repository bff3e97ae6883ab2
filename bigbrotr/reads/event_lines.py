"""Reads the archived events that match a query as they are sent: lines of JSON."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from bigbrotr.models.query import Position, Query
from bigbrotr.reads.events import LAST_ID, EventReads
from bigbrotr.reads.plan import Piece, Plan, Way, choose


class LinesPage(NamedTuple):
    """Some events of an answer as JSON objects, one a line (UTF-8, no newline at the end), and
    where the next page begins; None at the end. A page may be short, as an `EventPage` may."""

    lines: bytes
    number: int
    next: Position | None


class Found(NamedTuple):
    """What looks have brought so far, and the last of it."""

    parts: list[bytes]
    number: int
    after: Position | None
    is_whole: bool  # it is the page

    @property
    def bytes(self) -> int:
        """How many there are."""
        return sum(map(len, self.parts))

    def with_more(self, row: Any) -> "Found":
        """The same and what another look has brought."""
        if not row["number"]:
            return self
        last = Position(row["last_at"], row["last_id"])
        return Found([*self.parts, row["lines"]], self.number + row["number"], last, is_whole=False)


class EventLines(EventReads):
    """Finds events as `EventReads` does; where no tags are asked for, PostgreSQL makes the lines
    of what it finds."""

    async def lines(
        self,
        query: Query,
        limit: int,
        after: Position | None = None,
        *,
        budget_s: float,
        most_bytes: int,
    ) -> LinesPage:
        """Up to `limit` events that match; see `page` of `EventReads` for the rest.

        Raises:
            NotKeptError: the query asks for tags, and the archive keeps none.
            NotSearchedError: it asks for words, and there is no index of them.
        """
        query = await self._checked(query)
        if query.is_empty or limit < 1:
            return LinesPage(b"", 0, None)
        deadline = time.monotonic() + budget_s
        found = Found([], 0, after, is_whole=False)
        if query.ids is None and not query.tags and query.search is None:
            found = await self._look_through(query, limit, after, deadline, most_bytes)
            if found.is_whole or found.number == limit:
                return LinesPage(b"\n".join(found.parts), found.number, found.after)
        rest = await self.page(
            query,
            limit - found.number,
            found.after,
            budget_s=max(0.0, deadline - time.monotonic()),
            most_bytes=max(1, most_bytes - found.bytes),
        )
        parts = found.parts + [event.to_json() for event in rest.events]
        return LinesPage(b"\n".join(parts), found.number + len(rest.events), rest.next)

    async def _look_through(
        self, query: Query, limit: int, after: Position | None, deadline: float, most_bytes: int
    ) -> Found:
        """Looks into one piece after the other, as far as lines can be made there."""
        found = Found([], 0, after, is_whole=False)
        if after is not None:
            query = replace(query, until=min(query.until, after.created_at))
        pieces = await self._pieces(query)
        while pieces:
            plan = _plan(pieces, query, limit + 1 - found.number)
            run, pieces = plan.cut(pieces)
            (row,) = await self._call(
                "event_lines",
                p_way=plan.way.value,
                p_since=run[-1].since,
                p_until=run[0].until,
                p_after_at=None if after is None else after.created_at,
                p_after_id=None if after is None else after.id,
                p_kinds=None if query.kinds is None else sorted(query.kinds),
                p_pubkeys=None if query.authors is None else sorted(query.authors),
                p_limit=limit - found.number,
                p_examine=max(self._examined, limit + 1),
                p_most_bytes=most_bytes - found.bytes,
                **self._seen(),
            )
            if row["matches"] is None or row["is_raw"]:
                return found
            found = found.with_more(row)
            if row["matches"] > row["number"]:
                return found._replace(is_whole=True)
            # A walk that left some out may have ended before the piece does.
            if plan.way is Way.WALK:
                return found
            if pieces and time.monotonic() > deadline:
                return found._replace(after=Position(run[-1].since, LAST_ID), is_whole=True)
        return found._replace(after=None, is_whole=True)


def _plan(pieces: Sequence[Piece], query: Query, wanted: int) -> Plan:
    if query.kinds is not None or query.authors is not None:
        plan = choose(pieces, query, wanted)
        # A walk that leaves some out ends the lines; what is of one kind or author is in order too.
        for way, values, others in (
            (Way.KINDS, query.kinds, query.authors),
            (Way.PUBKEYS, query.authors, query.kinds),
        ):
            if plan.way is Way.WALK and others is None and len(values or ()) == 1:
                plan = plan._replace(way=way)
        return plan
    rows = 0.0  # there is no other way than a walk
    for number, piece in enumerate(pieces, 1):
        rows += piece.rows if piece.partition.is_filled else 0.0
        if rows > 1.5 * wanted:
            return Plan(Way.WALK, "", number, piece.since)
    return Plan(Way.WALK, "", len(pieces), pieces[-1].since)
