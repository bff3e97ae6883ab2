"""A worker of an import: a process that decodes, verifies and stores the lines that it is given.

Events take the way of those that relays send: the decoder of frames, the proof of the id, a look at
what is archived, the verification of the rest in batches, and one transaction for a page.
"""

import asyncio
import re
import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence

import asyncpg
from msgspec import Struct

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.event_rows import Rows
from bigbrotr.core.calls.imports import Import
from bigbrotr.core.defects import POISON, is_outside
from bigbrotr.errors import DatabaseError, leaves
from bigbrotr.models.burst import Burst
from bigbrotr.models.columns import Columns, Found
from bigbrotr.models.event import WireEvent, identify
from bigbrotr.models.plain import Scan
from bigbrotr.nostr.message import EventMessage, decode
from bigbrotr.services.sync.ingest import Batch, heard_of
from bigbrotr.services.sync.verifier import Here
from bigbrotr.transfer.lines import Piece
from bigbrotr.transfer.process import begin

PAGE = 1000  # events that are stored at once
WAITS_S = (0.5, 2.0)  # before a piece is tried again
FIRST_LINES = 5  # of each reason, that are told

# What clients send to relays has no subscription.
_offered = re.compile(rb'\s*\[\s*"EVENT"\s*,\s*(?=\{)')


class Order(Struct, frozen=True):
    """What is done with all lines of an import. `proven`: seconds of which its relay was proven
    complete after it held these events: sorted, half-open. `is_dry`: nothing is written."""

    import_: Import
    proven: tuple[tuple[int, int], ...] = ()
    is_dry: bool = False


class Outcome(Struct):
    """What has become of some lines."""

    lines: int = 0
    events: int = 0  # valid
    repeats: int = 0  # of events that were on a line shortly before
    new: int = 0
    outdated: int = 0  # that the relay is known to hold no longer
    invalid: dict[str, int] = {}
    first: dict[str, list[int]] = {}  # the lowest line numbers of each reason

    def add(self, other: "Outcome") -> None:
        """Adds another one."""
        self.lines += other.lines
        self.events += other.events
        self.repeats += other.repeats
        self.new += other.new
        self.outdated += other.outdated
        for reason, count in other.invalid.items():
            self.invalid[reason] = self.invalid.get(reason, 0) + count
            lines = self.first.get(reason, []) + other.first[reason]
            self.first[reason] = sorted(lines)[:FIRST_LINES]


class LineBatch(Batch):
    """A batch of events that knows on which lines of a file they stand."""

    def __init__(self) -> None:
        super().__init__({})
        self.outcome = Outcome()
        self.line_of: dict[bytes, int] = {}  # by id
        self._line = 0

    def take(self, lines: Sequence[int], frames: Sequence[bytes]) -> None:
        """Takes lines with events, or rejects them."""
        burst = Burst.of(frames)
        scan = Scan(burst, "")
        events: Columns[Found] = Columns()
        of_line: list[int] = []
        place = 0
        while place < len(frames):
            if (end := scan.plain_until(place)) > place:
                events.take(scan, place, end)
                of_line += lines[place:end]
            elif (found := self._found_in(lines[place], frames[place])) is not None:
                events.append(found)
                of_line.append(lines[place])
            place = max(place + 1, end)
        first: dict[bytes, int] = {}  # places, by id
        for place, event_id in enumerate(events.ids):
            if (before := first.setdefault(event_id, place)) != place:
                self.outcome.repeats += 1
                if heard_of(events[place]) != heard_of(events[before]):
                    self.copies.setdefault(event_id, []).append(events[place])
        self.line_of |= {event_id: of_line[place] for event_id, place in first.items()}
        kept = set(first.values())
        self.events = events.pick(array("I", filter(kept.__contains__, events.order()[0])))
        self.outcome.events += len(kept)

    def _found_in(self, line: int, frame: bytes) -> Found | None:
        """Returns the event on a line that is not plain, or rejects it."""
        self._line = line
        message = decode(frame)
        if not isinstance(message, EventMessage):
            self.reject(getattr(message, "reason", "malformed: no event"), b"")
            return None
        event = message.event
        try:
            return identify(event) if isinstance(event, WireEvent) else event
        except ValueError as error:
            self.reject(str(error), b"")
            return None

    def reject(self, reason: str, sample: bytes, count: int = 1) -> None:
        """Counts what is no valid event, by the first words of the reason, and notes its line."""
        super().reject(reason, sample, count)
        known = reason.partition(":")[0]
        reason = known if known in self.rejected else "malformed"
        self._count(reason, self.line_of.get(sample, self._line), count)

    def refuse(self, event_id: bytes) -> None:
        """Counts a valid event that the database cannot hold, and notes its line."""
        self._count("refused by the database", self.line_of[event_id], 1)

    def _count(self, reason: str, line: int, count: int) -> None:
        outcome = self.outcome
        outcome.invalid[reason] = outcome.invalid.get(reason, 0) + count
        lines = outcome.first.setdefault(reason, [])
        lines.append(line)
        del lines[FIRST_LINES:]


def frame_of(line: bytes) -> bytes:
    """The frame that a relay would send for a line: a bare event, or a frame either way."""
    if line.startswith(b"{"):
        return b'["EVENT","",%b]' % line
    return _offered.sub(b'["EVENT","",', line, count=1)


class ImportWorker:
    """Decodes, verifies and stores lines."""

    def __init__(self, brotr: Brotr, order: Order) -> None:
        self._brotr, self._order = brotr, order
        self._verifier = Here()
        self._starts = [since for since, _ in order.proven]

    async def work(self, piece: Piece) -> Outcome:
        """Does so with a piece of a file; what was done is stored when it returns."""
        await self._brotr.pool.connect()  # the first time
        batch = LineBatch()
        lines = piece.data.split(b"\n")[:-1]
        for number in piece.too_large:
            batch.line_of[b""] = number
            batch.reject("too large", b"")
        batch.line_of.pop(b"", None)
        frames = [
            (number, frame_of(text))
            for number, line in enumerate(lines, piece.first)
            if (text := line.strip())
        ]
        batch.take([number for number, _ in frames], [frame for _, frame in frames])
        batch.outcome.lines = len(lines)
        events, copies = batch.events, batch.copies
        for start in range(0, len(events), PAGE):
            batch.events, batch.copies = events.part(start, start + PAGE), copies
            batch.fresh = Rows()
            await self._store(batch)
        return batch.outcome

    async def _store(self, batch: LineBatch) -> None:
        """Notes the archived events of a batch, verifies and stores the others."""
        unknown = await self._note(batch.events.keys)
        batch.events = batch.events.pick(array("I", unknown))
        wanted = len(batch.events)
        await batch.verify(self._verifier)
        batch.outcome.events -= wanted - len(batch.fresh)
        if self._order.is_dry:
            batch.outcome.new += len(batch.fresh)
            return
        for is_held, some in self._parts(batch.fresh):
            try:
                new = await self._brotr.store_imported(self._order.import_, some, is_held=is_held)
            except POISON:
                new = await self._store_singly(batch, some, is_held=is_held)
            batch.outcome.new += new
            batch.outcome.outdated += 0 if is_held else len(some)

    async def _store_singly(self, batch: LineBatch, events: Rows, *, is_held: bool) -> int:
        """Stores events one by one, since the database refuses one of them; returns how many."""
        new = 0
        for event in events:
            try:
                new += await self._brotr.store_imported(
                    self._order.import_, [event], is_held=is_held
                )
            except POISON:
                batch.outcome.events -= 1
                batch.refuse(event.id)
        return new

    async def _note(self, keys: list[tuple[int, bytes]]) -> list[int]:
        """Notes those that are archived; returns the positions of the others."""
        if self._order.is_dry:
            return await self._brotr.find_unknown(keys)
        import_ = self._order.import_
        if not self._starts:
            return await self._brotr.note_imported(import_, keys)
        unknown: list[int] = []
        for is_held in (True, False):
            places = [n for n, key in enumerate(keys) if self._is_held(key[0]) == is_held]
            some = [keys[n] for n in places]
            found = await self._brotr.note_imported(import_, some, is_held=is_held) if some else []
            unknown += [places[n] for n in found]
        return sorted(unknown)

    def _parts(self, events: Rows) -> list[tuple[bool, Rows]]:
        """The events that the relay may hold still, and those that a newer proof says it does
        not."""
        if not self._starts:
            return [(True, events)]
        held = [self._is_held(at) for at in events.created_ats]
        return [
            (
                is_held,
                events.pick(array("I", [n for n, each in enumerate(held) if each is is_held])),
            )
            for is_held in (True, False)
        ]

    def _is_held(self, created_at: int) -> bool:
        place = bisect_right(self._starts, created_at) - 1
        return place < 0 or created_at >= self._order.proven[place][1]


_runner: asyncio.Runner | None = None
_worker: ImportWorker | None = None


def start_worker(config: Config, dsn: str | None, parent: int, order: Order) -> None:
    """Makes this process a worker of `parent`: called once in it, before its first lines."""
    global _runner, _worker  # the process is the object
    _runner, pool = begin(config, dsn, parent)
    brotr = Brotr(pool, notes_mentions=config.finder.enabled)
    _worker = ImportWorker(brotr, order)


def run_piece(piece: Piece) -> Outcome:
    """Works on a piece in this process.

    Raises:
        DatabaseError: the database went away.
    """
    assert _runner is not None
    assert _worker is not None
    for wait_s in (*WAITS_S, None):
        try:
            return _runner.run(_worker.work(piece))
        except* (
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ) as group:
            lost = leaves(group)[0]
        if wait_s is None or not is_outside(lost):
            break
        time.sleep(wait_s)  # it may be there again: what was stored is known by then
    raise DatabaseError(f"import: {lost}") from lost
