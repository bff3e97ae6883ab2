"""The pool of database connections: connects with retries, checks health, counts."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias, TypedDict

import anyio
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from bigbrotr.config.settings import Config, Database, PoolSettings, Section
from bigbrotr.config.toml import decode, read_toml
from bigbrotr.core.codes import SEARCH_PATH
from bigbrotr.core.logger import Logger
from bigbrotr.core.values import KnowingConnection, learn_types
from bigbrotr.embedded.server import BY_ITSELF, EmbeddedPostgres, default_data_dir
from bigbrotr.errors import ConfigError, DatabaseError
from bigbrotr.secret import read_secret

CLOSE_S = 5.0  # until connections in use are cut

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# What another attempt cannot mend.
_FINAL = (
    asyncpg.InvalidAuthorizationSpecificationError,  # a wrong password, an unknown role
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.InsufficientPrivilegeError,
    ssl.SSLCertVerificationError,
)
_FAILURES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg's word for a connection that was cut while it was idle
)


class NotConnectedError(RuntimeError):
    """The pool was used before `connect`, or after `close`."""


class PoolMetrics(TypedDict):
    """The state of the pool; `utilization` is the used share of `max_size`, 0 to 1."""

    size: int
    idle_size: int
    min_size: int
    max_size: int
    free_size: int
    utilization: float
    is_connected: bool


class PoolUse(NamedTuple):
    """How connections were used since the start."""

    times: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0  # for a free one


class _PoolTables(Section, frozen=True):
    """What `Pool.from_dict` takes: the pool's tables beside the database's."""

    database: Database
    pool: PoolSettings


class Pool:
    """asyncpg's pool with retries, health checks and metrics.

    `dsn` overrides where the settings say that the database is (the embedded server knows its own
    socket). `session` holds further settings of each session, e.g. {"synchronous_commit": "off"};
    behind PgBouncer in transaction mode they are left out, since they would not last. `patience_s`
    is how long `acquire` waits, where that is not as long as the settings say.
    """

    def __init__(
        self,
        database: Database | None = None,
        settings: PoolSettings | None = None,
        *,
        dsn: str | None = None,
        session: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> None:
        self.database = database or Database()
        self.settings = settings or PoolSettings()
        self._dsn = dsn
        self._session = dict(session or {})
        self._patience_s = patience_s or self.settings.timeouts.acquisition
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._cut_off: set[int] = set()  # connections whose last task was cancelled, by process
        self.use = PoolUse()
        self._log = Logger("pool")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A pool from the tables `database`, `limits`, `timeouts`, `retry`, `server_settings`."""
        return cls(*_settings(values, "the pool's settings"))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """A pool from the tables [database] and [pool] of a configuration file."""
        config = decode(read_toml(Path(path)), Config, source=str(path))
        return cls(config.database, config.pool)

    @property
    def place(self) -> str:
        """The server and database in a few words, for messages."""
        return self.database.place

    @property
    def address(self) -> str:
        """The database's address, without a password."""
        if self._dsn is not None:
            return self._dsn
        if self.database.is_embedded:
            return EmbeddedPostgres(default_data_dir()).url
        return self.database.dsn

    async def connect(self) -> None:
        """Opens the pool, trying as often as the settings say. Does nothing when it is open.

        Raises:
            DatabaseError: with the reason, and after how many attempts.
        """
        if self._pool is not None:
            return
        retry = self.settings.retry
        delay_s = retry.initial_delay
        for attempt in range(1, retry.max_attempts + 1):
            try:
                self._pool = await self._open()
            except ValueError as error:  # what asyncpg finds in the URL, or in a variable of libpq
                raise ConfigError(
                    f"cannot connect to PostgreSQL at {self.place}, as [database] or a variable of "
                    f"libpq (PGSSLMODE and the like) says: {_in_words(error)}"
                ) from None
            except _FAILURES as error:
                if isinstance(error, _FINAL) or attempt == retry.max_attempts:
                    times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    raise DatabaseError(
                        f"cannot connect to PostgreSQL at {self.place} after {times}: "
                        f"{_in_words(error)}"
                    ) from None
                self._log.warning(
                    "cannot connect yet", place=self.place, attempt=attempt, error=_in_words(error)
                )
                await anyio.sleep(min(delay_s, retry.max_delay))
                delay_s *= 2 if retry.exponential_backoff else 1
            else:
                return

    async def _open(self) -> "asyncpg.Pool[asyncpg.Record]":
        limits, server = self.settings.limits, self.settings.server_settings
        session = {"application_name": server.application_name, "timezone": server.timezone}
        if not self.settings.pgbouncer:
            # Every name of ours is qualified; this way nothing that others have made is called.
            # To compile a query takes longer than nearly any of ours: some touch each quarter.
            session |= {"search_path": SEARCH_PATH, "jit": "off", **self._session}
        return await asyncpg.create_pool(
            self.address,
            # Not None, for which asyncpg would look into PGPASSWORD and ~/.pgpass.
            password=read_secret("DB_PASSWORD") or "",
            min_size=limits.min_size,
            max_size=limits.max_size,
            max_queries=limits.max_queries,
            max_inactive_connection_lifetime=limits.max_inactive_connection_lifetime,
            timeout=self.settings.timeouts.acquisition,
            command_timeout=self.settings.timeouts.command,
            # Behind PgBouncer a prepared statement may meet another server connection.
            statement_cache_size=0 if self.settings.pgbouncer else 100,
            server_settings=session,
            connection_class=KnowingConnection,
            init=learn_types if self.settings.pgbouncer else None,
            reset=self._reset,
            **(BY_ITSELF if self.database.is_embedded else {}),
        )

    async def close(self) -> None:
        """Closes all connections; after `CLOSE_S` those in use as well.

        One that breaks meanwhile, as when the server dies, is closed: that is nobody's failure.
        """
        pool, self._pool = self._pool, None
        if pool is None:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(CLOSE_S) as scope, suppress(*_FAILURES):
                await pool.close()  # at a failure it cuts all others off
            if scope.cancelled_caught:
                pool.terminate()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        """Whether `connect` has succeeded and `close` was not called since."""
        return self._pool is not None

    def _connected(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._pool is None:
            raise NotConnectedError("the pool is not connected: call connect() or use `async with`")
        return self._pool

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for the length of the block."""
        pool = self._connected()
        asked = time.monotonic()
        try:
            connection = await pool.acquire(timeout=self._patience_s)
        finally:  # in vain as well
            got = time.monotonic()
            self.use = self.use._replace(waited_s=self.use.waited_s + got - asked)
        try:
            yield connection
        except asyncio.CancelledError:
            self._cut_off.add(connection.get_server_pid())
            raise
        finally:
            times, seconds, waited_s = self.use
            self.use = PoolUse(times + 1, seconds + time.monotonic() - got, waited_s)
            await pool.release(connection)

    @asynccontextmanager
    async def acquire_healthy(self, max_retries: int = 3) -> AsyncIterator[Connection]:
        """A connection that has just answered.

        Raises:
            DatabaseError: a ConnectionError, when none answered in `max_retries` tries.
        """
        pool = self._connected()
        timeouts, delay_s = self.settings.timeouts, self.settings.retry.initial_delay
        for attempt in range(1, max_retries + 1):
            connection: Connection | None = None
            try:
                connection = await pool.acquire(timeout=timeouts.acquisition)
                await connection.execute("SELECT 1", timeout=timeouts.health_check)
            except BaseException as error:  # a cancellation, too, must give the connection back
                if connection is not None:
                    with suppress(asyncpg.InterfaceError):  # the pool saw its end before us
                        connection.terminate()
                    await pool.release(connection)
                if not isinstance(error, _FAILURES):
                    raise
                if attempt == max_retries:
                    raise DatabaseError(
                        f"no healthy connection to {self.place} in {attempt} tries: "
                        f"{_in_words(error)}"
                    ) from None
                await anyio.sleep(min(delay_s, self.settings.retry.max_delay))
                delay_s *= 2
                continue
            try:
                yield connection
            except asyncio.CancelledError:
                self._cut_off.add(connection.get_server_pid())
                raise
            finally:
                await pool.release(connection)
            return

    async def _reset(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Instead of asyncpg's reset, a round trip per release: we leave no state behind.

        But asyncpg describes a new statement without ending the transaction that the server begins
        for it. A task that is cancelled before it runs the statement leaves that transaction open,
        unknown to asyncpg: any command ends it.
        """
        pid = connection.get_server_pid()
        if pid in self._cut_off:
            self._cut_off.discard(pid)
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection within a transaction: committed at the end of the block, or rolled back."""
        async with self.acquire() as connection, connection.transaction():
            yield connection

    async def fetch(
        self, query: str, *arguments: object, timeout: float | None = None
    ) -> list[asyncpg.Record]:
        """All rows."""
        async with self.acquire() as connection:
            return await connection.fetch(query, *arguments, timeout=timeout)

    async def fetchrow(
        self, query: str, *arguments: object, timeout: float | None = None
    ) -> asyncpg.Record | None:
        """The first row, or None."""
        async with self.acquire() as connection:
            return await connection.fetchrow(query, *arguments, timeout=timeout)

    async def fetchval(
        self, query: str, *arguments: object, column: int = 0, timeout: float | None = None
    ) -> Any:
        """One column of the first row, or None."""
        async with self.acquire() as connection:
            return await connection.fetchval(query, *arguments, column=column, timeout=timeout)

    async def execute(self, query: str, *arguments: object, timeout: float | None = None) -> str:
        """Runs a command; returns its tag, e.g. 'DELETE 3'."""
        async with self.acquire() as connection:
            return await connection.execute(query, *arguments, timeout=timeout)

    async def executemany(
        self, query: str, rows: Iterable[Sequence[object]], *, timeout: float | None = None
    ) -> None:
        """Runs a command for each row, all or nothing."""
        async with self.acquire() as connection:
            await connection.executemany(query, rows, timeout=timeout)

    @property
    def metrics(self) -> PoolMetrics:
        """The state of the pool now."""
        pool, limits = self._pool, self.settings.limits
        size = pool.get_size() if pool else 0
        idle = pool.get_idle_size() if pool else 0
        return PoolMetrics(
            size=size,
            idle_size=idle,
            min_size=limits.min_size,
            max_size=limits.max_size,
            free_size=limits.max_size - (size - idle),
            utilization=(size - idle) / limits.max_size,
            is_connected=self.is_connected,
        )


def _settings(values: Mapping[str, Any], source: str) -> tuple[Database, PoolSettings]:
    rest = {key: value for key, value in values.items() if key != "database"}
    tables = decode(
        {"database": values.get("database", {}), "pool": rest}, _PoolTables, source=source
    )
    return tables.database, tables.pool


def _in_words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncpg.InvalidPasswordError):
        return f"{error}: is DB_PASSWORD set to the right password?"
    text = str(error) or type(error).__name__
    return text.splitlines()[0]
