"""Keeps sets of ids up to date: with what comes, and with what may be shown no longer, or again.

Nothing is read twice: new events stand in the log of arrivals, events about which the policy has
changed its mind in that of those judged again, and the time of others is over. Each of them is
looked up once for each view; a set that asks for it has it afterwards, and has it not where it is
not shown.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

from bigbrotr.core.defects import Defects, refusal
from bigbrotr.core.logger import Logger
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import decode_tags
from bigbrotr.models.query import Query
from bigbrotr.nostr.id_set import Key
from bigbrotr.reads.arrivals import Arrivals
from bigbrotr.reads.events import PAGE, StoredEvent
from bigbrotr.serve.relay.matching import is_match
from bigbrotr.serve.relay.views import PAGE_BYTES, View

LOOK_S = 5.0  # from one look to the next, where nobody asks
ROWS = 200  # of the logs that are read at once
MOST = 200_000  # changes that are followed; where there are more, the sets are read anew


class Following(Protocol):
    """A set that is kept up to date."""

    view: View
    queries: list[Query]

    def change(self, added: Collection[Key], gone: Collection[Key]) -> None:
        """Takes what has come and what is to go; those that are there, or not there, already as
        well."""


class TooManyChangesError(Exception):
    """So much has changed, or some of it is not known any more, that sets are better read anew."""


class Upkeep:
    """Follows the logs for all sets of a process; `sets` gives them, `drop` forgets them all."""

    def __init__(
        self,
        pool: Pool,
        sets: Callable[[], Collection[Following]],
        drop: Callable[[], None],
        log: Logger,
    ) -> None:
        self._pool = pool
        self._sets = sets
        self._drop = drop
        self._log = log
        self._defects = Defects(log)
        self._turn = asyncio.Lock()
        self._arrivals: Arrivals | None = None
        self._xid = 0  # up to which transaction what was judged again is known
        self._expired_at = 0  # up to when what has expired is
        self._hides: tuple[int, int] = (0, 0)
        self._looked_at = float("-inf")  # monotonic
        self._is_away = False
        self.changes = 0  # that were followed

    async def begin(self) -> None:
        """Sees to it that a set that is read from now on can be kept up to date, and that those
        there are were a moment ago."""
        asked_at = time.monotonic()
        async with self._turn:
            if self._looked_at >= asked_at:
                return
            looking_at = time.monotonic()
            try:
                await self._look()
            except BaseException:
                # What was read and not told is lost.
                self._forget()
                raise
            self._looked_at = looking_at

    async def run(self) -> None:
        """Looks from time to time while there are sets, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._sets():
                self._arrivals = None
                self._looked_at = float("-inf")
                continue
            try:
                await self.begin()
                self._is_away = False
            except Exception as error:
                if (known := refusal(error)) is None and not isinstance(error, TimeoutError):
                    self._defects.note(error)
                elif not self._is_away:
                    self._log.warning("ids are read anew later", reason=str(known or "busy"))
                    self._is_away = True

    def _forget(self) -> None:
        self._arrivals = None
        self._looked_at = float("-inf")
        self._drop()

    async def _look(self) -> None:
        if self._arrivals is None or not self._sets():
            await self._start()
            return
        now = int(time.time())
        state = await self._pool.fetchrow(
            "SELECT * FROM bigbrotr.shown_state(p_xid => $1)", self._xid
        )
        assert state is not None
        if state["is_missing"] or self._hides != (state["current"], state["archive"]):
            self._drop()
            await self._start()
            return
        try:
            keys = await self._changed(state["xid"], now)
        except TooManyChangesError:
            self._drop()
            await self._start()
            return
        if keys:
            for view in {each.view.path: each.view for each in self._sets()}.values():
                await self._tell(view, sorted(keys))
        self.changes += len(keys)
        self._xid, self._expired_at = state["xid"], now

    async def _start(self) -> None:
        """Begins anew: there is no set yet."""
        self._expired_at = int(time.time())
        state = await self._pool.fetchrow("SELECT * FROM bigbrotr.shown_state(p_xid => $1)", 0)
        assert state is not None
        self._xid = state["xid"]
        self._hides = state["current"], state["archive"]
        self._arrivals = await Arrivals.from_now(self._pool, judged=True)

    async def _changed(self, xid: int, now: int) -> set[Key]:
        assert self._arrivals is not None
        keys: set[Key] = set()
        while found := await self._arrivals.read(ROWS):
            for arrival in found:
                keys.update(zip(arrival.created_ats, arrival.ids, strict=True))
            if len(keys) > MOST or self._arrivals.is_missing:
                raise TooManyChangesError
        if self._arrivals.is_missing:
            raise TooManyChangesError
        rows = await self._pool.fetch(
            "SELECT * FROM bigbrotr.read_rejudged(p_from => $1, p_until => $2, p_limit => $3)",
            self._xid,
            xid,
            ROWS,
        )
        for row in rows:
            keys.update(zip(row["created_ats"], row["ids"], strict=True))
        expired = await self._pool.fetch(
            "SELECT * FROM bigbrotr.read_expiring(p_after => $1, p_until => $2, p_limit => $3)",
            self._expired_at,
            now,
            MOST,
        )
        keys.update((row["created_at"], row["id"]) for row in expired)
        if len(keys) > MOST or len(rows) == ROWS:
            raise TooManyChangesError
        return keys

    async def _tell(self, view: View, keys: list[Key]) -> None:
        """Has the sets of a view changed: what it shows of these events they may have."""
        for start in range(0, len(keys), PAGE):
            part = keys[start : start + PAGE]
            shown = await self._shown(view, part)
            # The sets of now: one may have been dropped meanwhile, or begun.
            for each in self._sets():
                if each.view is not view:
                    continue
                added = {
                    (event.created_at, event.id)
                    for event, tags in shown
                    if any(is_match(query, event, tags) for query in each.queries)
                }
                each.change(added, set(part) - added)
            await asyncio.sleep(0)

    async def _shown(
        self, view: View, keys: list[Key]
    ) -> list[tuple[StoredEvent, list[list[str]]]]:
        query = Query(ids=frozenset(key[1] for key in keys), since=keys[0][0], until=keys[-1][0])
        found: list[tuple[StoredEvent, list[list[str]]]] = []
        after = None
        while True:
            page = await view.events.page(query, PAGE, after, most_bytes=PAGE_BYTES)
            found += (
                # Contents may be large, and are of no use here.
                (
                    event._replace(content=None, tags=None, raw=None),
                    decode_tags(event.tags) if event.tags else [],
                )
                for event in page.events
            )
            if (after := page.next) is None:
                return found
