"""Sends frames to a client, with a bound on what it leaves unread."""

import asyncio
import struct
from collections import deque
from collections.abc import Sequence

from aiohttp import WSMsgType, web

STALL_S = 30.0  # a client that takes nothing for so long is cut
_SHORT, _MIDDLE, _LONG = struct.Struct("!BB"), struct.Struct("!BBH"), struct.Struct("!BBQ")
_TEXT = 0x81  # a whole message of text


def framed(message: bytes) -> bytes:
    """A message as a WebSocket frame of a server's, not compressed."""
    size = len(message)
    if size < 126:
        return _SHORT.pack(_TEXT, size) + message
    if size < 65536:
        return _MIDDLE.pack(_TEXT, 126, size) + message
    return _LONG.pack(_TEXT, 127, size) + message


class Outbox:
    """The way out of a connection. Memory: `most_bytes`, what one `send` brings, and a message.

    Frames of a client that asked for no compression are written to its transport at once, many
    together: to make them one by one takes as long as to read the events.
    """

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport, most_bytes: int
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._most_bytes = most_bytes
        self._is_compressed = bool(socket.compress)
        self._waiting: deque[bytes] = deque()  # to be compressed
        self._waiting_bytes = 0
        self._pump: asyncio.Task[None] | None = None
        self.is_cut = False

    def put(self, message: bytes) -> None:
        """Sends a message as soon as it can be; who leaves too much unread is cut."""
        if self.is_cut or self._transport.is_closing():
            return
        if self._waiting_bytes + self._transport.get_write_buffer_size() > self._most_bytes:
            self.cut()
        elif not self._is_compressed:
            self._transport.write(framed(message))
        else:
            self._waiting.append(message)
            self._waiting_bytes += len(message)
            if self._pump is None:
                self._pump = asyncio.create_task(self._compress())

    async def send(self, messages: Sequence[bytes]) -> None:
        """Sends messages, and waits until the client has taken most of what was sent before.

        Raises:
            ConnectionError: the client is gone, or was cut.
        """
        if not messages:
            return
        try:
            async with asyncio.timeout(STALL_S):
                # Each way ends with aiohttp, which waits while the transport is full.
                if self._is_compressed:
                    for message in messages:
                        await self._write(message)
                    return
                if self._transport.is_closing():
                    raise ConnectionResetError("the client is gone")
                if len(messages) > 1:
                    self._transport.write(b"".join(map(framed, messages[:-1])))
                await self._write(messages[-1])
        except TimeoutError:
            self.cut()
            raise ConnectionAbortedError("the client does not read") from None

    def cut(self) -> None:
        """Ends the connection without a word: nobody reads."""
        self.is_cut = True
        self._waiting.clear()
        self._transport.abort()

    def close(self) -> None:
        """Ends what is under way."""
        if self._pump is not None:
            self._pump.cancel()

    async def _write(self, message: bytes) -> None:
        if self._socket.closed:
            raise ConnectionResetError("the client is gone")
        await self._socket.send_frame(message, WSMsgType.TEXT)

    async def _compress(self) -> None:
        try:
            while self._waiting:
                message = self._waiting.popleft()
                async with asyncio.timeout(STALL_S):
                    await self._write(message)
                self._waiting_bytes -= len(message)
        except (ConnectionError, TimeoutError):
            self.cut()
        finally:
            self._pump = None
