"""Exchange: what other archives say of relays, in snapshots that are imported."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bigbrotr.core.calls.base import Calls, by_column, relay_ids
from bigbrotr.core.pool import Connection
from bigbrotr.models.relay import Relay


class HeldEvent(NamedTuple):
    """An event that a relay holds, and since when (Unix seconds)."""

    created_at: int
    id: bytes
    seen_at: int


class DroppedEvent(NamedTuple):
    """An event that a relay held, and when it was found to hold it no longer (Unix seconds)."""

    created_at: int
    id: bytes
    seen_at: int
    dropped_at: int


class Proof(NamedTuple):
    """A span that another archive has proven of a relay; Unix seconds, half-open."""

    relay_id: int
    filter: str
    how: str
    since: int | None
    until: int | None
    proven_at: int


class ExchangeCalls(Calls):
    """What other archives say."""

    async def number_relays(self, relays: Iterable[Relay]) -> dict[str, int]:
        """The numbers of relays by URL; those that are new are added."""
        wanted = set(relays)

        async def number(connection: Connection) -> dict[str, int]:
            return await relay_ids(connection, wanted)

        return await self._transact(number) if wanted else {}

    async def known_relays(self) -> dict[str, int]:
        """The numbers of all relays by URL."""
        rows = await self.pool.fetch("SELECT r.url, r.id FROM bigbrotr.relays r")
        return {row["url"]: row["id"] for row in rows}

    async def note_held(self, relay_id: int, events: Sequence[HeldEvent]) -> int:
        """Notes since when a relay holds those of the events that are archived; they are sorted by
        (created_at, id). Returns how many pairs are new."""
        columns = by_column(events, 3)
        noted: int = await self._value(
            "note_held",
            p_relay_id=relay_id,
            p_created_ats=columns[0],
            p_ids=columns[1],
            p_seen_ats=columns[2],
        )
        return noted

    async def note_dropped(self, relay_id: int, events: Sequence[DroppedEvent]) -> int:
        """Notes which of the events that are archived a relay has dropped; they are sorted by
        (created_at, id). Returns how many rows are new or changed."""
        columns = by_column(events, 4)
        noted: int = await self._value(
            "note_dropped",
            p_relay_id=relay_id,
            p_created_ats=columns[0],
            p_ids=columns[1],
            p_seen_ats=columns[2],
            p_dropped_ats=columns[3],
        )
        return noted

    async def take_coverage(self, source: str, proofs: Sequence[Proof]) -> int:
        """Notes what a source says is proven, instead of what it said before."""
        columns = by_column(proofs, 6)
        taken: int = await self._value(
            "take_coverage",
            p_source=source,
            p_relay_ids=columns[0],
            p_filters=columns[1],
            p_hows=columns[2],
            p_sinces=columns[3],
            p_untils=columns[4],
            p_proven_ats=columns[5],
        )
        return taken

    async def trust_coverage(self, source: str, now: int) -> int:
        """Takes over what a source says is proven, where nothing of ours is."""
        trusted: int = await self._value("trust_coverage", p_source=source, p_now=now)
        return trusted
