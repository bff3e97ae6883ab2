"""What a watched process runs: `python -m bigbrotr.serve`, with its order on standard input.

Standard input stays open as long as the process that watches this one lives; standard output takes
the reports; the log goes to standard error.
"""

import asyncio
import os
import pickle
import sys
import threading
import time
from contextlib import suppress
from typing import BinaryIO

import uvloop

from bigbrotr.core.defects import refusal
from bigbrotr.core.logger import Logger, configure, open_up
from bigbrotr.core.metrics import memory_of
from bigbrotr.errors import leaves
from bigbrotr.serve import orders
from bigbrotr.serve.orders import EVERY_S, LENGTH, Order, Report
from bigbrotr.serve.process import serve
from bigbrotr.serve.service import Service

ENDS_S = 10.0  # until a process that nobody watches any more ends at once


def main() -> int:
    """Serves what is ordered until standard input is closed; returns the exit code."""
    size = int.from_bytes(sys.stdin.buffer.read(LENGTH))
    order: Order = pickle.loads(sys.stdin.buffer.read(size))  # noqa: S301 -- from our own parent
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no report
    open_up(sys.stderr)
    configure(order.config.log.level, order.config.log.json, sys.stderr)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work(order, reports))
    except (Exception, BaseExceptionGroup) as error:
        known = refusal(leaves(error)[0])
        if known is None:
            raise
        with suppress(OSError):
            reports.write(orders.write(Report(error=str(known))))
        return known.exit_code
    return 0


async def _work(order: Order, reports: BinaryIO) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def watch() -> None:
        """Waits until nobody holds the other end of standard input."""
        with suppress(OSError):
            # Not by the buffer: its lock would be held when the process ends by itself.
            while os.read(sys.stdin.fileno(), 1):
                pass
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)
        time.sleep(ENDS_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()

    async def is_listening(service: Service, url: str) -> None:
        told: str | None = url
        while not stop.is_set():
            with suppress(OSError):  # nobody reads: standard input says so as well
                now = Report(
                    url=told,
                    answers=dict(service.counts),
                    connections=service.connections.open,
                    change_streams=service.change_streams,
                    memory_bytes=memory_of([os.getpid()]),
                    relay=None if service.relay is None else service.relay.report(),
                )
                reports.write(orders.write(now))
            told = None
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await stop.wait()

    await serve(order, Logger("serve"), is_listening=is_listening)


if __name__ == "__main__":
    sys.exit(main())
