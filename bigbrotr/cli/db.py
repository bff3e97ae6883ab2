"""The commands `db …`: the database."""

import argparse
import asyncio
import functools
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import anyio.to_thread
import asyncpg

from bigbrotr.cli import parse
from bigbrotr.cli.output import say
from bigbrotr.cli.place import (
    Place,
    database,
    embedded_server,
    find,
    loop,
    migrate,
    prepare,
    server,
)
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.schema import Schema, check_server, is_distributed, read_ledger
from bigbrotr.embedded import base_backup, dump
from bigbrotr.embedded import server as embedded
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.errors import ConfigError, DatabaseError, SchemaError

# For users: our own statements say the schema.
SEARCH_PATH_OPTION = "-csearch_path=bigbrotr,public"


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the commands."""
    group, place = parse.add_group(commands, "db", "the database"), shared.place
    parse.add(group, "url", _url, "print the address of the database, for psql and others", place)
    parse.add(group, "migrate", _migrate, "bring the schema to the current revision", place)
    words = "spread the database over the workers of Citus"
    parse.add(group, "distribute", _distribute, words, place)
    parse.add(group, "roles", _roles, "make roles for readers, writers and admins", place)
    backup = parse.add(group, "backup", _backup, "write the whole archive into a file", place)
    backup.add_argument(
        "file", type=Path, metavar="FILE", help="must not exist yet; with --incremental a folder"
    )
    backup.add_argument(
        "--incremental",
        action="store_true",
        help="add what has changed since the last backup to a folder of backups; the first is "
        "whole (needs the embedded server, and [database] summarize_wal)",
    )
    backup.add_argument("--full", action="store_true", help="with --incremental: begin anew")
    words = "fill an empty database from a backup"
    restore = parse.add(group, "restore", _restore, words, place)
    restore.add_argument(
        "file", type=Path, metavar="FILE", help="what `db backup` wrote: a file, or a folder"
    )
    words = 'open psql on the archive, or run it: db psql -c "SELECT …"'
    psql = parse.add(group, "psql", _psql, words, place)
    psql.add_argument("words", nargs="*", metavar="WORD", help="options and words of psql")


def _url(options: argparse.Namespace) -> int:
    there = find(options, may_start=False)
    if there.config.pool.pgbouncer:  # it takes no options
        print(there.config.database.dsn)  # noqa: T201
        return 0
    if not there.config.database.is_embedded:
        print(with_search_path(there.config.database.dsn))  # noqa: T201
        return 0
    postgres = EmbeddedPostgres(there.data_dir)
    if embedded.running(postgres.data_dir) is None:
        say("the server is not running: it runs as long as `bigbrotr run` does")
    print(with_search_path(postgres.url))  # noqa: T201
    return 0


def with_search_path(address: str) -> str:
    """A database's address with which clients find our relations by bare names; as it is where it
    has options already."""
    parts = urlsplit(address)
    if "options" in parse_qs(parts.query):
        return address
    options = f"options={quote(SEARCH_PATH_OPTION)}"
    return parts._replace(query="&".join(filter(None, (parts.query, options)))).geturl()


def _migrate(options: argparse.Namespace) -> int:
    there = find(options)

    async def work() -> int:
        async with server(there, is_new=True) as brotr:
            words = "brought to" if await migrate(brotr, there) else "is of"
        print(f"the database {words} revision {Schema().revision}, {there.profile}")  # noqa: T201
        return 0

    return loop(work())


def _distribute(options: argparse.Namespace) -> int:
    there = find(options)

    async def work() -> int:
        async with server(there) as brotr, brotr.pool.acquire() as connection:
            done = 0
            async for line in Schema().distribute(connection):
                print(line, flush=True)  # noqa: T201
                done += 1
        if not done:
            print("all is distributed already")  # noqa: T201
        return 0

    return loop(work())


def _roles(options: argparse.Namespace) -> int:
    there = find(options)

    async def work() -> int:
        async with database(there) as brotr:
            try:
                made = await brotr.make_roles()
            except asyncpg.InsufficientPrivilegeError as error:
                raise DatabaseError(
                    f"somebody who may create roles has to do it: {str(error).splitlines()[0]}"
                ) from None
            if not await brotr.set_search_path():
                say(
                    "bare names like `events` find nothing yet, as only the owner of the database "
                    "may say where: ALTER DATABASE … SET search_path = bigbrotr, public"
                )
            for words in await brotr.refused_reader():
                say(
                    "pages, API and relay will find nothing, as bigbrotr_reader has no way in (see "
                    f"pg_hba.conf there) at the worker {words}"
                )
        print(f"roles made: {made}; their rights are those of this release")  # noqa: T201
        return 0

    return loop(work())


def _backup(options: argparse.Namespace) -> int:
    if options.incremental:
        return _add_backup(options)
    if options.full:
        raise ConfigError("--full goes with --incremental: a backup into a file is whole anyway")
    there = find(options)

    async def work() -> int:
        async with database(there, may_be_old=True) as brotr:
            async with brotr.pool.acquire() as connection:
                if await is_distributed(connection):
                    raise SchemaError(
                        "the events lie on the machines of a cluster: back up each PostgreSQL by "
                        "its own means, such as pg_basebackup and an archive of its WAL"
                    )
            size = await anyio.to_thread.run_sync(
                dump.back_up, brotr.pool.address, options.file, _client_environment(brotr)
            )
        print(f"{options.file}: {size:,} bytes, for {dump.readers()}")  # noqa: T201
        return 0

    return loop(work())


def _add_backup(options: argparse.Namespace) -> int:
    there = find(options)
    if not there.config.database.is_embedded:
        raise ConfigError(
            "--incremental is for the embedded server: use pg_basebackup where you run PostgreSQL"
        )

    async def work() -> int:
        async with database(there, may_be_old=True) as brotr:
            if await brotr.pool.fetchval("SHOW summarize_wal") != "on":
                raise ConfigError(
                    "the server does not note which blocks change: set summarize_wal = true under "
                    "[database], and start bigbrotr again"
                )
            made = await anyio.to_thread.run_sync(
                functools.partial(base_backup.back_up, is_full=options.full),
                brotr.pool.address,
                options.file,
                _client_environment(brotr),
            )
        kind = "whole" if made.is_full else "incremental"
        print(f"{made.path}: {made.bytes:,} bytes, {kind}")  # noqa: T201
        return 0

    return loop(work())


def _combine(options: argparse.Namespace) -> int:
    """Restores from a folder of backups."""
    there = find(options, may_start=False)
    if not there.config.database.is_embedded:
        raise ConfigError(
            f"{options.file} is a folder of backups of the embedded server: restore it into a "
            "--data-dir, without [database] url"
        )
    archive = there.config.database.wal_archive
    make = base_backup.combiner(options.file, has_archive=bool(archive))

    async def work() -> int:
        await embedded_server(there).fill(make)
        async with server(there) as brotr:
            await prepare(brotr, there, may_be_old=True)
            events = (await brotr.totals()).events
        until = f", up to the last change in {archive}" if archive else ""
        print(f"restored {events:,} events{until}")  # noqa: T201
        return 0

    return loop(work())


def _restore(options: argparse.Namespace) -> int:
    if options.file.is_dir():
        return _combine(options)
    dump.check_file(options.file)  # before anything is made
    there = find(options)

    async def work() -> int:
        async with server(there, is_new=True) as brotr:
            async with brotr.pool.acquire() as connection:
                await check_server(connection)
                if await read_ledger(connection) is not None:
                    raise SchemaError("the database holds an archive: restore into an empty one")
            await anyio.to_thread.run_sync(
                dump.restore, brotr.pool.address, options.file, _client_environment(brotr)
            )
            await prepare(brotr, there, may_be_old=True)
            await brotr.grant_roles()
            await brotr.analyze()
            events = (await brotr.totals()).events
        print(f"restored {events:,} events")  # noqa: T201
        return 0

    return loop(work())


def _client_environment(brotr: Brotr) -> dict[str, str]:
    return embedded.client_environment(is_embedded=brotr.pool.database.is_embedded)


def _psql(options: argparse.Namespace) -> int:
    return loop(_run_psql(find(options), options.words))


async def _run_psql(there: Place, words: list[str]) -> int:
    async with database(there, may_be_old=True) as brotr:
        variables = _client_environment(brotr)
        if not brotr.pool.settings.pgbouncer:  # it takes no options
            variables["PGOPTIONS"] = f"{SEARCH_PATH_OPTION} {variables.get('PGOPTIONS', '')}"
        process = await asyncio.create_subprocess_exec(
            embedded.binary("psql"), brotr.pool.address, *words, env=variables
        )
        return await process.wait()
