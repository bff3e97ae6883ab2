"""Streams changes of state to those who follow them: Server-Sent Events, one look for all."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec
from aiohttp import hdrs, web

from bigbrotr.core.defects import Defects, refusal
from bigbrotr.core.logger import Logger
from bigbrotr.core.pool import Pool
from bigbrotr.reads.changes import Change, Ends, changes_after, ends, place_to_go_on
from bigbrotr.serve.problems import RefusedError
from bigbrotr.serve.resource import EVENTS

LOOK_S = 1.0  # from one look at the log to the next, while somebody follows
AGAIN_S = 3.0  # after the database did not answer
BEAT_S = 15.0  # without a change: a comment, so that nobody on the way takes us for dead
RETRY_MS = 3000  # until a client that was cut asks again
PAGE = 500  # changes that are read and written at once
KEPT = 2000  # newest changes in memory: who is not behind them costs the database nothing
BEAT = b":\n\n"
FIRST = b"retry: %d\n\n" % RETRY_MS

Takes: TypeAlias = Callable[[Change], bool]
# Asks a question within the bounds of the process; raises RefusedError where it is too busy.
Ask: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class ChangeStreams:
    """Follows the log of changes while somebody listens, at most `most` clients at once.

    A client has a place in the log and no queue: what it does not take waits in the database. What
    it leaves unread for long ends its connection, as that of any reader.
    """

    def __init__(self, pool: Pool, log: Logger, most: int) -> None:
        self.open = 0
        self._pool = pool
        self._log = log
        self._defects = Defects(log)
        self._most = most
        self._recent: deque[Change] = deque(maxlen=KEPT)
        self._floor = 0  # all behind it, up to the newest, are in memory
        self._newest: int | None = None  # None: nobody looks
        self._news = asyncio.Event()  # that of the next look which finds something
        self._beginning = asyncio.Lock()
        self._look: asyncio.Task[None] | None = None
        self._log_number = 0  # of the log that is followed: a restore may bring another
        self._is_closed = False

    async def close(self) -> None:
        """Ends all streams: their clients go on elsewhere, or after the next start."""
        self._is_closed = True
        self._tell()
        if self._look is not None:
            self._look.cancel()
            with suppress(asyncio.CancelledError):
                await self._look

    async def stream(
        self,
        request: web.BaseRequest,
        after: int | None,
        takes: Takes,
        ask: Ask,
        finish: Callable[[web.StreamResponse, str], None],
    ) -> web.StreamResponse:
        """Sends what changes from now on, or with `after` what has changed behind that number; the
        header Last-Event-ID, which a client sends that was cut, counts more.

        Raises:
            RefusedError: there are too many streams already, or no such number.
        """
        known = request.headers.get("Last-Event-ID")
        if known is not None:
            after = number_in(known)
        if self._is_closed or self.open >= self._most:
            raise RefusedError(
                "busy", "too many follow the changes at once: try again", retry_after_s=30
            )
        response = web.StreamResponse(
            headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        if request.method == "HEAD":
            return response
        self.open += 1
        try:
            there = await self._begin(ask)
            finish(response, request.headers.get(hdrs.ORIGIN, ""))
            await response.prepare(request)
            await response.write(FIRST)
            if after is None:
                after = there.last
            elif (place := place_to_go_on(after, there)) is not None:
                after = place
                await response.write(b"id: %d\nevent: reset\ndata: {}\n\n" % place)
            await self._go_on(response, after, takes, ask)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # the client asks again, and goes on where it was
            if refusal(error) is None and not isinstance(error, TimeoutError | RefusedError):
                self._defects.note(error)
            if not response.prepared:
                raise
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.open -= 1
        return response

    async def _go_on(
        self, response: web.StreamResponse, after: int, takes: Takes, ask: Ask
    ) -> None:
        number = self._log_number
        while not self._is_closed and number == self._log_number:
            news = self._news  # before it is looked whether there is some
            found = await self._behind(after, ask)
            if found:
                after = found[-1].id
                if lines := b"".join(event_of(each) for each in found if takes(each)):
                    await response.write(lines)
                continue
            try:
                async with asyncio.timeout(BEAT_S):
                    await news.wait()
            except TimeoutError:
                await response.write(BEAT)

    async def _behind(self, after: int, ask: Ask) -> list[Change]:
        """The next changes behind a number; none: there are none yet."""
        assert self._newest is not None
        if after < self._floor:
            found: list[Change] = await ask(lambda: changes_after(self._pool, after, PAGE))
            return found
        if after >= self._newest:
            return []
        return [each for each in self._recent if each.id > after][:PAGE]

    # The look for all

    async def _begin(self, ask: Ask) -> Ends:
        """Sees to it that somebody looks; how far the log reaches."""
        async with self._beginning:
            there: Ends = await ask(lambda: ends(self._pool))
            if self._newest is None:
                self._start(there)
            elif there.last < self._newest:
                self._begin_another(there)
            if self._look is None or self._look.done():
                self._look = asyncio.create_task(self._follow())
        return there

    def _start(self, there: Ends) -> None:
        self._recent.clear()
        self._floor = self._newest = there.last

    def _begin_another(self, there: Ends) -> None:
        """Ends the streams of a log that is gone: their clients ask again, and are told so."""
        self._log_number += 1
        self._start(there)
        self._tell()

    async def _follow(self) -> None:
        """Looks while somebody listens."""
        is_away = False
        while self.open:
            delay_s = LOOK_S
            try:
                if is_away and (there := await ends(self._pool)).last < (self._newest or 0):
                    self._begin_another(there)
                while await self._read():
                    pass
                is_away = False
            except Exception as error:
                delay_s = AGAIN_S
                if (known := refusal(error)) is None and not isinstance(error, TimeoutError):
                    self._defects.note(error)
                elif not is_away:
                    self._log.warning("changes are told later", reason=str(known or "busy"))
                is_away = True
            await asyncio.sleep(delay_s)
        self._newest = None  # who comes next begins anew

    async def _read(self) -> bool:
        """Takes the next changes into memory; whether there may be more."""
        assert self._newest is not None
        found = await changes_after(self._pool, self._newest, PAGE)
        if not found:
            return False
        for each in found:
            if len(self._recent) == KEPT:
                self._floor = self._recent[0].id
            self._recent.append(each)
        self._newest = found[-1].id
        self._tell()
        return len(found) == PAGE

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def event_of(change: Change) -> bytes:
    """A change as an event of a stream."""
    return b"id: %d\ndata: %b\n\n" % (change.id, msgspec.json.encode(change))


def number_in(text: str) -> int:
    """The number of a change in the header Last-Event-ID.

    Raises:
        RefusedError: it is none.
    """
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    raise RefusedError(
        "bad-parameter", "Last-Event-ID is no number of a change: leave it out, or give an id"
    )
