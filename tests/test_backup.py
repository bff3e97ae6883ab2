"""Backups: an archive that is written into a file and restored elsewhere is the same archive."""

from pathlib import Path

import asyncpg

from bigbrotr.core.brotr import Brotr
from tests.processes import Archive, Place
from tests.relays.events import make_event
from tests.relays.scripted import ScriptedRelay

EVENTS = [
    make_event(
        1_600_000_000 + 10_000_000 * n, content=f"note {n} \u2028 \U0001f9ff", tags=[["t", "x"]]
    )
    for n in range(12)
]


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


async def _is_in_order(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Identities go on after the numbers that were restored."""
    top = await connection.fetchval("SELECT max(id) FROM relays")
    await connection.execute(
        "SELECT insert_relays(ARRAY['wss://next.example'], ARRAY['clearnet'], ARRAY[1::bigint])"
    )
    assert await connection.fetchval("SELECT max(id) FROM relays") > top


async def test_what_is_no_backup(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    file = tmp_path / "junk"
    file.write_text("not a dump")
    done = await place.call("db", "restore", str(file))
    assert done.code == 3
    assert "pg_restore" in done.sentence
    done = await place.call("db", "restore", str(tmp_path / "none"))
    assert (done.code, "is no file" in done.sentence) == (2, True)
    async with place.database() as connection:
        assert await connection.fetchval("SELECT to_regclass('ledger')") is None
    assert (await place.call("db", "migrate")).code == 0
    done = await place.call("db", "backup", "/nowhere/archive.dump")
    assert done.code == 2
    assert "cannot write /nowhere/archive.dump" in done.sentence


async def test_upkeep(brotr: Brotr) -> None:
    await brotr.analyze()
    assert await brotr.pool.fetchval(
        "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'events'"
    )
    assert await brotr.vacuum_debt() == []
