"""A connected socket that is timed by the kernel, in the clear or under TLS.

When data came is taken from the kernel's stamp on it (SO_TIMESTAMPNS), not from the moment at which
this process got round to reading it; when data went, from just before the call that sent it. So a
busy machine, or a busy event loop, delays a measurement without lengthening what it measures, and
the time in which we compute (TLS, parsing) counts for nothing. One thing remains: the kernel may
join what came apart and was not read yet, under the stamp of the last part.
"""

import asyncio
import socket
import ssl
import struct
import time
from contextlib import suppress

CHUNK = 65_536
SO_TIMESTAMPNS = 35  # of Linux (asm-generic/socket.h); Python has no name for it
STAMP = struct.Struct("@ll")  # a timespec: seconds, nanoseconds
TCPI_RTT = 68  # where tcp_info has the smoothed round trip, in microseconds
SLACK_NS = 1_000_000  # by which a stamp may lie after its reading: two clocks are compared


class LostError(Exception):
    """The connection has ended; the text says how."""


def keep_stamps() -> socket.socket:
    """A socket that does nothing but want stamps: while one is open, the kernel makes them from
    the first packet of each other on. Close it."""
    reference = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with suppress(OSError):
        reference.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return reference


class TimedSocket:
    """A connected socket; what is sent and received on it is timed.

    `waited_s` is the time since `lap` that was spent between sending something and the arrival of
    the last thing that was received since: the sum of the round trips, without our own work.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # without stamps, readings count
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._done_s = 0.0  # of the round trips before the present one
        self._trip_s = 0.0  # of the present one
        self._is_answered = True
        self._sent_ns = 0  # of the system's clock, as stamps are
        self._sent_at = 0.0  # of the monotonic clock

    @property
    def waited_s(self) -> float:
        """The sum of the round trips since `lap`."""
        return self._done_s + self._trip_s

    def lap(self) -> None:
        """Begins to measure anew; the clock starts with what is sent next."""
        self._done_s = self._trip_s = 0.0
        self._is_answered = True

    @property
    def tcp_rtt_s(self) -> float | None:
        """The kernel's own figure for a round trip to the peer of the socket, just after it was
        connected the time of TCP's handshake."""
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            return int(struct.unpack_from("I", info, TCPI_RTT)[0]) / 1e6
        except (OSError, struct.error):
            return None

    @property
    def peer(self) -> str:
        """The address at the other end of the socket."""
        try:
            return str(self._sock.getpeername()[0])
        except OSError:
            return ""

    async def encrypt(self, context: ssl.SSLContext, host: str) -> ssl.SSLObject:
        """Makes the handshake of TLS; what follows is encrypted.

        Raises:
            ssl.SSLError, OSError: it failed, or was cut.
        """
        # Made before, so that it can be looked at when the handshake fails.
        tls = self.prepare(context, host)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._read())
            except ssl.SSLError:
                with suppress(OSError):
                    await self._flush()  # the alert
                raise
            else:
                await self._flush()
                return tls

    def prepare(self, context: ssl.SSLContext, host: str) -> ssl.SSLObject:
        """The TLS object of the handshake to come; the same again when asked again."""
        if self._tls is None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        return self._tls

    async def send(self, data: bytes) -> None:
        """Sends all of it.

        Raises:
            OSError: the connection is broken.
        """
        if self._tls is None:
            await self._write(data)
        else:
            self._tls.write(data)
            await self._flush()

    async def receive(self, *, waits: bool = True) -> bytes:
        """What has come, at least a byte; or nothing, unless one `waits` for it.

        Raises:
            LostError: the peer has ended the connection.
            OSError: it is broken.
        """
        if self._tls is None:
            return await self._read(waits=waits)
        while True:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()
                came = await self._read(waits=waits)
                if not came:
                    return b""
                self._incoming.write(came)
            except ssl.SSLZeroReturnError:
                raise LostError("closed by the relay") from None
            else:
                if data:
                    return data
                raise LostError("closed by the relay")

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        if self._is_answered:
            self._done_s += self._trip_s
            self._trip_s, self._is_answered = 0.0, False
        self._sent_ns, self._sent_at = time.time_ns(), time.monotonic()
        await self._loop.sock_sendall(self._sock, data)

    async def _read(self, *, waits: bool = True) -> bytes:
        while True:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(CHUNK, socket.CMSG_SPACE(STAMP.size))
            except BlockingIOError:
                if not waits:
                    return b""
                await self._is_readable()
                continue
            break
        if not data:
            raise LostError("closed by the relay")
        # A step of the system's clock shows as a stamp outside of what the other clock allows.
        trip_s = time.monotonic() - self._sent_at
        for level, kind, value in ancillary:
            if (level, kind, len(value)) == (socket.SOL_SOCKET, SO_TIMESTAMPNS, STAMP.size):
                seconds, nanoseconds = STAMP.unpack(value)
                stamped_ns = seconds * 10**9 + nanoseconds - self._sent_ns
                if 0 <= stamped_ns <= trip_s * 1e9 + SLACK_NS:
                    trip_s = stamped_ns / 1e9
        self._trip_s, self._is_answered = trip_s, True
        return data

    async def _is_readable(self) -> None:
        ready = self._loop.create_future()

        def tell() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(self._sock.fileno(), tell)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._sock.fileno())

    def close(self) -> None:
        """Ends the connection at once."""
        self._sock.close()
