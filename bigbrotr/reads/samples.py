"""Reads what a relay holds of a sample of the archive, and who else holds that."""

import time

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.reads.authors import Holder

KINDS_EXAMINED = 10_000  # events
OVERLAP_EXAMINED = 2_000  # each of which may be in hundreds of relays


class Sample(Struct, frozen=True):
    """The archived events that were looked at: the newest before `until`, from the newest week on
    in which the relay holds any. Times are Unix seconds; [since, until)."""

    as_of: int  # when it was looked at
    events: int
    since: int | None
    until: int | None


class RelayKind(Struct, frozen=True):
    """Events of one kind in the sample."""

    kind: int
    archived: int
    held: int  # of these, by the relay


class RelayKinds(Struct, frozen=True):
    """How many events of each kind a relay holds of a sample."""

    relay: str
    sample: Sample
    held: int
    kinds: tuple[RelayKind, ...]


class Shared(Struct, frozen=True):
    """Another relay, and how many of the events it holds as well."""

    relay: str
    held: int


class RelayOverlap(Struct, frozen=True):
    """Which other relays hold what a relay holds of a sample, those that hold most first."""

    relay: str
    sample: Sample
    held: int  # by the relay
    alone: int  # of these, by it alone as far as is known
    others: tuple[Shared, ...]


async def relay_kinds(
    pool: Pool, url: str, until: int | None = None, *, examined: int = KINDS_EXAMINED
) -> RelayKinds | None:
    """What the relay holds of a sample before `until` by kind; None: it is none of this archive."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.relay_kinds(p_url => $1, p_until => $2, p_examine => $3)",
        url,
        _end(until),
        examined,
    )
    if not rows:
        return None
    first, *others = rows
    kinds = tuple(RelayKind(row["kind"], row["archived"], row["held"]) for row in others)
    return RelayKinds(
        url,
        Sample(int(time.time()), first["archived"], first["since"], first["until"]),
        sum(each.held for each in kinds),
        kinds,
    )


async def relay_overlap(
    pool: Pool, url: str, until: int | None = None, *, examined: int = OVERLAP_EXAMINED
) -> RelayOverlap | None:
    """Who else holds what the relay holds of a sample; None: it is none of this archive."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.relay_overlap(p_url => $1, p_until => $2, p_examine => $3)",
        url,
        _end(until),
        examined,
    )
    if not rows:
        return None
    first, *holders = rows
    found = [Holder(row["url"], row["held"], row["alone"]) for row in holders]
    own = [each for each in found if each.relay == url]
    return RelayOverlap(
        url,
        Sample(int(time.time()), first["looked"], first["since"], first["until"]),
        sum(each.held for each in own),
        sum(each.alone for each in own),
        tuple(Shared(each.relay, each.held) for each in found if each.relay != url),
    )


async def held_alone(
    pool: Pool, url: str, limit: int, *, examined: int = KINDS_EXAMINED
) -> list[bytes]:
    """The ids of up to `limit` of the newest events that the relay alone is known to hold, newest
    first, among the newest `examined` archived events of the days of which it holds any alone."""
    rows = await pool.fetch(
        "SELECT id FROM bigbrotr.held_alone(p_url => $1, p_examine => $2, p_limit => $3)",
        url,
        examined,
        limit,
    )
    return [row["id"] for row in rows]


def _end(until: int | None) -> int:
    return MAX_CREATED_AT if until is None else until
