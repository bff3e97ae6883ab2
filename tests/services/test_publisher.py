"""The publisher by itself; what the monitor posts through it is in the monitor's tests."""

from bigbrotr.config.settings import Config, Link, Networks
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.services.publisher import Publisher


async def test_without_any_network_it_waits(brotr: Brotr) -> None:
    context = Context(Config(networks=Networks(clearnet=Link(enabled=False))))
    async with Publisher(brotr, context=context) as publisher:
        await publisher.run()
    assert set(publisher.offered.values()) == {0}
