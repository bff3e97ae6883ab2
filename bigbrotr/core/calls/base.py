"""Calls stored functions in batches, by the names of their parameters; retries deadlocks."""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

import asyncpg

from bigbrotr.core.codes import SCHEMA, ErrorCode
from bigbrotr.core.pool import Connection, Pool
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.relay import Relay

T = TypeVar("T")
MAINTENANCE_S = 86_400.0  # for what reads every partition
TRIES = 5  # of a call that met a deadlock: each function may be repeated
BROKEN_OFF = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.ForeignKeyViolationError,  # a relay or a document was deleted in between
    asyncpg.InvalidCachedStatementError,  # a newer release has changed a table in between
)


class Calls:
    """Calls over a pool. `function` is the name of a stored function; its arguments are keywords
    of the names that its parameters have in SQL."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._kept: frozenset[str] | None = None

    @property
    def max_batch_size(self) -> int:
        """Rows that go into one call."""
        return self.pool.settings.max_batch_size

    async def _kept_columns(self) -> frozenset[str]:
        """What the database's profile keeps of an event."""
        if self._kept is None:
            self._kept = frozenset(await self._value("kept_columns"))
        return self._kept

    def _batches(self, rows: Sequence[T]) -> Iterable[Sequence[T]]:
        for start in range(0, len(rows), self.max_batch_size):
            yield rows[start : start + self.max_batch_size]

    async def _value(
        self, function: str, *, timeout: float | None = None, **arguments: object
    ) -> Any:
        """What a function returns."""
        query = call_of(function, *arguments)
        return await self._retry(
            lambda: self.pool.fetchval(query, *listed(arguments.values()), timeout=timeout)
        )

    async def _row(self, function: str, **arguments: object) -> asyncpg.Record | None:
        """The first row that a function returns; None without any."""
        query = call_of(function, *arguments)
        return await self._retry(lambda: self.pool.fetchrow(query, *listed(arguments.values())))

    async def _rows(self, function: str, **arguments: object) -> list[asyncpg.Record]:
        """The rows that a function returns."""
        query = call_of(function, *arguments)
        return await self._retry(lambda: self.pool.fetch(query, *listed(arguments.values())))

    async def _transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def attempt() -> T:
            async with self.pool.transaction() as connection:
                return await work(connection)

        return await self._retry(attempt)

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats a call that PostgreSQL broke off in favour of another."""
        try:
            for _ in range(TRIES - 1):
                with suppress(*BROKEN_OFF):
                    return await call()
            return await call()
        except asyncpg.PostgresError as error:
            if error.sqlstate == ErrorCode.LEASE_LOST:
                raise LeaseLostError(str(error)) from None
            raise


@cache
def call_of(function: str, *parameters: str) -> str:
    """The statement that calls a stored function by the names of its parameters."""
    arguments = ", ".join(f"{name} => ${number}" for number, name in enumerate(parameters, 1))
    return f"SELECT * FROM {SCHEMA}.{function}({arguments})"  # noqa: S608 -- names of ours


async def value_of(connection: Connection, function: str, **arguments: object) -> Any:
    """What a function returns, within a transaction."""
    return await connection.fetchval(call_of(function, *arguments), *listed(arguments.values()))


async def rows_of(
    connection: Connection, function: str, **arguments: object
) -> list[asyncpg.Record]:
    """The rows that a function returns, within a transaction."""
    return await connection.fetch(call_of(function, *arguments), *listed(arguments.values()))


def listed(arguments: Iterable[object]) -> list[object]:
    """Arguments as asyncpg is given them: an array is a list, see `tell_arrays_by_type`."""
    return [list(each) if isinstance(each, tuple | set | frozenset) else each for each in arguments]


def by_column(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows of so many columns as the arrays that a function takes."""
    return [[row[column] for row in rows] for column in range(width)]


async def relay_ids(connection: Connection, relays: Iterable[Relay]) -> dict[str, int]:
    """The numbers of relays, added where they are new; they stay until the transaction ends."""
    known = sorted(relays, key=lambda relay: relay.url)
    now = int(time.time())
    urls = [relay.url for relay in known]
    while True:
        await value_of(
            connection,
            "insert_relays",
            p_urls=urls,
            p_networks=[relay.network.value for relay in known],
            p_discovered_ats=[discovered_at(relay, now) for relay in known],
        )
        # Locked against being deleted; one that was deleted just now is added again.
        rows = await connection.fetch(
            "SELECT url, id FROM bigbrotr.relays WHERE url = ANY ($1) FOR KEY SHARE", urls
        )
        if len(rows) == len(known):
            return {row["url"]: row["id"] for row in rows}


def discovered_at(relay: Relay, now: int) -> int:
    """When a relay was discovered: now, if nobody says."""
    return now if relay.discovered_at is None else relay.discovered_at


def valid_relays(urls: Iterable[str]) -> list[Relay]:
    """Without those that were written by hand, or by a release with other rules."""
    relays = []
    for url in urls:
        with suppress(ValueError):
            relays.append(Relay(url))
    return relays
