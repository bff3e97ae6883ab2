"""The command `stats`: figures of the archive."""

import argparse
import csv
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.text import Text

from bigbrotr.cli import parse
from bigbrotr.cli.events import moment
from bigbrotr.cli.output import print_json
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.errors import ConfigError
from bigbrotr.reads.statistics import STATISTICS, Description, Statistic, descriptions, figures
from bigbrotr.view.table import Column, lay_out

ROWS = 40  # that are shown to people, unless more are asked for
PAGE = 1000  # rows that are read at once


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "figures of the archive: by day, by relay, of relays"
    stats = parse.add(commands, "stats", _stats, words, shared.place)
    stats.add_argument(
        "name",
        nargs="?",
        choices=list(STATISTICS),
        metavar="NAME",
        help="which figures; without: a list of them",
    )
    stats.add_argument("--json", action="store_true", help="for programs")
    stats.add_argument("--csv", action="store_true", help="for spreadsheets")
    words = "days from then on: a date (of UTC) or Unix seconds"
    stats.add_argument("--since", type=moment, metavar="TIME", help=words)
    stats.add_argument("--until", type=moment, metavar="TIME", help="days before then")
    stats.add_argument(
        "--limit",
        type=parse.natural,
        metavar="N",
        help=f"so many rows at most (default: {ROWS}; with --json and --csv: all)",
    )


def _stats(options: argparse.Namespace) -> int:
    if options.json and options.csv:
        raise ConfigError("--json or --csv, not both")
    if options.name is None:
        _show(options, Description, descriptions())
        return 0
    statistic = STATISTICS[options.name]
    if not statistic.is_by_day and (options.since is not None or options.until is not None):
        raise ConfigError(f"{statistic.name} are not by day: leave --since and --until out")
    return loop(_print(find(options), statistic, options))


async def _print(there: Place, statistic: Statistic, options: argparse.Namespace) -> int:
    limit = options.limit or (None if options.json or options.csv else ROWS)
    rows: list[Any] = []
    after = None
    async with database(there) as brotr:
        while limit is None or len(rows) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(rows))
            page = await figures(
                brotr.pool, statistic, after, size, since=options.since, until=options.until
            )
            rows += [row for _, row in page]
            if len(page) < size:
                break
            after = page[-1][0]
    _show(options, statistic.item, rows)
    return 0


def _show(options: argparse.Namespace, item: type[msgspec.Struct], rows: Sequence[Any]) -> None:
    names = [field.name for field in msgspec.structs.fields(item)]
    if options.json:
        print_json(rows)
        return
    cells = [[_cell(getattr(row, name)) for name in names] for row in rows]
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(cells)
        return
    for line in lay_out(_columns(names, cells), None):
        print(_plain(line))  # noqa: T201


def _columns(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[Column]:
    return [
        Column(name, column, is_number=all(_is_number(cell) for cell in column))
        for place, name in enumerate(names)
        for column in [[row[place] for row in cells]]
    ]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit() or not text


def _plain(line: Text) -> str:
    return line.plain
