"""A client of the relay that says and sees raw frames, and an archive for it to read."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect

from bigbrotr.config.settings import ServeLimits, ServeRelayLimits, ServeRelaySettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.models.relay import Relay
from tests.kit.archive import pairs
from tests.kit.served import Served, served

PATIENCE_S = 30.0
HOLDER = Relay("wss://holder.example.com")
OPEN = ServeLimits(requests_per_s=0, statement_timeout_s=20)


class Client:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, *values: Any) -> None:
        """Sends a frame."""
        await self.socket.send(json.dumps(values))

    async def hear(self) -> list[Any]:
        """The next frame."""
        with anyio.fail_after(PATIENCE_S):
            frame: list[Any] = json.loads(await self.socket.recv())
            return frame

    async def ask(self, *values: Any) -> list[Any]:
        """Sends a frame; the next that comes."""
        await self.say(*values)
        return await self.hear()

    async def until(self, *kinds: str) -> list[list[Any]]:
        """The frames up to one of these types, that one included."""
        found = []
        while True:
            found.append(await self.hear())
            if found[-1][0] in kinds:
                return found

    async def stored(self, *filters: Any, name: str = "sub") -> tuple[list[str], list[str]]:
        """The ids of the stored events that match, and the hints of the EOSE."""
        await self.say("REQ", name, *filters)
        *events, eose = await self.until("EOSE", "CLOSED")
        assert eose[:2] == ["EOSE", name], eose
        assert all(frame[:2] == ["EVENT", name] for frame in events)
        await self.say("CLOSE", name)
        return [frame[2]["id"] for frame in events], eose[2] if len(eose) > 2 else []


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[Client]:
    """A client of the relay at a URL."""
    async with connect(url, **({"compression": None, "max_size": None} | options)) as socket:
        yield Client(socket)


class Place:
    """A served archive, and the URLs of its relay."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.url = server.url.removesuffix("/api/v1").replace("http", "ws", 1)
        self.http = server.url.removesuffix("/api/v1")

    @property
    def archive(self) -> str:
        """The URL of the view of all."""
        return f"{self.url}/archive"

    @property
    def relay(self) -> Any:
        """The relay itself."""
        assert self.server.service.relay is not None
        return self.server.service.relay


@asynccontextmanager
async def relay_of(
    dsn: str,
    limits: ServeLimits = OPEN,
    *,
    bounds: dict[str, Any] | None = None,
    serve: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Place]:
    """Serves a database as a relay; `bounds` are those of a client, `settings` the relay's, `serve`
    others of what is served."""
    free = {"messages_per_s": 0, "work_per_s": 0} | (bounds or {})
    relay = ServeRelaySettings(
        **({"enabled": True, "archive": True} | settings), limits=ServeRelayLimits(**free)
    )
    async with served(dsn, limits=limits, relay=relay, **(serve or {})) as server:
        yield Place(server)


async def store(brotr: Brotr, events: Iterable[Event]) -> None:
    """Archives events."""
    await brotr.insert_events(pairs(list(events), HOLDER))


def newest_first(events: Iterable[Event]) -> list[str]:
    """The ids as a relay orders them."""
    return [
        event.id.hex() for event in sorted(events, key=lambda each: (-each.created_at, each.id))
    ]


def ids_of(frames: Sequence[Sequence[Any]]) -> list[str]:
    """The ids of the events in frames."""
    return [frame[2]["id"] for frame in frames if frame[0] == "EVENT"]
