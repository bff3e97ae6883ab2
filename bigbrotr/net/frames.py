"""WebSocket frames (RFC 6455) as a client sees them: a pure machine, bytes in, messages out.

The one loop that every byte of the network passes through: a general library takes 5 us for a
message, this 0.5. Of extensions it knows compressed messages, where they were agreed on: see
`inflate`. Else nothing that comes in is larger than it was on the wire.
"""

import os
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from bigbrotr.models import native
from bigbrotr.models.burst import Burst
from bigbrotr.net.inflate import BadlyPackedError, Inflater


class CloseCode(IntEnum):
    """Why a connection was closed."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005  # the peer gave none
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009


class Goodbye(NamedTuple):
    """The end of a connection: what the peer said, or what it did wrong."""

    code: int
    reason: str


SAMPLE_BYTES = 4096  # that are kept of the head of what is too large, and as many of its tail
MOST_BYTES = 64 << 20  # of a message, skipped or not: who claims more has no message in mind
BURST = 4096  # bytes that C looks through first, where it is installed: few are none of its work
FRAME_COST = 64  # bytes that a message counts for besides its own: an empty one takes room too

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL_TEXT = 0x80 | _TEXT
_PACKED = 0x40  # the first frame of a compressed message
_MASKED = 0x80


class Oversized(bytes):
    """What is kept of a message that was too large: its head and its tail, joined."""

    size: int  # of the whole message, in bytes


class _Skipped:
    """A message that is too large, of which no more than a sample is held."""

    def __init__(self) -> None:
        self.size = 0
        self._head = bytearray()
        self._tail = bytearray()

    def take(self, payload: bytes | bytearray) -> None:
        """The next bytes of it."""
        self.size += len(payload)
        room = SAMPLE_BYTES - len(self._head)
        self._head += payload[:room]
        self._tail += payload[max(room, len(payload) - SAMPLE_BYTES) :]
        del self._tail[:-SAMPLE_BYTES]

    def sample(self) -> Oversized:
        """What is handed out in its place."""
        sample = Oversized(self._head + self._tail)
        sample.size = self.size
        return sample


class FrameReader:
    """Turns a server's bytes into whole messages, however they are cut.

    A message of over `max_size` bytes is skipped as it comes: an `Oversized` takes its place.

    `goodbye` is set by the first close frame or violation; what follows is ignored. `replies` are
    frames that the peer has to be sent (pongs, the close), oldest first: take and clear them.
    `idle` is what came since the last message and was no part of one, in bytes, each frame counting
    FRAME_COST more: how much of that in which time is too much, is for the owner to say.
    """

    def __init__(self, max_size: int) -> None:
        self.inflater: Inflater | None = None  # where compression was agreed on
        self.goodbye: Goodbye | None = None
        self.replies: list[bytes] = []
        self.idle = 0
        self._max_size = max_size
        self._chunks: list[bytes] = []  # of a frame that is not whole
        self._held = 0  # bytes in them
        self._needed = 2  # bytes until there is something to read
        # Of the message under way; empty, if that is skipped.
        self._fragments: bytearray | None = None
        self._is_packed = False
        self._skipped: _Skipped | None = None
        self._to_skip = 0  # bytes of its frame that have not come yet ...
        self._is_last = False  # ... and whether it ends with that

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, in order."""
        return one_by_one(self.read(data))

    def read(self, data: bytes) -> list[bytes | Burst]:
        """The same, many together where they came so."""
        if self._is_over():
            return []
        messages: list[bytes | Burst] = []
        position = 0
        if self.inflater is not None:
            self.inflater.came(len(data))
        if self._to_skip:
            position = self._skip(data, 0, messages)
        elif self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return messages  # joining now would copy a slow frame again and again
            data = b"".join(self._chunks)
        end, largest, needed = len(data), self._max_size, 2
        if native.here is not None and end - position >= BURST and self._fragments is None:
            before = position
            bounds, position = native.here.messages(data, position, largest)
            if bounds:
                burst = Burst(data, bounds)
                # It keeps all alive that was read: not where that is mostly something else.
                messages += [burst] if 2 * (position - before) > len(data) else burst
                self.idle = 0
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
                    self._fail(CloseCode.PROTOCOL_ERROR, "masked frame")
                    break
                if end < start:
                    needed = start - position
                    break
                length = int.from_bytes(data[position + 2 : start], "big")
                if length > largest:
                    if not self._begin_to_skip(data[position], length):
                        break
                    position = self._skip(data, start, messages)
                    continue
            stop = start + length
            if stop > end:
                needed = stop - position
                break
            if data[position] == _FINAL_TEXT and length and self._fragments is None:
                messages.append(data[start:stop])
                self.idle = 0
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

    def _take_other(self, first: int, payload: bytes, messages: list[bytes | Burst]) -> None:
        """Any frame but a whole text message with something in it."""
        opcode = first & 0x0F
        if not self._is_in_place(first):
            return
        if opcode >= _CLOSE:
            self.idle += len(payload) + FRAME_COST
            if len(payload) > 125:
                self._fail(CloseCode.PROTOCOL_ERROR, "a long control frame")
            elif opcode == _PING:
                # Of several pings the newest is answered (RFC 6455, 5.5.3).
                self.replies[:] = [encode(payload, _PONG)]
            elif opcode == _CLOSE:
                self._take_close(payload)
        elif first & 0x80 and opcode:
            self._is_packed = bool(first & _PACKED)
            self._end_message(payload, messages)
            self.idle = 0 if payload else self.idle + FRAME_COST
        else:
            self._take_fragment(first, payload, messages)

    def _end_message(self, payload: bytes | bytearray, messages: list[bytes | Burst]) -> None:
        """Takes a whole message as it came."""
        if not self._is_packed or self.inflater is None:
            messages.append(bytes(payload))
            return
        try:
            parts = self.inflater.parts(payload)
        except BadlyPackedError as error:
            self._fail(CloseCode.INVALID_PAYLOAD, f"a compressed message: {error}")
            return
        if len(parts) == 1 and len(parts[0]) <= self._max_size:
            messages.append(parts[0])
            return
        skipped = _Skipped()
        for part in parts:
            skipped.take(part)
        messages.append(skipped.sample())

    def _is_in_place(self, first: int) -> bool:
        """Whether a frame may begin like this, here."""
        opcode, is_under_way = first & 0x0F, self._fragments is not None
        is_packed = first & 0x70 == _PACKED and opcode in (_TEXT, _BINARY)
        if first & 0x70 and not (is_packed and self.inflater is not None):
            self._fail(CloseCode.PROTOCOL_ERROR, "an extension that was not agreed on")
        elif opcode in (_CLOSE, _PING, _PONG):
            if not first & 0x80:
                self._fail(CloseCode.PROTOCOL_ERROR, "a fragmented control frame")
        elif opcode in (_TEXT, _BINARY):
            if is_under_way:
                self._fail(CloseCode.PROTOCOL_ERROR, "a message within a message")
        elif opcode or not is_under_way:
            self._fail(CloseCode.PROTOCOL_ERROR, f"a frame of type {opcode} out of place")
        return not self._is_over()

    def _take_fragment(self, first: int, payload: bytes, messages: list[bytes | Burst]) -> None:
        held = len(self._fragments or b"")
        if self._skipped is not None or held + len(payload) > self._max_size:
            if self._begin_to_skip(first, len(payload)):
                self._skip(payload, 0, messages)
            return
        if self._fragments is None:
            self._fragments = bytearray()
            self._is_packed = bool(first & _PACKED)
        self._fragments += payload
        if first & 0x80:
            self._end_message(self._fragments, messages)
            self._fragments = None
            self.idle = 0
        elif not payload:
            self.idle += FRAME_COST

    def _begin_to_skip(self, first: int, length: int) -> bool:
        """Begins with a frame of a message that is too large; False when it may not be one."""
        if not self._is_in_place(first):
            return False
        if first & 0x0F >= _CLOSE:
            self._fail(CloseCode.PROTOCOL_ERROR, "a long control frame")
            return False
        if self._fragments is None:  # it begins here
            self._is_packed = bool(first & _PACKED)
        if self._is_packed:
            # What is left out of it would be missing from those that come later.
            self._fail(CloseCode.TOO_BIG, "a compressed message that is larger than any may be")
            return False
        skipped = self._skipped or _Skipped()
        skipped.take(self._fragments or b"")
        self._fragments = bytearray()
        if skipped.size + length > max(MOST_BYTES, self._max_size):
            self._fail(CloseCode.TOO_BIG, f"a message of {skipped.size + length} bytes")
            return False
        if not length:
            self.idle += FRAME_COST
        self._skipped, self._to_skip, self._is_last = skipped, length, bool(first & 0x80)
        return True

    def _skip(self, data: bytes, position: int, messages: list[bytes | Burst]) -> int:
        """Skips what there is of a frame; where the next one begins."""
        assert self._skipped is not None
        part = data[position : position + self._to_skip]
        self._skipped.take(part)
        self._to_skip -= len(part)
        if self._is_last and not self._to_skip:
            messages.append(self._skipped.sample())
            self._fragments = self._skipped = None
            self.idle = 0
        return position + len(part)

    def _take_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else CloseCode.NO_STATUS
        self.goodbye = Goodbye(code, payload[2:].decode(errors="replace"))
        self.replies.append(encode(payload[:2], _CLOSE))

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.goodbye = Goodbye(code, reason)
        self.replies.append(encode(code.to_bytes(2, "big"), _CLOSE))


def one_by_one(messages: Iterable[bytes | Burst]) -> list[bytes]:
    """All messages, each by itself."""
    singly: list[bytes] = []
    for message in messages:
        if isinstance(message, Burst):
            singly += message
        else:
            singly.append(message)
    return singly


def ping() -> bytes:
    """A ping, which a peer answers if it is there."""
    return encode(b"", _PING)


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
