"""The command `rescue`: sends archived events to relays that do not hold them."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial

import anyio
import msgspec
from msgspec.structs import replace

from bigbrotr.cli import parse
from bigbrotr.cli.at_risk import kind
from bigbrotr.cli.events import moment as moment_of
from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.progress import STOPPED, Progress, until_stopped
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.rescues import RescueCount
from bigbrotr.core.logger import Logger
from bigbrotr.errors import ConfigError
from bigbrotr.models.filter import public_key
from bigbrotr.models.query import Query
from bigbrotr.models.relay import Relay
from bigbrotr.models.rescue import Left
from bigbrotr.services.rescue.selection import Selecting, Selection
from bigbrotr.services.rescue.sending import Sender, has_ended, owner_of_this_process
from bigbrotr.view.words import duration, moment

PATIENCE_S = 900.0  # that a relay may want us to wait: then the rest is left to the queue
EACH_S = 2.0  # from one look to the next whether another process is done
OPEN = ("waiting", "accepted")


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "send archived events to relays that do not hold them"
    rescue = parse.add(commands, "rescue", _rescue, words, shared.place)
    rescue.add_argument(
        "--author", action="append", metavar="NPUB", help="of this author; may be repeated"
    )
    rescue.add_argument(
        "--relay", metavar="URL", help="that this relay holds, and no other one that is well"
    )
    rescue.add_argument("--filter", metavar="JSON", help="that match this filter of NIP-01")
    rescue.add_argument(
        "--kind", action="append", type=kind, metavar="N", help="of this kind; may be repeated"
    )
    words = "from then on: a date (of UTC) or Unix seconds"
    rescue.add_argument("--since", type=moment_of, metavar="TIME", help=words)
    rescue.add_argument("--until", type=moment_of, metavar="TIME", help="up to then")
    rescue.add_argument(
        "--below",
        type=parse.natural,
        metavar="N",
        help="only those that fewer relays hold; failing and retired ones do not count (default: "
        "with --relay 1, where it does not count either; else however many)",
    )
    rescue.add_argument(
        "--to", action="append", metavar="URL", help="to this relay; may be repeated"
    )
    rescue.add_argument(
        "--to-write-relays",
        action="store_true",
        help="to the relays to which their author writes (kind 10002)",
    )
    rescue.add_argument("--limit", type=parse.natural, metavar="N", help="so many events at most")
    rescue.add_argument(
        "--again", action="store_true", help="also what a relay has refused, or not kept"
    )
    rescue.add_argument(
        "--dry-run", action="store_true", help="say what would be sent where, and what not and why"
    )
    rescue.add_argument("--json", action="store_true", help="for programs")


def _rescue(options: argparse.Namespace) -> int:
    selection = _selection(options)
    return loop(_do(find(options), selection, options))


def _selection(options: argparse.Namespace) -> Selection:
    """Which events are to go where.

    Raises:
        ConfigError: the options do not say.
    """
    if not (options.author or options.relay or options.filter):
        raise ConfigError("say which events: --author, --relay or --filter")
    if options.filter is not None and (
        options.author or options.kind or options.since is not None or options.until is not None
    ):
        raise ConfigError("--filter says all: leave --author, --kind and times out")
    if bool(options.to) == options.to_write_relays:
        raise ConfigError("say where to: --to wss://… or --to-write-relays")
    try:
        if options.filter is not None:
            query = Query.from_json(options.filter)
            if query.search is not None:
                raise ValueError("--filter: leave search out")
        else:
            filter_: dict[str, object] = {}
            if options.author:
                filter_["authors"] = [public_key(text) for text in options.author]
            if options.kind:
                filter_["kinds"] = options.kind
            for name in ("since", "until"):
                if (at := getattr(options, name)) is not None:
                    filter_[name] = at
            query = Query.from_object(filter_)
        below = options.below
        if below is None and options.relay is not None:
            below = 1
        limits = [each for each in (options.limit, query.limit) if each is not None]
        return Selection(
            query=replace(query, limit=None),
            to=tuple(dict.fromkeys(_url("--to", text) for text in options.to or ())),
            held_by=None if options.relay is None else _url("--relay", options.relay),
            below=below,
            limit=min(limits, default=None),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _url(name: str, text: str) -> str:
    try:
        return Relay(text).url
    except ValueError as error:
        raise ValueError(f"{name} {text}: {error}") from None


class Plan:
    """What is to be sent where, and what is not and why."""

    def __init__(self) -> None:
        self.looked = 0
        self.sent: Counter[str] = Counter()  # by URL of the target
        self.left: Counter[tuple[str, Left]] = Counter()
        self.queued = 0

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "looked": self.looked,
            "to": dict(sorted(self.sent.items())),
            "left": [
                {"relay": url or None, "reason": left.value, "words": left.words, "events": n}
                for (url, left), n in sorted(self.left.items())
            ],
        }


async def _do(there: Place, selection: Selection, options: argparse.Namespace) -> int:
    async with database(there) as brotr:
        if "content" not in await brotr.pool.fetchval("SELECT * FROM bigbrotr.kept_columns()"):
            raise ConfigError(
                "this archive keeps no contents (its profile is lite): it cannot send events"
            )
        known = await brotr.known_relays()
        if selection.held_by is not None and selection.held_by not in known:
            raise ConfigError(f"--relay {selection.held_by} is no relay of this archive")
        for url in selection.to:
            network = Relay(url).network
            if not there.config.networks.link(network).enabled:
                raise ConfigError(
                    f"--to {url}: it is on {network}, and [networks.{network}] is not enabled"
                )
        most = there.config.rescue.most_relays
        done = await until_stopped(
            lambda: _work(brotr, there, replace(selection, most_relays=most), options)
        )
    if done is None:
        say("stopped; what was queued waits, and the same command goes on from there")
        return STOPPED
    return done


async def _work(
    brotr: Brotr, there: Place, selection: Selection, options: argparse.Namespace
) -> int:
    progress = Progress()
    plan = Plan()
    selecting = Selecting(
        brotr,
        there.config,
        selection,
        heeds_documents=options.dry_run,
        on_judged=lambda n: progress.say(lambda: f"{n:,} events judged"),
    )
    async for found in selecting.pages():
        plan.looked += found.looked
        plan.left.update(found.left)
        plan.sent.update(each.url for each in found.events)
        if not options.dry_run:
            plan.queued += await brotr.queue_rescues(found.events, is_again=options.again)
        progress.say(lambda: f"{plan.looked:,} events looked at, {plan.sent.total():,} to be sent")
    progress.end()
    if options.dry_run:
        _print_plan(plan, is_json=options.json)
        return 0
    urls = selection.to or tuple(plan.sent)
    counts = await _send(brotr, there, urls) if urls else []
    if options.json:
        print(_json({**plan.as_json(), "queued": plan.queued, "states": _states(counts)}))  # noqa: T201
    else:
        _print_plan(plan, is_json=False, is_dry=False)
        _print_states(counts)
    return 0


async def _send(brotr: Brotr, there: Place, urls: Collection[str]) -> list[RescueCount]:
    """Sends what waits for these relays, until nothing is left or they want us to wait for long."""
    owner = owner_of_this_process()
    await brotr.release_rescues([each for each in await brotr.rescue_owners() if has_ended(each)])
    sender = Sender(brotr, there.config, owner=owner, log=Logger("rescue"))
    progress = Progress()
    first: int | None = None
    try:
        while True:
            worked = await sender.send(urls)
            counts = await brotr.count_rescues(urls)
            left = [each for each in counts if each.state in OPEN]
            waiting = sum(each.events for each in left)
            if not left:
                return counts
            first = waiting if first is None else max(first, waiting)
            share = 1 - waiting / first
            wait_s = min(each.next_at for each in left) - time.time()
            progress.say(partial(_told, waiting, progress.left(share), sender.counts, wait_s))
            if worked:
                continue
            if wait_s > PATIENCE_S:
                return counts
            await anyio.sleep(min(max(wait_s, 0.2), EACH_S))
    finally:
        progress.end()
        with anyio.CancelScope(shield=True):
            await brotr.release_rescues([owner])


def _told(waiting: int, left: str, counts: Mapping[str, int], wait_s: float) -> str:
    """How far it is, in one line."""
    states = "".join(f"; {n:,} {state}" for state, n in sorted(counts.items()))
    pause = f"; the next in {duration(wait_s)}" if wait_s > 1 else ""
    return f"{waiting:,} events wait{left}{states}{pause}"


def _print_plan(plan: Plan, *, is_json: bool, is_dry: bool = True) -> None:
    if is_json:
        print(_json(plan.as_json()))  # noqa: T201
        return
    print(f"{plan.looked:,} events were looked at.")  # noqa: T201
    verb = "would be sent" if is_dry else "were to be sent"
    for url, events in sorted(plan.sent.items()):
        print(f"{events:>9,} {verb} to {url}")  # noqa: T201
    for (url, left), events in sorted(plan.left.items()):
        where = f" ({url})" if url else ""
        print(f"{events:>9,} left out: {left.words}{where}")  # noqa: T201
    if is_dry:
        print(  # noqa: T201
            "Nothing was sent. What relays take is known from their last documents (NIP-11), and "
            "asked again before anything is sent."
        )


def _states(counts: Collection[RescueCount]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for each in counts:
        found.setdefault(each.url, {})[each.state] = each.events
    return found


MEANING = {
    "held": "are there, and were seen there",
    "accepted": "were accepted, and have not been seen there yet",
    "waiting": "wait",
    "refused": "were refused",
    "unkept": "were accepted, and are not there",
    "left": "were left out",
    "failed": "were given up",
}


def _print_states(counts: Collection[RescueCount]) -> None:
    if counts:
        print("Of all that was ever queued for these relays:")  # noqa: T201
    for each in counts:
        until = ""
        if each.state in OPEN:
            why = f": {each.outcome}" if each.outcome not in (None, "done") else ""
            until = f" until {moment(each.next_at)}{why}"
        print(f"{each.events:>9,} {MEANING[each.state]}{until} ({each.url})")  # noqa: T201
    if any(each.state in OPEN for each in counts):
        say(
            "the same command goes on with what waits; so does `bigbrotr run` with [rescue] enabled"
        )
    sys.stdout.flush()


def _json(found: object) -> str:
    return msgspec.json.format(msgspec.json.encode(found)).decode()
