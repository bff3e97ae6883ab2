"""Compressed messages: the same however they are cut, packed or mixed; bombs and garbage end it."""

import asyncio
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from bigbrotr.config.settings import Link
from bigbrotr.models.relay import Relay
from bigbrotr.net.dial import dial
from bigbrotr.net.frames import CloseCode, FrameReader, Oversized, one_by_one
from bigbrotr.net.inflate import SAVED_BYTES, Agreed, Inflater
from bigbrotr.net.websocket import Stream
from tests.net.test_frames import MAX, feed_in_pieces, frame, payloads

PACKED = 0x40


class Packer:
    """Packs messages as a server does, with what was agreed on."""

    def __init__(self, agreed: Agreed) -> None:
        self._agreed = agreed
        self._engine = self._new()

    def _new(self) -> "zlib._Compress":
        return zlib.compressobj(wbits=-self._agreed.window_bits)

    def __call__(self, payload: bytes) -> bytes:
        packed = self._engine.compress(payload) + self._engine.flush(zlib.Z_SYNC_FLUSH)
        assert packed.endswith(b"\x00\x00\xff\xff")
        if not self._agreed.keeps_window:
            self._engine = self._new()
        return packed[:-4]


WINDOW = Agreed()


def reader(agreed: Agreed = WINDOW, max_size: int = MAX) -> FrameReader:
    made = FrameReader(max_size)
    made.inflater = Inflater(agreed, max_size)
    return made


@given(
    st.lists(st.tuples(payloads, st.booleans(), st.integers(0, 3)), max_size=8),
    st.lists(st.integers(0, 1 << 20), max_size=12),
    st.builds(Agreed, st.integers(9, 15), st.booleans()),
)
def test_messages_are_the_same_however_they_come(
    sent: list[tuple[bytes, bool, int]], cuts: list[int], agreed: Agreed
) -> None:
    """Packed or not, whole or in fragments, with pings between them."""
    pack, data = Packer(agreed), b""
    for payload, is_packed, more in sent:
        given, rsv = (pack(payload), PACKED) if is_packed else (payload, 0)
        step = len(given) // (more + 1) + 1
        parts = [given[at : at + step] for at in range(0, len(given), step)] or [b""]
        for number, part in enumerate(parts):
            opcode, is_last = (0x0 if number else 0x1), number == len(parts) - 1
            data += frame(opcode, part, final=is_last, rsv=0 if number else rsv)
            data += frame(0x9, b"ping")
    read = reader(agreed)
    assert feed_in_pieces(read, data, cuts) == [payload for payload, _, _ in sent]
    assert read.goodbye is None


def test_what_is_too_large_is_skipped_and_the_window_goes_on() -> None:
    pack, noise = Packer(Agreed()), random.Random(1).randbytes(3 * MAX)
    read = reader()
    messages = read.feed(frame(0x1, pack(b"first"), rsv=PACKED))
    large = b"x" * 50 * MAX
    messages += read.feed(frame(0x1, pack(large), rsv=PACKED))
    messages += read.feed(frame(0x1, pack(b"first and last"), rsv=PACKED))
    assert messages[::2] == [b"first", b"first and last"]
    assert isinstance(messages[1], Oversized)
    assert messages[1].size == len(large)
    read.feed(frame(0x1, pack(noise), rsv=PACKED))  # larger than messages are, packed as well
    assert read.goodbye is not None
    assert read.goodbye.code == CloseCode.TOO_BIG


def test_what_is_too_large_and_not_packed_is_skipped_after_a_packed_one() -> None:
    pack, read = Packer(Agreed()), reader()
    messages = read.feed(frame(0x1, pack(b"first"), rsv=PACKED))
    messages += read.feed(frame(0x1, b"x" * 2 * MAX, final=False) + frame(0x0, b"y" * 10))
    messages += read.feed(frame(0x1, pack(b"last"), rsv=PACKED))
    assert read.goodbye is None
    assert messages[::2] == [b"first", b"last"]
    assert isinstance(messages[1], Oversized)
    assert messages[1].size == 2 * MAX + 10


def test_a_bomb_ends_the_connection_before_it_takes_room() -> None:
    pack = Packer(Agreed())
    size = 1 << 20
    bomb = b"".join(frame(0x1, pack(bytes(size)), rsv=PACKED) for _ in range(200))
    read = reader(max_size=size)
    tracemalloc.start()
    got = 0
    for at in range(0, len(bomb), 1 << 16):
        got += len(read.feed(bomb[at : at + (1 << 16)]))
        if read.goodbye is not None:
            break
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read.goodbye is not None
    assert read.goodbye.code == CloseCode.INVALID_PAYLOAD
    assert got * size < 2 * SAVED_BYTES
    assert most < 2 * SAVED_BYTES
    one = reader()
    one.feed(frame(0x1, Packer(Agreed())(bytes(100 << 20)), rsv=PACKED))
    assert one.goodbye is not None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(0x1, b"\xff\xff\xff", rsv=PACKED), CloseCode.INVALID_PAYLOAD),
        (frame(0x9, b"x", rsv=PACKED), CloseCode.PROTOCOL_ERROR),
        (frame(0x1, b"a", final=False) + frame(0x0, b"x", rsv=PACKED), CloseCode.PROTOCOL_ERROR),
        (frame(0x1, b"x", rsv=0x20), CloseCode.PROTOCOL_ERROR),
        (frame(0x1, b"x", rsv=0x60), CloseCode.PROTOCOL_ERROR),
    ],
)
def test_what_was_not_agreed_on_ends_it(data: bytes, code: CloseCode) -> None:
    read = reader()
    assert read.feed(data) == []
    assert read.goodbye is not None
    assert read.goodbye.code == code


@given(st.binary(max_size=300))
def test_garbage_makes_nothing_fail(garbage: bytes) -> None:
    reader().feed(frame(0x1, garbage, rsv=PACKED))
    reader(Agreed(9, keeps_window=False)).feed(garbage)


@pytest.fixture(params=[None, ServerPerMessageDeflateFactory(), "no window"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A server that agrees to nothing, to compression, or to that without a window."""

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            assert isinstance(message, str)
            for number in range(3):
                await connection.send(f"{message} {number} " + "x" * 5000)

    offer = request.param
    if offer == "no window":
        offer = ServerPerMessageDeflateFactory(
            server_no_context_takeover=True, server_max_window_bits=10
        )
    extensions = None if offer is None else [offer]
    server = await serve(answer, "127.0.0.1", 0, compression=None, extensions=extensions)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("compression", [False, True])
async def test_a_real_server_is_asked_for_it(url: str, compression: bool) -> None:
    link = Link(compression=compression, timeout_s=5)
    stream = await dial(Relay(url), link, max_frame_bytes=1 << 20, allow_local=True)
    assert isinstance(stream, Stream)
    messages: list[bytes] = []
    async with asyncio.timeout(10):
        for word in ("a", "b"):
            await stream.send(word.encode())
            while len(messages) < (3 if word == "a" else 6):
                messages += one_by_one(await stream.receive())
    wanted = [f"{word} {number} " + "x" * 5000 for word in "ab" for number in range(3)]
    assert [each.decode() for each in messages] == wanted
    is_packed = stream._reader.inflater is not None
    assert (stream.received < 10_000) is is_packed
    assert compression or not is_packed
    stream.abort()
