"""What a relay hands over: verified once, stored once, also when several bring the same at once."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bigbrotr.config.settings import SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr import message
from bigbrotr.nostr.message import EventMessage
from bigbrotr.nostr.questions import Answer, Ask, End, Progress
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.ingest import FORESIGHT, IN_VAIN, Crowd, Intake, Report, sift
from tests.relays.events import make_event, wire

POLICY = SynchronizerSettings().policy("")
EVENTS = [make_event(1_600_000_000 + n, content=f"{n}") for n in range(200)]


def page(events: Sequence[dict[str, object]]) -> Page:
    frames = [message.decode(b'["EVENT","s",%b]' % wire(event)) for event in events]
    return Page([frame.event for frame in frames if isinstance(frame, EventMessage)], End.EOSE)


async def claim(brotr: Brotr, count: int) -> list[Visit]:
    await brotr.insert_relays([Relay(f"ws://127.0.0.1:{port}") for port in range(1, count + 1)])
    return await brotr.claim_visits(
        [Network.LOCAL], limit=count, owner="me", lease_s=600, since=0, until=int(time.time())
    )


def test_a_crowd_comes_and_goes() -> None:
    crowd = Crowd()

    def heed(unknown: int, new: int) -> bool:
        crowd.heed(unknown, new)
        return crowd.is_there

    assert not any(heed(100, 100) or heed(100, 96) or heed(0, 0) for _ in range(500))
    # A few events say little.
    assert heed(20, 0)
    assert not heed(500, 500)
    # Many say that it goes on; but not for ever.
    assert heed(500, 0)
    assert all(heed(500, 500) for _ in range(IN_VAIN - 1))
    assert not heed(500, 500)
    for _ in range(100):
        heed(500, 0)
    assert all(heed(500, 500) for _ in range(FORESIGHT // 500 - 1))
    assert not heed(500, 500)


async def test_a_crowd_verifies_and_stores_each_event_about_once(brotr: Brotr) -> None:
    """Ten relays bring the same events at the same moment, page after page."""
    total, crowd = Report(), Crowd()

    async def bring(visit: Visit) -> None:
        intake = Intake(brotr, visit, POLICY, crowd, total.add)
        for start in range(0, len(EVENTS), 20):
            brought = page(EVENTS[start : start + 20])
            _, haul = sift(brought, Ask(0, None, 20), POLICY)
            await intake.prepare(haul)
            await intake.store(brought, haul, Progress([], []))

    async with asyncio.TaskGroup() as group:
        for visit in await claim(brotr, 10):
            group.create_task(bring(visit))
    assert total.new == len(EVENTS)
    assert total.received == 10 * len(EVENTS)
    assert (await brotr.totals()).pairs == 10 * len(EVENTS)
    assert crowd.is_there
    # Only the first pages were looked at by each for itself.
    assert total.received - total.known <= len(EVENTS) + 10 * 20 * 2


def test_what_the_page_before_brought_already_is_heard_and_not_stored_twice() -> None:
    first, second, third = (make_event(1_600_000_000, content=f"{n}") for n in range(3))
    forged = {**second, "sig": first["sig"]}
    _, haul = sift(page([*EVENTS[1:4], first, forged]), Ask(1_600_000_000, None, 5), POLICY)
    haul.verify()
    under_way = haul.oldest()
    assert under_way == {bytes.fromhex(first["id"])}  # the other is not being stored
    answer, haul = sift(page([first, second, third]), Ask(0, 1_600_000_000, 5), POLICY, under_way)
    assert answer.created_ats == [1_600_000_000] * 3
    assert {event[1].hex() for event in haul.events} == {second["id"], third["id"]}
    assert haul.oldest() == set()  # nothing is verified yet


def test_a_page_reaches_no_further_than_what_is_proven_of_it() -> None:
    """Once: a forged old event at the end of a page that was cut made all between look complete."""
    shown, at = EVENTS[150:100:-1], EVENTS[0]["created_at"]
    bad = {**EVENTS[0], "content": "other words"}
    whole = Ask(0, None, 500)

    def answer(events: Sequence[dict[str, object]], **more: Any) -> Answer:
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
