"""`bigbrotr run`: what it says on a terminal and in a file, and what is in use already."""

import asyncio
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.kit.processes import Place, until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay
from tests.kit.terminal import Terminal


@pytest.mark.slow
async def test_data_dir_and_port_in_use(archive: Place, tmp_path: Path) -> None:
    done = await archive.call("run", "--once")
    assert done.code == 5
    assert re.search(r"is in use by bigbrotr \(pid \d+\)", done.sentence)
    port = free_port()
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with server:
        place = Place(tmp_path / "place", more=f'[web]\nlisten = "127.0.0.1:{port}"\n')
        done = await place.call("run", "--once")
        assert done.code == 5
        assert f"cannot listen on 127.0.0.1:{port}" in done.sentence


@pytest.mark.slow
async def test_live_status_on_a_terminal(
    relay: ScriptedRelay, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    place = Place(tmp_path / "place", [relay.url])
    run = terminal("run", *place.options, cwd=tmp_path)
    for words in ("running    seeder", "events 40", relay.url, "relays 1", "complete 1 of 1"):
        await until(lambda words=words: words in run.read(), words)
    assert b"\x1b[" in run.raw
    assert "Traceback" not in run.read()
    run.process.send_signal(signal.SIGINT)
    assert await run.ends() == 0
    assert re.search(r"In \d+ .*1 of 1 relays are complete, 40 events are archived", run.read())
    # The cursor is shown again at the end.
    assert run.raw.rfind(b"\x1b[?25h") > run.raw.rfind(b"\x1b[?25l")


@pytest.mark.slow
async def test_no_escape_sequences_in_a_file(relay: ScriptedRelay, tmp_path: Path) -> None:
    place = Place(tmp_path / "place", [relay.url])
    said = await place.run_once()
    assert "\x1b" not in said
    assert "copied" in said


@pytest.mark.slow
async def test_json_log(relay: ScriptedRelay, tmp_path: Path) -> None:
    place = Place(tmp_path / "place", [relay.url])
    started = time.time()
    said = await place.run_once("--log-json", "--log-level", "debug")
    lines = [json.loads(line) for line in said.splitlines()]
    assert {"copied", "seeded", "ready"} <= {line["message"] for line in lines}
    assert "DEBUG" in {line["level"] for line in lines}
    assert time.time() - started > 0
    assert quote(relay.url, safe=":/") in said
