"""One cycle of the monitor: relays that are due are checked, and what it posts is delivered."""

import json
from typing import Any

from bigbrotr.config.settings import (
    ClaimsSettings,
    Config,
    Link,
    MonitorSettings,
    Networks,
    PublisherSettings,
    PublishSettings,
)
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.metrics import Sample
from bigbrotr.models.relay import Relay
from bigbrotr.services.monitor.service import Monitor
from bigbrotr.services.publisher import Publisher
from tests.kit.events import make_event

EVENT = make_event()
SECRET = "11" * 32
LINK = Link(timeout_s=5.0, width=20)
QUICK = ClaimsSettings(timeout_s=0.2)
DOCUMENT = {"name": "a relay", "supported_nips": [1, 11], "limitation": {"max_limit": 500}}


def context(link: Link = LINK, **networks: Link) -> Context:
    made = Networks(**networks) if networks else Networks(clearnet=Link(enabled=False), local=link)
    return Context(Config(networks=made), None, "test")


def monitor(brotr: Brotr, link: Link = LINK, **settings: Any) -> Monitor:
    settings.setdefault("claims", QUICK)
    return Monitor(brotr, MonitorSettings(**settings), context(link))


async def look(
    brotr: Brotr, *urls: str, max_attempts: int = 5, **settings: Any
) -> dict[tuple[str, ...], float]:
    """One cycle in which these relays are due, and the delivery of what it announces; their metrics
    by name and labels."""
    await brotr.insert_relays([Relay(url) for url in urls])
    await brotr.pool.execute("UPDATE bigbrotr.checks SET due_at = 0")
    found: list[Sample] = []
    async with monitor(brotr, **settings) as service:
        await service.run()
        found += service.metrics()
    if "publish" in settings:
        sending = PublisherSettings(max_attempts=max_attempts)
        async with Publisher(brotr, sending, context()) as publisher:
            await publisher.run()
            found += publisher.metrics()
    return {(name, *labels): value for name, value, labels in found}


async def states(brotr: Brotr) -> dict[str, tuple[str, str]]:
    rows = await brotr.pool.fetch("SELECT relay_url, state, outcome FROM bigbrotr.relay_states")
    return {row["relay_url"]: (row["state"], row["outcome"]) for row in rows}


async def latest(brotr: Brotr) -> dict[str, Any]:
    rows = await brotr.pool.fetch("SELECT type, data FROM bigbrotr.relay_metadata_latest")
    return {row["type"]: json.loads(row["data"]) for row in rows}


def publish(*relays: str, **more: Any) -> PublishSettings:
    return PublishSettings(enabled=True, relays=relays, **more)


async def deliveries(brotr: Brotr) -> dict[tuple[str, str, str], int]:
    rows = await brotr.pool.fetch("SELECT target, outcome, reason, times FROM bigbrotr.deliveries")
    return {(row["target"], row["outcome"], row["reason"]): row["times"] for row in rows}
