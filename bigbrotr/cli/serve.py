"""The command `serve`: the API of an archive, without the services."""

import argparse
import asyncio
import signal
from typing import TYPE_CHECKING

import anyio
import msgspec

from bigbrotr.cli import parse, place
from bigbrotr.config.settings import listen_address
from bigbrotr.core.identity import identity
from bigbrotr.core.logger import Logger, configure
from bigbrotr.errors import ConfigError

if TYPE_CHECKING:  # slow to import
    from bigbrotr.serve.orders import Order

ENDING = (signal.SIGINT, signal.SIGTERM)


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "answer questions about an archive over HTTP, without the services"
    serve = parse.add(commands, "serve", _serve, words, shared.place, shared.speech)
    serve.add_argument(
        "--listen",
        type=_address,
        metavar="ADDRESS:PORT",
        help="where (default: [serve] listen); several may share one",
    )


def _address(text: str) -> str:
    try:
        listen_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address and a port, as 127.0.0.1:7447 is"
        ) from None
    return text


def _serve(options: argparse.Namespace) -> int:
    there = place.find(options)
    serve = there.config.serve
    if options.listen:
        serve = msgspec.structs.replace(serve, listen=options.listen)
    if not serve.listen:
        raise ConfigError("[serve] listen is not set: `bigbrotr serve --listen 127.0.0.1:7447`")
    config = msgspec.structs.replace(there.config, serve=serve)
    configure(config.log.level, config.log.json)
    return place.loop(_work(there._replace(config=config)))


async def _work(there: place.Place) -> int:
    from bigbrotr.serve.orders import Order

    async with place.server(there) as brotr:
        await place.prepare(brotr, there)
        dsn = brotr.pool.address if there.config.database.is_embedded else None
        await brotr.pool.close()  # who serves has connections of their own
        order = Order(there.config, dsn, identity(there.config.database, there.data_dir))
        work = _alone if there.config.serve.width == 1 else _together
        async with anyio.create_task_group() as group:
            with anyio.open_signal_receiver(*ENDING) as signals:
                group.start_soon(work, order)
                async for _ in signals:
                    break
            group.cancel_scope.cancel()
    return 0


async def _alone(order: "Order") -> None:
    """Serves in this process."""
    from bigbrotr.serve.process import serve

    log = Logger("serve")

    async def is_listening(_: object, url: str) -> None:
        log.info("serving the archive", address=url)
        await asyncio.Event().wait()

    await serve(order, log, is_listening=is_listening)


async def _together(order: "Order") -> None:
    """Serves in processes that share the port."""
    from bigbrotr.serve.children import Children

    await Children(order, order.config.supervisor, Logger("serve")).run()
