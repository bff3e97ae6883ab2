"""`bigbrotr takedown`: what it takes, what it says, and that it works whoever has the archive."""

import json
from pathlib import Path

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.policy import Reason
from tests.cli.conftest import EVENTS
from tests.kit.archive import A, pairs
from tests.kit.events import verified
from tests.kit.policy import hidden
from tests.kit.processes import Done, Place, call
from tests.kit.scripted import ScriptedRelay

ONE = EVENTS[7]["id"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "say what to take down, or --list"),
        ([ONE], "say why, for the log"),
        ([ONE, "--why", " "], "say why, for the log"),
        ([ONE, "--why", "x" * 1001], "1 to 1,000 characters"),
        ([ONE, "--why", "x", "--erase", "--undo"], "--erase or --undo, not both"),
        ([ONE, "--list"], "--list shows the whole log"),
        ([ONE, "--why", "x", "--json"], "--json goes with --list"),
        (["x", "--why", "x"], "'x' is not an event id or a public key"),
        (["npub1x", "--why", "x"], "this npub is not a public key"),
        ([ONE, "--why", "x", "--event", "--pubkey"], "not allowed with argument"),
    ],
)
async def test_what_is_wrong_is_told(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = await call("takedown", *words, "--data-dir", str(tmp_path / "none"))
    assert (done.code, done.out) == (2, "")
    assert sentence in done.sentence


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "takedown.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    return ["--config", str(path)]


async def take_down(config: list[str], *words: str) -> Done:
    return await call("takedown", *words, *config)


async def test_an_event_and_an_author(brotr: Brotr, config: list[str]) -> None:
    event, other = (verified(key=key) for key in (1, 2))
    await brotr.insert_events(pairs([event, other], A))
    unknown = "12" * 32
    done = await take_down(config, unknown, "--why", "spam")
    assert (done.code, "say --event or --pubkey" in done.sentence) == (2, True)
    done = await take_down(config, unknown, "--pubkey", "--why", "spam")
    assert (done.code, done.out) == (0, f"the pubkey {unknown} is taken down\n")

    done = await take_down(config, event.id.hex(), "--why", "asked for")
    assert (done.code, done.out) == (0, f"the event {event.id.hex()} is taken down\n")
    done = await take_down(config, event.id.hex(), "--why", "asked for")
    assert (done.code, done.out) == (0, f"the event {event.id.hex()} was taken down before\n")
    done = await take_down(config, other.pubkey.hex(), "--why", "a bot", "--erase")
    assert (done.code, done.out) == (0, f"the pubkey {other.pubkey.hex()} is erased\n")
    assert await hidden(brotr) == {
        event.id: (Reason.TAKEN_DOWN, None),
        other.id: (Reason.TAKEN_DOWN | Reason.ERASED, None),
    }
    row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.events WHERE id = $1", other.id)
    assert row is not None
    assert (row["kind"], row["content"], row["pubkey"]) == (-1, None, bytes(32))
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.erased_slices") == 0

    done = await call("where", event.id.hex(), *config)
    assert "  hidden   taken_down: the operator has taken it down: asked for\n" in done.out
    done = await call("where", other.id.hex(), "--json", *config)
    found = json.loads(done.out)
    assert (found["is_archived"], found["kind"], len(found["present"])) == (True, None, 1)
    assert [why["reason"] for why in found["hidden"]] == ["taken_down", "erased"]

    done = await take_down(config, event.id.hex(), "--why", "a mistake", "--undo")
    assert (done.code, done.out) == (0, f"the event {event.id.hex()} is shown again\n")
    done = await take_down(config, event.id.hex(), "--why", "a mistake", "--undo")
    assert (done.code, "is not taken down" in done.sentence) == (2, True)
    assert event.id not in await hidden(brotr)

    done = await take_down(config, "--list")
    assert [line for line in done.out.splitlines() if not line.startswith(" ")] == [
        f"pubkey {other.pubkey.hex()}",
        f"event {event.id.hex()}",
        f"pubkey {unknown}",
    ]
    assert ": a bot\n" in done.out
    assert ": a mistake\n" in done.out
    log = json.loads((await take_down(config, "--list", "--json")).out)
    assert [(each["why"], each["undone_why"]) for each in log] == [
        ("a bot", None),
        ("asked for", "a mistake"),
        ("spam", None),
    ]
    assert log[0]["is_erasing"]
    assert log[0]["who"]


@pytest.mark.slow
async def test_while_it_runs_and_while_it_does_not(tmp_path: Path) -> None:
    async with ScriptedRelay(EVENTS) as relay:
        place = Place(tmp_path / "place", [relay.url])
        # Before it comes.
        done = await place.call("takedown", ONE, "--event", "--why", "law", "--erase")
        assert done.code == 3  # there is no archive yet
        async with place.start() as running:
            await running.says("ready")
            done = await place.call("takedown", ONE, "--event", "--why", "law", "--erase")
            assert (done.code, done.out) == (0, f"the event {ONE} is erased\n")
            assert await running.end() == 0
    done = await place.call("takedown", EVENTS[8]["id"], "--event", "--why", "spam")
    assert done.code == 0
    log = json.loads((await place.call("takedown", "--list", "--json")).out)
    assert [each["why"] for each in log] == ["spam", "law"]
