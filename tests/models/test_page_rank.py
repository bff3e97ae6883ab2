"""PageRank over follows is what a dumb computation finds, and says what is missing."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.page_rank import DAMPING, FollowGraph, Ranked, normalised

Lists = dict[int, list[int]]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def ranked(lists: Lists) -> dict[bytes, Ranked]:
    graph = FollowGraph()
    for author, followed in lists.items():
        assert graph.add(key(author), map(key, followed))
    return {each.pubkey: each for each in graph.ranks()}


def dumb(lists: Lists) -> dict[bytes, float]:
    """Power iteration as the paper has it, in plain Python."""
    everybody = sorted({*lists, *(one for followed in lists.values() for one in followed)})
    follows = {each: sorted({*lists.get(each, [])} - {each}) for each in everybody}
    size = len(everybody)
    scores = dict.fromkeys(everybody, 1 / size)
    for _ in range(300):
        found = dict.fromkeys(everybody, (1 - DAMPING) / size)
        for each in everybody:
            for other in follows[each] or everybody:
                found[other] += DAMPING * scores[each] / len(follows[each] or everybody)
        scores = found
    return {key(each): score for each, score in scores.items()}


@given(st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=12), min_size=1))
def test_as_the_dumb_computation(lists: Lists) -> None:
    found = ranked(lists)
    assert {pubkey: each.score for pubkey, each in found.items()} == pytest.approx(
        dumb(lists), abs=1e-8
    )
    for pubkey, each in found.items():
        number = int.from_bytes(pubkey, "big")
        own = lists.get(number)
        assert each.follows == (None if own is None else len({*own} - {number}))
        assert each.followers == sum(
            number in followed for author, followed in lists.items() if author != number
        )


def test_ranks_go_from_0_to_100() -> None:
    found = ranked({1: [9], 2: [9, 8], 3: [9, 8, 7], 9: [8]})
    ranks = {int.from_bytes(pubkey, "big"): each.rank for pubkey, each in found.items()}
    assert (ranks[1], ranks[2], ranks[3]) == (0, 0, 0)
    assert max(ranks.values()) == 100
    assert 0 < ranks[7] < ranks[8] <= 100
    order = sorted(found.values(), key=lambda each: each.score)
    assert [each.rank for each in order] == sorted(ranks.values())
    assert sum(each.score for each in order) == pytest.approx(1)


def test_small_graphs() -> None:
    assert list(FollowGraph().ranks()) == []
    (alone,) = ranked({1: [1]}).values()
    assert alone == (key(1), 1.0, 0, 0, 0)
    pair = ranked({1: [2], 2: [1]})
    assert [each.rank for each in pair.values()] == [0, 0]
    assert {each.score for each in pair.values()} == {0.5}
    assert normalised(0.5, 0.5, 0.5) == 0


def test_the_first_list_of_an_author_stays() -> None:
    graph = FollowGraph()
    assert graph.add(key(1), [key(2), key(2), key(1)])
    assert not graph.add(key(1), [key(3)])
    assert graph.add(key(2), [])
    assert (graph.authors, graph.follows, graph.pubkeys) == (2, 1, 2)


def test_without_the_extra_it_is_said_what_to_install() -> None:
    program = (
        "import sys; sys.modules['scipy'] = None\n"
        "from bigbrotr.models.page_rank import FollowGraph, require\n"
        "assert 'numpy' not in sys.modules\n"
        "require()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "ConfigError: ranks need NumPy and SciPy" in done.stderr
    assert "pip install '.[rank]'" in done.stderr
