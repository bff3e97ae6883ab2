"""Shares the database among the relay's clients: who has used much of it waits for the others."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bigbrotr.serve.limits import REMEMBERED

T = TypeVar("T")
WAITING = 50  # questions that wait for each that is asked; more are refused
MOST_WAIT_S = 10.0  # for an address that has used up its time


class NoTimeError(Exception):
    """The database has no time for a client now; the text says why, for its CLOSED."""


class Work:
    """Seconds of the database's time by address: `per_s` a second (0: any number), `burst_s` at
    once. They are paid for afterwards, so that nobody has to know before what a question costs."""

    def __init__(
        self, per_s: float, burst_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst_s = burst_s
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # seconds, and when

    def missing(self, address: str) -> float:
        """For how long an address has to wait; 0.0: it may ask."""
        if not self._per_s or address not in self._levels:
            return 0.0
        left, then = self._levels[address]
        left += (self._clock() - then) * self._per_s
        return max(0.0, -left / self._per_s)

    def spend(self, address: str, seconds: float) -> None:
        """Takes what a question has cost."""
        if not self._per_s:
            return
        now = self._clock()
        left, then = self._levels.pop(address, (self._burst_s, now))
        left = min(self._burst_s, left + (now - then) * self._per_s)
        self._levels[address] = (left - seconds, now)
        # The one that has asked nothing for longest: it has its time back.
        if len(self._levels) > REMEMBERED:
            self._levels.popitem(last=False)


class Desk:
    """Asks the database for clients: so many questions at once, first come, first served."""

    def __init__(self, work: Work, width: int) -> None:
        self.work = work
        self._slots = asyncio.Semaphore(width)
        self._most_waiting = width * WAITING
        self._waiting = 0

    async def ask(self, address: str, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question of somebody at an address.

        Raises:
            NoTimeError: too many wait, or that address has asked too much.
        """
        if (wait_s := self.work.missing(address)) > MOST_WAIT_S:
            raise NoTimeError(
                "rate-limited: this address has used up its share of the database's time; ask "
                f"again in {wait_s:.0f} s"
            )
        if wait_s:
            await asyncio.sleep(wait_s)
        if self._waiting >= self._most_waiting:
            raise NoTimeError("rate-limited: too many questions at once; ask again")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        began = time.monotonic()
        try:
            return await question()
        finally:
            self._slots.release()
            self.work.spend(address, time.monotonic() - began)
