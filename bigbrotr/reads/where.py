"""Reads which relays hold an event, which are proven not to, and of which nothing is known."""

import asyncpg
import msgspec
from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.event import WireEvent
from bigbrotr.models.where import Absent, Known, Present, locate
from bigbrotr.reads.policy import Hidden, why_hidden


class Where(Struct, frozen=True):
    """Where an event is. Each relay of the archive stands in one of the three lists."""

    event: str  # its id in hex
    is_archived: bool
    created_at: int | None
    kind: int | None
    present: tuple[Present, ...]
    absent: tuple[Absent, ...]
    unknown: tuple[str, ...]
    hidden: tuple[Hidden, ...]  # why views may hide it


async def where(pool: Pool, event_id: bytes) -> Where:
    """Where the event with this id (32 bytes) is."""
    row = await pool.fetchrow("SELECT * FROM bigbrotr.events WHERE id = $1", event_id)
    event = None if row is None else _as_wire(row)
    places = locate(event, await known(pool, event_id))
    return Where(
        event=event_id.hex(),
        is_archived=event is not None,
        created_at=None if event is None else event.created_at,
        kind=None if event is None or event.kind < 0 else event.kind,
        present=tuple(places.present),
        absent=tuple(places.absent),
        unknown=tuple(places.unknown),
        hidden=await why_hidden(pool, event_id),
    )


async def known(pool: Pool, event_id: bytes) -> list[Known]:
    """What is known of each relay and an event."""
    rows = await pool.fetch("SELECT * FROM bigbrotr.where_is(p_id => $1)", event_id)
    return [Known(**dict(row)) for row in rows]


def _as_wire(event: asyncpg.Record) -> WireEvent:
    """An archived event, as far as the archive keeps it, in the form in which filters take it."""
    return WireEvent(
        event["id"].hex(),
        event["pubkey"].hex(),
        event["created_at"],
        event["kind"],
        msgspec.Raw((event["tags"] or "null").encode()),
        msgspec.Raw(b'""'),
        "",
    )
