"""Questions to a large archive: how long the first page of 500 events takes, and a deep one."""

import hashlib
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bigbrotr.core.pool import Pool
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.reads.events import PAGE, EventReads
from tests.bench import corpus

ROUNDS = 20
SPREAD_S = 3 * 365 * 86_400  # of the events of the large archive
BUSY_SECOND = corpus.NEWEST - 40 * 86_400  # of it; holds BUSY events
BUSY = 5_000
_SERVERS = (
    "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database()"
)


def author(number: int) -> bytes:
    """The public key of an author of the large archive; low numbers write most."""
    return hashlib.sha256((900_000_000 + number).to_bytes(8)).digest()


def event_id(number: int) -> bytes:
    """The id of one of its events."""
    return hashlib.sha256(number.to_bytes(8)).digest()


def shapes(events: int, chance: random.Random) -> dict[str, Callable[[], Query]]:
    """Queries of each shape, a new one at each call."""
    authors = max(1000, events // 30)
    oldest = corpus.NEWEST - SPREAD_S

    def rare() -> bytes:
        return author(chance.randrange(authors // 2, authors))

    def moment() -> int:
        return chance.randrange(oldest, corpus.NEWEST)

    def some_ids(count: int) -> frozenset[bytes]:
        return frozenset(event_id(chance.randrange(events)) for _ in range(count))

    def tags(letter: str, *values: str) -> dict[str, frozenset[str]]:
        return {letter: frozenset(values)}

    def hexes(count: int) -> list[str]:
        return [each.hex() for each in some_ids(count)]

    return {
        "all, newest": lambda: Query(),
        "all, until deep in the past": lambda: Query(until=moment()),
        "500 ids": lambda: Query(ids=some_ids(500)),
        "kind 1": lambda: Query(kinds=frozenset([1])),
        "kinds 1, 6, 30023, until": lambda: Query(kinds=frozenset([1, 6, 30023]), until=moment()),
        "a kind that nobody has": lambda: Query(kinds=frozenset([12345])),
        "one author": lambda: Query(authors=frozenset([author(chance.randrange(authors))])),
        "the busiest author": lambda: Query(authors=frozenset([author(0)])),
        "500 rare authors": lambda: Query(authors=frozenset(rare() for _ in range(500))),
        "a follow list: 300 authors, kind 1": lambda: Query(
            authors=frozenset(author(int(authors * chance.random() ** 4)) for _ in range(300)),
            kinds=frozenset([1]),
        ),
        "a profile": lambda: Query(authors=frozenset([rare()]), kinds=frozenset([0])),
        "#e": lambda: Query(tags=tags("e", *hexes(1))),
        "100 #e, two kinds": lambda: Query(tags=tags("e", *hexes(100)), kinds=frozenset([1, 7])),
        "the most used #p": lambda: Query(tags=tags("p", author(0).hex())),
        "the most used #p, kind 9735": lambda: Query(
            tags=tags("p", author(0).hex()), kinds=frozenset([9735])
        ),
        "a rare #t": lambda: Query(tags=tags("t", f"tag{chance.randrange(2000, 3000)}")),
        "a tag that half of the archive bears": lambda: Query(tags=tags("l", "half")),
        "... and a rare author": lambda: Query(tags=tags("l", "half"), authors=frozenset([rare()])),
        "... and a rare #t": lambda: Query(
            tags=tags("l", "half") | tags("t", f"tag{chance.randrange(2000, 3000)}")
        ),
        "... and a kind that never bears it": lambda: Query(
            tags=tags("l", "half"), kinds=frozenset([0])
        ),
        "one second that holds 5,000": lambda: Query(since=BUSY_SECOND, until=BUSY_SECOND),
        "kind 1 in an hour of the past": lambda: (
            lambda at: Query(kinds=frozenset([1]), since=at, until=at + 3600)
        )(moment()),
    }


async def measure(pool: Pool, events: int) -> None:
    """Prints the median and the slowest of some rounds of each shape, what PostgreSQL has computed
    for one (other work does not add to that), and the median and 99th percentile of the mix."""
    reads = EventReads(pool, View.CURRENT)
    chance = random.Random(1)
    mix: list[float] = []
    for name, make in shapes(events, chance).items():
        took, found = [], 0
        await reads.page(make(), PAGE)
        servers = [row["pid"] for row in await pool.fetch(_SERVERS)]
        before = _computed_ms(servers)
        for _ in range(ROUNDS):
            query = make()
            started = time.perf_counter()
            page = await reads.page(query, PAGE)
            took.append((time.perf_counter() - started) * 1000)
            found += len(page.events)
        mix += took
        print(
            f"  {name:40} {statistics.median(took):7.1f} ms, slowest {max(took):7.1f},"
            f" PostgreSQL {(_computed_ms(servers) - before) / ROUNDS:6.1f},"
            f" {found / ROUNDS:6.1f} events"
        )
    mix.sort()
    most = mix[len(mix) * 99 // 100]
    print(f"  the mix: median {statistics.median(mix):.1f} ms, 99 % {most:.1f} ms")
    await _deep(reads, events)


def _computed_ms(processes: list[int]) -> float:
    """What processes of this machine have computed so far."""
    ticks = 0
    for process in processes:
        try:
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:  # its connection was closed
            continue
        ticks += int(stat[11]) + int(stat[12])
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


async def _deep(reads: EventReads, events: int) -> None:
    """The 10,000th page of everything beside the first."""
    took = []
    for after in (None, Position(corpus.NEWEST - SPREAD_S // 2, bytes(32))):
        started = time.perf_counter()
        for _ in range(ROUNDS):
            page = await reads.page(Query(), PAGE, after)
            after = page.next
        took.append((time.perf_counter() - started) / ROUNDS * 1000)
    print(f"  a page of everything: {took[0]:.1f} ms, in the midst of it {took[1]:.1f} ms")
