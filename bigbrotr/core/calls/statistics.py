"""Statistics: days that are counted anew, and the sketches of their authors."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls, call_of, value_of
from bigbrotr.core.pool import Connection

MAX_DAYS = 10_000  # that are asked for at once


class DayAuthors(NamedTuple):
    """The authors of a day, and whether they have a profile and a follow list."""

    pubkeys: Sequence[bytes]
    with_profile: Sequence[bool]
    with_follows: Sequence[bool]


class Window(NamedTuple):
    """A day, and the sketches of those of the 30 days up to it that have some."""

    day: int
    days: Sequence[int]
    sketches: Sequence[Sequence[bytes]]  # of each day: all, with a profile, with a follow list


class StatisticsCalls(Calls):
    """Figures by day. A day is a number of days since 1970."""

    async def days_due(self, made_before: int, now: int, limit: int = MAX_DAYS) -> list[int]:
        """The days that wait to be counted and were not after `made_before`, newest first."""
        rows = await self._rows("days_due", p_made_before=made_before, p_now=now, p_limit=limit)
        return [row[0] for row in rows]

    async def count_day(
        self, day: int, now: int, sketch: Callable[[DayAuthors], Awaitable[Sequence[bytes]]]
    ) -> None:
        """Counts a day anew, in one transaction; `sketch` makes the sketches of its authors."""

        async def work(connection: Connection) -> None:
            query = call_of("count_day", "p_day", "p_now")
            row = await connection.fetchrow(query, day, now, timeout=MAINTENANCE_S)
            assert row is not None
            authors = DayAuthors(*(column or () for column in row))
            await value_of(connection, "keep_sketches", p_day=day, p_sketches=await sketch(authors))

        await self._transact(work)

    async def count_checks(self, now: int) -> int:
        """Counts what the checks of the days that are not over came to; returns how many days."""
        counted: int = await self._value("count_checks", p_now=now, timeout=MAINTENANCE_S)
        return counted

    async def note_deleted_relays(self) -> int:
        """Has the days counted anew that speak of relays which are gone; returns how many."""
        noted: int = await self._value("note_deleted_relays")
        return noted

    async def prune_arrivals(self, before: int) -> int:
        """Deletes what the log of new events noted before `before`; returns how many rows."""
        gone: int = await self._value("prune_arrivals", p_before=before, timeout=MAINTENANCE_S)
        return gone

    async def thin_dirty_days(self) -> int:
        """Leaves one note a day in the queue; returns how many have gone."""
        gone: int = await self._value("thin_dirty_days")
        return gone

    async def windows_due(self, limit: int) -> list[Window]:
        """Days whose windows are to be estimated again, newest first."""
        return [Window(*row) for row in await self._rows("windows_due", p_limit=limit)]

    async def keep_windows(self, day: int, week: Sequence[int], month: Sequence[int]) -> None:
        """Keeps the estimates of the 7 and the 30 days up to a day."""
        await self._value("keep_windows", p_day=day, p_7_days=week, p_30_days=month)
