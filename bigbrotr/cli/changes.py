"""The command `changes`: which relays went down and came back."""

import argparse
import asyncio
import sys

import msgspec

from bigbrotr.cli import parse
from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.status import no_relay, relay_of
from bigbrotr.core.logger import printable
from bigbrotr.errors import ConfigError
from bigbrotr.reads.changes import (
    Change,
    changes_after,
    ends,
    latest_changes,
    place_to_go_on,
)
from bigbrotr.view.words import moment

ROWS = 40  # the newest, unless more are asked for
PAGE = 1000
LOOK_S = 1.0  # between two looks for new ones


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "which relays went down and came back, and why"
    changes = parse.add(commands, "changes", _changes, words, shared.place)
    changes.add_argument(
        "--follow", action="store_true", help="go on with those to come, until Ctrl-C"
    )
    changes.add_argument("--relay", metavar="URL", help="of one relay")
    changes.add_argument(
        "--after", type=_number, metavar="N", help="all behind the change of this number"
    )
    changes.add_argument(
        "--limit",
        type=parse.natural,
        metavar="N",
        help=f"so many at most, the newest (default: {ROWS}) or, with --after, the next",
    )
    changes.add_argument("--json", action="store_true", help="a JSON object a line")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a change")
    return int(text)


def _changes(options: argparse.Namespace) -> int:
    if options.follow and options.after is not None and options.limit is not None:
        raise ConfigError("--after with --follow tells all: leave --limit out")
    relay = None if options.relay is None else relay_of(options.relay).url
    return loop(_print(find(options), relay, options))


async def _print(there: Place, relay: str | None, options: argparse.Namespace) -> int:
    async with database(there) as brotr:
        if relay is not None and not await brotr.pool.fetchval(
            "SELECT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.url = $1)", relay
        ):
            raise ConfigError(no_relay(relay))
        reach = await ends(brotr.pool)
        after, limit = options.after, options.limit
        if after is None:
            shown = await latest_changes(brotr.pool, limit or ROWS, relay=relay)
            _show(shown[::-1], is_json=options.json)
            after = reach.last if not shown else max(reach.last, shown[0].id)
            if not shown and not options.follow:
                say(f"the monitor has found no change{' of it' if relay else ''} yet")
            if not options.follow:
                return 0
        elif (place := place_to_go_on(after, reach)) is not None:
            why = f"changes behind {after} are not kept any more"
            if after > reach.last:
                why = f"there is no change {after} here, the last is {reach.last}"
            say(f"{why}: going on behind {place}")
            after = place
        while limit is None or limit > 0 or options.follow:
            size = PAGE if limit is None or options.follow else min(PAGE, limit)
            found = await changes_after(brotr.pool, after, size, relay=relay)
            _show(found, is_json=options.json)
            if found:
                after = found[-1].id
                if limit is not None:
                    limit -= len(found)
            if len(found) < size:
                if not options.follow:
                    return 0
                await asyncio.sleep(LOOK_S)
    return 0


def _show(changes: list[Change], *, is_json: bool) -> None:
    for each in changes:
        print(msgspec.json.encode(each).decode() if is_json else line_of(each))  # noqa: T201
    sys.stdout.flush()


def line_of(change: Change) -> str:
    """A change for people."""
    reason = f"  {printable(change.reason)}" if change.reason else ""
    return (
        f"{change.id}  {moment(change.since)}  {change.before} -> {change.state}"
        f"  {change.relay}{reason}"
    )
