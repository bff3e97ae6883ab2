"""A campaign: relays that combine vices at random, change them, gain and lose events, and are cut
off in the midst of visits, held against a dumb oracle that knows what they had and what they sent.

Time is the test's own. It passes between *epochs* only, each of one visit or more, so that the
time of a proof says which epoch it is of. What is held against the archive, after each visit:

- nothing is archived but events that were validly signed, as they were signed;
- a pair is of an event that the relay has had;
- what it has sent is archived, whatever it said of it;
- an event that the relay had throughout the epoch of the proof of its second, and ever since, has a
  pair, unless its vices then were such as cannot be noticed (`is_noticeable`): who lies
  consistently, is believed;
- an event that it had not at any time since then has none, with the same exception;
- where it is said to be absent, it was not there throughout.

In the end the relay becomes an honest one, and after a few visits the archive is exact: whatever
was believed of a liar does not outlast the lie.
"""

import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, event, example, given, note, settings
from hypothesis import strategies as st

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Network, Relay
from bigbrotr.models.where import locate
from bigbrotr.net.politeness import politeness_of
from bigbrotr.reads import where
from bigbrotr.services.sync import conversation, holdings, pages, reconcile, visit
from bigbrotr.services.sync.worker import Slice, Worker
from tests.kit.events import make_event, wire
from tests.kit.model import Vices
from tests.kit.scripted import Held, ScriptedRelay

IS_EXPLORING = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
BEGIN = 1_600_000_000
SPAN_S = 40_000  # in which the archives lie
EPOCH_S = 10_000  # between two of them: more than what is proven at one time may differ by
START = BEGIN + SPAN_S + 5_000
TIMEOUT_S = 0.3
BEAT_S = 0.02
TOO_LARGE = 150_000
MOST_BYTES = 100_000  # of an event that is taken
OTHER = Relay("wss://other.example.com")
HEALING = 6  # visits, at most
ORDER = Slice("campaign", 1.5, {Network.LOCAL: 4})
MALFORMED = wire({**make_event(BEGIN + SPAN_S // 2, content="malformed"), "kind": "7"})


class Turn(NamedTuple):
    """One visit, and what happens before it."""

    vices: Vices
    lie: str  # what is done with a fifth of the ids: "hides", "withholds", or nothing
    is_new_epoch: bool
    gone: frozenset[int]  # events that are deleted: each whose place, modulo 7, is one of these
    added: list[int]  # places in time at which events are added
    is_late: bool  # these things happen in the midst of the visit
    killed_at: int | None  # the question at which the visit is cut off


HONEST = Turn(Vices(), "", True, frozenset(), [], False, None)


class Story(NamedTuple):
    """An archive, and visits to it."""

    bursts: list[tuple[int, int]]  # (offset in time, number of events in that second)
    known: int  # of 4 parts of the events, how many are known from elsewhere
    has_large: bool
    has_malformed: bool
    page_limit: int
    rewalks: bool
    reconciles: bool
    turns: list[Turn]


def some(name: str, *values: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from([{name: value} for value in values])


KINDS = frozenset({"kinds", "authors", "ids"})
AUTHORS = frozenset({"authors", "ids"})

NOTICEABLE = [
    some("clamp", 10, 12, 17, 40),
    st.just({"order": "oldest", "pick": "oldest"}),
    some("until_excluded", True),
    some("repeats", 2, 5),
    some("page_bytes", 260 * 11, 260 * 25),
    some("extras", 1, 3),
    some("pinned", 1, 3),
    some("late", 0.1, 0.5, 1.0),
    some("hints", True),
    some("finishes_always", True),
    some("closed_after", 3, 10, 30),
    some("drop_after", 3, 10, 30),
    some("drop_after_pages", 0, 1, 3),
    some("rate_limited_after", 0, 2, 5),
    some("most_limit", 15, 60),
    some("most_span_s", 600, 50_000),
    some("refuses_unless", KINDS, AUTHORS),
    some("empty_when_broad", True),
    some("empty_unless", AUTHORS),
    st.just({"empty_unless": AUTHORS, "eose_words": "nothing was looked for"}),
    some("refuses", "auth-required: who?", "blocked: scraper", "error: no"),
    some("no_eose", True),
    some("silent", True),
    some("needs_auth", True),
    some("forged", *map(frozenset, (["copy"], ["id", "content"], ["signature", "type"]))),
    some("garbage", *map(frozenset, (["not-json"], ["wrong-shape"], ["binary"]))),
    some("refuses_ids", True),
    some("max_message_bytes", 400, 2000),
    some("greets", "welcome"),
]
RECONCILING = [
    some("reconciles", "honestly"),
    some("reconciles", "honestly"),
    st.just({"reconciles": "honestly", "most_items": 30}),
    st.just({"reconciles": "honestly", "most_items": 30, "names_most": True}),
    st.just({"reconciles": "honestly", "refuses_ids": True}),
    some("reconciles", "silent", "refused", "cut", "garbage", "always-equal", "floods"),
]
UNNOTICEABLE = [
    some("clamp", 1, 3, 7),
    some("page_bytes", 260 * 2),
    st.just({"pick": "random", "clamp": 20}),
    st.just({"pick": "random", "order": "random", "clamp": 20}),
    some("order", "random", "oldest"),
    some("pick", "oldest"),
    some("ignores", *map(frozenset, (["until"], ["since", "until"], ["limit"]))),
]


@st.composite
def vicious(draw: st.DrawFn) -> Vices:
    """A few vices together."""
    mixed: dict[str, Any] = {}
    for vices in draw(st.lists(st.sampled_from(NOTICEABLE), max_size=3)):
        mixed |= draw(vices)
    if draw(st.booleans()):
        mixed |= draw(st.one_of(RECONCILING))
    if draw(st.integers(0, 4)) == 0:
        mixed |= draw(st.one_of(UNNOTICEABLE))
    return Vices(**mixed)


offsets = st.integers(0, SPAN_S // 100).map(lambda n: 100 * n)  # so that seconds collide
turns = st.builds(
    Turn,
    vices=vicious(),
    lie=st.sampled_from(["", "", "", "hides", "withholds"]),
    is_new_epoch=st.sampled_from([True, True, False]),
    gone=st.sampled_from([frozenset(), frozenset(), frozenset({3}), frozenset({0, 1, 5})]),
    added=st.lists(offsets, max_size=4),
    is_late=st.sampled_from([False, False, True]),
    killed_at=st.sampled_from([None, None, None, 1, 2, 3, 5, 8]),
)
stories = st.builds(
    Story,
    bursts=st.lists(
        st.tuples(offsets, st.sampled_from([1, 1, 1, 2, 3, 9, 11, 30])), min_size=3, max_size=45
    ),
    known=st.integers(0, 4),
    has_large=st.sampled_from([False, False, True]),
    has_malformed=st.sampled_from([False, False, True]),
    page_limit=st.sampled_from([20, 60, 500]),
    rewalks=st.booleans(),
    reconciles=st.sampled_from([True, True, False]),
    turns=st.lists(turns, min_size=1, max_size=4),
)


def told_once(bursts: list[tuple[int, int]], *turns: Turn, known: int = 0) -> Story:
    """A story that has found a fault."""
    return Story(bursts, known, False, True, 60, True, True, list(turns))


# A malformed event below a second that was cut ...
CUT = told_once([(38500, 30), (29900, 1)], HONEST._replace(vices=Vices(repeats=5)), known=3)
# ... a relay that ceases to answer broad questions ...
CEASED = told_once(
    [(5400, 1), (700, 1)], HONEST, HONEST._replace(vices=Vices(empty_unless=AUTHORS)), known=1
)
# ... one that answers them by nonsense ...
NONSENSE = told_once(
    [(5400, 5)],
    HONEST._replace(vices=Vices(empty_when_broad=True, garbage=frozenset({"not-json"}))),
    known=2,
)
# ... and one that shows what it does not name.
HIDDEN = Story(
    bursts=[(14300, 3), (14300, 3), (40000, 1), (16600, 9), (21500, 1)],
    known=4,
    has_large=True,
    has_malformed=False,
    page_limit=20,
    rewalks=False,
    reconciles=True,
    turns=[
        HONEST._replace(
            vices=Vices(extras=3, refuses_unless=AUTHORS, reconciles="honestly"),
            gone=frozenset({0, 1, 5}),
            is_late=True,
        ),
        HONEST._replace(vices=Vices(reconciles="honestly"), lie="hides"),
    ],
)


def is_noticeable(vices: Vices, earlier: Iterable[Vices]) -> bool:
    """Whether all lies of a relay can be found out, in principle and without luck."""
    places = min(vices.clamp or 1000, (vices.page_bytes or 10**6) // 260)
    return (
        places // max(1, vices.repeats) >= 10
        and vices.pick == vices.order != "random"
        and not vices.ignores
        and vices.reconciles != "always-equal"
        and not vices.withholds
        # the newest event ahead of the oldest ones looks like a page that went down to these
        and not (vices.pinned and vices.order == "oldest")
        # its word was true, and is believed for a while
        and not (vices.finishes_always and any(v.hints or v.finishes_always for v in earlier))
    )


def is_large(event: Held) -> bool:
    return len(event["content"]) > MOST_BYTES


def is_heard(turn: Turn) -> bool:
    """Whether all that the relay sends was asked for, and arrives within the visit."""
    vices = turn.vices
    cuts = (vices.drop_after, vices.drop_after_pages, vices.max_message_bytes, turn.killed_at)
    is_cut = vices.reconciles == "cut" or any(cut is not None for cut in cuts)
    is_unasked = vices.ignores or vices.extras or vices.pinned or vices.late
    return not (is_cut or is_unasked)


@dataclass
class Epoch:
    """What the relay had while no time passed: throughout, and at all."""

    at: int
    always: set[str]
    ever: set[str]
    is_noticeable: bool = True


class Clock:
    """What takes the place of time.time."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return float(self.now)


async def lateness() -> float:
    """The most seconds that this loop, the relay's as well, was late by, until cancelled: a busy
    machine lets an honest answer come too late."""
    most = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            due = time.perf_counter() + BEAT_S
            await asyncio.sleep(BEAT_S)
            most = max(most, time.perf_counter() - due)
    return max(most, time.perf_counter() - due)


class Campaign:
    """A story, told."""

    def __init__(self, story: Story, brotr: Brotr, relay: ScriptedRelay, clock: Clock) -> None:
        self.story, self.brotr, self.relay, self.clock = story, brotr, relay, clock
        self.url = Relay(relay.url).url
        self.made: dict[str, Held] = {each["id"]: each for each in relay.events}
        self.epochs: list[Epoch] = []
        self.told: list[Vices] = []
        self.is_in_time = True  # the last visit ended by itself, before any time was over
        self.heard: set[str] = set()  # what was sent in the last visit, if all of it has arrived
        self.rewalks, self.page_limit = story.rewalks, story.page_limit

    @property
    def has(self) -> set[str]:
        return {each["id"] for each in self.relay.events}

    def config(self) -> Config:
        return Config(
            networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=TIMEOUT_S)),
            synchronizer=SynchronizerSettings(
                settle_s=0,
                live=False,
                audit_s=7200,
                lookback_s=20_000,
                rewalk_s=7200 if self.rewalks else 0,
                page_limit=self.page_limit,
                max_event_bytes=MOST_BYTES,
                reconcile=self.story.reconciles,
            ),
        )

    async def begin(self) -> None:
        """An archive that knows some of it, and other events, from another relay."""
        others = [make_event(BEGIN + 700 * n, content=f"other {n}", key=n % 4) for n in range(30)]
        ours = list(self.relay.events)
        known = [each for n, each in enumerate(ours) if n % 4 < self.story.known]
        events = [
            EventRelay(Event.from_json(wire(each)), OTHER, BEGIN)
            for each in [*others, *known]
            if len(each["content"]) <= MOST_BYTES
        ]
        self.made |= {each["id"]: Held(each) for each in others}
        if self.story.known:
            await self.brotr.insert_events(events)
        await self.brotr.pool.execute("DELETE FROM bigbrotr.visits")
        await self.brotr.insert_relays([Relay(self.url)])

    def change(self, turn: Turn, during: "Epoch | None") -> None:
        """The relay loses events, and gains others."""
        kept = [each for n, each in enumerate(self.relay.events) if n % 7 not in turn.gone]
        for offset in turn.added:
            n = len(self.made)
            each = Held(make_event(BEGIN + offset, content=f"added {n}", key=n % 4))
            self.made[each["id"]] = each
            kept.append(each)
        self.relay.events[:] = kept
        if during is not None:
            during.always &= self.has
            during.ever |= self.has

    def begin_epoch(self) -> None:
        if self.epochs:
            self.clock.now += EPOCH_S
        self.epochs.append(Epoch(self.clock.now, self.has, self.has))

    async def visit(self, turn: Turn) -> None:
        """What happens between two visits, and the next one."""
        if turn.is_new_epoch or not self.epochs:
            if not turn.is_late:
                self.change(turn, during=None)
            self.begin_epoch()
        elif not turn.is_late:
            self.change(turn, during=self.epochs[-1])
        some, none = frozenset(sorted(self.has)[::5]), frozenset[str]()
        vices = replace(
            turn.vices,
            hides=some if turn.lie == "hides" else none,
            withholds=some if turn.lie == "withholds" else none,
        )
        epoch = self.epochs[-1]
        epoch.is_noticeable = epoch.is_noticeable and is_noticeable(vices, self.told)
        self.told.append(vices)
        # Who shows nothing does not show what is malformed either.
        is_shown = not vices.empty_when_broad and not vices.empty_unless
        self.relay.stray_frames = [MALFORMED] if self.story.has_malformed and is_shown else []
        await self.work(turn._replace(vices=vices))
        self.heard = self.relay.seen.shown if self.is_in_time and is_heard(turn) else set()

    async def work(self, turn: Turn) -> None:
        """One visit, and what happens in its midst."""
        politeness_of.cache_clear()
        self.relay.vices = turn.vices
        self.relay.seen.shown.clear()
        await self.brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        await self.brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        await self.brotr.pool.execute("UPDATE bigbrotr.withheld SET due_at = 0")
        await self.brotr.pool.execute("UPDATE bigbrotr.reconciliation SET due_at = 0")
        task = asyncio.create_task(Worker(self.config(), self.brotr).work(ORDER))
        questions = 0

        def at_question() -> None:
            nonlocal questions
            questions += 1
            if questions == 2 and turn.is_late:
                self.change(turn, during=self.epochs[-1])
            if questions == turn.killed_at:
                task.cancel()

        self.relay.at_question = at_question
        beat = asyncio.create_task(lateness())
        began = time.perf_counter()
        with suppress(asyncio.CancelledError):
            await task
        is_short = time.perf_counter() - began < ORDER.seconds
        beat.cancel()
        self.is_in_time = is_short and await beat < TIMEOUT_S / 3

    async def look(self) -> "Found":
        """What the archive says, at one moment: what a visit was about to write when it was cut off
        may still be written."""
        async with self.brotr.pool.transaction() as archive:
            await archive.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

            async def ask(query: str) -> list[Any]:
                rows = await archive.fetch(query.replace("RELAY", f"'{self.url}'"))
                return [row[0] if len(row) == 1 else tuple(row) for row in rows]

            of_relay = "relay_id = (SELECT id FROM bigbrotr.relays WHERE url = RELAY)"
            return Found(
                dict(await ask("SELECT encode(id, 'hex'), content FROM bigbrotr.events")),
                set(
                    await ask(
                        "SELECT encode(event_id, 'hex')"
                        " FROM bigbrotr.events_relays WHERE relay_url = RELAY"
                    )
                ),
                await ask(
                    "SELECT lower(span), upper(span), proven_at"
                    f" FROM bigbrotr.coverage, unnest(proven) AS span WHERE {of_relay}"
                ),
                set(
                    await ask(
                        f"SELECT encode(event_id, 'hex') FROM bigbrotr.withheld WHERE {of_relay}"
                    )
                ),
                await ask(
                    f"SELECT reason, detail, lower(span) FROM bigbrotr.gaps WHERE {of_relay}"
                ),
            )

    async def check(self) -> None:
        found = await self.look()
        for event_id, content in found.archived.items():
            assert event_id in self.made, f"archived, and never made: {event_id}"
            assert content == self.made[event_id]["content"]
        lost = {i for i in self.heard if i not in found.archived and not is_large(self.made[i])}
        assert not lost, f"shown, and not archived: {lost}"
        ever: set[str] = set().union(*(epoch.ever for epoch in self.epochs))
        assert found.pairs <= ever, f"held, it says, what was never there: {found.pairs - ever}"
        for event_id in ever:
            self.check_one(event_id, found)

    def check_one(self, event_id: str, found: "Found") -> None:
        at = self.made[event_id]["created_at"]
        proven_at = max(
            (p for since, until, p in found.proofs if since <= at < until), default=None
        )
        if proven_at is None:
            return
        epochs = [epoch for epoch in self.epochs if epoch.at >= proven_at]
        first = epochs[0]
        assert first.at == proven_at
        words = f"event at {at - BEGIN}, proven in epoch {self.epochs.index(first)}"
        if not first.is_noticeable:
            return
        if all(event_id in epoch.always for epoch in epochs):
            assert event_id in found.pairs or event_id in found.withheld, f"lost: {words}"
        elif not any(event_id in epoch.ever for epoch in epochs):
            assert event_id not in found.pairs, f"false pair: {words}"

    async def check_where(self) -> None:
        """Nothing is said to be absent at a time at which it was there throughout."""
        for event_id in set().union(*(epoch.ever for epoch in self.epochs)):
            made = self.made[event_id]
            if is_large(made):
                continue
            known = await where.known(self.brotr.pool, bytes.fromhex(event_id))
            as_wire = Event.from_json(wire(made))
            places = locate(as_wire, known)  # type: ignore[arg-type]
            for each in places.absent:
                for epoch in self.epochs:
                    if each.relay == self.url and epoch.at == each.as_of and epoch.is_noticeable:
                        assert event_id not in epoch.always, f"not absent: {made['created_at']}"

    async def heal(self) -> None:
        """An honest relay is archived exactly, whatever it was."""
        self.relay.stray_frames = []
        self.rewalks, self.page_limit = True, 500
        for _ in range(HEALING):
            self.begin_epoch()
            self.clock.now += 90 * 86_400
            await self.work(HONEST)
            found = await self.look()
            wanted = {each["id"] for each in self.relay.events if not is_large(each)}
            # Beside an event that is too large nobody can tell what it has dropped, nor in a second
            # that was too full for a relay that had no order once.
            full = [gap[2] for gap in found.gaps if gap[0] in ("oversize", "overflow")]
            more = {i for i in found.pairs - wanted if self.made[i]["created_at"] not in full}
            left = {gap[0] for gap in found.gaps} - {"oversize", "overflow"}
            if found.pairs >= wanted and not more and not left:
                return
        note(f"{found.gaps}")
        assert wanted <= found.pairs, "not healed: it has more"
        assert not more, "not healed: it has less"
        assert not left, "not healed: nothing stands in the way of a proof"


class Found(NamedTuple):
    """What the archive says of the relay."""

    archived: dict[str, str]
    pairs: set[str]
    proofs: list[tuple[int, int, int]]
    withheld: set[str]
    gaps: list[tuple[Any, ...]]


def events_of(story: Story) -> list[dict[str, Any]]:
    events = [
        make_event(BEGIN + offset, kind=(1, 7, 1111)[n % 3], content=f"{place}/{n}", key=n % 4)
        for place, (offset, size) in enumerate(story.bursts)
        for n in range(size)
    ]
    if story.has_large:
        events.append(make_event(BEGIN + story.bursts[0][0], content="x" * TOO_LARGE))
    return events


TABLES = (
    *("events", "events_raw", "presence", "dropped", "rejected", "candidates", "mentions"),
    *("tallies", "visits", "coverage", "gaps", "reconciliation", "digests", "withheld", "relays"),
)


async def clear(brotr: Brotr) -> None:
    """Empties the database: a new one would cost more than a story."""
    for table in TABLES:
        await brotr.pool.execute(f"DELETE FROM bigbrotr.{table}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time stands still; small archives are worth what large ones are; nothing lingers."""
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(pages, "LINGER_S", 0.1)
    monkeypatch.setattr(conversation, "MOST_RETURNS", 6)
    monkeypatch.setattr(reconcile, "WORTHWHILE", 20)
    monkeypatch.setattr(reconcile, "PROBE", 6)
    monkeypatch.setattr(reconcile, "FEWEST_ITEMS", 8)
    monkeypatch.setattr(holdings, "MARKED", 25)
    monkeypatch.setattr(holdings, "MERGED_ITEMS", 60)
    return clock


async def tell(
    story: Story, brotr: Brotr, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Any, ...]]:
    """Tells a story, and holds it against the oracle; returns the gaps that it has left."""
    await clear(brotr)
    clock.now = START
    async with ScriptedRelay(events_of(story)) as relay:
        campaign = Campaign(story, brotr, relay, clock)
        await campaign.begin()
        for turn in story.turns:
            await campaign.visit(turn)
            await campaign.check()
        await campaign.check_where()
        left = (await campaign.look()).gaps
        with monkeypatch.context() as patched:
            patched.setattr(visit, "PLAIN_AGAIN", 1)
            await campaign.heal()
    return left


@pytest.mark.slow
@pytest.mark.timeout(0 if IS_EXPLORING else 240)
@settings(
    max_examples=2000 if IS_EXPLORING else 80,
    # Stories are long to shrink, and short to read: what they have to say, they say at once.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=stories)
@example(story=CUT)
@example(story=CEASED)
@example(story=NONSENSE)
@example(story=HIDDEN)
async def test_campaign(
    brotr: Brotr, clock: Clock, monkeypatch: pytest.MonkeyPatch, story: Story
) -> None:
    gaps = await tell(story, brotr, clock, monkeypatch)
    event(" ".join(sorted({reason for reason, *_ in gaps})) or "all proven")
