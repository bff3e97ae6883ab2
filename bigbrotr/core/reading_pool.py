"""A pool of sessions that only read, each statement of them within a limit of time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec

from bigbrotr.config.settings import Database, PoolSettings
from bigbrotr.core.codes import SEARCH_PATH
from bigbrotr.core.pool import Connection, Pool

READER = "bigbrotr_reader"  # the role that may look, see sql/95_roles.sql
IS_READER = (
    "SELECT pg_catalog.pg_has_role(r.oid, 'MEMBER') FROM pg_catalog.pg_roles r WHERE r.rolname = $1"
)
MARGIN_S = 5.0  # until we give up what the database should have cut short
# A generic plan may take a thousand times as long as one for the values that are asked for.
PLANS = "force_custom_plan"


class ReadingPool(Pool):
    """A pool for questions alone: read-only sessions with a limit on each statement.

    Works on a replica, and behind PgBouncer in transaction mode: there each use is a transaction
    that says all of this for itself. Where the role `bigbrotr_reader` exists and may be taken on,
    the sessions take it on.
    """

    def __init__(
        self,
        database: Database,
        settings: PoolSettings,
        *,
        statement_timeout_s: float,
        dsn: str | None = None,
        patience_s: float | None = None,
    ) -> None:
        limit_ms = max(1, round(statement_timeout_s * 1000))
        self._limits = {
            "default_transaction_read_only": "on",
            "statement_timeout": str(limit_ms),
            "plan_cache_mode": PLANS,
            "idle_in_transaction_session_timeout": str(2 * limit_ms + 10_000),
        }
        timeouts = msgspec.structs.replace(
            settings.timeouts, command=max(1.0, statement_timeout_s + MARGIN_S)
        )
        super().__init__(
            database,
            msgspec.structs.replace(settings, timeouts=timeouts),
            dsn=dsn,
            session=self._limits,
            patience_s=patience_s,
        )
        self._role: str | None = None

    async def connect(self) -> None:
        """Opens the pool, and again as the reader where there is one."""
        if self.is_connected:
            return
        await super().connect()
        async with super().acquire() as connection:
            is_reader = await connection.fetchval(IS_READER, READER)
        if is_reader and self._role is None:
            self._role = READER
            if not self.settings.pgbouncer:
                await self.close()
                self._session = self._limits | {"role": READER}
                await super().connect()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for the length of the block, which can only read."""
        async with super().acquire() as connection:
            if not self.settings.pgbouncer:
                yield connection
                return
            transaction = connection.transaction(readonly=True)
            await transaction.start()
            try:
                await connection.execute(self._preamble)
                yield connection
            finally:
                with anyio.CancelScope(shield=True):
                    if not connection.is_closed():
                        await transaction.rollback()

    @property
    def _preamble(self) -> str:
        """What a transaction says of itself where the session cannot."""
        settings = {
            "statement_timeout": self._limits["statement_timeout"],
            "plan_cache_mode": PLANS,
        }
        settings["search_path"] = SEARCH_PATH
        if self._role is not None:
            settings["role"] = self._role
        return "; ".join(f"SET LOCAL {name} = {value}" for name, value in settings.items())
