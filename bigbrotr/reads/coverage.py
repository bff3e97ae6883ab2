"""Reads what is proven of a relay's past, and its gaps."""

from collections.abc import Collection
from typing import TypeAlias

import asyncpg
from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.reads.measurements import is_relay
from bigbrotr.reads.relays import Span, spans_of


class Gap(Struct, frozen=True):
    """A stretch of a relay's past that could not be copied, and why. Times are Unix seconds."""

    since: int | None  # None: from the beginning of time
    until: int | None  # excluded; None: without an end
    filter: str  # for which events, as canonical conditions; "": all
    reason: str
    attempts: int  # in vain, in a row
    noted_at: int
    due_at: int  # it is tried again


class Proof(Struct, frozen=True):
    """What was proven complete in one way within an hour. Times are Unix seconds."""

    proven_at: int
    filter: str  # for which events, as canonical conditions; "": all
    how: str
    proven: tuple[Span, ...]  # half-open


GapKey: TypeAlias = tuple[int | None, int | None, str]  # the gap's span and filter
ProofKey: TypeAlias = tuple[int, str, str]  # time, filter, how


async def list_gaps(
    pool: Pool, url: str, after: GapKey | None, limit: int, *, reasons: Collection[str] | None
) -> list[Gap] | None:
    """A page of the gaps of a relay, oldest first, of those behind `after`; None: it is no relay of
    this archive."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.list_gaps(p_url => $1, p_reasons => $2, p_after_span => $3,"
        " p_after_filter => $4, p_limit => $5)",
        url,
        reasons,
        None if after is None else asyncpg.Range(after[0], after[1]),
        None if after is None else after[2],
        limit,
    )
    if not rows and not await is_relay(pool, url):
        return None
    return [Gap(row["span"].lower, row["span"].upper, *list(row)[1:]) for row in rows]


async def list_coverage(
    pool: Pool, url: str, after: ProofKey | None, limit: int, *, hows: Collection[str] | None
) -> list[Proof] | None:
    """A page of the proofs of a relay, newest first, of those behind `after`; None: it is no relay
    of this archive."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.list_coverage(p_url => $1, p_hows => $2, p_after_at => $3,"
        " p_after_filter => $4, p_after_how => $5, p_limit => $6)",
        url,
        hows,
        *((None, None, None) if after is None else after),
        limit,
    )
    if not rows and not await is_relay(pool, url):
        return None
    return [
        Proof(row["proven_at"], row["filter"], row["how"], spans_of(row["proven"])) for row in rows
    ]
