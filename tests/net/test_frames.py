"""The frame reader: every cut of the bytes gives the same messages, and nothing makes it fail."""

import struct
import tracemalloc
from array import array
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from bigbrotr.models import native
from bigbrotr.models.burst import Burst
from bigbrotr.net import frames
from bigbrotr.net.frames import (
    FRAME_COST,
    MOST_BYTES,
    SAMPLE_BYTES,
    CloseCode,
    FrameReader,
    Goodbye,
    Oversized,
    encode,
)
from tests.kit.c import NATIVE

MAX = 4096


@pytest.fixture(params=["C", "Python"], scope="module", autouse=True)
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """All of it where C looks through whatever comes, and where there is no C."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "Python":
            patched.setattr(native, "here", None)
        elif native.here is None:
            pytest.skip("native/ is not compiled")
        patched.setattr(frames, "BURST", 0)
        yield


@NATIVE
@given(
    st.lists(st.tuples(st.sampled_from([0x1, 0x1, 0x1, 0x2, 0x9, 0x0]), st.binary(max_size=300))),
    st.integers(0, 40),
    st.binary(max_size=20),
)
def test_c_takes_what_is_whole_and_plain(
    parts: list[tuple[int, bytes]], start: int, tail: bytes
) -> None:
    data = b"".join(frame(opcode, payload) for opcode, payload in parts) + tail
    start = min(start, len(data))
    import bigbrotr_native

    bounds, end = bigbrotr_native.messages(data, start, 200)
    found = list(Burst(data, bounds))
    assert start <= end <= len(data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(native, "here", None)
        assert FrameReader(200).feed(data[start:end]) == found
    assert all(0 < len(each) <= 200 for each in found)
    rest = data[end:]
    if rest[:1] == b"\x81" and len(rest) > 1 and 0 < rest[1] < 126:  # else it is another's
        assert rest[1] > min(200, len(rest) - 2)


@NATIVE
def test_c_takes_so_many_at_once() -> None:
    import bigbrotr_native

    most = bigbrotr_native.MOST_MESSAGES
    data = frame(0x1, b"x") * (most + 5)
    bounds, end = bigbrotr_native.messages(data, 0, 10)
    assert (list(Burst(data, bounds)), end) == ([b"x"] * most, 3 * most)
    assert FrameReader(MAX).feed(data) == [b"x"] * (most + 5)
    for length in (b"\x7f" + b"\xff" * 8, b"\x7f" + bytes(8), b"\x7e\xff", b"\xfe\x00\x01x"):
        assert bigbrotr_native.messages(b"\x81" + length, 0, 1 << 62) == (array("I"), 0)


def frame(opcode: int, payload: bytes, *, final: bool = True, rsv: int = 0) -> bytes:
    """A server's frame, built apart from the code under test."""
    first = (0x80 if final else 0) | rsv | opcode
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    if len(payload) < 1 << 16:
        return struct.pack("!BBH", first, 126, len(payload)) + payload
    return struct.pack("!BBQ", first, 127, len(payload)) + payload


def feed_in_pieces(reader: FrameReader, data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    messages = []
    for start, end in pairwise(edges):
        messages += reader.feed(data[start:end])
    return messages


payloads = st.one_of(
    st.binary(max_size=200), st.sampled_from([b"x" * 125, b"x" * 126, b"y" * 127, b"z" * MAX])
)


@given(st.lists(payloads, max_size=8), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_messages_are_the_same_however_the_bytes_are_cut(
    sent: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(frame(0x1, payload) for payload in sent)
    reader = FrameReader(MAX)
    assert feed_in_pieces(reader, data, cuts) == sent
    assert reader.goodbye is None


def test_byte_by_byte_with_a_tail() -> None:
    data = frame(0x1, b"a" * 300) + frame(0x9, b"ping") + frame(0x1, b"b") + b"\x81"
    reader = FrameReader(MAX)
    messages = [message for byte in data for message in reader.feed(bytes([byte]))]
    assert messages == [b"a" * 300, b"b"]
    assert len(reader.replies) == 1


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=6), st.booleans())
def test_fragments_make_one_message_with_pings_in_between(parts: list[bytes], pinged: bool) -> None:
    reader = FrameReader(MAX)
    messages = []
    for number, part in enumerate(parts):
        opcode = 0x1 if number == 0 else 0x0
        messages += reader.feed(frame(opcode, part, final=number == len(parts) - 1))
        if pinged:
            messages += reader.feed(frame(0x9, b""))
    assert messages == [b"".join(parts)]
    assert reader.goodbye is None


def sample_of(message: bytes) -> bytes:
    """What is kept of a message that is too large."""
    head, rest = message[:SAMPLE_BYTES], message[SAMPLE_BYTES:]
    return head + rest[-SAMPLE_BYTES:]


sizes = st.integers(0, 3 * MAX) | st.sampled_from([MAX - 1, MAX, MAX + 1, 2 * MAX, 2 * MAX + 1])


@given(st.lists(st.lists(sizes, min_size=1, max_size=4), max_size=4), st.lists(st.integers(0)))
def test_what_is_too_large_is_skipped_however_it_comes(
    sizes: list[list[int]], cuts: list[int]
) -> None:
    """Whole or in fragments, with pings in between: the others come, and in its place a sample."""
    data, sent = b"", []
    for number, parts in enumerate(sizes):
        payloads = [bytes([65 + number]) * size for size in parts]
        for place, payload in enumerate(payloads):
            opcode = 0x0 if place else 0x1 + number % 2  # text or binary
            data += frame(opcode, payload, final=place == len(parts) - 1) + frame(0x9, b"")
        sent.append(b"".join(payloads))
    data += frame(0x1, b"the end")
    reader = FrameReader(MAX)
    messages = feed_in_pieces(reader, data, cuts)
    assert messages == [
        *(each if len(each) <= MAX else sample_of(each) for each in sent),
        b"the end",
    ]
    for message, each in zip(messages, sent, strict=False):
        assert isinstance(message, Oversized) == (len(each) > MAX)
        assert not isinstance(message, Oversized) or message.size == len(each)
    assert reader.goodbye is None


def test_skipping_holds_a_sample_only() -> None:
    reader = FrameReader(MAX)
    reader.feed(struct.pack("!BBQ", 0x81, 127, MOST_BYTES))
    chunk = bytes(1 << 16)
    tracemalloc.start()
    for _ in range((MOST_BYTES >> 16) - 1):
        assert reader.feed(chunk) == []
    assert tracemalloc.get_traced_memory()[1] < 1 << 19
    tracemalloc.stop()
    [message] = reader.feed(chunk)
    assert isinstance(message, Oversized)
    assert (message.size, len(message)) == (MOST_BYTES, 2 * SAMPLE_BYTES)


def test_endless_fragments_end_the_connection() -> None:
    reader = FrameReader(MAX)
    reader.feed(frame(0x1, b"x", final=False))
    part = frame(0x0, bytes(1 << 20), final=False)
    fed = 0
    while reader.goodbye is None:
        assert reader.feed(part) == []
        fed += 1 << 20
        assert fed <= MOST_BYTES
    assert reader.goodbye.code == CloseCode.TOO_BIG


@pytest.mark.parametrize("opcode", [0x1, 0x2])
def test_thousands_of_frames_that_make_progress(opcode: int) -> None:
    """Each message in two frames, as some writers do, or small ones, with pings: no end of them."""
    reader = FrameReader(1 << 20)
    parts = [frame(0x0, bytes(1000), final=False), frame(0x9, b"still there?")]
    for _ in range(30):
        message = frame(opcode, b"a", final=False) + b"".join(parts * 100) + frame(0x0, b"")
        assert [len(each) for each in reader.feed(message)] == [100_001]
        assert reader.idle == 0
        two = frame(opcode, b"a", final=False) + frame(0x0, b"b") + frame(opcode, b"whole")
        assert reader.feed(two * 100) == [b"ab", b"whole"] * 100
    assert reader.goodbye is None


@pytest.mark.parametrize(
    "nothing", [frame(0x9, b""), frame(0xA, b""), frame(0x0, b"", final=False), frame(0x2, b"")]
)
def test_what_brings_nothing_is_counted_in_bytes(nothing: bytes) -> None:
    reader = FrameReader(MAX)
    if nothing[0] == 0:
        reader.feed(frame(0x1, b"", final=False))
    before = reader.idle
    reader.feed(nothing * 1000)
    assert reader.idle == before + 1000 * FRAME_COST
    reader.feed(frame(0x0, b"x") if nothing[0] == 0 else frame(0x1, b"x"))
    assert reader.idle == 0


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=5))
def test_any_bytes_are_survived(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader(MAX)
    for message in feed_in_pieces(reader, data, cuts):
        assert len(message) <= (2 * SAMPLE_BYTES if isinstance(message, Oversized) else MAX)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (struct.pack("!BBQ", 0x81, 127, 1 << 62), CloseCode.TOO_BIG),
        (frame(0x1, b"x", rsv=0x40), CloseCode.PROTOCOL_ERROR),
        (b"\x81\x85" + b"mask" + b"hello", CloseCode.PROTOCOL_ERROR),
        (b"\x81\xfe\x00\x80", CloseCode.PROTOCOL_ERROR),
        (frame(0x3, b""), CloseCode.PROTOCOL_ERROR),
        (frame(0x0, b"nothing before"), CloseCode.PROTOCOL_ERROR),
        (frame(0x1, b"a", final=False) + frame(0x1, b"b"), CloseCode.PROTOCOL_ERROR),
        (frame(0x9, b"x" * 126), CloseCode.PROTOCOL_ERROR),
        (frame(0x9, b"x", final=False), CloseCode.PROTOCOL_ERROR),
        (struct.pack("!BBQ", 0x81, 127, MOST_BYTES + 1), CloseCode.TOO_BIG),
        (frame(0x1, b"x" * (MAX + 1), rsv=0x40), CloseCode.PROTOCOL_ERROR),
        (frame(0x9, b"x" * (MAX + 1)), CloseCode.PROTOCOL_ERROR),
        (frame(0x0, b"x" * (MAX + 1)), CloseCode.PROTOCOL_ERROR),
        (frame(0x1, b"a" * (MAX + 1), final=False) + frame(0x1, b"b"), CloseCode.PROTOCOL_ERROR),
        (frame(0x1, b"a", final=False) + frame(0x2, b"b" * (MAX + 1)), CloseCode.PROTOCOL_ERROR),
    ],
)
def test_violations_end_the_connection(data: bytes, code: CloseCode) -> None:
    reader = FrameReader(MAX)
    reader.feed(data)
    assert reader.goodbye is not None
    assert reader.goodbye.code == code
    assert reader.feed(frame(0x1, b"later")) == []


def test_close_frames_say_why() -> None:
    reader = FrameReader(MAX)
    data = frame(0x1, b"last") + frame(0x8, (1008).to_bytes(2, "big") + b"go away")
    assert reader.feed(data) == [b"last"]
    assert reader.goodbye == Goodbye(1008, "go away")
    reader = FrameReader(MAX)
    reader.feed(frame(0x8, b""))
    assert reader.goodbye == Goodbye(CloseCode.NO_STATUS, "")


@given(payloads)
def test_what_is_sent_is_read_by_an_independent_server(payload: bytes) -> None:
    server = ServerProtocol(max_size=None)
    server.state = server.state.OPEN
    server.parser = server.parse()
    next(server.parser)
    server.receive_data(encode(payload))
    [received] = server.events_received()
    assert isinstance(received, Frame)
    assert (received.opcode, bytes(received.data)) == (Opcode.TEXT, payload)


def test_pings_are_answered_with_their_payload() -> None:
    reader = FrameReader(MAX)
    reader.feed(frame(0x9, b"hello"))
    [reply] = reader.replies
    mask, masked = reply[2:6], reply[6:]
    assert reply[:2] == bytes([0x8A, 0x85])
    assert bytes(a ^ b for a, b in zip(masked, mask * 2, strict=False)) == b"hello"


def test_messages_keep_little_else_alive() -> None:
    """Else a relay could hide much in few messages, which wait to be read."""
    pings = frame(0x9, b"x" * 125) * 2000
    few = FrameReader(MAX).read(frame(0x1, b"a") * 3 + pings)
    assert few == [b"a"] * 3
    assert all(isinstance(each, bytes) for each in few)
    many = FrameReader(MAX).read(frame(0x1, b"a" * 100) * 3000 + pings)
    for each in many:
        if isinstance(each, Burst):
            assert len(each.data) < 2 * sum(len(frame(0x1, message)) for message in each)
    assert sum(len(each) if isinstance(each, Burst) else 1 for each in many) == 3000
