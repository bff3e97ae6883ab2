"""Handing events to relays that take them, refuse them, want to know who asks, or fall silent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bigbrotr.config import Link
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.nostr.auth import Signer
from bigbrotr.nostr.delivery import WINDOW, Delivery, deliver
from bigbrotr.nostr.manners import Manners
from tests.relays.events import make_event
from tests.relays.model import Vices
from tests.relays.real import free_port, local_relay
from tests.relays.scripted import ScriptedRelay

KEYS = Keys("11" * 32)
EVENTS = [make_event(created_at=1_700_000_000 + n) for n in range(3 * WINDOW)]
OFFERED = {event["id"]: json.dumps(event).encode() for event in EVENTS}
SOME = dict(list(OFFERED.items())[:4])


async def hand_over(
    url: str, offered: dict[str, bytes], signer: Signer = KEYS, timeout_s: float = 5.0
) -> list[Delivery]:
    found = await deliver(
        Relay(url),
        Link(timeout_s=timeout_s),
        offered,
        signer,
        allow_local=True,
        manners=Manners(),
    )
    assert list(found) == list(offered)
    return list(found.values())


async def test_a_relay_that_takes_them() -> None:
    async with ScriptedRelay() as relay:
        assert set(await hand_over(relay.url, OFFERED)) == {Delivery("accepted")}
        assert [event["id"] for event in relay.seen.events] == list(OFFERED)
        again = await hand_over(relay.url, SOME)
        assert set(again) == {Delivery("accepted", "duplicate", "duplicate: have it")}
        assert relay.seen.connections == 2


async def test_a_real_relay_takes_them() -> None:
    async with local_relay() as url:
        assert {each.outcome for each in await hand_over(url, OFFERED)} == {"accepted"}


async def test_a_relay_that_wants_to_know_who_we_are() -> None:
    async with ScriptedRelay(vices=Vices(needs_auth=True)) as relay:
        assert set(await hand_over(relay.url, OFFERED)) == {Delivery("accepted")}
        assert len(relay.events) == len(OFFERED)


@asynccontextmanager
async def answering(reply: Callable[[list[Any]], list[Any] | None]) -> AsyncIterator[str]:
    async def talk(connection: ServerConnection) -> None:
        async for frame in connection:
            for each in reply(json.loads(frame)) or []:
                if each is None:
                    connection.transport.abort()
                else:
                    await connection.send(json.dumps(each))

    async with serve(talk, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("blocked: no", Delivery("refused", "blocked", "blocked: no")),
        ("go away", Delivery("refused", "refused", "go away")),
        ("rate-limited: slow down", Delivery("failed", "rate-limited", "rate-limited: slow down")),
        ("error: disk full", Delivery("failed", "error", "error: disk full")),
        ("auth-required: who?", Delivery("failed", "auth-required", "auth-required: who?")),
    ],
)
async def test_refusals(text: str, wanted: Delivery) -> None:
    async with answering(lambda frame: [["OK", frame[1]["id"], False, text]]) as url:
        assert set(await hand_over(url, SOME)) == {wanted}


async def test_a_relay_that_accepts_no_answer_to_its_challenge() -> None:
    def reply(frame: list[Any]) -> list[Any]:
        if frame[0] == "AUTH":
            return [["OK", frame[1]["id"], False, "restricted: not you"]]
        return [["AUTH", "c"], ["OK", frame[1]["id"], False, "auth-required: who?"]]

    async with answering(reply) as url:
        found = await hand_over(url, SOME)
        assert set(found) == {Delivery("failed", "auth-required", "auth-required: who?")}


async def test_some_are_answered_and_the_line_is_cut() -> None:
    answered: list[str] = []

    def reply(frame: list[Any]) -> list[Any]:
        answered.append(frame[1]["id"])
        return [["OK", answered[0], True, ""]] if len(answered) == 1 else [None]

    async with answering(reply) as url:
        first, *rest = await hand_over(url, SOME)
        assert first == Delivery("accepted")
        assert {(each.outcome, each.reason) for each in rest} == {("failed", "lost")}


async def test_silence() -> None:
    async with answering(lambda _: None) as url, asyncio.timeout(5.0):
        found = await hand_over(url, OFFERED, timeout_s=0.2)
        assert {(each.outcome, each.reason) for each in found} == {("failed", "no-answer")}


async def test_talk_about_something_else() -> None:
    async def chat(connection: ServerConnection) -> None:
        while True:
            await connection.send(json.dumps(["NOTICE", "nice weather"]))
            await asyncio.sleep(0.01)

    async with serve(chat, "127.0.0.1", 0) as server, asyncio.timeout(5.0):
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        found = await hand_over(url, SOME, timeout_s=0.3)
        assert {(each.outcome, each.reason) for each in found} == {("failed", "no-answer")}


async def test_nobody_there() -> None:
    found = await hand_over(f"ws://127.0.0.1:{free_port()}", SOME)
    assert {(each.outcome, each.reason) for each in found} == {("failed", "refused")}
