"""The command `verify`: whether the archive still holds what it claims."""

import argparse
import functools
import sys

from bigbrotr.cli import parse
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.progress import STOPPED, Progress, until_stopped
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import printable
from bigbrotr.transfer.verify import Result, Verification

WRONG = 1  # the exit code


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = (
        "see whether the archive still holds what it claims: hashes, signatures, counts, indexes"
    )
    verify = parse.add(commands, "verify", _verify, words, shared.place)
    verify.add_argument(
        "--sample",
        type=_percent,
        default=100.0,
        metavar="PERCENT",
        help="verify hashes and signatures of so many of the events, e.g. 1 (default: 100)",
    )
    verify.add_argument(
        "--repair",
        action="store_true",
        help="derive again what can be derived: counts, tags in the index, indexes, proofs that"
        " overlap; take back pairs of events that are not there",
    )


def _percent(text: str) -> float:
    try:
        found = float(text.removesuffix("%"))
    except ValueError:
        found = 0.0
    if not 0 < found <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0, up to 100")
    return found


def _verify(options: argparse.Namespace) -> int:
    return loop(_work(find(options), options))


async def _work(there: Place, options: argparse.Namespace) -> int:
    async with database(there) as brotr:
        code = await until_stopped(functools.partial(_run, there, brotr, options))
    return STOPPED if code is None else code


async def _run(there: Place, brotr: Brotr, options: argparse.Namespace) -> int:
    progress = Progress()

    def tell(what: str, number: int, share: float) -> None:
        progress.say(lambda: f"{what}: {number:,} looked at, {share:.0%}")

    verification = Verification(
        brotr.pool,
        there.config,
        there.profile,
        dsn=brotr.pool.address if there.config.database.is_embedded else None,
        sample=options.sample / 100,
        mends=options.repair,
        tell=tell,
    )
    is_well, may_mend = True, False
    try:
        for check in verification.checks.values():
            result = await check()
            progress.end()
            _print(result)
            is_well = is_well and result.is_well
            may_mend = may_mend or not result.is_well
    finally:
        progress.end()
    if may_mend and not options.repair:
        print("--repair mends what can be derived; what cannot, another copy has to give back")  # noqa: T201
    return 0 if is_well else WRONG


def _print(result: Result) -> None:
    """Prints what a check has found."""
    if result.skipped is not None:
        state, words = "skipped", result.skipped
    elif result.is_well:
        state, words = ("mended" if result.findings else "ok"), result.looked_at
    else:
        state, words = "WRONG", result.looked_at
    lines = [f"{result.check:<12}{state:<9}{words}"]
    lines += [
        f"{'':<12}{'mended: ' if finding.is_mended else ''}{finding.words}"
        for finding in result.findings
    ]
    for line in lines:
        print(printable(line))  # noqa: T201 -- ids are no secrets here
    sys.stdout.flush()
