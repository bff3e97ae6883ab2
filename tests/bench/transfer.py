"""Exports and imports: events a second into files and out of them."""

import asyncio
import os
import statistics
import time
from pathlib import Path

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.transfer.files import Sink
from bigbrotr.transfer.importing import Importer
from bigbrotr.transfer.jsonl import Exporter, Lines
from bigbrotr.transfer.selection import Selection
from tests.bench import corpus
from tests.bench.stage import Stage

ROUNDS = 3


async def measure_export(on: Stage, events: int) -> None:
    """Prints events a second of `export jsonl`, plain and compressed, beside psql's COPY."""
    data = corpus.build(events)
    async with on.archive() as archive:
        await on.store(archive, data)
        stored = await archive.brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_stored")
        copied = min([await _copy(archive.brotr) for _ in range(ROUNDS)])
        print(f"  COPY of all rows as text, one connection: {stored / copied:,.0f} events a second")
        for name, selection in (
            ("all.jsonl", Selection()),
            ("newest first", Selection(is_reversed=True)),
            ("all.jsonl.gz", Selection()),
            ("all.jsonl.zst", Selection()),
        ):
            spent = [
                await _export(archive.brotr.pool, on.folder / name, selection, stored)
                for _ in range(ROUNDS)
            ]
            print(f"  {name:20} {stored / min(spent):,.0f} events a second")


async def _copy(brotr: Brotr) -> float:
    began = time.perf_counter()
    async with brotr.pool.acquire() as connection:
        await connection.copy_from_query(
            "SELECT * FROM bigbrotr.events_stored", output=Path(os.devnull)
        )
    return time.perf_counter() - began


async def _export(pool: Pool, path: Path, selection: Selection, stored: int) -> float:
    path.unlink(missing_ok=True)  # noqa: ASYNC240 -- before anything is timed
    sink = Sink(str(path))

    async def write(lines: Lines) -> None:
        await asyncio.to_thread(sink.write, lines.data)

    began = time.perf_counter()
    found = await Exporter(pool, selection).run(write)
    sink.close(is_whole=True)
    spent = time.perf_counter() - began
    if found != stored:
        raise SystemExit(f"{found:,} events were exported instead of {stored:,}")
    return spent


async def measure_import(on: Stage, events: int) -> None:
    """Prints microseconds an event of `import`, new ones and known ones, beside a first copy of
    the same events from four relays."""
    data = corpus.build(events)
    path = on.folder / "dump.jsonl"
    path.write_bytes(b"".join(body + b"\n" for _, body in data))
    rounds: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        await on.clear()
        async with on.archive() as archive, on.relays(data, 4, shared=0.0) as urls:
            copied = await archive.copy(urls)
        await on.clear()
        async with on.archive() as archive:
            importer = Importer(archive.brotr, Config(), dsn=archive.brotr.pool.address)
            spent = []
            for new in (events, 0):
                began = time.perf_counter()
                outcome = await importer.run(str(path), lambda *_: None)
                spent.append(time.perf_counter() - began)
                if (outcome.events, outcome.new, outcome.invalid) != (events, new, {}):
                    raise SystemExit(f"{outcome} instead of {new:,} new of {events:,} events")
        rounds.append((copied, spent[0], spent[1]))
        print("   ", *(f"{each / events * 1e6:.1f}" for each in rounds[-1]), "us", flush=True)
    for place, words in enumerate(("first copy", "import, new", "import, known")):
        took = statistics.median(each[place] for each in rounds) / events * 1e6
        print(f"  {words:20} {took:7.1f} us an event")
    ratio = statistics.median(each[0] / each[1] for each in rounds)
    print(f"  an import is {ratio:.2f} times as fast as a first copy")
