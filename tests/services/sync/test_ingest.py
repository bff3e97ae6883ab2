"""What a relay hands over: verified once, stored once, also when several bring the same at once."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bigbrotr.config.settings import Config, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit
from bigbrotr.models.columns import Columns
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr import message
from bigbrotr.nostr.message import EventMessage
from bigbrotr.nostr.questions import End, PageAnswer, Question
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.contention import FORESIGHT, IN_VAIN, ContentionGate
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.ingest import CROWD, PROBES, Batch, Ingest, sift
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.verifier import Here
from tests.kit.events import make_event, wire

POLICY = SynchronizerSettings().policy("")
EVENTS = [make_event(1_600_000_000 + n, content=f"{n}") for n in range(200)]


def page(events: Sequence[dict[str, object]]) -> Page:
    frames = [message.decode(b'["EVENT","s",%b]' % wire(event)) for event in events]
    found = (frame.event for frame in frames if isinstance(frame, EventMessage))
    return Page(Columns.of(found), End.EOSE)


async def claim(brotr: Brotr, count: int) -> list[Visit]:
    await brotr.insert_relays([Relay(f"ws://127.0.0.1:{port}") for port in range(1, count + 1)])
    return await brotr.claim_visits(
        [Network.LOCAL], limit=count, owner="me", lease_s=600, since=0, until=int(time.time())
    )


def test_contention_comes_and_goes() -> None:
    gate = ContentionGate()

    def note(unknown: int, new: int) -> bool:
        gate.note(unknown, new)
        return gate.is_contended

    assert not any(note(100, 100) or note(100, 96) or note(0, 0) for _ in range(500))
    # A few events say little.
    assert note(20, 0)
    assert not note(500, 500)
    # Many say that it goes on; but not for ever.
    assert note(500, 0)
    assert all(note(500, 500) for _ in range(IN_VAIN - 1))
    assert not note(500, 500)
    for _ in range(100):
        note(500, 0)
    assert all(note(500, 500) for _ in range(FORESIGHT // 500 - 1))
    assert not note(500, 500)


async def test_under_contention_each_event_is_verified_and_stored_about_once(
    brotr: Brotr,
) -> None:
    """Ten relays bring the same events at the same moment, page after page."""
    total, gate, same_moment = Report(), ContentionGate(), asyncio.Barrier(10)

    async def bring(claim: Visit) -> None:
        context = VisitContext(
            brotr=brotr,
            config=Config(),
            relay=Relay(claim.url),
            network=Network.LOCAL,
            report=total.add,
            contention=gate,
        )
        ingest = Ingest(context, VisitState(claim))
        for start in range(0, len(EVENTS), 20):
            _, batch = sift(page(EVENTS[start : start + 20]), Question(0, None, 20), POLICY)
            await ingest.prepare(batch)
            if start == 0:  # however busy the machine is
                await same_moment.wait()
            await ingest.store(batch)

    async with asyncio.TaskGroup() as group:
        for each in await claim(brotr, 10):
            group.create_task(bring(each))
    assert total.new == len(EVENTS)
    assert total.received == 10 * len(EVENTS)
    assert (await brotr.totals()).pairs == 10 * len(EVENTS)
    assert gate.is_contended
    # Only the first pages were looked at by each for itself.
    assert total.received - total.known <= len(EVENTS) + 10 * 20 * 2


async def test_what_the_page_before_brought_already_is_heard_and_not_stored_twice() -> None:
    first, second, third = (make_event(1_600_000_000, content=f"{n}") for n in range(3))
    forged = {**second, "sig": first["sig"]}
    _, batch = sift(page([*EVENTS[1:4], first, forged]), Question(1_600_000_000, None, 5), POLICY)
    await batch.verify(Here())
    under_way = batch.taken
    assert under_way == {
        bytes.fromhex(event["id"]) for event in (*EVENTS[1:4], first)
    }  # the other is not being stored
    answer, batch = sift(
        page([first, second, third]), Question(0, 1_600_000_000, 5), POLICY, under_way
    )
    assert answer.created_ats == [1_600_000_000] * 3
    assert {event_id.hex() for event_id in batch.events.ids} == {second["id"], third["id"]}
    assert batch.taken == frozenset()  # nothing is verified yet


def test_a_page_reaches_no_further_than_what_is_proven_of_it() -> None:
    """Once: a forged old event at the end of a page that was cut made all between look complete."""
    shown, at = EVENTS[150:100:-1], EVENTS[0]["created_at"]
    bad = {**EVENTS[0], "content": "other words"}
    whole = Question(0, None, 500)

    def answer(events: Sequence[dict[str, object]], **more: Any) -> PageAnswer:
        brought = page(events)
        for name, value in more.items():
            setattr(brought, name, value)
        return sift(brought, whole, POLICY)[0]

    for reply in (
        answer([*shown, bad]),
        answer(shown, unreadable=1, unreadable_ats=[at]),
        answer(shown, oversized=[b'{"created_at":%d,' % at]),
    ):
        assert list(reply.created_ats) == [event["created_at"] for event in shown]
        assert reply.malformed == 1
    # What lies in between took a place there; and where nothing is proven, the claims have to do.
    assert len(answer([*shown, {**shown[7], "sig": "00", "content": ""}]).created_ats) == 51
    assert list(answer([bad]).created_ats) == [at]


async def test_what_the_page_before_is_storing_is_left_out_once_that_is_known() -> None:
    """Its page was verified only after this one was sorted out."""
    first, second = (make_event(1_600_000_000, content=f"{n}") for n in range(2))
    ask = Question(0, None, 500)
    _, above = sift(page([*EVENTS[1:4], first]), ask, POLICY)
    _, below = sift(page([first, second]), ask, POLICY, above.taken)
    await above.verify(Here())
    await below.verify(Here())
    assert len(below.fresh) == 2  # nothing was known when it was sorted out
    above.forget()
    assert not above.fresh
    below.leave_out(above.taken)
    assert [event.id.hex() for event in below.fresh] == [second["id"]]


async def test_what_pages_above_have_taken_is_known_over_a_few_probes_only() -> None:
    """A relay whose past is asked for in halves is asked for the same time over and over: what is
    remembered of it must not grow."""
    whole = Question(0, None, 500)
    pages = [page(EVENTS[n : n + 2]) for n in range(0, 40, 2)]
    above, most = Batch({}), 2 * (PROBES + 1)
    sizes = []
    for each in pages:
        _, batch = sift(each, whole, POLICY, above.taken)
        batch.go_on_from(above, whole)
        await batch.verify(Here())
        batch.leave_out(above.taken)
        sizes.append(len(batch.taken))
        above = batch
    assert sizes[: PROBES + 1] == list(range(2, most + 1, 2))
    assert max(sizes) == most
    _, below = sift(page(EVENTS[:2]), whole, POLICY)
    below.go_on_from(above, Question(0, EVENTS[0]["created_at"], 500))
    assert below.goes_on == 0  # the walk has gone on: nothing above comes again


async def test_a_forged_copy_that_comes_first_changes_nothing() -> None:
    """Neither what is stored nor its order; once it made all of its page dear to store."""
    forged = [{**EVENTS[n], "sig": EVENTS[0]["sig"]} for n in (7, 3)]
    _, batch = sift(page([*forged, *EVENTS[:9]]), Question(0, None, 500), POLICY)
    await batch.verify(Here())
    assert [event.id.hex() for event in batch.fresh] == [event["id"] for event in EVENTS[:9]]
    assert (batch.forged, batch.rejected["bad signature"][0]) == (0, 2)
    _, batch = sift(page([*forged, *EVENTS[4:9]]), Question(0, None, 500), POLICY)
    await batch.verify(Here())
    assert [event.id.hex() for event in batch.fresh] == [event["id"] for event in EVENTS[4:9]]
    assert (batch.forged, batch.rejected["bad signature"][0]) == (1, 2)


async def test_a_second_with_many_events_is_worth_waiting_for() -> None:
    many = [make_event(1_600_000_000, content=f"{n}") for n in range(CROWD + 1)]
    ask = Question(0, None, 500)
    _, batch = sift(page([*EVENTS[1:4], *many]), ask, POLICY)
    crowded = [batch.is_crowded]
    await batch.verify(Here())
    crowded.append(batch.is_crowded)
    assert crowded == [True, False]  # once it is verified, there is nothing to wait for
    assert not sift(page([*EVENTS[1:4], *many[1:]]), ask, POLICY)[1].is_crowded
    assert not sift(page([]), ask, POLICY)[1].is_crowded
