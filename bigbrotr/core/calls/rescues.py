"""Rescues: archived events on their way to other relays, and what became of them."""

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from bigbrotr.core.calls.base import Calls, by_column
from bigbrotr.models.event import storable
from bigbrotr.models.nip11 import Nip11
from bigbrotr.models.policy import Reason

MOST_WORDS = 300  # characters of what a relay says
CLAIMED_TARGETS = 10


class ToRescue(NamedTuple):
    """An event that is to be at a relay. `dropped_at`: when the relay was proven not to hold it any
    more, in Unix seconds; None: it was not."""

    url: str
    created_at: int
    id: bytes
    pubkey: bytes
    dropped_at: int | None = None


class Rescue(NamedTuple):
    """A claimed event of a target."""

    target_id: int
    url: str
    created_at: int
    id: bytes
    state: str  # waiting, accepted
    attempts: int  # failed tries in a row
    sends: int  # times that it was accepted


class RescueOutcome(NamedTuple):
    """What became of an event. `wait_s`: until something is to be done about it; None, where it
    waits: it has failed."""

    id: bytes
    state: str
    reason: str = ""
    detail: str = ""
    wait_s: int | None = 0
    is_answer: bool = False  # the relay has said so


class TargetOutcome(NamedTuple):
    """How a conversation with a target ended, and when the next may begin: after `pause_s`, or,
    where it has failed, after a growing delay."""

    outcome: str
    detail: str = ""
    is_failed: bool = False
    has_taken: bool = False  # something was accepted
    pause_s: int = 0


class RescueCount(NamedTuple):
    """Events of a target in one state. Times are Unix seconds."""

    url: str
    state: str
    events: int
    next_at: int  # when something is due
    owner: str | None  # who has the lease on the target ...
    leased_until: int | None  # ... and until when
    outcome: str | None  # how the last conversation ended
    detail: str | None


class Why(NamedTuple):
    """What the policy has noted of an event."""

    why: int = 0  # bits of `Reason`
    expires_at: int | None = None  # Unix seconds

    @property
    def is_hidden(self) -> bool:
        """Whether there is any reason but time."""
        return bool(self.why & ~Reason.EXPIRED)


Key = tuple[int, bytes]  # (created_at, id)


class RescueCalls(Calls):
    """The queue of events that are to be at other relays; who holds what, and what may be sent."""

    async def queue_rescues(self, events: Sequence[ToRescue], *, is_again: bool = False) -> int:
        """Puts events into the queue; returns how many wait now that did not. What was refused or
        not kept stays so, unless `is_again`."""
        queued = 0
        for batch in self._batches(events):
            urls, created_ats, ids, pubkeys, dropped_ats = by_column(batch, 5)
            queued += await self._value(
                "queue_rescues",
                p_urls=urls,
                p_created_ats=created_ats,
                p_ids=ids,
                p_pubkeys=pubkeys,
                p_dropped_ats=dropped_ats,
                p_is_again=is_again,
                p_now=int(time.time()),
            )
        return queued

    async def claim_rescues(
        self, urls: Collection[str] | None, *, limit: int, owner: str, lease_s: float
    ) -> list[list[Rescue]]:
        """Events that are due, up to `limit` of each of some targets, a list a target; nobody else
        gets these targets within the lease. `urls`: of these targets; None: of any."""
        rows = await self._rows(
            "claim_rescues",
            p_urls=None if urls is None else sorted(urls),
            p_targets=CLAIMED_TARGETS,
            p_limit=limit,
            p_owner=owner,
            p_lease_s=int(lease_s),
            p_now=int(time.time()),
        )
        by_target: dict[int, list[Rescue]] = {}
        for row in rows:
            by_target.setdefault(row["target_id"], []).append(Rescue(*row))
        return list(by_target.values())

    async def settle_rescues(
        self,
        target_id: int,
        outcomes: Sequence[RescueOutcome],
        of_target: TargetOutcome,
        *,
        owner: str,
        max_attempts: int,
    ) -> bool:
        """Records what became of claimed events; whether the lease was still held."""
        return bool(
            await self._value(
                "settle_rescues",
                p_target_id=target_id,
                p_owner=owner,
                p_ids=[each.id for each in outcomes],
                p_states=[each.state for each in outcomes],
                p_reasons=[storable(each.reason)[:100] for each in outcomes],
                p_details=[storable(each.detail)[:MOST_WORDS] for each in outcomes],
                p_waits=[each.wait_s for each in outcomes],
                p_answered=[each.is_answer for each in outcomes],
                p_is_failed=of_target.is_failed,
                p_has_taken=of_target.has_taken,
                p_pause_s=of_target.pause_s,
                p_outcome=of_target.outcome,
                p_detail=storable(of_target.detail)[:MOST_WORDS],
                p_max_attempts=max_attempts,
                p_now=int(time.time()),
            )
        )

    async def release_rescues(self, owners: Collection[str]) -> int:
        """Gives back the targets that `owners` held when they ended; returns how many."""
        released: int = await self._value(
            "release_rescues", p_owners=sorted(owners), p_now=int(time.time())
        )
        return released

    async def rescue_owners(self) -> list[str]:
        """Who holds leases on targets."""
        rows = await self.pool.fetch(
            "SELECT DISTINCT t.owner FROM bigbrotr.rescue_targets t WHERE t.owner IS NOT NULL"
        )
        return [row["owner"] for row in rows]

    async def count_rescues(self, urls: Collection[str] | None = None) -> list[RescueCount]:
        """How many events of each target are in each state."""
        rows = await self._rows(
            "count_rescues",
            p_urls=None if urls is None else sorted(urls),
            p_now=int(time.time()),
        )
        return [RescueCount(*row) for row in rows]

    async def unwell_relays(self) -> frozenset[int]:
        """The numbers of the relays that are retired or failing."""
        return frozenset(await self._value("unwell_relays"))

    async def holders_of_each(self, keys: Sequence[Key]) -> list[frozenset[int]]:
        """The numbers of the relays that hold each of these events, sorted by (created_at, id)."""
        holders: list[frozenset[int]] = [frozenset()] * len(keys)
        created_ats, ids = by_column(keys, 2)
        for row in await self._rows("holders_of_each", p_created_ats=created_ats, p_ids=ids):
            holders[row["position"] - 1] = frozenset(row["holders"])
        return holders

    async def whys_of(self, keys: Sequence[Key]) -> list[Why]:
        """What the policy has noted of each of these events, sorted by (created_at, id)."""
        whys = [Why()] * len(keys)
        created_ats, ids = by_column(keys, 2)
        for row in await self._rows("whys_of", p_created_ats=created_ats, p_ids=ids):
            whys[row["position"] - 1] = Why(row["why"], row["expires_at"])
        return whys

    async def drops_of(self, relay_id: int, keys: Sequence[Key]) -> list[int | None]:
        """When a relay was proven not to hold each of these events any more; None: it was not."""
        drops: list[int | None] = [None] * len(keys)
        created_ats, ids = by_column(keys, 2)
        for row in await self._rows(
            "drops_of", p_relay_id=relay_id, p_created_ats=created_ats, p_ids=ids
        ):
            drops[row["position"] - 1] = row["dropped_at"]
        return drops

    async def vanished_from(
        self, urls: Collection[str], pubkeys: Collection[bytes]
    ) -> dict[tuple[str, bytes], int]:
        """Up to which second of their events some authors have asked some relays to vanish from
        there, by URL and author."""
        rows = await self.pool.fetch(
            "SELECT v.relay_url, v.pubkey, pg_catalog.max(v.until) AS until"
            " FROM bigbrotr.vanished_from v"
            " WHERE v.pubkey = ANY ($1) AND v.relay_url = ANY ($2)"
            " GROUP BY v.relay_url, v.pubkey",
            list(set(pubkeys)),
            list(set(urls)),
        )
        return {(row["relay_url"], row["pubkey"]): row["until"] for row in rows}

    async def archived_limits(self, url: str) -> dict[str, int | bool]:
        """What a relay says of its limits in its newest archived document (NIP-11)."""
        text = await self.pool.fetchval(
            "SELECT m.data::pg_catalog.text FROM bigbrotr.relays r"
            " JOIN bigbrotr.snapshots_latest l ON l.relay_id = r.id AND l.type = 'nip11'"
            " JOIN bigbrotr.metadata m ON m.id = l.metadata_id WHERE r.url = $1",
            url,
        )
        return {} if text is None else dict(Nip11.parse(text.encode()).limits)
