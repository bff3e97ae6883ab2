"""The maintenance service: keeps the database fit for years, and says what it cannot mend."""

import time

import asyncpg

from bigbrotr.config.settings import MaintenanceSettings
from bigbrotr.core.base_service import BaseService

MEMORY = ("maintenance", "done", "archive")  # where service data says when it was done
DATED_S = 90 * 86_400  # for which proofs are dated to the hour; older ones to the month
MIN_FAILURES_LOGGED = 3  # visits in a row


class Maintenance(BaseService[MaintenanceSettings]):
    """Makes the partitions of coming quarters, renews statistics, packs indexes, and says what
    needs a look.

    Of the supervisors that share a database, the first that finds it due does it for all.
    """

    SERVICE_NAME = "maintenance"
    CONFIG_CLASS = MaintenanceSettings

    async def run(self) -> None:
        """Does what is due."""
        now = int(time.time())
        await self.brotr.prune_arrivals(now - int(self.settings.keep_arrivals_s))
        if not self.context.config.search.enabled and await self.brotr.search_position():
            gone = await self.brotr.end_search()
            self.log.info("the index of words is gone: [search] is off", events=gone)
        rows = await self.brotr.get_service_data(*MEMORY)
        done_at = max((row["updated_at"] for row in rows), default=0)
        if now - done_at < self.settings.every_s and done_at <= now:
            return
        begun = time.monotonic()
        made = await self.brotr.ensure_partitions()
        await self.brotr.analyze()
        await self.brotr.thin_dirty_days()
        while not self._stop.is_set() and await self.brotr.merge_old_coverage(now - DATED_S):
            pass
        packed = await self._pack_indexes()
        await self.brotr.upsert_service_data([(*MEMORY, {})])
        took_s = round(time.monotonic() - begun, 1)
        self.log.info(
            "looked after the database",
            partitions_made=made,
            indexes_packed=packed,
            took_s=took_s,
        )
        await self._log_what_needs_a_look()

    async def _pack_indexes(self) -> int:
        try:
            packed = await self.brotr.pack_indexes()
        except asyncpg.InsufficientPrivilegeError as error:
            self.log.debug("indexes are not packed: the owner may", error=str(error))
            return 0
        except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, TimeoutError) as error:
            self.log.info("indexes are not packed: somebody reads for long", error=str(error))
            return 0
        return len(packed)

    async def _log_what_needs_a_look(self) -> None:
        if strays := await self.brotr.strays():
            self.log.warning("events in the default partition", at_least=strays)
        for table in await self.brotr.vacuum_debt():
            self.log.warning("autovacuum does not get to a table", **table)
        # One line a reason, whatever the number of relays and of tries.
        for each in await self.brotr.failing_relays(MIN_FAILURES_LOGGED):
            self.log.info(
                "relays fail",
                outcome=each["outcome"],
                relays=each["relays"],
                most=each["url"],
                failures=each["failures"],
            )
