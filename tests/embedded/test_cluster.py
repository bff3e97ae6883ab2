"""Directories of a server, and whose they are: made, refused, and opened for the server alone."""
# ruff: noqa: ASYNC240 - nothing else runs in these loops

import os
import pwd
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bigbrotr.embedded import cluster
from bigbrotr.embedded.cluster import binary
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.errors import DatabaseError
from tests.kit.servers import Child, as_root, execute


async def test_users_have_the_last_word(data_dir: Path) -> None:
    with (data_dir / "postgres" / "postgresql.user.conf").open("a") as file:
        file.write("work_mem = '5MB'\n")
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await execute(postgres, "SHOW work_mem") == "5MB"


@pytest.mark.slow
async def test_bigbrotr_is_killed_while_initdb_runs(
    tmp_path: Path, child: Callable[..., Child]
) -> None:
    first = child(tmp_path / "data")
    await first.says("... making a new database")
    await first.end(signal.SIGKILL)
    leftover = tmp_path / "data" / "postgres.new-of-old"
    (leftover / "base").mkdir(parents=True)
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert await execute(postgres, "SELECT 1") == 1
        assert not list(postgres.data_dir.glob("postgres.new-*"))


async def test_another_major_version_is_refused(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(DatabaseError, match=r"PostgreSQL 15.*PostgreSQL 18.*pg_dump"):
        await EmbeddedPostgres(data_dir).start()


async def test_a_directory_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    (tmp_path / "data" / "postgres" / "letter").touch()
    with pytest.raises(DatabaseError, match="not a PostgreSQL cluster"):
        await EmbeddedPostgres(tmp_path / "data").start()
    assert (tmp_path / "data" / "postgres" / "letter").exists()


async def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match="Not a directory"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


@as_root
async def test_a_user_without_a_name_is_told_so(
    public_path: Path, child: Callable[..., Child]
) -> None:
    os.chown(public_path, 54321, 54321)
    assert "54321 has no name" in await child(public_path / "data", 54321).says("DatabaseError")


@as_root
async def test_somebody_elses_cluster_is_refused(
    data_dir: Path, public_path: Path, child: Callable[..., Child]
) -> None:
    theirs = Path(shutil.move(data_dir, public_path))
    owner = cluster.account_of(theirs).name
    assert owner != "nobody"
    uid = pwd.getpwnam("nobody").pw_uid
    os.chown(theirs, uid, uid)
    os.chown(theirs / "lock", uid, uid)
    assert f"belongs to the user {owner}" in await child(theirs, uid).says("DatabaseError")


@pytest.mark.slow
@as_root
async def test_root_opens_its_own_directories_for_the_server_alone(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    said: list[str] = []
    async with EmbeddedPostgres(closed / "data", on_progress=said.append) as postgres:
        assert Path(f"/proc/{postgres.pid}").stat().st_uid != 0
        assert await execute(postgres, "SELECT 1") == 1
    assert any(words.endswith(f"may now search {closed}") for words in said)
    # The mask shows as the group's bits: --x, and no way to list or write.
    assert stat.S_IMODE(closed.stat().st_mode) == 0o710


@as_root
async def test_root_leaves_the_directories_of_others_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 54321, 54321)
    with pytest.raises(DatabaseError, match=rf"may not pass through {theirs},.*chmod o\+x"):
        await EmbeddedPostgres(theirs / "data").start()


def test_programs_of_the_wheel() -> None:
    assert os.access(binary("pg_dump"), os.X_OK)
    with pytest.raises(DatabaseError, match="no program oracle"):
        binary("oracle")
