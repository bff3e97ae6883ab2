"""The command `author`: what somebody has said of themselves, now and at other times."""

import argparse
import datetime
import re

from bigbrotr.cli import parse
from bigbrotr.cli.events import moment as moment_of
from bigbrotr.cli.output import print_json, print_lines
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.models.filter import public_key
from bigbrotr.models.policy import View
from bigbrotr.reads.author_history import (
    AuthorHistory,
    AuthorThen,
    ListThen,
    Stay,
    author_history,
    author_then,
)
from bigbrotr.reads.events import EventReads, NotKeptError
from bigbrotr.view.words import day, moment

ROWS = 20  # moves and numbers of contacts that are shown to people
SHOWN = 200  # characters of a field of a profile


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "somebody's profile, relays and contacts, now or at another time, and their moves"
    author = parse.add(commands, "author", _author, words, shared.place)
    author.add_argument("author", metavar="NPUB", help="an npub or hex")
    author.add_argument(
        "--at",
        type=then,
        metavar="DATE",
        help="as of then: a date (of UTC), Unix seconds, or a month such as 2024-05: what was "
        "listed within it",
    )
    author.add_argument("--json", action="store_true", help="for programs")


def then(text: str) -> tuple[int, int]:
    """The first and the last second that are meant: of a month, of a day, or of an instant."""
    if found := re.fullmatch(r"([0-9]{4})-([0-9]{2})", text):
        year, month = int(found[1]), int(found[2])
        try:
            since = datetime.datetime(year, month, 1, tzinfo=datetime.UTC)
            until = datetime.datetime(year + month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no month") from None
        return max(0, int(since.timestamp())), max(0, int(until.timestamp()) - 1)
    at = moment_of(text)
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return at, at + 86_399
    return at, at


def _author(options: argparse.Namespace) -> int:
    try:
        author = public_key(options.author)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return loop(_print(find(options), bytes.fromhex(author), options))


async def _print(there: Place, author: bytes, options: argparse.Namespace) -> int:
    since, until = options.at or (0, MAX_CREATED_AT)
    async with database(there) as brotr:
        reads = EventReads(brotr.pool, View.ARCHIVE)
        try:
            now = await author_then(
                reads, brotr.pool, author, None if options.at is None else until
            )
            history = await author_history(
                reads, brotr.pool, author, since=since, until=until, budget_s=None
            )
        except NotKeptError as error:
            raise ConfigError(str(error)) from None
    if options.json:
        found = {"then": now, "history": history}
        print_json(found)
        return 0
    lines = [*_then_lines(now), *_history_lines(history, is_whole=options.at is None)]
    print_lines(lines)
    return 0


def _then_lines(found: AuthorThen) -> list[str]:
    lines = [f"{found.pubkey}, as of {moment(found.at)}"]
    profile = found.profile
    if profile is None:
        lines.append("no profile")
    else:
        lines.append(f"profile of {day(profile.created_at)}")
        lines += [
            f"  {name}: {' '.join(value.split())[:SHOWN]}"
            for name in ("name", "display_name", "nip05", "lud16", "website", "about")
            if (value := getattr(profile, name))
        ]
    lines += _list_lines(found.relays, "relays", "no list of relays")
    lines += _list_lines(found.inboxes, "relays for direct messages", "")
    if found.contacts is not None:
        of = day(found.contacts.created_at)
        lines.append(f"follows {found.contacts.contacts:,}, says the list of {of}")
    return lines


def _list_lines(found: ListThen | None, name: str, otherwise: str) -> list[str]:
    if found is None:
        return [otherwise] if otherwise else []
    share = ""
    if found.known:
        share = f", {found.dead} of {found.known} dead today"
    lines = [f"{name} since {day(found.created_at)}{share}"]
    for each in found.relays:
        use = f" ({_use(read=each.read, write=each.write)})" if found.kind == 10002 else ""
        lines.append(f"  {each.url}{use}: {STATES[each.state]}")
    return lines


STATES = {
    "up": "up",
    "failing": "failing or retired",
    "never": "never reached",
    "unknown": "not known here",
}


def _use(*, read: bool, write: bool) -> str:
    return "reads and writes" if read and write else "reads" if read else "writes"


def _history_lines(found: AuthorHistory, *, is_whole: bool) -> list[str]:
    lines = []
    if not is_whole and found.stays:
        lines.append("listed within that time")
        lines += [f"  {_stay(each)}" for each in found.stays]
    if found.moves:
        lines.append("moves")
        for move in found.moves[:ROWS]:
            use = "" if move.change == "removed" else f" ({_use(read=move.read, write=move.write)})"
            lines.append(f"  {day(move.at)} {move.change} {move.relay}{use}")
        if len(found.moves) > ROWS:
            lines.append(f"  and {len(found.moves) - ROWS:,} more: --json has them")
    if len(found.contacts) > 1:
        lines.append("contacts through time")
        lines += [f"  {day(each.created_at)} {each.contacts:,}" for each in found.contacts[:ROWS]]
        if len(found.contacts) > ROWS:
            lines.append(f"  and {len(found.contacts) - ROWS:,} more: --json has them")
    lines.append(
        f"From {found.versions:,} lists, {len(found.profiles):,} profiles and "
        f"{len(found.contacts):,} lists of contacts that were met at {found.relays_known:,} relays"
        f"{'' if found.is_complete else '; older ones are not read'}."
    )
    return lines


def _stay(stay: Stay) -> str:
    until = "now" if stay.until is None else day(stay.until)
    return f"{stay.relay} ({_use(read=stay.read, write=stay.write)}), {day(stay.since)} to {until}"
