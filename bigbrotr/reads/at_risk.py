"""Reads which relays alone hold events, or failing ones only: by relay, by kind and by author."""

import asyncio
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias, get_args

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.relay import Network
from bigbrotr.reads.relay_list import State
from bigbrotr.reads.relays import Stage

RiskSort: TypeAlias = Literal["risk", "alone"]
FRESH_S = 60.0  # for which the sums are not made again
MOST_KEPT = 20  # sums for certain kinds
AUTHOR_EVENTS = 5_000  # newest events of an author that are looked at
# Relays that have gone, that are failing, of which nothing is known, and that are well.
GONE, DOWN, UNKNOWN, UP = range(4)


class AtRisk(Struct, frozen=True):
    """A relay and the events that no other relay is known to hold, or none but failing ones. They
    stay in this archive; with the relay they would vanish from the network. Times are Unix seconds.
    """

    relay: str
    network: str
    state: str  # what the monitor found
    since: int | None  # the beginning of the state
    stage: str  # what the synchronizer is up to with it; retired: it failed for long
    holds: int  # archived events that it holds
    alone: int  # events that no other relay is known to hold
    endangered: int  # that relays hold which are failing or retired, and no others (3 at most)


class KindAtRisk(Struct, frozen=True):
    """Events of a kind that one relay alone is known to hold, or failing ones only."""

    kind: int
    alone: int
    endangered: int


class RiskSummary(Struct, frozen=True):
    """How many events are at risk, as far as is known. Times are Unix seconds."""

    alone: int  # events that one relay alone is known to hold
    endangered: int  # that relays hold which are failing or retired, and no others
    counted: int  # events that were counted ...
    archived: int  # ... of those in this archive
    days_waiting: int  # days of which something has changed since they were counted
    relays: int  # that this archive knows ...
    failing: int  # ... of these, retired, down or failing ...
    copied: int  # ... and those of which anything is archived
    counted_at: int | None  # when a day was last counted
    as_of: int  # when this was read


class AuthorKindAtRisk(Struct, frozen=True):
    """Events of an author of one kind, by how safe they are."""

    kind: int
    events: int  # that were looked at
    alone: int
    endangered: int
    lost: int  # that no relay is known to hold any more


class AuthorRelayAtRisk(Struct, frozen=True):
    """A relay that holds events of an author which are at risk."""

    relay: str
    is_failing: bool  # retired, down or failing
    held: int  # events that it holds, of those that were looked at
    alone: int
    endangered: int


class AuthorRisk(Struct, frozen=True):
    """How safe the events of an author are. All that is known is used, however many relays hold an
    event. Times are Unix seconds."""

    pubkey: str
    events: int  # the newest, that were looked at
    is_complete: bool  # these are all
    alone: int  # that one relay alone is known to hold
    endangered: int  # that relays hold which are failing or retired, and no others
    lost: int  # that no relay is known to hold any more: they are in this archive alone
    relays_known: int  # relays of which anything is archived: more may hold them
    as_of: int
    kinds: tuple[AuthorKindAtRisk, ...]
    relays: tuple[AuthorRelayAtRisk, ...]  # that hold some of what is at risk


RiskKey: TypeAlias = tuple[int, int, str]  # how bad, events (negative), URL


class AtRiskReads:
    """Reads pages of relays that alone hold events. The sums of all relays are made once a minute,
    whoever asks: there is no index that has them."""

    def __init__(self, pool: Pool, *, fresh_s: float = FRESH_S) -> None:
        self._pool = pool
        self._fresh_s = fresh_s
        self._making = asyncio.Lock()
        self._summary: RiskSummary | None = None
        self._sums: dict[frozenset[int] | None, _Sums] = {}  # by kinds; None: any

    async def page(
        self,
        sort: RiskSort,
        after: RiskKey | None,
        limit: int,
        *,
        networks: Collection[Network] | None = None,
        states: Collection[State] | None = None,
        stages: Collection[Stage] | None = None,
        kinds: Collection[int] | None = None,
        relay: str | None = None,
    ) -> list[tuple[RiskKey, AtRisk]]:
        """A page of relays, each with its key: the next page begins after that of the last row.

        By `risk`: those that are retired, down, unknown, up, each with the most events first; by
        `alone`: with the most events first. `kinds`: events of these alone are counted.
        """
        rows = (await self._sorted(kinds))[sort]
        start = 0 if after is None else bisect_right(rows, after, key=lambda each: each[0])
        found = (
            (key, row)
            for key, row in islice(rows, start, None)
            if (networks is None or row.network in networks)
            and (states is None or row.state in states)
            and (stages is None or row.stage in stages)
            and (relay is None or row.relay == relay)
        )
        return list(islice(found, limit))

    async def summary(self) -> RiskSummary:
        """How many events are at risk, of how many; read once a minute."""
        async with self._making:
            known = self._summary
            if known is None or time.time() > known.as_of + self._fresh_s:
                known = self._summary = await risk_summary(self._pool)
        return known

    async def _sorted(
        self, kinds: Collection[int] | None = None
    ) -> dict[RiskSort, list[tuple[RiskKey, AtRisk]]]:
        wanted = None if kinds is None else frozenset(kinds)
        async with self._making:  # who comes meanwhile gets the same
            known = self._sums.get(wanted)
            if known is None or time.monotonic() > known.made_at + self._fresh_s:
                rows = await self._pool.fetch(
                    "SELECT * FROM bigbrotr.relays_at_risk(p_kinds => $1)",
                    None if wanted is None else sorted(wanted),
                )
                found = [AtRisk(*row) for row in rows]
                made = {
                    sort: sorted(
                        ((_key(row, sort), row) for row in found), key=lambda each: each[0]
                    )
                    for sort in get_args(RiskSort)
                }
                if len(self._sums) >= MOST_KEPT:
                    self._sums.clear()
                known = self._sums[wanted] = _Sums(time.monotonic(), made)
        return known.rows


class _Sums(NamedTuple):
    made_at: float  # monotonic
    rows: dict[RiskSort, list[tuple[RiskKey, AtRisk]]]


async def kinds_at_risk(pool: Pool, relay: str | None = None) -> list[KindAtRisk] | None:
    """Which kinds the events are of that are at risk, of all relays or of one; None: there is no
    such relay."""
    rows = await pool.fetch("SELECT * FROM bigbrotr.kinds_at_risk(p_url => $1)", relay)
    return [KindAtRisk(*row) for row in rows[1:]] if rows else None


async def risk_summary(pool: Pool, now: int | None = None) -> RiskSummary:
    """How many events are at risk, of how many."""
    now = int(time.time()) if now is None else now
    row = await pool.fetchrow("SELECT * FROM bigbrotr.risk_basis(p_now => $1)", now)
    assert row is not None
    return RiskSummary(**dict(row), as_of=now)


async def author_risk(
    pool: Pool, pubkey: bytes, *, most: int = AUTHOR_EVENTS, kinds: Collection[int] | None = None
) -> AuthorRisk:
    """How safe the newest events of the author with this public key (32 bytes) are; `kinds`: of
    them those of these kinds."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.author_at_risk(p_pubkey => $1, p_most => $2)", pubkey, most
    )
    failing = frozenset(await pool.fetchval("SELECT * FROM bigbrotr.unwell_relays()"))
    looked = sum(row["events"] for row in rows)
    by_kind: dict[int, Counter[str]] = {}
    by_relay: dict[int, Counter[str]] = {}
    for kind, held, events in rows:
        if kinds is not None and kind not in kinds:
            continue
        holders = held or ()
        marks = ["events"]
        if not holders:
            marks.append("lost")
        elif failing.issuperset(holders):
            marks.append("endangered")
        if len(holders) == 1:
            marks.append("alone")
        for counts in (
            by_kind.setdefault(kind, Counter()),
            *(by_relay.setdefault(each, Counter()) for each in holders),
        ):
            counts.update(dict.fromkeys(marks, events))
    urls = {
        row["id"]: row["url"]
        for row in await pool.fetch(
            "SELECT r.id, r.url FROM bigbrotr.relays r WHERE r.id = ANY ($1)", list(by_relay)
        )
    }
    (basis,) = await pool.fetch(
        "SELECT pg_catalog.count(*) AS relays FROM bigbrotr.tallies t WHERE t.pairs > 0"
    )
    total: Counter[str] = Counter()
    for counts in by_kind.values():
        total.update(counts)
    return AuthorRisk(
        pubkey.hex(),
        total["events"],
        looked < most,
        total["alone"],
        total["endangered"],
        total["lost"],
        basis["relays"],
        int(time.time()),
        tuple(
            AuthorKindAtRisk(
                kind, *(counts[name] for name in AuthorKindAtRisk.__struct_fields__[1:])
            )
            for kind, counts in sorted(by_kind.items())
        ),
        tuple(
            sorted(
                (
                    AuthorRelayAtRisk(
                        urls[number],
                        number in failing,
                        counts["events"],
                        counts["alone"],
                        counts["endangered"],
                    )
                    for number, counts in by_relay.items()
                    if number in urls and (counts["alone"] or counts["endangered"])
                ),
                key=lambda each: (-each.endangered, -each.alone, each.relay),
            )
        ),
    )


def _key(row: AtRisk, sort: RiskSort) -> RiskKey:
    if sort == "alone":
        return 0, -row.alone, row.relay
    if row.stage == Stage.RETIRED:
        danger = GONE
    else:
        danger = {"down": DOWN, "unknown": UNKNOWN, "up": UP}[row.state]
    return danger, -max(row.alone, row.endangered), row.relay
