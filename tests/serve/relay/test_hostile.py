"""What strangers do to the relay: it stays itself for the others, and its memory is bounded."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bigbrotr.config.settings import ServeLimits
from bigbrotr.core.brotr import Brotr
from bigbrotr.serve.relay import connection, relay
from tests.kit.events import NOW, verified
from tests.kit.processes import until
from tests.kit.served import serving
from tests.serve.relay.client import Client, client_of, ids_of, relay_of, store


@asynccontextmanager
async def mute(url: str, *frames: str) -> AsyncIterator[asyncio.StreamReader]:
    """A client that says some frames, and reads only when it is told to."""
    host, port = url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 12)
    head = (
        f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    writer.write(head.encode())
    await reader.readuntil(b"\r\n\r\n")
    for frame in frames:
        data = frame.encode()
        assert len(data) < 126
        writer.write(bytes([0x81, 0x80 | len(data)]) + bytes(4) + data)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()


async def is_served(client: Client) -> None:
    """Somebody else is answered as if nothing was."""
    assert (await client.ask("COUNT", "n", {}))[0] == "COUNT"


async def test_who_does_not_read_new_events_is_cut(brotr: Brotr, dsn: str) -> None:
    async with (
        relay_of(dsn, bounds={"unsent_kb": 256}) as place,
        client_of(place.url) as client,
        mute(place.url, '["REQ","a",{"limit":0}]'),
    ):
        await client.say("REQ", "b", {"limit": 0})
        assert (await client.hear())[0] == "EOSE"

        async def are_there() -> bool:
            return len(place.relay.owners) == 2

        await until(are_there, "both")
        slow = next(each for name, each in place.relay.owners.items() if name.name == "a")
        sent = []
        for number in range(200):
            event = verified(f"{number}" + 100_000 * "x", created_at=NOW + number)
            sent.append(event.id.hex())
            await store(brotr, [event])
            assert ids_of([await client.hear()]) == [event.id.hex()]
            assert slow.outbox._transport.get_write_buffer_size() < 512 * 1024
            if slow.outbox.is_cut:
                break
        assert slow.outbox.is_cut

        async def is_gone() -> bool:
            return len(place.relay.owners) == 1

        await until(is_gone, "the end of the slow one")
        await is_served(client)


async def test_who_does_not_read_what_is_stored_holds_up_nobody(brotr: Brotr, dsn: str) -> None:
    events = [verified(f"{n}" + 200_000 * "x", created_at=NOW + n) for n in range(100)]
    await store(brotr, events)
    asks = [f'["REQ","{n}",{{}}]' for n in range(50)]
    async with (
        relay_of(dsn) as place,
        mute(place.url, *asks) as reader,
        client_of(place.url) as client,
    ):

        async def are_there() -> bool:
            return len(place.relay.owners) == 50

        await until(are_there, "its subscriptions")
        found, _ = await client.stored({})
        assert len(found) == 100
        slow = next(owner for each, owner in place.relay.owners.items() if each.name == "49")
        # Two answers are under way, of the fifty: a page of each is in memory at most.
        assert slow.outbox._transport.get_write_buffer_size() < 4 << 20
        assert not slow.outbox.is_cut
        # It reads at last, and is answered on.
        taken = 0
        while taken < 40_000_000:
            taken += len(await reader.read(1 << 20))


async def test_a_giant_message_ends_the_connection(dsn: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as other:
        async with client_of(place.url) as client:
            await client.say("REQ", "a", {"#t": ["x" * 120_000]})
            assert (await client.hear())[0] == "EOSE"
            await client.say("REQ", "a", {"#t": ["x" * 140_000]})
            with pytest.raises(ConnectionClosed):
                await client.hear()
            assert client.socket.close_code == 1009
        # Packed, it is as large: what unpacks to more ends it as well.
        async with client_of(place.url, compression="deflate") as client:
            await client.say("REQ", "a", {"#t": ["x" * 50_000_000]})
            with pytest.raises(ConnectionClosed):
                await client.hear()
        await is_served(other)


async def test_a_flood_waits(dsn: str) -> None:
    """Messages beyond the rate wait in the network, and are answered in the end."""
    bounds = {"messages_per_s": 200.0, "burst": 10}
    async with relay_of(dsn, bounds=bounds) as place, client_of(place.url) as client:
        for number in range(60):
            await client.say("COUNT", f"{number}", {})
        names = {(await client.hear())[1] for _ in range(60)}
        assert names == {f"{number}" for number in range(60)}


async def test_who_uses_up_the_time_of_the_database_is_told_when_to_come_back(dsn: str) -> None:
    async with relay_of(dsn, bounds={"work_per_s": 0.001, "work_burst_s": 0.1}) as place:
        work = place.relay.desk.work
        async with client_of(place.url) as client:
            await is_served(client)
            work.spend("127.0.0.1", 5.0)
            for frame in (["REQ", "a", {}], ["COUNT", "a", {}]):
                kind, _, reason = await client.ask(*frame)
                assert (kind, reason.partition(":")[0]) == ("CLOSED", "rate-limited")
            assert (await client.ask("NEG-OPEN", "a", {}, "6100000200"))[0] == "NEG-ERR"
            assert not place.relay.owners


async def test_connections_are_counted_by_address(dsn: str) -> None:
    limits = ServeLimits(requests_per_s=0, connections_per_address=3)
    proxy = {"trusted_proxies": ("127.0.0.1",)}
    async with relay_of(dsn, limits, serve=proxy) as place, AsyncExitStack() as stack:

        async def come(address: str) -> Client:
            headers = {"X-Forwarded-For": address}
            return await stack.enter_async_context(client_of(place.url, additional_headers=headers))

        for _ in range(3):
            await is_served(await come("203.0.113.7"))
        with pytest.raises(InvalidStatus) as caught:
            await come("203.0.113.7")
        assert caught.value.response.status_code == 429
        last = await come("203.0.113.8")
        await is_served(last)
        await last.socket.close()

        async def is_forgotten() -> bool:
            return set(place.relay.connections.by_address) == {"203.0.113.7"}

        await until(is_forgotten, "the end of the last")


async def test_requests_that_are_given_up_at_once(brotr: Brotr, dsn: str) -> None:
    """What was begun is broken off, and nothing of it is left."""
    await store(brotr, [verified(created_at=NOW + n) for n in range(600)])
    async with relay_of(dsn) as place:
        async with client_of(place.url) as client:
            for number in range(300):
                await client.say("REQ", f"{number % 7}", {}, {"kinds": [1]})
                await client.say("NEG-OPEN", f"{number % 5}", {"since": number}, "6100000200")
                await client.say("COUNT", f"{number % 3}", {})
                if number % 2:
                    await client.say("CLOSE", f"{number % 7}")
                    await client.say("NEG-CLOSE", f"{number % 5}")
            await client.say("COUNT", "last", {"limit": 1})
            async with asyncio.timeout(60):
                while (await client.hear())[:2] != ["COUNT", "last"]:
                    pass

        async def is_over() -> bool:
            ours = place.relay
            return (
                not ours.owners
                and not ours.views["/"].live._entries
                and not any(each.users for each in ours.holdings._kept.values())
                and not ours.connections.open
                and not ours.desk._waiting
                and ours.desk._slots._value == 3
            )

        await until(is_over, "the end of all of it")


async def test_clients_are_told_when_it_ends(brotr: Brotr, dsn: str) -> None:
    async with AsyncExitStack() as stack:
        async with relay_of(dsn) as place:
            clients = [await stack.enter_async_context(client_of(place.url)) for _ in range(5)]
            for client in clients:
                assert (await client.ask("REQ", "a", {}))[0] == "EOSE"
        for client in clients:
            await client.socket.wait_closed()
            assert client.socket.close_code == 1001


async def test_killed_and_started_again(brotr: Brotr, dsn: str, tmp_path: Path) -> None:
    """A client that comes back misses nothing of what is stored."""
    event = verified()
    await store(brotr, [event])
    more = "[serve.relay]\nenabled = true"
    port = 0
    for _ in range(2):
        listen = f"127.0.0.1:{port}"
        async with serving(
            tmp_path / "place", dsn, listen=listen, limits=f"requests_per_s = 0\n{more}"
        ) as (running, url):
            root = url.removesuffix("/api/v1").replace("http", "ws", 1)
            port = int(root.rpartition(":")[2])
            async with client_of(root) as client:
                await client.say("REQ", "a", {})
                assert ids_of(await client.until("EOSE")) == [event.id.hex()]
                new = verified()
                await store(brotr, [new])
                assert ids_of([await client.hear()]) == [new.id.hex()]
                await brotr.pool.execute("DELETE FROM bigbrotr.events_stored WHERE id = $1", new.id)
                os.kill(running.process.pid, signal.SIGKILL)
                with anyio.fail_after(30):
                    await client.socket.wait_closed()
                    await running.process.wait()


async def test_what_is_left_idle_ends(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SESSION_S", 0.2)
    monkeypatch.setattr(connection, "IDLE_S", 0.4)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert (await client.ask("REQ", "a", {}))[0] == "EOSE"
        assert (await client.ask("NEG-OPEN", "n", {}, "6100000200"))[0] == "NEG-MSG"
        assert (await client.hear())[:2] == ["NEG-ERR", "n"]
        assert not any(each.users for each in place.relay.holdings._kept.values())
        # Who is subscribed stays.
        assert (await client.ask("REQ", "b", {}))[0] == "EOSE"
        await client.say("CLOSE", "a")
        await client.say("CLOSE", "b")
        await client.socket.wait_closed()
        assert client.socket.close_code == 1000


async def test_who_answers_no_ping_is_cut(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HEARTBEAT_S", 0.2)
    async with (
        relay_of(dsn) as place,
        client_of(place.url) as client,
        mute(place.url, '["REQ","a",{"limit":0}]') as reader,
    ):
        assert (await client.ask("REQ", "b", {}))[0] == "EOSE"
        while await reader.read(1000):
            pass
        assert [each.name for each in place.relay.owners] == ["b"]
        await is_served(client)
