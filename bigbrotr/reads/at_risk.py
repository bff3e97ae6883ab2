"""Reads which relays alone hold events, and how likely these are to vanish with them."""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Collection
from itertools import islice
from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.relay import Network
from bigbrotr.reads.relay_list import State
from bigbrotr.reads.relays import Stage

RiskSort: TypeAlias = Literal["risk", "alone"]
FRESH_S = 60.0  # for which the sums are not made again
# Relays that have gone, that are failing, of which nothing is known, and that are well.
GONE, DOWN, UNKNOWN, UP = range(4)


class AtRisk(Struct, frozen=True):
    """A relay and the events that no other relay is known to hold. They stay in this archive; with
    the relay they would vanish from the network. Times are Unix seconds."""

    relay: str
    network: str
    state: str  # what the monitor found
    since: int | None  # the beginning of the state
    stage: str  # what the synchronizer is up to with it; retired: it failed for long
    holds: int  # archived events that it holds, of the days that have been counted
    alone: int  # of these, events that no other relay is known to hold


RiskKey: TypeAlias = tuple[int, int, str]  # how bad, events (negative), URL


class AtRiskReads:
    """Reads pages of relays that alone hold events. The sums of all relays are made once a minute,
    whoever asks: there is no index that has them."""

    def __init__(self, pool: Pool, *, fresh_s: float = FRESH_S) -> None:
        self._pool = pool
        self._fresh_s = fresh_s
        self._making = asyncio.Lock()
        self._made_at = float("-inf")  # monotonic
        self._rows: dict[RiskSort, list[tuple[RiskKey, AtRisk]]] = {}

    async def page(
        self,
        sort: RiskSort,
        after: RiskKey | None,
        limit: int,
        *,
        networks: Collection[Network] | None = None,
        states: Collection[State] | None = None,
        stages: Collection[Stage] | None = None,
    ) -> list[tuple[RiskKey, AtRisk]]:
        """A page of relays, each with its key: the next page begins after that of the last row.

        By `risk`: those that are retired, down, unknown, up, each with the most events first; by
        `alone`: with the most events first.
        """
        rows = (await self._sorted())[sort]
        start = 0 if after is None else bisect_right(rows, after, key=lambda each: each[0])
        found = (
            (key, row)
            for key, row in islice(rows, start, None)
            if (networks is None or row.network in networks)
            and (states is None or row.state in states)
            and (stages is None or row.stage in stages)
        )
        return list(islice(found, limit))

    async def _sorted(self) -> dict[RiskSort, list[tuple[RiskKey, AtRisk]]]:
        async with self._making:  # who comes meanwhile gets the same
            if time.monotonic() > self._made_at + self._fresh_s:
                rows = await self._pool.fetch("SELECT * FROM bigbrotr.relays_at_risk()")
                found = [AtRisk(*row) for row in rows]
                self._rows = {
                    sort: sorted(
                        ((_key(row, sort), row) for row in found), key=lambda each: each[0]
                    )
                    for sort in get_args(RiskSort)
                }
                self._made_at = time.monotonic()
        return self._rows


def _key(row: AtRisk, sort: RiskSort) -> RiskKey:
    if sort == "alone":
        danger = 0
    elif row.stage == Stage.RETIRED:
        danger = GONE
    else:
        danger = {"down": DOWN, "unknown": UNKNOWN, "up": UP}[row.state]
    return danger, -row.alone, row.relay
