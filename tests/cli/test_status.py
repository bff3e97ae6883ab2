"""`bigbrotr status` and `bigbrotr where`: what an archive holds, and who else holds it."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bigbrotr.core.schema import Schema
from tests.cli.conftest import EVENTS
from tests.kit.processes import Place
from tests.kit.scripted import ScriptedRelay
from tests.kit.terminal import Terminal

REVISION = Schema().revision


@pytest.mark.slow
async def test_status_while_running_and_after(relay: ScriptedRelay, tmp_path: Path) -> None:
    place = Place(tmp_path / "place", [relay.url])
    await place.run_once()
    done = await place.call("status")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    for words in (str(place.data_dir), "relays 1", "events 40", relay.url, "the beginning"):
        assert words in done.out.replace("\n", ""), words


@pytest.mark.slow
async def test_where_an_event_is(archive: Place) -> None:
    event_id = EVENTS[3]["id"]
    done = await archive.call("where", event_id)
    assert done.code == 0
    assert event_id in done.out
    assert re.search(r"present +ws://127\.0\.0\.1:\d+ +since 20", done.out)
    assert "present on 1, absent from 0, unknown for 0" in done.out
    done = await archive.call("where", event_id, "--json")
    place = json.loads(done.out)
    assert (place["event"], place["is_archived"], place["kind"]) == (event_id, True, 1)
    assert place["created_at"] == EVENTS[3]["created_at"]
    (present,) = place["present"]
    assert abs(present["first_seen"] - time.time()) < 3600  # as old as the archive of the tests
    assert (place["absent"], place["unknown"]) == ([], [])
    done = await archive.call("where", "00" * 32)
    assert (done.code, "not in the archive" in done.out) == (0, True)
    done = await archive.call("where", f"NOSTR:{event_id.upper()}")
    assert (done.code, event_id in done.out) == (0, True)
    done = await archive.call("where", "xyz")
    assert (done.code, done.err) == (
        *(2, "bigbrotr: 'xyz' is not an event id: give 64 hex digits, a note or an nevent\n"),
    )


@pytest.mark.slow
async def test_status_of_a_running_archive(archive: Place) -> None:
    done = await archive.call("status", "--json")
    assert done.code == 0, done.err
    status = json.loads(done.out)
    assert status.keys() == {
        *("relays", "candidates", "events", "pairs", "gaps", "rejected", "progress"),
        *("candidate_sources", "measured", "profile", "revision"),
    }
    assert (status["relays"], status["events"], status["pairs"]) == (1, 40, 40)
    assert status["measured"]["relays"] == 0
    assert (status["profile"], status["revision"]) == ("full", REVISION)
    (progress,) = status["progress"]
    assert progress.keys() >= {"url", "network", "holds", "gaps", "rejected", "outcome", "proven"}
    assert (progress["holds"], progress["brought"]) == (40, 40)
    assert progress["proven"][0][0] == 0
    done = await archive.call("status")
    assert done.code == 0
    assert "monitored" not in done.out  # nobody monitors here


async def test_all_about_one_relay(archive: Place) -> None:
    (url,) = archive.seeds.read_text().split()
    done = await archive.call("status", "--relay", url)
    assert done.code == 0, done.err
    for words in (url, "holds        40 archived events", "proven       the beginning to 20"):
        assert words in done.out
    assert "missing      nothing" in done.out
    report = json.loads((await archive.call("status", "--relay", url, "--json")).out)
    assert (report["progress"]["holds"], report["gaps"], report["missing"]) == (40, [], [])
    assert (await archive.call("seed", "candidate.example")).code == 0
    done = await archive.call("status", "--relay", "candidate.example")
    assert (done.code, "a candidate" in done.out) == (0, True)
    done = await archive.call("status", "--relay", "wss://unknown.example")
    assert done.code == 1
    assert re.search("is not known here: `.* seed wss://unknown.example .*` adds it", done.sentence)
    done = await archive.call("status", "--failing", "--limit", "3", "--sort", "url")
    assert (done.code, "0 of 1 relays" in done.out) == (0, True)
    assert done.out.count("\n") < 8


@pytest.mark.slow
async def test_status_on_a_terminal_without_a_run(
    terminal: Callable[..., Terminal], archive: Place
) -> None:
    status = terminal("status", *archive.options, cwd=archive.folder)
    assert await status.ends() == 0
    assert "events 40" in status.read()
