"""The command line: what a person or a unit file types, and what it answers."""

import argparse
import os
import sys
from collections.abc import Sequence

from bigbrotr import __version__
from bigbrotr.cli import (
    completion,
    compliance,
    config,
    db,
    events,
    export,
    health,
    import_,
    parse,
    run,
    seed,
    serve,
    snapshot,
    stats,
    status,
    takedown,
    verify,
)
from bigbrotr.cli.output import NAME, remember, say
from bigbrotr.core.defects import refusal
from bigbrotr.core.logger import open_up
from bigbrotr.errors import leaves

EXIT_CODES = """\
exit codes:
  0  done, or stopped as asked
  1  a defect of bigbrotr; of `health`, `doctor` and `verify`: not well; of `status --relay`:
     not known
  2  the command line or a file says something wrong
  3  the database cannot be reached, or refuses
  4  the database is of another revision or profile
  5  a data directory or a port is in use
  6  a service failed too often
"""
FAMILIES = (
    run,
    serve,
    status,
    stats,
    events,
    export,
    snapshot,
    import_,
    takedown,
    compliance,
    seed,
    health,
    verify,
    config,
    db,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    open_up(sys.stdout)
    open_up(sys.stderr)
    options = parser().parse_args(arguments)
    remember(options)
    try:
        code: int = options.command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError as error:
        if (ours := refusal(error)) is not None:  # the pipe to the database
            say(str(ours))
            return ours.exit_code
        # The reader of our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, BaseExceptionGroup) as error:
        causes = leaves(error)
        known = [ours for cause in causes if (ours := refusal(cause)) is not None]
        if len(known) < len(causes):
            raise
        say(str(known[0]))
        return known[0].exit_code
    return code


def parser() -> parse.Top:
    """All commands and their options."""
    top = parse.Top(
        prog=NAME,
        description="An observatory and archive of the Nostr network.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    commands = top.add_subparsers(metavar="command", required=True, parser_class=parse.Parser)
    shared = parse.shared()
    for family in FAMILIES:
        family.add(commands, shared)
    completion.add(commands, parser, EXIT_CODES)
    return top
