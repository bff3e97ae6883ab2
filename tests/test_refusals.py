"""Databases that refuse: an exit code and a sentence, whatever the command; and variables that are
meant for another one."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from bigbrotr.cli import main
from bigbrotr.config.settings import Profile
from bigbrotr.core.defects import refusal
from bigbrotr.errors import DatabaseError
from tests.conftest import LOGIN, Databases
from tests.kit.processes import Place

PASSWORD = "secret"
COMMANDS = [
    *("status", "status --json", f"where {64 * '0'}", "seed wss://relay.example", "db migrate"),
    *("db distribute", "db roles", "db backup {file}", "db restore {file}", "db psql -- -c \\q"),
]


class There(NamedTuple):
    """A database on which a login has some trouble."""

    place: Place
    dsn: str

    async def call(
        self, words: str, capsys: pytest.CaptureFixture[str], **names: object
    ) -> tuple[int, str, str]:
        """Exit code and both outputs of a command, run in this process."""
        command, _, rest = words.format(**names).partition(" -- ")
        more = ["--", *rest.split()] if rest else []
        code = await asyncio.to_thread(main, [*command.split(), *self.place.options, *more])
        said = capsys.readouterr()
        return code, said.out, said.err


Make = Callable[[str | None, str], Awaitable[There]]


@pytest.fixture
async def make(
    databases: Databases,
    make_database: Callable[[Profile | None], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AsyncIterator[Make]:
    """Makes a database of the full profile, or an empty one of an encoding, and a login whose
    trouble is said in SQL."""
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    made: list[str] = []

    async def make(encoding: str | None, trouble: str) -> There:
        if encoding is None:
            dsn = await make_database(Profile.FULL)
            name = urlsplit(dsn).path[1:]
        else:
            name = f"bigbrotr_test_{encoding.lower()}"
            await databases.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0"
                " LC_COLLATE 'C' LC_CTYPE 'C'"
            )
            dsn = databases.dsn(name)
        made.append(dsn)
        await databases.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD '{PASSWORD}'")
        connection = await asyncpg.connect(dsn)
        await connection.execute(trouble.format(database=name, login=LOGIN))
        await connection.close()
        query = parse_qs(urlsplit(dsn).query)
        host = urlsplit(dsn).hostname or query["host"][0]
        port = urlsplit(dsn).port or int(query.get("port", ["5432"])[0])
        more = f'[database]\nhost = "{host}"\nport = {port}\nuser = "{LOGIN}"\n'
        return There(Place(tmp_path / "there", more=f'{more}database = "{name}"\n', workers=2), dsn)

    yield make
    for dsn in made:
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            f"REASSIGN OWNED BY {LOGIN} TO CURRENT_USER; DROP OWNED BY {LOGIN}"
        )
        await connection.close()
        if "_latin1" in dsn:
            await databases.drop(urlsplit(dsn).path[1:])
    if made:
        await databases.execute(f"DROP ROLE {LOGIN}")


RIGHTS = """
    GRANT USAGE ON SCHEMA bigbrotr TO {login};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA bigbrotr TO {login};
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bigbrotr TO {login};"""
SLOW = """
    ALTER ROLE {login} SET statement_timeout = 50;
    CREATE OR REPLACE FUNCTION bigbrotr.totals() RETURNS TABLE (relays bigint, candidates bigint,
        events bigint, pairs bigint, gaps bigint, rejected bigint)
        LANGUAGE sql AS 'SELECT 1, 2, 3, 4, 5, 6 FROM pg_sleep(10)'"""
TROUBLES = {
    # Which encoding, what is wrong in SQL, the codes of all commands, and words of some of them.
    "latin1": (
        "LATIN1",
        "ALTER DATABASE {database} OWNER TO {login}",
        {3, 4},
        {"db migrate": "encoded in LATIN1", "db restore {file}": "encoded in LATIN1"},
    ),
    "no rights": (
        None,
        "SELECT 'none'",
        {3, 4},
        {"status": "the role may not", "db migrate": "permission denied"},
    ),
    "no way in": (
        None,
        "REVOKE ALL ON DATABASE {database} FROM public",
        {3},
        {"status": "permission denied for database"},
    ),
    "read-only": (
        None,
        f"{RIGHTS} ALTER ROLE {{login}} SET default_transaction_read_only = on",
        {0, 3, 4},
        {"seed wss://relay.example": "read-only", "status": ""},
    ),
    "no time": (
        None,
        RIGHTS + SLOW,
        {0, 3, 4},
        {"status": "cut a statement short"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", list(TROUBLES))
async def test_a_sentence_for_each(
    trouble: str,
    make: Make,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    encoding, sql, codes, told = TROUBLES[trouble]
    there = await make(encoding, sql)
    file = tmp_path / "file"
    file.write_bytes(b"no backup")
    for words in COMMANDS:
        names = {"file": tmp_path / "new" if "backup" in words else file}
        code, _, err = await there.call(words, capsys, **names)
        assert code in codes, (words, code, err)
        assert "Traceback" not in err
        if code:
            assert err.startswith("bigbrotr: ") or "psql" in words, (words, err)
            assert len(err.strip().splitlines()) == 1
        if words in told:
            assert told[words] in err, (words, err)
            assert bool(code) is bool(told[words])
    async with there.place.start("--once", "--only", "seeder", DB_PASSWORD=PASSWORD) as running:
        code = await running.wait()
        assert code in codes | {6}
        assert "Traceback" not in running.err


LIBPQ = {
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGDATABASE": "other",
    "PGUSER": "other",
    "PGPASSWORD": "other",
    "PGPASSFILE": "/nowhere",
    "PGSERVICE": "other",
    "PGSERVICEFILE": "/nowhere",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "/nowhere",
    "PGSSLCERT": "/nowhere",
    "PGSSLMINPROTOCOLVERSION": "nonsense",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGGSSENCMODE": "require",
    "PGGSSLIB": "nonsense",
    "PGKRBSRVNAME": "nonsense",
    "PGOPTIONS": "-c statement_timeout=1 -c nonsense=1",
    "PGCLIENTENCODING": "LATIN1",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGDATA": "/nowhere",
    "PGTZ": "nonsense",
}


@pytest.mark.slow
async def test_variables_of_another_database(tmp_path: Path) -> None:
    """None of libpq's concerns the server that we run ourselves."""
    home = tmp_path / "home"
    home.mkdir()
    for name in (".pgpass", ".pg_service.conf"):
        (home / name).write_text("nonsense\n")
    env = LIBPQ | {"HOME": str(home)}
    place = Place(tmp_path / "place", workers=2)
    file = tmp_path / "dump"
    async with place.start("--only", "seeder", **env) as running:
        await running.says("ready")
        done = await place.call("db", "backup", str(file), **env)
        assert (done.code, done.err) == (0, "")
        done = await place.call("db", "psql", "--", "-Atc", "SHOW statement_timeout", **env)
        assert (done.code, done.out, done.err) == (0, "0\n", "")
        assert await running.end() == 0
    done = await Place(tmp_path / "other", workers=2).call("db", "restore", str(file), **env)
    assert (done.code, done.out) == (0, "restored 0 events\n"), done.err
    assert "nowhere" not in done.err


async def test_a_variable_that_concerns_a_server_of_ones_own(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its URL says nothing; and what is wrong with it is said."""
    there = await make(None, RIGHTS)
    code, out, _ = await there.call("status --json", capsys)
    assert (code, json.loads(out)["events"]) == (0, 0)
    with monkeypatch.context() as patch:
        patch.setenv("PGSSLMODE", "nonsense")
        code, out, err = await there.call("status --json", capsys)
    assert (code, out) == (2, "")
    assert "a variable of libpq (PGSSLMODE and the like)" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncpg.TooManyConnectionsError("sorry"), "the database refuses: sorry"),
        (asyncpg.AdminShutdownError("sorry"), "the database refuses: sorry"),
        (asyncpg.DiskFullError("x"), "no space left where the database lies: x; make room"),
        (asyncpg.LockNotAvailableError("sorry"), "the database refuses: sorry"),
        (asyncpg.DeadlockDetectedError("sorry"), "the database refuses: sorry"),
        (asyncpg.ConnectionDoesNotExistError("gone"), "the database refuses: gone"),
        (asyncpg.InterfaceError("gone"), "the database is gone: gone"),
        (DatabaseError("as it is"), "as it is"),
        # Ours: they want a traceback.
        (asyncpg.UndefinedFunctionError("what?"), None),
        (asyncpg.UndefinedTableError("what?"), None),
        (asyncpg.DataError("what?"), None),
        (asyncpg.UniqueViolationError("what?"), None),
        (OSError("a file's"), None),
        (TimeoutError("somebody's"), None),
        (KeyError("x"), None),
    ],
)
def test_what_is_a_refusal(error: Exception, words: str | None) -> None:
    ours = refusal(error)
    assert (ours and str(ours)) == words
    assert ours is None or ours.exit_code == 3
