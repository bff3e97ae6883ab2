"""Parquet and snapshots: events a second into files, and what it costs to find no change."""

import time
import tracemalloc
from pathlib import Path

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.policy import View
from bigbrotr.models.relay import Relay
from bigbrotr.transfer import snapshot
from bigbrotr.transfer.export import Exported, export_parquet
from tests.bench import corpus
from tests.bench.stage import Stage

RELAYS = 8  # that hold each event
ROUNDS = 3


async def measure(on: Stage, events: int) -> None:
    """Prints events a second of `export parquet`, bytes an event, and what a snapshot takes that
    finds nothing new."""
    data = corpus.build(events)
    async with on.archive() as archive:
        await on.store(archive, data)
        brotr = archive.brotr
        await _hold(brotr)
        totals = await brotr.totals()
        spent, done = [], Exported(0, 0, {})
        for number in range(ROUNDS):
            began = time.perf_counter()
            done = await export_parquet(brotr.pool, on.folder / f"{number}", View.ARCHIVE)
            spent.append(time.perf_counter() - began)
        if (done.rows["events"], done.rows["presence"]) != (totals.events, totals.pairs):
            raise SystemExit(f"{done.rows} instead of {totals}")
        rate = totals.events / min(spent)
        print(
            f"  export parquet, {totals.pairs / totals.events:.0f} relays an event:"
            f" {rate:,.0f} events, {totals.pairs / min(spent):,.0f} pairs a second"
        )
        for table in ("events", "presence"):
            size = sum(each.stat().st_size for each in (on.folder / "0" / table).iterdir())
            print(f"    {table:10} {size / done.rows[table]:6.1f} bytes a row")
        folder = on.folder / "snapshot"
        await _take(brotr, folder)
        again = min([await _take(brotr, folder) for _ in range(ROUNDS)])
        print(f"  snapshot without a change: {again / totals.events * 1e6:.2f} us an event")
        tracemalloc.start()
        await export_parquet(brotr.pool, on.folder / "traced", View.ARCHIVE)
        print(f"  at most {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB of Python's memory")
        tracemalloc.stop()


async def _take(brotr: Brotr, folder: Path) -> float:
    began = time.perf_counter()
    await snapshot.take(brotr.pool, folder, View.ARCHIVE, "full")
    return time.perf_counter() - began


async def _hold(brotr: Brotr) -> None:
    """Has all events held by so many relays."""
    relays = [Relay(f"wss://bench-{number}.example.com") for number in range(RELAYS)]
    numbers = await brotr.number_relays(relays)
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.presence (slice, chunk, relay_id, seen_ats)"
        " SELECT p.slice, p.chunk, r.id, p.seen_ats FROM bigbrotr.presence p"
        " CROSS JOIN unnest($1::int[]) AS r (id) WHERE p.relay_id = ("
        "  SELECT q.relay_id FROM bigbrotr.presence q GROUP BY 1 ORDER BY count(*) DESC LIMIT 1)"
        " ON CONFLICT DO NOTHING",
        list(numbers.values()),
    )
    await brotr.pool.execute(
        "UPDATE bigbrotr.tallies t SET pairs = (SELECT count(*) FROM bigbrotr.presence p,"
        " unnest(p.seen_ats) AS s (at) WHERE p.relay_id = t.relay_id AND s.at IS NOT NULL)"
    )
