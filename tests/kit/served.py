"""An archive that is served, in the test's own process: real sockets, a real database."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import anyio

from bigbrotr.config.settings import (
    Config,
    Database,
    PolicySettings,
    ServeLimits,
    ServeSettings,
)
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import Logger
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.serve.orders import Order
from bigbrotr.serve.process import serve
from bigbrotr.serve.service import Service
from bigbrotr.services.statistics import Statistics
from tests.kit import starter
from tests.kit.events import NOW, pubkey, verified
from tests.kit.processes import Running, environment

RELAYS = 25
IDENTITY = "archive of a test"


class Served:
    """A service that listens, and a client that asks it."""

    def __init__(self, service: Service, url: str, client: aiohttp.ClientSession) -> None:
        self.service = service
        self.url = api_at(url)
        self.client = client

    async def get(
        self, path: str, *, status: int = 200, method: str = "GET", **headers: str
    ) -> "Reply":
        """What is answered below /api/v1/; headers as `If_None_Match`."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.request(
            method, f"{self.url}/{path}", headers=names, allow_redirects=False
        ) as response:
            body = await response.read()
        assert response.status == status, (path, response.status, body[:500])
        return Reply(response.status, response.headers, body)

    async def all(self, path: str, limit: int) -> list[dict[str, Any]]:
        """The items of all pages."""
        mark = "&" if "?" in path else "?"
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = (await self.get(f"{path}{mark}limit={limit}{cursor}")).json
            assert len(page["items"]) <= limit
            found += page["items"]
            if page["next"] is None:
                return found
            # A search in events may end a page early, where the machine is slow.
            assert len(page["items"]) == limit or path.startswith("events")
            cursor = f"&cursor={page['next']}"

    async def stream(self, path: str, packing: str = "gzip, deflate") -> list[dict[str, Any]]:
        """The items of a stream."""
        reply = await self.get(path, Accept="application/x-ndjson", Accept_Encoding=packing)
        assert reply.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in reply.body.splitlines()]


class Reply(NamedTuple):
    """An answer: its status, headers and body (unpacked)."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def served(
    dsn: str,
    *,
    limits: ServeLimits | None = None,
    policy: PolicySettings | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serves a database for the length of the block."""
    config = Config(
        database=Database(url=dsn),
        policy=policy or PolicySettings(),
        serve=ServeSettings(
            **({"listen": "127.0.0.1:0"} | settings),
            limits=limits or ServeLimits(requests_per_s=0, statement_timeout_s=20),
        ),
    )
    done = anyio.Event()
    ready = anyio.Event()
    found: list[tuple[Service, str]] = []

    async def is_listening(service: Service, url: str) -> None:
        found.append((service, url))
        ready.set()
        await done.wait()

    async with anyio.create_task_group() as group:
        order = Order(config, None, IDENTITY)

        async def work() -> None:
            await serve(order, Logger("serve"), is_listening=is_listening)

        group.start_soon(work)
        await ready.wait()
        async with aiohttp.ClientSession() as client:
            yield Served(*found[0], client)
        done.set()


async def fill(brotr: Brotr, relays: int = RELAYS) -> list[str]:
    """Relays with all that can be known of one; their URLs in order."""
    urls = sorted(f"wss://relay{number}.example.com" for number in range(relays))
    await brotr.insert_relays([Relay(url, NOW + number) for number, url in enumerate(urls)])
    await brotr.pool.execute(FILLING)
    await brotr.insert_candidates(
        [Relay(f"wss://candidate{number}.example.com") for number in range(relays)], "seed"
    )
    return urls


async def fill_events(brotr: Brotr) -> list[Event]:
    """Events of all sorts at three of the relays, counted by days, with some that are dropped."""
    relays = [Relay(f"wss://relay{number}.example.com") for number in range(3)]
    events = [
        verified(text, tags, kind=kind, created_at=NOW - at, key=key, verbatim=text == "bell \x07")
        for at, (kind, key, text, tags) in enumerate(ODD * 2)
    ]
    events += [
        verified(kind=n % 3, created_at=NOW - 40_000 * n, key=n % 2, tags=[["t", f"{n % 5}"]])
        for n in range(120)
    ]
    for number, relay in enumerate(relays):
        held = [event for n, event in enumerate(events) if not n % (number + 1)]
        await brotr.insert_events([EventRelay(event, relay, NOW - number) for event in held])
    await brotr.pool.execute(DROPPING)
    await brotr.analyze()
    async with Statistics(brotr) as statistics:
        await statistics.run()
    return events


# Kind, key, content and tags of events that are hard to show.
ODD: list[tuple[int, int, str, list[list[str]]]] = [
    (0, 0, '{"name": "Ann", "about": 7, "picture": "\\ud800"}', []),
    (0, 1, "no JSON", [["x"], ["t", "nostr", "more"]]),
    (0, 2, "[" * 5000, []),
    (3, 0, "", [["p", pubkey(1)]] * 50),
    (10002, 0, "", [["r", "wss://a.example.com"], ["r", "nonsense"], ["r"], ["q", "x"], [""]]),
    (10050, 0, "", [["relay", "wss://b.example.com"]]),
    (10002, 1, "lone \ud800", [["r", "wss://c.example.com", "read"]]),
    (1, 1, "nul \0 within", [["t", "\0"]]),
    (1, 0, "bell \x07", [["e", 64 * "0"]]),
    (30023, 1, '"quoted"\n\u2028\\', [["d", ""], ["title", "\U0001f600"]]),
    (65_535, 2, "x" * 100_000, []),
]
DROPPING = f"""
    INSERT INTO bigbrotr.dropped (relay_id, event_id, created_at, slice, seen_at, dropped_at)
    SELECT 9, e.id, e.created_at, e.slice, {NOW}, {NOW} + 5000
    FROM bigbrotr.events_stored e WHERE e.kind = 2
"""


# Of each relay by its number; a third of them has no NIP-11 document, some were never checked.
FILLING = f"""
    UPDATE bigbrotr.tallies SET pairs = 10 * (relay_id % 7), events = relay_id % 3;
    INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, checked_at, outcome, failed)
    SELECT id, 0, CASE WHEN id % 4 = 0 THEN 'down' ELSE 'up' END, {NOW} - 100, {NOW} + id % 5,
           CASE WHEN id % 4 = 0 THEN 'timeout' ELSE 'up' END, '{{}}'
    FROM bigbrotr.relays WHERE id % 6 <> 0;
    INSERT INTO bigbrotr.rtts (
        relay_id, holds_s, checked_at, outcome, dns_ms, tcp_ms, tls_ms, upgrade_ms, read_ms)
    SELECT c.relay_id, 3600, c.checked_at - 60 * n,
           CASE WHEN c.state = 'down' THEN 'timeout' END, 1, 10 + c.relay_id % 3, 20, 5.1, 30.25
    FROM bigbrotr.checks c, generate_series(0, 29) AS n;
    INSERT INTO bigbrotr.metadata (id, data)
    SELECT sha256(r.url::bytea), jsonb_build_object(
        'name', 'Relay ' || r.id, 'software', 'git+https://x/strfry.git', 'version', '1.0',
        'description', 'a relay', 'supported_nips',
        CASE WHEN r.id % 2 = 0 THEN '[1, 11, "x", 2.5, -1]'::jsonb ELSE '[1, 77]' END)
    FROM bigbrotr.relays r WHERE r.id % 3 <> 0;
    INSERT INTO bigbrotr.snapshots (relay_id, type, snapshot_at, metadata_id)
    SELECT r.id, 'nip11', {NOW} - 60 * n, m.id
    FROM bigbrotr.relays r JOIN bigbrotr.metadata m ON m.id = sha256(r.url::bytea),
         generate_series(0, 9) AS n;
    INSERT INTO bigbrotr.metadata (id, data) VALUES
        (sha256('geo'), '{{"country": "DE"}}'),
        (sha256('claims'), '{{"nips": {{"77": {{"claimed": true, "seen": false}}}},
            "auth": {{"claimed": null, "seen": false}},
            "payment": {{"claimed": null, "seen": null}},
            "max_limit": {{"claimed": 500, "seen": null}}}}');
    INSERT INTO bigbrotr.snapshots (relay_id, type, snapshot_at, metadata_id)
    SELECT r.id, t.type, {NOW}, sha256(t.name::bytea)
    FROM bigbrotr.relays r, (VALUES ('nip66_geo', 'geo'), ('claims', 'claims')) AS t (type, name)
    WHERE r.id % 5 = 0;
    SELECT bigbrotr.refresh_metadata_latest();
    INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)
    SELECT id, CASE WHEN n % 2 = 0 THEN 'paging' ELSE 'finish' END,
           int8multirange(int8range(1000 * n, 1000 * n + 500)), {NOW} - n
    FROM bigbrotr.relays, generate_series(0, 14) AS n WHERE id % 2 = 1;
    INSERT INTO bigbrotr.gaps (relay_id, span, reason, attempts, noted_at, due_at)
    SELECT id, int8range(CASE n WHEN 0 THEN NULL ELSE 1000 * n + 500 END, 1000 * n + 600),
           CASE WHEN n % 3 = 0 THEN 'timeout' ELSE 'full' END, 1, {NOW}, {NOW}
    FROM bigbrotr.relays, generate_series(0, 14) AS n WHERE id % 2 = 1;
"""


SETTINGS = """
[database]
url = "{dsn}"
[serve]
listen = "{listen}"
{serve}
[serve.limits]
{limits}
"""


def write_settings(folder: Path, dsn: str, listen: str, serve: str, limits: str) -> Path:
    """A file of settings for `bigbrotr serve`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "serve.toml"
    path.write_text(SETTINGS.format(dsn=dsn, listen=listen, serve=serve, limits=limits))
    return path


@asynccontextmanager
async def serving(
    folder: Path,
    dsn: str,
    *words: str,
    listen: str = "127.0.0.1:0",
    serve: str = "",
    limits: str = "requests_per_s = 0",
    **env: str,
) -> AsyncIterator[tuple[Running, str]]:
    """`bigbrotr serve` as a process of its own over a database: what runs, and its URL."""
    config = write_settings(folder, dsn, listen, serve, limits)
    log = folder / "serve.log"
    with log.open("wb") as err:
        process = await starter.start(
            ["serve", *words, "--config", str(config)], err=err.fileno(), env=environment(**env)
        )
    running = Running(process, log)
    try:
        await running.says("serving the archive")
        yield running, addresses(running.err)[0]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def addresses(log: str) -> list[str]:
    """Where the API of an archive is, as the log says, without the slash at the end."""
    return list(map(api_at, re.findall(r"serving the archive address=(\S+/)\s", log)))


def api_at(url: str) -> str:
    """Where the API is, if that is where the archive is served."""
    return url.removesuffix("/").removesuffix("/api/v1") + "/api/v1"
