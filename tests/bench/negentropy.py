"""Reconciling a million ids with a peer: CPU seconds, memory and bytes of the client's side."""

import random
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise

from bigbrotr.nostr.negentropy import MODULUS, Client, Digest, Items, Server

COUNT = 1_000_000
DIFFERENT = 1_000  # half of them are ours alone, half the peer's
SPAN_S = 365 * 86400


class Naive(Items):
    """Items that keep no sums: each fingerprint adds up its ids afresh."""

    def fingerprints(self, cuts: Iterable[int]) -> list[bytes]:
        return [
            Digest(hi - lo, self._sum(lo, hi) % MODULUS).fingerprint for lo, hi in pairwise(cuts)
        ]


class Run:
    """One reconciliation to the end, from two sealed sets."""

    def __init__(self, ours: Items, theirs: Items) -> None:
        client, server = Client(ours, max_needed=COUNT), Server(theirs)
        self.client_s = self.server_s = 0.0
        self.sent = self.received = 0
        started = time.process_time()
        question: bytes | None = client.initiate()
        self.client_s += time.process_time() - started
        while question is not None:
            self.sent += len(question)
            started = time.process_time()
            answer = server.reconcile(question)
            answered = time.process_time()
            question = client.reconcile(answer)
            self.client_s += time.process_time() - answered
            self.server_s += answered - started
            self.received += len(answer)
        self.rounds = client.rounds
        self.found = len(client.have), len(client.need)


def rows(seed: int = 1, different: int = 0) -> Iterator[tuple[int, bytes]]:
    """The items of one side in order: all but `different` of them are the same for any seed."""
    common, own = random.Random(0), random.Random(seed)
    every = COUNT // different if different else COUNT + 1
    for n in range(COUNT):
        event_id = common.randbytes(32)
        yield n * SPAN_S // COUNT, own.randbytes(32) if n % every == every // 2 else event_id


def shuffled() -> Iterator[tuple[int, bytes]]:
    """As many items in no order."""
    chance = random.Random(3)
    return ((chance.randrange(SPAN_S), chance.randbytes(32)) for _ in range(COUNT))


def measure() -> None:
    """Print how ours compares with fingerprints that are summed afresh."""
    theirs = Items(rows(2, DIFFERENT // 2))
    theirs.seal()
    ours, naive = Items(rows(1, DIFFERENT // 2)), Naive(rows(1, DIFFERENT // 2))
    started = time.process_time()
    ours.seal()
    sealed_s = time.process_time() - started
    naive.seal()
    print(f"  sums of {COUNT:,} ids: {sealed_s:.2f} s of CPU, once for all peers")
    for name, peer in ((f"{DIFFERENT:,} differ", theirs), ("equal", ours)):
        run, afresh = Run(ours, peer), Run(naive, peer)
        wanted = (DIFFERENT // 2,) * 2 if peer is theirs else (0, 0)
        if run.found != wanted or afresh.found != wanted:
            raise SystemExit(f"{run.found} and {afresh.found} were found instead of {wanted}")
        total = sealed_s + run.client_s
        print(
            f"  {name:14} {total:5.2f} s of CPU with the sums, {run.client_s:7.4f} s without; "
            f"{run.rounds} rounds, {run.sent / 1e6:.2f} MB sent, {run.received / 1e6:.2f} MB "
            f"received; the server {run.server_s:.4f} s\n"
            f"  {'':14} {afresh.client_s:5.2f} s with each range summed afresh: "
            f"{afresh.client_s / total:.1f} times as much"
        )
    del ours, naive
    for name, source in (("in order", rows(1, DIFFERENT // 2)), ("in no order", shuffled())):
        tracemalloc.start()
        items = Items(source)
        items.seal()
        if name == "in order":
            Run(items, theirs)
        held, peak = (size - 32 * COUNT for size in tracemalloc.get_traced_memory())
        tracemalloc.stop()
        print(
            f"  {name}: {held / 1e6:.0f} MB on top of the ids, {peak / 1e6:.0f} MB at the peak"
            + (", which includes the reconciliation" if name == "in order" else "")
        )
        del items
