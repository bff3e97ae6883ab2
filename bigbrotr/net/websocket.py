"""One open WebSocket: the frame reader on a transport, with back-pressure both ways."""

import asyncio
import socket
from typing import cast

import websockets
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.uri import parse_uri

from bigbrotr.models.burst import Burst
from bigbrotr.net.frames import FRAME_COST, CloseCode, FrameReader, Goodbye, encode, ping
from bigbrotr.net.inflate import Agreed, Inflater
from bigbrotr.net.politeness import Slot

MAX_HEAD = 16_384  # bytes of the answer to the handshake
HELD_BYTES = 1 << 20  # unread messages at which the socket is no longer read
IDLE_BYTES = 1 << 20  # of pings and the like, that a relay may send without a message ...
IDLE_S = 60.0  # ... in this time
DEFERRED_S = 0.05  # that a message may wait for the next one
PING_S = 25.0  # of silence on a line that is kept: proxies drop idle ones after 30 or 60


class NotWebSocketError(Exception):
    """What answers does not upgrade to a WebSocket; the text says what it does instead, and
    `status` with which code of HTTP (0: with none)."""

    def __init__(self, words: str, status: int = 0) -> None:
        super().__init__(words)
        self.status = status


class DisconnectedError(Exception):
    """The connection has ended; the text says how."""


class Stream(asyncio.Protocol):
    """A WebSocket to a relay, from the moment that its transport is connected.

    `slot` is what it takes of our politeness, and gives back at its end.

    At most HELD_BYTES, one read of the transport and one message of `max_message_bytes` are held
    in memory; then the relay has to wait.
    """

    def __init__(self, max_message_bytes: int, slot: Slot | None = None) -> None:
        self._slot = slot  # taken as long as the connection lasts
        self._max_message_bytes = max_message_bytes
        self._reader = FrameReader(max_message_bytes)
        self._head: bytearray | None = bytearray()  # of the handshake's answer, until it is whole
        self._messages: list[bytes | Burst] = []
        self._held = 0
        self._is_paused = False
        self._idle_since = 0.0  # in the loop's time: since when what brings no message is counted
        self.received = 0  # bytes of frames
        self._sent = 0  # frames
        self._deferred: list[bytes] = []  # frames that go with the next one
        self._pinger: asyncio.TimerHandle | None = None
        self._lost: str | None = None  # how the connection ended
        self._arrival = asyncio.Event()  # something to read, or the end
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None

    async def upgrade(self, url: str, user_agent: str, *, is_packed: bool = False) -> None:
        """Makes the handshake. `is_packed`: offers that the relay compresses what it sends.

        Raises:
            NotWebSocketError: the answer is not an upgrade.
            DisconnectedError: the connection ended before.
        """
        offers = [ClientPerMessageDeflateFactory()] if is_packed else None
        handshake = ClientProtocol(parse_uri(url), extensions=offers)
        request = handshake.connect()
        request.headers["User-Agent"] = user_agent
        handshake.send_request(request)
        transport = self._open_transport()
        for data in handshake.data_to_send():
            transport.write(data)
        while self._head is not None:
            head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
            if end:
                break
            if len(head) > MAX_HEAD:
                raise NotWebSocketError(f"over {MAX_HEAD} bytes of headers")
            await self._wait()
        check_answer(handshake, head + end)
        for each in handshake.extensions:
            if isinstance(each, PerMessageDeflate):
                agreed = Agreed(each.remote_max_window_bits, not each.remote_no_context_takeover)
                self._reader.inflater = Inflater(agreed, self._max_message_bytes)
        self._head = None
        if rest:
            self.data_received(rest)

    async def receive(self) -> list[bytes | Burst]:
        """The messages that have come since the last call, at least one, or many together.

        Raises:
            DisconnectedError: the connection has ended, and all that came before is read.
        """
        while not self._messages:
            await self._wait()
        return self.take()

    def take(self) -> list[bytes | Burst]:
        """The messages that have come since the last call and wait to be read, if any."""
        messages, self._messages, self._held = self._messages, [], 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return messages

    async def _wait(self) -> None:
        if self._lost is not None:
            raise DisconnectedError(self._lost)
        self._arrival.clear()
        await self._arrival.wait()

    async def send(self, message: bytes) -> None:
        """Sends one text message; waits while the relay is slow to take what went before.

        Raises:
            DisconnectedError: the connection has ended.
        """
        await self._writable.wait()
        transport = self._open_transport()
        transport.write(b"".join((*self._deferred, encode(message))))
        self._deferred.clear()
        self._sent += 1

    def defer(self, message: bytes) -> None:
        """Sends a text message together with the next one, or after DEFERRED_S: to wake the relay
        for each costs both sides as much as some hundred events."""
        if self._lost is None:
            self._deferred.append(encode(message))
            asyncio.get_running_loop().call_later(DEFERRED_S, self._send_deferred)

    def _send_deferred(self) -> None:
        # A relay that does not read gets it with what follows.
        is_open = self._lost is None and self._writable.is_set()
        if self._deferred and is_open and self._transport is not None:
            self._transport.write(b"".join(self._deferred))
            self._deferred.clear()

    def keep_alive(self, ping_s: float = PING_S) -> None:
        """Pings from now on whenever one side has been silent for so long. A relay of which nothing
        has come by the next time, not even a pong, is gone."""
        if self._pinger is None and self._lost is None:
            self._plan_ping(ping_s, is_due=False)

    def _plan_ping(self, ping_s: float, *, is_due: bool) -> None:
        """Looks after `ping_s` at what has come since now; `is_due`: something has to."""
        self._pinger = asyncio.get_running_loop().call_later(
            ping_s, self._look_after, ping_s, self.received, self._sent, is_due
        )

    def _look_after(self, ping_s: float, received: int, sent: int, is_due: bool) -> None:
        is_silent = received == self.received
        if self._lost is not None or self._transport is None:
            return
        if is_silent and is_due:
            self._end("it answers no ping")
            self.abort()
            return
        # While we do not read, or the relay does not, a ping says nothing.
        is_pinged = (is_silent or sent == self._sent) and not self._is_paused
        is_pinged = is_pinged and self._writable.is_set()
        if is_pinged:
            self._transport.write(ping())
        self._plan_ping(ping_s, is_due=is_pinged)

    @property
    def is_contested(self) -> bool:
        """Whether others wait for this conversation's place."""
        return self._slot is not None and self._slot.is_contested

    def abort(self) -> None:
        """Ends the connection at once; a relay could keep a polite goodbye waiting."""
        if self._transport is not None:
            self._transport.abort()

    def _open_transport(self) -> asyncio.Transport:
        if self._lost is not None or self._transport is None:
            raise DisconnectedError(self._lost or "not connected")
        return self._transport

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")

    def data_received(self, data: bytes) -> None:
        """Bytes came: of the handshake first, then of frames."""
        if self._socket is not None:
            # Many relays send small pieces and wait for each acknowledgement (Nagle), which Linux
            # delays by 40 ms unless told otherwise, each time: 9 ms a page instead of 43.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self._head is not None:
            self._head += data
            self._arrival.set()
            return
        self.received += len(data)
        reader = self._reader
        messages = reader.read(data)
        if messages:
            self._messages += messages
            self._held += sum(map(cost_of, messages))
            if self._held > HELD_BYTES and not self._is_paused and self._transport is not None:
                self._is_paused = True
                self._transport.pause_reading()
            self._arrival.set()
        elif reader.idle > IDLE_BYTES:
            self._judge_idle()
        if reader.replies and self._transport is not None:
            # A relay that pings and does not read gets no more than fits into the socket.
            if self._writable.is_set():
                self._transport.writelines(reader.replies)
            reader.replies.clear()
        if reader.goodbye is not None:
            self._end(_in_words(reader.goodbye))
            if self._transport is not None:
                self._transport.close()

    def _judge_idle(self) -> None:
        """Ends a connection on which too much comes that is no message: a ping now and then is
        welcome, however long no message comes."""
        now = asyncio.get_running_loop().time()
        if now - self._idle_since > IDLE_S:
            self._idle_since, self._reader.idle = now, 0
            return
        self._end(f"over {IDLE_BYTES} bytes without a message")
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The transport is closed."""
        if self._slot is not None:
            self._slot.leave()
        if self._pinger is not None:
            self._pinger.cancel()
        self._end(str(error) if error else "connection lost")

    def pause_writing(self) -> None:
        """The relay is slow to read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The relay has read."""
        self._writable.set()

    def _end(self, how: str) -> None:
        if self._lost is None:
            self._lost = how
        self._arrival.set()
        self._writable.set()


def cost_of(message: bytes | Burst) -> int:
    """What a message counts for, or many together."""
    if isinstance(message, Burst):
        return len(message.data) + FRAME_COST * len(message)
    return len(message) + FRAME_COST


def check_answer(handshake: ClientProtocol, head: bytes) -> None:
    """Raises NotWebSocketError unless `head` accepts the handshake."""
    status = head.split(b"\r\n", 1)[0].decode(errors="replace")
    words = status.split(" ", 2)
    if not words[0].startswith("HTTP/"):
        raise NotWebSocketError("the answer is not HTTP")
    if len(words) < 2 or words[1] != "101":
        code = words[1] if len(words) > 1 else ""
        raise NotWebSocketError(
            status[:200], int(code) if len(code) == 3 and code.isascii() and code.isdigit() else 0
        )
    handshake.receive_data(head)
    if handshake.handshake_exc is not None:
        raise NotWebSocketError(str(handshake.handshake_exc))
    if handshake.state is not websockets.State.OPEN:
        raise NotWebSocketError("the handshake was not completed")


def _in_words(goodbye: Goodbye) -> str:
    if goodbye.code == CloseCode.NO_STATUS:
        return "closed by the relay"
    return f"closed with {goodbye.code} {goodbye.reason}".strip()
