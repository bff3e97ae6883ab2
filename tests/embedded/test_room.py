"""A full disk, and other ends of PostgreSQL: the cause is said, wherever it shows."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigbrotr.config.settings import Config, Profile, SupervisorSettings
from bigbrotr.core.logger import Logger
from bigbrotr.embedded.room import causes, is_full, serious_lines
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.errors import DatabaseError
from bigbrotr.runner import Runner
from bigbrotr.telemetry import Telemetry

LOG = """\
2026-11-27 21:58:27.840 UTC [11733] LOG:  database system is ready to accept connections
2026-11-27 21:58:28.000 UTC [11733] PANIC:  could not write to file "pg_wal/xlogtemp.1": \
No space left on device
2026-11-27 21:58:28.241 UTC [11733] LOG:  terminating any other active server processes
2026-11-27 21:58:28.250 UTC [11738] FATAL:  the database system is in recovery mode
2026-11-27 21:58:28.281 UTC [11733] LOG:  database system is shut down
"""


def test_the_serious_lines_say_why() -> None:
    assert causes(LOG) == [
        'PANIC:  could not write to file "pg_wal/xlogtemp.1": No space left on device',
        "FATAL:  the database system is in recovery mode",
    ]
    assert causes("LOG: unrecognized parameter\nFATAL:  the file contains errors\nbye\n") == [
        *("LOG: unrecognized parameter", "FATAL:  the file contains errors")
    ]
    assert causes("a\nb\nerror: could not x\nc\n") == ["error: could not x"]
    assert causes("1\n2\n3\n4\n") == ["2", "3", "4"]
    assert causes("") == []
    assert serious_lines(LOG.encode()).decode() == "".join(
        line for line in LOG.splitlines(keepends=True) if "PANIC" in line or "FATAL" in line
    )


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, too small for any database."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_database_cannot_be_made_without_room(tiny_disk: Path) -> None:
    assert is_full(tiny_disk / "data")
    with pytest.raises(DatabaseError, match=r"initdb failed: no space left on the disk of .*data"):
        await EmbeddedPostgres(tiny_disk / "data").start()


async def test_it_is_not_ready_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner("seeder", SupervisorSettings(), Logger("test"))
    telemetry = Telemetry(Config(), Profile.FULL, tmp_path, [runner], Logger("test"))
    telemetry.tell_ready()
    telemetry.trouble = "PostgreSQL did not start"
    assert await telemetry.what_is_wrong() == "PostgreSQL did not start"
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("bigbrotr.embedded.room.shutil.disk_usage", lambda _: usage)
    words = await telemetry.what_is_wrong() or ""
    assert words.startswith(f"no space left on the disk of {tmp_path}: make room")
