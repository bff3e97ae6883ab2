"""Brings a database to the current revision: runs `sql/` under a lock, and keeps the ledger.

The files state the current truth and may be run again; `sql/migrations/NNNN_words.sql` takes a
deployed database from revision NNNN - 1 to NNNN, before the files are run over it.
`sql/distributed.sql` is run by nobody but `distribute`.
"""

import hashlib
import re
from pathlib import Path
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from msgspec import Struct

from bigbrotr.config.settings import Profile
from bigbrotr.config.shipped import shipped
from bigbrotr.errors import DatabaseError, SchemaError

OLDEST_SERVER = 15
LONG_S = 86_400.0  # a migration of a large database takes its time
DISTRIBUTED = "distributed.sql"  # for a database over several machines, and no other
LOCK = 0x62_69_67_62_72_6F  # "bigbro": the advisory lock under which the schema is changed

# What Citus makes of each table; partitions are as their parents.
KINDS = """
    SELECT c.relname AS name, CASE WHEN p.partmethod = 'h' THEN 'distributed'
        WHEN p.repmodel = 't' THEN 'a copy on each machine' ELSE 'on the coordinator' END AS kind
    FROM pg_catalog.pg_dist_partition p JOIN pg_catalog.pg_class c ON c.oid = p.logicalrelid
    WHERE NOT c.relispartition ORDER BY 2, 1"""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


class Ledger(Struct, frozen=True):
    """What a database says of itself."""

    revision: int
    profile: Profile
    digest: str


class Schema:
    """The schema that this release works with: the files in a folder.

    Raises:
        SchemaError: from `check` and `migrate`, in words for the operator.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or shipped("sql")

    def files(self, profile: Profile) -> list[Path]:
        """The current truth, in the order in which it is run."""
        found = (path for path in self.folder.glob("*.sql") if path.name != DISTRIBUTED)
        return [*sorted(found), self.folder / "profiles" / f"{profile}.sql"]

    def migrations(self) -> dict[int, Path]:
        """What leads to each revision from the one before."""
        found = sorted((self.folder / "migrations").glob("*.sql"))
        return {int(re.match(r"\d+", path.name)[0]): path for path in found}  # type: ignore[index]

    @property
    def revision(self) -> int:
        """The current revision; a schema without migrations is the first."""
        return max(self.migrations(), default=1)

    def digest(self, profile: Profile) -> str:
        """Changes when any file of the current truth does."""
        digest = hashlib.sha256()
        for path in self.files(profile):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    async def check(self, connection: Connection, profile: Profile) -> Ledger | None:
        """The database's ledger, None in an empty database; refuses what this release can't use."""
        await check_server(connection)
        ledger = await read_ledger(connection)
        if ledger is None:
            foreign = await connection.fetchval(
                "SELECT min(relname) FROM pg_catalog.pg_class"
                " WHERE relnamespace = 'public'::regnamespace AND relname = ANY ($1)",
                ["events", "metadata", "relays"],
            )
            if foreign:
                raise SchemaError(
                    f"the database holds a table `{foreign}` that is not bigbrotr's: "
                    "use another one"
                )
            return None
        if ledger.revision > self.revision:
            raise SchemaError(
                f"the database is of revision {ledger.revision}, this release knows only up to "
                f"{self.revision}: install a newer bigbrotr"
            )
        if ledger.profile != profile:
            raise SchemaError(
                f"the database is of the profile {ledger.profile}, not {profile}: run with "
                f"--profile {ledger.profile}, or choose another database or --data-dir"
            )
        return ledger

    async def migrate(self, connection: Connection, profile: Profile, now: int) -> bool:
        """Brings the database to the current revision and makes the partitions for `now`.

        Takes the lock, waits for another process that holds it, and does all or nothing. Returns
        whether anything but partitions was done.
        """
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK, timeout=LONG_S)
            ledger = await self.check(connection, profile)
            changed = ledger is None or ledger.digest != self.digest(profile)
            if changed:
                try:
                    await self._apply(connection, ledger, profile, now)
                except asyncpg.InsufficientPrivilegeError as error:
                    raise SchemaError(
                        f"the schema has to be brought to this release by the owner of the "
                        f"database (`bigbrotr db migrate`): {str(error).splitlines()[0]}"
                    ) from None
            await connection.execute("SELECT public.ensure_partitions($1)", now, timeout=LONG_S)
        return changed

    async def distribute(self, connection: Connection) -> list[str]:
        """Spreads an initialised database over the workers of its Citus cluster.

        Takes the lock, and does all or nothing. Returns, in words, what became of which tables:
        nothing when all was done before.

        Raises:
            DatabaseError: the server has no Citus, no workers, or refuses.
            SchemaError: the database is empty, or of another revision.
        """
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK, timeout=LONG_S)
            ledger = await read_ledger(connection)
            if ledger is None:
                raise SchemaError("the database has no schema yet: `bigbrotr db migrate` makes it")
            await self.check(connection, ledger.profile)
            if ledger.digest != self.digest(ledger.profile):
                raise SchemaError(
                    "the schema is not that of this release: run `bigbrotr db migrate` first"
                )
            if not await connection.fetchval("SELECT 1 FROM pg_extension WHERE extname = 'citus'"):
                raise DatabaseError(
                    "the database has no extension citus: it cannot be distributed over machines"
                )
            before = set(await connection.fetch(KINDS))
            try:
                await connection.execute(
                    (self.folder / DISTRIBUTED).read_text("utf-8"), timeout=LONG_S
                )
            except asyncpg.PostgresError as error:
                raise DatabaseError(f"nothing was distributed: {error}") from error
            after = await connection.fetch(KINDS)
        return [f"{row['name']}: {row['kind']}" for row in after if row not in before]

    async def _apply(
        self, connection: Connection, ledger: Ledger | None, profile: Profile, now: int
    ) -> None:
        if ledger is not None:
            for revision, path in self.migrations().items():
                if revision > ledger.revision:
                    await connection.execute(path.read_text("utf-8"), timeout=LONG_S)
        for path in self.files(profile):
            await connection.execute(path.read_text("utf-8"), timeout=LONG_S)
        await connection.execute(
            "INSERT INTO public.ledger (revision, profile, digest, applied_at)"
            " VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (revision) DO UPDATE"
            " SET digest = EXCLUDED.digest, applied_at = EXCLUDED.applied_at",
            self.revision,
            profile.value,
            self.digest(profile),
            now,
        )


async def check_server(connection: Connection) -> None:
    """Refuses a server or database, with SchemaError, that could not hold an archive."""
    row = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::int / 10000 AS version,"
        " current_setting('server_encoding') AS encoding"
    )
    assert row is not None
    if row["version"] < OLDEST_SERVER:
        raise SchemaError(f"PostgreSQL {row['version']} is too old: bigbrotr needs {OLDEST_SERVER}")
    if row["encoding"] != "UTF8":
        raise SchemaError(
            f"the database is encoded in {row['encoding']}, which cannot hold every event: make "
            "one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


async def read_ledger(connection: Connection) -> Ledger | None:
    """What the database says of itself; None when bigbrotr has never been there."""
    if not await connection.fetchval("SELECT to_regclass('public.ledger') IS NOT NULL"):
        return None
    row = await connection.fetchrow(
        "SELECT revision, profile, digest FROM public.ledger ORDER BY revision DESC LIMIT 1"
    )
    return Ledger(row["revision"], Profile(row["profile"]), row["digest"]) if row else None
