"""Backups: an archive that is written into a file and restored elsewhere is the same archive."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from tests.conftest import LOGIN, Databases
from tests.kit.events import make_event
from tests.kit.processes import Archive, Place
from tests.kit.scripted import ScriptedRelay

EVENTS = [
    make_event(
        1_600_000_000 + 10_000_000 * n, content=f"note {n} \u2028 \U0001f9ff", tags=[["t", "x"]]
    )
    for n in range(12)
]


@pytest.mark.slow
async def test_backup_and_restore(tmp_path: Path) -> None:
    file = tmp_path / "archive.dump"
    async with ScriptedRelay(EVENTS) as relay:
        place = Place(tmp_path / "place", [relay.url])
        await place.run_once()
    # While it is in use.
    async with place.start("--only", "seeder") as running:
        await running.says("ready")
        done = await place.call("db", "backup", str(file))
        assert (done.code, done.err) == (0, "")
        async with place.look() as connection:
            before = await Archive.read(connection)
        assert await running.end() == 0
    assert len(before.events) == len(before.pairs) == 12
    assert file.stat().st_mode & 0o077 == 0  # a private matter
    done = await place.call("db", "backup", str(file))
    assert (done.code, "overwrites nothing" in done.sentence) == (2, True)
    done = await place.call("db", "restore", str(file))
    assert (done.code, "into an empty one" in done.sentence) == (4, True)

    other = Place(tmp_path / "other")
    done = await other.call("db", "restore", str(file))
    assert done.code == 0, done.err
    assert done.out == "restored 12 events\n"
    async with other.database() as connection:
        assert await Archive.read(connection) == before
        await _is_in_order(connection)
    # And it goes on from there.
    assert "the schema is current" not in await other.run_once("--only", "seeder")


@pytest.mark.slow
async def test_move_to_a_server_of_ones_own(
    make_database: Callable[[Profile | None], Awaitable[str]], databases: Databases, tmp_path: Path
) -> None:
    """By a login that owns the database there, and is nothing else."""
    file = tmp_path / "archive.dump"
    async with ScriptedRelay(EVENTS) as relay:
        place = Place(tmp_path / "place", [relay.url])
        await place.run_once()
    assert (await place.call("db", "backup", str(file))).code == 0
    dsn = await make_database(None)
    name, query = urlsplit(dsn).path[1:], parse_qs(urlsplit(dsn).query)
    host = urlsplit(dsn).hostname or query["host"][0]
    await databases.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD 'secret'")
    await databases.execute(f"ALTER DATABASE {name} OWNER TO {LOGIN}")
    try:
        port = urlsplit(dsn).port or int(query.get("port", ["5432"])[0])
        more = f'[database]\nhost = "{host}"\nport = {port}\nuser = "{LOGIN}"\n'
        there = Place(tmp_path / "there", more=f'{more}database = "{name}"\n')
        done = await there.call("db", "restore", str(file), DB_PASSWORD="secret")
        assert (done.code, done.out) == (0, "restored 12 events\n"), done.err
        connection = await asyncpg.connect(dsn)
        assert len((await Archive.read(connection)).pairs) == 12
        assert not await connection.fetchval(
            "SELECT has_function_privilege("
            "'public', 'bigbrotr.ensure_partitions(bigint)', 'EXECUTE')"
        )
        await connection.close()
        async with there.start("--once", "--only", "seeder", DB_PASSWORD="secret") as running:
            assert await running.wait() == 0, running.err
        done = await there.call("db", "roles", DB_PASSWORD="secret")
        assert done.code == 3
        assert "somebody who may create roles has to do it" in done.sentence
    finally:
        await databases.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
        connection = await asyncpg.connect(dsn)
        await connection.execute(f"REASSIGN OWNED BY {LOGIN} TO CURRENT_USER")
        await connection.close()
        await databases.execute(f"DROP ROLE {LOGIN}")


async def _is_in_order(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Identities go on after the numbers that were restored."""
    top = await connection.fetchval("SELECT max(id) FROM bigbrotr.relays")
    await connection.execute(
        "SELECT bigbrotr.insert_relays("
        "ARRAY['wss://next.example'], ARRAY['clearnet'], ARRAY[1::bigint])"
    )
    assert await connection.fetchval("SELECT max(id) FROM bigbrotr.relays") > top


@pytest.mark.slow
async def test_move_to_an_older_server(old_server: str, tmp_path: Path) -> None:
    """And on from there; other tools say no, and we say whose turn it is."""
    file = tmp_path / "archive.dump"
    async with ScriptedRelay(EVENTS) as relay:
        place = Place(tmp_path / "place", [relay.url])
        await place.run_once()
    done = await place.call("db", "backup", str(file))
    assert (done.code, "pg_restore of 17 or newer" in done.out) == (0, True)
    there = Place(tmp_path / "there", more=f'[database]\nurl = "{old_server}"\n')
    broken = tmp_path / "broken.dump"
    broken.write_bytes(file.read_bytes()[:-2000])
    done = await there.call("db", "restore", str(broken))
    assert (done.code, "pg_restore" in done.sentence) == (3, True)
    assert (await there.call("status")).code == 4  # there is nothing: all was rolled back
    done = await there.call("db", "restore", str(file))
    assert (done.code, done.out) == (0, "restored 12 events\n"), done.err
    async with place.database() as connection:
        before = await Archive.read(connection)
    connection = await asyncpg.connect(old_server)
    assert await connection.fetchval("SHOW server_version_num") < "170000"
    assert await Archive.read(connection) == before
    await _is_in_order(connection)
    await connection.close()
    async with there.start("--once", "--only", "seeder") as running:
        assert await running.wait() == 0, running.err


@pytest.mark.slow
async def test_move_from_an_older_server(old_server: str, tmp_path: Path) -> None:
    """What a server of 15 or 16 holds comes into the embedded one, and may go back."""
    file, back = tmp_path / "old.dump", tmp_path / "new.dump"
    async with ScriptedRelay(EVENTS) as relay:
        there = Place(tmp_path / "there", [relay.url], more=f'[database]\nurl = "{old_server}"\n')
        assert (await there.call("db", "migrate")).code == 0
        await there.run_once()
    assert (await there.call("db", "backup", str(file))).code == 0
    before = await _read(old_server)
    assert len(before.pairs) == 12
    place = Place(tmp_path / "place")
    done = await place.call("db", "restore", str(file))
    assert (done.code, done.out) == (0, "restored 12 events\n"), done.err
    async with place.database() as ours:
        assert await Archive.read(ours) == before
        await _is_in_order(ours)
    assert "the schema is current" not in await place.run_once("--only", "seeder")
    # And back again, into a database of the old server that holds nothing.
    connection = await asyncpg.connect(old_server)
    await connection.execute("CREATE DATABASE again")
    await connection.close()
    again = old_server.replace("/postgres?", "/again?")
    home = Place(tmp_path / "home", more=f'[database]\nurl = "{again}"\n')
    assert (await place.call("db", "backup", str(back))).code == 0
    done = await home.call("db", "restore", str(back))
    assert (done.code, done.out) == (0, "restored 12 events\n"), done.err
    assert (await _read(again)).pairs == before.pairs


async def _read(address: str) -> Archive:
    connection = await asyncpg.connect(address)
    try:
        return await Archive.read(connection)
    finally:
        await connection.close()


@pytest.mark.slow
async def test_a_backup_of_a_newer_release(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    file = tmp_path / "newer.dump"
    file.write_bytes(b"PGDMP\x01\x63\x00\x04\x08\x01" + bytes(100))
    done = await place.call("db", "restore", str(file))
    assert done.code == 3
    assert "a newer release than this one, which brings pg_restore (PostgreSQL) 18" in done.sentence


@pytest.mark.slow
async def test_what_is_no_backup(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    file = tmp_path / "junk"
    file.write_text("not a dump")
    done = await place.call("db", "restore", str(file))
    assert done.code == 3
    assert "pg_restore" in done.sentence
    done = await place.call("db", "restore", str(tmp_path / "none"))
    assert (done.code, "there is no such file" in done.sentence) == (2, True)
    async with place.database() as connection:
        assert await connection.fetchval("SELECT to_regclass('bigbrotr.ledger')") is None
    assert (await place.call("db", "migrate")).code == 0
    done = await place.call("db", "backup", "/nowhere/archive.dump")
    assert done.code == 2
    assert "cannot write /nowhere/archive.dump" in done.sentence


async def test_maintenance(brotr: Brotr) -> None:
    await brotr.analyze()
    assert await brotr.pool.fetchval(
        "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'events_stored'"
    )
    assert await brotr.vacuum_debt() == []
