"""The command `at-risk`: events that one relay alone holds, or failing ones only."""

import argparse

from bigbrotr.cli import parse
from bigbrotr.cli.output import print_json
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import MAX_KIND
from bigbrotr.models.filter import public_key
from bigbrotr.models.relay import Relay
from bigbrotr.reads.at_risk import (
    AtRiskReads,
    AuthorRisk,
    RiskSummary,
    author_risk,
    kinds_at_risk,
    risk_summary,
)
from bigbrotr.view.table import Column, lay_out
from bigbrotr.view.words import moment

ROWS = 40  # that are shown to people, unless more are asked for


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "events that one relay alone holds, or only relays that are failing or retired"
    risk = parse.add(commands, "at-risk", _at_risk, words, shared.place)
    what = risk.add_mutually_exclusive_group()
    what.add_argument("--author", metavar="NPUB", help="those of an author: npub or hex")
    what.add_argument("--relay", metavar="URL", help="those that a relay holds, by kind")
    risk.add_argument(
        "--kind", action="append", type=kind, metavar="N", help="of this kind; may be repeated"
    )
    risk.add_argument("--json", action="store_true", help="for programs")
    risk.add_argument(
        "--limit",
        type=parse.natural,
        metavar="N",
        help=f"so many relays at most (default: {ROWS}; with --json: all)",
    )


def kind(text: str) -> int:
    """The kind of an event."""
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_KIND):
        raise argparse.ArgumentTypeError(f"{text!r} is no kind: a number from 0 to {MAX_KIND}")
    return int(text)


def _at_risk(options: argparse.Namespace) -> int:
    if options.author is not None:
        try:
            author = public_key(options.author)
        except ValueError as error:
            raise ConfigError(f"--author: {error}") from None
        return loop(_of_author(find(options), bytes.fromhex(author), options))
    if options.relay is not None:
        try:
            url = Relay(options.relay).url
        except ValueError as error:
            raise ConfigError(f"--relay {options.relay}: {error}") from None
        return loop(_of_relay(find(options), url, options))
    return loop(_of_all(find(options), options))


async def _of_all(there: Place, options: argparse.Namespace) -> int:
    limit = options.limit or (10**9 if options.json else ROWS)
    async with database(there) as brotr:
        summary = await risk_summary(brotr.pool)
        rows = [
            row
            for _, row in await AtRiskReads(brotr.pool).page(
                "risk", None, limit, kinds=options.kind
            )
        ]
    if options.json:
        print_json({"summary": summary, "relays": rows})
        return 0
    cells = [
        [row.relay, row.state, row.stage, f"{row.alone:,}", f"{row.endangered:,}"] for row in rows
    ]
    names = ("relay", "state", "copying", "alone", "endangered")
    _print_table(names, cells, numbers=2)
    _say(summary)
    return 0


async def _of_relay(there: Place, url: str, options: argparse.Namespace) -> int:
    async with database(there) as brotr:
        summary = await risk_summary(brotr.pool)
        found = await kinds_at_risk(brotr.pool, url)
    if found is None:
        raise ConfigError(f"{url} is no relay of this archive")
    kinds = [each for each in found if not options.kind or each.kind in options.kind]
    if options.json:
        print_json({"relay": url, "summary": summary, "kinds": kinds})
        return 0
    cells = [[str(each.kind), f"{each.alone:,}", f"{each.endangered:,}"] for each in kinds]
    _print_table(("kind", "alone", "endangered"), cells, numbers=3)
    _say(summary)
    return 0


async def _of_author(there: Place, author: bytes, options: argparse.Namespace) -> int:
    async with database(there) as brotr:
        found = await author_risk(brotr.pool, author, kinds=options.kind)
    if options.json:
        print_json(found)
        return 0
    cells = [
        [str(each.kind), *(f"{n:,}" for n in (each.events, each.alone, each.endangered, each.lost))]
        for each in found.kinds
    ]
    _print_table(("kind", "events", "alone", "endangered", "lost"), cells, numbers=5)
    if found.relays:
        print()  # noqa: T201
        cells = [
            [
                each.relay,
                "failing" if each.is_failing else "well",
                *(f"{n:,}" for n in (each.held, each.alone, each.endangered)),
            ]
            for each in found.relays[: options.limit or ROWS]
        ]
        _print_table(("relay", "state", "held", "alone", "endangered"), cells, numbers=3)
    _say_author(found)
    return 0


def _say(summary: RiskSummary) -> None:
    counted = "never" if summary.counted_at is None else moment(summary.counted_at)
    print(  # noqa: T201
        f"\n{summary.alone:,} events are at one relay alone; {summary.endangered:,} at failing or "
        "retired relays only.\n"
        f"Counted were {summary.counted:,} of {summary.archived:,} archived events, last "
        f"{counted}; {summary.days_waiting:,} days wait to be counted again.\n"
        f"That is known of {summary.copied:,} relays; of the {summary.relays:,} relays here, "
        f"{summary.failing:,} are failing. Events that more than three relays hold count as safe."
    )


def _say_author(found: AuthorRisk) -> None:
    of = "all archived events" if found.is_complete else "the newest archived events"
    print(  # noqa: T201
        f"\nOf {found.events:,} events ({of}), as of {moment(found.as_of)}: {found.alone:,} at one "
        f"relay alone, {found.endangered:,} at failing or retired relays only, {found.lost:,} at "
        f"none.\nThat is known of {found.relays_known:,} relays: others may hold them as well."
    )


def _print_table(names: tuple[str, ...], cells: list[list[str]], *, numbers: int) -> None:
    """Prints rows; the last columns are numbers."""
    first = len(names) - numbers
    columns = [
        Column(name, [row[place] for row in cells], is_number=place >= first)
        for place, name in enumerate(names)
    ]
    for line in lay_out(columns, None):
        print(line.plain)  # noqa: T201
