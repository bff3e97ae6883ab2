"""The schema, on real PostgreSQL: made, made again, upgraded, refused; its partitions and views."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.config.shipped import shipped
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.schema import DISTRIBUTED, Schema, read_ledger
from bigbrotr.errors import DatabaseError, SchemaError
from bigbrotr.models.event import EventRelay
from bigbrotr.models.relay import Relay
from tests.events import NOW, make_event

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
        WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY 1, 3""",
    "storage": """
        SELECT relname, relkind::text, reloptions, pg_get_expr(relpartbound, oid)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "functions": """
        SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace ORDER BY 1""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
    "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
}


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn)
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
    before, applied = await catalog(empty), await empty.fetch("SELECT * FROM ledger")
    assert not await Schema().migrate(empty, profile, NOW + 1)
    assert await catalog(empty) == before
    assert await empty.fetch("SELECT * FROM ledger") == applied


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


async def test_a_newer_revision_is_refused(empty: Connection) -> None:
    await Schema().migrate(empty, Profile.FULL, NOW)
    await empty.execute("INSERT INTO ledger VALUES (99, 'full', 'digest', 0)")
    with pytest.raises(SchemaError, match=r"revision 99.*only up to.*newer bigbrotr"):
        await Schema().migrate(empty, Profile.FULL, NOW)


async def test_the_other_profile_is_refused(empty: Connection) -> None:
    await Schema().migrate(empty, Profile.FULL, NOW)
    with pytest.raises(SchemaError, match=r"profile full, not lite.*--profile full"):
        await Schema().migrate(empty, Profile.LITE, NOW)


@pytest.mark.parametrize("name", ["events", "relays", "metadata"])
async def test_a_foreign_table_is_refused(empty: Connection, name: str) -> None:
    await empty.execute(f"CREATE TABLE {name} (id int)")
    with pytest.raises(SchemaError, match=f"`{name}`.*not bigbrotr's"):
        await Schema().migrate(empty, Profile.FULL, NOW)
    assert await read_ledger(empty) is None


async def test_all_or_nothing(empty: Connection, folder: Path) -> None:
    (folder / "95_broken.sql").write_text("SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await Schema(folder).migrate(empty, Profile.FULL, NOW)
    assert await catalog(empty) == {name: [] for name in CATALOG}


REVISIONS = Path(__file__).parent / "revisions"  # of `sql/`, as they were released


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("revision", sorted(path.name for path in REVISIONS.iterdir()))
async def test_migrations_end_where_a_fresh_database_begins(
    make_database: Make, profile: Profile, revision: str
) -> None:
    """Both roads meet: an older release's database taken along by migrations, and today's."""
    older, today = Schema(REVISIONS / revision), Schema()
    async with (
        connected(await make_database(None)) as upgraded,
        connected(await make_database(None)) as fresh,
    ):
        await older.migrate(upgraded, profile, NOW)
        await upgraded.execute("UPDATE ledger SET revision = $1", int(revision))
        await upgraded.execute(
            "SELECT insert_relays(ARRAY['wss://a.example.com'], ARRAY['clearnet'], ARRAY[500])"
        )
        assert await today.migrate(upgraded, profile, NOW)
        await today.migrate(fresh, profile, NOW)
        revisions = [row[0] for row in await upgraded.fetch("SELECT revision FROM ledger")]
        assert revisions == [int(revision), today.revision]
        assert await catalog(upgraded) == await catalog(fresh)
        with pytest.raises(SchemaError, match=f"revision {today.revision}"):
            await older.migrate(upgraded, profile, NOW)


async def test_old_proofs_are_kept_once_each(make_database: Make) -> None:
    """A second that was proven in two ways stands in one row now, and counts as long proven."""
    async with connected(await make_database(None)) as connection:
        await Schema(REVISIONS / "0001").migrate(connection, Profile.FULL, NOW)
        await connection.execute(
            "SELECT insert_relays(ARRAY['wss://a.example.com'], ARRAY['clearnet'], ARRAY[500])"
        )
        await connection.execute(
            "INSERT INTO coverage SELECT id, '', how, proven::int8multirange, $1 FROM relays,"
            " (VALUES ('paging', '{[0,100)}'), ('finish', '{[50,150)}')) AS c (how, proven)",
            NOW,
        )
        await Schema().migrate(connection, Profile.FULL, NOW)
        rows = await connection.fetch("SELECT how, proven, proven_at FROM coverage ORDER BY how")
        spans = [(row["how"], *((s.lower, s.upper) for s in row["proven"])) for row in rows]
        assert spans == [("finish", (50, 150)), ("paging", (0, 50))]
        assert {row["proven_at"] for row in rows} == {500}


async def test_where_the_pairs_of_an_older_archive_are(make_database: Make) -> None:
    """Nobody had noted it: anywhere until now. Who has none has none."""
    async with connected(await make_database(None)) as connection:
        await Schema(REVISIONS / "0001").migrate(connection, Profile.FULL, NOW)
        await connection.execute(
            "SELECT insert_relays(ARRAY['wss://a.example.com', 'wss://b.example.com'],"
            " ARRAY['clearnet', 'clearnet'], ARRAY[500, 500])"
        )
        await connection.execute("UPDATE tallies SET pairs = 3 WHERE relay_id = 1")
        await Schema().migrate(connection, Profile.FULL, NOW)
        touched = await connection.fetch(
            "SELECT touched FROM tallies WHERE relay_id > 0 ORDER BY 1"
        )
        assert [len(row[0]) for row in touched] == [0, 1]
        (span,) = touched[1][0]
        assert span.lower == 0
        assert time.time() <= span.upper <= time.time() + 90_000


async def test_a_migration_goes_before_the_files(empty: Connection, folder: Path) -> None:
    await Schema(folder).migrate(empty, Profile.FULL, NOW)
    number = Schema(folder).revision + 1
    (folder / "migrations" / f"{number:04}_rename.sql").write_text(
        "ALTER TABLE public.service_data RENAME COLUMN data_key TO key_of_data;\n"
    )
    path = folder / "50_service_data.sql"
    path.write_text(path.read_text().replace("data_key", "key_of_data"))
    assert await Schema(folder).migrate(empty, Profile.FULL, NOW)
    assert await empty.fetchval("SELECT max(revision) FROM ledger") == number
    await empty.fetch("SELECT key_of_data FROM service_data")


async def test_a_changed_file_is_run_again(empty: Connection, folder: Path) -> None:
    await Schema(folder).migrate(empty, Profile.FULL, NOW)
    with (folder / "38_rejected.sql").open("a") as file:
        file.write("COMMENT ON TABLE public.rejected IS 'new words';\n")
    assert await Schema(folder).migrate(empty, Profile.FULL, NOW)
    assert await empty.fetchval("SELECT obj_description('rejected'::regclass)") == "new words"
    ledger = await read_ledger(empty)
    assert ledger is not None
    assert ledger.digest == Schema(folder).digest(Profile.FULL)
    assert not await Schema(folder).migrate(empty, Profile.FULL, NOW)


async def test_an_ordinary_server_cannot_distribute(empty: Connection, folder: Path) -> None:
    with pytest.raises(SchemaError, match="no schema yet"):
        await Schema().distribute(empty)
    await Schema().migrate(empty, Profile.LITE, NOW)
    before = await catalog(empty)
    with pytest.raises(DatabaseError, match="no extension citus"):
        await Schema().distribute(empty)
    assert await catalog(empty) == before
    with (folder / "38_rejected.sql").open("a") as file:
        file.write("-- another release\n")
    with pytest.raises(SchemaError, match="`bigbrotr db migrate` first"):
        await Schema(folder).distribute(empty)
    await empty.execute("INSERT INTO ledger VALUES (99, 'lite', 'digest', 0)")
    with pytest.raises(SchemaError, match="newer bigbrotr"):
        await Schema().distribute(empty)


def test_no_start_distributes() -> None:
    assert (Schema().folder / DISTRIBUTED).exists()
    for profile in Profile:
        assert DISTRIBUTED not in [path.name for path in Schema().files(profile)]


async def test_partitions_are_made_once(brotr: Brotr) -> None:
    pool = brotr.pool
    later = 1_900_000_000
    leaves = "SELECT count(*) FROM pg_inherits"
    assert await pool.fetchval("SELECT ensure_partitions($1)", later) > 0
    there = await pool.fetchval(leaves)
    assert await pool.fetchval("SELECT ensure_partitions($1)", later) == 0
    assert await pool.fetchval("SELECT ensure_partitions($1)", 0) == 0
    assert await pool.fetchval(leaves) == there


@pytest.mark.parametrize("profile", list(Profile))
async def test_leaves_are_as_the_parents_and_hold_the_settings(brotr: Brotr) -> None:
    rows = await brotr.pool.fetch(
        "SELECT c.relname, c.reloptions, i.inhparent::regclass::text AS parent,"
        " (SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid) AS indexes,"
        " (SELECT count(*) FROM pg_index x WHERE x.indrelid = i.inhparent) AS wanted"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r'"
    )
    names = {row["relname"] for row in rows}
    assert {"events_default", "events_2021q1", "presence_default", "presence_2024q4"} <= names
    for row in rows:
        assert row["indexes"] == row["wanted"] > 0
        options = dict(option.split("=") for option in row["reloptions"])
        if row["parent"] == "presence":
            assert options["fillfactor"] == "50"
            assert "autovacuum_vacuum_scale_factor" in options
        else:
            assert "autovacuum_vacuum_insert_scale_factor" in options


@pytest.mark.parametrize("profile", list(Profile))
async def test_rows_move_to_the_quarter_that_is_made(brotr: Brotr) -> None:
    future = 1_900_000_000  # 2030q1
    relay = Relay("wss://a.example.com")
    events = [make_event(created_at=at) for at in (0, future - 86_400 * 200, future, 2**53)]
    await brotr.insert_events([EventRelay(event, relay, NOW) for event in events])
    where = "SELECT tableoid::regclass::text FROM {} ORDER BY created_at"
    for table in ("events", "presence"):
        before = await brotr.pool.fetch(where.format(table))
        assert {row[0] for row in before} == {f"{table}_default"}
    await brotr.pool.fetchval("SELECT ensure_partitions($1)", future)
    for table in ("events", "presence"):
        after = [row[0] for row in await brotr.pool.fetch(where.format(table))]
        assert after == [
            f"{table}_default",
            f"{table}_2029q3",
            f"{table}_2030q1",
            f"{table}_default",
        ]
    assert await brotr.insert_events([EventRelay(event, relay, NOW) for event in events]) == (0, 4)
    pairs = await brotr.pool.fetchval("SELECT count(*) FROM events_relays")
    assert pairs == (await brotr.totals()).pairs == 4


async def test_rows_that_arrive_while_a_quarter_is_made(brotr: Brotr) -> None:
    future = 1_900_000_000
    relay = Relay("wss://a.example.com")
    batches = [[make_event(created_at=future + n) for n in range(20)] for _ in range(8)]

    async def write(batch: list[EventRelay]) -> None:
        await brotr.insert_events(batch)

    async with asyncio.TaskGroup() as group:
        for events in batches:
            group.create_task(write([EventRelay(event, relay, NOW) for event in events]))
        group.create_task(brotr.pool.fetchval("SELECT ensure_partitions($1)", future))
    rows = await brotr.pool.fetch("SELECT DISTINCT tableoid::regclass::text FROM events")
    assert [row[0] for row in rows] == ["events_2030q1"]
    assert (await brotr.totals()).events == 160


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
    for name, part in (("indexes", "tagvalues"), ("constraints", "events_lite")):
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
        await brotr.pool.fetch(f"SELECT {', '.join(columns)} FROM {relation}")
        rows = await brotr.pool.fetch(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
            relation,
        )
        there = {row[0]: row[1] for row in rows}
        assert columns.items() <= there.items()


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_lite_refuses_what_it_does_not_keep(brotr: Brotr) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await brotr.pool.execute(
            "INSERT INTO events (created_at, kind, id, pubkey, content) VALUES (1, 1, '', '', 'x')"
        )
