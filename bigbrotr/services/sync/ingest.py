"""What a relay hands over: sorted out, verified where it is new, and stored."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping

import msgspec
from msgspec import Struct

from bigbrotr.config.settings import SyncPolicy
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.events import Rejected
from bigbrotr.core.calls.visits import Visit
from bigbrotr.models.event import MAX_CREATED_AT, Event, WireEvent, wire_id
from bigbrotr.nostr.message import HINTS, claimed_time
from bigbrotr.nostr.questions import Answer, Ask, Progress
from bigbrotr.nostr.session import Page

REASONS = ("malformed", "bad id", "bad signature", "too large")  # why events are rejected
IN_VAIN = 20  # new events are worth storing in turn to save one from being verified in vain ...
FORESIGHT = 50_000  # ... and at most so many at a time


class Report(Struct):
    """What was done, in plain values."""

    visits: int = 0
    received: int = 0  # events that were sent to us
    new: int = 0  # events that were not archived before
    known: int = 0  # events that were archived already
    rejected: int = 0
    pages: int = 0
    bytes: int = 0
    gaps: int = 0
    windows: int = 0  # reconciled
    matched: int = 0  # archived events that the relay was found to hold without sending them
    dropped: int = 0  # archived events that it no longer holds
    withheld: int = 0  # events that it holds and did not hand over
    database_uses: int = 0  # times that a connection of the pool was used ...
    database_s: float = 0.0  # ... for how long ...
    database_wait_s: float = 0.0  # ... and waited for
    paced: int = 0  # times that a connection waited for its turn ...
    paced_s: float = 0.0
    crowded: int = 0  # ... or for room at an address
    crowded_s: float = 0.0
    live: int = 0  # relays that are subscribed to now: not added up
    outcomes: dict[str, int] = {}
    visited: dict[tuple[str, str], int] = {}  # visits by network and outcome
    reasons: dict[str, int] = {}  # rejected events by reason

    def add(self, other: "Report") -> None:
        """Adds what another report counts."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for outcome, times in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + times
        for ended, times in other.visited.items():
            self.visited[ended] = self.visited.get(ended, 0) + times
        for reason, times in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + times

    def since(self, before: "Report") -> "Report":
        """What an older one did not count yet, in numbers alone."""
        return Report(**{name: getattr(self, name) - getattr(before, name) for name in COUNTED})


COUNTED = [
    name
    for name in Report.__struct_fields__
    if name not in ("live", "outcomes", "visited", "reasons")
]


class Intake:
    """Takes what one relay hands over into the archive, and reports what that was.

    `identity` is the public key, in hex, with which the relay answers, if it insists on one.
    """

    def __init__(
        self,
        brotr: Brotr,
        visit: Visit,
        policy: SyncPolicy,
        crowd: "Crowd",
        report: Callable[[Report], None],
    ) -> None:
        self.brotr, self.visit, self.policy, self.report = brotr, visit, policy, report
        self.identity: str | None = None
        self.new = self.known = 0  # events so far
        self._crowd = crowd

    async def prepare(self, haul: "Haul") -> None:
        """Notes the archived events as held here, and verifies the others; in a crowd that has to
        wait for its turn.

        Noting is a transaction of its own, so that no row is locked while signatures are verified,
        and comes ahead of the proof: a crash in between costs one question more.
        """
        if not self._crowd.is_there:
            await self._leave_unknown(haul)
            haul.verify()

    async def store(self, page: Page, haul: "Haul", progress: Progress) -> None:
        """Stores new events together with what the page proved."""
        unknown = len(haul.fresh)
        new = None
        if haul.events:  # not looked at yet
            async with self._crowd.lock:
                await self._leave_unknown(haul)
                if unknown := len(haul.events):
                    new = await self._store_in_turn(haul, progress)
                    unknown -= haul.forged  # those that were stored while it waited count
        if new is None:
            new = await self._store(haul, progress)
        self._crowd.heed(unknown, new)
        self.new += new
        self.report(
            Report(
                received=page.received,
                new=new,
                rejected=sum(times for times, _ in haul.rejected.values()),
                reasons={reason: times for reason, (times, _) in haul.rejected.items()},
                pages=1,
                bytes=page.size,
                gaps=len(progress.gaps),
            )
        )

    async def _leave_unknown(self, haul: "Haul") -> None:
        """Notes those events of a haul that are archived, and leaves the others in it."""
        if not haul.events:
            return
        keys = [event[:2] for event in haul.events]
        unknown = await self.brotr.note_presence(self.visit, keys, int(time.time()))
        known = len(keys) - len(unknown)
        self.known += known
        self.report(Report(known=known))
        haul.events = [haul.events[position] for position in unknown]

    async def _store_in_turn(self, haul: "Haul", progress: Progress) -> int:
        async with self.brotr.ingest_lock() as has_waited:
            if has_waited:
                await self._leave_unknown(haul)
            haul.verify()
            return await self._store(haul, progress)

    async def _store(self, haul: "Haul", progress: Progress) -> int:
        new, _ = await self.brotr.store_page(
            self.visit,
            haul.fresh,
            proofs=progress.proven,
            gaps=progress.gaps,
            rejected=[Rejected(reason, *entry) for reason, entry in haul.rejected.items()],
            identity=self.identity,
            now=int(time.time()),
        )
        return new


class Crowd:
    """Whether several relays bring the same new events at once: then they take turns.

    Otherwise each call would verify and send to the database what another is just storing; with
    ten relays that share 90 % of their events, each event three times. Who waits for a turn finds
    most of its events known. Each worker judges by its own pages, and none waits without need.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # the calls of this worker take turns ...
        self._left = 0  # ... for as many new events more

    @property
    def is_there(self) -> bool:
        """Whether to take turns."""
        return self._left > 0

    def heed(self, unknown: int, new: int) -> None:
        """Takes note of a page with unknown events of which some were new in the end.

        Where few are known after all, turns do harm: but one core at a time verifies.
        """
        left = self._left + IN_VAIN * (unknown - new) - new
        self._left = max(0, min(left, FORESIGHT))


class Haul:
    """What a page brought: events with a proven id, sorted by (created_at, id), and the rest."""

    def __init__(self, malformed: Mapping[str, tuple[int, bytes]]) -> None:
        self.events: list[tuple[int, bytes, WireEvent | Event]] = []
        # Further copies of an event that differ: the first one may be forged.
        self.copies: dict[bytes, list[WireEvent | Event]] = {}
        self.fresh: list[Event] = []  # verified
        self.forged = 0  # events that were not
        self.rejected: dict[str, tuple[int, bytes]] = {}
        for reason, (count, sample) in malformed.items():
            self.reject(reason, sample, count)

    def verify(self) -> None:
        """Makes fresh events of those that are valid, and rejects the others (`forged`)."""
        for _, event_id, wire in self.events:
            copies = (wire, *self.copies.get(event_id, ())) if self.copies else (wire,)
            for copy in copies:
                try:
                    self.fresh.append(copy if isinstance(copy, Event) else Event.from_wire(copy))
                    break
                except ValueError as error:
                    self.reject(str(error), event_id)
            else:
                self.forged += 1
        self.events = []

    def oldest(self) -> set[bytes]:
        """The ids of the oldest fresh events: the next page of a walk brings them again."""
        return {event.id for event in self.fresh if event.created_at == self.fresh[0].created_at}

    def reject(self, reason: str, sample: bytes, count: int = 1) -> None:
        """Counts what is no valid event, by the first words of the reason."""
        reason = reason.partition(":")[0]
        if reason not in REASONS:  # each makes a row
            reason = "malformed"
        before, first = self.rejected.get(reason, (0, sample))
        self.rejected[reason] = (before + count, first)


def sift(
    page: Page, ask: Ask, policy: SyncPolicy, under_way: Collection[bytes] = ()
) -> tuple[Answer, Haul]:
    """Sorts out a page: what it says to the paging machine, and what there is to store.

    A question may go a second beyond what is wanted: what lies there is heard and not stored.
    Neither are events that are `under_way`: verified, and being stored with the page before.

    Events whose id is not the hash of their bytes are rejected here; signatures come later, and
    only of events that are not archived yet.
    """
    haul = Haul(page.malformed)
    times: list[int] = []
    claimed: list[int] = []  # times that nothing proves
    seen: dict[bytes, WireEvent | Event] = {}
    off_filter = repeats = 0
    filter_, newest = policy.filter, policy.filter.newest
    until = newest if ask.until is None else ask.until
    for event in page.events:
        try:
            event_id, event = identify(event)
            is_wanted = filter_.matches(event)
        except ValueError as error:
            haul.reject(str(error), sample_of(event))
            if ask.since <= event.created_at <= until:
                claimed.append(event.created_at)
            else:
                off_filter += 1
            continue
        if (first := seen.get(event_id)) is not None:
            repeats += 1
            if event != first:
                haul.copies.setdefault(event_id, []).append(event)
            continue
        seen[event_id] = event
        at = event.created_at
        if not is_wanted or not ask.since <= at <= until:
            off_filter += 1
            continue
        times.append(at)
        if policy.since <= at <= newest and event_id not in under_way:
            haul.events.append((at, event_id, event))
    said = [claimed_time(sample) for sample in page.oversized]
    for sample in page.oversized:
        haul.reject("too large", sample)
    oversized = [at for at in said if at is not None and ask.since <= at <= until]
    unreadable = [at for at in page.unreadable_ats if ask.since <= at <= until]
    claimed += oversized + unreadable
    without_time = page.unreadable - len(unreadable) + len(said) - len(oversized)
    # What cannot be taken took a place in the page, and is where it says that it is; but the page
    # reaches no further than what is proven of it, if anything is: the next one tells.
    inside = [at for at in claimed if min(times) <= at <= max(times)] if times else claimed
    if inside:
        times = in_order(times, inside)
    haul.events.sort(key=lambda entry: entry[:2])
    page.received, page.events = len(page.events), []
    answer = Answer(
        created_ats=times,
        end=page.end,
        off_filter=off_filter,
        malformed=without_time + len(claimed) - len(inside),
        oversized=oversized,
        repeats=repeats,
        reason=page.reason,
        finish="finish" in page.hints,
        # What else is said with an empty answer may be why it is empty.
        more="more" in page.hints or not (times or HINTS.issuperset(page.hints)),
        elapsed_s=page.elapsed_s,
    )
    return answer, haul


def in_order(times: list[int], claimed: list[int]) -> list[int]:
    """The times of a page together with those that others claim, in the page's order, if any."""
    together = times + claimed
    if times == sorted(times, reverse=True):
        return sorted(together, reverse=True)
    return sorted(together) if times == sorted(times) else together


def identify(event: WireEvent | Event) -> tuple[bytes, WireEvent | Event]:
    """The proven id of an event: cheaply when its bytes hash to it, else by decoding it whole.

    Raises:
        ValueError: it is no valid event.
    """
    if isinstance(event, Event):
        return event.id, event
    if (event_id := wire_id(event)) is not None:
        if not 0 <= event.created_at <= MAX_CREATED_AT:
            raise ValueError("malformed: created_at out of range")
        return event_id, event
    decoded = Event.from_wire(event)
    return decoded.id, decoded


def sample_of(event: WireEvent | Event) -> bytes:
    """An event as JSON, near enough to the bytes that came."""
    return msgspec.json.encode(event) if isinstance(event, WireEvent) else event.id
