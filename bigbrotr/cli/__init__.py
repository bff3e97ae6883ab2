"""The command line: what a person or a unit file types, and what it answers."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from bigbrotr import __version__
from bigbrotr.cli import parse
from bigbrotr.cli.output import NAME, remember, say
from bigbrotr.core.defects import refusal
from bigbrotr.core.logger import open_up
from bigbrotr.errors import ConfigError, leaves

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
# The commands, by the module that adds them. Only that of the command which was typed is imported:
# all of them together take as long again as the rest of a start.
FAMILIES: dict[str, tuple[str, ...]] = {
    "run": ("run", "demo"),
    "serve": ("serve",),
    "status": ("status", "where"),
    "stats": ("stats",),
    "at_risk": ("at-risk",),
    "rescue": ("rescue",),
    "author": ("author",),
    "events": ("events",),
    "export": ("export",),
    "snapshot": ("snapshot",),
    "import_": ("import",),
    "takedown": ("takedown",),
    "compliance": ("compliance",),
    "changes": ("changes",),
    "witnesses": ("witnesses",),
    "operators": ("operators",),
    "rank": ("rank",),
    "seed": ("seed",),
    "health": ("health", "doctor"),
    "verify": ("verify",),
    "config": ("config",),
    "db": ("db",),
}

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    open_up(sys.stdout)
    open_up(sys.stderr)
    words = sys.argv[1:] if arguments is None else arguments
    options = parser(words[0] if words else None).parse_args(arguments)
    remember(options)
    try:
        code: int = options.command(options)
        sys.stdout.flush()  # what cannot be written is known here
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
        if (full := _full(causes)) is not None:
            say(f"the output cannot be written: {full}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ConfigError.exit_code
        known = [ours for cause in causes if (ours := refusal(cause)) is not None]
        if len(known) < len(causes):
            raise
        say(str(known[0]))
        return known[0].exit_code
    return code


def _full(causes: Sequence[BaseException]) -> str | None:
    """Why what is printed finds no room; None: that is not what is wrong. A file that has a name
    says so itself."""
    for cause in causes:
        if not isinstance(cause, OSError) or cause.errno not in FULL or cause.filename is not None:
            return None
    return str(causes[0].args[1])


def parser(typed: str | None = None) -> parse.Top:
    """All commands and their options; of the family of the command `typed` alone, if it is one."""
    top = parse.Top(
        prog=NAME,
        description="An observatory and archive of the Nostr network.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    commands = top.add_subparsers(metavar="command", required=True, parser_class=parse.Parser)
    shared = parse.shared()
    named = [name for name, those in FAMILIES.items() if typed in those]
    for name in named or FAMILIES:
        import_module(f"{__name__}.{name}").add(commands, shared)
    if not named:
        import_module(f"{__name__}.completion").add(commands, parser, EXIT_CODES)
    return top
