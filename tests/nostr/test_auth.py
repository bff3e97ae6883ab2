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

from bigbrotr.config.settings import Link
from bigbrotr.models.event import Event
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.nostr.auth import MAX_CHALLENGE, Signer, Throwaway, answer_challenge
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Bounds, Session
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

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
    signed = answer_challenge(signer, "wss://relay.example.com/path", challenge, 1_700_000_000)
    event = Event.from_json(signed.event)  # verifies id and signature
    assert (event.id.hex(), event.pubkey.hex()) == (signed.event_id, signer.public_key)
    assert (event.kind, event.content, event.created_at) == (22242, "", 1_700_000_000)
    assert event.tags == (("relay", "wss://relay.example.com/path"), ("challenge", challenge))
    assert Throwaway().public_key != Throwaway().public_key


def test_challenge_that_nobody_can_sign() -> None:
    Event.from_json(answer_challenge(Throwaway(), "wss://relay.example.com", "\ud800", 0).event)


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
    assert await rude.asked(times=2) == (End.CLOSED, "restricted: no; our AUTH: invalid: no")
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
    assert await rude.asked(SHORT, times=2) == (End.CLOSED, "restricted: no")
    assert (rude.requests, len(rude.proofs)) == (3, 1)  # asked once more, to see


async def test_flood_on_an_answer() -> None:
    noise = ["NOTICE", "x" * 5000]
    rude = Rude([["AUTH", "c"]], judge=lambda _: [noise] * 10)
    bounds = Bounds(reply_s=0.5, page_s=60, page_bytes=10_000)
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
            assert page.end is End.CLOSED
            assert page.reason == "auth-required: x; our AUTH: connection lost"
            assert not talk.is_open


# Dialects


class Dialect:
    """A relay that shows its events to those whom it knows, and says so in words of its own.

    `refuse` is what it says to others, and `accept` to an answer; `greet` comes at the beginning.
    """

    def __init__(
        self,
        refuse: Callable[[str], list[list[Any]]],
        accept: Callable[[str], list[list[Any]]] = lambda event_id: [["OK", event_id, True, ""]],
        greet: list[list[Any]] | None = None,
        events: int = 5,
        knows: bool = True,
        late_s: float = 0.0,
    ) -> None:
        self.refuse, self.accept, self.greet = refuse, accept, greet or []
        self.events, self.knows, self.late_s = EVENTS[:events], knows, late_s
        self.seen: list[str] = []  # the verbs that came, but for CLOSE

    async def converse(self, socket: ServerConnection) -> None:
        is_known = False
        for frame in self.greet:
            await socket.send(json.dumps(frame))
        async for text in socket:
            verb, *rest = json.loads(text)
            frames: list[list[Any]] = []
            self.seen += [verb] * (verb != "CLOSE")
            if verb == "AUTH":
                is_known = self.knows
                await asyncio.sleep(self.late_s)
                frames = self.accept(rest[0]["id"])
            elif verb == "REQ" and is_known:
                frames = [*(["EVENT", rest[0], event] for event in self.events), ["EOSE", rest[0]]]
            elif verb == "REQ":
                frames = self.refuse(rest[0])
            for frame in frames:
                await socket.send(json.dumps(frame))

    @asynccontextmanager
    async def talk(self, signer: Signer | None) -> AsyncIterator[Session]:
        async with serve(self.converse, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with session(f"ws://127.0.0.1:{port}", signer) as talk, asyncio.timeout(20):
                yield talk


HURRIED = Bounds(reply_s=0.4, page_s=60.0, page_bytes=1 << 20)
AUTH = [["AUTH", "c"]]


def mute(_: str) -> list[list[Any]]:
    return []


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(lambda sub: [["CLOSED", sub, "auth-required: x"]], mute, AUTH),
        Dialect(lambda sub: [*AUTH, ["CLOSED", sub, "restricted: x"]], mute),
        Dialect(lambda _: AUTH),
        Dialect(lambda _: AUTH, mute),
        Dialect(lambda _: [*AUTH, ["NOTICE", "restricted: please authenticate"]]),
        Dialect(lambda _: [["NOTICE", "this relay requires auth"], *AUTH]),
        Dialect(lambda _: [["NOTICE", "this relay requires auth"]], greet=AUTH),
        Dialect(lambda _: [["NOTICE", "who are you?"]], greet=AUTH),
        Dialect(lambda _: [], greet=AUTH),
        Dialect(lambda sub: [["EOSE", sub]], greet=AUTH),
        Dialect(lambda sub: [["EOSE", sub]], mute, greet=AUTH),
        Dialect(lambda sub: [*AUTH, ["EOSE", sub]], lambda _: [["NOTICE", "you are in"]]),
        Dialect(lambda sub: [["CLOSED", sub, "auth-required: x"]], greet=AUTH, late_s=0.6),
    ],
)
async def test_dialects_of_auth(dialect: Dialect) -> None:
    """Whatever they say, they are told who asks, once, and asked again."""
    signer = Throwaway()
    async with dialect.talk(signer) as talk:
        pages = [await talk.fetch(ASK, HURRIED) for _ in range(2)]
        assert [(page.end, len(page.events)) for page in pages] == [(End.EOSE, 5)] * 2
        assert [page.number for page in pages] == [1, 2]
        assert talk.identity == signer.public_key
    assert dialect.seen.count("AUTH") == 1
    assert dialect.seen[:2] == ["REQ", "AUTH"]
    assert dialect.seen[-1] == "REQ"


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(lambda sub: [["EOSE", sub]], greet=AUTH),
        Dialect(lambda sub: [*AUTH, ["EOSE", sub]]),
        Dialect(lambda _: AUTH),
        Dialect(lambda _: [*AUTH, ["NOTICE", "auth-required: who are you?"]]),
    ],
)
async def test_nothing_under_an_open_challenge_is_no_answer(dialect: Dialect) -> None:
    async with dialect.talk(None) as talk:
        page = await talk.fetch(ASK, HURRIED)
        assert (page.end, len(page.events), page.is_guess) == (End.CLOSED, 0, True)
        assert page.reason.startswith("auth-required: ")
        assert talk.identity is None
    assert dialect.seen == ["REQ"]


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (lambda event_id: [["OK", event_id, False, "restricted: members only"]], "members only"),
        (lambda _: [["NOTICE", "error: auth failed"]], "error: auth failed"),
        (mute, "auth-required: "),
    ],
)
async def test_nothing_to_those_who_are_refused_is_no_answer(
    verdict: Callable[[str], list[list[Any]]], words: str
) -> None:
    dialect = Dialect(lambda sub: [["EOSE", sub]], verdict, AUTH, knows=False)
    async with dialect.talk(Throwaway()) as talk:
        for _ in range(2):
            page = await talk.fetch(ASK, HURRIED)
            assert (page.end, len(page.events)) == (End.CLOSED, 0)
            assert page.reason.startswith("auth-required: ")
            assert words in page.reason
        assert talk.identity is None
    assert dialect.seen.count("AUTH") == 1


async def test_nothing_to_those_who_are_known_is_an_answer() -> None:
    dialect = Dialect(lambda sub: [["EOSE", sub]], greet=AUTH, events=0)
    async with dialect.talk(Throwaway()) as talk:
        for _ in range(2):
            assert (await talk.fetch(ASK, HURRIED)).end is End.EOSE
    assert dialect.seen == ["REQ", "AUTH", "REQ", "REQ"]


async def test_open_relays_that_send_a_challenge_cost_nothing() -> None:
    """Also one that says nothing later on: it has shown what it has to those whom it does not
    know."""
    answers = iter([5, 0, 0])

    def show(sub: str) -> list[list[Any]]:
        events = [["EVENT", sub, event] for event in EVENTS[: next(answers)]]
        return [*events, ["EOSE", sub]]

    dialect = Dialect(show, greet=[*AUTH, ["NOTICE", "error: none, and you are blocked by nobody"]])
    async with dialect.talk(Throwaway()) as talk:
        pages = [await talk.fetch(ASK, BOUNDS) for _ in range(3)]
        assert [(page.end, len(page.events), page.reason) for page in pages] == [
            *[(End.EOSE, 5, "")],
            *[(End.EOSE, 0, "")] * 2,
        ]
    assert dialect.seen == ["REQ"] * 3


async def test_reconciliation_in_words_of_its_own() -> None:
    """It says nothing of our answer, and works then."""

    class Reconciling(Dialect):
        async def converse(self, socket: ServerConnection) -> None:
            is_known = False
            async for text in socket:
                verb, *rest = json.loads(text)
                self.seen.append(verb)
                if verb == "AUTH":
                    is_known = True
                elif verb == "NEG-OPEN" and is_known:
                    await socket.send(json.dumps(["NEG-MSG", rest[0], "61"]))
                elif verb == "NEG-OPEN":
                    await socket.send(json.dumps(AUTH[0]))
                    await socket.send(json.dumps(["NEG-ERR", rest[0], "auth-required: x"]))

    dialect, signer = Reconciling(mute), Throwaway()
    async with dialect.talk(signer) as talk:

        async def enough(_: bytes) -> None:
            return None

        result = await talk.reconcile({}, b"\x61", enough, HURRIED)
        assert (result.end, result.answers) == (End.EOSE, 1)
        assert talk.identity == signer.public_key
