"""Servers of PostgreSQL in a test: one with a process of its own, and what is asked of any."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import pytest

import bigbrotr
from bigbrotr.embedded.server import EmbeddedPostgres

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


# A bigbrotr in small: says what happens, one line each, until it is told to stop. As another user
# it imports everything first: the interpreter may be root's own.
CHILD = """
import grp, os, pwd, signal, sys
from pathlib import Path
import anyio, anyio._backends._asyncio, asyncpg, importlib.util, subprocess, tempfile
from bigbrotr.embedded.server import EmbeddedPostgres

def say(*words):
    print(*words, flush=True)

async def main(data_dir):
    pg = EmbeddedPostgres(Path(data_dir), on_progress=lambda words: say("...", words))
    try:
        async with pg:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                say("ready", pg.pid)
                async for number in signals:
                    if number == signal.SIGTERM:
                        break
                    connection = await asyncpg.connect(dsn=pg.url)
                    say("interrupted", await connection.fetchval("SELECT current_user"))
                    await connection.close()
    except Exception as error:
        say(type(error).__name__, error)
        raise SystemExit(1)
    say("stopped")

data_dir, uid = sys.argv[1:]
if uid:
    os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
anyio.run(main, data_dir)
"""


class Child:
    """A process that runs a server of its own, in a process group of its own."""

    def __init__(self, data_dir: Path, uid: int | None = None) -> None:
        path = [str(Path(bigbrotr.__file__).parents[1]), *sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(data_dir), "" if uid is None else str(uid)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            text=True,
            process_group=0,
        )

    async def says(self, beginning: str) -> str:
        """The rest of the next line that begins so."""
        assert self.process.stdout is not None
        heard = ""
        while line := await anyio.to_thread.run_sync(self.process.stdout.readline):
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
            heard += line
        raise AssertionError(f"it never said {beginning!r}, but: {heard}")

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await anyio.to_thread.run_sync(self.process.wait)


async def execute(postgres: EmbeddedPostgres, *statements: str) -> Any:
    connection = await asyncpg.connect(dsn=postgres.url)
    try:
        for statement in statements:
            value = await connection.fetchval(statement)
        return value
    finally:
        await connection.close()
