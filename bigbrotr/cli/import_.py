"""The command `import`: events of files into the archive."""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

from bigbrotr.cli import parse
from bigbrotr.cli.events import moment
from bigbrotr.cli.import_snapshot import check_snapshot, import_snapshot
from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.progress import STOPPED, Progress, until_stopped
from bigbrotr.config.settings import Profile
from bigbrotr.errors import BigBrotrError, ConfigError
from bigbrotr.models.relay import Relay
from bigbrotr.transfer.import_worker import FIRST_LINES, Outcome
from bigbrotr.transfer.importing import Held, Importer
from bigbrotr.transfer.lines import Source
from bigbrotr.transfer.parquet_source import source_of
from bigbrotr.view.words import roughly

ENDED_EARLY = 2  # the exit code where a file is damaged


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "events of files into the archive: a line of JSON each, verified, whoever exported them"
    new = parse.add(commands, "import", _import, words, shared.place)
    new.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help='lines with events or ["EVENT", …] frames, packed with gzip or zstd or not; - is'
        " standard input; Parquet files of events; or a snapshot's folder, with who holds them",
    )
    new.add_argument(
        "--held-by",
        type=_relay,
        metavar="URL",
        help="the files are dumps of this relay: it held these events …",
    )
    new.add_argument(
        "--as-of", type=moment, metavar="TIME", help="… at this time; it proves nothing else"
    )
    new.add_argument(
        "--name", metavar="NAME", help="what to call the source (default: as the file)"
    )
    new.add_argument(
        "--trust-coverage",
        action="store_true",
        help="of a snapshot: what it says is proven of relays counts as proven here (else it is"
        " noted as its word)",
    )
    new.add_argument(
        "--dry-run",
        action="store_true",
        help="verify all events, look which are new; store nothing",
    )


def _relay(text: str) -> Relay:
    try:
        return Relay(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no relay: {error}") from None


def _import(options: argparse.Namespace) -> int:
    if (options.held_by is None) != (options.as_of is None):
        raise ConfigError("--held-by and --as-of go together: who held the events, and when")
    if options.as_of is not None and options.as_of > time.time():
        raise ConfigError("--as-of is in the future: say when the dump was made")
    if options.files.count("-") > 1:
        raise ConfigError("standard input can be read only once: name - once")
    folders = [file for file in options.files if is_folder(file)]
    if folders and (options.held_by is not None or options.dry_run):
        raise ConfigError(
            f"{folders[0]} is a folder: a snapshot says itself who holds its events; leave"
            " --held-by, --as-of and --dry-run out (`bigbrotr snapshot verify DIR` looks at one)"
        )
    if options.trust_coverage and len(folders) < len(options.files):
        raise ConfigError("--trust-coverage is for snapshots: a file of events proves nothing")
    for file in options.files:
        if file in folders:
            check_snapshot(Path(file))
        else:
            source_of(file).close()  # before the first one is imported, see that all can be read
    code = loop(_work(find(options), options))
    if code == STOPPED:
        # A thread may wait for standard input, for ever.
        sys.stderr.flush()
        os._exit(code)
    return code


def is_folder(file: str) -> bool:
    """Whether a file is a folder."""
    return Path(file).is_dir()


async def _work(there: Place, options: argparse.Namespace) -> int:
    async with database(there) as brotr:
        held = None if options.held_by is None else Held(options.held_by, options.as_of)
        importer = Importer(
            brotr,
            there.config,
            dsn=brotr.pool.address if there.config.database.is_embedded else None,
            held=held,
            name=options.name,
            is_dry=options.dry_run,
        )
        code = 0
        for file in options.files:
            if is_folder(file):
                found = await import_snapshot(brotr, there, importer, file, options)
            else:
                found = await _Import(importer, file, is_dry=options.dry_run).run()
            if found == STOPPED:
                return found
            code = max(code, found)
        if there.profile is Profile.LITE and not options.dry_run:
            say(
                "this archive is of the profile lite: it keeps neither tags nor content nor"
                " signatures of what was imported; keep the files"
            )
        return code


class _Import:
    """The import of one file, told of on the terminal."""

    def __init__(self, importer: Importer, file: str, *, is_dry: bool) -> None:
        self._importer, self._file, self._is_dry = importer, file, is_dry
        self._progress = Progress()
        self._damage: str | None = None
        self._outcome = Outcome()

    async def run(self) -> int:
        """Imports the file, and says what was in it; returns the exit code."""
        try:
            outcome = await until_stopped(
                functools.partial(self._importer.run, self._file, self._tell)
            )
        except (BigBrotrError, BaseExceptionGroup):
            self._progress.end()
            self._say_how_far()
            raise
        self._progress.end()
        if outcome is None:
            self._say_how_far()
            return STOPPED
        say(self._words(outcome))
        for reason, count in sorted(outcome.invalid.items()):
            lines = ", ".join(f"{line:,}" for line in outcome.first[reason][:FIRST_LINES])
            more = ", …" if count > FIRST_LINES else ""
            say(f"{self._file}: {count:,} invalid ({reason}): line {lines}{more}")
        if self._damage is None:
            return 0
        say(
            f"{self._file} is damaged or cut off ({self._damage}): what stands before that is"
            f" {'valid as told' if self._is_dry else 'imported'}, the rest cannot be read"
        )
        return ENDED_EARLY

    def _tell(self, source: Source, outcome: Outcome) -> None:
        self._damage = source.damage
        self._outcome = outcome
        self._progress.say(functools.partial(self._state, source, outcome))

    def _state(self, source: Source, outcome: Outcome) -> str:
        rate = roughly(outcome.lines / self._progress.elapsed_s)
        left = ""
        if source.size:
            share = min(1.0, source.at / source.size)
            left = f", {share:.0%} read{self._progress.left(share)}"
        new = f"{outcome.new:,} new events"
        return f"{self._file}: {outcome.lines:,} lines, {new}, {rate} a second{left}"

    def _words(self, outcome: Outcome) -> str:
        new = "would be new" if self._is_dry else "new"
        known = outcome.events - outcome.new
        words = (
            f"{self._file}: {outcome.lines:,} lines, {outcome.events:,} events: {outcome.new:,}"
            f" {new}, {known:,} archived already"
        )
        if outcome.repeats:
            words += f"; {outcome.repeats:,} repeated"
        if outcome.outdated:
            words += (
                f"; {outcome.outdated:,} were not noted as held: the relay was proven complete"
                " since then without them"
            )
        return words

    def _say_how_far(self) -> None:
        if self._is_dry:
            say(f"{self._file}: not finished; nothing was stored")
        else:
            say(
                f"{self._file}: not finished; {self._outcome.new:,} new events are stored: import"
                " it again, and it goes on with what is missing"
            )
