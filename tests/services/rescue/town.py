"""A small archive whose events are to be rescued."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bigbrotr.config.settings import Config, Link, Networks, PolitenessSettings, RescueSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.rescues import ToRescue
from bigbrotr.core.logger import Logger
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.services.rescue.sending import Sender
from bigbrotr.services.rescue.service import Rescue
from tests.kit.events import NOW, pubkey

DEAD = Relay("wss://dead.example.com")
WELL = Relay("wss://well.example.com")


def config(**rescue: Any) -> Config:
    """Relays on loopback may be asked."""
    return Config(
        networks=Networks(clearnet=Link(enabled=True), local=Link(enabled=True, timeout_s=5)),
        politeness=PolitenessSettings(),
        rescue=RescueSettings(**{"per_minute": 6000, "verify_s": 0, **rescue}),
    )


async def archive(
    brotr: Brotr,
    events: Sequence[Mapping[str, Any]],
    *holders: Relay,
    targets: Collection[str] = (),
) -> list[Event]:
    """Stores events that some relays hold, beside other relays that are known."""
    found = [Event.from_object(event) for event in events]
    await brotr.insert_relays([*holders, *map(Relay, targets)])
    for holder in holders:
        await brotr.insert_events([EventRelay(event, holder, NOW) for event in found])
    return found


async def holders(brotr: Brotr, event_id: bytes) -> set[str]:
    rows = await brotr.pool.fetch(
        "SELECT relay_url FROM bigbrotr.events_relays WHERE event_id = $1", event_id
    )
    return {row["relay_url"] for row in rows}


async def queue(brotr: Brotr, url: str, events: Sequence[Event]) -> int:
    return await brotr.queue_rescues(
        [ToRescue(url, event.created_at, event.id, event.pubkey) for event in events]
    )


async def states(brotr: Brotr) -> dict[bytes, tuple[str, str]]:
    """State and reason by event."""
    rows = await brotr.pool.fetch("SELECT event_id, state, reason FROM bigbrotr.rescues")
    return {row["event_id"]: (row["state"], row["reason"]) for row in rows}


async def make_due(brotr: Brotr) -> None:
    """As if all had waited long enough."""
    await brotr.pool.execute("UPDATE bigbrotr.rescues SET due_at = 0")
    await brotr.pool.execute("UPDATE bigbrotr.rescue_targets SET due_at = 0")


def sender(brotr: Brotr, **rescue: Any) -> Sender:
    return Sender(brotr, config(**rescue), owner="me", log=Logger("rescue"))


async def cycle(brotr: Brotr, **rescue: Any) -> None:
    """A cycle of the service, for the author of key 0 unless others are named."""
    settings = config(**{"authors": (pubkey(0),), **rescue})
    async with Rescue(brotr, context=Context(settings)) as service:
        await service.run()
