"""The publisher by itself; what the monitor posts through it is in the monitor's tests."""

import pytest

from bigbrotr.config.settings import Config, Link, MonitorSettings, Networks, PublishSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.errors import ConfigError
from bigbrotr.services.publisher import Publisher
from bigbrotr.supervisor import choose


async def test_without_any_network_it_waits(brotr: Brotr) -> None:
    context = Context(Config(networks=Networks(clearnet=Link(enabled=False))))
    async with Publisher(brotr, context=context) as publisher:
        await publisher.run()
    assert set(publisher.offered.values()) == {0}


def test_only_where_something_is_published_a_wrong_key_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRIVATE_KEY", "nonsense")
    assert choose(Config(), ["publisher"]) == ["publisher"]
    Publisher(Brotr(Pool()))
    publish = PublishSettings(enabled=True, relays=("wss://relay.example",))
    with pytest.raises(ConfigError, match="PRIVATE_KEY is not a private key"):
        choose(Config(monitor=MonitorSettings(publish=publish)), ["publisher"])
