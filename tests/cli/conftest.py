"""What the tests of the command line share: a relay, and an archive to look at."""

from collections.abc import AsyncIterator

import pytest

from tests.kit.events import make_event
from tests.kit.processes import Place, until
from tests.kit.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]


@pytest.fixture
async def relay() -> AsyncIterator[ScriptedRelay]:
    async with ScriptedRelay(EVENTS) as relay:
        yield relay


@pytest.fixture(scope="package")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A place whose bigbrotr runs all the time, for those who only look."""
    async with ScriptedRelay(EVENTS) as relay:
        place = Place(tmp_path_factory.mktemp("archive") / "place", [relay.url])
        async with place.start() as running:
            await running.says("ready")
            async with place.look() as connection:

                async def is_copied() -> bool:
                    return bool(
                        await connection.fetchval("SELECT events FROM bigbrotr.totals()") == 40
                    )

                await until(is_copied, "the copy")
            yield place
            assert await running.end() == 0
