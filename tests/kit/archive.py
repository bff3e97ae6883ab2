"""An archive in a test: relays, claims on them, and a count of what is there."""

from collections.abc import Sequence

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Network, Relay
from tests.kit.events import NOW

A, B, C = (Relay(f"wss://{name}.example.com", NOW) for name in "abc")
CLEARNET = [Network.CLEARNET]
BOTH = pytest.mark.parametrize("profile", list(Profile))


def pairs(events: Sequence[Event], *relays: Relay, seen_at: int = NOW) -> list[EventRelay]:
    return [EventRelay(event, relay, seen_at) for relay in relays for event in events]


def keys(events: Sequence[Event]) -> list[tuple[int, bytes]]:
    return [(event.created_at, event.id) for event in events]


def ordered(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event.created_at, event.id))


async def held(brotr: Brotr) -> set[tuple[bytes, str]]:
    rows = await brotr.pool.fetch("SELECT event_id, relay_url FROM bigbrotr.events_relays")
    assert len(rows) == len({tuple(row)[:2] for row in rows})
    return {(row["event_id"], row["relay_url"]) for row in rows}


async def relay_id(brotr: Brotr, relay: Relay) -> int:
    number = await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays WHERE url = $1", relay.url)
    assert isinstance(number, int)
    return number


async def check_totals(brotr: Brotr) -> None:
    """What is counted along the way equals what is there, counted slowly."""
    row = await brotr.pool.fetchrow(
        "SELECT (SELECT count(*) FROM bigbrotr.relays), (SELECT count(*) FROM bigbrotr.candidates),"
        " (SELECT count(*) FROM bigbrotr.events), (SELECT count(*) FROM bigbrotr.events_relays),"
        " (SELECT count(*) FROM bigbrotr.gaps), (SELECT coalesce(sum(count), 0)::bigint"
        " FROM bigbrotr.rejected)"
    )
    assert row is not None
    assert tuple(await brotr.totals()) == tuple(row)
    lone = await brotr.pool.fetchval(
        "SELECT count(*) FROM bigbrotr.presence p, generate_subscripts(p.seen_ats, 1) AS place"
        " WHERE p.seen_ats[place] IS NOT NULL AND NOT EXISTS (SELECT FROM bigbrotr.events_stored e"
        "  WHERE e.slice = p.slice AND e.num = (p.chunk << 8) + place - 1)"
    )
    assert lone == 0
    same = await brotr.pool.fetchval(
        "SELECT count(*) - count(DISTINCT num) FROM bigbrotr.events_stored"
    )
    assert same == 0
    astray = await brotr.pool.fetchval(
        "SELECT count(*) FROM bigbrotr.events_stored WHERE slice <> bigbrotr.slice_of(created_at)"
    )
    assert astray == 0


async def claim(
    brotr: Brotr, *, until: int = NOW, limit: int = 10, owner: str = "me"
) -> list[Visit]:
    return await brotr.claim_visits(
        CLEARNET, limit=limit, owner=owner, lease_s=60, since=0, until=until
    )


async def claim_a(brotr: Brotr, *, until: int = NOW) -> Visit:
    await brotr.insert_relays([A])
    (visit,) = await claim(brotr, until=until)
    return visit


async def claim_one(brotr: Brotr, relay: Relay) -> Visit:
    """A relay of several, whoever else has it."""
    await brotr.insert_relays([relay])
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET due_at = CASE WHEN relay_id = $1 THEN 0 ELSE 2^40 END",
        await relay_id(brotr, relay),
    )
    (visit,) = await claim(brotr)
    return visit


async def spans_of(brotr: Brotr, query: str, *arguments: object) -> list[tuple[int, int]]:
    return [(span.lower, span.upper) for span in await brotr.pool.fetchval(query, *arguments)]
