"""Handing events to relays that take them, refuse them, want to know who asks, or fall silent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bigbrotr.config.settings import Link
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.net.politeness import Politeness
from bigbrotr.nostr.auth import Signer
from bigbrotr.nostr.delivery import WINDOW, Delivery, deliver
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.real import free_port, local_relay
from tests.kit.scripted import ScriptedRelay

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
        politeness=Politeness(),
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


@pytest.mark.slow
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
        words = "auth-required: who?; our AUTH: restricted: not you"
        assert set(found) == {Delivery("failed", "auth-required", words)}


AuthReply = Callable[[str], list[list[Any]]]


@pytest.mark.parametrize("is_mute", [False, True], ids=["OK", "no OK"])
@pytest.mark.parametrize(
    "refuse",
    [
        lambda event_id: [["OK", event_id, False, "auth-required: who?"], ["AUTH", "c"]],
        lambda event_id: [["AUTH", "c"], ["OK", event_id, False, "auth-required: who?"]],
        lambda _: [["AUTH", "c"]],
        lambda _: [["AUTH", "c"], ["NOTICE", "auth-required: to write"]],
        lambda _: [["NOTICE", "who are you?"], ["AUTH", "c"]],
    ],
)
async def test_dialects_of_auth(refuse: AuthReply, is_mute: bool) -> None:
    seen: list[str] = []

    def reply(frame: list[Any]) -> list[Any]:
        seen.append(frame[0])
        if frame[0] == "AUTH":
            return [] if is_mute else [["OK", frame[1]["id"], True, ""]]
        if "AUTH" in seen:
            return [["OK", frame[1]["id"], True, ""]]
        return refuse(frame[1]["id"])

    async with answering(reply) as url:
        assert set(await hand_over(url, SOME, timeout_s=0.5)) == {Delivery("accepted")}
    assert seen == ["EVENT"] * 4 + ["AUTH"] + ["EVENT"] * 4


async def test_a_relay_that_asks_who_we_are_at_a_question() -> None:
    """It takes no EVENT before that, without a word."""
    seen: list[str] = []

    def reply(frame: list[Any]) -> list[Any]:
        seen.append(frame[0])
        if frame[0] == "REQ" and "AUTH" not in seen:
            return [["AUTH", "c"], ["CLOSED", frame[1], "auth-required: who?"]]
        if frame[0] == "REQ":
            return [["EOSE", frame[1]]]
        is_known = frame[0] == "AUTH" or "AUTH" in seen
        return [["OK", frame[1]["id"], True, ""]] if is_known and frame[0] != "CLOSE" else []

    async with answering(reply) as url:
        assert set(await hand_over(url, SOME, timeout_s=0.3)) == {Delivery("accepted")}


async def test_a_new_challenge_each_time() -> None:
    count = iter(range(1000))

    def reply(frame: list[Any]) -> list[Any]:
        if frame[0] == "AUTH":
            return [["OK", frame[1]["id"], True, ""]]
        return [["AUTH", f"c{next(count)}"], ["OK", frame[1]["id"], False, "auth-required: who?"]]

    async with answering(reply) as url, asyncio.timeout(5.0):
        found = await hand_over(url, SOME)
        assert {(each.outcome, each.reason) for each in found} == {("failed", "auth-required")}


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        ("blocked: not you", "refused", "blocked"),
        ("ERROR: bad event", "failed", "error"),
        ("rate-limited: slow down", "failed", "rate-limited"),
        ("this relay cannot take that", "failed", "notice"),
    ],
)
async def test_refusals_by_notice(text: str, outcome: str, reason: str) -> None:
    def reply(frame: list[Any]) -> list[Any]:
        if frame[0] == "REQ":
            return [["EOSE", frame[1]]]
        return [["NOTICE", text]] if frame[0] == "EVENT" else []

    async with answering(reply) as url:
        found = await hand_over(url, SOME, timeout_s=0.3)
        assert set(found) == {Delivery(outcome, reason, text)}  # type: ignore[arg-type]


@pytest.mark.parametrize("is_late", [False, True], ids=["never", "late"])
async def test_no_ok_though_the_event_is_there(is_late: bool) -> None:
    """It is asked for by its id; a relay that takes events without a word takes them all."""
    held: list[dict[str, Any]] = []

    def reply(frame: list[Any]) -> list[Any]:
        verb, *rest = frame
        if verb == "EVENT":
            held.append(rest[0])
        if verb != "REQ":
            return []
        oks = [["OK", event["id"], True, "after all"] for event in held] if is_late else []
        found = [] if is_late else [event for event in held if event["id"] in rest[1]["ids"]]
        return [*oks, *(["EVENT", rest[0], event] for event in found), ["EOSE", rest[0]]]

    async with answering(reply) as url, asyncio.timeout(5.0):
        found = await hand_over(url, OFFERED, timeout_s=0.2)
        there = "after all" if is_late else "no OK, but it is there"
        assert set(found) == {Delivery("accepted", "", there)}
    assert len(held) == len(OFFERED)


async def test_a_pause_that_is_asked_for() -> None:
    async with ScriptedRelay(vices=Vices(takes=2)) as relay:
        found = await hand_over(relay.url, OFFERED)
        assert [each.outcome for each in found] == ["accepted"] * 2 + ["failed"] * (3 * WINDOW - 2)
        assert {each.reason for each in found[2:]} == {"rate-limited"}
        assert len(relay.seen.events) < 2 * WINDOW  # it is not pressed with the rest


async def test_prefixes_of_its_own_are_no_reasons() -> None:
    """Each makes a row where deliveries are counted."""
    count = iter(range(100))

    def reply(frame: list[Any]) -> list[Any]:
        number = next(count)
        text = f"{chr(97 + number)}-word: {number}"
        return [["OK", frame[1]["id"], number % 2 == 0, text]]

    async with answering(reply) as url:
        found = await hand_over(url, SOME)
        assert [(each.outcome, each.reason) for each in found] == [
            ("accepted", ""),
            ("refused", "refused"),
        ] * 2
        assert found[1].detail == "b-word: 1"


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
