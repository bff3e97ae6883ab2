"""One connection that measures a relay: how long it takes to open, to read and to write, what it
shows meanwhile, and whether it does what it claims."""

import asyncio
import secrets
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, TypeVar

import msgspec
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from bigbrotr.config import Link
from bigbrotr.models.check import Check, Failed, Measured, Unmeasured
from bigbrotr.models.nip11 import Nip11
from bigbrotr.models.relay import Relay
from bigbrotr.nostr import message
from bigbrotr.nostr.auth import Proof
from bigbrotr.nostr.certificate import Certificate, certificate_of, observing_context
from bigbrotr.nostr.dial import STATUSES
from bigbrotr.nostr.manners import Manners
from bigbrotr.nostr.message import (
    Auth,
    Closed,
    Eose,
    EventMessage,
    Message,
    NegErr,
    NegMsg,
    Notice,
    Ok,
    Other,
)
from bigbrotr.nostr.reach import (
    FAULTS,
    Failure,
    Opened,
    Unreached,
    UnreachedError,
    judge,
    open_socket,
)
from bigbrotr.nostr.stream import MAX_HEAD, NotWebSocketError, check_answer
from bigbrotr.nostr.websocket import FrameReader, encode
from bigbrotr.nostr.wire import LostError, Wire

T = TypeVar("T")

FRAME_BYTES = 1 << 20
ANSWER_BYTES = 4 << 20  # that may come until a question is answered
MAX_VALUE = 200  # characters of a header
# Headers that say what a server is; others change from answer to answer.
TELLING = frozenset({"server", "via", "x-powered-by", "alt-svc", "strict-transport-security"})
NOBODY = "0" * 63 + "1"  # a key that has written nothing: filters on it are cheap to answer
CHEAP = {"authors": [NOBODY], "kinds": [20166], "limit": 1}
NEG_NOTHING = b"\x61\0\0\x02\0"  # NIP-77: I have none: version, no upper bound, a list of no ids


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


class Contact:
    """An open conversation with a relay; ends with the block. Nothing here raises for what the
    relay does."""

    def __init__(
        self,
        wire: Wire,
        opening: Opening,
        tls: Secured | None,
        headers: Mapping[str, str],
        rest: bytes,
        is_direct: bool,
    ) -> None:
        self.opening = opening
        self.tls = tls
        self.headers = headers
        self.peer = wire.peer if is_direct else ""
        self.challenge: str | None = None  # NIP-42
        self.has_hints = False  # NIP-67
        self.refusal = ""  # of reading
        self._wire = wire
        self._reader = FrameReader(FRAME_BYTES)
        self._rest = rest  # came together with the upgrade
        self._is_read = False  # without more ado
        self._has_events = False
        self._is_lost = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._wire.close()

    async def read(self, timeout_s: float) -> Check[float]:
        """How long the relay takes to answer a question, in seconds: with an event, or with the
        news that it has none."""

        def answer(each: Message) -> Check[None] | None:
            if isinstance(each, EventMessage) and each.subscription == "read":
                self._has_events = True
                return Measured(None)
            if isinstance(each, Eose) and each.subscription == "read":
                return Measured(None)
            if isinstance(each, Closed) and each.subscription == "read":
                self.refusal = each.reason
                return Failed(prefix_of(each.reason, "closed"), each.reason)
            return None

        question = message.request("read", {"kinds": [1], "limit": 1})
        check = await self._time(question, answer, timeout_s)
        if isinstance(check, Measured):
            self._is_read = True
            await self._say(message.close("read"), timeout_s)
        return check

    async def write(self, event: Proof, timeout_s: float) -> Check[float]:
        """How long the relay takes to accept an event, in seconds; a refusal is a failure that
        keeps its prefix."""

        def answer(each: Message) -> Check[None] | None:
            if not isinstance(each, Ok) or each.event_id != event.event_id:
                return None
            if each.is_accepted:
                return Measured(None)
            return Failed(prefix_of(each.reason, "refused"), each.reason)

        return await self._time(b'["EVENT",%b]' % event.event, answer, timeout_s)

    async def compare(
        self,
        document: Nip11 | None,
        timeout_s: float,
        *,
        protected: Proof | None = None,
        wrote: Check[float] | None = None,
    ) -> dict[str, Any]:
        """What the relay claims beside what was seen of it, None where that is not known.

        Asks questions that cost a relay next to nothing. `protected`: an event that a relay with
        NIP-70 refuses; `wrote`: what became of one that it should have taken.
        """
        seen: dict[str, bool | None] = {
            "45": await self._counts(timeout_s),
            "50": await self._searches(timeout_s),
            "70": await self._protects(protected, wrote, timeout_s),
            "77": await self._reconciles(timeout_s),
            "67": True if self.has_hints else None,  # that there are none says nothing
        }
        needs_auth = self.refusal.startswith(("auth-required:", "restricted:"))
        seen["42"] = True if self.challenge is not None or needs_auth else None
        nips = {
            nip: {"claimed": document.claims(int(nip)) if document else None, "seen": was_seen}
            for nip, was_seen in sorted(seen.items())
        }
        refused = wrote.detail.lower() if isinstance(wrote, Failed) else ""
        pays = True if "pay" in refused else False if isinstance(wrote, Measured) else None
        return {
            "nips": nips,
            "auth": {
                "claimed": document.requires("auth_required") if document else None,
                "seen": True if needs_auth else False if self._is_read else None,
            },
            "payment": {
                "claimed": document.requires("payment_required") if document else None,
                "seen": pays,
            },
            # Whether it clamps would cost as many events to see.
            "max_limit": {
                "claimed": document.limit("max_limit") if document else None,
                "seen": None,
            },
        }

    async def _counts(self, timeout_s: float) -> bool | None:
        def answer(each: Message) -> Check[None] | None:
            match each:
                case Other("COUNT", ["count", dict(found), *_]) if "count" in found:
                    return Measured(None)
                case Closed("count", _):
                    return Failed("closed")
                case Notice():
                    return Failed("notice")
            return None

        frame = msgspec.json.encode(["COUNT", "count", CHEAP])
        return _is_seen(await self._time(frame, answer, timeout_s))

    async def _searches(self, timeout_s: float) -> bool | None:
        """Nobody has written the word that is looked for: who finds it does not search. That
        nothing is found says something where anything was found before."""

        def answer(each: Message) -> Check[None] | None:
            if isinstance(each, EventMessage | Closed) and each.subscription == "search":
                return Failed("ignored" if isinstance(each, EventMessage) else "closed")
            if isinstance(each, Eose) and each.subscription == "search":
                return Measured(None)
            return None

        wanted = {"kinds": [1], "search": secrets.token_hex(12), "limit": 1}
        check = await self._time(message.request("search", wanted), answer, timeout_s)
        await self._say(message.close("search"), timeout_s)
        return None if isinstance(check, Measured) and not self._has_events else _is_seen(check)

    async def _protects(
        self, protected: Proof | None, wrote: Check[float] | None, timeout_s: float
    ) -> bool | None:
        if protected is None or not isinstance(wrote, Measured):
            return None  # a relay that takes nothing refuses that as well
        check = await self.write(protected, timeout_s)
        if isinstance(check, Failed) and check.reason in ("no-answer", "lost"):
            return None
        return isinstance(check, Failed)

    async def _reconciles(self, timeout_s: float) -> bool | None:
        def answer(each: Message) -> Check[None] | None:
            match each:
                case NegMsg("neg") | NegErr("neg"):
                    return Measured(None)
                case Closed("neg", _):
                    return Failed("closed")
                case Notice():
                    return Failed("notice")
            return None

        frame = message.open_reconciliation("neg", CHEAP, NEG_NOTHING)
        check = await self._time(frame, answer, timeout_s)
        if isinstance(check, Measured):
            await self._say(message.close_reconciliation("neg"), timeout_s)
        return _is_seen(check)

    async def _time(
        self,
        frame: bytes,
        answer: Callable[[Message], Check[None] | None],
        timeout_s: float,
    ) -> Check[float]:
        """Asks, and times the first message that is an answer."""
        try:
            async with asyncio.timeout(timeout_s):
                self._wire.lap()
                await self._wire.send(encode(frame))
                check = await self._await_answer(answer)
        except TimeoutError as error:
            if error.errno is None:
                return Failed("no-answer", f"none within {timeout_s:g} s")
            self._is_lost = str(error)
        except (*FAULTS, LostError) as error:
            self._is_lost = str(error) or type(error).__name__
        else:
            return Measured(self._wire.waited_s) if isinstance(check, Measured) else check
        return Failed("lost", self._is_lost)

    async def _await_answer(
        self, answer: Callable[[Message], Check[None] | None]
    ) -> Measured[None] | Failed | Unmeasured:
        received = 0
        while True:
            data, self._rest = self._rest, b""
            data = data or await self._wire.receive()
            received += len(data)
            if received > ANSWER_BYTES:
                raise LostError("flooded with what nobody asked for")
            found = None
            for each in map(message.decode, self._reader.feed(data)):
                self._note(each)
                found = found or answer(each)
            if found is not None:
                return found
            replies = b"".join(self._reader.replies)
            self._reader.replies.clear()
            if replies:
                await self._wire.send(replies)
            if self._reader.goodbye is not None:
                goodbye = self._reader.goodbye
                raise LostError(f"closed with {goodbye.code} {goodbye.reason}".strip())

    def _note(self, each: Message) -> None:
        """What is seen by the way."""
        if isinstance(each, Auth):
            self.challenge = each.challenge
        elif isinstance(each, Eose) and {"finish", "more"} & set(each.hints):
            self.has_hints = True

    async def _say(self, frame: bytes, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wire.send(encode(frame))
        except (*FAULTS, LostError) as error:
            self._is_lost = str(error) or type(error).__name__


def _is_seen(check: Check[float]) -> bool | None:
    """An answer in kind, another one, or none at all."""
    if isinstance(check, Measured):
        return True
    is_answer = isinstance(check, Failed) and check.reason not in ("no-answer", "lost")
    return False if is_answer else None


def prefix_of(reason: str, otherwise: str) -> str:
    """The machine-readable prefix of an OK or CLOSED (NIP-01), `otherwise` without one."""
    prefix, colon, _ = reason.partition(":")
    is_one = colon and prefix.isascii() and prefix.replace("-", "").isalpha() and len(prefix) < 30
    return prefix.lower() if is_one else otherwise


async def make_contact(
    relay: Relay, link: Link, *, allow_local: bool, manners: Manners
) -> Contact | Missed:
    """Opens a connection to a relay within `link.timeout_s`, and measures each step."""
    try:
        opened = await open_socket(
            relay.host, relay.port, link, allow_local=allow_local, manners=manners
        )
    except UnreachedError as error:
        return Missed(error.value, None, "")
    wire = _Seated(opened)
    is_direct = link.proxy is None
    peer = wire.peer if is_direct else ""
    tls: Secured | None = None
    why: Unreached
    try:
        async with asyncio.timeout(opened.left_s):
            tcp_s = wire.tcp_rtt_s if is_direct else None
            tls_s = None
            if relay.scheme == "wss":
                tls = await _secure(wire, relay.host)
                tls_s = wire.waited_s
            wire.lap()
            headers, rest = await _upgrade(wire, relay.url, manners.user_agent)
        opening = Opening(
            opened.resolved_s,
            opened.connected_s if tcp_s is None else tcp_s,
            tls_s,
            wire.waited_s,
        )
        return Contact(wire, opening, tls, headers, rest, is_direct)
    except TimeoutError as error:
        why = Unreached(Failure.SLOW, f"connected, but no answer within {link.timeout_s:g} s")
        if error.errno is not None:
            why = judge(error)
    except _InsecureError as error:
        why, tls = error.why, error.tls
    except NotWebSocketError as error:
        why = Unreached(STATUSES.get(error.status, Failure.NOT_WEBSOCKET), str(error))
    except LostError as error:
        why = Unreached(Failure.NOT_WEBSOCKET, str(error))
    except FAULTS as error:
        why = judge(error)
    except BaseException:
        wire.close()
        raise
    wire.close()
    return Missed(why, tls, peer)


class _Seated(Wire):
    """A wire that gives back its seat among our manners."""

    def __init__(self, opened: Opened) -> None:
        super().__init__(opened.sock)
        self._seat = opened.seat

    def close(self) -> None:
        super().close()
        self._seat.leave()


class _InsecureError(Exception):
    """A handshake of TLS that failed."""

    def __init__(self, why: Unreached, tls: Secured | None) -> None:
        super().__init__(why.detail)
        self.why = why
        self.tls = tls


async def _secure(wire: Wire, host: str) -> Secured:
    connection = wire.prepare(observing_context(), host)
    try:
        await wire.encrypt(observing_context(), host)
    except (OSError, LostError) as error:
        why = judge(error) if isinstance(error, OSError) else Unreached(Failure.TLS, str(error))
        certificate = certificate_of(connection)
        secured = None
        if isinstance(error, ssl.SSLCertVerificationError):
            secured = Secured(False, why.failure.value, certificate, *_suite(connection))
        raise _InsecureError(why, secured) from None
    return Secured(True, "", certificate_of(connection), *_suite(connection))


def _suite(connection: ssl.SSLObject) -> tuple[str | None, str | None]:
    cipher = connection.cipher()
    return (None, None) if cipher is None else (cipher[1], cipher[0])


async def _upgrade(wire: Wire, url: str, user_agent: str) -> tuple[dict[str, str], bytes]:
    """Makes the handshake of the WebSocket; the telling headers, and what came after it."""
    handshake = ClientProtocol(parse_uri(url))
    request = handshake.connect()
    request.headers["User-Agent"] = user_agent
    handshake.send_request(request)
    await wire.send(b"".join(handshake.data_to_send()))
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) > MAX_HEAD:
            raise NotWebSocketError(f"over {MAX_HEAD} bytes of headers")
        received += await wire.receive()
    head, end, rest = received.partition(b"\r\n\r\n")
    check_answer(handshake, head + end)
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() in TELLING:
            headers.setdefault(name.strip().lower(), value.strip()[:MAX_VALUE])
    return headers, rest
