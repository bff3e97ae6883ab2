"""Where a reader of changes goes on: what it misses is told."""

import pytest

from bigbrotr.reads.changes import Ends, place_to_go_on


@pytest.mark.parametrize(
    ("after", "there", "place"),
    [
        (0, Ends(0, 0), None),
        (0, Ends(9, 0), None),
        (9, Ends(9, 0), None),
        (4, Ends(9, 4), None),
        (3, Ends(9, 4), 4),  # 4 is gone
        (10, Ends(9, 4), 4),  # of another log
        (1, Ends(0, 0), 0),
    ],
)
def test_where_to_go_on(after: int, there: Ends, place: int | None) -> None:
    assert place_to_go_on(after, there) == place
