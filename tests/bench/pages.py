"""Pages of a large archive that knows 3,000 relays: how long each takes, and how large it is."""

import argparse
import gzip
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import asyncpg
import uvloop

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.reads.relays import BEGINNING
from tests.bench import large
from tests.bench.reads import author, event_id
from tests.bench.stage import stage
from tests.kit.served import serving

RELAYS = 3_000
ROUNDS = 10
DAYS = 90  # of hourly checks

# What a monitor and a synchronizer know of relays after three months: hourly checks, some of which
# failed; documents; places; proofs and gaps; what each holds of each day.
_KNOWN = (
    """
    INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, checked_at, outcome, failed)
    SELECT id, $1::bigint + 3600, CASE WHEN id % 3 = 0 THEN 'down' ELSE 'up' END,
           $1::bigint - 86400 * (id % 50),
           $1::bigint - id % 3600, CASE WHEN id % 3 = 0 THEN 'timeout' ELSE 'up' END, '{}'
    FROM bigbrotr.relays
    """,
    f"""
    INSERT INTO bigbrotr.rtts (
        relay_id, holds_s, checked_at, outcome, dns_ms, tcp_ms, tls_ms, upgrade_ms, read_ms)
    SELECT c.relay_id, 8000, c.checked_at - 3600 * n,
           CASE WHEN c.state = 'down' AND n < 24 * (c.relay_id % 50)
                OR (n + c.relay_id) % 97 = 0 THEN 'timeout' END,
           1, 10 + c.relay_id % 30, 20, 5.1, 30.25 + n % 7
    FROM bigbrotr.checks c, generate_series(0, {DAYS} * 24) AS n
    """,
    """
    INSERT INTO bigbrotr.metadata (id, data)
    SELECT sha256(r.url::bytea), jsonb_build_object(
        'name', 'Relay ' || r.id, 'software', 'git+https://example.com/software' || r.id % 40,
        'version', '1.' || r.id % 9, 'description', repeat('a relay for everybody ', 10),
        'supported_nips', '[1, 9, 11, 40, 42, 45, 50, 70, 77]'::jsonb)
    FROM bigbrotr.relays r
    """,
    """
    INSERT INTO bigbrotr.metadata (id, data)
    SELECT sha256(('geo' || n)::bytea), jsonb_build_object(
        'country', chr(65 + n % 26) || chr(65 + n % 7), 'city', 'City ' || n,
        'latitude', (n * 37) % 140 - 60, 'longitude', (n * 91) % 340 - 170)
    FROM generate_series(0, 399) AS n
    """,
    """
    INSERT INTO bigbrotr.snapshots (relay_id, type, snapshot_at, metadata_id)
    SELECT r.id, 'nip11', $1::bigint, sha256(r.url::bytea) FROM bigbrotr.relays r
    UNION ALL
    SELECT r.id, 'nip66_geo', $1::bigint, sha256(('geo' || r.id % 400)::bytea)
    FROM bigbrotr.relays r
    """,
    "SELECT bigbrotr.refresh_metadata_latest()",
    """
    INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)
    SELECT id, 'paging', int8multirange(int8range(
               1600000000 + 1000000 * n, 1600900000 + 1000000 * n)), $1::bigint - 3600 * n
    FROM bigbrotr.relays, generate_series(0, 99) AS n
    """,
    """
    INSERT INTO bigbrotr.gaps (relay_id, span, reason, attempts, noted_at, due_at)
    SELECT id, int8range(1600900000 + 1000000 * n, 1601000000 + 1000000 * n), 'full', 1,
           $1::bigint, $1::bigint
    FROM bigbrotr.relays, generate_series(0, 19) AS n
    """,
    f"""
    INSERT INTO bigbrotr.presence (slice, chunk, relay_id, seen_ats)
    SELECT p.slice, p.chunk, r.id, p.seen_ats
    FROM bigbrotr.presence p JOIN bigbrotr.relays r ON r.id % 10 = 3 AND (p.chunk + r.id) % 101 = 0
    WHERE p.relay_id = 1 AND r.id > {large.RELAYS}
    """,
    f"""
    INSERT INTO bigbrotr.day_relays (day, relay_id, events, alone, dropped)
    SELECT d.day, r.id, 200, r.id % 5, d.dropped
    FROM bigbrotr.day_relays d, bigbrotr.relays r WHERE d.relay_id = 1 AND r.id > {large.RELAYS}
    """,
    # The archive's newest events are some time ago: the days since are like those before.
    """
    INSERT INTO bigbrotr.day_kinds
    SELECT k.day + n.days, k.kind, k.events, k.held_by, k.held_events, k.common_tags
    FROM bigbrotr.day_kinds k,
         (SELECT $1::bigint / 86400 - max(day) + 1 AS days FROM bigbrotr.day_kinds) AS n
    WHERE k.day + n.days > (SELECT max(day) FROM bigbrotr.day_kinds)
    """,
    "UPDATE bigbrotr.tallies SET pairs = 200000 + relay_id WHERE pairs = 0",
)


async def know(address: str) -> None:
    """Adds relays, and what is known of them, where that has not been done."""
    now = int(time.time())
    connection = await asyncpg.connect(address)
    try:
        found = await connection.fetchval("SELECT count(*) FROM bigbrotr.relays")
        if found < RELAYS:
            await _add(connection, now)
    finally:
        await connection.close()
    async with Brotr(Pool(dsn=address)) as brotr:
        started = time.perf_counter()
        while await brotr.sum_relays(BEGINNING, now, now):
            pass
        print(f"  summed up in {time.perf_counter() - started:.1f} s", flush=True)


async def _add(connection: asyncpg.Connection, now: int) -> None:
    print(f"  {RELAYS:,} relays, and what is known of them …", flush=True)
    numbers = range(large.RELAYS, RELAYS)
    async with connection.transaction():
        await connection.execute(
            "SELECT bigbrotr.insert_relays($1, $2, $3)",
            [f"wss://relay{number}.example.com" for number in numbers],
            ["tor" if number % 10 == 0 else "clearnet" for number in numbers],
            [now - 60 * number for number in numbers],
        )
        for statement in _KNOWN:
            given = [now] if "$1" in statement else []
            await connection.execute(statement, *given, timeout=3600)
    await connection.execute("VACUUM ANALYZE", timeout=3600)


def paths(events: int, chance: random.Random) -> dict[str, Callable[[int], str]]:
    """Addresses of each kind of page, another one each time: nothing is answered from memory."""
    authors = max(1000, events // 30)

    def relay(number: int) -> str:
        return f"/relays/relay{(number * 331 + 7) % RELAYS}.example.com"

    def some_event() -> str:
        return f"/events/{event_id(chance.randrange(events)).hex()}"

    marks = "&"  # an empty parameter says nothing
    return {
        "overview": lambda n: f"/?{marks * n}",
        "relays": lambda n: f"/relays?{marks * n}",
        "relays, up, by uptime": lambda n: f"/relays?state=up&sort=uptime{marks * n}",
        "relays, by a word": lambda n: f"/relays?text=relay{n}&sort=alone",
        "a relay": relay,
        "a relay that holds all": lambda n: f"/relays/relay{n % large.RELAYS}.example.com",
        "its badge": lambda n: f"{relay(n)}/badge.svg",
        "its picture": lambda n: f"{relay(n)}/picture.png",
        "its incidents": lambda n: f"{relay(n)}/incidents.atom",
        "map": lambda n: f"/map?{marks * n}",
        "an event": lambda _: some_event(),
        "an author": lambda _: f"/authors/{author(chance.randrange(authors)).hex()}",
        "the busiest author": lambda n: f"/authors/{author(0).hex()}?{marks * n}",
        "search for a word": lambda n: f"/search?q=relay{n}",
        "statistics": lambda n: f"/statistics?{marks * n}",
        "statistics: kinds": lambda n: f"/statistics/kinds?{marks * n}",
        "statistics: access": lambda n: f"/statistics/access?{marks * n}",
        "at risk": lambda n: f"/at-risk?{marks * n}",
        "about": lambda n: f"/about?{marks * n}",
    }


async def measure(address: str, events: int) -> None:
    """Prints what each kind of page takes, and how large it is, plain and compressed."""
    chance = random.Random(1)
    with TemporaryDirectory() as folder:
        async with (
            serving(Path(folder), address) as (_, url),
            aiohttp.ClientSession(headers={"Accept": "text/html"}) as client,
        ):
            root = url.removesuffix("/api/v1")
            for name, path in paths(events, chance).items():
                took, body, codes = [], b"", set()
                for number in range(1, ROUNDS + 1):
                    started = time.perf_counter()
                    async with client.get(root + path(number)) as response:
                        body = await response.read()
                    took.append((time.perf_counter() - started) * 1000)
                    codes.add(response.status)
                print(
                    f"  {name:24} {statistics.median(took):7.1f} ms, first {took[0]:7.1f},"
                    f" slowest {max(took):7.1f}; {len(body) / 1000:6.1f} kB,"
                    f" compressed {len(gzip.compress(body)) / 1000:5.1f} {sorted(codes)}",
                    flush=True,
                )


async def run(events: int, folder: Path | None) -> None:
    """Builds the archive, where there is none, and measures."""
    async with stage(folder) as on:
        address = await large.archive_of(on, events)
        await know(address)
        await measure(address, events)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pages", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where the archive is kept, and taken up again by the next run"
    )
    options = parser.parse_args()
    uvloop.run(run(options.events, options.folder))


if __name__ == "__main__":
    main()
