"""Reads new events as they are stored, in the order of transactions, without missing one."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from bigbrotr.core.pool import Pool

ROWS = 100  # pages that are read at once


class Position(Struct, frozen=True, order=True):
    """A place in the log: behind everything that it compares larger than."""

    xid: int
    id: int


class Arrival(Struct, frozen=True):
    """New events that one page brought."""

    position: Position
    noted_at: int  # Unix seconds
    created_ats: Sequence[int]
    ids: Sequence[bytes]


class Arrivals:
    """Follows the log of new events from a position on.

    A row is read once its transaction and all older ones have ended: a long transaction keeps new
    rows back, and none is passed over. Reading changes nothing and keeps nothing open; who wants to
    go on later keeps `position`. With `judged`, a row is read once it is known which views hide
    its events, see the service policy; where that has never run, that is never waited for.
    """

    def __init__(self, pool: Pool, position: Position, *, judged: bool = False) -> None:
        self.pool = pool
        self.position = position
        self.judged = judged
        self.is_missing = False  # rows were pruned before they were read: look at the whole archive

    @classmethod
    async def from_now(cls, pool: Pool, *, judged: bool = False) -> "Arrivals":
        """What is stored from now on; some of what was stored just now may come, too."""
        row = await pool.fetchrow("SELECT * FROM bigbrotr.arrivals_end()")
        assert row is not None
        return cls(pool, Position(*row), judged=judged)

    async def read(self, limit: int = ROWS) -> list[Arrival]:
        """The next pages, at most `limit`; none: there is nothing new."""
        end = await self._judged_end() if self.judged else None
        rows = await self.pool.fetch(
            "SELECT * FROM bigbrotr.read_arrivals(p_xid => $1, p_id => $2, p_limit => $3)",
            self.position.xid,
            self.position.id,
            limit,
        )
        found = [Arrival(Position(*list(row)[:2]), *list(row)[2:5]) for row in rows]
        if end is not None:
            found = [arrival for arrival in found if arrival.position <= end]
        if found:
            self.is_missing = self.is_missing or rows[0]["is_missing"]
            self.position = found[-1].position
        elif not rows:
            await self._look_for_another_server()
        return found

    async def _judged_end(self) -> Position | None:
        """The last row whose events were judged; None: nobody judges here."""
        row = await self.pool.fetchrow("SELECT * FROM bigbrotr.policy_position()")
        assert row is not None
        return None if row["xid"] is None else Position(row["xid"], row["id"])

    async def _look_for_another_server(self) -> None:
        """Gives a position up that is ahead: after a restore, transactions may be counted anew."""
        row = await self.pool.fetchrow("SELECT * FROM bigbrotr.arrivals_end()")
        assert row is not None
        if (end := Position(*row)).xid < self.position.xid:
            self.position, self.is_missing = end, True

    async def all(self) -> AsyncIterator[Arrival]:
        """All there is by now."""
        while found := await self.read():
            for arrival in found:
                yield arrival


class Horizon(NamedTuple):
    """Numbers of transactions: all below `oldest` are over; none from `next` on has begun."""

    oldest: int
    next: int


async def horizon(pool: Pool) -> Horizon:
    """How far transactions are now."""
    row = await pool.fetchrow(
        "SELECT pg_catalog.pg_snapshot_xmin(s)::text::bigint,"
        " pg_catalog.pg_snapshot_xmax(s)::text::bigint FROM pg_catalog.pg_current_snapshot() AS s"
    )
    assert row is not None
    return Horizon(*row)
