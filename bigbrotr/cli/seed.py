"""The command `seed`: adds candidates by hand."""

import argparse
import sys
from pathlib import Path

from bigbrotr.cli import parse
from bigbrotr.cli.output import say
from bigbrotr.cli.place import database, find, loop
from bigbrotr.cli.status import relay_of
from bigbrotr.errors import ConfigError
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.seeder import read_seeds, read_seeds_of, usable_relays


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    seed = parse.add(commands, "seed", _seed, "add candidates", shared.place)
    seed.add_argument(
        "what",
        nargs="+",
        metavar="URL|FILE|-",
        help="relay URLs (without a scheme: wss://), files of them, or - for standard input",
    )


def _seed(options: argparse.Namespace) -> int:
    there = find(options)

    async def work() -> int:
        relays: list[Relay] = []
        junk: list[str] = []
        for what in options.what:
            if is_url(what):
                relays.append(relay_of(what))
                continue
            if what == "-":
                source, (found, lines) = "standard input", read_seeds_of(sys.stdin.buffer.read())
            else:
                source, (found, lines) = what, await read_seeds(Path(what))
            relays += found
            junk += [f"{source}, line {number}: {reason}" for number, reason in lines]
        usable = usable_relays(relays, there.config.networks)
        for relay in relays:
            if relay.network is Network.LOCAL and relay not in usable:
                junk.append(f"{relay.url} is local: allow it with [networks.local] enabled = true")
        if not usable:
            raise ConfigError(f"nothing to add: {junk[0] if junk else 'no relay URL was given'}")
        async with database(there, is_new=True) as brotr:
            added = await brotr.insert_candidates(usable, "command", is_typed=True)
        for words in junk:
            say(f"left out: {words}")
        print(f"added {added}, known before {len(set(usable)) - added}")  # noqa: T201
        return 0

    return loop(work())


def is_url(what: str) -> bool:
    """Whether an argument is meant as a URL: it has a scheme, or is no file and looks like a host
    (relay.example.com, relay.example.com:8080/path)."""
    if "://" in what:
        return True
    host = what.split("/")[0].split(":")[0]
    looks = "." in host.strip(".") and not what.startswith((".", "/", "~"))
    try:
        return looks and not Path(what).exists()
    except (OSError, ValueError):  # no path, or none in this locale
        return False
