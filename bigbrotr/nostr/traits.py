"""What a walk learns of the relay that it walks over: its order, its bounds, its pace, its word."""

from collections import deque
from statistics import median

from bigbrotr.nostr.leg import Edge, PageOrder
from bigbrotr.nostr.questions import Habits, Pending

SLOW_S = 10.0  # an empty answer that took this long ...
SLOW_FACTOR = 5.0  # ... and this much longer than usual is not believed at once
FEW_OTHERS = 8  # events that a relay may add to each answer (pinned ones) and still heed a filter


class Traits:
    """What is known of a relay, from earlier walks (`habits`) and from this one."""

    def __init__(self, habits: Habits) -> None:
        self.order: PageOrder | None = None
        self.sure: set[bool] = set()  # directions (up) that hold
        if habits.newest_first or habits.oldest_first:
            self.order = PageOrder.DOWN if habits.newest_first else PageOrder.UP
            self.sure.add(habits.oldest_first)
        self.turns = 0  # of its order
        self.is_disorderly = self._was_disorderly = habits.disorderly
        self.until_excluded = habits.until_excluded
        self.since_excluded = False
        self.is_open = habits.is_open  # it has shown events to whoever asks
        self.is_wary = False  # it has shown events of what is wanted, and may have ceased to
        self.pinned = habits.pinned
        self.finishes, self.checks = habits.finishes, habits.checks
        self.largest = 0  # page
        self.is_varied = False  # a page with more than one second was seen
        self.is_heard = False  # any event
        self.is_found = False  # an event in a wanted second
        self._times_s: deque[float] = deque(maxlen=101)

    def habits(self, pending: Pending | None) -> Habits:
        """Returns what is to be remembered for the next walk over the same relay."""
        is_orderly = not self.is_disorderly and not self.turns
        return Habits(
            newest_first=is_orderly and False in self.sure,
            oldest_first=is_orderly and self.sure == {True},
            until_excluded=self.until_excluded,
            disorderly=self.is_disorderly,
            is_open=self.is_open,
            pinned=self.pinned,
            finishes=self.finishes,
            checks=self.checks,
            pending=pending,
        )

    def hear(self, times: list[int], inside: list[int], off_filter: int) -> None:
        """Takes note of an answer: of the times of all events that match, and of those inside."""
        self.is_heard = self.is_heard or bool(times or off_filter)
        self.is_open = self.is_open or bool(times)
        self.is_found = self.is_found or bool(inside)
        self.largest = max(self.largest, len(times))
        self.is_varied = self.is_varied or len(set(times)) > 1

    def settle_order(self, order: PageOrder) -> bool:
        """Takes the first order that shows for the relay's; it may prove wrong once. Returns
        whether the relay has an order."""
        if order is PageOrder.FLAT or order is self.order:
            return True
        self.turns += self.order is not None
        self.order = order
        return self.turns <= 1

    def forget_order(self) -> None:
        """Forgets what answers have seemed to show that were not whole."""
        self.order, self.turns, self.sure = None, 0, set()
        self.is_disorderly = self._was_disorderly

    @property
    def exact_edge(self) -> Edge:
        """How a question has to be put, so that the relay takes it for what is meant."""
        return Edge.LOOSE if self.until_excluded else Edge.EXACT

    def is_slow(self, elapsed_s: float) -> bool:
        """Whether an answer took much longer than usual."""
        usual_s = median(self._times_s) if self._times_s else elapsed_s
        return elapsed_s >= SLOW_S and elapsed_s >= SLOW_FACTOR * usual_s

    def note_time(self, elapsed_s: float) -> None:
        """Takes note of how long an answer took that counts as usual."""
        self._times_s.append(elapsed_s)

    def are_pinned(self, off_filter: int) -> bool:
        """Whether so few events that don't match are what this relay adds to each answer: one that
        does not heed the filter shows as many as ever."""
        return off_filter <= self.pinned or self._may_be_pinned(off_filter)

    def pin(self, off_filter: int) -> None:
        """Takes note of events that don't match, if they may be what the relay adds to each
        answer."""
        if self._may_be_pinned(off_filter):
            self.pinned = max(self.pinned, off_filter)

    def _may_be_pinned(self, off_filter: int) -> bool:
        return off_filter <= FEW_OTHERS and 4 * off_filter <= self.largest
