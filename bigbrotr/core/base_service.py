"""What every service is: a cycle, repeated on a fixed schedule until it is asked to stop."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import asyncpg
from msgspec import Struct, field

from bigbrotr.config.settings import MAX_CONSECUTIVE_FAILURES, Config, Profile, ServiceSection
from bigbrotr.config.toml import decode, load
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import Logger
from bigbrotr.core.metrics import Sample
from bigbrotr.errors import BigBrotrError, leaves

C = TypeVar("C", bound=ServiceSection)

# Not defects of ours: one line in the log, without a traceback.
OUTSIDE = (
    BigBrotrError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg's word for some connections that broke
)
OFFLINE = "this machine seems to be offline"
FIRST_RETRY_S = 1.0  # after a failed cycle; doubles up to the interval


class Context(Struct, frozen=True):
    """What a service finds around it."""

    config: Config = field(default_factory=Config)
    dsn: str | None = None  # of the embedded server
    name: str = "bigbrotr"  # of the supervisor: unique among those that share a database


class BaseService(ABC, Generic[C]):
    """One service: `run` is one cycle, `run_forever` repeats it.

    A service is a file with such a class, a section of the configuration, and a line in the
    supervisor's table.
    """

    SERVICE_NAME: ClassVar[str]
    CONFIG_CLASS: ClassVar[type[ServiceSection]]
    MAX_CONSECUTIVE_FAILURES: ClassVar[int] = MAX_CONSECUTIVE_FAILURES

    def __init__(
        self, brotr: Brotr, settings: C | None = None, context: Context | None = None
    ) -> None:
        self.brotr = brotr
        self.context = context or Context()
        self.settings: C = settings or getattr(self.context.config, self.SERVICE_NAME)
        self.log = Logger(self.SERVICE_NAME)
        self.failures = 0  # cycles in a row
        self.cycles = 0  # that ended well
        self.last_success_at: float | None = None  # Unix seconds
        self.trouble = ""  # what keeps it from its work now, in words
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_running = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, brotr: Brotr) -> Self:
        """A service from the keys of its section."""
        settings = decode(values, cls.CONFIG_CLASS, source=f"settings of the {cls.SERVICE_NAME}")
        return cls(brotr, settings)  # type: ignore[arg-type]

    @classmethod
    def from_toml(cls, path: str | Path, *, brotr: Brotr) -> Self:
        """A service from a configuration file: its own section, and what it needs of the others."""
        return cls(brotr, context=Context(load(Path(path), Profile.LITE)))

    @property
    def owner(self) -> str:
        """The name under which this service holds leases."""
        return f"{self.context.name}/{self.SERVICE_NAME}"

    @abstractmethod
    async def run(self) -> None:
        """One cycle: claim what is due, act, record."""

    async def run_forever(
        self, interval: float | None = None, max_consecutive_failures: int | None = None
    ) -> None:
        """Runs a cycle every `interval` seconds until `request_shutdown`.

        The schedule is fixed: a cycle that takes long delays no later one, and those that it ran
        over are left out. A failed cycle is repeated sooner; after `max_consecutive_failures` in
        a row (0: never) its exception is raised. Both default to the settings.
        """
        interval = self.settings.interval_s if interval is None else interval
        limit = max_consecutive_failures
        if limit is None:
            limit = self.settings.max_consecutive_failures
        self._loop = asyncio.get_running_loop()
        due = time.monotonic()
        reported = ""
        while not self._stop.is_set():
            try:
                await self.run()
            except Exception as error:
                self.failures += 1
                if limit and self.failures >= limit:
                    raise
                delay = min(interval, FIRST_RETRY_S * 2.0 ** min(self.failures - 1, 30))
                self._report(error, delay)
                reported = self.trouble
                await self.wait(delay)
                continue
            if self.failures and self.trouble == reported:  # else this cycle has said its own
                self.trouble = ""
            self.failures = 0
            self.cycles += 1
            self.last_success_at = time.time()
            # Timers may fire a moment early: at least one step, or the same cycle would run twice.
            late = time.monotonic() - due
            due += interval * max(1, late // interval + 1) if interval > 0 else late
            if (hurry_s := self.hurry_s()) is not None:
                due = min(due, time.monotonic() + hurry_s)
            await self.wait(due - time.monotonic())

    def hurry_s(self) -> float | None:
        """In how many seconds the next cycle is to be at the latest, where that is sooner than
        scheduled."""
        return None

    def metrics(self) -> Iterable[Sample]:
        """What this service counts: see `METRICS`."""
        return ()

    def _report(self, error: Exception, delay: float) -> None:
        fields = {"failures": self.failures, "again_in_s": round(delay, 1)}
        causes = leaves(error)
        self.trouble = str(causes[0]) or type(causes[0]).__name__
        if all(isinstance(cause, OUTSIDE) for cause in causes):
            self.log.warning("cycle failed", error=str(causes[0]), **fields)
        else:
            self.log.exception("cycle failed", **fields)

    def request_shutdown(self) -> None:
        """Asks the service to stop after what it is doing; safe from a signal handler."""
        if self._loop is None or self._loop.is_closed():
            self._stop.set()
        else:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def wait(self, timeout: float) -> bool:
        """Sleeps up to `timeout` seconds; True as soon as shutdown is asked for."""
        if timeout > 0 and not self._stop.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._stop.wait()
            except TimeoutError:
                pass
        else:
            await asyncio.sleep(0)
        return self._stop.is_set()

    @property
    def is_running(self) -> bool:
        """Whether the service is inside its `async with` and was not asked to stop."""
        return self._is_running and not self._stop.is_set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._stop.clear()
        self._is_running = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_running = False
        self._stop.set()
