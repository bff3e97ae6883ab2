"""Brings a database to the current revision: runs `sql/` under a lock, and keeps the ledger.

The files state the current truth and may be run again. `sql/migrations/NNNN_words.sql` takes a
deployed database from revision NNNN - 1 to NNNN; it runs before the files. `sql/previous/` keeps
what the release of the previous revision still calls. `sql/undistributed.sql` and
`sql/distributed.sql` are for Citus only: `distribute` runs them.
"""

import hashlib
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from msgspec import Struct

from bigbrotr import __version__
from bigbrotr.config.settings import Profile
from bigbrotr.config.shipped import shipped
from bigbrotr.core.codes import SEARCH_PATH
from bigbrotr.errors import DatabaseError, SchemaError

OLDEST_SERVER = 15
LONG_S = 86_400.0  # a migration of a large database takes its time
TRIES = 5  # of a migration that met another process
DISTRIBUTED = "distributed.sql"  # for a database over several machines, and no other ...
UNDISTRIBUTED = "undistributed.sql"  # ... and what comes before it
# What is kept by slice.
SLICED = (
    "events_stored",
    "presence",
    "events_raw",
    "dropped",
    "hidden",
    "search",
    "imported",
)
# A database in which `distribute` is unfinished has this table.
UNFINISHED = "SELECT pg_catalog.to_regclass('bigbrotr.slices_moved') IS NOT NULL"
IS_DISTRIBUTED = """
    SELECT pg_catalog.count(*) > 0 FROM pg_catalog.pg_dist_partition p
    WHERE p.logicalrelid = pg_catalog.to_regclass('bigbrotr.events_stored')"""
# Quarters that were taken out, see detach_quarter.
DETACHED = r"""
    SELECT pg_catalog.string_agg(pg_catalog.substr(c.relname, 8), ', ' ORDER BY c.relname)
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = 'bigbrotr'::pg_catalog.regnamespace AND c.relkind = 'r'
      AND NOT c.relispartition
      AND pg_catalog.regexp_match(c.relname, '^events_\d{4}q[1-4]$') IS NOT NULL"""
HAS_CITUS = "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
NEXT_SLICE = """
    SELECT s.slice, pg_catalog.count(*) OVER () AS left FROM (
        SELECT DISTINCT slice FROM bigbrotr.slices EXCEPT SELECT slice FROM bigbrotr.slices_moved
    ) AS s ORDER BY s.slice LIMIT 1"""

# What a semicolon in it ends no statement.
QUOTED = re.compile(
    r"--[^\n]*|'(?:[^']|'')*'|(\$\w*\$).*?\1|\bBEGIN ATOMIC\b.*?^END\b|(;)",
    re.DOTALL | re.MULTILINE,
)

# Which schemas hold a ledger of ours, known by its columns.
LEDGERS = """
    SELECT n.nspname FROM pg_catalog.pg_namespace n
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'ledger'
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname IN ('revision', 'digest')
    WHERE n.nspname IN ('bigbrotr', 'public')
    GROUP BY n.nspname HAVING pg_catalog.count(*) = 2"""

# What lies in a schema of our name, and whether we may call the schema our own.
CONTENT = """
    SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0)
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
    WHERE n.nspname = 'bigbrotr' AND d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
    ORDER BY 1 LIMIT 1"""
FOREIGN_OWNER = """
    SELECT pg_catalog.pg_get_userbyid(n.nspowner) FROM pg_catalog.pg_namespace n
    WHERE n.nspname = 'bigbrotr' AND NOT pg_catalog.pg_has_role(n.nspowner, 'USAGE')"""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


class Ledger(Struct, frozen=True):
    """What a database says of itself."""

    revision: int
    profile: Profile
    digest: str
    serves_from: int  # releases of this revision and later ones may use the database
    release: str  # the version of bigbrotr whose files were run last


class Schema:
    """The schema that this release works with: the files in a folder.

    Raises:
        SchemaError: from `check` and `migrate`, in words for the operator.
    """

    def __init__(self, folder: Path | None = None, release: str = __version__) -> None:
        self.folder = folder or shipped("sql")
        self.release = release

    def files(self, profile: Profile) -> list[Path]:
        """The current truth, in the order in which it is run."""
        found = [
            path
            for path in self.folder.glob("*.sql")
            if path.name not in (DISTRIBUTED, UNDISTRIBUTED)
        ]
        previous = (self.folder / "previous").glob("*.sql")
        return [*sorted(found), *sorted(previous), self.folder / "profiles" / f"{profile}.sql"]

    def migrations(self) -> dict[int, Path]:
        """What leads to each revision from the one before."""
        found = sorted((self.folder / "migrations").glob("*.sql"))
        return {int(re.match(r"\d+", path.name)[0]): path for path in found}  # type: ignore[index]

    @property
    def revision(self) -> int:
        """The current revision; a schema without migrations is the first."""
        return max(self.migrations(), default=1)

    @property
    def serves_from(self) -> int:
        """The oldest revision whose release this schema still serves: the previous one."""
        return max(1, self.revision - 1)

    def digest(self, profile: Profile) -> str:
        """Changes when any file of the current truth does."""
        digest = hashlib.sha256()
        for path in (*self.files(profile), self.folder / DISTRIBUTED):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    async def check(self, connection: Connection, profile: Profile) -> Ledger | None:
        """The database's ledger, None in an empty database; refuses what this release can't use.

        A database of the next revision can be used: it serves the previous release, too.
        """
        await check_server(connection)
        ledger = await read_ledger(connection)
        if ledger is None:
            return None
        if await connection.fetchval(UNFINISHED):
            raise SchemaError(
                "the archive is on its way to the machines of a cluster: run `bigbrotr db "
                "distribute` until it ends; nothing can be read or stored before"
            )
        self._check_ledger(ledger, profile)
        return ledger

    def _check_ledger(self, ledger: Ledger, profile: Profile) -> None:
        if self.revision < ledger.serves_from:
            raise SchemaError(
                f"the database is of revision {ledger.revision} and serves releases from revision "
                f"{ledger.serves_from} on, this release is of revision {self.revision}: install "
                f"a newer bigbrotr, {ledger.release} or later"
            )
        if ledger.profile != profile:
            raise SchemaError(
                f"the database is of the profile {ledger.profile}, not {profile}: run with "
                f"--profile {ledger.profile}, or choose another database or --data-dir"
            )

    def is_current(self, ledger: Ledger | None, profile: Profile) -> bool:
        """Whether the files were run, or a newer release has run its own."""
        if ledger is None or ledger.revision < self.revision:
            return False
        if ledger.revision > self.revision:
            return True
        is_newer = _parts(ledger.release) > _parts(self.release)
        return is_newer or ledger.digest == self.digest(profile)

    async def migrate(self, connection: Connection, profile: Profile, now: int) -> bool:
        """Brings the database to the current revision and makes the partitions for `now`.

        Takes the lock, waits for another process that holds it, and does all or nothing. Leaves
        the schema of a newer release as it is. Returns whether anything but partitions was done.
        """
        for _ in range(TRIES - 1):
            # A name that another process has just made: it was the first to make the schema. A
            # deadlock: others go on to write while the schema changes.
            with suppress(
                asyncpg.UniqueViolationError,
                asyncpg.DuplicateTableError,
                asyncpg.DuplicateSchemaError,
                asyncpg.DeadlockDetectedError,
            ):
                return await self._migrate(connection, profile, now)
        return await self._migrate(connection, profile, now)

    async def _migrate(self, connection: Connection, profile: Profile, now: int) -> bool:
        async with connection.transaction():
            await _lock(connection)
            ledger = await self.check(connection, profile)
            changed = not self.is_current(ledger, profile)
            if changed:
                try:
                    await self._apply(connection, ledger, profile, now)
                except asyncpg.InsufficientPrivilegeError as error:
                    raise SchemaError(
                        f"the schema has to be brought to this release by the owner of the "
                        f"database (`bigbrotr db migrate`): {str(error).splitlines()[0]}"
                    ) from None
            # Somebody may read for long: then maintenance makes them. They are made half a year
            # ahead.
            with suppress(asyncpg.LockNotAvailableError):
                async with connection.transaction():
                    await connection.execute(
                        "SELECT bigbrotr.ensure_partitions(p_now => $1)", now, timeout=LONG_S
                    )
        return changed

    async def distribute(self, connection: Connection) -> AsyncGenerator[str, None]:
        """Spreads an initialised database over the workers of its Citus cluster; yields, in words,
        what has been done: nothing when all was done before.

        First, in one transaction, the tables are made on the workers; then the events move, a
        slice a transaction; then the tables that they came from are dropped. It may be broken off
        at any time, and goes on from there. Until it ends, nobody else can use the database.

        Raises:
            DatabaseError: the server has no Citus, no workers, or refuses.
            SchemaError: the database is empty, or of another release.
        """
        try:
            async with connection.transaction():
                await _lock(connection)
                ledger = await self._check_distributable(connection)
                is_new = False
                if not await connection.fetchval(UNFINISHED):
                    is_new = await self._spread(connection, ledger)
                begun = bool(await connection.fetchval(UNFINISHED))
        except asyncpg.PostgresError as error:
            raise DatabaseError(f"nothing was distributed: {error}") from error
        if is_new:
            yield f"on the workers there are now {', '.join(SLICED)}"
        try:
            while begun and (line := await self._move_slice(connection)):
                yield line
            if begun:
                yield await self._drop_undistributed(connection)
        except asyncpg.PostgresError as error:
            raise DatabaseError(
                f"not all is distributed yet: {error}; `bigbrotr db distribute` goes on from here"
            ) from error

    async def _check_distributable(self, connection: Connection) -> Ledger:
        ledger = await read_ledger(connection)
        if ledger is None:
            raise SchemaError("the database has no schema yet: `bigbrotr db migrate` makes it")
        self._check_ledger(ledger, ledger.profile)
        if ledger.digest != self.digest(ledger.profile):
            raise SchemaError(
                "the schema is not that of this release: run `bigbrotr db migrate` first, or "
                f"`bigbrotr db distribute` of bigbrotr {ledger.release}"
            )
        if not await connection.fetchval(HAS_CITUS):
            raise DatabaseError(
                "the database has no extension citus: it cannot be distributed over machines"
            )
        if not await is_distributed(connection) and (
            quarters := await connection.fetchval(DETACHED)
        ):
            raise DatabaseError(
                f"these quarters are detached: {quarters}; a cluster has no partitions, they could "
                "never be attached again: SELECT bigbrotr.attach_quarter('…') for each, or move "
                "their tables to another schema"
            )
        return ledger

    async def _spread(self, connection: Connection, ledger: Ledger) -> bool:
        """Makes the distributed tables, empty, beside those that hold the events; from then on
        nobody can store, as a lock that storing takes is not found. Returns False, and only renews
        what may be, where that was done before."""
        is_new = not await is_distributed(connection)
        if is_new:
            await connection.execute(
                "LOCK TABLE bigbrotr.presence_lock IN EXCLUSIVE MODE", timeout=LONG_S
            )
            for path in (self.folder / UNDISTRIBUTED, *self.files(ledger.profile)):
                await _run_one_by_one(connection, path.read_text("utf-8"))
        await _run_one_by_one(connection, (self.folder / DISTRIBUTED).read_text("utf-8"))
        if is_new:
            await connection.execute(
                "ALTER TABLE bigbrotr.presence_lock RENAME TO presence_lock_undistributed"
            )
        return is_new

    async def _move_slice(self, connection: Connection) -> str | None:
        """Moves the next slice, in one transaction; returns what was done, None at the end."""
        async with connection.transaction():
            await _lock(connection)
            if not await connection.fetchval(UNFINISHED):
                return None  # another process has done it
            row = await connection.fetchrow(NEXT_SLICE)
            if row is None:
                return None
            part, left = row
            moved = []
            for name in SLICED:
                bounds = (
                    ""
                    if name != "events_stored"
                    else (
                        " AND created_at >= bigbrotr.slice_start($1)"
                        " AND created_at <= bigbrotr.slice_end($1)"
                    )
                )
                done = await connection.execute(
                    f"INSERT INTO bigbrotr.{name}"  # noqa: S608 -- names of ours
                    f" SELECT * FROM bigbrotr.{name}_undistributed WHERE slice = $1{bounds}",
                    part,
                    timeout=LONG_S,
                )
                moved.append(int(done.split()[-1]))
            await connection.execute("INSERT INTO bigbrotr.slices_moved (slice) VALUES ($1)", part)
        day = time.strftime("%Y-%m-%d", time.gmtime(part * 604_800)) if part < 100_000 else "later"
        return f"the week of {day}: {moved[0]:,} events moved, {left - 1:,} weeks to go"

    async def _drop_undistributed(self, connection: Connection) -> str:
        """Drops the tables that the events came from, once it is sure that all have moved."""
        async with connection.transaction():
            await _lock(connection)
            if not await connection.fetchval(UNFINISHED):
                return "another process has finished it"
            for name in SLICED:
                came, went = [
                    await connection.fetchval(f"SELECT count(*) FROM bigbrotr.{each}")  # noqa: S608
                    for each in (name, f"{name}_undistributed")
                ]
                if came != went:
                    raise DatabaseError(
                        f"{name} had {went:,} rows and has {came:,} on the cluster: nothing was "
                        "dropped; what stood there before stands in the tables …_undistributed"
                    )
            for name in (*(f"{name}_undistributed" for name in SLICED), "slices_moved"):
                await connection.execute(f"DROP TABLE bigbrotr.{name}", timeout=LONG_S)
            await connection.execute(
                "ALTER TABLE bigbrotr.presence_lock_undistributed RENAME TO presence_lock"
            )
        return "all is distributed"

    async def _apply(
        self, connection: Connection, ledger: Ledger | None, profile: Profile, now: int
    ) -> None:
        if ledger is None:
            # One process makes the schema: the others wait here for its transaction.
            await connection.execute("CREATE SCHEMA IF NOT EXISTS bigbrotr", timeout=LONG_S)
        else:
            # Those who store wait here, before they hold anything, and not in the midst of it.
            await connection.execute(
                "LOCK TABLE bigbrotr.presence_lock IN EXCLUSIVE MODE", timeout=LONG_S
            )
        paths = self.files(profile)
        if ledger is not None:
            news = [path for number, path in self.migrations().items() if number > ledger.revision]
            paths = [*news, *paths]
        if await is_distributed(connection):
            for path in (*paths, self.folder / DISTRIBUTED):
                await _run_one_by_one(connection, path.read_text("utf-8"))
        else:
            for path in paths:
                await connection.execute(path.read_text("utf-8"), timeout=LONG_S)
        await connection.execute(
            "INSERT INTO bigbrotr.ledger"
            " (revision, profile, digest, applied_at, serves_from, release)"
            " VALUES ($1, $2, $3, $4, $5, $6)"
            " ON CONFLICT (revision) DO UPDATE SET digest = EXCLUDED.digest,"
            " applied_at = EXCLUDED.applied_at, release = EXCLUDED.release",
            self.revision,
            profile.value,
            self.digest(profile),
            now,
            self.serves_from,
            self.release,
        )


async def _lock(connection: Connection) -> None:
    """Takes the schema lock until the transaction ends, if there is a schema; sets the search path
    so that nothing that others have made is called."""
    await connection.execute(f"SET LOCAL search_path = {SEARCH_PATH}")
    if await connection.fetchval(
        "SELECT pg_catalog.to_regclass('bigbrotr.schema_lock') IS NOT NULL"
    ):
        await connection.execute(
            "LOCK TABLE bigbrotr.schema_lock IN EXCLUSIVE MODE", timeout=LONG_S
        )


async def is_distributed(connection: Connection) -> bool:
    """Whether the events lie on the workers of a Citus cluster."""
    return bool(await connection.fetchval(HAS_CITUS) and await connection.fetchval(IS_DISTRIBUTED))


async def _run_one_by_one(connection: Connection, script: str) -> None:
    """Runs a script a statement at a time: of a whole script, Citus would send the workers all.

    Functions and views stay on the coordinator: `distributed.sql` names those that go further. It
    goes over one connection a worker, without which functions cannot follow tables and rights.
    """
    await connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
    for statement in statements(script):
        stays = re.search(r"^(CREATE OR REPLACE|COMMENT ON) ", statement, re.MULTILINE)
        await connection.execute(
            f"SET LOCAL citus.enable_ddl_propagation = {'off' if stays else 'on'}"
        )
        await connection.execute(statement, timeout=LONG_S)


def statements(script: str) -> Iterator[str]:
    """The statements of one of our scripts, with the comments before them."""
    start = 0
    for found in QUOTED.finditer(script):
        if found[2]:
            yield script[start : found.end()].strip()
            start = found.end()


async def check_server(connection: Connection) -> None:
    """Refuses a server or database, with SchemaError, that could not hold an archive."""
    row = await connection.fetchrow(
        "SELECT pg_catalog.current_setting('server_version_num') AS version,"
        " pg_catalog.current_setting('server_encoding') AS encoding"
    )
    assert row is not None
    version = int(row["version"]) // 10_000
    if version < OLDEST_SERVER:
        raise SchemaError(f"PostgreSQL {version} is too old: bigbrotr needs {OLDEST_SERVER}")
    if row["encoding"] != "UTF8":
        raise SchemaError(
            f"the database is encoded in {row['encoding']}, which cannot hold every event: make "
            "one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


async def read_ledger(connection: Connection) -> Ledger | None:
    """What the database says of itself; None when bigbrotr has never been there.

    Raises:
        SchemaError: the database holds an archive of an unreleased bigbrotr, or a schema
            `bigbrotr` that is not ours. Nothing in it is changed.
    """
    found = {row["nspname"] for row in await connection.fetch(LEDGERS)}
    if "bigbrotr" in found:
        row = await connection.fetchrow(
            "SELECT revision, profile, digest, serves_from, release FROM bigbrotr.ledger"
            " ORDER BY revision DESC LIMIT 1"
        )
        if row is not None:
            return Ledger(row["revision"], Profile(row["profile"]), *list(row)[2:])
    if "public" in found:
        raise SchemaError(
            "the database holds an archive that an unreleased bigbrotr has made in the schema "
            "`public`; this release keeps its own in the schema `bigbrotr` and cannot read it. Use "
            "another database or --data-dir; the old archive stays as it is"
        )
    content = await connection.fetchval(CONTENT)
    if content is not None:
        raise SchemaError(
            f"the database has a schema `bigbrotr` that holds something that is not bigbrotr's, "
            f"{content}: use another database, or rename that schema"
        )
    owner = await connection.fetchval(FOREIGN_OWNER)
    if owner is not None:
        raise SchemaError(
            f"the schema `bigbrotr` belongs to {owner}, who may change what bigbrotr makes there: "
            "drop it, or give it to the role that bigbrotr connects as (ALTER SCHEMA bigbrotr "
            "OWNER TO …)"
        )
    return None


def _parts(release: str) -> tuple[int, ...]:
    """A version as numbers, to be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:3])
