"""Sketches: about how many different things there are."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.sketch import REGISTERS, Sketch


def items(first: int, last: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in range(first, last)]


def sketch(of: list[bytes]) -> Sketch:
    made = Sketch()
    made.add(of)
    return made


@pytest.mark.parametrize("number", [0, 1, 10, 1000, 9_000, 12_000, 100_000])
def test_an_estimate_is_near(number: int) -> None:
    found = sketch(items(0, number)).estimate()
    assert abs(found - number) <= 0.05 * number  # three times the standard error


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=5))
def test_a_merged_sketch_is_that_of_all(parts: list[tuple[int, int]]) -> None:
    lists = [items(min(part), max(part)) for part in parts]
    merged = Sketch.merged(bytes(sketch(each).data) for each in lists)
    assert merged.data == sketch([item for each in lists for item in each]).data


def test_what_is_there_changes_nothing() -> None:
    made = sketch(items(0, 100))
    before = bytes(made.data)
    made.add(items(0, 100))
    assert bytes(made.data) == before


def test_a_sketch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="4096 bytes, not 5"):
        Sketch(bytes(5))
    assert len(Sketch().data) == REGISTERS
