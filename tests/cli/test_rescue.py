"""`rescue` and `at-risk` on a real archive, whose relay is killed for good."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.kit.events import make_event, pubkey
from tests.kit.model import Vices
from tests.kit.processes import Place, call, environment, until
from tests.kit.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + 86_400 * n, content=f"note {n}") for n in range(60)]
SECRET = make_event(1_600_000_000, tags=[["-"]], content="mine to publish")
OTHERS = [make_event(1_600_000_000 + n, content=f"other {n}", key=1) for n in range(5)]
QUICK = "[rescue]\nper_minute = 6000\nverify_s = 0.0\n"


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """An archive of a relay that is gone, with a server that goes on."""
    async with ScriptedRelay([*EVENTS, SECRET, *OTHERS]) as relay:
        place = Place(tmp_path_factory.mktemp("rescue") / "place", [relay.url], more=QUICK)
        gone = relay.url
        async with place.start("--only", "seeder,validator,synchronizer") as running:
            await running.says("ready")
            async with place.look() as connection:

                async def is_copied() -> bool:
                    return bool(
                        await connection.fetchval("SELECT events FROM bigbrotr.totals()") == 66
                    )

                await until(is_copied, "the copy")
            assert await running.end() == 0
    async with place.database() as connection:
        await connection.execute(
            "UPDATE bigbrotr.visits SET retired_at = 1 WHERE relay_id ="
            " (SELECT id FROM bigbrotr.relays WHERE url = $1)",
            gone,
        )
    await place.run_once("--only", "policy,statistics")
    place.gone = gone  # type: ignore[attr-defined]
    async with place.start("--only", "maintenance") as running:
        await running.says("ready")
        yield place
        assert await running.end() == 0


async def test_what_is_at_risk(place: Place) -> None:
    gone = place.gone  # type: ignore[attr-defined]
    done = await place.call("at-risk", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    (row,) = found["relays"]
    assert (row["relay"], row["stage"], row["alone"], row["endangered"]) == (
        gone,
        "retired",
        66,
        66,
    )
    assert found["summary"]["alone"] == found["summary"]["counted"] == 66
    assert (found["summary"]["relays"], found["summary"]["failing"]) == (1, 1)
    text = (await place.call("at-risk")).out
    assert "66 events are at one relay alone" in text
    assert "66 of 66 archived events" in text
    by_kind = json.loads((await place.call("at-risk", "--relay", gone, "--json")).out)
    assert by_kind["kinds"] == [{"kind": 1, "alone": 66, "endangered": 66}]
    author = json.loads((await place.call("at-risk", "--author", pubkey(1), "--json")).out)
    assert (author["events"], author["alone"], author["is_complete"]) == (5, 5, True)
    assert [each["relay"] for each in author["relays"]] == [gone]
    none = json.loads((await place.call("at-risk", "--kind", "7", "--json")).out)
    assert none["relays"] == []
    assert "5 at one relay alone" in (await place.call("at-risk", "--author", pubkey(1))).out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["at-risk", "--relay", "wss://unknown.example.com"], "no relay of this archive"),
        (["at-risk", "--relay", "nonsense"], "--relay nonsense"),
        (["at-risk", "--author", "nobody"], "--author: 'nobody' is no public key"),
        (["rescue", "--to", "ws://127.0.0.1:1"], "say which events"),
        (["rescue", "--author", "ab" * 32], "say where to"),
        (["rescue", "--author", "x", "--to", "ws://127.0.0.1:1"], "is no public key"),
        (["rescue", "--filter", "[", "--to", "ws://127.0.0.1:1"], "the filter is no JSON"),
        (["rescue", "--author", "ab" * 32, "--to", "relay"], "--to relay"),
        (["rescue", "--author", "ab" * 32, "--to", "wss://r.example.com"], "is not enabled"),
        (
            ["rescue", "--relay", "wss://unknown.example.com", "--to", "ws://127.0.0.1:1"],
            "no relay of this archive",
        ),
        (
            ["rescue", "--filter", "{}", "--kind", "1", "--to", "ws://127.0.0.1:1"],
            "--filter says all",
        ),
    ],
)
async def test_what_is_wrong_is_said(place: Place, words: list[str], sentence: str) -> None:
    done = await place.call(*words)
    assert done.code == 2
    assert sentence in done.sentence


async def test_a_dry_run_sends_nothing_and_says_what_it_would(place: Place) -> None:
    async with ScriptedRelay() as target:
        words = ["rescue", "--author", pubkey(0), "--to", target.url, "--dry-run"]
        done = await place.call(*words)
        assert done.code == 0, done.err
        assert f"60 would be sent to {target.url}" in done.out
        assert "1 left out: only its author may publish it" in done.out
        found = json.loads((await place.call(*words, "--json", "--limit", "7")).out)
        assert found["to"] == {target.url: 7}
        assert target.seen.connections == 0
    async with place.look() as connection:
        assert await connection.fetchval("SELECT count(*) FROM bigbrotr.rescues") == 0


async def test_killed_in_the_middle_and_gone_on(place: Place) -> None:
    """Nothing is lost, and nothing is sent twice."""
    async with ScriptedRelay() as target:
        words = ["rescue", "--author", pubkey(0), "--to", target.url]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bigbrotr", *words, *place.options),
            env=environment(),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        killed = asyncio.Event()

        again: list[str] = []  # that it was sent although it held them

        def kill() -> None:
            newest = target.seen.events[-1]["id"]
            again.extend(each["id"] for each in target.events if each["id"] == newest)
            if len(target.seen.events) == 30:
                process.send_signal(signal.SIGKILL)
                killed.set()

        target.at_event = kill
        await killed.wait()
        await process.wait()
        done = await place.call(*words, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["states"] == {target.url: {"held": 60}}
        assert again == []
        assert {each["id"] for each in target.seen.events} == {each["id"] for each in EVENTS}


async def test_what_the_relay_alone_held_lives_on_where_its_author_writes(place: Place) -> None:
    gone = place.gone  # type: ignore[attr-defined]
    async with ScriptedRelay() as target:
        lists = [make_event(1_700_000_000, 10002, [["r", target.url]], key=1)]
        file = place.folder / "lists.jsonl"
        file.write_text("".join(f"{json.dumps(each)}\n" for each in lists))
        assert (await place.call("import", str(file))).code == 0
        done = await place.call("rescue", "--relay", gone, "--to-write-relays", "--kind", "1")
        assert done.code == 0, done.err
        assert f"5 were to be sent to {target.url}" in done.out
        assert "left out: its author has no list of relays to write to" in done.out
        assert {each["id"] for each in target.events} == {each["id"] for each in OTHERS}


async def test_a_relay_that_wants_a_long_pause_is_left_to_the_queue(place: Place) -> None:
    async with ScriptedRelay(vices=Vices(takes=1)) as target:
        words = ["rescue", "--filter", json.dumps({"authors": [pubkey(1)], "kinds": [1]})]
        words += ["--to", target.url]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bigbrotr", *words, *place.options),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with place.look() as connection:

            async def is_throttled() -> bool:
                outcome = await connection.fetchval(
                    "SELECT outcome FROM bigbrotr.rescue_targets WHERE url = $1", target.url
                )
                return bool(outcome == "rate-limited")

            await until(is_throttled, "the answer")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert "the same command goes on from there" in err.decode()
        assert len(target.events) == 1


async def test_an_archive_without_contents_refuses(tmp_path: Any) -> None:
    done = await call(
        "rescue",
        "--author",
        "ab" * 32,
        "--to",
        "wss://relay.example.com",
        "--data-dir",
        str(tmp_path / "none"),
    )
    assert done.code == 3
    assert "there is no archive" in done.sentence
