"""Relays as they are in the field: each has its own idea of a question, and is archived all the
same, or has a gap that says why; and visits that bring nothing become rare."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import pytest

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.events import EventCalls
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.filter import Filter
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.politeness import politeness_of
from bigbrotr.nostr import paging
from bigbrotr.services.sync import conversation, new_ground
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.worker import Slice, Worker
from tests.kit.events import make_event, wire
from tests.kit.model import Vices
from tests.kit.scripted import ScriptedRelay

BEGIN = 1_600_000_000
EVENTS = [make_event(BEGIN + 60 * n, content=f"{n}", key=n % 4) for n in range(300)]
ORDER = Slice("test", 60.0, {Network.LOCAL: 10})
OTHER = Relay("wss://other.example.com")
ELSEWHERE = [make_event(BEGIN + 7 * n, content=f"elsewhere {n}", key=n % 4) for n in range(30)]

TimedSocket = Mapping[str, Any]


def config(**settings: Any) -> Config:
    return Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=5.0)),
        synchronizer=SynchronizerSettings(
            **{"settle_s": 0, "slice_s": 60.0, "live": False, **settings}
        ),
    )


async def visit(brotr: Brotr, *, at_once: bool = True, **settings: Any) -> Report:
    """One visit to each relay; `at_once`: whatever had to wait does not."""
    politeness_of.cache_clear()
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    if at_once:
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
    return await Worker(config(**settings), brotr).work(ORDER)


async def know_others(brotr: Brotr) -> None:
    """Another relay has brought events before."""
    events = [Event.from_json(wire(event)) for event in ELSEWHERE]
    await brotr.insert_events([EventRelay(event, OTHER, BEGIN) for event in events])
    await brotr.pool.execute(
        "DELETE FROM bigbrotr.visits WHERE relay_id = (SELECT id"
        " FROM bigbrotr.relays WHERE url = $1)",
        OTHER.url,
    )


async def held(brotr: Brotr, relay: ScriptedRelay) -> set[str]:
    rows = await brotr.pool.fetch(
        "SELECT encode(event_id, 'hex') FROM bigbrotr.events_relays WHERE relay_url = $1",
        Relay(relay.url).url,
    )
    return {row[0] for row in rows}


async def gaps(brotr: Brotr) -> list[tuple[str, int, int]]:
    rows = await brotr.pool.fetch(
        "SELECT reason, lower(span), upper(span) FROM bigbrotr.gaps ORDER BY span"
    )
    return [tuple(row) for row in rows]


async def missing(brotr: Brotr) -> list[Any]:
    spans = await brotr.pool.fetchval(
        "SELECT bigbrotr.missing_spans(r.id, 0, v.until, $1)"
        " FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = relay_id",
        int(time.time()),
    )
    return list(spans)


def ids(events: Sequence[TimedSocket]) -> set[str]:
    return {event["id"] for event in events}


@pytest.mark.parametrize(
    "vices",
    [Vices(clamp=60), Vices(clamp=60, pick="oldest", order="oldest"), Vices(pinned=1, clamp=60)],
    ids=["newest first", "oldest first", "a pinned event"],
)
async def test_no_page_is_copied_in_vain_after_a_part_of_it_was_asked_for_again(
    brotr: Brotr, vices: Vices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page begins where the one before ended, also if other questions lie between them: one event
    that is archived already made the whole page at least twice as dear to store."""
    in_vain = []
    copy_page = EventCalls._copy_page

    async def watched(*arguments: Any) -> int:
        try:
            return await copy_page(*arguments)
        except asyncpg.UniqueViolationError as error:
            in_vain.append(error.detail)
            raise

    monkeypatch.setattr(EventCalls, "_copy_page", watched)
    monkeypatch.setattr(paging, "CHECK_EVERY", 2)
    monkeypatch.setattr(new_ground, "ENOUGH", 1)  # nobody looks first
    async with ScriptedRelay(EVENTS, vices) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr, reconcile=False)
        assert await held(brotr, relay) == ids(EVENTS)
        probes = [asked for [asked] in relay.seen.filters if {"since", "until"} <= asked.keys()]
        assert len(probes) > 1
    assert in_vain == []


# What they show is all there is, and proven.
PROVEN = {
    "limits that are refused": Vices(most_limit=60),
    "CLOSED after some events": Vices(closed_after=100),
    "the connection ends after each answer": Vices(clamp=40, drop_after_pages=1),
    "pages end at some bytes": Vices(page_bytes=40 * 250),
    "short times only": Vices(most_span_s=100 * 86_400),
    "all after EOSE": Vices(late=1.0),
    "half of it after EOSE": Vices(late=0.5, clamp=100),
    "finish, always": Vices(finishes_always=True, clamp=50),
    "a pinned event": Vices(pinned=1),
    "three pinned events": Vices(pinned=3, clamp=100),
    "a forged copy ahead of each event": Vices(forged=frozenset({"copy"})),
    "in any order": Vices(order="random", pick="random", clamp=60),
    "some at random, newest first": Vices(pick="random", clamp=60),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROVEN)
async def test_archived_and_proven(brotr: Brotr, name: str) -> None:
    async with ScriptedRelay(EVENTS, PROVEN[name]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        for _ in range(4):
            await visit(brotr, reconcile=False)
            if not (await missing(brotr) or await gaps(brotr)):
                break
        assert await held(brotr, relay) == ids(EVENTS)
        assert await gaps(brotr) == []
        assert await missing(brotr) == []
        # What worked is remembered: another visit asks in no other way.
        before = len(relay.seen.filters)
        await visit(brotr, reconcile=False)
        assert len(relay.seen.filters) - before < 12
        assert await gaps(brotr) == []


# What they show is archived, and proves nothing.
UNPROVEN = {
    "refused unless kinds are given": Vices(refuses_unless=frozenset({"kinds", "authors", "ids"})),
    "empty unless kinds are given": Vices(empty_when_broad=True),
    "empty unless authors are given": Vices(empty_unless=frozenset({"authors", "ids"})),
    "empty, it says why": Vices(
        empty_unless=frozenset({"authors", "ids"}), eose_words="nothing was looked for"
    ),
    "refused unless authors are given": Vices(refuses_unless=frozenset({"authors", "ids"})),
}


@pytest.mark.parametrize("name", UNPROVEN)
async def test_archived_and_not_proven(brotr: Brotr, name: str) -> None:
    await know_others(brotr)
    async with ScriptedRelay(EVENTS, UNPROVEN[name]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        assert await held(brotr, relay) == ids(EVENTS)
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.coverage") == 0
        assert {reason for reason, *_ in await gaps(brotr)} <= {"closed", "suspected-empty"}
        # The next visits begin with what has worked, and follow what is new.
        await relay.add(make_event(int(time.time()) - 5, key=1))
        before = len(relay.seen.filters)
        await visit(brotr)
        assert await held(brotr, relay) == ids(relay.events)
        assert len(relay.seen.filters) - before < 20
        assert len(await gaps(brotr)) == 1


@pytest.mark.slow
async def test_a_relay_that_ceases_to_show_anything_still_holds_it(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    await know_others(brotr)
    async with ScriptedRelay(EVENTS[:30]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        for vices in (Vices(empty_when_broad=True), Vices(empty_unless=frozenset({"authors"}))):
            now += 100_000
            relay.vices = vices
            await visit(brotr, rewalk_s=7200)
            assert await held(brotr, relay) == ids(EVENTS[:30])
            assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.dropped") == 0


@pytest.mark.slow
async def test_an_empty_relay_is_believed_when_it_could_be_tested(brotr: Brotr) -> None:
    async with ScriptedRelay([]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        assert [reason for reason, *_ in await gaps(brotr)] == ["suspected-empty"]
        await know_others(brotr)
        await visit(brotr)
        assert await gaps(brotr) == []
        assert await missing(brotr) == []
        asked = [filter_ for (filter_, *_) in relay.seen.filters]
        assert any("authors" in filter_ for filter_ in asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "vices",
    [
        Vices(refuses="auth-required: who are you?"),
        Vices(refuses="restricted: members only"),
        Vices(refuses="blocked: you are a scraper"),
        Vices(refuses="error: no"),
        Vices(drop_after_pages=0),
        Vices(no_eose=True),
    ],
    ids=["auth", "restricted", "blocked", "error", "cut", "silent"],
)
async def test_a_relay_that_says_no_is_left_alone(
    brotr: Brotr, vices: Vices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of visits, each when it is due."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    async with ScriptedRelay(EVENTS[:1] if vices.no_eose else EVENTS, vices) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        settings = config(slice_s=60.0)
        networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=0.3))
        worker = Worker(Config(networks=networks, synchronizer=settings.synchronizer), brotr)
        visits, end = 0, now + 3600
        while True:
            due = await brotr.next_visit_at([Network.LOCAL])
            assert due is not None
            now = max(now, float(due))
            if now > end:
                break
            visits += (await worker.work(ORDER)).visits
            assert visits < 20
        assert 2 <= visits <= 9
        assert relay.seen.connections <= 3 * visits
        assert len(await gaps(brotr)) <= 1
        state = await brotr.pool.fetchrow("SELECT failures, failing_since FROM bigbrotr.visits")
        assert state is not None
        assert state["failures"] >= visits - 1


async def test_visits_together_get_on_although_each_is_cut_short(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer a connection, and one connection a visit."""
    monkeypatch.setattr(conversation, "MOST_RETURNS", 0)
    now = time.time()  # stands still: each new second would want a visit of its own
    monkeypatch.setattr(time, "time", lambda: now)
    async with ScriptedRelay(EVENTS, Vices(clamp=100, drop_after_pages=1)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        for _ in range(8):
            await visit(brotr)
            if not (await missing(brotr) or await gaps(brotr)):
                break
        assert await held(brotr, relay) == ids(EVENTS)
        assert await gaps(brotr) == []


async def test_what_was_found_while_a_clock_was_ahead_does_not_wait_for_it(brotr: Brotr) -> None:
    """Nobody has tried it yet: it bears no other time."""
    await brotr.insert_relays([OTHER])
    later = int(time.time()) + 86_400
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.checks (relay_id, due_at) SELECT id, 0 FROM bigbrotr.relays"
    )
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.candidates (url, network, source, discovered_at, due_at)"
        " VALUES ('wss://new.example.com', 'clearnet', 'test', $1, $1)",
        later,
    )
    for table in ("visits", "checks"):
        await brotr.pool.execute(f"UPDATE bigbrotr.{table} SET due_at = $1", later)
    assert await brotr.forget_the_future() == (0, 3)
    for table in ("visits", "checks", "candidates"):
        assert await brotr.pool.fetchval(f"SELECT max(due_at) FROM bigbrotr.{table}") <= time.time()
    untold = (
        "SELECT v.failing_since, c.since FROM bigbrotr.visits v"
        " JOIN bigbrotr.checks c USING (relay_id)"
    )
    assert tuple(await brotr.pool.fetchrow(untold) or ()) == (None, None)
    assert await brotr.forget_the_future() == (0, 0)


async def test_what_was_shown_within_a_filter_is_not_taken_up_for_another(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [make_event(BEGIN + 60 * n + 5, kind=7) for n in range(300)]
    async with ScriptedRelay([*EVENTS, *others], Vices(clamp=100, drop_after_pages=1)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        with monkeypatch.context() as hasty:
            hasty.setattr(conversation, "MOST_RETURNS", 0)
            await visit(brotr, reconcile=False, filter=Filter(kinds=frozenset([1])))
        assert '"pending"' in await brotr.pool.fetchval("SELECT dialect FROM bigbrotr.visits")
        relay.vices = Vices()
        await visit(brotr, reconcile=False)
        assert await missing(brotr) == []
        assert await held(brotr, relay) == ids(relay.events)


async def test_a_relay_that_has_had_enough_is_asked_for_no_other_time(brotr: Brotr) -> None:
    vices = Vices(most_span_s=2 * 86_400, rate_limited_after=20)
    async with ScriptedRelay(EVENTS, vices) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr, reconcile=False)
        assert len(relay.seen.filters) < 25
        assert await brotr.pool.fetchval("SELECT outcome FROM bigbrotr.visits") == "rate-limited"
        assert len(await gaps(brotr)) == 1


async def test_pages_never_become_too_small_to_get_on(brotr: Brotr) -> None:
    """One event a page shows nothing but seconds that may be cut: each would be a gap."""
    async with ScriptedRelay(EVENTS[:20]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        document = Metadata({"limitation": {"max_limit": 1}})
        await brotr.insert_relay_metadata(
            [RelayMetadata(Relay(relay.url), document, MetadataType.NIP11, BEGIN)]
        )
        await visit(brotr, reconcile=False)
        assert await held(brotr, relay) == ids(relay.events)
        assert await gaps(brotr) == []


async def test_what_was_shown_long_ago_is_not_taken_up(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many visits in vain there were since."""
    monkeypatch.setattr(conversation, "MOST_RETURNS", 0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    async with ScriptedRelay(EVENTS, Vices(clamp=100, drop_after_pages=1)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr, reconcile=False)
        assert '"pending"' in await brotr.pool.fetchval("SELECT dialect FROM bigbrotr.visits")
        late = make_event(BEGIN + 60 * 250 + 5, content="dated within what was shown")
        await relay.add(late)
        relay.vices = Vices(drop_after_pages=0)
        for _ in range(2):
            now += 3000
            await visit(brotr, reconcile=False)
        relay.vices = Vices()
        now += 3000
        await visit(brotr, reconcile=False)
        assert await missing(brotr) == []
        assert late["id"] in await held(brotr, relay)


@pytest.mark.parametrize("change", [{"kind": "7"}, {"kind": 6.5}, {"created_at": "x"}, {"tags": 5}])
async def test_a_stored_event_that_is_none_leaves_no_gap(
    brotr: Brotr, change: Mapping[str, Any]
) -> None:
    good = EVENTS[:50]
    bad = wire({**make_event(BEGIN + 1000, content="bad"), **change})
    async with ScriptedRelay([*good, EVENTS[60]]) as relay:
        relay.stray_frames = [bad]
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        assert await held(brotr, relay) == ids([*good, EVENTS[60]])
        assert await gaps(brotr) == []
        assert await missing(brotr) == []
        assert await brotr.pool.fetchval("SELECT reason FROM bigbrotr.rejected") == "malformed"


async def test_an_event_that_is_too_large_costs_its_second_at_most(brotr: Brotr) -> None:
    large = make_event(BEGIN + 6030, content="x" * 200_000)
    async with ScriptedRelay([*EVENTS, large], Vices(clamp=50)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr, max_event_bytes=100_000)
        assert await held(brotr, relay) == ids(EVENTS)
        assert await gaps(brotr) == [("oversize", BEGIN + 6030, BEGIN + 6031)]
        assert await brotr.pool.fetchval("SELECT reason FROM bigbrotr.rejected") == "too large"
        # Once it may be as large as that, it is there, and the gap is closed.
        await visit(brotr)
        assert await held(brotr, relay) == ids([*EVENTS, large])
        assert await gaps(brotr) == []


async def test_limits_of_the_document_are_heeded_before_anything_is_asked(brotr: Brotr) -> None:
    async with ScriptedRelay(EVENTS, Vices(most_limit=70)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        document = Metadata({"limitation": {"max_limit": 70}})
        await brotr.insert_relay_metadata(
            [RelayMetadata(Relay(relay.url), document, MetadataType.NIP11, BEGIN)]
        )
        await visit(brotr)
        assert {filter_["limit"] for (filter_,) in relay.seen.filters} <= {70}
        assert await held(brotr, relay) == ids(EVENTS)
        assert await missing(brotr) == []


async def test_a_relay_that_lied_is_asked_again_for_all_it_proved(brotr: Brotr) -> None:
    async with ScriptedRelay(EVENTS) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr, since=BEGIN + 9000)
        before = await brotr.pool.fetchval("SELECT range_agg(proven) FROM bigbrotr.coverage")
        assert before
        relay.vices = Vices(pick="random", clamp=60)
        await brotr.pool.execute("UPDATE bigbrotr.visits SET dialect = '{}'")
        await visit(brotr)
        dialect = await brotr.pool.fetchval("SELECT dialect FROM bigbrotr.visits")
        assert '"disorderly": true' in dialect
        for _ in range(3):
            await visit(brotr)
        assert await held(brotr, relay) == ids(EVENTS)


async def test_a_clock_that_was_ahead_proves_nothing(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time())
    async with ScriptedRelay(EVENTS[:20]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda: now + 86_400.0)
            await visit(brotr)
            assert await missing(brotr) == []
        late = make_event(now - 3, content="dated within what was proven")
        await relay.add(late)
        assert await missing(brotr) != []  # such proofs do not count ...
        assert (await brotr.forget_the_future())[0] == 1  # ... and are taken back
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.coverage") == 0
        due = await brotr.next_visit_at([Network.LOCAL])
        assert due is not None
        assert due <= time.time()
        assert await brotr.forget_the_future() == (0, 0)
        await visit(brotr)
        assert late["id"] in await held(brotr, relay)
