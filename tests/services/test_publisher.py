"""The publisher by itself: what it does where nobody can be reached."""

from bigbrotr.config.settings import Config, Link, Networks
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import Post
from bigbrotr.services.publisher import Publisher


async def test_without_any_network_everything_waits(brotr: Brotr) -> None:
    networks = Networks(clearnet=Link(enabled=False))
    await brotr.post_events([Post("wss://target.example", 0, "", "{}")])
    async with Publisher(brotr, None, Context(Config(networks=networks))) as publisher:
        await publisher.run()
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.outbox WHERE attempts = 0") == 1
