"""A relay that costs next to nothing: it answers pages from memory with frames built by hand.

It speaks just enough of RFC 6455 and NIP-01: REQ with since, until and limit, newest first; CLOSE.
As a process of its own it serves a file of JSON lines, each port a slice of it.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import struct
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import cast

import uvloop

from tests.bench import corpus

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLAMP = 500


def header(length: int) -> bytes:
    """The header of an unmasked text frame."""
    if length < 126:
        return struct.pack("!BB", 0x81, length)
    if length < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, length)
    return struct.pack("!BBQ", 0x81, 127, length)


class Store:
    """Events, newest first."""

    def __init__(self, events: list[tuple[int, bytes]]) -> None:
        self.negated = [-created_at for created_at, _ in events]
        self.bodies = [body + b"]" for _, body in events]

    def page(self, subscription: str, since: int, until: int, limit: int) -> bytes:
        start = bisect_left(self.negated, -until)
        end = min(bisect_right(self.negated, -since), start + limit)
        prefix = b'["EVENT","%b",' % subscription.encode()
        size = len(prefix)
        parts: list[bytes] = []
        for body in self.bodies[start:end]:
            parts += (header(size + len(body)), prefix, body)
        eose = b'["EOSE","%b"]' % subscription.encode()
        parts += (header(len(eose)), eose)
        return b"".join(parts)


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.buffer = b""
        self.is_upgraded = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.is_upgraded:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self.upgrade(head)
            self.buffer = rest
        while (frame := self.take_frame()) is not None:
            self.answer(frame)

    def upgrade(self, head: bytes) -> None:
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"sec-websocket-key":
                accept = base64.b64encode(hashlib.sha1(value.strip() + GUID).digest())
                self.transport.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept
                )
        self.is_upgraded = True

    def take_frame(self) -> bytes | None:
        """The payload of the next whole frame (masked, under 64 KiB)."""
        if len(self.buffer) < 6:
            return None
        length, start = self.buffer[1] & 0x7F, 2
        if length == 126:
            length, start = int.from_bytes(self.buffer[2:4], "big"), 4
        if len(self.buffer) < start + 4 + length:
            return None
        mask = self.buffer[start : start + 4]
        payload = self.buffer[start + 4 : start + 4 + length]
        opcode = self.buffer[0] & 0x0F
        self.buffer = self.buffer[start + 4 + length :]
        if opcode == 8:
            self.transport.close()
            return None
        stretched = (mask * (length // 4 + 1))[:length]
        plain = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
        return plain.to_bytes(length, "big") if opcode == 1 else b"[]"

    def answer(self, frame: bytes) -> None:
        message = json.loads(frame)
        if message[:1] != ["REQ"]:
            return
        _, subscription, asked = message[:3]
        limit = min(asked.get("limit", CLAMP), CLAMP)
        until = asked.get("until", 1 << 62)
        self.transport.write(self.store.page(subscription, asked.get("since", 0), until, limit))


async def serve(stores: list[Store]) -> None:
    """Serves each store on a port of its own, says which, and goes on until it is killed."""
    loop = asyncio.get_running_loop()
    ports = []
    for store in stores:
        server = await loop.create_server(lambda store=store: Connection(store), "127.0.0.1", 0)  # type: ignore[misc]
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--relays", type=int, default=1)
    parser.add_argument("--shared", type=float, default=1.0, help="what all relays have in common")
    options = parser.parse_args()
    events = corpus.read(options.file)
    common = int(len(events) * options.shared)
    # Every n-th event belongs to the common part, so that both parts spread over the whole time.
    stores = []
    rest = len(events) - common
    for index in range(options.relays):
        mine = [
            event
            for position, event in enumerate(events)
            if (position * common) // len(events) != ((position + 1) * common) // len(events)
            or (rest and position % options.relays == index)
        ]
        stores.append(Store(mine))
    uvloop.run(serve(stores))


if __name__ == "__main__":
    main()
