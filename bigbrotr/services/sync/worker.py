"""The worker: claims relays that are due, visits them side by side, and reports in plain values.

Memory is arithmetic: each of at most `width` visits holds one page that is on its way or waits for
its turn, and PAGES_AT_WORK pages are being verified or stored: so (width + PAGES_AT_WORK) x
max_page_bytes of frames, twice that where something else came among them, and PAGES_AT_WORK times
about as much again in rows; and each visit what its stream holds unread, a MiB and one read, and at
most max_page_bytes of what comes late. A live visit holds
at most max_page_bytes of arrivals, for a second. WINDOWS_AT_WORK windows are reconciled,
10 MB each. Nothing queues: a stalled database stops the sockets.
"""

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from functools import partial

import anyio
import msgspec
from msgspec import Struct

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit, Wanted
from bigbrotr.core.defects import Defects, is_outside
from bigbrotr.core.logger import Logger
from bigbrotr.core.reasons import Trouble
from bigbrotr.errors import ConfigError, LeaseLostError
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import OFFLINE_SAMPLE, OURS, UNTRIED, Failure, is_offline
from bigbrotr.net.politeness import politeness_of
from bigbrotr.nostr.auth import Signer, Throwaway
from bigbrotr.services.sync.contention import ContentionGate
from bigbrotr.services.sync.context import (
    PAGES_AT_WORK,
    STORING,
    WINDOWS_AT_WORK,
    VisitContext,
    VisitResult,
    VisitState,
    lease_s,
    patience,
)
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.shares import Share, Shares
from bigbrotr.services.sync.verifier import Here, Verifier
from bigbrotr.services.sync.visit import RelayVisit

FAILING = ("failed", "refused", "throttled")  # verdicts on a visit
CLAIM = 2  # relays at a time, the first ones by themselves ...
PACE_S = 0.05  # ... and the time until the next are claimed
IDLE_S = 0.5  # between looks for due relays while others are under way
THROTTLED_S = (450, 750)  # how long a relay that says `rate-limited:` is left alone


class Slice(Struct, frozen=True):
    """A slice of work: how long, and how many conversations at once in each network."""

    owner: str
    seconds: float
    widths: dict[Network, int]
    live_visits: int = 0  # relays to stay subscribed to
    worker: int = 0  # among those that share what is due


class Worker:
    """Copies relays: claims those that are due, visits them side by side, and records.

    `shares`: what is due is shared with other workers. `verifier`: else signatures are verified
    here.
    """

    def __init__(
        self,
        config: Config,
        brotr: Brotr,
        *,
        shares: Shares | None = None,
        verifier: Verifier | None = None,
        log: Logger | None = None,
    ) -> None:
        self.config = config
        self.brotr = brotr
        self.log = log or Logger("worker")
        self.defects = Defects(self.log)
        self.stop = asyncio.Event()
        self.signer = signer_of(config.synchronizer.auth)
        self.politeness = politeness_of(config.politeness, config.synchronizer.processes)
        self._visits: dict[asyncio.Task[None], RelayVisit] = {}
        self._contention = ContentionGate()
        self._page_gate = asyncio.Semaphore(PAGES_AT_WORK)
        self._store_gate = asyncio.Semaphore(STORING)
        self._window_gate = asyncio.Semaphore(WINDOWS_AT_WORK)
        self._reached: deque[Failure | None] = deque(maxlen=2 * OFFLINE_SAMPLE)
        self._shares = shares or Shares(1)
        self._verifier = verifier or Here()
        self._report = Report()
        self._used = self._use()  # as last reported
        self._deadline = 0.0  # of the slice under way, in monotonic seconds

    async def work(self, slice_: Slice) -> Report:
        """Visits due relays until the slice is over, or nothing is due and no visit is live.

        Live visits go on between slices.
        """
        self._deadline = time.monotonic() + slice_.seconds
        async with anyio.create_task_group() as group:
            for network, width in slice_.widths.items():
                group.start_soon(self._work_off, network, width, slice_)
        report, self._report = self._report, Report()
        before, self._used = self._used, self._use()
        report.add(self._used.since(before))
        report.live = self._count_live()
        return report

    def _count_live(self) -> int:
        return sum(visit.state.is_live for visit in self._visits.values())

    def _use(self) -> Report:
        """Returns how the process's pool and politeness were used since the start."""
        use, paced, crowded = self.brotr.pool.use, self.politeness.paced, self.politeness.crowded
        return Report(
            database_uses=use.times,
            database_s=use.seconds,
            database_wait_s=use.waited_s,
            paced=paced.times,
            paced_s=paced.seconds,
            crowded=crowded.times,
            crowded_s=crowded.seconds,
        )

    async def _work_off(self, network: Network, width: int, slice_: Slice) -> None:
        """Keeps up to `width` visits to one network going, beside the live ones."""
        settings = self.config.synchronizer
        timeout_s = self.config.networks.link(network).timeout_s
        share = Share(self._shares, slice_.worker, network)
        try:
            while not self._is_over():
                passing = self._count_passing(network)
                share.note(passing)
                claims: list[Visit] = []
                is_to_wait = passing < width and not share.is_fair()
                if passing < width and not is_to_wait:
                    # A few at a time, so that the workers share what is due, and nobody meets a
                    # burst of new connections.
                    share.look()
                    claims = await self.brotr.claim_visits(
                        [network],
                        limit=min(width - passing, CLAIM) if passing > 1 else 1,
                        owner=slice_.owner,
                        lease_s=lease_s(slice_.seconds, settings.revisit_s, timeout_s),
                        **self._wanted()._asdict(),
                        apart={url: self._wanted(url) for url in settings.relays},
                        refused=settings.refused,
                        patience=patience(settings),
                    )
                    for claim in claims:
                        await self._start(claim, network, slice_)
                    share.note(self._count_passing(network))
                if not self._of(network):
                    return
                await self._wait(network, PACE_S if claims or is_to_wait else IDLE_S)
            # A visit under way ends with its page; a live one stays, unless all is to stop.
            while self._count_passing(network) or (self.stop.is_set() and self._of(network)):
                await self._wait(network, IDLE_S)
        except BaseException:
            tasks = list(self._of(network))
            for task in tasks:
                del self._visits[task]
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def _is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self._deadline

    def _wanted(self, url: str = "") -> Wanted:
        """Returns what is wanted now of the relay at `url`, or of any without own settings."""
        settings = self.config.synchronizer
        policy = settings.policy(url)
        until = policy.until(int(time.time()) - settings.settle_s)
        return Wanted(policy.since, until, policy.filter.key, policy.by_ids)

    def _of(self, network: Network) -> dict[asyncio.Task[None], RelayVisit]:
        return {
            task: visit for task, visit in self._visits.items() if visit.context.network is network
        }

    def _count_passing(self, network: Network) -> int:
        """Returns how many visits to a network are under way that are not live."""
        return sum(not visit.state.is_live for visit in self._of(network).values())

    async def _wait(self, network: Network, seconds: float) -> None:
        """Waits until a visit to the network ends, up to `seconds`; raises what it raised."""
        done, _ = await asyncio.wait(
            self._of(network), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            del self._visits[task]
        raise_first(done)

    async def _start(self, claim: Visit, network: Network, slice_: Slice) -> None:
        try:
            relay = Relay(claim.url)
        except ValueError as error:  # written by hand, or by a release with other rules
            await self.brotr.finish_visit(
                claim, "failed", next_at=0, outcome="invalid-url", detail=str(error)
            )
            return
        context = VisitContext(
            brotr=self.brotr,
            config=self.config,
            relay=relay,
            network=network,
            report=self._add,
            signer=self.signer,
            politeness=self.politeness,
            stop=self.stop,
            page_gate=self._page_gate,
            store_gate=self._store_gate,
            window_gate=self._window_gate,
            contention=self._contention,
            verifier=self._verifier,
        )
        visit = RelayVisit(
            context,
            VisitState(claim, self._deadline),
            is_our_fault=partial(self._is_our_fault, network),
            may_stay=lambda: self._count_live() < slice_.live_visits,
        )
        self._visits[asyncio.create_task(self._visit(visit))] = visit

    def _is_our_fault(self, network: Network, failure: Failure | None) -> bool:
        """Whether a failure to reach a relay is our own, given how other visits fare."""
        if failure in UNTRIED:
            return True
        if network is not Network.CLEARNET:
            return failure in OURS
        self._reached.append(failure)
        # Relays that are followed are not dialled: without a look at them, those that are left,
        # the dead ones, would speak for all.
        is_online = any(visit.state.is_live for visit in self._of(network).values())
        return failure in OURS or (not is_online and is_offline(self._reached))

    def _add(self, report: Report) -> None:
        """Adds what a visit has done to the report of the slice that is under way."""
        self._report.add(report)

    async def _visit(self, visit: RelayVisit) -> None:
        relay = visit.context.relay
        try:
            verdict, outcome, detail = await visit.run()
        except LeaseLostError as error:
            self.log.warning("lease lost", relay=relay.url, error=str(error))
            return
        except asyncio.CancelledError:
            # Shutdown or a crash elsewhere: what was stored stays, the rest comes at once.
            with suppress(Exception):
                async with asyncio.timeout(2):
                    await self.brotr.finish_visit(
                        visit.state.claim, "unfinished", next_at=0, outcome="interrupted"
                    )
            raise
        except Exception as error:
            if is_outside(error):
                raise
            # This relay's, and nobody else's: what was stored stays, and it waits ever longer.
            words = self.defects.note(error, relay=relay.url)
            verdict, outcome, detail = VisitResult("failed", Failure.DEFECT, words)
        ended = (str(visit.context.network), str(outcome))
        troubles = [Trouble(str(outcome), relay.url, detail)] if verdict in FAILING else []
        self._add(
            Report(visits=1, outcomes={str(outcome): 1}, visited={ended: 1}, troubles=troubles)
        )
        pause_s = self.config.synchronizer.revisit_s
        if outcome == "rate-limited" and verdict == "throttled":
            pause_s = max(pause_s, random.uniform(*THROTTLED_S))
            self.politeness.cool_down(relay.host, relay.port, pause_s)
        await self.brotr.finish_visit(
            visit.state.claim,
            verdict,
            next_at=int(time.time() + pause_s),
            outcome=outcome,
            detail=detail,
            dialect=msgspec.json.encode(visit.state.dialect).decode(),
        )
        self.log.debug(
            "visited", relay=relay.url, outcome=outcome, detail=detail, new=visit.state.new
        )


def signer_of(auth: str) -> Signer | None:
    """Returns the key with which relays may know us, by the setting `auth`.

    Raises:
        ConfigError: PRIVATE_KEY is to be used, and is not there or no key.
    """
    if auth == "never":
        return None
    if auth == "throwaway":
        return Throwaway()
    from bigbrotr.models.keys import Keys  # slow to import, and most need it not

    keys = Keys.from_env("PRIVATE_KEY")
    if keys is None:
        raise ConfigError('[synchronizer] auth = "configured", but PRIVATE_KEY is not set')
    return keys


def raise_first(done: set[asyncio.Task[None]]) -> None:
    """Raises the error of a task that failed; takes note of the others, or asyncio complains."""
    for error in [task.exception() for task in done]:
        if error is not None:
            raise error
