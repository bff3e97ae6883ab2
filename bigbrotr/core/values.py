"""Values: how they go to PostgreSQL and come back, where asyncpg itself is slow or careless."""

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import asyncpg
from asyncpg.protocol import protocol

from bigbrotr.core.codes import SEARCH_PATH

if TYPE_CHECKING:
    _Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

FIRST_OF_OTHERS = 10_000  # below, PostgreSQL's numbers of types are the same in every release

# Those of ours that asyncpg has to ask the server about: arrays and ranges.
_TYPES = "SELECT " + ", ".join(
    f"NULL::pg_catalog.{name}"
    for name in (
        *(
            "_bool",
            "_int4",
            "_int8",
            "_float4",
            "_float8",
            "_text",
            "_bytea",
            "_jsonb",
            "_int8range",
        ),
        *("int8range", "int8multirange"),
    )
)


class _NotAsked(NamedTuple):
    """Stands for the statement that would have asked: one that has taken no other's place."""

    name: str = "not asked"


_known: dict[int, asyncpg.Record] = {}  # types by number: those that one is made of come before it


class KnowingConnection(_Connection):
    """A connection that asks the server nothing about types of PostgreSQL's own that another one of
    this process has asked about: 11 of the 39 ms that the first page of a new one took the server.
    """

    # A name of asyncpg's own: without it all is as if this was not here.
    async def _introspect_types(
        self, typeoids: Collection[int], timeout: float | None
    ) -> tuple[list[asyncpg.Record], object]:
        if _known.keys() >= set(typeoids):
            return list(_known.values()), _NotAsked()
        types: list[asyncpg.Record]
        types, statement = await super()._introspect_types(typeoids, timeout)  # type: ignore[misc]
        _known.update((each["oid"], each) for each in types if each["oid"] < FIRST_OF_OTHERS)
        return types, statement


async def learn_types(connection: _Connection) -> None:
    """Lets asyncpg look up the types that it does not know where nothing that others have made is
    called: its own query names no schema, and a session of PgBouncer keeps no search path."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL search_path = {SEARCH_PATH}")
        await connection.prepare(_TYPES)


def tell_arrays_by_type() -> None:
    """Lets asyncpg tell by its type whether a value is an array, in this process, from now on.

    Otherwise it asks two abstract classes of each element of an array whether that is an array as
    well: 4 of the 7 us of this process that sending an event took. Lists are arrays then, and
    nothing else is.
    """
    if "IterableABC" in vars(protocol):  # a name of asyncpg's own: without it all stays as it was
        vars(protocol)["IterableABC"] = list
