"""Reads events of Parquet files as lines of JSON, to be imported as those of other files are."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import EVENTS, SURROGATES, Dataset
from bigbrotr.transfer.lines import Piece, Source, digest_of

SUFFIX = ".parquet"
ROWS = 1000  # of a piece

_encode = msgspec.json.Encoder().encode


class Part(NamedTuple):
    """A file with events, and how many rows it has."""

    path: Path
    dataset: Dataset
    rows: int


class ParquetSource(Source):
    """Files of events, one after the other; a line is a row. `at` and `size` count rows.

    `name` is a file of events, of the schema nostr_event_archive_v1, or one that names the `parts`.
    """

    def __init__(self, name: str, parts: Sequence[Part] | None = None) -> None:
        """Opens the file.

        Raises:
            ConfigError: it cannot be read; or pyarrow is missing.
        """
        parquet.require()
        super().__init__(name)
        self._parts = parts
        self.size = sum(each.rows for each in parts or ())

    @property
    def at(self) -> int:
        """Rows that were read."""
        return self.lines

    @property
    def sha256(self) -> bytes:
        """Of the file."""
        return digest_of(self.name)

    def pieces(self) -> Iterator[Piece]:
        """All rows, in order. What cannot be read to its end is noted in `damage`."""
        parts = self._parts
        try:
            if parts is None:
                path = Path(self.name)
                self.size = parquet.number_of_rows(path, EVENTS)
                parts = [Part(path, EVENTS, self.size)]
            for part in parts:
                yield from self._pieces(part)
        except parquet.DamagedError as error:
            self.damage = str(error).removeprefix(f"{self.name}: ")

    def _pieces(self, part: Part) -> Iterator[Piece]:
        make = surrogate_lines if part.dataset is SURROGATES else event_lines
        for columns in parquet.read(part.path, part.dataset, ROWS):
            lines = make(columns)
            first = self.lines + 1
            self.lines += len(lines)
            yield Piece(first, b"\n".join(lines) + b"\n")


def event_lines(columns: dict[str, list[Any]]) -> Sequence[bytes]:
    """Rows of `events` as JSON objects. What is wrong with them is seen when they are verified."""
    names = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")
    return [
        _encode(
            {
                name: value.hex() if isinstance(value, bytes) else value
                for name, value in zip(names, row, strict=True)
            }
        )
        for row in zip(*(columns[name] for name in names), strict=True)
    ]


def surrogate_lines(columns: dict[str, list[Any]]) -> Sequence[bytes]:
    """Rows of `surrogates` as JSON objects; one that is none becomes a line that is none."""
    rows = zip(columns["id"], columns["serialised"], columns["sig"], strict=True)
    return [_surrogate_line(*row) for row in rows]


def _surrogate_line(event_id: bytes, serialised: bytes, sig: bytes) -> bytes:
    try:
        fields = json.JSONDecoder(strict=False).decode(serialised.decode())
        _, pubkey, created_at, kind, tags, content = fields
        names = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")
        values = (event_id.hex(), pubkey, created_at, kind, tags, content, sig.hex())
        return json.dumps(dict(zip(names, values, strict=True))).encode()
    except (ValueError, TypeError, RecursionError):
        return b"{}"


def source_of(name: str) -> Source:
    """What a file is read as, by its name.

    Raises:
        ConfigError: it cannot be read.
    """
    return ParquetSource(name) if name.endswith(SUFFIX) else Source(name)
