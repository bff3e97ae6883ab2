"""Policy: judges which events have a reason not to be shown, takes events down, erases them."""

import time
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import asyncpg

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls, rows_of, value_of
from bigbrotr.core.pool import Connection
from bigbrotr.models.event import decode_tags
from bigbrotr.models.policy import Facts, facts_of
from bigbrotr.models.target import What

PAGES = 4  # of the log of new events that are judged at once
STEP = 1000  # archived events that are judged at once

Key: TypeAlias = tuple[int, bytes]  # created_at and id


class Judged(NamedTuple):
    """What one step has done."""

    events: int = 0  # that were judged
    erased: int = 0
    is_done: bool = True  # there was nothing to do


class Takedown(NamedTuple):
    """What the operator has taken down; the last three are None while it stands."""

    what: What
    target: bytes  # id of an event or public key
    is_erasing: bool
    why: str
    who: str
    at: int  # Unix seconds
    undone_why: str | None
    undone_who: str | None
    undone_at: int | None


class Said(NamedTuple):
    """An event and what it says."""

    created_at: int
    id: bytes
    pubkey: bytes
    kind: int
    facts: Facts


class PolicyCalls(Calls):
    """What may be shown. Each step is a transaction of its own, under the policy lock; `urls` are
    our own addresses as a relay, `erases` the bits of the reasons for which content is erased."""

    async def begin_policy(
        self, urls: Sequence[str], erases: int, current: int, archive: int
    ) -> None:
        """Notes what to go by from now on; `current` and `archive`: the bits of the reasons for
        which these views hide events."""
        await self._value(
            "begin_policy",
            p_urls=sorted(urls),
            p_erases=erases,
            p_current=current,
            p_archive=archive,
            p_now=_now(),
        )

    async def policy_is_due(self, now: int) -> bool:
        """Whether there is anything to judge or to erase."""
        return bool(await self._value("policy_is_due", p_now=now))

    async def judge_arrivals(self, urls: Sequence[str]) -> Judged:
        """Judges the next new events, and forgets those that have gone."""

        async def work(connection: Connection) -> Judged:
            await connection.execute("LOCK TABLE bigbrotr.policy_lock IN EXCLUSIVE MODE")
            settled = await value_of(connection, "settle_departures", p_limit=PAGES, p_now=_now())
            pages = await rows_of(connection, "next_arrivals", p_limit=PAGES, p_now=_now())
            keys = {
                key for page in pages for key in zip(page["created_ats"], page["ids"], strict=True)
            }
            done = await _judge(connection, await _read(connection, keys), urls)
            return done._replace(is_done=not (pages or settled))

        return await self._transact(work)

    async def judge_review(self, urls: Sequence[str], *, of_author: bytes | None = None) -> Judged:
        """Judges the next archived events that are to be judged again; `of_author`: of those of
        this public key."""

        async def work(connection: Connection) -> Judged:
            await connection.execute("LOCK TABLE bigbrotr.policy_lock IN EXCLUSIVE MODE")
            rows = await rows_of(connection, "next_review", p_pubkey=of_author, p_limit=STEP)
            if not rows:
                return Judged()
            last = rows[-1]
            found = [row for row in rows if row["id"] is not None and row["kind"] >= 0]
            done = await _judge(connection, found, urls)
            await value_of(
                connection,
                "move_review",
                p_name=last["name"],
                p_after_at=last["created_at"] if len(rows) == STEP else None,
                p_after_id=last["id"] if len(rows) == STEP else None,
            )
            return done._replace(is_done=False)

        return await self._transact(work)

    async def erase_expired(self, now: int) -> int:
        """Erases some of those whose time is over, where that is wanted; returns how many."""

        async def work(connection: Connection) -> int:
            await connection.execute("LOCK TABLE bigbrotr.policy_lock IN EXCLUSIVE MODE")
            erased = await value_of(connection, "erase_expired", p_limit=STEP, p_now=now)
            return int(erased)

        return await self._transact(work)

    async def take_down(
        self,
        what: What,
        target: bytes,
        *,
        why: str,
        who: str,
        erase: bool = False,
        urls: Sequence[str] = (),
    ) -> bool:
        """Takes an event, or all events of a public key, down; those that come later, too. False:
        that is so already. `judge_review` does the rest where a key has many events."""

        async def work(connection: Connection) -> bool:
            is_new = await value_of(
                connection,
                "take_down",
                p_what=what,
                p_target=target,
                p_erase=erase,
                p_why=why,
                p_who=who,
                p_now=_now(),
            )
            if is_new:
                await _judge_target(connection, what, target, urls)
            return bool(is_new)

        return await self._transact(work)

    async def undo_takedown(
        self, what: What, target: bytes, *, why: str, who: str, urls: Sequence[str] = ()
    ) -> bool:
        """Takes a takedown back; False: there is none. What was erased stays so."""

        async def work(connection: Connection) -> bool:
            is_undone = await value_of(
                connection,
                "undo_takedown",
                p_what=what,
                p_target=target,
                p_why=why,
                p_who=who,
                p_now=_now(),
            )
            if is_undone:
                await _judge_target(connection, what, target, urls)
            return bool(is_undone)

        return await self._transact(work)

    async def what_is(self, key: bytes) -> What | None:
        """Whether this (32 bytes) is the id of an archived event, or the key of an author."""
        found: What | None = await self._value("what_is", p_key=key)
        return found

    async def takedowns(self) -> list[Takedown]:
        """The log of what was taken down, the newest first."""
        rows = await self.pool.fetch(
            "SELECT t.what, t.target, t.is_erasing, t.why, t.who, t.at, t.undone_why, t.undone_who,"
            " t.undone_at FROM bigbrotr.takedowns t ORDER BY t.id DESC"
        )
        return [Takedown(*row) for row in rows]

    async def vacuum_erased(self) -> int:
        """Frees the room of what was erased, so that nothing can read it; returns of how many
        tables. What others still read is freed the next time.

        Raises:
            asyncpg.InsufficientPrivilegeError: only the owner of the tables may do so.
        """
        slices = [
            row["slice"]
            for row in await self.pool.fetch("SELECT e.slice FROM bigbrotr.erased_slices e")
        ]
        if not slices:
            return 0
        tables = await self.pool.fetch(_TABLES_OF, slices)
        for row in tables:
            await self.pool.execute(f"VACUUM {row['name']}", timeout=MAINTENANCE_S)
        await self.pool.execute(
            "DELETE FROM bigbrotr.erased_slices e WHERE e.slice = ANY ($1)", slices
        )
        return len(tables)


# The tables that hold events of some weeks.
_TABLES_OF = """
    SELECT DISTINCT t.name FROM (
        SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
        FROM bigbrotr.events_stored e
        JOIN pg_catalog.pg_class c ON c.oid = e.tableoid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE e.kind = -1 AND e.slice = ANY ($1)
        UNION ALL
        SELECT 'bigbrotr.events_raw' UNION ALL SELECT 'bigbrotr.rejected'
        UNION ALL SELECT 'bigbrotr.outbox'
    ) AS t ORDER BY t.name
"""


async def _judge_target(
    connection: Connection, what: What, target: bytes, urls: Sequence[str]
) -> None:
    if what == "pubkey":
        await value_of(connection, "review_authors", p_pubkeys=[target], p_now=_now())
        return
    (born,) = await value_of(
        connection, "find_events", p_ids=[target], p_since=0, p_until=2**63 - 1
    )
    if born is not None:
        await _judge(connection, await _read(connection, {(born, target)}), urls)


async def _read(connection: Connection, keys: set[Key]) -> list[asyncpg.Record]:
    """What these events say, as far as they are archived."""
    if not keys:
        return []
    ordered = sorted(keys)
    return await rows_of(
        connection,
        "read_judged",
        p_created_ats=[at for at, _ in ordered],
        p_ids=[event_id for _, event_id in ordered],
    )


async def _judge(
    connection: Connection, rows: Sequence[asyncpg.Record], urls: Sequence[str]
) -> Judged:
    """Judges events, and those that they speak of. `rows` are sorted by (created_at, id)."""
    if not rows:
        return Judged()
    said = [_said(row, urls) for row in rows]
    spoken_of = await _note_requests(connection, said)
    spoken_of |= await _note_addresses(connection, said)
    erased = await _note_judgement(connection, said)
    others = spoken_of - {(each.created_at, each.id) for each in said}
    told = [_said(row, urls) for row in await _read(connection, others)]
    if told:  # what these speak of was, or will be, seen with them
        erased += await _note_judgement(connection, told)
    return Judged(len(said), erased, is_done=False)


def _said(row: asyncpg.Record, urls: Sequence[str]) -> Said:
    tags = None if row["tags"] is None else decode_tags(row["tags"])
    facts = facts_of(row["pubkey"], row["created_at"], row["kind"], tags, urls)
    return Said(row["created_at"], row["id"], row["pubkey"], row["kind"], facts)


async def _note_requests(connection: Connection, said: Sequence[Said]) -> set[Key]:
    """Keeps what is asked for; returns the archived events that are named."""
    asked = [(each, request) for each in said for request in each.facts.requests]
    vanishing = [(each, None) for each in said if each.facts.vanishes]
    vanishing_from = [(each, url) for each in said for url in each.facts.vanishes_from]
    if not (asked or vanishing or vanishing_from):
        return set()
    rows = await rows_of(
        connection,
        "note_requests",
        p_pubkeys=[each.pubkey for each, _ in asked],
        p_targets=[request.target for _, request in asked],
        p_untils=[request.until for _, request in asked],
        p_asked_ats=[each.created_at for each, _ in asked],
        p_requests=[each.id for each, _ in asked],
        p_vanishing=[each.pubkey for each, _ in (*vanishing, *vanishing_from)],
        p_vanish_urls=[url for _, url in (*vanishing, *vanishing_from)],
        p_vanish_untils=[each.created_at for each, _ in (*vanishing, *vanishing_from)],
        p_vanish_requests=[each.id for each, _ in (*vanishing, *vanishing_from)],
        p_now=_now(),
    )
    return {(row["created_at"], row["id"]) for row in rows}


async def _note_addresses(connection: Connection, said: Sequence[Said]) -> set[Key]:
    """Notes the newest versions; returns those that were."""
    versions = [each for each in said if each.facts.address is not None]
    if not versions:
        return set()
    rows = await rows_of(
        connection,
        "note_addresses",
        p_pubkeys=[each.pubkey for each in versions],
        p_addresses=[each.facts.address for each in versions],
        p_created_ats=[each.created_at for each in versions],
        p_ids=[each.id for each in versions],
    )
    return {(row["created_at"], row["id"]) for row in rows}


async def _note_judgement(connection: Connection, said: Sequence[Said]) -> int:
    """Writes the reasons of events; returns how many were erased."""
    recipients = [
        (key, position) for position, each in enumerate(said, 1) for key in each.facts.recipients
    ]
    erased: int = await value_of(
        connection,
        "judge_events",
        p_created_ats=[each.created_at for each in said],
        p_ids=[each.id for each in said],
        p_pubkeys=[each.pubkey for each in said],
        p_kinds=[each.kind for each in said],
        p_whys=[each.facts.why for each in said],
        p_expires_ats=[each.facts.expires_at for each in said],
        p_addresses=[each.facts.address for each in said],
        p_recipients=[key for key, _ in recipients],
        p_recipients_of=[position for _, position in recipients],
        p_now=_now(),
    )
    return erased


def _now() -> int:
    return int(time.time())
