"""Snapshots: a folder of Parquet files that is kept current, and whose files never change.

What has changed since the snapshot before is written anew, under another name; then the manifest is
exchanged, and what it no longer names goes. Whenever it is interrupted, the manifest names files
that are all there, whole and unchanged::

    DIR/manifest.json                            what is here, see `manifest`
    DIR/events/2024-05.0123456789ab.parquet      a table by month; the hash of the file in its name
    DIR/relays.0123456789ab.parquet              a table that is not divided
    DIR/….unfinished                             what is being written
"""

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from bigbrotr import __version__
from bigbrotr.core.pool import Pool
from bigbrotr.errors import BusyError, ConfigError
from bigbrotr.models.policy import View
from bigbrotr.reads.datasets import Moment, moment
from bigbrotr.transfer import manifest as manifests
from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import BY_MONTH, WHOLE, month_span
from bigbrotr.transfer.manifest import File, Manifest, Proven
from bigbrotr.transfer.writing import SERIES, UNFINISHED, Made, Pace, TableWriter

LOCK = ".lock"
EVENT_TABLES = tuple(each for each in BY_MONTH if each not in SERIES)


class Progress(NamedTuple):
    """How far a snapshot is."""

    month: str
    events: int
    of: int
    is_hurried: bool


class Taken(NamedTuple):
    """What a snapshot came to."""

    manifest: Manifest
    new: int  # files
    bytes: int  # of the new ones
    gone: int  # files


async def take(
    pool: Pool,
    folder: Path,
    view: View,
    profile: str,
    *,
    months: Collection[str] | None = None,
    is_all: bool = False,
    pace: float = 1.0,
    patience_s: float = float("inf"),
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Taken:
    """Brings a snapshot up to date.

    `months`: only these; the others stay as they are. `is_all`: all is written, and not only where
    something has changed. It works for a share `pace` of the time, until `patience_s` seconds are
    over.

    Raises:
        ConfigError: the folder holds something else, or cannot be written; or pyarrow is missing.
        BusyError: another process is at it.
        DamagedError: its manifest is none.
    """
    parquet.require()
    _make(folder)
    async with _lock(folder):
        before = _begun(folder, view, profile)
        for path in list(manifests.strays(folder, before)):
            path.unlink()
        try:
            async with moment(pool, view) as now:
                work = _Work(now, folder, before, Pace(pace, patience_s), on_progress)
                await work.write(months, is_all=is_all)
                after = await work.manifest(profile)
            return _publish(folder, before, after, work.made)
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise
            raise ConfigError(f"cannot write into {folder}: {error.strerror or error}") from None


def verify(
    folder: Path, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Manifest, list[str], list[Path]]:
    """Looks whether all is there, byte by byte: the manifest, what is wrong, and what it does not
    name. `on_progress` is told how many bytes were read, and how many there are.

    Raises:
        ConfigError: there is no snapshot, or it cannot be read.
        DamagedError: the manifest is damaged.
    """
    found = manifests.load(folder)
    if found is None:
        words = "there is no manifest.json" if folder.is_dir() else "there is no such folder"
        raise ConfigError(f"{folder} is no snapshot: {words}")
    total = sum(each.bytes for each in found.files)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        on_progress(done, total)

    faults = [words for each in found.files if (words := manifests.wrong(folder, each, count))]
    return found, faults, list(manifests.strays(folder, found))


class _Work:
    """Writes what has changed, and knows what is left as it was."""

    def __init__(
        self,
        now: Moment,
        folder: Path,
        before: Manifest,
        pace: Pace,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._now = now
        self._folder = folder
        self._before = before
        self._pace = pace
        self._say = on_progress
        self._files = {(each.table, each.month): each for each in before.files}
        self._marks = dict(before.marks)
        self.made: list[tuple[Made, File]] = []  # what is new
        self._done = self._total = 0
        self._month = ""
        self._writer = TableWriter(now, folder, pace, self._count)

    def _count(self, number: int) -> None:
        self._done += number
        self._say(Progress(self._month, self._done, self._total, self._pace.is_hurried))

    async def write(self, months: Collection[str] | None, *, is_all: bool) -> None:
        """Writes what has changed."""
        known = {each.month for each in self._before.files if each.dataset in EVENT_TABLES}
        found = {*await self._writer.months_of_events(), *filter(None, known)}
        due = []
        for month in sorted(found if months is None else found.intersection(months)):
            part = await self._now.part(*month_span(month))
            await self._pace.rest()
            if is_all or part.mark != self._marks.get(month) or not self._is_whole(month):
                due.append((month, part))
                self._total += part.events
        for month, part in due:
            self._month = month
            self._replace(month, await self._writer.month(month))
            self._marks[month] = part.mark
        for dataset in SERIES:
            for month in await self._writer.months_of_series(dataset):
                is_wanted = months is None or month in months
                if is_wanted and (is_all or not self._is_settled(dataset.name, month)):
                    self._keep(await self._writer.series(dataset, month), only_more=True)
        for dataset in WHOLE:
            self._keep(await self._writer.whole(dataset))

    def _is_whole(self, month: str) -> bool:
        """Whether the files of a month are there."""
        return all(
            (self._folder / each.name).is_file()
            for each in self._files.values()
            if each.month == month and each.dataset in EVENT_TABLES
        )

    def _is_settled(self, table: str, month: str) -> bool:
        """Whether a month of measurements was over when it was written."""
        old = self._files.get((table, month))
        return (
            old is not None
            and old.taken_at > month_span(month)[1]
            and (self._folder / old.name).is_file()
        )

    def _replace(self, month: str, made: Sequence[Made]) -> None:
        """Takes these files for a month of events, and no others."""
        there = {each.dataset.name for each in made}
        for dataset in EVENT_TABLES:
            if dataset.name not in there:
                self._files.pop((dataset.name, month), None)
        self._keep(made)

    def _keep(self, made: Sequence[Made], *, only_more: bool = False) -> None:
        for each in made:
            key = (each.dataset.name, each.month)
            old = self._files.get(key)
            new = File(
                table=each.dataset.name,
                month=each.month,
                rows=each.written.rows,
                bytes=each.written.bytes,
                sha256=each.written.sha256,
                taken_at=self._now.taken_at,
            )
            is_there = old is not None and (self._folder / old.name).is_file()
            if old is not None and is_there and old.sha256 == new.sha256:
                each.path.unlink()
                self._files[key] = msgspec.structs.replace(old, taken_at=new.taken_at)
            elif old is not None and is_there and only_more and new.rows < old.rows:
                each.path.unlink()  # the archive has forgotten some meanwhile
            else:
                self._files[key] = new
                self.made.append((each, new))

    async def manifest(self, profile: str) -> Manifest:
        """What the snapshot is now."""
        proven = [
            Proven(
                relay=row["url"],
                spans=tuple((span.lower, span.upper) for span in row["proven"]),
                proven_at=row["proven_at"],
                gaps=row["gaps"],
            )
            for row in await self._now.proven()
        ]
        return Manifest(
            software=f"bigbrotr {__version__}",
            profile=profile,
            view=self._now.view.value,
            taken_at=self._now.taken_at,
            files=tuple(self._files[key] for key in sorted(self._files, key=_order)),
            marks=dict(sorted(self._marks.items())),
            relays=tuple(proven),
        )


def _order(key: tuple[str, str | None]) -> tuple[str, str]:
    return key[0], key[1] or ""


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_strange = any(folder.iterdir()) and not any(
            (folder / name).exists() for name in (manifests.NAME, LOCK)
        )
    except OSError as error:
        raise ConfigError(f"cannot keep a snapshot in {folder}: {error.strerror}") from None
    if is_strange:
        raise ConfigError(
            f"{folder} holds something else than a snapshot: name a new or empty folder"
        )


@asynccontextmanager
async def _lock(folder: Path) -> AsyncIterator[None]:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot keep a snapshot in {folder}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError(f"another process takes a snapshot into {folder}") from None
    finally:
        os.close(descriptor)


def _begun(folder: Path, view: View, profile: str) -> Manifest:
    """The manifest of the snapshot before; an empty one, if there is none."""
    found = manifests.load(folder)
    if found is None:
        return Manifest()
    for what, was, wanted in (
        ("view", found.view, view.value),
        ("profile", found.profile, profile),
    ):
        if was != wanted:
            raise ConfigError(
                f"{folder} is a snapshot of the {what} {was[:20]}, not {wanted}: "
                "name another folder"
            )
    return found


def _publish(
    folder: Path, before: Manifest, after: Manifest, made: Sequence[tuple[Made, File]]
) -> Taken:
    """Gives new files their names, exchanges the manifest, and removes what it names no more."""
    for each, file in made:
        each.path.rename(folder / file.name)
    for place in {(folder / file.name).parent for _, file in made}:
        _sync(place)
    unfinished = folder / f"{manifests.NAME}{UNFINISHED}"
    with unfinished.open("wb") as out:
        out.write(after.to_json())
        out.flush()
        os.fsync(out.fileno())
    unfinished.rename(folder / manifests.NAME)
    _sync(folder)
    named = {each.name for each in after.files}
    gone = [each for each in before.files if each.name not in named]
    for old in gone:
        (folder / old.name).unlink(missing_ok=True)
    return Taken(after, len(made), sum(each.written.bytes for each, _ in made), len(gone))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def months_named(names: Sequence[str]) -> list[str]:
    """The months of these names, e.g. 2024-05.

    Raises:
        ConfigError: one is none.
    """
    for name in names:
        try:
            month_span(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return list(names)
