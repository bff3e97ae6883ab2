"""The supervisor: a service that crashes is restarted, later each time, and harms no other."""
# ruff: noqa: ASYNC110 -- these poll states, which no event announces

import time
from pathlib import Path
from typing import Self

import anyio
import pytest

from bigbrotr import runner as runners
from bigbrotr import supervisor as supervisors
from bigbrotr.config.settings import (
    Config,
    Database,
    MonitorSettings,
    Profile,
    SeederSettings,
    ServiceSection,
    SupervisorSettings,
    SynchronizerSettings,
)
from bigbrotr.core.base_service import BaseService
from bigbrotr.core.pool import Pool
from bigbrotr.errors import ConfigError, ServiceFailedError
from bigbrotr.runner import State
from bigbrotr.supervisor import Supervisor, choose

SETTINGS = SupervisorSettings(
    restart_delay_s=0.01, max_restart_delay_s=0.05, max_crashes=4, shutdown_timeout_s=5
)


class Crashing(BaseService[ServiceSection]):
    """Crashes in each cycle."""

    SERVICE_NAME = "finder"
    CONFIG_CLASS = ServiceSection
    starts: list[float] = []  # noqa: RUF012 -- emptied by the fixture

    async def run(self) -> None:
        Crashing.starts.append(time.monotonic())
        raise ZeroDivisionError("a defect of ours")


class Steady(BaseService[ServiceSection]):
    """Does its work."""

    SERVICE_NAME = "monitor"
    CONFIG_CLASS = ServiceSection
    ran = 0
    is_enough: anyio.Event

    async def run(self) -> None:
        Steady.ran += 1
        if Steady.ran >= 20:
            Steady.is_enough.set()


class Stubborn(BaseService[ServiceSection]):
    """Heeds no request to stop, only cancellation."""

    SERVICE_NAME = "monitor"
    CONFIG_CLASS = ServiceSection

    async def run(self) -> None:
        await anyio.sleep_forever()


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    Crashing.starts.clear()
    Steady.ran, Steady.is_enough = 0, anyio.Event()
    monkeypatch.setattr(supervisors, "SERVICES", {"finder": Crashing, "monitor": Steady})


def config(dsn: str, **settings: object) -> Config:
    values: dict[str, object] = {
        "database": Database(url=dsn),
        "finder": ServiceSection(interval_s=0.1, max_consecutive_failures=1),
        "monitor": MonitorSettings(interval_s=0.1),
        "supervisor": SETTINGS,
    }
    return Config(**(values | settings))  # type: ignore[arg-type]


async def test_crashing_service_is_restarted_then_fails_alone(dsn: str, tmp_path: Path) -> None:
    supervisor = Supervisor(config(dsn), Profile.FULL, tmp_path)
    crashing, steady = supervisor.runners
    errors: list[ServiceFailedError] = []

    async def run() -> None:
        try:
            await supervisor.run()
        except* ServiceFailedError as group:
            errors.extend(
                error for error in group.exceptions if isinstance(error, ServiceFailedError)
            )

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(60):
            while crashing.state is not State.FAILED:
                await anyio.sleep(0.01)
            ran = Steady.ran
            while Steady.ran < ran + 3:  # the other goes on
                await anyio.sleep(0.01)
            assert steady.state is State.RUNNING
            assert await supervisor.telemetry.what_is_wrong() == "failed: finder"
            supervisor.request_shutdown()
    assert len(Crashing.starts) == SETTINGS.max_crashes
    assert crashing.error == "a defect of ours"
    assert [error.exit_code for error in errors] == [6]
    assert "finder failed: a defect of ours" in str(errors[0])
    assert steady.state is State.STOPPED


async def test_all_failed_ends_the_run(dsn: str, tmp_path: Path) -> None:
    supervisor = Supervisor(config(dsn), Profile.FULL, tmp_path, only=["finder"])
    with anyio.fail_after(60), pytest.raises(ServiceFailedError):
        await supervisor.run()
    gaps = [b - a for a, b in zip(Crashing.starts, Crashing.starts[1:], strict=False)]
    assert len(gaps) == 3
    assert gaps[0] >= 0.01
    assert gaps[1] >= 0.02
    assert gaps[2] >= 0.04


async def test_once_fails_with_the_failed_and_runs_the_others(dsn: str, tmp_path: Path) -> None:
    supervisor = Supervisor(config(dsn), Profile.FULL, tmp_path)
    with anyio.fail_after(60), pytest.raises(ServiceFailedError, match="finder"):
        await supervisor.run(is_once=True)
    assert (len(Crashing.starts), Steady.ran) == (1, 1)
    assert [runner.state for runner in supervisor.runners] == [State.FAILED, State.STOPPED]


async def test_a_stop_while_a_service_starts_leaves_its_cycle_out(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(config(dsn), Profile.FULL, tmp_path, only=["monitor"])

    class Slow(Steady):
        async def __aenter__(self) -> Self:
            supervisor.request_shutdown()
            return await super().__aenter__()

    monkeypatch.setattr(supervisors, "SERVICES", {"monitor": Slow})
    with anyio.fail_after(60):
        await supervisor.run(is_once=True)
    assert Steady.ran == 0


async def test_database_away_is_nobodys_crash(dsn: str, tmp_path: Path) -> None:
    supervisor = Supervisor(config(dsn), Profile.FULL, tmp_path, only=["finder"])
    (runner,) = supervisor.runners

    async def away(_: Pool) -> bool:
        return not supervisor._stopping.is_set() and len(Crashing.starts) < 10

    runner._is_database_away = away  # type: ignore[method-assign, assignment]
    usual, runners.DATABASE_CHECK_S = runners.DATABASE_CHECK_S, 0.01
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.run)
            with anyio.fail_after(60):
                while not Crashing.starts:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.1)
                assert len(Crashing.starts) == 1  # it waits
                assert runner.state is State.RESTARTING
                assert not runner.crashes
                supervisor.request_shutdown()
    finally:
        runners.DATABASE_CHECK_S = usual


@pytest.mark.slow
async def test_service_that_does_not_stop_is_cancelled(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "SERVICES", {"finder": Stubborn, "monitor": Steady})
    settings = SupervisorSettings(shutdown_timeout_s=0.2)
    supervisor = Supervisor(config(dsn, supervisor=settings), Profile.FULL, tmp_path)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.run)
            await Steady.is_enough.wait()
            supervisor.request_shutdown()


async def test_it_says_why_it_is_not_ready(dsn: str, tmp_path: Path) -> None:
    supervisor = Supervisor(config(dsn), Profile.FULL, tmp_path)
    supervisor.telemetry.tell_progress("PostgreSQL is recovering (5 s so far)")
    assert (
        await supervisor.telemetry.what_is_wrong()
        == "starting: PostgreSQL is recovering (5 s so far)"
    )
    assert await supervisor.telemetry.what_is_stuck() is None
    assert b"bigbrotr_database_up 0.0\n" in (await supervisor.telemetry.metrics())[0]
    supervisor.telemetry._beat_at -= 60
    assert await supervisor.telemetry.what_is_stuck() == "the event loop is late by 59 s"
    supervisor.request_shutdown()
    assert await supervisor.telemetry.what_is_wrong() == supervisor.telemetry.status() == "stopping"


def test_choice_of_services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    assert choose(Config(), None) == list(supervisors.SERVICES)
    assert choose(Config(), ["synchronizer", "seeder"]) == ["seeder", "synchronizer"]
    less = Config(synchronizer=SynchronizerSettings(enabled=False))
    assert "synchronizer" not in choose(less, None)
    assert choose(less, ["synchronizer"]) == ["synchronizer"]
    with pytest.raises(ConfigError, match="no service is called 'x'"):
        choose(Config(), ["x"])
    missing = Config(seeder=SeederSettings(file=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="cannot read"):
        choose(missing, None)
    assert choose(missing, ["validator"]) == ["validator"]
