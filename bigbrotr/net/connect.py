"""Sockets to hosts: names resolved, addresses judged, then TCP or SOCKS5; each failure by name.

The one place that decides which addresses are connected to, and what a failure means.
"""

import asyncio
import errno
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import cache
from typing import NamedTuple, TypeAlias

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError

from bigbrotr.config.settings import Link
from bigbrotr.models.relay import HIDDEN, Relay, is_special
from bigbrotr.net.certificate import checking_context
from bigbrotr.net.lookup import NoTurnError, lookups
from bigbrotr.net.politeness import Politeness, Slot

STAGGER_S = 0.25  # RFC 8305: how long an address may keep us before the next is tried as well
MAX_ADDRESSES = 6  # of one name: a hostile zone could list hundreds


class Failure(StrEnum):
    """Why there is no conversation with a host."""

    REFUSED = "refused"  # the host is there, nobody listens
    UNREACHABLE = "unreachable"  # no route, or reset on the way
    TIMEOUT = "timeout"  # nothing answers at all
    SLOW = "slow"  # it is connected, and says nothing in time
    NO_NAME = "no-such-name"
    NO_SERVICE = "no-such-service"  # says Tor: nobody answers behind the onion
    TLS_EXPIRED = "tls-expired"  # or not valid yet
    TLS_WRONG_NAME = "tls-wrong-name"
    TLS_UNTRUSTED = "tls-untrusted"  # signed by itself, or by nobody that we know
    TLS_OLD = "tls-too-old"  # a version of TLS that is no longer spoken
    TLS = "tls"  # any other trouble, such as no TLS at all
    NOT_WEBSOCKET = "not-websocket"  # something answers, but does not upgrade
    REFUSES_US = "refuses-us"  # HTTP: it wants others, or somebody to pay
    RATE_LIMITED = "rate-limited"  # HTTP: too many requests
    FORBIDDEN = "forbidden-address"  # a name of the open internet that leads inside
    UNJUDGED = "unjudged-address"  # only our proxy would know where its name leads
    OFFLINE = "offline"  # no name server answers, or there is no route: perhaps our fault
    PROXY = "proxy"  # our own proxy fails
    BUSY = "busy-address"  # we talk to as many there as politeness allow
    RESTING = "resting"  # it asked us to slow down
    OPTED_OUT = "opted-out"
    OVERLOADED = "overloaded"  # this machine: its look-ups, open files or memory
    DEFECT = "defect"  # what it sent made our own code fail: nobody knows what it is like


# Nobody was dialled: it says nothing of the host, nor of our network.
UNTRIED = frozenset(
    {Failure.BUSY, Failure.RESTING, Failure.OPTED_OUT, Failure.OVERLOADED, Failure.UNJUDGED}
)
OURS = UNTRIED | {Failure.PROXY, Failure.DEFECT}  # never counted against a relay
# What a machine without a network sees; each alone may well be the relay's fault.
PERHAPS_OURS = frozenset(
    {
        Failure.OFFLINE,
        Failure.NO_NAME,
        Failure.NO_SERVICE,
        Failure.UNREACHABLE,
        Failure.TIMEOUT,
    }
)
OFFLINE_SAMPLE = 4  # as many failures in a row, all of which may be ours, mean that they are


def is_offline(failures: Collection[Failure | None]) -> bool:
    """Whether failures to reach relays of the open internet, one a relay (None: reached), are
    rather our own network's than everybody's."""
    return len(failures) >= OFFLINE_SAMPLE and all(each in PERHAPS_OURS for each in failures)


class Unreached(NamedTuple):
    """Why there is no conversation, with details for people."""

    failure: Failure
    detail: str


class UnreachedError(Exception):
    """Carries an `Unreached` to where it becomes a value."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.value = Unreached(failure, detail)


# What sockets, TLS and proxies raise: time-outs and resets are OSErrors.
FAULTS = (OSError, ProxyError, ProxyConnectionError, ProxyTimeoutError)

Target: TypeAlias = tuple[socket.AddressFamily, tuple[str, int]]


class Opened(NamedTuple):
    """A connected socket, its slot, the seconds that are left, and how long it took to look up the
    address (None: there was nothing to look up) and to connect, without waiting for a slot."""

    sock: socket.socket
    slot: Slot
    left_s: float
    resolved_s: float | None
    connected_s: float


async def open_to_relay(
    relay: Relay, link: Link, *, allow_local: bool, politeness: Politeness
) -> Opened:
    """Opens a socket to the host of a relay: see `open_socket`."""
    return await open_socket(
        relay.host,
        relay.port,
        link,
        allow_local=allow_local,
        politeness=politeness,
        is_tls=relay.scheme == "wss",
    )


async def open_socket(
    host: str,
    port: int,
    link: Link,
    *,
    allow_local: bool,
    politeness: Politeness,
    is_tls: bool = False,
) -> Opened:
    """Opens a socket to `host` within `link.timeout_s`, not counting the wait for a slot or for a
    look-up to begin.

    Names of overlay networks go to the proxy as they are, and all names to one that is `socks5h`.
    Others are resolved once, and the socket is connected, through a proxy too, to an address that
    was checked: without `allow_local` it is one of the open internet. Nobody can check where a
    proxy leads by name: then TLS has to follow (`is_tls`), for no host inside has a certificate
    for a name of the open internet.

    Raises:
        UnreachedError: no socket could be opened.
    """
    if politeness.refuses(host):
        raise UnreachedError(Failure.OPTED_OUT, "its operator wants none of us")
    if politeness.is_cooling_down(host, port):
        raise UnreachedError(Failure.RESTING, "it asked us to slow down")
    targets: list[Target] = []
    resolved_s = 0.0
    if link.proxy is not None and is_left_to_proxy(host, link.proxy):
        if not (allow_local or is_tls or host.rpartition(".")[2] in HIDDEN):
            detail = "the proxy resolves its name, and nobody can judge where that leads"
            raise UnreachedError(Failure.UNJUDGED, detail)
    else:
        targets, resolved_s = await resolve(host, port, link.timeout_s, allow_local=allow_local)
        targets = [target for target in targets if not politeness.refuses(target[1][0])]
        if not targets:
            raise UnreachedError(Failure.OPTED_OUT, "the operator of its network wants none of us")
    left_s = link.timeout_s - resolved_s
    places = [target[1][0] for target in targets] or [host]
    slot = Slot(politeness)
    if not targets or not all(map(is_special, places)):
        await politeness.start()
        slot, places = await politeness.take_slot(places, link.timeout_s)
        if not places:
            raise UnreachedError(Failure.BUSY, "enough conversations with its address already")
    began = time.monotonic()  # the loop's own clock stands still between its rounds
    try:
        async with asyncio.timeout(left_s):
            if link.proxy is None:
                sock = await _connect([target for target in targets if target[1][0] in places])
                slot.keep_only(sock.getpeername()[0])
            else:
                sock, place = await _connect_through(link, places, port)
                slot.keep_only(place)
    except BaseException as error:
        slot.leave()
        if isinstance(error, TimeoutError) and error.errno is None:  # not the kernel's
            detail = f"no connection within {link.timeout_s:g} s"
            raise UnreachedError(Failure.TIMEOUT, detail) from None
        if isinstance(error, FAULTS):
            raise UnreachedError(*failure_of(error)) from None
        raise
    connected_s = time.monotonic() - began
    is_named = bool(targets) and _literal(host) is None
    return Opened(sock, slot, left_s - connected_s, resolved_s if is_named else None, connected_s)


def is_left_to_proxy(host: str, proxy: str) -> bool:
    """Whether a proxy resolves a name, rather than we."""
    is_hidden = host.rpartition(".")[2] in HIDDEN
    return is_hidden or (proxy.startswith("socks5h://") and _literal(host) is None)


async def _connect_through(
    link: Link, places: Sequence[str], port: int
) -> tuple[socket.socket, str]:
    """A socket through a proxy to the first of the addresses, or the name, that it reaches.

    Raises:
        ProxyError and the like: of the last one.
    """
    from python_socks.async_.asyncio import Proxy  # slow to import, and most need no proxy

    assert link.proxy is not None
    # What we resolve is an address by now: the rest is for the proxy.
    proxy = Proxy.from_url(link.proxy.replace("socks5h://", "socks5://", 1), rdns=True)
    for place in places[:-1]:
        with suppress(ProxyError):
            return await proxy.connect(place, port, timeout=link.timeout_s + 1), place
    return await proxy.connect(places[-1], port, timeout=link.timeout_s + 1), places[-1]


async def resolve(
    host: str, port: int, timeout_s: float, *, allow_local: bool
) -> tuple[list[Target], float]:
    """The addresses of a host that may be connected to, at least one, IPv6 and IPv4 in turn
    (RFC 8305), and how long the look-up took. Names of overlay networks are never asked for.

    Raises:
        UnreachedError: no socket could be opened.
    """
    if host.rpartition(".")[2] in HIDDEN:
        raise UnreachedError(Failure.PROXY, f"no proxy is set for {host}")
    addresses, took_s = await _look_up(host, port, timeout_s)
    if not addresses:
        raise UnreachedError(Failure.NO_NAME, "the name has no address")
    if not allow_local:
        addresses = [address for address in addresses if not is_special(address[1][0])]
    if not addresses:
        detail = "the name leads to a private or special address"
        raise UnreachedError(Failure.FORBIDDEN, detail)
    return addresses[:MAX_ADDRESSES], took_s


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def _look_up(host: str, port: int, timeout_s: float) -> tuple[list[Target], float]:
    if (literal := _literal(host)) is not None:
        family = socket.AF_INET6 if literal.version == 6 else socket.AF_INET
        return [(family, (host, port))], 0.0
    try:
        found, took_s = await lookups().find(host, port, wait_s=timeout_s, timeout_s=timeout_s)
    except NoTurnError as error:
        raise UnreachedError(Failure.OVERLOADED, str(error)) from None
    except TimeoutError:
        raise UnreachedError(Failure.TIMEOUT, f"no address within {timeout_s:g} s") from None
    except socket.gaierror as error:
        if error.errno in (socket.EAI_MEMORY, socket.EAI_SYSTEM):
            raise UnreachedError(Failure.OVERLOADED, error.strerror or str(error)) from None
        # EAI_AGAIN: no name server answered. That may be the zone's or ours: the caller, who sees
        # many relays, decides.
        if error.errno == socket.EAI_AGAIN:
            raise UnreachedError(Failure.OFFLINE, "no name server answers") from None
        raise UnreachedError(Failure.NO_NAME, error.strerror or str(error)) from None
    except OSError as error:
        raise UnreachedError(*failure_of(error)) from None
    except UnicodeError as error:
        raise UnreachedError(Failure.NO_NAME, str(error)) from None
    families: dict[int, list[Target]] = {socket.AF_INET6: [], socket.AF_INET: []}
    for family, _, _, _, address in found:
        if family in families:
            families[family].append((family, (str(address[0]), port)))
    return _alternate(families[socket.AF_INET6], families[socket.AF_INET]), took_s


def _alternate(first: Sequence[Target], second: Sequence[Target]) -> list[Target]:
    """Both lists, one of each in turn."""
    mixed: list[Target] = []
    for index in range(max(len(first), len(second))):
        mixed += [*first[index : index + 1], *second[index : index + 1]]
    return mixed


async def _connect(targets: Sequence[Target]) -> socket.socket:
    """A socket to the first address that answers; a slow one does not keep the others waiting.

    Raises:
        OSError: of the last address that failed, when all did.
    """
    pending: set[asyncio.Task[socket.socket]] = set()
    waiting = list(targets)
    error: OSError | None = None
    try:
        while waiting or pending:
            if waiting:
                pending.add(asyncio.create_task(_connect_one(*waiting.pop(0))))
            done, pending = await asyncio.wait(
                pending,
                timeout=STAGGER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            won = None
            for task in done:  # all of them: two may have connected at once
                failure = task.exception()
                if failure is None:
                    if won is not None:
                        won.close()
                    won = task.result()
                elif isinstance(failure, OSError):
                    error = failure
                else:
                    raise failure
            if won is not None:
                return won
    finally:
        for task in pending:
            task.cancel()
            task.add_done_callback(_close_late)
    assert error is not None
    raise error


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """A socket that connected after another had won."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect_one(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


@cache
def tls_context() -> ssl.SSLContext:
    """What certificates are checked against; reading them takes a while."""
    return checking_context()


def failure_of(error: Exception) -> Unreached:
    """Names what one of FAULTS means."""
    if isinstance(error, ssl.SSLError):
        return _judge_tls(error)
    if isinstance(error, OSError) and not isinstance(error, ProxyConnectionError):
        return _judge_socket(error)
    return _judge_proxy(error)


# What this machine lacks when it can open nothing more.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _judge_socket(error: OSError) -> Unreached:
    if isinstance(error, ConnectionRefusedError):
        return Unreached(Failure.REFUSED, "connection refused")
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Unreached(Failure.UNREACHABLE, "connection reset")
    words = error.strerror or str(error) or type(error).__name__
    if error.errno in EXHAUSTED:
        return Unreached(Failure.OVERLOADED, words)
    if isinstance(error, TimeoutError):
        return Unreached(Failure.TIMEOUT, words)
    # No route from this machine at all; a far host's troubles read "no route to host".
    if error.errno in (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL):
        return Unreached(Failure.OFFLINE, words)
    return Unreached(Failure.UNREACHABLE, words)


# OpenSSL's codes of what is wrong with a certificate (x509_vfy.h).
CERTIFICATES = {
    7: Failure.TLS_UNTRUSTED,  # by somebody who only bears the name of one that we know
    9: Failure.TLS_EXPIRED,  # not yet valid
    10: Failure.TLS_EXPIRED,
    18: Failure.TLS_UNTRUSTED,  # signed by itself
    19: Failure.TLS_UNTRUSTED,  # signed by itself, in the chain
    20: Failure.TLS_UNTRUSTED,  # no issuer that we know
    21: Failure.TLS_UNTRUSTED,
    62: Failure.TLS_WRONG_NAME,
    64: Failure.TLS_WRONG_NAME,  # an address instead of a name
}
# OpenSSL's names of what is no longer spoken: a version, a signature, a key, a way to renegotiate.
OLD_TLS = frozenset(
    {
        "UNSUPPORTED_PROTOCOL",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "VERSION_TOO_LOW",
        "WRONG_SSL_VERSION",
        "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED",
        "DH_KEY_TOO_SMALL",
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED",
    }
)
NAMELESS = re.compile(r"\[SSL\] (.+?) \(_ssl")  # a reason that is newer than Python's own list


def _judge_tls(error: ssl.SSLError) -> Unreached:
    if isinstance(error, ssl.SSLCertVerificationError):
        failure = CERTIFICATES.get(error.verify_code, Failure.TLS)
        return Unreached(failure, error.verify_message)
    reason: str | None = getattr(error, "reason", None)  # typed as if it always had one
    if reason is None and (nameless := NAMELESS.search(str(error))):
        reason = nameless[1].upper().replace(" ", "_")
    return Unreached(Failure.TLS_OLD if reason in OLD_TLS else Failure.TLS, reason or str(error))


# Codes of a proxy that works, and says that the relay does not. Any other is the proxy's own: a
# rule of it, or a word that it does not know.
REPLIES = {
    # RFC 1928, 6
    0x01: (Failure.UNREACHABLE, ""),
    0x03: (Failure.UNREACHABLE, ""),
    0x04: (Failure.UNREACHABLE, ""),
    0x05: (Failure.REFUSED, ""),
    0x06: (Failure.TIMEOUT, ""),  # Tor's word for one
    # Tor's ExtendedErrors (proposal 304, tor(1))
    0xF0: (Failure.NO_SERVICE, "no descriptor of the onion service is found"),
    0xF1: (Failure.NO_SERVICE, "the descriptor of the onion service is invalid"),
    0xF2: (Failure.NO_SERVICE, "the onion service is not at its introduction points"),
    0xF3: (Failure.NO_SERVICE, "the onion service does not come to the rendezvous"),
    0xF4: (Failure.REFUSES_US, "the onion service is for those whom it knows"),
    0xF5: (Failure.REFUSES_US, "the onion service does not know our key"),
    0xF6: (Failure.NO_SERVICE, "the onion address is invalid"),
    0xF7: (Failure.NO_SERVICE, "the introduction to the onion service timed out"),
}


UNKNOWN_CODE = re.compile("reply code: 0x([0-9a-f]{2})", re.IGNORECASE)


def _judge_proxy(error: Exception) -> Unreached:
    code = getattr(error, "error_code", None)
    if code is None and (unknown := UNKNOWN_CODE.search(str(error))):
        code = int(unknown[1], 16)  # python-socks says those of Tor in words alone
    if isinstance(error, ProxyError) and code in REPLIES:
        failure, words = REPLIES[code]
        return Unreached(failure, words or str(error))
    return Unreached(Failure.PROXY, str(error) or type(error).__name__)
