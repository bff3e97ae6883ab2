"""What all commands share of the command line: the parser, common options and their types."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

from bigbrotr.cli.output import shown
from bigbrotr.config.settings import Profile

Command: TypeAlias = Callable[[argparse.Namespace], int]
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MOST = 10**9  # of anything that is asked for: the database counts a little further
PLACE_OPTIONS = ("--profile", "--config", "--data-dir")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line without repeating secrets in it."""

    def error(self, message: str) -> NoReturn:
        """Prints the usage and the mistake, and exits with code 2."""
        super().error(shown(message))


class Top(Parser):
    """The parser of a whole command line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As its parent does, but for what `db psql` passes on: that is psql's, in its order."""
        return super().parse_known_args(pass_on(sys.argv[1:] if args is None else args), namespace)


Group: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001 -- it has no public name


class Shared(NamedTuple):
    """Options that several commands have."""

    place: Parser  # which archive
    speech: Parser  # what is logged


def shared() -> Shared:
    """Parsers to be given to commands as parents."""
    place = Parser(add_help=False)
    place.add_argument(
        "--profile",
        type=profile,
        metavar="{full,lite}",
        help="keep whole events, or the essential fields (default: that of the archive; of a new "
        "one $BIGBROTR_PROFILE, else lite)",
    )
    place.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("BIGBROTR_CONFIG") or None,
        metavar="FILE",
        help="settings that differ from the profile's (default: $BIGBROTR_CONFIG)",
    )
    place.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the embedded database lives (default: the XDG data directory)",
    )
    speech = Parser(add_help=False)
    speech.add_argument(
        "--log-level", type=level, metavar="LEVEL", help=f"{', '.join(LEVELS)} (default: INFO)"
    )
    speech.add_argument("--log-json", action="store_true", help="one JSON object a line")
    return Shared(place, speech)


def add(group: Group, name: str, command: Command, words: str, *parents: Parser) -> Parser:
    """Adds a command to its group."""
    new = group.add_parser(name, help=words, description=words, parents=list(parents))
    new.set_defaults(command=command)
    return new


def add_group(group: Group, name: str, words: str) -> Group:
    """Adds a family of commands."""
    family = group.add_parser(name, help=words, description=words)
    return family.add_subparsers(metavar="command", required=True)


def profile(text: str) -> Profile:
    """The profile of this name."""
    try:
        return Profile(text)
    except ValueError:
        names = " or ".join(each.value for each in Profile)
        raise argparse.ArgumentTypeError(f"a profile is {names}, not {text!r}") from None


def level(text: str) -> str:
    """A level of the log, in capitals."""
    if text.upper() not in LEVELS:
        raise argparse.ArgumentTypeError(f"unknown log level {text!r}: one of {', '.join(LEVELS)}")
    return text.upper()


def names(text: str) -> list[str]:
    """The names in a list separated by commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return found


def natural(text: str) -> int:
    """A number from 1 on. What is larger than there can be of anything says as much as that."""
    if not (text.isascii() and text.isdigit() and len(text) < 1000 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return min(int(text), MOST)


def pass_on(arguments: Sequence[str]) -> list[str]:
    """The arguments with what `db psql` passes on behind a `--`, in its order: what is no option of
    ours belongs to psql."""
    words = list(arguments)
    if words[:2] != ["db", "psql"] or "--help" in words or "-h" in words[2:3]:
        return words
    ours, theirs, rest = words[:2], list[str](), words[2:]
    while rest:
        word = rest.pop(0)
        if word == "--":
            theirs += rest
            break
        if word in PLACE_OPTIONS:
            ours += [word, *rest[:1]]
            del rest[:1]
        elif word.startswith(tuple(f"{option}=" for option in PLACE_OPTIONS)):
            ours.append(word)
        else:
            theirs.append(word)
    return [*ours, "--", *theirs]
