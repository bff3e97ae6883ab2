"""The command `compliance`: what a relay holds although it was asked to delete it."""

import argparse
import sys

import msgspec

from bigbrotr.cli import parse
from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.status import no_relay, relay_of
from bigbrotr.errors import ConfigError
from bigbrotr.models.relay import Relay
from bigbrotr.reads.compliance import Kept, kept_by
from bigbrotr.view.words import moment


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "events that a relay holds although it holds a request for their deletion"
    compliance = parse.add(commands, "compliance", _compliance, words, shared.place)
    compliance.add_argument("relay", metavar="RELAY", help="its URL")
    compliance.add_argument("--json", action="store_true", help="a JSON object a line")


def _compliance(options: argparse.Namespace) -> int:
    return loop(_print(find(options), relay_of(options.relay), is_json=options.json))


async def _print(there: Place, relay: Relay, *, is_json: bool) -> int:
    number = proven = 0
    async with database(there) as brotr:
        known = await brotr.pool.fetchval(
            "SELECT true FROM bigbrotr.relays r WHERE r.url = $1", relay.url
        )
        if not known:
            raise ConfigError(no_relay(relay.url))
        async for kept in kept_by(brotr.pool, relay.url):
            number += 1
            proven += kept.held_as_of is not None
            print(msgspec.json.encode(kept).decode() if is_json else _line(kept))  # noqa: T201
    if sys.stderr.isatty() or not number:
        say(
            f"{relay.url}: {proven:,} events held after it was asked to delete them, "
            f"{number - proven:,} of which nothing was proven since"
        )
    return 0


def _line(kept: Kept) -> str:
    held = "not proven since" if kept.held_as_of is None else f"held {moment(kept.held_as_of)}"
    return f"{kept.event}  kind {kept.kind}  asked {moment(kept.asked_at)}  {held}"
