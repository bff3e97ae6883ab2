"""The walk over a relay's past, against a deliberately stupid relay with vices."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from bigbrotr.models.coverage import Gap, How, Proof, Span, merge, uncovered
from bigbrotr.nostr.paging import Paging
from bigbrotr.nostr.questions import (
    WHENEVER,
    End,
    GapReason,
    Habits,
    PageAnswer,
    Pending,
    Probe,
    Question,
)
from tests.kit.model import Event, Order, Reply, Vices, matches, respond

ENDS = {
    "eose": End.EOSE,
    "closed": End.CLOSED,
    "silence": End.TIMEOUT,
    "drop": End.CUT,
}


def note(created_at: int, nonce: int = 0, kind: int = 1) -> Event:
    """An event as far as the model looks: it is never hashed here."""
    return {
        "id": f"{created_at:032x}{nonce:032x}",
        "pubkey": "",
        "created_at": created_at,
        "kind": kind,
        "tags": [],
    }


def wire_filter(ask: Question) -> dict[str, Any]:
    wanted: dict[str, Any] = {"since": ask.since, "limit": ask.limit}
    if ask.until is not None:
        wanted["until"] = ask.until
    if ask.probe in WHENEVER:
        wanted = {"limit": ask.limit}
    if ask.probe is Probe.KINDS:
        wanted["kinds"] = [0, 1, 3, 10002]
    if ask.probe is Probe.KNOWN:
        wanted["authors"] = [""]
    return wanted


def answer_to(reply: Reply, ask: Question) -> PageAnswer:
    """What the edge makes of a relay's reply: it drops repeats and counts what does not match."""
    distinct = list({event["id"]: event for event in reply.events}.values())
    right = [event for event in distinct if matches(event, wire_filter(ask))]
    return PageAnswer(
        created_ats=[event["created_at"] for event in right],
        off_filter=len(distinct) - len(right),
        repeats=len(reply.events) - len(distinct),
        end=ENDS[reply.end],
        reason=reply.reason,
        finish="finish" in reply.hints,
        more="more" in reply.hints,
        elapsed_s=reply.elapsed_s,
    )


@dataclass
class Drive:
    """A whole walk: what was asked, found, proven and given up."""

    wanted: Span
    asks: list[Question] = field(default_factory=list)
    found: set[str] = field(default_factory=set)
    proven: list[Proof] = field(default_factory=list)
    taken_back: int = 0  # times that proofs were
    gaps: list[Gap] = field(default_factory=list)

    @property
    def certain(self) -> list[Span]:
        return merge(span for span, _ in self.proven)

    @property
    def reasons(self) -> set[str]:
        return {gap.reason for gap in self.gaps}


def drive(
    paging: Paging,
    wanted: Span,
    events: Sequence[Event],
    vices: Vices | Callable[[Question], Vices],
    patience: int = 1000,
    *,
    is_strict: bool = True,
) -> Drive:
    walk = Drive(wanted)
    cuts = 0
    while (ask := paging.ask()) is not None:
        assert paging.ask() == ask
        walk.asks.append(ask)
        has = vices if isinstance(vices, Vices) else vices(ask)
        reply = respond(events, wire_filter(ask), has)
        known = {event["id"] for event in reply.events}
        walk.found |= known
        answer = answer_to(reply, ask)
        cuts += answer.end is End.CUT
        # an event that was found is never to be claimed missing: proofs are checked at once
        progress = paging.answer(answer)
        if progress.retracted:
            walk.taken_back += 1
            walk.proven = [
                Proof(rest, how)
                for span, how in walk.proven
                for rest in uncovered(span, progress.retracted)
            ]
        walk.proven += progress.proven
        walk.gaps += progress.gaps
        missed = {
            event["id"]
            for event in events
            if any(span.since <= event["created_at"] < span.until for span, _ in progress.proven)
        } - walk.found
        assert not missed or not is_strict, f"claimed as proven, yet missed: {missed}"
        if cuts > patience:
            progress = paging.give_up(GapReason.CUT, "cut too often")
            walk.proven += progress.proven
            walk.gaps += progress.gaps
    return walk


def check(walk: Drive, events: Sequence[Event]) -> None:
    """No third state: every wanted second is proven or a gap, once; nothing is lost."""
    spans = [span for span, _ in walk.proven] + [gap.span for gap in walk.gaps]
    assert all(span.since < span.until for span in spans)
    assert sum(span.until - span.since for span in spans) == walk.wanted.until - walk.wanted.since
    assert merge(spans) == [walk.wanted]
    within_gaps = {
        event["id"]
        for event in events
        if any(gap.span.since <= event["created_at"] < gap.span.until for gap in walk.gaps)
    }
    wanted = {
        event["id"]
        for event in events
        if walk.wanted.since <= event["created_at"] < walk.wanted.until
    }
    assert walk.found | within_gaps >= wanted
    assert len(walk.asks) <= 64 + 16 * max(1, len(events)) * 2


TOP = 60  # small, so that seconds collide


@st.composite
def archives(draw: st.DrawFn, top: int = TOP + 10) -> list[Event]:
    times = draw(st.lists(st.integers(0, top), max_size=60))
    return [note(t, nonce) for nonce, t in enumerate(times)]


wanteds = st.tuples(st.integers(0, TOP), st.integers(0, TOP)).map(
    lambda ends: Span(min(ends), max(ends) + 1)
)


@st.composite
def vicious(draw: st.DrawFn) -> Vices:
    """Any sensible combination: an order and pick that leave disorder visible."""
    orders: list[Order] = ["newest", "oldest", "random"]
    order = draw(st.sampled_from(orders))
    picks = orders if order == "random" else orders[:2]
    pick = draw(st.sampled_from(picks))
    # few shuffled events look like order, and a relay's own filter may leave few
    ignorable = ["limit"] if order == "random" else ["since", "until", "limit"]
    clamp = draw(st.one_of(st.none(), st.integers(3 if order == "random" else 1, 25)))
    # and so does the beginning of one
    is_cut_short = draw(st.booleans()) and pick == order != "random"
    return Vices(
        clamp=clamp,
        pick=pick,
        order=order,
        until_excluded=draw(st.booleans()),
        ignores=draw(st.frozensets(st.sampled_from(ignorable))),
        repeats=draw(st.sampled_from([0, 0, 2, 5])) if order != "random" else 0,
        page_bytes=draw(st.sampled_from([None, 1000, 4000])) if pick == order != "random" else None,
        extras=draw(st.sampled_from([0, 0, 1, 3])),
        pinned=draw(st.sampled_from([0, 0, 1, 3])),
        hints=draw(st.booleans()),
        finishes_always=draw(st.sampled_from([False, False, True])),
        no_eose=draw(st.sampled_from([False, False, True])),
        closed_after=draw(st.sampled_from([None, 1, 3, 8])) if is_cut_short else None,
        drop_after=draw(st.sampled_from([None, 1, 2, 5])) if is_cut_short else None,
        slow_s=29.0,
    )


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    events=archives(),
    wanted=wanteds,
    vices=vicious(),
    limit=st.sampled_from([5, 20, 500]),
    open_top=st.booleans(),
    patience=st.sampled_from([0, 2, 1000]),
)
def test_finds_everything_or_records_a_gap(
    events: list[Event], wanted: Span, vices: Vices, limit: int, open_top: bool, patience: int
) -> None:
    paging = Paging(wanted, limit=limit, open_top=open_top, smallest_clamp=1)
    walk = drive(paging, wanted, events, vices, patience)
    event(" ".join(sorted(walk.reasons)) or "all proven")
    check(walk, events)


@settings(max_examples=200, deadline=None)
@given(
    events=archives(),
    wanted=wanteds,
    clamps=st.lists(st.integers(1, 25), min_size=1, max_size=6),
    repeats=st.sampled_from([0, 3]),
    order=st.sampled_from(["newest", "oldest"]),
    open_top=st.booleans(),
)
def test_a_clamp_that_is_another_each_time(
    events: list[Event],
    wanted: Span,
    clamps: list[int],
    repeats: int,
    order: Order,
    open_top: bool,
) -> None:
    asks = 0

    def vices(_: Question) -> Vices:
        nonlocal asks
        asks += 1
        clamp = clamps[asks % len(clamps)]
        return Vices(clamp=clamp, repeats=repeats, order=order, pick=order)

    paging = Paging(wanted, open_top=open_top, smallest_clamp=1)
    check(drive(paging, wanted, events, vices), events)


@settings(max_examples=300, deadline=None)
@given(
    events=archives(),
    wanted=wanteds,
    # Pages of a few events look orderly or not by chance: such a relay may keep a gap.
    clamp=st.one_of(st.none(), st.integers(6, 30)),
    limit=st.sampled_from([10, 500]),
    open_top=st.booleans(),
    hints=st.booleans(),
    until_excluded=st.booleans(),
    order=st.sampled_from(["newest", "oldest"]),
)
def test_an_orderly_relay_ends_without_a_gap(
    events: list[Event],
    wanted: Span,
    clamp: int | None,
    limit: int,
    open_top: bool,
    hints: bool,
    until_excluded: bool,
    order: Order,
) -> None:
    fullest = max(Counter(event["created_at"] for event in events).values(), default=0)
    assume(fullest < min(clamp or limit, limit, 10))
    vices = Vices(clamp=clamp, hints=hints, until_excluded=until_excluded, order=order, pick=order)
    walk = drive(Paging(wanted, limit=limit, open_top=open_top), wanted, events, vices)
    check(walk, events)
    assert walk.gaps == []
    assert walk.certain == [wanted]


@settings(max_examples=100, deadline=None)
@given(events=archives(), wanted=wanteds, below=st.integers(0, TOP), clamp=st.integers(3, 20))
def test_a_relay_that_slows_down_and_then_looks_empty(
    events: list[Event], wanted: Span, below: int, clamp: int
) -> None:
    assume(below < wanted.until)
    vices = Vices(clamp=clamp, empty_below=below, slow_s=29.0)
    walk = drive(Paging(wanted, smallest_clamp=1), wanted, events, vices)
    check(walk, events)


@settings(max_examples=100, deadline=None)
@given(events=archives(), wanted=wanteds)
def test_a_relay_that_is_empty_when_asked_broadly(events: list[Event], wanted: Span) -> None:
    walk = drive(Paging(wanted), wanted, events, Vices(empty_when_broad=True))
    check(walk, events)
    assert walk.reasons == ({GapReason.SUSPECTED_EMPTY} if events else set())


@settings(max_examples=100, deadline=None)
@given(
    events=archives(),
    wanted=wanteds,
    clamp=st.integers(8, 30),
    pick=st.sampled_from(["newest", "oldest", "random"]),
)
def test_a_relay_without_order_is_archived_too(
    events: list[Event], wanted: Span, clamp: int, pick: Order
) -> None:
    fullest = max(Counter(event["created_at"] for event in events).values(), default=0)
    assume(fullest < min(clamp, 5))
    vices = Vices(clamp=clamp, order="random", pick=pick)
    walk = drive(Paging(wanted), wanted, events, vices)
    check(walk, events)
    inside = {e["id"] for e in events if wanted.since <= e["created_at"] < wanted.until}
    assert inside <= walk.found


@settings(max_examples=300, deadline=None)
@given(data=st.data(), wanted=wanteds, open_top=st.booleans())
def test_a_hostile_relay_cannot_keep_it_busy(
    data: st.DataObject, wanted: Span, open_top: bool
) -> None:
    paging = Paging(wanted, open_top=open_top, limit=5)
    received = asks = 0
    spans: list[Span] = []
    while paging.ask() is not None:
        asks += 1
        times = data.draw(st.lists(st.integers(-5, TOP + 20), max_size=6))
        received += len(times)
        progress = paging.answer(
            PageAnswer(
                times,
                data.draw(st.sampled_from(End)),
                off_filter=data.draw(st.integers(0, 3)),
                finish=data.draw(st.booleans()),
                more=data.draw(st.booleans()),
                elapsed_s=data.draw(st.sampled_from([0.1, 30.0])),
            )
        )
        spans += [span for span, _ in progress.proven] + [gap.span for gap in progress.gaps]
        assert asks <= 65 + 16 * received
    assert sum(span.until - span.since for span in spans) == wanted.until - wanted.since
    assert merge(spans) == [wanted]


def walk_of(events: Sequence[Event], vices: Vices, wanted: Span, **options: Any) -> Drive:
    walk = drive(Paging(wanted, **options), wanted, events, vices)
    check(walk, events)
    return walk


LINE = [note(1000 + 3 * n, n) for n in range(1000)]
ALL = Span(0, 10_000)


def test_a_long_history_costs_three_asks_more_than_its_pages() -> None:
    walk = walk_of(LINE, Vices(clamp=100), ALL, open_top=True)
    assert len(walk.asks) <= 1000 / 100 + 4
    assert walk.asks[0] == Question(0, None, 500)
    assert walk.certain == [ALL]
    assert walk.gaps == []


def test_what_is_proven_is_told_on_the_way() -> None:
    paging = Paging(ALL, limit=4)
    assert paging.ask() == Question(0, 10_000, 4)
    assert paging.answer(PageAnswer([90, 80, 80, 70], End.EOSE)).proven == []
    assert paging.ask() == Question(0, 70, 4)
    assert merge(s for s, _ in paging.answer(PageAnswer([70, 60, 50], End.EOSE)).proven) == [
        Span(70, 10_000)
    ]
    assert paging.ask() == Question(0, 50, 4)
    assert paging.answer(PageAnswer([50], End.EOSE)).proven == []
    assert paging.ask() == Question(0, 49, 4)
    assert merge(s for s, _ in paging.answer(PageAnswer([], End.EOSE)).proven) == [Span(0, 70)]
    assert paging.ask() is None


def test_finish_is_tested_and_then_ends_the_walk() -> None:
    walk = walk_of(LINE[:50], Vices(hints=True), ALL, habits=Habits(newest_first=True))
    assert [ask.probe for ask in walk.asks] == [None, Probe.FINISH]
    assert walk.proven == [(ALL, How.FINISH)]
    paging = Paging(ALL, habits=Habits(finishes=1, newest_first=True), believes_finish=True)
    walk = drive(paging, ALL, LINE[:50], Vices(hints=True))
    assert len(walk.asks) == 1
    assert walk.proven == [(ALL, How.FINISH)]


def test_finish_that_is_not_true_is_found_out() -> None:
    paging = Paging(ALL)
    walk = drive(paging, ALL, LINE, Vices(clamp=100, finishes_always=True))
    check(walk, LINE)
    assert len(walk.found) == len(LINE)
    assert {how for _, how in walk.proven} == {How.PAGING}
    assert paging.lies == {How.FINISH}
    assert paging.habits.finishes == -1


def test_a_random_choice_that_is_sorted_is_found_out() -> None:
    vices = Vices(clamp=100, pick="random")
    paging = Paging(ALL)
    walk = drive(paging, ALL, LINE, vices, is_strict=False)
    assert paging.lies == {How.PAGING}
    check(walk, LINE)
    assert paging.habits.disorderly
    again = Paging(ALL, habits=paging.habits)
    check(drive(again, ALL, LINE, vices), LINE)


def test_what_looked_proven_is_taken_back_when_a_relay_is_found_to_pick_at_random() -> None:
    paging = Paging(ALL, check_after=3)

    def vices(ask: Question) -> Vices:
        is_honest = not paging.lies and (ask.until or 10_000) > 3200
        return Vices(clamp=100, pick="newest" if is_honest else "random")

    walk = drive(paging, ALL, LINE, vices, is_strict=False)
    assert paging.lies == {How.PAGING}
    assert walk.taken_back == 1
    check(walk, LINE)


def test_a_part_is_asked_for_again_now_and_then() -> None:
    long = [note(1000 + 3 * n, n) for n in range(7000)]
    walk = walk_of(long, Vices(clamp=100), Span(0, 30_000))
    assert sum(ask.probe is Probe.AGAIN for ask in walk.asks) == 2
    assert walk.gaps == []


def test_an_event_that_came_meanwhile_is_no_lie() -> None:
    paging = Paging(Span(0, 1000))
    paging.ask()
    paging.answer(PageAnswer(list(range(600, 500, -1)), End.EOSE))
    ask = paging.ask()
    assert ask is not None
    assert ask.probe is Probe.AGAIN
    assert ask.until is not None
    now = sorted([*range(ask.since, ask.until + 1), 550], reverse=True)
    paging.answer(PageAnswer(now, End.EOSE))
    ask = paging.ask()
    assert ask is not None
    assert ask.probe is Probe.PART
    assert ask.until is not None
    paging.answer(PageAnswer([t for t in now if ask.since <= t <= ask.until], End.EOSE))
    assert paging.lies == set()


def test_more_events_in_one_second_than_the_relay_hands_out() -> None:
    burst = [note(2000, 10_000 + n) for n in range(300)]
    walk = walk_of([*LINE, *burst], Vices(clamp=100), ALL)
    assert [gap.span for gap in walk.gaps] == [Span(2000, 2001)]
    assert walk.reasons == {GapReason.OVERFLOW}


@pytest.mark.parametrize(
    ("burst", "vices"),
    [
        (30, Vices(clamp=20)),  # it has shrunk: the walks before were shown 100 at once
        (30, Vices(clamp=100, repeats=5)),  # an event takes five places
        (8, Vices(clamp=5)),
        (30, Vices(page_bytes=18 * 250)),
    ],
)
@pytest.mark.parametrize("second", [999, 2000, 5000])  # below, among and above the others
def test_a_second_that_was_cut_is_never_proven(burst: int, vices: Vices, second: int) -> None:
    events = [*LINE, *(note(second, 10_000 + n) for n in range(burst))]
    habits = Habits(newest_first=True, is_open=True)
    walk = walk_of(events, vices, ALL, habits=habits)
    assert [gap.span for gap in walk.gaps] == [Span(second, second + 1)]
    assert len(walk.found) < len(events)
    # ... nor when it is asked for alone, or as the last one
    for wanted in (Span(second, second + 1), Span(second, 10_000), Span(0, second + 1)):
        walk = walk_of(events, vices, wanted, habits=habits)
        assert [gap.span for gap in walk.gaps] == [Span(second, second + 1)]


def test_a_clamp_that_shrinks_on_the_way() -> None:
    events = [*LINE, *(note(2000, 10_000 + n) for n in range(30))]

    def vices(ask: Question) -> Vices:
        return Vices(clamp=100 if ask.until is None or ask.until > 2000 else 20)

    walk = drive(Paging(ALL), ALL, events, vices)
    check(walk, events)
    assert [gap.span for gap in walk.gaps] == [Span(2000, 2001)]


def test_a_second_alone_is_believed_once_more_could_have_come() -> None:
    burst = [note(2000, n) for n in range(90)]
    wanted = Span(2000, 2001)
    # All that the relay has lies in one second: who knows how much it hands out?
    assert walk_of(burst, Vices(clamp=100), wanted).reasons == {GapReason.OVERFLOW}
    assert walk_of(burst[:9], Vices(clamp=100), wanted).gaps == []
    for other in (note(1000, 999), note(3000, 999)):
        assert walk_of([*burst, other], Vices(clamp=100), wanted).gaps == []
    assert walk_of([*burst, note(1000, 999)], Vices(clamp=90), wanted).certain == []


@pytest.mark.parametrize(
    ("vices", "reason"),
    [
        (Vices(refuses="auth-required: who?"), GapReason.CLOSED),
        (Vices(ignores=frozenset({"since", "until"})), GapReason.IGNORES_FILTER),
        (Vices(empty_when_broad=True), GapReason.SUSPECTED_EMPTY),
    ],
)
def test_a_relay_that_shows_nothing(vices: Vices, reason: GapReason) -> None:
    wanted = Span(2000, 2001) if vices.ignores else ALL
    walk = walk_of(LINE, vices, wanted)
    assert [(gap.span, gap.reason) for gap in walk.gaps] == [(wanted, reason)]
    assert walk.gaps[0].detail != ""


def test_a_relay_that_never_says_eose_is_archived_but_for_the_rest() -> None:
    walk = walk_of(LINE, Vices(clamp=100, no_eose=True), ALL)
    assert len(walk.found) == len(LINE)
    assert walk.reasons == {GapReason.TIMEOUT}
    assert sum(gap.span.until - gap.span.since for gap in walk.gaps) < 1500


def test_a_relay_that_slows_down_by_degrees_and_then_looks_empty_is_not_believed() -> None:
    walk = walk_of(LINE, Vices(clamp=100, empty_below=2000, slow_s=29.0), ALL)
    assert walk.reasons == {GapReason.SUSPECTED_EMPTY}
    assert walk.certain[0].since >= 2000


def test_an_empty_answer_against_what_the_archive_knows() -> None:
    walk = walk_of([], Vices(), ALL, expects_events=True)
    assert [gap.reason for gap in walk.gaps] == [GapReason.SUSPECTED_EMPTY]


def test_what_shows_nothing_is_believed_only_after_it_could_have_shown_something() -> None:
    def probes(knows_others: bool, *answers: PageAnswer) -> tuple[list[Probe | None], set[str]]:
        paging = Paging(Span(0, 100), knows_others=knows_others)
        asked, reasons = [], set()
        for answer in (PageAnswer([], End.EOSE), *answers):
            ask = paging.ask()
            assert ask is not None
            asked.append(ask.probe)
            reasons |= {gap.reason for gap in paging.answer(answer).gaps}
        assert paging.ask() is None
        return asked, reasons

    nothing, something = PageAnswer([], End.EOSE), PageAnswer([1000], End.EOSE)
    chain = [None, Probe.ANY, Probe.KINDS, Probe.KNOWN]
    assert probes(True, nothing, nothing, nothing) == (chain, set())
    assert probes(False, nothing, nothing) == (chain[:3], {GapReason.SUSPECTED_EMPTY})
    assert probes(True, something) == (chain[:2], set())  # it shows events to anybody
    assert probes(True, nothing, something)[1] == {GapReason.SUSPECTED_EMPTY}
    assert probes(True, nothing, nothing, something)[1] == {GapReason.SUSPECTED_EMPTY}
    assert probes(True, PageAnswer([], End.EOSE, more=True))[1] == {GapReason.SUSPECTED_EMPTY}
    refused = PageAnswer([], End.CLOSED, reason="blocked: no")
    assert probes(True, refused)[1] == {GapReason.CLOSED}


@pytest.mark.parametrize("pinned", [1, 3])
def test_what_is_added_to_each_answer_is_no_sign_of_a_filter_that_is_not_heeded(
    pinned: int,
) -> None:
    paging = Paging(ALL)
    vices = Vices(pinned=pinned, clamp=100)
    walk = drive(paging, ALL, LINE, vices)
    check(walk, LINE)
    assert walk.gaps == []
    assert paging.habits.pinned == pinned
    # Nothing else came since: that is known of the relay by then.
    later = Span(5000, 6000)
    assert drive(Paging(later, habits=paging.habits), later, LINE, vices).gaps == []
    ignoring = Vices(ignores=frozenset({"until"}), clamp=3)
    assert GapReason.IGNORES_FILTER in walk_of(LINE, ignoring, ALL).reasons


def test_events_that_are_none_take_places_and_prove_nothing() -> None:
    for malformed, reasons in ((1, set()), (50, {GapReason.MALFORMED})):
        paging = Paging(Span(0, 100), habits=Habits(newest_first=True, is_open=True))
        gaps: list[Gap] = []
        for times in ([50, 40], [40], []):
            assert paging.ask() is not None
            gaps += paging.answer(PageAnswer(times, End.EOSE, malformed=malformed)).gaps
        assert paging.ask() is None
        assert {gap.reason for gap in gaps} == reasons


def test_an_event_that_is_too_large_costs_its_second() -> None:
    paging = Paging(Span(0, 100), habits=Habits(newest_first=True, is_open=True))
    proven: list[Proof] = []
    gaps: list[Gap] = []
    for times, oversized in (([50, 45, 40], [45]), ([40], []), ([], [])):
        assert paging.ask() is not None
        progress = paging.answer(PageAnswer(times, End.EOSE, oversized=oversized))
        proven += progress.proven
        gaps += progress.gaps
    assert [(gap.span, gap.reason) for gap in gaps] == [(Span(45, 46), GapReason.OVERSIZE)]
    assert merge(span for span, _ in proven) == [Span(0, 45), Span(46, 100)]


def test_seconds_with_events_that_came_late_are_not_proven() -> None:
    paging = Paging(Span(0, 100), habits=Habits(newest_first=True, is_open=True))
    paging.ask()
    paging.answer(PageAnswer([50, 40], End.EOSE))
    paging.doubt([45])
    paging.ask()
    progress = paging.answer(PageAnswer([40, 30], End.EOSE))
    assert [(gap.span, gap.reason) for gap in progress.gaps] == [(Span(45, 46), GapReason.LATE)]
    again = paging.start_over()
    assert merge(again.retracted) == [Span(40, 100)]
    assert paging.ask() == Question(0, 100, 500)


@pytest.mark.parametrize("is_late", [True, False])
def test_what_a_walk_doubts_is_not_taken_up_by_the_next(is_late: bool) -> None:
    paging = Paging(Span(0, 100), habits=Habits(newest_first=True, is_open=True))
    paging.ask()
    paging.answer(PageAnswer([50, 45, 40], End.EOSE, oversized=[] if is_late else [45]))
    if is_late:
        paging.doubt([45])
    again = Paging(Span(0, 100), habits=paging.habits)
    assert again.pending is not None
    assert again.pending.span == Span(41, 45)
    again.ask()
    progress = again.answer(PageAnswer([40, 30], End.EOSE))
    assert merge(span for span, _ in progress.proven) == [Span(40, 45)]


def test_what_was_pending_elsewhere_is_not_whole_either_where_answers_are_not() -> None:
    habits = Habits(newest_first=True, is_open=True, pending=Pending(500, 600))
    paging = Paging(Span(0, 100), habits=habits)
    assert paging.habits.pending == habits.pending
    paging.ask()
    paging.answer(PageAnswer([50, 40], End.EOSE))
    paging.start_over()
    assert paging.habits.pending is None


@pytest.mark.parametrize("answers", [1, 2])
def test_interrupted_walks_together_get_to_the_end(answers: int) -> None:
    """Each walk is cut after so many answers, and the next one takes up what it was shown."""
    # With one answer each, it is never known whether the last second was cut, if it stands alone.
    events = [*LINE[:350], *(note(1000, 5000 + n) for n in range(3 * (answers - 1)))]
    vices, left, habits = Vices(clamp=60), [ALL], Habits()
    for _ in range(40):
        walks = sorted(
            left,
            key=lambda span: (
                habits.pending is None
                or not (span.since < habits.pending.since < habits.pending.until <= span.until)
            ),
        )
        done: list[Span] = []
        for wanted in walks[:1]:
            paging = Paging(wanted, habits=habits)
            for _ in range(answers):
                if (ask := paging.ask()) is not None:
                    reply = respond(events, wire_filter(ask), vices)
                    done += [span for span, _ in paging.answer(answer_to(reply, ask)).proven]
            paging.give_up(GapReason.CUT)
            habits = paging.habits
        left = [rest for span in left for rest in uncovered(span, done)]
        if not left:
            return
    raise AssertionError(left)


@pytest.mark.parametrize("events", [LINE, [note(50_000)], []])
def test_an_open_relay_that_shows_nothing_where_it_did_is_tested(events: list[Event]) -> None:
    """Once: that it had shown events before was enough, for ever."""
    for vices in (Vices(), Vices(empty_when_broad=True)):
        paging = Paging(ALL, habits=Habits(newest_first=True, is_open=True))
        paging.be_wary()
        walk = drive(paging, ALL, events, vices)
        check(walk, events)
        hides = bool(events) and vices.empty_when_broad
        assert walk.reasons == ({GapReason.SUSPECTED_EMPTY} if hides else set())
        assert paging.habits.is_open == (bool(events) and not hides)


def test_what_is_no_event_does_not_make_a_relay_open() -> None:
    """Once: an EVENT frame that nobody could read, and EOSE, was proof enough."""
    paging = Paging(ALL)
    paging.ask()
    assert paging.answer(PageAnswer([], End.EOSE, malformed=1)).proven == []
    ask = paging.ask()
    assert ask is not None
    assert ask.probe is Probe.ANY


def test_a_slow_empty_answer_is_asked_for_again() -> None:
    for last, is_believed in ((0.1, True), (40.0, False)):
        paging = Paging(Span(0, 100), habits=Habits(newest_first=True))
        paging.ask()
        paging.answer(PageAnswer([50, 40], End.EOSE, elapsed_s=0.1))
        paging.ask()
        paging.answer(PageAnswer([40], End.EOSE, elapsed_s=0.1))
        assert paging.ask() == Question(0, 39, 500)
        assert paging.answer(PageAnswer([], End.EOSE, elapsed_s=30.0)).gaps == []
        assert paging.ask() == Question(0, 39, 500)
        assert bool(paging.answer(PageAnswer([], End.EOSE, elapsed_s=last)).proven) == is_believed
        assert paging.ask() is None


@pytest.mark.parametrize("open_top", [False, True])
def test_a_relay_without_order_that_excludes_until_hides_no_second(open_top: bool) -> None:
    # once: the exact question hid second 0, where events had been seen, and was believed
    events = [note(0, 0), note(0, 1), note(0, 2), note(1, 3)]
    vices = Vices(clamp=3, order="random", until_excluded=True)
    walk_of(events, vices, Span(0, 1), open_top=open_top, smallest_clamp=1, limit=5)


def test_emptiness_is_not_believed_where_events_were_seen() -> None:
    for times in ([9, 5, 12, 5], [12, 5, 9, 5], [12, 5, 5]):  # disorder, disorder, strays
        paging = Paging(Span(0, 10), open_top=True)
        paging.ask()
        proven = list(paging.answer(PageAnswer(times, End.EOSE)).proven)
        while paging.ask() is not None:
            proven += paging.answer(PageAnswer([], End.EOSE)).proven
        assert not any(span.since <= 5 < span.until for span, _ in proven)


def test_giving_up_makes_a_gap_of_the_rest() -> None:
    paging = Paging(Span(0, 100))
    paging.ask()
    paging.answer(PageAnswer([90, 80], End.CUT))
    assert paging.give_up(GapReason.CUT, "twice").gaps == [
        Gap(Span(0, 100), GapReason.CUT, "twice")
    ]
    assert paging.ask() is None


def test_nothing_wanted_is_done_and_an_answer_needs_an_ask() -> None:
    assert Paging(Span(5, 5)).ask() is None
    with pytest.raises(RuntimeError):
        Paging(Span(0, 5)).answer(PageAnswer([], End.EOSE))
