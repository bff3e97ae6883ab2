"""Reconciliation: ids by windows, and what was found in them."""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import asyncpg
import msgspec

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls, by_column, value_of
from bigbrotr.core.calls.visits import Visit, coverage_of
from bigbrotr.core.codes import ErrorCode
from bigbrotr.core.pool import Connection
from bigbrotr.models.coverage import How, Proof, Span
from bigbrotr.models.event import storable

MOST_WITHHELD = 10_000  # events of one relay that are noted as not handed over: 3 MB on disk ...
FORGET_S = 180 * 86_400  # ... and for how long


class Window(NamedTuple):
    """What a reconciliation found out about one window of a relay's past."""

    span: Span
    digest_span: Span  # this window, maybe with the one before it ...
    items: int  # ... in which the relay holds so many events
    sum: bytes  # of their ids: 32 bytes, little-endian
    withheld: Sequence[bytes] = ()  # of its ids, those that it does not hand over
    dropped: Sequence[tuple[int, bytes]] = ()  # (created_at, id) that it held, and no longer does


class ReconciliationCalls(Calls):
    """Windows of what a relay holds."""

    async def read_ids(
        self,
        span: Span,
        after: bytes,
        limit: int,
        *,
        kinds: Collection[int] | None = None,
        authors: Collection[str] | None = None,
        held_by: int | None = None,
        tags: Mapping[str, Collection[str]] | None = None,
    ) -> tuple[bytes, bytes]:
        """The archived ids of a span in the order (created_at, id), or those that the relay of the
        number `held_by` is known to hold: at most `limit`, after the id `after` of its first
        second. Their times, 8 bytes each, most significant first, and they themselves, 32 each.

        `tags`, by letter, are for `held_by` only; where the archive keeps none, nothing is found.
        """
        pubkeys = None if authors is None else [bytes.fromhex(each) for each in sorted(authors)]
        if held_by is None:
            row = await self._row(
                "read_ids",
                p_since=span.since,
                p_until=span.until,
                p_after=after,
                p_limit=limit,
                p_kinds=None if kinds is None else sorted(kinds),
                p_pubkeys=pubkeys,
            )
        else:
            wanted = {letter: sorted(values) for letter, values in (tags or {}).items()}
            row = await self._row(
                "read_held_ids",
                p_relay_id=held_by,
                p_since=span.since,
                p_until=span.until,
                p_after=after,
                p_limit=limit,
                p_kinds=None if kinds is None else sorted(kinds),
                p_pubkeys=pubkeys,
                p_tags=msgspec.json.encode(wanted).decode() if wanted else None,
            )
        assert row is not None
        return row["created_ats"] or b"", row["ids"] or b""

    async def touched(self, visit: Visit) -> list[Span]:
        """The seconds in which the relay may have been seen to hold archived events: outside of
        them it never was. Oldest first."""
        spans: list[asyncpg.Range[int]] = await self.pool.fetchval(
            "SELECT touched FROM bigbrotr.tallies WHERE relay_id = $1", visit.relay_id
        )
        return [Span(span.lower or 0, span.upper or 2**63) for span in spans or ()]

    async def note_drops(
        self, visit: Visit, keys: Sequence[tuple[int, bytes]], *, before: int, now: int
    ) -> int:
        """Notes that the relay no longer holds events, by sorted (created_at, id), as far as it was
        first seen to hold them before the second `before`; returns how many pairs have ended.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was noted.
        """
        created_ats, ids = by_column(keys, 2)
        ended: int = await self._value(
            "note_drops",
            p_relay_id=visit.relay_id,
            p_epoch=visit.epoch,
            p_created_ats=created_ats,
            p_ids=ids,
            p_before=before,
            p_now=now,
        )
        return ended

    async def find_events(self, ids: Sequence[bytes], span: Span) -> list[int | None]:
        """When the events of these ids were created; None for those not archived in the span."""
        if not ids:
            return []
        found: list[int | None] = await self._value(
            "find_events", p_ids=ids, p_since=span.since, p_until=span.until
        )
        return found

    async def digests(self, visit: Visit, filter: str) -> list[tuple[Span, int, bytes]]:  # noqa: A002
        """What the relay was found to hold by window, oldest first: span, number, sum of ids."""
        rows = await self.pool.fetch(
            "SELECT span, items, sum FROM bigbrotr.digests"
            " WHERE relay_id = $1 AND filter = $2 ORDER BY span",
            visit.relay_id,
            filter,
        )
        return [(Span(row[0].lower, row[0].upper), row[1], row[2]) for row in rows]

    async def withheld(self, visit: Visit, span: Span) -> dict[bytes, tuple[int, int]]:
        """What the relay has not handed over in a span, by id: how often it was asked in vain, and
        when it is to be asked again."""
        rows = await self.pool.fetch(
            "SELECT event_id, attempts, due_at FROM bigbrotr.withheld"
            " WHERE relay_id = $1 AND span OPERATOR(pg_catalog.&&) $2",
            visit.relay_id,
            asyncpg.Range(*span),
        )
        return {row["event_id"]: (row["attempts"], row["due_at"]) for row in rows}

    async def note_withheld(
        self, visit: Visit, reasons: Mapping[bytes, str], span: Span, *, is_final: bool = True
    ) -> int:
        """Notes events that the relay did not hand over, by id, and why. They wait for longer each
        time; not at all if that is not final. Returns how many are noted: fewer than there are
        where it withholds more than MOST_WITHHELD.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was noted.
        """
        now = int(time.time())
        noted: int = await self._value(
            "note_withheld",
            p_relay_id=visit.relay_id,
            p_epoch=visit.epoch,
            p_ids=list(reasons),
            p_reasons=list(reasons.values()),
            p_span=asyncpg.Range(*span),
            p_is_final=is_final,
            p_most=MOST_WITHHELD,
            p_forget_before=now - FORGET_S,
            p_now=now,
        )
        return noted

    async def note_reconciliation(
        self,
        visit: Visit,
        outcome: str,
        detail: str,
        *,
        due_at: int,
        most_items: int | None = None,
        most_bytes: int | None = None,
    ) -> None:
        """Notes what came of trying NIP-77: 'works', 'refused', 'silent', 'broken' or 'lies'.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was noted.
        """
        await self._value(
            "note_reconciliation",
            p_relay_id=visit.relay_id,
            p_epoch=visit.epoch,
            p_outcome=outcome,
            p_detail=storable(detail)[:500],
            p_due_at=due_at,
            p_most_items=most_items,
            p_most_bytes=most_bytes,
            p_now=int(time.time()),
        )

    async def distrust(self, visit: Visit) -> int:
        """Takes back what a relay's reconciliations have told us; returns how many pairs.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was taken back.
        """
        ended: int = await self._value(
            "distrust", p_relay_id=visit.relay_id, p_epoch=visit.epoch, timeout=MAINTENANCE_S
        )
        return ended

    async def mark_window(
        self, visit: Visit, span: Span, ids: bytes, absent: Sequence[bytes]
    ) -> int | None:
        """Notes that the relay holds all archived events of a span but for the ids `absent`.

        Returns how many of these pairs are new; None, and nothing is noted, unless the span holds
        just the events `ids`, one after the other in the order (created_at, id): name those that
        the relay holds to `note_presence` then.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was noted.
        """
        try:
            noted: int = await self._value(
                "mark_window",
                p_relay_id=visit.relay_id,
                p_epoch=visit.epoch,
                p_since=span.since,
                p_until=span.until,
                p_digest=hashlib.sha256(ids).digest(),
                p_absent_ids=absent,
                p_seen_at=int(time.time()),
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate == ErrorCode.WINDOW_CHANGED:
                return None
            raise
        return noted

    async def record_window(
        self,
        visit: Visit,
        window: Window,
        *,
        filter: str,  # noqa: A002 -- the field's own word
        identity: str | None,
        now: int,
    ) -> int:
        """Records what a reconciliation found out, and that the window is proven, in one
        transaction. Which archived events the relay holds is noted before. Returns how many pairs
        have ended.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was recorded.
        """

        async def record(connection: Connection) -> int:
            ended = 0
            span = asyncpg.Range(*window.span)
            if window.dropped:
                created_ats, ids = by_column(window.dropped, 2)
                ended = await value_of(
                    connection,
                    "note_drops",
                    p_relay_id=visit.relay_id,
                    p_epoch=visit.epoch,
                    p_created_ats=created_ats,
                    p_ids=ids,
                    p_before=now + 1,
                    p_now=now,
                )
            await value_of(
                connection,
                "forget_withheld",
                p_relay_id=visit.relay_id,
                p_span=span,
                p_ids=window.withheld,
            )
            await value_of(
                connection,
                "keep_digest",
                p_relay_id=visit.relay_id,
                p_filter=filter,
                p_span=asyncpg.Range(*window.digest_span),
                p_items=window.items,
                p_sum=window.sum,
            )
            proof = Proof(window.span, How.RECONCILIATION)
            coverage = coverage_of(visit, [proof], [], identity, now)
            await value_of(connection, "record_coverage", **coverage)
            return ended

        return await self._transact(record)
