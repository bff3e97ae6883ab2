"""Incremental backups of the embedded server: a folder with copies of the cluster.

The first is whole, each later one holds only the blocks that have changed since the one before;
PostgreSQL's `pg_combinebackup` makes a cluster of them. With an archive of the WAL it goes on from
there, up to the last change that the archive has::

    FOLDER/20260501T030000Z-full     what pg_basebackup wrote, with its manifest of checksums
    FOLDER/20260502T030000Z-incremental

Everything here blocks: run it in a thread.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bigbrotr.embedded.cluster import binary
from bigbrotr.errors import ConfigError, DatabaseError

_UNFINISHED = ".unfinished"
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-(full|incremental)")
_PLAIN = {"LC_ALL": "C"}
# Where there is an archive, recovery goes on from what the backup holds.
RECOVERY = "recovery.signal"


class BaseBackup(NamedTuple):
    """A copy in the folder."""

    path: Path
    is_full: bool
    bytes: int = 0


def list_backups(folder: Path) -> list[BaseBackup]:
    """The backups of a folder that are whole, oldest first.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"cannot read {folder}: {error.strerror}") from None
    return [
        BaseBackup(path, name[1] == "full")
        for path in found
        if (name := _NAME.fullmatch(path.name))
    ]


def newest_chain(folder: Path) -> list[BaseBackup]:
    """The last full backup, and the incremental ones since.

    Raises:
        ConfigError: there is none.
    """
    found = list_backups(folder)
    first = max((place for place, each in enumerate(found) if each.is_full), default=None)
    if first is None:
        raise ConfigError(
            f"cannot restore {folder}: it is a folder that holds no backup; "
            "`bigbrotr db backup --incremental DIR` makes the first"
        )
    return found[first:]


def back_up(
    address: str, folder: Path, environment: Mapping[str, str], *, is_full: bool
) -> BaseBackup:
    """Adds a backup to the folder, whole or not at all: an incremental one, if there is one before
    it and `is_full` does not say otherwise.

    Raises:
        ConfigError: the folder cannot be written.
        DatabaseError: in pg_basebackup's words.
    """
    before = [] if is_full else list_backups(folder)
    kind = "incremental" if before else "full"
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{kind}"
    unfinished = folder / f"{name}{_UNFINISHED}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in folder.glob(f"*{_UNFINISHED}"):
            if _NAME.fullmatch(leftover.name.removesuffix(_UNFINISHED)):
                shutil.rmtree(leftover)
        # The rate of the first checkpoint is the server's own: nobody waits for a backup.
        words = [f"--pgdata={unfinished}", "--wal-method=stream", "--checkpoint=fast"]
        if before:
            words.append(f"--incremental={before[-1].path / 'backup_manifest'}")
        _run("pg_basebackup", [f"--dbname={address}", "--no-password", *words], environment)
        unfinished.rename(folder / name)
    except DatabaseError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    except OSError as error:
        raise ConfigError(f"cannot write into {folder}: {error.strerror}") from None
    return BaseBackup(folder / name, not before, _size(folder / name))


def combiner(folder: Path, *, has_archive: bool) -> Callable[[Path], None]:
    """What makes a cluster at a path out of the newest backups of a folder; first each is compared
    with its checksums.

    Raises:
        ConfigError: there is none.
    """
    chain = newest_chain(folder)

    def make(cluster: Path) -> None:
        for each in chain:
            # The WAL that it needs is read by the server itself, when it starts.
            words = ["--no-parse-wal", "--quiet", str(each.path)]
            try:
                _run("pg_verifybackup", words, _PLAIN)
            except DatabaseError as error:
                raise DatabaseError(f"{each.path} is damaged: {error}") from None
        paths = [str(each.path) for each in chain]
        _run("pg_combinebackup", [f"--output={cluster}", *paths], _PLAIN)
        if has_archive:
            (cluster / RECOVERY).touch(mode=0o600)

    return make


def _run(program: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(  # noqa: S603 -- our own program
        [binary(program), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**environment, **_PLAIN},
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DatabaseError(said[0] if said else f"{program} failed")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
