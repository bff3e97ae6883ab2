"""The log of changes: written with the verdicts, numbered in the order in which one can see it."""

import asyncio
import time

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import CheckResult
from bigbrotr.models.relay import Relay
from bigbrotr.reads.changes import Change, Ends, changes_after, ends, latest_changes
from tests.core.calls.test_monitoring import EVERY_S, RELAYS, again, claim, record


async def all_of(brotr: Brotr) -> list[Change]:
    return await changes_after(brotr.pool, 0, 1000)


async def test_a_change_is_noted_with_its_verdict(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    assert await ends(brotr.pool) == Ends(0, 0)
    (due,) = await claim(brotr)
    await record(brotr, due, "up")
    await record(brotr, due, "up")  # again, without a lease
    await record(brotr, await again(brotr), "up")  # it stays as it was
    await record(brotr, await again(brotr), "suspect", "timeout")
    suspect_at = await brotr.pool.fetchval("SELECT suspect_at FROM bigbrotr.checks")
    await brotr.pool.execute("UPDATE bigbrotr.checks SET suspect_at = suspect_at - 50")
    await record(brotr, await again(brotr), "down", "timeout", detail="no answer")
    await record(brotr, await again(brotr), "void")
    await record(brotr, await again(brotr), "up")
    found = await all_of(brotr)
    url, network = RELAYS[0].url, "clearnet"
    assert [(each.id, each.relay, each.network) for each in found] == [
        (number, url, network) for number in (1, 2, 3)
    ]
    assert [(each.before, each.state, each.reason) for each in found] == [
        ("unknown", "up", ""),
        ("up", "down", "timeout: no answer"),
        ("down", "up", ""),
    ]
    assert found[1].since == suspect_at - 50  # when it first failed
    assert await ends(brotr.pool) == Ends(3, 0)
    assert await latest_changes(brotr.pool, 2) == found[:0:-1]
    assert await latest_changes(brotr.pool, 9, before=2) == found[:1]


async def test_many_at_once_keep_their_order(brotr: Brotr) -> None:
    """Writers wait for each other: whoever reads while they write misses no number."""
    relays = [Relay(f"wss://many{n}.example.com") for n in range(60)]
    await brotr.insert_relays(relays)
    dues = await claim(brotr)
    seen: list[int] = []

    async def write(start: int) -> None:
        for due in dues[start::6]:
            assert await brotr.record_checks([CheckResult(due, "up", "up")], EVERY_S) == 1

    async def read() -> None:
        while len(seen) < len(relays):
            found = await changes_after(brotr.pool, seen[-1] if seen else 0, 7)
            seen.extend(each.id for each in found)

    async with asyncio.timeout(60):
        await asyncio.gather(read(), *(write(start) for start in range(6)))
    assert seen == list(range(1, len(relays) + 1))


async def test_of_one_relay(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:2])
    dues = await claim(brotr)
    await brotr.record_checks([CheckResult(due, "up", "up") for due in dues], EVERY_S)
    for due in dues:
        (found,) = await changes_after(brotr.pool, 0, 9, relay=due.relay.url)
        assert found.relay == due.relay.url
        assert await latest_changes(brotr.pool, 9, relay=due.relay.url) == [found]
    assert await changes_after(brotr.pool, 0, 9, relay="wss://nobody.example.com") == []


async def test_old_ones_go_and_that_is_noted(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS)
    for due in await claim(brotr):
        await record(brotr, due, "up")
    await brotr.pool.execute("UPDATE bigbrotr.changes SET noted_at = 5 WHERE id <= 3")
    await brotr.delete_old_measurements(10)
    assert [each.id for each in await all_of(brotr)] == [4, 5]
    assert await ends(brotr.pool) == Ends(5, 3)
    assert await brotr.pool.fetchval("SELECT bigbrotr.prune_changes(p_before => 10)") == 0
    assert await ends(brotr.pool) == Ends(5, 3)


async def test_a_clock_that_was_ahead(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    (due,) = await claim(brotr)
    await record(brotr, due, "up")
    await brotr.pool.execute(
        "UPDATE bigbrotr.changes SET noted_at = noted_at + 90000, since = since + 90000"
    )
    now = int(time.time())
    await brotr.pool.execute("SELECT * FROM bigbrotr.forget_the_future(p_now => $1)", now)
    (found,) = await all_of(brotr)
    assert (found.noted_at, found.since) == (now, now)
