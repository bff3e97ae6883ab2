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
- its boundary second was shown whole, in a page that also held something older, or that was
  smaller than what this relay hands out.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from itertools import pairwise
from statistics import median
from typing import NamedTuple, Self

from msgspec import Struct

from bigbrotr.models.coverage import Gap, How, Proof, Span

__all__ = [  # what callers need: the spans and gaps are those of the models
    "Answer",
    "Ask",
    "End",
    "Gap",
    "GapReason",
    "Habits",
    "How",
    "Paging",
    "Progress",
    "Proof",
    "Span",
    "merge",
    "uncovered",
]

PAGE = 500  # strfry and most relays clamp here; asking for more hides the clamp
SMALLEST_CLAMP = 10  # a page below this was not cut short, as far as one page alone can tell
ORDER_EVIDENCE = 10  # seconds in order that are no accident
SLOW_S = 10.0  # an empty answer that took this long ...
SLOW_FACTOR = 5.0  # ... and this much longer than usual is not believed at once
SPARE_ASKS = 64  # the fuse: this many asks, and ASKS_PER_EVENT more for each event that came in
ASKS_PER_EVENT = 16


class Ask(NamedTuple):
    """One question: both ends included, as in NIP-01; `until` None is no upper bound.

    `narrow`: add a condition on `kinds` (common ones), to see whether a bare EOSE was honest.
    """

    since: int
    until: int | None
    limit: int
    narrow: bool = False


class End(Enum):
    """How an answer ended."""

    EOSE = "eose"
    CLOSED = "closed"  # by the relay, with a reason
    TIMEOUT = "timeout"  # silence
    CUT = "cut"  # the connection was lost
    OVERSIZE = "oversize"  # more bytes than we accept


class GapReason(StrEnum):
    """Why a span could not be proven complete."""

    TIMEOUT = "timeout"
    CLOSED = "closed"
    CUT = "cut"
    OVERSIZE = "oversize"
    OVERFLOW = "overflow"  # more events in one second than the relay hands out
    IGNORES_FILTER = "ignores-filter"
    DISORDER = "disorder"
    SUSPECTED_EMPTY = "suspected-empty"


class Answer(Struct, frozen=True):
    """What came back for one `Ask`.

    `created_ats` are those of the distinct events that match the filter and whose id is proven by
    hash, in order of arrival; `off_filter` counts the others. `finish` and `more` are NIP-67's.
    """

    created_ats: Sequence[int]
    end: End
    off_filter: int = 0
    reason: str = ""
    finish: bool = False
    more: bool = False
    elapsed_s: float = 0.0


class Progress(Struct, frozen=True):
    """What became certain: disjoint spans, in no particular order."""

    proven: list[Proof]
    gaps: list[Gap]


class Habits(Struct, frozen=True):
    """What a recent walk over the same relay taught, for the next one.

    `capacity` only matters where all events lie in one second: whether they may be more.
    """

    capacity: int = 0  # the largest page it handed out
    newest_first: bool = False
    until_excluded: bool = False  # it takes `until` for the first second that is not wanted


def merge(spans: Iterable[Span]) -> list[Span]:
    """The same seconds as sorted, disjoint spans that do not touch; empty ones are dropped."""
    merged: list[Span] = []
    for span in sorted(spans):
        if span.since >= span.until:
            continue
        if merged and span.since <= merged[-1].until:
            merged[-1] = Span(merged[-1].since, max(merged[-1].until, span.until))
        else:
            merged.append(span)
    return merged


def uncovered(wanted: Span, covered: Iterable[Span]) -> list[Span]:
    """The parts of `wanted` that no span of `covered` contains, oldest first."""
    left: list[Span] = []
    since = wanted.since
    for span in merge(covered):
        if span.until <= since:
            continue
        if span.since >= wanted.until:
            break
        if span.since > since:
            left.append(Span(since, span.since))
        since = span.until
    if since < wanted.until:
        left.append(Span(since, wanted.until))
    return left


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
    flaw: tuple[GapReason, str] | None  # why the page may not be whole

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


@dataclass(slots=True)
class Walk:
    """A stretch under way, in walk coordinates: time itself, or -1 - time when walking upwards.

    So every walk goes downwards. [lo, hi) is still to be walked; [hi, top) is complete once
    the next answer makes sense, but for `flaw` (a second that is not whole).
    """

    lo: int
    hi: int
    up: bool = False
    top: int = field(init=False)
    flaw: Gap | None = None
    crown: int | None = None  # nothing was seen from here to `top`, but is the relay top-first?
    anchored: bool = False  # an event at hi - 1 is known: the answer must show it
    edge: Edge = Edge.EXACT
    slack: int = 0  # the same for `since`, upwards
    untied: bool = False  # the anchor was missing once
    slow: bool = False  # an empty answer was slow once
    narrow: bool = False
    halving: bool = False  # no order: by halving the range
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
    knows events of this relay in the span. `habits`: from earlier walks over the same relay.
    Memory is one page, and some numbers per stretch that is still open.
    """

    def __init__(
        self,
        wanted: Span,
        *,
        limit: int = PAGE,
        open_top: bool = False,
        expects_events: bool = False,
        habits: Habits | None = None,
        smallest_clamp: int = SMALLEST_CLAMP,
    ) -> None:
        habits = habits or Habits()
        self._limit = limit
        self._expects_events = expects_events
        self._known_capacity = habits.capacity
        self._largest = 0
        self._smallest_clamp = min(smallest_clamp, limit)
        self._varied = False  # a page with more than one second was seen
        self._order: Order | None = Order.DOWN if habits.newest_first else None
        self._sure: set[bool] = {False} if habits.newest_first else set()  # directions that hold
        self._turns = 0
        self._disorderly = False
        self._until_excluded = habits.until_excluded
        self._since_excluded = False
        self._heard = False  # any event that matched
        self._found = False  # ... in a wanted second
        self._times_s: deque[float] = deque(maxlen=101)
        self._asks = 0
        self._events = 0
        self._asked: Ask | None = None
        self._proven: list[Proof] = []
        self._gaps: list[Gap] = []
        self._walks: list[Walk] = []  # the last one is under way
        wanted = Span(max(0, wanted.since), wanted.until)
        if wanted.since < wanted.until:
            edge = Edge.OPEN if open_top else Edge.LOOSE
            self._walks.append(Walk(wanted.since, wanted.until, edge=edge))

    @property
    def habits(self) -> Habits:
        """What this walk taught, for the next one over the same relay."""
        return Habits(
            capacity=self._largest if self._varied else self._known_capacity,
            newest_first=False in self._sure and not self._disorderly and not self._turns,
            until_excluded=self._until_excluded,
        )

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
            since, until = walk.span(walk.lo, walk.hi)
            upper = None if walk.edge is Edge.OPEN else until - (walk.edge is Edge.EXACT)
            self._asked = Ask(max(0, since - walk.slack), upper, self._limit, walk.narrow)
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
        if ask.narrow:
            self._judge_narrow(self._walks[-1], answer, bool(times), off_filter)
        else:
            self._judge(self._walks[-1], answer, times, off_filter)
        if self._walks and self._asks > SPARE_ASKS + ASKS_PER_EVENT * self._events:
            self._fail_all(GapReason.DISORDER, f"no end after {self._asks} questions")
        return self._progress()

    def give_up(self, reason: GapReason, detail: str = "") -> Progress:
        """Turn everything that is still open into a gap: the conversation cannot go on."""
        self._asked = None
        self._fail_all(reason, detail)
        return self._progress()

    # what an answer means

    def _judge(self, walk: Walk, answer: Answer, times: list[int], off_filter: int) -> None:
        inside = [t for t in times if walk.lo <= walk.here(t) < walk.hi]
        self._learn(times, inside)
        is_slow = self._is_slow(answer.elapsed_s)
        if inside or not is_slow:
            self._times_s.append(answer.elapsed_s)
        if inside:
            self._judge_page(walk, answer, self._page(answer, times, inside, off_filter))
        elif times and self._tighten(walk, times):
            pass
        elif answer.end is not End.EOSE:
            self._fail_all(GapReason(answer.end.value), answer.reason)
        elif off_filter:
            self._judge_ignored(walk, off_filter)
        else:
            self._judge_empty(walk, answer, is_slow)

    def _learn(self, times: list[int], inside: list[int]) -> None:
        self._events += len(times)
        self._heard = self._heard or bool(times)
        self._found = self._found or bool(inside)
        self._largest = max(self._largest, len(times))
        self._varied = self._varied or len(set(times)) > 1

    def _page(self, answer: Answer, times: list[int], inside: list[int], off_filter: int) -> Page:
        flaw = None
        if answer.end is not End.EOSE:
            flaw = (GapReason(answer.end.value), answer.reason)
        elif answer.more or self._is_full(len(times) + off_filter):
            flaw = (GapReason.OVERFLOW, f"{len(inside)} events in one second")
            if off_filter:
                flaw = (GapReason.IGNORES_FILTER, f"{off_filter} other events")
        strays = times if len(times) > len(inside) else []
        size = len(times) + off_filter
        return Page(inside, strays, size, off_filter, answer.end is not End.EOSE, flaw)

    def _is_slow(self, elapsed_s: float) -> bool:
        usual_s = median(self._times_s) if self._times_s else elapsed_s
        return elapsed_s >= SLOW_S and elapsed_s >= SLOW_FACTOR * usual_s

    def _is_full(self, size: int) -> bool:
        """Whether a page of this size may have been cut short, by the relay's limit or ours."""
        if size >= self._limit:
            return True
        if self._varied:
            return size >= self._largest
        return size >= max(self._known_capacity, self._smallest_clamp)

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

    def _judge_narrow(self, walk: Walk, answer: Answer, has_events: bool, off_filter: int) -> None:
        """Events after a bare EOSE to the broad question: that one was a lie."""
        walk.narrow = False
        if has_events:
            self._fail(walk, GapReason.SUSPECTED_EMPTY, "empty unless asked for kinds")
        elif answer.end is not End.EOSE:
            self._fail_all(GapReason(answer.end.value), answer.reason)
        elif off_filter:
            self._fail(walk, GapReason.IGNORES_FILTER, f"{off_filter} other events")
        else:
            self._prove_rest(walk, How.PAGING)

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
        elif not self._heard and not answer.finish:
            walk.narrow = True
        elif is_slow and not walk.slow:
            walk.slow = True
        elif is_slow:
            self._fail(walk, GapReason.SUSPECTED_EMPTY, f"empty after {answer.elapsed_s:.0f} s")
        else:
            self._prove_rest(walk, How.FINISH if answer.finish else How.PAGING)

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
        elif (
            answer.finish
            and not answer.more
            and page.is_clean
            and self._shows_top(walk, page.inside)
        ):
            self._prove_rest(walk, How.FINISH)
        elif self._order is None and not walk.anchored:
            self._step_blind(walk, page)
        else:
            walk = self._facing(walk)
            places = [walk.here(t) for t in page.inside]
            if walk.anchored and max(places) < walk.hi - 1 and self._loosen(walk):
                return
            if min(places) == walk.hi - 1:
                self._stay(walk, page)
            else:
                # a cut may run through the newest second too, if the page came from the far end
                is_cut = (
                    page.flaw and page.size >= self._smallest_clamp and min(places) < max(places)
                )
                self._step(walk, min(places), max(places), crown=max(places) + (not is_cut))

    def _agrees(self, order: Order) -> bool:
        """Take the first order that shows for the relay's; it may prove wrong once."""
        if order is Order.FLAT or order is self._order:
            return True
        self._turns += self._order is not None
        self._order = order
        return self._turns <= 1

    def _shows_top(self, walk: Walk, inside: list[int]) -> bool:
        """Newest first, as `finish` presumes, and with the event that we know to be there."""
        is_down = not walk.up and self._order is not Order.UP
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
        if page.flaw:
            walk.flaw = Gap(walk.span(second, second + 1), *page.flaw)
        walk.hi = second
        walk.anchored = walk.untied = False
        if not walk.up:
            walk.edge = self._exact()
        if walk.lo >= walk.hi:
            self._prove_rest(walk, How.PAGING)

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
        walk.anchored, walk.untied, walk.slow = True, False, False
        if walk.up:
            walk.slack = int(self._since_excluded)
        else:
            walk.edge = self._exact()

    # without order: halving

    def _halved(self, walk: Walk) -> Walk:
        since, until = walk.span(walk.lo, walk.top)
        edge = Edge.LOOSE if walk.edge is Edge.EXACT else walk.edge
        return Walk(since, until, halving=True, known=walk.known, edge=edge)

    def _halve(self, walk: Walk, page: Page) -> None:
        """Believe a page that is small and comes twice; split the range of any other."""
        shown = sorted(page.inside)
        if page.flaw and page.off_filter > len(shown):
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
            self._split(walk, shown)

    def _split(self, walk: Walk, shown: list[int]) -> None:
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
                self._walks.append(Walk(lo, hi, halving=True, known=known, edge=top))

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
        walk.top, walk.flaw = walk.hi, None

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
        progress = Progress(self._proven, self._gaps)
        self._proven, self._gaps = [], []
        return progress
