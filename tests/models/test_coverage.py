"""Stretches of time: merged, and taken from one another."""

from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.coverage import Span, merge, uncovered

spans = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: Span(*ends)), max_size=8
)


@given(wanted=st.tuples(st.integers(0, 30), st.integers(0, 30)), covered=spans)
def test_uncovered_is_subtraction(wanted: tuple[int, int], covered: list[Span]) -> None:
    left = uncovered(Span(*wanted), covered)
    seconds = set(range(*wanted)) - {t for span in covered for t in range(*span)}
    assert [t for span in left for t in range(*span)] == sorted(seconds)
    assert merge(left) == left
