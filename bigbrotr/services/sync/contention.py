"""The contention gate: notices that several relays bring the same new events at once."""

import asyncio

IN_VAIN = 20  # new events are worth storing one batch at a time to save one vain verification ...
FORESIGHT = 50_000  # ... and at most so many at a time


class ContentionGate:
    """Says whether visits take the ingest lock to verify and store new events, one at a time.

    Without the lock each visit verifies, and sends to the database, what another is just storing:
    with ten relays that share 90 % of their events, each event three times. A visit that waited for
    the lock finds most of its events known. Each worker judges by its own pages, so that none waits
    without need.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # among the visits of this worker
        self._left = 0  # new events that are stored under the lock before it is given up

    @property
    def is_contended(self) -> bool:
        """Whether to take the lock."""
        return self._left > 0

    def note(self, unknown: int, new: int) -> None:
        """Takes note of a batch with `unknown` events, of which `new` were new in the end.

        Where few were stored by others meanwhile, the lock does harm: one core at a time verifies.
        """
        left = self._left + IN_VAIN * (unknown - new) - new
        self._left = max(0, min(left, FORESIGHT))
