"""What is said to the person who typed a command, in words that can be pasted where they are."""

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bigbrotr.core.logger import printable
from bigbrotr.secret import without_secrets

NAME = "bigbrotr"
_given: list[str] = []  # the options of this call that say which archive is meant


def remember(options: argparse.Namespace) -> None:
    """Keeps which archive is meant, so that the commands that are advised mean the same one."""
    _given.clear()
    for name in ("profile", "config", "data_dir"):
        value = getattr(options, name, None)
        if value is not None and str(value) != os.environ.get(f"BIGBROTR_{name.upper()}"):
            _given.extend([f"--{name.replace('_', '-')}", str(value)])


def program() -> str:
    """How to call this program again, from here."""
    started = Path(sys.argv[0] or NAME)
    if started.name == "__main__.py":
        return f"{_short(Path(sys.executable))} -m {NAME}"
    if started.name != NAME:
        return NAME
    found = shutil.which(NAME)
    if found is not None and Path(found).resolve() == started.resolve():
        return NAME
    return shlex.quote(_short(started))


def _short(path: Path) -> str:
    """The path as it is shortest from here."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def pasteable(words: str) -> str:
    """The words, with each `bigbrotr …` in backquotes as it has to be typed here."""

    def as_typed(found: re.Match[str]) -> str:
        command = found[1]
        more = [] if "--" in command else _given
        return f"`{program()} {' '.join([command, *map(shlex.quote, more)])}`"

    return re.sub(rf"`{NAME} ([^`]+)`", as_typed, words)


def print_json(found: object) -> None:
    """Prints a value for programs, as JSON over several lines."""
    print(msgspec.json.format(msgspec.json.encode(found)).decode())  # noqa: T201


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines for people: what strangers have said in them moves no cursor."""
    for line in lines:
        print(printable(line))  # noqa: T201


def say(words: str) -> None:
    """Says something on standard error; each line begins with our name."""
    for line in shown(pasteable(words)).split("\n"):
        print(f"{NAME}: {line}", file=sys.stderr)  # noqa: T201


def shown(words: str) -> str:
    """Words for a terminal, whoever wrote some of them: no secret, nothing that steers it."""
    return "\n".join(map(printable, without_secrets(words).split("\n")))
