"""Reconciling a relay's past with the archive (NIP-77): who has what, window by window."""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from enum import Enum
from typing import NamedTuple

from bigbrotr.config import Terms
from bigbrotr.core.calls.reconciliation import Window
from bigbrotr.models.coverage import Span
from bigbrotr.nostr.negentropy import (
    Bound,
    Client,
    Digest,
    Items,
    NegentropyError,
    TooManyNeededError,
    is_settled,
)
from bigbrotr.nostr.paging import End
from bigbrotr.nostr.session import Bounds, Page, Session, Talk
from bigbrotr.services.collector import MOST_REFUSALS, PAIRS, Collected, Collector
from bigbrotr.services.intake import Intake, Report

WORTHWHILE = 500  # archived events in a span: below, a page or two say as much
PROBE = 32  # of the newest events are asked for first: are they known?
MOST_PER_EVENT = 40  # archived ids are read for each of the relay's events at the cost of its page
MOST_ITEMS = 100_000  # in a window, 42 bytes each: 4 MB
FEWEST_ITEMS = 250  # in a window: who takes no more at once is paged
MOST_NEEDED = 50_000  # ids that we lack, in a window: where there are more, pages are as good
CHUNK = 20_000  # ids that are read at once
MERGED_ITEMS = 50_000  # neighbouring windows are remembered as one, up to this many events
SAMPLE = 2  # events of each sort that a relay is tested with ...
LARGE_SAMPLE = 16  # ... and once one has failed: one may have been deleted just now, not more
MARKED = 25_000  # events of a window that are marked at once

DAY_S = 86_400
RETRY_S = {  # until it is tried again, give or take a quarter
    "refused": 7 * DAY_S,
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

    What cannot be done by ids is left to pages, window by window. Memory: within `gate`, the ids
    of a window and those that we lack, about 10 MB.
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
        self.terms: Terms = intake.terms
        self.gate, self.is_over = gate, is_over
        self.may_try = self.visit.may_reconcile and self.terms.by_ids
        # It may take more by now than it did: that costs one question.
        self.most_items = min(2 * (self.visit.most_items or MOST_ITEMS), MOST_ITEMS)
        self.windows = 0  # that were proven
        self.throttled = ""  # the words with which the relay asked for a pause
        self._collector = Collector(session, intake, bounds, is_over)
        self._has_worked = False
        self._doubts = 0  # answers that did not fit to what it says of its ids
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
        digests = await self.brotr.digests(self.visit, self.terms.filter.key)
        return {
            found.since: Remembered(found, Digest(items, int.from_bytes(total, "little")))
            for found, items, total in digests
            if span.since <= found.since and found.until <= span.until
        }

    async def _look_again(self, remembered: Remembered) -> tuple[int, Verdict]:
        """Asks whether anything has changed in a window; only if so, the ids are compared."""
        span, digest = remembered
        answers: list[bytes] = []
        verdict = await self._talk(span, digest.ask(), answers.append, digest.items)
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
        collected = await self._collector.collect(span, tried, is_held=False)
        if collected is None:
            self.throttled = self._collector.throttled
            return span.until, Verdict.STOP
        await self._record(remembered, withheld=collected.withheld)
        return span.until, Verdict.DONE

    async def _compare(self, span: Span, is_held: bool) -> tuple[int, Verdict]:
        """Compares the ids of a window that begins with a span; where it ends, and what came."""
        items, until = await self._read(span, is_held)
        window = Span(span.since, until)
        if items is None:
            return until, Verdict.PAGE
        client = Client(items, max_needed=MOST_NEEDED)
        verdict = await self._talk(window, client.initiate(), client.reconcile, len(items))
        if verdict is not Verdict.DONE:
            return until, verdict
        verdict = await self._test(window, items, client)
        if verdict is not Verdict.DONE:
            return until, verdict
        collected = await self._collector.collect(window, client.need, is_held)
        if collected is None:
            self.throttled = self._collector.throttled
            return until, Verdict.STOP
        if len(collected.refused) == len(client.need) >= MOST_REFUSALS:
            return until, Verdict.PAGE  # it may show in pages what it does not hand over by id
        return until, await self._conclude(window, items, client, collected, is_held)

    # Ids of ours

    async def _read_ids(
        self, span: Span, after: bytes, limit: int, held_by: int | None = None
    ) -> tuple[bytes, bytes]:
        filter_ = self.terms.filter
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
        if len(items) <= self.most_items:
            return items, span.until
        until = items.created_at(self.most_items)
        if until == span.since:
            return None, until + 1
        items.cut(until)
        return items, until

    # The conversation

    def _request(self, span: Span) -> dict[str, object]:
        return self.terms.filter.to_request() | {"since": span.since, "until": span.until - 1}

    async def _talk(
        self, span: Span, first: bytes, answer: Callable[[bytes], bytes | None], items: int
    ) -> Verdict:
        """One reconciliation of a window with so many events; what it teaches about the relay is
        remembered."""
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
        elif talk.answers == 0:  # some end the conversation at a word that they don't know
            await self._note("refused", talk.reason or "connection lost")
        return Verdict.STOP

    async def _note(self, outcome: str, detail: str) -> None:
        """Remembers what came of trying, and when to try again."""
        self.may_try = outcome == "works"
        pause_s = RETRY_S[outcome] * random.uniform(0.75, 1.25)
        await self.brotr.note_reconciliation(
            self.visit,
            outcome,
            detail,
            due_at=int(time.time() + pause_s),
            most_items=self.most_items if self.most_items < MOST_ITEMS else None,
        )

    # Is it true?

    async def _test(self, span: Span, items: Items, client: Client) -> Verdict:
        """Tests a few events of each sort: those that the relay says it has must be there when
        asked for, the others must not, and a page must show nothing that it did not name."""
        absent = set(client.have)
        shown = sample(len(items), absent, SAMPLE)
        hidden = random.sample(sorted(absent), min(SAMPLE, len(absent)))
        until = items.created_at(random.randrange(len(items))) if len(items) else span.until - 1
        some = self._request(span) | {"until": until, "limit": SAMPLE}
        ids = [items.id(place).hex() for place in (*shown, *hidden)]
        asked = [{"ids": ids, "limit": len(ids)}] if ids else []
        page = await self.session.fetch(some, self.bounds, *asked)
        if page.end is not End.EOSE:
            return await self._cannot_tell(page, span)
        keys = await self._collector.take_keys(page, span)
        if not all(
            event_id in client.need or is_named(items, absent, created_at, event_id)
            for created_at, event_id in keys
        ):
            return await self._doubt("shows events that it did not name")
        found = {event_id for _, event_id in keys}
        if all(items.id(place) in found for place in shown):
            return Verdict.DONE
        again = sample(len(items), absent, LARGE_SAMPLE)
        missing = 0
        for place in again:  # each alone: few may be handed out at a time
            page = await self._collector.ask_ids([items.id(place)])
            if page.end is not End.EOSE:
                return await self._cannot_tell(page, span)
            missing += not await self._collector.take_keys(page, span)
        if 4 * missing >= max(4, len(again)):
            return await self._doubt("does not show events that it named")
        if missing > 1:
            await self._note("refused", "names events that it does not hand over")
            return Verdict.STOP
        return Verdict.DONE

    async def _cannot_tell(self, page: Page, span: Span) -> Verdict:
        """What cannot be tested is not believed: pages have to tell."""
        await self._collector.look_at(page, span)
        if page.reason.startswith("rate-limited"):
            self.throttled = page.reason
        elif page.end is End.CLOSED:
            await self._note("refused", f"cannot be tested: {page.reason}")
        return Verdict.STOP

    async def _doubt(self, why: str) -> Verdict:
        """An event may have come or gone between two questions: only who does it again lies."""
        self._doubts += 1
        if self._doubts == 1:
            return Verdict.AGAIN
        await self._note("lies", why)
        await self.brotr.distrust(self.visit)
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
        self, span: Span, items: Items, client: Client, collected: Collected, is_held: bool
    ) -> Verdict:
        """Notes who holds what in a window of which both sides are known."""
        absent = set(client.have)
        found = Remembered(span, client.theirs)
        dropped: list[tuple[int, bytes]] = []
        if is_held:
            dropped = sorted((items.created_at(place), items.id(place)) for place in absent)
        elif not await self._mark(span, items, absent, collected.keys):
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
        came: Collection[tuple[int, bytes]],
    ) -> bool:
        """Notes the relay as a holder of all that is archived in a window but the absent, in parts,
        two at a time; False if that cannot be said of every part.

        `came` are the (created_at, id) of the events that it has just handed over.
        """
        filter_ = self.terms.filter
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
            filter=self.terms.filter.key,
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


def sample(size: int, but: Collection[int], most: int) -> list[int]:
    """A few places below `size`, but none of some; few tries, so maybe fewer than `most`."""
    places = {random.randrange(size) for _ in range(4 * most)} if size else set()
    return random.sample(sorted(places.difference(but)), min(most, len(places.difference(but))))


def ids_with(items: Items, lo: int, hi: int, more: Collection[tuple[int, bytes]]) -> bytes:
    """The ids at the positions [lo, hi), and some more where they belong, one after the other."""
    if not more:
        return items.ids(lo, hi)
    ours = [(items.created_at(place), items.id(place)) for place in range(lo, hi)]
    return b"".join(event_id for _, event_id in sorted([*ours, *more]))


def is_named(items: Items, absent: Collection[int], created_at: int, event_id: bytes) -> bool:
    """Whether an event is among our items, and not one that the relay is said to lack."""
    place = items.position(Bound(created_at, event_id))
    return place < len(items) and items.id(place) == event_id and place not in absent
