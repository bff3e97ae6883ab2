"""A service that crashes is restarted, later each time, and harms no other."""
# ruff: noqa: ASYNC110 -- these poll states, which no event announces

from pathlib import Path

import anyio
import pytest

from bigbrotr import runner as runners
from bigbrotr.config.settings import Profile
from bigbrotr.core.pool import Pool
from bigbrotr.errors import ServiceFailedError
from bigbrotr.runner import State
from bigbrotr.supervisor import Supervisor
from tests.kit.services import SETTINGS, Crashing, Steady, config, take_their_place


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    take_their_place(monkeypatch)


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
