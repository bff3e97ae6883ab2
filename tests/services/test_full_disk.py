"""A full disk: nothing is reported as done that is not there, and room makes it go on."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.kit.events import make_event
from tests.kit.processes import Archive, Place, until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

SMALL, LARGE = "size=90m", "size=900m"
EVENTS = [
    make_event(1_650_000_000 + n, content=f"{n} " + os.urandom(20_000).hex()) for n in range(900)
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, too small for the archive."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", SMALL, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
async def test_full_disk_loses_nothing(small_disk: Path) -> None:
    async with ScriptedRelay(EVENTS) as relay:
        more = f'[web]\nlisten = "127.0.0.1:{free_port()}"\n'
        place = Place(
            small_disk / "place",
            [relay.url],
            page_limit=50,
            settle_s=60,
            more=more,
            workers=2,
            is_prepared=False,  # with all that a server writes by default
        )
        async with place.start() as running:
            await running.says("ready")
            await running.says("cannot start PostgreSQL")
            assert "No space left on device" in running.err
            done = await place.call("health")
            assert (done.code, "no space left on the disk" in done.out) == (1, True)
            grow = ["mount", "-o", f"remount,{LARGE}", str(small_disk)]
            await asyncio.to_thread(subprocess.run, grow, check=True)

            async def is_whole() -> bool:
                try:
                    async with place.look() as connection:
                        return len((await Archive.read(connection)).events) == len(EVENTS)
                except (OSError, asyncpg.PostgresError):  # the server is starting again
                    return False

            await until(is_whole, "every event is archived")
            assert await running.end() == 0
            assert "Traceback" not in running.err
        async with place.database() as connection:
            archive = await Archive.read(connection)
        assert set(archive.events) == {event["id"] for event in EVENTS}
        assert len(archive.pairs) == len(EVENTS)
        assert archive.totals["events"] == archive.totals["pairs"] == len(EVENTS)
