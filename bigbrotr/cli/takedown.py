"""The command `takedown`: what the operator does not want to be shown, and the log of it."""

import argparse
import os
import pwd
import sys

import asyncpg

from bigbrotr.cli import parse
from bigbrotr.cli.output import print_json, say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.policy import Takedown
from bigbrotr.core.logger import printable
from bigbrotr.errors import ConfigError
from bigbrotr.models.policy import urls_of
from bigbrotr.models.target import Target, parse_target
from bigbrotr.view.words import moment

MAX_WHY = 1000  # characters


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "show an event, or all events of a public key, to nobody; or say what was taken down"
    takedown = parse.add(commands, "takedown", _takedown, words, shared.place)
    takedown.add_argument(
        "target",
        nargs="?",
        metavar="EVENT|PUBKEY",
        help="an id or key in hex, a note, nevent, npub or nprofile; it need not be archived yet",
    )
    takedown.add_argument("--why", metavar="TEXT", help="for the log")
    takedown.add_argument(
        "--erase", action="store_true", help="erase the content for good, also of what comes later"
    )
    takedown.add_argument("--undo", action="store_true", help="show it again; erased is erased")
    what = takedown.add_mutually_exclusive_group()
    for name, meaning in (("event", "an event's id"), ("pubkey", "a public key")):
        what.add_argument(
            f"--{name}",
            dest="what",
            action="store_const",
            const=name,
            help=f"hex digits are {meaning}",
        )
    takedown.add_argument("--list", action="store_true", help="the log, the newest first")
    takedown.add_argument("--json", action="store_true", help="with --list: for programs")


def _takedown(options: argparse.Namespace) -> int:
    if options.list:
        if options.target is not None or options.erase or options.undo or options.why is not None:
            raise ConfigError("--list shows the whole log: leave the rest out")
        return loop(_print_log(find(options), is_json=options.json))
    if options.target is None:
        raise ConfigError("say what to take down, or --list")
    if options.json:
        raise ConfigError("--json goes with --list")
    if options.erase and options.undo:
        raise ConfigError("--erase or --undo, not both: what was erased cannot be brought back")
    why = (options.why or "").strip()
    if not why or len(why) > MAX_WHY or "\0" in why:
        raise ConfigError(f'say why, for the log: --why "…" (1 to {MAX_WHY:,} characters)')
    try:
        target = parse_target(options.target)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if target.what is not None and options.what not in (None, target.what):
        raise ConfigError(f"{options.target} is no {options.what}: leave --{options.what} out")
    return loop(_do(find(options), target, options, why))


async def _do(there: Place, target: Target, options: argparse.Namespace, why: str) -> int:
    urls = sorted(urls_of(there.config.serve.public_url))
    who = user()
    async with database(there) as brotr:
        what = target.what or options.what or await brotr.what_is(target.key)
        if what is None:
            raise ConfigError(
                "neither an archived event nor the author of one: say --event or --pubkey"
            )
        name = f"the {what} {target.key.hex()}"
        if options.undo:
            is_done = await brotr.undo_takedown(what, target.key, why=why, who=who, urls=urls)
            if not is_done:
                raise ConfigError(
                    f"{name} is not taken down: `bigbrotr takedown --list` says what is"
                )
            done = f"{name} is shown again"
        else:
            is_new = await brotr.take_down(
                what, target.key, why=why, who=who, erase=options.erase, urls=urls
            )
            how = "erased" if options.erase else "taken down"
            done = f"{name} is {how}" if is_new else f"{name} was {how} before"
        if what == "pubkey":
            await _settle(brotr, urls, target.key)
        if options.erase:
            await _vacuum(brotr)
    print(done)  # noqa: T201
    return 0


async def _settle(brotr: Brotr, urls: list[str], pubkey: bytes) -> None:
    """Judges what this changes, here: the service may not be running."""
    judged = 0
    while not (done := await brotr.judge_review(urls, of_author=pubkey)).is_done:
        judged += done.events
        if sys.stderr.isatty() and judged:
            say(f"{judged:,} events judged")


async def _vacuum(brotr: Brotr) -> None:
    try:
        await brotr.vacuum_erased()
    except asyncpg.InsufficientPrivilegeError:
        say(
            "the database goes on keeping the room of what was erased until it is vacuumed: only "
            "the owner of the tables may do so"
        )


async def _print_log(there: Place, *, is_json: bool) -> int:
    async with database(there) as brotr:
        log = await brotr.takedowns()
    if is_json:
        rows = [each._asdict() | {"target": each.target.hex()} for each in log]
        print_json(rows)
        return 0
    for each in log:
        print("\n".join(map(printable, lines_of(each))))  # noqa: T201
    return 0


def lines_of(each: Takedown) -> list[str]:
    """An entry of the log in words."""
    how = "erased" if each.is_erasing else "taken down"
    lines = [
        f"{each.what} {each.target.hex()}",
        f"  {how} {moment(each.at)} by {each.who}: {each.why}",
    ]
    if each.undone_at is not None:
        lines.append(f"  undone {moment(each.undone_at)} by {each.undone_who}: {each.undone_why}")
    return lines


def user() -> str:
    """Who runs this command, as this machine knows them."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # in a container, say
        return f"uid {number}"
