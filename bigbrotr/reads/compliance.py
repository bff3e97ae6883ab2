"""Reads which events a relay holds although it was asked to delete them."""

from collections.abc import AsyncIterator

from msgspec import Struct

from bigbrotr.core.calls.base import call_of
from bigbrotr.core.calls.statistics import asks_about
from bigbrotr.core.pool import Pool
from bigbrotr.reads.statistics import Compliance


class Kept(Struct, frozen=True):
    """An event that a relay is not known to have deleted. Times are Unix seconds."""

    event: str  # its id in hex
    created_at: int
    kind: int
    request: str  # the id of the event that asks
    asked_at: int  # when the relay was first seen to hold the request
    held_as_of: int | None  # a proof, later than that, that it holds the event; None: there is none


async def compliance_of(pool: Pool, url: str) -> Compliance | None:
    """What a relay has done about requests for deletion; None: it was asked for nothing."""
    row = await pool.fetchrow(
        "SELECT * FROM bigbrotr.statistics_compliance AS s WHERE s.relay_url = $1", url
    )
    return None if row is None else Compliance(*row)


async def kept_by(pool: Pool, url: str) -> AsyncIterator[Kept]:
    """The events of the days that have been counted, the newest day first, a day in memory."""
    days = await pool.fetch(
        "SELECT d.day, d.relay_id,"
        " bigbrotr.proven_at_of(p_relay_id => d.relay_id, p_day => d.day) AS proven_at"
        " FROM bigbrotr.day_compliance d JOIN bigbrotr.relays r ON r.id = d.relay_id"
        " WHERE r.url = $1 AND d.kept > 0 ORDER BY d.day DESC",
        url,
    )
    for day in days:
        events = await pool.fetch(call_of("deletable", "p_day"), day["day"])
        asks = asks_about(events)
        rows = await pool.fetch(call_of("asked_of_relays", *asks), *asks.values())
        kept = [
            row for row in rows if row["relay_id"] == day["relay_id"] and row["dropped_at"] is None
        ]
        for row in sorted(kept, key=lambda row: -row["position"]):
            event = events[row["position"] - 1]
            proofs = [
                at
                for at in (day["proven_at"], row["seen_at"])
                if at is not None and at > row["asked_at"]
            ]
            yield Kept(
                event["id"].hex(),
                event["created_at"],
                event["kind"],
                row["request"].hex(),
                row["asked_at"],
                max(proofs, default=None),
            )
