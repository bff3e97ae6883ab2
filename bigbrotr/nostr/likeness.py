"""Whether two addresses show the same relay: proven events, asked of both at the same times.

What is merely named proves nothing: a neighbour may repeat the ids of others, or their newest
events. So events are verified, and those before moments by chance are compared as well, down to
about the oldest. Who can answer all that like another one has what that one has.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from bigbrotr.models.event import Event
from bigbrotr.models.plain import unpacked
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Page

LOOKS = 6  # at other times than the newest, where there is something ...
QUESTIONS = 12  # ... and as many in all
FIRST_AT = 1_577_836_800  # nothing is looked for before 2020: there was no Nostr
SAMPLE = 50  # events of a look
LEAST = 5  # fewer of the newest prove nothing
SETTLED_S = 600  # old enough that no new one comes between two questions

Ask: TypeAlias = Callable[[dict[str, Any]], Awaitable[Page]]


class Look(NamedTuple):
    """The proven events before a moment, newest first as far as they go."""

    ids: frozenset[bytes]
    oldest: int  # of them; the moment itself, without any


async def look(ask: Ask, until: int) -> Look | None:
    """What is shown of the time up to `until`, without what is forged; None when that is no
    answer."""
    page = await ask({"until": until, "limit": SAMPLE})
    return await asyncio.to_thread(_prove, page, until)  # it verifies signatures


def _prove(page: Page, until: int) -> Look | None:
    if page.end is not End.EOSE:
        return None
    times: dict[bytes, int] = {}
    for wire in map(unpacked, page.events):
        try:
            event = wire if isinstance(wire, Event) else Event.from_wire(wire)
        except ValueError:
            continue
        if event.created_at > until:
            return None
        times[event.id] = event.created_at
    oldest = min(times.values(), default=until)
    if len(times) >= SAMPLE and oldest < max(times.values()):
        # Of its oldest second there may be more, and others of them elsewhere.
        times = {event_id: at for event_id, at in times.items() if at > oldest}
    return Look(frozenset(times), oldest)


async def newest(ask: Ask) -> Look | None:
    """A first look; None when it says nothing."""
    found = await look(ask, int(time.time()) - SETTLED_S)
    return found if found is not None and len(found.ids) >= LEAST else None


async def is_alike(ours: Ask, theirs: Ask, chance: random.Random | None = None) -> bool:
    """Whether both show the same: the newest events, what there was before some moments by chance
    between these and the oldest that were seen, and what is older still."""
    chance = chance or random.SystemRandom()
    until = int(time.time()) - SETTLED_S
    looks, floor, low, high = 0, FIRST_AT, 0, 0
    for _ in range(QUESTIONS):
        mine, other = await asyncio.gather(look(ours, until), look(theirs, until))
        if mine is None or mine != other:
            return False
        if not looks:
            if len(mine.ids) < LEAST:
                return False
            low = high = mine.oldest
        if mine.ids:
            looks += 1
            low = min(low, mine.oldest)
        else:
            floor = until  # nothing is older
        is_older = floor < low - 1 and (looks % 2 == 1 or low == high)
        if looks > LOOKS or (low == high and not is_older):
            break
        if not is_older:
            until = chance.randint(low, high)
        elif looks == 1:
            until = low - 1  # what comes next
        else:
            until = low - _distance(low - floor, chance)
    return True


def _distance(most: int, chance: random.Random) -> int:
    """From 1 to `most`: any of them, or of any order of magnitude, since events come in bursts."""
    if chance.random() < 0.5:
        return chance.randint(1, most)
    return min(most, int(most ** chance.random()))
