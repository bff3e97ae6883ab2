"""A set of ids that changes gives what one that was made at once would give."""

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.nostr import id_set
from bigbrotr.nostr.id_set import IdSet, Key
from bigbrotr.nostr.negentropy import END, Bound, Client, Items, Server

KEYS = [(n // 5, sha256(b"%d" % n).digest()) for n in range(60)]
TIED = [(7, bytes([n // 4]) + bytes(30) + bytes([n])) for n in range(30)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_set, "CHUNK", 8)


changes = st.lists(
    st.tuples(st.booleans(), st.lists(st.sampled_from([*KEYS, *TIED]), max_size=30)), max_size=12
)


@given(changes, st.integers(0, 8), st.integers(0, 14))
def test_it_is_what_a_set_of_pairs_would_be(
    steps: list[tuple[bool, list[Key]]], since: int, until: int
) -> None:
    changed, dumb = IdSet(), set[Key]()
    for is_new, keys in steps:
        if is_new:
            changed.update(keys)
            dumb.update(keys)
        else:
            changed.discard(keys)
            dumb.difference_update(keys)
        for whole, wanted in (
            (changed, sorted(dumb)),
            (changed.window(since, until), sorted(k for k in dumb if since <= k[0] <= until)),
        ):
            fresh = Items(wanted)
            fresh.seal()
            size = len(wanted)
            assert len(whole) == size
            assert whole.ids(0, size) == fresh.ids(0, size)
            cuts = sorted({0, size // 3, size // 2, size})
            assert whole.fingerprints(cuts) == fresh.fingerprints(cuts)
            for key in [*wanted, (3, b""), (7, b"\x01"), (99, b"")]:
                bound = Bound(*key)
                assert whole.position(bound) == fresh.position(bound)
            assert whole.position(END) == size
            assert [whole.bound(n) for n in range(1, size)] == [
                fresh.bound(n) for n in range(1, size)
            ]
        assert all(key in changed for key in dumb)
        assert not any(key in changed for key in {*KEYS, *TIED} - dumb)


def packed(keys: list[Key]) -> tuple[bytes, bytes]:
    return b"".join(at.to_bytes(8) for at, _ in keys), b"".join(key for _, key in keys)


@given(st.lists(st.lists(st.sampled_from(KEYS), max_size=20), max_size=5), st.booleans())
def test_columns_are_taken_in_any_order(pages: list[list[Key]], is_sorted: bool) -> None:
    if is_sorted:
        pages = [sorted(set(page)) for page in sorted(pages)]
    changed = IdSet()
    for page in pages:
        changed.extend_packed(*packed(page))
    for _ in changed.summing():
        pass
    wanted = sorted({key for page in pages for key in page})
    assert changed.ids(0, len(changed)) == b"".join(key for _, key in wanted)
    fresh = Items(wanted)
    fresh.seal()
    assert changed.fingerprint(0, len(wanted)) == fresh.fingerprint(0, len(wanted))


def test_columns_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="as many times as ids"):
        IdSet().extend_packed(bytes(16), bytes(32))


def test_a_server_answers_from_it_while_it_changes() -> None:
    chance = random.Random(1)
    every = sorted((n, chance.randbytes(32)) for n in range(3000))
    ours = [key for key in every if key[1][0] % 9]
    theirs = IdSet()
    theirs.update(key for key in every if key[1][1] % 9)
    client = Client(Items(ours), max_needed=3000)
    said: bytes | None = client.initiate()
    late = (5, chance.randbytes(32))
    gone = next(key for key in reversed(ours) if key in theirs)
    while said is not None:
        said = client.reconcile(Server(theirs).reconcile(said))
        theirs.update([late])
        theirs.discard([gone])
    wanted = {key for _, key in every if key[1] % 9 and not key[0] % 9}
    assert client.need - {late[1]} == wanted
    have = {ours[place][1] for place in client.have}
    assert have - {gone[1]} == {key for _, key in ours if not key[1] % 9}
