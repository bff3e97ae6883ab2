"""What the walk over a relay's past asks and hears, and what it learns from that: plain values."""

from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import NamedTuple

from msgspec import Struct

from bigbrotr.models.coverage import Gap, Proof, Span, uncovered


class Probe(Enum):
    """A question beside the walk, which tests what the walk goes by."""

    # Does the relay show anything at all? Whatever its time, ...
    ANY = "any"  # ... as wanted
    KINDS = "kinds"  # ... of common kinds
    KNOWN = "known"  # ... by authors, or with ids, that are known from elsewhere
    # Was a second, in which alone the last page lay, shown whole?
    BEHIND = "behind"  # does a page show it, and what lies behind it?
    PAST = "past"  # does anything lie behind it?
    ROOM = "room"  # does a page hold more, with what lies before it?
    # Is a relay's word worth something?
    AGAIN = "again"  # a part of a page
    PART = "part"  # a part of that part
    FINISH = "finish"  # is there really nothing older?


WHENEVER = frozenset({Probe.ANY, Probe.KINDS, Probe.KNOWN})


class Question(NamedTuple):
    """One question: both ends included, as in NIP-01; `until` None is no upper bound.

    `probe` is what it is for, if it is none of the walk's own. Those `WHENEVER` have no bounds of
    time; KINDS and KNOWN have conditions on top.
    """

    since: int
    until: int | None
    limit: int
    probe: Probe | None = None


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
    MALFORMED = "malformed"  # nothing came but what is no event
    LATE = "late"  # events came after the relay had said that there were no more


class PageAnswer(Struct, frozen=True):
    """What came back for one `Question`.

    `created_ats` are those of the distinct events that match the filter, in order of arrival. Their
    ids are proven by hash; a few are only what the relay says of events that are not valid, or too
    large (`oversized`): they took a place in the page as well. `off_filter` counts events that do
    not match, `malformed` those without a time, `repeats` those that had come before in the page.
    `finish` and `more` are NIP-67's; `more` also stands for hints that nobody knows.
    """

    created_ats: Sequence[int]
    end: End
    off_filter: int = 0
    malformed: int = 0
    repeats: int = 0
    oversized: Sequence[int] = ()
    reason: str = ""
    finish: bool = False
    more: bool = False
    elapsed_s: float = 0.0


class Progress(Struct, frozen=True):
    """What became certain: disjoint spans, in no particular order.

    `retracted` is what this walk has said something of before, and takes back.
    """

    proven: list[Proof]
    gaps: list[Gap]
    retracted: Sequence[Span] = ()

    def then(self, more: "Progress") -> "Progress":
        """Returns this together with what one more answer has made certain, which may take back
        some of it."""
        proven, gaps, back = self.proven, self.gaps, more.retracted
        if back:
            proven = [Proof(left, how) for span, how in proven for left in uncovered(span, back)]
            gaps = [Gap(left, *why) for span, *why in gaps for left in uncovered(span, back)]
        return Progress(proven + more.proven, gaps + more.gaps, [*self.retracted, *back])


class Pending(Struct, frozen=True, omit_defaults=True):
    """What the last pages of a walk have shown that was interrupted then: the next answer, below
    it, decides whether it is complete. With `alone`, its oldest second has so many events, which
    were a page of their own."""

    since: int
    until: int
    alone: int = 0

    @property
    def span(self) -> Span:
        """The seconds that were shown."""
        return Span(self.since, self.until)


class Habits(Struct, frozen=True, omit_defaults=True):
    """What earlier walks over the same relay taught, for the next one."""

    newest_first: bool = False
    oldest_first: bool = False
    until_excluded: bool = False  # it takes `until` for the first second that is not wanted
    disorderly: bool = False  # it has no order that one can go by
    is_open: bool = False  # it has shown events to whoever asks
    pinned: int = 0  # events that it adds to each answer, whatever was asked for
    finishes: int = 0  # how often its `finish` was found true; -1: it was not
    checks: int = 0  # how often a part of a page was found to be what the page had shown
    pending: "Pending | None" = None
