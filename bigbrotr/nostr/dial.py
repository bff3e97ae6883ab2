"""Sockets to relays: names resolved, addresses judged, then TCP, TLS or SOCKS5, and the upgrade."""

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError
from python_socks.async_.asyncio import Proxy

from bigbrotr import __version__
from bigbrotr.config import Link
from bigbrotr.models.relay import Network, Relay, is_special
from bigbrotr.nostr.stream import DisconnectedError, NotWebSocketError, Stream

USER_AGENT = f"bigbrotr/{__version__}"
STAGGER_S = 0.25  # RFC 8305: how long an address may keep us before the next is tried as well
MAX_ADDRESSES = 6  # of one name: a hostile zone could list hundreds

# getaddrinfo blocks; slow names must not starve what else runs in the default pool.
_resolver = ThreadPoolExecutor(max_workers=32, thread_name_prefix="resolve")


class Failure(StrEnum):
    """Why there is no conversation with a relay."""

    REFUSED = "refused"  # the host is there, nobody listens
    UNREACHABLE = "unreachable"  # no route, or reset on the way
    TIMEOUT = "timeout"
    NO_NAME = "no-such-name"
    TLS = "tls"
    NOT_WEBSOCKET = "not-websocket"  # something answers, but does not upgrade
    PROXY = "proxy"  # our own proxy fails
    FORBIDDEN = "forbidden-address"  # a name of the open internet that leads inside
    OFFLINE = "offline"  # no name server answers, or there is no route: perhaps our fault


OURS = frozenset({Failure.PROXY})  # never counted against a relay
# What a machine without a network sees; each alone may well be the relay's fault.
PERHAPS_OURS = frozenset({Failure.OFFLINE, Failure.NO_NAME, Failure.UNREACHABLE, Failure.TIMEOUT})
OFFLINE_SAMPLE = 4  # as many failures in a row, all of which may be ours, mean that they are


def is_offline(failures: Collection[Failure | None]) -> bool:
    """Whether failures to reach relays of the open internet, one a relay (None: reached), are
    rather our own network's than everybody's."""
    return len(failures) >= OFFLINE_SAMPLE and all(each in PERHAPS_OURS for each in failures)


class Unreached(NamedTuple):
    """Why there is no conversation, with details for people."""

    failure: Failure
    detail: str


async def dial(
    relay: Relay, link: Link, *, max_frame_bytes: int, allow_local: bool
) -> Stream | Unreached:
    """Opens a WebSocket to `relay` within `link.timeout_s`.

    Names of overlay networks go to the proxy as they are; no resolver is ever asked. Without
    `allow_local`, an address that is not of the open internet is not connected to.
    """
    try:
        async with asyncio.timeout(link.timeout_s):
            return await _open(relay, link, max_frame_bytes, allow_local)
    except TimeoutError:
        return Unreached(Failure.TIMEOUT, f"no answer within {link.timeout_s:g} s")
    except _Unreachable as error:
        return error.value
    except (ProxyError, ProxyConnectionError, ProxyTimeoutError) as error:
        return _judge_proxy(error)
    except ssl.SSLError as error:
        return Unreached(Failure.TLS, getattr(error, "verify_message", "") or error.reason or "")
    except (NotWebSocketError, DisconnectedError) as error:
        return Unreached(Failure.NOT_WEBSOCKET, str(error))
    except OSError as error:
        return _judge_socket(error)


class _Unreachable(Exception):  # noqa: N818 -- carries a value within this module
    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.value = Unreached(failure, detail)


async def _open(relay: Relay, link: Link, max_frame_bytes: int, allow_local: bool) -> Stream:
    if link.proxy is None:
        if relay.network in (Network.TOR, Network.I2P, Network.LOKI):
            raise _Unreachable(Failure.PROXY, f"no proxy is set for {relay.network}")
        addresses = await _resolve(relay)
        if not allow_local:
            addresses = [address for address in addresses if not is_special(address[1][0])]
        if not addresses:
            raise _Unreachable(Failure.FORBIDDEN, "the name leads to a private or special address")
        sock = await _connect(addresses[:MAX_ADDRESSES])
    else:
        # Both schemes mean the same here: the proxy resolves the name.
        url = link.proxy.replace("socks5h://", "socks5://", 1)
        sock = await Proxy.from_url(url, rdns=True).connect(relay.host, relay.port)
    stream = Stream(max_frame_bytes)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: stream,
            sock=sock,
            ssl=_tls() if relay.scheme == "wss" else None,
            server_hostname=relay.host if relay.scheme == "wss" else None,
        )
        await stream.upgrade(relay.url, USER_AGENT)
    except BaseException:
        stream.abort()
        sock.close()
        raise
    return stream


@cache
def _tls() -> ssl.SSLContext:
    """What certificates are checked against; reading them takes a while."""
    return ssl.create_default_context()


Target = tuple[socket.AddressFamily, tuple[str, int]]


async def _resolve(relay: Relay) -> list[Target]:
    """The addresses of a relay's host, IPv6 and IPv4 in turn (RFC 8305)."""
    host = relay.host
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        family = socket.AF_INET6 if literal.version == 6 else socket.AF_INET
        return [(family, (host, relay.port))]
    try:
        found = await asyncio.get_running_loop().run_in_executor(
            _resolver,
            lambda: socket.getaddrinfo(host, relay.port, type=socket.SOCK_STREAM),
        )
    except socket.gaierror as error:
        # EAI_AGAIN: no name server answered. That may be the zone's or ours: the caller, who sees
        # many relays, decides.
        if error.errno == socket.EAI_AGAIN:
            raise _Unreachable(Failure.OFFLINE, "no name server answers") from None
        raise _Unreachable(Failure.NO_NAME, error.strerror or str(error)) from None
    except UnicodeError as error:
        raise _Unreachable(Failure.NO_NAME, str(error)) from None
    families: dict[int, list[Target]] = {socket.AF_INET6: [], socket.AF_INET: []}
    for family, _, _, _, address in found:
        if family in families:
            families[family].append((family, (str(address[0]), relay.port)))
    return _alternate(families[socket.AF_INET6], families[socket.AF_INET])


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


def _judge_socket(error: OSError) -> Unreached:
    if isinstance(error, ConnectionRefusedError):
        return Unreached(Failure.REFUSED, "connection refused")
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Unreached(Failure.UNREACHABLE, "connection reset")
    words = error.strerror or str(error)
    if _has_no_route(error):
        return Unreached(Failure.OFFLINE, words)
    return Unreached(Failure.UNREACHABLE, words)


def _has_no_route(error: OSError) -> bool:
    """No route from this machine at all; a far host's troubles read "no route to host"."""
    return error.errno in (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


def _judge_proxy(error: BaseException) -> Unreached:
    code = getattr(error, "error_code", None)
    if isinstance(error, ProxyError) and code in (1, 3, 4, 5, 6):
        # The proxy works and says that the relay does not: RFC 1928's reply codes.
        failure = Failure.REFUSED if code == 5 else Failure.UNREACHABLE
        return Unreached(failure, str(error))
    return Unreached(Failure.PROXY, str(error) or type(error).__name__)
