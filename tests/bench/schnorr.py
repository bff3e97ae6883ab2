"""Signatures in batches, beside libsecp256k1 one by one: microseconds of CPU a signature."""

import random
import time
from collections.abc import Callable, Sequence

from bigbrotr.models.signatures import CLAIM_BYTES, Judge, one_by_one
from tests.kit.claims import N, flip, right

SIZES = (16, 64, 100, 250, 500)
CLAIMS = 8_000  # by as many authors: more than are remembered
REPEATED = 50  # authors
ROUNDS = 3


def measure() -> None:
    """Prints a line for each size of batch."""
    from bigbrotr_native import are_right

    chance = random.Random(1)
    distinct = [right(chance, chance.randrange(1, N)) for _ in range(CLAIMS)]
    authors = [chance.randrange(1, N) for _ in range(REPEATED)]
    repeated = [right(chance, chance.choice(authors)) for _ in range(CLAIMS // 4)]
    for size in SIZES:
        new, some = paged(distinct, size), paged(repeated, size)
        again = new[:1] * len(some)  # distinct in a batch, and the same in each
        forged = [flip(chance, each[:CLAIM_BYTES], b"") + each[CLAIM_BYTES:] for each in some]
        singly = us(one_by_one, some)
        found = [us(are_right, pages) for pages in (new, again, some)]
        # A judge of its own for each page: nobody remembers that the last one was wrong.
        in_vain = us(lambda page: Judge(are_right).judge(page), forged)
        judge = Judge(are_right)
        at_length = us(judge.judge, forged)
        words = ", ".join(f"{each:.1f} us ({singly / each:.1f} times as fast)" for each in found)
        print(
            f"  {size:>3}: singly {singly:.1f} us; new, known, {REPEATED} authors: {words};"
            f" one wrong: {in_vain:.1f} us, {in_vain / singly:.2f} times singly;"
            f" one in each batch for long: {at_length:.1f} us, {at_length / singly:.2f} times",
            flush=True,
        )


def paged(claims: Sequence[bytes], size: int) -> list[bytes]:
    """Claims in batches of a size."""
    starts = range(0, len(claims) - size + 1, size)
    return [b"".join(claims[start : start + size]) for start in starts]


def us(work: Callable[[bytes], object], pages: Sequence[bytes]) -> float:
    """Microseconds of CPU a claim, of the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for page in pages:
            work(page)
        best = min(best, time.process_time() - began)
    return best / (sum(map(len, pages)) / CLAIM_BYTES) * 1e6
