"""Coverage: spans of time, what proves them complete, and the gaps that remain."""

from collections.abc import Iterable
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


def second_of(created_at: int) -> Span:
    """The second in which an event was created."""
    return Span(created_at, created_at + 1)


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
