"""The pool, on real PostgreSQL: settings, retries, health, metrics, and secrets that stay so."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from bigbrotr.config.settings import Database, Limits, PoolSettings, Retry, ServerSettings, Timeouts
from bigbrotr.core import pool as pools
from bigbrotr.core.pool import Pool
from bigbrotr.errors import ConfigError, DatabaseError
from tests.conftest import LOGIN, Databases

SECRET = "correct-horse-battery-staple"
SOON = Retry(max_attempts=3, initial_delay=0.01, max_delay=0.02)


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    limits = Limits(min_size=2, max_size=4)
    async with Pool(settings=PoolSettings(limits=limits, retry=SOON), dsn=dsn) as pool:
        yield pool


@pytest.fixture
async def login(databases: Databases) -> AsyncIterator[dict[str, Any]]:
    """Where a role with a password may connect, as the settings say it."""
    await databases.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD '{SECRET}'")
    parts = urlsplit(databases.url)
    query = parse_qs(parts.query)
    yield {
        "host": parts.hostname or query["host"][0],
        "port": parts.port or int(query.get("port", ["5432"])[0]),
        "user": LOGIN,
        "database": "postgres",
    }
    await databases.execute(f"DROP ROLE {LOGIN}")


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:  # bound, so nobody else gets it; it never listens
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def backend(connection: pools.Connection) -> int:
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    assert isinstance(pid, int)
    return pid


# --- settings -------------------------------------------------------------------------------------


def test_settings_from_a_mapping() -> None:
    pool = Pool.from_dict(
        {
            "database": {"host": "db.example.com", "port": 6000, "user": "u", "database": "d"},
            "limits": {"min_size": 3, "max_size": 9},
            "timeouts": {"acquisition": 1, "health_check": 0.1},
            "retry": {"max_attempts": 10, "exponential_backoff": False},
            "server_settings": {"application_name": "me"},
            "pgbouncer": True,
        }
    )
    assert pool.database.dsn == "postgresql://u@db.example.com:6000/d"
    assert pool.place == "db.example.com:6000/d"
    assert (pool.settings.limits.min_size, pool.settings.limits.max_size) == (3, 9)
    assert pool.settings.timeouts == Timeouts(acquisition=1.0, health_check=0.1)
    assert not pool.settings.retry.exponential_backoff
    assert pool.settings.server_settings == ServerSettings("me", "UTC")
    assert Pool.from_dict({}).settings == PoolSettings()
    assert Pool.from_dict({}).database == Database()


def test_settings_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bigbrotr.toml"
    path.write_text(
        '[database]\nurl = "postgresql://u@h:1/d"\n'
        "[pool.limits]\nmax_size = 3\n[log]\njson = true\n"
    )
    pool = Pool.from_toml(path)
    assert (pool.place, pool.settings.limits.max_size) == ("h:1/d", 3)
    path.write_text('[databse]\nurl = "postgresql://u@h:1/d"\n')
    with pytest.raises(ConfigError, match=r"databse.*database"):
        Pool.from_toml(path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"limits": {"min_size": 0}}, "min_size"),
        ({"limits": {"min_size": 101}}, "min_size"),
        ({"limits": {"max_size": 201}}, "max_size"),
        ({"limits": {"min_size": 9, "max_size": 8}}, "larger than max_size"),
        ({"timeouts": {"acquisition": 0.05}}, "acquisition"),
        ({"timeouts": {"health_check": 0}}, "health_check"),
        ({"retry": {"max_attempts": 0}}, "max_attempts"),
        ({"retry": {"max_attempts": 11}}, "max_attempts"),
        ({"limit": {}}, "did you mean"),
        ({"database": {"password": SECRET}}, "password"),
        ({"database": {"url": f"postgresql://u:{SECRET}@h/d"}}, "DB_PASSWORD"),
        ({"database": {"url": f"postgresql://u@h/d?password={SECRET}"}}, "DB_PASSWORD"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        Pool.from_dict(values)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("database", "address", "place"),
    [
        (Database(host="::1"), "postgresql://bigbrotr@[::1]:5432/bigbrotr", "[::1]:5432/bigbrotr"),
        (
            Database(host="h", user="a@b:c", database="x/y z"),
            "postgresql://a%40b%3Ac@h:5432/x%2Fy%20z",
            "h:5432/x/y z",
        ),
        (
            Database(host="/run/pg sql", port=5433),
            "postgresql://bigbrotr@/bigbrotr?host=%2Frun%2Fpg%20sql&port=5433",
            "/run/pg sql:5433/bigbrotr",
        ),
        (Database(url="postgresql://u@h/d"), "postgresql://u@h/d", "h:5432/d"),
    ],
)
def test_addresses(database: Database, address: str, place: str) -> None:
    assert database.dsn == address
    assert database.place == place
    assert not database.is_embedded


# --- connecting -----------------------------------------------------------------------------------


async def test_use_before_connecting_is_a_clear_error(dsn: str) -> None:
    pool = Pool(dsn=dsn)
    for call in (pool.fetch, pool.fetchrow, pool.fetchval, pool.execute):
        with pytest.raises(RuntimeError, match="not connected"):
            await call("SELECT 1")
    with pytest.raises(RuntimeError, match="not connected"):
        await pool.executemany("SELECT $1", [(1,)])
    for block in (pool.acquire(), pool.acquire_healthy(), pool.transaction()):
        with pytest.raises(RuntimeError, match="not connected"):
            async with block:
                pass
    assert not pool.is_connected
    await pool.close()


async def test_connecting_again_and_after_closing(dsn: str) -> None:
    pool = Pool(dsn=dsn)
    await pool.connect()
    await pool.connect()
    assert await pool.fetchval("SELECT 1") == 1
    await pool.close()
    await pool.close()
    with pytest.raises(RuntimeError):
        await pool.fetchval("SELECT 1")
    async with pool:
        assert await pool.fetchval("SELECT 1") == 1


async def test_a_connection_that_breaks_while_it_is_closed_is_closed(dsn: str) -> None:
    pool = Pool(settings=PoolSettings(limits=Limits(min_size=1, max_size=1)), dsn=dsn)
    await pool.connect()
    async with pool.acquire() as connection:
        transport = connection._con._transport  # type: ignore[attr-defined]
    # As when the server dies at this moment: what is written does not arrive any more.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as ours:
        ours.shutdown(socket.SHUT_WR)
    await pool.close()
    assert not pool.is_connected


@pytest.mark.parametrize("attempts", [1, 3])
async def test_nobody_there_is_said_after_how_many_attempts(
    closed_port: int, attempts: int
) -> None:
    retry = Retry(max_attempts=attempts, initial_delay=0.01)
    database = Database(host="127.0.0.1", port=closed_port)
    times = "after 1 attempt:" if attempts == 1 else "after 3 attempts:"
    with pytest.raises(DatabaseError, match=f"127.0.0.1:{closed_port}/bigbrotr {times}"):
        await Pool(database, PoolSettings(retry=retry)).connect()


async def test_attempts_wait_longer_up_to_a_limit(closed_port: int) -> None:
    retry = Retry(max_attempts=5, initial_delay=0.05, max_delay=0.1)
    database = Database(host="127.0.0.1", port=closed_port)
    start = time.monotonic()
    with pytest.raises(DatabaseError, match="5 attempts"):
        await Pool(database, PoolSettings(retry=retry)).connect()
    assert 0.3 < time.monotonic() - start < 3  # 0.35 of waits; timers may fire a moment early


async def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts, nobody reads
        host, port = server.getsockname()
        settings = PoolSettings(
            timeouts=Timeouts(acquisition=0.1), retry=Retry(max_attempts=2, initial_delay=0)
        )
        with pytest.raises(DatabaseError, match="after 2 attempts: no answer in time"):
            await Pool(Database(host=host, port=port), settings).connect()


async def test_the_password_comes_from_the_environment(
    login: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    async with Pool.from_dict({"database": login}) as pool:
        assert await pool.fetchval("SELECT current_user") == LOGIN
    monkeypatch.delenv("DB_PASSWORD")
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("DB_PASSWORD_FILE", str(tmp_path / "secret"))
    async with Pool.from_dict({"database": login}) as pool:
        assert await pool.fetchval("SELECT current_user") == LOGIN


async def lets_in_anybody(login: dict[str, Any]) -> bool:
    """Whether a server believes anybody to be this login."""
    try:
        connection = await asyncpg.connect(**login, password="wrong-" + SECRET)
    except asyncpg.InvalidPasswordError:
        return False
    await connection.close()
    return True


@pytest.mark.parametrize("password", ["wrong-" + SECRET, None])
async def test_a_wrong_password_is_final_and_not_shown(
    login: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    password: str | None,
    databases: Databases,
) -> None:
    if databases.server is None and await lets_in_anybody(login):
        pytest.skip("the server that the environment names asks for no password: pg_hba.conf")
    if password is None:
        monkeypatch.delenv("DB_PASSWORD", raising=False)
    else:
        monkeypatch.setenv("DB_PASSWORD", password)
    with pytest.raises(DatabaseError, match=r"after 1 attempt: .*DB_PASSWORD") as raised:
        await Pool.from_dict({"database": login}).connect()
    shown = repr(raised.value) + str(raised.value) + "".join(capfd.readouterr())
    assert SECRET not in shown
    assert raised.value.__cause__ is None


async def test_a_missing_database_is_final(databases: Databases) -> None:
    with pytest.raises(DatabaseError, match=r"after 1 attempt: .*nowhere.*does not exist"):
        await Pool(dsn=databases.dsn("nowhere"), settings=PoolSettings(retry=SOON)).connect()


async def test_what_each_session_tells_the_server(dsn: str) -> None:
    server = ServerSettings("a name", "Asia/Tokyo")
    further = {"synchronous_commit": "local"}
    shown = "SELECT current_setting($1)"
    settings = PoolSettings(server_settings=server)
    async with Pool(settings=settings, dsn=dsn, session=further) as pool:
        assert await pool.fetchval(shown, "application_name") == "a name"
        assert await pool.fetchval(shown, "TimeZone") == "Asia/Tokyo"
        assert await pool.fetchval(shown, "synchronous_commit") == "local"
    settings = PoolSettings(server_settings=server, pgbouncer=True)
    async with Pool(settings=settings, dsn=dsn, session=further) as pool:
        assert await pool.fetchval(shown, "synchronous_commit") != "local"
        assert await pool.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
        async with pool.acquire() as connection:
            for number in range(3):
                assert await connection.fetchval("SELECT $1::int", number) == number
            named = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
            assert await connection.fetchval(named) == 0


# --- use ------------------------------------------------------------------------------------------


async def test_queries(pool: Pool) -> None:
    await pool.execute("CREATE TABLE public.t (a int PRIMARY KEY, b text)")
    await pool.executemany("INSERT INTO public.t VALUES ($1, $2)", [(1, "x"), (2, "y")])
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.executemany("INSERT INTO public.t VALUES ($1, $2)", [(3, "z"), (1, "x")])
    assert [tuple(row) for row in await pool.fetch("SELECT * FROM public.t ORDER BY a")] == [
        (1, "x"),
        (2, "y"),
    ]
    row = await pool.fetchrow("SELECT * FROM public.t WHERE a = $1", 2)
    assert row is not None
    assert row["b"] == "y"
    assert await pool.fetchrow("SELECT * FROM public.t WHERE a = 9") is None
    assert await pool.fetchval("SELECT a, b FROM public.t WHERE a = 1", column=1) == "x"
    assert await pool.fetchval("SELECT a FROM public.t WHERE a = 9") is None
    assert await pool.execute("DELETE FROM public.t") == "DELETE 2"


async def test_each_call_takes_a_timeout(pool: Pool) -> None:
    for call in (pool.fetch, pool.fetchrow, pool.fetchval, pool.execute):
        with pytest.raises(TimeoutError):
            await call("SELECT pg_sleep(60)", timeout=0.05)
    with pytest.raises(TimeoutError):
        await pool.executemany("SELECT pg_sleep($1)", [(60,)], timeout=0.05)
    assert await pool.fetchval("SELECT 1") == 1


async def test_a_transaction_is_kept_or_rolled_back(pool: Pool) -> None:
    async with pool.transaction() as connection:
        await connection.execute("CREATE TABLE public.t (a int)")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with pool.transaction() as connection:
            await connection.execute("INSERT INTO public.t VALUES (1)")
            raise ZeroDivisionError
    assert await pool.fetchval("SELECT count(*) FROM public.t") == 0
    async with pool.transaction() as connection:
        await connection.execute("INSERT INTO public.t VALUES (1)")
    assert await pool.fetchval("SELECT count(*) FROM public.t") == 1


async def test_queries_are_not_compiled(dsn: str) -> None:
    """Whatever the server does by default."""
    connection = await asyncpg.connect(dsn)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET jit = on")
    await connection.close()
    async with Pool(dsn=dsn) as pool:
        assert await pool.fetchval("SHOW jit") == "off"
    async with Pool(settings=PoolSettings(pgbouncer=True), dsn=dsn) as pool:
        assert await pool.fetchval("SHOW jit") == "on"


async def test_waiting_for_a_connection_has_a_bound(dsn: str) -> None:
    settings = PoolSettings(
        limits=Limits(max_size=1), timeouts=Timeouts(acquisition=0.1, health_check=0.1), retry=SOON
    )
    async with Pool(settings=settings, dsn=dsn) as pool, pool.acquire():
        with pytest.raises(TimeoutError):
            async with pool.acquire():
                pass
        assert pool.use.waited_s >= 0.09  # a timer may fire a moment early
        assert pool.use.times == 0
        for call in (pool.fetch, pool.fetchrow, pool.fetchval, pool.execute):
            with pytest.raises(TimeoutError):
                await call("SELECT 1")
        with pytest.raises(ConnectionError, match="in 2 tries: no answer in time"):
            async with pool.acquire_healthy(max_retries=2):
                pass


async def test_patience_may_be_longer(dsn: str) -> None:
    settings = PoolSettings(limits=Limits(max_size=1), timeouts=Timeouts(acquisition=0.1))
    async with Pool(settings=settings, dsn=dsn, patience_s=30) as pool:
        async with pool.acquire():
            waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
            await asyncio.sleep(0.3)
        assert await waiting == 1
        assert pool.use.waited_s >= 0.2


async def test_metrics(pool: Pool) -> None:
    metrics = pool.metrics
    assert metrics == {
        "size": 2,
        "idle_size": 2,
        "min_size": 2,
        "max_size": 4,
        "free_size": 4,
        "utilization": 0.0,
        "is_connected": True,
    }
    async with pool.acquire(), pool.acquire(), pool.acquire():
        metrics = pool.metrics
        assert (metrics["size"], metrics["idle_size"]) == (3, 0)
        assert (metrics["free_size"], metrics["utilization"]) == (1, 0.75)
    await pool.close()
    assert pool.metrics == {
        "size": 0,
        "idle_size": 0,
        "min_size": 2,
        "max_size": 4,
        "free_size": 4,
        "utilization": 0.0,
        "is_connected": False,
    }


# --- health ---------------------------------------------------------------------------------------


async def test_a_healthy_connection_after_all_were_cut(pool: Pool, databases: Databases) -> None:
    async with pool.acquire() as one, pool.acquire() as two, pool.acquire() as three:
        pids = [await backend(connection) for connection in (one, two, three)]
    listed = ", ".join(map(str, pids))
    await databases.execute(f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[{listed}]) AS pid")
    async with pool.acquire_healthy() as connection:
        assert await backend(connection) not in pids
        assert await connection.fetchval("SELECT 1") == 1
    assert pool.metrics["utilization"] == 0


async def test_no_healthy_connection(pool: Pool, databases: Databases) -> None:
    """A database that lets nobody in any more."""
    name = await pool.fetchval("SELECT current_database()")
    await databases.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await databases.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    with pytest.raises(DatabaseError, match=r"no healthy connection to .* in 3 tries") as raised:
        async with pool.acquire_healthy(max_retries=3):
            pass
    assert isinstance(raised.value, ConnectionError)
    await databases.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    async with pool.acquire_healthy() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert pool.metrics["utilization"] == 0


async def test_a_cancelled_health_check_gives_its_connection_back(dsn: str) -> None:
    settings = PoolSettings(limits=Limits(max_size=1))
    async with Pool(settings=settings, dsn=dsn) as pool:
        for delay_s in (0, 0.0001, 0.0003, 0.001):

            async def borrow() -> None:
                async with pool.acquire_healthy():
                    await asyncio.sleep(60)

            task = asyncio.create_task(borrow())
            await asyncio.sleep(delay_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.metrics["utilization"] == 0
        assert await pool.fetchval("SELECT 1", timeout=5) == 1


async def test_an_error_within_a_healthy_block_is_the_callers(pool: Pool) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with pool.acquire_healthy() as connection:
            await connection.execute("SELECT 1 / 0")
    with pytest.raises(OSError, match="mine"):
        async with pool.acquire_healthy():
            raise OSError("mine")
    assert pool.metrics["utilization"] == 0


async def test_closing_cuts_what_is_in_use(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "CLOSE_S", 0.2)
    pool = Pool(dsn=dsn)
    await pool.connect()
    started = asyncio.Event()

    async def use() -> None:
        async with pool.acquire() as connection:
            started.set()
            await connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(use())
    await started.wait()
    start = time.monotonic()
    await pool.close()
    assert time.monotonic() - start < 5
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await task
    assert not pool.is_connected


async def test_a_statement_that_is_cut_off_leaves_no_transaction_open(dsn: str) -> None:
    """Wherever it is cut off: while it is described, before it is run, or while it runs."""
    settings = PoolSettings(limits=Limits(min_size=1, max_size=1))
    async with Pool(settings=settings, dsn=dsn) as pool:
        for steps in range(60):
            # A new statement each time, or asyncpg would not describe it.
            asked = asyncio.create_task(pool.fetch(f"SELECT {steps}, count(*) FROM pg_class"))
            for _ in range(steps % 20):
                await asyncio.sleep(0)
            if steps >= 20:
                await asyncio.sleep(0.0001 * (steps - 20))
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            async with pool.transaction() as connection:
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
