"""Finds the archive that a command is about: its settings, its profile, its database."""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import asyncpg
import msgspec
import uvloop

from bigbrotr.cli.output import say
from bigbrotr.config.settings import Config, Limits, PoolSettings, Profile, Retry, Timeouts
from bigbrotr.config.toml import load
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.identity import note_profile, noted_profile
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema, read_ledger
from bigbrotr.embedded import server as embedded
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.errors import BigBrotrError, ConfigError, DatabaseError, SchemaError

T = TypeVar("T")

# A look for the profile: what is wrong with the database is said by the command itself.
GLANCE = PoolSettings(
    limits=Limits(max_size=1), timeouts=Timeouts(acquisition=5.0), retry=Retry(max_attempts=1)
)


class Place(NamedTuple):
    """An archive, and how it is worked with."""

    config: Config
    profile: Profile
    data_dir: Path

    def __str__(self) -> str:
        database = self.config.database
        return str(self.data_dir) if database.is_embedded else database.place


def loop(work: Awaitable[T]) -> T:
    """Runs a command's work on the event loop that we ship."""

    async def run() -> T:
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def data_dir(options: argparse.Namespace) -> Path:
    """Where the embedded database of the options lives."""
    given: Path | None = options.data_dir
    return (given or embedded.default_data_dir()).absolute()


def find(options: argparse.Namespace, *, may_start: bool = True) -> Place:
    """The archive of the options, and its settings: the file's over those of its profile.

    `may_start`: the embedded server may be started to ask which profile that is.

    Raises:
        ConfigError: the command line, the environment or the file says something wrong.
    """
    folder = data_dir(options)
    profile: Profile | None = options.profile
    by_default = os.environ.get("BIGBROTR_PROFILE") or None
    if by_default not in (None, *Profile):
        names = " or ".join(each.value for each in Profile)
        raise ConfigError(f"BIGBROTR_PROFILE: a profile is {names}, not {by_default!r}")
    if profile is None:
        # Where the database is, no profile says.
        config = load(options.config, Profile(by_default or Profile.LITE))
        profile = _profile_of(config, folder, may_start=may_start)
        if profile is not None and by_default not in (None, profile):
            say(
                f"the archive is of the profile {profile}, for good: BIGBROTR_PROFILE, which says "
                f"{by_default}, counts for new archives"
            )
    if profile is None:
        profile = Profile(by_default or Profile.LITE)
    config = load(options.config, profile)
    log = config.log
    if getattr(options, "log_json", False):
        log = msgspec.structs.replace(log, json=True)
    if getattr(options, "log_level", None):
        log = msgspec.structs.replace(log, level=options.log_level)
    return Place(msgspec.structs.replace(config, log=log), profile, folder)


def _profile_of(config: Config, folder: Path, *, may_start: bool) -> Profile | None:
    """The profile of the archive that there is; None: there is none, or it does not tell."""
    if not config.database.is_embedded:
        return loop(_ask_profile(Pool(config.database, GLANCE)))
    server = EmbeddedPostgres(folder)
    try:
        if not server.cluster.exists():
            return None
    except OSError:  # not ours to look into: the command itself will say so
        return None
    if (noted := noted_profile(server.data_dir)) is not None:
        return noted

    async def ask() -> Profile | None:
        pool = Pool(config.database, GLANCE, dsn=server.url)
        try:
            if embedded.running(server.data_dir) is not None:
                return await _ask_profile(pool)
            if not may_start:
                return None
            async with server:
                return await _ask_profile(pool)
        except BigBrotrError:
            return None

    found = loop(ask())
    if found is not None:
        note_profile(server.data_dir, found)
    return found


async def _ask_profile(pool: Pool) -> Profile | None:
    try:
        async with pool, pool.acquire() as connection:
            ledger = await read_ledger(connection)
    except (BigBrotrError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    return None if ledger is None else ledger.profile


@asynccontextmanager
async def database(
    place: Place, *, is_new: bool = False, may_be_old: bool = False
) -> AsyncIterator[Brotr]:
    """The database of an archive, of the schema of this release.

    `is_new`: make it where there is none. `may_be_old`: of any schema that this release knows.
    """
    async with server(place, is_new=is_new) as brotr:
        await prepare(brotr, place, is_new=is_new, may_be_old=may_be_old)
        yield brotr


@asynccontextmanager
async def server(place: Place, *, is_new: bool = False) -> AsyncIterator[Brotr]:
    """The database of an archive, whether another process runs its server or not."""
    config = place.config
    if not config.database.is_embedded:
        async with Brotr(Pool(config.database, config.pool)) as brotr:
            yield brotr
        return
    postgres = embedded_server(place)
    holder = embedded.running(postgres.data_dir)  # first: it says so where we may not look
    if not is_new and not postgres.cluster.exists():
        raise DatabaseError(f"there is no archive in {postgres.data_dir}: `bigbrotr run` makes one")
    if holder is not None:
        async with Brotr(Pool(config.database, config.pool, dsn=postgres.url)) as brotr:
            yield brotr
        return
    async with postgres, Brotr(Pool(config.database, config.pool, dsn=postgres.url)) as brotr:
        yield brotr


def embedded_server(place: Place) -> EmbeddedPostgres:
    """The server of an archive whose database is embedded."""
    database = place.config.database
    return EmbeddedPostgres(
        place.data_dir,
        wal_archive=Path(database.wal_archive) if database.wal_archive else None,
        summarizes_wal=database.summarize_wal,
        on_progress=say,
    )


async def prepare(
    brotr: Brotr, place: Place, *, is_new: bool = False, may_be_old: bool = False
) -> None:
    """Checks the schema of a database; `is_new` and `may_be_old` as for `database`.

    Raises:
        SchemaError: it is none of this release's.
    """
    async with brotr.pool.acquire() as connection:
        ledger = await read_ledger(connection)
        if ledger is None and not is_new:
            raise SchemaError("the database has no schema yet: `bigbrotr db migrate` makes it")
        schema = Schema()
        if ledger is None:
            await migrate(brotr, place)
            return
        await schema.check(connection, ledger.profile)
        if ledger.revision < schema.revision and not may_be_old:
            raise SchemaError(
                f"the database is of revision {ledger.revision}, this release needs "
                f"{schema.revision}: `bigbrotr run` or `bigbrotr db migrate` brings it there"
            )


async def migrate(brotr: Brotr, place: Place) -> bool:
    """Brings the schema to this release; whether anything had to be done."""
    async with brotr.pool.acquire() as connection:
        changed = await Schema().migrate(connection, place.profile, int(time.time()))
    if place.config.database.is_embedded:
        note_profile(place.data_dir, place.profile)
    return changed
