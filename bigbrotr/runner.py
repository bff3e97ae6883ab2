"""A service's life: it is made, run, and made again when it crashed, later each time."""

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import anyio

from bigbrotr.config.settings import SupervisorSettings
from bigbrotr.core.base_service import OUTSIDE, BaseService
from bigbrotr.core.logger import Logger
from bigbrotr.core.pool import Pool
from bigbrotr.errors import DatabaseError, leaves

DATABASE_CHECK_S = 0.5  # between looks whether a database that went away is back


class State(StrEnum):
    """Where a service is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class Runner:
    """Runs one service until it is asked to stop, or has crashed too often in a while.

    `make` makes the service; `pool` says whether the database is there.
    """

    def __init__(self, name: str, settings: SupervisorSettings, log: Logger) -> None:
        self.name = name
        self.state = State.STARTING
        self.service: BaseService[Any] | None = None
        self.error = ""  # of the last crash
        self.restarts = 0
        self.last_success_at: float | None = None  # of a service that has crashed since
        self.crashes: deque[float] = deque()  # monotonic times, within the window
        self._settings = settings
        self._log = log
        self._stopping = anyio.Event()

    def request_shutdown(self) -> None:
        """Asks the service to stop after what it is doing; it is not made again."""
        self._stopping.set()
        if self.service is not None:
            self.service.request_shutdown()

    async def run_once(self, make: Callable[[], BaseService[Any]]) -> None:
        """Runs one cycle."""
        service = self.service = make()
        self.state = State.RUNNING
        try:
            async with service:
                if not self._stopping.is_set():
                    await service.run()
            self.state = State.STOPPED
        except Exception as error:
            self._note_crash(error)
            self.state = State.FAILED

    async def run(self, make: Callable[[], BaseService[Any]], pool: Pool) -> None:
        """Runs cycle after cycle."""
        while not self._stopping.is_set():
            if self.service is not None and self.service.last_success_at is not None:
                self.last_success_at = self.service.last_success_at
            self.service = None
            try:
                service = make()
                async with service:
                    self.service, self.state = service, State.RUNNING
                    if self._stopping.is_set():
                        service.request_shutdown()
                    await service.run_forever()
            except Exception as error:
                # The one broad boundary: a defect in one service must not touch the others.
                if await self._is_database_away(pool):
                    # A long recovery is nobody's defect: it is waited for, and not counted.
                    self.state, self.error = State.RESTARTING, str(leaves(error)[0])
                    self._log.warning("waiting for the database", service=self.name)
                    await self._until_database_answers(pool)
                    continue
                self._note_crash(error)
            else:
                break
            if len(self.crashes) >= self._settings.max_crashes:
                self.state = State.FAILED
                self._log.error("gave up", service=self.name, crashes=len(self.crashes))
                return
            await self._rest()
        self.state = State.STOPPED

    async def _rest(self) -> None:
        """Waits before the next try, twice as long after each crash."""
        self.state = State.RESTARTING
        delay_s = min(
            self._settings.restart_delay_s * 2.0 ** (len(self.crashes) - 1),
            self._settings.max_restart_delay_s,
        )
        self._log.warning("restarting", service=self.name, in_s=delay_s)
        with anyio.move_on_after(delay_s):
            await self._stopping.wait()

    async def _is_database_away(self, pool: Pool) -> bool:
        try:
            async with pool.acquire_healthy(max_retries=1):
                return False
        except DatabaseError:
            return True

    async def _until_database_answers(self, pool: Pool) -> None:
        while not self._stopping.is_set() and await self._is_database_away(pool):
            with anyio.move_on_after(DATABASE_CHECK_S):
                await self._stopping.wait()

    def _note_crash(self, error: Exception) -> None:
        causes = leaves(error)
        self.error = str(causes[0]) or type(causes[0]).__name__
        now = time.monotonic()
        self.crashes.append(now)
        self.restarts += 1
        while self.crashes[0] < now - self._settings.crash_window_s:
            self.crashes.popleft()
        if all(isinstance(cause, OUTSIDE) for cause in causes):
            self._log.error("crashed", service=self.name, error=self.error)
        else:
            self._log.exception("crashed", service=self.name)
