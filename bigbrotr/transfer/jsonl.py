"""Exports events as lines of JSON: in the order of (created_at, id) or reversed, with flat memory.

The walk is cut into windows of time, several of which are read at once, each by a connection; what
they bring is handed on in order.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from bigbrotr.core.calls.base import call_of
from bigbrotr.core.pool import Pool
from bigbrotr.models.query import Position
from bigbrotr.reads.events import NotKeptError, StoredEvent
from bigbrotr.transfer.selection import Selection, relay_ids_of

PAGE = 2000  # events that are read at once
PAGE_BYTES = 2_000_000  # of tags and content; fewer events, if they are large
WINDOW = 8000  # events that are cut off for one reader
AHEAD = 4  # pages that wait behind each reader: what a window has, if its events are not large
PAGE_S = 3600.0  # for one page: where little matches, it is a walk through a window
WEEK_S = 604_800

# Unescaped control characters are no JSON, but Python can be asked to read them.
_decode_raw = json.JSONDecoder(strict=False).decode


class Lines(NamedTuple):
    """Some events, one a line (UTF-8, each line with its end), and which was the last."""

    data: bytes
    number: int
    last: Position


class Window(NamedTuple):
    """A stretch of time, both ends included (Unix seconds)."""

    since: int
    until: int


class Exporter(Struct):
    """Reads a selection of events as lines."""

    pool: Pool
    selection: Selection
    readers: int = 2
    now: int = 0  # as of when the view hides events; 0: the start

    async def run(self, write: Callable[[Lines], Awaitable[None]]) -> int:
        """Hands all events to `write`, in order; returns how many.

        Raises:
            NotKeptError: the selection asks for tags, and the archive keeps none.
            ConfigError: it names a relay that is unknown here.
        """
        if self.selection.query.is_empty:
            return 0
        if self.selection.query.tags and "tags" not in await self.pool.fetchval(
            "SELECT * FROM bigbrotr.kept_columns()"
        ):
            raise NotKeptError("this archive keeps no tags (its profile is lite)")
        self.now = self.now or int(time.time())
        relay_ids = await relay_ids_of(self.pool, self.selection.relays)
        async with anyio.create_task_group() as group:
            number = await self._hand_on(write, relay_ids, group)
        return number  # noqa: RET504 -- the group may swallow exceptions, as types have it

    async def _hand_on(
        self,
        write: Callable[[Lines], Awaitable[None]],
        relay_ids: list[int] | None,
        group: TaskGroup,
    ) -> int:
        """Has the next windows read, and hands on what the first of them brings."""
        number = 0
        pending: deque[asyncio.Queue[Lines | None]] = deque()
        windows = self._windows(relay_ids)
        is_last = False
        # One connection cuts windows.
        readers = max(1, min(self.readers, self.pool.settings.limits.max_size - 1))
        while True:
            while not is_last and len(pending) < readers:
                if (window := await anext(windows, None)) is None:
                    is_last = True
                else:
                    pending.append(asyncio.Queue(AHEAD))
                    group.start_soon(self._read, window, relay_ids, pending[-1])
            if not pending:
                return number
            while (lines := await pending[0].get()) is not None:
                number += lines.number
                await write(lines)
            pending.popleft()

    async def _windows(self, relay_ids: list[int] | None) -> AsyncIterator[Window]:
        """Cuts what is wanted into stretches of about WINDOW archived events."""
        selection = self.selection
        whole = Window(selection.since, selection.until)
        if selection.is_indexed:
            yield whole
            return
        for since, until in await self._stretches(whole, relay_ids):
            while since <= until:
                at = await self._call(
                    "export_bound",
                    p_since=since,
                    p_until=until,
                    p_count=WINDOW,
                    p_is_reversed=selection.is_reversed,
                )
                bound = at[0][0]
                if bound is None:
                    yield Window(since, until)
                    break
                if selection.is_reversed:
                    yield Window(bound, until)
                    until = bound - 1
                else:
                    yield Window(since, bound)
                    since = bound + 1

    async def _stretches(self, whole: Window, relay_ids: list[int] | None) -> list[Window]:
        """The parts of the time in which the wanted relays hold anything."""
        if relay_ids is None:
            return [whole]
        (row,) = await self._call("relay_slices", p_relay_ids=relay_ids)
        found: list[Window] = []
        for part in row[0]:
            start = part * WEEK_S
            end = whole.until if part == 2**31 - 1 else start + WEEK_S - 1
            if found and found[-1].until == start - 1:
                found[-1] = Window(found[-1].since, end)
            else:
                found.append(Window(start, end))
        inside = [Window(max(a, whole.since), min(b, whole.until)) for a, b in found]
        inside = [each for each in inside if each.since <= each.until]
        return inside[::-1] if self.selection.is_reversed else inside

    async def _read(
        self, window: Window, relay_ids: list[int] | None, into: asyncio.Queue[Lines | None]
    ) -> None:
        """Reads one window, page by page; None comes last."""
        selection = self.selection
        since, until = window
        after = selection.after
        while True:
            (row,) = await self._call(
                "export_lines",
                p_since=since,
                p_until=until,
                p_after_at=None if after is None else after.created_at,
                p_after_id=None if after is None else after.id,
                **selection.conditions(relay_ids),
                p_is_reversed=selection.is_reversed,
                p_limit=PAGE,
                p_most_bytes=PAGE_BYTES,
                p_view=selection.view.value,
                p_now=self.now,
            )
            if not row["number"]:
                break
            after = Position(row["last_at"], row["last_id"])
            await into.put(Lines(_whole(row), row["number"], after))
            if selection.is_reversed:
                until = after.created_at
            else:
                since = after.created_at
        await into.put(None)

    async def _call(self, function: str, **arguments: object) -> list[Any]:
        query = call_of(function, *arguments)
        return await self.pool.fetch(query, *arguments.values(), timeout=PAGE_S)


def _whole(row: Any) -> bytes:
    """The lines of a page, with those whose exact bytes columns cannot hold."""
    data: bytes = row["lines"]
    for event_id, raw, sig in zip(
        row["raw_ids"] or (), row["raws"] or (), row["raw_sigs"] or (), strict=True
    ):
        _, pubkey, created_at, kind, *_ = _decode_raw(raw.decode())
        event = StoredEvent(
            created_at, event_id, bytes.fromhex(pubkey), kind, None, None, sig, raw, 0
        )
        data = data.replace(b'{"raw":"%b"}' % event_id.hex().encode(), event.to_json())
    return data + b"\n"
