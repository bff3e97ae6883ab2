"""Imports: events that a file has brought, and what is known of the file."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import asyncpg
import msgspec

from bigbrotr.core.calls import event_rows
from bigbrotr.core.calls.base import Calls, relay_ids, value_of
from bigbrotr.core.calls.event_rows import Rows
from bigbrotr.core.calls.events import columns_beside_rows, copy_rows, event_columns
from bigbrotr.core.pool import Connection
from bigbrotr.models.event import Event
from bigbrotr.models.relay import Relay


class Import(NamedTuple):
    """An import that has begun. `relay_id` and `as_of` (Unix seconds): who held the events, and
    when; None and 0: nobody says."""

    id: int
    relay_id: int | None = None
    as_of: int = 0


class ImportCalls(Calls):
    """Events of files."""

    notes_mentions = True

    async def begin_import(
        self,
        source: str,
        name: str,
        file: str,
        sha256: bytes | None,
        held_by: Relay | None,
        as_of: int | None,
        now: int,
    ) -> Import:
        """Notes an import, unless its source was imported before; and its relay."""

        async def begin(connection: Connection) -> Import:
            relay_id = None
            if held_by is not None:
                relay_id = (await relay_ids(connection, [held_by]))[held_by.url]
            import_id = await value_of(
                connection,
                "begin_import",
                p_source=source,
                p_name=name,
                p_file=file,
                p_sha256=sha256,
                p_held_by=None if held_by is None else held_by.url,
                p_as_of=as_of,
                p_now=now,
            )
            return Import(import_id, relay_id, as_of or 0)

        return await self._transact(begin)

    async def finish_import(
        self,
        import_id: int,
        sha256: bytes,
        lines: int,
        events: int,
        invalid: Mapping[str, int],
        now: int,
    ) -> None:
        """Notes that an import has come to its end, and what the file held."""
        await self._value(
            "finish_import",
            p_import_id=import_id,
            p_sha256=sha256,
            p_lines=lines,
            p_events=events,
            p_invalid=msgspec.json.encode(invalid).decode(),
            p_now=now,
        )

    async def note_imported(
        self, import_: Import, keys: Sequence[tuple[int, bytes]], *, is_held: bool = True
    ) -> list[int]:
        """Notes of those of the events that are archived that the import has brought them, and
        with `is_held` that its relay held them.

        `keys` are (created_at, id), sorted. Returns the positions of the others.
        """
        unknown = await self._value(
            "note_imported",
            p_import_id=import_.id,
            p_relay_id=import_.relay_id if is_held else None,
            p_created_ats=[key[0] for key in keys],
            p_ids=[key[1] for key in keys],
            p_seen_at=import_.as_of,
        )
        return [position - 1 for position in unknown]

    async def proven_after(self, relay_id: int, at: int) -> list[tuple[int, int]]:
        """The seconds, half-open and sorted, of which a relay was proven complete after `at`."""
        spans = await self._value("proven_after", p_relay_id=relay_id, p_at=at)
        return [(span.lower, span.upper) for span in spans]

    async def find_unknown(self, keys: Sequence[tuple[int, bytes]]) -> list[int]:
        """Returns the positions of those events that are not archived; `keys` as above."""
        unknown = await self._value(
            "find_unknown", p_created_ats=[key[0] for key in keys], p_ids=[key[1] for key in keys]
        )
        return [position - 1 for position in unknown]

    async def store_imported(
        self, import_: Import, events: Sequence[Event], *, is_held: bool = True
    ) -> int:
        """Stores verified events, sorted by (created_at, id), that an import has brought; returns
        how many were new. With `is_held`, its relay held them."""
        if not events:
            return 0
        kept = await self._kept_columns()
        copied = event_rows.columns_of(kept)
        if copied is not None:
            with suppress(asyncpg.UniqueViolationError, asyncpg.InternalServerError):
                return await self._copy_imported(import_, Rows.of(events), copied, is_held=is_held)
        relay_id = import_.relay_id if is_held else None
        columns = event_columns(events, [import_.as_of], kept, self.notes_mentions)

        async def store(connection: Connection) -> int:
            row = await connection.fetchrow(_INSERT, relay_id, *columns.values())
            assert row is not None
            # Some were archived meanwhile, under other numbers than were drawn.
            await value_of(
                connection,
                "note_imported",
                p_import_id=import_.id,
                p_relay_id=None,
                p_created_ats=[event.created_at for event in events],
                p_ids=[event.id for event in events],
                p_seen_at=import_.as_of,
            )
            await _mark_page(connection, import_, [], [], row["new_events"], row["new_pairs"])
            return int(row["new_events"])

        return await self._transact(store)

    async def _copy_imported(
        self, import_: Import, rows: Rows, copied: Sequence[str], *, is_held: bool
    ) -> int:
        """Stores events all of which are new; else UniqueViolationError, and nothing was."""
        noted = columns_beside_rows(rows, import_.as_of, copied, self.notes_mentions)
        relay_id = import_.relay_id if is_held else None

        async def store(connection: Connection) -> int:
            nums = noted["p_nums"] = await copy_rows(connection, rows, copied)
            row = await connection.fetchrow(_INSERT, relay_id, *noted.values())
            assert row is not None
            times = rows.created_ats
            await _mark_page(connection, import_, times, nums, row["new_events"], row["new_pairs"])
            return int(row["new_events"])

        return await self._transact(store)


async def _mark_page(
    connection: Connection,
    import_: Import,
    created_ats: Sequence[int],
    nums: Sequence[int],
    new_events: int,
    new_pairs: int,
) -> None:
    await value_of(
        connection,
        "mark_page",
        p_import_id=import_.id,
        p_created_ats=created_ats,
        p_nums=nums,
        p_new_events=new_events,
        p_new_pairs=new_pairs,
    )


_INSERT = """
    SELECT e.new_events, e.new_pairs FROM bigbrotr.insert_events(
        p_relay_id => $1::pg_catalog.int4, p_seen_ats => $2, p_created_ats => $3, p_kinds => $4,
        p_ids => $5, p_pubkeys => $6, p_sigs => $7, p_tags => $8, p_tag_hashes => $9,
        p_tag_ends => $10, p_contents => $11, p_raws => $12, p_nums => $13, p_named => $14,
        p_named_in => $15, p_named_kinds => $16, p_named_times => $17
    ) AS e
"""
