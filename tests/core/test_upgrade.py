"""Upgrades one after the other: releases of two revisions on one database, and statements that stay
callable."""

import asyncio
import json
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.config.shipped import shipped
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.base import relay_ids, value_of
from bigbrotr.core.calls.events import event_columns
from bigbrotr.core.pool import Connection, Pool
from bigbrotr.core.schema import Schema, read_ledger
from bigbrotr.errors import SchemaError
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Network, Relay
from tests.core.statements import FOLDER, broken, path_of, record, recorded
from tests.core.test_schema import Make, catalog, connected
from tests.kit.events import NOW, make_event, verified
from tests.kit.processes import Place
from tests.kit.scripted import ScriptedRelay

REVISIONS = Path(__file__).parent / "revisions"  # of `sql/`, as they were released; none yet
# What the next release changes: a column and an argument of the function that stores.
MIGRATION = "ALTER TABLE bigbrotr.events_stored ADD COLUMN source text;\n"
NEW_ARGUMENT = "p_named_times integer[], p_source text"


def next_release(folder: Path, place: Path) -> Schema:
    """The schema of a release of the next revision, made from that in `folder`."""
    copy = Path(shutil.copytree(folder, place))
    number = Schema(copy).revision + 1
    (copy / "migrations").mkdir(exist_ok=True)
    return Schema(copy, release=f"{number}.0.0")


def with_another_argument(schema: Schema) -> Schema:
    """…that stores where an event comes from, and keeps the function of before."""
    number = schema.revision + 1
    (schema.folder / "migrations" / f"{number:04}_source.sql").write_text(MIGRATION)
    path = schema.folder / "20_events.sql"
    before = path.read_text()
    start = before.index("CREATE OR REPLACE FUNCTION bigbrotr.insert_events(")
    end = before.index("COMMENT ON FUNCTION bigbrotr.insert_events")
    old = before[start:end]
    new = old.replace("p_named_times integer[]", NEW_ARGUMENT)
    new = new.replace(
        "    RETURN NEXT;\nEND $$;",
        "    UPDATE bigbrotr.events_stored e SET source = p_source WHERE e.id = ANY (p_ids);\n"
        "    RETURN NEXT;\nEND $$;",
    )
    assert new != old
    types = "integer, bigint[], bigint[], integer[], bytea[], bytea[], bytea[], text[],"
    types += (
        " integer[], integer[], text[], bytea[], bigint[], text[], integer[], integer[], integer[]"
    )
    comment = before[end:].replace(
        "FUNCTION bigbrotr.insert_events IS", f"FUNCTION bigbrotr.insert_events({types}, text) IS"
    )
    text = (before[:start] + new + comment).replace(
        "    content    text,\n", "    content    text,\n    source     text,\n"
    )
    path.write_text(
        text + "COMMENT ON COLUMN bigbrotr.events_stored.source IS 'Where it comes from.';\n"
    )
    # The old one calls the new one.
    signature = old[: old.index("DECLARE")]
    names = (
        *("relay_id", "seen_ats", "created_ats", "kinds", "ids", "pubkeys", "sigs", "tags"),
        *(
            "tag_hashes",
            "tag_ends",
            "contents",
            "raws",
            "nums",
            "named",
            "named_in",
            "named_kinds",
            "named_times",
        ),
    )
    arguments = ", ".join(f"p_{name} => p_{name}" for name in names)
    (schema.folder / "previous" / "20_events.sql").write_text(
        f"{signature}BEGIN\n    RETURN QUERY SELECT * FROM bigbrotr.insert_events("
        f"{arguments}, p_source => NULL);\nEND $$;\n"
        f"COMMENT ON FUNCTION bigbrotr.insert_events({types}) IS 'For the release before.';\n"
    )
    return schema


class NextBrotr(Brotr):
    """The database as the next release calls it."""

    async def store(self, event: Event, relay: Relay) -> int:
        async def work(connection: Connection) -> int:
            ids = await relay_ids(connection, {relay})
            columns = event_columns([event], [NOW], await self._kept_columns(), True)
            new: int = await value_of(
                connection,
                "insert_events",
                p_relay_id=ids[relay.url],
                **columns,
                p_source="the next release",
            )
            return new

        return await self._transact(work)


async def test_a_release_stores_while_the_next_one_migrates(dsn: str, tmp_path: Path) -> None:
    """Neither fails, and both store afterwards."""
    today, coming = Schema(), with_another_argument(next_release(shipped("sql"), tmp_path / "sql"))
    relays = [Relay(f"wss://r{n}.example.com") for n in range(4)]
    stored: list[Event] = []
    has_begun, is_done = asyncio.Event(), asyncio.Event()

    async def keep_storing(brotr: Brotr, relay: Relay) -> None:
        (visit,) = await brotr.claim_visits(
            [Network.CLEARNET], limit=1, owner=relay.url, lease_s=600, since=0, until=NOW
        )
        more = 10  # after the migration
        while more:
            more -= is_done.is_set()
            event = verified()
            assert await brotr.note_presence(visit, [(event.created_at, event.id)], NOW) == [0]
            assert await brotr.store_page(visit, [event], now=NOW) == 1
            assert await brotr.insert_events([EventRelay(event, relay, NOW)]) in ((0, 1), (1, 0))
            stored.append(event)
            if len(stored) > 20:
                has_begun.set()

    async with Brotr(Pool(dsn=dsn)) as brotr, NextBrotr(Pool(dsn=dsn)) as newer:
        await brotr.insert_relays(relays)
        async with asyncio.TaskGroup() as group:
            for relay in relays:
                group.create_task(keep_storing(brotr, relay))
            await has_begun.wait()
            async with newer.pool.acquire() as connection:
                assert await coming.migrate(connection, Profile.FULL, NOW)
            assert await newer.store(verified(), relays[0]) == 1
            is_done.set()
        async with brotr.pool.acquire() as connection:
            # One that starts again finds what serves it, and leaves it as it is.
            assert not await today.migrate(connection, Profile.FULL, NOW)
            ledger = await read_ledger(connection)
            assert ledger is not None
            assert (ledger.revision, ledger.serves_from) == (today.revision + 1, today.revision)
        assert (await brotr.totals()).events == len(stored) + 1
        sources = await brotr.pool.fetch(
            "SELECT source FROM bigbrotr.events_stored GROUP BY 1 ORDER BY 1"
        )
        assert [row[0] for row in sources] == ["the next release", None]


async def test_two_revisions_ahead_is_refused(dsn: str, tmp_path: Path) -> None:
    coming = with_another_argument(next_release(shipped("sql"), tmp_path / "next"))
    later = next_release(coming.folder, tmp_path / "later")
    number = later.revision + 1
    (later.folder / "migrations" / f"{number:04}_drop.sql").write_text("SELECT 1;\n")
    async with connected(dsn) as connection:
        assert await coming.migrate(connection, Profile.FULL, NOW)
        assert await later.migrate(connection, Profile.FULL, NOW)
        assert not await coming.migrate(connection, Profile.FULL, NOW)
        words = rf"revision {number} and serves releases from revision {number - 1} on.*newer"
        with pytest.raises(SchemaError, match=words):
            await Schema().migrate(connection, Profile.FULL, NOW)


@pytest.mark.parametrize("profile", list(Profile))
async def test_migrations_end_where_a_fresh_database_begins(
    make_database: Make, profile: Profile, tmp_path: Path
) -> None:
    """Both roads meet: for a synthetic revision, and from each released one."""
    coming = with_another_argument(next_release(shipped("sql"), tmp_path / "next"))
    released = sorted(REVISIONS.iterdir()) if REVISIONS.exists() else []
    roads = [(Schema(), coming), *((Schema(folder), Schema()) for folder in released)]
    for older, newer in roads:
        async with (
            connected(await make_database(None)) as upgraded,
            connected(await make_database(None)) as fresh,
        ):
            await older.migrate(upgraded, profile, NOW)
            assert await newer.migrate(upgraded, profile, NOW)
            await newer.migrate(fresh, profile, NOW)
            assert await catalog(upgraded) == await catalog(fresh)
            revisions = await upgraded.fetch("SELECT revision FROM bigbrotr.ledger ORDER BY 1")
            assert [row[0] for row in revisions] == [older.revision, newer.revision]


async def test_a_supervisor_of_today_on_the_database_of_the_next_release(
    dsn: str, tmp_path: Path
) -> None:
    coming = with_another_argument(next_release(shipped("sql"), tmp_path / "next"))
    async with connected(dsn) as connection:
        await coming.migrate(connection, Profile.FULL, int(time.time()))
    events = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]
    parts = urlsplit(dsn)
    url = parts._replace(
        netloc=f"{parts.username or ''}@{parts.netloc.rpartition('@')[2]}"
    ).geturl()
    password = {"DB_PASSWORD": parts.password or ""}
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(ScriptedRelay(events))
        place = Place(tmp_path / "place", [relay.url], more=f'[database]\nurl = "{url}"\n')
        running = await stack.enter_async_context(place.start("--once", **password))
        assert await running.wait() == 0, running.err
        assert "new_events=40" in running.err
    done = await place.call("status", "--json", **password)
    assert json.loads(done.out)["revision"] == coming.revision
    async with connected(dsn) as connection:
        await connection.execute("UPDATE bigbrotr.ledger SET serves_from = 99")
    for command in ("run --once", "status", "db migrate"):
        done = await place.call(*command.split(), **password)
        assert (done.code, "newer bigbrotr" in done.sentence) == (4, True), done.err


# What the release before still sends


@pytest.mark.one_server  # what the file holds of partitions can be asked there only
async def test_the_statements_of_this_revision_are_written_down(dsn: str) -> None:
    """`python -m tests.core.statements` writes them. Once a revision is released, its file stays as
    it is: what changes then is the next revision."""
    async with connected(dsn) as connection:
        assert path_of(Schema().revision).read_text() == await record(connection)


@pytest.mark.parametrize("profile", list(Profile))
async def test_the_statements_of_the_previous_revision_are_still_understood(
    dsn: str, profile: Profile
) -> None:
    revision = max(1, Schema().revision - 1)
    assert path_of(revision).exists(), f"{FOLDER} lacks what revision {revision} sends"
    async with connected(dsn) as connection:
        assert await broken(connection, recorded(path_of(revision).read_text())) == []


BREAKS = [
    "ALTER FUNCTION bigbrotr.insert_relays RENAME TO add_relays",
    "ALTER TABLE bigbrotr.visits RENAME COLUMN retired_at TO gone_at",
    "DROP FUNCTION bigbrotr.host_of CASCADE; DROP FUNCTION bigbrotr.totals",
    "DROP FUNCTION bigbrotr.backoff_s CASCADE",
    "ALTER TABLE bigbrotr.digests ALTER COLUMN items TYPE numeric",
]


@pytest.mark.parametrize("change", BREAKS)
async def test_a_statement_that_is_no_longer_understood_is_found(dsn: str, change: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute(change)
        assert await broken(connection, recorded(path_of(1).read_text())) != []


async def test_what_is_added_breaks_nothing(dsn: str) -> None:
    """The order of parameters, a new one with a default, a new column, a newer function beside."""
    async with connected(dsn) as connection:
        await connection.execute("ALTER TABLE bigbrotr.events_stored ADD COLUMN source text")
        await connection.execute(
            "DROP FUNCTION bigbrotr.next_visit_at;"
            "CREATE FUNCTION bigbrotr.next_visit_at(p_refused text[], p_networks text[],"
            " p_more text DEFAULT '') RETURNS bigint LANGUAGE sql RETURN 1;"
            "CREATE FUNCTION bigbrotr.insert_relays(p_urls text[], p_networks text[],"
            " p_discovered_ats bigint[], p_why text) RETURNS integer LANGUAGE sql RETURN 1"
        )
        assert await broken(connection, recorded(path_of(1).read_text())) == []
