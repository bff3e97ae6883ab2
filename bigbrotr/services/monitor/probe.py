"""One connection that measures a relay: how long it takes to open, to read and to write, what it
shows meanwhile, and whether it does what it claims."""

import asyncio
import secrets
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self, TypeVar

from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from bigbrotr.config.settings import Link
from bigbrotr.models.check import Check, Failed, Measured, Unmeasured
from bigbrotr.models.relay import Relay
from bigbrotr.net.certificate import Certificate, certificate_of, observing_context
from bigbrotr.net.connect import (
    FAULTS,
    Failure,
    Opened,
    Unreached,
    UnreachedError,
    failure_of,
    open_to_relay,
)
from bigbrotr.net.dial import STATUSES
from bigbrotr.net.frames import FrameReader, encode
from bigbrotr.net.politeness import Politeness
from bigbrotr.net.timed_socket import LostError, TimedSocket
from bigbrotr.net.websocket import MAX_HEAD, NotWebSocketError, check_answer
from bigbrotr.nostr import message
from bigbrotr.nostr.auth import SignedEvent
from bigbrotr.nostr.message import (
    Auth,
    Closed,
    Eose,
    EventMessage,
    Message,
    Ok,
)

T = TypeVar("T")

UNANSWERED = frozenset({"no-answer", "lost"})  # failures to answer, rather than refusals
FRAME_BYTES = 1 << 20
ANSWER_BYTES = 4 << 20  # that may come until a question is answered
MAX_VALUE = 200  # characters of a header
# Headers that say what a server is; others change from answer to answer.
TELLING = frozenset({"server", "via", "x-powered-by", "alt-svc", "strict-transport-security"})


class Opening(NamedTuple):
    """What it took until the relay could be talked to, in seconds."""

    dns_s: float | None  # our resolver's; None: there was nothing to look up
    tcp_s: float  # through a proxy, until that was connected to the relay
    tls_s: float | None
    upgrade_s: float

    @property
    def open_s(self) -> float:
        """All but the look for an address, which says more of our resolver."""
        return self.tcp_s + (self.tls_s or 0.0) + self.upgrade_s


class Secured(NamedTuple):
    """What a handshake of TLS showed; `reason` says why it is not valid."""

    is_valid: bool
    reason: str
    certificate: Certificate | None
    protocol: str | None
    cipher: str | None


class Missed(NamedTuple):
    """Why there is no contact, and what was seen on the way."""

    why: Unreached
    tls: Secured | None
    peer: str  # the address that was connected to; empty: none, or a proxy


class ProbeConnection:
    """An open conversation with a relay; ends with the block. Nothing here raises for what the
    relay does."""

    def __init__(
        self,
        sock: TimedSocket,
        opening: Opening,
        tls: Secured | None,
        headers: Mapping[str, str],
        rest: bytes,
        is_direct: bool,
    ) -> None:
        self.opening = opening
        self.tls = tls
        self.headers = headers
        self.peer = sock.peer if is_direct else ""
        self.challenge: str | None = None  # NIP-42
        self.has_hints = False  # NIP-67
        self.refusal = ""  # of reading
        self._sock = sock
        self._reader = FrameReader(FRAME_BYTES)
        self._rest = rest  # came together with the upgrade
        self.is_read = False  # without more ado
        self.has_events = False
        self._is_lost = ""
        self._asked: set[str] = set()  # subscriptions

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    async def read(self, timeout_s: float) -> Check[float]:
        """How long the relay takes to answer a question, in seconds: with an event, or with the
        news that it has none."""
        sub = self.subscription()

        def answer(each: Message) -> Check[None] | None:
            if isinstance(each, EventMessage) and each.subscription == sub:
                self.has_events = True
                return Measured(None)
            if isinstance(each, Eose) and each.subscription == sub:
                return Measured(None)
            if isinstance(each, Closed) and each.subscription == sub:
                self.refusal = each.reason
                return Failed(message.prefix_of(each.reason, "closed"), each.reason)
            return None

        question = message.request(sub, {"kinds": [1], "limit": 1})
        check = await self.ask(question, answer, timeout_s)
        if isinstance(check, Measured):
            self.is_read = True
            await self.say(message.close(sub), timeout_s)
        return check

    def subscription(self) -> str:
        """An id for a question that nobody can answer before it was asked."""
        sub = secrets.token_hex(8)
        self._asked.add(sub)
        return sub

    async def write(self, event: SignedEvent, timeout_s: float) -> Check[float]:
        """How long the relay takes to accept an event, in seconds; a refusal is a failure that
        keeps its prefix."""

        def answer(each: Message) -> Check[None] | None:
            if not isinstance(each, Ok) or each.event_id != event.event_id:
                return None
            if each.is_accepted:
                return Measured(None)
            return Failed(message.prefix_of(each.reason, "refused"), each.reason)

        return await self.ask(b'["EVENT",%b]' % event.event, answer, timeout_s)

    async def ask(
        self,
        frame: bytes,
        answer: Callable[[Message], Check[None] | None],
        timeout_s: float,
    ) -> Check[float]:
        """Asks, and times the first message that is an answer, in seconds. What has come before is
        none."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._listen(waits=False)
                self._sock.lap()
                await self._sock.send(encode(frame))
                check = await self._await_answer(answer)
        except TimeoutError as error:
            if error.errno is None:
                return Failed("no-answer", f"none within {timeout_s:g} s")
            self._is_lost = str(error)
        except (*FAULTS, LostError) as error:
            self._is_lost = str(error) or type(error).__name__
        else:
            return Measured(self._sock.waited_s) if isinstance(check, Measured) else check
        return Failed("lost", self._is_lost)

    async def _await_answer(
        self, answer: Callable[[Message], Check[None] | None]
    ) -> Measured[None] | Failed | Unmeasured:
        found = await self._listen(answer, waits=True)
        assert found is not None
        return found

    async def _listen(
        self, answer: Callable[[Message], Check[None] | None] | None = None, *, waits: bool
    ) -> Check[None] | None:
        """Takes what comes until the answer; or what has come already, unless one `waits`."""
        received = 0
        while True:
            data, self._rest = self._rest, b""
            data = data or await self._sock.receive(waits=waits)
            if not data:
                return None
            received += len(data)
            if received > ANSWER_BYTES:
                raise LostError("flooded with what nobody asked for")
            found = None
            for each in map(message.decode, self._reader.feed(data)):
                self._note(each)
                if answer is not None:
                    found = found or answer(each)
            if found is not None:
                return found
            replies = b"".join(self._reader.replies)
            self._reader.replies.clear()
            if replies:
                await self._sock.send(replies)
            if self._reader.goodbye is not None:
                goodbye = self._reader.goodbye
                raise LostError(f"closed with {goodbye.code} {goodbye.reason}".strip())

    def _note(self, each: Message) -> None:
        """What is seen by the way."""
        if isinstance(each, Auth):
            self.challenge = each.challenge
        elif isinstance(each, Eose) and {"finish", "more"} & set(each.hints):
            self.has_hints = self.has_hints or each.subscription in self._asked

    async def say(self, frame: bytes, timeout_s: float) -> None:
        """Sends what nothing is answered to."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._sock.send(encode(frame))
        except (*FAULTS, LostError) as error:
            self._is_lost = str(error) or type(error).__name__


async def open_probe(
    relay: Relay, link: Link, *, allow_local: bool, politeness: Politeness
) -> ProbeConnection | Missed:
    """Opens a connection to a relay within `link.timeout_s`, and measures each step."""
    try:
        opened = await open_to_relay(relay, link, allow_local=allow_local, politeness=politeness)
    except UnreachedError as error:
        return Missed(error.value, None, "")
    sock = _SlottedSocket(opened)
    is_direct = link.proxy is None
    peer = sock.peer if is_direct else ""
    tls: Secured | None = None
    why: Unreached
    try:
        async with asyncio.timeout(opened.left_s):
            tcp_s = sock.tcp_rtt_s if is_direct else None
            tls_s = None
            if relay.scheme == "wss":
                tls = await _secure(sock, relay.host)
                tls_s = sock.waited_s
            sock.lap()
            headers, rest = await _upgrade(sock, relay.url, politeness.user_agent)
        opening = Opening(
            opened.resolved_s,
            opened.connected_s if tcp_s is None else tcp_s,
            tls_s,
            sock.waited_s,
        )
        return ProbeConnection(sock, opening, tls, headers, rest, is_direct)
    except TimeoutError as error:
        why = Unreached(Failure.SLOW, f"connected, but no answer within {link.timeout_s:g} s")
        if error.errno is not None:
            why = failure_of(error)
    except _InsecureError as error:
        why, tls = error.why, error.tls
    except NotWebSocketError as error:
        why = Unreached(STATUSES.get(error.status, Failure.NOT_WEBSOCKET), str(error))
    except LostError as error:
        why = Unreached(Failure.NOT_WEBSOCKET, str(error))
    except FAULTS as error:
        why = failure_of(error)
    except BaseException:
        sock.close()
        raise
    sock.close()
    return Missed(why, tls, peer)


class _SlottedSocket(TimedSocket):
    """A timed socket that gives its slot back when it closes."""

    def __init__(self, opened: Opened) -> None:
        super().__init__(opened.sock)
        self._slot = opened.slot

    def close(self) -> None:
        super().close()
        self._slot.leave()


class _InsecureError(Exception):
    """A handshake of TLS that failed."""

    def __init__(self, why: Unreached, tls: Secured | None) -> None:
        super().__init__(why.detail)
        self.why = why
        self.tls = tls


async def _secure(sock: TimedSocket, host: str) -> Secured:
    connection = sock.prepare(observing_context(), host)
    try:
        await sock.encrypt(observing_context(), host)
    except (OSError, LostError) as error:
        why = (
            failure_of(error) if isinstance(error, OSError) else Unreached(Failure.TLS, str(error))
        )
        certificate = certificate_of(connection)
        secured = None
        if isinstance(error, ssl.SSLCertVerificationError):
            secured = Secured(False, why.failure.value, certificate, *_suite(connection))
        raise _InsecureError(why, secured) from None
    return Secured(True, "", certificate_of(connection), *_suite(connection))


def _suite(connection: ssl.SSLObject) -> tuple[str | None, str | None]:
    cipher = connection.cipher()
    return (None, None) if cipher is None else (cipher[1], cipher[0])


async def _upgrade(sock: TimedSocket, url: str, user_agent: str) -> tuple[dict[str, str], bytes]:
    """Makes the handshake of the WebSocket; the telling headers, and what came after it."""
    handshake = ClientProtocol(parse_uri(url))
    request = handshake.connect()
    request.headers["User-Agent"] = user_agent
    handshake.send_request(request)
    await sock.send(b"".join(handshake.data_to_send()))
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) > MAX_HEAD:
            raise NotWebSocketError(f"over {MAX_HEAD} bytes of headers")
        received += await sock.receive()
    head, end, rest = received.partition(b"\r\n\r\n")
    check_answer(handshake, head + end)
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() in TELLING:
            headers.setdefault(name.strip().lower(), value.strip()[:MAX_VALUE])
    return headers, rest
