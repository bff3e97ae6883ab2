"""Completeness: what a sample of the archive refers to, and what is missing of it."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bigbrotr.core.calls.base import Calls, value_of
from bigbrotr.core.pool import Connection
from bigbrotr.models.references import Reference


class CompletenessPosition(NamedTuple):
    """The sample; up to which row of the log of new events it was looked at, and up to which event
    of the archive. `after_at` is None when all of it was."""

    bound: bytes
    xid: int
    id: int
    after_at: int | None
    after_id: bytes | None


class Referring(NamedTuple):
    """An event of the sample."""

    created_at: int
    id: bytes
    kind: int
    tags: str
    content: str | None  # of reposts


class Sampled(NamedTuple):
    """What a step of the walk has brought, and how far it is; `examined` 0: it is at its end."""

    events: list[Referring]
    examined: int
    last_at: int
    last_id: bytes


class Noted(NamedTuple):
    """A reference, as it is noted."""

    month: int
    kind: int  # of the referring event
    referrer: bytes
    reference: Reference
    is_held: bool


class Missing(NamedTuple):
    """A claimed event that is missing."""

    target: bytes
    pubkey: bytes | None  # its author, as is said
    d: str | None  # of an address
    hints: Sequence[str]
    asked: Sequence[int]  # numbers of the relays that were asked in vain
    attempts: int


class CompletenessCalls(Calls):
    """The sample and the queue of what is missing. Each step is a transaction of its own."""

    async def begin_completeness(self, bound: bytes, *, is_missing: bool = False) -> bool:
        """Begins a sample; again where another is wanted, or with `is_missing`, new events were
        pruned before they were read. Whether it has begun."""
        return bool(
            await self._value(
                "begin_completeness",
                p_bound=bound,
                p_is_missing=is_missing,
                p_now=int(time.time()),
            )
        )

    async def completeness_position(self) -> CompletenessPosition | None:
        """How far the sample is; None: it has not begun."""
        (row,) = await self._rows("completeness_position")
        return None if row["bound"] is None else CompletenessPosition(*row)

    async def next_sample(self, position: CompletenessPosition, examine: int) -> Sampled:
        """Those of the next `examine` archived events that are in the sample."""
        row = await self._row(
            "next_sample",
            p_bound=position.bound,
            p_after_at=position.after_at,
            p_after_id=position.after_id,
            p_examine=examine,
        )
        assert row is not None
        columns = (row["created_ats"], row["ids"], row["kinds"], row["all_tags"], row["contents"])
        events = [
            Referring(*values) for values in zip(*(column or () for column in columns), strict=True)
        ]
        return Sampled(events, row["examined"], row["last_at"] or 0, row["last_id"] or b"")

    async def held_addresses(self, targets: Collection[bytes]) -> set[bytes]:
        """Those of some public keys with an address of which a version is archived."""
        rows = await self._rows("held_addresses", p_targets=list(targets))
        return {row[0] for row in rows}

    async def note_references(
        self,
        noted: Sequence[Noted],
        came: Sequence[bytes],
        before: CompletenessPosition,
        after: CompletenessPosition,
        *,
        most_missing: int,
    ) -> bool:
        """Notes references, and events that have come, and moves on; False: another was quicker."""
        now = int(time.time())

        async def work(connection: Connection) -> bool:
            is_ours = await value_of(
                connection,
                "move_completeness",
                p_xid=after.xid,
                p_id=after.id,
                p_after_at=after.after_at,
                p_after_id=after.after_id,
                p_from_xid=before.xid,
                p_from_id=before.id,
                p_from_at=before.after_at,
                p_from_after=before.after_id,
                p_now=now,
            )
            if is_ours and (noted or came):
                await value_of(
                    connection,
                    "note_references",
                    p_months=[each.month for each in noted],
                    p_kinds=[each.kind for each in noted],
                    p_vias=[each.reference.via for each in noted],
                    p_referrers=[each.referrer for each in noted],
                    p_targets=[each.reference.target for each in noted],
                    p_are_held=[each.is_held for each in noted],
                    p_pubkeys=[each.reference.pubkey or None for each in noted],
                    p_ds=[
                        each.reference.d if len(each.reference.target) > 32 else None
                        for each in noted
                    ],
                    p_hints=[each.reference.hint for each in noted],
                    p_came=list(came),
                    p_most=most_missing,
                    p_now=now,
                )
            return bool(is_ours)

        return await self._transact(work)

    async def find_addresses(self) -> int:
        """Looks for addresses that were missing; returns how many of the queue are there now."""
        found: int = await self._value("find_addresses", p_now=int(time.time()))
        return found

    async def claim_missing(self, limit: int, *, owner: str, lease_s: float) -> list[Missing]:
        """Missing events that are due, those first to which most refer; nobody else's within the
        lease."""
        rows = await self._rows(
            "claim_missing",
            p_limit=limit,
            p_owner=owner,
            p_lease_s=int(lease_s),
            p_now=int(time.time()),
        )
        return [Missing(*row) for row in rows]

    async def note_found(self, targets: Collection[bytes], url: str) -> int:
        """Notes that a relay had events that were missing, and that they are archived now."""
        found: int = await self._value(
            "note_found", p_targets=list(targets), p_relay_url=url, p_now=int(time.time())
        )
        return found

    async def settle_missing(
        self,
        asked: Mapping[bytes, Collection[int]],
        exhausted: Collection[bytes],
        *,
        owner: str,
        max_attempts: int,
    ) -> int:
        """Records the relays that were asked in vain, by what they were asked for; `exhausted`:
        there is no other to ask. Returns how many are given up."""
        targets = list(asked)
        pairs = [
            (place, number) for place, key in enumerate(targets, 1) for number in sorted(asked[key])
        ]
        gone: int = await self._value(
            "settle_missing",
            p_targets=targets,
            p_are_exhausted=[target in exhausted for target in targets],
            p_asked_of=[place for place, _ in pairs],
            p_asked=[number for _, number in pairs],
            p_owner=owner,
            p_max_attempts=max_attempts,
            p_now=int(time.time()),
        )
        return gone

    async def release_missing(self, owner: str) -> int:
        """Gives back what `owner` held when it ended; returns how many."""
        released: int = await self._value("release_missing", p_owner=owner, p_now=int(time.time()))
        return released

    async def largest_relays(self, limit: int, apart: Collection[int]) -> list[int]:
        """The numbers of those relays that hold most, but for some."""
        rows = await self.pool.fetch(
            "SELECT t.relay_id FROM bigbrotr.tallies t"
            " JOIN bigbrotr.relays r ON r.id = t.relay_id"
            " WHERE NOT (t.relay_id = ANY ($1)) ORDER BY t.pairs DESC, t.relay_id LIMIT $2",
            sorted(apart),
            limit,
        )
        return [row["relay_id"] for row in rows]
