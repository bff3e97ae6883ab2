"""Estimates how much of a walk through time is done, by what PostgreSQL knows of its partitions."""

from collections.abc import Sequence
from typing import Self

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.query import Query
from bigbrotr.reads.plan import Partition, Piece, expected, partitions_of


class Estimate(Struct, frozen=True):
    """About how many events match a query, and where they lie."""

    query: Query
    partitions: Sequence[Partition]
    is_reversed: bool = False

    @classmethod
    async def of(cls, pool: Pool, query: Query, *, is_reversed: bool = False) -> Self:
        """Asks the statistics of PostgreSQL, which look at no event."""
        rows = await pool.fetch("SELECT * FROM bigbrotr.events_statistics()")
        return cls(
            query,
            [each for each in partitions_of(list(map(dict, rows))) if each.is_filled],
            is_reversed,
        )

    @property
    def events(self) -> float:
        """About how many events match."""
        pieces = self._pieces(self.query.since, self.query.until)
        return expected(pieces, self.query) if pieces else 0.0

    def share(self, at: int) -> float:
        """Which share of the walk is done when it is at some time (Unix seconds), 0 to 1."""
        whole = sum(each.rows for each in self._pieces(self.query.since, self.query.until))
        span = (at, self.query.until) if self.is_reversed else (self.query.since, at)
        return min(1.0, sum(each.rows for each in self._pieces(*span)) / whole) if whole else 1.0

    def _pieces(self, since: int, until: int) -> list[Piece]:
        return [
            Piece(part, max(since, part.since), min(until, part.until))
            for part in self.partitions
            if part.since <= until and part.until >= since
        ]
