"""The maintenance service: keeps the database fit for years, and says what it cannot mend."""

import time

from bigbrotr.config.settings import MaintenanceSettings
from bigbrotr.core.base_service import BaseService

MEMORY = ("maintenance", "done", "archive")  # where service data says when it was done
MIN_FAILURES_LOGGED = 3  # visits in a row


class Maintenance(BaseService[MaintenanceSettings]):
    """Makes the partitions of coming quarters, renews statistics, and logs what needs a look.

    Of the supervisors that share a database, the first that finds it due does it for all.
    """

    SERVICE_NAME = "maintenance"
    CONFIG_CLASS = MaintenanceSettings

    async def run(self) -> None:
        """Does what is due."""
        now = int(time.time())
        rows = await self.brotr.get_service_data(*MEMORY)
        done_at = max((row["updated_at"] for row in rows), default=0)
        if now - done_at < self.settings.every_s and done_at <= now:
            return
        begun = time.monotonic()
        made = await self.brotr.ensure_partitions()
        await self.brotr.analyze()
        await self.brotr.upsert_service_data([(*MEMORY, {})])
        took_s = round(time.monotonic() - begun, 1)
        self.log.info("looked after the database", partitions_made=made, took_s=took_s)
        await self._log_what_needs_a_look()

    async def _log_what_needs_a_look(self) -> None:
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
