"""Incremental backups of the embedded server: restored, they are the archive that was backed up."""

import shutil
from pathlib import Path

import pytest

from bigbrotr.embedded.base_backup import RECOVERY, list_backups
from bigbrotr.embedded.server import EmbeddedPostgres
from tests.kit.events import make_event
from tests.kit.processes import Archive, Place
from tests.kit.scripted import ScriptedRelay
from tests.kit.servers import execute

EVENTS = [make_event(1_600_000_000 + 1000 * n, content=f"note {n} " + "x" * 300) for n in range(90)]


def settings(archive: Path | None = None) -> str:
    more = "" if archive is None else f'wal_archive = "{archive}"\n'
    return f"[database]\nsummarize_wal = true\n{more}"


async def read(place: Place) -> Archive:
    async with place.database() as connection:
        return await Archive.read(connection)


@pytest.mark.slow
async def test_incremental_backups_make_the_archive_again(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    async with ScriptedRelay(EVENTS[:30]) as relay:
        place = Place(tmp_path / "place", [relay.url], more=settings(), revisit_s=1)
        assert (await place.call("db", "migrate")).code == 0
        await place.run_once()
        done = await place.call("db", "backup", "--incremental", str(folder))
        assert done.code == 0, done.err
        assert done.out.endswith("bytes, whole\n")
    await _store_more(place)
    # While it is in use.
    async with place.start("--only", "seeder") as running:
        await running.says("ready")
        done = await place.call("db", "backup", "--incremental", str(folder))
        assert (done.code, done.out.endswith("bytes, incremental\n")) == (0, True), done.err
        assert await running.end() == 0
    before = await read(place)
    assert len(before.events) > 30
    full, incremental = list_backups(folder)
    assert (full.is_full, incremental.is_full) == (True, False)
    sizes = [sum(p.stat().st_size for p in each.path.rglob("*")) for each in (full, incremental)]
    assert sizes[1] < sizes[0]

    done = await place.call("db", "restore", str(folder))
    assert (done.code, "there is a database" in done.sentence) == (3, True)
    other = Place(tmp_path / "other", more=settings())
    done = await other.call("db", "restore", str(folder))
    assert (done.code, done.out) == (0, f"restored {len(before.events)} events\n"), done.err
    assert await read(other) == before
    assert "the schema is current" not in await other.run_once("--only", "seeder")

    # One changed byte is found.
    victim = max((full.path / "base").rglob("[0-9]*"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    third = Place(tmp_path / "third", more=settings())
    done = await third.call("db", "restore", str(folder))
    assert (done.code, "is damaged" in done.sentence) == (3, True)
    assert not (third.data_dir / "postgres").exists()
    done = await place.call("db", "backup", "--incremental", "--full", str(folder))
    assert done.out.endswith("bytes, whole\n"), done.err
    done = await third.call("db", "restore", str(folder))  # from the last full one on
    assert done.code == 0, done.err


@pytest.mark.slow
async def test_the_archive_of_wal_brings_what_came_after_the_backup(tmp_path: Path) -> None:
    folder, archive = tmp_path / "backups", tmp_path / "wal's %f"
    place = Place(tmp_path / "place", more=settings(archive))
    assert (await place.call("db", "migrate")).code == 0
    assert (await place.call("db", "backup", "--incremental", str(folder))).code == 0
    await _store_more(place)  # a stop of the server archives what there is
    before = await read(place)
    assert before.events
    other = Place(tmp_path / "other", more=settings(archive))
    done = await other.call("db", "restore", str(folder))
    wanted = f"restored {len(before.events)} events, up to the last change in {archive}\n"
    assert (done.code, done.out) == (0, wanted), done.err
    assert await read(other) == before


async def test_a_start_lasts_until_the_recovery_has_ended(data_dir: Path, tmp_path: Path) -> None:
    cluster = data_dir / "postgres"
    (cluster / RECOVERY).touch()
    shutil.chown(cluster / RECOVERY, cluster.stat().st_uid, cluster.stat().st_gid)
    # The end of a slow archive: the server knows long before that what it holds is consistent.
    with (cluster / "postgresql.user.conf").open("a") as settings:
        settings.write("restore_command = 'sleep 0.5; false'\n")
    async with EmbeddedPostgres(data_dir, wal_archive=tmp_path / "wal") as postgres:
        assert not (cluster / RECOVERY).exists()
        assert await execute(postgres, "SELECT pg_is_in_recovery()") is False


async def _store_more(place: Place) -> None:
    """Some more events, from another relay."""
    async with ScriptedRelay(EVENTS[30:]) as relay:
        place.seeds.write_text(f"{relay.url}\n", "utf-8")
        await place.run_once()


@pytest.mark.slow
async def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    assert (await place.call("db", "migrate")).code == 0
    done = await place.call("db", "backup", "--incremental", str(tmp_path / "backups"))
    assert (done.code, "set summarize_wal = true" in done.sentence) == (2, True)
    done = await place.call("db", "backup", "--full", str(tmp_path / "file"))
    assert (done.code, "--full goes with --incremental" in done.sentence) == (2, True)
    other = Place(tmp_path / "other")
    done = await other.call("db", "restore", str(tmp_path))
    assert (done.code, "holds no backup" in done.sentence) == (2, True)
    (tmp_path / "file").touch()
    there = Place(tmp_path / "there", more=settings(tmp_path / "file"))
    done = await there.call("db", "migrate")
    assert (done.code, "[database] wal_archive" in done.sentence) == (3, True), done.err


async def test_a_relative_archive_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", more='[database]\nwal_archive = "wal"\n')
    done = await place.call("status")
    assert (done.code, "wal_archive is the whole path" in done.sentence) == (2, True)
