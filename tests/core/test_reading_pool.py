"""Sessions that only read: directly, behind PgBouncer, and as the reader where there is one."""

import asyncpg
import pytest

from bigbrotr.config.settings import Database, Limits, PoolSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.reading_pool import READER, ReadingPool
from tests.core.test_pgbouncer import address

__all__ = ["address"]


def pool(dsn: str, *, timeout_s: float = 20, pgbouncer: bool = False) -> ReadingPool:
    settings = PoolSettings(limits=Limits(max_size=2), pgbouncer=pgbouncer)
    return ReadingPool(Database(url=dsn), settings, statement_timeout_s=timeout_s)


WRITES = (
    "DELETE FROM bigbrotr.candidates",
    "CREATE TABLE bigbrotr.mine (a integer)",
    "SELECT nextval('bigbrotr.relays_id_seq')",
)


async def check(reading: ReadingPool, *, is_slow_cut: bool) -> None:
    """It reads, writes nothing, and plans for the values that are asked for."""
    for statement in WRITES:
        with pytest.raises(
            (asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientPrivilegeError)
        ):
            await reading.execute(statement)
    assert await reading.fetchval("SHOW plan_cache_mode") == "force_custom_plan"
    assert await reading.fetchval("SHOW search_path") == "pg_catalog, pg_temp"
    assert await reading.fetchval("SELECT count(*) FROM bigbrotr.relays") == 0
    if is_slow_cut:
        with pytest.raises(asyncpg.QueryCanceledError):
            await reading.fetchval("SELECT pg_sleep(60)")
    assert await reading.fetchval("SELECT relays FROM bigbrotr.totals()") == 0


async def test_a_session_only_reads(dsn: str) -> None:
    async with pool(dsn, timeout_s=0.2) as reading:
        await check(reading, is_slow_cut=True)


@pytest.mark.slow
async def test_behind_pgbouncer(address: str) -> None:
    """Each use says it for itself, and leaves nothing in the shared session."""
    async with pool(address, timeout_s=0.2, pgbouncer=True) as reading:
        await check(reading, is_slow_cut=True)
        async with reading.acquire() as connection:
            assert await connection.fetchval("SHOW transaction_read_only") == "on"
    async with Pool(Database(url=address), PoolSettings(pgbouncer=True)) as plain:
        assert await plain.fetchval("SHOW statement_timeout") == "0"
        assert await plain.fetchval("SHOW transaction_read_only") == "off"


async def test_it_is_the_reader_where_there_is_one(dsn: str, brotr: Brotr) -> None:
    if await brotr.pool.fetchval("SELECT to_regrole($1) IS NOT NULL", READER):
        pytest.skip(f"the server has a role {READER} that is not this test's")
    await brotr.make_roles()
    try:
        async with pool(dsn) as reading:
            assert await reading.fetchval("SELECT current_user::text") == READER
            await check(reading, is_slow_cut=False)
            for forbidden in ("SELECT pg_read_file('/etc/passwd')", "SELECT * FROM pg_authid"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await reading.fetch(forbidden)
    finally:
        for role in (READER, "bigbrotr_writer", "bigbrotr_admin"):
            await brotr.pool.execute(f"DROP OWNED BY {role}")
            await brotr.pool.execute(f"DROP ROLE {role}")
