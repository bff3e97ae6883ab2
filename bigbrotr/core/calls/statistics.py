"""Statistics: days that are counted anew, and the sketches of their authors."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import asyncpg

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls, call_of, rows_of, value_of
from bigbrotr.core.pool import Connection
from bigbrotr.models.event import decode_tags
from bigbrotr.models.policy import askers_of, facts_of

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


def asks_about(rows: Sequence[asyncpg.Record]) -> dict[str, list[Any]]:
    """The arguments of `asked_of_relays` for the rows of `deletable`: the events, and who might ask
    for the deletion of each."""
    askers, targets, asks_of = [], [], []
    for position, row in enumerate(rows, 1):
        tags = None if row["tags"] is None else decode_tags(row["tags"])
        facts = facts_of(row["pubkey"], row["created_at"], row["kind"], tags)
        for asker, target in askers_of(row["id"], row["pubkey"], facts):
            askers.append(asker)
            targets.append(target)
            asks_of.append(position)
    return {
        "p_created_ats": [row["created_at"] for row in rows],
        "p_ids": [row["id"] for row in rows],
        "p_askers": askers,
        "p_targets": targets,
        "p_asks_of": asks_of,
    }


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

    async def compliance_due(self, limit: int = MAX_DAYS) -> list[int]:
        """The days that wait to have counted what relays have deleted of them, newest first."""
        return [row[0] for row in await self._rows("compliance_due", p_limit=limit)]

    async def count_compliance(self, day: int) -> None:
        """Counts what relays have done about the events of a day that they were asked to delete, in
        one transaction."""

        async def work(connection: Connection) -> None:
            asks = asks_about(await rows_of(connection, "begin_compliance", p_day=day))
            await value_of(connection, "count_compliance", p_day=day, **asks)

        await self._transact(work)

    async def count_checks(self, now: int) -> int:
        """Counts what the checks of the days that are not over came to; returns how many days."""
        counted: int = await self._value("count_checks", p_now=now, timeout=MAINTENANCE_S)
        return counted

    async def sum_relays(self, beginning: int, live_before: int, now: int, limit: int = 200) -> int:
        """Sums up what is known of relays, where something has changed since, of those that are
        followed before `live_before`; returns how many sums were made. `beginning`: from when on
        coverage counts. Times in Unix seconds."""
        made: int = await self._value(
            "sum_relays",
            p_beginning=beginning,
            p_live_before=live_before,
            p_now=now,
            p_limit=limit,
            timeout=MAINTENANCE_S,
        )
        return made

    async def sum_lists(self, made_before: int, now: int) -> bool:
        """Counts who has moved and which relays are listed, unless that was done after
        `made_before`; whether it has."""
        return bool(
            await self._value(
                "sum_lists", p_made_before=made_before, p_now=now, timeout=MAINTENANCE_S
            )
        )

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
