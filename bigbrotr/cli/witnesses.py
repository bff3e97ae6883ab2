"""The command `witnesses`: what other monitors say, beside what ours has found."""

import argparse

from bigbrotr.cli import parse
from bigbrotr.cli.output import print_json, print_lines, say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.status import no_relay, relay_of
from bigbrotr.errors import ConfigError
from bigbrotr.models.relay import Relay
from bigbrotr.reads.witnesses import (
    RelayWitnesses,
    Says,
    Witness,
    list_witnesses,
    relay_witnesses,
)
from bigbrotr.view.table import Column, lay_out
from bigbrotr.view.words import ago, moment

ROWS = 1000


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "what other monitors say of relays, and how far they agree with ours"
    witnesses = parse.add(commands, "witnesses", _witnesses, words, shared.place)
    witnesses.add_argument(
        "relay",
        nargs="?",
        metavar="RELAY",
        help="what they say of one relay; without: who they are",
    )
    witnesses.add_argument("--json", action="store_true", help="for programs")


def _witnesses(options: argparse.Namespace) -> int:
    relay = None if options.relay is None else relay_of(options.relay)
    there = find(options)
    if relay is None:
        return loop(_print(there, is_json=options.json))
    return loop(_print_relay(there, relay, is_json=options.json))


async def _print(there: Place, *, is_json: bool) -> int:
    async with database(there) as brotr:
        found = [each for _, each in await list_witnesses(brotr.pool, None, ROWS)]
    if is_json:
        print_json(found)
    elif not found:
        say("no other monitor has said anything yet")
    else:
        _table(found)
    return 0


def _table(found: list[Witness]) -> None:
    columns = [
        Column("witness", [each.pubkey for each in found]),
        Column("reliability", [f"{each.reliability:.2f}" for each in found], is_number=True),
        Column("agrees", [_part(each.agreed, each.compared) for each in found]),
        Column("others", [_part(each.others_agreed, each.others_compared) for each in found]),
        Column("relays", [f"{each.relays:,}" for each in found], is_number=True),
        Column("of ours", ["" if each.share is None else f"{each.share:.0%}" for each in found]),
        Column("outliers", [_part(each.outliers, each.timed) for each in found]),
        Column("heard", [ago(each.heard_at) for each in found]),
    ]
    for line in lay_out(columns, None):
        print(line.plain)  # noqa: T201
    if (as_of := max((each.as_of or 0 for each in found), default=0)) > 0:
        print(f"as of {moment(as_of)}")  # noqa: T201


def _part(some: int, all_: int) -> str:
    return f"{some:,} of {all_:,}" if all_ else "-"


async def _print_relay(there: Place, relay: Relay, *, is_json: bool) -> int:
    async with database(there) as brotr:
        found = await relay_witnesses(brotr.pool, relay.url)
    if found is None:
        raise ConfigError(no_relay(relay.url))
    if is_json:
        print_json(found)
        return 0
    print_lines(lines_of(found))
    return 0


def lines_of(found: RelayWitnesses) -> list[str]:
    """What is said of a relay, for people."""
    checked = "never checked" if found.checked_at is None else f"checked {ago(found.checked_at)}"
    lines = [f"{found.relay}", f"ours: {_says(found.ours)} ({checked})"]
    for name, each in found.together.items():
        verdict = {True: "yes", False: "no", None: "undecided"}[each.verdict]
        beside = {True: "as ours", False: "not as ours", None: ""}[each.agrees]
        lines.append(
            f"together: {name} {verdict} ({each.share:.0%} of the weight of {each.witnesses})"
            f"{beside and f', {beside}'}"
        )
    for word in found.witnesses:
        mark = {True: "", False: "  DISAGREES", None: ""}[word.agrees]
        outlier = "  (its round trip is an outlier)" if word.is_outlier else ""
        lines.append(
            f"{word.pubkey}  {word.reliability:.2f}  {_says(word.says)}"
            f"  said {ago(word.said_at)}{mark}{outlier}"
        )
    lines.append(f"{len(found.witnesses)} of {found.known} witnesses speak of it")
    return lines


def _says(says: Says) -> str:
    parts = [{True: "up", False: "down", None: "says nothing"}[says.online]]
    for name in ("auth", "payment"):
        value = getattr(says, name)
        parts += [] if value is None else [name if value else f"no {name}"]
    if says.tls is not None:
        parts.append("certificate valid" if says.tls else "certificate invalid")
    if says.open_ms is not None:
        parts.append(f"opens in {says.open_ms:.0f} ms")
    return ", ".join(parts)
