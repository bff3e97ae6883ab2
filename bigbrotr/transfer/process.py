"""A process that works for a command: it has a connection of its own, and ends with its parent."""

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import cast

import msgspec
import uvloop

from bigbrotr.config.settings import Config
from bigbrotr.core.logger import configure, open_up
from bigbrotr.core.pool import Pool
from bigbrotr.core.values import tell_arrays_by_type

UNBLOCK_S = 1.0  # that Python may take to give up a pool of processes one of which has died


def begin(config: Config, dsn: str | None, parent: int) -> tuple[asyncio.Runner, Pool]:
    """Makes this process a worker of `parent`: called once in it. Returns its loop, and its pool,
    which is to be connected when it is needed: what fails here has no words for the parent."""
    for number in (signal.SIGINT, signal.SIGTERM):  # to stop is the parent's business
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="lifeline").start()
    tell_arrays_by_type()
    open_up(sys.stderr)
    configure(config.log.level, config.log.json, sys.stderr)
    limits = msgspec.structs.replace(config.pool.limits, min_size=1, max_size=1)
    pool = Pool(
        config.database,
        msgspec.structs.replace(config.pool, limits=limits),
        dsn=dsn,
        # What a crash of the server takes, a repetition brings again.
        session={"synchronous_commit": "off"},
    )
    return asyncio.Runner(loop_factory=uvloop.new_event_loop), pool


def end(executor: ProcessPoolExecutor) -> None:
    """Waits until the workers have ended, after what they are at. Kills them where one has died:
    the executor would end them by a signal that they leave to us, and wait for ever."""
    if executor._broken:  # noqa: SLF001 -- no public way
        for process in list((executor._processes or {}).values()):  # noqa: SLF001
            process.kill()  # nothing to one that has ended
        _unblock(executor)
    executor.shutdown(wait=True, cancel_futures=True)


def _unblock(executor: ProcessPoolExecutor) -> None:
    """Lets go of what was being handed to a worker that died meanwhile: before 3.11.5, Python
    waits for ever that somebody reads it."""
    # Typeshed takes it for another thing.
    manager = cast("threading.Thread | None", executor._executor_manager_thread)  # noqa: SLF001
    if manager is not None:
        manager.join(UNBLOCK_S)  # it closes the same, where Python sees to it: two must not
        if manager.is_alive():
            executor._call_queue._reader.close()  # type: ignore[attr-defined]  # noqa: SLF001


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)  # nobody is left to report to
