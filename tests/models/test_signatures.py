"""Signatures, many at once: judged in batches as one by one, at a bounded cost."""

import random

import pytest

from bigbrotr.models import native, signatures
from bigbrotr.models.signatures import CLAIM_BYTES, MAX_BATCH, MAX_SINGLY, MIN_BATCH, Judge
from tests.kit.claims import N, flip, right, verdict

CHANCE = random.Random(11)
CLAIMS = [right(CHANCE, CHANCE.randrange(1, N)) for _ in range(60)]


class Batches:
    """Judges batches with libsecp256k1, and keeps how many claims each one had."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def are_right(self, claims: bytes) -> bool:
        self.sizes.append(len(claims) // CLAIM_BYTES)
        parts = range(0, len(claims), CLAIM_BYTES)
        return all(verdict(claims[at : at + CLAIM_BYTES]) for at in parts)


def forged(claims: list[bytes], *places: int) -> list[bytes]:
    return [
        flip(CHANCE, each, b"") if place in places else each for place, each in enumerate(claims)
    ]


@pytest.mark.parametrize("judge", [Judge(None), Judge(Batches().are_right), signatures.here])
def test_each_claim_is_judged_by_itself(judge: Judge) -> None:
    for count in (0, 1, MIN_BATCH - 1, MIN_BATCH, 60):
        for wrong in ((), (0,), (count - 1,), range(0, count, 3), range(count)):
            claims = forged(CLAIMS[:count], *wrong)
            expected = [place not in wrong for place in range(count)]
            assert judge.judge(b"".join(claims)) == expected


def test_small_batches_are_judged_one_by_one_and_large_ones_in_parts() -> None:
    batches = Batches()
    judge = Judge(batches.are_right)
    assert judge.uses_batches
    assert not Judge(None).uses_batches
    judge.judge(b"".join(CLAIMS[: MIN_BATCH - 1]))
    assert batches.sizes == []
    many = (CLAIMS * 20)[: 2 * MAX_BATCH + 3]
    assert judge.judge(b"".join(many)) == [True] * len(many)
    assert batches.sizes == [MAX_BATCH, MAX_BATCH]


def test_after_wrong_batches_some_are_judged_one_by_one() -> None:
    batches = Batches()
    judge = Judge(batches.are_right)
    good, bad = b"".join(CLAIMS[:20]), b"".join(forged(CLAIMS[:20], 7))

    def until_one_is_tried(page: bytes) -> int:
        """How many batches are judged one by one, before one is tried as a whole."""
        tried, skipped = len(batches.sizes), 0
        while True:
            judge.judge(page)
            if len(batches.sizes) > tried:
                return skipped
            skipped += 1

    found = [until_one_is_tried(bad) for _ in range(7)]
    assert found == [0, 1, 2, 4, 8, MAX_SINGLY, MAX_SINGLY]
    assert [until_one_is_tried(good) for _ in range(3)] == [MAX_SINGLY, 0, 0]
    assert [until_one_is_tried(bad) for _ in range(3)] == [0, 1, 2]


def test_it_is_used_where_it_is_installed() -> None:
    compiled = pytest.importorskip("bigbrotr_native", reason="native/ is not compiled")
    assert signatures.here.uses_batches
    assert compiled.are_right(b"".join(CLAIMS))


def test_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bigbrotr_native", None)
    assert native.installed() is None


def test_without_one_that_speaks_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = pytest.importorskip("bigbrotr_native", reason="native/ is not compiled")
    assert native.installed() is not None
    monkeypatch.setattr(compiled, "INTERFACE", native.INTERFACE - 1)
    assert native.installed() is None
