"""Reconciles a relay's past with the archive (NIP-77): who has what, window by window."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from bigbrotr.models.columns import Key
from bigbrotr.models.coverage import Span
from bigbrotr.nostr.message import Refusal
from bigbrotr.nostr.negentropy import (
    FRAME_LIMIT,
    SMALLEST_FRAME_LIMIT,
    Client,
    Digest,
    Items,
    NegentropyError,
    TooManyNeededError,
    is_settled,
)
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Talk
from bigbrotr.services.sync.context import VisitContext, VisitState, is_over
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.fetch_by_id import (
    ENVELOPE_BYTES,
    MOST_REFUSALS,
    Collected,
    FetchById,
)
from bigbrotr.services.sync.holdings import Comparison, Holdings, Remembered
from bigbrotr.services.sync.honesty import Honesty, HonestyTest
from bigbrotr.services.sync.ingest import Ingest
from bigbrotr.services.sync.report import Report

WORTHWHILE = 500  # archived events in a span: below, a page or two say as much
PROBE = 32  # of the newest events are asked for first: are they known?
MOST_PER_EVENT = 40  # archived ids are read for each of the relay's events at the cost of its page
MOST_ITEMS = 100_000  # in a window, 42 bytes each: 4 MB
FEWEST_ITEMS = 250  # in a window: who takes no more at once is paged
MOST_NEEDED = 50_000  # ids that we lack, in a window: where there are more, pages are as good
CHUNK = 20_000  # ids that are read at once
RETEST_SHARE = 8  # of windows that have not changed, one in so many is compared all the same
FEWEST_IDS = 16  # in a question: who takes no more cannot be tested in a reasonable time
SAMPLE = 2  # events of a page, where nothing has changed

DAY_S = 86_400
RETRY_S = {  # until it is tried again, give or take a quarter
    "refused": 7 * DAY_S,
    "smaller": 0,  # as a refusal, but to be tried with smaller messages
    "hung up": DAY_S,  # as a refusal, but it may have been an accident
    "silent": 7 * DAY_S,
    "broken": 7 * DAY_S,
    "lies": 30 * DAY_S,
    "works": 0,
}


class WindowResult(Enum):
    """What came of one window."""

    DONE = "done"  # it is proven
    PAGE = "page"  # pages are better here
    AGAIN = "again"  # to be tried once more: smaller, or since something may have changed meanwhile
    STOP = "stop"  # it cannot go on in this visit


# What follows for a window from the test of what the relay said of it.
FOLLOWS = {
    Honesty.HONEST: WindowResult.DONE,
    Honesty.UNSURE: WindowResult.AGAIN,
    Honesty.TOO_UNSURE: WindowResult.PAGE,
    Honesty.WITHHOLDS: WindowResult.PAGE,
    Honesty.LIES: WindowResult.STOP,
    Honesty.UNTESTABLE: WindowResult.STOP,
    Honesty.INTERRUPTED: WindowResult.STOP,
}


class Step(NamedTuple):
    """How far ids have led: what is to be paged now, if anything, and what to go on with after."""

    page: Span | None = None
    rest: Span | None = None


class Newest(NamedTuple):
    """The relay's newest events in a span, of which a few were fetched."""

    since: int  # the oldest of them
    archived: int  # of them, by now
    new: int  # of these, just stored

    @property
    def is_known(self) -> bool:
        """Whether most of them were archived before."""
        return self.archived >= PROBE // 2 and self.new <= self.archived // 2


class OurIds(NamedTuple):
    """The archived ids of a window."""

    items: Items | None  # None: not even its first second fits
    until: int  # where it ends


class Compared(NamedTuple):
    """What came of one window, and where it ends."""

    until: int
    result: WindowResult


class Reconciliation:
    """Compares windows of one relay's past with the archive, over an open conversation.

    What cannot be done by ids is left to pages, window by window. When the relay has hung up on it,
    that is remembered, and nothing is tried again in this visit: pages can take over at once, over
    another connection. Memory: within `window_gate`, the ids of a window and those that we lack,
    about 10 MB.
    """

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        conversation: Conversation,
        ingest: Ingest,
    ) -> None:
        self._context, self._state = context, state
        self._brotr, self._policy, claim = context.brotr, context.policy, state.claim
        self._conversation = conversation
        self._by_id = FetchById(context, state, conversation, ingest)
        self._honesty = HonestyTest(context, state, conversation, self._by_id)
        self._holdings = Holdings(context, state, conversation, self._by_id)
        self.may_try = claim.may_reconcile and context.policy.by_ids
        self.throttled = ""  # the words with which the relay asked for a pause
        # It may take more by now than it did: that costs one question.
        self._most_items = min(2 * (claim.most_items or MOST_ITEMS), MOST_ITEMS)
        # Our messages: no larger than the relay says, nor than what it has hung up on.
        self._most_bytes = claim.most_bytes
        says = claim.limits.get("max_message_length", 1 << 20) - self._envelope()
        self._frame_limit = min(FRAME_LIMIT, says // 2, self._most_bytes or FRAME_LIMIT)
        if self._frame_limit < SMALLEST_FRAME_LIMIT or self._by_id.most_ids < FEWEST_IDS:
            self.may_try = False
        self._has_worked = False
        self._largest = 0  # message of ours in this conversation, in bytes

    @property
    def windows(self) -> int:
        """How many windows were proven."""
        return self._holdings.windows

    async def meet(self, span: Span) -> Step:
        """Reconciles a span of which nothing is proven yet with all that is archived, oldest
        windows first, as far as that goes."""
        if not self.may_try or not await self._is_much_archived(span):
            return Step(span)
        newest = await self._fetch_newest(span)
        if not newest.is_known or await self._is_much_larger(span, newest):
            return Step(span)
        return await self._work_through(span, is_held=False)

    async def audit(self, span: Span) -> Step:
        """Reconciles a span that was proven before with what the relay is known to hold there, as
        far as that goes."""
        return await self._work_through(span, is_held=True) if self.may_try else Step(span)

    async def _is_much_archived(self, span: Span) -> bool:
        """Whether the archive holds so much of a span that pages would say it in more."""
        _, ids = await self._read_ids(span, b"", WORTHWHILE)
        return len(ids) >= WORTHWHILE * 32

    async def _fetch_newest(self, span: Span) -> Newest:
        """Fetches the relay's newest events in a span, and stores them, if there are enough."""
        asked = self._request(span) | {"limit": PROBE}
        page = await self._conversation.session.fetch(asked, self._context.bounds)
        if page.end is not End.EOSE or len(page.events) < PROBE:
            await self._by_id.look_at(page, span)
            return Newest(span.until, 0, 0)
        oldest = min(event.created_at for event in page.events)
        new = self._state.new
        archived = len(await self._by_id.take(page, span))
        return Newest(oldest, archived, self._state.new - new)

    async def _is_much_larger(self, span: Span, newest: Newest) -> bool:
        """Whether the archive holds so much more than the relay that reading our ids costs more
        than its pages."""
        near = Span(max(span.since, newest.since), span.until)
        most = MOST_PER_EVENT * newest.archived
        _, ids = await self._read_ids(near, b"", most)
        return len(ids) >= most * 32

    async def _work_through(self, span: Span, *, is_held: bool) -> Step:
        since = span.since
        remembered = await self._remembered(span) if is_held else {}
        while since < span.until:
            async with self._context.window_gate:
                is_lost = not self._conversation.session.is_open
                if is_lost or is_over(self._context, self._state):
                    return Step(Span(since, span.until))
                if since in remembered:
                    until, result = await self._look_again(remembered.pop(since))
                else:
                    until = min((at for at in remembered if at > since), default=span.until)
                    until, result = await self._compare(Span(since, until), is_held)
            if result is not WindowResult.AGAIN:
                self._honesty.forget()
            if result is WindowResult.STOP:
                return Step(Span(since, span.until))
            if result is WindowResult.PAGE:
                rest = Span(until, span.until) if until < span.until else None
                return Step(Span(since, until), rest)
            if result is WindowResult.DONE:
                since = until
        return Step()

    async def _remembered(self, span: Span) -> dict[int, Remembered]:
        """Returns what the relay was found to hold in windows within a span, by their beginning."""
        digests = await self._brotr.digests(self._state.claim, self._policy.filter.key)
        return {
            found.since: Remembered(found, Digest(items, int.from_bytes(total, "little")))
            for found, items, total in digests
            if span.since <= found.since and found.until <= span.until
        }

    async def _look_again(self, remembered: Remembered) -> Compared:
        """Asks whether anything has changed in a window; only if so, and now and then because what
        a relay names it may have lost, the ids are compared."""
        span, digest = remembered
        if random.randrange(RETEST_SHARE) == 0:
            return await self._compare(span, is_held=True)
        answers: list[bytes] = []

        async def take(answer: bytes) -> None:
            answers.append(answer)

        result = await self._talk(span, digest.ask(), take, digest.items)
        if result is WindowResult.AGAIN:  # it has grown, or the relay's patience has not
            return await self._compare(span, is_held=True)
        if result is not WindowResult.DONE:
            return Compared(span.until, result)
        try:
            has_changed = not is_settled(answers[0])
        except NegentropyError as error:
            await self._note("broken", str(error))
            return Compared(span.until, WindowResult.STOP)
        tried = await self._brotr.withheld(self._state.claim, span)
        if has_changed or not await self._shows_what_it_holds(span, digest.items, tried):
            return await self._compare(span, is_held=True)
        collected = await self._by_id.collect(span, tried)
        result = await self._judge_collected(collected)
        if result is WindowResult.DONE:
            await self._holdings.record(remembered, collected.withheld, self._most_items)
        return Compared(span.until, result)

    async def _compare(self, span: Span, is_held: bool) -> Compared:
        """Compares the ids of a window that begins with a span."""
        items, until = await self._read(span, is_held)
        window = Span(span.since, until)
        if items is None:
            return Compared(until, WindowResult.PAGE)
        # Where it held something before: read now, since this comparison adds to it.
        touched = [window] if is_held else await self._brotr.touched(self._state.claim)
        client = Client(items, max_needed=MOST_NEEDED, frame_limit=self._frame_limit)

        async def answer(message: bytes) -> bytes | None:
            for _ in client.reconciling(message):
                await asyncio.sleep(0)
            self._largest = max(self._largest, len(client.following or b""))
            return client.following

        result = await self._talk(window, client.initiate(), answer, len(items))
        if result is WindowResult.DONE:
            result = await self._act(Comparison(window, items, client, is_held), touched)
        return Compared(until, result)

    async def _act(self, compared: Comparison, touched: Sequence[Span]) -> WindowResult:
        """Tests a comparison, fetches what we lack, and records who holds what."""
        window, need = compared.span, compared.client.need
        # What others have brought of that which it holds and we lack (in an audit: did not know).
        known = await self._by_id.archived(need, window) if compared.is_held else []
        result = await self._test(compared, known)
        if result is not WindowResult.DONE:
            return result
        collected = await self._by_id.collect(window, need, known)
        result = await self._judge_collected(collected)
        if result is not WindowResult.DONE:
            return result
        if len(collected.refused) == len(need) >= MOST_REFUSALS:
            return WindowResult.PAGE  # it may show in pages what it does not hand over by id
        is_done = await self._holdings.conclude(compared, collected, touched, self._most_items)
        return WindowResult.DONE if is_done else WindowResult.PAGE

    async def _judge_collected(self, collected: Collected) -> WindowResult:
        """Returns what follows from how the events that we lack were handed over."""
        if collected.is_much:
            await self._note("refused", "names too many events that it does not hand over")
            return WindowResult.PAGE
        if collected.interruption is not None:
            self.throttled = collected.interruption.throttled or self.throttled
            await self._note_if_lost()
            return WindowResult.STOP
        return WindowResult.DONE

    # Ids of ours

    async def _read_ids(
        self, span: Span, after: bytes, limit: int, held_by: int | None = None
    ) -> tuple[bytes, bytes]:
        filter_ = self._policy.filter
        return await self._brotr.read_ids(
            span, after, limit, kinds=filter_.kinds, authors=filter_.authors, held_by=held_by
        )

    async def _read(self, span: Span, is_held: bool) -> OurIds:
        """Reads our ids of as much of a span as fits into a window."""
        items = Items()
        since, after = span.since, b""
        held_by = self._state.claim.relay_id if is_held else None
        while len(items) <= self._most_items:
            rest, most = Span(since, span.until), min(CHUNK, self._most_items + 1 - len(items))
            created_ats, ids = await self._read_ids(rest, after, most, held_by)
            items.extend_packed(created_ats, ids)
            if len(ids) < most * 32:
                break
            since, after = items.created_at(len(items) - 1), items.id(len(items) - 1)
        until = span.until
        if len(items) > self._most_items:
            until = items.created_at(self._most_items)
            if until == span.since:
                return OurIds(None, until + 1)
            items.cut(until)
        for _ in items.sealing():
            await asyncio.sleep(0)
        return OurIds(items, until)

    # The conversation

    def _envelope(self) -> int:
        """Returns the bytes of a message of ours that are not those of ids."""
        return ENVELOPE_BYTES + len(msgspec.json.encode(self._policy.filter.to_request()))

    def _request(self, span: Span) -> dict[str, object]:
        return self._policy.filter.to_request() | {"since": span.since, "until": span.until - 1}

    async def _talk(
        self,
        span: Span,
        first: bytes,
        answer: Callable[[bytes], Awaitable[bytes | None]],
        items: int,
    ) -> WindowResult:
        """Reconciles a window with so many events; remembers what that teaches about the relay."""
        self._largest = len(first)
        try:
            talk = await self._conversation.session.reconcile(
                self._request(span), first, answer, self._context.bounds
            )
        except TooManyNeededError:
            return WindowResult.PAGE
        except NegentropyError as error:
            await self._note("broken", str(error))
            return WindowResult.STOP
        self._state.identity = self._conversation.session.identity
        self._context.report(Report(bytes=talk.received))
        if talk.end is End.EOSE:
            if not self._has_worked:
                self._has_worked = True
                await self._note("works", "")
            return WindowResult.DONE
        return await self._judge_failure(talk, min(items, self._most_items))

    async def _judge_failure(self, talk: Talk, items: int) -> WindowResult:
        """Returns what follows from a reconciliation that did not come to its end; notes it."""
        if talk.end is End.CLOSED:
            if talk.refusal is Refusal.RATE_LIMITED:
                self.throttled = talk.reason
                return WindowResult.STOP
            if talk.refusal is Refusal.BLOCKED or talk.most is not None:
                most = items // 2 if talk.most is None else min(items - 1, talk.most)
                if most >= FEWEST_ITEMS:
                    self._most_items, self._has_worked = most, False  # so that it is remembered
                    return WindowResult.AGAIN
            if talk.answers == 0:
                await self._note("refused", talk.reason)
        elif talk.answers == 0 and talk.end is End.TIMEOUT:
            await self._note("silent", f"no answer within {self._context.bounds.reply_s:g} s")
        elif not self._conversation.session.is_open:
            await self._note_hanging_up(talk)
        return WindowResult.STOP

    async def _note_hanging_up(self, talk: Talk) -> None:
        """Remembers that the relay has hung up: at a word that it does not know, or at a message
        that is too large for it; then it is tried again with smaller ones."""
        how = talk.reason or "connection lost"
        if self._largest > SMALLEST_FRAME_LIMIT:
            self._most_bytes = max(SMALLEST_FRAME_LIMIT, self._largest // 4)
            words = f"{how}, after a message of {2 * self._largest} bytes"
            await self._note("smaller", words)
        else:
            has_answered = talk.answers > 0 or self._has_worked
            await self._note("hung up" if has_answered else "refused", how)

    async def _note_if_lost(self) -> None:
        """Remembers that it has hung up on a question by id, if it has; pages have none."""
        if not self._conversation.session.is_open:
            await self._note("hung up", "connection lost when asked by id")

    async def _note(self, outcome: str, detail: str) -> None:
        """Remembers what came of trying, and when to try again."""
        self.may_try = outcome == "works"
        pause_s = RETRY_S[outcome] * random.uniform(0.75, 1.25)
        await self._brotr.note_reconciliation(
            self._state.claim,
            "refused" if outcome in ("smaller", "hung up") else outcome,
            detail,
            due_at=int(time.time() + pause_s),
            most_items=self._most_items if self._most_items < MOST_ITEMS else None,
            most_bytes=self._most_bytes,
        )

    # Is it true?

    async def _test(self, compared: Comparison, known: Sequence[Key]) -> WindowResult:
        """Tests what the relay says it has; notes what that shows of the relay."""
        honesty, words, throttled = await self._honesty.test(compared, known)
        self.throttled = throttled or self.throttled
        if honesty is Honesty.LIES:  # what was believed of it is taken back
            await self._brotr.distrust(self._state.claim)
            await self._note("lies", words)
        elif honesty is Honesty.INTERRUPTED:
            await self._note_if_lost()
        elif words:
            await self._note("refused", words)
        return FOLLOWS[honesty]

    async def _shows_what_it_holds(
        self, span: Span, items: int, withheld: Collection[bytes]
    ) -> bool:
        """Whether a page of an unchanged window shows events, if there should be some, and none
        that we did not know of."""
        asked = self._request(span) | {"limit": SAMPLE}
        page = await self._conversation.session.fetch(asked, self._context.bounds)
        keys = await self._by_id.look_at(page, span)
        if page.end is not End.EOSE:
            return False
        for created_at, event_id in keys:
            second = Span(created_at, created_at + 1)
            _, ids = await self._read_ids(second, b"", CHUNK, self._state.claim.relay_id)
            held = {ids[at : at + 32] for at in range(0, len(ids), 32)}
            if event_id not in held and event_id not in withheld:
                return False
        return bool(keys) or items <= len(withheld)
