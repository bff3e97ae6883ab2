"""The roles, each by logging in as one: what they may, and that they may no more."""

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from bigbrotr.config.settings import PoolSettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Connection as Pooled
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.errors import SchemaError
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.reads.where import known
from tests.conftest import CLUSTER, LOGIN, Databases
from tests.core.statements import asked_here, collect
from tests.core.test_schema import Connection, connected
from tests.core.test_sql_rules import schema_text
from tests.kit.events import make_event

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
            await reader.pool.fetch(f"SELECT * FROM bigbrotr.{relation}")
        other = Event.from_object(make_event(1_700_000_001, content="not by a reader"))
        for attempt in (
            reader.insert_events([EventRelay(other, RELAY, 1)]),
            reader.insert_relays([Relay("wss://other.example")]),
            reader.ensure_partitions(),
            reader.upsert_service_data([("x", "y", "z", 1)]),
            reader.pool.execute("DELETE FROM bigbrotr.relays"),
            reader.pool.execute("UPDATE bigbrotr.ledger SET revision = 99"),
            reader.pool.fetchval("SELECT bigbrotr.make_roles()"),
            reader.pool.execute("SELECT lo_import('/etc/passwd')"),
        ):
            with pytest.raises(DENIED):
                await attempt


async def test_members_find_bare_names(owner: Brotr, login: Login) -> None:
    """Settings of a role are not inherited: it is the database that has one."""
    async with login("bigbrotr_reader") as reader, _bare(reader) as connection:
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("SELECT * FROM events")
        assert not await reader.pool.fetchval("SELECT has_schema_privilege('bigbrotr', 'CREATE')")
    assert await owner.set_search_path()
    async with login("bigbrotr_reader") as reader, _bare(reader) as connection:
        assert await connection.fetchval("SELECT count(*) FROM events") == 1
        assert await connection.fetchval("SELECT uptime FROM relay_uptime('wss://x', 1)") is None
    async with login("bigbrotr_admin") as admin:
        assert not await admin.set_search_path()  # it is up to the owner of the database
    # What the operator has chosen stays.
    database = await owner.pool.fetchval("SELECT current_database()")
    await owner.pool.execute(f"ALTER DATABASE {database} SET search_path = public")
    assert await owner.set_search_path()
    async with login("bigbrotr_reader") as reader, _bare(reader) as connection:
        assert await connection.fetchval("SHOW search_path") == "public"


def _bare(member: Brotr) -> AbstractAsyncContextManager[Connection]:
    """A session as any client has it."""
    return connected(member.pool.address, SECRET)


async def test_reader_may_call_what_changes_nothing(login: Login) -> None:
    async with login("bigbrotr_reader") as reader:
        rows = await reader.pool.fetch(
            "SELECT p.proname, p.provolatile <> 'v' AS is_reading,"
            " has_function_privilege(p.oid, 'EXECUTE') AS may FROM pg_proc p"
            " WHERE p.pronamespace = to_regnamespace('bigbrotr')"
        )
        assert len(rows) > 60
        assert [row["proname"] for row in rows if row["is_reading"] != row["may"]] == []
        relations = await reader.pool.fetch(
            "SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v')"
            " AND c.relnamespace = to_regnamespace('bigbrotr')"
            " AND NOT has_table_privilege(c.oid, 'SELECT')"
        )
        assert relations == []


@pytest.mark.slow
async def test_nothing_that_a_reader_may_stops_storing(owner: Brotr, login: Login) -> None:
    """Neither locks by any number, nor those of tables that it reads for as long as it likes."""
    async with login("bigbrotr_reader") as reader, reader.pool.transaction() as connection:
        tables = await connection.fetch(
            "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 'p')"
            " AND c.relnamespace = to_regnamespace('bigbrotr')"
        )
        for mode in MODES:
            for (table,) in tables:
                with pytest.raises(DENIED):
                    async with connection.transaction():
                        await connection.execute(f"LOCK TABLE {table} IN {mode} MODE NOWAIT")
        for (table,) in tables:
            await connection.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
        for strength in ("UPDATE", "SHARE"):
            with pytest.raises(DENIED):
                async with connection.transaction():
                    await connection.execute(f"SELECT FROM bigbrotr.visits FOR {strength}")
        # Those of earlier states, and some more.
        numbers = [*range(300), 0x62696762726F, 0x6269677475726E, 108239071110723, 108239071110724]
        for lock in ("pg_advisory_lock", "pg_advisory_xact_lock"):
            await connection.execute(f"SELECT {lock}(n) FROM unnest($1::bigint[]) AS n", numbers)

        other = Event.from_object(make_event(1_700_000_001, content="stored all the same"))
        relays = [RELAY, Relay("wss://other.example")]
        (visit,) = await owner.claim_visits(
            [RELAY.network], limit=1, owner="me", lease_s=60, since=0, until=10
        )
        with anyio.fail_after(30):
            async with owner.ingest_lock() as has_waited:
                assert not has_waited
            assert await owner.insert_events([EventRelay(other, each, 2) for each in relays]) == (
                *(1, 1),
            )
            assert await owner.note_presence(visit, [(EVENT.created_at, EVENT.id)], 3) == []
            assert await owner.store_page(visit, [], now=3) == 0
            assert await owner.insert_candidates([Relay("wss://new.example")], "seed") == 1
            # New partitions have to wait for the reader, and do not for long. A cluster has none.
            in_years = int(time.time()) + 3 * 366 * 86_400
            if not CLUSTER:
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await owner.pool.execute("SELECT bigbrotr.ensure_partitions($1)", in_years)
            async with owner.pool.acquire() as own:
                assert not await Schema().migrate(own, Profile.FULL, in_years)
    async with owner.pool.acquire() as own:
        made = await own.fetchval("SELECT bigbrotr.ensure_partitions($1)", in_years)
        assert made == 0 if CLUSTER else made > 0


MODES = (
    *("ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE"),
    *("EXCLUSIVE", "ACCESS EXCLUSIVE"),
)


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
        newest = await owner.pool.fetchval(
            "SELECT max(relname) FROM pg_class WHERE relname LIKE 'events\\_20%'"
        )
        assert newest is None if CLUSTER else newest > "events_2029"
        for query in (
            "DROP TABLE bigbrotr.presence",
            "TRUNCATE bigbrotr.rejected",
            "ALTER TABLE bigbrotr.relays ADD COLUMN x int",
            "UPDATE bigbrotr.ledger SET revision = 99",
            "CREATE ROLE somebody",
        ):
            with pytest.raises(DENIED):
                await writer.pool.execute(query)


async def test_schema_of_another_release_is_for_the_owner(owner: Brotr, login: Login) -> None:
    await owner.pool.execute("UPDATE bigbrotr.ledger SET digest = 'older'")
    async with login("bigbrotr_writer") as writer, writer.pool.acquire() as connection:
        with pytest.raises(SchemaError, match="by the owner of the database"):
            await Schema().migrate(connection, Profile.FULL, int(time.time()))
    async with owner.pool.acquire() as connection:
        assert await Schema().migrate(connection, Profile.FULL, int(time.time()))


async def test_admin_looks_after_the_data(login: Login) -> None:
    async with login("bigbrotr_admin") as admin:
        await admin.pool.execute("TRUNCATE bigbrotr.rejected")
        version = int(await admin.pool.fetchval("SHOW server_version_num"))
        if version >= 170_000:
            await admin.pool.execute("VACUUM (ANALYZE) bigbrotr.relays")
        for query in (
            "DROP TABLE bigbrotr.presence",
            "ALTER TABLE bigbrotr.relays ADD COLUMN x int",
            "TRUNCATE bigbrotr.ledger",
            "CREATE ROLE somebody",
            "ALTER SYSTEM SET fsync = off",
        ):
            with pytest.raises(DENIED):
                await admin.pool.execute(query)


CREATIONS = (
    "CREATE TABLE {}.mine (x int)",
    "CREATE VIEW {}.mine AS SELECT 1",
    "CREATE FUNCTION {}.cardinality(bytea[]) RETURNS int LANGUAGE sql RETURN 7",
    "CREATE OPERATOR {}.|| (FUNCTION = textcat, LEFTARG = text, RIGHTARG = text)",
    "CREATE TYPE {}.mine AS (x int)",
    "CREATE AGGREGATE {}.mine(int) (SFUNC = int4pl, STYPE = int)",
)


@pytest.mark.parametrize("role", ROLES)
async def test_nobody_creates_anything_where_our_code_looks(
    owner: Brotr, login: Login, role: str
) -> None:
    # As a database from before PostgreSQL 15 may have it; each migration takes it away.
    await owner.pool.execute(f"GRANT CREATE ON SCHEMA bigbrotr TO PUBLIC, {role}")
    await owner.grant_roles()
    async with login(role) as member:
        for schema in ("bigbrotr", "public", "pg_catalog"):
            for creation in CREATIONS:
                with pytest.raises(DENIED):
                    await member.pool.execute(creation.format(schema))
        with pytest.raises(DENIED):
            await member.pool.execute("CREATE SCHEMA mine")


# For each function and operator of PostgreSQL that takes "any" type, those that our SQL could mean
# instead: with the very types that it uses, an exact match, which PostgreSQL prefers.
TRAPS = """
CREATE FUNCTION pg_temp.concrete(p_type oid, p_element text) RETURNS text LANGUAGE sql RETURN
    CASE p_type::regtype::text
        WHEN 'anyarray' THEN p_element || '[]' WHEN 'anycompatiblearray' THEN p_element || '[]'
        WHEN 'anyrange' THEN 'int8range' WHEN 'anymultirange' THEN 'int8multirange'
        WHEN 'anyelement' THEN p_element WHEN 'anynonarray' THEN p_element
        WHEN 'anycompatible' THEN p_element WHEN '"any"' THEN p_element
        ELSE p_type::regtype::text END;
DO $$
DECLARE
    each record;
BEGIN
    FOR each IN
        SELECT DISTINCT p.proname, a.types FROM pg_proc p,
        LATERAL unnest(ARRAY['text', 'bytea', 'bigint', 'integer', 'int8range']) AS e (element),
        LATERAL (SELECT string_agg(pg_temp.concrete(t, e.element), ', ' ORDER BY n) AS types
                 FROM unnest(p.proargtypes) WITH ORDINALITY AS u (t, n)) AS a
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ('{names}')
          AND p.provariadic = 0 AND a.types <> '' AND EXISTS (
              SELECT FROM unnest(p.proargtypes) AS t WHERE t::regtype::text LIKE '%any%')
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION public.%I(%s) RETURNS bigint LANGUAGE plpgsql '
                       'AS $f$ BEGIN RAISE EXCEPTION ''trapped''; END $f$',
                       each.proname, each.types);
    END LOOP;
    FOR each IN
        SELECT DISTINCT o.oprname, pg_temp.concrete(o.oprleft, e.element) AS a,
               pg_temp.concrete(o.oprright, e.element) AS b
        FROM pg_operator o,
        unnest(ARRAY['text', 'bytea', 'bigint', 'integer', 'int8range']) AS e (element)
        WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
          AND (o.oprleft::regtype::text LIKE '%any%' OR o.oprright::regtype::text LIKE '%any%')
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION public.trap(%s, %s) RETURNS boolean LANGUAGE '
                       'plpgsql AS $f$ BEGIN RAISE EXCEPTION ''trapped''; END $f$', each.a, each.b);
        EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = %s, '
                       'RIGHTARG = %s)', each.oprname, each.a, each.b);
    END LOOP;
END $$"""


def functions_called() -> set[str]:
    """The names of all functions that our SQL calls."""
    texts = [schema_text(), *collect()]
    return {name.lower() for text in texts for name in re.findall(r"(\w+)\(", text)}


@pytest.mark.slow
async def test_what_is_planted_in_public_is_never_called(dsn: str) -> None:
    """Not even where an owner lets others create there, and a PgBouncer keeps us from saying where
    names are looked for."""
    async with connected(dsn) as connection:
        names = "{" + ",".join(sorted(functions_called())) + "}"
        await connection.execute("SET search_path = pg_catalog")
        await connection.execute(TRAPS.replace("{names}", names))
        await connection.execute("SET search_path = public")  # "$user" would be our own schema
        planted = "SELECT count(*) FROM {} WHERE {} = 'public'::regnamespace"
        assert await connection.fetchval(planted.format("pg_proc", "pronamespace")) > 100
        assert await connection.fetchval(planted.format("pg_operator", "oprnamespace")) > 50
        for trap in ("SELECT cardinality('{}'::bytea[])", "SELECT int8range(1, 2) && '[1,2)'"):
            with pytest.raises(asyncpg.RaiseError, match="trapped"):
                await connection.fetchval(trap)

        await connection.execute("UPDATE bigbrotr.ledger SET digest = 'older'")
        # Where there are workers, they keep what `db distribute` has told them.
        await connection.execute("SET citus.enable_ddl_propagation = off")
        await connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public',"
            " current_database()); END $$"
        )
    async with Brotr(Pool(settings=PoolSettings(pgbouncer=True), dsn=dsn)) as brotr:
        async with brotr.pool.acquire() as ours, connected(dsn) as theirs:
            for statement in asked_here(collect()):
                assert await meant_in_public(ours, theirs, statement) == [], statement
            assert await Schema().migrate(ours, Profile.FULL, int(time.time()))
        other = Relay("wss://other.example")
        pairs = [EventRelay(EVENT, relay, 1) for relay in (RELAY, other)]
        assert await brotr.insert_events(pairs) == (1, 1)
        assert await brotr.insert_events(pairs) == (0, 2)
        assert await brotr.insert_candidates([Relay("wss://new.example")], "seed") == 1
        assert len(await known(brotr.pool, EVENT.id)) == 2
        await brotr.cleanup_orphans()


async def meant_in_public(ours: Pooled, theirs: Connection, statement: str) -> list[str]:
    """What a statement of ours would call there: PostgreSQL notes that for the body of a
    function."""
    takes = [
        f"{each.schema}.{each.name}" for each in (await ours.prepare(statement)).get_parameters()
    ]
    if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
        return []
    types = ", ".join(re.sub(r"\.(\w+)\[\]$", r"._\1", each) for each in takes)
    await theirs.execute(
        f"CREATE FUNCTION public.probe({types}) RETURNS void LANGUAGE sql"
        f" BEGIN ATOMIC {statement}; END"
    )
    rows = await theirs.fetch(
        "SELECT pg_describe_object(d.refclassid, d.refobjid, 0) FROM pg_depend d"
        " LEFT JOIN pg_proc p ON p.oid = d.refobjid"
        " LEFT JOIN pg_operator o ON o.oid = d.refobjid"
        " WHERE d.objid = to_regproc('public.probe') AND"
        "  to_regnamespace('public') IN (p.pronamespace, o.oprnamespace)"
    )
    await theirs.execute("DROP FUNCTION public.probe")
    return [row[0] for row in rows]
