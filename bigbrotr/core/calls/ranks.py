"""Ranks: what is counted of events, and what came of the follow graph."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import asyncpg
import msgspec

from bigbrotr.core.calls.base import Calls, rows_of, value_of
from bigbrotr.core.pool import Connection
from bigbrotr.models.page_rank import Ranked
from bigbrotr.models.ranks import Fact


class RankPosition(NamedTuple):
    """How far events are counted: up to which row of the log of new events, and of that of what
    was judged again; up to which second (Unix) those that expire are left out; and back to which
    event of the archive. `after_at` is None when all of it is counted."""

    step: int
    xid: int
    id: int
    judged_xid: int
    judged_id: int
    expired_at: int
    after_at: int | None
    after_id: bytes | None


class RankRun(NamedTuple):
    """The last run over the follow graph."""

    run: int
    ranked_at: int | None  # Unix seconds; None: there was none


class Counted(NamedTuple):
    """An event, and what it counts for."""

    id: bytes
    created_at: int
    facts: Sequence[Fact]


class Assertion(NamedTuple):
    """What is said to a relay, and the event that says it."""

    target: str
    kind: int
    d: str
    said: dict[str, Any]
    event: str


class RankCalls(Calls):
    """Ranks. Each step is a transaction of its own."""

    async def begin_ranks(self, *, is_again: bool = False) -> bool:
        """Begins to count, where that has not begun or has to begin anew; whether it has."""
        begun: bool = await self._value("begin_ranks", p_is_again=is_again, p_now=int(time.time()))
        return begun

    async def rank_position(self) -> RankPosition | None:
        """How far events are counted; None: not begun."""
        row = await self.pool.fetchrow(
            "SELECT s.step, s.xid, s.id, s.judged_xid, s.judged_id, s.expired_at, s.after_at,"
            " s.after_id FROM bigbrotr.rank_state AS s"
        )
        return None if row is None else RankPosition(*row)

    async def rank_run(self) -> RankRun:
        """The last run over the follow graph."""
        row = await self.pool.fetchrow("SELECT s.run, s.ranked_at FROM bigbrotr.rank_state AS s")
        return RankRun(0, None) if row is None else RankRun(*row)

    async def count_events(
        self,
        shown: Iterable[Counted],
        others: Sequence[bytes],
        before: RankPosition,
        after: RankPosition,
    ) -> bool:
        """Counts events that are shown, takes back what `others` (ids) have counted for, and moves
        on; False: another was quicker."""
        rows = [
            (event.id, number, fact.what, fact.subject, event.created_at, fact.msat)
            for event in shown
            for number, fact in enumerate(event.facts, 1)
        ]

        async def work(connection: Connection) -> bool:
            is_ours = await value_of(
                connection,
                "move_ranks",
                p_step=before.step,
                p_xid=after.xid,
                p_id=after.id,
                p_judged_xid=after.judged_xid,
                p_judged_id=after.judged_id,
                p_expired_at=after.expired_at,
                p_after_at=after.after_at,
                p_after_id=after.after_id,
                p_now=int(time.time()),
            )
            if not is_ours:
                return False
            if others:
                await value_of(connection, "uncount_facts", p_ids=list(others))
            for batch in self._batches(rows):
                await rows_of(
                    connection,
                    "count_facts",
                    p_ids=[row[0] for row in batch],
                    p_ns=[row[1] for row in batch],
                    p_whats=[row[2] for row in batch],
                    p_subjects=[row[3] for row in batch],
                    p_created_ats=[row[4] for row in batch],
                    p_msats=[row[5] for row in batch],
                )
            return True

        return await self._transact(work)

    async def next_rejudged(
        self, before: RankPosition, until: int, limit: int
    ) -> list[tuple[int, int, Sequence[int], Sequence[bytes]]]:
        """The next rows of the log of what was judged again, of the transactions before `until`:
        transaction, id, times and ids of events."""
        rows = await self._rows(
            "next_rejudged",
            p_xid=before.judged_xid,
            p_id=before.judged_id,
            p_until=until,
            p_limit=limit,
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    async def keep_ranks(self, run: int, ranked: Sequence[Ranked]) -> None:
        """Writes what a run has found of some public keys."""
        await self._value(
            "keep_ranks",
            p_run=run,
            p_pubkeys=[each.pubkey for each in ranked],
            p_scores=[each.score for each in ranked],
            p_ranks=[each.rank for each in ranked],
            p_followers=[each.followers for each in ranked],
            p_follows=[each.follows for each in ranked],
        )

    async def end_ranking(
        self, run: int, *, listed: int, follows: int, iterations: int, at: int
    ) -> bool:
        """Ends a run that was begun `at` (Unix seconds); False: a later one has ended already."""
        ended: bool = await self._value(
            "end_ranking",
            p_run=run,
            p_listed=listed,
            p_follows=follows,
            p_iterations=iterations,
            p_at=at,
        )
        return ended

    async def rank_published(self, signer: bytes) -> dict[tuple[str, int, str], Any]:
        """What a key has last said to whom: by target, kind and d tag."""
        rows = await self.pool.fetch(
            "SELECT p.target, p.kind, p.d, p.said FROM bigbrotr.rank_published AS p"
            " WHERE p.signer = $1",
            signer,
        )
        return {
            (row["target"], row["kind"], row["d"]): msgspec.json.decode(row["said"]) for row in rows
        }

    async def read_assertions(self, most: int, signer: bytes) -> list[asyncpg.Record]:
        """What is known of the public keys of the highest score, and of those of which `signer`
        has said something."""
        return await self._rows("read_assertions", p_most=most, p_signer=signer)

    async def read_subject_assertions(self, most: int, signer: bytes) -> list[asyncpg.Record]:
        """What is counted of the events and addresses of which most is, and of those of which
        `signer` has said something."""
        return await self._rows("read_subject_assertions", p_most=most, p_signer=signer)

    async def post_assertions(self, signer: str, posts: Sequence[Assertion]) -> None:
        """Puts events into the outbox, and notes what they say, in one transaction a batch."""
        for batch in self._batches(posts):

            async def work(connection: Connection, batch: Sequence[Assertion] = batch) -> None:
                now = int(time.time())
                await value_of(
                    connection,
                    "post_events",
                    p_targets=[post.target for post in batch],
                    p_kinds=[post.kind for post in batch],
                    # Of its own `d` each: what other keys of ours say of the same is not replaced.
                    p_ds=[f"{signer} {post.d}" for post in batch],
                    p_events=[post.event for post in batch],
                    p_now=now,
                )
                await value_of(
                    connection,
                    "note_published",
                    p_targets=[post.target for post in batch],
                    p_signer=bytes.fromhex(signer),
                    p_kinds=[post.kind for post in batch],
                    p_ds=[post.d for post in batch],
                    p_saids=[msgspec.json.encode(post.said).decode() for post in batch],
                    p_now=now,
                )

            await self._transact(work)
