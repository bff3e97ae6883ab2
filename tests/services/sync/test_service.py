"""The synchronizer when things go wrong around it: leases, workers, a database that stalls."""

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import msgspec
import pytest

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import configure
from bigbrotr.errors import WorkerLostError
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.websocket import HELD_BYTES
from bigbrotr.services.sync.context import PAGES_AT_WORK
from bigbrotr.services.sync.service import Synchronizer, share
from bigbrotr.services.sync.worker import Slice, Worker
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import children, command, until
from tests.kit.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n, content=f"{n} " + "x" * 2000) for n in range(300)]
ORDER = Slice("test/synchronizer", 60.0, {Network.LOCAL: 10})


def config(page_limit: int = 20, workers: int = 1) -> Config:
    return Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=30.0)),
        synchronizer=SynchronizerSettings(
            page_limit=page_limit, settle_s=0, workers=workers, slice_s=60.0
        ),
    )


async def pairs(brotr: Brotr) -> int:
    return (await brotr.totals()).pairs


@pytest.mark.parametrize("width", [0, 1, 2, 7, 50])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_shares_make_up_the_width(width: int, parts: int) -> None:
    shares = [share(width, parts, part) for part in range(parts)]
    assert sum(shares) == width
    assert max(shares) - min(shares) <= 1


async def test_lease_lost_in_mid_copy_drops_the_work(
    brotr: Brotr, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    async with ScriptedRelay(EVENTS, Vices(delay_s=0.05)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        work = asyncio.create_task(Worker(config(), brotr).work(ORDER))
        await until(lambda: len(relay.seen.filters) > 3 or work.done(), "it copies")
        assert not work.done(), work
        await brotr.pool.execute(
            "UPDATE bigbrotr.visits SET epoch = epoch + 1, owner = 'another', due_at = due_at + 600"
        )
        before = await pairs(brotr)
        async with asyncio.timeout(60):
            report = await work
        assert report.visits == 0
        assert await pairs(brotr) <= before + 40  # what was under way
        assert await brotr.pool.fetchval("SELECT owner FROM bigbrotr.visits") == "another"
        assert "lease lost" in capsys.readouterr().err
        assert relay.open_connections == 0 or await _closed(relay)


async def _closed(relay: ScriptedRelay) -> bool:
    await until(lambda: relay.open_connections == 0, "the conversation is over")
    return True


async def test_leases_of_a_crashed_one_are_given_back_at_the_start(brotr: Brotr, dsn: str) -> None:
    await brotr.insert_relays([Relay("ws://127.0.0.1:1")])
    context = Context(config(), dsn, "test")
    synchronizer = Synchronizer(brotr, context=context)
    for owner in (synchronizer.owner, "another/synchronizer"):
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0, owner = NULL")
        visits = await brotr.claim_visits(
            [Network.LOCAL], limit=5, owner=owner, lease_s=600, since=0, until=10
        )
        assert len(visits) == 1
        async with synchronizer:
            due_at = await brotr.next_visit_at([Network.LOCAL])
            assert due_at is not None
            assert (due_at <= time.time()) is (owner == synchronizer.owner)


@pytest.mark.slow
async def test_lost_worker_is_replaced(brotr: Brotr, dsn: str) -> None:
    async with ScriptedRelay(EVENTS, Vices(delay_s=0.1)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        synchronizer = Synchronizer(brotr, context=Context(config(), dsn, "test"))
        async with synchronizer:
            cycle = asyncio.create_task(synchronizer.run())
            await until(lambda: len(relay.seen.filters) > 3, "it copies")
            (worker,) = children(os.getpid(), "spawn_main")
            os.kill(worker, signal.SIGKILL)
            async with asyncio.timeout(60):
                with pytest.raises(WorkerLostError):
                    await cycle
            relay.vices = Vices()
            # At once, not after the lease.
            async with asyncio.timeout(60):
                await synchronizer.run()
            assert await pairs(brotr) == len(EVENTS)
            workers = children(os.getpid(), "spawn_main")
        assert worker not in workers
        assert not any(command(pid) for pid in workers)


@pytest.mark.slow
@pytest.mark.one_server  # a cluster reads a page more until it waits for this lock
async def test_stalled_database_stops_the_reading(brotr: Brotr, dsn: str) -> None:
    """A page in flight and one being stored, whatever there is to be had."""
    async with ScriptedRelay(EVENTS) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        blocker = await asyncpg.connect(dsn)
        try:
            transaction = blocker.transaction()
            await transaction.start()
            await blocker.execute("LOCK TABLE bigbrotr.presence, bigbrotr.events")
            work = asyncio.create_task(Worker(config(), brotr).work(ORDER))

            async def is_waiting() -> bool:
                return bool(
                    await brotr.pool.fetchval(
                        "SELECT count(*) > 0 FROM pg_stat_activity"
                        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    )
                )

            await until(is_waiting, "a page waits to be stored")
            await asyncio.sleep(1)  # it would have copied everything by now
            page = 20 * 2600
            assert len(relay.seen.filters) <= 2
            assert relay.seen.bytes_out <= 2 * page
            assert not work.done()
            await transaction.rollback()
            async with asyncio.timeout(60):
                await work
            assert await pairs(brotr) == len(EVENTS)
        finally:
            await blocker.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process has to itself."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
async def test_memory_stays_within_its_bound(brotr: Brotr, dsn: str) -> None:
    """Many relays have far more to give than a worker may hold, and the database takes nothing."""
    width, page = 12, 1 << 20
    events = [make_event(1_600_000_000 + n, content=f"{n} " + "x" * 30_000) for n in range(500)]
    settings = Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(width=width, timeout_s=30.0)),
        synchronizer=SynchronizerSettings(
            settle_s=0, workers=1, slice_s=60.0, max_page_bytes=page, reconcile=False
        ),
    )
    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(ScriptedRelay(EVENTS[:5]))
        relays = [await stack.enter_async_context(ScriptedRelay(events)) for _ in range(width)]
        context = Context(settings, dsn, "test")
        synchronizer = await stack.enter_async_context(Synchronizer(brotr, context=context))
        await brotr.insert_relays([Relay(small.url)])
        await synchronizer.run()  # starts the worker
        (worker,) = children(os.getpid(), "spawn_main")
        before = resident(worker)
        blocker = await asyncpg.connect(dsn)
        stack.push_async_callback(blocker.close)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE bigbrotr.presence, bigbrotr.events")
        await brotr.insert_relays([Relay(relay.url) for relay in relays])
        work = asyncio.create_task(synchronizer.run())
        sent = -1

        async def is_stalled() -> bool:
            nonlocal sent
            last, sent = sent, sum(relay.seen.bytes_out for relay in relays)
            await asyncio.sleep(1)
            return last == sent > width * page // 2

        await until(is_stalled, "nobody reads on")
        bound = 2 * (width + PAGES_AT_WORK) * page + width * 2 * HELD_BYTES
        assert sum(len(event["content"]) for event in events) * width > 2 * bound
        assert resident(worker) - before < bound
        await transaction.rollback()
        synchronizer.request_shutdown()
        async with asyncio.timeout(60):
            await work


async def test_each_slice_reports_its_own_use_of_the_database(brotr: Brotr) -> None:
    async with ScriptedRelay(EVENTS[:20]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        settings = config()
        settings = msgspec.structs.replace(
            settings, synchronizer=msgspec.structs.replace(settings.synchronizer, live=False)
        )
        before, worker = brotr.pool.use, Worker(settings, brotr)
        worker.politeness.crowded = worker.politeness.crowded.and_one(1.5)
        first = await worker.work(ORDER)
        between = brotr.pool.use
        second = await worker.work(ORDER)
    assert first.new == 20
    assert first.database_uses == between.times - before.times > second.database_uses > 0
    assert first.database_s == pytest.approx(between.seconds - before.seconds)
    assert second.database_uses == brotr.pool.use.times - between.times
    assert (first.crowded, first.crowded_s, second.crowded, second.crowded_s) == (1, 1.5, 0, 0.0)


async def test_relay_that_is_away_is_asked_later_each_time(brotr: Brotr) -> None:
    async with ScriptedRelay() as relay:
        await brotr.insert_relays([Relay(relay.url)])
    waits = []
    for failures in range(1, 4):
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        await Worker(config(), brotr).work(ORDER)
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.visits")
        assert row is not None
        assert (row["failures"], row["outcome"], row["owner"]) == (failures, "refused", None)
        waits.append(row["due_at"] - row["visited_at"])
    assert waits == sorted(set(waits))


@pytest.mark.slow
async def test_relay_that_never_ends_an_answer_is_not_asked_for_ever(brotr: Brotr) -> None:
    """Each visit proves something, or the next one comes later: never neither."""
    settings = config(page_limit=30)
    networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=0.5))
    worker = Worker(Config(networks=networks, synchronizer=settings.synchronizer), brotr)
    async with ScriptedRelay(EVENTS[:100]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        relay.vices = Vices(no_eose=True)
        order = Slice("test/synchronizer", 1.0, {Network.LOCAL: 10})
        visits = 0
        while (await brotr.next_visit_at([Network.LOCAL]) or 0) <= time.time():
            await worker.work(order)
            visits += 1
            assert visits < 30
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.visits")
        assert row is not None
        assert row["due_at"] - row["visited_at"] > 20
        assert 0 < await pairs(brotr) <= 100
        reasons = await brotr.pool.fetch("SELECT DISTINCT reason FROM bigbrotr.gaps")
        assert [row["reason"] for row in reasons] == ["timeout"]


async def test_a_clock_that_jumps_is_said_and_put_right(
    brotr: Brotr, dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    await brotr.insert_relays([Relay("wss://clock.example.com")])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.coverage SELECT id, '', 'paging', '{[0,1000)}', $1"
        " FROM bigbrotr.relays",
        int(time.time()) + 7200,
    )
    context = Context(config(), dsn, "test")
    synchronizer = Synchronizer(brotr, context=context)
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET due_at = due_at + 9000, visited_at = 1"
    )  # nobody to call
    await brotr.pool.execute("ALTER FUNCTION bigbrotr.forget_the_future RENAME TO forgotten")
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await synchronizer.run()
    await brotr.pool.execute("ALTER FUNCTION bigbrotr.forgotten RENAME TO forget_the_future")
    await synchronizer.run()  # says what it finds at the start, also if it could not at once
    assert "the clock was ahead" in capsys.readouterr().err
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.coverage") == 0
    await synchronizer.run()
    assert "clock" not in capsys.readouterr().err
    for set_by in (3600.0, -3600.0):
        synchronizer._clock._ahead_s -= set_by
        await synchronizer.run()
        said = capsys.readouterr().err
        assert "the clock has jumped" in said
        assert f"seconds={set_by:.0f}" in said
