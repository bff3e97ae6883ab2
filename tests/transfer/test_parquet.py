"""Parquet: an archive in files is what it was, for whoever reads them."""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import Event
from bigbrotr.models.policy import View
from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import BY_MONTH, DATASETS, EVENTS, LATER, month_of, month_span
from bigbrotr.transfer.export import Progress, export_parquet
from bigbrotr.transfer.parquet_source import ParquetSource
from tests.kit.archive import A, B, pairs
from tests.kit.events import NOW, verified

pytestmark = pytest.mark.one_server  # a cluster has no moment that could be exported
SCHEMA = """
required group field_id=-1 schema {
  required fixed_len_byte_array(32) field_id=-1 id;
  required fixed_len_byte_array(32) field_id=-1 pubkey;
  required int64 field_id=-1 created_at (Int(bitWidth=64, isSigned=false));
  required int32 field_id=-1 kind (Int(bitWidth=16, isSigned=false));
  required group field_id=-1 tags (List) {
    repeated group field_id=-1 list {
      required group field_id=-1 element (List) {
        repeated group field_id=-1 list {
          required binary field_id=-1 element (String);
        }
      }
    }
  }
  required binary field_id=-1 content (String);
  required fixed_len_byte_array(64) field_id=-1 sig;
}
"""
MONTH = 30 * 86_400


def some_events() -> list[Event]:
    return [
        verified(created_at=NOW - MONTH),
        verified("", [["t", "nostr"], ["alt"], ["e", "", "wss://x"]], created_at=NOW - 5, key=1),
        verified("\u2028 \U0001f9ff \x00 nothing", [["t", "\x00"]], created_at=NOW - 5),
        verified("tab\tand bell\x07", created_at=NOW - 4, verbatim=True),
        verified(kind=65_535, created_at=NOW),
        verified(created_at=0),
        verified(created_at=2**63 - 1),
        verified(created_at=2**53 + 1),
    ]


async def export(brotr: Brotr, folder: Path, view: View = View.CURRENT) -> dict[str, Any]:
    found = await export_parquet(brotr.pool, folder, view)
    return found.rows


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ask(query: str) -> list[tuple[Any, ...]]:
    """What DuckDB answers."""
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def as_tuple(event: Event) -> tuple[Any, ...]:
    tags = [list(tag) for tag in event.tags]
    return (event.id, event.pubkey, event.created_at, event.kind, tags, event.content, event.sig)


def expected(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    return [as_tuple(each) for each in sorted(events, key=lambda e: (e.created_at, e.id))]


async def test_what_was_signed_comes_back(brotr: Brotr, tmp_path: Path) -> None:
    events = some_events()
    await brotr.insert_events(pairs(events, A, B, seen_at=NOW))
    rows = await export(brotr, tmp_path / "out")
    assert (rows["events"], rows["presence"]) == (8, 16)
    assert names(tmp_path / "out" / "events") == [
        "1970-01.parquet",
        "2025-05.parquet",
        "2025-06.parquet",
        f"{LATER}.parquet",
    ]

    wanted = expected(events)
    glob = str(tmp_path / "out" / "events" / "*.parquet")
    found = ask(f"FROM '{glob}' ORDER BY created_at, id")
    assert found == wanted
    lazily = pl.scan_parquet(glob).sort("created_at", "id").collect()
    assert lazily.rows() == wanted
    frames = [pd.read_parquet(path) for path in sorted(Path(glob).parent.iterdir())]
    frame = pd.concat(frames).sort_values(["created_at", "id"])
    assert list(frame["id"]) == [row[0] for row in wanted]
    assert [int(value) for value in frame["created_at"]] == [row[2] for row in wanted]
    assert list(frame["content"]) == [row[5] for row in wanted]
    assert [[list(tag) for tag in tags] for tags in frame["tags"]] == [row[4] for row in wanted]
    # Each row proves itself.
    again = [Event(i, p, a, k, tuple(map(tuple, t)), c, s) for i, p, a, k, t, c, s in found]
    assert again == sorted(events, key=lambda e: (e.created_at, e.id))

    held = ask(f"FROM '{tmp_path}/out/presence/*.parquet'")
    assert sorted(held) == sorted(
        (event.created_at, event.id, relay.url, NOW) for event in events for relay in (A, B)
    )


async def test_the_schema_is_the_published_one(brotr: Brotr, tmp_path: Path) -> None:
    await brotr.insert_events(pairs(some_events(), A))
    await export(brotr, tmp_path / "out")
    for path in (tmp_path / "out" / "events").iterdir():
        file = pq.ParquetFile(path)
        text = str(file.schema).partition("\n")[2]
        assert text.strip() == SCHEMA.strip()
        footer = file.metadata.metadata
        assert footer[b"nostr.event_archive.version"] == b"1"
        assert [key for key in footer if key.startswith(b"nostr.")] == [
            b"nostr.event_archive.version"
        ]
        assert b"ARROW:schema" not in footer
        group = file.metadata.row_group(0)
        assert [each.column_index for each in group.sorting_columns] == [2, 0]
        for place in range(7):
            column = group.column(place)
            assert column.compression == "ZSTD"
            assert set(column.encodings) <= {"PLAIN", "RLE", "RLE_DICTIONARY"}
        times = group.column(2).statistics
        assert (times.null_count, times.has_min_max) == (0, True)
        assert not group.column(5).is_stats_set
    # No other file says that it is one.
    other = pq.ParquetFile(tmp_path / "out" / "relays.parquet").metadata.metadata
    assert b"nostr.event_archive.version" not in other


async def test_rows_are_in_groups(
    brotr: Brotr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 20_000)
    events = [verified(f"{number}" * 200, created_at=NOW - number % 7) for number in range(300)]
    await brotr.insert_events(pairs(events, A))
    await export(brotr, tmp_path / "out")
    (path,) = (tmp_path / "out" / "events").iterdir()
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 2
    rows = file.read(["created_at", "id"]).to_pydict()
    keys = list(zip(rows["created_at"], rows["id"], strict=True))
    assert keys == sorted((event.created_at, event.id) for event in events)


async def test_lone_surrogates_have_a_file_of_their_own(brotr: Brotr, tmp_path: Path) -> None:
    odd = verified("half \ud83d", [["t", "\udc00"]])
    plain = verified()
    await brotr.insert_events(pairs([odd, plain], A))
    rows = await export(brotr, tmp_path / "out")
    assert (rows["events"], rows["surrogates"], rows["presence"]) == (1, 1, 2)
    (row,) = ask(f"FROM '{tmp_path}/out/surrogates/*.parquet'")
    assert row == (odd.id, odd.created_at, odd.raw, odd.sig)


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_a_lite_archive_has_headers(brotr: Brotr, tmp_path: Path) -> None:
    event = verified()
    await brotr.insert_events(pairs([event], A))
    rows = await export(brotr, tmp_path / "out")
    assert (rows.get("events"), rows["headers"], rows["presence"]) == (None, 1, 1)
    found = ask(f"FROM '{tmp_path}/out/headers/*.parquet'")
    assert found == [(event.id, event.pubkey, event.created_at, event.kind)]


async def test_what_is_hidden_leaks_nowhere(brotr: Brotr, tmp_path: Path) -> None:
    secret, other = verified("secret"), verified("public")
    await brotr.insert_events(pairs([secret, other], A, B))
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.dropped (created_at, seen_at, dropped_at, relay_id, slice, event_id)"
        " SELECT $1::bigint, $1, $1 + 1, r.id, bigbrotr.slice_of($1), $2"
        " FROM bigbrotr.relays r LIMIT 1",
        NOW,
        secret.id,
    )
    assert (await export(brotr, tmp_path / "before"))["dropped"] == 1
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.hidden (created_at, slice, why, id)"
        " VALUES ($1, bigbrotr.slice_of($1), 64, $2)",
        NOW,
        secret.id,
    )
    for view in (View.CURRENT, View.ARCHIVE):
        folder = tmp_path / view
        rows = await export(brotr, folder, view)
        assert (rows["events"], rows["presence"], rows.get("dropped")) == (1, 2, None)
        for path in folder.rglob("*.parquet"):
            table = pq.read_table(path).to_pydict()
            assert secret.id not in {
                value for each in table.values() for value in each if isinstance(value, bytes)
            }
    rows = await export(brotr, tmp_path / "kept", View.KEPT)
    assert (rows["events"], rows["presence"], rows["dropped"]) == (2, 4, 1)


async def test_an_export_overwrites_nothing(brotr: Brotr, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    with pytest.raises(ConfigError, match="is not empty"):
        await export(brotr, tmp_path)
    with pytest.raises(ConfigError, match="cannot write into"):
        await export(brotr, tmp_path / "mine" / "out")
    assert names(tmp_path) == ["mine"]


async def test_progress_and_months(brotr: Brotr, tmp_path: Path) -> None:
    events = [verified(created_at=NOW - number * MONTH) for number in range(3)]
    await brotr.insert_events(pairs(events, A))
    said: list[Progress] = []
    done = await export_parquet(
        brotr.pool, tmp_path / "out", View.CURRENT, months=["2025-05"], on_progress=said.append
    )
    assert done.rows["events"] == 1
    assert said == [Progress(1, 1, "2025-05")]
    assert names(tmp_path / "out" / "events") == ["2025-05.parquet"]


def test_every_column_says_what_it_is(tmp_path: Path) -> None:
    for dataset in DATASETS.values():
        assert dataset.words.endswith(".")
        assert all(each.words.endswith(".") for each in dataset.columns)
        path = tmp_path / f"{dataset.name.replace('/', '-')}.parquet"
        parquet.Writer(path, dataset).close()
        footer = pq.ParquetFile(path).metadata.metadata
        columns = json.loads(footer[b"bigbrotr.columns"])
        assert columns == {each.name: each.words for each in dataset.columns}
        assert footer[b"bigbrotr.description"].decode() == dataset.words
        assert set(dataset.order) <= set(columns)
    assert all(each.month in {column.name for column in each.columns} for each in BY_MONTH)


def test_months() -> None:
    assert [month_of(at) for at in (0, NOW, 4_102_444_799)] == ["1970-01", "2025-06", "2099-12"]
    assert {month_of(at) for at in (4_102_444_800, 2**63 - 1)} == {LATER}
    assert month_span("2024-02") == (1_706_745_600, 1_709_251_199)
    assert month_span("2099-12")[1] + 1 == month_span(LATER)[0]
    for junk in ("2024-13", "1969-12", "2100-01", "x", "../2024-01", "2024-1"):
        with pytest.raises(ValueError, match="is no month"):
            month_span(junk)


def test_without_pyarrow() -> None:
    """In a process where it cannot be imported, as where it is missing."""
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from bigbrotr.transfer import parquet\n"
        "from bigbrotr.errors import ConfigError\n"
        "try:\n    parquet.require()\nexcept ConfigError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"Parquet files need pyarrow, which is not installed" in done.stdout


@pytest.mark.parametrize("junk", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\xff" * 99])
def test_what_is_no_parquet(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(junk)
    with pytest.raises(parquet.DamagedError, match="cannot be read as Parquet"):
        list(parquet.read(path, EVENTS))


async def test_changed_bytes_are_damage_and_nothing_else(brotr: Brotr, tmp_path: Path) -> None:
    await brotr.insert_events(pairs(some_events(), A))
    await export(brotr, tmp_path / "out")
    chance = random.Random(1)
    whole = (tmp_path / "out" / "events" / "2025-06.parquet").read_bytes()
    path = tmp_path / "changed.parquet"
    damaged = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3, 10))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
        source = ParquetSource(str(path))
        lines = [line for piece in source.pieces() for line in piece.data.splitlines()]
        source.close()
        assert len(lines) <= 4 or source.damage is None
        damaged += source.damage is not None
    assert damaged > 50
