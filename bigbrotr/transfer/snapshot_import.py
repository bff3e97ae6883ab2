"""Imports a snapshot: its events are verified, what it says of relays is taken as its word.

Events and presence of two archives that exchange snapshots end up equal, as far as none of them has
proof that contradicts. What the other has proven stands apart, under the name of the source, until
the operator says that it is to be trusted.
"""

import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio.to_thread
from msgspec import Struct, field

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.exchange import DroppedEvent, HeldEvent, Proof
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import MAX_CREATED_AT, MAX_SEEN_AT
from bigbrotr.models.relay import Network, Relay
from bigbrotr.transfer import manifest as manifests
from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import COVERAGE, DROPPED, EVENTS, PRESENCE, SURROGATES, Dataset
from bigbrotr.transfer.import_worker import Outcome
from bigbrotr.transfer.importing import Importer
from bigbrotr.transfer.lines import Source
from bigbrotr.transfer.manifest import File, Manifest
from bigbrotr.transfer.parquet_source import ParquetSource, Part

SEEN_SINCE = parquet.SEEN_SINCE  # earlier times are none that presence can hold
ROWS = 50_000  # of pairs, that are noted at once
HOWS = ("paging", "finish", "reconciliation", "import")
MOST_NAME = 2048  # characters of a condition


class Imported(Struct):
    """What has become of a snapshot."""

    outcome: Outcome = field(default_factory=Outcome)
    damage: str | None = None  # of a file of events, which had been as the manifest says
    pairs: int = 0  # new ones
    dropped: int = 0
    proofs: int = 0
    trusted: int = 0
    unusable: int = 0  # rows that cannot be true, or speak of relays that are none
    local: int = 0  # rows of relays in local networks, which are not taken from others


class Step(Struct, frozen=True):
    """How far an import is."""

    words: str
    share: float


class SnapshotImporter:
    """Imports a snapshot into an archive."""

    def __init__(
        self,
        brotr: Brotr,
        importer: Importer,
        folder: Path,
        name: str,
        *,
        takes_local: bool = False,
        trusts: bool = False,
        on_step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """`name`: of the source; `takes_local`: relays of local networks as well; `trusts`: what it
        says is proven counts as proven here."""
        self._brotr = brotr
        self._importer = importer
        self._folder = folder
        self._name = name
        self._takes_local = takes_local
        self._trusts = trusts
        self._say = on_step
        self._relays: dict[str, int | None] = {}  # numbers; None: it is not taken
        self._local: set[str] = set()
        self._imported = Imported()

    async def run(self) -> Imported:
        """Imports all of it; a repetition changes nothing.

        Raises:
            ConfigError: it is no snapshot.
            DamagedError: it is not as it was written; nothing was imported.
        """
        parquet.require()
        found = await anyio.to_thread.run_sync(self._checked)
        self._relays = dict(await self._brotr.known_relays())
        await self._events(found)
        now = int(time.time())
        for dataset in (DROPPED, PRESENCE):  # what is held again begins after it was dropped
            for file in found.files:
                if file.dataset is dataset:
                    await self._pairs(file, min(now, found.taken_at))
        for file in found.files:
            if file.dataset is COVERAGE:
                await self._coverage(file, min(now, found.taken_at))
        if self._trusts:
            self._imported.trusted = await self._brotr.trust_coverage(self._name, now)
        return self._imported

    def _checked(self) -> Manifest:
        found = manifests.load(self._folder)
        if found is None:
            raise ConfigError(f"{self._folder} is no snapshot: there is no {manifests.NAME}")
        total = sum(each.bytes for each in found.files) or 1
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            self._say(Step("comparing files with their hashes", done / total))

        faults = [
            words for each in found.files if (words := manifests.wrong(self._folder, each, count))
        ]
        if faults:
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise parquet.DamagedError(
                f"{self._folder} is damaged, nothing was imported: {faults[0]}{more}"
            )
        return found

    async def _events(self, found: Manifest) -> None:
        parts = [
            Part(self._folder / each.name, each.dataset, each.rows)
            for each in found.files
            if each.dataset in (EVENTS, SURROGATES)
        ]
        source = ParquetSource(str(self._folder / manifests.NAME), parts)

        def tell(_: Source, outcome: Outcome) -> None:
            words = f"{outcome.lines:,} of {source.size:,} events, {outcome.new:,} new"
            self._say(Step(words, outcome.lines / max(1, source.size)))

        self._imported.outcome = await self._importer.run(source, tell)
        self._imported.damage = source.damage

    # What it says of relays

    async def _pairs(self, file: File, latest: int) -> None:
        rows = _rows(self._folder / file.name, file.dataset, ROWS)
        done = 0
        while (batch := await anyio.to_thread.run_sync(next, rows, None)) is not None:
            done += len(batch)
            events = [event for row in batch if (event := self._pair(row, latest)) is not None]
            await self._number({relay for relay, _ in events})
            known = [(number, event) for url, event in events if (number := self._relays.get(url))]
            self._imported.unusable += len(batch) - len(events)
            self._imported.local += sum(url in self._local for url, _ in events)
            known.sort(key=lambda pair: (pair[0], pair[1][0], pair[1][1]))
            for number, group in groupby(known, key=lambda pair: pair[0]):
                some = [event for _, event in group]
                size = self._brotr.max_batch_size
                for start in range(0, len(some), size):
                    await self._note(number, file.dataset, some[start : start + size])
            self._say(Step(f"{file.name}: {done:,} rows", done / max(1, file.rows)))

    async def _note(self, number: int, dataset: Dataset, some: list[Any]) -> None:
        if dataset is PRESENCE:
            self._imported.pairs += await self._brotr.note_held(number, some)
        else:
            self._imported.dropped += await self._brotr.note_dropped(number, some)

    def _pair(
        self, row: dict[str, Any], latest: int
    ) -> tuple[str, HeldEvent | DroppedEvent] | None:
        """What a row says; None: it cannot be so."""
        try:
            born, event_id, seen_at = row["created_at"], row["event_id"], row["seen_at"]
            if not 0 <= born <= MAX_CREATED_AT or not SEEN_SINCE <= seen_at <= latest:
                return None
            if "dropped_at" not in row:
                return row["relay"], HeldEvent(born, event_id, min(seen_at, MAX_SEEN_AT))
            if not seen_at <= row["dropped_at"] <= latest:
                return None
            return row["relay"], DroppedEvent(born, event_id, seen_at, row["dropped_at"])
        except TypeError:  # NULL where nothing may be
            return None

    async def _coverage(self, file: File, latest: int) -> None:
        proofs: list[tuple[str, Any]] = []
        rows = _rows(self._folder / file.name, COVERAGE, ROWS)
        while (batch := await anyio.to_thread.run_sync(next, rows, None)) is not None:
            for row in batch:
                since, until = row["since"], row["until"]
                is_span = since is None or until is None or since < until
                try:
                    is_sound = row["proven_at"] <= latest and len(row["filter"]) <= MOST_NAME
                except TypeError:
                    is_sound = False
                if is_span and is_sound and row["how"] in HOWS:
                    proofs.append((row["relay"], row))
                else:
                    self._imported.unusable += 1
        await self._number({url for url, _ in proofs})
        taken = [
            Proof(number, row["filter"], row["how"], row["since"], row["until"], row["proven_at"])
            for url, row in proofs
            if (number := self._relays.get(url))
        ]
        self._imported.proofs = await self._brotr.take_coverage(self._name, taken)

    async def _number(self, urls: set[str]) -> None:
        """Learns the numbers of relays; those that are new here are added."""
        new = []
        for url in urls - self._relays.keys():
            self._relays[url] = None
            try:
                relay = Relay(url)
            except (ValueError, TypeError):
                continue
            if relay.url != url:
                continue
            if relay.network is Network.LOCAL and not self._takes_local:
                self._local.add(url)
            else:
                new.append(relay)
        self._relays.update(await self._brotr.number_relays(new))


def _rows(path: Path, dataset: Dataset, most: int) -> Iterator[list[dict[str, Any]]]:
    for columns in parquet.read(path, dataset, most):
        names = list(columns)
        yield [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
