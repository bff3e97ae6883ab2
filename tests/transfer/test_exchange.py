"""Two archives exchange snapshots: events and presence end up equal; proofs stay whose they are."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigbrotr.config.settings import Config, Limits, PoolSettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.exchange import DroppedEvent, HeldEvent
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import Event
from bigbrotr.models.policy import View
from bigbrotr.models.relay import Relay
from bigbrotr.transfer import parquet, snapshot
from bigbrotr.transfer.datasets import EVENTS, PRESENCE, Dataset
from bigbrotr.transfer.importing import Importer
from bigbrotr.transfer.snapshot_import import Imported, SnapshotImporter
from tests.conftest import Databases
from tests.kit.archive import A, B, C, check_totals, held, pairs, relay_id
from tests.kit.events import NOW, verified
from tests.transfer.test_parquet import names, some_events

Pair = tuple[Brotr, Brotr]


@pytest.fixture
async def two(databases: Databases, dsn: str) -> AsyncIterator[Pair]:
    """Two archives. A cluster takes what others give, and gives no snapshots: it is the second."""
    name = await databases.create_on_one_server(Profile.FULL)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(databases.drop, name)
        settings = PoolSettings(limits=Limits(max_size=4))
        left, right = [
            await stack.enter_async_context(Brotr(Pool(settings=settings, dsn=each)))
            for each in (databases.dsn(name), dsn)
        ]
        yield left, right


async def take(brotr: Brotr, folder: Path) -> Path:
    await snapshot.take(brotr.pool, folder, View.ARCHIVE, "full")
    return folder


async def bring_in(brotr: Brotr, folder: Path, **options: Any) -> Imported:
    importer = Importer(brotr, Config(), dsn=brotr.pool.address, workers=1)
    return await SnapshotImporter(brotr, importer, folder, folder.name, **options).run()


async def what_is_known(brotr: Brotr) -> dict[str, set[tuple[Any, ...]]]:
    """Of events and relays, by what others call them."""
    queries = {
        "events": "SELECT id, pubkey, created_at, kind, tags::text, content, sig"
        " FROM bigbrotr.events",
        "raw": "SELECT event_id, raw FROM bigbrotr.events_raw",
        "pairs": "SELECT event_id, relay_url, seen_at FROM bigbrotr.events_relays",
        "dropped": "SELECT d.event_id, r.url, d.seen_at, d.dropped_at FROM bigbrotr.dropped d"
        " JOIN bigbrotr.relays r ON r.id = d.relay_id",
        "relays": "SELECT url, network FROM bigbrotr.relays",
        "proven": "SELECT r.url, x.filter, x.how, x.proven::text, x.proven_at FROM ("
        " SELECT relay_id, filter, how, proven, proven_at FROM bigbrotr.coverage UNION"
        " SELECT relay_id, filter, how, proven, proven_at FROM bigbrotr.imported_coverage) AS x"
        " JOIN bigbrotr.relays r ON r.id = x.relay_id",
    }
    return {name: set(map(tuple, await brotr.pool.fetch(q))) for name, q in queries.items()}


async def prove(brotr: Brotr, relay: Relay, proven: str, at: int) -> None:
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)"
        " VALUES ($1, 'paging', $2::text::int8multirange, $3)",
        await relay_id(brotr, relay),
        proven,
        at,
    )


async def drop(brotr: Brotr, relay: Relay, event: Event, seen_at: int, at: int) -> None:
    await brotr.note_dropped(
        await relay_id(brotr, relay),
        [DroppedEvent(event.created_at, event.id, seen_at, at)],
    )


@pytest.mark.slow
@pytest.mark.one_server  # both give
async def test_two_archives_end_up_equal(two: Pair, tmp_path: Path) -> None:
    left, right = two
    common = [verified(created_at=NOW - n) for n in range(3)]
    odd = verified("half \ud83d", created_at=NOW - 9)
    await left.insert_events(pairs([*common, *some_events(), odd], A, seen_at=NOW + 50))
    await left.insert_events(pairs(common, B, seen_at=NOW + 60))
    await right.insert_events(pairs(common, A, C, seen_at=NOW + 20))
    await right.insert_events(pairs([verified(created_at=NOW - 40 * 86_400)], C, seen_at=NOW + 5))
    await drop(left, B, common[0], NOW + 1, NOW + 7)  # and holds it again
    await drop(right, A, verified("unlike", created_at=NOW), NOW + 1, NOW + 2)  # not archived
    await prove(left, A, "{[10,20)}", NOW + 70)
    await prove(right, C, "{[1,5),[7,9)}", NOW + 80)

    found = await bring_in(right, await take(left, tmp_path / "left"))
    assert (found.outcome.new, found.outcome.invalid, found.damage) == (9, {}, None)
    assert (found.pairs, found.dropped, found.proofs) == (9 + 3, 1, 1)
    assert (found.unusable, found.local) == (0, 0)
    found = await bring_in(left, await take(right, tmp_path / "right"))
    assert (found.outcome.new, found.pairs) == (1, 3 + 1)
    one, other = await what_is_known(left), await what_is_known(right)
    assert one == other
    assert len(one["events"]) == 13
    assert (common[0].id, A.url, NOW + 20) in one["pairs"]  # the earlier time
    assert len(one["proven"]) == 2
    for brotr in two:
        await check_totals(brotr)

    # A repetition changes nothing, and neither does what comes back.
    await bring_in(left, tmp_path / "right")
    await bring_in(right, await take(left, tmp_path / "left"))
    assert await what_is_known(left) == await what_is_known(right) == one
    a, b = await take(left, tmp_path / "a"), await take(right, tmp_path / "b")
    for table in ("events", "surrogates", "dropped"):
        assert names(a / table) == names(b / table)  # the same bytes


@pytest.mark.slow
async def test_an_archive_is_built_from_a_snapshot(two: Pair, tmp_path: Path) -> None:
    left, right = two
    await left.insert_events(pairs(some_events(), A, seen_at=NOW))
    await prove(left, A, "{[10,20),[30,40)}", NOW + 70)
    folder = await take(left, tmp_path / "it")
    await bring_in(right, folder)
    assert await held(right) == await held(left)
    missing = "SELECT bigbrotr.missing_spans($1, 0, 50, $2)::text"
    number = await relay_id(right, A)
    # Its word is no proof of ours …
    assert await right.pool.fetchval(missing, number, NOW + 100) == "{[0,50)}"
    # … unless it is trusted.
    found = await bring_in(right, folder, trusts=True)
    assert found.trusted == 1
    assert await right.pool.fetchval(missing, number, NOW + 100) == "{[0,10),[20,30),[40,50)}"
    hows = await right.pool.fetch("SELECT how, proven_at FROM bigbrotr.coverage")
    assert [tuple(row) for row in hows] == [("import", NOW + 70)]
    assert (await bring_in(right, folder, trusts=True)).trusted == 0
    # Nothing of it is an orphan, nor is the relay.
    assert await right.cleanup_orphans() == {"metadata": 0, "events": 0, "relays": 0}


async def test_what_we_know_counts_more(brotr: Brotr) -> None:
    """A newer proof of ours, and pairs of ours, are not taken back by another's word."""
    event, other = verified(created_at=NOW), verified(created_at=NOW)
    await brotr.insert_events(pairs([event], A, seen_at=NOW + 10))
    await brotr.insert_events(pairs([other], B, seen_at=NOW + 10))
    number = await relay_id(brotr, A)
    theirs = [HeldEvent(other.created_at, other.id, NOW + 20)]
    await prove(brotr, A, f"{{[{NOW},{NOW + 1})}}", NOW + 30)
    assert await brotr.note_held(number, theirs) == 0
    later = [HeldEvent(other.created_at, other.id, NOW + 40)]
    assert await brotr.note_held(number, later) == 1
    # Of a pair that we know, the earlier time counts, whatever was proven since.
    mine = [HeldEvent(event.created_at, event.id, NOW + 3)]
    assert await brotr.note_held(number, mine) == 0
    seen = await brotr.pool.fetchval(
        "SELECT seen_at FROM bigbrotr.events_relays WHERE event_id = $1", event.id
    )
    assert seen == NOW + 3
    # A drop after that is contradicted by nobody but them.
    await drop(brotr, A, event, NOW + 1, NOW + 5)
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.dropped") == 0
    # What we have seen dropped does not come back by a word that is older.
    third = verified(created_at=NOW)
    await brotr.insert_events(pairs([third], B, seen_at=NOW))
    await brotr.insert_relays([C])
    await drop(brotr, C, third, NOW, NOW + 50)
    number = await relay_id(brotr, C)
    word = [HeldEvent(third.created_at, third.id, NOW + 49)]
    assert await brotr.note_held(number, word) == 0
    await check_totals(brotr)


# What others may have written into a folder


def forge(folder: Path, dataset: Dataset, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Writes another file, which the manifest describes as if it had always been so."""
    path = folder / "manifest.json"
    found = json.loads(path.read_bytes())
    entry = next(each for each in found["files"] if each["table"] == dataset.name)
    old = folder / f"{dataset.name}/{entry['month']}.{entry['sha256'][:12]}.parquet"
    columns = pq.read_table(old).to_pydict()
    change(columns)
    writer = parquet.Writer(folder / "new", dataset)
    rows = list(zip(*columns.values(), strict=True))
    if dataset is EVENTS:
        table = pa.table(columns, schema=parquet.schema(dataset))
        writer.write(table.combine_chunks().to_batches()[0].columns)
    else:
        writer.write(parquet.columns(dataset, rows))
    written = writer.close()
    entry |= {"rows": written.rows, "bytes": written.bytes, "sha256": written.sha256}
    old.unlink()
    (folder / "new").rename(old.with_name(f"{entry['month']}.{entry['sha256'][:12]}.parquet"))
    path.write_text(json.dumps(found), "utf-8")
    assert snapshot.verify(folder)[1] == []


@pytest.mark.slow
async def test_what_is_forged_is_not_believed(two: Pair, tmp_path: Path) -> None:
    left, right = two
    events = [verified(created_at=NOW - n) for n in range(4)]
    await left.insert_events(pairs(events, A, seen_at=NOW))
    folder = await take(left, tmp_path / "it")

    def events_change(columns: dict[str, list[Any]]) -> None:
        columns["content"][0] = "another"
        columns["sig"][1] = bytes(64)
        columns["created_at"][2] = 2**64 - 1

    def pairs_change(columns: dict[str, list[Any]]) -> None:
        row = {name: values[3] for name, values in columns.items()}
        changes: tuple[dict[str, Any], ...] = (
            *({"relay": url} for url in ("wss://10.0.0.1", "ws://localhost", "x", "", "WSS://A.b")),
            *({"seen_at": at} for at in (2**63, 0, 2**40)),
            {"created_at": 2**64 - 1},
            {"event_id": bytes(32)},
        )
        for change in changes:
            for name, values in columns.items():
                values.append((row | change)[name])

    forge(folder, EVENTS, events_change)
    forge(folder, PRESENCE, pairs_change)
    found = await bring_in(right, folder)
    assert found.outcome.new == 1
    assert sum(found.outcome.invalid.values()) == 3
    # events are in order of time: the last one is whole
    assert await held(right) == {(events[0].id, A.url)}
    assert (found.unusable, found.local) == (4, 2)
    urls = {row["url"] for row in await right.pool.fetch("SELECT url FROM bigbrotr.relays")}
    assert urls == {A.url}


async def test_a_damaged_snapshot_is_not_begun(two: Pair, tmp_path: Path) -> None:
    left, right = two
    await left.insert_events(pairs([verified()], A))
    folder = await take(left, tmp_path / "it")
    (path,) = (folder / "presence").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(parquet.DamagedError, match="nothing was imported: presence/"):
        await bring_in(right, folder)
