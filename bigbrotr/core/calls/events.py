"""Events and presence: what a page brought, in one call."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from typing import NamedTuple

import asyncpg
import msgspec

from bigbrotr.core.calls.base import UPKEEP_S, Calls, by_column, relay_ids
from bigbrotr.core.calls.visits import RECORD_COVERAGE, Visit, coverage_columns
from bigbrotr.core.pool import Connection
from bigbrotr.models.coverage import Gap, Proof
from bigbrotr.models.event import Event, EventRelay, storable, tag_values
from bigbrotr.models.mentions import mentioned

TURN_S = 5  # a page takes some hundredths of a second
TURN = 0x62_69_67_74_75_72_6E  # "bigturn": an advisory lock


class Rejected(NamedTuple):
    """Events of one relay that were refused for one reason."""

    reason: str
    times: int
    sample: bytes


class EventCalls(Calls):
    """Events, and which relays hold them."""

    notes_sightings = True  # of relays that new events name, for the finder

    async def insert_events(self, pairs: Sequence[EventRelay]) -> tuple[int, int]:
        """Stores events, the relays that hold them and the pairs of both.

        Each batch of `max_batch_size` is stored whole or not at all. Returns how many events were
        new and how many were not.
        """
        inserted = 0
        for batch in self._batches(pairs):
            inserted += await self._insert_batch(batch)
        return inserted, len(pairs) - inserted

    async def _insert_batch(self, batch: Sequence[EventRelay]) -> int:
        kept = await self._kept_columns()

        async def store(connection: Connection) -> int:
            ids = await relay_ids(connection, {pair.relay for pair in batch})
            inserted = 0
            if len(ids) > 1:  # several runs through the keys: no common order with other writers
                await connection.execute("SELECT public.lock_presence(true)")
            ordered = sorted(
                batch,
                key=lambda p: (ids[p.relay.url], p.event.created_at, p.event.id, -p.seen_at),
            )
            for relay_id, group in groupby(ordered, key=lambda p: ids[p.relay.url]):
                seen = {pair.event: pair.seen_at for pair in group}  # the earliest comes last
                columns = _event_columns(
                    list(seen), list(seen.values()), kept, self.notes_sightings
                )
                inserted += await connection.fetchval(_INSERT_EVENTS, relay_id, *columns)
            return inserted

        return await self._transact(store)

    async def note_presence(
        self, visit: Visit, keys: Sequence[tuple[int, bytes]], seen_at: int
    ) -> list[int]:
        """Notes that the relay holds those of the events that are archived.

        `keys` are (created_at, id), sorted. Returns the positions of the others.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was noted.
        """
        unknown = await self._retry(
            lambda: self.pool.fetchval(
                "SELECT public.note_presence($1, $2, $3, $4, $5)",
                visit.relay_id,
                visit.epoch,
                [key[0] for key in keys],
                [key[1] for key in keys],
                seen_at,
            )
        )
        return [position - 1 for position in unknown]

    async def store_page(
        self,
        visit: Visit,
        events: Sequence[Event],
        *,
        proofs: Sequence[Proof] = (),
        gaps: Sequence[Gap] = (),
        rejected: Sequence[Rejected] = (),
        identity: str | None = None,
        now: int,
    ) -> tuple[int, int]:
        """Stores what one page brought and what it proved, in one transaction.

        `events` are sorted by (created_at, id). `identity` is the public key, in hex, with which
        the relay answered, if it insisted on one. Returns how many events and pairs were new.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was stored.
        """
        coverage = coverage_columns(visit, proofs, gaps, identity, now)
        if not events and not rejected:
            await self._retry(lambda: self.pool.execute(RECORD_COVERAGE, *coverage))
            return 0, 0
        kept = await self._kept_columns()
        columns = _event_columns(events, [now] * len(events), kept, self.notes_sightings)
        row = await self._retry(
            lambda: self.pool.fetchrow(_STORE_PAGE, *coverage, *by_column(rejected, 3), *columns)
        )
        assert row is not None
        return row["new_events"], row["new_pairs"]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Holds, among all processes, the one turn to verify and store new events; yields whether
        it had to be waited for. It takes a connection of the pool for itself.

        Turns save work; nothing depends on them. After TURN_S one goes on without: the process
        whose turn it is may be stopped. So does a pool that has no connection to spare.
        """
        if self.pool.settings.limits.max_size < 2:
            yield False
            return
        async with self.pool.transaction() as connection:
            is_free = await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", TURN)
            if not is_free:
                with suppress(asyncpg.LockNotAvailableError):
                    await connection.execute(f"SET LOCAL lock_timeout = '{TURN_S}s'")
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", TURN)
            yield not is_free

    async def some_known(self, url: str, most: int, now: int) -> tuple[list[bytes], list[bytes]]:
        """Up to `most` authors, those first who say that they write to the relay at `url`, and ids
        of events that are archived."""
        row = await self.pool.fetchrow(
            "SELECT * FROM public.some_known($1, $2, $3)", url, most, now
        )
        assert row is not None
        return row["authors"] or [], row["ids"] or []

    async def delete_orphan_events(self) -> int:
        """Deletes the events that no relay of ours holds; returns how many."""
        return await self._count("SELECT public.delete_orphan_events()", timeout=UPKEEP_S)


_INSERT_EVENTS = """
    SELECT new_events
    FROM public.insert_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""


# One statement, so one way there and back, and a transaction of its own. The fence comes last.
_STORE_PAGE = """
    SELECT e.new_events, e.new_pairs,
        public.record_rejected($1, $10, $11, $12, $9),
        public.record_coverage($1, $2, $3, $4, $5, $6, $7, $8, $9)
    FROM public.insert_events(
        $1::integer, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24
    ) AS e
"""


def _event_columns(
    events: Sequence[Event], seen_ats: Sequence[int], kept: frozenset[str], notes_sightings: bool
) -> list[object]:
    """What `insert_events` takes after the relay's number: sorted events as columns."""

    def column(name: str, value: Callable[[Event], object]) -> list[object] | None:
        return [value(event) for event in events] if name in kept else None

    named = [
        (url, position)
        for position, event in enumerate(events if notes_sightings else (), 1)
        for url in mentioned(event.kind, event.tags, event.content)
    ]
    return [
        seen_ats,
        [event.created_at for event in events],
        [event.kind for event in events],
        [event.id for event in events],
        [event.pubkey for event in events],
        column("sig", lambda event: event.sig),
        column("tags", _tags_json),
        column("tagvalues", _tagvalues_literal),
        column("content", lambda event: storable(event.content) if event.raw else event.content),
        column("raw", lambda event: event.raw) if any(event.raw for event in events) else None,
        *by_column(named, 2),
    ]


def _tags_json(event: Event) -> str:
    tags = _storable_tags(event) if event.raw else event.tags
    return msgspec.json.encode(tags).decode()


def _tagvalues_literal(event: Event) -> str:
    """The indexed tags as PostgreSQL writes a text array; rows differ in length, so no text[][]."""
    values = tag_values(_storable_tags(event) if event.raw else event.tags)
    if not values:
        return "{}"
    text = '","'.join(values)
    if "\\" in text or text.count('"') > 2 * len(values) - 2:
        text = '","'.join(value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return f'{{"{text}"}}'


def _storable_tags(event: Event) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(storable, tag)) for tag in event.tags)
