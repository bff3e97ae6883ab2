"""Search: the index of the words of events, as far as it is."""

from collections.abc import Sequence
from typing import NamedTuple

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls, call_of, value_of
from bigbrotr.core.pool import Connection


class SearchPosition(NamedTuple):
    """Of which kinds events are in the index; up to which row of the log of new events they are,
    and back to which event of the archive. `after_at` is None when all of it is in it."""

    kinds: Sequence[int]
    xid: int
    id: int
    after_at: int | None
    after_id: bytes | None


class Indexed(NamedTuple):
    """An event, and the hashes of its words."""

    created_at: int
    id: bytes
    kind: int
    hashes: Sequence[int]


class SearchCalls(Calls):
    """The index of words. Each step is a transaction of its own."""

    async def begin_search(self, kinds: Sequence[int], *, is_missing: bool = False) -> bool:
        """Begins an index; again where other kinds are wanted, or with `is_missing`, new events
        were pruned before they were read. Whether it has begun."""
        return bool(
            await self._value("begin_search", p_kinds=sorted(kinds), p_is_missing=is_missing)
        )

    async def end_search(self) -> int:
        """Ends the index and deletes what is in it; returns how many events were."""
        total = 0
        while gone := await self._value("end_search", timeout=MAINTENANCE_S):
            total += gone
        return total

    async def search_position(self) -> SearchPosition | None:
        """How far the index is; None: there is none."""
        (row,) = await self._rows("search_position")
        return None if row["kinds"] is None else SearchPosition(*row)

    async def index_words(
        self, events: Sequence[Indexed], before: SearchPosition, after: SearchPosition
    ) -> bool:
        """Puts events into the index, and moves on; False: another was quicker."""
        events = sorted(events, key=lambda each: (each.created_at, each.id))

        async def work(connection: Connection) -> bool:
            is_ours = await value_of(
                connection,
                "move_search",
                p_xid=after.xid,
                p_id=after.id,
                p_after_at=after.after_at,
                p_after_id=after.after_id,
                p_from_xid=before.xid,
                p_from_id=before.id,
                p_from_at=before.after_at,
                p_from_after=before.after_id,
            )
            if is_ours and events:
                names = ("p_created_ats", "p_ids", "p_kinds", "p_tokens")
                await connection.execute(
                    call_of("index_words", *names),
                    [each.created_at for each in events],
                    [each.id for each in events],
                    [each.kind for each in events],
                    [f"{{{','.join(map(str, each.hashes))}}}" for each in events],
                )
            return bool(is_ours)

        return await self._transact(work)
