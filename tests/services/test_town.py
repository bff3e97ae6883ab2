"""A town of some 200 relays and impostors, sorted by one run; and what becomes of thousands."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from tests.processes import environment
from tests.town import PER_ADDRESS, PER_SUBNET

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


def is_reachable_from_a_namespace(dsn: str) -> bool:
    """Whether the database listens on a socket in the file system."""
    return parse_qs(urlsplit(dsn).query).get("host", [""])[0].startswith("/")


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
        if not namespace():
            pytest.skip("no network namespaces here: unshare and ip, and the right to use them")
        if not is_reachable_from_a_namespace(dsn):
            pytest.skip("the database cannot be reached from a network namespace")
        words = [*namespace()]
    town = [sys.executable, "-m", "tests.town", dsn, str(tmp_path)]
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
    rows = await brotr.pool.fetch("SELECT * FROM candidates")
    found = {
        row["url"]: ("candidate" if row["alias_of"] is None else "alias", row["outcome"])
        for row in rows
    }
    found |= {row["url"]: ("relay", "") for row in await brotr.pool.fetch("SELECT url FROM relays")}
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
    assert 1 < seen["most_at_one_address"] <= PER_ADDRESS
    assert PER_ADDRESS < seen["most_in_one_network"] <= PER_SUBNET
    assert seen["user_agent"].endswith(" (+town@example.com)")
    # The proxy got every hidden name, the resolver none.
    assert seen["proxied"] == seen["hidden"]
    assert not [name for name in seen["asked"] if name.endswith((".onion", ".i2p", ".loki"))]
    assert "relay.town.example" not in seen["asked"]
