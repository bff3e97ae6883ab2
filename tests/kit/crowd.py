"""Thousands of relays in one cheap process: one for each address of 127.0.0.0/8, all on one port.

Every tenth serves no document, every seventh holds no event, every fiftieth hangs up.
"""

import asyncio
import base64
import hashlib
import json
from typing import cast

import uvloop

from tests.bench.relay import GUID, header
from tests.kit.events import make_event, wire

EVENT = wire(make_event(content="x" * 300))
DOCUMENT = json.dumps(
    {
        "name": "one of many",
        "description": "d" * 500,
        "supported_nips": [1, 2, 9, 11, 40, 42, 45],
        "limitation": {"max_limit": 500, "auth_required": False},
    }
).encode()


def address(number: int) -> str:
    """The address of the relay of a number."""
    return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Resident(asyncio.Protocol):
    """One client's connection to one of the relays."""

    def __init__(self) -> None:
        self.buffer = b""
        self.is_upgraded = False
        self.transport: asyncio.Transport
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        host = self.transport.get_extra_info("sockname")[0]
        self.number = int.from_bytes(bytes(map(int, host.split(".")[1:])), "big")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.is_upgraded:
            head, end, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if not end:
                self.buffer = head
                return
            self.greet(head)
        while len(self.buffer) >= 6:
            length, start = self.buffer[1] & 0x7F, 2
            if length == 126:
                length, start = int.from_bytes(self.buffer[2:4], "big"), 4
            if len(self.buffer) < start + 4 + length:
                return
            mask = self.buffer[start : start + 4] * (length // 4 + 1)
            masked = self.buffer[start + 4 : start + 4 + length]
            is_text = self.buffer[0] & 0x0F == 1
            self.buffer = self.buffer[start + 4 + length :]
            if is_text:
                self.answer(json.loads(bytes(a ^ b for a, b in zip(masked, mask, strict=False))))

    def greet(self, head: bytes) -> None:
        if self.number % 50 == 0:
            self.transport.close()
            return
        lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
        headers = {name: value.strip() for name, _, value in lines}
        if b"upgrade" not in headers:
            body = b"" if self.number % 10 == 0 else DOCUMENT
            status = b"200 OK" if body else b"404 Not Found"
            self.transport.write(
                b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
            )
            self.transport.close()
            return
        at = head.lower().index(b"sec-websocket-key:") + 18
        key = head[at:].split(b"\r\n")[0].strip()
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.is_upgraded = True
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nServer: crowd\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept
        )

    def answer(self, frame: list[object]) -> None:
        match frame:
            case ["REQ", str(subscription), *_]:
                if self.number % 7:
                    self.say(b'["EVENT","%b",%b]' % (subscription.encode(), EVENT))
                self.say(b'["EOSE","%b"]' % subscription.encode())
            case ["COUNT", str(subscription), *_]:
                self.say(b'["COUNT","%b",{"count":0}]' % subscription.encode())
            case ["NEG-OPEN", *_]:
                self.say(b'["NOTICE","unknown message"]')

    def say(self, frame: bytes) -> None:
        self.transport.write(header(len(frame)) + frame)


async def serve() -> None:
    """Serves until it is killed; says its port first."""
    server = await asyncio.get_running_loop().create_server(Resident, "0.0.0.0", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
