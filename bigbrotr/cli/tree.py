"""The commands and options of a parser as plain values, to make completions and the manual of."""

import argparse
from pathlib import Path
from typing import NamedTuple

from bigbrotr.cli.parse import PLACE_OPTIONS

FILE_OPTIONS = ("--config",)
FOLDER_OPTIONS = ("--data-dir",)


class Word(NamedTuple):
    """An option, or a positional word."""

    names: tuple[str, ...]  # of an option; none: a word
    value: str  # how its value is called; empty: it has none
    help: str
    choices: tuple[str, ...] = ()  # what the value may be
    takes_file: bool = False
    takes_folder: bool = False


class Node(NamedTuple):
    """A command, or a family of commands."""

    path: tuple[str, ...]  # its words; () for the program itself
    help: str
    words: tuple[Word, ...]
    below: tuple["Node", ...]


def tree(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), help_: str = "") -> Node:
    """All that a parser takes."""
    words: list[Word] = []
    below: list[Node] = []
    for action in parser._actions:  # noqa: SLF001 -- there is no public way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            told = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001
            below += [
                tree(child, (*path, name), told.get(name, ""))
                for name, child in action.choices.items()
            ]
        else:
            words.append(_word(action))
    return Node(path, help_, tuple(words), tuple(below))


def _word(action: argparse.Action) -> Word:
    names = tuple(action.option_strings)
    value = "" if action.nargs == 0 else str(action.metavar or action.dest)
    choices = tuple(map(str, action.choices or ()))
    if not choices and value.startswith("{"):
        choices = tuple(value.strip("{}").split(","))
    if choices:
        value = "{" + ",".join(choices) + "}"
    is_path = action.type is Path
    takes_folder = any(name in FOLDER_OPTIONS for name in names)
    takes_file = (is_path or "FILE" in value) and not takes_folder
    return Word(names, value, action.help or "", choices, takes_file, takes_folder)


def nodes(node: Node) -> list[Node]:
    """The node and all below it, in order."""
    return [node, *(each for child in node.below for each in nodes(child))]


def is_shared(word: Word) -> bool:
    """Whether an option says which archive is meant, as those of most commands do."""
    return any(name in PLACE_OPTIONS for name in word.names)
