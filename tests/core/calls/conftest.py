"""An archive with room for many at once."""

from collections.abc import AsyncIterator

import pytest

from bigbrotr.config.settings import Limits, PoolSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool


@pytest.fixture
async def crowd(dsn: str) -> AsyncIterator[Brotr]:
    limits = Limits(min_size=1, max_size=20)
    async with Brotr(Pool(settings=PoolSettings(limits=limits), dsn=dsn)) as brotr:
        await brotr.pool.execute("SELECT 1")
        yield brotr
