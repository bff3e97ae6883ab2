"""Relays that insist on knowing who asks: answered once, within bounds, and never by force."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nostr_sdk
import pytest
from websockets.asyncio.server import ServerConnection, serve

from bigbrotr.config import Link
from bigbrotr.models.event import Event
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.nostr.auth import MAX_CHALLENGE, Signer, Throwaway, prove
from bigbrotr.nostr.dial import dial
from bigbrotr.nostr.paging import End
from bigbrotr.nostr.reach import Unreached
from bigbrotr.nostr.session import Bounds, Session
from tests.relays.events import make_event
from tests.relays.model import Vices
from tests.relays.real import free_port
from tests.relays.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n) for n in range(5)]
BOUNDS = Bounds(reply_s=20.0, page_s=60.0, page_bytes=1 << 20)
SHORT = Bounds(reply_s=0.3, page_s=60.0, page_bytes=1 << 20)
ASK = {"limit": 10}


@asynccontextmanager
async def session(url: str, signer: Signer | None) -> AsyncIterator[Session]:
    relay = Relay(url)
    stream = await dial(relay, Link(), max_frame_bytes=1 << 20, allow_local=True)
    assert not isinstance(stream, Unreached)
    async with Session(stream, relay.url, signer) as talk:
        yield talk


@pytest.mark.parametrize("signer", [Throwaway(), Keys.generate()], ids=["throwaway", "keys"])
@pytest.mark.parametrize("challenge", ["abc", "", '"\\\n\x01 é 🦣', "x" * MAX_CHALLENGE])
def test_answers_are_events(signer: Signer, challenge: str) -> None:
    proof = prove(signer, "wss://relay.example.com/path", challenge, 1_700_000_000)
    event = Event.from_json(proof.event)  # verifies id and signature
    assert (event.id.hex(), event.pubkey.hex()) == (proof.event_id, signer.public_key)
    assert (event.kind, event.content, event.created_at) == (22242, "", 1_700_000_000)
    assert event.tags == (("relay", "wss://relay.example.com/path"), ("challenge", challenge))
    assert Throwaway().public_key != Throwaway().public_key


def test_challenge_that_nobody_can_sign() -> None:
    Event.from_json(prove(Throwaway(), "wss://relay.example.com", "\ud800", 0).event)


async def test_relay_that_is_told_who_asks() -> None:
    signer = Throwaway()
    async with ScriptedRelay(EVENTS, Vices(needs_auth=True)) as relay:
        async with session(relay.url, signer) as talk:
            for _ in range(2):
                page = await talk.fetch(ASK, BOUNDS)
                assert (page.end, len(page.events)) == (End.EOSE, 5)
            assert talk.identity == signer.public_key
        assert len(relay.seen.filters) == 3  # refused, and asked again; then known
    async with ScriptedRelay(EVENTS) as relay, session(relay.url, signer) as talk:
        assert (await talk.fetch(ASK, BOUNDS)).end is End.EOSE
        assert talk.identity is None


async def test_without_a_key_it_stays_closed() -> None:
    async with ScriptedRelay(EVENTS, Vices(needs_auth=True)) as relay:
        async with session(relay.url, None) as talk:
            page = await talk.fetch(ASK, BOUNDS)
            assert (page.end, page.reason) == (End.CLOSED, "auth-required: who are you?")
            assert talk.identity is None
        assert len(relay.seen.filters) == 1


@pytest.mark.parametrize("mode", ["READ", "BOTH"])
async def test_relay_of_nostr_sdk(mode: str) -> None:
    nip42 = nostr_sdk.LocalRelayBuilderNip42(
        mode=getattr(nostr_sdk.LocalRelayBuilderNip42Mode, mode)
    )
    relay = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").port(free_port()).nip42(nip42).build()
    await relay.run()
    try:
        async with session(str(await relay.url()), None) as talk:
            assert (await talk.fetch(ASK, BOUNDS)).end is End.CLOSED
        signer = Throwaway()
        async with session(str(await relay.url()), signer) as talk:
            assert (await talk.fetch(ASK, BOUNDS)).end is End.EOSE
            assert talk.identity == signer.public_key
    finally:
        relay.shutdown()


# Relays that make trouble of it

Say = Callable[..., Awaitable[None]]


class Rude:
    """A relay that is written out: what it says at first, to a REQ, and to an AUTH."""

    def __init__(
        self,
        greet: list[list[Any]] | None = None,
        refuse: Callable[[str], list[list[Any]]] = lambda sub: [["CLOSED", sub, "restricted: no"]],
        judge: Callable[[str], list[list[Any]]] = lambda event_id: [["OK", event_id, True, ""]],
    ) -> None:
        self.greet, self.refuse, self.judge = greet or [], refuse, judge
        self.requests = 0
        self.proofs: list[dict[str, Any]] = []

    async def converse(self, socket: ServerConnection) -> None:
        for frame in self.greet:
            await socket.send(json.dumps(frame))
        async for text in socket:
            verb, *rest = json.loads(text)
            if verb == "REQ":
                self.requests += 1
                answers = self.refuse(rest[0])
            elif verb == "AUTH":
                self.proofs.append(rest[0])
                answers = self.judge(rest[0]["id"])
            else:
                continue
            for frame in answers:
                await socket.send(json.dumps(frame))

    async def asked(self, bounds: Bounds = BOUNDS, times: int = 1) -> tuple[End, str]:
        async with serve(self.converse, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with session(f"ws://127.0.0.1:{port}", Throwaway()) as talk:
                for _ in range(times):
                    async with asyncio.timeout(20):
                        page = await talk.fetch(ASK, bounds)
                assert talk.is_open
                return page.end, page.reason


async def test_refusal_before_the_challenge() -> None:
    rude = Rude(refuse=lambda sub: [["CLOSED", sub, "auth-required: x"], ["AUTH", "late"]])
    assert await rude.asked() == (End.CLOSED, "auth-required: x")
    assert [proof["tags"][1] for proof in rude.proofs] == [["challenge", "late"]]
    assert rude.requests == 2


async def test_restricted_even_when_known() -> None:
    rude = Rude([["AUTH", "first"]])
    assert await rude.asked(times=3) == (End.CLOSED, "restricted: no")
    assert (rude.requests, len(rude.proofs)) == (4, 1)


async def test_refused_answer() -> None:
    rude = Rude([["AUTH", "c"]], judge=lambda event_id: [["OK", event_id, False, "invalid: no"]])
    assert await rude.asked(times=2) == (End.CLOSED, "restricted: no")
    assert (rude.requests, len(rude.proofs)) == (2, 1)


async def test_a_new_challenge_each_time_is_answered_once_a_question() -> None:
    count = iter(range(100))
    rude = Rude(
        [["AUTH", "first"]],
        refuse=lambda sub: [["AUTH", f"c{next(count)}"], ["CLOSED", sub, "auth-required: x"]],
    )
    assert await rude.asked(times=3) == (End.CLOSED, "auth-required: x")
    assert (rude.requests, len(rude.proofs)) == (6, 3)


async def test_no_challenge_or_none_that_is_answered() -> None:
    for greet in ([], [["AUTH", "x" * (MAX_CHALLENGE + 1)]], [["AUTH"]], [["AUTH", 7]]):
        rude = Rude(greet)
        started = time.monotonic()
        assert await rude.asked(SHORT) == (End.CLOSED, "restricted: no")
        assert time.monotonic() - started < 10
        assert (rude.requests, rude.proofs) == (1, [])


async def test_silence_on_an_answer() -> None:
    rude = Rude([["AUTH", "c"]], judge=lambda _: [["OK", "0" * 64, True, "another"], ["OK", 7]])
    assert await rude.asked(SHORT) == (End.CLOSED, "restricted: no")
    assert (rude.requests, len(rude.proofs)) == (1, 1)


async def test_flood_on_an_answer() -> None:
    noise = ["NOTICE", "x" * 5000]
    rude = Rude([["AUTH", "c"]], judge=lambda _: [noise] * 10)
    bounds = Bounds(reply_s=2, page_s=60, page_bytes=10_000)
    assert await rude.asked(bounds) == (End.CLOSED, "restricted: no")


async def test_other_refusals_are_no_matter_of_keys() -> None:
    rude = Rude([["AUTH", "c"]], refuse=lambda sub: [["CLOSED", sub, "error: auth-required: x"]])
    assert await rude.asked() == (End.CLOSED, "error: auth-required: x")
    assert rude.proofs == []


async def test_cut_in_the_middle() -> None:
    async def hang_up(socket: ServerConnection) -> None:
        await socket.send('["AUTH","c"]')
        sub = json.loads(await socket.recv())[1]
        await socket.send(json.dumps(["CLOSED", sub, "auth-required: x"]))
        await socket.recv()
        socket.transport.abort()

    async with serve(hang_up, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with session(f"ws://127.0.0.1:{port}", Throwaway()) as talk:
            page = await talk.fetch(ASK, BOUNDS)
            assert (page.end, page.reason) == (End.CLOSED, "auth-required: x")
            assert not talk.is_open
