"""Unpacks compressed messages of a WebSocket (permessage-deflate, RFC 7692), within bounds."""

import zlib
from typing import NamedTuple

TAIL = b"\x00\x00\xff\xff"  # that ends each message, and is not sent
STEP = 1 << 16  # bytes that are unpacked at once of what is too large
RATIO = 200  # bytes of messages that one on the wire allows for, in the long run
SAVED_BYTES = 16 << 20  # of them, that may come at once: a long text of one letter, say
MOST_STEPS = 64  # of a message that is too large


class Agreed(NamedTuple):
    """What both sides agreed on in the handshake."""

    window_bits: int = 15  # of the peer
    keeps_window: bool = True  # the peer refers to what it sent in messages before


class BadlyPackedError(Exception):
    """What came is not packed as agreed, or is far larger than what it came as."""


class Inflater:
    """Unpacks the messages of one connection, in their order.

    In the long run that may be `RATIO` times what it came as: a few bytes must not take gigabytes,
    nor seconds.
    """

    def __init__(self, agreed: Agreed, max_size: int) -> None:
        self._agreed = agreed
        self._max_size = max_size
        self._engine = self._new()
        self._most = max(SAVED_BYTES, 4 * max_size)
        self._allowed = self._most  # bytes that may be unpacked now

    def _new(self) -> "zlib._Decompress":
        return zlib.decompressobj(wbits=-self._agreed.window_bits)

    def came(self, size: int) -> None:
        """So many bytes came: as much more may be unpacked as they allow for."""
        self._allowed = min(self._most, self._allowed + RATIO * size)

    def parts(self, payload: bytes | bytearray) -> list[bytes]:
        """The message in its parts: one, unless it is larger than messages may be.

        Raises:
            BadlyPackedError: it is not packed as agreed, or it is too much.
        """
        found: list[bytes] = []
        engine, data, most = self._engine, bytes(payload) + TAIL, self._max_size + 1
        try:
            while True:
                part = engine.decompress(data, most)
                found.append(part)
                self._allowed -= len(part)
                if self._allowed < 0 or len(found) > MOST_STEPS:
                    raise BadlyPackedError("far larger than what it came as")
                data = engine.unconsumed_tail
                if engine.eof or (not data and len(part) < most):
                    break
                most = STEP
        except zlib.error as error:
            raise BadlyPackedError(str(error)) from None
        if engine.eof or not self._agreed.keeps_window:
            self._engine = self._new()
        return found
