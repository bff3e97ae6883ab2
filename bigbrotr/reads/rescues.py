"""Reads what became of archived events that were to be at other relays."""

import time
from collections.abc import Collection, Sequence
from typing import Annotated, Literal, TypeAlias, get_args

import asyncpg
from msgspec import Meta, Struct

from bigbrotr.core.pool import Pool

RescueState: TypeAlias = Literal[
    "waiting", "accepted", "held", "refused", "unkept", "left", "failed"
]
BIGINT = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# When it was queued, its id, the number of the target.
RescueKey: TypeAlias = tuple[BIGINT, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")], BIGINT]


class RescueRow(Struct, frozen=True):
    """An event that was to be at a relay. Times are Unix seconds."""

    relay: str
    event: str
    pubkey: str
    created_at: int
    # waiting: to be sent; accepted: the relay said OK, and has not been seen to hold it yet; held:
    # it was seen there; refused: the relay said no; unkept: it said OK and does not hold it; left:
    # we do not send it; failed: given up
    state: str
    reason: str  # why, in a word
    detail: str  # the words of the relay's answer
    queued_at: int
    answered_at: int | None
    seen_at: int | None  # when the relay was seen to hold it
    attempts: int  # failed tries in a row
    sends: int  # times that the relay has accepted it


class RescueTarget(Struct, frozen=True):
    """A relay to which archived events were to be sent, and how many of them are in which state.
    Times are Unix seconds."""

    relay: str
    waiting: int
    accepted: int
    held: int
    refused: int
    unkept: int
    left: int
    failed: int
    next_at: int | None  # when more may be sent there; None: nothing waits
    outcome: str | None  # how the last conversation ended
    detail: str | None


async def list_rescues(
    pool: Pool,
    after: RescueKey | None,
    limit: int,
    *,
    relay: str | None = None,
    author: str | None = None,
    states: Collection[RescueState] | None = None,
) -> list[tuple[RescueKey, RescueRow]]:
    """A page of events, each with its key, the last ones queued first."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.list_rescues(p_url => $1, p_states => $2, p_pubkey => $3,"
        " p_after_at => $4, p_after_id => $5, p_after_target => $6, p_limit => $7)",
        relay,
        None if states is None else list(states),
        None if author is None else bytes.fromhex(author),
        None if after is None else after[0],
        None if after is None else bytes.fromhex(after[1]),
        None if after is None else after[2],
        limit,
    )
    found = []
    for url, event_id, pubkey, *rest, number in rows:
        row = RescueRow(url, event_id.hex(), pubkey.hex(), *rest)
        found.append(((row.queued_at, row.event, number), row))
    return found


async def list_targets(pool: Pool) -> list[RescueTarget]:
    """All targets, by URL."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.count_rescues(p_urls => NULL, p_now => $1)", int(time.time())
    )
    by_url: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        by_url.setdefault(row["url"], []).append(row)
    return [_target(url, states) for url, states in by_url.items()]


def _target(url: str, rows: Sequence[asyncpg.Record]) -> RescueTarget:
    events = {row["state"]: row["events"] for row in rows}
    dues = [row["next_at"] for row in rows if row["state"] in ("waiting", "accepted")]
    return RescueTarget(
        relay=url,
        **{state: events.get(state, 0) for state in get_args(RescueState)},
        next_at=min(dues, default=None),
        outcome=rows[0]["outcome"],
        detail=rows[0]["detail"],
    )
