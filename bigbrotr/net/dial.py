"""WebSockets to relays: a socket, TLS where it is wanted, and the upgrade."""

import asyncio

from bigbrotr.config.settings import Link
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import (
    FAULTS,
    Failure,
    Opened,
    Unreached,
    UnreachedError,
    failure_of,
    open_to_relay,
    tls_context,
)
from bigbrotr.net.politeness import Politeness
from bigbrotr.net.websocket import DisconnectedError, NotWebSocketError, Stream

# What an HTTP status says of us, where a WebSocket was asked for.
STATUSES = {
    401: Failure.REFUSES_US,
    402: Failure.REFUSES_US,
    403: Failure.REFUSES_US,
    429: Failure.RATE_LIMITED,
    451: Failure.REFUSES_US,
}


async def dial(
    relay: Relay,
    link: Link,
    *,
    max_frame_bytes: int,
    allow_local: bool,
    politeness: Politeness | None = None,
) -> Stream | Unreached:
    """Opens a WebSocket to `relay` within `link.timeout_s`, as `politeness` allows (default:
    limits of its own, for a process that dials nothing else).

    Names of overlay networks go to the proxy as they are; no resolver is ever asked. Without
    `allow_local`, no address outside the open internet is connected to (`open_socket`).
    """
    politeness = politeness or Politeness()
    try:
        opened = await open_to_relay(relay, link, allow_local=allow_local, politeness=politeness)
    except UnreachedError as error:
        return error.value
    try:
        async with asyncio.timeout(opened.left_s):
            return await _open(
                relay, opened, max_frame_bytes, politeness.user_agent, is_packed=link.compression
            )
    except TimeoutError:
        return Unreached(Failure.SLOW, f"connected, but no answer within {link.timeout_s:g} s")
    except NotWebSocketError as error:
        return Unreached(STATUSES.get(error.status, Failure.NOT_WEBSOCKET), str(error))
    except DisconnectedError as error:
        return Unreached(Failure.NOT_WEBSOCKET, str(error))
    except FAULTS as error:
        return failure_of(error)


async def _open(
    relay: Relay, opened: Opened, max_frame_bytes: int, user_agent: str, *, is_packed: bool
) -> Stream:
    stream = Stream(max_frame_bytes, opened.slot)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: stream,
            sock=opened.sock,
            ssl=tls_context() if relay.scheme == "wss" else None,
            server_hostname=relay.host if relay.scheme == "wss" else None,
        )
        await stream.upgrade(relay.url, user_agent, is_packed=is_packed)
    except BaseException:
        stream.abort()
        opened.sock.close()
        opened.slot.leave()
        raise
    return stream
