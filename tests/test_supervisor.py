"""The supervisor: runs what was chosen, ends with what failed, and stops when asked."""

from pathlib import Path
from typing import Self

import anyio
import pytest

from bigbrotr import supervisor as supervisors
from bigbrotr.config.settings import (
    Config,
    MonitorSettings,
    Profile,
    PublishSettings,
    SeederSettings,
    ServiceSection,
    SupervisorSettings,
    SynchronizerSettings,
    service_names,
)
from bigbrotr.core.base_service import BaseService
from bigbrotr.errors import ConfigError, ServiceFailedError
from bigbrotr.runner import State
from bigbrotr.supervisor import Supervisor, choose, is_unheard
from tests.kit.services import Crashing, Steady, config, take_their_place


class Stubborn(BaseService[ServiceSection]):
    """Heeds no request to stop, only cancellation."""

    SERVICE_NAME = "monitor"
    CONFIG_CLASS = ServiceSection

    async def run(self) -> None:
        await anyio.sleep_forever()


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    take_their_place(monkeypatch)


async def test_all_failed_ends_the_run(dsn: str, tmp_path: Path) -> None:
    supervisor = Supervisor(config(dsn), Profile.FULL, tmp_path, only=["finder"])
    with anyio.fail_after(60), pytest.raises(ServiceFailedError):
        await supervisor.run()
    gaps = [b - a for a, b in zip(Crashing.starts, Crashing.starts[1:], strict=False)]
    for gap, delay_s in zip(gaps, (0.01, 0.02, 0.04), strict=True):
        assert gap > 0.9 * delay_s  # timers may fire a moment early


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


def test_choice_of_services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    assert list(supervisors.SERVICES) == service_names()
    # All but those that have to be asked for.
    asked_for = ("search", "ranks", "alerts", "rescue")
    assert choose(Config(), None) == [each for each in service_names() if each not in asked_for]
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


def test_announcements_that_nobody_delivers_are_noticed() -> None:
    publish = PublishSettings(enabled=True, relays=("wss://relay.example",))
    told = Config(monitor=MonitorSettings(publish=publish))
    assert is_unheard(told, ["monitor", "seeder"])
    assert not is_unheard(told, ["monitor", "publisher"])
    assert not is_unheard(told, ["publisher"])
    assert not is_unheard(Config(), ["monitor"])
