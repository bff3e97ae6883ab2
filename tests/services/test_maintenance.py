"""The maintenance service: what it does, when, and what it says."""

import sys

import pytest

from bigbrotr.config.settings import MaintenanceSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import configure
from bigbrotr.models.relay import Relay
from bigbrotr.services.maintenance import Maintenance


async def test_it_says_what_it_did(brotr: Brotr, capfd: pytest.CaptureFixture[str]) -> None:
    await brotr.insert_relays([Relay(f"wss://relay{n}.example") for n in range(4)])
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET failures = relay_id + 2, outcome = 'timeout' WHERE relay_id < 4"
    )
    configure("INFO", stream=sys.stderr)
    async with Maintenance(brotr) as maintenance:
        await maintenance.run()
        said = capfd.readouterr().err
        assert "looked after the database partitions_made=0 took_s=" in said
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
