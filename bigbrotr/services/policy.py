"""The policy service: judges new events, so that readers are not shown what they should not be."""

import time
from collections.abc import Sequence

import asyncpg

from bigbrotr.config.settings import PolicySettings
from bigbrotr.core.base_service import BaseService
from bigbrotr.models.policy import View, urls_of

VACUUM_EVERY_S = 3600.0  # what was erased is freed no more often


class Policy(BaseService[PolicySettings]):
    """Follows the log of new events, and walks through archived ones that are to be judged again.

    Of the supervisors that share a database, any may judge: one waits for the other.
    """

    SERVICE_NAME = "policy"
    CONFIG_CLASS = PolicySettings

    _has_begun = False
    _vacuumed_at = 0.0  # monotonic

    async def run(self) -> None:
        """Judges all that is due; new events come first."""
        urls = sorted(urls_of(self.context.config.serve.public_url))
        if not self._has_begun:
            await self._begin(urls)
            self._has_begun = True
        if not await self.brotr.policy_is_due(int(time.time())):
            await self._vacuum()
            return
        # Only a restored backup changes what there is to go on from; it is looked at here.
        await self._begin(urls)
        reviewed = erased = 0
        begun = time.monotonic()
        while not self._stop.is_set():
            done = await self.brotr.judge_arrivals(urls)
            erased += done.erased
            if not done.is_done:
                continue
            done = await self.brotr.judge_review(urls)
            reviewed += done.events
            erased += done.erased
            if done.is_done:
                gone = await self.brotr.erase_expired(int(time.time()))
                erased += gone
                if not gone:
                    break
        if reviewed or erased:
            took_s = round(time.monotonic() - begun, 1)
            self.log.info("judged again", events=reviewed, erased=erased, took_s=took_s)

    async def _begin(self, urls: Sequence[str]) -> None:
        await self.brotr.begin_policy(
            urls,
            self.settings.erases,
            self.settings.hides(View.CURRENT),
            self.settings.hides(View.ARCHIVE),
        )

    async def _vacuum(self) -> None:
        if self._vacuumed_at and time.monotonic() - self._vacuumed_at < VACUUM_EVERY_S:
            return
        self._vacuumed_at = time.monotonic()
        try:
            await self.brotr.vacuum_erased()
        except asyncpg.InsufficientPrivilegeError as error:
            self.log.debug("erased events are not vacuumed: the owner may", error=str(error))
