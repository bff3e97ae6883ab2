"""A large archive, made by SQL: events of all kinds over three years, and who holds them.

Nothing is signed, so nothing verifies; sizes, spreads and skews are roughly those of public relays:
few authors write most, few events are answered most, most tag values are named once.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import uvloop

from bigbrotr.config.settings import MaintenanceSettings, Profile, StatisticsSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.embedded import dump
from bigbrotr.embedded.server import client_environment
from bigbrotr.models.coverage import Span
from bigbrotr.models.relay import Relay
from bigbrotr.nostr.negentropy import Items
from bigbrotr.reads import status
from bigbrotr.reads.where import where
from bigbrotr.services.maintenance import Maintenance
from bigbrotr.services.statistics import Statistics
from bigbrotr.services.sync.reconcile import CHUNK, MOST_ITEMS
from tests.bench import corpus, reads
from tests.bench.reads import BUSY, BUSY_SECOND, SPREAD_S
from tests.bench.stage import Stage, stage

RELAYS = 10
BATCH = 200_000
# Events that are copied into it, of half a year. A page that is touched for the first time since a
# checkpoint is read and written whole: of few events nearly each touches such pages.
NEW = (50_000, 200_000)
NEW_SPREAD_S = 182 * 86_400
ROUNDS = 3

_EVENTS = """
    INSERT INTO bigbrotr.events_stored
        (created_at, num, kind, slice, id, pubkey, sig, tags, tag_hashes, content)
    SELECT d.created_at, d.n, d.kind, bigbrotr.slice_of(d.created_at), d.id, d.pubkey, d.id || d.id,
        '[' || array_to_string(ARRAY(
            SELECT format('["%s","%s"]', left(v, 1), substr(v, 3)) FROM unnest(d.tags) AS v
        ), ',') || ']',
        nullif(ARRAY(SELECT (crc32(convert_to(v, 'UTF8')) - 2147483648)::integer
                     FROM unnest(d.tags) AS v), '{}'),
        CASE WHEN d.kind = 7 THEN '+'
             ELSE repeat(md5(d.n::text) || ' ', 1 + (d.r1 * 12)::integer) END
    FROM (
        SELECT c.n, c.created_at, c.kind, c.r1, sha256(int8send(c.n)) AS id,
            sha256(int8send(900000000 + floor(c.authors * c.r2 ^ 4)::bigint)) AS pubkey,
            CASE WHEN c.kind IN (0, 4) THEN '{}'::text[] ELSE
                CASE WHEN c.r4 < 0.7 THEN ARRAY[
                    'e:' || encode(sha256(int8send((c.n - 1 - c.r4 * 1000)::bigint)), 'hex')]
                ELSE '{}' END
                || ARRAY['p:' || encode(sha256(int8send(
                       900000000 + floor(c.authors * c.r5 ^ 4)::bigint)), 'hex')]
                || CASE WHEN c.r3 < 0.5 THEN ARRAY['l:half'] ELSE '{}' END
                || CASE WHEN c.r3 < 0.2 THEN ARRAY['t:tag' || floor(3000 * c.r1 ^ 5)] ELSE '{}' END
            END AS tags
        FROM (
            SELECT n, $4::bigint AS authors,
                CASE WHEN n BETWEEN $5 AND $5 + $7 - 1 THEN $6
                     ELSE $2 + ((n * $3)::numeric / $8)::bigint END AS created_at,
                (ARRAY[1,1,1,1,1,1,1,1,1,7,7,7,7,7,6,9735,9735,3,0,10002,4,30023,1111,30078])[
                    1 + floor(24 * random())] AS kind,
                random() AS r1, random() AS r2, random() AS r3, random() AS r4, random() AS r5
            FROM generate_series($1::bigint, $1 + $9 - 1) AS n
        ) AS c
    ) AS d
    ORDER BY d.created_at, d.id
"""
_PRESENCE = """
    INSERT INTO bigbrotr.presence (slice, chunk, relay_id, seen_ats)
    SELECT c.slice, c.chunk, r.id,
        ('[' || c.first || ':' || c.last || ']=' || ARRAY(
            SELECT CASE WHEN (place * 7 + r.id * 13 + c.chunk) % 10 > 0 THEN 212000000 END
            FROM generate_series(c.first, c.last) AS place)::text)::integer[]
    FROM (
        SELECT slice, num >> 8 AS chunk, min(num & 255) + 1 AS first, max(num & 255) + 1 AS last
        FROM bigbrotr.events_stored GROUP BY 1, 2
    ) AS c CROSS JOIN bigbrotr.relays r
    ORDER BY 1, 2, 3
"""


async def build(address: str, events: int, profile: Profile = Profile.FULL) -> None:
    """Fills an empty database (PostgreSQL 18 or later) with so many events.

    Indexes are made at the end: it takes a third of the time.
    """
    connection = await asyncpg.connect(address)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    try:
        now = corpus.NEWEST + 86_400
        if not await connection.fetchval("SELECT to_regclass('bigbrotr.ledger') IS NOT NULL"):
            await Schema().migrate(connection, profile, now)
        await connection.fetchval("SELECT bigbrotr.ensure_partitions($1)", now)
        urls = [f"wss://relay{number}.example.com" for number in range(RELAYS)]
        await connection.execute(
            "SELECT bigbrotr.insert_relays($1, $2, $3)",
            urls,
            ["clearnet"] * RELAYS,
            [now] * RELAYS,
        )
        await connection.execute("SET work_mem = '256MB'; SET maintenance_work_mem = '1GB'")
        indexes = await connection.fetch(
            "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS made"
            " FROM pg_index WHERE indrelid = 'bigbrotr.events_stored'::regclass"
            " AND NOT indisprimary"
        )
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        key = "ALTER TABLE bigbrotr.events_stored"
        await connection.execute(f"{key} DROP CONSTRAINT events_stored_pkey")
        busy = events // 2
        for first in range(0, events, BATCH):
            await connection.execute(
                _EVENTS,
                first,
                corpus.NEWEST - SPREAD_S,
                SPREAD_S,
                max(1000, events // 30),
                busy,
                BUSY_SECOND,
                BUSY,
                events,
                min(BATCH, events - first),
                timeout=3600,
            )
            say(f"{first + BATCH:,} of {events:,} events")
        await connection.execute(f"{key} ADD PRIMARY KEY (created_at, id)", timeout=36_000)
        for index in indexes:
            made = index["made"].replace(" ON ONLY ", " ON ")  # and on its partitions
            await connection.execute(made, timeout=36_000)
            say(index["name"])
        await connection.execute("SELECT setval('bigbrotr.event_numbers', $1)", events + 256)
        await connection.execute(_PRESENCE, timeout=36_000)
        say("presence")
        await connection.execute(
            "UPDATE bigbrotr.tallies t SET pairs = p.pairs,"
            " touched = int8multirange(int8range($1, $2)), events = CASE"
            "  WHEN t.relay_id = (SELECT min(id) FROM bigbrotr.relays) THEN $3 ELSE 0 END"
            " FROM (SELECT relay_id, sum(cardinality(array_remove(seen_ats, NULL))) AS pairs"
            "  FROM bigbrotr.presence GROUP BY 1) AS p WHERE p.relay_id = t.relay_id",
            corpus.NEWEST - SPREAD_S,
            corpus.NEWEST + 1,
            events,
            timeout=36_000,
        )
        await connection.execute("VACUUM ANALYZE bigbrotr.events_stored", timeout=36_000)
        await connection.execute("VACUUM ANALYZE bigbrotr.presence", timeout=36_000)
        say("vacuumed")
        await connection.execute(
            "INSERT INTO bigbrotr.dirty_days (day) SELECT generate_series($1::bigint, $2)",
            (corpus.NEWEST - SPREAD_S) // 86_400,
            corpus.NEWEST // 86_400,
        )
    finally:
        await connection.close()
    async with (
        Brotr(Pool(dsn=address)) as brotr,
        Statistics(brotr, StatisticsSettings(every_s=0)) as service,
    ):
        await service.run()
    say("counted by day")


async def measure(on: Stage, address: str, events: int) -> None:
    """Prints what a large archive takes: to copy into, to look at and to look after."""
    connection = await asyncpg.connect(address)
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    counted = "SELECT count(*) FROM bigbrotr.events_stored WHERE created_at >= $1"
    there = await connection.fetchval(counted, 0)
    lately = await connection.fetchval(counted, corpus.NEWEST - NEW_SPREAD_S)
    await connection.close()
    # One that is kept grows by what is copied into it: with too much it is to be made anew.
    print(
        f"  {size / 1e9:.1f} GB, {there:,} events of {size / there:.0f} bytes, at {RELAYS} relays;"
        f" {lately:,} within the time that is copied"
    )
    async with Pool(dsn=address) as pool:
        await reads.measure(pool, events)
    for count in NEW:
        ratios = []
        for _ in range(ROUNDS):  # in turn: machines change their pace
            fresh = await _copy(on, count, None)
            grown = await _copy(on, count, address)
            for words, (new, server, known) in (("an empty archive", fresh), ("it", grown)):
                print(
                    f"  {count:,} new events into {words}: {new:.1f} us, PostgreSQL {server:.1f};"
                    f" known {known:.1f} us",
                    flush=True,
                )
            ratios.append([more / less for more, less in zip(grown, fresh, strict=True)])
        medians = [statistics.median(each) for each in zip(*ratios, strict=True)]
        print("  times as much: " + ", ".join(f"{ratio:.2f}" for ratio in medians), flush=True)
    async with on.archive(address=address) as archive:
        await _look(archive.brotr, events)


async def _copy(on: Stage, count: int, address: str | None) -> tuple[float, float, float]:
    """Microseconds an event that a first copy takes, how much of PostgreSQL's CPU, and a further
    copy."""
    # Events that nobody has, spread: few share a page of an index.
    seed = 7 if address is None else int(time.time())
    data = corpus.build(count, seed, spread_s=NEW_SPREAD_S)
    async with on.archive(address=address) as archive:
        await on.settle()
        async with on.relays(data, 4, shared=0.0) as urls:
            await archive.brotr.insert_relays([Relay(url) for url in urls])
            spent = await archive.visit()
        async with on.relays(data, 4) as urls:
            known_s = await archive.copy(urls) / 4
    new, server, known = (each / count * 1e6 for each in (spent.wall_s, spent.server_s, known_s))
    return new, server, known


async def _look(brotr: Brotr, events: int) -> None:
    settings = MaintenanceSettings()
    works: dict[str, Callable[[], Awaitable[object]]] = {
        "totals": brotr.totals,
        "metrics": brotr.metrics,
        "status": lambda: status.status(brotr, 3600.0, writes=False),
        "where": lambda: where(brotr.pool, reads.event_id(events // 3)),
        "statistics and partitions": lambda: Maintenance(brotr, settings).run(),
        "indexes packed": brotr.pack_indexes,
        "orphans": brotr.delete_orphan_events,
    }
    for name, work in works.items():
        started = time.perf_counter()
        await work()
        print(f"  {name}: {(time.perf_counter() - started) * 1000:,.0f} ms", flush=True)


async def _audit(pool: Pool) -> None:
    """What the archive's side of an audit takes: the ids that one relay holds, all of them, in
    windows, summed up."""
    async with Brotr(pool) as brotr:
        relay_id = await pool.fetchval("SELECT min(id) FROM bigbrotr.relays")
        span, after, items, windows = Span(0, corpus.NEWEST + 1), b"", Items(), 0
        number = 0
        started = time.perf_counter()
        while True:
            ats, ids = await brotr.read_ids(span, after, CHUNK, held_by=relay_id)
            items.extend_packed(ats, ids)
            is_last = len(ids) < CHUNK * 32
            if len(items):
                span = Span(items.created_at(len(items) - 1), span.until)
                after = items.id(len(items) - 1)
            if is_last or len(items) >= MOST_ITEMS:
                items.seal()
                number, windows, items = number + len(items), windows + 1, Items()
            if is_last:
                break
        took_s = time.perf_counter() - started
        print(f"  audit of {number:,} events in {windows} windows: {took_s:.1f} s", flush=True)


async def _back_up(address: str, folder: Path) -> None:
    file = folder / "large.dump"
    started = time.perf_counter()
    environment = client_environment(is_embedded=True)
    size = await asyncio.to_thread(dump.back_up, address, file, environment)
    took_s = time.perf_counter() - started
    print(f"  backup: {took_s:.0f} s, {size / 1e9:.2f} GB", flush=True)
    file.unlink()


async def _start(on: Stage, address: str) -> None:
    """Stops and kills the server, and starts it again, up to where services would begin."""
    server = on.server
    for words in ("after it was stopped", "after it was killed while it wrote"):
        if "killed" in words:
            assert server.pid is not None
            async with Pool(dsn=address) as pool:  # as much as a checkpoint leaves to be redone
                await pool.execute(
                    "CREATE TABLE public.written AS SELECT n, repeat('x', 500) AS text"
                    " FROM generate_series(1, 1000000) AS n"
                )
                await pool.execute("DROP TABLE public.written")
            os.kill(server.pid, signal.SIGKILL)
            await server.wait_dead()
        else:
            await on.settle()
        started = time.perf_counter()
        await server.restart()
        async with Pool(dsn=address) as pool, pool.acquire() as connection:
            await Schema().migrate(connection, Profile.FULL, int(time.time()))
        print(f"  start {words}: {time.perf_counter() - started:.1f} s", flush=True)


async def archive_of(on: Stage, events: int) -> str:
    """The address of the large archive of the folder; makes it where there is none."""
    address = on.address("large")
    connection = await asyncpg.connect(on.server.url)
    try:
        is_there = await connection.fetchval(
            "SELECT count(*) > 0 FROM pg_database WHERE datname = 'large'"
        )
        if not is_there:
            await connection.execute("CREATE DATABASE large")
    finally:
        await connection.close()
    if not is_there:
        await build(address, events)
    return address


async def run(events: int, folder: Path | None) -> None:
    async with stage(folder) as on:
        address = await archive_of(on, events)
        await measure(on, address, events)
        async with Pool(dsn=address) as pool:
            await _audit(pool)
        await _back_up(address, on.folder)
        await _start(on, address)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.large", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where the archive is kept, and taken up again by the next run"
    )
    options = parser.parse_args()
    uvloop.run(run(options.events, options.folder))


if __name__ == "__main__":
    main()
