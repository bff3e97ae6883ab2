"""What monitors announce, read strictly; quorum, outliers and reliability against dumb counts."""

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.nip66 import Nip66
from bigbrotr.models.relay import Relay
from bigbrotr.models.witnesses import (
    AHEAD_S,
    FIELDS,
    FRESH_S,
    HALF_LIFE_S,
    KEPT_S,
    MAX_ALLOWED_S,
    MAX_MS,
    MIN_ALLOWED_S,
    Introduction,
    Quorum,
    Statement,
    Tally,
    Word,
    allowed_s,
    compare,
    outliers,
    quorum,
    read_introduction,
    read_word,
    reliability,
    statement,
)

NOW = 1_700_000_000
KEY, ID = b"k" * 32, b"i" * 32
D = ["d", "wss://relay.example.com/"]


def word(*tags: list[str], at: int = NOW) -> Word | str:
    return read_word(KEY, at, ID, tags, NOW)


def test_a_word() -> None:
    found = word(
        D,
        ["n", "clearnet"],
        ["rtt-open", "120"],
        ["rtt-read", "0"],
        ["R", "auth"],
        ["R", "!payment"],
        ["ssl", "!valid"],
    )
    assert found == Word(KEY, "wss://relay.example.com", NOW, ID, 120, 0, None, True, False, False)


def test_what_we_announce_ourselves_can_be_read() -> None:
    said = Nip66(
        Relay("wss://relay.example.com/chat"),
        rtts={"open": 5},
        requirements={"auth": False},
        is_tls_valid=True,
    )
    assert word(*said.tags()) == Word(
        KEY, "wss://relay.example.com/chat", NOW, ID, 5, auth=False, tls=True
    )


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ([], "no-relay"),
        ([["d"]], "no-relay"),
        ([["d", ""]], "no-relay"),
        ([["d", "00" * 32]], "no-relay"),  # a relay without a URL
        ([["d", "https://x.example.com"]], "no-relay"),
        ([["d", "wss://" + "x" * 40_000]], "no-relay"),
        ([["d", "wss://a.example.com/ wss://b.example.com"]], "no-relay"),
        ([D, ["d", "wss://other.example.com"]], "no-relay"),  # of both at once
        ([D] + [["x"]] * 2001, "too-large"),
    ],
)
def test_no_word(tags: list[list[str]], reason: str) -> None:
    assert word(*tags) == reason


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (NOW + AHEAD_S, None),
        (NOW + AHEAD_S + 1, "future"),
        (2**63 - 1, "future"),
        (NOW - FRESH_S, None),
        (NOW - FRESH_S - 1, "old"),
        (0, "old"),
    ],
)
def test_dates(at: int, reason: str | None) -> None:
    found = word(D, at=at)
    assert found == reason or (reason is None and isinstance(found, Word))


@pytest.mark.parametrize(
    "tag",
    [
        ["rtt-open", "-5"],
        ["rtt-open", "1e3"],
        ["rtt-open", str(MAX_MS + 1)],
        ["rtt-open", "9" * 5000],
        ["rtt-open", "\u0661"],
        ["rtt-open"],
        ["R", "no-such"],
        ["ssl", "maybe"],
        [],
        [""],
    ],
)
def test_nonsense_is_left_out(tag: list[str]) -> None:
    assert word(D, tag) == Word(KEY, "wss://relay.example.com", NOW, ID)


def test_who_says_both_says_nothing() -> None:
    tags = [["R", "auth"], ["R", "!auth"], ["rtt-open", "1"], ["rtt-open", "2"]]
    tags += [["ssl", "valid"], ["R", "!ssl"]]
    assert word(D, *tags) == Word(KEY, "wss://relay.example.com", NOW, ID)
    assert word(D, ["R", "auth"], ["R", "auth"]) == word(D, ["R", "auth"])
    (of_another_form,) = [word(D, ["R", "ssl"])]
    assert isinstance(of_another_form, Word)
    assert of_another_form.tls is True


def test_an_introduction() -> None:
    tags = [
        ["frequency", "3600"],
        ["timeout", "open", "5000"],
        ["timeout", "3000", "read"],  # in either order
        ["timeout", "9" * 15, "nip11"],
        ["c", "ws"],
        ["c", "nip11"],
        ["c", "NO\nGOOD"],
        ["c", "x" * 31],
        ["g", "u33d"],
    ]
    assert read_introduction(KEY, NOW, ID, tags, NOW) == Introduction(
        KEY, NOW, ID, 3600, {"open": 5000, "read": 3000}, ("ws", "nip11"), "u33d"
    )
    many = [["frequency", "60"], ["g", "u" * 13], *(["c", f"c{n}"] for n in range(99))]
    found = read_introduction(KEY, NOW, ID, many, NOW)
    assert isinstance(found, Introduction)
    assert found.geohash is None
    assert len(found.checks) == 30


@pytest.mark.parametrize(
    ("tags", "at", "reason"),
    [
        ([], NOW, "no-frequency"),
        ([["frequency", "0"]], NOW, "no-frequency"),
        ([["frequency", "9" * 15]], NOW, "no-frequency"),
        ([["frequency", "60"]], NOW + AHEAD_S + 1, "future"),
        ([["frequency", "60"]] * 2001, NOW, "too-large"),
    ],
)
def test_no_introduction(tags: list[list[str]], at: int, reason: str) -> None:
    assert read_introduction(KEY, at, ID, tags, NOW) == reason


TEXTS = st.text(max_size=12) | st.sampled_from(["d", "R", "ssl", "frequency", "timeout", "c", "g"])


@given(st.lists(st.lists(TEXTS, max_size=4), max_size=12), st.integers(-(2**63), 2**63 - 1))
def test_nothing_makes_it_fail(tags: list[list[str]], at: int) -> None:
    for found in (read_word(KEY, at, ID, tags, NOW), read_introduction(KEY, at, ID, tags, NOW)):
        assert isinstance(found, Word | Introduction | str)


# What is said now


def test_silence() -> None:
    """It counts of a witness that has announced how often it speaks, and speaks of others."""
    said = Word(KEY, "wss://relay.example.com", NOW, ID, 50, auth=True)
    hour = 3600

    def says(at: int, *, frequency_s: int | None = hour, heard_at: int | None = None) -> Statement:
        heard = at if heard_at is None else heard_at
        return statement(said, frequency_s=frequency_s, heard_at=heard, now=at)

    up = Statement(True, True, None, None, 50)
    assert says(NOW) == says(NOW + 2 * hour) == says(NOW - AHEAD_S) == up
    assert says(NOW + 2 * hour + 1) == Statement(False)
    assert says(NOW + 2 * hour + 1, frequency_s=None) == Statement()  # it has promised nothing
    assert says(NOW + 2 * hour + 1, heard_at=NOW) == Statement()  # it is silent altogether
    assert says(NOW + KEPT_S + 1) == Statement()  # it may have given that relay up
    assert says(NOW + 9 * hour, frequency_s=5 * hour) == up
    assert says(NOW - AHEAD_S - 1) == Statement()  # a clock was ahead
    assert says(NOW + 9 * hour, heard_at=NOW + 99 * hour) == Statement()


def test_how_long_a_word_counts() -> None:
    assert allowed_s(None) == allowed_s(1) == MIN_ALLOWED_S
    assert allowed_s(2 * 3600) == 4 * 3600
    assert allowed_s(10**9) == MAX_ALLOWED_S


# Together


def test_quorum() -> None:
    assert quorum([]) is None
    assert quorum([(None, 1.0), (True, 0.0)]) is None
    found = quorum([(True, 0.75), (False, 0.25), (None, 9.0)])
    assert found == Quorum(0.75, 1.0, 2)
    assert found.verdict is True
    tie = quorum([(True, 0.5), (False, 0.5)])
    assert tie is not None
    assert tie.verdict is None
    minority = quorum([(True, 0.9), (False, 0.5), (False, 0.5)])
    assert minority is not None
    assert minority.verdict is False  # weights count, heads do not
    crowd = quorum([(True, 0.9), *[(False, 0.0)] * 1000])
    assert crowd == Quorum(1.0, 0.9, 1)  # nor do those who were never compared


def test_outliers() -> None:
    assert outliers([1, 2, 9000]) == [False] * 3  # too few to tell
    assert outliers([100, 101, 102, 103, 900]) == [False] * 4 + [True]
    assert outliers([100] * 9 + [102]) == [False] * 10  # as good as equal
    assert outliers([100] * 9 + [104]) == [False] * 9 + [True]
    assert outliers([]) == []


@given(st.lists(st.integers(0, MAX_MS), min_size=4, max_size=40))
def test_outliers_are_as_defined(times: list[int]) -> None:
    middle = median(times)
    mad = median([abs(each - middle) for each in times])
    assert outliers(times) == [abs(each - middle) > 3 * max(1.0, mad) for each in times]


def test_comparison_beside_a_dumb_count() -> None:
    chance = random.Random(7)
    keys = [bytes([n]) * 32 for n in range(7)]
    weights = {key: chance.choice([0.0, 0.2, 0.5, 0.9]) for key in keys}
    weights[keys[0]] = 0.9
    tallies = {key: Tally() for key in keys}
    dumb = {key: [0] * 7 for key in keys}
    for _ in range(300):
        ours = some_statement(chance)
        said = {key: some_statement(chance) for key in keys if chance.random() < 0.7}
        compare(said, ours, weights, tallies)
        for key, each in said.items():
            counts = dumb[key]
            counts[0] += each != Statement()
            for field in FIELDS:
                value, own = getattr(each, field), getattr(ours, field)
                counts[1] += value is not None and own is not None
                counts[2] += value is not None and value is own
                others = quorum(
                    (getattr(other, field), weights[name])
                    for name, other in said.items()
                    if name != key
                )
                if value is not None and others is not None and abs(others.share - 0.5) > 1e-9:
                    counts[3] += 1
                    counts[4] += value is others.verdict
            if each.open_ms is not None:
                times = [other.open_ms for other in said.values() if other.open_ms is not None]
                counts[5] += 1
                counts[6] += outliers(times)[times.index(each.open_ms)]
    for key, tally in tallies.items():
        assert [
            tally.relays,
            tally.compared,
            tally.agreed,
            tally.others_compared,
            tally.others_agreed,
            tally.timed,
            tally.outliers,
        ] == dumb[key]
        assert tally.ratio is not None


def some_statement(chance: random.Random) -> Statement:
    if chance.random() < 0.2:
        return Statement()
    online, auth, payment, tls = (chance.choice([True, False, None]) for _ in range(4))
    return Statement(online, auth, payment, tls, chance.choice([None, chance.randint(1, 500)]))


# Reliability


def test_reliability() -> None:
    day = 86_400
    assert reliability(0.0, 0, 0, day) == 0.0
    few = reliability(0.0, 2, 2, day)
    many = reliability(0.0, 2000, 2000, day)
    assert 0 < few < 0.1 * many  # little was compared
    value = 0.0
    for _ in range(3):
        value = reliability(value, 1000, 1000, day)
    assert value == pytest.approx(0.5 * 1000 / 1020)  # half of the way within its half-life
    for _ in range(60):
        value = reliability(value, 1000, 1000, day)
    assert 0.95 < value < 1
    for _ in range(3):
        value = reliability(value, 0, 1000, day)
    assert value == pytest.approx(0.5 * 1000 / 1020, rel=0.01)  # and back, when it lies
    # In many small steps it is the same.
    fine = 0.0
    for _ in range(HALF_LIFE_S // 900):
        fine = reliability(fine, 1000, 1000, 900)
    assert fine == pytest.approx(0.5 * 1000 / 1020)


def test_a_clock_that_jumps_changes_little() -> None:
    assert reliability(0.8, 0, 1000, -(10**9)) == 0.8
    assert reliability(0.8, 0, 1000, 10**9) == reliability(0.8, 0, 1000, 86_400) > 0.6
