"""The command `events`: the archived events that match a filter, as JSON lines."""

import argparse
import datetime
import sys

from bigbrotr.cli import parse
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.models.filter import public_key
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query
from bigbrotr.models.where import parse_event_id
from bigbrotr.reads.events import EventReads, NotKeptError, NotSearchedError

LIMIT = 500  # unless more is asked for


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "the archived events that match, newest first, a line of JSON each"
    events = parse.add(commands, "events", _events, words, shared.place)
    add_conditions(events, View.KEPT)
    events.add_argument(
        "--search",
        metavar="WORDS",
        help='words that all occur, "phrases", and -words that do not, where there is an index',
    )
    events.add_argument(
        "--limit",
        type=parse.natural,
        metavar="N",
        help=f"so many at most (default: that of the filter, else {LIMIT})",
    )
    events.add_argument("--all", action="store_true", help="however many there are")


def add_conditions(parser: parse.Parser, view: View) -> None:
    """Adds the options that say which events are wanted; `view`: which of them are shown, unless
    they say otherwise."""
    parser.add_argument("--filter", metavar="JSON", help="a filter of NIP-01; or, in its place:")
    parser.add_argument(
        "--id",
        action="append",
        metavar="EVENT",
        help="in hex, a note or an nevent; may be repeated",
    )
    parser.add_argument(
        "--author", action="append", metavar="NPUB", help="an npub or hex; may be repeated"
    )
    parser.add_argument("--kind", action="append", type=int, metavar="N", help="may be repeated")
    parser.add_argument(
        "--tag", action="append", metavar="LETTER=VALUE", help="e.g. t=nostr; may be repeated"
    )
    words = "from then on: a date (of UTC) or Unix seconds"
    parser.add_argument("--since", type=moment, metavar="TIME", help=words)
    parser.add_argument("--until", type=moment, metavar="TIME", help="up to then")
    parser.add_argument(
        "--view",
        choices=[view.value for view in View],
        default=view.value,
        help="current: as a relay would show them; archive: with what was replaced; kept: all that "
        f"is kept (default: {view.value})",
    )


def moment(text: str) -> int:
    """Unix seconds, given as they are or as a date of UTC."""
    if text.isascii() and text.isdigit():
        return min(int(text), MAX_CREATED_AT)
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a date such as 2024-05-01 nor Unix seconds"
        ) from None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0, int(date.timestamp()))


def _events(options: argparse.Namespace) -> int:
    query = query_of(options)
    return loop(_print(find(options), query, View(options.view)))


def query_of(options: argparse.Namespace) -> Query:
    """The query that the options make.

    Raises:
        ConfigError: one is wrong.
    """
    query = conditions_of(options)
    limit = options.limit or (LIMIT if query.limit is None else query.limit)
    return Query(
        ids=query.ids,
        authors=query.authors,
        kinds=query.kinds,
        tags=query.tags,
        since=query.since,
        until=query.until,
        limit=None if options.all else limit,
        search=query.search,
    )


def conditions_of(options: argparse.Namespace) -> Query:
    """The query that the options of `add_conditions` make.

    Raises:
        ConfigError: one is wrong.
    """
    names = ("id", "author", "kind", "tag", "since", "until", "search")
    parts = [getattr(options, name, None) for name in names]
    if options.filter is not None and any(part is not None for part in parts):
        raise ConfigError("--filter says all: leave --id, --author, --kind, --tag and times out")
    try:
        if options.filter is not None:
            return Query.from_json(options.filter)
        return Query.from_object(_parts(options))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _parts(options: argparse.Namespace) -> dict[str, object]:
    """The filter that the single options make."""
    filter_: dict[str, object] = {}
    if options.id:
        filter_["ids"] = [parse_event_id(text).hex() for text in options.id]
    if options.author:
        filter_["authors"] = [public_key(text) for text in options.author]
    if options.kind:
        filter_["kinds"] = options.kind
    tags: dict[str, list[str]] = {}
    for text in options.tag or ():
        letter, mark, value = text.partition("=")
        if not mark:
            raise ValueError(f"--tag {text}: give it as LETTER=VALUE, e.g. t=nostr")
        tags.setdefault(f"#{letter}", []).append(value)
    if getattr(options, "search", None) is not None:
        filter_["search"] = options.search
    for name in ("since", "until"):
        if (at := getattr(options, name)) is not None:
            filter_[name] = at
    return {**filter_, **tags}


async def _print(there: Place, query: Query, view: View) -> int:
    write = sys.stdout.buffer.write
    async with database(there) as brotr:
        try:
            async for event in EventReads(brotr.pool, view).all(query):
                write(event.to_json() + b"\n")
        except (NotKeptError, NotSearchedError) as error:
            raise ConfigError(str(error)) from None
    sys.stdout.flush()
    return 0
