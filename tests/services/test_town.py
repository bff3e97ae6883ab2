"""A town of some 200 relays and impostors, sorted by one run; and what becomes of thousands."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from tests.kit.processes import environment, until
from tests.kit.scripted import ScriptedRelay
from tests.kit.town import CROWD, EVENTS, PER_ADDRESS, PER_SUBNET

NAMESPACES = (
    ("unshare", "--net", "--mount"),
    ("unshare", "--user", "--map-root-user", "--net", "--mount"),
)
TOWN_S = 100.0


@cache
def namespace() -> Sequence[str]:
    """The words that run a command in a network of its own; none where that is not allowed."""
    if shutil.which("unshare") and shutil.which("ip"):
        for words in NAMESPACES:
            command = [*words, "ip", "link", "set", "lo", "up"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return words
    return ()


def in_a_namespace(dsn: str) -> Sequence[str]:
    """The same words, where the database can be reached from there; else the test is skipped."""
    if not namespace():
        pytest.skip("no network namespaces here: unshare and ip, and the right to use them")
    if not parse_qs(urlsplit(dsn).query).get("host", [""])[0].startswith("/"):
        pytest.skip("the database has no socket in the file system")
    return namespace()


async def output(*words: str, **env: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**env),
        cwd=Path(__file__).parents[2],
    )
    try:
        async with asyncio.timeout(TOWN_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["internet", "loopback"])
async def test_town_is_sorted_in_one_run(
    brotr: Brotr, dsn: str, tmp_path: Path, place: str
) -> None:
    words: list[str] = []
    if place == "internet":
        words = [*in_a_namespace(dsn)]
    town = [sys.executable, "-m", "tests.kit.town", dsn, str(tmp_path)]
    code, out, err = await output(*words, *town, *(["--on-loopback"] if not words else []))
    assert code == 0, err
    seen = json.loads(out)
    await check(brotr, seen)
    if place == "internet":
        assert len(seen["houses"]) > 250
        check_internet(seen)
    else:
        assert len(seen["houses"]) > 190


async def check(brotr: Brotr, seen: dict[str, Any]) -> None:
    """Every house is what it is in truth, and none is missing."""
    rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.candidates")
    found = {
        row["url"]: ("candidate" if row["alias_of"] is None else "alias", row["outcome"])
        for row in rows
    }
    found |= {
        row["url"]: ("relay", "")
        for row in await brotr.pool.fetch("SELECT url FROM bigbrotr.relays")
    }
    wanted = {Relay(url).url: (fate, outcome) for url, fate, outcome in seen["houses"]}
    wrong = {
        url: (found.get(url), wanted.get(url))
        for url in found.keys() | wanted.keys()
        if found.get(url) != wanted.get(url)
    }
    assert not wrong, seen["said"]
    unblamed = {"opted-out", "alias"}
    for row in rows:
        assert row["attempts"] == (row["outcome"] not in unblamed), dict(row)
        assert row["owner"] is None
    assert seen["dialled_unwilling"] == 0
    assert f"junk={seen['junk']}" in seen["said"]
    assert "Traceback" not in seen["said"]


def check_internet(seen: dict[str, Any]) -> None:
    assert seen["trapped"] == 0
    assert 1 < seen["most_at_one_address"] <= 2 * PER_ADDRESS
    assert PER_ADDRESS < seen["most_in_one_network"] <= PER_SUBNET
    assert seen["user_agent"].endswith(" (+town@example.com)")
    # The proxy got every hidden name, the resolver none.
    assert seen["proxied"] == seen["hidden"]
    assert not [name for name in seen["asked"] if name.endswith((".onion", ".i2p", ".loki"))]
    assert "relay.town.example" not in seen["asked"]


@pytest.mark.slow
async def test_crowd_at_one_address_is_copied_in_turns(
    brotr: Brotr, dsn: str, tmp_path: Path
) -> None:
    words = in_a_namespace(dsn)
    await brotr.insert_relays([Relay(f"ws://crowd{n}.example") for n in range(CROWD)])
    code, out, err = await output(
        *words, sys.executable, "-m", "tests.kit.town", dsn, str(tmp_path), "--follow"
    )
    assert code == 0, err
    # Two workers, of which each has its part.
    assert 1 < json.loads(out)["most_at_one_address"] <= 2 * PER_ADDRESS


CONFIG = """
[database]
url = "{dsn}"
[web]
listen = ""
[networks]
clearnet = {{ timeout_s = 2, quick_s = 1 }}
local = {{ enabled = true, width = 100, timeout_s = 1, quick_s = 0.2 }}
"""


def validate(dsn: str, folder: Path) -> list[str]:
    """The command that tries all candidates once."""
    config = folder / "config.toml"
    config.write_text(CONFIG.format(dsn=dsn))
    return [
        *(sys.executable, "-m", "bigbrotr", "run", "--only", "validator", "--once"),
        *("--profile", "full", "--config", str(config)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("is_known", [True, False], ids=["with relays", "at the first start"])
async def test_machine_without_a_network_blames_nobody(
    brotr: Brotr, dsn: str, tmp_path: Path, is_known: bool
) -> None:
    words = in_a_namespace(dsn)
    if is_known:
        await brotr.insert_relays([Relay(f"wss://known{n}.example.com") for n in range(3)])
    candidates = [f"wss://relay{n}.example.com" for n in range(6)] + ["ws://8.8.8.8"]
    await brotr.insert_candidates([Relay(url) for url in candidates], "test")
    code, _, err = await output(*words, *validate(dsn, tmp_path))
    assert code == 0, err
    assert "this machine seems to be offline" in err
    for row in await brotr.pool.fetch("SELECT * FROM bigbrotr.candidates"):
        assert row["attempts"] == 0, dict(row)
        assert row["due_at"] - row["tried_at"] == 60


def rss_kib(pid: int) -> int:
    """The memory that a process takes now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("it has ended")


@pytest.mark.slow
async def test_thousands_of_dead_candidates_take_no_more_memory(
    brotr: Brotr, dsn: str, tmp_path: Path
) -> None:
    dead = [f"ws://127.{n // 65_536 + 2}.{n // 256 % 256}.{n % 256}:9" for n in range(9_800)]
    async with AsyncExitStack() as stack:
        alive = [
            await stack.enter_async_context(ScriptedRelay(EVENTS, host=f"127.9.1.{n + 1}"))
            for n in range(100)
        ]
        silent = [
            stack.enter_context(socket.create_server((f"127.9.2.{n + 1}", 0), backlog=8))
            for n in range(100)
        ]
        urls = [*dead, *(relay.url for relay in alive)]
        urls += ["ws://{}:{}".format(*each.getsockname()) for each in silent]
        await brotr.insert_candidates([Relay(url) for url in urls], "test")
        process = await asyncio.create_subprocess_exec(
            *validate(dsn, tmp_path), stderr=asyncio.subprocess.PIPE, env=environment()
        )
        reading = asyncio.create_task(process.communicate())
        taken: dict[int, int] = {}  # by how many were left

        async def is_worked_off() -> bool:
            left = await brotr.pool.fetchval(
                "SELECT count(*) FROM bigbrotr.candidates WHERE tried_at IS NULL"
            )
            if 0 < left < len(urls) and not reading.done():
                taken[left] = rss_kib(process.pid)
            return left == 0 or reading.done()

        await until(is_worked_off, "all are tried", TOWN_S)
        _, said = await reading
    assert process.returncode == 0, said.decode()
    totals = await brotr.totals()
    assert (totals.relays, totals.candidates) == (100, 9_900)
    outcomes = await brotr.pool.fetch(
        "SELECT outcome, count(*) FROM bigbrotr.candidates GROUP BY outcome"
    )
    assert {row["outcome"]: row["count"] for row in outcomes} == {"refused": 9_800, "slow": 100}
    first = max(rss for left, rss in taken.items() if left > len(urls) - 2000)
    last = max(rss for left, rss in taken.items() if left < 1000)
    assert last < first + 8 * 1024, taken
