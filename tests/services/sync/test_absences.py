"""What a walk has shown, and the pairs that its proofs end."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.config.settings import Config, Profile, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.columns import Columns, Found
from bigbrotr.models.coverage import How, Proof, Span
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.filter import Filter
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.sync import absences as module
from bigbrotr.services.sync.absences import Absences, Shown
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.report import Report
from tests.kit.events import verified

BEGIN = 1_600_000_000
A, B = Relay("wss://a.example.com"), Relay("wss://b.example.com")
SECONDS = st.integers(0, 12)
PAGES = st.lists(st.tuples(SECONDS, st.integers(0, 3)), max_size=8, unique=True)
SPANS = st.tuples(SECONDS, SECONDS).map(lambda ends: Span(min(ends), max(ends) + 1))


@given(st.lists(st.one_of(PAGES, SPANS), max_size=12), st.integers(1, 30))
def test_what_is_shown_agrees_with_a_dumb_memory(
    steps: list[Span | list[tuple[int, int]]], most: int
) -> None:
    machine = Shown(most)
    remembered: set[tuple[int, bytes]] = set()
    for step in steps:
        if isinstance(step, Span):
            blind = {at for span in machine.blind for at in range(*span)}
            inside = {key for key in remembered if step.since <= key[0] < step.until}
            taken = machine.take(step)
            # Of each second it knows all, or knows that it does not.
            assert taken <= {event_id for _, event_id in inside}
            assert taken >= {event_id for at, event_id in inside if at not in blind}
            remembered -= inside
        else:
            page = sorted((at, bytes([at, n])) for at, n in step)
            machine.add(page)
            remembered |= set(page)
        assert sum(map(len, machine._pages)) <= most


async def claim(brotr: Brotr) -> Visit:
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    visits = await brotr.claim_visits(
        [Network.CLEARNET], limit=9, owner="me", lease_s=600, since=0, until=BEGIN + 1000
    )
    return next(visit for visit in visits if visit.url == A.url)


async def archive(brotr: Brotr, events: Sequence[Event], seen_at: int = BEGIN) -> None:
    await brotr.insert_events([EventRelay(e, relay, seen_at) for e in events for relay in (A, B)])


async def held(brotr: Brotr) -> set[bytes]:
    rows = await brotr.pool.fetch(
        "SELECT event_id FROM bigbrotr.events_relays WHERE relay_url = $1", A.url
    )
    return {row["event_id"] for row in rows}


def page(events: Sequence[Event]) -> Columns[Found]:
    ordered = sorted(events, key=lambda event: (event.created_at, event.id))
    return Columns[Found].of(ordered)


async def absences_of(
    brotr: Brotr, visit: Visit, total: Report, filter_: Filter | None = None
) -> Absences:
    context = VisitContext(
        brotr=brotr,
        config=Config(synchronizer=SynchronizerSettings(filter=filter_ or Filter())),
        relay=A,
        network=Network.CLEARNET,
        report=total.add,
    )
    return await Absences.of(context, VisitState(visit))


def proof(since: int, until: int) -> Proof:
    return Proof(Span(BEGIN + since, BEGIN + until), How.PAGING)


async def test_a_proof_ends_the_pairs_that_were_not_shown(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "PAIRS", 3)
    events = [verified(created_at=BEGIN + n // 2) for n in range(40)]
    await archive(brotr, events)
    total = Report()
    absences = await absences_of(brotr, await claim(brotr), total)
    absences.saw(page(events[20:30]))
    absences.saw(page(events[10:20:2]))  # [5, 10): half of them
    await absences.conclude([proof(12, 15)])
    assert (await held(brotr), total.dropped) == ({event.id for event in events}, 0)
    await absences.conclude([proof(5, 7), proof(7, 12), proof(16, 17)])
    gone = {event.id for event in [*events[11:20:2], *events[32:34]]}
    assert (await held(brotr), total.dropped) == ({event.id for event in events} - gone, 7)
    rows = await brotr.pool.fetch("SELECT event_id FROM bigbrotr.dropped")
    assert {row["event_id"] for row in rows} == gone
    assert (await brotr.totals()).pairs == 80 - 7
    # Nothing is left of what is proven; and B's pairs are its own.
    await absences.conclude([proof(0, 5)])
    assert await held(brotr) == {event.id for event in events[10:]} - gone
    assert (
        await brotr.pool.fetchval("SELECT pairs FROM bigbrotr.relay_progress WHERE url = $1", B.url)
        == 40
    )


async def test_what_came_after_the_question_stays(brotr: Brotr) -> None:
    old, new = verified(created_at=BEGIN), verified(created_at=BEGIN)
    await archive(brotr, [old])
    total = Report()
    visit = await claim(brotr)
    absences = await absences_of(brotr, visit, total)
    await brotr.store_page(visit, [new], now=int(time.time()))
    await absences.conclude([proof(-9, 9)])
    assert (await held(brotr), total.dropped) == ({new.id}, 1)


async def test_what_was_shown_before_a_proof_was_taken_back_stays(brotr: Brotr) -> None:
    events = [verified(created_at=BEGIN + n) for n in range(10)]
    await archive(brotr, events)
    absences = await absences_of(brotr, await claim(brotr), Report())
    absences.saw(page(events[:5]))
    await absences.conclude([proof(0, 5)])
    absences.leave_out([Span(BEGIN, BEGIN + 5)])  # the relay had lied in its order
    absences.saw(page(events[3:8]))
    await absences.conclude([proof(0, 10)])
    assert await held(brotr) == {event.id for event in events[:8]}


async def test_where_nothing_was_held_nothing_is_looked_for(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first copy must not pay: neither memory nor questions to the database."""
    await archive(brotr, [verified(created_at=BEGIN)])
    total = Report()
    absences = await absences_of(brotr, await claim(brotr), total)
    await brotr.pool.close()
    for first in range(1, 200, 10):
        absences.saw(page([verified(created_at=BEGIN + first + n) for n in range(10)]))
        await absences.conclude([proof(first, first + 10)])
    assert absences._shown._pages == []


async def test_what_had_to_be_forgotten_ends_nothing(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [verified(created_at=BEGIN + n) for n in range(20)]
    await archive(brotr, events)
    absences = await absences_of(brotr, await claim(brotr), Report())
    monkeypatch.setattr(absences, "_shown", Shown(most=5))
    absences.saw(page(events[8:14:2]))
    absences.saw(page(events[8:14]))
    await absences.conclude([proof(0, 20)])
    assert await held(brotr) == {event.id for event in events[8:14]}


@pytest.mark.parametrize("profile", list(Profile))
async def test_within_a_filter(brotr: Brotr, profile: Profile) -> None:
    """What a filter leaves out is not shown, and is not ended; nor what the archive cannot tell."""
    tagged = verified(tags=[["t", "x"]], created_at=BEGIN)
    others = [verified(created_at=BEGIN, kind=kind) for kind in (1, 7)]
    await archive(brotr, [tagged, *others])
    for filter_, gone in (
        (Filter(tags={"t": frozenset("y")}), set()),
        (Filter(kinds=frozenset([7]), authors=frozenset(["ab" * 32])), set()),
        (Filter(tags={"t": frozenset("x")}), {tagged.id} if profile is Profile.FULL else set()),
        (Filter(kinds=frozenset([7, 8])), {others[1].id}),
    ):
        before = await held(brotr)
        absences = await absences_of(brotr, await claim(brotr), Report(), filter_)
        await absences.conclude([proof(0, 1)])
        assert await held(brotr) == before - gone


async def test_a_lease_that_has_passed_on(brotr: Brotr) -> None:
    event = verified(created_at=BEGIN)
    await archive(brotr, [event])
    absences = await absences_of(brotr, await claim(brotr), Report())
    await claim(brotr)
    with pytest.raises(LeaseLostError):
        await absences.conclude([proof(0, 1)])
    assert await held(brotr) == {event.id}
