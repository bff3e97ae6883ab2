"""The commands `snapshot …` and `export parquet`: an archive as Parquet files."""

import argparse
import functools
from pathlib import Path

from bigbrotr.cli import parse
from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.progress import STOPPED, Progress, until_stopped
from bigbrotr.errors import ConfigError
from bigbrotr.models.policy import View
from bigbrotr.transfer import parquet, snapshot
from bigbrotr.transfer.export import Exported, export_parquet
from bigbrotr.transfer.export import Progress as Exporting
from bigbrotr.view.words import roughly

PACE = 0.5
PATIENCE_S = 7200.0
VERIFY = "verify"
DAMAGED = 1  # the exit code


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command `snapshot`."""
    words = "keep a folder of Parquet files current; snapshot verify DIR: is it as it was written?"
    new = parse.add(commands, "snapshot", _snapshot, words, shared.place)
    new.add_argument(
        "words",
        nargs="+",
        metavar="DIR",
        help="the folder; verify DIR: compare its files with their hashes",
    )
    group = new.add_mutually_exclusive_group()
    group.add_argument(
        "--month",
        action="append",
        metavar="YYYY-MM",
        help="look at the events of this month alone; may be repeated",
    )
    group.add_argument(
        "--all", action="store_true", help="read all again, and not only what has changed"
    )
    _add_view(new)
    new.add_argument(
        "--pace",
        type=share,
        default=PACE,
        metavar="SHARE",
        help=f"of the time to work, from 0.01 to 1; the rest is for the archive (default: {PACE})."
        " After two hours it hurries: PostgreSQL cannot tidy up while it is read",
    )


def add_parquet(exports: parse.Group, shared: parse.Shared) -> None:
    """Adds the command `export parquet`."""
    words = "events, who holds them, and all else that is known, as Parquet files"
    new = parse.add(exports, "parquet", _export, words, shared.place)
    new.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    new.add_argument(
        "--month", action="append", metavar="YYYY-MM", help="of this month; may be repeated"
    )
    _add_view(new)


def _add_view(parser: parse.Parser) -> None:
    parser.add_argument(
        "--view",
        choices=[view.value for view in View],
        default=View.ARCHIVE.value,
        help="current: as a relay would show them; archive: with what was replaced (default); kept:"
        " all that is kept, for yourself",
    )


def share(text: str) -> float:
    """A share of the time."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of the time: 0.01 to 1")
    return value


def _snapshot(options: argparse.Namespace) -> int:
    *first, last = options.words
    if first == [VERIFY]:
        return _verify(Path(last))
    if first or last == VERIFY:
        raise ConfigError(
            "name one folder: `bigbrotr snapshot DIR`, or `bigbrotr snapshot verify DIR`"
        )
    months = None if options.month is None else snapshot.months_named(options.month)
    parquet.require()
    return loop(_take(find(options), options, Path(last), months))


async def _take(
    there: Place, options: argparse.Namespace, folder: Path, months: list[str] | None
) -> int:
    progress = Progress()

    def tell(now: snapshot.Progress) -> None:
        progress.say(functools.partial(_state, progress, now.month, now.events, now.of))

    async with database(there) as brotr:
        taken = await until_stopped(
            functools.partial(
                snapshot.take,
                *(brotr.pool, folder, View(options.view), there.profile.value),
                months=months,
                is_all=options.all,
                pace=options.pace,
                patience_s=PATIENCE_S,
                on_progress=tell,
            )
        )
    progress.end()
    if taken is None:
        say(f"not finished: {folder} is as it was")
        return STOPPED
    found = taken.manifest
    events = found.rows("events") + found.rows("headers") + found.rows("surrogates")
    say(
        f"{folder}: {events:,} events, {found.rows('presence'):,} pairs of event and relay;"
        f" {taken.new:,} new files ({taken.bytes:,} bytes), {taken.gone:,} replaced or gone"
    )
    return 0


def _state(progress: Progress, month: str, done: int, of: int) -> str:
    left = progress.left(done / of) if of else ""
    return (
        f"{month}: {done:,} of {of:,} events, {roughly(done / progress.elapsed_s)} a second{left}"
    )


def _verify(folder: Path) -> int:
    progress = Progress()

    def tell(done: int, of: int) -> None:
        progress.say(lambda: f"{done / of:.0%} of {of:,} bytes{progress.left(done / of)}")

    try:
        found, faults, strays = snapshot.verify(folder, tell)
    finally:
        progress.end()
    for words in faults:
        say(words)
    if strays:
        say(
            f"{len(strays)} files are not in the manifest, e.g. {strays[0].relative_to(folder)}: a"
            " snapshot was interrupted; the next one removes them"
        )
    if faults:
        say(
            f"{folder} is damaged: {len(faults)} of {len(found.files)} files. Delete these files,"
            " and take a snapshot again"
        )
        return DAMAGED
    rows = sum(each.rows for each in found.files)
    print(f"{folder}: {len(found.files):,} files, {rows:,} rows: as they were written")  # noqa: T201
    return 0


def _export(options: argparse.Namespace) -> int:
    months = None if options.month is None else snapshot.months_named(options.month)
    parquet.require()
    return loop(_write(find(options), options.folder, View(options.view), months))


async def _write(there: Place, folder: Path, view: View, months: list[str] | None) -> int:
    progress = Progress()

    def tell(now: Exporting) -> None:
        progress.say(functools.partial(_state, progress, now.month, now.events, now.of))

    async with database(there) as brotr:
        done: Exported | None = await until_stopped(
            functools.partial(
                export_parquet, brotr.pool, folder, view, months=months, on_progress=tell
            )
        )
    progress.end()
    if done is None:
        say(f"not finished: the files in {folder} are whole, but not all")
        return STOPPED
    events = sum(done.rows.get(name, 0) for name in ("events", "headers", "surrogates"))
    say(
        f"exported {events:,} events and {done.rows.get('presence', 0):,} pairs of event and relay"
        f" to {folder}: {done.files:,} files, {done.bytes:,} bytes"
    )
    return 0
