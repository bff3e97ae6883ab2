"""Holdings: records which events a relay holds, of a window in which both sides are known."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import NamedTuple

from bigbrotr.core.calls.reconciliation import Window
from bigbrotr.models.columns import Key
from bigbrotr.models.coverage import Span
from bigbrotr.nostr.negentropy import Bound, Client, Digest, Items
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.conversation import Conversation
from bigbrotr.services.sync.fetch_by_id import PAIRS, Collected, FetchById
from bigbrotr.services.sync.report import Report

MERGED_ITEMS = 50_000  # neighbouring windows are remembered as one, up to this many events
MARKED = 25_000  # events of a window that are marked at once


class Remembered(NamedTuple):
    """What a relay was found to hold in a window."""

    span: Span
    digest: Digest


class Comparison(NamedTuple):
    """Both sides of a window, compared."""

    span: Span
    items: Items  # ours: what is archived, or (`is_held`) what the relay is known to hold
    client: Client  # which of them it lacks, and what it has besides
    is_held: bool


class Holdings:
    """Records what one relay holds, window by window."""

    def __init__(
        self,
        context: VisitContext,
        state: VisitState,
        conversation: Conversation,
        by_id: FetchById,
    ) -> None:
        self._context, self._state = context, state
        self._brotr, self._conversation, self._by_id = context.brotr, conversation, by_id
        self.windows = 0  # that were proven
        self._last: Remembered | None = None  # the window before, which the next one may join

    async def conclude(
        self,
        compared: Comparison,
        collected: Collected,
        touched: Sequence[Span],
        most_items: int,
    ) -> bool:
        """Notes who holds what, and that the window is proven; returns False, and proves nothing,
        where some of the events have been deleted meanwhile.

        `touched` are the seconds in which the relay has held something before, also where a walk
        was cut and proved nothing. `most_items`: events in a window that is remembered, at most.
        """
        span, items, client, is_held = compared
        absent = set(client.have)
        found = Remembered(span, client.theirs)
        dropped = keys_within(items, sorted(absent), touched)
        if not is_held and not await self._mark(span, items, absent, collected.keys):
            # Others have brought events of this window meanwhile, or the relay holds few: by name.
            places = [place for place in range(len(items)) if place not in absent]
            for start in range(0, len(places), PAIRS):
                batch = places[start : start + PAIRS]
                keys = [(items.created_at(place), items.id(place)) for place in batch]
                if len(await self._by_id.note_presence(keys)) < len(keys):
                    return False
        await self.record(found, collected.withheld, most_items, dropped)
        return True

    async def _mark(
        self,
        span: Span,
        items: Items,
        absent: Collection[int],
        came: Collection[Key],
    ) -> bool:
        """Notes the relay as a holder of all that is archived in a window but the absent, in parts,
        two at a time; returns False if that cannot be said of every part.

        `came` are the (created_at, id) of the events that it has just handed over.
        """
        filter_ = self._context.policy.filter
        if filter_.kinds is not None or filter_.authors is not None:
            return False
        if 2 * len(absent) > len(items):
            return False
        parts = self._parts(span, items, absent, came)
        is_marked = True
        for start in range(0, len(parts), 2):
            counts = await asyncio.gather(
                *(
                    self._brotr.mark_window(self._state.claim, *part)
                    for part in parts[start : start + 2]
                )
            )
            is_marked = is_marked and None not in counts
            self._context.report(Report(matched=sum(count or 0 for count in counts)))
        return is_marked

    def _parts(
        self, span: Span, items: Items, absent: Collection[int], came: Collection[Key]
    ) -> list[tuple[Span, bytes, list[bytes]]]:
        """Returns the parts of a window, each with all of its ids, and with the absent ones."""
        parts = []
        since, first = span.since, 0
        while since < span.until:
            until = span.until
            if first + MARKED < len(items):
                until = max(since + 1, items.created_at(first + MARKED))
            end = items.position(Bound(until), first)
            gone = [items.id(place) for place in absent if first <= place < end]
            more = [key for key in came if since <= key[0] < until]
            parts.append((Span(since, until), ids_with(items, first, end, more), gone))
            since, first = until, end
        return parts

    async def record(
        self,
        found: Remembered,
        withheld: Collection[bytes],
        most_items: int,
        dropped: Collection[Key] = (),
    ) -> None:
        """Records a proven window."""
        joined = self._joined(found, min(MERGED_ITEMS, most_items))
        window = Window(
            found.span,
            joined.span,
            joined.digest.items,
            joined.digest.sum.to_bytes(32, "little"),
            list(withheld),
            list(dropped),
        )
        ended = await self._brotr.record_window(
            self._state.claim,
            window,
            filter=self._context.policy.filter.key,
            identity=self._conversation.session.identity,
            now=int(time.time()),
        )
        self._last = joined
        self.windows += 1
        self._context.report(Report(windows=1, dropped=ended))

    def _joined(self, found: Remembered, most: int) -> Remembered:
        """Returns a window together with the one before it, if they are small and touch."""
        last = self._last
        if last is None or last.span.until != found.span.since:
            return found
        if last.digest.items + found.digest.items > most:
            return found
        return Remembered(Span(last.span.since, found.span.until), last.digest + found.digest)


def keys_within(items: Items, places: Sequence[int], spans: Sequence[Span]) -> list[Key]:
    """Returns the keys at some of the positions, ascending ones, as far as they lie in spans."""
    keys: list[Key] = []
    for span in spans:
        lo = bisect_left(places, items.position(Bound(span.since)))
        hi = bisect_left(places, items.position(Bound(span.until)))
        keys += [(items.created_at(place), items.id(place)) for place in places[lo:hi]]
    return keys


def ids_with(items: Items, lo: int, hi: int, more: Collection[Key]) -> bytes:
    """Returns the ids at the positions [lo, hi), and some more where they belong."""
    if not more:
        return items.ids(lo, hi)
    ours = [(items.created_at(place), items.id(place)) for place in range(lo, hi)]
    return b"".join(event_id for _, event_id in sorted([*ours, *more]))
