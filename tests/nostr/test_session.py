"""A conversation: every answer ends, within its bounds in bytes and time, and says how."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from msgspec.structs import replace
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bigbrotr.config.settings import Link
from bigbrotr.models.burst import Burst
from bigbrotr.models.columns import Columns
from bigbrotr.models.plain import unpacked
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.frames import FRAME_COST
from bigbrotr.net.websocket import Stream
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import (
    SAMPLE_BYTES,
    Bounds,
    Page,
    Session,
    _Reading,
    is_objection,
)
from tests.kit.c import NATIVE
from tests.kit.events import make_event, wire
from tests.kit.model import Vices
from tests.kit.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n, content=f"{n} " + "x" * 200) for n in range(50)]
BOUNDS = Bounds(reply_s=20.0, page_s=60.0, page_bytes=4 << 20)
SHORT = Bounds(reply_s=0.3, page_s=60.0, page_bytes=4 << 20)


@asynccontextmanager
async def session(
    relay: ScriptedRelay | str, max_frame_bytes: int = 1 << 20
) -> AsyncIterator[Session]:
    url = relay if isinstance(relay, str) else relay.url
    connection = await dial(Relay(url), Link(), max_frame_bytes=max_frame_bytes, allow_local=True)
    assert not isinstance(connection, Unreached)
    async with Session(connection) as talk:
        yield talk
    assert not talk.is_open


async def ask(vices: Vices, bounds: Bounds = BOUNDS, limit: int = 500) -> Page:
    async with ScriptedRelay(EVENTS, vices) as relay, session(relay) as talk:
        return await talk.fetch({"limit": limit}, bounds)


async def test_honest_answers_one_after_the_other() -> None:
    async with ScriptedRelay(EVENTS) as relay, session(relay) as talk:
        numbers = []
        for limit in (1, 7, 500):
            page = await talk.fetch({"limit": limit}, BOUNDS)
            numbers.append(page.number)
            assert (page.end, page.reason, page.malformed) == (End.EOSE, "", {})
            assert (page.late, page.late_dropped, page.oversized) == ([], set(), [])
            assert len(page.events) == min(limit, 50)
            assert page.size > 400 * len(page.events)
        assert talk.is_open
        assert numbers == [1, 2, 3]
        assert len(set(relay.seen.closed)) == len(relay.seen.closed) >= 2


async def test_ends() -> None:
    page = await ask(Vices(hints=True))
    assert (page.end, page.hints) == (End.EOSE, ("finish",))
    page = await ask(Vices(hints=True), limit=5)
    assert (page.end, page.hints) == (End.EOSE, ("more",))
    page = await ask(Vices(refuses="blocked: not you"))
    assert (page.end, page.reason, len(page.events)) == (End.CLOSED, "blocked: not you", 0)
    page = await ask(Vices(closed_after=5))
    assert (page.end, len(page.events)) == (End.CLOSED, 5)
    page = await ask(Vices(drop_after=5))
    assert (page.end, len(page.events)) == (End.CUT, 5)
    assert page.reason


async def test_silence_ends_within_its_time() -> None:
    for vices in (Vices(silent=True), Vices(no_eose=True), Vices(delay_s=1)):
        page = await ask(vices, SHORT)
        assert page.end is End.TIMEOUT


async def test_dripping_events_end_within_the_time_of_a_page() -> None:
    started = time.monotonic()
    bounds = Bounds(reply_s=10, page_s=0.5, page_bytes=4 << 20)
    page = await ask(Vices(drip_s=0.1), bounds)
    assert page.end is End.TIMEOUT
    assert 0 < len(page.events) < 50  # each came in time, all together do not
    assert time.monotonic() - started < 8


async def test_dripping_bytes_end_within_the_time_of_a_reply() -> None:
    page = await ask(Vices(drip_s=0.05, drips_bytes=True), SHORT)
    assert page.end is End.TIMEOUT
    assert not page.events


async def test_too_many_bytes() -> None:
    page = await ask(Vices(), Bounds(reply_s=20, page_s=60, page_bytes=5000))
    assert (page.end, page.reason) == (End.OVERSIZE, "over 5000 bytes")
    assert 5000 < page.size < 10_000


async def test_endless_message_cuts_the_connection() -> None:
    vices = Vices(garbage=frozenset({"endless"}))
    async with ScriptedRelay(EVENTS, vices) as relay, session(relay, 10_000) as talk:
        page = await talk.fetch({"limit": 500}, BOUNDS)
        assert page.end is End.CUT
        assert "1009" in page.reason
        assert not talk.is_open


async def test_large_message_that_is_no_answer_is_noise() -> None:
    vices = Vices(garbage=frozenset({"huge"}))
    async with ScriptedRelay(EVENTS, vices) as relay, session(relay, 10_000) as talk:
        page = await talk.fetch({"limit": 500}, BOUNDS)
        assert (page.end, len(page.events), page.oversized) == (End.EOSE, 50, [])
        assert page.strays > vices.huge_bytes > page.size


LARGE = make_event(1_600_000_025, content="large " + "x" * 300_000)


async def test_event_that_is_too_large_hides_no_other() -> None:
    async with ScriptedRelay([*EVENTS, LARGE]) as relay, session(relay, 100_000) as talk:
        page = await talk.fetch({"limit": 500}, BOUNDS)
        assert (page.end, len(page.events), page.unreadable) == (End.EOSE, 50, 0)
        [sample] = page.oversized
        assert LARGE["id"].encode() in sample
        assert LARGE["sig"].encode() in sample
        assert len(sample) < 10_000
        assert page.size > 300_000
        assert (await talk.fetch({"limit": 500}, BOUNDS)).end is End.EOSE


async def test_bytes_that_are_skipped_count() -> None:
    bounds = Bounds(reply_s=20, page_s=60, page_bytes=200_000)
    async with ScriptedRelay([*EVENTS, LARGE]) as relay, session(relay, 100_000) as talk:
        page = await talk.fetch({"limit": 500}, bounds)
        assert page.end is End.OVERSIZE
        assert (len(page.oversized), len(page.events)) == (1, 25)  # of those above it and beside it


async def test_litter_is_counted_and_the_events_come_through() -> None:
    garbage = frozenset({"not-json", "wrong-shape", "binary"})
    page = await ask(Vices(garbage=garbage))  # type: ignore[arg-type]
    assert page.end is End.EOSE
    assert len(page.events) == 50
    assert sum(count for count, _ in page.malformed.values()) >= 10
    for reason, (count, sample) in page.malformed.items():
        assert reason
        assert count > 0
        assert len(sample) <= SAMPLE_BYTES


async def test_what_a_relay_says_besides() -> None:
    async with ScriptedRelay(EVENTS, Vices(needs_auth=True)) as relay, session(relay) as talk:
        page = await talk.fetch({"limit": 1}, BOUNDS)
        assert (page.end, page.reason) == (End.CLOSED, "auth-required: who are you?")
        assert talk.challenge


async def test_question_after_the_connection_was_lost() -> None:
    async with ScriptedRelay(EVENTS) as relay, session(relay) as talk:
        await talk.fetch({"limit": 1}, BOUNDS)
        relay.cut_all()
        page = await talk.fetch({"limit": 1}, BOUNDS)
        assert page.end is End.CUT
        assert not talk.is_open


@pytest.mark.slow
async def test_relay_that_no_longer_reads() -> None:
    async with ScriptedRelay(EVENTS, Vices(delay_s=2)) as relay, session(relay) as talk:
        filler = {"limit": 1, "#t": ["x" * 1000] * 10_000}
        ends = {(await talk.fetch(filler, SHORT)).end for _ in range(3)}
        assert ends <= {End.TIMEOUT, End.CUT}


# Relays that are written out

Say = list[Any] | str | float | None  # a frame (as it is), a pause, or the end of the connection


@asynccontextmanager
async def saying(
    answer: Callable[[int, str], Sequence[Say]], greet: Sequence[Say] = ()
) -> AsyncIterator[str]:
    """A relay that says this to the n-th REQ (from 1), whose subscription it is told."""

    async def converse(socket: ServerConnection) -> None:
        async def say(frames: Sequence[Say]) -> None:
            for frame in frames:
                if frame is None:
                    await socket.close(1000, "enough")
                elif isinstance(frame, float):
                    await asyncio.sleep(frame)
                else:
                    await socket.send(frame if isinstance(frame, str) else json.dumps(frame))

        await say(greet)
        asked = 0
        async for text in socket:
            verb, *rest = json.loads(text)
            if verb == "REQ":
                asked += 1
                await say(answer(asked, rest[0]))

    async with serve(converse, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def events(sub: str, first: int, last: int) -> list[Say]:
    return [["EVENT", sub, event] for event in EVENTS[first:last]]


def taken(frames: list[bytes], most_bytes: int = 1 << 20) -> Page:
    """What is made of messages that come together."""
    page = Page(Columns(), End.CUT)
    reading = _Reading(page, most_bytes, "s", is_request=True)
    Session(cast(Stream, None))._take([Burst.of(frames)], reading)
    return page


def test_few_events_do_not_keep_alive_what_came_beside_them() -> None:
    """Else a relay could make a page of small events hold all that it sends with them."""
    some = [b'["EVENT","s",%b]' % wire(event) for event in EVENTS[:8]]
    page = taken([*some, b'["NOTICE","%b"]' % (b"x" * 100_000)])
    assert ids(page.events) == wanted(0, 8)
    assert sum(map(len, page.events.kept)) <= sum(map(len, some))
    assert page.size == sum(len(frame) + FRAME_COST for frame in some)


@NATIVE
def test_events_are_columns_whatever_comes_among_them() -> None:
    """Once: one that is written in another way made objects of all those around it."""
    frames = [b'["EVENT","s",%b]' % wire(event) for event in EVENTS]
    for place in (10, 30):
        frames[place] = frames[place].replace(b',"tags":[]', b',"more":0,"tags":[]')
    for beside in ([], [b'["NOTICE","%b"]' % (b"x" * 100_000)]):
        page = taken([*frames, *beside])
        assert ids(page.events) == wanted(0, 50)
        assert page.events.others.keys() == {10, 30}


def test_an_answer_that_is_too_large_ends_in_the_middle_of_what_came() -> None:
    frames = [b'["EVENT","s",%b]' % wire(event) for event in EVENTS]
    page = taken(frames, most_bytes=sum(len(frame) + FRAME_COST for frame in frames[:20]))
    assert page.end is End.OVERSIZE
    assert ids(page.events) == wanted(0, 21)


def ids(found: Iterable[Any]) -> list[str]:
    return [str(event.id) for event in map(unpacked, found)]


def wanted(first: int, last: int) -> list[str]:
    return [event["id"] for event in EVENTS[first:last]]


async def test_nothing_that_comes_before_a_question_answers_it() -> None:
    subs: list[str] = []

    def answer(asked: int, sub: str) -> list[Say]:
        subs.append(sub)
        # As if it knew what comes next.
        guesses = [f"b{asked + 1}", sub[:-1] + "0", "live", "", "read", *subs[:-1]]
        return [*events(sub, 0, 1), ["EOSE", sub], *[["EOSE", guess] for guess in guesses]]

    async with saying(answer, [["EOSE", "b1"], ["EOSE", ""]]) as url, session(url) as talk:
        for _ in range(4):
            page = await talk.fetch({"limit": 1}, BOUNDS)
            assert (page.end, len(page.events)) == (End.EOSE, 1)
    assert len({sub[:4] for sub in subs}) == 4
    assert all(len(sub) <= 64 for sub in subs)


async def test_eose_overtakes_the_events() -> None:
    """They come with the next page, and with the number of the question that they belong to."""

    def answer(asked: int, sub: str) -> list[Say]:
        if asked == 1:
            return [["EOSE", sub], 0.05, *events(sub, 0, 5)]
        return [*events(sub, 5, 7), ["EOSE", sub]]

    async with saying(answer) as url:
        async with session(url) as talk:
            first = await talk.fetch({"limit": 5}, BOUNDS)
            assert (first.number, first.end, list(first.events), first.late) == (
                1,
                End.EOSE,
                [],
                [],
            )
            second = await talk.fetch({"limit": 5}, BOUNDS)
            assert (second.number, ids(second.events)) == (2, wanted(5, 7))
            assert [number for number, _ in second.late] == [1] * 5
            assert ids([event for _, event in second.late]) == wanted(0, 5)
        async with session(url) as talk:  # a relay is waited for before it is called empty
            assert not (await talk.fetch({"limit": 5}, BOUNDS)).events
            late = await talk.drain(0.3, BOUNDS.page_bytes)
            assert [(number, *ids([event])) for number, event in late] == [
                (1, event_id) for event_id in wanted(0, 5)
            ]
            assert await talk.drain(0.0, BOUNDS.page_bytes) == []
        async with session(url) as talk:  # or longer at each page
            page = await talk.fetch({"limit": 5}, replace(BOUNDS, linger_s=0.3))
            assert (page.end, ids(page.events)) == (End.EOSE, wanted(0, 5))


async def test_lingering_has_an_end() -> None:
    def answer(asked: int, sub: str) -> list[Say]:
        drip = [part for event in events(sub, 0, 50) for part in (0.05, event)]
        return [["EOSE", sub], *drip]

    async with saying(answer) as url, session(url) as talk:
        bounds = Bounds(reply_s=20, page_s=0.4, page_bytes=1 << 20, linger_s=0.2)
        page = await talk.fetch({"limit": 5}, bounds)
        assert (page.end, page.reason) == (End.TIMEOUT, "events still came after EOSE")
        assert 0 < len(page.events) < 50


async def test_late_events_are_bounded() -> None:
    """What does not fit is dropped, and of which questions; a flood ends the conversation."""
    asked_for = {1: 20, 2: 0, 3: 50}

    def answer(asked: int, sub: str) -> list[Say]:
        subs.append(sub)
        late = [] if asked == 1 else events(subs[asked - 2], 0, asked_for[asked - 1])
        return [*late, ["EOSE", sub]]

    subs: list[str] = []
    async with saying(answer) as url, session(url) as talk:
        bounds = Bounds(reply_s=20, page_s=60, page_bytes=5000)
        pages = [await talk.fetch({"limit": 5}, bounds) for _ in range(3)]
        assert [page.end for page in pages] == [End.EOSE] * 3
        assert [page.late_dropped for page in pages] == [set(), {1}, set()]
        assert 5 < len(pages[1].late) < 15
        page = await talk.fetch({"limit": 5}, replace(bounds, page_bytes=1000))
        assert (page.end, page.late_dropped) == (End.CUT, {3})
        assert "flooded" in page.reason
        assert not talk.is_open


async def test_a_closed_answer_stands() -> None:
    """Some relays close what they have answered; others take it for nothing, and say why."""
    cases = [
        (3, "", End.EOSE),
        (3, "error: shutting down", End.EOSE),
        (0, "", End.EOSE),
        (0, "done", End.EOSE),
        (0, "auth-required: who?", End.CLOSED),
    ]

    def answer(asked: int, sub: str) -> list[Say]:
        count, text, _ = cases[asked - 1]
        return [*events(sub, 0, count), ["EOSE", sub], ["CLOSED", sub, text]]

    async with saying(answer) as url, session(url) as talk:
        for count, text, end in cases:
            page = await talk.fetch({"limit": 5}, BOUNDS)
            assert (page.end, len(page.events)) == (end, count)
            assert page.reason == (text if end is End.CLOSED else "")


async def test_the_end_after_an_answer_is_told() -> None:
    def answer(asked: int, sub: str) -> list[Say]:
        return [*events(sub, 0, 3), ["EOSE", sub], None]

    async with saying(answer) as url, session(url) as talk:
        page = await talk.fetch({"limit": 5}, replace(BOUNDS, linger_s=5.0))
        assert (page.end, len(page.events)) == (End.EOSE, 3)
        assert page.reason == "closed with 1000 enough"
        assert not talk.is_open


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("ERROR: bad req: limit 500 exceeds max_limit 300", True),
        ("too many filters", True),
        ("Subscription rejected: too many concurrent REQs", True),
        ("rate-limited: slow down", True),
        ("could not parse command", True),
        ("invalid: limit too large", True),
        ("restricted: sign in first", True),
        ("Can't handle empty filters", True),
        ("welcome to our relay, limits: max 500 events", False),
        ("Hello! Thanks for connecting. You must be nice.", False),
        ("this relay is run by volunteers", False),
        ("", False),
    ],
)
def test_words_that_may_refuse(text: str, is_one: bool) -> None:
    assert is_objection(text) == is_one


@pytest.mark.slow
async def test_refusals_by_notice() -> None:
    """Nothing follows on them: the answer is no, without waiting for ever."""
    refusal = "ERROR: limit 500 exceeds max_limit 300"

    def answer(asked: int, sub: str) -> list[Say]:
        if asked == 1:
            return [["NOTICE", "nice weather"], ["NOTICE", refusal], ["NOTICE", "as I said"]]
        if asked == 2:  # these words were about something else
            return [["NOTICE", refusal], 0.05, *events(sub, 0, 3), ["EOSE", sub]]
        return [*events(sub, 0, 3), ["NOTICE", refusal]]

    bounds = Bounds(reply_s=60, page_s=120, page_bytes=1 << 20)
    async with saying(answer, [["NOTICE", "error: maybe"]]) as url, session(url) as talk:
        async with asyncio.timeout(20):
            pages = [await talk.fetch({"limit": 500}, each) for each in (bounds, bounds, SHORT)]
        assert [(page.end, len(page.events), page.is_guess) for page in pages] == [
            (End.CLOSED, 0, True),
            (End.EOSE, 3, False),
            (End.CLOSED, 3, True),
        ]
        assert [page.reason for page in pages] == [refusal, "", refusal]
        assert talk.is_open


async def test_words_before_nothing_are_kept() -> None:
    async with (
        saying(lambda _, sub: [["NOTICE", "error: too broad"], ["EOSE", sub]]) as url,
        session(url) as talk,
    ):
        page = await talk.fetch({"limit": 500}, BOUNDS)
        assert (page.end, page.reason) == (End.EOSE, "error: too broad")


async def test_harmless_words_end_nothing() -> None:
    async with saying(lambda *_: [["NOTICE", "nice weather"]]) as url, session(url) as talk:
        page = await talk.fetch({"limit": 500}, SHORT)
        assert (page.end, page.reason, page.is_guess) == (End.TIMEOUT, "nice weather", False)


class Impatient:
    """A relay that drops lines on which nothing comes for a while, as proxies do too; it may not
    answer pings."""

    def __init__(self, patience_s: float, *, has_pongs: bool = True) -> None:
        self.patience_s, self.has_pongs = patience_s, has_pongs
        self.pings = 0
        self.is_pinged = asyncio.Event()  # a few times

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        try:
            while True:
                async with asyncio.timeout(self.patience_s):
                    data = await reader.read(65536)
                if not data:
                    break
                protocol.receive_data(data)
                for each in protocol.events_received():
                    if isinstance(each, Request):
                        protocol.send_response(protocol.accept(each))
                    elif isinstance(each, Frame) and each.opcode is Opcode.PING:
                        self.pings += 1
                        if self.pings >= 5:
                            self.is_pinged.set()
                answer = b"".join(protocol.data_to_send())
                if self.has_pongs or not self.pings:
                    writer.write(answer)
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def followed(self, ping_s: float) -> AsyncIterator[Session]:
        """A conversation with it, subscribed to what comes in live."""
        server = await asyncio.start_server(self.converse, "127.0.0.1", 0)
        async with server:
            relay = Relay(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            stream = await dial(relay, Link(), max_frame_bytes=1 << 20, allow_local=True)
            assert not isinstance(stream, Unreached)
            stream.keep_alive(ping_s)
            async with Session(stream) as talk, asyncio.timeout(10):
                await talk.subscribe({"limit": 1}, 5.0)
                yield talk


async def test_idle_lines_are_kept_alive() -> None:
    relay = Impatient(patience_s=0.5)
    async with relay.followed(ping_s=0.15) as talk:
        listening = asyncio.create_task(talk.listen(5.0, 1 << 20))
        await relay.is_pinged.wait()
        assert not listening.done()
        assert talk.is_listening
        listening.cancel()
    relay = Impatient(patience_s=0.3)
    async with relay.followed(ping_s=60.0) as talk:  # the line would have been dropped
        page = await talk.listen(5.0, 1 << 20)
        assert (page.end, relay.pings) == (End.CUT, 0)


async def test_line_on_which_no_ping_is_answered_is_dead() -> None:
    relay = Impatient(patience_s=10.0, has_pongs=False)
    async with relay.followed(ping_s=0.1) as talk:
        page = await talk.listen(5.0, 1 << 20)
        assert (page.end, page.reason) == (End.CUT, "it answers no ping")
        assert not talk.is_listening
        assert relay.pings == 1


async def test_large_message_on_a_slow_line_is_no_silence() -> None:
    """It takes longer than a reply may, but bytes come; where none come any more, it ends."""

    async def parts(socket: ServerConnection, sub: str, is_whole: bool) -> AsyncIterator[str]:
        yield f'["EVENT","{sub}",{{"id":"'
        for _ in range(6):
            yield "x" * 70_000
            await asyncio.sleep(0.1)
        if not is_whole:
            await socket.wait_closed()
        yield '"}]'

    async def drip(socket: ServerConnection) -> None:
        is_whole = True
        async for text in socket:
            verb, sub, *_ = json.loads(text)
            if verb == "REQ":
                await socket.send(parts(socket, sub, is_whole))
                await socket.send(json.dumps(["EOSE", sub]))
                is_whole = False

    async with serve(drip, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with session(url, 100_000) as talk:
            page = await talk.fetch({"limit": 1}, SHORT)
            assert (page.end, len(page.oversized)) == (End.EOSE, 1)
            page = await talk.fetch({"limit": 1}, SHORT)
            assert (page.end, len(page.oversized)) == (End.TIMEOUT, 0)


async def test_a_sample_of_what_is_too_large_is_no_event() -> None:
    """Its head and its tail together are the frame of an event that is valid."""
    size = 2 * SAMPLE_BYTES
    rest = len(wire(make_event())) + len('["EVENT","",]') + 16  # of a subscription
    event = wire(make_event(content="x" * (size - rest))).decode()

    def answer(asked: int, sub: str) -> list[Say]:
        frame = f'["EVENT","{sub}",{event}]'
        assert len(frame) == size
        large = frame[:SAMPLE_BYTES] + "x" * 40_000 + frame[SAMPLE_BYTES:]
        return [*events(sub, 0, 5), large, ["EOSE", sub]]

    async with saying(answer) as url, session(url, 30_000) as talk:
        page = await talk.fetch({"limit": 9}, BOUNDS)
        assert (page.end, len(page.events), len(page.oversized)) == (End.EOSE, 5, 1)
        assert page.oversized[0].startswith(b'["EVENT"')
        assert len(page.oversized[0]) == size
