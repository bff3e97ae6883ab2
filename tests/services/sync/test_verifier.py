"""The verifier: a process beside a worker says the same as the worker would, and is not needed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bigbrotr.models.event import Unsigned, WireEvent, decode, identify
from bigbrotr.services.sync.verifier import Beside, Here, Verifier, verify
from tests.kit.events import make_event, wire
from tests.kit.processes import command, environment, until

ROOT = Path(__file__).parents[3]
SERVE = """
import socket, sys
from bigbrotr.services.sync.verifier import serve
serve(socket.socket(fileno=int(sys.argv[1])))
"""
FORK = """
import os, sys
from bigbrotr.services.sync.verifier import fork_verifier
held = os.pipe()
asked = fork_verifier()
print("ready", flush=True)
sys.stdin.read()
"""


def unsigned(number: int, *, is_forged: bool = False) -> Unsigned:
    event = make_event(1_600_000_000 + number, content=f"{number}")
    if is_forged:
        event = {**event, "sig": make_event(1, content="another")["sig"]}
    return decode(identify(msgspec.json.decode(wire(event), type=WireEvent)))


CLAIMS = [unsigned(number, is_forged=number % 7 == 3).claim for number in range(60)]
RIGHT = [number % 7 != 3 for number in range(60)]


@contextmanager
def process() -> Iterator[tuple[Beside, int]]:
    """A verifying process, and its number."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    running = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(theirs.fileno())],
        env=environment(),
        cwd=ROOT,
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
    )
    theirs.close()
    try:
        yield Beside(ours), running.pid
    finally:
        ours.close()
        running.kill()
        running.communicate()


async def says(verifier: Verifier) -> list[bool]:
    """What a verifier says of all events, asked about some at a time, before it answers."""
    parts = [b"".join(CLAIMS[start : start + 7]) for start in range(0, len(CLAIMS), 7)]
    parts.insert(3, b"")
    asked = [verifier.verify(part) for part in parts]
    return [each for answer in asked for each in await answer]


def test_here() -> None:
    assert verify(b"".join(CLAIMS)) == RIGHT
    assert asyncio.run(says(Here())) == RIGHT


async def test_beside_says_the_same() -> None:
    with process() as (verifier, _):
        await verifier.connect()
        await verifier.connect()
        assert await says(verifier) == RIGHT
        assert await says(verifier) == RIGHT


async def test_answers_that_nobody_waits_for_go_to_nobody_else() -> None:
    with process() as (verifier, _):
        await verifier.connect()
        given_up = asyncio.ensure_future(verifier.verify(b"".join(CLAIMS[:5])))
        given_up.cancel()
        assert await says(verifier) == RIGHT


async def test_without_the_process_it_is_done_here() -> None:
    with process() as (verifier, pid):
        await verifier.connect()
        assert await verifier.verify(CLAIMS[0]) == [True]
        os.kill(pid, signal.SIGSTOP)
        asked = asyncio.create_task(says(verifier))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert await asked == RIGHT
        assert await says(verifier) == RIGHT


def test_it_ends_with_its_worker_and_holds_nothing_of_it() -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", FORK],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    tasks = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_bytes().split()
    (verifier,) = map(int, tasks)
    held = Path(f"/proc/{verifier}/fd")
    # A pipe of the worker's would tell nobody of its end.
    asyncio.run(until(lambda: len(list(held.iterdir())) == 4, "it holds only its socket"))
    running.kill()
    running.communicate()
    asyncio.run(until(lambda: command(verifier) == "", "it has ended"))
