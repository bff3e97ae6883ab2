"""Draws docs/panel.svg, bigbrotr at work, from a real run of the demo: `python -m docs.picture`."""

import asyncio
import io
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from msgspec.structs import replace
from rich.console import Console

from bigbrotr import demo
from bigbrotr.config.settings import Config, LogSettings
from bigbrotr.supervisor import Supervisor
from bigbrotr.view.panel import Panel, Picture, draw

FILE = Path(__file__).parent / "panel.svg"
WIDTH = 100
ROWS = 12
LOOK_S = 0.1
RUN_S = 20.0
PAGE_LIMIT = 12
# Fonts from a host on the web: the reader's own will do.
FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)


async def watch(panel: Panel, seen: list[Picture]) -> None:
    """Looks at a run again and again."""
    while True:
        seen.append(await panel.look(ROWS))
        await anyio.sleep(LOOK_S)


async def stop_later(supervisor: Supervisor) -> None:
    """Lets a run go on for a while."""
    await anyio.sleep(RUN_S)
    supervisor.request_shutdown()


def telling(picture: Picture) -> tuple[bool, int, int]:
    """How much a picture shows: an estimate of what is left, relays at work, events."""
    counts, totals = picture.counts, picture.totals
    if counts is None or totals is None or picture.doing:
        return (False, 0, 0)
    is_estimated = counts.left > 0 and bool(picture.pairs_per_s)
    return (is_estimated, min(counts.copying, 3), totals.events)


async def main() -> int:
    """Runs the demo, and keeps the most telling moment of it."""
    seen: list[Picture] = []

    async def supervise(supervisor: Supervisor, config: Config, *, is_once: bool) -> int:
        # Small pages and a run that goes on: the demo itself is over in two seconds.
        assert is_once
        slow = replace(config.synchronizer, page_limit=PAGE_LIMIT)
        config = replace(config, synchronizer=slow)
        supervisor = Supervisor(config, supervisor.profile, supervisor.data_dir)
        async with anyio.create_task_group() as group:
            group.start_soon(watch, Panel(supervisor), seen)
            group.start_soon(stop_later, supervisor)
            await supervisor.run()
            group.cancel_scope.cancel()
        return 0

    with TemporaryDirectory() as folder:
        place = Path(folder) / "demo"
        await demo.run(place, supervise, LogSettings("ERROR"), "bigbrotr")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(draw(max(seen, key=telling), WIDTH))
    picture = FONTS.sub("", console.export_svg(title="bigbrotr run"))
    FILE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
