"""The command line: what a person or a unit file types, and what it answers."""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import anyio.to_thread
import asyncpg
import msgspec
import uvloop

from bigbrotr import __version__, demo, view
from bigbrotr.config.settings import Config, LogSettings, Profile
from bigbrotr.config.toml import load, show
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.defects import refusal
from bigbrotr.core.logger import configure, open_up, printable
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema, check_server, read_ledger
from bigbrotr.embedded import dump
from bigbrotr.embedded import server as embedded
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.errors import ConfigError, DatabaseError, SchemaError, leaves
from bigbrotr.models.relay import Network, Relay
from bigbrotr.models.where import parse_event_id
from bigbrotr.secret import without_secrets
from bigbrotr.serve import app
from bigbrotr.services.seeder import read_seeds, usable_relays
from bigbrotr.supervisor import SERVICES, Supervisor

EXIT_CODES = """\
exit codes:
  0  done, or stopped as asked
  1  a defect of bigbrotr; the traceback says more. Of `health`: it is not well
  2  the command line or a file says something wrong
  3  the database cannot be reached, or refuses
  4  the database is of another revision or profile
  5  a data directory or a port is in use
  6  a service failed too often
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    open_up(sys.stdout)
    open_up(sys.stderr)
    options = parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError as error:
        if (ours := refusal(error)) is not None:  # the pipe to the database
            _say(str(ours))
            return ours.exit_code
        # The reader of our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, BaseExceptionGroup) as error:
        causes = leaves(error)
        known = [ours for cause in causes if (ours := refusal(cause)) is not None]
        if len(known) < len(causes):
            raise
        _say(str(known[0]))
        return known[0].exit_code
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line without repeating secrets in it."""

    def error(self, message: str) -> NoReturn:
        super().error(_shown(message))


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = _Parser(
        prog="bigbrotr",
        description="An observatory and archive of the Nostr network.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"bigbrotr {__version__}")
    commands = top.add_subparsers(metavar="command", required=True)

    place = _Parser(add_help=False)
    place.add_argument(
        "--profile",
        type=_profile,
        default=os.environ.get("BIGBROTR_PROFILE") or "lite",
        metavar="{full,lite}",
        help="keep whole events, or the essential fields (default: $BIGBROTR_PROFILE, else lite)",
    )
    place.add_argument(
        "--config",
        type=Path,
        default=os.environ.get("BIGBROTR_CONFIG") or None,
        metavar="FILE",
        help="instead of the shipped one (default: $BIGBROTR_CONFIG)",
    )
    place.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the embedded database lives (default: the XDG data directory)",
    )
    speech = _Parser(add_help=False)
    speech.add_argument("--log-level", type=str.upper, metavar="LEVEL", help="DEBUG, INFO, …")
    speech.add_argument("--log-json", action="store_true", help="one JSON object a line")

    def add(
        group: "argparse._SubParsersAction[_Parser]",
        name: str,
        command: Callable[[argparse.Namespace], int],
        words: str,
        *parents: _Parser,
    ) -> _Parser:
        new = group.add_parser(name, help=words, description=words, parents=list(parents))
        new.set_defaults(command=command)
        return new

    run = add(commands, "run", _run, "run the services until stopped", place, speech)
    run.add_argument("--only", type=_names, metavar="A,B", help=f"some of {','.join(SERVICES)}")
    run.add_argument("--once", action="store_true", help="one cycle of each service, then exit")

    show_off = add(commands, "demo", _demo, "archive a small network of its own", speech)
    show_off.add_argument("--data-dir", type=Path, metavar="DIR", help="made anew by each demo")

    status = add(commands, "status", _status, "what is in the database", place)
    status.add_argument("--json", action="store_true", help="for programs")

    alive = add(commands, "health", _health, "ask a running bigbrotr how it is: 0 if well", place)
    alive.add_argument("--alive", action="store_true", help="only whether the process goes on")

    where = add(commands, "where", _where, "which relays hold an event, and which do not", place)
    where.add_argument("event", metavar="EVENT", help="an id in hex, a note or an nevent")
    where.add_argument("--json", action="store_true", help="for programs")

    seed = add(commands, "seed", _seed, "add candidates", place)
    seed.add_argument("what", nargs="+", metavar="FILE|URL", help="relay URLs, or files of them")

    config = commands.add_parser("config", help="show or check settings").add_subparsers(
        metavar="command", required=True
    )
    add(config, "show", _config_show, "print the settings that are in force", place)
    check = add(config, "check", _config_check, "check a configuration file")
    check.add_argument("file", type=Path, metavar="FILE")

    db = commands.add_parser("db", help="the database").add_subparsers(
        metavar="command", required=True
    )
    add(db, "url", _db_url, "print the address of the database, for psql and others", place)
    add(db, "migrate", _db_migrate, "bring the schema to the current revision", place)
    add(db, "distribute", _db_distribute, "spread the database over the workers of Citus", place)
    add(db, "roles", _db_roles, "make roles for readers, writers and admins", place)
    backup = add(db, "backup", _db_backup, "write the whole archive into a file", place)
    backup.add_argument("file", type=Path, metavar="FILE", help="must not exist yet")
    restore = add(db, "restore", _db_restore, "fill an empty database from such a file", place)
    restore.add_argument("file", type=Path, metavar="FILE")
    psql = add(db, "psql", _db_psql, "open psql, or run it with the words after --", place)
    psql.add_argument("words", nargs="*", metavar="-- WORD")
    return top


def _profile(text: str) -> Profile:
    try:
        return Profile(text)
    except ValueError:
        raise argparse.ArgumentTypeError("it is full or lite") from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _config(options: argparse.Namespace) -> Config:
    """The settings in force: the file's, overridden by the command line."""
    config = load(options.config, options.profile)
    log = config.log
    if getattr(options, "log_json", False):
        log = msgspec.structs.replace(log, json=True)
    if getattr(options, "log_level", None):
        log = msgspec.structs.replace(log, level=options.log_level)
    return msgspec.structs.replace(config, log=log)


def _data_dir(options: argparse.Namespace) -> Path:
    return (options.data_dir or embedded.default_data_dir()).absolute()


def _loop(work: Awaitable[int]) -> int:
    async def run() -> int:
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


# run and demo


def _run(options: argparse.Namespace) -> int:
    config = _config(options)
    _configure_log(config.log)
    supervisor = Supervisor(config, options.profile, _data_dir(options), only=options.only)
    return _loop(_supervise(supervisor, config, is_once=options.once))


async def _supervise(supervisor: Supervisor, config: Config, *, is_once: bool) -> int:
    if sys.stderr.isatty() and not config.log.json:
        async with view.live(supervisor, config.log):
            await supervisor.run(is_once=is_once)
    else:
        await supervisor.run(is_once=is_once)
    return 0


def _configure_log(log: LogSettings) -> None:
    try:
        configure(log.level, log.json)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _demo(options: argparse.Namespace) -> int:
    log = LogSettings(options.log_level or "INFO", options.log_json)
    _configure_log(log)
    data_dir = options.data_dir or embedded.default_data_dir().with_name("bigbrotr-demo")
    return _loop(demo.run(data_dir.absolute(), _supervise, log))


# The database


@asynccontextmanager
async def _database(
    options: argparse.Namespace, *, is_new: bool = False, may_be_old: bool = False
) -> AsyncIterator[Brotr]:
    """The database of the options, of the schema of this release.

    `is_new`: make it where there is none. `may_be_old`: of any schema that this release knows.
    """
    async with _server(options, is_new=is_new) as brotr:
        await _prepare(brotr, options.profile, is_new=is_new, may_be_old=may_be_old)
        yield brotr


@asynccontextmanager
async def _server(options: argparse.Namespace, *, is_new: bool = False) -> AsyncIterator[Brotr]:
    """The database of the options, whether another process runs its server or not."""
    config = _config(options)
    if not config.database.is_embedded:
        async with Brotr(Pool(config.database, config.pool)) as brotr:
            yield brotr
        return
    server = EmbeddedPostgres(_data_dir(options), on_progress=_say)
    if not is_new and not server.cluster.exists():
        raise DatabaseError(f"there is no archive in {server.data_dir}: `bigbrotr run` makes one")
    if embedded.running(server.data_dir) is not None:
        async with Brotr(Pool(config.database, config.pool, dsn=server.url)) as brotr:
            yield brotr
        return
    async with server, Brotr(Pool(config.database, config.pool, dsn=server.url)) as brotr:
        yield brotr


async def _prepare(
    brotr: Brotr, profile: Profile, *, is_new: bool = False, may_be_old: bool = False
) -> None:
    async with brotr.pool.acquire() as connection:
        ledger = await read_ledger(connection)
        if ledger is None and not is_new:
            raise SchemaError("the database has no schema yet: `bigbrotr db migrate` makes it")
        schema = Schema()
        if ledger is None:
            await schema.migrate(connection, profile, int(time.time()))
            return
        await schema.check(connection, ledger.profile)
        if ledger.revision < schema.revision and not may_be_old:
            raise SchemaError(
                f"the database is of revision {ledger.revision}, this release needs "
                f"{schema.revision}: `bigbrotr run` or `bigbrotr db migrate` brings it there"
            )


def _say(words: str) -> None:
    print(f"bigbrotr: {_shown(words)}", file=sys.stderr)  # noqa: T201


def _shown(words: str) -> str:
    """Words for a terminal, whoever wrote some of them: no secret, nothing that steers it."""
    return "\n".join(map(printable, without_secrets(words).split("\n")))


def _status(options: argparse.Namespace) -> int:
    async def work() -> int:
        every_s = _config(options).monitor.check_every_s
        async with _database(options) as brotr:
            if options.json:
                print(view.in_json(await view.state(brotr, every_s)))  # noqa: T201
            else:
                await view.print_status(brotr, _place(options), every_s)
        return 0

    return _loop(work())


def _health(options: argparse.Namespace) -> int:
    web = _config(options).web
    if web.listen is None:
        raise ConfigError('there is nobody to ask: set [web] listen = "127.0.0.1:9464"')
    is_well, words = app.ask(*web.address(), "/healthz" if options.alive else "/readyz")
    print(_shown(words))  # noqa: T201
    return 0 if is_well else 1


def _where(options: argparse.Namespace) -> int:
    try:
        event_id = parse_event_id(options.event)
    except ValueError as error:
        raise ConfigError(str(error)) from None

    async def work() -> int:
        async with _database(options) as brotr:
            if options.json:
                places = await view.where(brotr, event_id)
                print(view.in_json(places))  # noqa: T201
            else:
                await view.print_where(brotr, event_id)
        return 0

    return _loop(work())


def _place(options: argparse.Namespace) -> str:
    database = _config(options).database
    return str(_data_dir(options)) if database.is_embedded else database.place


def _seed(options: argparse.Namespace) -> int:
    networks = _config(options).networks

    async def work() -> int:
        relays: list[Relay] = []
        junk: list[str] = []
        for what in options.what:
            if "://" in what:
                try:
                    relays.append(Relay(what))
                except ValueError as error:
                    raise ConfigError(f"{what} is not a relay URL: {error}") from None
            else:
                found, lines = await read_seeds(Path(what))
                relays += found
                junk += [f"{what}, line {number}: {reason}" for number, reason in lines]
        usable = usable_relays(relays, networks)
        for relay in relays:
            if relay.network is Network.LOCAL and relay not in usable:
                junk.append(f"{relay.url} is local: allow it with [networks.local] enabled = true")
        if junk and not usable:
            raise ConfigError(f"nothing to add: {junk[0]}")
        async with _database(options, is_new=True) as brotr:
            added = await brotr.insert_candidates(usable, "command", is_typed=True)
        for words in junk:
            _say(f"left out: {words}")
        print(f"added {added}, known before {len(set(usable)) - added}")  # noqa: T201
        return 0

    return _loop(work())


def _db_url(options: argparse.Namespace) -> int:
    database = _config(options).database
    if not database.is_embedded:
        print(database.dsn)  # noqa: T201
        return 0
    server = EmbeddedPostgres(_data_dir(options))
    if embedded.running(server.data_dir) is None:
        _say("the server is not running: it runs as long as `bigbrotr run` does")
    print(server.url)  # noqa: T201
    return 0


def _db_migrate(options: argparse.Namespace) -> int:
    async def work() -> int:
        async with _server(options, is_new=True) as brotr, brotr.pool.acquire() as connection:
            schema = Schema()
            changed = await schema.migrate(connection, options.profile, int(time.time()))
            words = "brought to" if changed else "is of"
            print(f"the database {words} revision {schema.revision}, {options.profile}")  # noqa: T201
        return 0

    return _loop(work())


def _db_distribute(options: argparse.Namespace) -> int:
    async def work() -> int:
        async with _server(options) as brotr, brotr.pool.acquire() as connection:
            done = await Schema().distribute(connection)
        print("\n".join(done) or "all is distributed already")  # noqa: T201
        return 0

    return _loop(work())


def _db_roles(options: argparse.Namespace) -> int:
    async def work() -> int:
        async with _database(options) as brotr:
            try:
                made = await brotr.make_roles()
            except asyncpg.InsufficientPrivilegeError as error:
                raise DatabaseError(
                    f"somebody who may create roles has to do it: {str(error).splitlines()[0]}"
                ) from None
        print(f"roles made: {made}; their rights are those of this release")  # noqa: T201
        return 0

    return _loop(work())


def _db_backup(options: argparse.Namespace) -> int:
    async def work() -> int:
        async with _database(options, may_be_old=True) as brotr:
            size = await anyio.to_thread.run_sync(
                dump.back_up, brotr.pool.address, options.file, _client_environment(brotr)
            )
        print(f"{options.file}: {size:,} bytes, for {dump.readers()}")  # noqa: T201
        return 0

    return _loop(work())


def _db_restore(options: argparse.Namespace) -> int:
    async def work() -> int:
        async with _server(options, is_new=True) as brotr:
            async with brotr.pool.acquire() as connection:
                await check_server(connection)
                if await read_ledger(connection) is not None:
                    raise SchemaError("the database holds an archive: restore into an empty one")
            await anyio.to_thread.run_sync(
                dump.restore, brotr.pool.address, options.file, _client_environment(brotr)
            )
            await _prepare(brotr, options.profile, may_be_old=True)
            await brotr.grant_roles()
            await brotr.analyze()
            events = (await brotr.totals()).events
        print(f"restored {events:,} events")  # noqa: T201
        return 0

    return _loop(work())


def _client_environment(brotr: Brotr) -> dict[str, str]:
    return embedded.client_environment(is_embedded=brotr.pool.database.is_embedded)


def _db_psql(options: argparse.Namespace) -> int:
    async def work() -> int:
        async with _database(options, may_be_old=True) as brotr:
            process = await asyncio.create_subprocess_exec(
                embedded.binary("psql"),
                brotr.pool.address,
                *options.words,
                env=_client_environment(brotr),
            )
            return await process.wait()

    return _loop(work())


# Settings


def _config_show(options: argparse.Namespace) -> int:
    print(show(_config(options)), end="")  # noqa: T201
    return 0


def _config_check(options: argparse.Namespace) -> int:
    load(options.file, Profile.LITE)
    print(f"{options.file}: ok")  # noqa: T201
    return 0
