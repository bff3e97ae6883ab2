"""The follow graph, and PageRank over it. It needs NumPy and SciPy, which come with an extra."""

import math
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from bigbrotr.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMPING = 0.85
TOLERANCE = 1e-10  # of all scores together, which sum up to 1
MOST_ITERATIONS = 1000
BEST = 100  # the rank of the highest score


def require() -> None:
    """Sees that NumPy and SciPy are there.

    Raises:
        ConfigError: one is not.
    """
    try:
        import numpy  # noqa: F401 -- optional
        import scipy.sparse  # noqa: F401 -- optional
    except ImportError as error:
        raise ConfigError(
            f"ranks need NumPy and SciPy, which are not installed ({error}): install them beside "
            "bigbrotr, from its checkout with `pip install '.[rank]'`"
        ) from None


class Ranked(NamedTuple):
    """A public key of the graph, and what came of it."""

    pubkey: bytes  # 32 bytes
    score: float  # all of them sum up to 1
    rank: int  # 0 to 100, see `normalised`
    followers: int
    follows: int | None  # None: there is no list


class FollowGraph:
    """Who follows whom, in four bytes a follow. Authors are added with their whole list, once."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._authors = array("i")  # numbers
        self._ends = array("q", [0])  # of their lists in `_followed`
        self._followed = array("i")
        self._listed: set[int] = set()  # numbers of those who have a list
        self.iterations = 0  # of the last `ranks`

    @property
    def authors(self) -> int:
        """Public keys with a list of follows, empty ones included."""
        return len(self._authors)

    @property
    def follows(self) -> int:
        """Follows, each once; nobody follows himself."""
        return len(self._followed)

    @property
    def pubkeys(self) -> int:
        """Public keys that follow or are followed."""
        return len(self._numbers)

    def add(self, author: bytes, followed: Iterable[bytes]) -> bool:
        """Adds a list. False: its author has one already, which stays."""
        numbers = self._numbers
        number = numbers.setdefault(author, len(numbers))
        if number in self._listed:
            return False
        self._listed.add(number)
        self._authors.append(number)
        others = {numbers.setdefault(each, len(numbers)): None for each in followed}
        others.pop(number, None)
        self._followed.extend(others)
        self._ends.append(len(self._followed))
        return True

    def scores(self) -> "NDArray[Any]":
        """PageRank of each number: the chance to be there for who follows follows, and with
        1 - DAMPING, or where nobody is followed, goes on at any public key."""
        import numpy as np
        from scipy.sparse import csr_array

        size = self.pubkeys
        if not size:
            return np.zeros(0)
        authors = np.frombuffer(self._authors, dtype=np.int32)
        ends = np.frombuffer(self._ends, dtype=np.int64)
        followed = np.frombuffer(self._followed, dtype=np.int32)
        lengths = np.diff(ends)
        follows = csr_array(
            (np.ones(len(followed)), followed, ends.astype(np.int32)), shape=(len(authors), size)
        ).T
        per_follow = 1 / np.maximum(lengths, 1)
        walks_on = np.where(lengths > 0, 1.0, 0.0)
        scores = np.full(size, 1 / size)
        for self.iterations in range(1, MOST_ITERATIONS + 1):
            held = scores[authors]
            stuck = max(0.0, 1.0 - float(held @ walks_on))
            found = follows @ (held * per_follow)
            found *= DAMPING
            found += (1 - DAMPING + DAMPING * stuck) / size
            found /= found.sum()  # what was lost in rounding
            change = float(np.abs(found - scores).sum())
            scores = found
            if change < TOLERANCE:
                break
        return scores

    def ranks(self) -> Iterator[Ranked]:
        """All public keys, in no order. Computes when it is begun."""
        import numpy as np

        scores = self.scores()
        size = self.pubkeys
        followers = np.bincount(np.frombuffer(self._followed, dtype=np.int32), minlength=size)
        follows = np.full(size, -1, dtype=np.int64)
        follows[np.frombuffer(self._authors, dtype=np.int32)] = np.diff(
            np.frombuffer(self._ends, dtype=np.int64)
        )
        low, high = (float(scores.min()), float(scores.max())) if size else (0.0, 0.0)
        for pubkey, score, known, own in zip(
            self._numbers, scores.tolist(), followers.tolist(), follows.tolist(), strict=True
        ):
            rank = normalised(score, low, high)
            yield Ranked(pubkey, score, rank, known, None if own < 0 else own)


def normalised(score: float, low: float, high: float) -> int:
    """The rank of a score, 0 to 100: in equal steps of its logarithm, from the lowest score, which
    those have whom nobody follows, to the highest."""
    if high <= low * (1 + 1e-6):  # all are alike
        return 0
    share = math.log(max(score, low) / low) / math.log(high / low)
    return min(BEST, round(BEST * share))
