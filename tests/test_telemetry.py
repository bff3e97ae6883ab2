"""What a run tells of itself: why it is not ready, and what is stuck."""

from pathlib import Path

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.supervisor import Supervisor
from tests.kit.services import config, take_their_place


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    take_their_place(monkeypatch)


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
