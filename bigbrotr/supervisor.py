"""The supervisor: one loop, one pool, and the services, each restarted when it crashes."""

import os
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio
import asyncpg
from anyio.abc import TaskStatus

from bigbrotr import __version__
from bigbrotr.config import Config, Profile
from bigbrotr.core.base_service import OUTSIDE, BaseService, Surroundings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.embedded import EmbeddedPostgres
from bigbrotr.core.figures import Sample, memory_of
from bigbrotr.core.logger import Logger
from bigbrotr.core.notify import Notifier, extension
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.errors import (
    BigBrotrError,
    ConfigError,
    DatabaseError,
    ServiceFailedError,
    leaves,
)
from bigbrotr.nostr.manners import manners_of
from bigbrotr.services.finder import Finder
from bigbrotr.services.monitor import Monitor, keys_of
from bigbrotr.services.seeder import Seeder
from bigbrotr.services.synchronizer import Synchronizer
from bigbrotr.services.validator import Validator
from bigbrotr.services.worker import signer_of
from bigbrotr.web import health, metrics

DATABASE_CHECK_S = 0.5  # between looks whether a database that went away is back

# The services, in the order in which one cycle of each makes sense.
SERVICES: dict[str, type[BaseService[Any]]] = {
    Seeder.SERVICE_NAME: Seeder,
    Finder.SERVICE_NAME: Finder,
    Validator.SERVICE_NAME: Validator,
    Monitor.SERVICE_NAME: Monitor,
    Synchronizer.SERVICE_NAME: Synchronizer,
}

FIRST_UPKEEP_S = 900.0  # after the start, which has other things to do
UPKEEP_S = 12 * 3600.0  # from one look after the database to the next
BEAT_S = 1.0  # between two looks how late the loop is
SIGN_S = 10.0  # between two signs of life for systemd, unless it wants them sooner
STOPPING = "stopping"
FAILURES_TOLD = 3  # in a row, before a relay is worth a word
READY_S = 5.0  # for the database to say that it is well
FIGURES_S = 15.0  # until the database is asked again: 0.2 s for 10,000 relays
STUCK_S = 10.0  # a loop that is so late does nothing in time any more


class State(StrEnum):
    """Where a service is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class Keeper:
    """A service's life: it is made, run, and made again when it crashed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.STARTING
        self.service: BaseService[Any] | None = None
        self.error = ""  # of the last crash
        self.restarts = 0
        self.last_success_at: float | None = None  # of a service that has crashed since
        self.crashes: deque[float] = deque()  # monotonic times, within the window


class Supervisor:
    """Runs the chosen services on one database until it is told to stop."""

    def __init__(
        self,
        config: Config,
        profile: Profile,
        data_dir: Path,
        *,
        only: Sequence[str] | None = None,
    ) -> None:
        self.config = config
        self.profile = profile
        self.data_dir = data_dir
        self.log = Logger("supervisor")
        self.keepers = [Keeper(name) for name in choose(config, only)]
        self.brotr: Brotr | None = None  # while running
        self.started_at = time.monotonic()
        self.doing = "starting"  # in words, until the services run
        self._around = Surroundings(config)
        self._stopping = anyio.Event()
        self._notifier = Notifier()
        self._started_at = time.time()
        self._asking = anyio.Lock()
        self._told: list[Sample] = []  # figures of the database
        self._told_at = float("-inf")
        self._beat_at = time.monotonic()  # the newest heartbeat of the loop
        self._lag_s = 0.0  # how late it was

    async def run(self, *, is_once: bool = False) -> None:
        """Runs the services until a signal or `request_shutdown`; or one cycle of each.

        Raises:
            BigBrotrError: what kept it from starting; or, at the end, ServiceFailedError.
        """
        async with anyio.create_task_group() as group:
            await group.start(self._heed_signals, group.cancel_scope)
            group.start_soon(self._beat)
            async with self._served(), self._database(group):
                self.doing = ""
                self._notifier.tell("READY=1", status=self.status())
                if is_once:
                    await self._run_once()
                else:
                    await self._run_services()
                self._tell_stopping()
            group.cancel_scope.cancel()
        failed = [keeper for keeper in self.keepers if keeper.state is State.FAILED]
        if failed:
            raise ServiceFailedError(
                "; ".join(f"{keeper.name} failed: {keeper.error}" for keeper in failed)
            )

    def request_shutdown(self) -> None:
        """Asks everything to stop; what is under way may end within `shutdown_timeout_s`."""
        self._stopping.set()
        self._tell_stopping()
        for keeper in self.keepers:
            if keeper.service is not None:
                keeper.service.request_shutdown()

    def _tell_stopping(self) -> None:
        if self.doing != STOPPING:
            self.doing = STOPPING
            self._notifier.tell("STOPPING=1", extension(), status=self.status())

    def status(self) -> str:
        """What is going on, in a line for the one who asks systemd."""
        if self.doing:
            return self.doing
        by_state: dict[State, list[str]] = {}
        for keeper in self.keepers:
            by_state.setdefault(keeper.state, []).append(keeper.name)
        return "; ".join(f"{state}: {', '.join(names)}" for state, names in by_state.items())

    @property
    def lag_s(self) -> float:
        """How late the event loop is now, or was at its newest heartbeat."""
        return max(self._lag_s, time.monotonic() - self._beat_at - BEAT_S)

    async def _beat(self) -> None:
        """The heartbeat of the loop: it measures, and is what the watchdog of systemd hears.

        Nothing but a loop that goes on sends it. Until we are ready, and while we stop, it asks
        for patience: a database recovers for as long as it takes.
        """
        sign_s = min(SIGN_S, (self._notifier.watchdog_s or SIGN_S) / 3)
        sign_at = 0.0
        while True:
            now = time.monotonic()
            if now >= sign_at:
                sign_at = now + sign_s
                patience = [extension()] if self.doing else []
                self._notifier.tell("WATCHDOG=1", *patience, status=self.status())
            due = now + min(BEAT_S, sign_s)
            await anyio.sleep(due - now)
            self._beat_at = time.monotonic()
            self._lag_s = max(0.0, self._beat_at - due)

    async def _heed_signals(
        self, scope: anyio.CancelScope, *, task_status: TaskStatus[None]
    ) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if self._stopping.is_set():
                    self.log.warning("stopping at once", signal=name)
                    scope.cancel()
                    return
                self.log.info("stopping", signal=name)
                self.request_shutdown()

    # The database

    @asynccontextmanager
    async def _database(self, group: anyio.abc.TaskGroup) -> AsyncIterator[None]:
        """The pool over a database of the current revision, and the server if it is ours."""
        async with AsyncExitStack() as stack:
            dsn = None
            if self.config.database.is_embedded:
                server = EmbeddedPostgres(self.data_dir, on_progress=self._tell_progress)
                await stack.enter_async_context(server)
                dsn = server.url
                watch = anyio.CancelScope()
                group.start_soon(self._watch_server, server, watch)
                stack.callback(watch.cancel)
            pool = Pool(self.config.database, self.config.pool, dsn=dsn)
            self.brotr = await stack.enter_async_context(Brotr(pool))
            async with pool.acquire() as connection:
                if await Schema().migrate(connection, self.profile, int(time.time())):
                    self.log.info("the schema is current", profile=self.profile)
            name = self.config.supervisor.name or socket.gethostname()
            self._around = Surroundings(self.config, dsn, name)
            self.log.info(
                "ready",
                profile=self.profile,
                database=self.config.database.place,
                services=",".join(keeper.name for keeper in self.keepers),
                **({"data_dir": self.data_dir} if dsn else {}),
            )
            yield

    # What it tells

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        """Answers over HTTP, from before there is a database until after it has stopped."""
        if self.config.web.listen is None:
            yield
            return
        host, _ = self.config.web.address()
        async with health.serve(
            self.config.web,
            is_alive=self._what_is_stuck,
            is_ready=self._what_is_wrong,
            metrics=self._metrics,
        ) as port:
            self.log.info("serving health and metrics", address=f"http://{host}:{port}/healthz")
            yield

    async def _what_is_stuck(self) -> str | None:
        """Why the process does not go on, in words; None while it does."""
        if self.lag_s > STUCK_S:
            return f"the event loop is late by {self.lag_s:.0f} s"
        return None

    async def _what_is_wrong(self) -> str | None:
        """Why the supervisor cannot do its work now, in words; None when it can."""
        if self.doing:
            return self.doing
        failed = [keeper.name for keeper in self.keepers if keeper.state is State.FAILED]
        if failed:
            return f"failed: {', '.join(failed)}"
        try:
            assert self.brotr is not None
            with anyio.fail_after(READY_S):
                async with self.brotr.pool.acquire_healthy(max_retries=1) as connection:
                    if await Schema().check(connection, self.profile) is None:
                        return "the database has no schema"
        except TimeoutError:
            return f"the database did not answer within {READY_S:.0f} s"
        except (BigBrotrError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return str(error)
        return None

    async def _metrics(self) -> tuple[bytes, str]:
        """The page of figures, and its content type."""
        of_database = await self._figures_of_database()
        return metrics.page([*self._figures(), *of_database]), metrics.CONTENT_TYPE

    def _figures(self) -> Iterator[Sample]:
        """What this process knows by itself."""
        yield Sample("info", 1, (__version__, self.profile))
        yield Sample("start_time_seconds", self._started_at)
        yield Sample("loop_lag_seconds", self.lag_s)
        yield Sample("memory_bytes", memory_of([os.getpid()]), ("supervisor",))
        for keeper in self.keepers:
            name, service = keeper.name, keeper.service
            for state in State:
                yield Sample("service_state", keeper.state is state, (name, state))
            yield Sample("service_restarts", keeper.restarts, (name,))
            succeeded_at = keeper.last_success_at
            if service is not None:
                yield Sample("service_cycles", service.cycles, (name,))
                yield Sample("service_failed_cycles", service.failures, (name,))
                succeeded_at = service.last_success_at or succeeded_at
                yield from service.figures()
            if succeeded_at is not None:
                yield Sample("service_last_success_timestamp_seconds", succeeded_at, (name,))
        manners = manners_of(self.config.manners)
        for reason, waits in (("pace", manners.paced), ("address", manners.crowded)):
            yield Sample("manners_waits", waits.times, ("supervisor", reason))
            yield Sample("manners_wait_seconds", waits.seconds, ("supervisor", reason))
        if self.config.database.is_embedded and self.data_dir.exists():
            yield Sample("disk_free_bytes", shutil.disk_usage(self.data_dir).free)
        if self.brotr is not None:
            pool, use = self.brotr.pool.metrics, self.brotr.pool.use
            yield Sample("pool_connections", pool["size"] - pool["idle_size"], ("used",))
            yield Sample("pool_connections", pool["idle_size"], ("idle",))
            yield Sample("pool_max_connections", pool["max_size"])
            yield Sample("database_uses", use.times, ("supervisor",))
            yield Sample("database_seconds", use.seconds, ("supervisor",))
            yield Sample("database_wait_seconds", use.waited_s, ("supervisor",))

    async def _figures_of_database(self) -> list[Sample]:
        """What the archive says of itself, some seconds ago at most, and whether it answers."""
        async with self._asking:  # one question at a time, however many ask us
            if time.monotonic() < self._told_at + FIGURES_S:
                return self._told
            try:
                if self.doing or self.brotr is None:
                    return [Sample("database_up", 0)]
                networks = [network for network, _ in self.config.networks.enabled()]
                with anyio.fail_after(READY_S):
                    found = await self.brotr.metrics(networks)
            except (BigBrotrError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return [Sample("database_up", 0)]
            self._told_at, self._told = time.monotonic(), [Sample("database_up", 1), *found]
            return self._told

    def _tell_progress(self, words: str) -> None:
        """What the embedded server says of its start."""
        self.log.info(words)
        if self.doing not in ("", STOPPING):
            self.doing = f"starting: {words}"
        self._notifier.tell(status=self.status())

    async def _watch_server(self, server: EmbeddedPostgres, scope: anyio.CancelScope) -> None:
        """Starts the embedded server again when it dies; the pool finds it by itself."""
        with scope:
            while True:
                code = await server.wait_dead()
                self.log.error("PostgreSQL died, starting it again", exit_code=code)
                delay_s = self.config.supervisor.restart_delay_s
                while True:
                    try:
                        await server.restart()
                    except DatabaseError as error:
                        # A full disk, say: somebody may make room.
                        self.log.error("cannot start PostgreSQL", error=error, again_in_s=delay_s)
                        await anyio.sleep(delay_s)
                        delay_s = min(2 * delay_s + 0.1, self.config.supervisor.max_restart_delay_s)
                    else:
                        break

    # The services

    async def _run_once(self) -> None:
        """One cycle of each service, one after the other."""
        for keeper in self.keepers:
            if self._stopping.is_set():
                return
            service = keeper.service = self._make(keeper)
            keeper.state = State.RUNNING
            try:
                async with service:
                    await service.run()
                keeper.state = State.STOPPED
            except Exception as error:
                self._note_crash(keeper, error)
                keeper.state = State.FAILED

    async def _run_services(self) -> None:
        limit_s = self.config.supervisor.shutdown_timeout_s
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as services:
                group.start_soon(self._limit_stopping, limit_s, services.cancel_scope)
                group.start_soon(self._keep_up)
                for keeper in self.keepers:
                    services.start_soon(self._keep, keeper)
            group.cancel_scope.cancel()

    async def _limit_stopping(self, limit_s: float, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        await anyio.sleep(limit_s)
        self.log.warning("cancelling what has not stopped", after_s=limit_s)
        scope.cancel()

    async def _keep_up(self) -> None:
        """Looks after the database, however long the run lasts."""
        await anyio.sleep(FIRST_UPKEEP_S)
        while True:
            await self.keep_up()
            await anyio.sleep(UPKEEP_S)

    async def keep_up(self) -> None:
        """Makes the partitions of coming quarters, renews statistics, and says what is left."""
        assert self.brotr is not None
        begun = time.monotonic()
        try:
            made = await self.brotr.ensure_partitions()
            await self.brotr.analyze()
            behind = await self.brotr.vacuum_debt()
            failing = await self.brotr.failing_relays(FAILURES_TOLD)
        except (BigBrotrError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.log.warning("the database was not looked after", error=str(error))
            return
        took_s = round(time.monotonic() - begun, 1)
        self.log.info("looked after the database", partitions_made=made, took_s=took_s)
        for table in behind:
            self.log.warning("autovacuum does not get to a table", **table)
        # One line a reason, whatever the number of relays and of tries.
        for each in failing:
            self.log.info(
                "relays fail",
                outcome=each["outcome"],
                relays=each["relays"],
                most=each["url"],
                failures=each["failures"],
            )

    async def _keep(self, keeper: Keeper) -> None:
        """Runs a service until it stops, or has crashed too often in a while."""
        settings = self.config.supervisor
        while not self._stopping.is_set():
            if keeper.service is not None and keeper.service.last_success_at is not None:
                keeper.last_success_at = keeper.service.last_success_at
            keeper.service = None
            try:
                service = self._make(keeper)
                async with service:
                    keeper.service, keeper.state = service, State.RUNNING
                    if self._stopping.is_set():
                        service.request_shutdown()
                    await service.run_forever()
            except Exception as error:
                # The one broad boundary: a defect in one service must not touch the others.
                if await self._is_database_away():
                    # A long recovery is nobody's defect: it is waited for, and not counted.
                    keeper.state, keeper.error = State.RESTARTING, str(leaves(error)[0])
                    self.log.warning("waiting for the database", service=keeper.name)
                    await self._until_database_answers()
                    continue
                self._note_crash(keeper, error)
            else:
                break
            if len(keeper.crashes) >= settings.max_crashes:
                keeper.state = State.FAILED
                self.log.error("gave up", service=keeper.name, crashes=len(keeper.crashes))
                if all(each.state is State.FAILED for each in self.keepers):
                    self.request_shutdown()
                return
            keeper.state = State.RESTARTING
            delay_s = min(
                settings.restart_delay_s * 2.0 ** (len(keeper.crashes) - 1),
                settings.max_restart_delay_s,
            )
            self.log.warning("restarting", service=keeper.name, in_s=delay_s)
            with anyio.move_on_after(delay_s):
                await self._stopping.wait()
        keeper.state = State.STOPPED

    async def _is_database_away(self) -> bool:
        assert self.brotr is not None
        try:
            async with self.brotr.pool.acquire_healthy(max_retries=1):
                return False
        except DatabaseError:
            return True

    async def _until_database_answers(self) -> None:
        while not self._stopping.is_set() and await self._is_database_away():
            with anyio.move_on_after(DATABASE_CHECK_S):
                await self._stopping.wait()

    def _make(self, keeper: Keeper) -> BaseService[Any]:
        assert self.brotr is not None
        return SERVICES[keeper.name](self.brotr, around=self._around)

    def _note_crash(self, keeper: Keeper, error: Exception) -> None:
        causes = leaves(error)
        keeper.error = str(causes[0]) or type(causes[0]).__name__
        now = time.monotonic()
        keeper.crashes.append(now)
        keeper.restarts += 1
        while keeper.crashes[0] < now - self.config.supervisor.crash_window_s:
            keeper.crashes.popleft()
        if all(isinstance(cause, OUTSIDE) for cause in causes):
            self.log.error("crashed", service=keeper.name, error=keeper.error)
        else:
            self.log.exception("crashed", service=keeper.name)


def choose(config: Config, only: Sequence[str] | None) -> list[str]:
    """The services to run: those named, or all that are enabled.

    Raises:
        ConfigError: a name that is none, or nothing is left.
    """
    for name in only or ():
        if name not in SERVICES:
            raise ConfigError(f"no service is called {name!r}: there are {', '.join(SERVICES)}")
    chosen = [
        name for name in SERVICES if (name in only if only else getattr(config, name).enabled)
    ]
    if not chosen:
        raise ConfigError("no service is enabled")
    file = config.seeder.file
    if Seeder.SERVICE_NAME in chosen and file is not None:
        try:
            with Path(file).open("rb"):
                pass
        except (OSError, ValueError) as error:  # ValueError: no path, or none in this locale
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"[seeder] file: cannot read {file}: {reason}") from None
    if Synchronizer.SERVICE_NAME in chosen:
        signer_of(config.synchronizer.auth)  # now, not in each worker
    if Monitor.SERVICE_NAME in chosen:
        keys_of(config.monitor)
    return chosen
