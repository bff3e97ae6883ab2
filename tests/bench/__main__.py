"""Runs the benchmarks: `python -m tests.bench [NAME …] [--events N]`, or `make bench`."""

import argparse
import os
import platform
import time
from collections.abc import Awaitable, Callable

import asyncpg
import uvloop

from tests.bench import baseline, corpus, floors
from tests.bench.stage import WARM_UP, Archive, Stage, stage


async def ingest(on: Stage, events: int) -> None:
    """First copy, further copies, and ten relays that share 90 %, against the baseline."""
    data = corpus.build(events)
    size = sum(len(body) for _, body in data) / len(data)
    print(f"  corpus: {events:,} events of {size:.0f} bytes on average")
    async with on.relays(data, 1) as urls:
        ordinary_new, ordinary_known = await _baseline(on, urls[0], events)
    print(f"  baseline: new {ordinary_new:.0f} us, known {ordinary_known:.0f} us an event")
    async with on.archive() as archive:
        async with on.relays(data, 2, shared=0.0) as urls:
            seconds = await archive.copy(urls)
        first = seconds / events * 1e6
        _row("first copy (two relays, half each)", first, ordinary_new)
        async with on.relays(data, 2) as urls:
            seconds = await archive.copy(urls)
        _row("further copies", seconds / events / 2 * 1e6, ordinary_known)
        await _check(archive, events + WARM_UP)
    async with on.archive() as archive, on.relays(data, 10, shared=0.9) as urls:
        seconds = await archive.copy(urls)
        await _check(archive, events + WARM_UP)
        pairs = (await archive.brotr.totals()).pairs
        mixed = (ordinary_new * events + ordinary_known * (pairs - events)) / pairs
        _row(f"ten relays sharing 90 % ({pairs:,} pairs)", seconds / pairs * 1e6, mixed)
    floor = floors.measure(data[:5000])
    cores = os.cpu_count() or 1
    words = ", ".join(f"{name} {us:.1f}" for name, us in floor.items())
    print(f"  floors: {words} us")
    print(
        f"  sum of the floors without insert: {sum(floor.values()):.1f} us on one of {cores} cores"
    )


async def _check(archive: Archive, events: int) -> None:
    """A figure counts only if the work was done."""
    found = await archive.brotr.pool.fetchval("SELECT count(*) FROM events")
    if found != events:
        raise SystemExit(f"{found:,} events were archived instead of {events:,}")


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


def _row(name: str, ours: float, ordinary: float) -> None:
    print(f"  {name:42} {ours:7.1f} us an event   {ordinary / ours:5.1f} times the baseline")


BENCHMARKS: dict[str, Callable[[Stage, int], Awaitable[None]]] = {"ingest": ingest}


async def run(names: list[str], events: int) -> None:
    print(
        f"{time.strftime('%Y-%m-%d')}  {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for name in names:
        print(f"{name}: {BENCHMARKS[name].__doc__}")
        async with stage() as on:
            await BENCHMARKS[name](on, events)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS])
    parser.add_argument("--events", type=int, default=20_000)
    options = parser.parse_args()
    uvloop.run(run(options.names or list(BENCHMARKS), options.events))


if __name__ == "__main__":
    main()
