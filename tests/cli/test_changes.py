"""`bigbrotr changes`: what has changed, and what will."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from bigbrotr.core.brotr import Brotr
from tests.core.calls.test_monitoring import RELAYS, again, claim, record
from tests.kit.processes import Running, call, environment


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "changes.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    return ["--config", str(path)]


async def test_what_has_changed(brotr: Brotr, config: list[str]) -> None:
    done = await call("changes", *config)
    assert (done.code, done.out) == (0, "")
    assert "no change yet" in done.sentence
    await brotr.insert_relays(RELAYS[:1])
    (due,) = await claim(brotr)
    await record(brotr, due, "up")
    await record(brotr, await again(brotr), "down", "refused", detail="by \x1b[31mforce")
    done = await call("changes", *config)
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith("1  ")
    assert first.endswith(f"unknown -> up  {RELAYS[0].url}")
    assert "up -> down" in second
    assert "\x1b" not in second
    for words, ids in (
        (["--after", "0", "--limit", "1"], [1]),
        (["--limit", "1", "--relay", RELAYS[0].url], [2]),
    ):
        done = await call("changes", "--json", *words, *config)
        assert [json.loads(line)["id"] for line in done.out.splitlines()] == ids, words
    done = await call("changes", "--after", "99", *config)
    assert "no change 99 here, the last is 2" in done.sentence
    assert len(done.out.splitlines()) == 2
    await brotr.pool.execute("SELECT bigbrotr.prune_changes(p_before => 9223372036854775807)")
    done = await call("changes", "--after", "1", *config)
    assert "not kept any more" in done.sentence
    done = await call("changes", "--limit", "9" * 30, *config)  # as good as none
    assert (done.code, done.out) == (0, "")
    done = await call("changes", "--relay", RELAYS[1].url, *config)
    assert done.code == 2
    assert f"{RELAYS[1].url} is no relay of this archive" in done.sentence
    done = await call("changes", "--after", "1", "--limit", "1", "--follow", *config)
    assert done.code == 2
    assert "leave --limit out" in done.sentence


async def test_nobody_reads_it(config: list[str]) -> None:
    """Standard output is closed, and not only a pipe that nobody reads."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" >&- <&-', "sh", sys.executable, "-m", "bigbrotr"),
        *("changes", *config),
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    _, err = await process.communicate()
    assert process.returncode == 0
    assert err == b"bigbrotr: the monitor has found no change yet\n"


@pytest.mark.parametrize("words", ["status", "status --json", "witnesses --json", "config show"])
async def test_there_is_no_room_for_it(config: list[str], words: str) -> None:
    """The disk on which its output goes is full."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" > /dev/full', "sh", sys.executable, "-m", "bigbrotr"),
        *(*words.split(), *config),
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert err == b"bigbrotr: the output cannot be written: No space left on device\n"


async def test_what_will_change(brotr: Brotr, config: list[str], tmp_path: Path) -> None:
    await brotr.insert_relays(RELAYS[:1])
    (due,) = await claim(brotr)
    await record(brotr, due, "up")
    log = tmp_path / "changes.log"
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bigbrotr", "changes", "--follow", "--json", *config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            env=environment(),
            start_new_session=True,
        )
    assert process.stdout is not None
    running = Running(process, log)
    async with asyncio.timeout(60):
        assert json.loads(await process.stdout.readline())["state"] == "up"
        await record(brotr, await again(brotr), "down", "refused")
        assert json.loads(await process.stdout.readline())["id"] == 2
        await running.end()
