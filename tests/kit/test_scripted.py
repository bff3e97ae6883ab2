"""The scripted relay: honest by default, and every vice on demand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.kit.events import is_valid, make_event, wire
from tests.kit.model import Vices
from tests.kit.scripted import ScriptedRelay

EVENTS = [make_event(1000 + n, content=str(n)) for n in range(10)]


@asynccontextmanager
async def talk(relay: ScriptedRelay) -> AsyncIterator[ClientConnection]:
    async with connect(relay.url, compression=None, close_timeout=0.2) as socket:
        yield socket


async def send(socket: ClientConnection, *message: Any) -> None:
    await socket.send(json.dumps(message))


async def hear(socket: ClientConnection) -> Any:
    return json.loads(await socket.recv())


async def ask(socket: ClientConnection, *filters: dict[str, Any]) -> tuple[list[Any], Any]:
    """The events of one answer, and the frame that ended it."""
    await send(socket, "REQ", "a", *filters)
    events: list[Any] = []
    while True:
        frame = await hear(socket)
        if frame[0] != "EVENT":
            return events, frame
        events.append(frame[2])


async def test_an_honest_relay_answers_newest_first() -> None:
    same = [make_event(2000, content=str(n)) for n in range(4)]
    async with ScriptedRelay([*EVENTS, *same]) as relay, talk(relay) as socket:
        events, end = await ask(socket, {"limit": 6})
        assert end == ["EOSE", "a"]
        lowest_first = sorted(same, key=lambda event: str(event["id"]))
        assert events == [*lowest_first, EVENTS[9], EVENTS[8]]
        assert all(map(is_valid, events))
        assert relay.seen.filters == [[{"limit": 6}]]
        assert relay.seen.connections == relay.open_connections == 1


async def test_who_has_left_during_an_answer_is_connected_no_more() -> None:
    asked = asyncio.Event()
    async with ScriptedRelay(EVENTS, Vices(delay_s=1.0)) as relay:
        relay.at_question = asked.set
        async with talk(relay) as socket:
            await send(socket, "REQ", "a", {})
            await asked.wait()
            socket.transport.abort()
        async with talk(relay):
            assert relay.seen.connections == 2
            assert relay.seen.most == relay.open_connections == 1


async def test_filters() -> None:
    tagged = make_event(5000, kind=7, tags=[["e", "abc"], ["p"]], key=1)
    async with ScriptedRelay([*EVENTS, tagged]) as relay, talk(relay) as socket:
        for wanted in (
            {"kinds": [7]},
            {"#e": ["abc", "d"]},
            {"authors": [tagged["pubkey"]]},
            {"ids": [tagged["id"]]},
            {"since": 5000},
        ):
            assert await ask(socket, wanted) == ([tagged], ["EOSE", "a"])
        assert (await ask(socket, {"until": 1001}))[0] == [EVENTS[1], EVENTS[0]]
        assert (await ask(socket, {"#p": [""]}))[0] == []
        assert len((await ask(socket, {"until": 1000}, {"kinds": [7]}))[0]) == 2


async def test_it_stores_and_goes_on_live() -> None:
    async with ScriptedRelay() as relay, talk(relay) as reader, talk(relay) as writer:
        assert await ask(reader, {"kinds": [1, 20_000]}) == ([], ["EOSE", "a"])
        await send(writer, "EVENT", EVENTS[0])
        assert await hear(writer) == ["OK", EVENTS[0]["id"], True, ""]
        assert await hear(reader) == ["EVENT", "a", EVENTS[0]]
        ephemeral = make_event(kind=20_000)
        await send(writer, "EVENT", ephemeral)
        assert (await hear(writer))[2] is True
        assert await hear(reader) == ["EVENT", "a", ephemeral]
        assert relay.events == [EVENTS[0]]
        await send(writer, "EVENT", EVENTS[0])
        assert (await hear(writer))[2:] == [True, "duplicate: have it"]
        await send(writer, "EVENT", {**EVENTS[1], "content": "forged"})
        assert (await hear(writer))[2:] == [False, "invalid: bad id or signature"]
        await writer.send("nonsense")
        assert (await hear(writer))[0] == "NOTICE"
        await send(reader, "CLOSE", "a")
        await send(reader, "COUNT", "c", {})
        assert (await hear(reader))[:2] == ["CLOSED", "c"]
        assert relay.seen.closed == ["a"]
        await relay.add(EVENTS[2])
        assert await ask(reader, {"since": 1002}) == ([EVENTS[2]], ["EOSE", "a"])


async def test_events_keep_their_bytes() -> None:
    spaced = json.dumps(EVENTS[0], indent=1).encode()
    async with ScriptedRelay([spaced]) as relay, talk(relay) as socket:
        await send(socket, "REQ", "a", {})
        assert spaced.decode() in await socket.recv(decode=True)


@pytest.mark.parametrize(
    ("vices", "times", "end"),
    [
        (Vices(clamp=2), [1009, 1008], ["EOSE", "a"]),
        (Vices(clamp=2, order="oldest", pick="oldest"), [1000, 1001], ["EOSE", "a"]),
        (Vices(clamp=2, ignores=frozenset({"until"})), [1009, 1008], ["EOSE", "a"]),
        (Vices(until_excluded=True, clamp=1), [1004], ["EOSE", "a"]),
        (Vices(repeats=2, clamp=3), [1005, 1005, 1004], ["EOSE", "a"]),
        (Vices(extras=1, clamp=1), [1009, 1005], ["EOSE", "a"]),
        (Vices(closed_after=1), [1005], ["CLOSED", "a", "error: too much"]),
        (Vices(refuses="blocked: no"), [], ["CLOSED", "a", "blocked: no"]),
        (Vices(rate_limited_after=0), [], ["CLOSED", "a", "rate-limited: slow down"]),
        (Vices(empty_when_broad=True), [], ["EOSE", "a"]),
        (Vices(hints=True), [1005, 1004, 1003, 1002, 1001, 1000], ["EOSE", "a", ["finish"]]),
        (Vices(hints=True, clamp=1), [1005], ["EOSE", "a", ["more"]]),
    ],
)
async def test_vices_of_answers(vices: Vices, times: list[int], end: list[str]) -> None:
    # honest would be 1005 and everything below, newest first; the clamped ones see two of ten
    wanted = {} if vices.order == "oldest" else {"until": 1005}
    if "until" in vices.ignores or vices == Vices(clamp=2):
        wanted = {"until": 1009}
    async with ScriptedRelay(EVENTS, vices) as relay, talk(relay) as socket:
        events, last = await ask(socket, wanted)
        assert [event["created_at"] for event in events] == times
        assert last == end


async def test_random_order_shows_and_is_repeatable() -> None:
    async with ScriptedRelay(EVENTS, Vices(order="random")) as relay, talk(relay) as socket:
        events, _ = await ask(socket, {})
        assert events not in (EVENTS, EVENTS[::-1])
        assert (await ask(socket, {}))[0] == events


async def test_cut_connections() -> None:
    async with ScriptedRelay(EVENTS, Vices(drop_after=2)) as relay:
        async with talk(relay) as socket:
            await send(socket, "REQ", "a", {})
            assert [(await hear(socket))[0] for _ in range(2)] == ["EVENT", "EVENT"]
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        relay.vices = Vices(drop_after_pages=1)
        async with talk(relay) as socket:
            assert len((await ask(socket, {}))[0]) == 10
            with pytest.raises(ConnectionClosed):
                await ask(socket, {})


async def test_silence() -> None:
    async with ScriptedRelay(EVENTS, Vices(silent=True)) as relay, talk(relay) as socket:
        await send(socket, "REQ", "a", {})
        await send(socket, "COUNT", "c", {})
        assert (await hear(socket))[:2] == ["CLOSED", "c"]  # and nothing came before
        relay.vices = Vices(no_eose=True)
        await send(socket, "REQ", "a", {"limit": 1})
        await send(socket, "COUNT", "c", {})
        assert [(await hear(socket))[0] for _ in range(2)] == ["EVENT", "CLOSED"]


async def test_slow_drips() -> None:
    vices = Vices(drip_s=0.0001, drips_bytes=True)
    async with ScriptedRelay(EVENTS, vices) as relay, talk(relay) as socket:
        await send(socket, "REQ", "a", {"limit": 1})
        fragments = [part async for part in socket.recv_streaming()]
        assert len(fragments) > 100
        assert json.loads("".join(map(str, fragments)))[2] == EVENTS[9]


async def test_garbage() -> None:
    vices = Vices(garbage=frozenset({"not-json", "wrong-shape", "binary", "huge"}), huge_bytes=9999)
    async with ScriptedRelay(EVENTS, vices) as relay, talk(relay) as socket:
        await send(socket, "REQ", "a", {"limit": 1})
        frames: list[str | bytes] = []
        while not frames or frames[-1] != '["EOSE", "a"]':
            frames.append(await socket.recv())
        assert any(isinstance(frame, bytes) for frame in frames)
        assert max(map(len, frames)) > 9999
        assert wire(EVENTS[9]).decode() in str(frames[-2])


async def test_an_endless_frame_ends_with_the_client() -> None:
    vices = Vices(garbage=frozenset({"endless"}))
    async with ScriptedRelay(EVENTS, vices) as relay, talk(relay) as socket:
        await send(socket, "REQ", "a", {})
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        relay.vices = Vices()
        async with talk(relay) as another:
            assert len((await ask(another, {}))[0]) == 10


async def test_forged_events() -> None:
    vices = Vices(forged=frozenset({"id", "content", "signature", "type"}))
    async with ScriptedRelay(EVENTS, vices) as relay, talk(relay) as socket:
        events, _ = await ask(socket, {"limit": 3})
        assert [event for event in events if is_valid(event)] == EVENTS[:6:-1]
        assert len(events) > 10


async def test_auth() -> None:
    async with ScriptedRelay(EVENTS, Vices(needs_auth=True)) as relay, talk(relay) as socket:
        verb, challenge = await hear(socket)
        assert verb == "AUTH"
        assert await ask(socket, {}) == ([], ["CLOSED", "a", "auth-required: who are you?"])
        wrong = make_event(kind=22242, tags=[["relay", relay.url], ["challenge", "other"]])
        await send(socket, "AUTH", wrong)
        assert (await hear(socket))[2] is False
        right = make_event(kind=22242, tags=[["relay", relay.url], ["challenge", challenge]])
        await send(socket, "AUTH", right)
        assert await hear(socket) == ["OK", right["id"], True, ""]
        assert len((await ask(socket, {}))[0]) == 10


async def test_http_only() -> None:
    async with ScriptedRelay(vices=Vices(http_only=True)) as relay:
        with pytest.raises(InvalidStatus):
            await connect(relay.url)
        assert relay.seen.connections == 0
        assert len(relay.seen.headers) == 1
