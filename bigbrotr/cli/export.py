"""The commands `export …`: archived events as files."""

import argparse
import functools
import os
import sys
from contextlib import suppress

import anyio

from bigbrotr.cli import parse, snapshot
from bigbrotr.cli.events import add_conditions, conditions_of
from bigbrotr.cli.output import say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.cli.progress import STOPPED, Progress, until_stopped
from bigbrotr.config.settings import Profile
from bigbrotr.errors import ConfigError
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position
from bigbrotr.models.relay import Relay
from bigbrotr.reads.events import NotKeptError, NotSearchedError
from bigbrotr.transfer.estimate import Estimate
from bigbrotr.transfer.files import Sink
from bigbrotr.transfer.jsonl import Exporter, Lines
from bigbrotr.transfer.selection import Selection, position, position_text
from bigbrotr.view.words import day, roughly

LITE = (
    "this archive is of the profile lite: it keeps neither tags nor content nor signatures, so the"
    " lines have id, pubkey, created_at and kind alone, and no other program can take them for"
    " events"
)


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the commands."""
    group = parse.add_group(commands, "export", "take archived events home as files")
    words = "events as they were signed, a line of JSON each, oldest first"
    jsonl = parse.add(group, "jsonl", _jsonl, words, shared.place)
    add_selection(jsonl)
    jsonl.add_argument("--reverse", action="store_true", help="newest first")
    jsonl.add_argument(
        "--after",
        type=_position,
        metavar="TIME:ID",
        help="go on behind this event: created_at:id of the last line that there is",
    )
    snapshot.add_parquet(group, shared)
    jsonl.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="FILE",
        help="where to; compressed where the name ends in .gz or .zst (default: -, standard"
        " output)",
    )


def add_selection(parser: parse.Parser) -> None:
    """Adds the options that say which events are exported."""
    add_conditions(parser, View.ARCHIVE)
    parser.add_argument(
        "--relay",
        action="append",
        type=_relay,
        metavar="URL",
        help="known to be held by this relay; may be repeated: by one of them",
    )


def selection_of(options: argparse.Namespace) -> Selection:
    """The selection that the options of `add_selection` make.

    Raises:
        ConfigError: one is wrong.
    """
    query = conditions_of(options)
    if query.limit is not None:
        raise ConfigError("an export has no limit: `bigbrotr events --limit …` prints a few events")
    return Selection(query=query, relays=tuple(options.relay or ()), view=View(options.view))


def _relay(text: str) -> str:
    try:
        return Relay(text).url
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no relay: {error}") from None


def _position(text: str) -> Position:
    try:
        return position(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _jsonl(options: argparse.Namespace) -> int:
    chosen = selection_of(options)
    selection = Selection(
        query=chosen.query,
        relays=chosen.relays,
        view=chosen.view,
        is_reversed=options.reverse,
        after=options.after,
    )
    code = loop(_export(find(options), selection, options.output))
    if code == STOPPED:
        # A thread may wait for whoever reads our output, for ever.
        sys.stderr.flush()
        os._exit(code)
    return code


async def _export(there: Place, selection: Selection, name: str) -> int:
    async with database(there) as brotr:
        if there.profile is Profile.LITE:
            say(LITE)
        export = _Export(Exporter(brotr.pool, selection), Sink(name))
        return await export.run()


class _Export:
    """One export into one file, told of on the terminal."""

    def __init__(self, exporter: Exporter, sink: Sink) -> None:
        self._exporter, self._sink = exporter, sink
        self._progress = Progress()
        self._number = 0
        self._is_enough = False  # the reader of our output has gone
        self._last: Position | None = None
        self._estimate: Estimate | None = None
        self._expected = 0.0

    async def run(self) -> int:
        """Exports, and says what has become of it; returns the exit code."""
        is_whole = False
        try:
            is_whole = await until_stopped(self._work) is not None
        except (NotKeptError, NotSearchedError) as error:
            raise ConfigError(str(error)) from None
        except BrokenPipeError:
            self._is_enough = True
            raise
        finally:
            self._progress.end()
            self._end(is_whole=is_whole)
        return 0 if is_whole else STOPPED

    async def _work(self) -> bool:
        if self._progress.is_shown:
            selection = self._exporter.selection
            self._estimate = await Estimate.of(
                self._exporter.pool, selection.query, is_reversed=selection.is_reversed
            )
            self._expected = self._estimate.events
        await self._exporter.run(self._write)
        return True

    async def _write(self, lines: Lines) -> None:
        # In a thread: whoever reads us may be slow, and compression takes its time. What a file is
        # given is written whole; a reader may never come back.
        is_stdout = self._sink.is_stdout
        with anyio.CancelScope(shield=not is_stdout):
            await anyio.to_thread.run_sync(
                self._sink.write, lines.data, abandon_on_cancel=is_stdout
            )
        self._number += lines.number
        self._last = lines.last
        self._progress.say(functools.partial(self._words, lines.last.created_at))

    def _words(self, at: int) -> str:
        assert self._estimate is not None
        rate = self._number / self._progress.elapsed_s
        of = f" of about {roughly(self._expected)}" if self._expected > self._number else ""
        left = self._progress.left(self._estimate.share(at))
        return f"{self._number:,}{of} events, {roughly(rate)} a second, at {day(at)}{left}"

    def _end(self, *, is_whole: bool) -> None:
        if self._is_enough:
            return
        name = "standard output" if self._sink.is_stdout else self._sink.name
        if is_whole:
            self._sink.close(is_whole=True)
        else:
            with suppress(ConfigError):  # what is wrong is told already
                self._sink.close(is_whole=False)
        if is_whole and (not self._sink.is_stdout or self._progress.is_shown):
            say(f"exported {self._number:,} events to {name}")
        if is_whole:
            return
        where = name if self._sink.is_stdout else self._sink.partial
        if self._last is None:
            say(f"not finished: nothing was written to {where}")
        else:
            say(
                f"not finished: {self._number:,} events are in {where}; the rest comes with the"
                f" same options and --after {position_text(self._last)}"
            )
