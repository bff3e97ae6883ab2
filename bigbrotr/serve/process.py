"""The process that serves an archive: its sessions only read, and several may share a port."""

import asyncio
import http.client
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from bigbrotr.config.settings import Limits, Retry
from bigbrotr.core.logger import Logger
from bigbrotr.core.reading_pool import ReadingPool
from bigbrotr.errors import BusyError
from bigbrotr.serve.api import RESOURCES
from bigbrotr.serve.ask import IDENTITY, LOOPBACK, at
from bigbrotr.serve.management import Management
from bigbrotr.serve.orders import STOP_S, Order
from bigbrotr.serve.relay.relay import open_relay
from bigbrotr.serve.service import PREFIX, Server, Service

LOOK_S = 2.0  # until a neighbour on the port has said whose it is
BACKLOG = 512  # connections that wait to be accepted
PATIENCE_S = 2.0  # for a free connection to the database
TRIES = 3  # to learn who has the port
TRY_S = 0.5


async def serve(
    order: Order,
    log: Logger,
    *,
    is_listening: Callable[[Service, str], Awaitable[None]],
) -> None:
    """Serves until it is cancelled or `is_listening`, which gets the service and its URL, returns.

    Raises:
        BusyError: the address is another program's, or another archive's.
        DatabaseError: the database cannot be reached.
    """
    settings = order.config.serve
    async with reading_pool(order) as pool, open_relay(pool, settings, log) as relay:
        service = Service(
            pool,
            settings,
            RESOURCES,
            log,
            identity=order.identity,
            relay=relay,
            management=Management(order),
        )
        server = Server(service)
        listener = await listen(*settings.address(), order.identity)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server, sock=listener, backlog=BACKLOG)
        try:
            host, port = listener.getsockname()[:2]
            below = "/" if settings.pages else f"{PREFIX}/"
            await is_listening(service, f"http://{at(LOOPBACK.get(host, host), port)}{below}")
        finally:
            listening.close()
            await service.close()
            if relay is not None:
                await relay.close()
            server.pre_shutdown()
            with suppress(TimeoutError):
                await server.shutdown(STOP_S)


def reading_pool(order: Order) -> ReadingPool:
    """The pool of a process: few connections, and little patience for one."""
    config, limits = order.config, order.config.serve.limits
    pool = msgspec.structs.replace(
        config.pool,
        limits=Limits(min_size=1, max_size=limits.database_connections),
        retry=Retry(max_attempts=1),
        server_settings=msgspec.structs.replace(
            config.pool.server_settings,
            application_name=f"{config.pool.server_settings.application_name} serve",
        ),
    )
    return ReadingPool(
        config.database,
        pool,
        statement_timeout_s=limits.statement_timeout_s,
        dsn=order.dsn,
        patience_s=PATIENCE_S,
    )


async def listen(host: str, port: int, identity: str) -> socket.socket:
    """A socket that listens on the address, together with others that serve the same archive.

    Raises:
        BusyError: somebody else has it, or there is no such address.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        # Alone first: the kernel would let us share the port with whoever else of our user shares.
        for tries_left in reversed(range(TRIES)):
            try:
                return _bind(family, address, is_shared=False)
            except OSError:
                told = await asyncio.to_thread(_neighbour, LOOPBACK.get(host, host), port)
                if told == identity:
                    return _bind(family, address, is_shared=True)
                if told is not None or not tries_left:
                    raise
            await asyncio.sleep(TRY_S)  # perhaps it is just starting
        raise AssertionError
    except OSError as error:
        raise BusyError(
            f"cannot listen on {at(host, port)} ([serve] listen): {error.strerror or error}; "
            "choose another port, or stop who has it"
        ) from None


def _bind(family: int, address: tuple[object, ...], *, is_shared: bool) -> socket.socket:
    """A socket at the address. The first one looks whether it is alone, and then shares as well."""
    if not is_shared:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def _neighbour(host: str, port: int) -> str | None:
    """Whose archive is served at an address already; None: nobody says."""
    connection = http.client.HTTPConnection(host, port, timeout=LOOK_S)
    try:
        connection.request("HEAD", f"{PREFIX}/openapi.json")
        return connection.getresponse().headers.get(IDENTITY)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
