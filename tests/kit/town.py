"""A town of relays and impostors with an internet of its own, and one `bigbrotr` sorting them.

`python -m tests.kit.town` builds it where it is run: in a network namespace (`unshare --net
--mount`), with public addresses, a name server, unreachable and silent networks; elsewhere with
`--on-loopback`, which leaves out what needs names or routes. It prints one JSON object: what each
house is in truth, and what was seen of the visitor.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from websockets.asyncio.server import ServerConnection, serve

from tests.kit.certificates import Authority, handshakes
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import environment, until
from tests.kit.scripted import ScriptedRelay
from tests.net.test_dial import onion

PUBLIC, SIX = "45.0.0.0/8", "2600:6::1"  # ours, in the namespace
UNREACHABLE, SILENT = "198.41", "198.97"
QUICK_S, TIMEOUT_S = 0.5, 2.0
PER_ADDRESS, PER_SUBNET = 3, 6
EVENTS = [make_event(1_600_000_000 + n, content=str(n)) for n in range(60)]
ONIONS = [onion(bytes([number] * 32)).removeprefix("ws://") for number in (1, 2)]

JUNK = (
    "https://relay.example.com",
    "wss://",
    "wss://[::1",
    "wss://a b.example.com",
    "wss://relay.example.com:99999",
    "wss://300.1.1.1",
    "wss://relay.example.com\\path",
    "wss://wss://relay.example.com",
    "wss://v2onionaddress00.onion",
    "wss://-.example.com",
    "wss://%00.example.com",
    "wss://relay.example.com/%zz",
    "nostr:npub1xyz",
    "wss://" + "x" * 600 + ".example.com",
    "ws://0x7f.0.0.1",
    "\x00",
    "☃",
)


class House(NamedTuple):
    """What a candidate is in truth."""

    url: str
    fate: str  # 'relay', 'candidate' or 'alias'
    outcome: str  # of a candidate


Say = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Town:
    """Builds houses, each at an address of its own, and remembers what they are."""

    def __init__(self, stack: AsyncExitStack, folder: Path, *, is_on_loopback: bool) -> None:
        self.stack = stack
        self.authority = Authority(folder)
        self.is_on_loopback = is_on_loopback
        self.zone: dict[str, list[str] | int | Callable[[], list[str]]] = {}
        self.geoip: dict[str, str] = {}
        self.asked: list[str] = []  # of the name server
        self.houses: list[House] = []
        self.opted_out: list[str] = []
        self._count = 0

    # GeoIp

    def place(self, name: str) -> tuple[str, str]:
        """The name by which a new house is called, and the address where it is."""
        self._count += 1
        number = f"{self._count // 200}.{1 + self._count % 200}"
        if self.is_on_loopback:
            address = f"127.1.{number}"
            return address, address
        # Each in a network of its own, so that politeness keep nobody waiting.
        address = f"45.{number}.1"
        full = f"{name}{self._count}.town.example"
        self.zone[full], self.geoip[full] = [address], address
        return full, address

    def add(self, url: str, fate: str, outcome: str = "") -> None:
        self.houses.append(House(url, fate, outcome))

    # Houses

    async def relay(self, name: str, vices: Vices | None = None, **options: Any) -> ScriptedRelay:
        """A scripted relay at an address of its own; `.called` is its URL."""
        called, address = self.place(name)
        events = options.pop("events", EVENTS)
        if "names" in options:
            names = options.pop("names") or [called]
            certificate = options.pop("certificate", {})
            options["tls"] = options.pop("signer", self.authority).context(*names, **certificate)
        port = 443 if options.get("tls") else 80
        relay = ScriptedRelay(
            events, vices, host=address, port=0 if self.is_on_loopback else port, **options
        )
        await self.stack.enter_async_context(relay)
        relay.called = relay.url if self.is_on_loopback else relay.url.replace(address, called)
        relay.called = relay.called.removesuffix(f":{port}")
        return relay

    async def many(
        self, count: int, fate: str, outcome: str, vices: Vices | None = None, **options: Any
    ) -> None:
        """Scripted relays of one kind."""
        for _ in range(count):
            relay = await self.relay(outcome or fate, vices, **options)
            self.add(relay.called, fate, outcome)

    async def servers(
        self, count: int, outcome: str, say: Say, *, fate: str = "candidate", scheme: str = "ws"
    ) -> None:
        """Servers of any sort, on TCP."""
        port = {"ws": 80, "wss": 443}[scheme]

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await say(reader, writer)
            writer.close()

        for _ in range(count):
            called, address = self.place(outcome)
            server = await asyncio.start_server(talk, address, 0 if self.is_on_loopback else port)
            self.stack.callback(server.close)
            bound = server.sockets[0].getsockname()[1]
            url = f"{scheme}://{called}" + ("" if bound == port else f":{bound}")
            self.add(url, fate, outcome)

    async def chat(self, count: int, outcome: str, *frames: str) -> None:
        """WebSocket servers that say the same to everything."""

        async def talk(connection: ServerConnection) -> None:
            async for _ in connection:
                for frame in frames:
                    await connection.send(frame)

        for _ in range(count):
            called, address = self.place(outcome)
            port = 0 if self.is_on_loopback else 80
            server = await self.stack.enter_async_context(serve(talk, address, port))
            bound = next(iter(server.sockets)).getsockname()[1]
            self.add(f"ws://{called}" + ("" if bound == 80 else f":{bound}"), "candidate", outcome)

    def nobody(self, count: int, outcome: str, *addresses: str, error: int = 0) -> None:
        """Names without a house."""
        for _ in range(count):
            called, address = self.place(outcome)
            if addresses:
                self.zone[called] = [each.format(self._count % 200) for each in addresses]
            if error:
                self.zone[called] = error
            self.add(f"ws://{called}" + (":9" if called == address else ""), "candidate", outcome)


# What the servers say


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def http(answer: str) -> Say:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()

    return say


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    for byte in b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n" * 100:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.1)


async def headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n\r\n")
    await reader.read(-1)


def frames(*payloads: bytes) -> Say:
    """Upgrades as asked, and then sends these bytes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from websockets.server import ServerProtocol

        protocol = ServerProtocol()
        protocol.receive_data(await head(reader))
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]  # it is one
        writer.write(b"".join(protocol.data_to_send()))
        for payload in payloads:
            writer.write(payload)
            await writer.drain()
        await reader.read(-1)

    return say


# A bomb of 8 MB in 8 KB, with the bit that says that it is compressed, which nobody agreed on.
BOMB = b"\xc1\x7e\x20\x00" + b"\x00" * 0x2000


async def socks5(
    houses: Mapping[str, int],
    asked: list[str],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """The proxy of the overlay networks: names lead to ports of this machine, or nowhere."""
    _, methods = await reader.readexactly(2)
    await reader.readexactly(methods)
    writer.write(b"\x05\x00")
    _, _, _, kind = await reader.readexactly(4)
    assert kind == 3, "an address where a name belongs"
    name = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
    await reader.readexactly(2)
    asked.append(name)
    code = 0 if name in houses else 4
    writer.write(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))
    if code == 0:
        back, out = await asyncio.open_connection("127.0.0.1", houses[name])
        await asyncio.gather(_copy(reader, out), _copy(back, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


# The name server


class NameServer(asyncio.DatagramProtocol):
    """Answers questions for A and AAAA out of the town's zone; an error is its code."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # it is one

    def datagram_received(self, data: bytes, address: Any) -> None:
        labels, position = [], 12
        while length := data[position]:
            labels.append(data[position + 1 : position + 1 + length].decode())
            position += 1 + length
        name = ".".join(labels).lower()
        (kind,) = struct.unpack("!H", data[position + 1 : position + 3])
        question = data[12 : position + 5]
        self.town.asked.append(name)
        found = self.town.zone.get(name, 3)
        if callable(found):
            found = found()
        code, records = (found, []) if isinstance(found, int) else (0, found)
        version = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
        answers = [
            struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed
            for each in records
            if version == (socket.AF_INET6 if ":" in each else socket.AF_INET)
            for packed in [socket.inet_pton(version, each)]
        ]
        flags = 0x8180 | code
        header = data[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0)
        assert self.transport is not None
        self.transport.sendto(header + question + b"".join(answers), address)


# The town


async def build(town: Town) -> dict[str, Callable[[], Any]]:
    """Builds all houses; returns what can be asked of them afterwards."""
    await town.many(20, "relay", "")
    await town.many(5, "relay", "", events=[])
    await town.many(5, "relay", "", Vices(clamp=5, order="random"))
    await town.many(5, "relay", "", Vices(delay_s=3 * QUICK_S))  # its turn is over by then
    await town.many(8, "relay", "", names=None)
    await town.many(4, "relay", "", Vices(no_eose=True))
    await town.many(5, "relay", "", Vices(needs_auth=True))
    await town.many(5, "relay", "", Vices(silent=True, needs_auth=True))
    await town.many(8, "relay", "", Vices(refuses="restricted: members only"))
    await town.many(4, "relay", "", Vices(rate_limited_after=0))
    await town.many(4, "relay", "", Vices(garbage=frozenset({"not-json", "wrong-shape"})))

    await town.many(8, "candidate", "not-websocket", Vices(http_only=True))
    await town.many(4, "candidate", "slow", Vices(silent=True))
    await town.many(3, "candidate", "slow", Vices(drip_s=0.3, drips_bytes=True))
    await town.many(4, "candidate", "no-answer", Vices(drop_after_pages=0))
    await town.many(3, "relay", "", Vices(garbage=frozenset({"huge"})))
    await town.many(2, "candidate", "no-answer", Vices(garbage=frozenset({"endless"})))
    await town.chat(5, "not-nostr", "hello", "{}")
    await town.chat(3, "no-answer", json.dumps(["NOTICE", "a chat server"]))
    await town.chat(3, "no-answer", json.dumps(["EOSE", "somebody-else"]))
    await town.servers(4, "refuses-us", http("403 Forbidden"))
    await town.servers(3, "refuses-us", http("402 Payment Required"))
    await town.servers(3, "rate-limited", http("429 Too Many Requests"))
    await town.servers(4, "not-websocket", http("404 Not Found"))
    await town.servers(3, "not-websocket", http("301 Moved\r\nLocation: ws://127.0.0.1:7777/"))
    await town.servers(3, "not-websocket", smtp)
    await town.servers(2, "not-websocket", headers)
    await town.servers(3, "slow", silence)
    await town.servers(2, "slow", silence, scheme="wss")
    await town.servers(3, "slow", drip)
    await town.servers(2, "no-answer", frames(BOMB))
    await town.servers(2, "slow", frames(b"\x89\x00" * 5000))  # pings, and nothing else

    await town.many(3, "candidate", "tls-expired", names=None, certificate={"days": -3})
    await town.many(3, "candidate", "tls-wrong-name", names=["another.example"])
    await town.many(3, "candidate", "tls-untrusted", names=None, certificate={"is_self_signed": 1})
    stranger = Authority(town.authority.folder)
    await town.many(2, "candidate", "tls-untrusted", names=None, signer=stranger)
    await town.servers(2, "tls", smtp, scheme="wss")
    called, address = town.place("old")
    old = town.authority.context(called, is_old=True)
    port = 0 if town.is_on_loopback else 443
    bound = town.stack.enter_context(handshakes(old, address, port)).getsockname()[1]
    url = f"wss://{called}" + ("" if bound == 443 else f":{bound}")
    town.add(url, "candidate", "tls-too-old")

    for _ in range(3):  # aliases
        relay = await town.relay("alias")
        town.add(relay.called, "relay")
        for path in ("/a", "/b", "/nostr/ws"):
            town.add(relay.called + path, "alias", "alias")
    for _ in range(2):  # tenants
        tenants = {"/a": EVENTS[:30], "/b": EVENTS[20:], "/c": EVENTS[:20]}
        relay = await town.relay("tenants", paths=tenants, events=[])
        for path in tenants:
            town.add(relay.called + path, "relay")
    called, address = town.place("flood")
    for number in range(30):
        port_words = ":9" if called == address else ""
        town.add(f"ws://{called}{port_words}/path/{number}", "candidate", "refused")
    town.nobody(8, "refused")

    questions: dict[str, Callable[[], Any]] = {"asked": lambda: town.asked}
    wanted: list[ScriptedRelay] = []
    for _ in range(3):
        relay = await town.relay("unwilling")
        town.add(relay.called, "candidate", "opted-out")
        town.opted_out.append(relay.called.partition("//")[2].partition(":")[0])
        wanted.append(relay)
    questions["dialled_unwilling"] = lambda: sum(len(relay.seen.headers) for relay in wanted)
    if not town.is_on_loopback:
        questions |= await build_internet(town)
    return questions


async def build_internet(town: Town) -> dict[str, Callable[[], Any]]:
    """What needs names, routes and addresses of the open internet."""
    trap = await town.stack.enter_async_context(ScriptedRelay(EVENTS, host="127.0.0.1", port=80))
    town.nobody(6, "no-such-name", error=3)
    town.nobody(2, "offline", error=2)  # its zone is broken: others answer
    town.nobody(4, "unreachable", f"{UNREACHABLE}.0.{{}}")
    # In a network each, again: they keep their places until their time is over.
    town.nobody(8, "timeout", f"{SILENT}.{{}}.9")
    for inside in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"):
        town.nobody(1, "forbidden-address", inside)

    # Both families; of one the address is dead, of another silent.
    for dead in ("2600:dead::1", f"{SILENT}.1.1"):
        relay = await town.relay("twofold")
        name = relay.called.partition("//")[2]
        town.zone[name] = [dead, town.geoip[name]]
        town.add(relay.called, "relay")
    six = ScriptedRelay(EVENTS, host=SIX, port=80)
    await town.stack.enter_async_context(six)
    town.zone["six.town.example"] = [SIX]
    town.add("ws://six.town.example", "relay")

    # A name that leads elsewhere each time: whatever is judged is what is connected to.
    turning = await town.relay("turning")
    name = turning.called.partition("//")[2]
    outside, turns = town.geoip[name], 0

    def turn() -> list[str]:
        nonlocal turns
        turns += 1  # a look-up asks for two kinds of address
        return [outside if turns <= 2 else "127.0.0.1"]

    town.zone[name] = turn
    town.add(turning.called, "relay")

    # Many at one address, and many in one network.
    vices = Vices(delay_s=0.1)
    crowd = await town.relay("crowd", vices)
    block = await town.stack.enter_async_context(
        ScriptedRelay(EVENTS, vices, host="0.0.0.0", port=8080)
    )
    crowded = [town.geoip[crowd.called.partition("//")[2]]]
    for number in range(12):
        town.zone[f"crowd{number}.example"] = crowded
        town.add(f"ws://crowd{number}.example", "relay")
        town.zone[f"block{number}.example"] = [f"45.250.1.{number + 1}"]
        town.add(f"ws://block{number}.example:8080", "relay")

    # A network that has opted out.
    town.opted_out.append("45.251.0.0/16")
    town.nobody(2, "opted-out", "45.251.0.1")

    # Overlay networks.
    hidden = await town.stack.enter_async_context(ScriptedRelay(EVENTS))
    good = {ONIONS[0], "relay.i2p", "relay.loki"}
    bad = {ONIONS[1], "gone.i2p", "gone.loki"}
    proxied: list[str] = []
    say = functools.partial(socks5, dict.fromkeys(good, hidden.port), proxied)
    server = await asyncio.start_server(say, "127.0.0.1", 9050)
    town.stack.callback(server.close)
    for name in good:
        town.add(f"ws://{name}", "relay")
    for name in bad:
        town.add(f"ws://{name}", "candidate", "unreachable")
    return {
        "trapped": lambda: len(trap.seen.headers),
        "most_at_one_address": lambda: crowd.seen.most,
        "most_in_one_network": lambda: block.seen.most,
        "user_agent": lambda: crowd.seen.headers[0]["User-Agent"],
        "proxied": lambda: sorted(set(proxied)),
        "hidden": lambda: sorted(good | bad),
    }


CONFIG = """
[database]
url = "{dsn}"
[web]
listen = ""
[networks]
clearnet = {{ enabled = {is_internet}, width = 40, quick_s = {quick_s}, timeout_s = {timeout_s} }}
local = {{ enabled = {is_loopback}, width = 40, quick_s = {quick_s}, timeout_s = {timeout_s} }}
tor = {{ enabled = {is_internet}, quick_s = 2, timeout_s = 5 }}
i2p = {{ enabled = {is_internet}, timeout_s = 5, proxy = "socks5h://127.0.0.1:9050" }}
loki = {{ enabled = {is_internet}, timeout_s = 5, proxy = "socks5h://127.0.0.1:9050" }}
[politeness]
contact = "town@example.com"
per_address = {per_address}
per_subnet = {per_subnet}
starts_per_s = 200
opt_out = {opted_out}
[seeder]
file = "{seeds}"
"""


async def visit(town: Town, folder: Path, dsn: str) -> str:
    """One run of seeder and validator over the town; what it said."""
    seeds, config = folder / "seeds.txt", folder / "town.toml"
    lines = [*JUNK, *(house.url for house in town.houses)]
    seeds.write_text("".join(f"{line}\n" for line in lines))
    config.write_text(
        CONFIG.format(
            dsn=dsn,
            is_internet=str(not town.is_on_loopback).lower(),
            is_loopback=str(town.is_on_loopback).lower(),
            quick_s=QUICK_S,
            timeout_s=TIMEOUT_S,
            per_address=PER_ADDRESS,
            per_subnet=PER_SUBNET,
            opted_out=json.dumps(town.opted_out),
            seeds=seeds,
        )
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr", "run", "--only", "seeder,validator", "--once"),
        *("--profile", "full", "--config", str(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(SSL_CERT_FILE=str(town.authority.path)),
    )
    _, said = await process.communicate()
    if process.returncode:
        raise SystemExit(said.decode())
    return said.decode()


async def follow(town: Town, folder: Path, dsn: str) -> dict[str, int]:
    """Lets a synchronizer follow more relays at one address than politeness allows, until each
    has had its turn; how many it talked to at once."""
    crowd = await town.relay("crowd")
    for number in range(CROWD):
        town.zone[f"crowd{number}.example"] = [town.geoip[crowd.called.partition("//")[2]]]
    config, log = folder / "follow.toml", folder / "follow.log"
    config.write_text(FOLLOW.format(dsn=dsn, per_address=2 * PER_ADDRESS))
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bigbrotr", "run", "--only", "synchronizer"),
            *("--profile", "full", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=err,
            env=environment(),
        )
    connection = await asyncpg.connect(dsn)
    try:

        async def is_everybody_done() -> bool:
            assert process.returncode is None, log.read_text()
            done = await connection.fetchval(
                "SELECT count(DISTINCT relay_id) FROM bigbrotr.coverage WHERE upper(proven) > $1",
                EVENTS[-1]["created_at"],
            )
            return bool(done == CROWD)

        await until(is_everybody_done, "each relay of the crowd is proven")
    finally:
        await connection.close()
        process.terminate()
        await process.wait()
    return {"most_at_one_address": crowd.seen.most}


FOLLOW = """
[database]
url = "{dsn}"
[web]
listen = ""
[networks]
clearnet = {{ timeout_s = 1 }}
[politeness]
per_address = {per_address}
starts_per_s = 200
[synchronizer]
workers = 2
interval_s = 0.2
revisit_s = 1
settle_s = 0
slice_s = 5
"""
CROWD = 10


def open_internet(folder: Path) -> None:
    """Makes the namespace that we are in an internet: addresses, routes, a resolver."""
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    for command in (
        "ip link set lo up",
        f"ip route add local {PUBLIC} dev lo",
        f"ip -6 addr add {SIX} dev lo",
        f"ip route add unreachable {UNREACHABLE}.0.0/16",
        f"ip route add {SILENT}.0.0/16 dev lo",  # nobody has these addresses
        f"mount --bind {resolver} {os.path.realpath('/etc/resolv.conf')}",
    ):
        subprocess.run(command.split(), check=True)


@asynccontextmanager
async def name_server(town: Town) -> AsyncIterator[None]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(town), local_addr=("127.0.0.1", 53)
    )
    yield
    transport.close()


async def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("dsn")
    options.add_argument("folder", type=Path)
    options.add_argument("--on-loopback", action="store_true")
    options.add_argument("--follow", action="store_true", help="copy a crowd at one address")
    given = options.parse_args()
    if not given.on_loopback:
        open_internet(given.folder)
    async with AsyncExitStack() as stack:
        town = Town(stack, given.folder, is_on_loopback=given.on_loopback)
        if not given.on_loopback:
            await stack.enter_async_context(name_server(town))
        if given.follow:
            print(json.dumps(await follow(town, given.folder, given.dsn)))
            return
        questions = await build(town)
        said = await visit(town, given.folder, given.dsn)
        answers = {name: ask() for name, ask in questions.items()}
    print(json.dumps({"houses": town.houses, "said": said, "junk": len(JUNK), **answers}))


if __name__ == "__main__":
    asyncio.run(main())
