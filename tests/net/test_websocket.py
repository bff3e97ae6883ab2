"""An open WebSocket: what waits for the next message, and what it is worth when nothing follows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bigbrotr.config.settings import Link
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.websocket import Stream
from tests.kit.processes import until


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Stream, list[list[bytes]]]]:
    """An open connection, and the messages that the other end reads, as they come together."""
    read: list[list[bytes]] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        while data := await reader.read(1 << 16):
            protocol.receive_data(data)
            events = protocol.events_received()
            for event in events:
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
            for out in protocol.data_to_send():
                writer.write(out)
            if frames := [bytes(event.data) for event in events if isinstance(event, Frame)]:
                read.append(frames)
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        relay = Relay(f"ws://127.0.0.1:{port}")
        stream = await dial(relay, Link(), max_frame_bytes=1 << 20, allow_local=True)
        assert not isinstance(stream, Unreached)
        try:
            yield stream, read
        finally:
            stream.abort()


async def test_what_is_deferred_goes_with_the_next_message() -> None:
    async with connected() as (stream, read):
        stream.defer(b"first")
        stream.defer(b"second")
        await stream.send(b"third")
        await until(lambda: len(read) > 0, "messages")
        assert read == [[b"first", b"second", b"third"]]
        await stream.send(b"fourth")  # nothing goes twice
        await until(lambda: len(read) > 1, "messages")
        assert read[1:] == [[b"fourth"]]


async def test_what_is_deferred_goes_by_itself_after_a_while() -> None:
    async with connected() as (stream, read):
        stream.defer(b"alone")
        await asyncio.sleep(0)
        assert read == []
        await until(lambda: read == [[b"alone"]], "the message")


async def test_what_is_deferred_ends_with_the_connection() -> None:
    async with connected() as (stream, read):
        stream.defer(b"in vain")
        stream.abort()
        await until(lambda: stream._lost is not None, "the end")
        stream.defer(b"too late")
        stream._send_deferred()
        assert read == []
