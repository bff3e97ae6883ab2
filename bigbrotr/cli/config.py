"""The commands `config …`: settings shown, checked and begun."""

import argparse
from pathlib import Path

from bigbrotr.cli import parse
from bigbrotr.cli.place import find
from bigbrotr.config.settings import Profile
from bigbrotr.config.toml import load, show


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the commands."""
    group = parse.add_group(commands, "config", "show, check or begin settings")
    words = "print the settings that are in force"
    parse.add(group, "show", _show, words, shared.place)
    check = parse.add(group, "check", _check, "check a configuration file")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument(
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
    load(options.file, options.profile)
    print(f"{options.file}: ok")  # noqa: T201
    return 0
