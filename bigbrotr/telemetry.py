"""Says how the process is: to systemd, to who asks /healthz and /readyz, and to Prometheus."""

import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import asyncpg

from bigbrotr import __version__
from bigbrotr.config.settings import Config, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.identity import identity
from bigbrotr.core.logger import Logger
from bigbrotr.core.metrics import Sample, memory_of
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.room import is_full, without_space
from bigbrotr.errors import BigBrotrError
from bigbrotr.net.politeness import politeness_of
from bigbrotr.runner import Runner, State
from bigbrotr.serve.ask import at
from bigbrotr.serve.children import Children
from bigbrotr.systemd import Notifier, extension

BEAT_S = 1.0  # between two looks how late the loop is
SIGN_S = 10.0  # between two signs of life for systemd, unless it wants them sooner
STOPPING = "stopping"
READY_S = 5.0  # for the database to say that it is well
METRICS_S = 15.0  # until the database is asked again: 0.2 s for 10,000 relays
STUCK_S = 10.0  # a loop that is so late does nothing in time any more


class Telemetry:
    """Knows what the supervisor does, and tells it to those who ask or listen."""

    def __init__(
        self,
        config: Config,
        profile: Profile,
        data_dir: Path,
        runners: Sequence[Runner],
        log: Logger,
    ) -> None:
        self.brotr: Brotr | None = None  # while there is a database
        self.children: Children | None = None  # that serve the archive, while they do
        self.doing = "starting"  # in words, until the services run
        self.trouble = ""  # why the embedded database does not start again
        self._config = config
        self._profile = profile
        self._data_dir = data_dir
        self._runners = runners
        self._log = log
        self._notifier = Notifier()
        self._started_at = time.time()
        self._asking = anyio.Lock()
        self._samples: list[Sample] = []  # of the database
        self._sampled_at = float("-inf")
        self._beat_at = time.monotonic()  # the newest heartbeat of the loop
        self._lag_s = 0.0  # how late it was

    # To systemd

    def tell_progress(self, words: str) -> None:
        """Tells what the embedded server says of its start."""
        self._log.info(words)
        if self.doing not in ("", STOPPING):
            self.doing = f"starting: {words}"
        self._notifier.tell(status=self.status())

    def tell_ready(self) -> None:
        """Tells that the services run."""
        self.doing = ""
        self._notifier.tell("READY=1", status=self.status())

    def tell_stopping(self) -> None:
        """Tells, once, that the services are to stop."""
        if self.doing != STOPPING:
            self.doing = STOPPING
            self._notifier.tell("STOPPING=1", extension(), status=self.status())

    def status(self) -> str:
        """What is going on, in a line."""
        if self.doing:
            return self.doing
        by_state: dict[State, list[str]] = {}
        for runner in self._runners:
            by_state.setdefault(runner.state, []).append(runner.name)
        return "; ".join(f"{state}: {', '.join(names)}" for state, names in by_state.items())

    @property
    def lag_s(self) -> float:
        """How late the event loop is now, or was at its newest heartbeat."""
        return max(self._lag_s, time.monotonic() - self._beat_at - BEAT_S)

    async def beat(self) -> None:
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

    # Over HTTP

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Answers over HTTP, from before there is a database until after it has stopped."""
        if not self._config.web.listen:
            yield
            return
        from bigbrotr.serve import app  # a quarter of a second, where nobody may listen

        host, _ = self._config.web.address()
        async with app.serve(
            self._config.web,
            is_alive=self.what_is_stuck,
            is_ready=self.what_is_wrong,
            metrics=self.metrics,
            identity=identity(self._config.database, self._data_dir),
        ) as port:
            address = f"http://{at(host, port)}/healthz"
            self._log.info("serving health and metrics", address=address)
            yield

    async def what_is_stuck(self) -> str | None:
        """Why the process does not go on, in words; None while it does."""
        if self.lag_s > STUCK_S:
            return f"the event loop is late by {self.lag_s:.0f} s"
        return None

    async def what_is_wrong(self) -> str | None:
        """Why the supervisor cannot do its work now, in words; None when it can."""
        if self.doing:
            return self.doing
        if trouble := self.trouble_of_database():
            return trouble
        failed = [runner.name for runner in self._runners if runner.state is State.FAILED]
        if failed:
            return f"failed: {', '.join(failed)}"
        try:
            assert self.brotr is not None
            with anyio.fail_after(READY_S):
                async with self.brotr.pool.acquire_healthy(max_retries=1) as connection:
                    if await Schema().check(connection, self._profile) is None:
                        return "the database has no schema"
        except TimeoutError:
            return f"the database did not answer within {READY_S:.0f} s"
        except (BigBrotrError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return str(error)
        return None

    def trouble_of_database(self) -> str:
        """What keeps an embedded database from its work, in words; empty: nothing is known."""
        if self._config.database.is_embedded and is_full(self._data_dir):
            return without_space(self._data_dir)
        return self.trouble

    async def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """The page of all metrics in the format that `accept` asks for, and its content type."""
        from bigbrotr.serve import metrics

        of_database = await self._of_database()
        return metrics.page([*self._of_process(), *of_database], accept)

    def _of_process(self) -> Iterator[Sample]:
        """What this process knows by itself."""
        yield Sample("info", 1, (__version__, self._profile))
        yield Sample("start_time_seconds", self._started_at)
        yield Sample("loop_lag_seconds", self.lag_s)
        yield Sample("memory_bytes", memory_of([os.getpid()]), ("supervisor",))
        for runner in self._runners:
            yield from _of_service(runner)
        if self.children is not None:
            yield from self.children.metrics()
        politeness = politeness_of(self._config.politeness)
        for reason, waits in (("pace", politeness.paced), ("address", politeness.crowded)):
            yield Sample("politeness_waits", waits.times, ("supervisor", reason))
            yield Sample("politeness_wait_seconds", waits.seconds, ("supervisor", reason))
        if self._config.database.is_embedded and self._data_dir.exists():
            yield Sample("disk_free_bytes", shutil.disk_usage(self._data_dir).free)
        if self.brotr is not None:
            pool, use = self.brotr.pool.metrics, self.brotr.pool.use
            yield Sample("pool_connections", pool["size"] - pool["idle_size"], ("used",))
            yield Sample("pool_connections", pool["idle_size"], ("idle",))
            yield Sample("pool_max_connections", pool["max_size"])
            yield Sample("database_uses", use.times, ("supervisor",))
            yield Sample("database_seconds", use.seconds, ("supervisor",))
            yield Sample("database_wait_seconds", use.waited_s, ("supervisor",))

    async def _of_database(self) -> list[Sample]:
        """What the archive says of itself, some seconds ago at most, and whether it answers."""
        async with self._asking:  # one question at a time, however many ask us
            if time.monotonic() < self._sampled_at + METRICS_S:
                return self._samples
            try:
                if self.doing or self.brotr is None:
                    return [Sample("database_up", 0)]
                networks = [network for network, _ in self._config.networks.enabled()]
                with anyio.fail_after(READY_S):
                    found = await self.brotr.metrics(networks)
            except (BigBrotrError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return [Sample("database_up", 0)]
            self._sampled_at, self._samples = time.monotonic(), [Sample("database_up", 1), *found]
            return self._samples


def _of_service(runner: Runner) -> Iterator[Sample]:
    name, service = runner.name, runner.service
    for state in State:
        yield Sample("service_state", runner.state is state, (name, state))
    yield Sample("service_restarts", runner.restarts, (name,))
    succeeded_at = runner.last_success_at
    if service is not None:
        yield Sample("service_cycles", service.cycles, (name,))
        yield Sample("service_failed_cycles", service.failures, (name,))
        succeeded_at = service.last_success_at or succeeded_at
        yield from service.metrics()
    if succeeded_at is not None:
        yield Sample("service_last_success_timestamp_seconds", succeeded_at, (name,))
