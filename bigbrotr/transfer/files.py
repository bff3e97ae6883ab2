"""Files of lines: plain or compressed by their names, written whole or not under their name."""

import os
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from bigbrotr.errors import ConfigError

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

GZIP_LEVEL = 1  # the rest of the work is to be the slower one
PARTIAL = ".part"  # added to the name of a file that is not whole yet


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    """Leaves everything as it is."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(name: str) -> _Compressor:
    if name.endswith(".gz"):
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    if name.endswith(".zst"):
        return zstd.ZstdCompressor()
    return _Plain()


class Sink:
    """Writes a file, compressed as its name says; `-` is standard output. The file has its name
    once it is whole: until then, and where that never comes, `.part` is added."""

    def __init__(self, name: str) -> None:
        """Opens the file.

        Raises:
            ConfigError: it exists already, or cannot be made.
        """
        self.name = name
        self.is_stdout = name == "-"
        self.bytes = 0  # on the disk
        self._compressor = _compressor(name)
        self._is_writing = self._is_damaged = False
        self._file: BinaryIO
        if self.is_stdout:
            self._file = sys.stdout.buffer
            return
        if Path(name).exists():
            raise ConfigError(f"{name} exists already: no file is written over; name another one")
        try:
            self._file = Path(self.partial).open("xb", buffering=0)  # noqa: SIM115 -- see `close`
        except FileExistsError:
            raise ConfigError(
                f"{self.partial} is there, of an export that has not finished: its whole lines are"
                " good; give it another name, or remove it"
            ) from None
        except OSError as error:
            raise ConfigError(f"{self.partial} cannot be written: {error.strerror}") from None

    @property
    def partial(self) -> str:
        """Where the file is as long as it is not whole."""
        return self.name + PARTIAL

    def write(self, data: bytes) -> None:
        """Writes some bytes.

        Raises:
            ConfigError: the disk is full, or fails.
        """
        self._put(self._compressor.compress(data))

    def close(self, *, is_whole: bool) -> None:
        """Ends the file; gives it its name where it is whole. Does nothing to standard output as
        long as it is written to."""
        if self._is_writing and self.is_stdout:
            return
        if not self._is_damaged:
            self._put(self._compressor.flush())
        if self.is_stdout:
            self._file.flush()
            return
        if is_whole:
            os.fsync(self._file.fileno())
        self._file.close()
        if is_whole:
            Path(self.partial).rename(self.name)

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        self._is_writing = True
        try:
            while left:
                left = left[self._file.write(left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            self._is_damaged = True
            if not self.is_stdout:
                with suppress(OSError):  # what was told to be written is whole
                    os.ftruncate(self._file.fileno(), self.bytes)
            raise ConfigError(f"{self.name} cannot be written: {error.strerror}") from None
        self._is_writing = False
        self.bytes += len(data)
