"""The commands `completion` and `manual`: made of the same parser that reads the command line."""

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from bigbrotr import __version__
from bigbrotr.cli import parse
from bigbrotr.cli.output import NAME
from bigbrotr.cli.tree import Node, Word, is_shared, nodes, tree
from bigbrotr.errors import ConfigError

Parse = Callable[[], argparse.ArgumentParser]


def add(commands: parse.Group, parser: Parse, epilog: str) -> None:
    """Adds the commands; `parser` makes the parser of all."""
    words = "print what makes a shell complete our words"
    shell = parse.add(commands, "completion", lambda options: _completion(options, parser), words)
    shell.description = (
        f"{words[0].upper()}{words[1:]}. "
        f"bash: source <({NAME} completion bash). "
        f"zsh: source <({NAME} completion zsh). "
        f"fish: {NAME} completion fish | source."
    )
    shell.add_argument("shell", choices=list(SHELLS), help="the shell that is to complete")
    words = f"print the manual: {NAME} manual | man -l -"
    manual = parse.add(commands, "manual", lambda options: _manual(options, parser, epilog), words)
    manual.add_argument("--output", type=Path, metavar="FILE", help="write it into a file")


def _completion(options: argparse.Namespace, parser: Parse) -> int:
    print(SHELLS[options.shell](tree(parser())), end="")  # noqa: T201
    return 0


def _manual(options: argparse.Namespace, parser: Parse, epilog: str) -> int:
    text = manual(tree(parser()), epilog)
    if options.output is None:
        print(text, end="")  # noqa: T201
        return 0
    try:
        options.output.write_text(text, "utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot write {options.output}: {reason}") from None
    return 0


# Shells


def _next_words(node: Node) -> list[str]:
    """What may follow a command: commands, options, and the choices of words."""
    found = [child.path[-1] for child in node.below]
    for word in node.words:
        found += word.names or word.choices
    return found


def _options(root: Node) -> list[Word]:
    """All options that take a value, each once."""
    found = {word.names: word for node in nodes(root) for word in node.words if word.names}
    return [word for word in found.values() if word.value]


def _takes_file(node: Node) -> bool:
    return any(word.takes_file and not word.names for word in node.words)


def _paths(root: Node) -> list[str]:
    return [" ".join(node.path) for node in nodes(root) if node.path]


def bash(root: Node) -> str:
    """Completion for bash."""
    lines = [
        f"# bash completion of {NAME}",
        f"_{NAME}() {{",
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at= words= i",
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$at ${COMP_WORDS[i]}" in',
        f"            {' | '.join(_quoted(' ' + path) for path in _paths(root))})",
        '                at="$at ${COMP_WORDS[i]}" ;;',
        "        esac",
        "    done",
        "    COMPREPLY=()",
        '    case "$prev" in',
    ]
    for word in _options(root):
        lines.append(f"        {' | '.join(word.names)})")
        if word.choices:
            lines.append(
                f'            COMPREPLY=($(compgen -W "{" ".join(word.choices)}" -- "$cur"))'
            )
        elif word.takes_folder:
            lines.append('            compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))')
        elif word.takes_file:
            lines.append('            compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur"))')
        lines.append("            return ;;")
    lines += ["    esac", '    case "$at" in']
    for node in nodes(root):
        at = "".join(f" {each}" for each in node.path)
        lines.append(f'        "{at}") words="{" ".join(_next_words(node))}"')
        if _takes_file(node):
            lines.append("            if [[ $cur != -* ]]; then compopt -o default; words=; fi")
        lines.append("            ;;")
    return "\n".join(
        [
            *lines,
            "    esac",
            '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
            "}",
            f"complete -F _{NAME} {NAME}",
            "",
        ]
    )


def zsh(root: Node) -> str:
    """Completion for zsh."""
    lines = [
        f"#compdef {NAME}",
        f"_{NAME}() {{",
        "    local at= i",
        "    local -a shown",
        "    for ((i = 2; i < CURRENT; i++)); do",
        '        case "$at ${words[i]}" in',
        f"            ({'|'.join(_quoted(' ' + path) for path in _paths(root))})",
        '                at="$at ${words[i]}" ;;',
        "        esac",
        "    done",
        '    case "${words[CURRENT-1]}" in',
    ]
    for word in _options(root):
        lines.append(f"        ({'|'.join(word.names)})")
        if word.choices:
            lines.append(f"            compadd -- {' '.join(word.choices)}")
        elif word.takes_folder:
            lines.append("            _files -/")
        elif word.takes_file:
            lines.append("            _files")
        lines.append("            return ;;")
    lines += ["    esac", '    case "$at" in']
    for node in nodes(root):
        at = "".join(f" {each}" for each in node.path)
        told = [(child.path[-1], child.help) for child in node.below]
        told += [(name, word.help) for word in node.words for name in word.names]
        told += [(choice, "") for word in node.words if not word.names for choice in word.choices]
        pairs = " ".join(_quoted(f"{name}:{_plain(words)}") for name, words in told)
        lines.append(f"        ({_quoted(at)}) shown=({pairs})")
        if _takes_file(node):
            lines.append("            _files")
        lines.append("            ;;")
    return "\n".join(
        [
            *lines,
            "    esac",
            f"    _describe {NAME} shown",
            "}",
            f"if [[ $funcstack[1] == _{NAME} ]]",
            f'then _{NAME} "$@"; else compdef _{NAME} {NAME}; fi',
            "",
        ]
    )


def fish(root: Node) -> str:
    """Completion for fish."""
    paths = " ".join(_quoted(path) for path in _paths(root))
    lines = [
        f"# fish completion of {NAME}",
        f"function __{NAME}_at",
        "    set -l at",
        "    for word in (commandline -opc)[2..-1]",
        '        set -l longer (string trim "$at $word")',
        f"        contains -- $longer {paths}; and set at $longer",
        "    end",
        '    test "$at" = "$argv[1]"',
        "end",
        f"complete -c {NAME} -f",
    ]
    for node in nodes(root):
        here = f'__{NAME}_at "{" ".join(node.path)}"'
        at = f"complete -c {NAME} -n {_quoted(here)}"
        lines += [
            f"{at} -a {child.path[-1]} -d {_quoted(_plain(child.help))}" for child in node.below
        ]
        for word in node.words:
            if not word.names:
                if word.choices:
                    lines.append(f"{at} -a {_quoted(' '.join(word.choices))}")
                elif word.takes_file:
                    lines.append(f"{at} -F")
                continue
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in word.names
            )
            value = " -x" if word.value else ""
            if word.choices:
                value = f" -x -a {_quoted(' '.join(word.choices))}"
            elif word.takes_file or word.takes_folder:
                value = " -r -F"
            lines.append(f"{at} {names}{value} -d {_quoted(_plain(word.help))}")
    return "\n".join([*lines, ""])


SHELLS: dict[str, Callable[[Node], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _quoted(text: str) -> str:
    """In single quotes, as all three shells understand them; an apostrophe becomes a typographic
    one, which none of them minds."""
    return "'" + text.replace("'", "\u2019") + "'"


def _plain(text: str) -> str:
    """A help text on one line, without what zsh takes for a separator."""
    return re.sub(r"\s+", " ", text).replace("%%", "%").replace(":", ";")


# The manual


def manual(root: Node, epilog: str) -> str:
    """The manual page, in the language of man(7)."""
    return "\n".join(_manual_lines(root, epilog)) + "\n"


def _manual_lines(root: Node, epilog: str) -> Iterator[str]:
    yield f'.TH {NAME.upper()} 1 "" "{NAME} {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"{NAME} \\- an observatory and archive of the Nostr network"
    yield ".SH SYNOPSIS"
    yield f".B {NAME}"
    yield "command [option ...] [word ...]"
    yield ".SH DESCRIPTION"
    yield _roff(
        f"{NAME} finds relays of the Nostr network, measures them, copies their events into "
        "PostgreSQL, and knows which relay holds which event."
    )
    yield ".SH COMMANDS"
    shared: dict[tuple[str, ...], Word] = {}
    for node in nodes(root):
        if not node.path or node.below:
            continue
        own = [word for word in node.words if not is_shared(word) and "--help" not in word.names]
        shared |= {word.names: word for word in node.words if is_shared(word)}
        plain = " ".join(word.value for word in own if not word.names)
        yield ".TP"
        yield f"\\fB{_roff(' '.join((NAME, *node.path)))}\\fR {_roff(plain)}".rstrip()
        yield _roff(f"{node.help[:1].upper()}{node.help[1:]}.")
        if own:
            yield ".RS"
            for word in own:
                yield from _entry(word)
            yield ".RE"
    yield ".SH OPTIONS"
    yield _roff("Most commands are about one archive. These options say which:")
    for word in shared.values():
        yield from _entry(word)
    yield ".SH ENVIRONMENT"
    for name, words in ENVIRONMENT.items():
        yield from (".TP", f".B {name}", _roff(words))
    yield ".SH EXIT STATUS"
    for line in epilog.strip().splitlines()[1:]:
        code, _, words = line.strip().partition("  ")
        yield from (".TP", f".B {code}", _roff(words))
    yield ".SH FILES"
    for name, words in FILES.items():
        yield from (".TP", f".I {_roff(name)}", _roff(words))


ENVIRONMENT = {
    "BIGBROTR_CONFIG": "A file of settings, where --config names none.",
    "BIGBROTR_PROFILE": "The profile of a new archive, where --profile names none.",
    "DB_PASSWORD, DB_PASSWORD_FILE": "The password of a database of your own, or a file with it.",
    "PRIVATE_KEY, PRIVATE_KEY_FILE": "The key that signs what is published, or a file with it.",
    "RANKS_PRIVATE_KEY, RANKS_PRIVATE_KEY_FILE": "The key that signs ranks, or a file with it.",
    "XDG_DATA_HOME, STATE_DIRECTORY": "Below or in it the embedded database lies.",
}
FILES = {
    "~/.local/share/bigbrotr": "The data of an embedded archive, unless told otherwise.",
    "/etc/bigbrotr/bigbrotr.toml": "The settings of the service of systemd.",
}


def _entry(word: Word) -> Iterator[str]:
    yield ".TP"
    names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in word.names)
    yield f"{names} \\fI{_roff(word.value)}\\fR".strip() if word.value else names
    yield _roff(_plain(word.help).replace(";", ":") or word.value)


def _roff(text: str) -> str:
    """Text that means nothing to troff; hyphens that are typed stay what they are."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    escaped = escaped.replace("\u2026", "...").replace("%%", "%")
    if escaped.startswith("{"):
        escaped = escaped.replace(",", ", ")  # where a long list may be broken
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
