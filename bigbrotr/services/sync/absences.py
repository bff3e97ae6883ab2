"""Absences: ends what a relay held, where the pages of a walk prove that it holds it no longer."""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from bigbrotr.core.calls.visits import Visit
from bigbrotr.models.columns import Columns, Found, Key
from bigbrotr.models.coverage import Proof, Span, merge, uncovered
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.report import Report

MOST_SHOWN = 50_000  # keys that are remembered, 150 bytes each: pages that nothing proves yet
CHUNK = 20_000  # ids that are read at once
PAIRS = 5_000  # that are ended at once


class Shown:
    """The keys of the events that pages have shown, until their seconds are proven.

    At most `most` of them: of what it had to forget it knows that it does not know (`blind`).
    """

    def __init__(self, most: int = MOST_SHOWN) -> None:
        self.blind: list[Span] = []  # where it has forgotten what was shown, oldest first
        self._most = most
        self._pages: list[list[Key]] = []  # each one sorted

    def add(self, keys: list[Key]) -> None:
        """Remembers what a page showed; sorted."""
        if not keys:
            return
        self._pages.append(keys)
        if sum(map(len, self._pages)) > self._most:
            seconds = [Span(page[0][0], page[-1][0] + 1) for page in self._pages]
            self.blind = merge([*self.blind, *seconds])
            self._pages = []

    def take(self, span: Span) -> set[bytes]:
        """Returns the ids that were shown of a span, as far as it is not blind there; forgets
        them."""
        taken: set[bytes] = set()
        left = []
        for page in self._pages:
            start, end = bisect_left(page, (span.since,)), bisect_left(page, (span.until,))
            taken.update(event_id for _, event_id in page[start:end])
            if rest := page[:start] + page[end:]:
                left.append(rest)
        self._pages = left
        return taken


class Absences:
    """Ends a relay's pairs with the events that a walk did not show in the seconds that it proves.

    It costs nothing where the relay never held anything before (`touched`, oldest first), as when
    it is copied for the first time. Pairs of the walk's own time stay: what came after a question
    is not answered by it. Within a filter, those with events of others stay as well.
    """

    def __init__(
        self, context: VisitContext, claim: Visit, touched: Sequence[Span], began_at: int
    ) -> None:
        self._context, self._brotr, self._claim = context, context.brotr, claim
        self._touched = touched
        self._began_at = began_at
        self._shown = Shown()

    @classmethod
    async def of(cls, context: VisitContext, state: VisitState) -> "Absences":
        """Makes them for a walk that begins now."""
        began_at = int(time.time())
        touched = await context.brotr.touched(state.claim)
        return cls(context, state.claim, touched, began_at)

    def touch(self, span: Span) -> bool:
        """Whether the relay may have held something in a span before."""
        return bool(self._meets(span))

    def saw(self, events: Columns[Found]) -> None:
        """Takes note of what a page showed, sorted."""
        times = events.created_ats
        if times and self._meets(Span(times[0], times[-1] + 1)):
            self._shown.add(events.keys)

    def leave_out(self, spans: Iterable[Span]) -> None:
        """Leaves alone what an earlier walk was shown, or this one before it took its proofs back:
        what it saw for these is forgotten."""
        self._shown.blind = merge([*self._shown.blind, *spans])

    async def conclude(self, proofs: Iterable[Proof]) -> None:
        """Ends the pairs in the proven spans that were not shown; to be called before the proofs
        are recorded.

        Raises:
            LeaseLostError: another process has taken over the relay.
        """
        ended = 0
        for span in merge(proof.span for proof in proofs):
            for part in self._meets(span):
                for clear in uncovered(part, self._shown.blind):
                    ended += await self._end(clear, self._shown.take(clear))
        if ended:
            self._context.report(Report(dropped=ended))

    def _meets(self, span: Span) -> list[Span]:
        """Returns the parts of a span in which the relay may have held something before."""
        parts = (
            Span(max(span.since, held.since), min(span.until, held.until)) for held in self._touched
        )
        return [part for part in parts if part.since < part.until]

    async def _end(self, span: Span, shown: set[bytes]) -> int:
        filter_ = self._context.policy.filter
        ended, size, after = 0, CHUNK, b""
        while size == CHUNK:
            created_ats, ids = await self._brotr.read_ids(
                span,
                after,
                CHUNK,
                kinds=filter_.kinds,
                authors=filter_.authors,
                tags=filter_.tags,
                held_by=self._claim.relay_id,
            )
            size = len(ids) // 32
            absent = [
                (int.from_bytes(created_ats[8 * place : 8 * place + 8]), event_id)
                for place in range(size)
                if (event_id := ids[32 * place : 32 * place + 32]) not in shown
            ]
            for start in range(0, len(absent), PAIRS):
                ended += await self._brotr.note_drops(
                    self._claim,
                    absent[start : start + PAIRS],
                    before=self._began_at,
                    now=int(time.time()),
                )
            if size:
                span = Span(int.from_bytes(created_ats[-8:]), span.until)
                after = ids[-32:]
        return ended
