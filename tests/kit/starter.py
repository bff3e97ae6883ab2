"""Starts `bigbrotr` by forking a process that has imported it: imports take half a second.

What runs is what `python -m bigbrotr` runs: a process and session of its own, with its own words,
environment, folder and standard streams. Tests about the start itself start it themselves.
"""

import asyncio
import atexit
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAME = "tests.kit.starter"
ROOM = 4096  # bytes for the command line of a process that was forked
MESSAGE = 200_000  # bytes, of words and an environment
# Of these the interpreter reads some when it starts: they are as they were at ours.
AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "OPENSSL_", "TZ")


class Started:
    """A process that was started: what asyncio's own tell of one, as far as tests ask."""

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._writer = writer
        self._end = asyncio.ensure_future(self._follow(reader))

    async def _follow(self, reader: asyncio.StreamReader) -> int:
        self.returncode = int(await reader.readline())
        self._writer.close()
        return self.returncode

    async def wait(self) -> int:
        """Its exit code, as of `subprocess`, once it has ended."""
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def start(
    words: Sequence[str],
    *,
    out: int = asyncio.subprocess.DEVNULL,
    err: int,
    cwd: Path | None = None,
    env: Mapping[str, str],
) -> Started | asyncio.subprocess.Process:
    """Runs `bigbrotr`, which reads nothing and writes to these descriptors."""
    starter, known = _starter()
    if {name: value for name, value in env.items() if _counts(name)} != known:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bigbrotr", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    ours, theirs = socket.socketpair()
    message = json.dumps({"words": words, "env": dict(env), "cwd": str(cwd or Path.cwd())})
    with theirs, Path(os.devnull).open("wb") as null:  # noqa: ASYNC230
        streams = [null.fileno() if each < 0 else each for each in (out, err)]
        socket.send_fds(starter, [message.encode()], [*streams, theirs.fileno()])
    reader, writer = await asyncio.open_connection(sock=ours)
    return Started(int(await reader.readline()), reader, writer)


def _counts(name: str) -> bool:
    return name.startswith(AT_START)


@cache
def _starter() -> tuple[socket.socket, dict[str, str]]:
    """The connection to the process that forks, which ends with it, and what it read at its start:
    one for each test process."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", NAME, str(theirs.fileno()), "-" * ROOM],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours, {name: value for name, value in environment.items() if _counts(name)}


def main(asked: socket.socket) -> None:
    """Forks until nobody can ask any more; what is forked returns from here as well."""
    import bigbrotr.cli
    import bigbrotr.serve.service
    import bigbrotr.supervisor

    bigbrotr.cli.parser()  # imports all families
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, MESSAGE, 3)
        if not message:
            return
        *streams, status = descriptors
        if os.fork() == 0:
            break
        for descriptor in (*streams, status):
            os.close(descriptor)
    asked.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        for descriptor in streams:
            os.close(descriptor)
        os.write(status, b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(status, b"%d\n" % code)
        os._exit(0)
    os.close(status)
    _become(json.loads(message), streams)


def _reap(number: int, frame: object) -> None:
    """Who waited for a process has ended; the times of both are ours from now on."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(asked: dict[str, Any], streams: Sequence[int]) -> None:
    os.setsid()
    for number, descriptor in enumerate(streams, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv[:] = ["-m", *asked["words"]]
    sys.path[0] = asked["cwd"]
    _show([sys.executable, "-m", "bigbrotr", *asked["words"]])
    runpy.run_module("bigbrotr", run_name="__main__", alter_sys=True)


def _show(words: Sequence[str]) -> None:
    """Makes these the command line that others see: tests look for processes by it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = map(int, fields[45:47])
    text = b"".join(os.fsencode(word) + b"\0" for word in words)
    room = end - begin
    ctypes.memmove(begin, text[: room - 1].ljust(room, b"\0"), room)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
