"""The supervisor: one loop, one pool, and the services, each restarted when it crashes."""

import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus

from bigbrotr.config import files
from bigbrotr.config.settings import Config, Profile
from bigbrotr.core.base_service import OUTSIDE, BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.identity import identity, note_profile
from bigbrotr.core.logger import Logger
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.errors import ConfigError, DatabaseError, ServiceFailedError
from bigbrotr.models import page_rank
from bigbrotr.reads import relays
from bigbrotr.runner import Runner, State
from bigbrotr.serve.children import Children
from bigbrotr.serve.orders import Order
from bigbrotr.services import alerts, publisher
from bigbrotr.services.alerts import Alerts
from bigbrotr.services.completeness.service import Completeness
from bigbrotr.services.finder import Finder
from bigbrotr.services.maintenance import Maintenance
from bigbrotr.services.monitor.service import Monitor, keys_of
from bigbrotr.services.policy import Policy
from bigbrotr.services.publisher import Publisher
from bigbrotr.services.ranks import assertions
from bigbrotr.services.ranks.service import Ranks
from bigbrotr.services.rescue import sending
from bigbrotr.services.rescue.service import Rescue
from bigbrotr.services.search import Search
from bigbrotr.services.seeder import Seeder
from bigbrotr.services.statistics import Statistics
from bigbrotr.services.sync.service import Synchronizer
from bigbrotr.services.sync.worker import signer_of
from bigbrotr.services.validator import Validator
from bigbrotr.services.witnesses import Witnesses
from bigbrotr.telemetry import Telemetry

# The services, in the order in which one cycle of each makes sense.
SERVICES: dict[str, type[BaseService[Any]]] = {
    Seeder.SERVICE_NAME: Seeder,
    Finder.SERVICE_NAME: Finder,
    Validator.SERVICE_NAME: Validator,
    Monitor.SERVICE_NAME: Monitor,
    Publisher.SERVICE_NAME: Publisher,
    Synchronizer.SERVICE_NAME: Synchronizer,
    Policy.SERVICE_NAME: Policy,
    Statistics.SERVICE_NAME: Statistics,
    Search.SERVICE_NAME: Search,
    Completeness.SERVICE_NAME: Completeness,
    Witnesses.SERVICE_NAME: Witnesses,
    Ranks.SERVICE_NAME: Ranks,
    Alerts.SERVICE_NAME: Alerts,
    Rescue.SERVICE_NAME: Rescue,
    Maintenance.SERVICE_NAME: Maintenance,
}


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
        self.runners = [Runner(name, config.supervisor, self.log) for name in choose(config, only)]
        self.telemetry = Telemetry(config, profile, data_dir, self.runners, self.log)
        if is_unheard(config, [runner.name for runner in self.runners]):
            self.log.warning("events of our own wait in the outbox until a publisher runs")
        self.brotr: Brotr | None = None  # while running
        self.started_at = time.monotonic()
        self._context = Context(config)
        # Where some services were chosen, they alone run.
        self._serves = bool(config.serve.listen) and only is None
        self._stopping = anyio.Event()

    async def run(self, *, is_once: bool = False) -> None:
        """Runs the services until a signal or `request_shutdown`; or one cycle of each.

        Raises:
            BigBrotrError: what kept it from starting; or, at the end, ServiceFailedError.
        """
        async with anyio.create_task_group() as group:
            await group.start(self._heed_signals, group.cancel_scope)
            group.start_soon(self.telemetry.beat)
            async with self.telemetry.served(), self._database(group):
                self.telemetry.tell_ready()
                if is_once:
                    await self._run_once()
                else:
                    async with self._archive_served():
                        await self._run_services()
                self.telemetry.tell_stopping()
            group.cancel_scope.cancel()
        failed = [runner for runner in self.runners if runner.state is State.FAILED]
        if failed:
            raise ServiceFailedError(
                "; ".join(f"{runner.name} failed: {runner.error}" for runner in failed)
            )

    def request_shutdown(self) -> None:
        """Asks everything to stop; what is under way may end within `shutdown_timeout_s`."""
        self._stopping.set()
        self.telemetry.tell_stopping()
        for runner in self.runners:
            runner.request_shutdown()

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
                archive = self.config.database.wal_archive
                server = EmbeddedPostgres(
                    self.data_dir,
                    wal_archive=Path(archive) if archive else None,
                    summarizes_wal=self.config.database.summarize_wal,
                    on_progress=self.telemetry.tell_progress,
                )
                await stack.enter_async_context(server)
                dsn = server.url
                watch = anyio.CancelScope()
                group.start_soon(self._watch_server, server, watch)
                stack.callback(watch.cancel)
            pool = Pool(self.config.database, self.config.pool, dsn=dsn)
            self.brotr = await stack.enter_async_context(Brotr(pool))
            self.telemetry.brotr = self.brotr
            async with pool.acquire() as connection:
                if await Schema().migrate(connection, self.profile, int(time.time())):
                    self.log.info("the schema is current", profile=self.profile)
            if dsn is not None:
                note_profile(self.data_dir, self.profile)
            name = self.config.supervisor.name or socket.gethostname()
            self._context = Context(self.config, dsn, name)
            self.log.info(
                "ready",
                profile=self.profile,
                database=self.config.database.place,
                services=",".join(runner.name for runner in self.runners),
                **({"data_dir": self.data_dir} if dsn else {}),
            )
            yield

    async def _watch_server(self, server: EmbeddedPostgres, scope: anyio.CancelScope) -> None:
        """Starts the embedded server again when it dies; the pool finds it by itself."""
        with scope:
            while True:
                code = await server.wait_dead()
                self.log.error(
                    "PostgreSQL died, starting it again", exit_code=code, reason=server.last_words
                )
                delay_s = self.config.supervisor.restart_delay_s
                while True:
                    try:
                        await server.restart()
                    except DatabaseError as error:
                        # A full disk, say: somebody may make room.
                        self.telemetry.trouble = str(error)
                        self.log.error("cannot start PostgreSQL", error=error, again_in_s=delay_s)
                        await anyio.sleep(delay_s)
                        delay_s = min(2 * delay_s + 0.1, self.config.supervisor.max_restart_delay_s)
                    else:
                        self.telemetry.trouble = ""
                        break

    # What is served

    @asynccontextmanager
    async def _archive_served(self) -> AsyncIterator[None]:
        """The processes that answer people and programs, while the services run."""
        if not self._serves:
            yield
            return
        name = identity(self.config.database, self.data_dir)
        order = Order(self.config, self._context.dsn, name)
        children = Children(order, self.config.supervisor, Logger("serve"))
        self.telemetry.children = children
        async with anyio.create_task_group() as group:
            group.start_soon(children.run)
            yield
            group.cancel_scope.cancel()

    # The services

    async def _run_once(self) -> None:
        """One cycle of each service, one after the other."""
        for runner in self.runners:
            if self._stopping.is_set():
                return
            await runner.run_once(lambda name=runner.name: self._make(name))  # type: ignore[misc]
        await self._log_what_is_due()

    async def _log_what_is_due(self) -> None:
        """Says when there is something to do again: a cycle that found nothing due did nothing."""
        assert self.brotr is not None
        networks = [network for network, _ in self.config.networks.enabled()]
        try:
            due = await relays.due(self.brotr.pool, networks)
        except OUTSIDE:  # the services have said so
            return
        now = time.time()
        told = {
            f"next_{name}_in_s": max(0, round(at - now))
            for name in due.__struct_fields__
            if (at := getattr(due, name)) is not None
        }
        self.log.info("one cycle of each service is done", **told)

    async def _run_services(self) -> None:
        limit_s = self.config.supervisor.shutdown_timeout_s
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as services:
                group.start_soon(self._limit_stopping, limit_s, services.cancel_scope)
                for runner in self.runners:
                    services.start_soon(self._run, runner)
            group.cancel_scope.cancel()

    async def _run(self, runner: Runner) -> None:
        assert self.brotr is not None
        await runner.run(lambda: self._make(runner.name), self.brotr.pool)
        if all(each.state is State.FAILED for each in self.runners):
            self.request_shutdown()

    def _make(self, name: str) -> BaseService[Any]:
        assert self.brotr is not None
        return SERVICES[name](self.brotr, context=self._context)

    async def _limit_stopping(self, limit_s: float, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        await anyio.sleep(limit_s)
        self.log.warning("cancelling what has not stopped", after_s=limit_s)
        scope.cancel()


def is_unheard(config: Config, chosen: Sequence[str]) -> bool:
    """Whether something posts events of our own here that nobody here delivers."""
    posts = Monitor.SERVICE_NAME in chosen and config.monitor.publish.enabled
    posts |= Ranks.SERVICE_NAME in chosen and config.ranks.publish.enabled
    posts |= Alerts.SERVICE_NAME in chosen and any(
        to.form == "nostr" for to in config.alerts.to.values()
    )
    return posts and Publisher.SERVICE_NAME not in chosen


def choose(config: Config, only: Sequence[str] | None) -> list[str]:
    """The services to run: those named, or all that are enabled.

    Raises:
        ConfigError: a name is unknown, or nothing is left.
    """
    for name in only or ():
        if name not in SERVICES:
            raise ConfigError(f"no service is called {name!r}: there are {', '.join(SERVICES)}")
    chosen = [
        name for name in SERVICES if (name in only if only else getattr(config, name).enabled)
    ]
    if not chosen:
        raise ConfigError("no service is enabled")
    files.check(config, chosen)
    if Synchronizer.SERVICE_NAME in chosen:
        signer_of(config.synchronizer.auth)  # now, not in each worker
    if Monitor.SERVICE_NAME in chosen:
        keys_of(config.monitor)
    if Publisher.SERVICE_NAME in chosen:
        publisher.signer_of(config.monitor)
    if Ranks.SERVICE_NAME in chosen:
        page_rank.require()
        assertions.keys_of(config.ranks)
    if Alerts.SERVICE_NAME in chosen:
        alerts.destinations(config.alerts)
    if Rescue.SERVICE_NAME in chosen:
        sending.signer_of(config.rescue.auth)
    return chosen
