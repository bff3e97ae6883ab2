"""Values on their way to real PostgreSQL and back: whom asyncpg asks about types, and arrays."""

from collections.abc import Awaitable, Callable, Iterable

import asyncpg
import pytest
from asyncpg.protocol import protocol

from bigbrotr.config.settings import Limits, PoolSettings
from bigbrotr.core import values
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.base import listed
from bigbrotr.core.pool import Pool
from bigbrotr.core.values import tell_arrays_by_type

OWN = {  # values of types that PostgreSQL brings
    "int8[]": [1, None],
    "bytea[]": [b"a"],
    "int8range[]": [asyncpg.Range(1, 2)],
    "int8multirange": [asyncpg.Range(1, 2)],
}
ONE = PoolSettings(limits=Limits(max_size=1))


async def times_asked(pool: Pool, kinds: Iterable[str]) -> int:
    """How often a connection has asked about types, after values of these came back from it."""
    async with pool.acquire() as connection:
        for kind in kinds:
            assert await connection.fetchval(f"SELECT $1::{kind}", OWN[kind]) == OWN[kind]
        return int(
            await connection.fetchval(
                # asyncpg prepares its question once a connection.
                "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ '[t]ypeinfo_tree'"
            )
        )


@pytest.mark.parametrize("where", ["same", "other", "older"])
async def test_one_connection_asks_about_types_for_all(
    where: str,
    dsn: str,
    make_database: Callable[..., Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Also for those to another database, or to an older server."""
    monkeypatch.setattr(values, "_known", {})
    async with Pool(dsn=dsn) as pool:
        assert await times_asked(pool, OWN) == 1
    address = dsn
    if where == "other":
        address = await make_database(None)
    elif where == "older":
        address = request.getfixturevalue("old_server")
    async with Pool(dsn=address) as pool:
        assert await times_asked(pool, reversed(OWN)) == 0


async def test_of_types_that_others_have_made_nothing_is_known(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another database may have another one of that number."""
    monkeypatch.setattr(values, "_known", {})
    async with Pool(settings=ONE, dsn=dsn) as pool:
        await pool.execute("CREATE TYPE public.mood AS (well bigint[])")
    for _ in range(2):
        async with Pool(settings=ONE, dsn=dsn) as pool:
            assert await pool.fetchval("SELECT row('{5}')::public.mood") == ([5],)
            assert await times_asked(pool, ()) == 1
    assert set(values._known) == {20, 1016}  # bigint, bigint[]


async def test_arrays_are_told_by_type(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    names = vars(protocol)
    monkeypatch.setitem(names, "IterableABC", names["IterableABC"])  # is put back
    asked: list[object] = []

    class Sized(type):
        def __instancecheck__(cls, value: object) -> bool:
            asked.append(value)
            return True

    monkeypatch.setitem(names, "SizedABC", Sized("Sized", (), {}))
    tell_arrays_by_type()
    for kind, value, back in (
        ("int8[]", [1, None, 3], [1, None, 3]),
        ("text[]", ["a", "b"], ["a", "b"]),
        ("bytea[]", [b"a", b""], [b"a", b""]),
        ("int4[]", [], []),
        ("int4[]", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    ):
        assert await brotr.pool.fetchval(f"SELECT $1::{kind}", value) == back
    assert not [value for value in asked if not isinstance(value, list)]
    for other in ("ab", ("a", "b"), {"a"}):
        with pytest.raises(asyncpg.DataError, match="sized iterable container expected"):
            await brotr.pool.fetchval("SELECT $1::text[]", other)
    assert listed([("a", "b"), {7}, frozenset({b"x"}), [1], "ab", b"cd", None]) == [
        *(["a", "b"], [7], [b"x"], [1], "ab", b"cd", None)
    ]
