"""`bigbrotr db`: an address and a psql that find bare names, and nothing made in vain."""

import subprocess
from pathlib import Path

import asyncpg
import pytest

from bigbrotr.embedded.server import binary
from tests.kit.processes import Place

PATH_OF_USERS = "bigbrotr,public"


@pytest.mark.slow
async def test_url_for_psql_while_running(archive: Place) -> None:
    """Its relations are found by bare names: by psql, and by others that take the address."""
    done = await archive.call("db", "url")
    assert (done.code, done.err) == (0, "")
    psql = subprocess.run(  # noqa: ASYNC221 -- for a moment
        [
            *(binary("psql"), done.out.strip(), "-Atc", "SELECT count(*) FROM events"),
            *("-c", "SHOW search_path"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert psql.stdout == f"40\n{PATH_OF_USERS}\n"
    connection = await asyncpg.connect(done.out.strip())
    assert await connection.fetchval("SHOW search_path") == PATH_OF_USERS
    assert await connection.fetchval("SELECT count(*) FROM events") == 40
    await connection.close()


async def test_psql_finds_bare_names(archive: Place) -> None:
    done = await archive.call(
        *("db", "psql", "--", "-Atc", "SELECT url FROM relays", "-c", "SHOW search_path")
    )
    assert done.code == 0
    url, path = done.out.splitlines()
    assert url.startswith("ws://127.0.0.1:")
    assert path == PATH_OF_USERS


@pytest.mark.slow
async def test_url_while_not_running(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    done = await place.call("db", "url")
    assert done.code == 0
    assert done.out.startswith("postgresql://bigbrotr@/bigbrotr?host=")
    assert "not running" in done.err


@pytest.mark.slow
async def test_distribute_without_citus(archive: Place) -> None:
    done = await archive.call("db", "distribute")
    assert (done.code, done.out, done.err) == (
        *(3, ""),
        "bigbrotr: the database has no extension citus: it cannot be distributed over machines\n",
    )


async def test_psql_as_everybody_types_it(archive: Place) -> None:
    done = await archive.call("db", "psql", "-c", "SELECT 6 * 7 AS answer")
    assert (done.code, "answer" in done.out, "42" in done.out) == (0, True, True)
    done = await archive.call("db", "psql", "-At", "-c", "SELECT count(*) FROM events")
    assert (done.code, done.out) == (0, "40\n")


async def test_restore_of_nothing_makes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    for file in (tmp_path / "none", tmp_path):
        done = await place.call("db", "restore", str(file))
        assert done.code == 2
        assert f"cannot restore {file}: " in done.sentence
    assert not place.data_dir.exists()


@pytest.mark.slow
async def test_psql_passes_on_its_exit_code(archive: Place) -> None:
    done = await archive.call("db", "psql", "--", "-Atc", "SELECT nonsense")
    assert done.code == 1
    assert "nonsense" in done.err
