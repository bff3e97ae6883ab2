"""The commands `config …`: settings shown, checked and begun."""

import argparse
from pathlib import Path

from bigbrotr.cli import parse
from bigbrotr.cli.output import say
from bigbrotr.cli.place import find
from bigbrotr.config import files
from bigbrotr.config.settings import Profile
from bigbrotr.config.toml import begin, explain, lines_in, load, show
from bigbrotr.errors import ConfigError


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the commands."""
    group = parse.add_group(commands, "config", "show, check or begin settings")
    words = "print the settings that are in force"
    parse.add(group, "show", _show, words, shared.place)
    words = "check a configuration file, and the files that it names"
    check = parse.add(group, "check", _check, words)
    check.add_argument("file", type=Path, metavar="FILE")
    words = "write a file that says all that can be set, to begin with"
    init = parse.add(group, "init", _init, words)
    init.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="must not exist yet (default: print it)"
    )
    for parser in (check, init):
        parser.add_argument(
            "--profile",
            type=parse.profile,
            default=Profile.LITE,
            metavar="{full,lite}",
            help="over whose settings the file lies (default: lite)",
        )


def _show(options: argparse.Namespace) -> int:
    print(show(find(options, may_start=False).config), end="")  # noqa: T201
    return 0


def _check(options: argparse.Namespace) -> int:
    file: Path = options.file
    config = load(file, options.profile)
    if found := files.unreadable(config):
        raise ConfigError(explain(found, str(file), lines_in(file)))
    print(f"{file}: ok")  # noqa: T201
    return 0


def _init(options: argparse.Namespace) -> int:
    text, file = begin(options.profile), options.file
    if file is None:
        print(text, end="")  # noqa: T201
        return 0
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} exists: it is left alone") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot write {file}: {reason}") from None
    say(f"{file} is written: change it, and look at it with `bigbrotr config check {file}`")
    return 0
