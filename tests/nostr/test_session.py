"""A conversation: every answer ends, within its bounds in bytes and time, and says how."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bigbrotr.config import Link
from bigbrotr.models.relay import Relay
from bigbrotr.nostr.dial import dial
from bigbrotr.nostr.paging import End
from bigbrotr.nostr.reach import Unreached
from bigbrotr.nostr.session import SAMPLE_BYTES, Bounds, Page, Session
from tests.relays.events import make_event
from tests.relays.model import Vices
from tests.relays.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n, content=f"{n} " + "x" * 200) for n in range(50)]
BOUNDS = Bounds(reply_s=20.0, page_s=60.0, page_bytes=4 << 20)
SHORT = Bounds(reply_s=0.3, page_s=60.0, page_bytes=4 << 20)


@asynccontextmanager
async def session(relay: ScriptedRelay, max_frame_bytes: int = 1 << 20) -> AsyncIterator[Session]:
    connection = await dial(
        Relay(relay.url), Link(), max_frame_bytes=max_frame_bytes, allow_local=True
    )
    assert not isinstance(connection, Unreached)
    async with Session(connection) as talk:
        yield talk
    assert not talk.is_open


async def ask(vices: Vices, bounds: Bounds = BOUNDS, limit: int = 500) -> Page:
    async with ScriptedRelay(EVENTS, vices) as relay, session(relay) as talk:
        return await talk.fetch({"limit": limit}, bounds)


async def test_honest_answers_one_after_the_other() -> None:
    async with ScriptedRelay(EVENTS) as relay, session(relay) as talk:
        for limit in (1, 7, 500):
            page = await talk.fetch({"limit": limit}, BOUNDS)
            assert (page.end, page.reason, page.malformed) == (End.EOSE, "", {})
            assert len(page.events) == min(limit, 50)
            assert page.size > 400 * len(page.events)
        assert talk.is_open
        assert relay.seen.closed == ["b1", "b2"] or relay.seen.closed == ["b1", "b2", "b3"]


async def test_ends() -> None:
    page = await ask(Vices(hints=True))
    assert (page.end, page.hints) == (End.EOSE, ("finish",))
    page = await ask(Vices(hints=True), limit=5)
    assert (page.end, page.hints) == (End.EOSE, ("more",))
    page = await ask(Vices(refuses="blocked: not you"))
    assert (page.end, page.reason, page.events) == (End.CLOSED, "blocked: not you", [])
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
    assert page.events == []


async def test_too_many_bytes() -> None:
    page = await ask(Vices(), Bounds(reply_s=20, page_s=60, page_bytes=5000))
    assert (page.end, page.reason) == (End.OVERSIZE, "over 5000 bytes")
    assert 5000 < page.size < 10_000


@pytest.mark.parametrize("garbage", ["huge", "endless"])
async def test_too_large_a_frame_cuts_the_connection(garbage: str) -> None:
    vices = Vices(garbage=frozenset({garbage}))  # type: ignore[arg-type]
    async with ScriptedRelay(EVENTS, vices) as relay, session(relay, 10_000) as talk:
        page = await talk.fetch({"limit": 500}, BOUNDS)
        assert page.end is End.CUT
        assert "1009" in page.reason or "big" in page.reason or "exceeds" in page.reason
        assert not talk.is_open


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


async def test_relay_that_no_longer_reads() -> None:
    async with ScriptedRelay(EVENTS, Vices(delay_s=2)) as relay, session(relay) as talk:
        filler = {"limit": 1, "#t": ["x" * 1000] * 10_000}
        ends = {(await talk.fetch(filler, SHORT)).end for _ in range(3)}
        assert ends <= {End.TIMEOUT, End.CUT}
