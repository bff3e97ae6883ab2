"""Whether two addresses are one relay: only who has all of it passes for another."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from bigbrotr.models.columns import Columns
from bigbrotr.models.event import WireEvent
from bigbrotr.nostr.likeness import LEAST, Ask, is_alike, newest
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Page
from tests.kit.events import make_event, wire
from tests.kit.model import Vices, respond

BEGAN = 1_600_000_000
EVENTS = [make_event(BEGAN + 100_000 * n, content=str(n)) for n in range(200)]
ENDS = {"eose": End.EOSE, "closed": End.CLOSED}


def relay(events: Sequence[Mapping[str, Any]], vices: Vices | None = None) -> Ask:
    async def ask(wanted: dict[str, Any]) -> Page:
        reply = respond(events, wanted, vices or Vices())
        found = [msgspec.json.decode(wire(event), type=WireEvent) for event in reply.events]
        return Page(events=Columns.of(found), end=ENDS[reply.end])

    return ask


async def share_alike(events: Sequence[Mapping[str, Any]], vices: Vices | None = None) -> float:
    """In how many of a few tries it passes for the one with all events, both ways."""
    tries = 10
    passed = 0
    for n in range(tries):
        ours, theirs = relay(EVENTS), relay(events, vices)
        if n % 2:
            ours, theirs = theirs, ours
        passed += await is_alike(ours, theirs, random.Random(n))
    return passed / tries


@pytest.mark.parametrize("count", [LEAST, 20, 200])
async def test_the_same_is_alike(count: int) -> None:
    events = EVENTS[-count:]
    for vices in (Vices(), Vices(clamp=7), Vices(order="oldest"), Vices(repeats=True)):
        pair = relay(events), relay(events[::-1], vices if vices.clamp is None else None)
        assert await is_alike(*pair), vices
    both = relay(events, Vices(clamp=7)), relay(events, Vices(clamp=7))
    assert await is_alike(*both)


async def test_who_lacks_a_half_is_another() -> None:
    assert await share_alike(EVENTS) == 1
    assert await share_alike(EVENTS[100:]) == 0
    assert await share_alike([*EVENTS[:100], *EVENTS[150:]]) < 0.5
    assert await share_alike([*EVENTS, make_event(BEGAN - 10**7)]) < 1


@pytest.mark.parametrize(
    "forgery", [{"content": "x"}, {"sig": EVENTS[0]["sig"]}, {"id": EVENTS[0]["id"]}]
)
async def test_what_is_forged_proves_nothing(forgery: Mapping[str, Any]) -> None:
    forged = [*EVENTS[:-1], {**EVENTS[-1], **forgery}]
    assert await share_alike(forged) == 0
    # Where both have it, it makes no difference.
    assert await is_alike(relay(forged), relay(forged))


async def test_what_is_no_answer_proves_nothing() -> None:
    assert await share_alike(EVENTS, Vices(refuses="no")) == 0
    assert await share_alike(EVENTS, Vices(ignores=frozenset({"until"}))) == 0
    assert not await is_alike(relay([]), relay([]))
    assert not await is_alike(relay(EVENTS[: LEAST - 1]), relay(EVENTS[: LEAST - 1]))
    assert await newest(relay(EVENTS[: LEAST - 1])) is None
