"""The monitor with thousands of relays, and beside a synchronizer that works flat out."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bigbrotr.config.settings import ClaimsSettings, Config, Link, MonitorSettings, Networks
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from bigbrotr.services.monitor.service import Monitor
from tests.kit.crowd import address
from tests.kit.processes import Place, children, until
from tests.kit.punctual import Punctual

ROOT = Path(__file__).parents[2]
RELAYS = 2_000
CHECKS = 6
HEAVY = """
import uvloop
from tests.bench import corpus
from tests.bench.relay import Store, serve
store = Store(corpus.build(6000))
uvloop.run(serve([store] * 300))
"""


@asynccontextmanager
async def companion(*words: str) -> AsyncIterator[str]:
    """A process of Python's that says a line about itself and serves until the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60.0):
            yield (await process.stdout.readline()).decode()
    finally:
        process.kill()
        await process.wait()


def resident_mb() -> float:
    """Our own memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
async def test_two_thousand_relays_in_one_run(brotr: Brotr) -> None:
    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(resident_mb())
            await asyncio.sleep(0.1)

    async with companion("-m", "tests.kit.crowd") as port:
        await brotr.insert_relays(
            [Relay(f"ws://{address(number)}:{int(port)}") for number in range(1, RELAYS + 1)]
        )
        networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=10.0, width=50))
        context = Context(Config(networks=networks), None, "test")
        settings = MonitorSettings(claims=ClaimsSettings(timeout_s=5.0))
        watcher = asyncio.create_task(watch())
        began = time.monotonic()
        async with Monitor(brotr, settings, context) as monitor:
            await monitor.run()
        elapsed_s = time.monotonic() - began
        watcher.cancel()
    warm = max(memory[: len(memory) // 4])
    growth = max(memory) - warm
    print(f"{RELAYS} relays in {elapsed_s:.1f} s, {warm:.0f} MB and {growth:.1f} MB more")
    assert growth < 16
    states = await brotr.pool.fetch("SELECT state, count(*) FROM bigbrotr.checks GROUP BY 1")
    hang_up = RELAYS // 50
    assert {tuple(row) for row in states} == {("up", RELAYS - hang_up), ("down", hang_up)}
    # 2,000 relays say the same three things.
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.metadata") <= 8
    for query, wanted in (
        ("relay_metadata_latest WHERE type = 'nip11'", RELAYS * 9 // 10),
        ("relay_rtts WHERE read_ms > 0 AND open_ms > 0", RELAYS - hang_up),
    ):
        assert await brotr.pool.fetchval(f"SELECT count(*) FROM bigbrotr.{query}") == wanted


@pytest.mark.slow
async def test_figures_stay_true_while_the_synchronizer_works_flat_out(tmp_path: Path) -> None:
    async with companion("-c", HEAVY) as line:
        urls = [f"ws://127.0.0.1:{port}" for port in json.loads(line)]
        with Punctual(0.04, 0.07, 0.02, 0.09, 0.055) as relay:
            table = '[synchronizer.relays."{}"]\n{} = false\n'
            more = table.format(relay.url, "enabled")
            more += "".join(table.format(url, "reconcile") for url in urls)
            checks = """
interval_s = 0.2
[monitor.nip11]
enabled = false
[monitor.claims]
enabled = false
"""
            place = Place(tmp_path, page_limit=500, monitor=checks, more=more)
            async with place.start() as running:
                await running.says("ready")
                async with place.look() as connection:
                    await connection.execute(
                        "SELECT bigbrotr.insert_relays($1,"
                        " array_fill('local'::text, ARRAY[$2::int]),"
                        " array_fill(1::bigint, ARRAY[$2]))",
                        [relay.url, *urls],
                        1 + len(urls),
                    )

                    async def is_copying() -> bool:
                        return bool(
                            await connection.fetchval("SELECT sum(pairs) > 0 FROM bigbrotr.tallies")
                        )

                    await until(is_copying, "the first page")
                    relay.truths.clear()
                    began, since = time.monotonic(), int(time.time()) + 1
                    figures = (
                        "SELECT upgrade_ms, read_ms FROM bigbrotr.relay_rtts"
                        f" WHERE relay_url = '{relay.url}' AND checked_at > {since}"
                    )
                    idle, busy = idle_s(), sum(map(cpu_s, running_workers(running.pid)))

                    async def is_enough() -> bool:
                        await connection.execute(
                            "UPDATE bigbrotr.checks c SET due_at = 0"
                            " FROM bigbrotr.relays r WHERE r.id = c.relay_id"
                            " AND r.url = $1 AND c.owner IS NULL",
                            relay.url,
                        )
                        return len(await connection.fetch(figures)) >= CHECKS

                    await until(is_enough, "some checks")
                    spent_s = sum(map(cpu_s, running_workers(running.pid))) - busy
                    elapsed_s = time.monotonic() - began
                    cores = spent_s / elapsed_s
                    idle = (idle_s() - idle) / elapsed_s
                    rows = await connection.fetch(f"{figures} ORDER BY checked_at")
                    pairs = await connection.fetchval("SELECT sum(pairs) FROM bigbrotr.tallies")
                await running.end()
    truths = [
        {asked: 1000 * true_s for asked, true_s in truth}
        for truth in relay.truths
        if [asked for asked, _ in truth] == ["upgrade", "REQ"]
    ]
    figures_ms = [(row["upgrade_ms"], row["read_ms"]) for row in rows]
    truths_ms = [(truth["upgrade"], truth["REQ"]) for truth in truths]
    # The series says no more than the second: each figure belongs to the nearest truth.
    worst = max(
        min(max(abs(a - b) for a, b in zip(figure, truth, strict=True)) for truth in truths_ms)
        for figure in figures_ms
    )
    print(
        f"{len(rows)} checks in {elapsed_s:.1f} s, {pairs} pairs meanwhile, {cores:.1f} cores of"
        f" the workers, {idle:.1f} cores idle: {worst:.2f} ms off at most"
    )
    # The workers were busy (PostgreSQL takes as much again), or others left them no core.
    assert cores > 0.2 or idle < 0.2
    assert worst < 5.0


def running_workers(pid: int) -> list[int]:
    """The synchronizer's processes."""
    return children(pid, "multiprocessing")


def cpu_s(pid: int) -> float:
    """What a process has computed so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_s() -> float:
    """How long the cores of this machine had nothing to do so far, all together."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[4]) / os.sysconf("SC_CLK_TCK")
