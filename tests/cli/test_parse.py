"""The command line as a person meets it: one clear sentence for each mistake, and its exit code."""

import argparse
import re
from pathlib import Path

import pytest

from bigbrotr import cli
from bigbrotr.cli import main, parse
from tests.kit.processes import call

COMMANDS = [
    "",
    "run",
    "demo",
    "status",
    "where",
    "seed",
    "config",
    "config show",
    "config check",
    "config init",
    "doctor",
    "completion",
    "manual",
    "db",
    "db url",
    "db migrate",
    "db distribute",
    "db psql",
    "health",
    "db roles",
    "db backup",
    "db restore",
]


@pytest.mark.parametrize("command", COMMANDS)
async def test_help_everywhere(command: str) -> None:
    done = await call(*command.split(), "--help")
    assert done.code == 0
    assert "usage: bigbrotr" in done.out
    assert done.err == ""


@pytest.mark.slow
async def test_version_and_nothing() -> None:
    assert re.fullmatch(r"bigbrotr \d+\.\d+\.\d+\n", (await call("--version")).out)
    assert (await call()).code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("run --config /nowhere/a.toml", 2, "/nowhere/a.toml: No such file"),
        ("run --config /", 2, "/: Is a directory"),
        ("run --profile medium", 2, "a profile is full or lite"),
        ("run --only seeder,finda", 2, "no service is called 'finda'"),
        ("run --only ,", 2, "',' names nothing"),
        ("run --log-level LOUD", 2, "unknown log level 'LOUD'"),
        ("seed notaurl", 2, "notaurl: No such file"),
        ("seed nofile.toml.d/x", 2, "nofile.toml.d"),
        ("db restore /nowhere/a.dump", 2, "cannot restore /nowhere/a.dump: there is no such file"),
        ("status --sort size", 2, "choose from 'holds'"),
        ("status --limit 0", 2, "is not a number from 1 on"),
        ("status --relay http://a.example", 2, "http://a.example is not a relay URL"),
        ("seed http://example.com", 2, "http://example.com is not a relay URL"),
        ("seed ws://127.0.0.1:7777", 2, "[networks.local]"),
        ("frobnicate", 2, "invalid choice"),
        ("status", 3, "there is no archive in"),
        ("db psql", 3, "there is no archive in"),
    ],
)
async def test_mistake_on_the_command_line(
    arguments: str, code: int, words: str, tmp_path: Path
) -> None:
    options = ["--data-dir", str(tmp_path / "data")]
    done = await call(*arguments.split(), *(options if code == 3 else []), cwd=tmp_path)
    assert done.code == code
    assert words in done.sentence
    assert not (tmp_path / "data").exists()


NSEC = "nsec1" + 58 * "q"


@pytest.mark.parametrize(
    "words",
    [
        "where {}",
        "where nostr:{}",
        "seed {}",
        "seed http://me:{}@relay.example",
        "run --profile {}",
        "run --log-level {}",
        "run --only {}",
        "run --unknown={}",
        "run --config {}",
        "config check {}",
        "{}",
    ],
)
def test_a_private_key_is_not_repeated(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for secret in (NSEC, NSEC.upper()):
        arguments = words.format(secret).split()
        if words.startswith(("seed", "where")):
            arguments += ["--data-dir", str(tmp_path / "data")]
        try:
            code: object = main(arguments)
        except SystemExit as left:
            code = left.code
        assert code == 2
        said = capsys.readouterr()
        assert "bigbrotr" in said.err
        assert "qqqq" not in (said.out + said.err).lower()


def test_each_family_has_the_commands_that_it_is_known_by() -> None:
    """Of a command that is typed, only the family is imported."""
    every = set(choices(cli.parser()))
    known = {name for those in cli.FAMILIES.values() for name in those}
    assert every - known == {"completion", "manual"}
    for those in cli.FAMILIES.values():
        for name in those:
            assert choices(cli.parser(name)) == list(those)


def choices(top: parse.Top) -> list[str]:
    (commands,) = (each for each in top._actions if isinstance(each, argparse._SubParsersAction))
    return list(commands.choices)
