"""The commands `health` and `doctor`: how a bigbrotr is, and what keeps one from working."""

import argparse

from bigbrotr.cli import parse
from bigbrotr.cli.output import shown
from bigbrotr.cli.place import find, loop
from bigbrotr.core.identity import identity
from bigbrotr.errors import ConfigError
from bigbrotr.serve.ask import ask


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the commands."""
    words = "ask the bigbrotr that runs this archive how it is: 0 if well"
    alive = parse.add(commands, "health", _health, words, shared.place)
    alive.add_argument("--alive", action="store_true", help="only whether the process goes on")
    words = "look for what keeps an archive from working, and say what to do"
    parse.add(commands, "doctor", _doctor, words, shared.place)


def _health(options: argparse.Namespace) -> int:
    there = find(options, may_start=False)
    web = there.config.web
    if not web.listen:
        raise ConfigError('there is nobody to ask: set [web] listen = "127.0.0.1:9464"')
    path = "/healthz" if options.alive else "/readyz"
    name = identity(there.config.database, there.data_dir)
    is_well, words = ask(*web.address(), path, identity=name)
    print(shown(words))  # noqa: T201
    return 0 if is_well else 1


def _doctor(options: argparse.Namespace) -> int:
    from bigbrotr.cli.doctor import examine  # looks at all services: nobody else waits for them

    return loop(examine(find(options, may_start=False)))
