"""The database in the words of the domain: each change is one call of a stored function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from bigbrotr.core.calls.alerts import AlertCalls
from bigbrotr.core.calls.candidates import CandidateCalls
from bigbrotr.core.calls.completeness import CompletenessCalls
from bigbrotr.core.calls.events import EventCalls
from bigbrotr.core.calls.exchange import ExchangeCalls
from bigbrotr.core.calls.imports import ImportCalls
from bigbrotr.core.calls.maintenance import MaintenanceCalls
from bigbrotr.core.calls.monitoring import MonitoringCalls
from bigbrotr.core.calls.operators import OperatorCalls
from bigbrotr.core.calls.policy import PolicyCalls
from bigbrotr.core.calls.ranks import RankCalls
from bigbrotr.core.calls.reconciliation import ReconciliationCalls
from bigbrotr.core.calls.rescues import RescueCalls
from bigbrotr.core.calls.search import SearchCalls
from bigbrotr.core.calls.service_data import ServiceDataCalls
from bigbrotr.core.calls.statistics import StatisticsCalls
from bigbrotr.core.calls.visits import VisitCalls
from bigbrotr.core.calls.witnesses import WitnessCalls
from bigbrotr.core.pool import Pool


class Brotr(
    EventCalls,
    ImportCalls,
    ExchangeCalls,
    ReconciliationCalls,
    CandidateCalls,
    VisitCalls,
    MonitoringCalls,
    ServiceDataCalls,
    StatisticsCalls,
    PolicyCalls,
    SearchCalls,
    WitnessCalls,
    RankCalls,
    OperatorCalls,
    AlertCalls,
    RescueCalls,
    CompletenessCalls,
    MaintenanceCalls,
):
    """The database in the words of the domain, over a pool.

    Times are Unix seconds. Batches of any size are taken and split at `max_batch_size`. With
    `notes_mentions`, the relays that new events name go into a queue for the finder.
    """

    def __init__(self, pool: Pool, *, notes_mentions: bool = True) -> None:
        super().__init__(pool)
        self.notes_mentions = notes_mentions

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the tables that `Pool.from_dict` takes."""
        return cls(Pool.from_dict(values))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """From the tables [database] and [pool] of a configuration file."""
        return cls(Pool.from_toml(path))

    async def __aenter__(self) -> Self:
        await self.pool.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()

    async def cleanup_orphans(self, include_relays: bool = True) -> dict[str, int]:
        """Deletes what nothing refers to: {"metadata": n, "events": n, "relays": n}."""
        return {
            "metadata": await self.delete_orphan_metadata(),
            "events": await self.delete_orphan_events(),
            "relays": await self.delete_orphan_relays() if include_relays else 0,
        }
