"""One conversation with one relay: questions and their answers, each bounded in bytes and time."""

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import replace

from bigbrotr.models.event import Event, WireEvent
from bigbrotr.nostr import message
from bigbrotr.nostr.auth import MAX_CHALLENGE, Signer, prove
from bigbrotr.nostr.message import (
    Auth,
    Closed,
    Eose,
    EventMessage,
    Malformed,
    NegErr,
    NegMsg,
    Notice,
    Ok,
)
from bigbrotr.nostr.paging import End
from bigbrotr.nostr.stream import FRAME_COST, DisconnectedError, Stream

LIVE = "live"  # the subscription that stays
# In a NOTICE after a NEG-OPEN, the words of relays that do not know it, in many ways; others greet.
REFUSING = re.compile(
    "neg|unknown|unrecogni|unsupported|not supported|invalid|bad|cannot|command|parse|malformed"
    "|rate-limited|error",
    re.IGNORECASE,
)
STRAY_PAGES = 8  # times the size of a page that may come unasked for while it is read
SAMPLE_BYTES = 4096  # of a frame that could not be read
CHALLENGE_S = 2.0  # some relays refuse first, and send their challenge then
AUTH_PREFIXES = ("auth-required:", "restricted:")  # of CLOSED's text, NIP-42


class Bounds(Struct, frozen=True):
    """What one answer may cost."""

    reply_s: float  # from one frame to the next
    page_s: float  # for the whole answer, however it drips
    page_bytes: int


class Page(Struct):
    """What came in answer to one request, in order of arrival. Nothing is verified."""

    events: list[WireEvent | Event]
    end: End
    received: int = 0  # how many events there were, once they have been sorted out
    reason: str = ""  # CLOSED's text, or how the connection ended
    hints: tuple[str, ...] = ()  # NIP-67
    size: int = 0  # of its events, in bytes
    unreadable: int = 0  # frames that look like events and are none
    strays: int = 0  # bytes that came meanwhile and do not belong to it
    elapsed_s: float = 0.0
    malformed: dict[str, tuple[int, bytes]] = {}  # reason: how many, and a sample
    payload: bytes = b""  # of a NEG-MSG, in place of events
    most: int | None = None  # NEG-ERR's


def is_refusal(notice: str) -> bool:
    """Whether a NOTICE may be a relay's way to say that it cannot do what it was asked for."""
    return REFUSING.search(notice) is not None


class Talk(Struct):
    """How a reconciliation (NIP-77) went: to its end (EOSE), or how it was ended."""

    end: End
    reason: str = ""  # NEG-ERR's text, a NOTICE in its place, or how the connection ended
    most: int | None = None  # events in a window, says the relay that refuses more
    answers: int = 0  # that came
    sent: int = 0  # bytes of frames
    received: int = 0


class Session:
    """One conversation over an open connection; closes it at the end of the block.

    A relay at `url` that refuses an answer until it knows who asks is told so by `signer`.
    """

    def __init__(self, stream: Stream, url: str = "", signer: Signer | None = None) -> None:
        self._stream = stream
        self._url = url
        self._signer = signer
        self._is_answered = False  # the newest challenge
        self._proof_id = ""  # of the answer on which the relay has not said anything yet
        self.identity: str | None = None  # the public key that the relay accepted
        self._numbers = itertools.count(1)
        self.challenge: str | None = None  # of the newest AUTH
        self.notice: str = ""  # the newest
        self.is_open = True
        self.is_subscribed = False  # to what comes in live
        self._is_opening = False  # a reconciliation that has not been answered yet
        self._arrivals: list[WireEvent | Event] = []
        self._arrived_bytes = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False
        self._stream.abort()

    async def fetch(
        self, filter_: Mapping[str, Any], bounds: Bounds, *more: Mapping[str, Any]
    ) -> Page:
        """Asks for the stored events that match the filter, or one of `more`, and reads until the
        relay says that this is all, the connection breaks, or a bound is reached.

        When the relay wants to know who asks, it is told, and asked once more.
        """
        page = await self._ask((filter_, *more), bounds)
        if page.end is End.CLOSED and await self._is_let_in(page.reason, bounds):
            page = await self._ask((filter_, *more), bounds)
        return page

    async def _is_let_in(self, refusal: str, bounds: Bounds) -> bool:
        """Tells a relay that refused us who we are, if it wants to know; whether it accepts us."""
        if not refusal.startswith(AUTH_PREFIXES):
            return False
        try:
            async with asyncio.timeout(bounds.reply_s):
                return await self._authenticate(bounds)
        except TimeoutError:
            return False
        except DisconnectedError:
            self.is_open = False
            return False

    async def _authenticate(self, bounds: Bounds) -> bool:
        """Answers the relay's newest challenge, once; whether it accepts us now."""
        if self._signer is None or self._is_answered:
            return False
        async with asyncio.timeout(CHALLENGE_S):
            await self._read_on(lambda: self.challenge is not None, bounds)
        if self.challenge is None:
            return False
        proof = prove(self._signer, self._url, self.challenge, int(time.time()))
        self._is_answered, self._proof_id = True, proof.event_id
        await self._stream.send(message.authenticate(proof.event))
        await self._read_on(lambda: not self._proof_id, bounds)
        return self.identity is not None

    async def _read_on(self, is_enough: Callable[[], bool], bounds: Bounds) -> None:
        """Reads between two questions, within the bytes of a page; what comes in live is kept."""
        page = Page(events=[], end=End.CUT)
        while not is_enough() and page.end is End.CUT:
            self._take(await self._stream.receive(), "", page, bounds.page_bytes)

    async def reconcile(
        self,
        filter_: Mapping[str, Any],
        first: bytes,
        answer: Callable[[bytes], Awaitable[bytes | None]],
        bounds: Bounds,
    ) -> Talk:
        """Reconciles what matches, from our `first` message on: `answer` says what follows on each
        of the relay's, None when it is over. What `answer` raises comes through.

        A relay that does not know the protocol says so in a NOTICE, or nothing at all.
        """
        talk = await self._negotiate(filter_, first, answer, bounds)
        if talk.end is End.CLOSED and await self._is_let_in(talk.reason, bounds):
            talk = await self._negotiate(filter_, first, answer, bounds)
        return talk

    async def _negotiate(
        self,
        filter_: Mapping[str, Any],
        first: bytes,
        answer: Callable[[bytes], Awaitable[bytes | None]],
        bounds: Bounds,
    ) -> Talk:
        subscription = f"n{next(self._numbers)}"
        talk = Talk(end=End.CUT)
        deadline = time.monotonic() + bounds.page_s
        frame = message.open_reconciliation(subscription, filter_, first)
        self._is_opening = True
        try:
            while True:
                talk.sent += len(frame)
                async with asyncio.timeout(bounds.reply_s):
                    await self._stream.send(frame)
                page = Page(events=[], end=End.CUT)
                left_s = max(0.0, deadline - time.monotonic())
                await self._read(subscription, page, replace(bounds, page_s=left_s))
                talk.end, talk.reason, talk.most = page.end, page.reason, page.most
                if page.end is not End.EOSE:
                    break
                talk.answers += 1
                self._is_opening = False
                talk.received += 2 * len(page.payload)
                following = await answer(page.payload)
                if following is None:
                    break
                if time.monotonic() > deadline:
                    talk.end = End.TIMEOUT
                    break
                frame = message.reconcile(subscription, following)
        except TimeoutError:
            talk.end = End.TIMEOUT
        except DisconnectedError as error:
            self.is_open = False
            talk.end, talk.reason = End.CUT, str(error)
        finally:
            self._is_opening = False
            if self.is_open and talk.end is not End.CLOSED:
                await self._say(message.close_reconciliation(subscription), bounds)
        return talk

    async def _say(self, frame: bytes, bounds: Bounds) -> None:
        """Sends what needs no answer; a relay that does not take it is given up."""
        try:
            async with asyncio.timeout(bounds.reply_s):
                await self._stream.send(frame)
        except (TimeoutError, DisconnectedError):
            self.is_open = False

    async def _ask(self, filters: Sequence[Mapping[str, Any]], bounds: Bounds) -> Page:
        subscription = f"b{next(self._numbers)}"
        page = Page(events=[], end=End.CUT)
        started = time.monotonic()
        try:
            async with asyncio.timeout(bounds.reply_s):
                await self._stream.send(message.request(subscription, *filters))
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

    async def subscribe(self, filter_: Mapping[str, Any], reply_s: float) -> None:
        """Asks for what matches, from now on: `listen` hands it out. One such subscription."""
        try:
            async with asyncio.timeout(reply_s):
                await self._stream.send(message.request(LIVE, filter_))
            self.is_subscribed = True
        except (TimeoutError, DisconnectedError):
            self.is_open = False

    @property
    def is_listening(self) -> bool:
        """Whether live events can still come."""
        return self.is_open and self.is_subscribed

    async def listen(self, seconds: float, max_bytes: int) -> Page:
        """What has come in live since the last call, waiting up to `seconds` for it.

        When more than `max_bytes` come, or came in meanwhile, the connection is given up.
        """
        page = Page(events=[], end=End.TIMEOUT)
        try:
            async with asyncio.timeout(seconds):
                while self.is_listening:
                    self._take(await self._stream.receive(), "", page, max_bytes)
                    if self._arrived_bytes > max_bytes:
                        break
        except TimeoutError:
            pass
        except DisconnectedError as error:
            self.is_open = False
            page.end, page.reason = End.CUT, str(error)
        if self._arrived_bytes > max_bytes:
            self.is_open = False
            page.end, page.reason = End.OVERSIZE, f"over {max_bytes} bytes at once"
        page.events, self._arrivals = self._arrivals, []
        page.size, self._arrived_bytes = self._arrived_bytes, 0
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
            cost = len(frame) + FRAME_COST
            answer = decode(frame)
            if isinstance(answer, EventMessage):
                if answer.subscription == subscription and not has_ended:
                    events.append(answer.event)
                    page.size += cost
                    if page.size > page_bytes:
                        page.end, page.reason = End.OVERSIZE, f"over {page_bytes} bytes"
                        return True
                    continue
                if answer.subscription == LIVE:
                    if self._arrived_bytes <= page_bytes:
                        self._arrivals.append(answer.event)
                        self._arrived_bytes += cost
                    continue
            # Everything else, also what is left of an earlier answer, has a bound of its own.
            page.strays += cost
            if page.strays > STRAY_PAGES * page_bytes:
                raise DisconnectedError("flooded with what nobody asked for")
            if isinstance(answer, Eose):
                if answer.subscription == subscription:
                    page.end, page.hints, has_ended = End.EOSE, answer.hints, True
            elif isinstance(answer, Closed):
                if answer.subscription == subscription:
                    page.end, page.reason, has_ended = End.CLOSED, answer.reason, True
                elif answer.subscription == LIVE:
                    self.is_subscribed, self.notice = False, answer.reason
            elif isinstance(answer, NegMsg):
                if answer.subscription == subscription:
                    page.end, page.payload, has_ended = End.EOSE, answer.payload, True
            elif isinstance(answer, NegErr):
                if answer.subscription == subscription:
                    page.end, page.reason, has_ended = End.CLOSED, answer.reason, True
                    page.most = answer.most
            elif isinstance(answer, Notice):
                self.notice = answer.text
                if self._is_opening and subscription and is_refusal(answer.text):
                    page.end, page.reason, has_ended = End.CLOSED, answer.text, True
            elif isinstance(answer, Auth):
                if len(answer.challenge) <= MAX_CHALLENGE and answer.challenge != self.challenge:
                    self.challenge, self._is_answered = answer.challenge, False
            elif isinstance(answer, Ok):
                if self._signer and self._proof_id and answer.event_id == self._proof_id:
                    self._proof_id = ""
                    self.identity = self._signer.public_key if answer.is_accepted else None
            elif isinstance(answer, Malformed):
                reason = answer.reason.partition(":")[0]
                count, sample = page.malformed.get(reason, (0, frame[:SAMPLE_BYTES]))
                page.malformed[reason] = (count + 1, sample)
                page.unreadable += answer.is_event
        return has_ended
