"""Exports and imports: events a second into files and out of them."""

import asyncio
import os
import time
from pathlib import Path

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.transfer.files import Sink
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
