"""Services in small, for a supervisor to run: one that crashes, and one that does its work."""

import time

import anyio
import pytest

from bigbrotr import supervisor as supervisors
from bigbrotr.config.settings import (
    Config,
    Database,
    MonitorSettings,
    ServiceSection,
    SupervisorSettings,
)
from bigbrotr.core.base_service import BaseService

SETTINGS = SupervisorSettings(
    restart_delay_s=0.01, max_restart_delay_s=0.05, max_crashes=4, shutdown_timeout_s=5
)


class Crashing(BaseService[ServiceSection]):
    """Crashes in each cycle."""

    SERVICE_NAME = "finder"
    CONFIG_CLASS = ServiceSection
    starts: list[float] = []  # noqa: RUF012 -- emptied by `take_their_place`

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


def config(dsn: str, **settings: object) -> Config:
    values: dict[str, object] = {
        "database": Database(url=dsn),
        "finder": ServiceSection(interval_s=0.1, max_consecutive_failures=1),
        "monitor": MonitorSettings(interval_s=0.1),
        "supervisor": SETTINGS,
    }
    return Config(**(values | settings))  # type: ignore[arg-type]


def take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor knows these two alone, as if they had never run."""
    Crashing.starts.clear()
    Steady.ran, Steady.is_enough = 0, anyio.Event()
    monkeypatch.setattr(supervisors, "SERVICES", {"finder": Crashing, "monitor": Steady})
