"""Walks one relay's past in pages: a pure machine that says what to ask and what is proven.

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

A walk begins with one leg, and may come to have several; the last one is under way. `leg` has the
states that it may be in, and the table of what leads from which into which.

What it goes by is tested by questions beside the walk (`Probe`): whether a relay that shows nothing
would show anything to anybody, whether a page that looks whole shows the same when a part of it is
asked for, whether `finish` was true, whether a second that stands alone was cut.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from bigbrotr.models.coverage import Gap, How, Span, second_of, uncovered
from bigbrotr.nostr.ledger import ProofLedger
from bigbrotr.nostr.leg import (
    Edge,
    Fate,
    Heard,
    Leg,
    LegPage,
    LegState,
    PageOrder,
    Phase,
    Trial,
    lone,
)
from bigbrotr.nostr.questions import (
    WHENEVER,
    End,
    GapReason,
    Habits,
    PageAnswer,
    Pending,
    Probe,
    Progress,
    Question,
)
from bigbrotr.nostr.traits import Traits

PAGE = 500  # strfry and most relays clamp here; asking for more hides the clamp
SMALLEST_CLAMP = 10  # a page below this was not cut short, as far as one page alone can tell
CHECKED = 10  # events of a page, about, that are asked for again ...
CHECK_EVERY = 64  # ... in one of so many pages
SPARE_ASKS = 64  # the fuse: this many asks, and ASKS_PER_EVENT more for each event that came in
ASKS_PER_EVENT = 16

BESIDE = frozenset({Probe.AGAIN, Probe.PART, Probe.BEHIND, Probe.PAST, Probe.ROOM})


class Move(NamedTuple):
    """A transition of the leg under way; `TRANSITIONS` has all that there are."""

    state: LegState
    heard: Heard
    to: LegState | Fate


class Paging:
    """Walks over one relay's wanted span; `ask` and `answer` take turns until `ask` is None.

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
        self.wanted = Span(max(0, wanted.since), wanted.until)
        self.knows_others = knows_others  # may be said later, but before the answer about kinds
        self.lies: set[How] = set()  # by which the relay made something look complete that is not
        self.move: Move | None = None  # the newest
        self._limit = limit
        self._expects_events = expects_events
        self._is_broad = is_broad
        self._believes_finish = believes_finish and habits.finishes > 0
        self._check_in = check_after
        self._smallest_clamp = min(smallest_clamp, limit)
        self._traits = Traits(habits)
        self._ledger = ProofLedger()
        self._asks = 0
        self._events = 0
        self._asked: Question | None = None
        self._fate: Fate | None = None  # of the leg that the newest answer was about
        self._pending: Pending | None = None  # at the end
        self._resumed: Pending | None = None  # at the beginning
        self._elsewhere: Pending | None = None  # of another walk, which it is left to
        self._legs: list[Leg] = []  # the last one is under way
        self._begin(Edge.OPEN if open_top else Edge.LOOSE, habits.pending)

    def _begin(self, edge: Edge, pending: Pending | None) -> None:
        since, until = self.wanted
        if since >= until:
            return
        if pending is None or not since < pending.since < pending.until <= until:
            self._elsewhere = pending
            self._legs.append(Leg(since, until, edge=edge))
            return
        self._resumed = pending
        # First what the next answer may prove: who is interrupted each time gets on all the same.
        if pending.until < until:
            self._legs.append(Leg(pending.until, until, edge=edge))
        leg = Leg(since, pending.since, phase=Phase.ANCHORED, edge=self._traits.exact_edge)
        leg.top = pending.until
        if pending.alone:
            leg.phase, leg.alone = Phase.ALONE, pending.alone
            leg.flaw = lone(second_of(pending.since), pending.alone)
        self._legs.append(leg)

    @property
    def pending(self) -> Pending | None:
        """What an earlier walk has shown, and the next answer may prove."""
        return self._resumed

    @property
    def habits(self) -> Habits:
        """What this walk taught, for the next one over the same relay."""
        return self._traits.habits(self._elsewhere or self._pending or self._held())

    def _held(self) -> Pending | None:
        """Returns what the leg under way has been shown and is not certain of yet, if that is
        simple."""
        if not self._legs:
            return None
        leg = self._legs[-1]
        is_tried = leg.trial is not None and leg.trial.probe not in BESIDE
        is_anchored = leg.phase is Phase.ANCHORED
        is_alone = leg.phase is Phase.ALONE and leg.alone > 0
        if leg.up or is_tried or not (is_anchored or is_alone):
            return None
        top = leg.top if leg.crown is None else leg.crown
        # The next walk does not know which seconds this one doubts: it takes up what is below them.
        top = min([top, *(t for t in self._ledger.doubts if leg.hi <= t < top)])
        return Pending(leg.hi, top, leg.alone) if leg.hi < top else None

    def lower_limit(self, limit: int) -> None:
        """Asks for fewer events at once from now on: pages were too large in bytes."""
        self._limit = max(1, min(limit, self._limit))
        if self._asked is not None:
            self._asked = self._asked._replace(limit=self._limit)

    def be_wary(self) -> None:
        """Believes that nothing is there only from a relay that shows something elsewhere, or is
        tested: it has shown events of what is wanted before, and may have ceased to."""
        self._traits.is_wary = True

    def doubt(self, seconds: Iterable[int]) -> None:
        """Proves nothing of seconds in which events came after the relay had said that it had no
        more: they become gaps."""
        self._ledger.doubt(seconds, GapReason.LATE, "an event came after EOSE")

    # questions and answers

    def ask(self) -> Question | None:
        """Returns the next question, or None: every wanted second is proven or a gap."""
        if not self._legs:
            return None
        if self._asked is None:
            leg = self._legs[-1]
            if self._is_to_be_halved(leg):
                leg = self._legs[-1] = self._halved(leg)
            if leg.trial is not None:
                probe, since, last, *_ = leg.trial
                self._asked = Question(since, last, self._limit, probe)
            else:
                since, until = leg.span(leg.lo, leg.hi)
                upper = None if leg.edge is Edge.OPEN else until - (leg.edge is Edge.EXACT)
                self._asked = Question(max(0, since - leg.slack), upper, self._limit)
            self._asks += 1
            self._fate = None
        return self._asked

    def answer(self, answer: PageAnswer) -> Progress:
        """Returns what became certain by the answer to the last `ask`."""
        if self._asked is None:
            raise RuntimeError("an answer without an ask")
        ask, self._asked = self._asked, None
        until = ask.until
        times = [t for t in answer.created_ats if ask.since <= t and (until is None or t <= until)]
        off_filter = answer.off_filter + len(answer.created_ats) - len(times)
        words = "an event that is too large"
        self._ledger.doubt(answer.oversized, GapReason.OVERSIZE, words)
        self._events += len(times)
        leg = self._legs[-1]
        before = leg.state
        if leg.trial is not None:
            trial, leg.trial = leg.trial, None
            heard = heard_by(trial, answer, times, off_filter)
            self._judge_trial(leg, trial, answer, heard, times)
        else:
            heard = self._judge(leg, answer, times, off_filter)
        self.move = Move(before, heard, self._fate or self._state())
        if self._legs and self._asks > SPARE_ASKS + ASKS_PER_EVENT * self._events:
            self._fail_all(GapReason.DISORDER, f"no end after {self._asks} questions")
        return self._ledger.hand_out()

    def give_up(self, reason: GapReason, detail: str = "") -> Progress:
        """Turns everything that is still open into a gap: the conversation cannot go on."""
        self._asked = None
        self._pending = self._held()
        self._fail_all(reason, detail)
        return self._ledger.hand_out()

    def start_over(self) -> Progress:
        """Takes back what this walk has said, gaps as well, and begins anew: its answers were not
        whole, and what they seemed to show of the relay is not so either."""
        self._asked = self._pending = self._elsewhere = None
        self._ledger.take_back_gaps()
        self._traits.forget_order()
        self._restart()
        return self._ledger.hand_out()

    def _state(self) -> LegState:
        """Returns the state of the leg under way, with which the next question is asked."""
        leg = self._legs[-1]
        return Phase.HALVING if self._is_to_be_halved(leg) else leg.state

    # what an answer means

    def _judge(self, leg: Leg, answer: PageAnswer, times: list[int], off_filter: int) -> Heard:
        """Acts on an answer to a question of the walk's own; returns what it was to the leg."""
        traits = self._traits
        inside = leg.inside(times)
        traits.hear(times, inside, off_filter)
        is_slow = traits.is_slow(answer.elapsed_s)
        if inside or not is_slow:
            traits.note_time(answer.elapsed_s)
        if inside:
            self._judge_page(leg, answer, self._page(leg, answer, times, inside, off_filter))
            return Heard.EVENTS
        if times and self._tighten(leg, times):
            return Heard.OUTSIDE
        if answer.end is not End.EOSE:
            self._fail_all(GapReason(answer.end.value), answer.reason)
            return Heard.FAILURE
        traits.pin(off_filter)
        if not traits.are_pinned(off_filter):
            self._judge_ignored(leg, off_filter)
            return Heard.OTHERS
        if answer.malformed >= self._smallest_clamp:
            self._fail(leg, GapReason.MALFORMED, f"{answer.malformed} events that are none")
            return Heard.JUNK
        self._judge_empty(leg, answer, is_slow)
        return Heard.NOTHING

    def _page(
        self, leg: Leg, answer: PageAnswer, times: list[int], inside: list[int], off_filter: int
    ) -> LegPage:
        flaw = None
        size = len(times) + off_filter + answer.malformed + answer.repeats
        if answer.end is not End.EOSE:
            flaw = (GapReason(answer.end.value), answer.reason)
        elif answer.more or self._is_full(leg, size):
            flaw = (GapReason.OVERFLOW, f"{len(inside)} events in one second")
            self._traits.pin(off_filter)
            if not self._traits.are_pinned(off_filter):
                flaw = (GapReason.IGNORES_FILTER, f"{off_filter} other events")
        strays = times if len(times) > len(inside) else []
        return LegPage(inside, strays, size, off_filter, answer.end is not End.EOSE, flaw)

    def _is_full(self, leg: Leg, size: int) -> bool:
        """Whether a page of this size was cut short by our limit or, when halving, maybe by the
        relay's: a part holds less than the whole."""
        return size >= self._limit or (leg.is_halving and size >= leg.room)

    def _tighten(self, leg: Leg, times: list[int]) -> bool:
        """Asks again without the seconds outside the leg; returns False if the question had
        none."""
        since, until = leg.span(leg.lo, leg.hi)
        if not times:
            return False
        if leg.edge is not Edge.EXACT and max(times) >= until:
            # an event at the loose end itself shows that this relay includes its `until`
            leg.edge = Edge.EXACT if leg.edge is Edge.LOOSE else Edge.LOOSE
            return True
        if leg.slack and min(times) < since:
            leg.slack = 0
            return True
        return False

    def _judge_empty(self, leg: Leg, answer: PageAnswer, is_slow: bool) -> None:
        traits = self._traits
        if answer.more:
            self._suspect(leg, "empty, with a hint that there is more")
        elif self._expects_events and not traits.is_found:
            self._suspect(leg, "empty, but events were seen here before")
        elif leg.is_anchored:
            if not self._loosen(leg):
                self._suspect(leg, "known events were not shown again")
        elif leg.known:
            self._fail(leg, GapReason.DISORDER, "known events were not shown again")
        elif not traits.is_heard and (traits.is_wary or not traits.is_open):
            leg.trial = Trial(Probe.ANY)
        elif is_slow and not leg.slow:
            leg.slow = True
        elif is_slow:
            self._suspect(leg, f"empty after {answer.elapsed_s:.0f} s")
        else:
            is_finish = answer.finish and traits.finishes >= 0
            self._end(leg, How.FINISH if is_finish else How.PAGING)

    def _judge_ignored(self, leg: Leg, off_filter: int) -> None:
        if not leg.is_anchored:
            self._flush(leg)  # the stretch above was in order: only this one is not answered
        self._fail(leg, GapReason.IGNORES_FILTER, f"{off_filter} other events")

    def _judge_page(self, leg: Leg, answer: PageAnswer, page: LegPage) -> None:
        if leg.is_halving:
            self._halve(leg, page)
            return
        order = page.order
        if order is PageOrder.NONE or not self._traits.settle_order(order):
            self._traits.is_disorderly = True
            leg.known = 1
        elif self._is_finished(leg, answer, page):
            if self._believes_finish:
                self._prove_rest(leg, How.FINISH)
            else:
                since, until = leg.lo, min(page.inside)
                leg.trial = Trial(Probe.FINISH, since, until, page.inside, How.FINISH)
        else:
            self._go_on(leg, page)

    def _go_on(self, leg: Leg, page: LegPage) -> None:
        """Takes a page in order for what it is: the next step of the leg."""
        if self._traits.order is None and not leg.is_anchored:
            self._step_blind(leg, page)
            return
        leg = self._facing(leg)
        lowest, highest = sorted((leg.here(min(page.inside)), leg.here(max(page.inside))))
        if leg.is_anchored and highest < leg.hi - 1 and self._loosen(leg):
            return
        if lowest == leg.hi - 1:
            self._stay(leg, page)
            return
        # a cut may run through the newest second too, if the page came from the far end
        is_cut = page.size >= self._smallest_clamp and lowest < highest
        self._step(leg, lowest, highest, crown=highest + (not is_cut))
        if not page.is_cut:
            self._check_part(leg, page.inside)

    def _is_finished(self, leg: Leg, answer: PageAnswer, page: LegPage) -> bool:
        """Whether the relay says that nothing older is left, and its page looks like it."""
        return (
            answer.finish
            and not answer.more
            and self._traits.finishes >= 0
            and page.is_clean
            and page.flaw is None
            and self._shows_top(leg, page.inside)
        )

    def _shows_top(self, leg: Leg, inside: list[int]) -> bool:
        """Whether a page is newest first, as `finish` presumes, and has the event that we know to
        be there."""
        traits = self._traits
        is_down = not leg.up and traits.order is not PageOrder.UP and False in traits.sure
        return is_down and (not leg.is_anchored or leg.hi - 1 in inside)

    # what a probe means

    def _judge_trial(
        self, leg: Leg, trial: Trial, answer: PageAnswer, heard: Heard, times: list[int]
    ) -> None:
        if trial.probe in WHENEVER:
            self._judge_openness(leg, trial, answer, heard)
        elif trial.probe in (Probe.BEHIND, Probe.PAST, Probe.ROOM):
            self._judge_second(leg, trial, answer, times)
        elif trial.probe is Probe.FINISH:
            self._judge_finish(leg, trial, answer, times)
        elif answer.end is End.EOSE:
            self._judge_part(leg, trial, times)

    def _judge_openness(self, leg: Leg, trial: Trial, answer: PageAnswer, heard: Heard) -> None:
        """Decides whether a relay that has shown nothing is empty, or does not answer such
        questions."""
        if heard is Heard.EVENTS and trial.probe is Probe.ANY:
            # So it is honest about the seconds that were asked for.
            self._traits.is_open, self._traits.is_wary = True, False
            self._prove_rest(leg, How.PAGING)
        elif heard is Heard.EVENTS:
            asked = "kinds" if trial.probe is Probe.KINDS else "authors or ids"
            self._suspect(leg, f"empty unless asked for {asked}")
        elif heard is Heard.FAILURE:
            self._fail_all(GapReason(answer.end.value), answer.reason)
        elif answer.more:
            self._suspect(leg, "empty, with a hint that there is more")
        elif trial.probe is Probe.ANY:
            self._traits.is_open = False
            leg.trial = Trial(Probe.KINDS)
        elif trial.probe is Probe.KINDS and self.knows_others:
            leg.trial = Trial(Probe.KNOWN)
        elif self.knows_others or not self._is_broad:
            self._prove_rest(leg, How.PAGING)
        else:
            words = "empty, and the archive knows nothing yet that it could be tested with"
            self._suspect(leg, words)

    def _end(self, leg: Leg, how: How) -> None:
        """Proves the rest, since nothing lies behind; where the last second stands alone, once it
        is clear that it was shown whole."""
        if leg.flaw is None or leg.alone == 0:
            self._prove_rest(leg, how)
        elif leg.alone < min(2, self._smallest_clamp):
            leg.flaw = None
            self._prove_rest(leg, how)
        else:
            is_last = not leg.up and leg.lo == 0
            self._try_second(leg, Probe.ROOM if is_last else Probe.BEHIND, how)

    def _try_second(self, leg: Leg, probe: Probe, how: How, *, is_wider: bool = False) -> None:
        """Asks for the second that stands alone together with what lies on one side of it (or,
        PAST, for that side alone); `is_wider`: from a relay that excludes what it is asked for."""
        assert leg.flaw is not None
        second, next_one = leg.flaw.span.since, probe is Probe.PAST
        if leg.up is (probe is Probe.ROOM):
            until = second - next_one + (is_wider or self._traits.until_excluded)
            leg.trial = Trial(probe, 0, until, how=how, is_wider=is_wider)
        else:
            since = second + next_one - (is_wider or self._traits.since_excluded)
            leg.trial = Trial(probe, max(0, since), None, how=how, is_wider=is_wider)

    def _judge_second(self, leg: Leg, trial: Trial, answer: PageAnswer, times: list[int]) -> None:
        """Decides whether the second that stands alone was shown whole: a page that goes beyond it
        says so, and one that could have been larger."""
        assert leg.flaw is not None
        second, shown = leg.flaw.span.since, leg.alone
        ties = times.count(second)
        is_beyond = len(times) > ties
        has_room = trial.probe is Probe.ROOM and len(times) > shown
        if not (ties or has_room or trial.is_wider) and trial.probe is not Probe.PAST:
            self._try_second(leg, trial.probe, trial.how, is_wider=True)
            return
        if trial.probe is Probe.BEHIND:
            is_whole = is_beyond and ties >= shown
            if not is_whole:
                self._try_second(leg, Probe.PAST, trial.how)
                return
        elif trial.probe is Probe.PAST:
            is_whole = False
            if not is_beyond and answer.end is End.EOSE:
                self._try_second(leg, Probe.ROOM, trial.how)
                return
        elif is_beyond:
            is_whole = len(times) > shown
        else:  # all that the relay has lies in one second: how much it hands out is not known
            is_whole = max(shown, ties) < self._smallest_clamp
        if is_whole:  # however the answer ended
            leg.flaw = None
        self._prove_rest(leg, trial.how)

    def _judge_finish(self, leg: Leg, trial: Trial, answer: PageAnswer, times: list[int]) -> None:
        oldest = min(trial.shown)
        if any(t < oldest for t in times):
            self._traits.finishes = -1
            self.lies.add(How.FINISH)
        elif answer.end is End.EOSE and not answer.more:
            self._traits.finishes += 1
            if len(times) < min(2, self._smallest_clamp):  # else it may be that second which is cut
                self._prove_rest(leg, How.FINISH)
                return
        inside = list(trial.shown)
        self._go_on(leg, LegPage(inside, [], len(inside), 0, False, None))

    def _check_part(self, leg: Leg, inside: list[int]) -> None:
        """Asks for a part of a page again, now and then: a relay that picks at random what it
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
        leg.trial = Trial(Probe.AGAIN, since, until, shown)

    def _judge_part(self, leg: Leg, trial: Trial, times: list[int]) -> None:
        """Compares what a part of a page shows with what the page had shown of it. One event may
        have come meanwhile, and some have gone: then a part of the part has to show the same."""
        assert trial.until is not None
        shown = sorted(t for t in times if trial.since < t < trial.until)
        if shown == sorted(trial.shown):
            self._traits.checks += 1
        elif not shown:
            pass  # nothing to compare with: that says nothing of the order
        elif trial.probe is Probe.AGAIN and (Counter(shown) - Counter(trial.shown)).total() < 2:
            until = max(shown[len(shown) // 2], trial.since + 2)
            part = [t for t in shown if t < until]
            if part:  # else there is nothing to compare with
                leg.trial = Trial(Probe.PART, trial.since, until, part)
        else:
            self._traits.is_disorderly = True
            self._traits.checks = 0
            self.lies.add(How.PAGING)
            self._restart()

    def _restart(self) -> None:
        """Asks for everything but the gaps once more."""
        self._ledger.take_back_proofs()
        self._legs, self._fate = [], Fate.ANEW
        for since, until in self._ledger.not_given_up(self.wanted):
            self._legs.append(Leg(since, until, edge=Edge.LOOSE))

    # steps downwards

    def _facing(self, leg: Leg) -> Leg:
        """Turns the leg in the direction in which this relay answers."""
        up = self._traits.order is PageOrder.UP
        if leg.up != up:
            leg = self._legs[-1] = leg.turned(up)
            leg.slack = int(up and self._traits.since_excluded)
        return leg

    def _loosen(self, leg: Leg) -> bool:
        """Asks once more where the event at the boundary is missing, since the boundary may be
        excluded; returns False if that was not it."""
        if leg.phase is Phase.UNTIED:  # it has been deleted, or it is withheld
            leg.slack = 0
            if leg.up:
                self._traits.since_excluded = False
            else:
                self._traits.until_excluded = False
            return False
        leg.phase = Phase.UNTIED
        if leg.edge is Edge.EXACT:
            leg.edge = Edge.LOOSE
            self._traits.until_excluded = not leg.up
        elif leg.up and not leg.slack:
            leg.slack = 1
            self._traits.since_excluded = True
        else:
            return False
        return True

    def _step_blind(self, leg: Leg, page: LegPage) -> None:
        """Looks below, and above, where all lies in one second and the order is unknown."""
        if page.strays and self._tighten(leg, page.strays):
            leg.known = 1
            return
        second = page.inside[0]
        self._flush(leg)
        if second + 1 < leg.hi:
            self._defer(Leg(second + 1, leg.hi, edge=leg.edge))
        edge = self._traits.exact_edge
        self._legs[-1] = Leg(leg.lo, second + 1, phase=Phase.ANCHORED, edge=edge)

    def _stay(self, leg: Leg, page: LegPage) -> None:
        """Takes a page that shows nothing beyond the boundary second: that is whole or flawed, and
        the rest looks empty."""
        if not leg.is_anchored or (page.strays and leg.phase is not Phase.UNTIED):
            # this second has to be asked for as the boundary, without neighbours in the page
            if not leg.is_anchored:
                self._flush(leg)
                leg.phase = Phase.ANCHORED
            if not self._tighten(leg, page.strays) and not leg.up:
                leg.edge = self._traits.exact_edge
            return
        second = leg.hi - 1
        alone = len(page.inside)
        span = leg.span(second, second + 1)
        leg.flaw = Gap(span, *page.flaw) if page.flaw else lone(span, alone)
        leg.alone = 0 if page.flaw else alone
        leg.hi = second
        leg.phase = Phase.ALONE
        if not leg.up:
            leg.edge = self._traits.exact_edge
        if leg.lo >= leg.hi:
            self._end(leg, How.PAGING)

    def _step(self, leg: Leg, oldest: int, newest: int, crown: int) -> None:
        """Goes on from `oldest`, down to which the page went, in order."""
        is_tied = leg.is_anchored and newest == leg.hi - 1
        if is_tied:
            # had the first page been picked from the far end, nothing would lie beyond it
            self._traits.sure.add(leg.up)
            leg.crown = None
        is_sure = is_tied or (leg.up in self._traits.sure and not leg.is_anchored)
        self._flush(leg)
        if is_tied:
            self._ledger.prove(leg.span(leg.hi - 1, leg.hi))
            leg.hi -= 1
        leg.top = leg.hi
        leg.hi = oldest + 1
        leg.crown = None if is_sure or crown >= leg.top else crown
        leg.phase, leg.slow, leg.known = Phase.ANCHORED, False, 0
        if leg.up:
            leg.slack = int(self._traits.since_excluded)
        else:
            leg.edge = self._traits.exact_edge

    # without order: halving

    def _is_to_be_halved(self, leg: Leg) -> bool:
        return self._traits.is_disorderly and not leg.is_halving

    def _halved(self, leg: Leg) -> Leg:
        """Returns the whole stretch again, to be asked for without an order to go by."""
        since, until = leg.span(leg.lo, leg.top)
        edge = Edge.LOOSE if leg.edge is Edge.EXACT else leg.edge
        room = self._traits.largest if self._traits.is_varied else self._smallest_clamp
        return Leg(since, until, phase=Phase.HALVING, room=room, known=leg.known, edge=edge)

    def _halve(self, leg: Leg, page: LegPage) -> None:
        """Believes a page that is small and comes twice; splits the range of any other."""
        shown = sorted(page.inside)
        if page.flaw and page.off_filter > len(shown):
            self._traits.pin(page.off_filter)
        if page.flaw and self._is_mostly_off(page, shown):
            self._fail(leg, GapReason.IGNORES_FILTER, f"{page.off_filter} other events")
        elif len(shown) < leg.known and not page.is_cut:
            self._fail(leg, GapReason.DISORDER, "known events were not shown again")
        elif not page.flaw and leg.shown is None:
            leg.known, leg.shown, leg.phase = len(shown), shown, Phase.CONFIRMING
        elif not page.flaw and leg.shown == shown:
            self._prove_rest(leg, How.PAGING)
        elif shown[0] == shown[-1] and self._tighten(leg, page.strays):
            leg.known, leg.shown, leg.phase = len(shown), None, Phase.HALVING
        elif leg.hi - leg.lo == 1:
            self._fail(leg, *(page.flaw or (GapReason.DISORDER, "answers differ")))
        else:
            self._split(leg, shown, page.size)

    def _is_mostly_off(self, page: LegPage, shown: list[int]) -> bool:
        """Whether a page holds more that does not match than what does."""
        others = page.off_filter
        return others > len(shown) and not self._traits.are_pinned(others)

    def _split(self, leg: Leg, shown: list[int], room: int) -> None:
        middle = shown[len(shown) // 2]
        if middle == shown[0]:
            middle = next((t for t in shown if t > middle), middle)
        cuts = [leg.lo, middle, leg.hi]
        if shown[0] == shown[-1]:
            cuts.insert(2, middle + 1)
        edge = leg.edge
        self._legs.pop()
        self._fate = Fate.PARTED
        for lo, hi in pairwise(cuts):
            if lo < hi:
                known = sum(lo <= t < hi for t in shown)
                top = edge if hi == leg.hi else Edge.LOOSE
                part = Leg(lo, hi, phase=Phase.HALVING, room=room, known=known, edge=top)
                self._legs.append(part)

    # what becomes certain

    def _defer(self, leg: Leg) -> None:
        # last of all: a relay that never says EOSE would end the whole walk with it
        self._legs.insert(0, leg)

    def _flush(self, leg: Leg) -> None:
        """Makes certain what was held, since the answer made sense."""
        if leg.crown is not None:
            span = leg.span(leg.crown, leg.top)
            self._defer(Leg(*span, edge=Edge.LOOSE))
            leg.top, leg.crown = leg.crown, None
        held = leg.span(leg.hi, leg.top)
        covered = [leg.flaw.span] if leg.flaw else []
        for span in uncovered(held, covered):
            self._ledger.prove(span)
        if leg.flaw:
            self._ledger.give_up(leg.flaw)
        leg.top, leg.flaw, leg.alone = leg.hi, None, 0

    def _prove_rest(self, leg: Leg, how: How) -> None:
        self._legs.pop()
        self._fate = Fate.PROVEN
        self._flush(leg)
        self._ledger.prove(leg.span(leg.lo, leg.hi), how)

    def _fail(self, leg: Leg, reason: GapReason, detail: str) -> None:
        self._legs.pop()
        self._fate = Fate.GAP
        self._ledger.give_up(Gap(leg.span(leg.lo, leg.top), reason, detail))

    def _suspect(self, leg: Leg, detail: str) -> None:
        self._fail(leg, GapReason.SUSPECTED_EMPTY, detail)

    def _fail_all(self, reason: GapReason, detail: str) -> None:
        while self._legs:
            self._fail(self._legs[-1], reason, detail)


def heard_by(trial: Trial, answer: PageAnswer, times: Sequence[int], off_filter: int) -> Heard:
    """Returns what an answer is to a probe."""
    if times or (off_filter and trial.probe in WHENEVER):
        return Heard.EVENTS
    return Heard.NOTHING if answer.end is End.EOSE else Heard.FAILURE
