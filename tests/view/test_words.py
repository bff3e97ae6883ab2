"""Moments, durations and numbers in words."""

import time

from bigbrotr.view.words import due_in, duration, moment, roughly, stretch


def test_words() -> None:
    assert moment(1_769_817_600) == "2026-01-31 00:00:00 UTC"
    assert moment(2**60) == str(2**60)
    assert duration(3 * 86400 + 7200 + 5) == "3 d 2 h"
    assert duration(0) == "0 s"
    assert due_in(int(time.time()) - 5) == "now"
    assert due_in(int(time.time()) + 3700) == "in 1 h 1 min"
    assert stretch((0, None)) == "the beginning to now"
    assert [roughly(n) for n in (7, 99, 1234, 345_678, 2_345_678)] == [
        *("7", "99", "1,200", "350,000", "2.3 million")
    ]
