"""Reconciliation: against plain set difference, stupid peers, hostile bytes and nostr-sdk."""

import copy
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bigbrotr.nostr import negentropy
from bigbrotr.nostr.negentropy import (
    Client,
    Items,
    NegentropyError,
    Server,
    TooManyNeededError,
    is_settled,
)
from tests.kit.events import make_event
from tests.kit.real import local_relay

Item = tuple[int, bytes]

LATEST = 2**63 - 1
END = (2**64 - 1, b"")
SKIP, FINGERPRINT, ID_LIST = range(3)
SMALLEST = 4096
PLENTY = 10**6
HELLO = b"\x61"


# a stupid peer: everything by walking through a list


def number(value: int) -> bytes:
    digits = [value % 128]
    while value := value // 128:
        digits.insert(0, value % 128 + 128)
    return bytes(digits)


def digest(items: Sequence[Item]) -> bytes:
    total = sum(int.from_bytes(event_id, "little") for _, event_id in items) % 2**256
    return sha256(total.to_bytes(32, "little") + number(len(items))).digest()[:16]


def ids_of(items: Sequence[Item]) -> bytes:
    return b"".join(event_id for _, event_id in items)


def listing(items: Sequence[Item]) -> bytes:
    return b"\x02" + number(len(items)) + ids_of(items)


def assemble(ranges: Sequence[tuple[Item, bytes]]) -> bytes:
    """A message of (upper bound, mode and payload)."""
    message, before = HELLO, 0
    for (timestamp, prefix), body in ranges:
        if timestamp == END[0]:
            message += b"\0\0" + body
        else:
            message += number(1 + timestamp - before) + number(len(prefix)) + prefix + body
            before = timestamp
    return message


def take_apart(message: bytes) -> list[tuple[Item, int, bytes]]:
    """The ranges of a valid message as (upper bound, mode, payload without its length)."""
    assert message[:1] == HELLO
    at, before, ranges = 1, 0, []

    def digits() -> int:
        nonlocal at
        value = 0
        while True:
            at += 1
            value = value * 128 + message[at - 1] % 128
            if message[at - 1] < 128:
                return value

    while at < len(message):
        offset, length = digits(), digits()
        before = before + offset - 1 if offset else END[0]
        upper = (before, message[at : at + length])
        at += length
        mode = digits()
        size = {SKIP: 0, FINGERPRINT: 16, ID_LIST: 0}[mode]
        if mode == ID_LIST:
            size = 32 * digits()
        ranges.append((upper, mode, message[at : at + size]))
        at += size
    assert at == len(message)
    return ranges


@dataclass
class Peer:
    """A peer that obeys the protocol and has habits of its own; as `asker` it learns as well.

    `cut`: ranges in a message before the rest is put into one fingerprint. `careless`: that
    fingerprint leaves out, as in the first implementations, the range that it takes the place of.
    """

    items: Sequence[Item]
    chance: random.Random
    parts: int = 16
    few: int = 32
    cut: int = 1000
    careless: bool = False
    asker: bool = False
    have: set[bytes] = field(default_factory=set)
    need: set[bytes] = field(default_factory=set)

    def within(self, lower: Item, upper: Item) -> list[Item]:
        return [item for item in self.items if lower <= item < upper]

    def describe(self, lower: Item, upper: Item) -> list[tuple[Item, bytes]]:
        mine = self.within(lower, upper)
        if len(mine) < self.few or len(mine) < 2:
            return [(upper, listing(mine))]
        cuts = sorted(self.chance.sample(mine[1:], min(self.parts, len(mine)) - 1))
        uppers = [*cuts, upper]
        return [
            (one, b"\x01" + digest(self.within(before, one)))
            for before, one in zip([lower, *cuts], uppers, strict=True)
        ]

    def start(self) -> bytes:
        return assemble(self.describe((0, b""), END))

    def answer(self, message: bytes) -> bytes:
        lower: Item = (0, b"")
        said: list[tuple[Item, bytes]] = []
        for upper, mode, payload in take_apart(message):
            mine = self.within(lower, upper)
            if mode == ID_LIST and self.asker:
                theirs = {payload[n : n + 32] for n in range(0, len(payload), 32)}
                self.have |= {event_id for _, event_id in mine} - theirs
                self.need |= theirs - {event_id for _, event_id in mine}
                more = [(upper, b"\0")]
            elif mode == ID_LIST:
                more = [(upper, listing(mine))]
            elif mode == FINGERPRINT and payload != digest(mine):
                more = self.describe(lower, upper)
            else:
                more = [(upper, b"\0")]
            if len(said) > self.cut and more != [(upper, b"\0")]:
                rest = upper if self.careless else lower
                return assemble([*said, (END, b"\x01" + digest(self.within(rest, END)))])
            if said and said[-1][1] == more[0][1] == b"\0":
                said.pop()
            said += more
            lower = upper
        while said and said[-1][1] == b"\0":
            said.pop()
        return assemble(said)


# sets of items

timestamps = st.sampled_from(
    [
        lambda chance: 5,
        lambda chance: chance.randrange(4),
        lambda chance: 1_700_000_000 + chance.randrange(1000),
        lambda chance: chance.choice([0, 1, LATEST - 1, LATEST]),
        lambda chance: chance.randrange(2**63),
    ]
)
# Fingerprints are sums: ids with less chance in them than these would have the same by accident.
ids = st.sampled_from(
    [
        lambda chance: chance.randbytes(32),
        lambda chance: b"\xff" * 16 + chance.randbytes(16),
        lambda chance: chance.randbytes(16) + bytes(16),
        lambda chance: bytes(chance.choices([0, 255], k=2)) + bytes(14) + chance.randbytes(16),
    ]
)


@st.composite
def two_sets(draw: st.DrawFn) -> tuple[list[Item], list[Item]]:
    """What two sides have: some of it in common, an id always with the same time."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    when, which = draw(timestamps), draw(ids)
    pool = {which(chance): when(chance) for _ in range(draw(st.integers(0, 400)))}
    for n, event_id in enumerate([*pool][:8]):  # ids that differ in their last byte alone
        pool[event_id[:31] + bytes([event_id[31] ^ 1 << n])] = pool[event_id]
    ours_only, theirs_only = draw(st.tuples(shares, shares))
    ours, theirs = [], []
    for event_id, created_at in pool.items():
        if not chance.random() < theirs_only:
            ours.append((created_at, event_id))
        if not chance.random() < ours_only:
            theirs.append((created_at, event_id))
    return sorted(ours), sorted(theirs)


shares = st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.95, 1.0])
frame_limits = st.sampled_from([SMALLEST, SMALLEST + 1, 5000, 60_000])


def difference(ours: Sequence[Item], theirs: Sequence[Item]) -> set[bytes]:
    return {event_id for _, event_id in set(ours) - set(theirs)}


def drive(client: Client, answer: Callable[[bytes], bytes]) -> list[bytes]:
    """The answers until the client is finished."""
    answers: list[bytes] = []
    message: bytes | None = client.initiate()
    while message is not None:
        answers.append(answer(message))
        message = client.reconcile(answers[-1])
    return answers


def check(client: Client, items: Items, ours: Sequence[Item], theirs: Sequence[Item]) -> None:
    lacked = [items.id(position) for position in client.have]
    assert len(lacked) == len(set(lacked))
    assert set(lacked) == difference(ours, theirs)
    assert client.need == difference(theirs, ours)


@given(sets=two_sets(), limits=st.tuples(frame_limits, frame_limits))
def test_two_of_ours_agree_with_set_difference(
    sets: tuple[list[Item], list[Item]], limits: tuple[int, int]
) -> None:
    ours, theirs = sets
    items = Items(ours)
    client = Client(items, max_needed=len(theirs), frame_limit=limits[0])
    server = Server(Items(theirs), frame_limit=limits[1])

    def answer(message: bytes) -> bytes:
        assert len(message) <= limits[0]
        sent = server.reconcile(message)
        assert len(sent) <= limits[1]
        assert take_apart(message)
        take_apart(sent)
        return sent

    drive(client, answer)
    check(client, items, ours, theirs)
    if ours == theirs:
        assert client.rounds == 1


habits = st.fixed_dictionaries(
    {
        "parts": st.sampled_from([2, 3, 16, 100]),
        "few": st.sampled_from([1, 3, 32, 1000]),
        "cut": st.sampled_from([20, 30, 1000]),
        "careless": st.booleans(),
        "chance": st.builds(random.Random, st.integers(0, 2**32)),
    }
)


@given(sets=two_sets(), limit=frame_limits, habits=habits)
def test_servers_with_other_habits(
    sets: tuple[list[Item], list[Item]], limit: int, habits: dict[str, Any]
) -> None:
    ours, theirs = sets
    items = Items(ours)
    client = Client(items, max_needed=len(theirs), frame_limit=limit)
    drive(client, Peer(theirs, **habits).answer)
    check(client, items, ours, theirs)


@given(sets=two_sets(), limit=frame_limits, habits=habits)
def test_clients_with_other_habits(
    sets: tuple[list[Item], list[Item]], limit: int, habits: dict[str, Any]
) -> None:
    ours, theirs = sets
    server = Server(Items(ours), frame_limit=limit)
    asker = Peer(theirs, asker=True, **habits)
    message = asker.start()
    for _ in range(200):
        if message == HELLO:
            break
        answer = server.reconcile(message)
        assert len(answer) <= limit
        message = asker.answer(answer)
    assert message == HELLO
    assert asker.have == difference(theirs, ours)
    assert asker.need == difference(ours, theirs)


def some(count: int, seed: int = 1) -> list[Item]:
    chance = random.Random(seed)
    return sorted((chance.randrange(10**6), chance.randbytes(32)) for _ in range(count))


def test_large_differences_in_the_smallest_frames() -> None:
    ours, theirs = some(6000), some(6000)[3000:] + some(3000, seed=2)
    items = Items(ours)
    client = Client(items, max_needed=3000, frame_limit=SMALLEST)
    server = Server(Items(theirs), frame_limit=SMALLEST)
    drive(client, server.reconcile)
    check(client, items, ours, theirs)
    # the fuse allows for eight items an answer
    assert client.rounds < (len(ours) + len(client.need)) / 50


def test_equal_sides_need_one_answer_of_one_byte() -> None:
    items = Items(some(5000))
    client = Client(items, max_needed=0)
    assert drive(client, Server(items).reconcile) == [HELLO]
    assert (client.have.tolist(), client.need) == ([], set())


# items


@given(sets=two_sets(), data=st.data())
def test_items_are_sorted_and_summed(
    sets: tuple[list[Item], list[Item]], data: st.DataObject
) -> None:
    rows = sets[0]
    shuffled = data.draw(st.permutations(rows)) + rows[::3]
    items = Items(shuffled)
    items.seal()
    assert [(items.created_at(n), items.id(n)) for n in range(len(items))] == rows
    lo = data.draw(st.integers(0, len(rows)))
    hi = data.draw(st.integers(lo, len(rows)))
    assert items.ids(lo, hi) == ids_of(rows[lo:hi])
    assert items.fingerprint(lo, hi) == digest(rows[lo:hi])


@given(sets=two_sets(), until=st.integers(0, 12))
def test_items_that_come_in_columns(sets: tuple[list[Item], list[Item]], until: int) -> None:
    ours, _ = sets
    columns = Items()
    for start in range(0, len(ours), 7):
        part = sorted(set(ours))[start : start + 7]
        columns.extend_packed(b"".join(time.to_bytes(8) for time, _ in part), ids_of(part))
    assert len(columns) == len(set(ours))
    columns.cut(until)
    columns.seal()
    kept = sorted(item for item in set(ours) if item[0] < until)
    assert [(columns.created_at(n), columns.id(n)) for n in range(len(columns))] == kept
    assert columns.fingerprint(0, len(columns)) == digest(kept)
    with pytest.raises(RuntimeError):
        columns.cut(0)
    with pytest.raises(RuntimeError):
        columns.extend_packed(b"", b"")


@pytest.mark.parametrize(
    ("times", "ids"),
    [(bytes(8), b""), (bytes(8), bytes(33)), (b"\xff" * 8, bytes(32)), (b"x", b"")],
)
def test_columns_that_cannot_be(times: bytes, ids: bytes) -> None:
    with pytest.raises(ValueError, match=r"item size|as many|out of range|multiple"):
        Items().extend_packed(times, ids)


@given(sets=two_sets())
def test_a_digest_tells_whether_anything_has_changed(sets: tuple[list[Item], list[Item]]) -> None:
    ours, theirs = (sorted(set(each)) for each in sets)
    items = Items(ours)
    client = Client(items, max_needed=PLENTY)
    server = Server(Items(theirs))
    drive(client, server.reconcile)
    remembered = client.theirs
    assert remembered.fingerprint == digest(theirs)
    assert remembered.items == len(theirs)
    assert is_settled(server.reconcile(remembered.ask()))
    items.seal()
    is_equal = is_settled(server.reconcile(items.digest(0, len(items)).ask()))
    assert is_equal == (ours == theirs)
    middle = len(items) // 2
    assert items.digest(0, middle) + items.digest(middle, len(items)) == items.digest(0, len(items))


@pytest.mark.parametrize("answer", [b"", b"\x60", HELLO + b"\x00", HELLO + b"\x00\x00\x09"])
def test_answers_that_settle_nothing(answer: bytes) -> None:
    with pytest.raises(NegentropyError):
        is_settled(answer)


def test_items_that_come_in_order_one_by_one_with_duplicates() -> None:
    rows = some(100)
    items = Items()
    for row in rows:
        items.add(*row)
        items.add(*row)
    items.seal()
    items.seal()
    assert [(items.created_at(n), items.id(n)) for n in range(len(items))] == rows


@pytest.mark.parametrize(
    ("created_at", "event_id"), [(-1, bytes(32)), (2**63, bytes(32)), (0, bytes(31))]
)
def test_items_that_cannot_be(created_at: int, event_id: bytes) -> None:
    items = Items()
    with pytest.raises(ValueError, match=r"created_at|id"):
        items.add(created_at, event_id)
    assert len(items) == 0


def test_what_we_must_not_do() -> None:
    items = Items(some(3))
    client = Client(items, max_needed=0)
    with pytest.raises(RuntimeError):
        client.reconcile(HELLO)
    client.initiate()
    with pytest.raises(RuntimeError):
        client.initiate()
    with pytest.raises(RuntimeError):
        items.add(0, bytes(32))
    with pytest.raises(ValueError, match="frame limit"):
        Client(items, max_needed=0, frame_limit=SMALLEST - 1)
    with pytest.raises(ValueError, match="frame limit"):
        Server(items, frame_limit=0)
    assert client.reconcile(HELLO) is None
    with pytest.raises(RuntimeError):
        client.reconcile(HELLO)


# bytes, as the specification has them


def test_the_first_message_byte_by_byte() -> None:
    assert Client(Items(), max_needed=0).initiate() == b"\x61\0\0\x02\0"
    one = Items([(LATEST, b"a" * 32)])
    assert Client(one, max_needed=0).initiate() == b"\x61\0\0\x02\x01" + b"a" * 32
    rows = [(300 * n, bytes([n]) * 32) for n in range(32)]
    expected = HELLO
    for n in range(0, 30, 2):  # 601 is 4 * 128 + 89
        expected += b"\x84\x59\0\x01" + digest(rows[n : n + 2])
    expected += b"\0\0\x01" + digest(rows[30:])
    assert Client(Items(rows), max_needed=0).initiate() == expected


def test_bounds_within_one_second_are_as_short_as_can_be() -> None:
    rows = [(7, b"same" + bytes([n]) + bytes(27)) for n in range(64)]
    message = Client(Items(rows), max_needed=0).initiate()
    uppers = [upper for upper, _, _ in take_apart(message)]
    assert uppers == [*((7, b"same" + bytes([n])) for n in range(4, 64, 4)), END]
    assert message[1:9] == b"\x08\x05same\x04\x01"
    assert message[25:33] == b"\x01\x05same\x08\x01"


def test_a_prefix_stands_for_zeros_after_it() -> None:
    rows = [(7, b"a" + bytes(31)), (7, b"a" + bytes(30) + b"\x01")]
    for prefix in (b"a", b"a\0", b"a" + bytes(31)):
        message = assemble([((7, prefix), b"\0"), (END, b"\x01" + bytes(16))])
        answer = Server(Items(rows)).reconcile(message)
        assert take_apart(answer) == [((7, b"a"), SKIP, b""), (END, ID_LIST, ids_of(rows))]


def test_versions() -> None:
    items = Items(some(3))
    assert Server(items).reconcile(b"\x62whatever") == HELLO
    for answer in (b"", b"\x60", b"\x62"):
        client = Client(items, max_needed=0)
        client.initiate()
        with pytest.raises(NegentropyError, match="version"):
            client.reconcile(answer)


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        (b"\0", "truncated"),
        (b"\0\0", "truncated"),
        (b"\x85", "truncated"),
        (b"\x05\x04abc", "truncated"),
        (b"\0\0\x01" + bytes(15), "truncated"),
        (b"\0\0\x02\x02" + bytes(63), "truncated"),
        (b"\0\0\x02" + number(2**63), "truncated"),
        (b"\0\0\x02" + number(2**64 - 1), "truncated"),
        (b"\0\0\x03", "unknown mode"),
        (b"\0\0" + number(2**40), "unknown mode"),
        (b"\x80\x01\0\0", "bad number"),
        (b"\xff" * 9 + b"\x7f\0\0", "bad number"),
        (b"\xff" * 11, "bad number"),
        (b"\x05\x21" + bytes(33) + b"\0", "id prefix too long"),
        (number(2**64 - 1) + b"\0\0" + b"\x05\0\0", "timestamp too large"),
        (b"\0\0\0" + b"\0\0\0", "a range after the last"),
        (b"\x05\x01b\0" + b"\x01\x01a\0", "ranges out of order"),
        (b"\0\0\x02\x02" + bytes(64), "an id twice"),
        (b"\x05\x01b\0" + b"\x01\x01c\x02\x01" + b"a" * 32, "an id out of its range"),
        (b"\x05\x01b\0" + b"\x01\x01c\x02\x01" + b"c" * 32, "an id out of its range"),
        (b"\x05\x01b\0" + b"\x02\0\x02\x01" + b"a" * 32, "an id out of its range"),
        (b"\x01\0\x02\x01" + b"a" * 32, "an id out of its range"),
    ],
)
def test_malformed_messages(ranges: bytes, reason: str) -> None:
    items = Items([(9, b"z" * 32)])
    client = Client(items, max_needed=PLENTY)
    client.initiate()
    with pytest.raises(NegentropyError, match=reason):
        client.reconcile(HELLO + ranges)
    with pytest.raises(NegentropyError, match=reason):
        Server(items).reconcile(HELLO + ranges)


def test_an_id_in_two_ranges_and_ids_that_nobody_asked_for() -> None:
    items = Items([(100 * n, bytes([n]) * 32) for n in range(64)])
    twice = assemble(
        [((50, b""), listing([(5, b"x" * 32)])), ((60, b""), listing([(55, b"x" * 32)]))]
    )
    wide = assemble([(END, listing([(5, b"x" * 32)]))])
    for answer, reason in ((twice, "an id twice"), (wide, "not asked for")):
        client = Client(items, max_needed=PLENTY)
        client.initiate()
        with pytest.raises(NegentropyError, match=reason):
            client.reconcile(answer)


def test_needing_too_much() -> None:
    items, server = Items(), Server(Items(some(100)))
    exact = Client(items, max_needed=100)
    drive(exact, server.reconcile)
    assert len(exact.need) == 100
    with pytest.raises(TooManyNeededError):
        drive(Client(items, max_needed=99), server.reconcile)


# hostile bytes

OURS, THEIRS = some(2000), some(2000)[100:] + some(100, seed=2)


def talk() -> list[tuple[Client, bytes, bytes]]:
    """The rounds of an honest conversation: the client as it waits, question, answer."""
    client = Client(Items(OURS), max_needed=PLENTY, frame_limit=SMALLEST)
    server = Server(Items(THEIRS), frame_limit=SMALLEST)
    rounds, message = [], client.initiate()
    while True:
        answer = server.reconcile(message)
        rounds.append((snapshot(client), message, answer))
        following = client.reconcile(answer)
        if following is None:
            return rounds
        message = following


def snapshot(client: Client) -> Client:
    """A copy that goes its own way over the same items."""
    return copy.deepcopy(client, {id(client._items): client._items})


TALK = talk()
SERVER = Server(Items(THEIRS), frame_limit=SMALLEST)


def feed(client: Client, answer: bytes) -> None:
    """Whatever it is, it is an error or it is taken, and what follows stays within bounds."""
    client = snapshot(client)
    try:
        message = client.reconcile(answer)
        while message is not None:
            message = client.reconcile(SERVER.reconcile(message))
    except NegentropyError:
        return
    assert len(client.need) <= PLENTY
    assert len(client.have) <= len(OURS)


def ask(message: bytes) -> None:
    try:
        answer = SERVER.reconcile(message)
    except NegentropyError:
        return
    assert len(answer) <= SMALLEST


@pytest.mark.slow
def test_every_truncation() -> None:
    for client, question, answer in (TALK[0], TALK[-1]):
        for end in ends(question):
            ask(question[:end])
        for end in ends(answer):
            feed(client, answer[:end])


def ends(message: bytes) -> Iterator[int]:
    """Where to cut a message off: everywhere in a short one, and near both ends of a long one; in
    its middle, which is like its ends, at places that meet each byte of a range and of an id."""
    near = 400
    for end in range(len(message)):
        if end < near or end > len(message) - near or end % 11 == 0:
            yield end


@given(
    which=st.integers(0, len(TALK) - 1),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 2), st.binary(max_size=4)),
        min_size=1,
        max_size=5,
    ),
)
def test_mutations(which: int, changes: list[tuple[float, int, bytes]]) -> None:
    client, *messages = TALK[which]
    mutated = []
    for message in messages:
        data = bytearray(message)
        for place, dropped, inserted in changes:
            at = int(place * len(data))
            data[at : at + dropped] = inserted
        mutated.append(bytes(data))
    ask(mutated[0])
    feed(client, mutated[1])


@given(data=st.binary(max_size=300), which=st.integers(0, len(TALK) - 1))
def test_random_bytes(data: bytes, which: int) -> None:
    for message in (data, HELLO + data, HELLO + b"\0\0" + data):
        ask(message)
        feed(TALK[which][0], message)


def differing(chance: random.Random) -> bytes:
    return b"\x01" + chance.randbytes(16)


def always_all(question: bytes, chance: random.Random) -> bytes:
    return assemble([(END, differing(chance))])


def each_as_asked(question: bytes, chance: random.Random) -> bytes:
    return assemble([(upper, differing(chance)) for upper, _, _ in take_apart(question)])


def everywhere(question: bytes, chance: random.Random) -> bytes:
    places = sorted(chance.choices(range(10**6), k=1000))
    return assemble([((place, b""), differing(chance)) for place in places])


def between_skips(question: bytes, chance: random.Random) -> bytes:
    places = sorted(chance.choices(range(10**6), k=1000))
    return assemble(
        [((place, b""), b"\0" if n % 2 else differing(chance)) for n, place in enumerate(places)]
    )


def drop_by_drop(question: bytes, chance: random.Random) -> bytes:
    """The first range that may hold an id gets one, the rest is left open."""
    lower: Item = (0, b"")
    said: list[tuple[Item, bytes]] = []
    for upper, mode, _ in take_apart(question):
        if mode != SKIP and upper[0] > lower[0] + 1:
            said.append(
                ((lower[0] + 1, b""), listing([(lower[0], b"\xff" + chance.randbytes(31))]))
            )
            break
        said.append((upper, differing(chance)))
        lower = upper
    return assemble([*said, (END, differing(chance))])


@pytest.mark.parametrize(
    "answer", [always_all, each_as_asked, everywhere, between_skips, drop_by_drop]
)
@pytest.mark.parametrize("count", [0, 1, 40, 2000])
def test_servers_that_never_agree_come_to_an_end(
    answer: Callable[[bytes, random.Random], bytes], count: int
) -> None:
    chance = random.Random(3)
    most = 500
    client = Client(Items(some(count)), max_needed=most, frame_limit=SMALLEST)
    with pytest.raises(NegentropyError):
        drive(client, lambda question: answer(question, chance))
    assert client.rounds <= 33 + (count + most) / 8


@pytest.mark.slow
def test_splitting_without_end_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negentropy, "MOST_OPEN", 10_000)
    monkeypatch.setattr(negentropy, "SPARE_BYTES", PLENTY)
    client = Client(Items([(10**6 + n, bytes([n]) * 32) for n in range(40)]), max_needed=0)
    client.initiate()
    answer = assemble([((1, b""), b"\0")]) + (b"\x02\0\x01" + bytes(16)) * 11_000
    tracemalloc.start()
    try:
        with pytest.raises(NegentropyError, match="too many ranges"):
            client.reconcile(answer)
        assert tracemalloc.get_traced_memory()[1] < 330 * 11_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", [b"\0", b"\x01" + bytes(16), b"\x02\0"])
def test_an_answer_is_no_longer_than_the_question_makes_it(body: bytes) -> None:
    client = Client(Items(OURS), max_needed=PLENTY)
    client.initiate()
    answer = HELLO + (b"\x02\0" + body) * 200_000
    for take in (client.reconcile, is_settled):
        with pytest.raises(NegentropyError, match="longer"):
            take(answer[:140_000])
    # Whatever was asked for, and the more of it.
    rounds = talk()
    client, _, honest = max(rounds, key=lambda each: len(each[0]._asked))
    most = 65_536 + 4096 * len(client._asked)
    assert most > 100_000
    with pytest.raises(NegentropyError, match="longer"):
        client.reconcile(answer[: most + 1])
    client.reconcile(honest)


def test_ranges_without_end_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few at a time, and each answer settles enough to go on."""
    monkeypatch.setattr(negentropy, "SPARE_PARTS", 1000)
    monkeypatch.setattr(negentropy, "SPARE_ROUNDS", PLENTY)
    client = Client(Items(OURS), max_needed=0, frame_limit=SMALLEST)
    chance, parts = random.Random(3), 0

    def answer(question: bytes) -> bytes:
        nonlocal parts
        uppers = [upper for upper, mode, _ in take_apart(question) if mode != SKIP]
        parts += len(uppers)
        return assemble([(upper, differing(chance)) for upper in uppers])

    with pytest.raises(NegentropyError, match="in all"):
        drive(client, answer)
    assert parts < 1000 + 4 * len(OURS) + 500


def test_long_computations_are_made_in_steps() -> None:
    """Others have their turn in between, and the outcome is the same."""
    items = Items(some(50_000))
    assert sum(1 for _ in items.sealing()) == 4
    assert sum(1 for _ in items.sealing()) == 0
    client = Client(items, max_needed=PLENTY)
    ranges = [((300 * n, b""), b"\x01" + bytes(16)) for n in range(1, 3001)]
    client.initiate()
    twin = snapshot(client)
    steps = 0
    for _ in client.reconciling(assemble(ranges)):
        steps += 1
        assert client.following is None
    assert steps == 3000 // 500 + 1
    assert client.following is not None
    assert client.following == twin.reconcile(assemble(ranges))


# against nostr-sdk

EVENTS = [make_event(1_700_000_000 + n // 3, content=f"note {n}") for n in range(2000)]
CASES = {
    "some": (EVENTS[:1500] + EVENTS[1530:], EVENTS[:300] + EVENTS[350:]),
    "equal": (EVENTS, EVENTS),
    "apart": (EVENTS[:600], EVENTS[700:]),
    "nothing of ours": ([], EVENTS),
    "nothing of theirs": (EVENTS, []),
}


def items_of(events: Sequence[dict[str, Any]]) -> list[Item]:
    return sorted((event["created_at"], bytes.fromhex(event["id"])) for event in events)


@pytest.mark.parametrize("case", CASES)
async def test_nostr_sdk_as_server(case: str) -> None:
    ours, theirs = map(items_of, CASES[case])
    async with local_relay(CASES[case][1]) as url, connect(url, max_size=None) as socket:
        for limit in (SMALLEST, 60_000):
            items = Items(ours)
            client = Client(items, max_needed=len(theirs), frame_limit=limit)
            await socket.send(json.dumps(["NEG-OPEN", "n", {}, client.initiate().hex()]))
            while True:
                verb, _, answer = json.loads(await socket.recv())
                assert verb == "NEG-MSG", answer
                message = client.reconcile(bytes.fromhex(answer))
                if message is None:
                    break
                await socket.send(json.dumps(["NEG-MSG", "n", message.hex()]))
            await socket.send(json.dumps(["NEG-CLOSE", "n"]))
            check(client, items, ours, theirs)


@pytest.mark.parametrize("limit", [SMALLEST, 60_000])
@pytest.mark.parametrize("case", CASES)
async def test_nostr_sdk_as_client(case: str, limit: int) -> None:
    ours, theirs = CASES[case]  # nostr-sdk's and those of our server
    server = Server(Items(items_of(theirs)), frame_limit=limit)

    async def converse(socket: ServerConnection) -> None:
        async for frame in socket:
            verb, subscription, *rest = json.loads(frame)
            if verb in ("NEG-OPEN", "NEG-MSG"):
                answer = server.reconcile(bytes.fromhex(rest[-1]))
                await socket.send(json.dumps(["NEG-MSG", subscription, answer.hex()]))

    async with serve(converse, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        url = nostr_sdk.RelayUrl.parse(f"ws://127.0.0.1:{port}")
        client = nostr_sdk.Client()
        try:
            await client.add_relay(url)
            relay = await client.relay(url)
            await relay.try_connect(timedelta(seconds=10))
            held = [
                nostr_sdk.NegentropyItem(
                    id=nostr_sdk.EventId.parse(event["id"]),
                    timestamp=nostr_sdk.Timestamp.from_secs(event["created_at"]),
                )
                for event in ours
            ]
            both = nostr_sdk.SyncOptions().direction(nostr_sdk.SyncDirection.BOTH).dry_run()
            found = await relay.sync(nostr_sdk.Filter(), held, both)
        finally:
            await client.shutdown()
    mine, yours = ({event["id"] for event in events} for events in (ours, theirs))
    assert {event_id.to_hex() for event_id in found.local} == mine - yours
    assert {event_id.to_hex() for event_id in found.remote} == yours - mine
