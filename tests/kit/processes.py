"""Real `bigbrotr` processes for tests: started in a folder of their own, watched, killed."""

import asyncio
import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import asyncpg

from bigbrotr.embedded.server import EmbeddedPostgres
from tests.kit import starter
from tests.kit.starter import Started

DEADLINE_S = 60.0  # generous: the machine may be busy with something else
POLL_S = 0.02
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
HELPERS = ("multiprocessing.resource_tracker", starter.NAME)

CONFIG = """
[networks.clearnet]
enabled = false
[networks.local]
enabled = true
width = {width}
timeout_s = {timeout_s}
[seeder]
file = "{seeds}"
[validator]
interval_s = 0.5
[monitor]
{monitor}
[synchronizer]
interval_s = 0.2
workers = {workers}
slice_s = {slice_s}
page_limit = {page_limit}
revisit_s = {revisit_s}
settle_s = {settle_s}
live = {live}
[supervisor]
restart_delay_s = 0.1
shutdown_timeout_s = 15
{more}
"""
# The profile listens, and asks for lists on the web: nothing of that, where a test does not say.
QUIET = {
    "[web]": 'listen = ""',
    "[serve]": 'listen = ""',
    "[finder.sources.nostr-watch]": "enabled = false",
    "[finder.monitors]": "pubkeys = []\nrelays = []",
    "[completeness]": "fetch = false",
}


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line on stderr, after checking that there is no traceback."""
        assert "Traceback" not in self.err, self.err
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]],
    what: str,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Waits until the condition holds; AssertionError when it does not in time."""
    end = time.monotonic() + deadline_s
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(POLL_S)


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would change how bigbrotr behaves."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("DB_", "PG", "PRIVATE_KEY", "BIGBROTR_"))
    }
    for name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "XDG_DATA_HOME"):
        kept.pop(name, None)
    return kept | {"PYTHONUNBUFFERED": "1"} | more


class Running:
    """A `bigbrotr` that was started: its process group, and what it has said so far."""

    def __init__(self, process: Started | asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def err(self) -> str:
        """All of stderr so far."""
        return self._log.read_text()

    async def says(self, words: str) -> None:
        """Waits until stderr holds the words."""

        def is_said() -> bool:
            assert self.process.returncode is None or words in self.err, self.err
            return words in self.err

        await until(is_said, f"{words!r} in {self.err[-2000:]}")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal and waits; the exit code."""
        self.process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


class Place:
    """A folder with a configuration, a seed file and a data directory."""

    def __init__(
        self,
        folder: Path,
        seeds: Iterable[str] = (),
        *,
        profile: str = "full",
        page_limit: int = 100,
        width: int = 20,
        timeout_s: float = 20.0,
        revisit_s: float = 60.0,
        settle_s: int = 0,
        live: bool = False,
        workers: int = 1,
        slice_s: float = 5.0,
        monitor: str = "enabled = false",
        more: str = "",
        is_prepared: bool = True,
    ) -> None:
        self.folder = folder
        # A start finds an archive that holds nothing, and makes no cluster: seconds for each test.
        self.is_prepared = is_prepared and "[database]" not in more
        self.profile = profile
        self.data_dir = folder / "data"
        self.seeds = folder / "seeds.txt"
        self.config = folder / "config.toml"
        self._starts = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.seeds.write_text("".join(f"{url}\n" for url in seeds))
        for table, settings in QUIET.items():
            if table not in more:
                more += f"\n{table}\n{settings}\n"
        self.config.write_text(
            CONFIG.format(
                seeds=self.seeds,
                page_limit=page_limit,
                width=width,
                timeout_s=timeout_s,
                revisit_s=revisit_s,
                settle_s=settle_s,
                live=str(live).lower(),
                workers=workers,
                slice_s=slice_s,
                monitor=monitor,
                more=more,
            )
        )

    @property
    def options(self) -> list[str]:
        return [
            *("--profile", self.profile, "--config", str(self.config)),
            *("--data-dir", str(self.data_dir)),
        ]

    async def call(self, *words: str, **env: str) -> Done:
        """Runs a command with the options of this place to its end."""
        rest = list(words[words.index("--") :]) if "--" in words else []
        return await call(*words[: len(words) - len(rest)], *self.options, *rest, cwd=None, **env)

    @asynccontextmanager
    async def start(self, *words: str, **env: str) -> AsyncIterator[Running]:
        """`bigbrotr run` with the options of this place; nothing of it is left at the end."""
        if self.is_prepared and not self.data_dir.exists():
            copy_of_empty(self.profile, self.data_dir)
        self._starts += 1
        log = self.folder / f"err.{self._starts}"
        with log.open("wb") as err:
            process = await starter.start(
                ["run", *words, *self.options],
                err=err.fileno(),
                cwd=self.folder,
                env=environment(**env),
            )
        try:
            yield Running(process, log)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def run_once(self, *words: str, code: int = 0) -> str:
        """`bigbrotr run --once` to its end; what it said."""
        async with self.start("--once", *words) as running:
            assert await running.wait() == code, running.err
            return running.err

    @asynccontextmanager
    async def database(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection to the archive while no bigbrotr runs."""
        async with EmbeddedPostgres(self.data_dir) as server:
            connection = await asyncpg.connect(server.url)
            try:
                yield connection
            finally:
                await connection.close()

    @asynccontextmanager
    async def look(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection to the archive while a bigbrotr runs."""
        connection = await asyncpg.connect(EmbeddedPostgres(self.data_dir).url)
        try:
            yield connection
        finally:
            await connection.close()

    @property
    def postmaster(self) -> int:
        """The process id of the server."""
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])

    def processes(self) -> list[int]:
        """Everything that lives and works for this place, by its command line."""
        found = {pid for pid in pids() if str(self.folder) in command(pid)}
        while more := {pid for pid in pids() if parent(pid) in found} - found:
            found |= more
        return sorted(found)


# What a test kills are processes, never the machine: what the kernel was given is there.
CARELESS = "fsync = off\nfull_page_writes = off\n"


@cache
def empty_archive(profile: str) -> Path:
    """A data directory of a profile that holds nothing: made once in each test process."""
    folder = Path(tempfile.mkdtemp(prefix="bigbrotr-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = ["--profile", profile, "--data-dir", str(folder / "data")]
    subprocess.run(
        [sys.executable, "-m", "bigbrotr", "db", "migrate", *options],
        check=True,
        env=environment(),
        capture_output=True,
    )
    with (folder / "data" / "postgres" / "postgresql.user.conf").open("a") as settings:
        settings.write(CARELESS)
    return folder / "data"


def copy_of_empty(profile: str, data_dir: Path) -> None:
    """Copies an archive that holds nothing, with its owners and rights."""
    subprocess.run(["cp", "-a", empty_archive(profile), data_dir], check=True)


async def call(*words: str, cwd: Path | None = None, **env: str) -> Done:
    """Runs `bigbrotr` to its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = await starter.start(
            words, out=out.fileno(), err=err.fileno(), cwd=cwd, env=environment(**env)
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    return Done(process.returncode, *said)


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command(pid: int) -> str:
    """The command line of a process; empty for one that has gone."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
    except OSError:
        return ""


def parent(pid: int) -> int:
    """The parent's process id; 0 for one that has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def adopt_orphans() -> None:
    """Makes this process the parent of what its children leave behind."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "prctl")


def left_behind() -> dict[int, str]:
    """What lives on below this process, by process id: its command line."""
    parents = {pid: parent(pid) for pid in pids()}
    found = {os.getpid()}
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    lines = {pid: command(pid) for pid in found - {os.getpid()}}
    # Processes that have ended have no command line; helpers end with us.
    return {
        pid: line
        for pid, line in lines.items()
        if line and not any(helper in line for helper in HELPERS)
    }


def children(pid: int, words: str = "") -> list[int]:
    """The children of a process whose command line holds the words."""
    return sorted(each for each in pids() if parent(each) == pid and words in command(each))


@dataclass(frozen=True)
class Archive:
    """All that an archive says, in plain values, without the times at which it was said."""

    events: dict[str, tuple[Any, ...]]
    pairs: set[tuple[str, str]]
    relays: set[str]
    candidates: set[str]
    totals: dict[str, int]

    @classmethod
    async def read(cls, connection: "asyncpg.Connection[asyncpg.Record]") -> Self:
        rows = await connection.fetch(
            "SELECT encode(id, 'hex') AS id, encode(pubkey, 'hex') AS pubkey, created_at, kind,"
            " tags, content, encode(sig, 'hex') AS sig FROM bigbrotr.events"
        )
        pairs = await connection.fetch(
            "SELECT encode(event_id, 'hex') AS id, relay_url FROM bigbrotr.events_relays"
        )
        totals = await connection.fetchrow("SELECT * FROM bigbrotr.totals()")
        assert totals is not None
        events = {row["id"]: tuple(row.values())[1:] for row in rows}
        assert len(events) == len(rows)
        found = {(row["id"], row["relay_url"]) for row in pairs}
        assert len(found) == len(pairs)
        return cls(
            events,
            found,
            {row["url"] for row in await connection.fetch("SELECT url FROM bigbrotr.relays")},
            {row["url"] for row in await connection.fetch("SELECT url FROM bigbrotr.candidates")},
            dict(totals),
        )
