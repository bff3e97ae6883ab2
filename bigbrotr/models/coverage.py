"""Coverage: spans of time, what proves them complete, and the gaps that remain."""

from enum import StrEnum
from typing import NamedTuple


class Span(NamedTuple):
    """Seconds from `since` up to, but not including, `until`."""

    since: int
    until: int


class How(StrEnum):
    """What proves that every event of a span was seen."""

    PAGING = "paging"  # pages in order, down to an empty answer
    FINISH = "finish"  # the relay's NIP-67 hint
    RECONCILIATION = "reconciliation"  # NIP-77


class Proof(NamedTuple):
    """A span of which every event was seen."""

    span: Span
    how: How


class Gap(NamedTuple):
    """A span that could not be proven, and why."""

    span: Span
    reason: str
    detail: str
