"""The roles, each by logging in as one: what they may, and that they may no more."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.errors import SchemaError
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from tests.conftest import LOGIN, Databases
from tests.relays.events import make_event

ROLES = ("bigbrotr_reader", "bigbrotr_writer", "bigbrotr_admin")
DENIED = asyncpg.InsufficientPrivilegeError
Login: TypeAlias = Callable[[str], AbstractAsyncContextManager[Brotr]]

SECRET = "correct-horse-battery-staple"
RELAY = Relay("wss://relay.example")
EVENT = Event.from_object(make_event(1_700_000_000, content="kept"))


@pytest.fixture
async def owner(dsn: str, databases: Databases) -> AsyncIterator[Brotr]:
    """The owner of a database in which there is an event, and the roles."""
    for role in ROLES:
        if await _exists(databases, role):
            pytest.skip(f"the server has a role {role} that is not this test's")
    async with Brotr(Pool(dsn=dsn)) as brotr:
        assert await brotr.make_roles() == 3
        assert await brotr.make_roles() == 0
        await brotr.insert_events([EventRelay(EVENT, RELAY, 1)])
        yield brotr
        for role in ROLES:
            await brotr.pool.execute(f"DROP OWNED BY {role}")
            await brotr.pool.execute(f"DROP ROLE {role}")


async def _exists(databases: Databases, role: str) -> bool:
    connection = await asyncpg.connect(databases.url)
    try:
        return bool(await connection.fetchval("SELECT to_regrole($1) IS NOT NULL", role))
    finally:
        await connection.close()


@pytest.fixture
def login(owner: Brotr, monkeypatch: pytest.MonkeyPatch) -> Login:
    """Connects as a login, with a password, that is a member of one role and nothing else."""
    monkeypatch.setenv("DB_PASSWORD", SECRET)

    @asynccontextmanager
    async def connect(role: str) -> AsyncIterator[Brotr]:
        await owner.pool.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD '{SECRET}' IN ROLE {role}")
        parts = urlsplit(owner.pool.address)
        place = parts._replace(netloc=f"{LOGIN}@{parts.netloc.rpartition('@')[2]}").geturl()
        try:
            async with Brotr(Pool(dsn=place)) as brotr:
                assert await brotr.pool.fetchval("SELECT session_user::text") == LOGIN
                yield brotr
        finally:
            await owner.pool.execute(f"DROP OWNED BY {LOGIN} CASCADE")
            await owner.pool.execute(f"DROP ROLE {LOGIN}")

    return connect


async def test_reader_looks(login: Login) -> None:
    async with login("bigbrotr_reader") as reader:
        assert (await reader.totals()).events == 1
        assert await reader.metrics()
        for relation in ("events", "events_relays", "relays", "metadata", "relay_progress"):
            await reader.pool.fetch(f"SELECT * FROM {relation}")
        other = Event.from_object(make_event(1_700_000_001, content="not by a reader"))
        for attempt in (
            reader.insert_events([EventRelay(other, RELAY, 1)]),
            reader.insert_relays([Relay("wss://other.example")]),
            reader.ensure_partitions(),
            reader.upsert_service_data([("x", "y", "z", 1)]),
            reader.pool.execute("DELETE FROM relays"),
            reader.pool.execute("UPDATE ledger SET revision = 99"),
            reader.pool.execute("CREATE TABLE mine (x int)"),
            reader.pool.execute("SELECT lo_import('/etc/passwd')"),
        ):
            with pytest.raises(DENIED):
                await attempt


async def test_writer_runs_bigbrotr(owner: Brotr, login: Login) -> None:
    async with login("bigbrotr_writer") as writer:
        other = Event.from_object(make_event(1_700_000_001, content="by the writer"))
        assert await writer.insert_events([EventRelay(other, RELAY, 2)]) == (1, 0)
        assert await writer.insert_relays([Relay("wss://other.example")]) == 1
        assert await writer.insert_candidates([Relay("wss://new.example")], "seed") == 1
        assert await writer.upsert_service_data([("x", "y", "z", 1)]) == 1
        assert await writer.next_visit_at([RELAY.network]) is not None
        await writer.refresh_metadata_latest()
        await writer.cleanup_orphans()
        # What the start does: a current schema, and the partitions of a far quarter.
        async with writer.pool.acquire() as connection:
            in_years = int(time.time()) + 3 * 366 * 86_400
            assert not await Schema().migrate(connection, Profile.FULL, in_years)
        assert await owner.pool.fetchval(
            "SELECT max(relname) > 'events_2029' FROM pg_class WHERE relname LIKE 'events\\_20%'"
        )
        for query in (
            "CREATE TABLE mine (x int)",
            "DROP TABLE presence",
            "TRUNCATE rejected",
            "ALTER TABLE relays ADD COLUMN x int",
            "UPDATE ledger SET revision = 99",
            "CREATE ROLE somebody",
        ):
            with pytest.raises(DENIED):
                await writer.pool.execute(query)


async def test_schema_of_another_release_is_for_the_owner(owner: Brotr, login: Login) -> None:
    await owner.pool.execute("UPDATE ledger SET digest = 'older'")
    async with login("bigbrotr_writer") as writer, writer.pool.acquire() as connection:
        with pytest.raises(SchemaError, match="by the owner of the database"):
            await Schema().migrate(connection, Profile.FULL, int(time.time()))
    async with owner.pool.acquire() as connection:
        assert await Schema().migrate(connection, Profile.FULL, int(time.time()))


async def test_admin_looks_after_the_data(login: Login) -> None:
    async with login("bigbrotr_admin") as admin:
        await admin.pool.execute("TRUNCATE rejected")
        await admin.pool.execute("CREATE VIEW kinds AS SELECT kind FROM events")
        assert await admin.pool.fetch("SELECT * FROM kinds")
        version = int(await admin.pool.fetchval("SHOW server_version_num"))
        if version >= 170_000:
            await admin.pool.execute("VACUUM (ANALYZE) relays")
        for query in (
            "DROP TABLE presence",
            "ALTER TABLE relays ADD COLUMN x int",
            "TRUNCATE ledger",
            "CREATE ROLE somebody",
            "ALTER SYSTEM SET fsync = off",
        ):
            with pytest.raises(DENIED):
                await admin.pool.execute(query)
