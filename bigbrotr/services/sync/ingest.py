"""Ingest: sorts out what a relay hands over, verifies what is new, and stores it."""

import asyncio
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import compress, count
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bigbrotr.config.settings import SyncPolicy
from bigbrotr.core.calls.event_rows import Rows, decoded, make_rows
from bigbrotr.core.calls.events import Rejected, Turn, at_once
from bigbrotr.core.defects import end_of
from bigbrotr.models.columns import Columns, Found
from bigbrotr.models.coverage import Gap
from bigbrotr.models.event import Event, Identified, Unsigned, WireEvent, identify
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
PROBES = 3  # in a row, at most, over which it is known what the page above them has taken


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
        self.events: Columns[Found] = Columns()
        # Further copies of an event that differ: the first one may be forged.
        self.copies: dict[bytes, list[Found]] = {}
        self.fresh = Rows()  # verified
        self.taken: frozenset[bytes] = frozenset()  # their ids, also once they are stored
        self.goes_on = 0  # pages above: what they have taken counts as taken here
        self.reach: Sequence[int] = ()  # when the first and the last of what is taken was created
        self.forged = 0  # events that were not
        self.is_guess = False  # nobody has looked whether they are archived
        self.has_begun = asyncio.Event()  # to be stored: `taken` is known
        self.rejected: dict[str, tuple[int, bytes]] = {}
        for reason, (times, sample) in malformed.items():
            self.reject(reason, sample, times)

    async def verify(self, verifier: Verifier) -> None:
        """Makes fresh events of those that are valid, and rejects the others (`forged`)."""
        events, self.events = self.events, Columns()
        refused: list[bytes] = []

        def refuse(reason: str, event_id: bytes) -> None:
            self.reject(reason, event_id)
            refused.append(event_id)

        asked, verified = [], list[Rows]()
        for start in range(0, len(events), MAX_BATCH):  # made ready while others are verified
            rows = make_rows(events.part(start, start + MAX_BATCH), refuse)
            asked.append((rows, verifier.verify(rows.claims)))
        for rows, answer in asked:
            right = await answer
            if not all(right):
                for event_id in compress(rows.ids, (not each for each in right)):
                    refuse("bad signature", event_id)
                rows = rows.pick(array("I", compress(count(), right)))
            verified.append(rows)
        self.fresh = Rows.joined([rows for rows in (self.fresh, *verified) if rows])
        if copies := [copy for event_id in refused if (copy := self._right_copy(event_id))]:
            self.fresh = Rows.joined([self.fresh, Rows.of(copies)]).in_order()
        self.forged += len(refused) - len(copies)
        self.taken = self.taken.union(self.fresh.ids)

    def _right_copy(self, event_id: bytes) -> Event | None:
        """Returns an event of which the first copy was not valid, if another one is."""
        for copy in self.copies.get(event_id, ()):
            try:
                event = decoded(copy)
            except ValueError as error:
                self.reject(str(error), event_id)
                continue
            if isinstance(event, Event):
                return event
            if verify(event.claim)[0]:
                return event.event(is_signed=True)
            self.reject("bad signature", event_id)
        return None

    @property
    def is_crowded(self) -> bool:
        """Whether the next page of a walk may bring many of these events again."""
        times = self.events.created_ats
        return len(times) > CROWD and times[CROWD] == times[0]

    def go_on_from(self, above: "Batch", following: Question | None) -> None:
        """Says that `following` is asked next: where that may bring again what the page above this
        one has taken, as after a probe, it counts as taken here."""
        own = self.events.created_ats
        ends = [*own[:1], *own[-1:]]
        if following is not None and above.goes_on < PROBES and above.may_come_again(following):
            self.goes_on = above.goes_on + 1
            ends += above.reach
        self.reach = (min(ends), max(ends)) if ends else ()

    def may_come_again(self, ask: Question) -> bool:
        """Whether an answer may bring some of what is taken."""
        if not self.reach:
            return False
        first, last = self.reach
        return ask.since <= last and (ask.until is None or first <= ask.until)

    def forget(self) -> None:
        """Lets go of the events, once they are stored."""
        self.events, self.fresh, self.copies = Columns(), Rows(), {}

    def keep(self, are_kept: Iterable[bool]) -> None:
        """Drops events, of which it is said of each whether it is kept."""
        self.events = self.events.pick(array("I", compress(count(), are_kept)))

    def leave_out(self, event_ids: frozenset[bytes]) -> None:
        """Drops fresh events that the page above has taken: one that is there already makes a page
        much dearer to store. Where this page goes on from it, they count as taken here."""
        if not event_ids.isdisjoint(self.taken):
            kept = (event_id not in event_ids for event_id in self.fresh.ids)
            self.fresh = self.fresh.pick(array("I", compress(count(), kept)))
        if self.goes_on:
            self.taken |= event_ids

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
        events = batch.events
        batch.keep(events.kind(place) not in EPHEMERAL for place in range(len(events)))
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
        keys = batch.events.keys
        unknown = await self._brotr.note_presence(self._state.claim, keys, int(time.time()))
        known = len(keys) - len(unknown)
        self._state.known += known
        self._context.report(Report(known=known))
        if known:
            batch.events = batch.events.pick(array("I", unknown))

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
        return await self._brotr.store_page(
            self._state.claim,
            batch.fresh,
            proofs=progress.proven,
            gaps=progress.gaps,
            rejected=[Rejected(reason, *entry) for reason, entry in batch.rejected.items()],
            identity=self._state.identity,
            now=int(time.time()),
            turn=turn,
        )


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
    page: Page, ask: Question, policy: SyncPolicy, under_way: frozenset[bytes] = frozenset()
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
    page: Page,
    bounds: AskedSeconds,
    policy: SyncPolicy,
    under_way: frozenset[bytes],
    batch: Batch,
) -> PageTimes:
    """Puts the events that are wanted into a batch, sorted, and returns what the page says of
    itself."""
    events, unproven = _identify(Columns.of(page.events), batch)
    order, is_unique = events.order()
    ids = events.ids
    times = events.created_ats
    is_plain = is_unique and not unproven and policy.filter.is_open
    if is_plain and (not order or _are_inside(times[order[0]], times[order[-1]], bounds, policy)):
        said, wanted = PageTimes(times.tolist()), order
    else:
        said, chosen = _look_at_each(events, ids, unproven, bounds, policy, batch)
        wanted = array("I", filter(chosen.__contains__, order))
    if not under_way.isdisjoint(ids):
        wanted = array("I", [place for place in wanted if ids[place] not in under_way])
    batch.events = events.pick(wanted)
    return said


def _identify(heard: Columns[Heard], batch: Batch) -> tuple[Columns[Found], Mapping[int, int]]:
    """Proves the ids of what was heard; and of those that are no valid events, which are rejected,
    when they say that they were created, by their places."""
    found = heard.plain_only()
    unproven: dict[int, int] = {}
    for place, event in heard.others.items():
        try:
            found.put(place, identify(event) if isinstance(event, WireEvent) else event)
        except ValueError as error:
            batch.reject(str(error), sample_of(event))
            unproven[place] = event.created_at
    return found, unproven


def _are_inside(first: int, last: int, bounds: AskedSeconds, policy: SyncPolicy) -> bool:
    """Whether all that was created between two times is asked for, and wanted."""
    since, until = max(bounds.since, policy.since), min(bounds.until, policy.filter.newest)
    return since <= first and last <= until


def _look_at_each(
    events: Columns[Found],
    ids: Sequence[bytes],
    unproven: Mapping[int, int],
    bounds: AskedSeconds,
    policy: SyncPolicy,
    batch: Batch,
) -> tuple[PageTimes, set[int]]:
    """Returns what a page says of itself, and the places of events that are wanted; for pages that
    are odd, or of which not all is."""
    said, wanted, seen = PageTimes(), set[int](), dict[bytes, int]()
    since, until = bounds
    filter_, newest = policy.filter, policy.filter.newest
    for place, (at, event_id) in enumerate(zip(events.created_ats, ids, strict=True)):
        if place in unproven:
            _note_unproven(unproven[place], bounds, said)
            continue
        try:
            is_wanted = filter_.is_open or filter_.matches(heard_of(events[place]))
        except ValueError as error:
            batch.reject(str(error), sample_of(heard_of(events[place])))
            _note_unproven(at, bounds, said)
            continue
        if (first := seen.setdefault(event_id, place)) != place:
            said.repeats += 1
            if heard_of(events[place]) != heard_of(events[first]):
                batch.copies.setdefault(event_id, []).append(events[place])
        elif not is_wanted or not since <= at <= until:
            said.off_filter += 1
        else:
            said.times.append(at)
            if policy.since <= at <= newest:
                wanted.add(place)
    return said, wanted


def _note_unproven(at: int, bounds: AskedSeconds, said: PageTimes) -> None:
    """Notes when what is no valid event says that it was created."""
    if bounds.since <= at <= bounds.until:
        said.claimed.append(at)
    else:
        said.off_filter += 1


def heard_of(found: Found) -> WireEvent | Plain | Unsigned | Event:
    """What came, of an event whose id is proven by its bytes."""
    return found.wire if isinstance(found, Identified) else found


def in_order(times: list[int], claimed: list[int]) -> list[int]:
    """Returns the times of a page together with those that others claim, in the page's order, if
    it has one."""
    together = times + claimed
    if times == sorted(times, reverse=True):
        return sorted(together, reverse=True)
    return sorted(together) if times == sorted(times) else together


def sample_of(event: Heard | Unsigned) -> bytes:
    """Returns an event as JSON, near enough to the bytes that came."""
    return msgspec.json.encode(event) if isinstance(event, WireEvent) else event.id
