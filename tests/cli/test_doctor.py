"""The doctor: what it looks for, and that each fault comes with what to do."""

import asyncio
import resource
import shutil
from pathlib import Path

import pytest

from bigbrotr.cli import doctor
from bigbrotr.cli.doctor import Diagnosis, Finding
from bigbrotr.cli.place import Place as Where
from bigbrotr.config.settings import (
    Config,
    Database,
    GeoSettings,
    Link,
    MonitorSettings,
    Networks,
    Profile,
    SeederSettings,
    WebSettings,
)
from bigbrotr.models.relay import Network
from tests.kit.processes import Place
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay


def local(seeds: Path, **more: object) -> Config:
    networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=5.0))
    values = {"networks": networks, "seeder": SeederSettings(file=str(seeds))}
    return Config(**(values | more))  # type: ignore[arg-type]


async def test_a_sound_place(tmp_path: Path) -> None:
    """As a command, before there is an archive, and while it runs."""
    port = free_port()
    async with ScriptedRelay() as relay:
        place = Place(tmp_path / "place", [relay.url], more=f'[web]\nlisten = "127.0.0.1:{port}"\n')
        done = await place.call("doctor")
        assert done.code == 0, done.out
        assert "1 of 1 seeds answer" in done.out
        assert f"127.0.0.1:{port} is free" in done.out
        assert "bigbrotr run" in done.out  # makes one
        assert not place.data_dir.exists()
        async with place.start() as running:
            await running.says("ready")
            done = await place.call("doctor")
            assert done.code == 0, done.out
            assert "this archive runs and is well" in done.out
            assert "full, revision" in done.out
            assert await running.end() == 0


async def test_faults_and_what_to_do(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text(f"ws://127.0.0.1:{free_port()}\n")
    dead = free_port()
    config = local(
        seeds,
        database=Database(url=f"postgresql://me@127.0.0.1:{free_port()}/none"),
        monitor=MonitorSettings(geo=GeoSettings(city_db=str(tmp_path / "none.mmdb"))),
        networks=Networks(
            clearnet=Link(enabled=False),
            tor=Link(proxy=f"socks5h://127.0.0.1:{dead}"),
            local=Link(timeout_s=5.0),
        ),
    )
    there = Where(config, Profile.LITE, tmp_path)
    found = {check.what: check async for check in doctor.checks(there)}
    for what, words in {
        "settings": "[monitor.geo] city_db: cannot read",
        "database": "cannot connect to PostgreSQL at 127.0.0.1:",
        "proxy tor": f"nobody listens at 127.0.0.1:{dead}",
        "reach local": "is this machine online",
    }.items():
        assert found[what].finding is Finding.FAIL, found
        assert words in found[what].words
    assert "disk" not in found  # somebody else's


async def test_who_has_the_port(tmp_path: Path) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        config = Config(web=WebSettings(f"127.0.0.1:{port}"))
        check = await doctor.web(Where(config, Profile.LITE, tmp_path))
    assert check.finding is Finding.FAIL
    assert "something else than bigbrotr answers" in check.words


def test_clock() -> None:
    assert doctor.clock(1e9, True).finding is Finding.FAIL
    assert doctor.clock(1_800_000_000, False).finding is Finding.WARN
    assert doctor.clock(1_800_000_000, None) == Diagnosis(
        Finding.OK, "clock", "it says 2027-01-15 08:00:00 UTC"
    )


def test_how_signatures_are_verified() -> None:
    assert doctor.verification(True) == Diagnosis(Finding.OK, "signatures", "verified in batches")
    check = doctor.verification(False)
    assert check.finding is Finding.OK
    assert "bigbrotr-native is not installed" in check.words


def test_descriptors() -> None:
    check = doctor.descriptors(Config(), 256)
    assert check.finding is Finding.WARN
    assert "ulimit -n 500" in check.words
    assert doctor.descriptors(Config(), 500).finding is Finding.OK
    assert doctor.descriptors(Config(), resource.RLIM_INFINITY).finding is Finding.OK


@pytest.mark.parametrize(
    ("free", "finding", "words"),
    [
        (1 << 20, Finding.FAIL, "no space left"),
        (1 << 30, Finding.WARN, "make room"),
        (1 << 40, Finding.OK, "are free"),
    ],
)
def test_room(
    free: int, finding: Finding, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr("bigbrotr.cli.doctor.shutil.disk_usage", lambda _: usage)
    check = doctor.room(tmp_path / "not" / "there")
    assert check.finding is finding
    assert words in check.words


def test_room_that_cannot_be_looked_at(tmp_path: Path) -> None:
    # Root, as which this may run, is stopped by no permission, but by the length of a name.
    check = doctor.room(tmp_path / (300 * "a"))
    assert check.finding is Finding.FAIL
    assert check.words.startswith(f"cannot look at {tmp_path}")


async def test_no_name_is_resolved_for_addresses(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("")
    assert [check async for check in doctor.reach(local(seeds))] == []
    missing = local(tmp_path / "none")
    (check,) = [check async for check in doctor.reach(missing)]
    assert check.finding is Finding.WARN
    proxy = await doctor.proxy(Network.TOR, f"socks5h://[::1]:{free_port()}")
    assert "nobody listens at [::1]:" in proxy.words
