"""What C says of frames is what Python says of them, to the last byte of a row."""

import random
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigbrotr.models import native as here
from bigbrotr.models.burst import Burst
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

    def other_scan(data: bytes, bounds: "array[int]", subscription: bytes) -> Any:
        said = scan(data, bounds, subscription)
        if what == "all":
            return said._replace(are_plain=b"\x01" * len(said.are_plain))
        return said._replace(claims=bytearray(b"\x01" * len(said.claims)))

    def other_rows(addresses: "array[int]", lengths: "array[int]", claims: bytearray) -> Any:
        made = rows(addresses, lengths, claims)
        if what == "row" or not made.data:
            return made._replace(data=made.data[:-1] + b"?")
        nowhere = b"wss://nowhere.example\n"
        some = array("I", [len(nowhere)] * len(lengths))
        return made._replace(texts=nowhere * len(some), text_lengths=some, look_deeper=[])

    assert here.here is not None
    changed = {"scan": other_scan} if what in ("id", "all") else {"rows": other_rows}
    monkeypatch.setattr(here, "here", here.here._replace(**changed))
    assert fuzz.run(FRAMES // 5, seed=5).wrong


def burst(frames: list[bytes]) -> tuple[bytes, "array[int]"]:
    found = Burst.of(frames)
    return found.data, found.bounds


def test_what_comes_at_once() -> None:
    nothing = native.scan(b"", array("I"), b"s")
    assert (nothing.are_plain, list(nothing.kinds), nothing.claims) == (b"", [], b"")
    assert native.rows(array("Q"), array("I"), bytearray()).data == b""
    assert native.order(array("q"), bytearray()) == (array("I"), True)
    chance = random.Random(1)
    for _ in range(200):  # of any length, so that nothing is read beyond the end
        frames = [chance.randbytes(chance.randrange(70)) for _ in range(3)]
        data, bounds = burst([*frames, b"", b"[]", b"7"])
        said = native.scan(data, bounds, b"s")
        assert said.are_plain == bytes(6)
        made = native.rows(said.addresses, said.lengths, said.claims)
        assert (made.data, list(made.lengths)) == (b"", [0] * 6)


def test_a_large_page_leaves_no_large_memory() -> None:
    small, large = fuzz.Corpus(random.Random(1)).frames[0], b"x" * (native.MOST_KEPT + 1)

    def rows(frames: list[bytes]) -> Any:
        data, bounds = burst(frames)
        said = native.scan(data, bounds, b"s")
        return native.rows(said.addresses, said.lengths, said.claims)

    before = rows([small])
    assert rows([large, small]).data == before.data != b""
    kept = native._scratch._kept
    assert all(len(each) <= native.MOST_KEPT for each in kept.values())
    assert rows([small]) == before


def test_the_order_is_that_of_time_and_id() -> None:
    chance = random.Random(2)
    for count in (1, 2, 3, 50):
        times = array("q", [chance.choice([0, 5, 2**63 - 1]) for _ in range(count)])
        ids = [chance.choice([chance.randbytes(32), bytes(32)]) for _ in range(count)]
        claims = bytearray(b"".join(b"s" * 64 + each + b"p" * 32 for each in ids))
        keys = list(zip(times, ids, strict=True))
        places, is_unique = native.order(times, claims)
        assert list(places) == sorted(range(count), key=keys.__getitem__)
        assert is_unique is (len(set(keys)) == count)


def test_numbers_stand_behind_rows() -> None:
    rows = (b"\0\0abc" + b"\0\0d", array("I", [5, 3]))
    behind = [b"\0\0\0\x08" + number.to_bytes(8, "big") for number in (7, 2**40)]
    numbers = array("q", [7, 2**40])
    whole = b"<\x01\x02abc" + behind[0] + b"\x01\x02d" + behind[1] + b">"
    assert native.number(rows, numbers, 0x102, 0, (b"<", b">")) == whole
    short = b"\0\x06ab" + behind[0] + b"\0\x06d" + behind[1]
    assert native.number(rows, numbers, 6, 4, (b"", b"")) == short
    assert native.number((b"", array("I")), array("q"), 6, 0, (b"<", b">")) == b"<>"


def test_what_does_not_fit_together_is_refused() -> None:
    columns = (array("q", [1]), bytearray(128), array("Q", [0]), array("I", [0]), array("I", [7]))
    picked = native.pick(array("I", [0, 0]), *columns)
    assert (list(picked[0]), picked[1], list(picked[4])) == ([1, 1], bytes(256), [7, 7])
    wrong: Callable[[], object]
    for wrong in (
        lambda: native.scan(b"[]", array("I", [0, 3]), b"s"),
        lambda: native.scan(b"[]", array("I", [0]), b"s"),
        lambda: native.scan(b"[]", array("Q", [0, 2]), b"s"),
        lambda: native.scan(b"[]", array("I", [2, 0]), b"s"),
        lambda: native.scan(b"[][]", array("I", [0, 3, 2, 4]), b"s"),
        lambda: native.order(array("q", [1]), bytearray(127)),
        lambda: native.pick(array("I", [1]), *columns),
        lambda: native.pick(array("I", [0]), array("q", [1, 2]), *columns[1:]),
        lambda: native.rows(array("Q"), array("I", [0]), bytearray(128)),
        lambda: native.rows(array("Q", [0]), array("I", [0]), bytearray(127)),
        lambda: native.number((b"ab", array("I", [2])), array("q"), 1, 0, (b"", b"")),
        lambda: native.number((b"ab", array("I", [3])), array("q", [1]), 1, 0, (b"", b"")),
        lambda: native.number((b"a", array("I", [1])), array("q", [1]), 1, 0, (b"", b"")),
    ):
        with pytest.raises(ValueError, match=r"\d|columns"):
            wrong()
