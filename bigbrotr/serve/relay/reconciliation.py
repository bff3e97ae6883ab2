"""Compares ids with clients (NIP-77): what both sides ask for is read once, and shared.

Memory: 44 bytes an id, and in all no more than `reconciliation_mb`. Sets of ids are kept by what
was asked for, for twenty times as long as it took to read them: to read them again and again then
takes a twentieth of a core at most. One that somebody compares with stays; the others go when room
is needed, those that were used longest ago first.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bigbrotr.models.query import Query
from bigbrotr.nostr.negentropy import Items, Server
from bigbrotr.serve.relay.views import View

ITEM_BYTES = 44  # 8 of the time, 32 of the id, and a sum of 32 for 16 ids
FRESH = 20.0  # times what it took to read ids is how long they are good, ...
LEAST_FRESH_S = 1.0  # ... at least
KEPT = 1000  # sets

Asking = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class TooManyError(Exception):
    """There are more events than may be compared; `most`: how many may."""

    def __init__(self, reason: str, most: int) -> None:
        super().__init__(reason)
        self.most = most


class Kept:
    """The ids of one question: being read, or read; `users` compare with them."""

    __slots__ = ("items", "made_at", "task", "took_s", "used_at", "users")

    def __init__(self) -> None:
        self.items = Items()
        self.made_at = 0.0  # monotonic; 0: not yet
        self.took_s = 0.0
        self.used_at = 0.0
        self.users = 0
        self.task: asyncio.Task[None] | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether they are as good as new, or about to be."""
        fresh_s = max(LEAST_FRESH_S, FRESH * self.took_s)
        return not self.made_at or time.monotonic() < self.made_at + fresh_s


class Holdings:
    """The sets of ids that this process compares."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self._room = most_bytes // ITEM_BYTES
        self._kept: dict[tuple[object, ...], Kept] = {}

    @property
    def items(self) -> int:
        """How many ids are in memory."""
        return sum(len(each.items) for each in self._kept.values())

    async def take(self, view: View, queries: list[Query], ask: Asking) -> "Held":
        """The ids that match any of the queries, for somebody whose questions to the database go by
        way of `ask`.

        Raises:
            TooManyError: they are too many, or too many for the room that is left.
        """
        key = key_of(view, queries)
        kept = self._kept.get(key)
        if kept is None or not kept.is_fresh:
            kept = Kept()
            self._drop(key)
            self._kept[key] = kept
            kept.task = asyncio.create_task(self._read(kept, view, queries, ask))
        kept.users += 1
        kept.used_at = time.monotonic()
        held = Held(self, key, kept)
        try:
            if kept.task is not None:
                # Others may wait for the same: who goes away does not break it off for them.
                await asyncio.shield(kept.task)
        except BaseException:
            held.release()
            raise
        return held

    async def _read(self, kept: Kept, view: View, queries: list[Query], ask: Asking) -> None:
        began = time.monotonic()
        try:
            for query in queries:
                await self._read_one(kept, view, query, ask)
            for _ in kept.items.sealing():
                await asyncio.sleep(0)
        except BaseException:
            kept.items = Items()
            for key, other in list(self._kept.items()):
                if other is kept:
                    del self._kept[key]
            raise
        kept.took_s = time.monotonic() - began
        kept.made_at = time.monotonic()
        kept.task = None
        while len(self._kept) > KEPT and self._drop_oldest():
            pass

    async def _read_one(self, kept: Kept, view: View, query: Query, ask: Asking) -> None:
        about = await ask(lambda: view.events.count(query, 0, budget_s=1.0))
        if query.limit is None and not about.is_exact and about.events > 4 * self.most:
            # By far: as it is about statistics, what is near is counted.
            raise TooManyError("blocked: too many events match", self.most)
        pages = view.ids(query)
        while True:
            page = await ask(lambda: anext(pages, None))
            if page is None:
                break
            kept.items.extend_packed(page.created_ats, page.ids)
            if len(kept.items) > self.most:
                raise TooManyError("blocked: too many events match", self.most)
            self._make_room(kept)

    def _make_room(self, kept: Kept) -> None:
        while self.items > self._room:
            if not self._drop_oldest():
                raise TooManyError(
                    "blocked: too much is compared with others just now; ask for less time",
                    max(1, self._room - self.items + len(kept.items)),
                )

    def _drop_oldest(self) -> bool:
        """Forgets what nobody compares with; whether there was any."""
        idle = [key for key, each in self._kept.items() if not each.users and each.made_at]
        if not idle:
            return False
        del self._kept[min(idle, key=lambda key: self._kept[key].used_at)]
        return True

    def _drop(self, key: tuple[object, ...]) -> None:
        """Forgets what is no longer fresh: where it is compared with, it is kept aside."""
        if (old := self._kept.pop(key, None)) is not None and old.users:
            self._kept[(*key, id(old))] = old

    def leave(self, key: tuple[object, ...], kept: Kept) -> None:
        """Somebody compares with a set no longer."""
        kept.users -= 1
        if not kept.users:
            if kept.task is not None:  # nobody waits for it any more
                kept.task.cancel()
                if self._kept.get(key) is kept:
                    del self._kept[key]
            self._kept.pop((*key, id(kept)), None)

    async def close(self) -> None:
        """Ends what is being read."""
        tasks = [each.task for each in self._kept.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Held:
    """A set of ids in somebody's use, until `release`."""

    def __init__(self, holdings: Holdings, key: tuple[object, ...], kept: Kept) -> None:
        self._holdings = holdings
        self._key = key
        self._kept: Kept | None = kept

    @property
    def items(self) -> Items:
        """The ids, sealed."""
        assert self._kept is not None
        return self._kept.items

    def release(self) -> None:
        """Gives the set back; doing so again changes nothing."""
        if self._kept is not None:
            self._holdings.leave(self._key, self._kept)
            self._kept = None


class Session:
    """One reconciliation of a client."""

    def __init__(self, held: Held, frame_bytes: int) -> None:
        self._held = held
        self._server = Server(held.items, frame_limit=frame_bytes)
        self.used_at = time.monotonic()

    def answer(self, payload: bytes) -> bytes:
        """The answer to a message.

        Raises:
            NegentropyError: the message is no good.
        """
        self.used_at = time.monotonic()
        return self._server.reconcile(payload)

    def close(self) -> None:
        """Gives the ids back."""
        self._held.release()


def key_of(view: View, queries: list[Query]) -> tuple[object, ...]:
    """What tells one question from another."""
    return (view.path, *map(_key, queries))


def _key(query: Query) -> tuple[object, ...]:
    tags = tuple(sorted((letter, texts) for letter, texts in query.tags.items()))
    lists = query.ids, query.authors, query.kinds
    return (lists, tags, query.since, query.until, query.limit)
