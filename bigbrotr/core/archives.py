"""Whole archives in a file: written and read by PostgreSQL's own programs.

A backup is one consistent moment of the database, taken while it is in use, in pg_dump's custom
format. It holds no role and no right: those are made anew where it is restored. Everything here
blocks: run it in a thread.
"""

import os
import subprocess
from pathlib import Path

from bigbrotr.core.embedded import binary
from bigbrotr.errors import ConfigError, DatabaseError
from bigbrotr.secret import read_secret


def back_up(address: str, file: Path) -> int:
    """Writes the database into a new file, whole or not at all; returns its size in bytes.

    Raises:
        ConfigError: the file exists, or cannot be written.
        DatabaseError: in pg_dump's words.
    """
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        if file.exists():
            raise ConfigError(f"{file} exists: a backup overwrites nothing")
        unfinished.touch(mode=0o600)
        _run("pg_dump", address, "--format=custom", f"--file={unfinished}", *_BARE)
        with unfinished.open("rb+") as written:
            os.fsync(written.fileno())
        unfinished.rename(file)
        return file.stat().st_size
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def restore(address: str, file: Path) -> None:
    """Fills an empty database from a backup, whole or not at all.

    Raises:
        ConfigError: there is no such file.
        DatabaseError: in pg_restore's words.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is no file")
    _run("pg_restore", address, "--single-transaction", "--exit-on-error", *_BARE, str(file))


_BARE = ("--no-owner", "--no-privileges")


def _run(program: str, address: str, *words: str) -> None:
    done = subprocess.run(  # noqa: S603 -- our own program
        [binary(program), f"--dbname={address}", "--no-password", *words],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PGPASSWORD": read_secret("DB_PASSWORD") or ""},
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DatabaseError(said[0] if said else f"{program} failed")
