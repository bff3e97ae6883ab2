"""The statistics service: counts anew each day of which something has changed."""

import asyncio
import random
import time
from collections.abc import Sequence

from bigbrotr.config.settings import StatisticsSettings
from bigbrotr.core.base_service import BaseService
from bigbrotr.core.calls.operators import NamingDocument
from bigbrotr.core.calls.statistics import DayAuthors, Window
from bigbrotr.models.operators import LOOKS, Compared, join, named_relays
from bigbrotr.models.sketch import Sketch
from bigbrotr.reads.relays import BEGINNING

STEP = 500  # public keys that are hashed before others have their turn: about a millisecond
LISTS_S = 3600.0  # for which the sums of lists of relays are not made again
WINDOWS = 20  # that are read at once
JOIN_S = 3600.0  # from one look at who operates which relays to the next
DOCUMENTS = 500  # that are read at once
TESTS = 10  # pairs of relays whose events are compared in one look
CLASSES = 3  # of authors: all, with a profile, with a follow list


class Statistics(BaseService[StatisticsSettings]):
    """Empties the queue of days. Each day is a transaction of its own.

    Of the supervisors that share a database, any may count: one waits for the other.
    """

    SERVICE_NAME = "statistics"
    CONFIG_CLASS = StatisticsSettings

    _chance = random.SystemRandom()  # nobody knows beforehand which weeks are compared

    async def run(self) -> None:
        """Counts what is due, the newest day first."""
        begun = time.monotonic()
        now = int(time.time())
        await self.brotr.note_deleted_relays()
        counted = 0
        # What a day says of an author may change what others say: they are due at once.
        while days := await self.brotr.days_due(now - int(self.settings.every_s), now):
            for day in days:
                if self._stop.is_set():
                    return
                await self.brotr.count_day(day, int(time.time()), self._sketch)
                counted += 1
        while days := await self.brotr.compliance_due():
            for day in days:
                if self._stop.is_set():
                    return
                await self.brotr.count_compliance(day)
        if not self._stop.is_set():
            await self.brotr.sum_lists(now - int(max(self.settings.every_s, LISTS_S)), now)
        estimated = await self._estimate_windows()
        if not self._stop.is_set():
            await self.brotr.count_checks(int(time.time()))
        live_before = now - int(self.settings.every_s)
        while not self._stop.is_set() and await self.brotr.sum_relays(BEGINNING, live_before, now):
            pass
        await self._join_operators()
        if counted or estimated:
            took_s = round(time.monotonic() - begun, 1)
            self.log.info("counted", days=counted, windows=estimated, took_s=took_s)

    # Operators

    async def _join_operators(self) -> None:
        """Joins the relays that are one operator's, when that is due."""
        now = int(time.time())
        joined_at = await self.brotr.operators_joined_at()
        if self._stop.is_set() or (joined_at is not None and 0 <= now - joined_at < JOIN_S):
            return
        while documents := await self.brotr.operator_documents_due(DOCUMENTS):
            named = await asyncio.to_thread(names_in, documents)
            await self.brotr.note_operator_names(documents, named)
            if self._stop.is_set():
                return
        await self.brotr.gather_evidence(now)
        for a, b in await self.brotr.operator_tests_due(TESTS, now):
            if self._stop.is_set():
                return
            await self.brotr.note_operator_test(a, b, await self._compare(a, b))
        joined = join(await self.brotr.operator_pairs())
        if changed := await self.brotr.keep_operators(joined, now):
            groups = len(set(joined.values()))
            self.log.info("joined relays", relays=len(joined), operators=groups, changed=changed)

    async def _compare(self, a: int, b: int) -> Compared:
        """The events of two relays in weeks by chance of which both are proven."""
        weeks = await self.brotr.proven_weeks(a, b)
        some = self._chance.sample(sorted(weeks), min(LOOKS, len(weeks)))
        return await self.brotr.compare_weeks(some, a, b)

    async def _sketch(self, authors: DayAuthors) -> list[bytes]:
        sketches = [Sketch() for _ in range(CLASSES)]
        for start in range(0, len(authors.pubkeys), STEP):
            pubkeys = authors.pubkeys[start : start + STEP]
            sketches[0].add(pubkeys)
            for sketch, flags in zip(sketches[1:], authors[1:], strict=True):
                sketch.add(
                    key
                    for key, is_one in zip(pubkeys, flags[start : start + STEP], strict=True)
                    if is_one
                )
            await asyncio.sleep(0)
        return [bytes(sketch.data) for sketch in sketches]

    async def _estimate_windows(self) -> int:
        estimated = 0
        while not self._stop.is_set() and (windows := await self.brotr.windows_due(WINDOWS)):
            for window in windows:
                week = _merged(window, 7)
                month = _merged(window, 30)
                await self.brotr.keep_windows(window.day, week, month)
                estimated += 1
        return estimated


def _merged(window: Window, days: int) -> Sequence[int]:
    """About how many authors the `days` up to the day of a window have, of each class."""
    within = [
        sketches
        for day, sketches in zip(window.days, window.sketches, strict=True)
        if day > window.day - days
    ]
    return [
        Sketch.merged(sketches[place] for sketches in within).estimate() for place in range(CLASSES)
    ]


def names_in(documents: Sequence[NamingDocument]) -> list[tuple[int, str]]:
    """The relays that documents name, with the number of the relay that names each."""
    return [(each.relay_id, url) for each in documents for url in named_relays(each.data, each.url)]
