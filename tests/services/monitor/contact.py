"""A connection that measures a relay, met by its address."""

import json
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from bigbrotr.config.settings import Link
from bigbrotr.models.relay import Relay
from bigbrotr.net.politeness import Politeness
from bigbrotr.services.monitor.probe import Missed, ProbeConnection, open_probe
from tests.kit.events import make_event

LINK = Link(timeout_s=5.0)
EVENT = make_event()


async def meet(
    url: str, link: Link = LINK, *, allow_local: bool = True
) -> ProbeConnection | Missed:
    return await open_probe(Relay(url), link, allow_local=allow_local, politeness=Politeness())


async def contact(url: str, link: Link = LINK) -> ProbeConnection:
    met = await meet(url, link)
    assert isinstance(met, ProbeConnection), met
    return met


async def answering(
    reply: Callable[[list[Any]], list[list[Any]]], ask: Callable[[ProbeConnection], Any]
) -> Any:
    """What is asked of a relay that answers each frame like this."""

    async def talk(connection: ServerConnection) -> None:
        async for frame in connection:
            for each in reply(json.loads(frame)):
                await connection.send(json.dumps(each))

    async with serve(talk, "127.0.0.1", 0) as relay:
        port = next(iter(relay.sockets)).getsockname()[1]
        async with await contact(f"ws://127.0.0.1:{port}") as met:
            return await ask(met)
