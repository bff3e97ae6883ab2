"""Snapshots: what has changed is written, what was written stays, and kills harm nothing."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import BusyError, ConfigError
from bigbrotr.models.event import Event
from bigbrotr.models.policy import View
from bigbrotr.reads.datasets import moment
from bigbrotr.transfer import manifest as manifests
from bigbrotr.transfer import snapshot
from bigbrotr.transfer.parquet import DamagedError
from tests.kit.archive import A, B, pairs
from tests.kit.events import NOW, verified
from tests.transfer.test_parquet import MONTH, ask

pytestmark = pytest.mark.one_server  # a cluster has no moment that could be exported
OLD, NEW = "2025-05", "2025-06"


async def take(brotr: Brotr, folder: Path, **options: Any) -> snapshot.Taken:
    view = options.pop("view", View.ARCHIVE)
    return await snapshot.take(brotr.pool, folder, view, "full", **options)


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "manifest.json")
    }


def sound(folder: Path) -> manifests.Manifest:
    """The manifest of a snapshot of which all is there, and nothing else is."""
    found, faults, strays = snapshot.verify(folder)
    assert (faults, strays) == ([], [])
    assert files(folder) == {each.name for each in found.files}
    return found


async def two_months(brotr: Brotr) -> list[Event]:
    events = [verified(created_at=NOW - MONTH), verified(created_at=NOW)]
    await brotr.insert_events(pairs(events, A, seen_at=NOW))
    return events


def months(taken: snapshot.Taken, table: str) -> dict[str | None, str]:
    return {each.month: each.name for each in taken.manifest.files if each.table == table}


async def hide(brotr: Brotr, event: Event) -> None:
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.hidden (created_at, slice, why, id)"
        " VALUES ($1::bigint, bigbrotr.slice_of($1), 64, $2)",
        event.created_at,
        event.id,
    )


async def test_only_what_has_changed_is_written(brotr: Brotr, tmp_path: Path) -> None:
    await two_months(brotr)
    first = await take(brotr, tmp_path)
    found = sound(tmp_path)
    assert found == first.manifest
    assert (found.rows("events"), found.rows("presence"), found.view) == (2, 2, "archive")
    assert set(months(first, "events")) == {OLD, NEW}

    inodes = {name: (tmp_path / name).stat().st_ino for name in files(tmp_path)}
    again = await take(brotr, tmp_path)
    assert (again.new, again.gone) == (0, 0)
    assert {name: (tmp_path / name).stat().st_ino for name in files(tmp_path)} == inodes

    await brotr.insert_events(pairs([verified(created_at=NOW - 1)], A, seen_at=NOW))
    third = await take(brotr, tmp_path)
    sound(tmp_path)
    assert third.manifest.rows("events") == 3
    for table in ("events", "presence"):
        assert months(third, table)[OLD] == months(first, table)[OLD]
        assert months(third, table)[NEW] != months(first, table)[NEW]
    assert (third.new, third.gone) == (2, 2)

    all_of_it = await take(brotr, tmp_path, is_all=True)
    assert (all_of_it.new, all_of_it.gone) == (0, 0)  # the same bytes again
    sound(tmp_path)


async def test_presence_and_policy_count_as_changes(brotr: Brotr, tmp_path: Path) -> None:
    old, _ = await two_months(brotr)
    first = await take(brotr, tmp_path)
    await brotr.insert_events(pairs([old], B, seen_at=NOW))
    second = await take(brotr, tmp_path)
    assert second.manifest.rows("presence") == 3
    assert months(second, "events") == months(first, "events")
    await hide(brotr, old)
    third = await take(brotr, tmp_path)
    assert set(months(third, "events")) == set(months(third, "presence")) == {NEW}
    assert old.id not in {row[0] for row in ask(f"SELECT id FROM '{tmp_path}/events/*.parquet'")}
    sound(tmp_path)


async def test_a_month_alone(brotr: Brotr, tmp_path: Path) -> None:
    await two_months(brotr)
    taken = await take(brotr, tmp_path, months=[OLD])
    assert set(months(taken, "events")) == {OLD}
    await brotr.insert_events(pairs([verified(created_at=NOW - MONTH)], A))
    taken = await take(brotr, tmp_path, months=[NEW])
    assert taken.manifest.rows("events") == 2
    taken = await take(brotr, tmp_path)
    assert taken.manifest.rows("events") == 3
    sound(tmp_path)
    with pytest.raises(ConfigError, match="'2025-6' is no month"):
        snapshot.months_named(["2025-6"])


async def test_one_moment_is_read(brotr: Brotr) -> None:
    await two_months(brotr)
    async with moment(brotr.pool, View.ARCHIVE) as now:
        await brotr.insert_events(pairs([verified(created_at=NOW - 5)], A, B))
        assert (await now.part(0, NOW)).events == 2
        assert [len(rows) async for rows in now.events(0, NOW)] == [2]
        assert set(now.relays.values()) == {A.url}


async def test_what_is_proven_is_in_the_manifest(brotr: Brotr, tmp_path: Path) -> None:
    await two_months(brotr)
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)"
        " SELECT r.id, 'paging', '{[10,20), [30,40)}', 50 FROM bigbrotr.relays r"
    )
    taken = await take(brotr, tmp_path)
    wanted = manifests.Proven(relay=A.url, spans=((10, 20), (30, 40)), proven_at=50, gaps=0)
    assert taken.manifest.relays == (wanted,)
    assert ask(f"FROM '{tmp_path}/coverage.*.parquet'") == [
        (A.url, "", "paging", 10, 20, 50),
        (A.url, "", "paging", 30, 40, 50),
    ]


class KilledError(BaseException):
    """As if the process were no more: nothing of ours catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False])
async def test_killed_at_any_moment(
    brotr: Brotr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    """Between any two changes of the folder, the manifest names files that are there and whole."""
    await two_months(brotr)
    if not is_first:
        await take(brotr, tmp_path)
        await brotr.insert_events(pairs([verified(created_at=NOW - 1)], A, seen_at=NOW))
    start = tmp_path.parent / f"{tmp_path.name}-start"
    shutil.copytree(tmp_path, start)
    rename, unlink = Path.rename, Path.unlink
    ends = []
    for steps in range(1000):
        left = steps

        def step() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        def stop_rename(path: Path, target: Path) -> Path:
            step()
            return rename(path, target)

        def stop_unlink(path: Path, missing_ok: bool = False) -> None:
            step()
            unlink(path, missing_ok=missing_ok)

        shutil.rmtree(tmp_path)
        shutil.copytree(start, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", stop_rename)
            patch.setattr(Path, "unlink", stop_unlink)
            try:
                await take(brotr, tmp_path)
            except KilledError:
                is_done = False
            else:
                is_done = True
        if (tmp_path / "manifest.json").exists():
            found, faults, _ = snapshot.verify(tmp_path)
            assert not faults
            ends.append(found.rows("events"))
        else:
            assert is_first
        if is_done:
            break
        if steps % 5 == 0:
            await take(brotr, tmp_path)
            assert sound(tmp_path).rows("events") == (2 if is_first else 3)
    assert len(ends) > (0 if is_first else 5)
    assert sorted(ends) == ends  # the old one, and from some moment on the new one


async def test_leftovers_go(brotr: Brotr, tmp_path: Path) -> None:
    await two_months(brotr)
    await take(brotr, tmp_path)
    leftovers = [
        "events/2025-05.parquet.unfinished",
        "events/2025-05.0123456789ab.parquet",
        "manifest.json.unfinished",
        "statistics/days.0123456789ab.parquet",
    ]
    for name in leftovers:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "events" / "mine.txt").write_bytes(b"mine")
    _, faults, strays = snapshot.verify(tmp_path)
    assert not faults
    assert {str(path.relative_to(tmp_path)) for path in strays} == set(leftovers)
    await take(brotr, tmp_path)
    assert snapshot.verify(tmp_path)[1:] == ([], [])
    assert (tmp_path / "events" / "mine.txt").exists()


async def test_damage_is_found_and_mended(brotr: Brotr, tmp_path: Path) -> None:
    await two_months(brotr)
    taken = await take(brotr, tmp_path)
    names = months(taken, "events")
    old, new = tmp_path / names[OLD], tmp_path / names[NEW]
    data = bytearray(old.read_bytes())
    data[50] ^= 1
    old.write_bytes(data)
    new.write_bytes(new.read_bytes()[:-1])
    (tmp_path / months(taken, "relays")[None]).unlink()
    _, faults, _ = snapshot.verify(tmp_path)
    assert len(faults) == 3
    words = " ".join(faults)
    assert f"{names[OLD]}: its bytes are others" in words
    assert f"{names[NEW]}: it has" in words
    assert "relays." in words
    # What is missing comes again by itself; what was changed, when all is written.
    old.unlink()
    new.unlink()
    await take(brotr, tmp_path)
    sound(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"table": "../../etc/passwd"}, "there is no table"),
        ({"month": "../../x"}, "is no month"),
        ({"month": None}, "is by month"),
        ({"sha256": "../../../../etc/passwd"}, "it is no manifest"),
        ({"rows": -1}, "it is no manifest"),
        ({"bytes": 2**70}, "it is no manifest"),
    ],
)
async def test_a_hostile_manifest(
    change: dict[str, Any], words: str, brotr: Brotr, tmp_path: Path
) -> None:
    await two_months(brotr)
    await take(brotr, tmp_path)
    path = tmp_path / "manifest.json"
    found = json.loads(path.read_bytes())
    place = next(n for n, each in enumerate(found["files"]) if each["table"] == "events")
    found["files"][place] |= change
    path.write_text(json.dumps(found), "utf-8")
    with pytest.raises(DamagedError, match=words):
        snapshot.verify(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"format": "x"}', "[" * 100_000, "\xff", '{"files": 1}']
)
def test_what_is_no_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text, "utf-8")
    if text == "{}":
        assert snapshot.verify(tmp_path)[1] == []
        return
    with pytest.raises(DamagedError, match="manifest"):
        snapshot.verify(tmp_path)


async def test_links_lead_nowhere(brotr: Brotr, tmp_path: Path) -> None:
    """Whoever made the folder reaches no file of ours by it, and makes nobody wait."""
    await two_months(brotr)
    folder = tmp_path / "it"
    taken = await take(brotr, folder)
    names = months(taken, "events")
    shutil.move(folder / names[OLD], tmp_path / "elsewhere")
    (folder / names[OLD]).symlink_to(tmp_path / "elsewhere")
    (folder / names[NEW]).unlink()
    os.mkfifo(folder / names[NEW])
    shutil.move(folder / "presence", tmp_path / "presence")
    (folder / "presence").symlink_to(tmp_path / "presence")
    _, faults, _ = snapshot.verify(folder)
    assert len(faults) == 4
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(ConfigError, match="there is no manifest"):
        snapshot.verify(folder)


async def test_folders_that_are_none(brotr: Brotr, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds something else than a snapshot"):
        await take(brotr, mine)
    with pytest.raises(ConfigError, match="cannot keep a snapshot in"):
        await take(brotr, mine / "letter.txt")
    with pytest.raises(ConfigError, match="there is no such folder"):
        snapshot.verify(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"there is no manifest\.json"):
        snapshot.verify(mine)
    await take(brotr, tmp_path / "it")
    with pytest.raises(ConfigError, match="is a snapshot of the view archive, not current"):
        await take(brotr, tmp_path / "it", view=View.CURRENT)


async def test_one_at_a_time(brotr: Brotr, tmp_path: Path) -> None:
    async with snapshot._lock(tmp_path):
        with pytest.raises(BusyError, match="another process takes a snapshot"):
            await take(brotr, tmp_path)


async def test_it_rests_and_then_hurries(brotr: Brotr, tmp_path: Path) -> None:
    await two_months(brotr)
    said: list[snapshot.Progress] = []
    await take(brotr, tmp_path, pace=0.000_001, patience_s=0.0, on_progress=said.append)
    assert [(each.events, each.of, each.is_hurried) for each in said] == [
        (1, 2, True),
        (2, 2, True),
    ]
