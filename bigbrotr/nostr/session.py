"""One conversation with one relay: questions and their answers, each bounded in bytes and time."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import websockets
from msgspec import Struct
from websockets.asyncio.client import ClientConnection

from bigbrotr.models.event import Event, WireEvent
from bigbrotr.nostr import message
from bigbrotr.nostr.message import Auth, Closed, Eose, EventMessage, Malformed, Notice
from bigbrotr.nostr.paging import End

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

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
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
        self._connection.transport.abort()  # a relay could keep a polite goodbye waiting

    async def fetch(self, filter_: Mapping[str, Any], bounds: Bounds) -> Page:
        """Asks for the stored events that match, and reads until the relay says that this is all,
        the connection breaks, or a bound is reached."""
        subscription = f"b{next(self._numbers)}"
        page = Page(events=[], end=End.CUT)
        started = time.monotonic()
        try:
            async with asyncio.timeout(bounds.reply_s):
                await self._connection.send(message.request(subscription, filter_), text=True)
            await self._read(subscription, page, bounds)
            if page.end is not End.CLOSED:
                async with asyncio.timeout(bounds.reply_s):
                    await self._connection.send(message.close(subscription), text=True)
        except TimeoutError:
            # Sending hangs when the relay no longer reads.
            page.end = End.TIMEOUT if page.end is End.CUT else page.end
        except websockets.ConnectionClosed as error:
            self.is_open = False
            if page.end is End.CUT:
                page.reason = _goodbye(error)
        page.elapsed_s = time.monotonic() - started
        return page

    async def _read(self, subscription: str, page: Page, bounds: Bounds) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        deadline = last + bounds.page_s
        malformed: Counter[str] = Counter()
        samples: dict[str, bytes] = {}
        receive, decode = self._connection.recv, message.decode
        try:
            async with asyncio.timeout(bounds.reply_s) as waiting:
                while True:
                    frame = await receive(decode=False)
                    page.size += len(frame)
                    answer = decode(frame)
                    match answer:
                        case EventMessage(subscription=name, event=event):
                            if name == subscription:
                                page.events.append(event)
                        case Eose(subscription=name, hints=hints):
                            if name == subscription:
                                page.end, page.hints = End.EOSE, hints
                                return
                        case Closed(subscription=name, reason=reason):
                            if name == subscription:
                                page.end, page.reason = End.CLOSED, reason
                                return
                        case Notice(text=text):
                            self.notice = text
                        case Auth(challenge=challenge):
                            self.challenge = challenge
                        case Malformed(reason=reason):
                            malformed[reason] += 1
                            samples.setdefault(reason, frame[:SAMPLE_BYTES])
                    if page.size > bounds.page_bytes:
                        page.end, page.reason = End.OVERSIZE, f"over {bounds.page_bytes} bytes"
                        return
                    now = loop.time()
                    if now > deadline:
                        raise TimeoutError
                    if now - last > bounds.reply_s / 16:
                        # Moving the alarm for each frame would cost as much as decoding it.
                        last = now
                        waiting.reschedule(min(now + bounds.reply_s, deadline))
        except TimeoutError:
            page.end, page.reason = End.TIMEOUT, self.notice
        finally:
            page.malformed = {
                reason: (count, samples[reason]) for reason, count in malformed.items()
            }


def _goodbye(error: websockets.ConnectionClosed) -> str:
    """How a connection ended, in a few words."""
    for close in (error.rcvd, error.sent):
        if close is not None:
            return f"closed with {close.code} {close.reason}".strip()
    with suppress(AttributeError):
        if error.__cause__ is not None:
            return str(error.__cause__)
    return "connection lost"
