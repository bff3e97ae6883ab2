"""The states of a leg: what the machine does stands in the tables, and all that stands there is
done."""

import random
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from bigbrotr.models.coverage import Span
from bigbrotr.nostr.leg import BELONGS, TRANSITIONS, Fate, Heard, Leg, LegState, Phase
from bigbrotr.nostr.paging import Move, Paging
from bigbrotr.nostr.questions import (
    WHENEVER,
    End,
    GapReason,
    Habits,
    PageAnswer,
    Pending,
    Probe,
    Question,
)

WALKS = 10_000
IN_ANY_PHASE = {"lo", "hi", "up", "top", "phase", "edge", "slow", "trial"}
UNSET = {each.name: each.default for each in fields(Leg) if each.name not in IN_ANY_PHASE}


class Walk:
    """A walk of a chance relay, which may be honest, clumsy or wild."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.top = chance.choice([3, 8, 30, 60])
        self.archive = [
            chance.randrange(self.top + 3) for _ in range(chance.choice([0, 1, 10, 40]))
        ]
        if chance.random() < 0.3:
            self.archive += [chance.randrange(self.top + 3)] * chance.randrange(12)
        self.manner = chance.choice(["down", "down", "up", "random", "wild", "excludes"])
        self.clamp = chance.choice([1, 2, 3, 5, 12, 100])
        self.noise = chance.choice([0.0, 0.05, 0.3])
        self.finishes = 0.2
        if seed % 3 == 0:  # pages that are worth a look at a part of them
            self.finishes = 0.6
            self.top, self.noise, self.clamp = 90, 0.0, chance.choice([15, 30, 30])
            self.archive = list(range(0, self.top, 2))
            self.manner = chance.choice(["down", "down", "up", "wild"])
        since, until = sorted((chance.randrange(self.top + 1), chance.randrange(self.top + 1)))
        wanted = Span(chance.choice([since, 0, 0]), until + 1)
        self.paging = Paging(wanted, **self.options())
        if chance.random() < 0.1:
            self.paging.be_wary()

    def options(self) -> dict[str, Any]:
        chance = self.chance
        since, until = sorted(chance.sample(range(self.top + 2), 2))
        pending = Pending(since, until, chance.choice([0, 1, 3]))
        order = chance.choice([(False, False), (False, False), (True, False), (False, True)])
        habits = Habits(
            newest_first=order[0],
            oldest_first=order[1],
            until_excluded=chance.random() < 0.2,
            disorderly=chance.random() < 0.1,
            is_open=chance.random() < 0.4,
            finishes=chance.choice([0, 0, 1, 3, -1]),
            pending=pending if chance.random() < 0.4 else None,
        )
        return {
            "limit": chance.choice([1, 2, 5, 20, 500, 500]),
            "open_top": chance.random() < 0.4,
            "expects_events": chance.random() < 0.1,
            "knows_others": chance.random() < 0.7,
            "is_broad": chance.random() < 0.5,
            "habits": habits,
            "check_after": chance.choice([0, 0, 0, 1, 64]),
            "believes_finish": chance.random() < 0.3,
            "smallest_clamp": chance.choice([1, 2, 3, 10]),
        }

    def moves(self) -> Iterator[Move]:
        """Goes to the end of the walk, by way of whatever may happen to it."""
        for _ in range(300):
            ask = self.paging.ask()
            if ask is None:
                return
            check_legs(self.paging)
            self.paging.answer(self.answer(ask))
            assert self.paging.move is not None
            yield self.paging.move
            what = self.chance.random()
            if what < 0.02:
                self.paging.doubt([self.chance.randrange(self.top + 2)])
            elif what < 0.03:
                self.paging.start_over()
            elif what < 0.04:
                self.paging.lower_limit(3)
            elif what < 0.045:
                self.paging.give_up(GapReason.CUT, "enough")

    def answer(self, ask: Question) -> PageAnswer:
        chance, noise = self.chance, self.noise if ask.probe is None else max(0.4, self.noise)
        times = self.shown(ask)

        def seldom(*values: int) -> int:
            return chance.choice(values) if chance.random() < noise else 0

        return PageAnswer(
            times,
            chance.choice(list(End)) if chance.random() < noise else End.EOSE,
            off_filter=seldom(1, 3, 20),
            malformed=seldom(1, 12),
            repeats=seldom(2),
            oversized=[chance.choice(times)] if times and chance.random() < noise / 5 else [],
            finish=chance.random() < self.finishes,
            more=chance.random() < noise * (0.3 if ask.probe is None else 1.0),
            elapsed_s=30.0 if chance.random() < noise else 0.1,
        )

    def shown(self, ask: Question) -> list[int]:
        chance, manner = self.chance, self.manner
        until = 10**9 if ask.until is None else ask.until
        until -= manner == "excludes" and ask.until is not None
        times = [at for at in self.archive if ask.since <= at <= until]
        if ask.probe in WHENEVER:
            times = list(self.archive) if chance.random() < 0.7 else []
        whim = chance.random() if ask.probe is not None else 1.0
        if manner == "wild":
            times = [chance.randrange(-3, self.top + 10) for _ in range(chance.randrange(7))]
        elif whim < 0.1:
            seconds = range(ask.since, min(until, self.top) + 1)
            times = [chance.choice(seconds) for _ in range(9)] if seconds else []
        if 0.7 < whim < 1.0 or chance.random() < self.noise / 5:
            times = [] if chance.random() < 0.5 else times[: len(times) // 2]
        if times and 0.3 < whim < 0.5:  # one of them has gone
            times.remove(chance.choice(times))
        if manner == "random":
            return chance.sample(times, min(self.clamp, len(times)))
        return sorted(times, reverse=manner != "up")[: self.clamp]


def check_legs(paging: Paging) -> None:
    """While a question is open, nothing is set in a leg that its phase has no use for."""
    for leg in paging._legs:
        fields_set = {name for name, unset in UNSET.items() if getattr(leg, name) != unset}
        assert fields_set <= BELONGS[leg.phase], f"{leg.phase}: {fields_set}"
        assert (leg.flaw is not None) == (leg.phase is Phase.ALONE), leg
        assert (leg.shown is not None) == (leg.phase is Phase.CONFIRMING), leg
        assert leg.lo <= leg.hi <= leg.top, leg


def every_entry() -> set[Move]:
    return {
        Move(state, heard, to)
        for state, row in TRANSITIONS.items()
        for heard, states in row.items()
        for to in states
    }


@pytest.mark.slow
def test_the_machine_and_its_table_agree() -> None:
    seen = {move for seed in range(WALKS) for move in Walk(seed).moves()}
    table = every_entry()
    assert seen - table == set(), "done, and not in the table"
    assert table - seen == set(), "in the table, and never done"


def test_every_state_hears_everything_that_it_may() -> None:
    assert set(TRANSITIONS) == {*Phase, *Probe}
    for state, row in TRANSITIONS.items():
        wanted = set(Heard) if isinstance(state, Phase) else set(Heard) - OF_PHASES
        assert set(row) == wanted, state
    assert set(BELONGS) == set(Phase)


OF_PHASES = {Heard.OUTSIDE, Heard.OTHERS, Heard.JUNK}


def ways_out(state: LegState | Fate, *, but: frozenset[LegState | Fate] = frozenset()) -> bool:
    """Whether a fate can be reached from a state."""
    if isinstance(state, Fate):
        return True
    ahead = {to for states in TRANSITIONS[state].values() for to in states} - but - {state}
    return any(ways_out(to, but=but | {state}) for to in ahead)


@pytest.mark.parametrize("state", [*Phase, *Probe], ids=str)
def test_no_state_is_a_trap(state: LegState) -> None:
    assert ways_out(state)
    assert any(state in states for row in TRANSITIONS.values() for states in row.values())
