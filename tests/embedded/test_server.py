"""The embedded PostgreSQL, on the real thing: started, stopped, killed, orphaned and refused."""
# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - nothing else runs in these loops

import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import asyncpg
import pytest

from bigbrotr.embedded import cluster
from bigbrotr.embedded import server as servers
from bigbrotr.embedded.server import EmbeddedPostgres, binary, default_data_dir, running, settings
from bigbrotr.errors import BusyError, DatabaseError
from tests.kit.servers import Child, as_root, execute

GB = 1 << 30


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """One that runs all the time, for those who only look."""
    async with EmbeddedPostgres(tmp_path_factory.mktemp("embedded") / "data") as postgres:
        yield postgres


# -- the ordinary life


@pytest.mark.slow
async def test_answers_by_its_url(server: EmbeddedPostgres) -> None:
    query = "SELECT current_user || ' ' || current_database() || ' ' || getdatabaseencoding()"
    assert await execute(server, query) == "bigbrotr bigbrotr UTF8"
    done = await anyio.run_process([str(binary("psql")), "-XAt", server.url, "-c", query])
    assert done.stdout.decode().strip() == "bigbrotr bigbrotr UTF8"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen_addresses", ""),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("jit", "off"),
        ("lc_collate", "C"),
        ("TimeZone", "UTC"),
        ("wal_compression", "off"),
        ("unix_socket_permissions", "0700"),
    ],
)
async def test_is_set_up(server: EmbeddedPostgres, name: str, value: str) -> None:
    if name == "lc_collate":
        query = "SELECT datcollate FROM pg_database WHERE datname = 'bigbrotr'"
    else:
        query = f"SHOW {name}"
    assert await execute(server, query) == value


async def test_every_setting_is_known_and_taken(server: EmbeddedPostgres) -> None:
    wrong = await execute(
        server, "SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL OR NOT applied"
    )
    assert wrong == 0
    by_file = await execute(
        server, "SELECT count(*) FROM pg_settings WHERE sourcefile LIKE '%/bigbrotr.conf'"
    )
    assert by_file == len(settings(GB, 1))


async def test_the_url_ignores_the_port_of_the_environment(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    assert await execute(server, "SELECT 1") == 1


@pytest.mark.slow
async def test_keeps_what_it_was_given(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    await execute(postgres, "CREATE TABLE t AS SELECT 42 AS answer")
    await postgres.stop()
    await postgres.stop()
    assert postgres.pid is None
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await execute(postgres, "SELECT answer FROM t") == 42


async def test_nothing_secret_reaches_the_server(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVATE_KEY", "nsec1")
    monkeypatch.setenv("PGDATA", "/nonexistent")
    async with EmbeddedPostgres(data_dir) as postgres:
        names = {
            variable.partition(b"=")[0]
            for variable in Path(f"/proc/{postgres.pid}/environ").read_bytes().split(b"\0")
        }
        assert b"PRIVATE_KEY" not in names
        descriptors = [path.resolve() for path in Path(f"/proc/{postgres.pid}/fd").iterdir()]
        assert data_dir / "lock" not in descriptors
        assert postgres.log in descriptors


async def test_says_why_it_does_not_start(data_dir: Path) -> None:
    with (data_dir / "postgres" / "postgresql.user.conf").open("a") as file:
        file.write("work_men = '5MB'\n")
    with pytest.raises(DatabaseError, match=r"did not start.*work_men"):
        await EmbeddedPostgres(data_dir).start()
    assert running(data_dir) is None


async def test_keeps_two_logs_and_no_more(data_dir: Path) -> None:
    for _ in range(3):
        async with EmbeddedPostgres(data_dir):
            pass
    assert {path.name for path in data_dir.glob("postgres.log*")} == {
        "postgres.log",
        "postgres.log.1",
    }


async def test_a_log_that_grows_is_emptied(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOG_BYTES", 100)
    monkeypatch.setattr(servers, "LOG_CHECK_S", 0.01)
    async with EmbeddedPostgres(data_dir) as postgres:
        assert postgres.log.stat().st_size > 100
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(postgres.wait_dead)
            while postgres.log.stat().st_size:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(postgres.url.replace("@/bigbrotr", "@/nowhere"))
        monkeypatch.setattr(servers, "LOG_BYTES", postgres.log.stat().st_size - 1)
        postgres._curb_log()
        assert 'FATAL:  database "nowhere" does not exist' in postgres.log.read_text()
        await execute(postgres, "DO $$ BEGIN RAISE WARNING 'still written'; END $$")
        text = postgres.log.read_text()
        assert "still written" in text
        assert "\0" not in text


# -- one directory, one server


async def test_two_on_one_directory_are_refused(
    server: EmbeddedPostgres, child: Callable[..., Child]
) -> None:
    assert running(server.data_dir) == os.getpid()
    with pytest.raises(BusyError, match=rf"is in use by bigbrotr \(pid {os.getpid()}\)"):
        await EmbeddedPostgres(server.data_dir).start()
    with pytest.raises(BusyError):
        await server.start()
    other = child(server.data_dir)
    assert f"(pid {os.getpid()})" in await other.says("BusyError")
    assert await execute(server, "SELECT 1") == 1


async def test_looking_does_not_disturb_a_start(data_dir: Path) -> None:
    assert running(data_dir / "nowhere") is None
    assert running(data_dir) is None
    postgres = EmbeddedPostgres(data_dir)
    descriptor = os.open(data_dir / "lock", os.O_RDONLY)
    async with anyio.create_task_group() as tasks:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        tasks.start_soon(postgres.start)
        await anyio.lowlevel.checkpoint()
        os.close(descriptor)
    assert running(data_dir) == os.getpid()
    await postgres.stop()
    assert running(data_dir) is None


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with anyio.CancelScope() as scope:
        await EmbeddedPostgres(data_dir, on_progress=lambda _: scope.cancel()).start()
    assert scope.cancelled_caught
    assert running(data_dir) is None
    assert {path.name for path in data_dir.iterdir()} <= {"lock", "postgres"}


# -- deaths


@pytest.mark.slow
@pytest.mark.parametrize("with_pidfd", [True, False])
async def test_the_server_is_killed(
    data_dir: Path, with_pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(servers, "SAY_EVERY_S", 0)
    said: list[str] = []
    async with EmbeddedPostgres(data_dir, on_progress=said.append) as postgres:
        said.clear()
        await execute(postgres, "CREATE TABLE t AS SELECT 42 AS answer")
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        assert await postgres.wait_dead() == -signal.SIGKILL
        assert await postgres.wait_dead() == -signal.SIGKILL
        await postgres.restart()
        assert any(words.startswith("PostgreSQL is ") for words in said)
        assert await execute(postgres, "SELECT answer FROM t") == 42


@pytest.mark.slow
@pytest.mark.parametrize("seen", [True, False], ids=["seen in /proc", "seen by PostgreSQL"])
async def test_a_backend_of_a_killed_server_is_waited_for(
    data_dir: Path, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that computes doesn't look whether its server is alive."""
    monkeypatch.setattr(servers, "LEFTOVERS_S", 1.0)
    said: list[str] = []

    def hear(words: str) -> None:
        said.append(words)
        if not seen and words.startswith("waiting"):
            os.kill(backend, signal.SIGTERM)

    async with EmbeddedPostgres(data_dir, on_progress=hear) as postgres:
        assert postgres.pid is not None
        connection = await asyncpg.connect(dsn=postgres.url)
        await connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
        backend = connection.get_server_pid()

        async def compute() -> None:
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await connection.execute(
                    "SELECT count(*) FROM generate_series(1, 1e9) a, generate_series(1, 1e9) b"
                )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(compute)
            active = f"SELECT state = 'active' FROM pg_stat_activity WHERE pid = {backend}"
            while not await execute(postgres, active):
                await anyio.sleep(0.01)
            os.kill(postgres.pid, signal.SIGKILL)
            await postgres.wait_dead()
            if not seen:
                monkeypatch.setattr(servers, "_processes_of", lambda _: [])
            await postgres.restart()
        expected = "earlier run" if seen else "that was killed"
        assert any(expected in words for words in said)
        assert await execute(postgres, "SELECT answer FROM t") == 42


async def test_stopping_on_purpose_is_no_death(data_dir: Path) -> None:
    codes: list[int] = []
    async with EmbeddedPostgres(data_dir) as postgres, anyio.create_task_group() as tasks:

        async def watch() -> None:
            codes.append(await postgres.wait_dead())

        tasks.start_soon(watch)
        await anyio.lowlevel.checkpoint()
        first = postgres.pid
        await postgres.restart()
        assert postgres.pid not in (None, first)
        assert codes == []
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
    assert codes == [-signal.SIGKILL]


async def test_bigbrotr_is_killed(data_dir: Path, child: Callable[..., Child]) -> None:
    first = child(data_dir)
    await first.says("ready")
    await execute(EmbeddedPostgres(data_dir), "CREATE TABLE t AS SELECT 42 AS answer")
    await first.end(signal.SIGKILL)
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await execute(postgres, "SELECT answer FROM t") == 42


async def test_an_orphan_is_stopped(data_dir: Path) -> None:
    """Where the kernel cannot tell a server that its bigbrotr died."""
    account = cluster.account_of(data_dir)
    postgres = EmbeddedPostgres(data_dir)
    command: list[str | Path] = [binary("postgres"), "-D", postgres.cluster]
    command += ["-c", "listen_addresses=", "-c", f"unix_socket_directories={postgres.socket_dir}"]
    cluster.make_reachable(data_dir, account)
    orphan = subprocess.Popen(command, stderr=subprocess.DEVNULL, **account.dropping)
    try:
        while (status := servers._lines(postgres.cluster / "postmaster.pid")[7:8]) != ["ready"]:
            assert orphan.poll() is None, status
            await anyio.sleep(0.01)
        said: list[str] = []
        async with EmbeddedPostgres(data_dir, on_progress=said.append) as postgres:
            assert await execute(postgres, "SELECT 1") == 1
        assert said == [f"waiting for the PostgreSQL of an earlier run to stop (pid {orphan.pid})"]
        assert orphan.wait() == 0
    finally:
        orphan.kill()
        orphan.wait()


async def test_a_recycled_process_id_is_no_server(data_dir: Path) -> None:
    account = cluster.account_of(data_dir)
    somebody = subprocess.Popen(["sleep", "100"], cwd="/", **account.dropping)
    try:
        pid_file = data_dir / "postgres" / "postmaster.pid"
        pid_file.write_text(f"{somebody.pid}\n{data_dir}\n1\n5432\n/tmp\n\n1 1\nready\n")
        os.chown(pid_file, account.uid, account.gid)
        (data_dir / "run" / ".s.PGSQL.5432.lock").write_text(f"{somebody.pid}\n")
        async with EmbeddedPostgres(data_dir) as postgres:
            assert await execute(postgres, "SELECT 1") == 1
        assert somebody.poll() is None
    finally:
        somebody.kill()
        somebody.wait()


async def test_an_interrupt_at_the_terminal_is_ours_to_act_upon(
    data_dir: Path, child: Callable[..., Child]
) -> None:
    bigbrotr_like = child(data_dir)
    await bigbrotr_like.says("ready")
    os.killpg(bigbrotr_like.process.pid, signal.SIGINT)
    assert await bigbrotr_like.says("interrupted") == "bigbrotr"
    assert await bigbrotr_like.end(signal.SIGTERM) == 0
    await bigbrotr_like.says("stopped")


# -- places


def test_where_data_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_dir() == Path("/home/alice/.local/share/bigbrotr")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/bigbrotr")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/bigbrotr:/var/lib/other")
    assert default_data_dir() == Path("/var/lib/bigbrotr")


@pytest.mark.parametrize("name", ["long" * 30, "one, two", "ünïcode %41"])
async def test_awkward_names_get_a_socket_elsewhere(data_dir: Path, name: str) -> None:
    awkward = data_dir.rename(data_dir.with_name(name))
    postgres = EmbeddedPostgres(awkward)
    try:
        assert postgres.socket_dir.parent == Path("/tmp")
        assert postgres.url == EmbeddedPostgres(awkward).url
        async with postgres:
            assert stat.S_IMODE(postgres.socket_dir.stat().st_mode) == 0o700
            assert await execute(postgres, "SELECT 1") == 1
            done = await anyio.run_process([binary("psql"), "-XAtc", "SELECT 1", postgres.url])
            assert done.stdout == b"1\n"
        postgres.socket_dir.chmod(0o755)
        with pytest.raises(DatabaseError, match=r"not a private directory.*remove it"):
            await postgres.start()
    finally:
        shutil.rmtree(postgres.socket_dir)


# -- users


@pytest.mark.slow
@as_root
async def test_runs_as_an_ordinary_user(public_path: Path, child: Callable[..., Child]) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    os.chown(public_path, uid, uid)
    data_dir = public_path / "data"
    ordinary = child(data_dir, uid)
    pid = int(await ordinary.says("ready"))
    assert Path(f"/proc/{pid}").stat().st_uid == uid
    ordinary.process.send_signal(signal.SIGINT)
    assert await ordinary.says("interrupted") == "bigbrotr"

    done = await anyio.run_process(  # root may look, and is the same role
        [binary("psql"), "-XAtc", "SELECT current_user", EmbeddedPostgres(data_dir).url]
    )
    assert done.stdout == b"bigbrotr\n"
    assert await ordinary.end(signal.SIGTERM) == 0

    (data_dir / "lock").unlink()
    async with EmbeddedPostgres(data_dir) as postgres:  # root becomes its owner
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == uid
    again = child(data_dir, uid)  # and leaves nothing that is in the way
    await again.says("ready")
    assert await again.end(signal.SIGTERM) == 0
