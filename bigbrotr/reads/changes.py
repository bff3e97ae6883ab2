"""Reads the changes of state of relays: a log that grows at its end, so that none is missed."""

from typing import NamedTuple

from msgspec import Struct

from bigbrotr.core.pool import Pool


class Change(Struct, frozen=True):
    """A relay that the monitor found in another state than before. Times are Unix seconds."""

    id: int  # later changes have larger numbers
    relay: str
    network: str
    before: str  # unknown: it was the first verdict
    state: str  # up, down
    since: int  # the beginning of the state: of one that went down, when a check first failed
    reason: str  # why it is down, in the words of the check
    noted_at: int


class Ends(NamedTuple):
    """How far the log reaches: numbers of changes."""

    last: int  # 0: there was none yet
    pruned: int  # up to there, changes were deleted for their age; 0: none


async def changes_after(
    pool: Pool, after: int, limit: int, *, relay: str | None = None
) -> list[Change]:
    """Up to `limit` changes behind a number, the oldest first; of one relay by its normalised URL,
    or of all. Fewer than `limit`: there are no more yet."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.list_changes(p_after => $1, p_relay => $2, p_limit => $3)",
        after,
        relay,
        limit,
    )
    return [Change(*row) for row in rows]


async def latest_changes(
    pool: Pool, limit: int, *, relay: str | None = None, before: int | None = None
) -> list[Change]:
    """Up to `limit` changes before a number (None: all), the newest first; of one relay, or all."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.latest_changes(p_before => $1, p_relay => $2, p_limit => $3)",
        before,
        relay,
        limit,
    )
    return [Change(*row) for row in rows]


async def ends(pool: Pool) -> Ends:
    """How far the log reaches now. What is read afterwards holds all up to there."""
    row = await pool.fetchrow("SELECT l.last, l.pruned FROM bigbrotr.changes_log AS l")
    return Ends(0, 0) if row is None else Ends(*row)


def place_to_go_on(after: int, there: Ends) -> int | None:
    """Where a reader goes on who has read up to `after`, if not there: changes behind it are gone,
    or it comes from another log (of an archive before a restore). None: it misses nothing."""
    if there.pruned <= after <= there.last:
        return None
    return there.pruned
