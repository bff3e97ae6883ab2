"""Reads why an event may be hidden, which of some events a view hides, and how far that is known.

What is judged is judged after it is stored: whoever tells of new events as they come waits until
that is so (`Arrivals` with `judged`).
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.policy import Reason, View

SETTLED_S = 2.0  # for which it counts that what is to be hidden is known
LOOK_S = 0.5  # and that it is not


class Hidden(Struct, frozen=True):
    """A reason for which views may hide an event."""

    reason: str  # one word, as the settings have it
    words: str


async def why_hidden(pool: Pool, event_id: bytes, now: int | None = None) -> tuple[Hidden, ...]:
    """For which reasons the event with this id (32 bytes) may be hidden; none: it is shown. What
    was taken down is known before it comes."""
    row = await pool.fetchrow("SELECT * FROM bigbrotr.why_hidden(p_id => $1)", event_id)
    if row is None:
        return ()
    now = int(time.time()) if now is None else now
    why = Reason(row["why"] or 0)
    if row["expires_at"] is not None and row["expires_at"] <= now:
        why |= Reason.EXPIRED
    return tuple(
        Hidden(str(reason.name).lower(), _words(reason, row["takedown"]))
        for reason in Reason
        if reason in why
    )


def _words(reason: Reason, takedown: str | None) -> str:
    if reason is Reason.TAKEN_DOWN and takedown is not None:
        return f"{reason.words}: {takedown}"
    return reason.words


async def hidden_of(
    pool: Pool, view: View, keys: Sequence[tuple[int, bytes]], now: int | None = None
) -> set[int]:
    """The positions, from 0, of those events that a view hides; `keys`: their (created_at, id),
    sorted."""
    positions = await pool.fetchval(
        "SELECT * FROM bigbrotr.hidden_of(p_view => $1, p_now => $2, p_created_ats => $3,"
        " p_ids => $4)",
        view.value,
        int(time.time()) if now is None else now,
        [at for at, _ in keys],
        [event_id for _, event_id in keys],
    )
    return {position - 1 for position in positions}


class Rules(NamedTuple):
    """For which reasons each view hides events, and which of these are erased: bits of `Reason`."""

    current: Reason
    archive: Reason
    erases: Reason


async def rules(pool: Pool) -> Rules | None:
    """By which rules events were judged; None: none ever was."""
    row = await pool.fetchrow("SELECT s.current, s.archive, s.erases FROM bigbrotr.policy_state s")
    return None if row is None else Rules(*map(Reason, row))


class UnsettledError(Exception):
    """It is not known yet what is not to be shown."""


class Settled:
    """Lets those wait who show events to strangers, until it is known what is not to be shown."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._was = False
        self._looked_at = float("-inf")  # monotonic

    async def check(self) -> None:
        """Looks whether it is known; not at each call.

        Raises:
            UnsettledError: it is being looked for.
        """
        now = time.monotonic()
        if now - self._looked_at > (SETTLED_S if self._was else LOOK_S):
            self._was = await is_settled(self._pool)
            self._looked_at = now
        if not self._was:
            raise UnsettledError


async def is_settled(pool: Pool) -> bool:
    """Whether what is to be hidden is known: no walk through all of the archive is under way. Where
    nobody has ever judged, nothing is hidden, and nothing waited for."""
    found = await pool.fetchval("SELECT * FROM bigbrotr.is_settled()")
    return bool(found)
