"""The rescue service: keeps the events of chosen authors at other relays, and empties the queue."""

import time
from collections.abc import Iterator
from typing import Self

from bigbrotr.config.settings import RescueSettings
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.metrics import Sample
from bigbrotr.models.query import Query
from bigbrotr.services.rescue.selection import Selecting, Selection
from bigbrotr.services.rescue.sending import Sender, has_ended

STATES = ("held", "accepted", "refused", "unkept", "left", "waiting")


class Rescue(BaseService[RescueSettings]):
    """Puts into the queue, now and then, what too few relays hold of chosen authors, and sends what
    is due.

    Of the supervisors that share a database, any may do so: a target is one's alone meanwhile.
    """

    SERVICE_NAME = "rescue"
    CONFIG_CLASS = RescueSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: RescueSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self._sender = Sender(brotr, self.context.config, owner=self.owner, log=self.log)
        self._selected_at = float("-inf")  # monotonic

    def metrics(self) -> Iterator[Sample]:
        """What became of the events that were to be at other relays."""
        for state in STATES:
            yield Sample("rescues", self._sender.counts[state], (state,))

    async def __aenter__(self) -> Self:
        ended = [each for each in await self.brotr.rescue_owners() if has_ended(each)]
        await self.brotr.release_rescues([self.owner, *ended])
        return await super().__aenter__()

    async def run(self) -> None:
        """Looks for events that are at risk, where authors are chosen, and sends what is due."""
        if "content" not in await self.brotr.pool.fetchval("SELECT * FROM bigbrotr.kept_columns()"):
            self.log.debug("nothing can be sent: this archive keeps no contents")
            return
        is_time = time.monotonic() - self._selected_at >= self.settings.every_s
        if self.settings.authors and is_time:
            await self._select()
            self._selected_at = time.monotonic()
        while not self._stop.is_set() and await self._sender.send():
            pass

    async def _select(self) -> None:
        selection = Selection(
            query=Query(authors=frozenset(map(bytes.fromhex, self.settings.authors))),
            to=self.settings.to,
            below=self.settings.below,
            most_relays=self.settings.most_relays,
        )
        looked = queued = 0
        async for found in Selecting(self.brotr, self.context.config, selection).pages():
            looked += found.looked
            queued += await self.brotr.queue_rescues(found.events)
            if self._stop.is_set():
                return
        self.log.info("events at risk were looked for", looked=looked, queued=queued)
