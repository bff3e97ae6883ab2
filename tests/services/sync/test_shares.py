"""Shares: workers share what is due, and wait for nobody who does not look."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.sync import shares as module
from bigbrotr.services.sync.shares import PATIENCE_S, Share, Shares
from bigbrotr.services.sync.worker import Slice, Worker
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import until
from tests.kit.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n, content=str(n)) for n in range(60)]


def two(clock: list[float]) -> tuple[Shares, Share, Share]:
    shares = Shares(2)
    for worker in (0, 1):
        shares.enter(worker, Network.LOCAL)
    one, other = (Share(shares, worker, Network.LOCAL, lambda: clock[0]) for worker in (0, 1))
    return shares, one, other


def test_who_has_claimed_waits_until_others_have_looked() -> None:
    _, one, other = two([0.0])
    assert one.is_fair()
    one.look()
    one.note(1)
    assert not one.is_fair()
    assert other.is_fair()
    other.look()
    assert one.is_fair()  # in vain, it may be: there is nothing to wait for
    one.look()
    one.note(2)
    other.note(2)
    assert one.is_fair()  # as many
    other.note(3)
    assert one.is_fair()
    other.look()
    other.note(4)
    assert not other.is_fair()


def test_nobody_waits_for_one_that_is_held_up_or_away() -> None:
    clock = [0.0]
    shares, one, _ = two(clock)
    one.look()
    one.note(1)
    assert not one.is_fair()
    clock[0] += PATIENCE_S + 0.1
    assert one.is_fair()
    one.look()
    assert not one.is_fair()
    shares.leave(1)
    assert one.is_fair()
    assert Share(shares, 0, Network.TOR).is_fair()  # where nobody looks


async def test_a_worker_that_comes_second_gets_its_share(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)
    config = Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=30.0)),
        synchronizer=SynchronizerSettings(page_limit=5, settle_s=0, reconcile=False),
    )
    shares = Shares(2)
    for worker in (0, 1):
        shares.enter(worker, Network.LOCAL)

    def order(worker: int) -> Slice:
        return Slice(f"worker {worker}", 60.0, {Network.LOCAL: 10}, worker=worker)

    async with AsyncExitStack() as stack:
        some = [ScriptedRelay(EVENTS, Vices(delay_s=0.1)) for _ in range(4)]
        for relay in some:
            await stack.enter_async_context(relay)
        await brotr.insert_relays([Relay(each.url) for each in some])
        first = asyncio.create_task(Worker(config, brotr, shares=shares).work(order(0)))
        # Long enough to have taken all of them.
        await until(lambda: any(len(each.seen.filters) > 6 for each in some), "one copies")
        second = asyncio.create_task(Worker(config, brotr, shares=shares).work(order(1)))
        reports = await asyncio.gather(first, second)
    assert [report.visits for report in reports] == [2, 2]
