"""One conversation with one relay: questions and their answers, each bounded in bytes and time."""

import asyncio
import itertools
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from msgspec import Struct

from bigbrotr.models.event import Event, WireEvent
from bigbrotr.nostr import message
from bigbrotr.nostr.message import Auth, Closed, Eose, EventMessage, Malformed, Notice
from bigbrotr.nostr.paging import End
from bigbrotr.nostr.stream import DisconnectedError, Stream

SAMPLE_BYTES = 4096  # of a frame that could not be read


class Bounds(Struct, frozen=True):
    """What one answer may cost."""

    reply_s: float  # from one frame to the next
    page_s: float  # for the whole answer, however it drips
    page_bytes: int


class Page(Struct):
    """What came in answer to one request, in order of arrival. Nothing is verified."""

    events: list[WireEvent | Event]
    end: End
    reason: str = ""  # CLOSED's text, or how the connection ended
    hints: tuple[str, ...] = ()  # NIP-67
    size: int = 0  # in bytes
    elapsed_s: float = 0.0
    malformed: dict[str, tuple[int, bytes]] = {}  # reason: how many, and a sample


class Session:
    """One conversation over an open connection; closes it at the end of the block."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._numbers = itertools.count(1)
        self.challenge: str | None = None  # of the newest AUTH
        self.notice: str = ""  # the newest
        self.is_open = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_open = False
        self._stream.abort()

    async def fetch(self, filter_: Mapping[str, Any], bounds: Bounds) -> Page:
        """Asks for the stored events that match, and reads until the relay says that this is all,
        the connection breaks, or a bound is reached."""
        subscription = f"b{next(self._numbers)}"
        page = Page(events=[], end=End.CUT)
        started = time.monotonic()
        try:
            async with asyncio.timeout(bounds.reply_s):
                await self._stream.send(message.request(subscription, filter_))
            await self._read(subscription, page, bounds)
            if page.end is not End.CLOSED:
                async with asyncio.timeout(bounds.reply_s):
                    await self._stream.send(message.close(subscription))
        except TimeoutError:
            # Sending hangs when the relay no longer reads.
            page.end = End.TIMEOUT if page.end is End.CUT else page.end
        except DisconnectedError as error:
            self.is_open = False
            if page.end is End.CUT:
                page.reason = str(error)
        page.elapsed_s = time.monotonic() - started
        return page

    async def _read(self, subscription: str, page: Page, bounds: Bounds) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + bounds.page_s
        try:
            async with asyncio.timeout(None) as waiting:
                while True:
                    waiting.reschedule(min(loop.time() + bounds.reply_s, deadline))
                    frames = await self._stream.receive()
                    if self._take(frames, subscription, page, bounds.page_bytes):
                        return
                    if loop.time() > deadline:
                        raise TimeoutError
        except TimeoutError:
            page.end, page.reason = End.TIMEOUT, self.notice

    def _take(self, frames: list[bytes], subscription: str, page: Page, page_bytes: int) -> bool:
        """Sorts frames into the page; whether it has ended."""
        decode, events, has_ended = message.decode, page.events, False
        for frame in frames:
            page.size += len(frame)
            answer = decode(frame)
            if isinstance(answer, EventMessage):
                if answer.subscription == subscription and not has_ended:
                    events.append(answer.event)
            elif isinstance(answer, Eose):
                if answer.subscription == subscription:
                    page.end, page.hints, has_ended = End.EOSE, answer.hints, True
            elif isinstance(answer, Closed):
                if answer.subscription == subscription:
                    page.end, page.reason, has_ended = End.CLOSED, answer.reason, True
            elif isinstance(answer, Notice):
                self.notice = answer.text
            elif isinstance(answer, Auth):
                self.challenge = answer.challenge
            elif isinstance(answer, Malformed):
                count, sample = page.malformed.get(answer.reason, (0, frame[:SAMPLE_BYTES]))
                page.malformed[answer.reason] = (count + 1, sample)
            if page.size > page_bytes and not has_ended:
                page.end, page.reason = End.OVERSIZE, f"over {page_bytes} bytes"
                return True
        return has_ended
