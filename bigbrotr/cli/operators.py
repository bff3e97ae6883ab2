"""The command `operators`: which relays are one operator's, and why one may think so."""

import argparse

import msgspec

from bigbrotr.cli import parse
from bigbrotr.cli.output import print_json, print_lines, say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.status import no_relay, relay_of
from bigbrotr.core.logger import printable
from bigbrotr.errors import ConfigError
from bigbrotr.models.relay import Relay
from bigbrotr.reads.operators import RelayOperator, list_operators, relay_operator
from bigbrotr.view.words import moment

PAGE = 1000


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "which relays are one operator's, and the evidence for it"
    operators = parse.add(commands, "operators", _operators, words, shared.place)
    operators.add_argument(
        "relay", nargs="?", metavar="RELAY", help="the evidence on one relay; without: all"
    )
    operators.add_argument("--json", action="store_true", help="for programs")


def _operators(options: argparse.Namespace) -> int:
    relay = None if options.relay is None else relay_of(options.relay)
    there = find(options)
    if relay is None:
        return loop(_print(there, is_json=options.json))
    return loop(_print_relay(there, relay, is_json=options.json))


async def _print(there: Place, *, is_json: bool) -> int:
    number = 0
    after: int | None = None
    async with database(there) as brotr:
        while page := await list_operators(brotr.pool, after, PAGE):
            for after, each in page:  # noqa: B007 -- the last one is where the next page begins
                number += 1
                words = "  ".join([*each.relays, *(f"({alias})" for alias in each.aliases)])
                print(msgspec.json.encode(each).decode() if is_json else words)  # noqa: T201
    if not number:
        say("no relays are known to be one operator's yet")
    return 0


async def _print_relay(there: Place, relay: Relay, *, is_json: bool) -> int:
    async with database(there) as brotr:
        found = await relay_operator(brotr.pool, relay.url)
    if found is None:
        raise ConfigError(no_relay(relay.url))
    if is_json:
        print_json(found)
        return 0
    print_lines(lines_of(found))
    return 0


def lines_of(found: RelayOperator) -> list[str]:
    """What is known of the operator of a relay, for people."""
    lines = [f"{found.relay}: " + ("one of" if len(found.relays) > 1 else "alone, as far as known")]
    lines += [f"  {url}" for url in found.relays if len(found.relays) > 1]
    lines += [f"  {url} (repeats one of them)" for url in found.aliases]
    for each in found.evidence:
        joins = "joins" if each.joins else "does not suffice"
        lines.append(
            f"{each.kind}: {each.relay} and {each.other}: {printable(each.detail)}"
            f" (since {moment(each.first_at)}; {joins})"
        )
    if found.as_of is not None and found.share is not None:
        lines.append(
            f"as of {moment(found.as_of)}; of {found.share:.0%} of the relays a document or a "
            "certificate is known"
        )
    return lines
