"""What an archive knows of its relays: how many are complete, and what is left to copy."""

import time

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from bigbrotr.reads import relays
from bigbrotr.reads.relays import BEGINNING, Counts, Stage


async def test_how_far_all_relays_are(brotr: Brotr) -> None:
    """What is complete, what is left: in proportion to the time that is proven."""
    now = int(time.time())
    urls = [f"wss://relay{n}.example" for n in range(3)]
    await brotr.insert_relays([Relay(url) for url in urls])
    assert await relays.counts(brotr.pool) == Counts(3, 0, 0, 0, 0, 0)
    await brotr.pool.execute("UPDATE bigbrotr.visits SET until = $1", now)
    middle = (now + relays.BEGINNING) // 2
    for url, since in ((urls[0], 0), (urls[1], middle)):
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at) SELECT id, 'paging',"
            " int8multirange(int8range($2, $3)), $3 FROM bigbrotr.relays WHERE url = $1",
            url,
            since,
            now,
        )
        await brotr.pool.execute(
            "UPDATE bigbrotr.tallies SET pairs = 1000"
            " FROM bigbrotr.relays WHERE id = relay_id AND url = $1",
            url,
        )
    assert await relays.counts(brotr.pool) == Counts(3, 1, 0, 0, 0, 1000)
    # Summed up, the same; until a visit begins, or what is wanted is something else.
    assert await brotr.sum_relays(BEGINNING, now, now) == 3
    await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
    assert await relays.counts(brotr.pool) == Counts(3, 1, 0, 0, 0, 1000)
    for change in (
        *("owner = 'me'", "until = until - 9", "since = 7", "filter = 'x'"),
        f"visited_at = {now}",
    ):
        async with brotr.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"UPDATE bigbrotr.visits SET {change}")
            row = await connection.fetchrow(
                "SELECT complete, events_left FROM bigbrotr.progress_counts("
                "  p_networks => '{clearnet}', p_beginning => $1, p_now => $2)",
                BEGINNING,
                now,
            )
            await transaction.rollback()
        assert row is not None
        assert row["complete"] == 0
        assert row["events_left"] > 10**6
    await brotr.pool.execute("UPDATE bigbrotr.visits SET visited_at = $1", now)
    assert await brotr.sum_relays(BEGINNING, now, now + 1) == 3
    assert (await relays.counts(brotr.pool)).complete == 0
    await brotr.pool.execute("UPDATE bigbrotr.visits SET owner = 'me'")
    assert (await relays.counts(brotr.pool)).copying == 3
    first, *_ = await relays.progress(brotr.pool, 1, is_active_first=True)
    assert (first.stage, first.holds) == (Stage.COPYING, 1000)
    assert (await relays.due(brotr.pool)).visits is not None
    assert await relays.counts(brotr.pool, []) == Counts(0, 0, 0, 0, 0, 0)
