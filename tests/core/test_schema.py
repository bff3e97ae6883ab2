"""The schema, on real PostgreSQL: made, made again, upgraded, refused; its partitions and views."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pglast
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.config.shipped import shipped
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.schema import DISTRIBUTED, UNDISTRIBUTED, Schema, read_ledger, statements
from bigbrotr.errors import DatabaseError, SchemaError
from bigbrotr.models.event import EventRelay
from bigbrotr.models.relay import Relay
from tests.kit.events import NOW, verified

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Make = Callable[[Profile | None], Awaitable[str]]
Catalog = dict[str, list[tuple[object, ...]]]

CATALOG = {
    "columns": """
        SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod),
               a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity::text,
               a.attcompression::text
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = to_regnamespace('bigbrotr') AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY 1, 3""",
    "storage": """
        SELECT relname, relkind::text, reloptions, pg_get_expr(relpartbound, oid)
        FROM pg_class WHERE relnamespace = to_regnamespace('bigbrotr') ORDER BY 1""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes"
    " WHERE schemaname = 'bigbrotr' ORDER BY 1",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = to_regnamespace('bigbrotr') ORDER BY 1, 2""",
    "functions": """
        SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = to_regnamespace('bigbrotr') ORDER BY 1""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'bigbrotr' ORDER BY 1",
    "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
}


@asynccontextmanager
async def connected(dsn: str, password: str | None = None) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn, password=password)
    try:
        yield connection
    finally:
        await connection.close()


async def catalog(connection: Connection) -> Catalog:
    """Everything that makes two databases alike."""
    return {name: [tuple(r) for r in await connection.fetch(q)] for name, q in CATALOG.items()}


@pytest.fixture
async def empty(make_database: Make) -> AsyncIterator[Connection]:
    async with connected(await make_database(None)) as connection:
        yield connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the schema's files, to be changed."""
    return Path(shutil.copytree(shipped("sql"), tmp_path / "sql"))


@pytest.mark.parametrize("profile", list(Profile))
async def test_a_fresh_database(empty: Connection, profile: Profile) -> None:
    schema = Schema()
    assert await schema.check(empty, profile) is None
    assert await schema.migrate(empty, profile, NOW)
    ledger = await read_ledger(empty)
    assert ledger is not None
    assert (ledger.revision, ledger.profile) == (schema.revision, profile)
    assert ledger.digest == schema.digest(profile)
    assert await schema.check(empty, profile) == ledger


@pytest.mark.parametrize("profile", list(Profile))
async def test_migrating_twice_changes_nothing(empty: Connection, profile: Profile) -> None:
    await Schema().migrate(empty, profile, NOW)
    before, applied = await catalog(empty), await empty.fetch("SELECT * FROM bigbrotr.ledger")
    assert not await Schema().migrate(empty, profile, NOW + 1)
    assert await catalog(empty) == before
    assert await empty.fetch("SELECT * FROM bigbrotr.ledger") == applied


async def test_two_that_migrate_at_once(make_database: Make) -> None:
    dsn = await make_database(None)

    async def migrate() -> bool:
        async with connected(dsn) as connection:
            return await Schema().migrate(connection, Profile.LITE, NOW)

    assert sorted(await asyncio.gather(*(migrate() for _ in range(4)))) == [
        False,
        False,
        False,
        True,
    ]


async def test_a_far_newer_revision_is_refused(empty: Connection) -> None:
    await Schema().migrate(empty, Profile.FULL, NOW)
    await empty.execute("INSERT INTO bigbrotr.ledger VALUES (99, 'full', 'digest', 0, 98, '9.0.0')")
    with pytest.raises(
        SchemaError,
        match=r"of revision 99 and serves releases from revision 98.*newer bigbrotr, 9\.0\.0",
    ):
        await Schema().migrate(empty, Profile.FULL, NOW)


async def test_the_next_revision_is_left_as_it_is(empty: Connection) -> None:
    """It serves this release, whose files are not run over it."""
    schema = Schema()
    await schema.migrate(empty, Profile.FULL, NOW)
    following = schema.revision + 1
    await empty.execute(
        "INSERT INTO bigbrotr.ledger VALUES ($1, 'full', 'digest', 0, $2, '9.0.0')",
        following,
        schema.revision,
    )
    await empty.execute("COMMENT ON TABLE bigbrotr.relays IS 'of the next release'")
    later = 1_900_000_000
    assert not await schema.migrate(empty, Profile.FULL, later)
    words = await empty.fetchval("SELECT obj_description('bigbrotr.relays'::regclass)")
    assert words == "of the next release"
    # The partitions are made all the same: by its function.
    assert await empty.fetchval("SELECT to_regclass('bigbrotr.events_2030q1') IS NOT NULL")


async def test_an_older_release_does_not_run_its_files_over_those_of_a_newer_one(
    empty: Connection, folder: Path
) -> None:
    """Of one revision: a release may change the body of a function, and no more."""
    await Schema(release="1.10.0").migrate(empty, Profile.FULL, NOW)
    with (folder / "38_rejected.sql").open("a") as file:
        file.write("COMMENT ON TABLE bigbrotr.rejected IS 'other words';\n")
    assert not await Schema(folder, release="1.9.1").migrate(empty, Profile.FULL, NOW)
    assert await Schema(folder, release="1.10.1").migrate(empty, Profile.FULL, NOW)
    words = await empty.fetchval("SELECT obj_description('bigbrotr.rejected'::regclass)")
    assert words == "other words"


async def test_the_other_profile_is_refused(empty: Connection) -> None:
    await Schema().migrate(empty, Profile.FULL, NOW)
    with pytest.raises(SchemaError, match=r"profile full, not lite.*--profile full"):
        await Schema().migrate(empty, Profile.LITE, NOW)


FOREIGN = {
    "CREATE TABLE bigbrotr.events (id int)": r"table (bigbrotr\.)?events",
    "CREATE TABLE bigbrotr.ledger (money int)": r"table (bigbrotr\.)?ledger",
    "CREATE FUNCTION bigbrotr.f() RETURNS int LANGUAGE sql RETURN 1": (
        r"function (bigbrotr\.)?f\(\)"
    ),
    "CREATE OPERATOR bigbrotr.@@@ (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int)": (
        r"operator (bigbrotr\.)?@@@"
    ),
}


@pytest.mark.parametrize(("make", "words"), FOREIGN.items())
async def test_a_foreign_schema_of_our_name_is_refused(
    empty: Connection, make: str, words: str
) -> None:
    await empty.execute(f"CREATE SCHEMA bigbrotr; {make}")
    before = await catalog(empty)
    for work in (Schema().migrate(empty, Profile.FULL, NOW), read_ledger(empty)):
        with pytest.raises(SchemaError, match=f"not bigbrotr's, {words}.*another"):
            await work
    assert await catalog(empty) == before


async def test_an_empty_schema_of_our_name_is_used(empty: Connection) -> None:
    await empty.execute("CREATE SCHEMA bigbrotr")
    assert await Schema().migrate(empty, Profile.FULL, NOW)


async def test_what_others_keep_in_public_is_theirs(empty: Connection) -> None:
    await empty.execute("CREATE TABLE public.events (id int); INSERT INTO public.events VALUES (7)")
    await empty.execute("CREATE TABLE public.ledger (money int)")
    assert await Schema().migrate(empty, Profile.FULL, NOW)
    assert await empty.fetchval("SELECT id FROM public.events") == 7
    assert await empty.fetchval("SELECT count(*) FROM bigbrotr.events") == 0


async def test_an_archive_from_before_the_first_release_is_refused(empty: Connection) -> None:
    """It was in the schema `public`: it is neither read nor damaged."""
    await empty.execute(
        "CREATE TABLE public.ledger (revision int, profile text, digest text, applied_at bigint);"
        "CREATE TABLE public.events (id bytea);"
        "INSERT INTO public.ledger VALUES (6, 'full', 'x', 0);"
        "INSERT INTO public.events VALUES ('')"
    )
    with pytest.raises(SchemaError, match=r"unreleased bigbrotr.*`public`.*another database or"):
        await Schema().migrate(empty, Profile.FULL, NOW)
    assert await empty.fetchval("SELECT count(*) FROM public.events") == 1
    assert await empty.fetchval("SELECT to_regnamespace('bigbrotr') IS NULL")


async def test_all_or_nothing(empty: Connection, folder: Path) -> None:
    (folder / "95_broken.sql").write_text("SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await Schema(folder).migrate(empty, Profile.FULL, NOW)
    assert await catalog(empty) == {name: [] for name in CATALOG}


async def test_a_migration_goes_before_the_files(empty: Connection, folder: Path) -> None:
    await Schema(folder).migrate(empty, Profile.FULL, NOW)
    number = Schema(folder).revision + 1
    (folder / "migrations").mkdir(exist_ok=True)
    (folder / "migrations" / f"{number:04}_rename.sql").write_text(
        "ALTER TABLE bigbrotr.service_data RENAME COLUMN data_key TO key_of_data;\n"
    )
    path = folder / "50_service_data.sql"
    path.write_text(path.read_text().replace("data_key", "key_of_data"))
    assert await Schema(folder).migrate(empty, Profile.FULL, NOW)
    assert await empty.fetchval("SELECT max(revision) FROM bigbrotr.ledger") == number
    await empty.fetch("SELECT key_of_data FROM bigbrotr.service_data")


async def test_a_changed_file_is_run_again(empty: Connection, folder: Path) -> None:
    await Schema(folder).migrate(empty, Profile.FULL, NOW)
    with (folder / "38_rejected.sql").open("a") as file:
        file.write("COMMENT ON TABLE bigbrotr.rejected IS 'new words';\n")
    assert await Schema(folder).migrate(empty, Profile.FULL, NOW)
    assert (
        await empty.fetchval("SELECT obj_description('bigbrotr.rejected'::regclass)") == "new words"
    )
    ledger = await read_ledger(empty)
    assert ledger is not None
    assert ledger.digest == Schema(folder).digest(Profile.FULL)
    assert not await Schema(folder).migrate(empty, Profile.FULL, NOW)


async def distribute(connection: Connection, schema: Schema | None = None) -> list[str]:
    return [line async for line in (schema or Schema()).distribute(connection)]


async def test_an_ordinary_server_cannot_distribute(empty: Connection, folder: Path) -> None:
    with pytest.raises(SchemaError, match="no schema yet"):
        await distribute(empty)
    await Schema().migrate(empty, Profile.LITE, NOW)
    before = await catalog(empty)
    with pytest.raises(DatabaseError, match="no extension citus"):
        await distribute(empty)
    assert await catalog(empty) == before
    with (folder / "38_rejected.sql").open("a") as file:
        file.write("-- another release\n")
    with pytest.raises(SchemaError, match="`bigbrotr db migrate` first"):
        await distribute(empty, Schema(folder))
    await empty.execute("INSERT INTO bigbrotr.ledger VALUES (99, 'lite', 'digest', 0, 98, '9.0.0')")
    with pytest.raises(SchemaError, match=r"newer bigbrotr, 9\.0\.0"):
        await distribute(empty)


def test_no_start_distributes() -> None:
    for name in (DISTRIBUTED, UNDISTRIBUTED):
        assert (Schema().folder / name).exists()
        for profile in Profile:
            assert name not in [path.name for path in Schema().files(profile)]


def test_scripts_are_split_into_statements() -> None:
    """As PostgreSQL's own parser does it."""

    def trees(*scripts: str) -> list[str]:  # without the places in the text
        parsed = [str(raw.stmt) for each in scripts for raw in pglast.parse_sql(each)]
        return [re.sub(r"(location|start|end)=-?\d+", "", each) for each in parsed]

    for path in Schema().folder.rglob("*.sql"):
        script = path.read_text()
        assert trees(*statements(script)) == trees(script), path.name


@pytest.mark.one_server
async def test_partitions_are_made_once(brotr: Brotr) -> None:
    pool = brotr.pool
    later = 1_900_000_000
    leaves = "SELECT count(*) FROM pg_inherits"
    assert await pool.fetchval("SELECT bigbrotr.ensure_partitions($1)", later) > 0
    there = await pool.fetchval(leaves)
    assert await pool.fetchval("SELECT bigbrotr.ensure_partitions($1)", later) == 0
    assert await pool.fetchval("SELECT bigbrotr.ensure_partitions($1)", 0) == 0
    assert await pool.fetchval(leaves) == there


@pytest.mark.one_server
@pytest.mark.parametrize("profile", list(Profile))
async def test_leaves_are_as_the_parents_and_hold_the_settings(brotr: Brotr) -> None:
    rows = await brotr.pool.fetch(
        "SELECT c.relname, c.reloptions, i.inhparent::regclass::text AS parent,"
        " (SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid) AS indexes,"
        " (SELECT count(*) FROM pg_index x WHERE x.indrelid = i.inhparent) AS wanted,"
        " ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid"
        "  AND a.attnum > 0 AND a.attstattarget = 0 ORDER BY a.attname) AS not_analyzed"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r'"
    )
    names = {row["relname"] for row in rows}
    assert {"events_default", "events_early", "events_2021q1", "presence_2024q4"} <= names
    for row in rows:
        assert row["indexes"] == row["wanted"] > 0
        options = dict(option.split("=") for option in row["reloptions"])
        if row["parent"] == "bigbrotr.presence":
            assert options["fillfactor"] == "70"
            assert "autovacuum_vacuum_scale_factor" in options
            assert row["not_analyzed"] == ["seen_ats"]
        else:
            assert "autovacuum_vacuum_insert_scale_factor" in options
            assert "autovacuum_analyze_scale_factor" in options
            assert row["not_analyzed"] == ["content", "sig", "tags"]


@pytest.mark.one_server
@pytest.mark.parametrize("profile", list(Profile))
async def test_analyze_takes_nothing_apart_that_no_plan_depends_on(brotr: Brotr) -> None:
    """It took three seconds for a queue of 8,000 pages, each half minute while events came in."""
    await brotr.insert_events([EventRelay(verified(), Relay("wss://a.example.com"), NOW)])
    await brotr.pool.execute("ANALYZE")
    known = {
        (row["tablename"], row["attname"])
        for row in await brotr.pool.fetch(
            "SELECT s.tablename, s.attname FROM pg_stats s WHERE s.schemaname = 'bigbrotr'"
        )
    }
    stored = {column for table, column in known if table.startswith("events_20")}
    assert {"created_at", "id", "kind", "pubkey", "num"} <= stored
    assert {"sig", "tags", "content"}.isdisjoint(stored)
    held = {column for table, column in known if table.startswith("presence_20")}
    assert {"chunk", "relay_id"} <= held
    assert "seen_ats" not in held
    queued = {(table, column) for table, column in known if table in ("arrivals", "mentions")}
    assert ("arrivals", "noted_at") in queued
    assert {column for _, column in queued} <= {"id", "xid", "noted_at"}


@pytest.mark.one_server
@pytest.mark.parametrize("profile", list(Profile))
async def test_rows_move_to_the_quarter_that_is_made(brotr: Brotr) -> None:
    future = 1_900_000_000  # 2030q1
    relay = Relay("wss://a.example.com")
    events = [verified(created_at=at) for at in (0, future - 86_400 * 200, future, 2**53)]
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    where = "SELECT tableoid::regclass::text FROM bigbrotr.{} ORDER BY {}"
    tables = {"events": ("events_stored", "created_at"), "presence": ("presence", "slice")}
    for table, key in tables.items():
        before = [row[0] for row in await brotr.pool.fetch(where.format(*key))]
        assert before == [f"bigbrotr.{table}_early"] + 3 * [f"bigbrotr.{table}_default"]
    await brotr.pool.fetchval("SELECT bigbrotr.ensure_partitions($1)", future)
    for table, key in tables.items():
        after = [row[0] for row in await brotr.pool.fetch(where.format(*key))]
        assert after == [
            f"bigbrotr.{table}_early",
            f"bigbrotr.{table}_2029q3",
            f"bigbrotr.{table}_2030q1",
            f"bigbrotr.{table}_default",
        ]
    assert await brotr.insert_events([EventRelay(event, relay, NOW) for event in events]) == (0, 4)
    pairs = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_relays")
    assert pairs == (await brotr.totals()).pairs == 4


@pytest.mark.one_server
async def test_an_old_quarter_is_taken_out_and_put_back(brotr: Brotr) -> None:
    relay = Relay("wss://a.example.com")
    events = [verified(created_at=at) for at in (1_650_000_000, 1_750_000_000)]
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    ids = "SELECT array_agg(event_id ORDER BY event_id) FROM bigbrotr.events_relays"
    pool, now = brotr.pool, 1_750_000_000
    for wrong in ("2022q5", "2022", "x", "1999q1", "2022q2; DROP"):
        with pytest.raises(asyncpg.PostgresError, match="there is no quarter"):
            await pool.fetchval("SELECT bigbrotr.detach_quarter($1, $2)", wrong, now)
        with pytest.raises(asyncpg.PostgresError, match="there is no quarter"):
            await pool.fetchval("SELECT bigbrotr.attach_quarter($1)", wrong)
    with pytest.raises(asyncpg.PostgresError, match="in use"):
        await pool.fetchval("SELECT bigbrotr.detach_quarter('2025q1', $1)", now)
    await pool.fetchval("SELECT bigbrotr.detach_quarter('2022q2', $1)", now)
    assert await pool.fetchval(ids) == [events[1].id]
    assert await pool.fetchval("SELECT id FROM bigbrotr.events_2022q2") == events[0].id
    assert await pool.fetchval("SELECT bigbrotr.ensure_partitions($1)", now) == 0
    await pool.fetchval("SELECT bigbrotr.attach_quarter('2022q2')")
    assert await pool.fetchval(ids) == sorted(event.id for event in events)
    assert await brotr.insert_events([EventRelay(event, relay, NOW) for event in events]) == (0, 2)


@pytest.mark.one_server
async def test_rows_that_arrive_while_a_quarter_is_made(brotr: Brotr) -> None:
    future = 1_900_000_000
    relay = Relay("wss://a.example.com")
    batches = [[verified(created_at=future + n) for n in range(20)] for _ in range(8)]

    async def write(batch: list[EventRelay]) -> None:
        await brotr.insert_events(batch)

    async with asyncio.TaskGroup() as group:
        for events in batches:
            group.create_task(write([EventRelay(event, relay, NOW) for event in events]))
        group.create_task(brotr.pool.fetchval("SELECT bigbrotr.ensure_partitions($1)", future))
    rows = await brotr.pool.fetch(
        "SELECT DISTINCT tableoid::regclass::text FROM bigbrotr.events_stored"
    )
    assert [row[0] for row in rows] == ["bigbrotr.events_2030q1"]
    assert (await brotr.totals()).events == 160


@pytest.mark.one_server
async def test_the_profiles_differ_at_one_seam(make_database: Make) -> None:
    async with (
        connected(await make_database(Profile.FULL)) as full,
        connected(await make_database(Profile.LITE)) as lite,
    ):
        left, right = await catalog(full), await catalog(lite)
    differing = {
        name: {str(row[:2]) for row in set(map(repr, left[name])) ^ set(map(repr, right[name]))}
        for name in CATALOG
    }
    for name in ("views", "triggers"):
        assert not differing[name]
    names = {str(row[0]) for row in left["functions"]} ^ {str(r[0]) for r in right["functions"]}
    assert not names
    changed = [
        one[0]
        for one, other in zip(left["functions"], right["functions"], strict=True)
        if one != other
    ]
    assert changed == ["kept_columns()"]
    for name, part in (("indexes", "tag_hashes"), ("constraints", "events_lite")):
        odd = {row[:2] for row in left[name]} ^ {row[:2] for row in right[name]}
        assert odd
        assert all(any(part in str(cell) for cell in row) for row in odd)


CONTRACT = {
    "relays": {"url": "text", "network": "text", "discovered_at": "bigint"},
    "events": {
        "id": "bytea",
        "pubkey": "bytea",
        "created_at": "bigint",
        "kind": "integer",
        "tags": "jsonb",
        "tagvalues": "text[]",
        "content": "text",
        "sig": "bytea",
    },
    "events_relays": {"event_id": "bytea", "relay_url": "text", "seen_at": "bigint"},
    "metadata": {"id": "bytea", "data": "jsonb"},
    "relay_metadata": {
        "relay_url": "text",
        "snapshot_at": "bigint",
        "type": "text",
        "metadata_id": "bytea",
    },
    "relay_metadata_latest": {
        "relay_url": "text",
        "snapshot_at": "bigint",
        "type": "text",
        "metadata_id": "bytea",
        "data": "jsonb",
    },
    "service_data": {
        "service_name": "text",
        "data_type": "text",
        "data_key": "text",
        "data": "jsonb",
        "updated_at": "bigint",
    },
}


@pytest.mark.parametrize("profile", list(Profile))
async def test_the_relations_and_columns_that_users_know(brotr: Brotr) -> None:
    for relation, columns in CONTRACT.items():
        await brotr.pool.fetch(f"SELECT {', '.join(columns)} FROM bigbrotr.{relation}")
        rows = await brotr.pool.fetch(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
            f"bigbrotr.{relation}",
        )
        there = {row[0]: row[1] for row in rows}
        assert columns.items() <= there.items()


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_lite_refuses_what_it_does_not_keep(brotr: Brotr) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.events_stored (created_at, num, slice, kind, id, pubkey, content)"
            " VALUES (1, 1, 0, 1, '', '', 'x')"
        )
