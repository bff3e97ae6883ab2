"""New ground: pages are stored unseen where all was new for long; a wrong guess loses nothing."""

from collections.abc import Sequence
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit
from bigbrotr.models.relay import Relay
from bigbrotr.nostr.questions import Question
from bigbrotr.services.sync.contention import ContentionGate
from bigbrotr.services.sync.context import VisitContext, VisitState
from bigbrotr.services.sync.ingest import Batch, Ingest, sift
from bigbrotr.services.sync.new_ground import ENOUGH, NewGround
from bigbrotr.services.sync.pages import AT_WORK
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.worker import Worker
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.scripted import ScriptedRelay
from tests.services.sync.test_field import ORDER, config, held, ids
from tests.services.sync.test_ingest import POLICY, claim, page
from tests.services.sync.test_turns import context_of

EVENTS = [make_event(1_600_000_000 + n, content=f"{n}") for n in range(100)]
MANY = [make_event(1_600_000_000 + n, content=f"{n}") for n in range(300)]


class Walker:
    """Takes pages of one relay as a walk does."""

    def __init__(self, context: VisitContext, visit: Visit) -> None:
        self.state = VisitState(visit)
        self.ingest = Ingest(context, self.state)

    async def take(self, events: Sequence[dict[str, Any]]) -> Batch:
        """Stores a page; returns it."""
        _, batch = sift(page(events), Question(0, None, 500), POLICY)
        await self.ingest.prepare(batch, may_guess=True)
        await self.ingest.store(batch)
        return batch

    async def take_each(self, since: int, until: int) -> list[bool]:
        """Stores events, ten a page; returns of each page whether it was stored unseen."""
        return [
            (await self.take(EVENTS[start : start + 10])).is_guess
            for start in range(since, until, 10)
        ]


async def walkers(brotr: Brotr, gate: ContentionGate, total: Report) -> tuple[Walker, Walker]:
    one, two = [
        Walker(context_of(brotr, visit, contention=gate, report=total.add), visit)
        for visit in await claim(brotr, 2)
    ]
    return one, two


async def counted(brotr: Brotr) -> tuple[int, int]:
    totals = await brotr.totals()
    return totals.events, totals.pairs


def test_a_wrong_guess_makes_the_next_one_come_later() -> None:
    ground = NewGround()
    for enough in (ENOUGH, 2 * ENOUGH, 4 * ENOUGH):
        for _ in range(enough):
            assert not ground.is_new
            ground.note(is_new=True)
        assert ground.is_new
        ground.note(is_new=True)
        assert ground.is_new
        for _ in range(3):  # pages that were under way when the first turned out to be known
            ground.note(is_new=False)
        assert not ground.is_new


def test_known_pages_between_new_ones_are_no_wrong_guesses() -> None:
    ground = NewGround()
    for _ in range(20):
        ground.note(is_new=True)
        ground.note(is_new=False)
    for _ in range(ENOUGH):
        assert not ground.is_new
        ground.note(is_new=True)
    assert ground.is_new


async def test_where_all_was_new_for_long_nobody_looks(brotr: Brotr) -> None:
    walker, _ = await walkers(brotr, ContentionGate(), Report())
    assert await walker.take_each(0, 100) == [False] * ENOUGH + [True] * (10 - ENOUGH)
    assert await counted(brotr) == (100, 100)
    assert (walker.state.new, walker.state.known) == (100, 0)


async def test_what_was_known_is_noted_after_a_wrong_guess(brotr: Brotr) -> None:
    """Some of a page, then all of one: both are noted as held, counted as known, and followed by a
    look; what is wrong once more comes after twice as many pages."""
    total, gate = Report(), ContentionGate()
    walker, other = await walkers(brotr, gate, total)
    await other.take([*EVENTS[43:47], *EVENTS[50:60]])
    await walker.take_each(0, 40)
    assert (await walker.take(EVENTS[40:50])).is_guess
    assert (walker.state.new, walker.state.known) == (46, 4)
    assert await counted(brotr) == (60, 64)
    assert not (await walker.take(EVENTS[50:60])).is_guess
    assert (walker.state.new, walker.state.known) == (46, 14)
    assert await counted(brotr) == (60, 74)
    assert await walker.take_each(60, 100) == [False] * 4
    assert not (await walker.take([make_event(1)])).is_guess
    assert (total.new, total.known) == (101, 14)
    # Nobody else stored anything meanwhile: the lock would not help.
    assert not gate.is_contended


async def test_a_forged_copy_of_a_known_event_is_rejected(brotr: Brotr) -> None:
    total = Report()
    walker, other = await walkers(brotr, ContentionGate(), total)
    await other.take(EVENTS[40:42])
    await walker.take_each(0, 40)
    forged = {**EVENTS[41], "sig": EVENTS[40]["sig"]}
    assert (await walker.take([EVENTS[40], forged, EVENTS[42]])).is_guess
    assert total.reasons == {"bad signature": 1}
    assert (walker.state.new, walker.state.known) == (41, 1)
    assert await counted(brotr) == (43, 44)


async def test_empty_pages_say_nothing(brotr: Brotr) -> None:
    walker, _ = await walkers(brotr, ContentionGate(), Report())
    for _ in range(2 * ENOUGH):
        assert not (await walker.take([])).is_guess
    assert not (await walker.take(EVENTS[:10])).is_guess


async def test_only_a_walk_guesses(brotr: Brotr) -> None:
    """What comes unasked, or by id, is looked at: much of it is known."""
    walker, other = await walkers(brotr, ContentionGate(), Report())
    await other.take(EVENTS[40:42])
    await walker.take_each(0, 40)
    _, batch = sift(page(EVENTS[40:44]), Question(0, None, 500), POLICY)
    await walker.ingest.take(batch)
    assert not batch.is_guess
    assert (walker.state.new, walker.state.known) == (42, 2)


async def test_a_walk_looks_at_few_of_many_new_pages(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And archives exactly what each relay has: of the second, half is known from the first."""
    looked: list[int] = []
    look = Brotr.note_presence

    async def note_presence(
        self: Brotr, visit: Visit, keys: Sequence[tuple[int, bytes]], seen_at: int
    ) -> list[int]:
        looked.append(len(keys))
        return await look(self, visit, keys, seen_at)

    monkeypatch.setattr(Brotr, "note_presence", note_presence)
    ten_at_once = Vices(clamp=10)
    async with (
        ScriptedRelay(MANY[:150], ten_at_once) as first,
        ScriptedRelay(MANY, ten_at_once) as second,
    ):
        await brotr.insert_relays([Relay(first.url)])
        report = await Worker(config(), brotr).work(ORDER)
        assert report.new == 150
        # Of 17 pages; those that were under way when enough was seen were looked at as well, and
        # the second at which a page ends may be found stored.
        assert ENOUGH <= len(looked) <= ENOUGH + 2 * AT_WORK
        await brotr.insert_relays([Relay(second.url)])
        report = await Worker(config(reconcile=False), brotr).work(ORDER)
        assert report.new == 150
        assert await counted(brotr) == (300, 450)
        assert [await held(brotr, relay) for relay in (first, second)] == [
            ids(MANY[:150]),
            ids(MANY),
        ]
