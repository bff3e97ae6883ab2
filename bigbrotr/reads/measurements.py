"""Reads what was measured of a relay over time: uptime, round trips, documents, claims."""

import time
from collections.abc import Collection
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.metadata import MetadataType
from bigbrotr.reads.relays import Uptime, uptime_of


class Rtt(Struct, frozen=True):
    """One check of a relay: a verdict and round-trip times in milliseconds."""

    checked_at: int  # Unix seconds
    is_up: bool
    outcome: str | None  # why it was down
    dns_ms: float | None
    tcp_ms: float | None
    tls_ms: float | None
    upgrade_ms: float | None
    open_ms: float | None  # TCP, TLS and upgrade together
    read_ms: float | None
    write_ms: float | None


class Document(Struct, frozen=True):
    """What a relay said of itself, or what was measured, at a time."""

    type: str
    snapshot_at: int  # Unix seconds
    id: str  # SHA-256 of the canonical JSON, in hex: the same document has the same
    data: Raw  # a JSON object


class Claim(Struct, frozen=True):
    """What a relay claims beside what was seen; None: it says nothing, or that is not known."""

    claimed: bool | int | None = None
    seen: bool | None = None


class Claims(Struct, frozen=True):
    """What a relay claims beside what was seen of it, when it was last tested."""

    snapshot_at: int  # Unix seconds
    nips: dict[str, Claim] = {}  # by the number of the NIP
    auth: Claim = Claim()  # whether it requires authentication
    payment: Claim = Claim()
    max_limit: Claim = Claim()


class Place(Struct, frozen=True):
    """Where a relay's address is said to be, in degrees."""

    relay: str
    state: str  # what the monitor found
    latitude: float
    longitude: float
    country: str | None  # two letters (ISO 3166)
    city: str | None


DocumentKey: TypeAlias = tuple[int, str]  # time and type


async def is_relay(pool: Pool, url: str) -> bool:
    """Whether there is a relay at a normalised URL."""
    found = await pool.fetchval("SELECT 1 FROM bigbrotr.relays WHERE url = $1", url)
    return found is not None


async def uptime(pool: Pool, url: str, days: int) -> Uptime | None:
    """How much of the last `days` a relay was up; None: it is no relay of this archive."""
    if not await is_relay(pool, url):
        return None
    return await uptime_of(pool, url, days, int(time.time()))


async def list_rtts(
    pool: Pool, url: str, after: int | None, limit: int, *, since: int | None, until: int | None
) -> list[Rtt] | None:
    """A page of the checks of a relay within [since, until), newest first, of those before `after`;
    None: it is no relay of this archive."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.list_rtts(p_url => $1, p_since => $2, p_until => $3,"
        " p_after_at => $4, p_limit => $5)",
        url,
        since,
        until,
        after,
        limit,
    )
    if not rows and not await is_relay(pool, url):
        return None
    return [Rtt(*row) for row in rows]


async def first_check(pool: Pool, url: str, since: int) -> int | None:
    """When a relay was first checked since `since`, in Unix seconds; None: it was not."""
    found: int | None = await pool.fetchval(
        "SELECT s.checked_at FROM bigbrotr.rtts s JOIN bigbrotr.relays r ON r.id = s.relay_id"
        " WHERE r.url = $1 AND s.checked_at >= $2 ORDER BY s.checked_at LIMIT 1",
        url,
        since,
    )
    return found


async def list_documents(
    pool: Pool,
    url: str,
    after: DocumentKey | None,
    limit: int,
    *,
    types: Collection[MetadataType] | None,
    since: int | None,
    until: int | None,
) -> list[Document] | None:
    """A page of the documents of a relay within [since, until), newest first, of those behind
    `after`; None: it is no relay of this archive."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.list_documents(p_url => $1, p_types => $2, p_since => $3,"
        " p_until => $4, p_after_at => $5, p_after_type => $6, p_limit => $7)",
        url,
        types,
        since,
        until,
        None if after is None else after[0],
        None if after is None else after[1],
        limit,
    )
    if not rows and not await is_relay(pool, url):
        return None
    return [
        Document(row["type"], row["snapshot_at"], row["id"].hex(), Raw(row["data"].encode()))
        for row in rows
    ]


async def claims(pool: Pool, url: str) -> Claims | None:
    """What a relay claims beside what was seen; None: it was not tested, or is no relay here."""
    row = await pool.fetchrow(
        "SELECT s.snapshot_at, m.data FROM bigbrotr.snapshots_latest s"
        " JOIN bigbrotr.metadata m ON m.id = s.metadata_id"
        " JOIN bigbrotr.relays r ON r.id = s.relay_id WHERE r.url = $1 AND s.type = $2",
        url,
        MetadataType.CLAIMS,
    )
    if row is None:
        return None
    found = msgspec.json.decode(row["data"])
    return msgspec.convert(found | {"snapshot_at": row["snapshot_at"]}, Claims)


async def newest_documents(pool: Pool, url: str) -> list[Document]:
    """The newest document of each type of a relay; none of round trips, which are a series."""
    rows = await pool.fetch(
        "SELECT s.type, s.snapshot_at, s.metadata_id, m.data FROM bigbrotr.snapshots_latest s"
        " JOIN bigbrotr.metadata m ON m.id = s.metadata_id"
        " JOIN bigbrotr.relays r ON r.id = s.relay_id WHERE r.url = $1 ORDER BY s.type",
        url,
    )
    return [
        Document(
            row["type"], row["snapshot_at"], row["metadata_id"].hex(), Raw(row["data"].encode())
        )
        for row in rows
    ]


async def places(pool: Pool) -> list[Place]:
    """Where relays are, as far as it is known."""
    rows = await pool.fetch(
        "SELECT r.url, c.state, m.data FROM bigbrotr.snapshots_latest s"
        " JOIN bigbrotr.metadata m ON m.id = s.metadata_id"
        " JOIN bigbrotr.relays r ON r.id = s.relay_id"
        " LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id"
        " WHERE s.type = $1 ORDER BY r.url",
        MetadataType.NIP66_GEO,
    )
    found = []
    for row in rows:
        data = msgspec.json.decode(row["data"])
        latitude, longitude = data.get("latitude"), data.get("longitude")
        if isinstance(latitude, int | float) and isinstance(longitude, int | float):
            found.append(
                Place(
                    row["url"],
                    row["state"] or "unknown",
                    latitude,
                    longitude,
                    data.get("country"),
                    data.get("city"),
                )
            )
    return found
