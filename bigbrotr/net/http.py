"""Documents over HTTP: a GET or POST within bounds of bytes, time and redirects, ends in a value.

HTTP/1.1 by h11, over the same sockets as conversations with relays: so addresses are judged after
they were resolved, at each redirect again, and overlay networks are reached through their proxies.
"""

import asyncio
import time
import zlib
from collections.abc import Coroutine, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import h11

from bigbrotr.config.settings import Networks
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import (
    FAULTS,
    Failure,
    UnreachedError,
    failure_of,
    open_socket,
    tls_context,
)
from bigbrotr.net.politeness import Politeness

MAX_REDIRECTS = 5
MAX_HEAD = 32_768  # bytes of status and headers, and of all that stands around a body
CHUNK = 65_536
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SCHEMES = {"http": "ws", "https": "wss"}
PACKED = frozenset({"gzip", "x-gzip", "deflate"})


class Fault(StrEnum):
    """What is wrong with an answer, where there was a connection."""

    NOT_HTTP = "not-http"
    CUT = "cut"  # it ended before its end
    TOO_LARGE = "too-large"
    ENCODING = "encoding"  # packed in a way that nobody asked for, or broken
    REDIRECT = "redirect"  # too often, or to what is no address


class Document(NamedTuple):
    """An answer, whatever its status; the times are seconds since the request for its URL began."""

    url: str  # where it was in the end
    status: int
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes  # unpacked
    connected_s: float  # TLS included
    answered_s: float  # its head was there
    elapsed_s: float


class Unfetched(NamedTuple):
    """Why there is no document, with details for people."""

    reason: Failure | Fault
    detail: str


class _FaultError(Exception):
    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.value = Unfetched(fault, detail)


async def fetch(
    url: str,
    networks: Networks,
    *,
    max_bytes: int,
    timeout_s: float,
    accept: str = "*/*",
    politeness: Politeness | None = None,
) -> Document | Unfetched:
    """Gets what is at an http(s) URL, following redirects, within `timeout_s` in all; what waits
    for our own sake does not count.

    The body has at most `max_bytes`, packed and unpacked. Only hosts of enabled networks are asked.
    """
    politeness = politeness or Politeness()
    clock = _Clock(timeout_s)

    async def follow(url: str) -> Document:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await _ask(url, networks, max_bytes, accept, politeness, clock)
            if answer.status not in REDIRECTS:
                return answer
            target = dict(answer.headers).get("location")
            if target is None:
                return answer
            url = _join(url, target)
        raise _FaultError(Fault.REDIRECT, f"more than {MAX_REDIRECTS} redirects")

    return await _within(clock, timeout_s, follow(url))


class Sent(NamedTuple):
    """What is sent to a URL: a body, and headers beside those that every request has."""

    body: bytes
    headers: Sequence[tuple[str, str]]


async def post(
    url: str,
    networks: Networks,
    sent: Sent,
    *,
    max_bytes: int,
    timeout_s: float,
    politeness: Politeness | None = None,
) -> Document | Unfetched:
    """Sends something to an http(s) URL (POST), within the bounds of `fetch`; follows nothing.

    The details of what went wrong may repeat the URL.
    """
    politeness = politeness or Politeness()
    clock = _Clock(timeout_s)
    asked = _ask(url, networks, max_bytes, "*/*", politeness, clock, sent)
    return await _within(clock, timeout_s, asked)


async def _within(
    clock: "_Clock", timeout_s: float, asked: Coroutine[Any, Any, Document]
) -> Document | Unfetched:
    """What comes of it, in its time; what goes wrong is a value."""
    try:
        async with clock.limit:
            return await asked
    except TimeoutError as error:
        if error.errno is not None:  # the kernel's
            return Unfetched(*failure_of(error))
        return Unfetched(Failure.SLOW, f"not whole within {timeout_s:g} s")
    except (UnreachedError, _FaultError) as error:
        return Unfetched(*error.value)
    except FAULTS as error:
        return Unfetched(*failure_of(error))


class _Clock:
    """Counts time down; waiting for a slot or a look-up to begin stops it."""

    def __init__(self, seconds: float) -> None:
        self.limit = asyncio.timeout(seconds)
        self._left_s = 0.0

    def stop(self) -> None:
        """Counts nothing until `go_on`."""
        deadline = self.limit.when()
        assert deadline is not None
        self._left_s = deadline - asyncio.get_running_loop().time()
        self.limit.reschedule(None)

    def go_on(self, spent_s: float = 0.0) -> None:
        """Counts again, and what was spent meanwhile."""
        self.limit.reschedule(asyncio.get_running_loop().time() + self._left_s - spent_s)


def _join(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError as error:
        raise _FaultError(Fault.REDIRECT, f"{target[:200]!r}: {error}") from None


class _Place(NamedTuple):
    """A URL in the parts that matter here."""

    origin: Relay  # judged by the same rules as a relay's address
    host: str  # as the Host header has it
    target: str


def _place(url: str) -> _Place:
    try:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError("not http:// or https://")
        origin = Relay(f"{SCHEMES[parts.scheme]}://{parts.netloc}")
    except ValueError as error:
        raise _FaultError(Fault.REDIRECT, f"{url[:200]!r}: {error}") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # What is written right stays as it is.
    target = quote(target, safe="/?%:@!$&'()*+,;=-._~[]", errors="replace")
    return _Place(origin, origin.url.partition("://")[2], target)


async def _ask(
    url: str,
    networks: Networks,
    max_bytes: int,
    accept: str,
    politeness: Politeness,
    clock: _Clock,
    sent: Sent | None = None,
) -> Document:
    """One request and its answer.

    Raises:
        UnreachedError, _FaultError, OSError: no answer came.
    """
    place = _place(url)
    link = networks.link(place.origin.network)
    if not link.enabled:
        detail = f"{place.origin.host} is {place.origin.network}, which is not enabled"
        raise UnreachedError(Failure.FORBIDDEN, detail)
    clock.stop()
    opened = await open_socket(
        place.origin.host,
        place.origin.port,
        link,
        allow_local=networks.local.enabled,
        politeness=politeness,
        is_tls=place.origin.scheme == "wss",
    )
    spent_s = (opened.resolved_s or 0.0) + opened.connected_s
    clock.go_on(spent_s)
    began = time.monotonic() - spent_s  # the loop's own clock stands still between its rounds
    writer: asyncio.StreamWriter | None = None
    try:
        is_tls = place.origin.scheme == "wss"
        reader, writer = await asyncio.open_connection(
            sock=opened.sock,
            ssl=tls_context() if is_tls else None,
            server_hostname=place.origin.host if is_tls else None,
        )
        connected_s = time.monotonic() - began
        answer = _Answer(max_bytes)
        writer.write(answer.request(place, accept, politeness.user_agent, sent))
        while not answer.is_whole:
            async with asyncio.timeout(link.timeout_s):
                data = await reader.read(CHUNK)
            answer.feed(data, time.monotonic() - began)
    except TimeoutError as error:
        if error.errno is not None:
            raise
        raise UnreachedError(Failure.SLOW, f"nothing came within {link.timeout_s:g} s") from None
    finally:
        if writer is None:
            opened.sock.close()
        else:
            writer.transport.abort()
        opened.slot.leave()
    return Document(
        url,
        answer.status,
        answer.headers,
        bytes(answer.body),
        connected_s,
        answer.answered_s,
        time.monotonic() - began,
    )


class _Answer:
    """Puts an answer together out of bytes; no socket, no clock."""

    def __init__(self, max_bytes: int) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.answered_s = 0.0
        self.is_whole = False
        self._max_bytes = max_bytes
        self._received = 0
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._unpack: _Unpacker | None = None

    def request(
        self, place: _Place, accept: str, user_agent: str, sent: Sent | None = None
    ) -> bytes:
        """The bytes to send."""
        headers = [
            ("Host", place.host),
            ("User-Agent", user_agent),
            ("Accept", accept),
            ("Accept-Encoding", "gzip, deflate"),
            ("Connection", "close"),
        ]
        parts: list[h11.Event] = []
        if sent is None:
            parts.append(h11.Request(method="GET", target=place.target, headers=headers))
        else:
            headers += [*sent.headers, ("Content-Length", str(len(sent.body)))]
            parts.append(h11.Request(method="POST", target=place.target, headers=headers))
            parts.append(h11.Data(data=sent.body))
        return b"".join(self._http.send(part) or b"" for part in [*parts, h11.EndOfMessage()])

    def feed(self, data: bytes, now_s: float) -> None:
        """Takes what came, nothing for the end of the connection.

        Raises:
            _FaultError: it is too much, or none of what was asked for.
        """
        self._received += len(data)
        if self._received > self._max_bytes + 2 * MAX_HEAD:
            raise _FaultError(Fault.TOO_LARGE, f"over {self._max_bytes} bytes")
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.Response):
                    self._begin(event, now_s)
                elif isinstance(event, h11.Data):
                    self._add(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    if self._unpack and not self._unpack.is_whole:
                        raise _FaultError(Fault.CUT, "packed, and not whole")
                    self.is_whole = True
                    return
                elif isinstance(event, h11.ConnectionClosed):
                    raise _FaultError(Fault.CUT, "no answer")
        except h11.RemoteProtocolError as error:
            fault = Fault.CUT if self.status or not self._received else Fault.NOT_HTTP
            raise _FaultError(fault, str(error)[:200]) from None

    def _begin(self, response: h11.Response, now_s: float) -> None:
        self.status, self.answered_s = response.status_code, now_s
        self.headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers
        ]
        encoding = dict(self.headers).get("content-encoding", "").strip().lower()
        if encoding in PACKED:
            self._unpack = _Unpacker()
        elif encoding not in ("", "identity"):
            raise _FaultError(Fault.ENCODING, f"packed as {encoding[:50]!r}")

    def _add(self, data: bytes) -> None:
        room = self._max_bytes - len(self.body)
        self.body += self._unpack.feed(data, room) if self._unpack else data
        if len(self.body) > self._max_bytes:
            raise _FaultError(Fault.TOO_LARGE, f"over {self._max_bytes} bytes")


class _Unpacker:
    """Unpacks gzip, zlib and, since some call that deflate, what has no frame around it."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._is_begun = False

    @property
    def is_whole(self) -> bool:
        """Whether the end has come; nothing at all is whole as well."""
        return self._stream.eof or not self._is_begun

    def feed(self, data: bytes, room: int) -> bytes:
        """What is in the data, one byte more than there is room for at most."""
        is_first, self._is_begun = not self._is_begun, True
        try:
            return self._stream.decompress(data, room + 1)
        except zlib.error as error:
            if is_first:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
                try:
                    return self._stream.decompress(data, room + 1)
                except zlib.error:
                    pass
            raise _FaultError(Fault.ENCODING, str(error)) from None
