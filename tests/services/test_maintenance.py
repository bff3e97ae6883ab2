"""The maintenance service: what it does, when, and what it says."""

import asyncio
import sys
import time

import asyncpg
import pytest

from bigbrotr.config.settings import MAX_CONSECUTIVE_FAILURES, MaintenanceSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls import maintenance as maintenance_calls
from bigbrotr.core.logger import configure
from bigbrotr.models.event import EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.services.maintenance import DATED_S, Maintenance
from tests.kit.archive import A, B
from tests.kit.events import NOW, verified
from tests.kit.processes import until


async def test_it_says_what_it_did(brotr: Brotr, capfd: pytest.CaptureFixture[str]) -> None:
    await brotr.insert_relays([Relay(f"wss://relay{n}.example") for n in range(4)])
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET failures = relay_id + 2, outcome = 'timeout' WHERE relay_id < 4"
    )
    configure("INFO", stream=sys.stderr)
    async with Maintenance(brotr) as maintenance:
        await maintenance.run()
        said = capfd.readouterr().err
        assert "looked after the database partitions_made=0 indexes_packed=0 took_s=" in said
        assert "relays fail outcome=timeout relays=3 most=wss://relay2.example failures=5" in said


async def test_it_is_done_once_in_a_while_whoever_finds_it_due(
    brotr: Brotr, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", stream=sys.stderr)
    settings = MaintenanceSettings(every_s=600.0)

    async def is_done() -> bool:
        async with Maintenance(brotr, settings) as maintenance:
            await maintenance.run()
        return "looked after the database" in capfd.readouterr().err

    assert await is_done()
    assert not await is_done()
    await brotr.pool.execute("UPDATE bigbrotr.service_data SET updated_at = updated_at - 601")
    assert await is_done()
    # A clock that was ahead leaves a time to come: it is not waited for.
    await brotr.pool.execute("UPDATE bigbrotr.service_data SET updated_at = updated_at + 9000")
    assert await is_done()


@pytest.mark.one_server  # a cluster has no default partition
async def test_events_from_far_ahead_are_noticed(
    brotr: Brotr, capfd: pytest.CaptureFixture[str]
) -> None:
    relay = Relay("wss://relay.example")
    await brotr.insert_events([EventRelay(verified(created_at=2**40), relay, NOW)])
    configure("INFO", stream=sys.stderr)
    async with Maintenance(brotr) as maintenance:
        await maintenance.run()
    assert "events in the default partition at_least=1" in capfd.readouterr().err


async def fill_backwards(brotr: Brotr) -> None:
    """As the copy of a relay does."""
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.events_stored (created_at, num, slice, kind, id, pubkey)"
        " SELECT $1::bigint - n, n, bigbrotr.slice_of($1::bigint - n), 1,"
        " sha256(int8send(n)), sha256(int8send(n % 50))"
        " FROM generate_series(1, 6000) AS n ORDER BY n",
        NOW,
    )
    await brotr.analyze()


@pytest.mark.one_server
async def test_indexes_that_were_filled_backwards_are_packed(brotr: Brotr) -> None:
    """What a crash has left is cleared away."""
    await fill_backwards(brotr)
    leaf = await brotr.pool.fetchval(
        "SELECT DISTINCT tableoid::regclass::text FROM bigbrotr.events_stored"
    )
    size = "SELECT sum(pg_relation_size(indexrelid)) FROM pg_index WHERE indrelid = $1::regclass"
    before = await brotr.pool.fetchval(size, leaf)
    assert await brotr.pack_indexes() == []  # too small to be worth it
    packed = await brotr.pack_indexes(1 << 16)
    assert f"{leaf}_pkey" in packed
    assert await brotr.pool.fetchval(size, leaf) < int(before) * 0.85
    assert f"{leaf}_pkey" not in await brotr.pack_indexes(1 << 16)
    # A crash in the midst of it leaves an index that is never used.
    for name in ("broken_ccnew", "broken_ccold1"):
        await brotr.pool.execute(f"CREATE INDEX {name} ON {leaf} (num)")
        await brotr.pool.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass",
            f"bigbrotr.{name}",
        )
    await brotr.pack_indexes()
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'broken%'"
    assert await brotr.pool.fetchval(left) == 0


# As a crash in the midst of it leaves an index.
BROKEN = """DO $x$ BEGIN
    EXECUTE format('CREATE INDEX broken_ccnew ON bigbrotr.%I (num)', (
        SELECT relname FROM pg_class WHERE relname ~ '^events_stored_[0-9]+$' LIMIT 1));
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'bigbrotr.broken_ccnew'::regclass;
END $x$"""


@pytest.mark.cluster
async def test_indexes_on_workers_are_packed(brotr: Brotr) -> None:
    await fill_backwards(brotr)

    async def of_shards(query: str) -> list[str]:
        rows = await brotr.pool.fetch(
            "SELECT success, result FROM run_command_on_shards('bigbrotr.events_stored', $1)", query
        )
        assert all(row["success"] for row in rows), rows
        return [row["result"] for row in rows]

    size = "SELECT pg_indexes_size('%s')"
    before = sum(map(int, await of_shards(size)))
    assert await brotr.pack_indexes() == []
    assert "bigbrotr.events_stored_pkey" in await brotr.pack_indexes(1 << 16)
    assert sum(map(int, await of_shards(size))) < before * 0.85
    assert "bigbrotr.events_stored_pkey" not in await brotr.pack_indexes(1 << 16)
    await brotr.pool.fetch("SELECT * FROM run_command_on_workers($1)", BROKEN)
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'broken%%'"
    assert set(await of_shards(left)) == {"1"}
    assert await brotr.pack_indexes() == []
    assert set(await of_shards(left)) == {"0"}


@pytest.mark.cluster
async def test_tables_on_workers_that_autovacuum_does_not_get_to(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_calls, "OLD_TRANSACTIONS", -1)
    await fill_backwards(brotr)
    await brotr.pool.execute("UPDATE bigbrotr.events_stored SET kind = 2")
    found: list[asyncpg.Record] = []

    async def is_told() -> bool:
        # A session tells what it has done with the next statement.
        await brotr.pool.execute("SELECT count(*) FROM bigbrotr.events_stored")
        found[:] = await brotr.vacuum_debt()
        return any(" at " in row["name"] and row["dead"] > 0 for row in found)

    await until(is_told, "what the workers know")
    assert len(found) == 5
    assert all(row["age"] >= 0 for row in found)


async def test_what_keeps_failing_is_tried_again_and_never_given_up(brotr: Brotr) -> None:
    await brotr.pool.execute("DROP FUNCTION bigbrotr.ensure_partitions(bigint)")
    settings = MaintenanceSettings(interval_s=0.1)
    async with Maintenance(brotr, settings) as maintenance, asyncio.timeout(60):
        cycles = asyncio.create_task(maintenance.run_forever())
        while maintenance.failures <= MAX_CONSECUTIVE_FAILURES:
            assert not cycles.done(), cycles.exception()
            await asyncio.sleep(0.01)
        assert "ensure_partitions" in maintenance.trouble
        maintenance.request_shutdown()
        await cycles


async def test_old_proofs_are_dated_to_the_month(brotr: Brotr) -> None:
    """What is proven stays the same; no second counts as proven later than it was, or twice."""
    await brotr.insert_relays([A, B])
    now = int(time.time())
    month = 30 * 86_400
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.coverage (relay_id, filter, how, proven, proven_at)"
        " SELECT r.id, f.filter, f.how, int8multirange(int8range("
        "  1000 * n + f.at, 1000 * n + f.at + 100)), $1 - 86400 * n - 43200 - f.at"
        " FROM bigbrotr.relays r, generate_series(1, 200) AS n, (VALUES"
        "  ('', 'paging', 0), ('', 'finish', 100), ('{\"kinds\":[1]}', 'paging', 0)"
        " ) AS f (filter, how, at)",
        now,
    )
    seconds = (
        "SELECT c.relay_id, c.filter, c.how, s.second, c.proven_at FROM bigbrotr.coverage c,"
        " unnest(c.proven) AS u, generate_series(lower(u), upper(u) - 1, 50) AS s (second)"
    )
    before = {tuple(row)[:4]: row["proven_at"] for row in await brotr.pool.fetch(seconds)}
    async with Maintenance(brotr) as maintenance:
        await maintenance.run()
    rows = await brotr.pool.fetch(seconds)
    after = {tuple(row)[:4]: row["proven_at"] for row in rows}
    assert after.keys() == before.keys()
    assert len(rows) == len(after)
    for second, at in after.items():
        is_old = before[second] < now - DATED_S
        assert before[second] - at < month if is_old else at == before[second]
        assert at <= before[second]
    number = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.coverage")
    assert 6 * 90 <= number <= 6 * (90 + 6)
    async with brotr.pool.acquire() as busy, busy.transaction():
        # A visit that stores what it has proven is waited for.
        await busy.execute("SELECT FROM bigbrotr.visits FOR SHARE")
        merging = asyncio.create_task(brotr.merge_old_coverage(now - DATED_S // 2))
        done, _ = await asyncio.wait([merging], timeout=0.3)
        assert not done
    assert await merging == 2
    assert await brotr.merge_old_coverage(now - DATED_S // 2) == 0


async def test_proofs_are_taken_back_after_they_were_merged(brotr: Brotr) -> None:
    """Whoever changes the proofs of a relay locks its visit first: nobody meets a deadlock."""
    await brotr.insert_relays([A])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)"
        " SELECT r.id, 'paging', int8multirange(int8range(100 * n, 100 * n + 100)), n"
        " FROM bigbrotr.relays r, generate_series(1, 2) AS n"
    )
    async with brotr.pool.acquire() as merging, merging.transaction():
        visit = await merging.fetchrow(
            "SELECT v.relay_id, v.epoch FROM bigbrotr.visits v FOR UPDATE"
        )
        assert visit is not None
        taking = asyncio.create_task(
            brotr.pool.execute(
                "SELECT bigbrotr.take_back(p_relay_id => $1, p_epoch => $2, p_hows => '{paging}',"
                " p_spans => NULL)",
                visit["relay_id"],
                visit["epoch"],
            )
        )
        async with asyncio.timeout(20):
            while not await brotr.pool.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock'"
            ):
                assert not taking.done()
                await asyncio.sleep(0.01)
        await merging.execute("SELECT FROM bigbrotr.coverage FOR UPDATE NOWAIT")
    await taking
    assert not await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.coverage")
