"""PageRank over a skewed follow graph: seconds and memory, in a process of its own."""

import random
import resource
import subprocess
import sys
import time
from hashlib import sha256
from itertools import accumulate

from bigbrotr.models.page_rank import FollowGraph

FOLLOWS = 10_000_000
FOLLOWS_AN_AUTHOR = 40  # on average; some follow thousands
SPARE = 1.25  # more are drawn: who comes twice in a list is followed once
SPREAD = 3.0  # the higher, the more follow the same few


def measure(follows: int) -> int:
    """Runs in a new process, so that what others have left in memory is not counted."""
    return subprocess.run(
        [sys.executable, "-m", "tests.bench.ranks", str(follows)], check=False
    ).returncode


def run(follows: int) -> None:
    chance = random.Random(1)
    authors = max(2, follows // FOLLOWS_AN_AUTHOR)
    keys = [sha256(b"%d" % number).digest() for number in range(2 * authors)]
    print(f"  {follows:,} follows of {authors:,} authors; {len(keys):,} keys", flush=True)
    graph = FollowGraph()
    lengths = [min(5000, int(chance.paretovariate(1.2))) for _ in range(authors)]
    scale = SPARE * follows / sum(lengths)
    ends = list(accumulate(int(length * scale) or 1 for length in lengths))
    before_mb = peak_mb()
    spent = 0.0
    begun = 0
    for number, end in enumerate(ends):
        followed = [keys[int(len(keys) * chance.random() ** SPREAD)] for _ in range(end - begun)]
        begun = end
        started = time.perf_counter()
        graph.add(keys[number], followed)
        spent += time.perf_counter() - started
    started = time.perf_counter()
    scores = graph.scores()
    scored_s = time.perf_counter() - started
    started = time.perf_counter()
    best = max(graph.ranks(), key=lambda each: each.score)
    ranked_s = time.perf_counter() - started
    assert abs(float(scores.sum()) - 1) < 1e-9
    assert best.rank == 100
    print(
        f"  graph: {graph.follows:,} follows, {graph.pubkeys:,} keys, put together in {spent:.1f} s"
    )
    print(f"  PageRank: {graph.iterations} iterations in {scored_s:.1f} s")
    print(f"  PageRank, followers and ranks, one by one: {ranked_s:.1f} s")
    print(f"  peak memory: {peak_mb():,.0f} MB, the keys of the bench {before_mb:,.0f}")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run(int(sys.argv[1]))
