"""Clients that others wrote, and our own services, take the archive for the relay that it is."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import aionostr
import anyio
import nostr_sdk
import pytest

from bigbrotr.config.settings import Config, Link, Networks, Profile, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import Event
from bigbrotr.models.filter import Filter
from bigbrotr.models.nip11 import Nip11
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.timed_socket import keep_stamps
from bigbrotr.nostr.auth import Throwaway
from bigbrotr.services.monitor.claims import compare
from bigbrotr.services.monitor.trial import make_trial
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.worker import Slice, Worker
from bigbrotr.services.validator import Decision, greet
from tests.kit.events import NOW, make_event, wire
from tests.kit.processes import until
from tests.serve.relay.client import relay_of, store
from tests.services.monitor.contact import contact
from tests.services.monitor.cycle import latest, look, states

BEGIN = 1_600_000_000
EVENTS = [
    Event.from_json(
        wire(
            make_event(
                BEGIN + 60 * (n // 3),
                kind=(1, 7, 1111)[n % 3],
                tags=[["t", f"{n % 2}"]],
                content=f"{n} ünïcödé 🦣",
                key=n % 4,
            )
        )
    )
    for n in range(1300)
]
IDS = {event.id.hex() for event in EVENTS}


async def test_nostr_sdk(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS[:400])
    async with relay_of(dsn) as place:
        client = nostr_sdk.Client()
        url = nostr_sdk.RelayUrl.parse(place.url)
        try:
            await client.add_relay(url)
            relay = await client.relay(url)
            await relay.try_connect(timedelta(seconds=10))
            # Stored events, by several filters.
            wanted = [nostr_sdk.Filter().limit(50), nostr_sdk.Filter().hashtag("1").limit(100)]
            found = await client.fetch_events(nostr_sdk.ReqTarget.auto(wanted))
            assert all(event.verify() for event in found)
            newest = sorted(EVENTS[:400], key=lambda each: (-each.created_at, each.id))
            odd = [event for event in newest if event.tags == (("t", "1"),)]
            assert {event.id().to_hex() for event in found} == {
                event.id.hex() for event in [*newest[:50], *odd[:100]]
            }
            # Both differences.
            ours = EVENTS[200:600]
            held = [
                nostr_sdk.NegentropyItem(
                    id=nostr_sdk.EventId.parse(event.id.hex()),
                    timestamp=nostr_sdk.Timestamp.from_secs(event.created_at),
                )
                for event in ours
            ]
            both = nostr_sdk.SyncOptions().direction(nostr_sdk.SyncDirection.BOTH).dry_run()
            differs = await relay.sync(nostr_sdk.Filter(), held, both)
            assert {each.to_hex() for each in differs.local} == {
                event.id.hex() for event in EVENTS[400:600]
            }
            assert {each.to_hex() for each in differs.remote} == {
                event.id.hex() for event in EVENTS[:200]
            }
            # What comes.
            notifications = client.notifications()
            live = nostr_sdk.Filter().kind(nostr_sdk.Kind(1)).limit(0)
            await client.subscribe(nostr_sdk.ReqTarget.auto([live]))
            new = next(event for event in EVENTS[600:] if event.kind == 1)

            async def come() -> None:
                while True:
                    told = await notifications.next()
                    if new.id.hex() in str(told):
                        return

            async with anyio.create_task_group() as group, asyncio.timeout(30):
                group.start_soon(come)

                async def is_subscribed() -> bool:
                    return bool(place.relay.owners)

                await until(is_subscribed, "the subscription")
                await store(brotr, [new])
        finally:
            await client.shutdown()


async def test_the_client_of_nostr_relay(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS[:300])
    # It sends an Origin, as browsers do.
    public = {"public_url": "https://archive.example"}
    async with (
        relay_of(dsn, serve=public) as place,
        aionostr.Manager([place.url]) as manager,
    ):
        found = [event async for event in manager.get_events({"limit": 300}, {"kinds": [7]})]
        assert {event.id for event in found} == {event.id.hex() for event in EVENTS[:300]}
        assert all(event.verify() for event in found)


def config(**settings: object) -> Config:
    defaults: dict[str, object] = {
        "settle_s": 0,
        "live": False,
        "page_limit": 500,
        "filter": Filter(until=BEGIN + 100_000),
    }
    return Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=20)),
        synchronizer=SynchronizerSettings(**(defaults | settings)),  # type: ignore[arg-type]
    )


async def visit(brotr: Brotr, url: str, settings: Config) -> Report:
    """One visit of a synchronizer."""
    await brotr.insert_relays([Relay(url)])
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    async with asyncio.timeout(60):
        return await Worker(settings, brotr).work(Slice("test", 30.0, {Network.LOCAL: 5}))


@pytest.mark.parametrize("way", ["pages", "ids"])
async def test_another_archive_copies_this_one(
    brotr: Brotr,
    dsn: str,
    way: str,
    make_database: Callable[[Profile | None], Awaitable[str]],
) -> None:
    await store(brotr, EVENTS)
    settings = config(reconcile=way == "ids")
    async with (
        relay_of(dsn) as place,
        Brotr(Pool(dsn=await make_database(Profile.FULL))) as copy,
    ):
        known = EVENTS[::2] if way == "ids" else []
        await store(copy, known)
        report = await visit(copy, place.url, settings)
        rows = await copy.pool.fetch("SELECT id, tags::text, content, sig FROM bigbrotr.events")
        assert {row["id"].hex() for row in rows} == IDS
        whole = {event.id: event for event in EVENTS}
        for row in rows:
            event = whole[row["id"]]
            assert (row["content"], row["sig"]) == (event.content, event.sig)
            assert json.loads(row["tags"]) == [list(tag) for tag in event.tags]
        assert report.new == len(EVENTS) - len(known)
        missing = await copy.pool.fetchval(
            "SELECT bigbrotr.missing_spans(id, 0, $1, $2) FROM bigbrotr.relays WHERE url = $3",
            BEGIN + 100_000,
            int(time.time()),
            place.url,
        )
        assert list(missing) == []
        assert await copy.pool.fetchval("SELECT count(*) FROM bigbrotr.gaps") == 0
        # The second time there is nothing new.
        again = await visit(copy, place.url, settings)
        assert again.new == 0
        if way == "ids":
            hows = await copy.pool.fetch("SELECT DISTINCT how FROM bigbrotr.coverage")
            assert "reconciliation" in {row["how"] for row in hows}


async def test_our_validator_takes_it_for_a_relay(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS[:3])
    async with relay_of(dsn) as place:
        link = Link(timeout_s=5.0, width=20)
        greeting = await greet(Relay(place.url), link, allow_local=True)
        assert (greeting.decision, greeting.outcome) == (Decision.RELAY, "speaks-nostr")


async def test_our_monitor_sees_what_it_claims(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS[:3])
    async with relay_of(dsn) as place:
        await look(brotr, place.url)
        found = await latest(brotr)
        assert (await states(brotr))[place.url] == ("up", "up")
        assert found["nip11"]["name"] == "bigbrotr"
        document = Nip11.parse(json.dumps(found["nip11"]).encode())
        with keep_stamps():
            async with await contact(place.url) as met:
                await met.read(5.0)
                wrote = await met.write(make_trial(Throwaway(), NOW), 5.0)
                protected = make_trial(Throwaway(), NOW, is_protected=True)
                claims = await compare(met, document, 5.0, protected=protected, wrote=wrote)
    for nip, pair in claims["nips"].items():
        assert pair["seen"] in (pair["claimed"], None), nip
    for nip in ("45", "67", "77"):
        assert claims["nips"][nip] == {"claimed": True, "seen": True}
    assert claims["nips"]["50"] == {"claimed": False, "seen": False}
    assert claims["auth"] == {"claimed": False, "seen": False}
    assert claims["max_limit"] == {"claimed": 5000, "seen": None}
