"""What C says of frames is what Python says of them, to the last byte of a row."""

import random
from pathlib import Path

import pytest

from bigbrotr.models import native as here
from tests.bench import fuzz
from tests.kit.c import library

native = pytest.importorskip("bigbrotr_native", reason="native/ is not compiled")

SOURCE = Path(__file__).parents[2] / "native" / "c" / "events.c"
FRAMES = 1_500


def test_events_of_all_kinds() -> None:
    found = fuzz.run(FRAMES, seed=3)
    assert found.wrong == []
    assert found.outcomes["plain"] > FRAMES // 20


def test_where_the_processor_has_nothing_special(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = library(tmp_path, SOURCE, "-DPLAIN")
    for name in ("_scan", "_rows"):
        function = getattr(plain, f"bigbrotr_native{name}")
        function.argtypes = getattr(native, name).argtypes
        function.restype = getattr(native, name).restype
        monkeypatch.setattr(native, name, function)
    found = fuzz.run(FRAMES, seed=4)
    assert found.wrong == []
    assert found.outcomes["plain"] > FRAMES // 20


@pytest.mark.parametrize("what", ["id", "row", "url", "all"])
def test_differences_would_be_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, rows = native.scan, native.rows

    def other_scan(frames: list[bytes], subscription: bytes) -> list[tuple[int, int, int, bytes]]:
        said = scan(frames, subscription)
        if what == "all":
            return [(1, *each[1:]) for each in said]
        return [(ok, kind, at, claim[:64] + bytes(64)) for ok, kind, at, claim in said]

    def other_rows(frames: list[bytes]) -> list[tuple[bytes, bytes, bool] | None]:
        made = [each for each in rows(frames) if each is not None]
        if what == "row":
            return [(row[:-1] + b"?", *rest) for row, *rest in made]
        return [(row, b"wss://nowhere.example\n", False) for row, _, _ in made]

    assert here.here is not None
    changed = {"scan": other_scan} if what in ("id", "all") else {"rows": other_rows}
    monkeypatch.setattr(here, "here", here.here._replace(**changed))
    assert fuzz.run(FRAMES // 5, seed=5).wrong


def test_what_comes_at_once() -> None:
    assert native.scan([], b"s") == []
    assert native.rows([]) == []
    assert native.rows([b"", b"[]", b"7"]) == [None] * 3
    chance = random.Random(1)
    for _ in range(200):  # of any length, so that nothing is read beyond the end
        frames = [chance.randbytes(chance.randrange(70)) for _ in range(3)]
        assert [each[0] for each in native.scan(frames, b"s")] == [0] * 3
        assert native.rows(frames) == [None] * 3


def test_a_large_page_leaves_no_large_memory() -> None:
    small, large = fuzz.Corpus(random.Random(1)).frames[0], b"x" * (native.MOST_KEPT + 1)
    before = native.rows([small])
    assert native.rows([large, small]) == [None, *before]
    kept = native._scratch._kept
    assert all(len(each) <= native.MOST_KEPT for each in kept.values())
    assert native.rows([small]) == before
