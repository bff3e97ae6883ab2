"""Shares: lets a supervisor's workers share what is due, through memory that all of them see."""

import time
from collections.abc import Callable
from ctypes import Array, c_int64
from multiprocessing.sharedctypes import RawArray

from bigbrotr.models.relay import Network

PATIENCE_S = 0.5  # then a worker claims whatever the others do: one of them may be held up
_ABSENT = -1  # the visits of a worker that looks for no relays of a network
_PLACES = {network: place for place, network in enumerate(Network)}


class Shares:
    """Counts how many relays each worker visits, and how often it has looked for due ones.

    A worker writes its own numbers; the service says which workers look. Nothing is locked: a
    number that is a moment old delays a claim, or lets one be made early, and no more.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.visits: Array[c_int64] = RawArray(c_int64, [_ABSENT] * workers * len(_PLACES))
        self.looks: Array[c_int64] = RawArray(c_int64, workers * len(_PLACES))

    def enter(self, worker: int, network: Network) -> None:
        """Notes that a worker looks for relays of a network from now on."""
        self.visits[self.place(worker, network)] = 0

    def leave(self, worker: int) -> None:
        """Notes that a worker looks for no relays: nobody is to wait for it."""
        for network in _PLACES:
            self.visits[self.place(worker, network)] = _ABSENT

    def place(self, worker: int, network: Network) -> int:
        """Returns where a worker's numbers for a network stand."""
        return _PLACES[network] * self.workers + worker


class Share:
    """One worker's share of a network's relays: having claimed some, it claims more only when each
    worker that visits fewer has looked for some as well."""

    def __init__(
        self,
        shares: Shares,
        worker: int,
        network: Network,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._visits, self._looks = shares.visits, shares.looks
        self._mine = shares.place(worker, network)
        first = shares.place(0, network)
        self._all = range(first, first + shares.workers)
        self._clock = clock
        self._looked_at = float("-inf")
        self._looks_then = [0 for _ in self._all]

    def note(self, visits: int) -> None:
        """Notes how many relays this worker visits."""
        self._visits[self._mine] = visits

    def is_fair(self) -> bool:
        """Whether to look for due relays now."""
        return self._clock() - self._looked_at > PATIENCE_S or not any(
            _ABSENT < self._visits[place] < self._visits[self._mine] and self._looks[place] == looks
            for place, looks in zip(self._all, self._looks_then, strict=True)
        )

    def look(self) -> None:
        """Notes that this worker looks for due relays now."""
        self._looked_at = self._clock()
        self._looks_then = [self._looks[place] for place in self._all]
        self._looks[self._mine] += 1
