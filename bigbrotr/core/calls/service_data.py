"""Service data: what services remember, as JSON by service, type and key."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bigbrotr.core.calls.base import Calls, by_column


class ServiceDataCalls(Calls):
    """What services remember."""

    async def backoff_s(self, failures: int) -> int:
        """Seconds to wait after so many failures in a row: growing, and never quite the same."""
        seconds: int = await self._value("backoff_s", p_attempts=failures)
        return seconds

    async def upsert_service_data(self, records: Sequence[tuple[str, str, str, Any]]) -> int:
        """Writes (service, type, key, value); values are JSON. Returns how many keys."""
        now = int(time.time())
        written = 0
        for batch in self._batches(records):
            services, types, keys, values = by_column(batch, 4)
            written += await self._value(
                "upsert_service_data",
                p_services=services,
                p_types=types,
                p_keys=keys,
                p_datas=[msgspec.json.encode(value).decode() for value in values],
                p_now=now,
            )
        return written

    async def get_service_data(
        self,
        service: str,
        type: str,  # noqa: A002 -- the contract's name
        key: str | None = None,
    ) -> list[dict[str, Any]]:
        """[{"key", "value", "updated_at"}] of a service and type, by key."""
        rows = await self.pool.fetch(
            "SELECT data_key, data, updated_at FROM bigbrotr.service_data"
            " WHERE service_name = $1 AND data_type = $2"
            " AND ($3::pg_catalog.text IS NULL OR data_key = $3)"
            " ORDER BY data_key",
            service,
            type,
            key,
        )
        return [
            {
                "key": row["data_key"],
                "value": msgspec.json.decode(row["data"]),
                "updated_at": row["updated_at"],
            }
            for row in rows
        ]

    async def delete_service_data(self, keys: Sequence[tuple[str, str, str]]) -> int:
        """Deletes (service, type, key); returns how many there were."""
        gone = 0
        for batch in self._batches(keys):
            services, types, keys_ = by_column(batch, 3)
            gone += await self._value(
                "delete_service_data", p_services=services, p_types=types, p_keys=keys_
            )
        return gone
