"""Pages of one relay: their events are copied side by side, what they prove is noted in order."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bigbrotr.config.settings import Config, Limits, PoolSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit
from bigbrotr.core.pool import Pool
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.coverage import How, Proof, Span
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.questions import Progress, Question
from bigbrotr.services.sync import ingest as module
from bigbrotr.services.sync.contention import ContentionGate
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.ingest import Batch, Ingest, sift
from bigbrotr.services.sync.report import Report
from tests.kit.events import make_event
from tests.kit.processes import until
from tests.services.sync.test_ingest import POLICY, claim, page

EVENTS = [make_event(1_600_000_000 + n, content=f"{n}") for n in range(60)]
PROOF = Progress([Proof(Span(1_600_000_000, 1_600_000_040), How.PAGING)], [])


async def ingest_of(brotr: Brotr) -> Ingest:
    (visit,) = await claim(brotr, 1)
    return Ingest(context_of(brotr, visit), VisitState(visit))


def context_of(
    brotr: Brotr,
    visit: Visit,
    report: Callable[[Report], None] = lambda _: None,
    contention: ContentionGate | None = None,
) -> VisitContext:
    return VisitContext(
        brotr=brotr,
        config=Config(),
        relay=Relay(visit.url),
        network=Network.LOCAL,
        report=report,
        contention=contention or ContentionGate(),
    )


async def prepared(ingest: Ingest, since: int, until: int) -> Batch:
    _, batch = sift(page(EVENTS[since:until]), Question(0, None, 500), POLICY)
    await ingest.prepare(batch)
    return batch


def storing(ingest: Ingest, batch: Batch, after: Awaitable[object]) -> asyncio.Task[None]:
    """The page above: it has begun, and goes on after something else."""

    async def store() -> None:
        await after
        await ingest.store(batch)

    return asyncio.create_task(store())


async def has_copied(brotr: Brotr) -> bool:
    """Whether somebody has copied events in a transaction that waits for something else."""
    return bool(
        await brotr.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'idle in transaction' AND query LIKE 'COPY%'"
        )
    )


async def proofs(brotr: Brotr) -> int:
    return int(await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.coverage"))


async def counted(brotr: Brotr) -> tuple[int, int, int]:
    totals = await brotr.totals()
    return totals.events, totals.pairs, await proofs(brotr)


async def test_events_are_copied_ahead_and_noted_in_their_turn(brotr: Brotr) -> None:
    ingest, may_go = await ingest_of(brotr), asyncio.Event()
    above, below = await prepared(ingest, 40, 60), await prepared(ingest, 0, 40)
    first = storing(ingest, above, may_go.wait())
    second = asyncio.create_task(ingest.store(below, PROOF, first))
    await until(lambda: has_copied(brotr), "the page below is copied")
    assert below.has_begun.is_set()
    assert await counted(brotr) == (0, 0, 0)
    may_go.set()
    await second
    assert first.done()
    assert await counted(brotr) == (60, 60, 1)


async def test_what_was_copied_goes_with_the_page_above(brotr: Brotr) -> None:
    """Nothing is noted of a page while one above it is missing."""
    ingest, may_go = await ingest_of(brotr), asyncio.Event()
    below = await prepared(ingest, 0, 40)

    async def fail() -> None:
        await may_go.wait()
        raise ConnectionResetError("gone")

    second = asyncio.create_task(ingest.store(below, PROOF, asyncio.create_task(fail())))
    await until(lambda: has_copied(brotr), "the page below is copied")
    may_go.set()
    with pytest.raises(ConnectionResetError):
        await second
    assert await counted(brotr) == (0, 0, 0)
    await ingest.store(below, PROOF)
    assert await counted(brotr) == (40, 40, 1)


@pytest.mark.parametrize("most", [1, 2])
async def test_pages_that_wait_for_each_other_come_to_an_end(
    dsn: str, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The page above brings events that the one below has copied already, of which nobody knew: the
    database makes it wait for the one that waits for it. With one connection there is none to
    copy ahead with."""
    monkeypatch.setattr(module, "TURN_S", 1.0)
    limits = Limits(min_size=1, max_size=most)
    async with (
        Brotr(Pool(settings=PoolSettings(limits=limits), dsn=dsn)) as brotr,
        Brotr(Pool(dsn=dsn)) as looking,
    ):
        ingest, may_go = await ingest_of(brotr), asyncio.Event()
        above, below = await prepared(ingest, 30, 60), await prepared(ingest, 0, 40)
        first = storing(ingest, above, may_go.wait())
        second = asyncio.create_task(ingest.store(below, PROOF, first))
        if most > 1:
            await until(lambda: has_copied(looking), "the page below is copied")
        else:
            await asyncio.sleep(0.5)
            assert not await has_copied(looking)
        may_go.set()
        async with asyncio.timeout(20):
            await asyncio.gather(first, second)
        assert await counted(looking) == (60, 60, 1)


async def test_a_page_some_of_which_was_stored_meanwhile_waits_for_its_turn(brotr: Brotr) -> None:
    """It cannot be copied: it is not noted any sooner for that."""
    ingest, may_go = await ingest_of(brotr), asyncio.Event()
    above, below = await prepared(ingest, 40, 60), await prepared(ingest, 0, 40)
    await ingest.take(await prepared(ingest, 10, 20))
    first = storing(ingest, above, may_go.wait())
    second = asyncio.create_task(ingest.store(below, PROOF, first))
    await below.has_begun.wait()
    done, _ = await asyncio.wait([second], timeout=0.5)
    assert not done
    assert await counted(brotr) == (10, 10, 0)
    may_go.set()
    await second
    assert await counted(brotr) == (60, 60, 1)


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_page_is_refused_in_its_turn_once_the_lease_is_lost(
    brotr: Brotr, is_new: bool
) -> None:
    """Also one that was copied in time, and one that only proves something."""
    ingest, may_go = await ingest_of(brotr), asyncio.Event()
    below = await prepared(ingest, 0, 40 if is_new else 0)

    async def store_nothing() -> None:
        await may_go.wait()

    above = asyncio.create_task(store_nothing())
    second = asyncio.create_task(ingest.store(below, PROOF, above))
    if is_new:
        await until(lambda: has_copied(brotr), "the page below is copied")
    else:
        done, _ = await asyncio.wait([second], timeout=0.5)
        assert not done
    await brotr.pool.execute("UPDATE bigbrotr.visits SET epoch = epoch + 1")
    may_go.set()
    with pytest.raises(LeaseLostError):
        await second
    assert above.exception() is None
    assert await counted(brotr) == (0, 0, 0)
