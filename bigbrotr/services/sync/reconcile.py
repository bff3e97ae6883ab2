"""Reconciling a relay's past with the archive (NIP-77): who has what, window by window."""

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from bigbrotr.config.settings import SyncPolicy
from bigbrotr.core.calls.reconciliation import Window
from bigbrotr.models.coverage import Span
from bigbrotr.nostr.negentropy import (
    FRAME_LIMIT,
    SMALLEST_FRAME_LIMIT,
    Bound,
    Client,
    Digest,
    Items,
    NegentropyError,
    TooManyNeededError,
    is_settled,
)
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Bounds, Page, Session, Talk
from bigbrotr.services.sync.fetch_by_id import (
    ENVELOPE_BYTES,
    MOST_REFUSALS,
    PAIRS,
    Collected,
    Collector,
    Key,
)
from bigbrotr.services.sync.ingest import Intake, Report

WORTHWHILE = 500  # archived events in a span: below, a page or two say as much
PROBE = 32  # of the newest events are asked for first: are they known?
MOST_PER_EVENT = 40  # archived ids are read for each of the relay's events at the cost of its page
MOST_ITEMS = 100_000  # in a window, 42 bytes each: 4 MB
FEWEST_ITEMS = 250  # in a window: who takes no more at once is paged
MOST_NEEDED = 50_000  # ids that we lack, in a window: where there are more, pages are as good
CHUNK = 20_000  # ids that are read at once
MERGED_ITEMS = 50_000  # neighbouring windows are remembered as one, up to this many events
# What a relay names is tested before it is noted: it is asked for some of it by id, and for a page.
# That a tenth of it is not there escapes 140 questions once in two million times; 640, one in 45.
TESTED, TESTED_SHARE = 140, 200  # so many, and one more for each so many that are named
RETESTED = 32  # of what it was seen to hold before
RETEST_SHARE = 8  # of windows that have not changed, one in so many is compared all the same
FEWEST_IDS = 16  # in a question: who takes no more cannot be tested in a reasonable time
HIDDEN = 32  # that it does not name are asked for: they must not be there
SAMPLE = 2  # events of a page, where nothing has changed
LIES = 4  # missing events, and a quarter of all, are a lie; fewer are kept from us
MOST_TRIES = 3  # of one window, while events come and go
MARKED = 25_000  # events of a window that are marked at once

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


class Verdict(Enum):
    """What came of one window."""

    DONE = "done"  # it is proven
    PAGE = "page"  # pages are better here
    AGAIN = "again"  # to be tried once more: smaller, or since something may have changed meanwhile
    STOP = "stop"  # it cannot go on in this visit


class Step(NamedTuple):
    """How far ids have led: what is to be paged now, if anything, and what to go on with after."""

    page: Span | None
    rest: Span | None


class Remembered(NamedTuple):
    """What a relay was found to hold in a window."""

    span: Span
    digest: Digest


class Reconciliation:
    """Windows of one relay's past, over an open conversation.

    What cannot be done by ids is left to pages, window by window. When the relay has hung up on it
    (`hung_up` says how), that is remembered, and nothing is tried again in this visit: pages can
    take over at once, over another connection. Memory: within `gate`, the ids of a window and those
    that we lack, about 10 MB.
    """

    def __init__(
        self,
        session: Session,
        intake: Intake,
        *,
        bounds: Bounds,
        gate: asyncio.Semaphore,
        is_over: Callable[[], bool],
    ) -> None:
        self.session, self.intake, self.bounds = session, intake, bounds
        self.brotr, self.visit = intake.brotr, intake.visit
        self.policy: SyncPolicy = intake.policy
        self.gate, self.is_over = gate, is_over
        self.may_try = self.visit.may_reconcile and self.policy.by_ids
        # It may take more by now than it did: that costs one question.
        self.most_items = min(2 * (self.visit.most_items or MOST_ITEMS), MOST_ITEMS)
        self.windows = 0  # that were proven
        self.throttled = ""  # the words with which the relay asked for a pause
        self.hung_up = ""  # how the connection was lost, if in the midst of this
        self._collector = Collector(session, intake, bounds, is_over)
        # Our messages: no larger than the relay says, nor than what it has hung up on.
        self._most_bytes = self.visit.most_bytes
        says = self.visit.limits.get("max_message_length", 1 << 20) - self._envelope()
        self.frame_limit = min(FRAME_LIMIT, says // 2, self._most_bytes or FRAME_LIMIT)
        if self.frame_limit < SMALLEST_FRAME_LIMIT or self._collector.most_ids < FEWEST_IDS:
            self.may_try = False
        self._has_worked = False
        self._largest = 0  # message of ours in this conversation, in bytes
        self._strangers: set[bytes] = set()  # events of this window that it showed and did not name
        self._missing: set[bytes] = set()  # ... that it named and did not show
        self._tries = 0  # of this window
        self._last: Remembered | None = None  # the window before, which the next one may join

    def use(self, session: Session) -> None:
        """Goes on in another conversation with the relay."""
        self.session = self._collector.session = session

    async def meet(self, span: Span) -> Step:
        """Reconciles a span of which nothing is proven yet with all that is archived, oldest
        windows first, as far as that goes."""
        if not self.may_try or not await self._is_worthwhile(span):
            return Step(span, None)
        return await self._work_through(span, is_held=False)

    async def audit(self, span: Span) -> Step:
        """Reconciles a span that was proven before with what the relay is known to hold there, as
        far as that goes."""
        return await self._work_through(span, is_held=True) if self.may_try else Step(span, None)

    async def _is_worthwhile(self, span: Span) -> bool:
        """Whether the archive knows the relay's newest events, and is not much larger than it."""
        _, ids = await self._read_ids(span, b"", WORTHWHILE)
        if len(ids) < WORTHWHILE * 32:
            return False
        page = await self.session.fetch(self._request(span) | {"limit": PROBE}, self.bounds)
        if page.end is not End.EOSE or len(page.events) < PROBE:
            await self._collector.look_at(page, span)
            return False
        oldest = min(event.created_at for event in page.events)
        new = self.intake.new
        received = len(await self._collector.take(page, span))
        if received < PROBE // 2 or self.intake.new - new > received // 2:
            return False
        near = Span(max(span.since, oldest), span.until)
        most = MOST_PER_EVENT * received
        _, ids = await self._read_ids(near, b"", most)
        return len(ids) < most * 32

    async def _work_through(self, span: Span, *, is_held: bool) -> Step:
        since = span.since
        remembered = await self._remembered(span) if is_held else {}
        while since < span.until:
            async with self.gate:
                if self.is_over() or not self.session.is_open:
                    return Step(Span(since, span.until), None)
                if since in remembered:
                    until, verdict = await self._look_again(remembered.pop(since))
                else:
                    until = min((at for at in remembered if at > since), default=span.until)
                    until, verdict = await self._compare(Span(since, until), is_held)
            if verdict is not Verdict.AGAIN:
                self._strangers, self._missing, self._tries = set(), set(), 0
            if verdict is Verdict.STOP:
                return Step(Span(since, span.until), None)
            if verdict is Verdict.PAGE:
                rest = Span(until, span.until) if until < span.until else None
                return Step(Span(since, until), rest)
            if verdict is Verdict.DONE:
                since = until
        return Step(None, None)

    async def _remembered(self, span: Span) -> dict[int, Remembered]:
        """What the relay was found to hold in windows within a span, by their beginning."""
        digests = await self.brotr.digests(self.visit, self.policy.filter.key)
        return {
            found.since: Remembered(found, Digest(items, int.from_bytes(total, "little")))
            for found, items, total in digests
            if span.since <= found.since and found.until <= span.until
        }

    async def _look_again(self, remembered: Remembered) -> tuple[int, Verdict]:
        """Asks whether anything has changed in a window; only if so, and now and then because what
        a relay names it may have lost, the ids are compared."""
        span, digest = remembered
        if random.randrange(RETEST_SHARE) == 0:
            return await self._compare(span, is_held=True)
        answers: list[bytes] = []

        async def take(answer: bytes) -> None:
            answers.append(answer)

        verdict = await self._talk(span, digest.ask(), take, digest.items)
        if verdict is Verdict.AGAIN:  # it has grown, or the relay's patience has not
            return await self._compare(span, is_held=True)
        if verdict is not Verdict.DONE:
            return span.until, verdict
        try:
            has_changed = not is_settled(answers[0])
        except NegentropyError as error:
            await self._note("broken", str(error))
            return span.until, Verdict.STOP
        tried = await self.brotr.withheld(self.visit, span)
        if has_changed or not await self._shows_what_it_holds(span, digest.items, tried):
            return await self._compare(span, is_held=True)
        collected = await self._collector.collect(span, tried)
        if collected is None or collected.is_much:
            return span.until, await self._cannot_collect(collected)
        await self._record(remembered, withheld=collected.withheld)
        return span.until, Verdict.DONE

    async def _compare(self, span: Span, is_held: bool) -> tuple[int, Verdict]:
        """Compares the ids of a window that begins with a span; where it ends, and what came."""
        items, until = await self._read(span, is_held)
        window = Span(span.since, until)
        if items is None:
            return until, Verdict.PAGE
        # Where it held something before: read now, since this comparison adds to it.
        touched = [window] if is_held else await self.brotr.touched(self.visit)
        client = Client(items, max_needed=MOST_NEEDED, frame_limit=self.frame_limit)

        async def answer(message: bytes) -> bytes | None:
            for _ in client.reconciling(message):
                await asyncio.sleep(0)
            self._largest = max(self._largest, len(client.following or b""))
            return client.following

        verdict = await self._talk(window, client.initiate(), answer, len(items))
        if verdict is not Verdict.DONE:
            return until, verdict
        # What others have brought of that which it holds and we lack (in an audit: did not know).
        known = await self._collector.archived(client.need, window) if is_held else []
        verdict = await self._test(window, items, client, known, is_held)
        if verdict is not Verdict.DONE:
            return until, verdict
        collected = await self._collector.collect(window, client.need, known)
        if collected is None or collected.is_much:
            return until, await self._cannot_collect(collected)
        if len(collected.refused) == len(client.need) >= MOST_REFUSALS:
            return until, Verdict.PAGE  # it may show in pages what it does not hand over by id
        verdict = await self._conclude(window, items, client, collected, touched, is_held)
        return until, verdict

    async def _cannot_collect(self, collected: Collected | None) -> Verdict:
        """What follows when the events that we lack were not handed over to the end."""
        if collected is None:
            self.throttled = self._collector.throttled
            await self._note_if_lost()
            return Verdict.STOP
        await self._note("refused", "names too many events that it does not hand over")
        return Verdict.PAGE

    # Ids of ours

    async def _read_ids(
        self, span: Span, after: bytes, limit: int, held_by: int | None = None
    ) -> tuple[bytes, bytes]:
        filter_ = self.policy.filter
        return await self.brotr.read_ids(
            span, after, limit, kinds=filter_.kinds, authors=filter_.authors, held_by=held_by
        )

    async def _read(self, span: Span, is_held: bool) -> tuple[Items | None, int]:
        """Our ids of as much of a span as fits into a window, and where that ends; None if not
        even its first second does."""
        items = Items()
        since, after = span.since, b""
        held_by = self.visit.relay_id if is_held else None
        while len(items) <= self.most_items:
            rest, most = Span(since, span.until), min(CHUNK, self.most_items + 1 - len(items))
            created_ats, ids = await self._read_ids(rest, after, most, held_by)
            items.extend_packed(created_ats, ids)
            if len(ids) < most * 32:
                break
            since, after = items.created_at(len(items) - 1), items.id(len(items) - 1)
        until = span.until
        if len(items) > self.most_items:
            until = items.created_at(self.most_items)
            if until == span.since:
                return None, until + 1
            items.cut(until)
        for _ in items.sealing():
            await asyncio.sleep(0)
        return items, until

    # The conversation

    def _envelope(self) -> int:
        """Bytes of a message of ours that are not those of ids."""
        return ENVELOPE_BYTES + len(msgspec.json.encode(self.policy.filter.to_request()))

    def _request(self, span: Span) -> dict[str, object]:
        return self.policy.filter.to_request() | {"since": span.since, "until": span.until - 1}

    async def _talk(
        self,
        span: Span,
        first: bytes,
        answer: Callable[[bytes], Awaitable[bytes | None]],
        items: int,
    ) -> Verdict:
        """One reconciliation of a window with so many events; what it teaches about the relay is
        remembered."""
        self._largest = len(first)
        try:
            talk = await self.session.reconcile(self._request(span), first, answer, self.bounds)
        except TooManyNeededError:
            return Verdict.PAGE
        except NegentropyError as error:
            await self._note("broken", str(error))
            return Verdict.STOP
        self.intake.identity = self.session.identity
        self.intake.report(Report(bytes=talk.received))
        if talk.end is End.EOSE:
            if not self._has_worked:
                self._has_worked = True
                await self._note("works", "")
            return Verdict.DONE
        return await self._judge_failure(talk, min(items, self.most_items))

    async def _judge_failure(self, talk: Talk, items: int) -> Verdict:
        if talk.end is End.CLOSED:
            if talk.reason.startswith("rate-limited"):
                self.throttled = talk.reason
                return Verdict.STOP
            if talk.reason.startswith("blocked") or talk.most is not None:
                most = items // 2 if talk.most is None else min(items - 1, talk.most)
                if most >= FEWEST_ITEMS:
                    self.most_items, self._has_worked = most, False  # so that it is remembered
                    return Verdict.AGAIN
            if talk.answers == 0:
                await self._note("refused", talk.reason)
        elif talk.answers == 0 and talk.end is End.TIMEOUT:
            await self._note("silent", f"no answer within {self.bounds.reply_s:g} s")
        elif not self.session.is_open:
            await self._note_hanging_up(talk)
        return Verdict.STOP

    async def _note_hanging_up(self, talk: Talk) -> None:
        """Some end the conversation at a word that they don't know, others at a message that is too
        large for them: those are tried again with smaller ones."""
        self.hung_up = talk.reason or "connection lost"
        if self._largest > SMALLEST_FRAME_LIMIT:
            self._most_bytes = max(SMALLEST_FRAME_LIMIT, self._largest // 4)
            words = f"{self.hung_up}, after a message of {2 * self._largest} bytes"
            await self._note("smaller", words)
        else:
            has_answered = talk.answers > 0 or self._has_worked
            await self._note("hung up" if has_answered else "refused", self.hung_up)

    async def _note_if_lost(self) -> None:
        """It may have hung up on a question by id; pages have none."""
        if not self.session.is_open:
            self.hung_up = "connection lost when asked by id"
            await self._note("hung up", self.hung_up)

    async def _note(self, outcome: str, detail: str) -> None:
        """Remembers what came of trying, and when to try again."""
        self.may_try = outcome == "works"
        pause_s = RETRY_S[outcome] * random.uniform(0.75, 1.25)
        await self.brotr.note_reconciliation(
            self.visit,
            "refused" if outcome in ("smaller", "hung up") else outcome,
            detail,
            due_at=int(time.time() + pause_s),
            most_items=self.most_items if self.most_items < MOST_ITEMS else None,
            most_bytes=self._most_bytes,
        )

    # Is it true?

    async def _test(
        self, span: Span, items: Items, client: Client, known: Sequence[Key], is_held: bool
    ) -> Verdict:
        """Tests what the relay says it has, in proportion to what that is: some of what it names
        must be there when asked for, what it does not name must not, and a page must show nothing
        that it did not name.

        Events come and go between two questions: what looked wrong must be so once more, after
        another comparison, to be a lie.
        """
        absent = set(client.have)
        shares = TESTED + len(known) // TESTED_SHARE
        asked = {event_id for _, event_id in random.sample(known, min(shares, len(known)))}
        named = [place for place in range(len(items)) if place not in absent]
        most = RETESTED if is_held else TESTED + len(named) // TESTED_SHARE
        asked |= {items.id(place) for place in random.sample(named, min(most, len(named)))}
        if self._missing:
            still = {items.id(place) for place in named} | client.need
            asked |= self._missing & still
        strangers = await self._strangers_in(span, items, client, RETESTED if is_held else TESTED)
        if strangers is None:
            return Verdict.STOP
        missing = await self._collector.missing(asked, span) if asked else {}
        if missing is None:
            self.throttled = self._collector.throttled
            await self._note_if_lost()
            return Verdict.STOP
        if missing and len(missing) == len(asked) and {*missing.values()} == {End.CLOSED.value}:
            await self._note("refused", "cannot be tested: it is not asked by id")
            return Verdict.STOP
        return await self._judge(strangers, missing.keys(), len(asked))

    async def _judge(
        self, strangers: Collection[bytes], missing: Collection[bytes], asked: int
    ) -> Verdict:
        """What follows from the events that it showed and did not name, and those that it named and
        did not show when it was asked for so many."""
        if not self._strangers.isdisjoint(strangers):
            return await self._distrust("shows events that it did not name")
        if not self._missing.isdisjoint(missing):
            if len(missing) >= max(LIES, asked // 4):
                return await self._distrust("does not show events that it named")
            await self._note("refused", "names events that it does not hand over")
            return Verdict.PAGE
        if not strangers and not missing:
            return Verdict.DONE
        self._strangers.update(strangers)
        self._missing.update(missing)
        self._tries += 1
        return Verdict.AGAIN if self._tries < MOST_TRIES else Verdict.PAGE

    async def _strangers_in(
        self, span: Span, items: Items, client: Client, size: int
    ) -> set[bytes] | None:
        """Events that the relay did not name and shows: in a page somewhere in the window, or asked
        for those that it is said to lack. None if that cannot be told."""
        absent = set(client.have)
        limit = min(size, self.policy.page_limit, self.visit.limits.get("max_limit", size))
        until = items.created_at(random.randrange(len(items))) if len(items) else span.until - 1
        questions = [self._request(span) | {"until": until, "limit": limit}]
        # What it has shown and not named must not be there now: else that was no accident.
        hidden = set(list(self._strangers)[: self._collector.most_ids])
        most = min(HIDDEN, len(absent), self._collector.most_ids - len(hidden))
        hidden.update(items.id(place) for place in random.sample(sorted(absent), most))
        if hidden:
            ids = [event_id.hex() for event_id in sorted(hidden)]
            questions.append({"ids": ids, "limit": len(ids)})
        at_once = 1 if self.visit.limits.get("max_filters") == 1 else len(questions)
        shown: list[Key] = []
        for start in range(0, len(questions), at_once):
            batch = questions[start : start + at_once]
            page = await self.session.fetch(batch[0], self.bounds, *batch[1:])
            if page.end is not End.EOSE:
                await self._cannot_tell(page, span)
                return None
            shown += await self._collector.take_keys(page, span)
        return {
            event_id
            for created_at, event_id in shown
            if event_id not in client.need and not is_named(items, absent, created_at, event_id)
        }

    async def _cannot_tell(self, page: Page, span: Span) -> None:
        """What cannot be tested is not believed: pages have to tell."""
        await self._collector.look_at(page, span)
        await self._note_if_lost()
        if page.reason.startswith("rate-limited"):
            self.throttled = page.reason
        elif page.end is End.CLOSED:
            await self._note("refused", f"cannot be tested: {page.reason}")

    async def _distrust(self, why: str) -> Verdict:
        """It has lied: what was believed of it is taken back."""
        await self.brotr.distrust(self.visit)
        await self._note("lies", why)
        return Verdict.STOP

    async def _shows_what_it_holds(
        self, span: Span, items: int, withheld: Collection[bytes]
    ) -> bool:
        """Whether a page of an unchanged window shows events, if there should be some, and none
        that we did not know of."""
        asked = self._request(span) | {"limit": SAMPLE}
        page = await self.session.fetch(asked, self.bounds)
        keys = await self._collector.look_at(page, span)
        if page.end is not End.EOSE:
            return False
        for created_at, event_id in keys:
            second = Span(created_at, created_at + 1)
            _, ids = await self._read_ids(second, b"", CHUNK, self.visit.relay_id)
            held = {ids[at : at + 32] for at in range(0, len(ids), 32)}
            if event_id not in held and event_id not in withheld:
                return False
        return bool(keys) or items <= len(withheld)

    # What is recorded

    async def _conclude(
        self,
        span: Span,
        items: Items,
        client: Client,
        collected: Collected,
        touched: Sequence[Span],
        is_held: bool,
    ) -> Verdict:
        """Notes who holds what in a window of which both sides are known; `touched` are the seconds
        in which the relay has held something before, also where a walk was cut and proved nothing.
        """
        absent = set(client.have)
        found = Remembered(span, client.theirs)
        dropped = keys_within(items, sorted(absent), touched)
        if not is_held and not await self._mark(span, items, absent, collected.keys):
            # Others have brought events of this window meanwhile, or the relay holds few: by name.
            places = [place for place in range(len(items)) if place not in absent]
            for start in range(0, len(places), PAIRS):
                batch = places[start : start + PAIRS]
                keys = [(items.created_at(place), items.id(place)) for place in batch]
                if len(await self._collector.note_presence(keys)) < len(keys):
                    return Verdict.PAGE  # some have been deleted meanwhile
        await self._record(found, withheld=collected.withheld, dropped=dropped)
        return Verdict.DONE

    async def _mark(
        self,
        span: Span,
        items: Items,
        absent: Collection[int],
        came: Collection[Key],
    ) -> bool:
        """Notes the relay as a holder of all that is archived in a window but the absent, in parts,
        two at a time; False if that cannot be said of every part.

        `came` are the (created_at, id) of the events that it has just handed over.
        """
        filter_ = self.policy.filter
        if filter_.kinds is not None or filter_.authors is not None:
            return False
        if 2 * len(absent) > len(items):
            return False
        parts = []
        since, first = span.since, 0
        while since < span.until:
            until = span.until
            if first + MARKED < len(items):
                until = max(since + 1, items.created_at(first + MARKED))
            end = items.position(Bound(until), first)
            gone = [items.id(place) for place in absent if first <= place < end]
            more = [key for key in came if since <= key[0] < until]
            parts.append((Span(since, until), ids_with(items, first, end, more), gone))
            since, first = until, end
        is_marked = True
        for start in range(0, len(parts), 2):
            counts = await asyncio.gather(
                *(self.brotr.mark_window(self.visit, *part) for part in parts[start : start + 2])
            )
            is_marked = is_marked and None not in counts
            self.intake.report(Report(matched=sum(count or 0 for count in counts)))
        return is_marked

    async def _record(
        self,
        found: Remembered,
        *,
        withheld: Collection[bytes],
        dropped: Collection[tuple[int, bytes]] = (),
    ) -> None:
        """Records a proven window."""
        joined = self._joined(found)
        window = Window(
            found.span,
            joined.span,
            joined.digest.items,
            joined.digest.sum.to_bytes(32, "little"),
            list(withheld),
            list(dropped),
        )
        ended = await self.brotr.record_window(
            self.visit,
            window,
            filter=self.policy.filter.key,
            identity=self.session.identity,
            now=int(time.time()),
        )
        self._last = joined
        self.windows += 1
        self.intake.report(Report(windows=1, dropped=ended))

    def _joined(self, found: Remembered) -> Remembered:
        """A window together with the one before it, if they are small and touch."""
        last = self._last
        if last is None or last.span.until != found.span.since:
            return found
        if last.digest.items + found.digest.items > min(MERGED_ITEMS, self.most_items):
            return found
        return Remembered(Span(last.span.since, found.span.until), last.digest + found.digest)


def keys_within(items: Items, places: Sequence[int], spans: Sequence[Span]) -> list[Key]:
    """The keys at some of the positions, ascending ones, as far as they lie in spans."""
    keys: list[Key] = []
    for span in spans:
        lo = bisect_left(places, items.position(Bound(span.since)))
        hi = bisect_left(places, items.position(Bound(span.until)))
        keys += [(items.created_at(place), items.id(place)) for place in places[lo:hi]]
    return keys


def ids_with(items: Items, lo: int, hi: int, more: Collection[Key]) -> bytes:
    """The ids at the positions [lo, hi), and some more where they belong, one after the other."""
    if not more:
        return items.ids(lo, hi)
    ours = [(items.created_at(place), items.id(place)) for place in range(lo, hi)]
    return b"".join(event_id for _, event_id in sorted([*ours, *more]))


def is_named(items: Items, absent: Collection[int], created_at: int, event_id: bytes) -> bool:
    """Whether an event is among our items, and not one that the relay is said to lack."""
    place = items.position(Bound(created_at, event_id))
    return place < len(items) and items.id(place) == event_id and place not in absent
