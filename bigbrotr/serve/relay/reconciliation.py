"""Compares ids with clients (NIP-77): what both sides ask for is read once, kept, and shared.

Memory: 46 bytes an id, and in all no more than `reconciliation_mb`. A set of ids is kept by what
was asked for, and is changed as the archive changes; a part in time of a set that there is needs
none of its own. Of the newest so many events nobody can say so simply: these are read again when
they are older than twenty times what reading took. A set that somebody compares with stays; the
others go when room is needed, those that were used longest ago first.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

from msgspec.structs import replace

from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.models.query import Query
from bigbrotr.nostr.id_set import ITEM_BYTES, IdSet, Key
from bigbrotr.nostr.negentropy import Ordered, Server
from bigbrotr.reads.ids import PackedIds
from bigbrotr.serve.relay.upkeep import Upkeep
from bigbrotr.serve.relay.views import View

FRESH = 20.0  # times what it took to read the newest ids is how long they are good, ...
LEAST_FRESH_S = 1.0  # ... at least
KEPT = 1000  # sets
IDLE_S = 3600.0  # one that nobody compares with for so long is forgotten
LARGE_S = 300.0  # what was too large is thought to be so
MOST_LACK = 2.0  # a part in time that has half of all there is comes from the set of all

Asking = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class TooManyError(Exception):
    """There are more events than may be compared; `most`: how many may."""

    def __init__(self, reason: str, most: int) -> None:
        super().__init__(reason)
        self.most = most


class Kept:
    """The ids of one question: being read, or read; `users` compare with them."""

    __slots__ = (
        "_changes",
        "ids",
        "made_at",
        "queries",
        "task",
        "took_s",
        "used_at",
        "users",
        "view",
    )

    def __init__(self, view: View, queries: list[Query]) -> None:
        self.view = view
        self.queries = queries
        self.ids = IdSet()
        self.made_at = 0.0  # monotonic; 0: not yet
        self.took_s = 0.0
        self.used_at = 0.0
        self.users = 0
        self.task: asyncio.Task[None] | None = None
        self._changes: list[tuple[Collection[Key], Collection[Key]]] = []

    @property
    def is_changing(self) -> bool:
        """Whether what comes and goes is known of them: not so of the newest so many."""
        return all(query.limit is None for query in self.queries)

    @property
    def is_fresh(self) -> bool:
        """Whether they are as good as new, or about to be."""
        fresh_s = max(LEAST_FRESH_S, FRESH * self.took_s)
        return self.is_changing or not self.made_at or time.monotonic() < self.made_at + fresh_s

    def change(self, added: Collection[Key], gone: Collection[Key]) -> None:
        """Takes what has come and what has gone, once they are read."""
        if not self.made_at:
            self._changes.append((added, gone))
            return
        self.ids.update(added)
        self.ids.discard(gone)

    def is_read(self, took_s: float) -> None:
        """All there was is read."""
        self.took_s = took_s
        self.made_at = time.monotonic()
        self.task = None
        for added, gone in self._changes:
            self.change(added, gone)
        self._changes.clear()


class Holdings:
    """The sets of ids that this process compares; `keep_up` keeps them up to date."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self.keep_up: Upkeep | None = None
        self._room = most_bytes // ITEM_BYTES
        self._kept: dict[tuple[object, ...], Kept] = {}
        self._large: dict[tuple[object, ...], float] = {}  # that were too large, and when

    @property
    def items(self) -> int:
        """How many ids are in memory."""
        return sum(len(each.ids) for each in self._kept.values())

    def changing(self) -> list[Kept]:
        """The sets that are to be kept up to date; those that nobody wants any more are gone."""
        idle_since = time.monotonic() - IDLE_S
        for key, kept in list(self._kept.items()):
            if not kept.users and kept.used_at < idle_since:
                del self._kept[key]
        if len(self._large) > KEPT:
            self._large.clear()
        return [each for each in self._kept.values() if each.is_changing]

    def drop(self) -> None:
        """Forgets the sets that are to be kept up to date; who compares with one goes on with it as
        it is."""
        for key, kept in list(self._kept.items()):
            if kept.is_changing:
                self._forget(key, kept)

    async def take(self, view: View, queries: list[Query], ask: Asking) -> "Held":
        """The ids that match any of the queries, for somebody whose questions to the database go by
        way of `ask`.

        Raises:
            TooManyError: they are too many, or too many for the room that is left.
        """
        if self.keep_up is not None:
            await ask(self.keep_up.begin)
        if len(queries) == 1 and queries[0].limit is None:
            query = queries[0]
            whole = replace(query, since=0, until=MAX_CREATED_AT)
            key = key_of(view, [whole])
            if key in self._kept or await self._is_most(view, query, whole, ask):
                try:
                    return await self._take(view, [whole], ask, (query.since, query.until))
                except TooManyError:
                    if whole == query:
                        raise
                    self._large[key] = time.monotonic()
        return await self._take(view, queries, ask)

    async def _take(
        self, view: View, queries: list[Query], ask: Asking, span: tuple[int, int] | None = None
    ) -> "Held":
        key = key_of(view, queries)
        kept = self._kept.get(key)
        if kept is None or not kept.is_fresh:
            kept = Kept(view, queries)
            self._drop(key)
            self._kept[key] = kept
            kept.task = asyncio.create_task(self._read(kept, ask))
        kept.users += 1
        kept.used_at = time.monotonic()
        held = Held(self, key, kept, span)
        try:
            if kept.task is not None:
                # Others may wait for the same: who goes away does not break it off for them.
                await asyncio.shield(kept.task)
        except BaseException:
            held.release()
            raise
        return held

    async def _is_most(self, view: View, query: Query, whole: Query, ask: Asking) -> bool:
        """Whether a part in time has most of what there is, by statistics: clients begin with all
        up to now."""
        if query.is_empty or query.ids is not None or whole == query:
            return False
        if time.monotonic() < self._large.get(key_of(view, [whole]), float("-inf")) + LARGE_S:
            return False
        part = await ask(lambda: view.events.count(query, 0, budget_s=1.0))
        every = await ask(lambda: view.events.count(whole, 0, budget_s=1.0))
        return bool(0 < every.events <= min(MOST_LACK * part.events, self.most))

    async def _read(self, kept: Kept, ask: Asking) -> None:
        began = time.monotonic()
        try:
            for query in kept.queries:
                await self._read_one(kept, query, ask)
            for _ in kept.ids.summing():
                await asyncio.sleep(0)
        except BaseException:
            kept.ids = IdSet()
            for key, other in list(self._kept.items()):
                if other is kept:
                    del self._kept[key]
            raise
        kept.is_read(time.monotonic() - began)
        while len(self._kept) > KEPT and self._drop_oldest():
            pass

    async def _read_one(self, kept: Kept, query: Query, ask: Asking) -> None:
        view = kept.view
        about = await ask(lambda: view.events.count(query, 0, budget_s=1.0))
        if query.limit is None and not about.is_exact and about.events > 4 * self.most:
            # By far: as it is about statistics, what is near is counted.
            raise TooManyError("blocked: too many events match", self.most)
        pages = view.ids(query)
        while (page := await ask(lambda: _next(pages))) is not None:
            kept.ids.extend_packed(page.created_ats, page.ids)
            if len(kept.ids) > self.most:
                raise TooManyError("blocked: too many events match", self.most)
            self._make_room(kept)

    def _make_room(self, kept: Kept) -> None:
        while (held := self.items) > self._room:
            if not self._drop_oldest():
                raise TooManyError(
                    "blocked: too much is compared with others just now; ask for less time",
                    max(1, self._room - held + len(kept.ids)),
                )

    def _drop_oldest(self) -> bool:
        """Forgets what nobody compares with; whether there was any."""
        idle = [key for key, each in self._kept.items() if not each.users and each.made_at]
        if not idle:
            return False
        del self._kept[min(idle, key=lambda key: self._kept[key].used_at)]
        return True

    def _drop(self, key: tuple[object, ...]) -> None:
        """Forgets what is no longer fresh, if there is any."""
        if (old := self._kept.get(key)) is not None:
            self._forget(key, old)

    def _forget(self, key: tuple[object, ...], old: Kept) -> None:
        """Forgets a set: where it is compared with, it is kept aside."""
        del self._kept[key]
        if old.users:
            self._kept[(*key, id(old))] = old

    def leave(self, key: tuple[object, ...], kept: Kept) -> None:
        """Somebody compares with a set no longer."""
        kept.users -= 1
        if not kept.users:
            if kept.task is not None:  # nobody waits for it any more
                kept.task.cancel()
                if self._kept.get(key) is kept:
                    del self._kept[key]
            for other, each in list(self._kept.items()):
                if each is kept and other != key:
                    del self._kept[other]

    async def close(self) -> None:
        """Ends what is being read."""
        tasks = [each.task for each in self._kept.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Held:
    """A set of ids in somebody's use, until `release`; of it, those created in `span` (Unix
    seconds, both included)."""

    def __init__(
        self, holdings: Holdings, key: tuple[object, ...], kept: Kept, span: tuple[int, int] | None
    ) -> None:
        self._holdings = holdings
        self._key = key
        self._kept: Kept | None = kept
        self._span = span

    @property
    def ids(self) -> Ordered:
        """The ids, as they are now."""
        assert self._kept is not None
        whole = self._kept.ids
        return whole if self._span is None else whole.window(*self._span)

    def release(self) -> None:
        """Gives the set back; doing so again changes nothing."""
        if self._kept is not None:
            self._holdings.leave(self._key, self._kept)
            self._kept = None


class Session:
    """One reconciliation of a client."""

    def __init__(self, held: Held, frame_bytes: int) -> None:
        self._held = held
        self._frame_bytes = frame_bytes
        self.used_at = time.monotonic()

    def answer(self, payload: bytes) -> bytes:
        """The answer to a message.

        Raises:
            NegentropyError: the message is no good.
        """
        self.used_at = time.monotonic()
        return Server(self._held.ids, frame_limit=self._frame_bytes).reconcile(payload)

    def close(self) -> None:
        """Gives the ids back."""
        self._held.release()


async def _next(pages: AsyncIterator[PackedIds]) -> PackedIds | None:
    return await anext(pages, None)


def key_of(view: View, queries: list[Query]) -> tuple[object, ...]:
    """What tells one question from another."""
    return (view.path, *map(_key, queries))


def _key(query: Query) -> tuple[object, ...]:
    tags = tuple(sorted((letter, texts) for letter, texts in query.tags.items()))
    lists = query.ids, query.authors, query.kinds
    return (lists, tags, query.since, query.until, query.limit)
