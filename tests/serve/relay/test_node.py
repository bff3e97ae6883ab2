"""JavaScript's clients read the archive: nostr-tools, NDK with its sync, nostr-fetch.

Their packages are locked in `tests/node`; `make test` installs them there, where there is node.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from tests.kit.events import make_event, wire
from tests.serve.relay.client import newest_first, relay_of, store

FOLDER = Path(__file__).parents[2] / "node"
PATIENCE_S = 60.0
BEGIN = 1_600_000_000
EVENTS = [
    Event.from_json(
        wire(
            make_event(
                BEGIN + 60 * (n // 3),
                kind=(1, 7, 1111)[n % 3],
                tags=[["t", f"{n % 2}"]],
                content=f"{n} ünïcödé 🦣",
                key=n % 4,
            )
        )
    )
    for n in range(700)
]
FILTER = {"kinds": [1]}
MATCHING = newest_first(event for event in EVENTS if event.kind == 1)
LACKING = 40  # of ours that the relay lacks, and of the relay's that we lack


def skip_without_node() -> None:
    """Skips where the clients cannot run; CI installs what they need, and fails without."""
    missing = ""
    if shutil.which("node") is None:
        missing = "there is no node: install nodejs and npm, then `make test`"
    elif not (FOLDER / "node_modules" / "ws").is_dir():
        missing = "the clients are not installed: `make test` does it, with npm and the network"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


class Script:
    """A client that runs, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def say(self, value: object) -> None:
        """Tells it something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        await self._process.stdin.drain()

    async def hear(self, name: str) -> Any:
        """What it says next, which has this name."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        assert line, f"it has ended before {name}"
        said, found = json.loads(line)
        assert said == name, line
        return found


@asynccontextmanager
async def script(name: str, url: str, held: list[Event]) -> AsyncIterator[Script]:
    """Runs a client on a relay; `held` are the events that it has already."""
    skip_without_node()
    process = await asyncio.create_subprocess_exec(
        "node",
        f"{name}.mjs",
        cwd=FOLDER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    try:
        running = Script(process)
        objects = [json.loads(event.to_json()) for event in held]
        await running.say({"url": url, "filter": FILTER, "held": objects})
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("name", ["nostr-tools", "ndk"])
async def test_a_client_reads_counts_reconciles_and_waits(
    brotr: Brotr, dsn: str, name: str
) -> None:
    theirs = EVENTS[LACKING:]
    ours = EVENTS[:-LACKING]
    later = next(event for event in EVENTS[:LACKING] if event.kind == 1)
    matching = [each for each in MATCHING if each in {event.id.hex() for event in theirs}]
    await store(brotr, theirs)
    async with relay_of(dsn) as place, script(name, place.url, ours) as client:
        assert set(await client.hear("fetch")) == set(matching[:100])
        pages = await client.hear("pages")
        assert len(pages) == len(set(pages))
        assert set(pages) == {event.id.hex() for event in theirs}
        assert await client.hear("count") == len(matching)
        if name == "ndk":
            assert await client.hear("supports") is True
        assert set(await client.hear("have")) == {event.id.hex() for event in EVENTS[:LACKING]}
        assert set(await client.hear("need")) == {event.id.hex() for event in EVENTS[-LACKING:]}
        if name == "ndk":
            # What was lacking has come.
            assert set(await client.hear("synchronized")) == {event.id.hex() for event in EVENTS}
        assert await client.hear("subscribed") is True
        await store(brotr, [later])
        assert await client.hear("event") == later.id.hex()
        await client.say("enough")


async def test_nostr_fetch_reads_the_whole_history(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS)
    async with (
        relay_of(dsn, hints=False) as place,
        script("nostr-fetch", place.url, EVENTS[:4]) as client,
    ):
        assert await client.hear("fetch") == MATCHING[:100]
        pages = await client.hear("pages")
        assert len(pages) == len(set(pages))
        assert set(pages) == {event.id.hex() for event in EVENTS}
        authors = {event.pubkey for event in EVENTS}
        newest = {
            newest_first(event for event in EVENTS if event.pubkey == author)[0]
            for author in authors
        }
        assert set(await client.hear("last")) == newest
