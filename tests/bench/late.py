"""How late a timer of the supervisor's loop is while its children answer the API flat out.

As a program it is what `bigbrotr run` is, with a timer beside the services: on a line of standard
input it writes down how late that was since the line before.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop

from bigbrotr.config.settings import Profile
from bigbrotr.config.toml import load
from bigbrotr.core.logger import configure
from bigbrotr.supervisor import Supervisor
from tests.kit.processes import Running, environment, until
from tests.kit.served import addresses

EVERY_S = 0.01
SETTINGS = """
[database]
url = "{dsn}"
[seeder]
enabled = false
[finder]
enabled = false
[synchronizer]
enabled = false
[validator]
enabled = false
[serve]
listen = "{listen}"
processes = {processes}
[serve.limits]
requests_per_s = 0
"""


class Late(NamedTuple):
    """How late the timer was, in milliseconds."""

    timers: int
    median_ms: float
    p99_ms: float
    most_ms: float


class Watched:
    """A supervisor that runs, and where its children serve."""

    def __init__(self, running: Running, url: str) -> None:
        self.running = running
        self.url = url

    async def late(self) -> Late:
        """How late its timer was since this was asked before."""
        process = self.running.process
        assert isinstance(process, asyncio.subprocess.Process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        return Late(*json.loads(await process.stdout.readline()))


@asynccontextmanager
async def supervised(folder: Path, dsn: str, listen: str, processes: int) -> AsyncIterator[Watched]:
    """A supervisor over a database, with processes that serve it."""
    config = folder / "late.toml"
    config.write_text(SETTINGS.format(dsn=dsn, listen=listen, processes=processes))
    log = folder / "late.log"
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.late", str(config)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            env=environment(),
        )
    running = Running(process, log)
    try:
        await running.says("serving the archive")
        await until(lambda: len(addresses(running.err)) == processes, "all to listen")
        yield Watched(running, addresses(running.err)[0])
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def main(config: Path) -> None:
    """Runs as `bigbrotr run` does, and measures."""
    settings = load(config, Profile.FULL)
    configure()
    supervisor = Supervisor(settings, Profile.FULL, config.parent / "data")
    late: list[float] = []

    async def watch() -> None:
        while True:
            due = time.perf_counter() + EVERY_S
            await asyncio.sleep(EVERY_S)
            late.append((time.perf_counter() - due) * 1000)

    async def tell() -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.readline():
            cuts = statistics.quantiles(late, n=100)
            print(json.dumps([len(late), cuts[49], cuts[98], max(late)]), flush=True)
            late.clear()

    tasks = [asyncio.create_task(watch()), asyncio.create_task(tell())]
    await supervisor.run()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
