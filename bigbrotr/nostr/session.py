"""One conversation with one relay: questions and their answers, each bounded in bytes and time."""

import asyncio
import itertools
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from msgspec import Struct
from msgspec.structs import replace

from bigbrotr.models.burst import Burst
from bigbrotr.models.columns import Columns
from bigbrotr.models.plain import Heard, Scan
from bigbrotr.net.frames import FRAME_COST
from bigbrotr.net.websocket import DisconnectedError, Stream
from bigbrotr.nostr import message
from bigbrotr.nostr.auth import MAX_CHALLENGE, Signer, answer_challenge
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
    Refusal,
    TooLarge,
    refusal_of,
)
from bigbrotr.nostr.questions import End

# In a NOTICE, the words of relays that cannot do what they were asked for, in many ways ...
REFUSING = re.compile(
    "neg|unknown|unrecogni|unsupported|not supported|invalid|bad|cannot|command|parse|malformed"
    "|rate-limited|error",
    re.IGNORECASE,
)
# ... the words in which they refuse a question, besides ...
REFUSING_QUESTION = re.compile(
    "can.?t|could ?n.t|could not|fail|limit|filter|too (many|much|large|big|long|fast|broad)"
    "|exceed|max|refus|reject|denied|deny|forbid|not allow|restrict|blocked|banned|auth"
    "|slow down|must|requir|missing",
    re.IGNORECASE,
)
# ... and the words of those that only greet.
GREETING = re.compile("welcome|hello|thank|greetings|donat|sponsor", re.IGNORECASE)
STRAY_PAGES = 8  # times the size of a page that may come unasked for while it is read
SAMPLE_BYTES = 4096  # of a frame that could not be read
PROGRESS_BYTES = 1 << 16  # of a frame that is not whole, which count as a sign of life
CHALLENGE_S = 2.0  # some relays refuse first, and send their challenge then
GRACE_S = 2.0  # after words that look like a refusal, until they are taken for one
EARLIER = 32  # questions that are remembered: what comes for them is told apart from noise
AUTH_PREFIXES = ("auth-required:", "restricted:")  # of CLOSED's text, NIP-42
REFUSALS = (*AUTH_PREFIXES, "blocked:", "rate-limited:", "error:", "invalid:", "unsupported:")


class Bounds(Struct, frozen=True):
    """What one answer may cost."""

    reply_s: float  # from one frame to the next
    page_s: float  # for the whole answer, however it drips
    page_bytes: int
    linger_s: float = 0.0  # after EOSE, without an event: some relays say it first


class Page(Struct):
    """What came in answer to one request, in order of arrival. Nothing is verified."""

    events: Columns[Heard]
    end: End
    reason: str = ""  # CLOSED's text, or how the connection ended
    hints: tuple[str, ...] = ()  # NIP-67
    size: int = 0  # of its events, in bytes
    unreadable: int = 0  # frames that look like events and are none ...
    unreadable_ats: list[int] = []  # ... and when those were created that say so
    strays: int = 0  # bytes that came meanwhile and do not belong to it
    elapsed_s: float = 0.0
    malformed: dict[str, tuple[int, bytes]] = {}  # reason: how many, and a sample
    payload: bytes = b""  # of a NEG-MSG, in place of events
    most: int | None = None  # NEG-ERR's
    number: int = 0  # of the question in its conversation: 1, 2, ...
    # Came since the page before for earlier questions, whose numbers stand here. What is more than
    # fits into a page is dropped: of questions with these numbers.
    late: list[tuple[int, Heard]] = []
    late_dropped: set[int] = set()
    oversized: list[bytes] = []  # samples of frames that were too large, in answer to this question
    is_guess: bool = False  # CLOSED was not said: a NOTICE or a challenge came, and nothing else

    @property
    def refusal(self) -> Refusal | None:
        """What the relay refuses us for, if its words say so."""
        return refusal_of(self.reason)


def is_refusal(notice: str) -> bool:
    """Whether a NOTICE may be a relay's way to say that it cannot do what it was asked for."""
    return REFUSING.search(notice) is not None


def is_objection(notice: str) -> bool:
    """Whether a NOTICE may be a relay's way to refuse a question, if nothing else follows."""
    is_one = is_refusal(notice) or REFUSING_QUESTION.search(notice) is not None
    return is_one and GREETING.search(notice) is None


class Talk(Struct):
    """How a reconciliation (NIP-77) went: to its end (EOSE), or how it was ended."""

    end: End
    reason: str = ""  # NEG-ERR's text, a NOTICE in its place, or how the connection ended
    most: int | None = None  # events in a window, says the relay that refuses more
    answers: int = 0  # that came
    sent: int = 0  # bytes of frames
    received: int = 0

    @property
    def refusal(self) -> Refusal | None:
        """What the relay refuses us for, if its words say so."""
        return refusal_of(self.reason)


UNANSWERED = "auth-required: it wants to know who asks, and says nothing else"
NOTHING_SHOWN = "auth-required: nothing is shown while its challenge is open"


class _Reading(Struct):
    """What is being read: the answer to a question, or (`subscription` None) whatever comes."""

    page: Page
    most_bytes: int
    subscription: str | None = None  # none either once it is over
    is_request: bool = False  # for events; else a reconciliation
    is_opening: bool = False  # a reconciliation that has not been answered yet
    is_verdict: bool = False  # what the relay says of who we are ...
    is_offer: bool = False  # ... or of events that it was offered
    is_closed: bool = False  # by the relay
    objection: str = ""  # words that may be a refusal ...
    objected_after: int = -1  # ... after how many events: with another one they are none ...
    refused_at: float = math.inf  # ... and when they are one, in the loop's time

    @property
    def is_objected(self) -> bool:
        """Whether nothing has come since what may be a refusal."""
        return self.objected_after == len(self.page.events)

    def end(self, end: End, reason: str) -> None:
        """Notes how the answer has ended."""
        self.page.end, self.page.reason = end, reason

    def object(self, words: str, grace_s: float) -> None:
        """Notes what may be a refusal, and is one unless more comes in time."""
        if not self.is_objected:
            self.objection, self.refused_at = "", math.inf
        self.objected_after = len(self.page.events)
        self.objection = self.objection or words
        self.refused_at = min(self.refused_at, asyncio.get_running_loop().time() + grace_s)


def _together(messages: Iterable[bytes | Burst]) -> Iterator[bytes | Burst]:
    """Puts messages together that came one by one, but for samples of what was too large: these may
    look like events."""
    singly: list[bytes] = []
    for each in messages:
        if type(each) is bytes:
            singly.append(each)
            continue
        if singly:
            yield Burst.of(singly)
            singly = []
        yield each
    if singly:
        yield Burst.of(singly)


def _count_malformed(page: Page, answer: Malformed, frame: bytes) -> None:
    reason = answer.reason.partition(":")[0]
    count, sample = page.malformed.get(reason, (0, frame[:SAMPLE_BYTES]))
    page.malformed[reason] = (count + 1, sample)
    if answer.is_event:
        page.unreadable += 1
        if (claimed := message.claimed_time(frame)) is not None:
            page.unreadable_ats.append(claimed)


class Verdicts(NamedTuple):
    """What a relay says of events that it was offered: some OKs (EOSE), or why there are none."""

    oks: list[Ok]
    end: End
    reason: str = ""  # a NOTICE in their place, or how the connection ended


class Session:
    """One conversation over an open connection; closes it at the end of the block.

    A relay at `url` that refuses an answer until it knows who asks is told so by `signer`.

    Events that come for a question that has ended already are handed out with the next page, of
    `fetch` or `listen`, or by `drain`.
    """

    def __init__(self, stream: Stream, url: str = "", signer: Signer | None = None) -> None:
        self._stream = stream
        self._url = url
        self._signer = signer
        self._is_answered = False  # the newest challenge
        self._auth_id = ""  # of the answer on which the relay has not said anything yet
        self.auth_words = ""  # with which it refused the newest answer
        self._is_mute = False  # it accepts answers without a word
        self.identity: str | None = None  # the public key that the relay accepted
        self._numbers = itertools.count(1)
        self.challenge: str | None = None  # of the newest AUTH
        self.notice: str = ""  # the newest
        self.is_open = True
        self.lost = ""  # how the connection ended
        self.is_subscribed = False  # to what comes in live
        self._live: str | None = None  # that subscription
        self._arrivals: list[Heard] = []
        self._arrived_bytes = 0
        self._asked: dict[str, int] = {}  # the numbers of the last questions, by subscription
        self._late: list[tuple[int, Heard]] = []
        self._late_bytes = 0
        self._late_dropped: set[int] = set()
        self._has_shown = False  # an event
        self._offered: set[str] = set()  # ids of events on which nothing has been said yet
        self._oks: list[Ok] = []

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

        When the relay wants to know who asks, it is told, and asked once more. That nothing comes
        in a conversation that has shown nothing yet is no answer as long as it wants to know.
        """
        number, filters = next(self._numbers), (filter_, *more)
        page = await self._ask(filters, bounds, number)
        if self._is_asked_who(page) and await self.authenticate(bounds):
            page = await self._ask(filters, bounds, number)
            if self._auth_id:  # nothing was said of our answer yet
                page = await self._see(page, filters, bounds)
        self._doubt(page)
        self._hand_out_late(page)
        return page

    async def _see(self, page: Page, filters: Sequence[Mapping[str, Any]], bounds: Bounds) -> Page:
        """Decides what a page is worth after which nothing has been said yet of who we are: some
        relays say that late, some never."""
        if self._is_asked_who(page):
            is_accepted = await self._await_verdict(bounds.reply_s, bounds)
            return await self._ask(filters, bounds, page.number) if is_accepted else page
        if page.events:
            self._accept_as_known()
        return page

    def _accept_as_known(self) -> None:
        """Takes an answer for the relay's word on who we are: some never say another."""
        if self._auth_id and self._signer is not None:
            self.identity, self._auth_id, self._is_mute = self._signer.public_key, "", True

    def _is_asked_who(self, page: Page) -> bool:
        """Whether a relay seems to have answered like this because it does not know who we are."""
        if page.end is End.CLOSED and page.reason.startswith(AUTH_PREFIXES):
            return True
        if self.challenge is None or page.events or self._has_shown:
            return False
        is_nothing = page.end in (End.EOSE, End.TIMEOUT) and self.identity is None
        return page.is_guess or (is_nothing and not page.oversized)

    def _doubt(self, page: Page) -> None:
        """Takes nothing for no answer where it may come from not knowing us."""
        if page.events or page.oversized:
            self._has_shown = True
        elif page.end is End.EOSE and self._is_asked_who(page):
            page.end, page.reason, page.is_guess = End.CLOSED, NOTHING_SHOWN, True
        if self.auth_words and self.identity is None and page.end is not End.EOSE:
            page.reason = f"{page.reason}; our AUTH: {self.auth_words}".removeprefix("; ")

    def _hand_out_late(self, page: Page) -> None:
        """Puts into a page what has come for earlier questions."""
        page.late_dropped, self._late_dropped = self._late_dropped, set()
        if self._late:
            page.late = [each for each in self._late if each[0] != page.number]
            self._late = [each for each in self._late if each[0] == page.number]
        self._late_bytes = 0

    async def drain(self, seconds: float, page_bytes: int) -> list[tuple[int, Heard]]:
        """Returns the events of earlier questions, with the number of each question, that have come
        since the last page, or come within `seconds`; at most about `page_bytes` of them."""
        reading = _Reading(Page(events=Columns(), end=End.CUT), page_bytes)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            async with asyncio.timeout_at(until):
                while self.is_open and self._late_bytes <= page_bytes and loop.time() < until:
                    self._take(await self._stream.receive(), reading)
        except TimeoutError:
            pass
        except DisconnectedError as error:
            self._lose(error)
        late, self._late, self._late_bytes = self._late, [], 0
        return late

    async def authenticate(self, bounds: Bounds) -> bool:
        """Tells the relay who we are, if it has asked or does so now; returns whether it may accept
        that. Each of its challenges is answered once."""
        if self._signer is None or self._is_answered:
            return False
        try:
            async with asyncio.timeout(bounds.reply_s):
                if self.challenge is None:
                    async with asyncio.timeout(CHALLENGE_S):
                        await self._read_on(lambda: self.challenge is not None, bounds)
                assert self.challenge is not None
                now = int(time.time())
                signed = answer_challenge(self._signer, self._url, self.challenge, now)
                self._is_answered, self._auth_id = True, signed.event_id
                self.auth_words = ""
                await self._stream.send(message.authenticate(signed.event))
        except TimeoutError:
            return False
        except DisconnectedError as error:
            self.auth_words = self._lose(error)
            return False
        grace_s = 0.0 if self._is_mute else min(GRACE_S, bounds.reply_s)
        return await self._await_verdict(grace_s, bounds) is not False

    async def _await_verdict(self, seconds: float, bounds: Bounds) -> bool | None:
        """Whether the relay accepts our answer to its challenge; None when it does not say."""
        try:
            async with asyncio.timeout(seconds):
                await self._read_on(
                    lambda: not self._auth_id or bool(self.auth_words), bounds, is_verdict=True
                )
        except TimeoutError:
            return None
        except DisconnectedError as error:
            self.auth_words = self._lose(error)
        return self.identity is not None and not self.auth_words

    async def _read_on(
        self, is_enough: Callable[[], bool], bounds: Bounds, *, is_verdict: bool = False
    ) -> None:
        """Reads between two questions, within the bytes of a page; what comes in live is kept."""
        page = Page(events=Columns(), end=End.CUT)
        reading = _Reading(page, bounds.page_bytes, is_verdict=is_verdict)
        while not is_enough():
            self._take(await self._stream.receive(), reading)

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
        is_asked_who = talk.end is End.CLOSED and talk.reason.startswith(AUTH_PREFIXES)
        if is_asked_who and await self.authenticate(bounds):
            talk = await self._negotiate(filter_, first, answer, bounds)
            if talk.answers:
                self._accept_as_known()
        if self.auth_words and talk.end is End.CLOSED:
            talk.reason = f"{talk.reason}; our AUTH: {self.auth_words}"
        return talk

    async def _negotiate(
        self,
        filter_: Mapping[str, Any],
        first: bytes,
        answer: Callable[[bytes], Awaitable[bytes | None]],
        bounds: Bounds,
    ) -> Talk:
        subscription = secrets.token_hex(8)
        talk = Talk(end=End.CUT)
        deadline = time.monotonic() + bounds.page_s
        frame = message.open_reconciliation(subscription, filter_, first)
        try:
            while True:
                talk.sent += len(frame)
                async with asyncio.timeout(bounds.reply_s):
                    await self._stream.send(frame)
                page = Page(events=Columns(), end=End.CUT)
                is_opening = talk.answers == 0
                reading = _Reading(page, bounds.page_bytes, subscription, is_opening=is_opening)
                left_s = max(0.0, deadline - time.monotonic())
                await self._read(reading, replace(bounds, page_s=left_s))
                talk.end, talk.reason, talk.most = page.end, page.reason, page.most
                if page.end is not End.EOSE:
                    break
                talk.answers += 1
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
            talk.end, talk.reason = End.CUT, self._lose(error)
        finally:
            if self.is_open and talk.end is not End.CLOSED:
                await self._say(message.close_reconciliation(subscription), bounds)
        return talk

    async def _say(self, frame: bytes, bounds: Bounds) -> None:
        """Sends what needs no answer; a relay that does not take it is given up."""
        try:
            async with asyncio.timeout(bounds.reply_s):
                await self._stream.send(frame)
        except (TimeoutError, DisconnectedError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> str:
        """Gives the conversation up; how it ended."""
        self.is_open, self.lost = False, self.lost or str(error) or "it no longer reads"
        return str(error)

    async def _ask(self, filters: Sequence[Mapping[str, Any]], bounds: Bounds, number: int) -> Page:
        subscription = secrets.token_hex(8)
        page = Page(events=Columns(), end=End.CUT, number=number)
        reading = _Reading(page, bounds.page_bytes, subscription, is_request=True)
        started = time.monotonic()
        try:
            # Nothing that comes before the question counts as an answer.
            self._take(self._stream.take(), _Reading(page, bounds.page_bytes))
            async with asyncio.timeout(bounds.reply_s):
                await self._stream.send(message.request(subscription, *filters))
            self._remember(subscription, number)
            await self._read(reading, bounds)
            if not reading.is_closed and self.is_open:
                self._stream.defer(message.close(subscription))
        except TimeoutError:
            # Sending hangs when the relay no longer reads.
            page.end = End.TIMEOUT if page.end is End.CUT else page.end
        except DisconnectedError as error:
            words = self._lose(error)
            page.reason = page.reason or words
        page.elapsed_s = time.monotonic() - started
        return page

    def _remember(self, subscription: str, number: int) -> None:
        """Remembers a question, the last one of its number, to know what comes late for it."""
        earlier = [(key, each) for key, each in self._asked.items() if each != number]
        self._asked = dict([*earlier[-EARLIER:], (subscription, number)])

    async def offer(self, event_id: str, event: bytes, bounds: Bounds) -> None:
        """Offers an event, given as JSON: `verdicts` says what becomes of it."""
        self._offered.add(event_id)
        await self._say(message.offer(event), bounds)

    async def verdicts(self, bounds: Bounds) -> Verdicts:
        """Returns what the relay says of what it was offered, as soon as it says something."""
        page = Page(events=Columns(), end=End.CUT)
        reading = _Reading(page, bounds.page_bytes, is_offer=True)
        if not self._oks:
            try:
                await self._read(reading, bounds)
            except DisconnectedError as error:
                page.reason = self._lose(error)
        oks, self._oks = self._oks, []
        return Verdicts(oks, End.EOSE if oks else page.end, "" if oks else page.reason)

    @property
    def has_verdicts(self) -> bool:
        """Whether something was said of what was offered, and not handed out yet."""
        return bool(self._oks)

    @property
    def is_challenged(self) -> bool:
        """Whether the relay wants to know who we are, and has not been told."""
        return self.challenge is not None and not self._is_answered

    async def subscribe(self, filter_: Mapping[str, Any], reply_s: float) -> None:
        """Asks for what matches, from now on: `listen` hands it out. One such subscription, on a
        line that is kept alive."""
        self._stream.keep_alive()
        self._live = secrets.token_hex(8)
        try:
            async with asyncio.timeout(reply_s):
                await self._stream.send(message.request(self._live, filter_))
            self.is_subscribed = True
        except (TimeoutError, DisconnectedError) as error:
            self._lose(error)

    @property
    def is_listening(self) -> bool:
        """Whether live events can still come."""
        return self.is_open and self.is_subscribed

    async def listen(self, seconds: float, max_bytes: int) -> Page:
        """Returns what has come in live since the last time, waiting up to `seconds` for it.

        When more than `max_bytes` come, or came in meanwhile, the connection is given up.
        """
        page = Page(events=Columns(), end=End.TIMEOUT)
        reading = _Reading(page, max_bytes)
        try:
            async with asyncio.timeout(seconds):
                while self.is_listening:
                    self._take(await self._stream.receive(), reading)
                    if self._arrived_bytes > max_bytes:
                        break
        except TimeoutError:
            pass
        except DisconnectedError as error:
            page.end, page.reason = End.CUT, self._lose(error)
        if self._arrived_bytes > max_bytes:
            self.is_open = False
            page.end, page.reason = End.OVERSIZE, f"over {max_bytes} bytes at once"
        page.events, self._arrivals = Columns.of(self._arrivals), []
        page.size, self._arrived_bytes = self._arrived_bytes, 0
        self._has_shown = self._has_shown or bool(page.events)
        self._hand_out_late(page)
        return page

    async def _read(self, reading: _Reading, bounds: Bounds) -> None:
        """Reads until the answer has ended, or a bound is reached."""
        loop, page = asyncio.get_running_loop(), reading.page
        deadline = loop.time() + bounds.page_s
        has_ended = is_over = False
        while not (has_ended or is_over):
            received = self._stream.received
            try:
                async with asyncio.timeout(None) as waiting:
                    while not has_ended:
                        wait_until = min(loop.time() + bounds.reply_s, deadline)
                        if reading.is_objected:
                            wait_until = min(wait_until, reading.refused_at)
                        waiting.reschedule(wait_until)
                        has_ended = self._take(await self._stream.receive(), reading)
                        received = self._stream.received
                        if not has_ended and loop.time() > deadline:
                            raise TimeoutError
            except TimeoutError:
                # A large message on a slow line is no silence.
                is_alive = self._stream.received - received > PROGRESS_BYTES
                is_over = not is_alive or reading.is_objected or loop.time() > deadline
        if is_over and reading.is_objected:
            page.end, page.reason, page.is_guess = End.CLOSED, reading.objection, True
            page.reason = page.reason or UNANSWERED
        elif is_over:
            page.end, page.reason = End.TIMEOUT, self.notice
        elif page.end is End.EOSE and bounds.linger_s and not reading.is_closed:
            await self._linger(reading, bounds.linger_s, deadline)

    async def _linger(self, reading: _Reading, linger_s: float, deadline: float) -> None:
        """Reads on after EOSE, until no event has come for a while."""
        loop, page = asyncio.get_running_loop(), reading.page
        until = loop.time() + linger_s
        try:
            while page.end is End.EOSE and not reading.is_closed:
                if loop.time() > min(until, deadline):
                    raise TimeoutError
                before = len(page.events)
                async with asyncio.timeout_at(min(until, deadline)):
                    self._take(await self._stream.receive(), reading)
                if len(page.events) > before:
                    until = loop.time() + linger_s
        except TimeoutError:
            if deadline < until:
                page.end, page.reason = End.TIMEOUT, "events still came after EOSE"

    def _take(self, messages: Iterable[bytes | Burst], reading: _Reading) -> bool:
        """Sorts messages into what is being read; returns whether its answer has ended."""
        has_ended = False
        for part in _together(messages):
            if isinstance(part, Burst):
                has_ended = self._take_burst(part, reading, has_ended=has_ended)
            else:
                has_ended = self._take_one(part, message.decode(part), reading, has_ended=has_ended)
        return has_ended

    def _take_burst(self, burst: Burst, reading: _Reading, *, has_ended: bool) -> bool:
        """Takes messages that came together: plain events of the answer all at once."""
        place, asked = 0, reading.subscription
        scan = None if asked is None or not reading.is_request else Scan(burst, asked)
        singly = 0  # up to here plain events are taken one by one
        while place < len(burst):
            answer: message.Message | None = None
            if scan is not None and asked is not None:
                if place >= singly and (end := scan.plain_until(place)) > place:
                    if self._take_together(scan, place, end, reading):
                        place = end
                        continue
                    singly = end
                if place < singly:
                    answer = EventMessage(asked, scan.event(place, burst[place]))
            frame = burst[place]
            answer = answer or message.decode(frame)
            has_ended = self._take_one(frame, answer, reading, has_ended=has_ended)
            place += 1
        return has_ended

    def _take_together(self, scan: Scan, start: int, end: int, reading: _Reading) -> bool:
        """Takes plain events that follow on each other, if they fit and are worth it."""
        page, size = reading.page, scan.size(start, end)
        cost = size + FRAME_COST * (end - start)
        if reading.subscription is None or page.size + cost > reading.most_bytes:
            return False
        if (part := scan.worth_keeping(start, end, size)) is None:
            return False
        page.events.take(*part)
        page.size += cost
        return True

    def _take_one(
        self, frame: bytes, answer: message.Message, reading: _Reading, *, has_ended: bool
    ) -> bool:
        """Takes one message; returns whether the answer has ended."""
        page, most_bytes, subscription = reading.page, reading.most_bytes, reading.subscription
        cost = len(frame) + FRAME_COST
        if isinstance(answer, EventMessage):
            if answer.subscription == subscription:
                page.events.append(answer.event)
                page.size += cost
                if page.size > most_bytes:
                    reading.end(End.OVERSIZE, f"over {most_bytes} bytes")
                    reading.subscription, has_ended = None, True
                return has_ended
            if self._is_kept(answer, cost, most_bytes):
                return has_ended
        elif isinstance(answer, TooLarge):
            cost = answer.size
            if subscription is not None and answer.subscription in (subscription, None):
                page.oversized.append(frame)
                page.size += cost
                # A reconciliation has one answer, and this was it.
                if page.size > most_bytes or not reading.is_request:
                    reading.end(End.OVERSIZE, f"a message of {cost} bytes")
                    reading.subscription, has_ended = None, True
                return has_ended
        # Everything else, also what is left of an earlier answer, has a bound of its own.
        page.strays += cost
        if page.strays > STRAY_PAGES * most_bytes:
            raise DisconnectedError("flooded with what nobody asked for")
        if isinstance(answer, Malformed):
            _count_malformed(page, answer, frame)
        elif isinstance(answer, Eose):
            if answer.subscription == subscription and not has_ended:
                reading.end(End.EOSE, "" if page.events else reading.objection)
                page.hints, has_ended = answer.hints, True
        else:
            has_ended = self._take_word(answer, subscription, reading) or has_ended
        return has_ended

    def _take_word(
        self, answer: message.Message, subscription: str | None, reading: _Reading
    ) -> bool:
        """Takes what is neither event nor EOSE; returns whether it ends what is being read."""
        page = reading.page
        if isinstance(answer, Notice):
            return self._take_notice(answer.text, reading)
        if isinstance(answer, Ok):
            return self._take_verdict(answer, reading)
        if isinstance(answer, Auth):
            self._take_challenge(answer.challenge, reading)
        elif isinstance(answer, Closed):
            return self._take_closed(answer, subscription, reading)
        elif isinstance(answer, NegMsg | NegErr) and answer.subscription == subscription:
            if isinstance(answer, NegMsg):
                page.end, page.payload = End.EOSE, answer.payload
            else:
                reading.end(End.CLOSED, answer.reason)
                page.most, reading.is_closed = answer.most, True
            return True
        return False

    def _take_closed(self, answer: Closed, subscription: str | None, reading: _Reading) -> bool:
        if answer.subscription == subscription:
            reading.is_closed = True
            # Some close what they have answered: that takes nothing back.
            is_answered = reading.is_request and reading.page.end is End.EOSE
            is_refusing = not reading.page.events and answer.reason.startswith(REFUSALS)
            if is_refusing or not is_answered:
                reading.end(End.CLOSED, answer.reason)
                return True
        elif answer.subscription == self._live:
            self.is_subscribed, self.notice = False, answer.reason
        return False

    def _is_kept(self, answer: EventMessage, cost: int, most_bytes: int) -> bool:
        """Keeps an event that came in live, or late."""
        if answer.subscription == self._live:
            if self._arrived_bytes <= most_bytes:
                self._arrivals.append(answer.event)
                self._arrived_bytes += cost
            return True
        number = self._asked.get(answer.subscription)
        if number is None:
            return False
        self._has_shown = True
        if self._late_bytes > most_bytes:
            self._late_dropped.add(number)
            return False
        self._late.append((number, answer.event))
        self._late_bytes += cost
        return True

    def _take_notice(self, text: str, reading: _Reading) -> bool:
        """Takes note of words; returns whether they end what is being read. They may do so later,
        or refuse our AUTH."""
        self.notice = text
        if reading.is_opening and is_refusal(text):
            reading.end(End.CLOSED, text)
            return True
        if reading.is_opening:
            return False
        if reading.is_request or reading.is_offer:
            if is_objection(text):
                reading.object(text, GRACE_S)
        elif reading.is_verdict and is_objection(text):
            self.auth_words = text
        return False

    def _take_challenge(self, challenge: str, reading: _Reading) -> None:
        if len(challenge) > MAX_CHALLENGE or challenge == self.challenge:
            return
        self.challenge, self._is_answered = challenge, False
        if reading.is_request or reading.is_offer:
            # It may be all that the relay says; who cannot answer it waits for something else.
            reading.object("", GRACE_S if self._signer is not None else math.inf)

    def _take_verdict(self, answer: Ok, reading: _Reading) -> bool:
        """Takes what the relay says of our answer to its challenge, or of an event that it was
        offered; returns whether this is what was waited for."""
        if answer.event_id in self._offered:
            self._offered.discard(answer.event_id)
            self._oks.append(answer)
            return reading.is_offer
        if self._signer is None or not self._auth_id or answer.event_id != self._auth_id:
            return False
        self._auth_id = ""
        if answer.is_accepted:
            self.identity, self.auth_words = self._signer.public_key, ""
        else:
            self.identity, self.auth_words = None, answer.reason or "refused"
        return False
