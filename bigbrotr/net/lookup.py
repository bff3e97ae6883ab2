"""Look-ups of names by the system's resolver: each in a thread, the slow ones in nobody's way.

The system's (getaddrinfo) knows /etc/hosts, nsswitch and all that an operator has set, and blocks.
A stranger's name servers can make it block for long, of as many names as he likes. So a place is
held for a second, then others may pass; and whose turn does not come has not been looked up.
"""

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

AT_ONCE = 32  # look-ups
SLOW_S = 1.0  # those that take longer don't count among them ...
MOST_SLOW = 256  # ... up to so many: threads that wait cost little


class NoTurnError(Exception):
    """Nobody has been asked: too many look-ups are under way."""


class Answer(NamedTuple):
    """What getaddrinfo says, and how long that took, in seconds."""

    found: Sequence[tuple[Any, ...]]
    took_s: float


class Lookups:
    """The look-ups of one event loop."""

    def __init__(self) -> None:
        self._running = 0
        self._slow = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def find(self, host: str, port: int, *, wait_s: float, timeout_s: float) -> Answer:
        """Addresses of a host, within `timeout_s` from when its turn has come.

        Raises:
            NoTurnError: that was not within `wait_s`.
            TimeoutError, OSError, UnicodeError: no address was found.
        """
        await self._take(wait_s)
        began = time.monotonic()
        answer = self._ask(host, port)
        async with asyncio.timeout(timeout_s):
            found = await answer
        return Answer(found, time.monotonic() - began)

    def _ask(self, host: str, port: int) -> "asyncio.Future[Sequence[tuple[Any, ...]]]":
        """Begins a look-up; it runs to its end even when nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[tuple[Any, ...]]] = loop.create_future()
        is_slow = has_ended = False

        def move_aside() -> None:
            nonlocal is_slow
            if has_ended:
                return
            if self._slow < MOST_SLOW:
                is_slow = True
                self._slow += 1
                self._release()
            else:
                loop.call_later(SLOW_S, move_aside)

        loop.call_later(SLOW_S, move_aside)

        def end(found: Sequence[tuple[Any, ...]], error: Exception | None) -> None:
            nonlocal has_ended
            has_ended = True
            if is_slow:
                self._slow -= 1
            else:
                self._release()
            if answer.done():
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def work() -> None:
            found: Sequence[tuple[Any, ...]] = ()
            failure: Exception | None = None
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, found, failure)

        try:
            threading.Thread(target=work, name="resolve", daemon=True).start()
        except RuntimeError as error:  # the machine gives us no more of them
            end((), None)
            raise NoTurnError(str(error)) from None
        return answer

    async def _take(self, wait_s: float) -> None:
        if self._running < AT_ONCE and not self._waiting:
            self._running += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(wait_s):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._release()  # it came when nobody waited any more
            else:
                waiter.cancel()
                self._waiting.remove(waiter)
            if isinstance(error, TimeoutError):
                raise NoTurnError(
                    f"too many names are looked up: no turn in {wait_s:g} s"
                ) from None
            raise

    def _release(self) -> None:
        """Gives a place to the first who waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._running -= 1


_lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, Lookups] = WeakKeyDictionary()


def lookups() -> Lookups:
    """Those of the running loop."""
    return _lookups.setdefault(asyncio.get_running_loop(), Lookups())
