"""What long commands say while they run, and how they are stopped."""

import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from bigbrotr.cli.output import shown
from bigbrotr.view.words import duration

T = TypeVar("T")
EACH_S = 0.25  # a line is renewed
STOPPED = 130  # the exit code


class Progress:
    """A line on the terminal that is renewed; where standard error is none, nothing is said."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty()
        self._began = time.monotonic()
        self._next = 0.0

    def say(self, words: Callable[[], str]) -> None:
        """Renews the line, if it is time to."""
        now = time.monotonic()
        if self.is_shown and now >= self._next:
            self._next = now + EACH_S
            sys.stderr.write(f"\r\x1b[K{shown(words())}")
            sys.stderr.flush()

    def end(self) -> None:
        """Takes the line away."""
        if self.is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return max(1e-9, time.monotonic() - self._began)

    def left(self, share: float) -> str:
        """How long it takes still, where a share of the work is done."""
        if share < 0.001:
            return ""
        return f", {duration(self.elapsed_s * (1 - share) / share)} left"


async def until_stopped(work: Callable[[], Awaitable[T]]) -> T | None:
    """Does some work to its end, or until Ctrl-C or SIGTERM: then it is cancelled, and None is
    returned. One exception of the work stays one."""
    result: list[T] = []

    async def do() -> None:
        result.append(await work())
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                group.start_soon(do)
                async for _ in signals:
                    group.cancel_scope.cancel()
    except BaseExceptionGroup as error:
        raise _single(error) from None
    return result[0] if result else None


def _single(error: BaseException) -> BaseException:
    """The one exception in a group; the group where there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
