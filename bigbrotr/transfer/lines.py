"""Reads files of lines: compressed or not, of any size, in pieces that end with a line."""

import gzip
import hashlib
import io
import os
import select
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from bigbrotr.errors import ConfigError
from bigbrotr.transfer.files import zstd

READ = 262_144  # bytes, once they are unpacked
PIECE = 524_288  # bytes that are handed on at least
MOST_LINES = 2000  # ... unless there are as many lines
MAX_LINE = 16_777_216  # bytes; nothing larger is kept

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
LOOK_MS = 200  # between looks whether what is waited for is still wanted
_BOM = b"\xef\xbb\xbf"


class Piece(NamedTuple):
    """Whole lines of a file."""

    first: int  # number of the first line, from 1
    data: bytes
    too_large: tuple[int, ...] = ()  # lines that are empty here, since nothing so large is kept


class Source:
    """A file, or standard input (`-`), read once. `at`: bytes that were read, packed as they are;
    `size`: how many there are, 0 where nobody knows."""

    def __init__(self, name: str) -> None:
        """Opens the file.

        Raises:
            ConfigError: it cannot be read.
        """
        self.name = name
        self.is_stdin = name == "-"
        self.path = name if self.is_stdin else str(Path(name).absolute())
        self.size = 0
        self.lines = 0  # that were handed on
        self.damage: str | None = None  # why the end could not be reached
        try:
            if self.is_stdin:
                self._file: BinaryIO = sys.stdin.buffer
            else:
                self.size = Path(name).stat().st_size
                self._file = Path(name).open("rb")  # noqa: SIM115 -- see `close`
        except OSError as error:
            raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
        self._counted = _Counted(self._file)

    @property
    def at(self) -> int:
        """Bytes that were read."""
        return self._counted.at

    @property
    def sha256(self) -> bytes:
        """Of the bytes that were read."""
        return self._counted.hash.digest()

    def close(self) -> None:
        """Closes the file. Who waits for more of it is told that it ends here."""
        self._counted.is_wanted = False
        if not self.is_stdin:
            self._file.close()

    def pieces(self) -> Iterator[Piece]:
        """All lines, in order. What cannot be unpacked to its end is noted in `damage`."""
        rest = bytearray()
        first, is_begin = 1, True
        skipped = False  # within a line that is too large
        for data in self._chunks():
            rest += data
            if is_begin:
                is_begin = False
                if rest.startswith(_BOM):
                    del rest[: len(_BOM)]
            if len(rest) < PIECE and rest.count(b"\n") < MOST_LINES:
                continue
            end = rest.rfind(b"\n") + 1
            if not end and len(rest) > MAX_LINE:
                skipped = True
                rest.clear()
            if end:
                yield (piece := _piece(first, bytes(rest[:end]), skipped=skipped))
                first += piece.data.count(b"\n")
                self.lines = first - 1
                skipped = False
                del rest[:end]
        if rest or skipped:
            yield (piece := _piece(first, bytes(rest).removesuffix(b"\n") + b"\n", skipped=skipped))
            self.lines = first - 1 + piece.data.count(b"\n")
        while self._counted.read(READ):  # what stands behind the damage is part of the file
            pass

    def _chunks(self) -> Iterator[bytes]:
        try:
            unpacked = _unpacked(self._counted)
            while data := unpacked.read1(READ):
                yield data
        except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
            self.damage = str(error)
        except OSError as error:
            raise ConfigError(f"{self.name} cannot be read: {error.strerror or error}") from None


def _piece(first: int, data: bytes, *, skipped: bool) -> Piece:
    """A piece without lines that are too large; `skipped`: the beginning of the first one is."""
    if len(data) <= MAX_LINE and not skipped:
        return Piece(first, data)
    lines = data.split(b"\n")[:-1]
    large = [n for n, line in enumerate(lines) if len(line) > MAX_LINE or (skipped and n == 0)]
    for n in large:  # left empty: those behind keep their numbers
        lines[n] = b""
    return Piece(first, b"\n".join(lines) + b"\n", tuple(first + n for n in large))


def digest_of(path: str) -> bytes:
    """The SHA-256 of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


class _Counted(io.RawIOBase):
    """Counts and hashes what is read of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._head = b""
        self.is_wanted = True  # else it ends here
        self.at = 0
        self.hash = hashlib.sha256()

    def peek(self) -> bytes:
        """The first bytes, which are read again."""
        while len(self._head) < 4 and (more := self._read(4 - len(self._head))):
            self._head += more
        return self._head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data, self._head = self._head[: len(view)], self._head[len(view) :]
        data = data or self._read(len(view))
        view[: len(data)] = data
        self.at += len(data)
        self.hash.update(data)
        return len(data)

    def _read(self, size: int) -> bytes:
        """What comes next. Nothing ends a thread that waits in a read, so it waits before that."""
        try:
            number = self._file.fileno()
        except OSError:  # it is no file of the system's
            return self._file.read(size)
        waiting = select.poll()
        waiting.register(number, select.POLLIN)
        while self.is_wanted:
            if waiting.poll(LOOK_MS):
                return os.read(number, size)
        return b""


def _unpacked(file: _Counted) -> io.BufferedReader:
    """What is in a file, by its first bytes, whatever its name is."""
    head = file.peek()
    if head.startswith(_GZIP):
        return cast(io.BufferedReader, gzip.GzipFile(fileobj=io.BufferedReader(file, READ)))
    if head.startswith(_ZSTD):
        return cast(io.BufferedReader, zstd.ZstdFile(io.BufferedReader(file, READ)))
    return io.BufferedReader(file, READ)
