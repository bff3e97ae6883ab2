"""The archive that a command is about: where it is, whether it opens, of which profile it is."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from bigbrotr.cli import main
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.server import EmbeddedPostgres
from tests.kit.processes import Place, call, environment, until
from tests.kit.real import free_port

REVISION = Schema().revision


SECRET = "correct-horse-battery-staple"


@pytest.mark.slow
async def test_unreachable_database(tmp_path: Path) -> None:
    url = f"postgresql://bigbrotr@127.0.0.1:{free_port()}/bigbrotr"
    more = f'[database]\nurl = "{url}"\n[pool.retry]\nmax_attempts = 2\ninitial_delay = 0.01\n'
    place = Place(tmp_path / "place", more=more)
    for command in ("run", "status", "db migrate", "db psql"):
        done = await place.call(*command.split(), DB_PASSWORD=SECRET)
        assert done.code == 3
        assert "cannot connect to PostgreSQL at 127.0.0.1:" in done.sentence
        assert "after 2 attempts" in done.sentence
        assert SECRET not in done.out + done.err
    done = await place.call("db", "url", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, f"{url}?options=-csearch_path%3Dbigbrotr%2Cpublic\n")
    place = Place(
        tmp_path / "other",
        more=f"{more}[pool]\npgbouncer = true\n".replace(
            "[pool.retry]\nmax_attempts = 2\ninitial_delay = 0.01\n", ""
        ),
    )
    done = await place.call("db", "url", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, f"{url}\n")  # it would be refused with options


@pytest.fixture
async def tcp_server(tmp_path: Path) -> AsyncIterator[int]:
    """A PostgreSQL of its own on a port, where the role bigbrotr needs its password."""
    port = free_port()
    async with EmbeddedPostgres(tmp_path / "server") as server:
        (server.cluster / "postgresql.user.conf").write_text("fsync = off\n")
        connection = await asyncpg.connect(server.url)
        await connection.execute(f"ALTER ROLE bigbrotr PASSWORD '{SECRET}'")
        await connection.close()
        proxy = await asyncio.start_server(
            lambda reader, writer: _pipe(server.socket_dir, reader, writer), "127.0.0.1", port
        )
        hba = server.cluster / "pg_hba.conf"
        hba.write_text("local all all scram-sha-256\n")
        os.kill(server.pid or 0, signal.SIGHUP)
        async with proxy:
            yield port
            proxy.close()


async def _pipe(folder: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Between a TCP client and the server's socket."""
    back, out = await asyncio.open_unix_connection(str(folder / ".s.PGSQL.5432"))

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        target.close()

    await asyncio.gather(copy(reader, out), copy(back, writer))


@pytest.mark.slow
async def test_wrong_and_right_password(tcp_server: int, tmp_path: Path) -> None:
    more = f'[database]\nhost = "127.0.0.1"\nport = {tcp_server}\n'
    place = Place(tmp_path / "place", more=more)

    async def is_reloaded() -> bool:
        return (await place.call("db", "migrate")).code == 3

    await until(is_reloaded, "a password is needed")
    for password in ("", "wrong-password"):
        done = await place.call("status", DB_PASSWORD=password)
        assert done.code == 3
        assert "is DB_PASSWORD set to the right password?" in done.sentence
        assert "after 1 attempt:" in done.sentence
        assert "wrong-password" not in done.err
    done = await place.call("status", DB_PASSWORD=SECRET)
    assert done.code == 4
    assert "no schema yet" in done.sentence
    done = await place.call("db", "migrate", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, f"the database brought to revision {REVISION}, full\n")
    done = await place.call("db", "psql", "--", "-Atc", "SELECT 6 * 7", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, "42\n")
    done = await place.call("status", "--json", DB_PASSWORD=SECRET)
    assert json.loads(done.out)["events"] == 0
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    done = await place.call("run", "--once", DB_PASSWORD_FILE=str(file), PRIVATE_KEY="ab" * 32)
    assert done.code == 0, done.err
    assert SECRET not in done.err + done.out
    assert "abababab" not in done.err + done.out


@pytest.mark.slow
async def test_database_of_another_profile_or_revision(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    assert (await place.call("db", "migrate")).code == 0
    for command in (["run", "--once"], ["db", "migrate"]):
        done = await call(*command, *place.options, "--profile", "lite")
        assert done.code == 4
        assert "of the profile full, not lite" in done.sentence
    done = await call("status", *place.options, "--profile", "lite")
    assert done.code == 0  # it looks the same
    async with place.database() as connection:
        await connection.execute(
            "INSERT INTO bigbrotr.ledger VALUES (99, 'full', 'x', 0, 98, '9.0.0')"
        )
    for words in ("run --once", "status", "db migrate"):
        done = await place.call(*words.split())
        assert done.code == 4
        assert "install a newer bigbrotr" in done.sentence


@pytest.mark.slow
async def test_database_of_an_older_revision(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    assert (await place.call("db", "migrate")).code == 0
    current = Schema().revision
    async with place.database() as connection:
        await connection.execute(
            f"UPDATE bigbrotr.ledger SET revision = {current - 1}, digest = 'x'"
        )
    for words in ("status", "where " + 64 * "0", "seed wss://a.example.com"):
        done = await place.call(*words.split())
        assert done.code == 4
        assert f"of revision {current - 1}, this release needs {current}" in done.sentence
        assert re.search(r"`\S*python\S* -m bigbrotr db migrate --profile full", done.sentence)
    # What comes before an upgrade is done as before.
    file = tmp_path / "archive.dump"
    assert (await place.call("db", "backup", str(file))).code == 0
    assert (await Place(tmp_path / "other").call("db", "restore", str(file))).code == 0
    assert (await place.call("db", "migrate")).code == 0
    assert (await place.call("status")).code == 0


@pytest.mark.slow
async def test_data_dir_that_cannot_be_used(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.data_dir.write_text("a file")
    done = await place.call("run", "--once")
    assert done.code == 3
    assert str(place.data_dir) in done.sentence
    place.data_dir.unlink()
    (place.data_dir / "postgres").mkdir(parents=True)
    (place.data_dir / "postgres" / "diary.txt").write_text("dear diary")
    done = await place.call("run", "--once")
    assert done.code == 3
    assert "not a PostgreSQL cluster" in done.sentence
    assert (place.data_dir / "postgres" / "diary.txt").read_text() == "dear diary"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run --once --data-dir /proc/nothing", "choose another data directory"),
        ("status --data-dir {}", "cannot look into"),
    ],
)
def test_data_dir_that_is_not_ours(command: str, words: str, tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv")
    private = tmp_path / "private"
    private.mkdir(0o700)
    result = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(sys.executable, "-m", "bigbrotr", *command.format(private).split()),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        cwd="/",
        check=False,
    )
    is_ours = result.stderr.startswith("bigbrotr: ")
    if not is_ours and re.search("No module named|Permission denied", result.stderr[:200]):
        pytest.skip("the interpreter is root's own")
    assert result.returncode == 3, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["status", "seed wss://a.example", "db psql"])
def test_data_dir_that_cannot_be_looked_into(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.touch()
    assert main([*command.split(), "--data-dir", str(path)]) == 3
    assert f"cannot look into {path}: Not a directory" in capsys.readouterr().err


async def test_the_profile_is_the_archive_s(tmp_path: Path) -> None:
    """For every command, also while no server runs; another one is refused if it is insisted on."""
    place = Place(tmp_path / "place")
    options = ["--data-dir", str(place.data_dir), "--config", str(place.config)]
    assert (await place.call("db", "migrate")).code == 0
    for note in ("noted", "forgotten"):
        if note == "forgotten":
            (place.data_dir / "profile").unlink()
        done = await call("db", "migrate", *options)
        assert (done.code, done.out) == (0, f"the database is of revision {REVISION}, full\n")
    done = await call("run", "--once", "--only", "seeder", *options, BIGBROTR_PROFILE="lite")
    assert done.code == 0, done.err
    assert "ready profile=full" in done.err
    assert "the archive is of the profile full, for good" in done.err
    done = await call("run", "--once", "--only", "seeder", *options, "--profile", "lite")
    assert done.code == 4
    bare = ["--data-dir", str(place.data_dir)]
    assert 'listen = "127.0.0.1:9464"' in (await call("config", "show", *bare)).out
    assert 'listen = ""' in (await call("config", "show", *bare, "--profile", "lite")).out
