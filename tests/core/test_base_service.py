"""What every service is: its schedule, its failures, and how it is asked to stop."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bigbrotr.config.settings import Config, ServiceSection, ValidatorSettings
from bigbrotr.core import base_service
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.errors import ConfigError, DatabaseError

SECTION = ServiceSection(interval_s=0.1)


class Probe(BaseService[ServiceSection]):
    """Notes when its cycles begin; each does what the test says."""

    SERVICE_NAME = "validator"
    CONFIG_CLASS = ValidatorSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: ServiceSection | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self.began: list[float] = []
        self.cycle: Callable[[int], Awaitable[None]] | None = None

    async def run(self) -> None:
        self.began.append(time.monotonic())
        if self.cycle is not None:
            await self.cycle(len(self.began))


@pytest.fixture
def unused() -> Brotr:
    return Brotr(Pool())  # never connected: these services only keep time


@pytest.fixture
async def probe(unused: Brotr) -> AsyncIterator[Probe]:
    async with Probe(unused, SECTION) as service:
        yield service


class Timed(Probe):
    """One whose time passes as the test says, however busy the machine is."""

    now = 1000.0
    early_s = 0.0  # by which timers fire too soon

    async def wait(self, timeout: float) -> bool:
        self.now += max(0.0, timeout - self.early_s)
        await asyncio.sleep(0)  # a request to stop is heard
        return self._stop.is_set()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()

    async def run(self) -> None:
        self.began.append(self.now)
        if self.cycle is not None:
            await self.cycle(len(self.began))


@pytest.fixture
async def timed(unused: Brotr, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Timed]:
    async with Timed(unused, SECTION) as service:
        monkeypatch.setattr(base_service, "time", service)
        yield service


def stop_at(service: Probe, count: int) -> Callable[[int], Awaitable[None]]:
    async def cycle(number: int) -> None:
        if number >= count:
            service.request_shutdown()

    return cycle


async def test_the_schedule_does_not_drift(timed: Timed) -> None:
    async def cycle(number: int) -> None:
        timed.now += 0.03
        if number == 6:
            timed.request_shutdown()

    timed.cycle = cycle
    await timed.run_forever(interval=0.1)
    assert timed.began == pytest.approx([1000 + 0.1 * number for number in range(6)])
    assert (timed.cycles, timed.failures) == (6, 0)
    assert timed.last_success_at is not None
    assert abs(timed.last_success_at - time.time()) < 60


async def test_no_cycle_runs_twice(timed: Timed) -> None:
    """Timers fire a little early, sometimes."""
    timed.cycle = stop_at(timed, 40)
    timed.early_s = 0.0005
    await timed.run_forever(interval=0.01)
    apart = [after - before for before, after in zip(timed.began, timed.began[1:], strict=False)]
    assert sum(apart) > 0.38
    assert min(apart) > 0.009


async def test_a_long_cycle_leaves_out_those_that_it_ran_over(timed: Timed) -> None:
    async def cycle(number: int) -> None:
        if number == 1:
            timed.now += 0.35
        if number == 3:
            timed.request_shutdown()

    timed.cycle = cycle
    await timed.run_forever(interval=0.1)
    assert timed.began == pytest.approx([1000, 1000.4, 1000.5])


async def test_without_an_interval_cycles_follow_each_other(probe: Probe) -> None:
    probe.cycle = stop_at(probe, 50)
    async with asyncio.timeout(60):
        await probe.run_forever(interval=0)
    assert len(probe.began) == 50


async def test_a_failed_cycle_is_repeated_sooner(timed: Timed) -> None:
    async def cycle(number: int) -> None:
        if number <= 2:
            raise DatabaseError("away")
        timed.request_shutdown()

    timed.cycle = cycle
    await timed.run_forever(interval=3600, max_consecutive_failures=0)
    assert timed.began == [1000, 1001, 1003]  # after one second, then after two
    assert (timed.failures, timed.cycles) == (0, 1)


async def test_too_many_failures_in_a_row_are_raised(probe: Probe) -> None:
    async def cycle(number: int) -> None:
        if number != 3:
            raise ZeroDivisionError(f"cycle {number}")

    probe.cycle = cycle
    with pytest.raises(ZeroDivisionError, match="cycle 7"):  # 1, 2, a good one, then 4 to 7
        await probe.run_forever(interval=0.001, max_consecutive_failures=4)
    assert (probe.failures, probe.cycles) == (4, 1)


async def test_the_limit_is_that_of_the_settings(unused: Brotr) -> None:
    async def cycle(number: int) -> None:
        raise ZeroDivisionError

    settings = ServiceSection(interval_s=0.1, max_consecutive_failures=2)
    async with Probe(unused, settings) as service:
        service.cycle = cycle
        with pytest.raises(ZeroDivisionError):
            await service.run_forever()
        assert len(service.began) == 2
    assert BaseService.MAX_CONSECUTIVE_FAILURES == ServiceSection().max_consecutive_failures == 5


async def test_zero_is_no_limit(probe: Probe) -> None:
    async def cycle(number: int) -> None:
        if number == 1200:  # doubling a delay so often leaves the range of a float
            probe.request_shutdown()
        raise DatabaseError("away")

    probe.cycle = cycle
    await probe.run_forever(interval=0.00001, max_consecutive_failures=0)
    assert probe.failures == 1200


async def test_cancellation_is_no_failure(probe: Probe) -> None:
    async def cycle(number: int) -> None:
        await asyncio.sleep(60)

    probe.cycle = cycle
    task = asyncio.create_task(probe.run_forever())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert probe.failures == 0


async def test_waiting(probe: Probe) -> None:
    start = time.monotonic()
    assert not await probe.wait(0.05)
    assert time.monotonic() - start >= 0.04  # timers may be a little early
    assert not await probe.wait(0)
    assert not await probe.wait(-1)
    task = asyncio.create_task(probe.wait(60))
    await asyncio.sleep(0)
    probe.request_shutdown()
    assert await task
    assert await probe.wait(60)
    assert await probe.wait(0)


@pytest.mark.parametrize("entered", [True, False])
async def test_shutdown_from_a_signal_handler(unused: Brotr, entered: bool) -> None:
    service = Probe(unused, SECTION)
    if entered:
        await service.__aenter__()
    before = signal.signal(signal.SIGUSR1, lambda *_: service.request_shutdown())
    try:
        task = asyncio.create_task(service.run_forever(interval=3600))
        await asyncio.sleep(0)  # its first cycle begins
        assert service.began
        # From another thread, so that this loop sleeps when the signal comes.
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        async with asyncio.timeout(10):
            await task
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(service.began) == 1


async def test_shutdown_from_another_thread(probe: Probe) -> None:
    task = asyncio.create_task(probe.run_forever(interval=3600))
    await asyncio.sleep(0)
    await asyncio.to_thread(probe.request_shutdown)
    async with asyncio.timeout(10):
        await task
    assert not probe.is_running


async def test_running_from_entry_until_asked_to_stop(unused: Brotr) -> None:
    service = Probe(unused, SECTION)
    seen = [service.is_running]
    async with service:
        seen.append(service.is_running)
        service.request_shutdown()
        assert await service.wait(10)
        seen.append(service.is_running)
    async with service:  # again
        seen.append(service.is_running)
    seen.append(service.is_running)
    assert seen == [False, True, False, True, False]
    service.request_shutdown()


async def test_made_from_a_mapping_and_from_a_file(unused: Brotr, tmp_path: Path) -> None:
    service = Probe.from_dict({"interval_s": 3, "max_attempts": 7}, brotr=unused)
    assert service.settings == ValidatorSettings(interval_s=3.0, max_attempts=7)
    assert service.brotr is unused
    with pytest.raises(ConfigError, match=r"validator.*max_attempt.*max_attempts"):
        Probe.from_dict({"max_attempt": 7}, brotr=unused)

    path = tmp_path / "bigbrotr.toml"
    path.write_text("[validator]\nmax_attempts = 9\n[networks.tor]\nenabled = true\n")
    service = Probe.from_toml(path, brotr=unused)
    assert service.settings == ValidatorSettings(max_attempts=9)
    assert service.context.config.networks.tor.enabled
    assert Probe(unused).settings == Config().validator
    assert Probe(unused).owner == "bigbrotr/validator"


def test_run_must_be_written() -> None:
    class Idle(BaseService[ServiceSection]):
        pass

    with pytest.raises(TypeError, match="run"):
        Idle(Brotr(Pool()))  # type: ignore[abstract]


@pytest.mark.parametrize("own", ["", "the network is away"])
async def test_the_trouble_of_a_failed_cycle_ends_with_a_good_one(probe: Probe, own: str) -> None:
    said: list[str] = []

    async def cycle(number: int) -> None:
        said.append(probe.trouble)
        if number == 1:
            raise OSError("no way")
        probe.trouble = own or probe.trouble
        probe.request_shutdown()

    probe.cycle = cycle
    await probe.run_forever(0.01, 0)
    assert said == ["", "no way"]  # while it is tried again, it is still in trouble
    assert probe.trouble == own
