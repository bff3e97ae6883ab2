"""`snapshot`, `export parquet` and `import DIR`, as they are typed."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from tests.kit.events import NOW, make_event, wire
from tests.kit.processes import Place, copy_of_empty, environment

EVENTS = [make_event(NOW - n * 86_400, content=f"note {n}") for n in range(90)]


def empty(folder: Path) -> Place:
    """An archive that holds nothing."""
    place = Place(folder)
    copy_of_empty("full", place.data_dir)
    return place


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    """An archive with events of four months, one of them on a relay of the internet."""
    place = empty(tmp_path / "place")
    dump = tmp_path / "dump.jsonl"
    dump.write_bytes(b"".join(wire(event) + b"\n" for event in EVENTS))
    held = ("--held-by", "wss://relay.example.com", "--as-of", str(NOW))
    done = await place.call("import", str(dump), *held)
    assert done.code == 0, done.err
    return place


async def test_a_snapshot_is_taken_verified_and_imported(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = await place.call("snapshot", str(out), "--pace", "1")
    assert done.code == 0, done.err
    assert "90 events, 90 pairs of event and relay" in done.sentence
    done = await place.call("snapshot", str(out), "--all", "--pace", "1")
    assert "0 new files (0 bytes), 0 replaced or gone" in done.sentence
    done = await place.call("snapshot", "verify", str(out))
    assert (done.code, done.out.endswith("as they were written\n")) == (0, True)

    other = empty(tmp_path / "other")
    done = await other.call("import", str(out))
    assert done.code == 0, done.err
    assert "90 events: 90 new, 0 archived already; 90 new pairs" in done.sentence
    done = await other.call("import", str(out))
    assert "90 events: 0 new, 90 archived already; 0 new pairs" in done.sentence
    async with other.database() as connection:
        # What was imported is no orphan.
        assert await connection.fetchval("SELECT count(*) FROM bigbrotr.imported") > 0
    again = tmp_path / "again"
    done = await other.call("snapshot", str(again), "--pace", "1")
    names = [sorted(path.name for path in (x / "events").iterdir()) for x in (out, again)]
    assert names[0] == names[1]  # their hashes, too

    victim = next((out / "events").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    done = await place.call("snapshot", "verify", str(out))
    assert (done.code, f"{victim.name}: it has" in done.err) == (1, True)
    assert "is damaged: 1 of" in done.sentence
    done = await other.call("import", str(out))
    assert (done.code, "nothing was imported" in done.sentence) == (1, True)


async def test_a_file_of_events_is_imported(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = await place.call("export", "parquet", str(out), "--month", "2025-06")
    assert (done.code, "exported 15 events" in done.sentence) == (0, True), done.err
    (path,) = (out / "events").iterdir()
    other = empty(tmp_path / "other")
    path.write_bytes((data := path.read_bytes())[:-9])
    done = await other.call("import", str(path))
    assert (done.code, "damaged or cut off" in done.sentence) == (2, True)
    path.write_bytes(data)
    done = await other.call("import", str(path))
    assert (done.code, "15 events: 15 new" in done.sentence) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_stopped_it_leaves_what_was_there(
    number: signal.Signals, place: Place, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert (await place.call("snapshot", str(out), "--pace", "1", "--month", "2025-06")).code == 0
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr", "snapshot", str(out), "--all", "--pace", "0.01"),
        *place.options,
        env=environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    while not list(out.rglob("*.unfinished")):  # noqa: ASYNC110 -- it tells nobody
        await asyncio.sleep(0.01)
    process.send_signal(number)
    _, said = await process.communicate()
    if number == signal.SIGINT:
        assert (process.returncode, b"not finished" in said) == (130, True), said
        assert not list(out.rglob("*.unfinished"))
    assert (await place.call("snapshot", "verify", str(out))).code == 0
    done = await place.call("snapshot", str(out), "--pace", "1")
    assert (done.code, "90 events" in done.sentence) == (0, True), done.err
    done = await place.call("snapshot", "verify", str(out))
    assert (done.code, "not in the manifest" in done.err) == (0, False)


WRONG = [
    ("snapshot verify", "name one folder"),
    ("snapshot a b", "name one folder"),
    ("snapshot out --month 05-2024", "is no month"),
    ("snapshot out --pace 0", "is no share of the time"),
    ("snapshot verify /nowhere", "there is no such folder"),
    ("import /etc", "is no snapshot"),
    ("import /etc/hostname --trust-coverage", "is for snapshots"),
    ("export parquet /etc", "is not empty"),
]


async def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    place = empty(tmp_path / "place")
    for words, sentence in WRONG:
        done = await place.call(*words.split())
        assert (done.code, sentence in done.err) == (2, True), done.err
