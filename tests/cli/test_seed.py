"""`bigbrotr seed`, and the file of seeds: what is added, and what is no relay."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bigbrotr.core.schema import Schema
from tests.kit.processes import Place, environment

REVISION = Schema().revision


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"), [("missing", "No such file"), ("folder", "Is a directory")]
)
async def test_seed_file_that_cannot_be_read(what: str, words: str, tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.seeds.unlink()
    if what == "folder":
        place.seeds.mkdir()
    done = await place.call("run", "--once")
    assert done.code == 2
    assert words in done.sentence
    assert str(place.seeds) in done.sentence
    assert not place.data_dir.exists()  # it is seen before anything is made
    done = await place.call("seed", str(place.seeds))
    assert (done.code, words in done.sentence) == (2, True)


@pytest.mark.slow
async def test_seed_file_of_junk(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", ["not a url", "http://x.example"])
    done = await place.call("seed", str(place.seeds))
    assert done.code == 2
    assert "nothing to add" in done.sentence
    said = await place.run_once("--only", "seeder")
    assert "junk=2" in said
    assert said.count("not a relay URL") == 2


@pytest.mark.slow
async def test_migrate_and_seed_while_running(archive: Place) -> None:
    done = await archive.call("db", "migrate")
    assert (done.code, done.out) == (0, f"the database is of revision {REVISION}, full\n")
    url = "wss://relay.example"
    done = await archive.call("seed", url, f"{url}/")
    assert (done.code, done.out) == (0, "added 1, known before 0\n")
    done = await archive.call("seed", url)
    assert (done.code, done.out) == (0, "added 0, known before 1\n")


async def test_seeds_as_people_type_them(archive: Place) -> None:
    done = await archive.call("seed", "typed.example", "typed.example:8080/path")
    assert (done.code, done.out) == (0, "added 2, known before 0\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr", "seed", "-", *archive.options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    out, err = await process.communicate(b"wss://piped.example\nnonsense\n")
    assert (process.returncode, out) == (0, b"added 1, known before 0\n")
    assert b"left out: standard input, line 2" in err
