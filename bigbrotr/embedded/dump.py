"""Whole archives in a file: written and read by PostgreSQL's own programs.

A backup is one consistent moment of the database, taken while it is in use, in pg_dump's custom
format. It holds no role and no right: those are made anew where it is restored. `environment` is
what the programs get. Everything here blocks: run it in a thread.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from bigbrotr.embedded.server import binary
from bigbrotr.errors import ConfigError, DatabaseError

HEAD_LINES = 40  # of a script, before its first table
NEWER_SETTINGS = (b"SET transaction_timeout ",)  # since PostgreSQL 17


def back_up(address: str, file: Path, environment: Mapping[str, str]) -> int:
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
        _run("pg_dump", address, environment, "--format=custom", f"--file={unfinished}", *_BARE)
        with unfinished.open("rb+") as written:
            os.fsync(written.fileno())
        unfinished.rename(file)
        return file.stat().st_size
    except DatabaseError:  # an OSError itself
        raise
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def readers() -> str:
    """Who can read a backup, in words: other programs than ours refuse it without saying so."""
    return "`bigbrotr db restore`, into PostgreSQL 15 or newer, or pg_restore of 17 or newer"


def check_file(file: Path) -> None:
    """Looks at a backup that is to be restored.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        if not file.is_file():
            words = "it is a directory" if file.is_dir() else "there is no such file"
            raise ConfigError(f"cannot restore {file}: {words}")
        with file.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: no path
        raise ConfigError(
            f"cannot restore {file}: {getattr(error, 'strerror', None) or error}"
        ) from None


def restore(address: str, file: Path, environment: Mapping[str, str]) -> None:
    """Fills an empty database, of any version from 15 on, from a backup, whole or not at all.

    Raises:
        ConfigError: there is no such file.
        DatabaseError: in pg_restore's or psql's words.
    """
    check_file(file)
    with TemporaryFile() as reasons, TemporaryFile() as answers:
        with (
            _reader(file, reasons, environment) as reader,
            _writer(address, answers, environment) as writer,
        ):
            assert reader.stdout is not None
            assert writer.stdin is not None
            with suppress(BrokenPipeError):  # it says why
                _pass_on(reader.stdout, writer.stdin)
                if reader.wait() == 0:  # else what was written is rolled back
                    writer.stdin.write(b"COMMIT;\n")
            reader.stdout.close()  # who has nobody to write to ends
            with suppress(BrokenPipeError):
                writer.stdin.close()
        if writer.returncode:
            raise DatabaseError(f"psql: {_last_error(answers)}")
        if reader.returncode:
            raise DatabaseError(_with_hint(_last_error(reasons)))


def _reader(
    file: Path, reasons: IO[bytes], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 -- our own program
        [binary("pg_restore"), "--exit-on-error", "--file=-", *_BARE, str(file)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=reasons,
        env=_plain(environment),
    )


def _writer(
    address: str, answers: IO[bytes], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 -- our own program
        [
            *(binary("psql"), f"--dbname={address}", "--no-password", "--no-psqlrc", "--quiet"),
            *("--set=ON_ERROR_STOP=1", "--output=/dev/null", "--file=-"),
        ],
        stdin=subprocess.PIPE,
        stderr=answers,
        env=_plain(environment),
    )


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Whatever the locale: words that we understand, and text that is not translated on the way."""
    return {**environment, "LC_ALL": "C", "PGCLIENTENCODING": "UTF8"}


def _pass_on(script: IO[bytes], psql: IO[bytes]) -> None:
    """The script in a transaction that is not ended, without the settings at its beginning that
    only servers of pg_dump's own version know."""
    psql.write(b"BEGIN;\n")
    for line in islice(script, HEAD_LINES):
        if not line.startswith(NEWER_SETTINGS):
            psql.write(line)
    shutil.copyfileobj(script, psql, 1 << 20)


def _last_error(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read(1 << 16).decode(errors="replace").strip().splitlines()
    return re.sub(r"^psql:\S*:\d+: ", "", lines[0]) if lines else "it failed without a word"


def _with_hint(words: str) -> str:
    if "unsupported version" not in words:
        return words
    done = subprocess.run(  # noqa: S603 -- our own program
        [binary("pg_restore"), "--version"], stdout=subprocess.PIPE, check=False
    )
    ours = done.stdout.decode(errors="replace").strip()
    return f"{words}: the backup is of a newer release than this one, which brings {ours}"


_BARE = ("--no-owner", "--no-privileges")


def _run(program: str, address: str, environment: Mapping[str, str], *words: str) -> None:
    done = subprocess.run(  # noqa: S603 -- our own program
        [binary(program), f"--dbname={address}", "--no-password", *words],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_plain(environment),
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DatabaseError(said[0] if said else f"{program} failed")
