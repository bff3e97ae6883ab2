"""Signatures, many at once: in batches where `bigbrotr_native` is installed, else one by one.

A batch costs a third a signature, and tells only whether all are right. When they are not, each is
judged by itself: so what is decided is always what libsecp256k1 decides.
"""

from collections.abc import Callable

from bigbrotr.models import native
from bigbrotr.models.event import is_signed

CLAIM_BYTES = 128  # a signature, an id and a public key
MIN_BATCH = 16  # claims; fewer gain little
MAX_BATCH = 500  # more gain little, and one wrong claim means that all are judged again
MAX_SINGLY = 16  # batches


class Judge:
    """Judges claims, each of them 128 bytes: `sig`, `id`, `pubkey`.

    Where a batch is not right, it was judged in vain. So that nobody can make us do that all the
    time, some batches are then judged one by one: after the first failure one, and twice as many
    after each further one, up to 16, until a batch is right again. In the long run, wrong claims
    cost hardly more than if all were judged one by one.
    """

    def __init__(self, are_right: Callable[[bytes], bool] | None) -> None:
        self._are_right = are_right
        self._penalty = 0  # batches that the last failure made us judge singly
        self._singly = 0  # of them, how many are left

    @property
    def uses_batches(self) -> bool:
        """Whether batches are verified at once."""
        return self._are_right is not None

    def judge(self, claims: bytes) -> list[bool]:
        """Returns of each claim whether it is right."""
        verdicts: list[bool] = []
        for start in range(0, len(claims), MAX_BATCH * CLAIM_BYTES):
            batch = claims[start : start + MAX_BATCH * CLAIM_BYTES]
            count = len(batch) // CLAIM_BYTES
            verdicts += [True] * count if self._is_right(batch, count) else one_by_one(batch)
        return verdicts

    def _is_right(self, batch: bytes, count: int) -> bool:
        """Whether a whole batch is known to be right."""
        if self._are_right is None or count < MIN_BATCH:
            return False
        if self._singly:
            self._singly -= 1
            return False
        is_right = self._are_right(batch)
        self._penalty = 0 if is_right else min(2 * self._penalty or 1, MAX_SINGLY)
        self._singly = self._penalty
        return is_right


def one_by_one(claims: bytes) -> list[bool]:
    """Returns of each claim whether libsecp256k1 finds it right."""
    return [
        is_signed(claims[at + 64 : at + 96], claims[at + 96 : at + 128], claims[at : at + 64])
        for at in range(0, len(claims), CLAIM_BYTES)
    ]


here = Judge(native.here and native.here.are_right)  # of this process
