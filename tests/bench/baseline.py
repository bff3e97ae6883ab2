"""The baseline: how an archive is ordinarily written.

nostr-sdk's client fetches page by page, each event is verified and taken apart into a row, and
rows go in batches into text-keyed tables with foreign keys. And how relays are found in it.
"""

import json
import time
from datetime import timedelta

import asyncpg
import nostr_sdk

from bigbrotr.models.relay import Relay

TABLES = """
CREATE TABLE relays (url text PRIMARY KEY);
CREATE TABLE events (
    id text PRIMARY KEY, pubkey text NOT NULL, created_at bigint NOT NULL, kind integer NOT NULL,
    tags jsonb NOT NULL, content text NOT NULL, sig text NOT NULL
);
CREATE INDEX ON events (created_at);
CREATE INDEX ON events (pubkey, created_at);
CREATE INDEX ON events (kind, created_at);
CREATE INDEX ON events USING gin (tags jsonb_path_ops);
CREATE TABLE events_relays (
    event_id text NOT NULL REFERENCES events (id),
    relay_url text NOT NULL REFERENCES relays (url),
    seen_at bigint NOT NULL,
    PRIMARY KEY (event_id, relay_url)
);
CREATE INDEX ON events_relays (relay_url);
"""
PAGE = 500


async def make_tables(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """The tables, empty."""
    await connection.execute(TABLES)


async def copy(connection: "asyncpg.Connection[asyncpg.Record]", url: str) -> int:
    """Copies one relay, newest first; returns how many events it sent."""
    await connection.execute("INSERT INTO relays VALUES ($1) ON CONFLICT DO NOTHING", url)
    client = nostr_sdk.Client()
    relay = nostr_sdk.RelayUrl.parse(url)
    await client.add_relay(relay)
    await client.connect()
    received, until = 0, None
    try:
        while True:
            asked = nostr_sdk.Filter().limit(PAGE)
            if until is not None:
                asked = asked.until(nostr_sdk.Timestamp.from_secs(until))
            events = await client.fetch_events(
                nostr_sdk.ReqTarget.single(relay, [asked]), timeout=timedelta(seconds=30)
            )
            if not events:
                return received
            received += len(events)
            now = int(time.time())
            rows, times = [], []
            for event in events:
                if not event.verify():
                    continue
                tags = json.dumps([tag.to_vec() for tag in event.tags()])
                created_at = event.created_at().as_secs()
                times.append(created_at)
                rows.append(
                    (
                        event.id().to_hex(),
                        event.author().to_hex(),
                        created_at,
                        event.kind().as_u16(),
                        tags,
                        event.content(),
                        event.signature(),
                    )
                )
            async with connection.transaction():
                await connection.executemany(
                    "INSERT INTO events VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
                    rows,
                )
                await connection.executemany(
                    "INSERT INTO events_relays VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    [(row[0], url, now) for row in rows],
                )
            until = min(times) - 1
    finally:
        await client.shutdown()


async def find_relays(address: str) -> dict[str, int]:
    """How often archived events name each relay, by a plain loop: page by page, every tag decoded,
    every URL parsed and counted in a table as it comes."""
    connection = await asyncpg.connect(address)
    try:
        await connection.execute("CREATE TABLE found (url text PRIMARY KEY, named int NOT NULL)")
        place = (-1, b"")
        while rows := await connection.fetch(
            "SELECT created_at, id, tags FROM events WHERE (created_at, id) > ($1, $2)"
            " ORDER BY created_at, id LIMIT $3",
            *place,
            PAGE,
        ):
            named: list[tuple[str]] = []
            for row in rows:
                values = (value for tag in json.loads(row["tags"]) for value in tag[1:])
                named += {(Relay(value).url,) for value in values if value.startswith("ws")}
            await connection.executemany(
                "INSERT INTO found VALUES ($1, 1)"
                " ON CONFLICT (url) DO UPDATE SET named = found.named + 1",
                named,
            )
            place = (rows[-1]["created_at"], rows[-1]["id"])
        found = {row["url"]: row["named"] for row in await connection.fetch("TABLE found")}
        await connection.execute("DROP TABLE found")
    finally:
        await connection.close()
    return found
