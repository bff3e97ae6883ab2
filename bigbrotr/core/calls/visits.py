"""Visits: which relay is due, who has it on lease, what it has proven, and what came of it."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import asyncpg
import msgspec

from bigbrotr.core.calls.base import Calls, by_column
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.coverage import Gap, How, Proof, Span
from bigbrotr.models.event import storable
from bigbrotr.models.nip11 import MAX_NUMBER
from bigbrotr.models.relay import Network


class Visit(NamedTuple):
    """A claimed relay: what the synchronizer is to do there."""

    relay_id: int
    url: str
    epoch: int  # the fence: a holder of an older one is refused
    pairs: int  # archived events that it is known to hold
    missing: list[tuple[int, int]]  # half-open spans of Unix seconds, oldest first
    wanted: tuple[int, int]  # the span that they are missing of
    stale: Sequence[tuple[int, int]] = ()  # proven so long ago that they are looked at again
    may_reconcile: bool = False  # whether it speaks NIP-77, or that is to be tried
    most_items: int | None = None  # how many events a window may hold, if it has refused more
    most_bytes: int | None = None  # of a message of ours, if it has hung up on a larger one
    limits: Mapping[str, int] = MappingProxyType({})  # what it says of its limits (NIP-11)
    dialect: str = "{}"  # JSON: how it wants to be asked, as an earlier visit has left it


class Patience(NamedTuple):
    """After how many seconds what is proven is looked at again: see `stale_spans` in sql/."""

    audit_s: int = 2**40
    lookback_s: int = 0
    rewalk_s: int = 0  # 0: never


ENDLESS = Patience()


class Wanted(NamedTuple):
    """Which events of a relay are wanted: half-open in Unix seconds, and a filter's key."""

    since: int
    until: int
    filter: str = ""
    by_ids: bool = True  # whether to compare ids with relays that can


class VisitCalls(Calls):
    """Leases on relays."""

    async def claim_visits(
        self,
        networks: Sequence[Network],
        *,
        limit: int,
        owner: str,
        lease_s: float,
        since: int,
        until: int,
        filter: str = "",  # noqa: A002 -- the field's own word
        by_ids: bool = True,
        apart: Mapping[str, Wanted] | None = None,
        refused: Collection[str] = (),
        patience: Patience = ENDLESS,
    ) -> list[Visit]:
        """Relays that are due, but for the URLs `refused`, each with what is missing within
        [since, until) for the conditions `filter`; `apart` says what else is wanted by URL."""
        apart = apart or {}
        sinces, untils, filters, by_idss = by_column(list(apart.values()), 4)
        rows = await self._rows(
            "claim_visits",
            p_networks=[network.value for network in networks],
            p_limit=limit,
            p_owner=owner,
            p_lease_s=int(lease_s),
            p_since=since,
            p_until=until,
            p_filter=filter,
            p_by_ids=by_ids,
            p_refused=list(refused),
            p_urls=list(apart),
            p_sinces=sinces,
            p_untils=untils,
            p_filters=filters,
            p_by_idss=by_idss,
            p_audit_s=patience.audit_s,
            p_lookback_s=patience.lookback_s,
            p_rewalk_s=patience.rewalk_s,
            p_now=int(time.time()),
        )
        return [
            Visit(
                row["relay_id"],
                row["url"],
                row["epoch"],
                row["pairs"],
                _spans(row["missing"]),
                apart[row["url"]][:2] if row["url"] in apart else (since, until),
                _spans(row["stale"]),
                row["may_reconcile"],
                row["most_items"],
                row["most_bytes"],
                _limits(row["limits"]),
                row["dialect"],
            )
            for row in rows
        ]

    async def renew_visit(
        self,
        visit: Visit,
        *,
        lease_s: float,
        until: int,
        by_ids: bool = True,
        patience: Patience = ENDLESS,
    ) -> Visit:
        """The same visit with a prolonged lease, and what is missing and stale up to `until`.

        Raises:
            LeaseLostError: another process has taken over the relay.
        """
        since = visit.wanted[0]
        row = await self._row(
            "renew_visit",
            p_relay_id=visit.relay_id,
            p_epoch=visit.epoch,
            p_lease_s=int(lease_s),
            p_since=since,
            p_until=until,
            p_by_ids=by_ids,
            p_audit_s=patience.audit_s,
            p_lookback_s=patience.lookback_s,
            p_rewalk_s=patience.rewalk_s,
            p_now=int(time.time()),
        )
        if row is None:
            raise LeaseLostError(f"{visit.url} has passed to another process")
        return visit._replace(
            missing=_spans(row["missing"]), stale=_spans(row["stale"]), wanted=(since, until)
        )

    async def finish_visit(
        self,
        visit: Visit,
        verdict: str,
        *,
        next_at: int,
        outcome: str,
        detail: str = "",
        dialect: str | None = None,
    ) -> bool:
        """Ends a visit, with a verdict in the words of `finish_visit` in sql/, and keeps `dialect`
        (JSON) for the next one, if there is any; False when the lease has passed on."""
        return bool(
            await self._value(
                "finish_visit",
                p_relay_id=visit.relay_id,
                p_epoch=visit.epoch,
                p_verdict=verdict,
                p_next_at=next_at,
                p_outcome=outcome,
                p_detail=storable(detail)[:500],
                p_dialect=dialect,
                p_now=int(time.time()),
            )
        )

    async def take_back(
        self, visit: Visit, hows: Iterable[How], spans: Sequence[Span] | None = None
    ) -> None:
        """Takes back what was proven of a relay in some ways: within spans, or (None) all of it.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was taken back.
        """
        ranges = None if spans is None else [asyncpg.Range(*span) for span in spans]
        await self._value(
            "take_back",
            p_relay_id=visit.relay_id,
            p_epoch=visit.epoch,
            p_hows=[how.value for how in hows],
            p_spans=ranges,
        )

    async def forget_the_future(self) -> tuple[int, int]:
        """Puts right what was written while a clock was ahead: see `forget_the_future` in sql/.

        Returns of how many relays proofs were taken back, and how many rows were due too late.
        """
        row = await self._row("forget_the_future", p_now=int(time.time()))
        assert row is not None
        return row["relays"], row["rows_due"]

    async def release_leases(self, owner: str) -> int:
        """Gives back what `owner` held when it crashed; returns how much."""
        released: int = await self._value("release_leases", p_owner=owner, p_now=int(time.time()))
        return released

    async def next_visit_at(
        self, networks: Sequence[Network], refused: Collection[str] = ()
    ) -> int | None:
        """When the next relay is due, but for the URLs `refused`; None without relays."""
        due: int | None = await self._value(
            "next_visit_at",
            p_networks=[network.value for network in networks],
            p_refused=list(refused),
        )
        return due


def _spans(multirange: Iterable["asyncpg.Range[int]"]) -> list[tuple[int, int]]:
    return [(span.lower, span.upper) for span in multirange]  # type: ignore[misc]


def _limits(limitation: str | None) -> dict[str, int]:
    """What makes sense of the limits in a relay's document."""
    said = None if limitation is None else msgspec.json.decode(limitation)
    return {
        name: value
        for name, value in (said.items() if isinstance(said, dict) else ())
        if type(value) is int and 0 < value <= MAX_NUMBER
    }


def coverage_of(
    visit: Visit,
    proofs: Sequence[Proof],
    gaps: Sequence[Gap],
    identity: str | None,
    now: int,
) -> dict[str, Any]:
    """What `record_coverage` takes."""
    return {
        "p_relay_id": visit.relay_id,
        "p_epoch": visit.epoch,
        "p_spans": [asyncpg.Range(*proof.span) for proof in proofs],
        "p_hows": [proof.how for proof in proofs],
        "p_gap_spans": [asyncpg.Range(*gap.span) for gap in gaps],
        "p_gap_reasons": [gap.reason for gap in gaps],
        "p_gap_details": [storable(gap.detail)[:500] for gap in gaps],
        "p_identity": None if identity is None else bytes.fromhex(identity),
        "p_now": now,
    }
