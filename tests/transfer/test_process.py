"""What ends with the processes that work for a command."""

import asyncio
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from bigbrotr.transfer.process import end
from tests.kit.processes import until

MORE_THAN_A_PIPE_HOLDS = bytes(4 << 20)


@pytest.mark.slow
async def test_a_worker_that_dies_while_it_is_handed_something() -> None:
    """Nobody reads the rest of it."""
    executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    pid = executor.submit(os.getpid).result()
    os.kill(pid, signal.SIGSTOP)
    handed = executor.submit(len, MORE_THAN_A_PIPE_HOLDS)
    await asyncio.sleep(0.2)  # the pipe is full
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        handed.result(30)
    await until(lambda: bool(executor._broken), "that Python has noticed")
    started = time.monotonic()
    end(executor)
    assert time.monotonic() - started < 30
