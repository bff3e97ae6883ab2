"""Batches of claims, some with forgeries, as `bigbrotr_native` and as libsecp256k1 judge them."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from bigbrotr.models.signatures import CLAIM_BYTES, Judge
from tests.kit.claims import FORGERIES, N, bytes32, number, right, verdict

CLAIMS = 500_000
SIZES = (1, 2, 3, 5, 8, 17, 40, 100, 250, 500, 700)
MOST_FRESH = 40  # claims that are signed for a batch; the others come again
SAMPLES = 5  # of what went wrong are shown


class Findings(NamedTuple):
    """What came of so many claims."""

    judged: int
    forged: Counter[str]
    right: int  # batches
    wrong: list[str]  # what was judged otherwise than libsecp256k1 does
    seconds: float


def run(are_right: Callable[[bytes], bool], claims: int = CLAIMS, seed: int = 1) -> Findings:
    """Judges so many claims; the same ones for each seed."""
    chance = random.Random(seed)
    known: list[bytes] = []  # right claims
    forged: Counter[str] = Counter()
    wrong: list[str] = []
    judged = sound = 0
    seconds = 0.0
    while judged < claims:
        size = min(chance.choice(SIZES), claims - judged)
        authors = [chance.randrange(1, N) for _ in range(chance.choice((1, 3, MOST_FRESH)))]
        fresh = [right(chance, chance.choice(authors)) for _ in range(min(size, MOST_FRESH))]
        wrong += [f"signed, and refused: {each.hex()}" for each in fresh if not verdict(each)]
        batch = fresh + chance.choices(known or fresh, k=size - len(fresh))
        chance.shuffle(batch)
        known = (known + fresh)[-2000:]
        verdicts = [True] * size
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 5))):
            at, forge = chance.randrange(size), chance.choice(FORGERIES)
            batch[at] = forge(chance, batch[at], chance.choice(known))
            verdicts[at] = verdict(batch[at])
            forged[f"{forge.__name__}{', still right' if verdicts[at] else ''}"] += 1
        if size > 1 and chance.random() < 0.1:
            forged["errors that add up to nothing"] += 1
            cancel(chance, batch, verdicts)
        whole = b"".join(batch)
        began = time.perf_counter()
        is_right = are_right(whole)
        seconds += time.perf_counter() - began
        sound += is_right
        if is_right != all(verdicts):
            wrong.append(f"{is_right}, and {verdicts.count(False)} of {size} wrong: {whole.hex()}")
        if not all(verdicts) and Judge(are_right).judge(whole) != verdicts:
            wrong.append(f"judged otherwise one by one: {whole.hex()}")
        judged += size
    return Findings(judged, forged, sound, wrong, seconds)


def cancel(chance: random.Random, batch: list[bytes], verdicts: list[bool]) -> None:
    """Makes two claims wrong, one by as much as the other in the opposite direction."""
    at, other = chance.sample(range(len(batch)), 2)
    error = chance.randrange(1, N)
    for place, by in ((at, error), (other, N - error)):
        s = (number(batch[place][32:64]) + by) % N
        batch[place] = batch[place][:32] + bytes32(s) + batch[place][64:]
        verdicts[place] = verdict(batch[place])


def measure(claims: int, seed: int) -> int:
    """Prints what came of it; returns the exit code: 1 where something was wrong."""
    from bigbrotr_native import are_right

    print(f"forgeries: {claims:,} claims of {CLAIM_BYTES} bytes, of seed {seed}", flush=True)
    found = run(are_right, claims, seed)
    for name, times in sorted(found.forged.items()):
        print(f"  {times:>9,} {name}")
    each_us = found.seconds / found.judged * 1e6
    print(f"  {each_us:.1f} us a claim; {found.right:,} batches right; {len(found.wrong)} wrong")
    for words in found.wrong[:SAMPLES]:
        print(f"  {words[:2000]}")
    return 1 if found.wrong else 0
