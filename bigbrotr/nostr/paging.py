"""Walking one relay's past in pages: a pure machine that says what to ask and what is proven.

No socket, no clock, no database. A `Paging` is asked for the next question (`ask`), told how
it was answered (`answer`), and says what became certain: spans that are proven complete and gaps
with a reason. There is no third state: when `ask` returns None, every wanted second is one of
the two.

How it reasons. The walk goes downwards, `until` = the oldest second seen. That second has an event
that we know of, so the next answer *must* show it: one that does not comes from a relay whose
`until` excludes its end, or that lies. Three things have to come together before a stretch counts:

- the page was in order (newest first; relays that answer oldest first are walked upwards, and
  those without any order by halving the range);
- a later answer made sense: older events, or an EOSE with nothing, never just a short page;
- its boundary second was shown whole, in a page that also held something older. A page that stayed
  within one second, although there is more behind it, was cut there, whatever its size.

What it goes by is tested by questions beside the walk (`Probe`): whether a relay that shows nothing
would show anything to anybody, whether a page that looks whole shows the same when a part of it is
asked for, whether `finish` was true, whether a second that stands alone was cut.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from statistics import median
from typing import NamedTuple, Self

from bigbrotr.models.coverage import Gap, How, Proof, Span, merge, second_of, uncovered
from bigbrotr.nostr.questions import (
    WHENEVER,
    Answer,
    Ask,
    End,
    GapReason,
    Habits,
    Pending,
    Probe,
    Progress,
)

PAGE = 500  # strfry and most relays clamp here; asking for more hides the clamp
SMALLEST_CLAMP = 10  # a page below this was not cut short, as far as one page alone can tell
ORDER_EVIDENCE = 10  # seconds in order that are no accident
SLOW_S = 10.0  # an empty answer that took this long ...
SLOW_FACTOR = 5.0  # ... and this much longer than usual is not believed at once
FEW_OTHERS = 8  # events that a relay may add to each answer (pinned ones) and still heed a filter
CHECKED = 10  # events of a page, about, that are asked for again ...
CHECK_EVERY = 64  # ... in one of so many pages
SPARE_ASKS = 64  # the fuse: this many asks, and ASKS_PER_EVENT more for each event that came in
ASKS_PER_EVENT = 16


BESIDE = frozenset({Probe.AGAIN, Probe.PART, Probe.BEHIND, Probe.PAST, Probe.ROOM})
TOO_LARGE = (GapReason.OVERSIZE, "an event that is too large")


def lone(span: Span, events: int) -> Gap:
    """What a second is with so many events, and nothing beside them in the page, if more follow."""
    words = f"{events} events in one second, and the page ended with them"
    return Gap(span, GapReason.OVERFLOW, words)


class Order(Enum):
    """The order of a page, as far as it shows."""

    DOWN = "newest first"
    UP = "oldest first"
    FLAT = "one second"
    NONE = "none"


def order_of(times: Sequence[int]) -> Order:
    """The order that a page shows."""
    if min(times) == max(times):
        return Order.FLAT
    if all(a >= b for a, b in pairwise(times)):
        return Order.DOWN
    if all(a <= b for a, b in pairwise(times)):
        return Order.UP
    return Order.NONE


class Page(NamedTuple):
    """An answer with events in the walk under way."""

    inside: list[int]  # in order of arrival
    strays: list[int]  # everything that matched, if some of it lies outside the walk
    size: int  # of the whole answer
    off_filter: int
    is_cut: bool
    flaw: tuple[GapReason, str] | None  # why the page is certainly not whole

    @property
    def order(self) -> Order:
        """The order of what lies inside; a few events alone may be in order by accident."""
        order = order_of(self.inside)
        if self.strays and len(set(self.inside)) < ORDER_EVIDENCE:
            return Order.NONE if order_of(self.strays) is Order.NONE else order
        return order  # a live event of just now among the stored ones does not count

    @property
    def is_clean(self) -> bool:
        """Whether nothing but events that match came, and all that the relay meant to send."""
        return not self.off_filter and not self.is_cut


class Edge(Enum):
    """How the upper end of a span is put into a question, from the widest to the exact one."""

    OPEN = 0  # no `until`: what is dated in the future comes along
    LOOSE = 1  # one second more: right for relays that exclude it, one second too much for others
    EXACT = 2


class Trial(NamedTuple):
    """A probe under way: its question, and what an honest answer shows."""

    probe: Probe
    since: int = 0
    until: int | None = None
    shown: Sequence[int] = ()
    how: How = How.PAGING  # what the rest of the walk is proven by, if all is well
    is_wider: bool = False  # by a second: the relay may exclude the bounds


@dataclass(slots=True)
class Walk:
    """A stretch under way, in walk coordinates: time itself, or -1 - time when walking upwards.

    So every walk goes downwards. [lo, hi) is still to be walked; [hi, top) is complete once
    the next answer makes sense, but for `flaw` (a second that is not whole, or with `alone`, the
    number of its events, may not be: it is not if anything lies behind it).
    """

    lo: int
    hi: int
    up: bool = False
    top: int = field(init=False)
    flaw: Gap | None = None
    alone: int = 0
    crown: int | None = None  # nothing was seen from here to `top`, but is the relay top-first?
    anchored: bool = False  # an event at hi - 1 is known: the answer must show it
    edge: Edge = Edge.EXACT
    slack: int = 0  # the same for `since`, upwards
    untied: bool = False  # the anchor was missing once
    slow: bool = False  # an empty answer was slow once
    trial: Trial | None = None
    halving: bool = False  # no order: by halving the range
    room: int = 0  # when halving: the size of the page that this is a part of
    known: int = 0  # events seen here that an answer must show again
    shown: list[int] | None = None  # when halving: what the first of two equal answers held

    def __post_init__(self) -> None:
        self.top = self.hi

    def span(self, lo: int, hi: int) -> Span:
        """[lo, hi) of the walk as a span of time."""
        return Span(-hi, -lo) if self.up else Span(lo, hi)

    def here(self, created_at: int) -> int:
        """A time in the coordinates of this walk (and back)."""
        return -1 - created_at if self.up else created_at

    def turned(self, up: bool) -> Self:
        """The whole stretch again, from the other side."""
        since, until = self.span(self.lo, self.top)
        lo, hi = (-until, -since) if up else (since, until)
        return type(self)(lo, hi, up=up, edge=self.edge)


class Paging:
    """The walk over one relay's wanted span; `ask` and `answer` take turns until `ask` is None.

    `open_top`: the first question has no upper bound, so that events dated in the future come
    along; nothing at or above `wanted.until` is ever claimed. `expects_events`: the archive
    knows events of this relay in the span. `knows_others`: it knows authors and ids to test an
    empty relay with; `is_broad`: anything is asked for, so that such a test is needed. `habits`:
    from earlier walks over the same relay. `check_after`: pages until the first one of which a part
    is asked for again. `believes_finish`: without a test.
    Memory is one page, and some numbers per stretch that is still open.
    """

    def __init__(
        self,
        wanted: Span,
        *,
        limit: int = PAGE,
        open_top: bool = False,
        expects_events: bool = False,
        knows_others: bool = True,
        is_broad: bool = True,
        habits: Habits | None = None,
        check_after: int = 0,
        believes_finish: bool = False,
        smallest_clamp: int = SMALLEST_CLAMP,
    ) -> None:
        habits = habits or Habits()
        self.lies: set[How] = set()  # by which the relay made something look complete that is not
        self._limit = limit
        self._expects_events = expects_events
        self.knows_others = knows_others  # may be said later, but before the answer about kinds
        self._is_broad = is_broad
        self._believes_finish = believes_finish and habits.finishes > 0
        self._check_in = check_after
        self._largest = 0
        self._varied = False  # a page with more than one second was seen
        self._smallest_clamp = min(smallest_clamp, limit)
        self._order: Order | None = None
        self._sure: set[bool] = set()  # directions that hold
        if habits.newest_first or habits.oldest_first:
            self._order = Order.DOWN if habits.newest_first else Order.UP
            self._sure.add(habits.oldest_first)
        self._turns = 0
        self._is_known_disorderly = self._disorderly = habits.disorderly
        self._until_excluded = habits.until_excluded
        self._since_excluded = False
        self._is_open = habits.is_open
        self._is_wary = False
        self._pinned = habits.pinned
        self._finishes = habits.finishes
        self._checks = habits.checks
        self._heard = False  # any event
        self._found = False  # an event in a wanted second
        self._times_s: deque[float] = deque(maxlen=101)
        self._asks = 0
        self._events = 0
        self._asked: Ask | None = None
        self._proven: list[Proof] = []
        self._gaps: list[Gap] = []
        self._retracted: list[Span] = []
        self._told: list[Span] = []  # what this walk has said of its span: proven ...
        self._given_up: list[Span] = []  # ... or gaps
        self._doubts: dict[int, tuple[GapReason, str]] = {}  # seconds that nothing proves
        self._pending: Pending | None = None  # at the end
        self._resumed: Pending | None = None  # at the beginning
        self._elsewhere: Pending | None = None  # of another walk, which it is left to
        self._walks: list[Walk] = []  # the last one is under way
        self.wanted = Span(max(0, wanted.since), wanted.until)
        self._begin(Edge.OPEN if open_top else Edge.LOOSE, habits.pending)

    def _begin(self, edge: Edge, pending: Pending | None) -> None:
        since, until = self.wanted
        if since >= until:
            return
        if pending is None or not since < pending.since < pending.until <= until:
            self._elsewhere = pending
            self._walks.append(Walk(since, until, edge=edge))
            return
        self._resumed = pending
        # First what the next answer may prove: who is interrupted each time gets on all the same.
        if pending.until < until:
            self._walks.append(Walk(pending.until, until, edge=edge))
        walk = Walk(since, pending.since, anchored=not pending.alone, edge=self._exact())
        walk.top = pending.until
        if pending.alone:
            walk.flaw, walk.alone = lone(second_of(pending.since), pending.alone), pending.alone
        self._walks.append(walk)

    @property
    def pending(self) -> Pending | None:
        """What an earlier walk has shown, and the next answer may prove."""
        return self._resumed

    @property
    def habits(self) -> Habits:
        """What this walk taught, for the next one over the same relay."""
        is_orderly = not self._disorderly and not self._turns
        return Habits(
            newest_first=is_orderly and False in self._sure,
            oldest_first=is_orderly and self._sure == {True},
            until_excluded=self._until_excluded,
            disorderly=self._disorderly,
            is_open=self._is_open,
            pinned=self._pinned,
            finishes=self._finishes,
            checks=self._checks,
            pending=self._elsewhere or self._pending or self._held(),
        )

    def _held(self) -> Pending | None:
        """What the walk under way has been shown and is not certain of yet, if that is simple."""
        if not self._walks:
            return None
        walk = self._walks[-1]
        is_tried = walk.trial is not None and walk.trial.probe not in BESIDE
        is_simple = not (walk.up or walk.halving or walk.untied or is_tried)
        is_simple = is_simple and walk.anchored == (walk.flaw is None)
        is_simple = is_simple and (walk.flaw is None or walk.alone > 0)
        top = walk.top if walk.crown is None else walk.crown
        # The next walk does not know which seconds this one doubts: it takes up what is below them.
        top = min([top, *(t for t in self._doubts if walk.hi <= t < top)])
        return Pending(walk.hi, top, walk.alone) if is_simple and walk.hi < top else None

    def lower_limit(self, limit: int) -> None:
        """Ask for fewer events at once from now on: pages were too large in bytes."""
        self._limit = max(1, min(limit, self._limit))
        if self._asked is not None:
            self._asked = self._asked._replace(limit=self._limit)

    def ask(self) -> Ask | None:
        """The next question, or None: every wanted second is proven or a gap."""
        if not self._walks:
            return None
        if self._asked is None:
            walk = self._walks[-1]
            if self._disorderly and not walk.halving:
                walk = self._walks[-1] = self._halved(walk)
            if walk.trial is not None:
                probe, since, last, *_ = walk.trial
                self._asked = Ask(since, last, self._limit, probe)
            else:
                since, until = walk.span(walk.lo, walk.hi)
                upper = None if walk.edge is Edge.OPEN else until - (walk.edge is Edge.EXACT)
                self._asked = Ask(max(0, since - walk.slack), upper, self._limit)
            self._asks += 1
        return self._asked

    def answer(self, answer: Answer) -> Progress:
        """What became certain by the answer to the last `ask`."""
        if self._asked is None:
            raise RuntimeError("an answer without an ask")
        ask, self._asked = self._asked, None
        until = ask.until
        times = [t for t in answer.created_ats if ask.since <= t and (until is None or t <= until)]
        off_filter = answer.off_filter + len(answer.created_ats) - len(times)
        self._doubts |= dict.fromkeys(answer.oversized, TOO_LARGE)
        walk = self._walks[-1]
        if walk.trial is not None:
            trial, walk.trial = walk.trial, None
            self._events += len(times)
            self._judge_trial(walk, trial, answer, times, off_filter)
        else:
            self._judge(walk, answer, times, off_filter)
        if self._walks and self._asks > SPARE_ASKS + ASKS_PER_EVENT * self._events:
            self._fail_all(GapReason.DISORDER, f"no end after {self._asks} questions")
        return self._progress()

    def give_up(self, reason: GapReason, detail: str = "") -> Progress:
        """Turn everything that is still open into a gap: the conversation cannot go on."""
        self._asked = None
        self._pending = self._held()
        self._fail_all(reason, detail)
        return self._progress()

    def be_wary(self) -> None:
        """Believe that nothing is there only from a relay that shows something elsewhere, or is
        tested: it has shown events of what is wanted before, and may have ceased to."""
        self._is_wary = True

    def doubt(self, seconds: Iterable[int]) -> None:
        """Prove nothing of seconds in which events came after the relay had said that it had no
        more: they become gaps."""
        words = "an event came after EOSE"
        self._doubts |= dict.fromkeys(seconds, (GapReason.LATE, words))

    def start_over(self) -> Progress:
        """Take back what this walk has said, gaps as well, and begin anew: its answers were not
        whole, and what they seemed to show of the relay is not so either."""
        self._asked = self._pending = self._elsewhere = None
        self._doubts, self._gaps = {}, []
        self._retracted += self._given_up
        self._given_up = []
        self._order, self._turns, self._sure = None, 0, set()
        self._disorderly = self._is_known_disorderly
        self._restart()
        return self._progress()

    # what an answer means

    def _judge(self, walk: Walk, answer: Answer, times: list[int], off_filter: int) -> None:
        inside = [t for t in times if walk.lo <= walk.here(t) < walk.hi]
        self._learn(answer, times, inside, off_filter)
        is_slow = self._is_slow(answer.elapsed_s)
        if inside or not is_slow:
            self._times_s.append(answer.elapsed_s)
        if inside:
            self._judge_page(walk, answer, self._page(walk, answer, times, inside, off_filter))
        elif times and self._tighten(walk, times):
            pass
        elif answer.end is not End.EOSE:
            self._fail_all(GapReason(answer.end.value), answer.reason)
        elif off_filter and not self._are_pinned(off_filter):
            self._judge_ignored(walk, off_filter)
        elif answer.malformed >= self._smallest_clamp:
            self._fail(walk, GapReason.MALFORMED, f"{answer.malformed} events that are none")
        else:
            self._judge_empty(walk, answer, is_slow)

    def _learn(self, answer: Answer, times: list[int], inside: list[int], off_filter: int) -> None:
        self._events += len(times)
        self._heard = self._heard or bool(times or off_filter)
        self._is_open = self._is_open or bool(times)
        self._found = self._found or bool(inside)
        self._largest = max(self._largest, len(times))
        self._varied = self._varied or len(set(times)) > 1

    def _page(
        self, walk: Walk, answer: Answer, times: list[int], inside: list[int], off_filter: int
    ) -> Page:
        flaw = None
        size = len(times) + off_filter + answer.malformed + answer.repeats
        if answer.end is not End.EOSE:
            flaw = (GapReason(answer.end.value), answer.reason)
        elif answer.more or self._is_full(walk, size):
            flaw = (GapReason.OVERFLOW, f"{len(inside)} events in one second")
            if off_filter and not self._are_pinned(off_filter):
                flaw = (GapReason.IGNORES_FILTER, f"{off_filter} other events")
        strays = times if len(times) > len(inside) else []
        return Page(inside, strays, size, off_filter, answer.end is not End.EOSE, flaw)

    def _is_slow(self, elapsed_s: float) -> bool:
        usual_s = median(self._times_s) if self._times_s else elapsed_s
        return elapsed_s >= SLOW_S and elapsed_s >= SLOW_FACTOR * usual_s

    def _is_full(self, walk: Walk, size: int) -> bool:
        """Whether a page of this size was cut short by our limit or, when halving, maybe by the
        relay's: a part holds less than the whole."""
        return size >= self._limit or (walk.halving and size >= walk.room)

    def _are_pinned(self, off_filter: int) -> bool:
        """Whether so few events that do not match are what this relay adds to each answer: one that
        does not heed the filter shows as many as ever."""
        if off_filter <= FEW_OTHERS and 4 * off_filter <= self._largest:
            self._pinned = max(self._pinned, off_filter)
        return off_filter <= self._pinned

    def _tighten(self, walk: Walk, times: list[int]) -> bool:
        """Ask again without the seconds outside the walk, if the question had any."""
        since, until = walk.span(walk.lo, walk.hi)
        if not times:
            return False
        if walk.edge is not Edge.EXACT and max(times) >= until:
            # an event at the loose end itself shows that this relay includes its `until`
            walk.edge = Edge.EXACT if walk.edge is Edge.LOOSE else Edge.LOOSE
            return True
        if walk.slack and min(times) < since:
            walk.slack = 0
            return True
        return False

    def _judge_empty(self, walk: Walk, answer: Answer, is_slow: bool) -> None:
        if answer.more:
            self._fail(walk, GapReason.SUSPECTED_EMPTY, "empty, with a hint that there is more")
        elif self._expects_events and not self._found:
            self._fail(walk, GapReason.SUSPECTED_EMPTY, "empty, but events were seen here before")
        elif walk.anchored:
            if not self._loosen(walk):
                self._fail(walk, GapReason.SUSPECTED_EMPTY, "known events were not shown again")
        elif walk.known:
            self._fail(walk, GapReason.DISORDER, "known events were not shown again")
        elif not self._heard and (self._is_wary or not self._is_open):
            walk.trial = Trial(Probe.ANY)
        elif is_slow and not walk.slow:
            walk.slow = True
        elif is_slow:
            self._fail(walk, GapReason.SUSPECTED_EMPTY, f"empty after {answer.elapsed_s:.0f} s")
        else:
            self._end(walk, How.FINISH if answer.finish and self._finishes >= 0 else How.PAGING)

    def _judge_ignored(self, walk: Walk, off_filter: int) -> None:
        if not walk.anchored:
            self._flush(walk)  # the stretch above was in order: only this one is not answered
        self._fail(walk, GapReason.IGNORES_FILTER, f"{off_filter} other events")

    def _judge_page(self, walk: Walk, answer: Answer, page: Page) -> None:
        if walk.halving:
            self._halve(walk, page)
            return
        order = page.order
        if order is Order.NONE or not self._agrees(order):
            self._disorderly = True
            walk.known = 1
        elif self._is_finished(walk, answer, page):
            if self._believes_finish:
                self._prove_rest(walk, How.FINISH)
            else:
                since, until = walk.lo, min(page.inside)
                walk.trial = Trial(Probe.FINISH, since, until, page.inside, How.FINISH)
        else:
            self._go_on(walk, page)

    def _go_on(self, walk: Walk, page: Page) -> None:
        """Takes a page in order for what it is: the next step of the walk."""
        if self._order is None and not walk.anchored:
            self._step_blind(walk, page)
            return
        walk = self._facing(walk)
        places = [walk.here(t) for t in page.inside]
        if walk.anchored and max(places) < walk.hi - 1 and self._loosen(walk):
            return
        if min(places) == walk.hi - 1:
            self._stay(walk, page)
            return
        # a cut may run through the newest second too, if the page came from the far end
        is_cut = page.size >= self._smallest_clamp and min(places) < max(places)
        self._step(walk, min(places), max(places), crown=max(places) + (not is_cut))
        if not page.is_cut:
            self._check_part(walk, page.inside)

    def _is_finished(self, walk: Walk, answer: Answer, page: Page) -> bool:
        """Whether the relay says that nothing older is left, and its page looks like it."""
        return (
            answer.finish
            and not answer.more
            and self._finishes >= 0
            and page.is_clean
            and page.flaw is None
            and self._shows_top(walk, page.inside)
        )

    # what a probe means

    def _judge_trial(
        self, walk: Walk, trial: Trial, answer: Answer, times: list[int], off_filter: int
    ) -> None:
        if trial.probe in WHENEVER:
            self._judge_openness(walk, trial, answer, bool(times) or off_filter > 0)
        elif trial.probe in (Probe.BEHIND, Probe.PAST, Probe.ROOM):
            self._judge_second(walk, trial, answer, times)
        elif trial.probe is Probe.FINISH:
            self._judge_finish(walk, trial, answer, times)
        elif answer.end is End.EOSE:
            self._judge_part(walk, trial, times)

    def _judge_openness(self, walk: Walk, trial: Trial, answer: Answer, has_events: bool) -> None:
        """A relay that has shown nothing yet: is it empty, or does it not answer such questions?"""
        if has_events and trial.probe is Probe.ANY:
            # So it is honest about the seconds that were asked for.
            self._is_open, self._is_wary = True, False
            self._prove_rest(walk, How.PAGING)
        elif has_events:
            asked = "kinds" if trial.probe is Probe.KINDS else "authors or ids"
            self._fail(walk, GapReason.SUSPECTED_EMPTY, f"empty unless asked for {asked}")
        elif answer.end is not End.EOSE:
            self._fail_all(GapReason(answer.end.value), answer.reason)
        elif answer.more:
            self._fail(walk, GapReason.SUSPECTED_EMPTY, "empty, with a hint that there is more")
        elif trial.probe is Probe.ANY:
            self._is_open = False
            walk.trial = Trial(Probe.KINDS)
        elif trial.probe is Probe.KINDS and self.knows_others:
            walk.trial = Trial(Probe.KNOWN)
        elif self.knows_others or not self._is_broad:
            self._prove_rest(walk, How.PAGING)
        else:
            words = "empty, and the archive knows nothing yet that it could be tested with"
            self._fail(walk, GapReason.SUSPECTED_EMPTY, words)

    def _end(self, walk: Walk, how: How) -> None:
        """Nothing lies behind: the rest is proven, once it is clear that the last second was shown
        whole, where it stands alone."""
        if walk.flaw is None or walk.alone == 0:
            self._prove_rest(walk, how)
        elif walk.alone < min(2, self._smallest_clamp):
            walk.flaw = None
            self._prove_rest(walk, how)
        else:
            is_last = not walk.up and walk.lo == 0
            self._try_second(walk, Probe.ROOM if is_last else Probe.BEHIND, how)

    def _try_second(self, walk: Walk, probe: Probe, how: How, *, is_wider: bool = False) -> None:
        """Asks for the second that stands alone together with what lies on one side of it (or,
        PAST, for that side alone); `is_wider`: from a relay that excludes what it is asked for."""
        assert walk.flaw is not None
        second, next_one = walk.flaw.span.since, probe is Probe.PAST
        if walk.up is (probe is Probe.ROOM):
            until = second - next_one + (is_wider or self._until_excluded)
            walk.trial = Trial(probe, 0, until, how=how, is_wider=is_wider)
        else:
            since = second + next_one - (is_wider or self._since_excluded)
            walk.trial = Trial(probe, max(0, since), None, how=how, is_wider=is_wider)

    def _judge_second(self, walk: Walk, trial: Trial, answer: Answer, times: list[int]) -> None:
        """A page that goes beyond the second shows it whole; so does one that could have been
        larger than it."""
        assert walk.flaw is not None
        second, shown = walk.flaw.span.since, walk.alone
        ties = times.count(second)
        is_beyond = len(times) > ties
        has_room = trial.probe is Probe.ROOM and len(times) > shown
        if not (ties or has_room or trial.is_wider) and trial.probe is not Probe.PAST:
            self._try_second(walk, trial.probe, trial.how, is_wider=True)
            return
        if trial.probe is Probe.BEHIND:
            is_whole = is_beyond and ties >= shown
            if not is_whole:
                self._try_second(walk, Probe.PAST, trial.how)
                return
        elif trial.probe is Probe.PAST:
            is_whole = False
            if not is_beyond and answer.end is End.EOSE:
                self._try_second(walk, Probe.ROOM, trial.how)
                return
        elif is_beyond:
            is_whole = len(times) > shown
        else:  # all that the relay has lies in one second: how much it hands out is not known
            is_whole = max(shown, ties) < self._smallest_clamp
        if is_whole:  # however the answer ended
            walk.flaw = None
        self._prove_rest(walk, trial.how)

    def _judge_finish(self, walk: Walk, trial: Trial, answer: Answer, times: list[int]) -> None:
        oldest = min(trial.shown)
        if any(t < oldest for t in times):
            self._finishes = -1
            self.lies.add(How.FINISH)
        elif answer.end is End.EOSE and not answer.more:
            self._finishes += 1
            if len(times) < min(2, self._smallest_clamp):  # else it may be that second which is cut
                self._prove_rest(walk, How.FINISH)
                return
        inside = list(trial.shown)
        self._go_on(walk, Page(inside, [], len(inside), 0, False, None))

    def _check_part(self, walk: Walk, inside: list[int]) -> None:
        """Now and then a part of a page is asked for again: a relay that picks at random what it
        shows, in whatever order, shows something else then."""
        self._check_in -= 1
        if self._check_in >= 0:
            return
        times = sorted(inside)
        middle, half = len(times) // 2, CHECKED // 2 + 1
        since, until = times[max(0, middle - half)], times[min(len(times) - 1, middle + half)]
        shown = [t for t in times if since < t < until]  # of whole seconds
        if len(shown) < CHECKED // 2 or 2 * len(shown) > len(times):
            return
        self._check_in = CHECK_EVERY
        walk.trial = Trial(Probe.AGAIN, since, until, shown)

    def _judge_part(self, walk: Walk, trial: Trial, times: list[int]) -> None:
        """Compares what a part of a page shows with what the page had shown of it. One event may
        have come meanwhile, and some have gone: then a part of the part has to show the same."""
        assert trial.until is not None
        shown = sorted(t for t in times if trial.since < t < trial.until)
        if shown == sorted(trial.shown):
            self._checks += 1
        elif not shown:
            pass  # nothing to compare with: that says nothing of the order
        elif trial.probe is Probe.AGAIN and (Counter(shown) - Counter(trial.shown)).total() < 2:
            until = max(shown[len(shown) // 2], trial.since + 2)
            part = [t for t in shown if t < until]
            if part:  # else there is nothing to compare with
                walk.trial = Trial(Probe.PART, trial.since, until, part)
        else:
            self._disorderly = True
            self._checks = 0
            self.lies.add(How.PAGING)
            self._restart()

    def _restart(self) -> None:
        """Everything but the gaps once more."""
        self._retracted += self._told
        self._told, self._proven = [], []
        self._walks = []
        for since, until in uncovered(self.wanted, self._given_up + [g.span for g in self._gaps]):
            self._walks.append(Walk(since, until, edge=Edge.LOOSE))

    def _agrees(self, order: Order) -> bool:
        """Take the first order that shows for the relay's; it may prove wrong once."""
        if order is Order.FLAT or order is self._order:
            return True
        self._turns += self._order is not None
        self._order = order
        return self._turns <= 1

    def _shows_top(self, walk: Walk, inside: list[int]) -> bool:
        """Newest first, as `finish` presumes, and with the event that we know to be there."""
        is_down = not walk.up and self._order is not Order.UP and False in self._sure
        return is_down and (not walk.anchored or walk.hi - 1 in inside)

    # steps downwards

    def _facing(self, walk: Walk) -> Walk:
        """The walk in the direction in which this relay answers."""
        up = self._order is Order.UP
        if walk.up != up:
            walk = self._walks[-1] = walk.turned(up)
            walk.slack = int(up and self._since_excluded)
        return walk

    def _exact(self) -> Edge:
        return Edge.LOOSE if self._until_excluded else Edge.EXACT

    def _loosen(self, walk: Walk) -> bool:
        """The event at the boundary is missing: is the boundary excluded? Ask once more."""
        if walk.untied:  # that was not it: it has been deleted, or it is withheld
            walk.slack = 0
            if walk.up:
                self._since_excluded = False
            else:
                self._until_excluded = False
            return False
        walk.untied = True
        if walk.edge is Edge.EXACT:
            walk.edge = Edge.LOOSE
            self._until_excluded = not walk.up
        elif walk.up and not walk.slack:
            walk.slack = 1
            self._since_excluded = True
        else:
            return False
        return True

    def _step_blind(self, walk: Walk, page: Page) -> None:
        """All in one second, from a relay whose order is unknown: look below, and above."""
        if page.strays and self._tighten(walk, page.strays):
            walk.known = 1
            return
        second = page.inside[0]
        self._flush(walk)
        if second + 1 < walk.hi:
            self._defer(Walk(second + 1, walk.hi, edge=walk.edge))
        self._walks[-1] = Walk(walk.lo, second + 1, anchored=True, edge=self._exact())

    def _stay(self, walk: Walk, page: Page) -> None:
        """Nothing beyond the boundary second: it is whole or flawed, and the rest looks empty."""
        if not walk.anchored or (page.strays and not walk.untied):
            # this second has to be asked for as the boundary, without neighbours in the page
            if not walk.anchored:
                self._flush(walk)
                walk.anchored = True
            if not self._tighten(walk, page.strays) and not walk.up:
                walk.edge = self._exact()
            return
        second = walk.hi - 1
        alone = len(page.inside)
        span = walk.span(second, second + 1)
        walk.flaw = Gap(span, *page.flaw) if page.flaw else lone(span, alone)
        walk.alone = 0 if page.flaw else alone
        walk.hi = second
        walk.anchored = walk.untied = False
        if not walk.up:
            walk.edge = self._exact()
        if walk.lo >= walk.hi:
            self._end(walk, How.PAGING)

    def _step(self, walk: Walk, oldest: int, newest: int, crown: int) -> None:
        """The page went down to `oldest`, in order: go on from there."""
        is_tied = walk.anchored and newest == walk.hi - 1
        if is_tied:
            # had the first page been picked from the far end, nothing would lie beyond it
            self._sure.add(walk.up)
            walk.crown = None
        is_sure = is_tied or (walk.up in self._sure and not walk.anchored)
        self._flush(walk)
        if is_tied:
            self._prove(walk.span(walk.hi - 1, walk.hi))
            walk.hi -= 1
        walk.top = walk.hi
        walk.hi = oldest + 1
        walk.crown = None if is_sure or crown >= walk.top else crown
        walk.anchored, walk.untied, walk.slow, walk.known = True, False, False, 0
        if walk.up:
            walk.slack = int(self._since_excluded)
        else:
            walk.edge = self._exact()

    # without order: halving

    def _halved(self, walk: Walk) -> Walk:
        since, until = walk.span(walk.lo, walk.top)
        edge = Edge.LOOSE if walk.edge is Edge.EXACT else walk.edge
        room = self._largest if self._varied else self._smallest_clamp
        return Walk(since, until, halving=True, room=room, known=walk.known, edge=edge)

    def _halve(self, walk: Walk, page: Page) -> None:
        """Believe a page that is small and comes twice; split the range of any other."""
        shown = sorted(page.inside)
        if page.flaw and page.off_filter > len(shown) and not self._are_pinned(page.off_filter):
            self._fail(walk, GapReason.IGNORES_FILTER, f"{page.off_filter} other events")
        elif len(shown) < walk.known and not page.is_cut:
            self._fail(walk, GapReason.DISORDER, "known events were not shown again")
        elif not page.flaw and walk.shown is None:
            walk.known, walk.shown = len(shown), shown
        elif not page.flaw and walk.shown == shown:
            self._prove_rest(walk, How.PAGING)
        elif shown[0] == shown[-1] and self._tighten(walk, page.strays):
            walk.known, walk.shown = len(shown), None
        elif walk.hi - walk.lo == 1:
            self._fail(walk, *(page.flaw or (GapReason.DISORDER, "answers differ")))
        else:
            self._split(walk, shown, page.size)

    def _split(self, walk: Walk, shown: list[int], room: int) -> None:
        middle = shown[len(shown) // 2]
        if middle == shown[0]:
            middle = next((t for t in shown if t > middle), middle)
        cuts = [walk.lo, middle, walk.hi]
        if shown[0] == shown[-1]:
            cuts.insert(2, middle + 1)
        edge = walk.edge
        self._walks.pop()
        for lo, hi in pairwise(cuts):
            if lo < hi:
                known = sum(lo <= t < hi for t in shown)
                top = edge if hi == walk.hi else Edge.LOOSE
                part = Walk(lo, hi, halving=True, room=room, known=known, edge=top)
                self._walks.append(part)

    # verdicts

    def _defer(self, walk: Walk) -> None:
        # last of all: a relay that never says EOSE would end the whole walk with it
        self._walks.insert(0, walk)

    def _prove(self, span: Span, how: How = How.PAGING) -> None:
        if span.since < span.until:
            self._proven.append(Proof(span, how))

    def _flush(self, walk: Walk) -> None:
        """The answer made sense: what was held is certain."""
        if walk.crown is not None:
            span = walk.span(walk.crown, walk.top)
            self._defer(Walk(*span, edge=Edge.LOOSE))
            walk.top, walk.crown = walk.crown, None
        held = walk.span(walk.hi, walk.top)
        covered = [walk.flaw.span] if walk.flaw else []
        for span in uncovered(held, covered):
            self._prove(span)
        if walk.flaw:
            self._gaps.append(walk.flaw)
        walk.top, walk.flaw, walk.alone = walk.hi, None, 0

    def _prove_rest(self, walk: Walk, how: How) -> None:
        self._walks.pop()
        self._flush(walk)
        self._prove(walk.span(walk.lo, walk.hi), how)

    def _fail(self, walk: Walk, reason: GapReason, detail: str) -> None:
        self._walks.pop()
        self._gaps.append(Gap(walk.span(walk.lo, walk.top), reason, detail))

    def _fail_all(self, reason: GapReason, detail: str) -> None:
        while self._walks:
            self._fail(self._walks[-1], reason, detail)

    def _progress(self) -> Progress:
        proven, gaps, retracted = self._proven, self._gaps, self._retracted
        self._proven, self._gaps, self._retracted = [], [], []
        if self._doubts:
            proven, lost = self._without_doubts(proven)
            gaps = gaps + lost
        self._told = merge([*self._told, *(proof.span for proof in proven)])
        self._given_up = merge([*self._given_up, *(gap.span for gap in gaps)])
        return Progress(proven, gaps, retracted)

    def _without_doubts(self, proofs: list[Proof]) -> tuple[list[Proof], list[Gap]]:
        """Proofs but for the seconds that nothing proves, which become gaps."""
        left: list[Proof] = []
        gaps: list[Gap] = []
        for span, how in proofs:
            doubted = sorted(t for t in self._doubts if span.since <= t < span.until)
            left += [Proof(rest, how) for rest in uncovered(span, map(second_of, doubted))]
            gaps += [Gap(second_of(t), *self._doubts[t]) for t in doubted]
        return left, gaps
