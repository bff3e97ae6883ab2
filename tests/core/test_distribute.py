"""A cluster: an archive is distributed, wherever it was broken off, and holds what it held.

These tests need the cluster that BIGBROTR_TEST_CITUS names. What else runs on it is tested by the
other tests of this folder: there they have their databases.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from bigbrotr.config.settings import Database, Limits, PoolSettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.reading_pool import READER, ReadingPool
from bigbrotr.core.schema import SLICED, Schema
from bigbrotr.errors import DatabaseError, SchemaError
from bigbrotr.models.coverage import Span
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query
from bigbrotr.models.relay import Network, Relay
from bigbrotr.reads.datasets import moment
from bigbrotr.reads.events import EventReads
from tests.conftest import ClusterDatabases, Databases
from tests.core.test_schema import Connection, connected, distribute
from tests.kit.events import NOW, verified
from tests.kit.processes import Place

pytestmark = pytest.mark.cluster
WEEK = 604_800
A, B = Relay("wss://a.example.com"), Relay("wss://b.example.com")


@pytest.fixture
def cluster(databases: Databases) -> ClusterDatabases:
    assert isinstance(databases, ClusterDatabases)
    return databases


@pytest.fixture
async def blank(cluster: ClusterDatabases) -> AsyncIterator[str]:
    """The address of a database on a cluster, without a schema."""
    name = await cluster.create_blank()
    yield cluster.dsn(name)
    await cluster.drop(name)


async def content(connection: Connection) -> list[list[tuple[object, ...]]]:
    """All that is known of events."""
    queries = (
        "SELECT * FROM bigbrotr.events_stored ORDER BY created_at, id",
        "SELECT * FROM bigbrotr.presence ORDER BY slice, chunk, relay_id",
        "SELECT * FROM bigbrotr.dropped ORDER BY event_id, relay_id",
        "SELECT * FROM bigbrotr.events_raw ORDER BY event_id",
        "SELECT * FROM bigbrotr.events_relays ORDER BY event_id, relay_url",
        "SELECT * FROM bigbrotr.tallies ORDER BY relay_id",
    )
    return [[tuple(row) for row in await connection.fetch(query)] for query in queries]


async def fill(dsn: str) -> list[Event]:
    """An archive of eight weeks and some odd times, with drops and a raw event."""
    times = [NOW + n * WEEK // 3 for n in range(24)] + [0, 2**53, 2**63 - 1]
    events = [verified(created_at=at) for at in times]
    events.append(verified(created_at=NOW, content="a\0b"))
    async with Brotr(Pool(dsn=dsn)) as brotr:
        await brotr.insert_events([EventRelay(event, A, NOW) for event in events])
        await brotr.insert_events([EventRelay(event, B, NOW) for event in events[::2]])
        for visit in await brotr.claim_visits(
            [Network.CLEARNET], limit=2, owner="me", lease_s=99, since=0, until=NOW
        ):
            keys = [(event.created_at, event.id) for event in events[4:6]]
            await brotr.note_drops(visit, keys, before=NOW + 5, now=NOW + 5)
    return events


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("ends", [0, 1, 3, 20])
async def test_a_full_archive_moves_and_goes_on_where_it_was_broken_off(
    blank: str, ends: int, profile: Profile
) -> None:
    async with connected(blank) as connection:
        await Schema().migrate(connection, profile, NOW)
        events = await fill(blank)
        before = await content(connection)
        assert all(before[:3])
        if ends:
            lines = Schema().distribute(connection)
            for _ in range(ends):
                await anext(lines, None)
            await lines.aclose()
            if ends < 20:
                with pytest.raises(SchemaError, match=r"on its way .*`bigbrotr db distribute`"):
                    await Schema().migrate(connection, profile, NOW)
                async with Brotr(Pool(dsn=blank)) as brotr:
                    with pytest.raises(asyncpg.UndefinedTableError):
                        await brotr.insert_events([EventRelay(events[0], B, NOW)])
        done = await distribute(connection)
        assert done[-1:] == ([] if ends == 20 else ["all is distributed"])
        assert await content(connection) == before
        assert await distribute(connection) == []
        assert not await Schema().migrate(connection, profile, NOW)
        names = "SELECT relname FROM pg_class WHERE relname ~ 'undistributed|slices_moved|_2021q1'"
        assert await connection.fetch(names) == []
    async with Brotr(Pool(dsn=blank)) as brotr:
        more = [*events, verified(created_at=NOW + 5 * WEEK)]
        again = [EventRelay(event, A, NOW) for event in more]
        assert await brotr.insert_events(again) == (1, len(events))
        assert (await brotr.read_ids(Span(0, 2**63 - 1), b"", 999))[1] == b"".join(
            event.id
            for event in sorted(more, key=lambda event: (event.created_at, event.id))
            if event.created_at < 2**63 - 1
        )


async def test_its_progress_is_told(blank: str) -> None:
    async with connected(blank) as connection:
        await Schema().migrate(connection, Profile.LITE, NOW)
        async with Brotr(Pool(dsn=blank)) as brotr:
            events = [verified(created_at=n * WEEK) for n in (0, 1, 1)]
            await brotr.insert_events([EventRelay(event, A, NOW) for event in events])
        assert await distribute(connection) == [
            "on the workers there are now " + ", ".join(SLICED),
            "the week of 1970-01-01: 1 events moved, 1 weeks to go",
            "the week of 1970-01-08: 2 events moved, 0 weeks to go",
            "all is distributed",
        ]


async def test_two_that_distribute_at_once(blank: str) -> None:
    async with connected(blank) as one, connected(blank) as other:
        await Schema().migrate(one, Profile.FULL, NOW)
        await fill(blank)
        before = await content(one)
        await asyncio.gather(distribute(one), distribute(other))
        assert await content(other) == before


async def test_a_cluster_without_workers_is_refused(cluster: ClusterDatabases) -> None:
    name = await cluster.create_blank(workers=False)
    async with connected(cluster.dsn(name)) as connection:
        await Schema().migrate(connection, Profile.LITE, NOW)
        with pytest.raises(DatabaseError, match=r"nothing was distributed: .* no workers yet"):
            await distribute(connection)
        assert not await Schema().migrate(connection, Profile.LITE, NOW)
    await cluster.drop(name)


async def test_detached_quarters_are_refused(blank: str) -> None:
    """What stood aside then could never come back."""
    async with connected(blank) as connection:
        await Schema().migrate(connection, Profile.LITE, NOW)
        await connection.execute(f"SELECT bigbrotr.detach_quarter('2022q1', {NOW})")
        with pytest.raises(DatabaseError, match=r"are detached: 2022q1; .*attach_quarter"):
            await distribute(connection)
        await connection.execute("SELECT bigbrotr.attach_quarter('2022q1')")
        assert (await distribute(connection))[-1] == "all is distributed"


async def test_workers_look_for_names_in_pg_catalog_only(blank: str) -> None:
    """A machine that came later is told when `db distribute` is run again."""
    told = (
        "SELECT DISTINCT result FROM run_command_on_workers($$SELECT s.setconfig FROM"
        " pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
        " WHERE d.datname = current_database()$$)"
    )
    async with connected(blank) as connection:
        await Schema().migrate(connection, Profile.LITE, NOW)
        await distribute(connection)
        assert "search_path=pg_catalog" in await connection.fetchval(told)
        async with Brotr(Pool(dsn=blank)) as brotr:
            assert await brotr.set_search_path()
        assert "search_path=pg_catalog" in await connection.fetchval(told)
        await connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET search_path',"
            " current_database()); END $$"
        )
        assert "search_path" not in await connection.fetchval(told)
        assert await distribute(connection) == []
        assert "search_path=pg_catalog" in await connection.fetchval(told)


async def test_another_release_may_change_a_distributed_schema(dsn: str, profile: Profile) -> None:
    """Its functions reach the workers, and are called there."""
    async with connected(dsn) as connection:
        await connection.execute("UPDATE bigbrotr.ledger SET digest = ''")
        assert await Schema().migrate(connection, profile, NOW)
    async with Brotr(Pool(dsn=dsn)) as brotr:
        events = [verified(created_at=NOW + n * WEEK) for n in range(3)]
        pairs = [EventRelay(event, A, NOW) for event in events]
        assert await brotr.insert_events(pairs) == (3, 0)
        assert await brotr.insert_events(pairs) == (0, 3)


async def test_it_is_not_dumped(dsn: str, tmp_path: Path) -> None:
    """A dump of the coordinator alone would be no backup."""
    place = Place(tmp_path / "place", more=f'[database]\nurl = "{dsn}"\n')
    done = await place.call("db", "backup", str(tmp_path / "file"))
    assert done.code == 4
    assert "on the machines of a cluster" in done.err
    assert not (tmp_path / "file").exists()


async def test_no_snapshot_is_taken_of_it(brotr: Brotr) -> None:
    """Its machines have no moment in common."""
    with pytest.raises(SchemaError, match="no moment in common: `bigbrotr export jsonl`"):
        async with moment(brotr.pool, View.ARCHIVE):
            raise AssertionError


async def test_the_reader_finds_what_lies_on_workers(dsn: str, brotr: Brotr) -> None:
    """Pages and API take the role on, and the coordinator logs in to the workers as that."""
    if await brotr.pool.fetchval("SELECT to_regrole($1) IS NOT NULL", READER):
        pytest.skip(f"the server has a role {READER} that is not this test's")
    events = [verified(created_at=NOW + n * WEEK) for n in range(5)]
    await brotr.insert_events([EventRelay(event, A, NOW) for event in events])
    assert await brotr.make_roles() == 3
    try:
        reading = ReadingPool(Database(url=dsn), PoolSettings(), statement_timeout_s=20)
        async with reading:
            assert await reading.fetchval("SELECT current_user::text") == READER
            page = await EventReads(reading, View.CURRENT).page(Query())
            assert {event.id for event in page.events} == {event.id for event in events}
        assert await brotr.refused_reader() == []
        # A machine that came later knows the role, and lets nobody in by it.
        await brotr.pool.fetch(
            "SELECT * FROM run_command_on_workers("
            "'SET citus.enable_ddl_propagation = off; ALTER ROLE bigbrotr_reader NOLOGIN')"
        )
        async with Brotr(Pool(dsn=dsn)) as fresh:  # a session goes on by the connections it has
            refused = await fresh.refused_reader()
        assert len(refused) == 2
        assert all("failed to connect" in words for words in refused), refused
        async with connected(dsn) as connection:
            assert await distribute(connection) == []
        async with Brotr(Pool(dsn=dsn)) as fresh:
            assert await fresh.refused_reader() == []
    finally:
        for role in (READER, "bigbrotr_writer", "bigbrotr_admin"):
            await brotr.pool.execute(f"DROP OWNED BY {role}")
            await brotr.pool.execute(f"DROP ROLE {role}")


async def test_relays_go_with_what_they_held(brotr: Brotr) -> None:
    """As they do by a key, where that is possible."""
    events = [verified(created_at=NOW + n * WEEK) for n in range(5)]
    await brotr.insert_events([EventRelay(event, A, NOW) for event in events])
    await brotr.insert_events([EventRelay(event, B, NOW) for event in events[:2]])
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", A.url)
    rows = await brotr.pool.fetch("SELECT DISTINCT relay_id FROM bigbrotr.presence")
    assert len(rows) == 1
    assert await brotr.delete_orphan_events() == 3
    assert (await brotr.totals()).events == 2


async def test_connections_to_workers_that_are_cut_lose_nothing(dsn: str) -> None:
    """Several store at once, while a worker throws out all that are connected to it."""
    batches = [[verified(created_at=NOW + n * WEEK) for n in range(8)] for _ in range(12)]
    limits = Limits(min_size=1, max_size=4)
    refused = 0
    async with Brotr(Pool(settings=PoolSettings(limits=limits), dsn=dsn)) as brotr:
        await brotr.insert_relays([A])

        async def store(events: list[Event]) -> None:
            nonlocal refused
            pairs = [EventRelay(event, A, NOW) for event in events]
            for _ in range(20):
                try:
                    await brotr.insert_events(pairs)
                except (asyncpg.PostgresError, asyncpg.InterfaceError):
                    refused += 1
                else:
                    return
            raise AssertionError

        async def cut() -> None:
            for _ in range(5):
                with suppress(asyncpg.AdminShutdownError):  # one worker may throw another out
                    await brotr.pool.fetch(
                        "SELECT * FROM run_command_on_workers($$"
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE application_name LIKE 'citus_internal%'"
                        " AND pid <> pg_backend_pid() AND datname = current_database()$$)"
                    )

        await asyncio.gather(cut(), *map(store, batches))
        for _ in range(5):  # connections that were cut are found out one after the other
            with suppress(asyncpg.AdminShutdownError, asyncpg.PostgresConnectionError):
                await brotr.pool.fetch("SELECT recover_prepared_transactions()")
        total = await brotr.totals()
        assert (total.events, total.pairs) == (96, 96)
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_relays") == 96
