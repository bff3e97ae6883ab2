"""The index of subscriptions finds what a look at all of them would find."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.query import Query
from bigbrotr.reads.events import StoredEvent
from bigbrotr.serve.relay.matching import Index, is_match

KEYS = [bytes([n]) * 32 for n in range(4)]
LISTS: Any = st.none() | st.frozensets(st.sampled_from(KEYS), max_size=3)
TAGS = st.lists(
    st.lists(st.sampled_from(["e", "p", "a", "long", "b"]), min_size=1, max_size=3), max_size=4
)
QUERIES = st.builds(
    Query,
    ids=LISTS,
    authors=LISTS,
    kinds=st.none() | st.frozensets(st.integers(0, 3), max_size=3),
    tags=st.dictionaries(
        st.sampled_from("epk"), st.frozensets(st.sampled_from(["e", "a", "b"]), max_size=2)
    ),
    since=st.integers(0, 5),
    until=st.integers(0, 9),
)


@st.composite
def events(draw: st.DrawFn) -> StoredEvent:
    key, author = draw(st.sampled_from(KEYS)), draw(st.sampled_from(KEYS))
    kind = draw(st.integers(0, 3))
    return StoredEvent(draw(st.integers(0, 9)), key, author, kind, "", "", b"", None, 1)


@given(
    st.lists(st.lists(QUERIES, max_size=3), max_size=8), events(), TAGS, st.sets(st.integers(0, 7))
)
def test_the_index_finds_what_matches(
    owners: list[list[Query]], event: StoredEvent, tags: list[list[str]], gone: set[int]
) -> None:
    index: Index[int] = Index()
    for owner, queries in enumerate(owners):
        index.add(owner, queries)
    for owner in gone:
        index.remove(owner)
    left = [owner for owner in range(len(owners)) if owner not in gone]
    assert sorted(index) == left
    assert sorted(index.matching(event, tags)) == [
        owner
        for owner in left
        if any(not query.is_empty and is_match(query, event, tags) for query in owners[owner])
    ]
    for owner in left:
        index.remove(owner)
    assert not index._entries
    assert not len(index)
