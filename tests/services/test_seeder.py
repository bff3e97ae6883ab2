"""The seed file: whatever is in it, the relays in it become candidates, and the rest is named."""

from pathlib import Path

import pytest

from bigbrotr.config.settings import Config, Link, Networks, SeederSettings
from bigbrotr.config.shipped import shipped
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import configure
from bigbrotr.errors import ConfigError
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.seeder import Seeder, read_seeds, usable_relays

A, B, C = "wss://a.example", "wss://b.example", "ws://c.example"


@pytest.mark.parametrize(
    ("data", "urls", "junk"),
    [
        (b"", [], []),
        (b"wss://a.example", [A], []),
        (b"wss://a.example\nwss://b.example\n", [A, B], []),
        (b"wss://a.example\r\nwss://b.example\r\n", [A, B], []),
        (b"\xef\xbb\xbfwss://a.example\nwss://b.example\n", [A, B], []),
        (b"# all\n\n  wss://a.example  # the first\n\twss://b.example\t\n", [A, B], []),
        (b"wss://a.example\nWSS://A.example:443/\nwss://a.example/\n", [A], []),
        (b"hello\nwss://a.example\nhttp://b.example\n", [A], [1, 3]),
        (b"wss://a.example\n\xff\xfe\xfa\nws://c.example", [A, C], [2]),
        (b"wss://a.example\nwss://\xff.example\n", [A], [2]),
        (b"wss://a.example\n" + b"x" * 100_000 + b"\nwss://b.example", [A, B], [2]),
        (b"wss://a.example\n\x00\nwss://b.exa\x00mple\n", [A], [2, 3]),
    ],
)
async def test_lines(data: bytes, urls: list[str], junk: list[int], tmp_path: Path) -> None:
    path = tmp_path / "seeds.txt"
    path.write_bytes(data)
    relays, others = await read_seeds(path)
    assert [relay.url for relay in relays] == urls
    assert [number for number, _ in others] == junk
    assert all(len(reason) < 300 and reason.isprintable() for _, reason in others)


async def test_shipped_list_is_good() -> None:
    relays, junk = await read_seeds(shipped("configs") / "seeds.txt")
    assert junk == []
    assert len(relays) > 30
    assert {relay.network for relay in relays} == {Network.CLEARNET}


async def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        await read_seeds(tmp_path / "none")
    with pytest.raises(ConfigError, match="Is a directory"):
        await read_seeds(tmp_path)


def test_local_relays_need_permission() -> None:
    relays = [Relay("ws://127.0.0.1:7777"), Relay("ws://192.168.1.2"), Relay(A)]
    assert usable_relays(relays, Networks()) == [Relay(A)]
    assert usable_relays(relays, Networks(local=Link())) == relays


async def test_repeating_changes_nothing(
    brotr: Brotr, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO")
    path = tmp_path / "seeds.txt"
    path.write_text(f"{A}\n{B}\nws://localhost:1\n" + "junk\n" * 5)
    settings = SeederSettings(file=str(path))
    async with Seeder(brotr, settings, Context(Config())) as seeder:
        await seeder.run()
        before = await brotr.pool.fetch("SELECT * FROM bigbrotr.candidates ORDER BY url")
        assert [row["url"] for row in before] == [A, B]
        said = capsys.readouterr().err
        assert "new=2 known=0 junk=5" in said
        assert said.count("not a relay URL") == 3  # the others are only counted
        await brotr.insert_relays([Relay(A)])
        await brotr.pool.execute("UPDATE bigbrotr.candidates SET attempts = 7, due_at = 77")
        await seeder.run()
        (after,) = await brotr.pool.fetch("SELECT * FROM bigbrotr.candidates")
        assert (after["url"], after["attempts"], after["due_at"]) == (B, 7, 77)
        assert "new=0 known=2" in capsys.readouterr().err
