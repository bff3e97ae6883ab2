"""A leg of a walk (see `paging`): its states, which answer leads from which into which, and what
belongs to each. Tests hold the machine against these tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Self, TypeAlias

from bigbrotr.models.coverage import Gap, How, Span
from bigbrotr.nostr.questions import GapReason, Probe

ORDER_EVIDENCE = 10  # seconds in order that are no accident


class Phase(Enum):
    """How far a leg has come: what its next question is about."""

    NEW = "nothing is known of its upper end"
    ANCHORED = "an event at its upper end is known: the answer must show it"
    UNTIED = "... which was not shown: asked once more, with wider bounds"
    ALONE = "a page lay within the second above it alone: does anything lie below?"
    HALVING = "the relay has no order: whole if the page is small, and comes twice"
    CONFIRMING = "... it has come once"


class Heard(Enum):
    """What an answer is to a leg."""

    EVENTS = "events inside of it; to a probe: any"
    OUTSIDE = "none inside, but in the seconds that the question had in excess"
    NOTHING = "EOSE, and nothing that counts"
    OTHERS = "EOSE, and events that don't match"
    JUNK = "EOSE, and what is no event"
    FAILURE = "no EOSE, and no event inside"


class Fate(Enum):
    """How a leg ends."""

    PROVEN = "all of it is certain, but for what is a gap"
    GAP = "what was not certain yet is a gap"
    PARTED = "smaller ones take its place"
    ANEW = "the whole walk begins anew: its answers are worth nothing"


LegState: TypeAlias = Phase | Probe  # of a leg, or the question beside it which is open
Table: TypeAlias = Mapping[LegState, Mapping[Heard, frozenset[LegState | Fate]]]


def _to(*states: LegState | Fate) -> frozenset[LegState | Fate]:
    return frozenset(states)


_LONE = (Probe.BEHIND, Probe.ROOM, Fate.PROVEN)  # a second alone, with nothing wanted behind it
_PAGED = (Phase.ANCHORED, Phase.HALVING, Probe.AGAIN, Probe.FINISH, Fate.PROVEN)
_LOST = {Heard.FAILURE: _to(Fate.GAP)}
_REFUSED = {Heard.OTHERS: _to(Fate.GAP), Heard.JUNK: _to(Fate.GAP), **_LOST}
_GONE_ON = _to(Phase.ANCHORED, Phase.ALONE, Probe.AGAIN, *_LONE)  # with the page before the probe

# Which answer leads from which state into which; what is known of the relay decides between them.
TRANSITIONS: Final[Table] = {
    Phase.NEW: {
        Heard.EVENTS: _to(Phase.NEW, *_PAGED),
        Heard.OUTSIDE: _to(Phase.NEW),
        Heard.NOTHING: _to(Phase.NEW, Probe.ANY, Fate.PROVEN, Fate.GAP),
        **_REFUSED,
    },
    Phase.ANCHORED: {
        Heard.EVENTS: _to(Phase.UNTIED, Phase.ALONE, *_PAGED, *_LONE),
        Heard.OUTSIDE: _to(Phase.ANCHORED),
        Heard.NOTHING: _to(Phase.UNTIED, Fate.GAP),
        **_REFUSED,
    },
    Phase.UNTIED: {
        Heard.EVENTS: _to(Phase.ALONE, *_PAGED, *_LONE),
        Heard.OUTSIDE: _to(Phase.UNTIED),
        Heard.NOTHING: _to(Fate.GAP),
        **_REFUSED,
    },
    Phase.ALONE: {
        Heard.EVENTS: _to(Phase.ALONE, *_PAGED),
        Heard.OUTSIDE: _to(Phase.ALONE),
        Heard.NOTHING: _to(Phase.ALONE, Probe.ANY, *_LONE, Fate.GAP),
        **_REFUSED,
    },
    Phase.HALVING: {
        Heard.EVENTS: _to(Phase.HALVING, Phase.CONFIRMING, Fate.PARTED, Fate.GAP),
        Heard.OUTSIDE: _to(Phase.HALVING),
        Heard.NOTHING: _to(Phase.HALVING, Probe.ANY, Fate.PROVEN, Fate.GAP),
        **_REFUSED,
    },
    Phase.CONFIRMING: {
        Heard.EVENTS: _to(Phase.HALVING, Fate.PROVEN, Fate.PARTED, Fate.GAP),
        Heard.OUTSIDE: _to(Phase.CONFIRMING),
        Heard.NOTHING: _to(Fate.GAP),
        **_REFUSED,
    },
    # Is the relay empty, or does it not answer such questions?
    Probe.ANY: {
        Heard.EVENTS: _to(Fate.PROVEN),
        Heard.NOTHING: _to(Probe.KINDS, Fate.GAP),
        **_LOST,
    },
    Probe.KINDS: {
        Heard.EVENTS: _to(Fate.GAP),
        Heard.NOTHING: _to(Probe.KNOWN, Fate.PROVEN, Fate.GAP),
        **_LOST,
    },
    Probe.KNOWN: {
        Heard.EVENTS: _to(Fate.GAP),
        Heard.NOTHING: _to(Fate.PROVEN, Fate.GAP),
        **_LOST,
    },
    # Was the second that stands alone shown whole? With each way out, the rest is proven.
    Probe.BEHIND: {
        Heard.EVENTS: _to(Probe.BEHIND, Probe.PAST, Fate.PROVEN),
        Heard.NOTHING: _to(Probe.BEHIND, Probe.PAST),
        Heard.FAILURE: _to(Probe.BEHIND, Probe.PAST),
    },
    Probe.PAST: {
        Heard.EVENTS: _to(Probe.ROOM, Fate.PROVEN),
        Heard.NOTHING: _to(Probe.ROOM),
        Heard.FAILURE: _to(Fate.PROVEN),
    },
    Probe.ROOM: {
        Heard.EVENTS: _to(Probe.ROOM, Fate.PROVEN),
        Heard.NOTHING: _to(Probe.ROOM, Fate.PROVEN),
        Heard.FAILURE: _to(Probe.ROOM, Fate.PROVEN),
    },
    # Is a relay's word worth something?
    Probe.AGAIN: {
        Heard.EVENTS: _to(Phase.ANCHORED, Probe.PART, Fate.ANEW),
        Heard.NOTHING: _to(Phase.ANCHORED),
        Heard.FAILURE: _to(Phase.ANCHORED),
    },
    Probe.PART: {
        Heard.EVENTS: _to(Phase.ANCHORED, Fate.ANEW),
        Heard.NOTHING: _to(Phase.ANCHORED),
        Heard.FAILURE: _to(Phase.ANCHORED),
    },
    Probe.FINISH: {
        Heard.EVENTS: _GONE_ON,
        Heard.NOTHING: _GONE_ON,
        Heard.FAILURE: _GONE_ON,
    },
}

# Fields of a leg that may be set (to other than their defaults) in each phase. Bounds (`lo`, `hi`,
# `top`, `up`, `edge`), `slow` and `trial` may be so in any.
BELONGS: Final[Mapping[Phase, frozenset[str]]] = {
    Phase.NEW: frozenset({"slack", "known"}),
    Phase.ANCHORED: frozenset({"slack", "crown"}),
    Phase.UNTIED: frozenset({"slack", "crown"}),
    Phase.ALONE: frozenset({"slack", "crown", "known", "flaw", "alone"}),
    Phase.HALVING: frozenset({"known", "room"}),
    Phase.CONFIRMING: frozenset({"known", "room", "shown"}),
}


class Edge(Enum):
    """How the upper end of a span is put into a question, from the widest to the exact one."""

    OPEN = 0  # no `until`: what is dated in the future comes along
    LOOSE = 1  # one second more: right for relays that exclude it, one second too much for others
    EXACT = 2


class Trial(NamedTuple):
    """A question beside the walk that is open, and what an honest answer shows."""

    probe: Probe
    since: int = 0
    until: int | None = None
    shown: Sequence[int] = ()
    how: How = How.PAGING  # what the rest of the leg is proven by, if all is well
    is_wider: bool = False  # by a second: the relay may exclude the bounds


@dataclass(slots=True)
class Leg:
    """A stretch of a walk, in walk coordinates: time itself, or -1 - time when walking upwards.

    So every leg goes downwards. [lo, hi) is still to be walked; [hi, top) is complete once
    the next answer makes sense, but for `flaw` (a second that is not whole, or with `alone`, the
    number of its events, may not be: it is not if anything lies behind it).
    """

    lo: int
    hi: int
    up: bool = False
    top: int = field(init=False)
    phase: Phase = Phase.NEW
    edge: Edge = Edge.EXACT
    slack: int = 0  # the same for `since`, upwards
    slow: bool = False  # an empty answer was slow once
    trial: Trial | None = None
    flaw: Gap | None = None
    alone: int = 0
    crown: int | None = None  # nothing was seen from here to `top`, but is the relay top-first?
    known: int = 0  # events seen here that an answer must show again
    room: int = 0  # the size of the page that this is a part of
    shown: list[int] | None = None  # what the first of two equal answers held

    def __post_init__(self) -> None:
        self.top = self.hi

    @property
    def state(self) -> LegState:
        """What the leg waits for."""
        return self.phase if self.trial is None else self.trial.probe

    @property
    def is_anchored(self) -> bool:
        """Whether an event at hi - 1 is known."""
        return self.phase in (Phase.ANCHORED, Phase.UNTIED)

    @property
    def is_halving(self) -> bool:
        """Whether the leg is not walked in order, but cut in parts."""
        return self.phase in (Phase.HALVING, Phase.CONFIRMING)

    def span(self, lo: int, hi: int) -> Span:
        """Returns [lo, hi) of the walk as a span of time."""
        return Span(-hi, -lo) if self.up else Span(lo, hi)

    def inside(self, times: list[int]) -> list[int]:
        """Returns those times that lie within what is left of the leg."""
        since, until = self.span(self.lo, self.hi)
        return [at for at in times if since <= at < until]

    def here(self, created_at: int) -> int:
        """Returns a time in the coordinates of this leg (and back)."""
        return -1 - created_at if self.up else created_at

    def turned(self, up: bool) -> Self:
        """Returns the whole stretch again, from the other side."""
        since, until = self.span(self.lo, self.top)
        lo, hi = (-until, -since) if up else (since, until)
        return type(self)(lo, hi, up=up, edge=self.edge)


class PageOrder(Enum):
    """The order of a page, as far as it shows."""

    DOWN = "newest first"
    UP = "oldest first"
    FLAT = "one second"
    NONE = "none"


def order_of(times: list[int]) -> PageOrder:
    """Returns the order that a page shows."""
    if min(times) == max(times):
        return PageOrder.FLAT
    ordered = sorted(times)
    if ordered == times:
        return PageOrder.UP
    ordered.reverse()
    return PageOrder.DOWN if ordered == times else PageOrder.NONE


class LegPage(NamedTuple):
    """An answer with events inside of a leg."""

    inside: list[int]  # in order of arrival
    strays: list[int]  # everything that matched, if some of it lies outside the leg
    size: int  # of the whole answer
    off_filter: int
    is_cut: bool
    flaw: tuple[GapReason, str] | None  # why the page is certainly not whole

    @property
    def order(self) -> PageOrder:
        """The order of what lies inside; a few events alone may be in order by accident."""
        order = order_of(self.inside)
        if self.strays and len(set(self.inside)) < ORDER_EVIDENCE:
            return PageOrder.NONE if order_of(self.strays) is PageOrder.NONE else order
        return order  # a live event of just now among the stored ones does not count

    @property
    def is_clean(self) -> bool:
        """Whether nothing but events that match came, and all that the relay meant to send."""
        return not self.off_filter and not self.is_cut


def lone(span: Span, events: int) -> Gap:
    """Returns what a second is with so many events, and nothing beside them in the page, if more
    follow."""
    words = f"{events} events in one second, and the page ended with them"
    return Gap(span, GapReason.OVERFLOW, words)
