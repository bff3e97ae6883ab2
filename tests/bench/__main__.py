"""Runs the benchmarks: `python -m tests.bench [NAME …] [--events N]`, or `make bench`; and `fuzz`,
`forgeries` and `rank`, which are run only when they are named."""

import argparse
import asyncio
import contextlib
import math
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import asyncpg
import uvloop

from bigbrotr.config.settings import Profile
from bigbrotr.core.calls.candidates import WALK, Walk
from bigbrotr.models.event import Event
from bigbrotr.models.mentions import mentioned
from bigbrotr.models.relay import Relay
from bigbrotr.services.finder import Finder
from tests.bench import (
    api,
    baseline,
    candidates,
    corpus,
    datasets,
    floors,
    forgeries,
    fuzz,
    ranks,
    relay_load,
    relay_serve,
    schnorr,
    transfer,
)
from tests.bench import negentropy as reconciliation
from tests.bench import reconcile as visits
from tests.bench.stage import WARM_UP, Archive, Stage, stage

CORES = os.cpu_count() or 1
ROUNDS = 3


async def ingest(on: Stage, events: int) -> None:
    """First copy, further copies and ten relays that share 90 %, beside the ordinary way."""
    data = corpus.build(events)
    size = sum(len(body) for _, body in data) / len(data)
    print(
        f"  corpus: {events:,} events of {size:.0f} bytes on average; medians of {on.rounds} rounds"
    )
    rounds = []
    for _ in range(on.rounds):  # one after the other, so that a slow minute slows all of a round
        found = await _ingest(on, data)
        rounds.append(found)
        print(
            f"    baseline {found['new'][1]:.0f}, first {found['new'][0]:.1f},"
            f" further {found['known'][0]:.1f}, ten {found['ten'][0]:.1f},"
            f" floors {found['floors'][1]:.1f} us",
            flush=True,
        )
    for name, words in (
        ("new", "first copy (four relays, a quarter each)"),
        ("known", "further copies (four relays)"),
        ("ten", "ten relays sharing 90 %, a pair"),
    ):
        ours, ordinary = zip(*(each[name] for each in rounds), strict=True)
        print(
            f"  {words:42} {statistics.median(ours):7.1f} us, baseline"
            f" {statistics.median(ordinary):6.1f} us: {_ratio(ordinary, ours)} times as fast"
        )
    first, floor = zip(*(each["floors"] for each in rounds), strict=True)
    sums = f"{CORES} cores at once ({statistics.median(floor):.1f} us)"
    print(f"  first copy / sum of the floors, {sums}: {_ratio(first, floor)}")


async def _ingest(on: Stage, data: list[tuple[int, bytes]]) -> dict[str, tuple[float, float]]:
    """Microseconds an event or pair: ours, and what it is compared with."""
    events = len(data)
    await on.clear()
    async with on.relays(data, 1) as urls:
        ordinary_new, ordinary_known = await _baseline(on, urls[0], events)
    await on.clear()
    async with on.archive() as archive:
        async with on.relays(data, 4, shared=0.0) as urls:
            first = await archive.copy(urls) / events * 1e6
        async with on.relays(data, 4) as urls:
            further = await archive.copy(urls) / events / 4 * 1e6
        await _check(archive, events + WARM_UP)
    await on.clear()
    async with on.archive() as archive, on.relays(data, 10, shared=0.9) as urls:
        seconds = await archive.copy(urls)
        await _check(archive, events + WARM_UP)
        pairs = (await archive.brotr.totals()).pairs
    mixed = (ordinary_new * events + ordinary_known * (pairs - events)) / pairs
    await on.clear()
    floor = await _floor(on, data)
    return {
        "new": (first, ordinary_new),
        "known": (further, ordinary_known),
        "ten": (seconds / pairs * 1e6, mixed),
        "floors": (first, floor),
    }


async def _floor(on: Stage, data: list[tuple[int, bytes]]) -> float:
    """The sum of the floors, which it prints."""
    steps = await floors.measure(on, data)
    singly = steps.pop(floors.SINGLY)  # how it would be without batches, where there are some
    total, parts = sum(steps.values()), ", ".join(f"{name} {us:.1f}" for name, us in steps.items())
    print(f"    floors: {total:.1f} us ({parts}; {floors.SINGLY} {singly:.1f})", flush=True)
    return total


async def _baseline(on: Stage, url: str, events: int) -> tuple[float, float]:
    """Microseconds an event when it is new and when it is known."""
    connection = await asyncpg.connect(await on.new_database())
    try:
        await baseline.make_tables(connection)
        started = time.perf_counter()
        await baseline.copy(connection, url)
        new = time.perf_counter() - started
        # The same relay by another name: every event is known, every pair is new.
        started = time.perf_counter()
        await baseline.copy(connection, url + "/again")
        known = time.perf_counter() - started
    finally:
        await connection.close()
    return new / events * 1e6, known / events * 1e6


async def one(on: Stage, events: int) -> None:
    """One relay beside four and beside the floors, with the CPU that each part takes; and a visit
    that brings nothing."""
    data = corpus.build(events)
    ones, fours, sums, idles = list[float](), list[float](), list[float](), list[float]()
    for _ in range(on.rounds):
        for count, walls in ((1, ones), (4, fours)):
            await on.clear()
            async with on.archive() as archive, on.relays(data, count, shared=0.0) as urls:
                await archive.brotr.insert_relays([Relay(url) for url in urls])
                spent = await archive.visit()
                await _check(archive, events + WARM_UP)
                wall, workers, server = (seconds / events * 1e6 for seconds in spent)
                walls.append(wall)
                await archive.make_due()
                idle = await archive.visit()
            print(
                f"    {count} relays: {wall:.1f} us an event; of CPU, workers {workers:.1f} and"
                f" PostgreSQL {server:.1f}; a visit with nothing new {idle.wall_s:.3f} s,"
                f" of CPU {idle.workers_s + idle.server_s:.3f}",
                flush=True,
            )
            idles.append(idle.wall_s)
        await on.clear()
        sums.append(await _floor(on, data))
    print(f"  one relay / four: {_ratio(ones, fours)}; nothing new {min(idles):.3f} s")
    print(f"  four relays / floors: {_ratio(fours, sums)}")


def _ratio(these: Sequence[float], those: Sequence[float]) -> str:
    """The geometric mean of ratios, with its standard error."""
    logs = [math.log(this / that) for this, that in zip(these, those, strict=True)]
    mean = math.exp(statistics.fmean(logs))
    if len(logs) < 2:
        return f"{mean:.2f}"
    error = mean * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{mean:.2f} +- {error:.2f} ({len(logs)} rounds)"


async def size(on: Stage, events: int) -> None:
    """Bytes an event, full and lite, and a further pair at ten relays and at 30 at once."""
    for name, data in (
        ("the corpus", corpus.build(events)),
        ("with distinct tag values", corpus.build(events, distinct_tags=True)),
    ):
        each = sum(len(body) for _, body in data) / events
        print(f"  {name}: {events} events, {each:.0f} bytes of JSON")
        for profile in Profile:
            async with on.archive(profile) as archive, on.relays(data, 10) as urls:
                await archive.copy(urls[:1])
                alone = sum((await _bytes(archive)).values())
                for url in urls[1:]:  # one after the other, as over the years
                    await archive.copy([url])
                await _check(archive, events + WARM_UP)
                pairs = (await archive.brotr.totals()).pairs
                more = (sum((await _bytes(archive)).values()) - alone) / (pairs - events)
                await archive.brotr.analyze()
                await archive.brotr.pack_indexes(0)
                packed = await _bytes(archive)
            after = sum(packed.values()) - more * (pairs - events)
            print(
                f"    {profile}: {alone / events:.0f} bytes an event with presence and indexes,"
                f" {after / events:.0f} after maintenance;"
                f" {more:.1f} a further pair at {pairs / events:.1f} relays an event"
            )
            parts = sorted(packed.items(), key=lambda part: -part[1])
            print("     ", ", ".join(f"{part} {size / events:.0f}" for part, size in parts))
    data = corpus.build(events)
    async with on.archive(width=30) as archive, on.relays(data, 30) as urls:
        await archive.copy(urls[:1])
        alone = sum((await _bytes(archive)).values())
        await archive.copy(urls)
        await _check(archive, events + WARM_UP)
        pairs = (await archive.brotr.totals()).pairs
        more = (sum((await _bytes(archive)).values()) - alone) / (pairs - events)
        print(f"  30 relays at once: {more:.1f} bytes a further pair, full")


async def _bytes(archive: Archive) -> dict[str, int]:
    """What events and presence take: tables with what they keep aside, and each index."""
    rows = await archive.brotr.pool.fetch(
        "SELECT i.inhparent::regclass::text AS name,"
        " sum(CASE c.relkind WHEN 'i' THEN pg_relation_size(c.oid) ELSE pg_table_size(c.oid) END)"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid GROUP BY 1"
    )
    return {row[0].removeprefix("bigbrotr."): int(row[1]) for row in rows}


async def memory(on: Stage, events: int) -> None:
    """Peak memory of the processes, without PostgreSQL, at 200 relays at once."""
    data = corpus.build(events)
    async with on.archive(width=200) as archive, on.relays(data, 200) as urls:
        done = threading.Event()

        def used() -> int:
            return sum(_proportional_kib(pid) for pid in (os.getpid(), *archive.worker_pids()))

        peak = idle = used()
        processes = 1 + len(archive.worker_pids())

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, used())

        watcher = threading.Thread(target=watch)
        watcher.start()
        seconds = await archive.copy(urls)
        done.set()
        watcher.join()
        await _check(archive, events + WARM_UP)
    print(
        f"  {peak / 1024:.0f} MB in {processes} processes ({seconds:.0f} s),"
        f" {idle / 1024:.0f} MB before the first relay"
    )


def _proportional_kib(pid: int) -> int:
    """Memory of a process, what it shares with others counted by its share."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


async def scaling(on: Stage, events: int) -> None:
    """One, two and four workers."""
    data = corpus.build(events)
    alone = 0.0
    for workers in (1, 2, 4):
        async with on.archive(workers=workers) as archive:
            async with on.relays(data, 8, shared=0.0) as urls:
                new = await archive.copy(urls) / events * 1e6
            async with on.relays(data, 8) as urls:
                known = await archive.copy(urls) / events / 8 * 1e6
        alone = alone or new
        print(
            f"  {workers} workers: {new:.1f} us a new event ({alone / new:.2f} times one worker's "
            f"speed), {known:.1f} us a known one, on {CORES} cores"
        )


async def growth(on: Stage, events: int) -> None:
    """Microseconds an event when 10 000, 100 000 and 1 000 000 are stored already."""
    data = corpus.build(events)
    first = 0.0
    for stored in (10_000, 100_000, 1_000_000):
        async with on.archive() as archive:
            await on.fill(archive, stored)
            async with on.relays(data, 4, shared=0.0) as urls:
                new = await archive.copy(urls) / events * 1e6
            async with on.relays(data, 4) as urls:
                known = await archive.copy(urls) / events / 4 * 1e6
        first = first or new
        print(f"  {stored:>9,} stored: new {new:.1f} us ({new / first:.2f}), known {known:.1f} us")


async def lag(on: Stage, events: int) -> None:
    """How late a timer of the supervisor's loop is while the synchronizer runs flat out."""
    data = corpus.build(events)
    late: list[float] = []
    async with on.archive() as archive, on.relays(data, 8) as urls:
        copying = asyncio.create_task(archive.copy(urls))
        while not copying.done():
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            late.append((time.perf_counter() - due) * 1000)
        await copying
    cuts = statistics.quantiles(late, n=100)
    print(
        f"  {len(late):,} timers: median {cuts[49]:.1f} ms, 99th percentile {cuts[98]:.1f} ms late"
    )


async def finder(on: Stage, events: int) -> None:
    """Relays that archived events name, on one core, beside a plain loop; and the way in."""
    data = corpus.build(events)
    async with on.archive() as archive:
        await on.store(archive, data)
        brotr = archive.brotr
        await brotr.pool.execute(
            "TRUNCATE bigbrotr.mentions"
        )  # of the events that warmed up the stage
        await brotr.upsert_service_data([(*WALK, Walk(2**40, -1, "")._asdict())])
        with on.one_core():
            started = time.perf_counter()
            naive = await baseline.find_relays(brotr.pool.address)
            ordinary = time.perf_counter() - started
            started = time.perf_counter()
            await Finder(brotr, context=archive.synchronizer.context).run()
            seconds = time.perf_counter() - started
        rows = await brotr.pool.fetch("SELECT url, named FROM bigbrotr.candidates")
        found = {row["url"]: row["named"] for row in rows}
        if found != naive or await brotr.read_walk() is not None:
            raise SystemExit(f"{len(found)} candidates were found instead of {len(naive)}")
    print(
        f"  {events:,} events in {seconds:.1f} s, {seconds / events * 1e6:.1f} us each, "
        f"{ordinary / seconds:.1f} times as fast as the loop ({ordinary:.1f} s)"
    )
    decoded = [Event.from_json(body) for _, body in data[:5000]]
    fields = [(event.kind, event.tags, event.content) for event in decoded]
    us = floors.each(lambda event: mentioned(*event), fields)
    print(f"  on the way in: {us:.1f} us an event")


async def negentropy(on: Stage, events: int) -> None:
    """Reconciling 1 000 000 ids with a peer that differs in 1 000, and with an equal one."""
    reconciliation.measure()


async def validation(on: Stage, _: int) -> None:
    """Candidates a second when nearly all time out: two time-outs, beside the patient one alone."""
    one = await candidates.measure(on, candidates.TIMEOUT_S)
    two = await candidates.measure(on, candidates.QUICK_S)
    print(
        f"  {candidates.COUNT:,} candidates, {candidates.ALIVE} of them alive, width "
        f"{candidates.WIDTH}, time-outs {candidates.QUICK_S:g} and {candidates.TIMEOUT_S:g} s: "
        f"{two:.0f} a second, {one:.0f} with the patient one alone ({two / one:.1f} times as fast)"
    )


async def answers(on: Stage, events: int) -> None:
    """Answers of the API a second, by as many processes as there are cores."""
    await api.measure(on, events)


async def serve(on: Stage, events: int) -> None:
    """The archive as a relay, flat out and with many subscribers."""
    await relay_serve.measure(on, events)


async def load(on: Stage, events: int) -> None:
    """The relay with 2,000 clients who wait and 200 who ask, while events come."""
    await relay_load.measure(on, events)


async def answers_lag(on: Stage, events: int) -> None:
    """How late a timer of the supervisor's loop is while the API answers flat out."""
    await api.measure_lag(on, events)


async def export(on: Stage, events: int) -> None:
    """Exports of all events as lines of JSON, plain and compressed."""
    await transfer.measure_export(on, events)


async def import_(on: Stage, events: int) -> None:
    """Imports of files, beside a first copy from relays."""
    await transfer.measure_import(on, events)


async def parquet(on: Stage, events: int) -> None:
    """Parquet files of all that there is, and a snapshot in which nothing has changed."""
    await datasets.measure(on, events)


async def reconcile(on: Stage, events: int) -> None:
    """A relay whose events are all known: by pages, by ids, and by ids once more."""
    await visits.measure(on, events)


async def signatures(on: Stage, _: int) -> None:
    """Signatures in batches and one by one, microseconds of CPU each; and when some are wrong."""
    schnorr.measure()


async def _check(archive: Archive, events: int) -> None:
    """A figure counts only if the work was done."""
    found = await archive.brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events")
    if found != events:
        raise SystemExit(f"{found:,} events were archived instead of {events:,}")


BENCHMARKS: dict[str, Callable[[Stage, int], Awaitable[None]]] = {
    "ingest": ingest,
    "one": one,
    "size": size,
    "memory": memory,
    "scaling": scaling,
    "growth": growth,
    "lag": lag,
    "finder": finder,
    "negentropy": negentropy,
    "reconcile": reconcile,
    "candidates": validation,
    "api": answers,
    "serve": serve,
    "load": load,
    "schnorr": signatures,
    "api_lag": answers_lag,
    "export": export,
    "import": import_,
    "parquet": parquet,
}


# Need no database, and are measured against nothing: they must find nothing.
FUZZ = "fuzz"
FORGERIES = "forgeries"
RANK = "rank"


async def run(names: list[str], events: int, rounds: int) -> None:
    print(
        f"{time.strftime('%Y-%m-%d')}, {CORES} cores, Python {platform.python_version()}",
        flush=True,
    )
    for name in names:
        print(f"{name}: {BENCHMARKS[name].__doc__}", flush=True)
        async with stage(rounds=rounds) as on:
            await BENCHMARKS[name](on, events)


def main() -> None:
    known = [*BENCHMARKS, FUZZ, FORGERIES, RANK]
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--events", type=int, default=20_000, help="in the corpus")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of ingest and of one")
    parser.add_argument("--frames", type=int, default=fuzz.FRAMES, help="of the fuzz")
    parser.add_argument("--claims", type=int, default=forgeries.CLAIMS, help="of the forgeries")
    parser.add_argument("--follows", type=int, default=ranks.FOLLOWS, help="of rank")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzz, and of the forgeries")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be 1 at least")
    for name in options.names:
        if name not in known:
            parser.error(f"no benchmark is called {name}: there are {', '.join(known)}")
    names = [name for name in options.names if name in BENCHMARKS]
    if names or not options.names:
        uvloop.run(run(names or list(BENCHMARKS), options.events, options.rounds))
    code = 0
    if FUZZ in options.names:
        code |= fuzz.measure(options.frames, options.seed)
    if FORGERIES in options.names:
        code |= forgeries.measure(options.claims, options.seed)
    if RANK in options.names:
        code |= ranks.measure(options.follows)
    sys.exit(code)


if __name__ == "__main__":
    main()
