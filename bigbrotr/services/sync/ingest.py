"""Ingest: sorts out what a relay hands over, verifies what is new, and stores it."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from bigbrotr.config.settings import SyncPolicy
from bigbrotr.core.calls.event_rows import Row, Stored, make_rows
from bigbrotr.core.calls.events import Rejected, Turn, at_once
from bigbrotr.core.defects import end_of
from bigbrotr.models.coverage import Gap
from bigbrotr.models.event import (
    Event,
    Identified,
    Unsigned,
    WireEvent,
    decode,
    identify,
)
from bigbrotr.models.plain import Heard, Plain
from bigbrotr.models.policy import EPHEMERAL
from bigbrotr.models.signatures import MAX_BATCH
from bigbrotr.nostr.message import HINTS, claimed_time
from bigbrotr.nostr.questions import PageAnswer, Progress, Question
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.context import STORING, VisitContext, VisitState
from bigbrotr.services.sync.new_ground import NewGround
from bigbrotr.services.sync.report import REASONS, Report
from bigbrotr.services.sync.verifier import Verifier, verify

NOTHING_PROVEN = Progress([], [])

TURN_S = 5.0  # that a page which was copied waits for its turn, until it takes that back
CROWD = 20  # events of one second that are worth waiting for, so as not to verify them twice

Key = tuple[int, bytes]  # (created_at, id)
Found: TypeAlias = Plain | Identified | Unsigned | Event  # its id is proven
Ready: TypeAlias = Row | Unsigned | Event  # all but its signature is


class OutOfTurnError(Exception):
    """The page above is not stored yet."""


class Batch:
    """The events of one page: those with a proven id, sorted by (created_at, id), and the rest.

    `events` wait to be looked up in the archive; `verify` turns them into `fresh` ones.
    """

    def __init__(
        self, malformed: Mapping[str, tuple[int, bytes]], received: int = 0, size: int = 0
    ) -> None:
        self.received, self.size = received, size  # events that were sent, and their bytes
        self.events: list[tuple[int, bytes, Found]] = []
        # Further copies of an event that differ: the first one may be forged.
        self.copies: dict[bytes, list[Found]] = {}
        self.fresh: list[Stored] = []  # verified
        self.taken: frozenset[bytes] = frozenset()  # their ids, also once they are stored
        self.forged = 0  # events that were not
        self.is_guess = False  # nobody has looked whether they are archived
        self.has_begun = asyncio.Event()  # to be stored: `taken` is known
        self.rejected: dict[str, tuple[int, bytes]] = {}
        for reason, (count, sample) in malformed.items():
            self.reject(reason, sample, count)

    async def verify(self, verifier: Verifier) -> None:
        """Makes fresh events of those that are valid, and rejects the others (`forged`)."""
        events, self.events = self.events, []
        ready: list[Ready | None] = []
        answers = []
        for start in range(0, len(events), MAX_BATCH):  # made ready while others are verified
            some = self._make_ready([found for _, _, found in events[start : start + MAX_BATCH]])
            ready += some
            unsigned = [each for each in some if isinstance(each, Row | Unsigned)]
            answers.append(verifier.verify([each.claim for each in unsigned]))
        right = [is_right for answer in answers for is_right in await answer]
        right.reverse()
        for (_, event_id, _), each in zip(events, ready, strict=True):
            event = self._verified(each, right.pop) or self._verified_copy(event_id)
            if event is None:
                self.forged += 1
            else:
                self.fresh.append(event)
        self.taken = frozenset(event.id for event in self.fresh)

    def _make_ready(self, events: Sequence[Found]) -> list[Ready | None]:
        """Makes rows of plain events and decodes the others; rejects those of which that cannot be
        done, and has None in their places."""
        rows = make_rows([event for event in events if isinstance(event, Plain)])
        rows.reverse()
        return [
            (isinstance(event, Plain) and rows.pop()) or self._decode(event) for event in events
        ]

    def _decode(self, found: Found) -> Unsigned | Event | None:
        try:
            if isinstance(found, Event):
                return found
            return found.decode() if isinstance(found, Plain) else decode(found)
        except ValueError as error:
            self.reject(str(error), found.id)
            return None

    def _verified(self, ready: Ready | None, is_right: Callable[[], bool]) -> Stored | None:
        """Returns the event, or rejects it where its signature is not right."""
        if ready is None or isinstance(ready, Event):
            return ready
        if not is_right():
            self.reject("bad signature", ready.id)
            return None
        return ready if isinstance(ready, Row) else ready.event(is_signed=True)

    def _verified_copy(self, event_id: bytes) -> Stored | None:
        """Returns an event of which the first copy was not valid, if another one is."""
        for copy in self.copies.get(event_id, ()):
            found = self._decode(copy)
            event = self._verified(found, lambda found=found: verify([found.claim])[0])  # type: ignore[misc]
            if event is not None:
                return event
        return None

    @property
    def is_crowded(self) -> bool:
        """Whether the next page of a walk may bring many of these events again."""
        return len(self.events) > CROWD and self.events[CROWD][0] == self.events[0][0]

    def forget(self) -> None:
        """Lets go of the events, once they are stored."""
        self.fresh, self.copies = [], {}

    def leave_out(self, event_ids: frozenset[bytes]) -> None:
        """Drops fresh events that are stored with another page: one that is there already makes a
        page much dearer to store."""
        if not event_ids.isdisjoint(self.taken):
            self.fresh = [event for event in self.fresh if event.id not in event_ids]

    def reject(self, reason: str, sample: bytes, count: int = 1) -> None:
        """Counts what is no valid event, by the first words of the reason."""
        reason = reason.partition(":")[0]
        if reason not in REASONS:  # each makes a row
            reason = "malformed"
        before, first = self.rejected.get(reason, (0, sample))
        self.rejected[reason] = (before + count, first)


class Ingest:
    """Takes what one relay hands over into the archive, and reports what that was."""

    def __init__(self, context: VisitContext, state: VisitState) -> None:
        self._context, self._state = context, state
        self._brotr, self._gate = context.brotr, context.contention
        self._ground = NewGround()

    async def prepare(self, batch: Batch, *, may_guess: bool = False) -> None:
        """Notes the archived events as held here, and verifies the others; where visits contend,
        `store` does so, under the ingest lock.

        Noting is a transaction of its own, so that no row is locked while signatures are verified,
        and comes ahead of the proof: a crash in between costs one question more.

        `may_guess`: where all was new for long, nobody looks, and `store` notes what was not.
        """
        if self._gate.is_contended:
            return
        if may_guess and self._ground.is_new:
            batch.is_guess = bool(batch.events)
        else:
            sent = len(batch.events)
            await self._leave_unknown(batch)
            if may_guess and sent:
                self._ground.note(is_new=len(batch.events) == sent)
        await batch.verify(self._context.verifier)

    async def store(
        self,
        batch: Batch,
        progress: Progress = NOTHING_PROVEN,
        above: asyncio.Task[None] | None = None,
    ) -> None:
        """Stores the new events of a prepared batch together with what its page proved.

        `above` stores the page above, and has begun to: what the page proved comes after it, the
        events need not wait for it.
        """
        unknown = len(batch.fresh)
        new = None
        if batch.events:  # not looked at yet
            async with self._gate.lock, self._context.store_gate:
                await self._leave_unknown(batch)
                if unknown := len(batch.events):
                    new = await self._store_under_lock(batch, progress)
                    unknown -= batch.forged  # those that were stored while it waited count
        if new is None and above is not None and self._has_two_connections:
            with suppress(OutOfTurnError):
                async with self._context.store_gate:
                    batch.has_begun.set()
                    new = await self._store(batch, progress, partial(turn_after, above))
        if new is None:
            if above is not None:
                await end_of(above)
            async with self._context.store_gate:
                batch.has_begun.set()
                new = await self._store(batch, progress)
        known = 0
        if batch.is_guess:
            known = len(batch.fresh) - new
            self._ground.note(is_new=known == 0)
        else:
            self._gate.note(unknown, new)
        self._state.new += new
        self._state.known += known
        self._context.report(
            Report(
                received=batch.received,
                new=new,
                known=known,
                rejected=sum(times for times, _ in batch.rejected.values()),
                reasons={reason: times for reason, (times, _) in batch.rejected.items()},
                pages=1,
                bytes=batch.size,
                gaps=len(progress.gaps),
            )
        )

    async def take(self, batch: Batch) -> None:
        """Prepares and stores a batch whose page proved nothing."""
        await self.prepare(batch)
        await self.store(batch)

    async def take_unasked(self, page: Page, ask: Question) -> Sequence[int]:
        """Stores what came within a question, but not in answer to it; it proves nothing. Returns
        when it was created."""
        answer, batch = sift(page, ask, self._context.policy)
        batch.events = [event for event in batch.events if kind_of(event[2]) not in EPHEMERAL]
        await self.take(batch)
        return answer.created_ats

    async def note_gaps(self, gaps: Sequence[Gap]) -> None:
        """Records the gaps that a walk has left."""
        if gaps:
            await self._brotr.store_page(
                self._state.claim,
                [],
                gaps=gaps,
                identity=self._state.identity,
                now=int(time.time()),
            )
            self._context.report(Report(gaps=len(gaps)))

    async def _leave_unknown(self, batch: Batch) -> None:
        """Notes those events of a batch that are archived, and leaves the others in it."""
        if not batch.events:
            return
        keys = [event[:2] for event in batch.events]
        unknown = await self._brotr.note_presence(self._state.claim, keys, int(time.time()))
        known = len(keys) - len(unknown)
        self._state.known += known
        self._context.report(Report(known=known))
        batch.events = [batch.events[position] for position in unknown]

    async def _store_under_lock(self, batch: Batch, progress: Progress) -> int:
        async with self._brotr.ingest_lock() as has_waited:
            if has_waited:
                await self._leave_unknown(batch)
            await batch.verify(self._context.verifier)
            return await self._store(batch, progress)

    @property
    def _has_two_connections(self) -> bool:
        """Whether the page above has one, where this one keeps one for itself."""
        return self._brotr.pool.settings.limits.max_size >= STORING

    async def _store(
        self,
        batch: Batch,
        progress: Progress,
        turn: Turn = at_once,
    ) -> int:
        new, _ = await self._brotr.store_page(
            self._state.claim,
            batch.fresh,
            proofs=progress.proven,
            gaps=progress.gaps,
            rejected=[Rejected(reason, *entry) for reason, entry in batch.rejected.items()],
            identity=self._state.identity,
            now=int(time.time()),
            turn=turn,
        )
        return new


async def turn_after(above: asyncio.Task[None]) -> None:
    """Waits until the page above is stored.

    Raises:
        OutOfTurnError: it takes so long that it may be waiting for what was copied here.
    """
    await asyncio.wait([above], timeout=TURN_S)
    if not above.done():
        raise OutOfTurnError
    await end_of(above)


class AskedSeconds(NamedTuple):
    """The seconds that a question asks for; both ends included."""

    since: int
    until: int

    def of(self, created_ats: Sequence[int]) -> list[int]:
        """Returns the times that lie within."""
        return [at for at in created_ats if self.since <= at <= self.until]


class PageTimes(Struct):
    """What a page says to the paging machine, as it is sorted out."""

    times: list[int] = []  # of the events that match: proven
    claimed: list[int] = []  # of what is no valid event: nothing proves them
    off_filter: int = 0
    repeats: int = 0


def sift(
    page: Page, ask: Question, policy: SyncPolicy, under_way: Collection[bytes] = ()
) -> tuple[PageAnswer, Batch]:
    """Sorts out a page: what it says to the paging machine, and what there is to store.

    A question may go a second beyond what is wanted: what lies there is heard and not stored.
    Neither are events that are `under_way`: verified, and stored with the page before.

    Events whose id is not the hash of their bytes are rejected here; signatures come later, and
    only of events that are not archived yet.
    """
    batch = Batch(page.malformed, len(page.events), page.size)
    bounds = AskedSeconds(ask.since, policy.filter.newest if ask.until is None else ask.until)
    heard = _sort_events(page, bounds, policy, under_way, batch)
    said = [claimed_time(sample) for sample in page.oversized]
    for sample in page.oversized:
        batch.reject("too large", sample)
    oversized = bounds.of([at for at in said if at is not None])
    unreadable = bounds.of(page.unreadable_ats)
    claimed = heard.claimed + oversized + unreadable
    without_time = page.unreadable - len(unreadable) + len(said) - len(oversized)
    # What cannot be taken took a place in the page, and is where it says that it is; but the page
    # reaches no further than what is proven of it, if anything is: the next one tells.
    times = heard.times
    inside = AskedSeconds(min(times), max(times)).of(claimed) if times else claimed
    if inside:
        times = in_order(times, inside)
    batch.events.sort()  # no two have the same id: what was found is never compared
    answer = PageAnswer(
        created_ats=times,
        end=page.end,
        off_filter=heard.off_filter,
        malformed=without_time + len(claimed) - len(inside),
        oversized=oversized,
        repeats=heard.repeats,
        reason=page.reason,
        finish="finish" in page.hints,
        # What else is said with an empty answer may be why it is empty.
        more="more" in page.hints or not (times or HINTS.issuperset(page.hints)),
        elapsed_s=page.elapsed_s,
    )
    return answer, batch


def _sort_events(
    page: Page, bounds: AskedSeconds, policy: SyncPolicy, under_way: Collection[bytes], batch: Batch
) -> PageTimes:
    """Puts the events that are wanted into a batch, and returns what the page says of itself."""
    times: list[int] = []
    claimed: list[int] = []
    seen: dict[bytes, Heard] = {}
    off_filter = repeats = 0
    since, until = bounds
    filter_, newest = policy.filter, policy.filter.newest
    is_open = filter_.is_open
    for event in page.events:
        at = event.created_at
        try:
            found = event if isinstance(event, Plain | Event) else identify(event)
            is_wanted = is_open or filter_.matches(found if isinstance(found, Unsigned) else event)
        except ValueError as error:
            batch.reject(str(error), sample_of(event))
            if since <= at <= until:
                claimed.append(at)
            else:
                off_filter += 1
            continue
        event_id = found.id
        if (first := seen.get(event_id)) is not None:
            repeats += 1
            if event != first:
                batch.copies.setdefault(event_id, []).append(found)
            continue
        seen[event_id] = event
        if not is_wanted or not since <= at <= until:
            off_filter += 1
            continue
        times.append(at)
        if policy.since <= at <= newest and event_id not in under_way:
            batch.events.append((at, event_id, found))
    return PageTimes(times, claimed, off_filter, repeats)


def in_order(times: list[int], claimed: list[int]) -> list[int]:
    """Returns the times of a page together with those that others claim, in the page's order, if
    it has one."""
    together = times + claimed
    if times == sorted(times, reverse=True):
        return sorted(together, reverse=True)
    return sorted(together) if times == sorted(times) else together


def kind_of(found: Found) -> int:
    """Returns the kind of an event."""
    return found.wire.kind if isinstance(found, Identified) else found.kind


def sample_of(event: Heard) -> bytes:
    """Returns an event as JSON, near enough to the bytes that came."""
    return msgspec.json.encode(event) if isinstance(event, WireEvent) else event.id
