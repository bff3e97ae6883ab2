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
SECTIONS = ("pre-data", "data", "post-data")
# Minor releases since November 2026 note versions of columns as options of theirs, which older
# programs dump and older servers refuse; who wants them makes them anew.
_COLUMN_OPTIONS = re.compile(rb"(ALTER TABLE .* ALTER COLUMN .* SET) \((.*)\);\n")
_FOREIGN_OPTION = b"pg_attver="
# Not every PostgreSQL is built with it; ours is not.
_LZ4 = re.compile(rb"(ALTER TABLE .* ALTER COLUMN .* SET COMPRESSION lz4;)\n")
_IF_LZ4 = (
    b"DO $lz4$ BEGIN IF 'lz4' = ANY (SELECT pg_catalog.unnest(s.enumvals) FROM"
    b" pg_catalog.pg_settings s WHERE s.name = 'default_toast_compression')"
    b" THEN %b END IF; END $lz4$;\n"
)


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
        with _writer(address, answers, environment) as writer:
            assert writer.stdin is not None
            is_whole = False
            with suppress(BrokenPipeError):  # it says why
                writer.stdin.write(b"BEGIN;\n")
                # Only where no data stands may a line be looked at.
                is_whole = all(
                    _read_section(section, file, reasons, environment, writer.stdin)
                    for section in SECTIONS
                )
                if is_whole:  # else what was written is rolled back
                    writer.stdin.write(b"COMMIT;\n")
            with suppress(BrokenPipeError):
                writer.stdin.close()
        if writer.returncode:
            raise DatabaseError(f"psql: {_last_error(answers)}")
        if not is_whole:
            raise DatabaseError(_with_hint(_last_error(reasons)))


def _read_section(
    section: str, file: Path, reasons: IO[bytes], environment: Mapping[str, str], psql: IO[bytes]
) -> bool:
    """Hands a section of the backup to psql; whether that could be read to its end."""
    with _reader(section, file, reasons, environment) as reader:
        assert reader.stdout is not None
        try:
            _pass_on(section, reader.stdout, psql)
        finally:
            reader.stdout.close()  # who has nobody to write to ends
    return reader.returncode == 0


def _reader(
    section: str, file: Path, reasons: IO[bytes], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 -- our own program
        [
            binary("pg_restore"),
            "--exit-on-error",
            "--file=-",
            f"--section={section}",
            *_BARE,
            str(file),
        ],
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


def _pass_on(section: str, script: IO[bytes], psql: IO[bytes]) -> None:
    """A part of the script without what only servers of pg_dump's own version know: settings at its
    beginning, and options of columns."""
    head = script if section == "pre-data" else islice(script, HEAD_LINES)
    for line in head:
        if _FOREIGN_OPTION in line and (found := _COLUMN_OPTIONS.fullmatch(line)):
            options = found[2].split(b", ")
            kept = [each for each in options if not each.startswith(_FOREIGN_OPTION)]
            if kept:
                psql.write(b"%b (%b);\n" % (found[1], b", ".join(kept)))
        elif b" SET COMPRESSION " in line and (found := _LZ4.fullmatch(line)):
            psql.write(_IF_LZ4 % found[1])
        elif not line.startswith(NEWER_SETTINGS):
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
