"""The embedded PostgreSQL, on the real thing: started, stopped, killed, orphaned and refused."""
# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - nothing else runs in these loops

import fcntl
import os
import pwd
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import pytest

import bigbrotr
from bigbrotr.embedded import acl, cluster, tuning
from bigbrotr.embedded import server as servers
from bigbrotr.embedded.server import EmbeddedPostgres, binary, default_data_dir, running, settings
from bigbrotr.errors import BusyError, DatabaseError

GB = 1 << 30
MB = 1 << 20

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")

# A bigbrotr in small: says what happens, one line each, until it is told to stop. As another user
# it imports everything first: the interpreter may be root's own.
CHILD = """
import grp, os, pwd, signal, sys
from pathlib import Path
import anyio, anyio._backends._asyncio, asyncpg, importlib.util, subprocess, tempfile
from bigbrotr.embedded.server import EmbeddedPostgres

def say(*words):
    print(*words, flush=True)

async def main(data_dir):
    pg = EmbeddedPostgres(Path(data_dir), on_progress=lambda words: say("...", words))
    try:
        async with pg:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                say("ready", pg.pid)
                async for number in signals:
                    if number == signal.SIGTERM:
                        break
                    connection = await asyncpg.connect(dsn=pg.url)
                    say("interrupted", await connection.fetchval("SELECT current_user"))
                    await connection.close()
    except Exception as error:
        say(type(error).__name__, error)
        raise SystemExit(1)
    say("stopped")

data_dir, uid = sys.argv[1:]
if uid:
    os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
anyio.run(main, data_dir)
"""


class Child:
    """A process that runs a server of its own, in a process group of its own."""

    def __init__(self, data_dir: Path, uid: int | None = None) -> None:
        path = [str(Path(bigbrotr.__file__).parents[1]), *sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(data_dir), "" if uid is None else str(uid)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            text=True,
            process_group=0,
        )

    async def says(self, beginning: str) -> str:
        """The rest of the next line that begins so."""
        assert self.process.stdout is not None
        heard = ""
        while line := await anyio.to_thread.run_sync(self.process.stdout.readline):
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
            heard += line
        raise AssertionError(f"it never said {beginning!r}, but: {heard}")

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await anyio.to_thread.run_sync(self.process.wait)


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(data_dir: Path, uid: int | None = None) -> Child:
        children.append(Child(data_dir, uid))
        return children[-1]

    yield start
    for each in children:
        each.process.kill()
        each.process.wait()
        assert each.process.stdout is not None
        each.process.stdout.close()


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    """One that runs all the time, for those who only look."""
    async with EmbeddedPostgres(tmp_path_factory.mktemp("embedded") / "data") as postgres:
        yield postgres


@pytest.fixture(scope="module")
async def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "data"
    async with EmbeddedPostgres(path):
        pass
    return path


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Path:
    """A directory that was used before, and is not in use; a copy saves the time of initdb."""
    subprocess.run(["cp", "-a", template, tmp_path / "data"], check=True)
    return tmp_path / "data"


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A place that other users get to, unlike pytest's own when it runs as root."""
    path = Path(tempfile.mkdtemp(prefix="bigbrotr-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def execute(postgres: EmbeddedPostgres, *statements: str) -> Any:
    connection = await asyncpg.connect(dsn=postgres.url)
    try:
        for statement in statements:
            value = await connection.fetchval(statement)
        return value
    finally:
        await connection.close()


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


async def test_users_have_the_last_word(data_dir: Path) -> None:
    with (data_dir / "postgres" / "postgresql.user.conf").open("a") as file:
        file.write("work_mem = '5MB'\n")
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await execute(postgres, "SHOW work_mem") == "5MB"


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


# -- refusals


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


def test_where_data_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_dir() == Path("/home/alice/.local/share/bigbrotr")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/bigbrotr")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/bigbrotr:/var/lib/other")
    assert default_data_dir() == Path("/var/lib/bigbrotr")


def test_programs_of_the_wheel() -> None:
    assert os.access(binary("pg_dump"), os.X_OK)
    with pytest.raises(DatabaseError, match="no program oracle"):
        binary("oracle")


# -- fitting the memory


@pytest.mark.parametrize(
    ("memory", "shared", "work", "maintenance"),
    [
        (128 * MB, "32MB", "4MB", "16MB"),
        (2 * GB, "256MB", "8MB", "64MB"),
        (8 * GB, "1024MB", "32MB", "256MB"),
        (256 * GB, "1024MB", "32MB", "256MB"),
    ],
)
def test_settings_fit_the_memory(memory: int, shared: str, work: str, maintenance: str) -> None:
    fitting = settings(memory, 2)
    assert fitting["shared_buffers"] == shared
    assert fitting["work_mem"] == work
    assert fitting["maintenance_work_mem"] == maintenance
    assert fitting["max_parallel_workers_per_gather"] == "1"
    assert (fitting["fsync"], fitting["full_page_writes"]) == ("on", "on")


def test_a_small_shared_memory_is_not_used() -> None:
    assert settings(GB, 1, 64 * MB)["dynamic_shared_memory_type"] == "mmap"
    assert settings(GB, 1, GB)["dynamic_shared_memory_type"] == "posix"


def _tree(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        ({}, 8 * GB, 1000),
        ({"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/memory.max": "max\n"}, 8 * GB, 1000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "cgroup/a/b/memory.max": f"{4 * GB}\n",
                "cgroup/a/memory.max": f"{2 * GB}\n",
                "cgroup/a/cpu.max": "150000 100000\n",
            },
            2 * GB,
            2,
        ),
        ({"proc/self/cgroup": "0::/\n", "cgroup/memory.max": f"{GB}\n"}, GB, 1000),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/on-the-host\n0::/\n",
                "cgroup/memory/memory.limit_in_bytes": f"{3 * GB}\n",
            },
            3 * GB,
            1000,
        ),
    ],
)
def test_control_groups_are_respected(
    tmp_path: Path,
    files: dict[str, str],
    memory: int,
    cpus: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000)))
    meminfo = f"MemTotal:       {8 * GB // 1024} kB\nMemFree: 1 kB\n"
    proc, cgroup = _tree(tmp_path, {"proc/meminfo": meminfo, **files})
    assert tuning.available_memory(proc, cgroup) == memory
    assert tuning.available_cpus(proc, cgroup) == cpus


def test_a_hidden_meminfo_is_no_obstacle(tmp_path: Path) -> None:
    assert tuning.available_memory(tmp_path, tmp_path) > 64 * MB
    assert tuning.shared_memory(tmp_path / "nowhere") == 0


# -- access control lists


NOID = acl.NOBODY_IN_PARTICULAR


def test_lists_are_bytes_and_back() -> None:
    entries = acl.with_user(acl.from_mode(0o750), 65534, 1)
    data = acl.encode(entries)
    assert acl.parse(data) == entries
    assert data[:12] == struct.pack("<IHHI", 2, acl.USER_OBJ, 7, NOID)
    for wrong in (b"", b"\x02\0\0", b"\x01\0\0\0", data[:-1]):
        with pytest.raises(ValueError, match="an access control list of"):
            acl.parse(wrong)


def test_one_user_more_and_nobody_else() -> None:
    assert acl.with_user(acl.from_mode(0o740), 7, 1) == [
        acl.Entry(acl.USER_OBJ, NOID, 7),
        acl.Entry(acl.USER, 7, 1),
        acl.Entry(acl.GROUP_OBJ, NOID, 4),
        acl.Entry(acl.MASK, NOID, 5),
        acl.Entry(acl.OTHER, NOID, 0),
    ]


def test_a_mask_that_widens_revives_no_rights() -> None:
    masked = [
        acl.Entry(acl.USER_OBJ, NOID, 7),
        acl.Entry(acl.USER, 5, 7),
        acl.Entry(acl.USER, 7, 0),
        acl.Entry(acl.GROUP_OBJ, NOID, 5),
        acl.Entry(acl.GROUP, 9, 3),
        acl.Entry(acl.MASK, NOID, 4),
        acl.Entry(acl.OTHER, NOID, 1),
    ]
    who = [(5, 50), (6, 9), (6, 100), (8, 80)]  # of owner 1 and group 100

    def rights(entries: list[acl.Entry], uid: int, gid: int) -> int:
        return acl.permissions_of(entries, uid=uid, gid=gid, owner=1, owning_group=100)

    after = acl.with_user(masked, 7, 1)
    assert [rights(masked, *each) for each in who] == [4, 0, 4, 1]
    assert [rights(after, *each) for each in who] == [4, 0, 4, 1]
    assert (rights(masked, 7, 70), rights(after, 7, 70)) == (0, 1)
    assert rights(after, 1, 1) == 7


@as_root
def test_the_kernel_agrees(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = cluster.Account(nobody.pw_uid, nobody.pw_gid, "nobody")
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    (place / "inside").touch()

    def tries(script: str) -> bool:
        done = subprocess.run(["/bin/sh", "-c", script], **account.dropping, capture_output=True)
        return done.returncode == 0

    assert not acl.is_searchable(place, uid=account.uid, gid=account.gid)
    closed = [
        directory
        for directory in (*reversed(place.parents), place)
        if not acl.is_searchable(directory, uid=account.uid, gid=account.gid)
    ]
    for directory in closed:
        acl.grant_search(directory, uid=account.uid, gid=account.gid)
        acl.grant_search(directory, uid=account.uid, gid=account.gid)
        assert acl.is_searchable(directory, uid=account.uid, gid=account.gid)
    assert tries(f"cd {place} && test -e inside")
    assert not tries(f"ls {place}")
    assert not tries(f"touch {place}/more")
    assert not acl.is_searchable(place, uid=account.uid + 1, gid=account.gid + 1)
