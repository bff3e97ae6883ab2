"""A snapshot's manifest: what is in the folder, and what is proven of each relay.

It was written by whoever made the snapshot. Nothing in it names a file outside the folder: names
follow from the table, the month and the hash.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bigbrotr.errors import ConfigError
from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import BY_MONTH, DATASETS, Dataset, month_span

NAME = "manifest.json"
FORMAT = "bigbrotr-snapshot"
VERSION = 1
MOST_BYTES = 256 << 20
HASH_DIGITS = 12  # of a file's hash, in its name
PIECE_BYTES = 1 << 20
MOST_SECONDS = 2**63 - 1

Seconds = Annotated[int, Meta(ge=0, le=MOST_SECONDS)]
Number = Annotated[int, Meta(ge=0, le=2**62)]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class File(Struct, frozen=True, kw_only=True):
    """A file of the snapshot, which never changes."""

    table: str
    month: str | None = None
    rows: Number
    bytes: Number
    sha256: Hash
    taken_at: Seconds  # the moment that it shows, Unix seconds

    @property
    def dataset(self) -> Dataset:
        """Its table."""
        return DATASETS[self.table]

    @property
    def name(self) -> str:
        """Where it is in the folder."""
        part = self.table if self.month is None else f"{self.table}/{self.month}"
        return f"{part}.{self.sha256[:HASH_DIGITS]}.parquet"


class Proven(Struct, frozen=True, kw_only=True):
    """What is proven of a relay: of these seconds, the archive has all events that it held."""

    relay: str
    spans: tuple[tuple[int | None, int | None], ...] = ()  # half-open, Unix seconds
    proven_at: Seconds | None = None  # when the newest part was, of whatever filter
    gaps: Number = 0


class Manifest(Struct, frozen=True, kw_only=True):
    """What is in the folder."""

    format: str = FORMAT
    version: int = VERSION
    software: str = ""
    profile: str = ""
    view: str = ""
    taken_at: Seconds = 0  # the last moment that was looked at, Unix seconds
    files: tuple[File, ...] = ()
    marks: dict[str, str] = {}  # of months: they change with what the archive has of them
    relays: tuple[Proven, ...] = ()

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return sum(each.rows for each in self.files if each.table == table)

    def to_json(self) -> bytes:
        """For the file: a person can read it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


_decode = msgspec.json.Decoder(Manifest).decode


def load(folder: Path) -> Manifest | None:
    """The manifest of a snapshot; None: there is none.

    Raises:
        DamagedError: it is none of ours, or says what cannot be.
        ConfigError: the folder cannot be read.
    """
    try:
        data = read_within(folder, NAME, MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {folder / NAME}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise parquet.DamagedError(f"{folder / NAME}: it is too large to be a manifest")
    try:
        found = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise parquet.DamagedError(f"{folder / NAME}: it is no manifest: {error}") from None
    if found.format != FORMAT:
        raise parquet.DamagedError(f"{folder / NAME}: it is no manifest of a snapshot of bigbrotr")
    if found.version != VERSION:
        raise parquet.DamagedError(
            f"{folder / NAME}: it is of version {found.version}, and this release knows {VERSION}"
        )
    try:
        _check(found)
    except ValueError as error:
        raise parquet.DamagedError(f"{folder / NAME}: {error}") from None
    return found


def _check(manifest: Manifest) -> None:
    seen = set()
    for file in manifest.files:
        dataset = DATASETS.get(file.table)
        if dataset is None:
            raise ValueError(f"there is no table {file.table[:60]!r}")
        if (file.month is None) == (dataset in BY_MONTH):
            raise ValueError(
                f"the table {file.table} is{' not' * (file.month is not None)} by month"
            )
        if file.month is not None:
            month_span(file.month)
        if (file.table, file.month) in seen:
            raise ValueError(f"two files for {file.table} {file.month or ''}".rstrip())
        seen.add((file.table, file.month))


# Files in the folder


def read_within(folder: Path, name: str, most: int) -> bytes:
    """Up to `most` + 1 bytes of a file that really is in the folder."""
    with os.fdopen(open_within(folder, name), "rb") as file:
        return file.read(most + 1)


def open_within(folder: Path, name: str) -> int:
    """A descriptor of a file of the folder: no links are followed out of it, no pipe is waited for.

    Raises:
        OSError: there is none.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    place = os.open(folder, flags & ~os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        *parents, last = name.split("/")
        for each in parents:
            inner = os.open(each, flags | os.O_DIRECTORY, dir_fd=place)
            os.close(place)
            place = inner
        found = os.open(last, flags | os.O_NONBLOCK, dir_fd=place)
    finally:
        os.close(place)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise FileNotFoundError(2, "it is no file")
    return found


def wrong(folder: Path, file: File, on_bytes: Callable[[int], None] = lambda size: None) -> str:
    """What is wrong with a file of the manifest, in words; empty: nothing."""
    try:
        descriptor = open_within(folder, file.name)
    except OSError as error:
        return f"{file.name}: {error.strerror}"
    with os.fdopen(descriptor, "rb") as found:
        size = os.fstat(descriptor).st_size
        if size != file.bytes:
            return f"{file.name}: it has {size:,} bytes, and not {file.bytes:,}"
        digest = hashlib.sha256()
        try:
            while piece := found.read(PIECE_BYTES):
                digest.update(piece)
                on_bytes(len(piece))
        except OSError as error:
            return f"{file.name}: it cannot be read: {error.strerror}"
    if digest.hexdigest() != file.sha256:
        return f"{file.name}: its bytes are others (SHA-256 {digest.hexdigest()[:HASH_DIGITS]}…)"
    return ""


_OURS = re.compile(
    rf"(?:{'|'.join(map(re.escape, DATASETS))})(?:/[0-9a-z-]+)?"
    rf"(?:\.[0-9a-f]{{{HASH_DIGITS}}}\.parquet|\.parquet\.unfinished)|manifest\.json\.unfinished"
)


def strays(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """Files that a snapshot has left which was interrupted: the manifest does not name them."""
    named = {each.name for each in manifest.files}
    folders = {folder, *(folder / each.name for each in BY_MONTH), folder / "statistics"}
    for place in sorted(folders):
        if place.is_symlink() or not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            name = str(path.relative_to(folder))
            if name not in named and _OURS.fullmatch(name):
                yield path
