"""Starts the processes that serve, watches them, and starts them again when they end."""

import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from bigbrotr.config.settings import SupervisorSettings
from bigbrotr.core.logger import Logger
from bigbrotr.core.metrics import Sample
from bigbrotr.serve import orders
from bigbrotr.serve.orders import LENGTH, STOP_S, Order, RelayReport, Report

MAX_LINE = 1 << 16  # bytes of a report
CLASSES = ("2xx", "3xx", "4xx", "5xx")  # of answers, as they are counted
REQUESTS = ("REQ", "COUNT", "NEG-OPEN")  # of clients of the relay
SECRETS = (
    "PRIVATE_KEY",
    "PRIVATE_KEY_FILE",
    "RANKS_PRIVATE_KEY",
    "RANKS_PRIVATE_KEY_FILE",
)  # that those who serve do not need


class Children:
    """The processes that serve. Whatever becomes of them concerns nobody else."""

    def __init__(self, order: Order, settings: SupervisorSettings, log: Logger) -> None:
        self.restarts = 0
        self.urls: set[str] = set()  # that are listened on
        self._order = order
        self._settings = settings
        self._log = log
        self._latest: dict[int, Report] = {}  # of each process that lives
        self._before: Counter[str] = Counter()  # answers of those that have ended
        self._relays_before: Counter[str] = Counter()  # what their relays had done

    async def run(self) -> None:
        """Keeps them alive until it is cancelled; then they end, with what is under way."""
        async with anyio.create_task_group() as group:
            for number in range(self._order.config.serve.width):
                group.start_soon(self._keep, number)

    def metrics(self) -> Iterator[Sample]:
        """What they have done: see `METRICS`."""
        answers = Counter(self._before)
        for latest in self._latest.values():
            answers.update(latest.answers)
        yield Sample("serve_processes", len(self._latest))
        yield Sample("serve_restarts", self.restarts)
        yield Sample("serve_connections", sum(each.connections for each in self._latest.values()))
        streams = sum(each.change_streams for each in self._latest.values())
        yield Sample("serve_change_streams", streams)
        for name in CLASSES:
            yield Sample("serve_answers", answers[name], (name,))
        relays = [each.relay for each in self._latest.values() if each.relay is not None]
        yield Sample("serve_relay_connections", sum(each.connections for each in relays))
        yield Sample("serve_relay_subscriptions", sum(each.subscriptions for each in relays))
        yield Sample("serve_relay_reconciliations", sum(each.reconciliations for each in relays))
        yield Sample("serve_relay_ids", sum(each.ids for each in relays))
        done = Counter(self._relays_before)
        for relay in relays:
            done.update(done_by(relay))
        for kind in REQUESTS:
            yield Sample("serve_relay_requests", done[kind], (kind,))
        yield Sample("serve_relay_events", done["events"])
        yield Sample("serve_relay_cut", done["cut"])
        memory = sum(each.memory_bytes for each in self._latest.values())
        yield Sample("memory_bytes", memory, ("serve",))

    async def _keep(self, number: int) -> None:
        """Keeps one alive: each time that it ends soon, it is started again later."""
        delay_s = self._settings.restart_delay_s
        while True:
            started = time.monotonic()
            why = await self._live(number)
            if time.monotonic() - started > self._settings.max_restart_delay_s:
                delay_s = self._settings.restart_delay_s
            self._log.warning("not serving, the services go on", reason=why, again_in_s=delay_s)
            await anyio.sleep(delay_s)
            delay_s = min(2 * delay_s + 0.1, self._settings.max_restart_delay_s)
            self.restarts += 1

    async def _live(self, number: int) -> str:
        """One life of a process; why it has ended."""
        try:
            process = await anyio.open_process(
                [sys.executable, "-m", "bigbrotr.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None,
                # Ctrl-C is for the supervisor, which tells the others.
                start_new_session=True,
                env=environment(),
            )
        except OSError as error:
            return f"cannot start a process: {error.strerror}"
        why = ""
        try:
            assert process.stdin is not None
            data = pickle.dumps(self._order)
            with anyio.move_on_after(self._settings.shutdown_timeout_s):
                await process.stdin.send(len(data).to_bytes(LENGTH) + data)
            why = await self._listen_to(number, process)
            code = await process.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            code = await process.wait()
        finally:
            self._forget(number)
            with anyio.CancelScope(shield=True):
                await _end(process)
        return why or (f"killed by signal {-code}" if code < 0 else f"ended with code {code}")

    def _forget(self, number: int) -> None:
        """Keeps of a process that has ended what it had done."""
        if (last := self._latest.pop(number, None)) is not None:
            self._before.update(last.answers)
            if last.relay is not None:
                self._relays_before.update(done_by(last.relay))

    async def _listen_to(self, number: int, process: Process) -> str:
        """Takes in the reports until there are no more; why the process gives up, if it says so."""
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        why = ""
        try:
            while True:
                told = orders.read(await lines.receive_until(b"\n", MAX_LINE))
                if told.url is not None:
                    self.urls.add(told.url)
                    self._log.info("serving the archive", address=told.url)
                if told.error is not None:
                    why = told.error
                else:
                    self._latest[number] = told
        except (anyio.EndOfStream, anyio.IncompleteRead):
            return why
        except (anyio.DelimiterNotFound, msgspec.DecodeError) as error:
            process.kill()
            return f"its reports make no sense: {error}"


def done_by(relay: RelayReport) -> dict[str, int]:
    """What a relay has done since its start."""
    return {**relay.requests, "events": relay.events, "cut": relay.cut}


async def _end(process: Process) -> None:
    """Lets a process end, or ends it."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(STOP_S + 1):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()


def environment() -> dict[str, str]:
    """Ours without what those who serve need not know; they find this very package."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    root = str(Path(__file__).parents[2])
    paths: Iterable[str] = (root, *filter(None, [kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
