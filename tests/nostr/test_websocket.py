"""The frame reader: every cut of the bytes gives the same messages, and nothing makes it fail."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from bigbrotr.nostr.websocket import Code, FrameReader, Goodbye, encode

MAX = 4096


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


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=5))
def test_any_bytes_are_survived(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader(MAX)
    for message in feed_in_pieces(reader, data, cuts):
        assert len(message) <= MAX


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(0x1, b"x" * (MAX + 1)), Code.TOO_BIG),
        (struct.pack("!BBQ", 0x81, 127, 1 << 62), Code.TOO_BIG),
        (frame(0x1, b"x", rsv=0x40), Code.PROTOCOL_ERROR),
        (b"\x81\x85" + b"mask" + b"hello", Code.PROTOCOL_ERROR),
        (b"\x81\xfe\x00\x80", Code.PROTOCOL_ERROR),
        (frame(0x3, b""), Code.PROTOCOL_ERROR),
        (frame(0x0, b"nothing before"), Code.PROTOCOL_ERROR),
        (frame(0x1, b"a", final=False) + frame(0x1, b"b"), Code.PROTOCOL_ERROR),
        (frame(0x9, b"x" * 126), Code.PROTOCOL_ERROR),
        (frame(0x9, b"x", final=False), Code.PROTOCOL_ERROR),
        (frame(0x1, b"x" * 3000, final=False) + frame(0x0, b"x" * 3000), Code.TOO_BIG),
        (frame(0x1, b"", final=False) + frame(0x0, b"", final=False) * 600, Code.TOO_BIG),
    ],
)
def test_violations_end_the_connection(data: bytes, code: Code) -> None:
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
    assert reader.goodbye == Goodbye(Code.NO_STATUS, "")


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
