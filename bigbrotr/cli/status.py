"""The commands `status` and `where`: what an archive holds."""

import argparse

from bigbrotr.cli import parse
from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.embedded.room import is_full, without_space
from bigbrotr.errors import ConfigError
from bigbrotr.models.relay import Relay
from bigbrotr.models.where import parse_event_id
from bigbrotr.reads import relays, status
from bigbrotr.reads.where import where
from bigbrotr.view import archive


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the commands."""
    words = "what is in the archive, and how far each relay is"
    state = parse.add(commands, "status", _status, words, shared.place)
    state.add_argument("--json", action="store_true", help="for programs")
    state.add_argument("--relay", metavar="URL", help="all that is known of one relay")
    state.add_argument(
        "--sort",
        choices=list(archive.SORTS),
        default="holds",
        help="the order of the relays (default: holds, those that hold most first)",
    )
    state.add_argument("--limit", type=parse.natural, metavar="N", help="so many relays at most")
    state.add_argument(
        "--failing", action="store_true", help="only the relays whose last visits have failed"
    )
    words = "which relays hold an event, and which do not"
    place = parse.add(commands, "where", _where, words, shared.place)
    place.add_argument("event", metavar="EVENT", help="an id in hex, a note or an nevent")
    place.add_argument("--json", action="store_true", help="for programs")


def _status(options: argparse.Namespace) -> int:
    relay = None if options.relay is None else relay_of(options.relay)
    there = find(options)
    return loop(
        _print_status(there, options) if relay is None else _print_relay(there, relay, options)
    )


def relay_of(text: str) -> Relay:
    """The relay at a URL; without a scheme it is one of wss://.

    Raises:
        ConfigError: there can be none.
    """
    try:
        return Relay(text if "://" in text else f"wss://{text}")
    except ValueError as error:
        raise ConfigError(f"{text} is not a relay URL: {error}") from None


def no_relay(url: str) -> str:
    """Says that there is no relay at a URL, and who says whether it was ever heard of."""
    return f"{url} is no relay of this archive: `bigbrotr status --relay {url}` says what is known"


async def _print_status(there: Place, options: argparse.Namespace) -> int:
    monitor = there.config.monitor
    async with database(there) as brotr:
        found = await status.status(brotr, monitor.check_every_s, writes=monitor.write.enabled)
    shown = archive.chosen(found.progress, sort=options.sort, is_failing=options.failing)
    shown = shown[: options.limit]
    if options.json:
        chosen = status.with_progress(found, shown)
        print(archive.in_json(chosen))  # noqa: T201
    else:
        round_s = status.ROUND * monitor.check_every_s
        archive.print_status(found, f"{there}  ({found.profile})", round_s, shown)
        if there.config.database.is_embedded and is_full(there.data_dir):
            say(without_space(there.data_dir))
    return 0


async def _print_relay(there: Place, relay: Relay, options: argparse.Namespace) -> int:
    async with database(there) as brotr:
        found = await relays.report(brotr.pool, relay.url)
        candidate = None
        if found is None:
            candidate = await relays.candidate(brotr.pool, relay.url)
    if found is None and candidate is None:
        say(f"{relay.url} is not known here: `bigbrotr seed {relay.url}` adds it")
        return 1
    if options.json:
        print(archive.in_json(found or candidate))  # noqa: T201
    elif found is not None:
        archive.print_relay(found)
    elif candidate is not None:
        archive.print_candidate(candidate)
    return 0


def _where(options: argparse.Namespace) -> int:
    try:
        event_id = parse_event_id(options.event)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    there = find(options)

    async def work() -> int:
        async with database(there) as brotr:
            found = await where(brotr.pool, event_id)
        if options.json:
            print(archive.in_json(found))  # noqa: T201
        else:
            archive.print_where(found)
        return 0

    return loop(work())
