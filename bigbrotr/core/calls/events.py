"""Events and presence: what a page brought, in one call."""

from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import msgspec

from bigbrotr.core.calls import event_rows
from bigbrotr.core.calls.base import Calls, by_column, listed, relay_ids, value_of
from bigbrotr.core.calls.event_rows import Rows
from bigbrotr.core.calls.visits import Visit, coverage_of
from bigbrotr.core.codes import SCHEMA
from bigbrotr.core.pool import Connection
from bigbrotr.models.coverage import Gap, Proof
from bigbrotr.models.event import Event, EventRelay, tag_hashes
from bigbrotr.models.mentions import mentioned

# Somebody else may store some of a page's events after they were looked for, or nobody has looked:
# those are noted then, and the others copied again; row by row, it takes twice as long.
TIMES_COPIED = 2
ORPHAN_BATCH = 10_000  # events that are looked at in one transaction
INGEST_LOCK_S = 5.0  # to wait for the lock at most; a page holds it for some hundredths of a second

Turn: TypeAlias = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """Waits for nothing."""


class Rejected(NamedTuple):
    """Events of one relay that were refused for one reason."""

    reason: str
    times: int
    sample: bytes


class EventCalls(Calls):
    """Events, and which relays hold them."""

    notes_mentions = True  # of relays that new events name, for the finder

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
            # First, as a migration does. Several runs through the keys have no common order with
            # other writers.
            relays = {pair.relay for pair in batch}
            await connection.execute(
                "LOCK TABLE bigbrotr.presence_lock IN EXCLUSIVE MODE"
                if len(relays) > 1
                else "LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE"
            )
            ids = await relay_ids(connection, relays)
            inserted = 0
            ordered = sorted(
                batch,
                key=lambda p: (ids[p.relay.url], p.event.created_at, p.event.id, -p.seen_at),
            )
            for relay_id, group in groupby(ordered, key=lambda p: ids[p.relay.url]):
                seen = {pair.event: pair.seen_at for pair in group}  # the earliest comes last
                columns = event_columns(list(seen), list(seen.values()), kept, self.notes_mentions)
                inserted += await value_of(
                    connection, "insert_events", p_relay_id=relay_id, **columns
                )
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
        unknown = await self._value(
            "note_presence",
            p_relay_id=visit.relay_id,
            p_epoch=visit.epoch,
            p_created_ats=[key[0] for key in keys],
            p_ids=[key[1] for key in keys],
            p_seen_at=seen_at,
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
        turn: Turn = at_once,
    ) -> int:
        """Stores what one page brought and what it proved.

        `events` are sorted by (created_at, id). `identity` is the public key, in hex, with which
        the relay answered, if it insisted on one. `turn` is waited for, once or more often, before
        anything is noted of the events; they may be copied before, and are not if it raises.
        Returns how many events were new. These are stored in one transaction with all that is
        beside them; that the relay holds the others may be noted before.

        Raises:
            LeaseLostError: another process has taken over the relay; no event was stored.
        """
        coverage = coverage_of(visit, proofs, gaps, identity, now)
        rest = listed((*coverage.values(), *by_column(rejected, 3)))
        kept = await self._kept_columns()
        if (copied := event_rows.columns_of(kept)) is not None:
            rows = Rows.of(events)
            for _ in range(TIMES_COPIED):
                if not rows:
                    break
                # A cluster calls it an internal error that a key is there already; if it was
                # another, it comes again below.
                with suppress(asyncpg.UniqueViolationError, asyncpg.InternalServerError):
                    return await self._copy_page(rows, copied, rest, now, turn)
                await turn()
                unknown = await self.note_presence(visit, rows.events.keys, now)
                rows = rows.pick(array("I", unknown))
            events = rows
        await turn()
        if not events and not rejected:
            await self._value("record_coverage", **coverage)
            return 0
        columns = event_columns(events, [now], kept, self.notes_mentions)
        row = await self._retry(lambda: self.pool.fetchrow(_STORE_PAGE, *rest, *columns.values()))
        assert row is not None
        return int(row["new_events"])

    async def _copy_page(
        self,
        rows: Rows,
        copied: Sequence[str],
        rest: Sequence[object],
        now: int,
        turn: Turn,
    ) -> int:
        """Stores a page all of whose events are new; else UniqueViolationError, and nothing was."""
        noted = columns_beside_rows(rows, now, copied, self.notes_mentions)

        async def store(connection: Connection) -> int:
            noted["p_nums"] = await copy_rows(connection, rows, copied)
            await turn()
            row = await connection.fetchrow(_STORE_PAGE, *rest, *noted.values())
            assert row is not None
            return int(row["new_events"])

        return await self._transact(store)

    @asynccontextmanager
    async def ingest_lock(self) -> AsyncIterator[bool]:
        """Takes the archive-wide ingest lock for the length of the block; yields True if it waited.

        It takes a connection of the pool for itself. The lock saves work, and nothing depends on
        it. After INGEST_LOCK_S the block runs without it, since the process that holds it may be
        stopped; so it does in a pool that has no connection to spare.
        """
        if self.pool.settings.limits.max_size < 2:
            yield False
            return
        async with self.pool.transaction() as connection:
            wait_ms = int(INGEST_LOCK_S * 1000)
            yield bool(await value_of(connection, "take_ingest_lock", p_wait_ms=wait_ms))

    async def some_known(self, url: str, most: int, now: int) -> tuple[list[bytes], list[bytes]]:
        """Up to `most` authors, those first who say that they write to the relay at `url`, and ids
        of events that are archived."""
        row = await self._row("some_known", p_url=url, p_most=most, p_now=now)
        assert row is not None
        return row["authors"] or [], row["ids"] or []

    async def delete_orphan_events(self) -> int:
        """Deletes the events that no relay of ours holds; returns how many.

        It reads every event, a batch a transaction: others go on writing meanwhile.
        """
        gone: int = 0
        at, event_id = 0, b""
        while True:
            row = await self._row(
                "delete_orphan_events", p_after_at=at, p_after_id=event_id, p_limit=ORPHAN_BATCH
            )
            assert row is not None
            gone += row["gone"]
            if row["last_id"] is None:
                return gone
            at, event_id = row["last_at"], row["last_id"]


async def copy_rows(connection: Connection, rows: Rows, columns: Sequence[str]) -> list[int]:
    """Copies new events into the archive; returns their numbers, for `insert_events`."""
    nums: list[int] = await value_of(connection, "draw_numbers", p_count=len(rows))
    await connection.copy_to_table(
        "events_stored",
        schema_name=SCHEMA,
        columns=columns,
        source=stream_of(rows.copied(nums, columns)),
        format="binary",
    )
    return nums


async def stream_of(data: bytes) -> AsyncIterator[bytes]:
    """What asyncpg takes as a source: bytes alone would name a file."""
    yield data


# One statement: where nothing is copied before it, one way there and back, and a transaction of its
# own. record_coverage, which checks the lease, comes last.
_STORE_PAGE = """
    SELECT e.new_events, e.new_pairs,
        bigbrotr.record_rejected(
            p_relay_id => $1, p_reasons => $10, p_counts => $11, p_samples => $12, p_now => $9),
        bigbrotr.record_coverage(
            p_relay_id => $1, p_epoch => $2, p_spans => $3, p_hows => $4, p_gap_spans => $5,
            p_gap_reasons => $6, p_gap_details => $7, p_identity => $8, p_now => $9)
    FROM bigbrotr.insert_events(
        p_relay_id => $1::pg_catalog.int4, p_seen_ats => $13, p_created_ats => $14, p_kinds => $15,
        p_ids => $16, p_pubkeys => $17, p_sigs => $18, p_tags => $19, p_tag_hashes => $20,
        p_tag_ends => $21, p_contents => $22, p_raws => $23, p_nums => $24, p_named => $25,
        p_named_in => $26, p_named_kinds => $27, p_named_times => $28
    ) AS e
"""


def columns_beside_rows(
    rows: Rows, seen_at: int, copied: Sequence[str], notes_mentions: bool
) -> dict[str, Any]:
    """What `insert_events` takes beside the relay's number, of sorted events that were copied; but
    for their numbers."""
    columns = event_columns((), [seen_at], frozenset(), notes_mentions=False)
    columns["p_created_ats"] = rows.created_ats
    columns["p_ids"] = rows.ids
    columns["p_kinds"] = columns["p_pubkeys"] = None  # they are in the rows
    if notes_mentions:
        columns |= mentions_of(rows)
    columns["p_raws"] = None if copied is event_rows.ESSENTIAL else rows.raws
    return columns


def mentions_of(rows: Rows) -> dict[str, Any]:
    """The relays that new events name, each once: the same few are named all the time."""
    named: dict[str, list[int]] = {}  # its first event's kind, and how often
    for place, times, urls in rows.named():
        for url in urls:
            if (known := named.get(url)) is not None:
                known[1] += times
            else:
                named[url] = [rows.events.kind(place), times]
    kinds, counts = by_column(list(named.values()), 2)
    return {
        "p_named": list(named),
        "p_named_in": None,
        "p_named_kinds": kinds,
        "p_named_times": counts,
    }


def event_columns(
    events: Sequence[Event], seen_ats: Sequence[int], kept: frozenset[str], notes_mentions: bool
) -> dict[str, Any]:
    """What `insert_events` takes beside the relay's number: sorted events as columns. `seen_ats`:
    one time for all, or as many as there are events."""
    rows = events if isinstance(events, Rows) else None  # of which no event need be made
    whole = list(events) if kept or rows is None else []

    def column(name: str, value: Callable[[Event], object]) -> list[object] | None:
        return [value(event) for event in whole] if name in kept else None

    kinds = [event.kind for event in whole] if rows is None else rows.kinds
    named = [
        (url, position, kind)
        for position, kind in enumerate(kinds if notes_mentions else (), 1)
        for url in (
            mentioned(kind, whole[position - 1].tags, whole[position - 1].content)
            if rows is None
            else rows.urls(position - 1)
        )
    ]
    has_raw = any(event.raw for event in whole)
    hashes: list[int] | None = None
    hash_ends: list[int] | None = None
    if "tags" in kept:
        hashes, hash_ends = [], []
        for event in whole:
            hashes += tag_hashes(event_rows.tags_of(event))
            hash_ends.append(len(hashes))
    return {
        "p_seen_ats": seen_ats,
        "p_created_ats": [e.created_at for e in whole] if rows is None else rows.created_ats,
        "p_kinds": kinds,
        "p_ids": [event.id for event in whole] if rows is None else rows.ids,
        "p_pubkeys": [event.pubkey for event in whole] if rows is None else rows.pubkeys,
        "p_sigs": column("sig", lambda event: event.sig),
        "p_tags": column("tags", _tags_json),
        "p_tag_hashes": hashes,
        "p_tag_ends": hash_ends,
        "p_contents": column("content", event_rows.content_of),
        "p_raws": column("raw", lambda event: event.raw) if has_raw else None,
        "p_nums": None,
        "p_named": [url for url, _, _ in named],
        "p_named_in": [position for _, position, _ in named],
        "p_named_kinds": [kind for _, _, kind in named],
        "p_named_times": [1] * len(named),
    }


def _tags_json(event: Event) -> str:
    return msgspec.json.encode(event_rows.tags_of(event)).decode()
