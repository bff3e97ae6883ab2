"""The monitor: checks the relays that are due, records what it found, and posts announcements."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from socket import socket
from typing import Self

import anyio

from bigbrotr.config.settings import Link, MonitorSettings, Networks
from bigbrotr.core.base_service import OFFLINE, BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import CheckResult, DueCheck, Post, Rtts
from bigbrotr.core.defects import Defects, one_by_one
from bigbrotr.core.metrics import Sample
from bigbrotr.core.reasons import Reasons, Trouble
from bigbrotr.errors import ConfigError
from bigbrotr.models.check import Measured
from bigbrotr.models.keys import Keys
from bigbrotr.models.metadata import RelayMetadata
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import OFFLINE_SAMPLE, PERHAPS_OURS, UNTRIED, Failure, Unreached
from bigbrotr.net.politeness import politeness_of
from bigbrotr.net.timed_socket import keep_stamps
from bigbrotr.nostr.auth import Throwaway
from bigbrotr.services.monitor.announcements import Announcer
from bigbrotr.services.monitor.checks import Checker
from bigbrotr.services.monitor.probe import Missed
from bigbrotr.services.monitor.verdict import (
    Findings,
    Judgement,
    Verdict,
    documents,
    failures,
    judge,
    milliseconds,
)

ROUNDS = 2  # relays that are claimed at once, as multiples of what is examined at once
CLEAN_UP_S = 6 * 3600.0  # between two looks for what is too old


class Monitor(BaseService[MonitorSettings]):
    """Checks the relays that are due, records what it found in one call, and posts announcements.

    Many that fail at once mean that our own network is down: nothing is recorded against them.
    """

    SERVICE_NAME = "monitor"
    CONFIG_CLASS = MonitorSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: MonitorSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        politeness = politeness_of(self.context.config.politeness)
        keys = keys_of(self.settings)
        self.checker = Checker(self.settings, self.networks, politeness, keys or Throwaway())
        self.announcer: Announcer | None = None
        if self.settings.publish.enabled and keys is not None:
            self.announcer = Announcer(brotr, self.settings, self.networks, keys)
        self.checked: Counter[tuple[str, str]] = Counter()  # by network and verdict
        self.met: Counter[tuple[str, str]] = Counter()  # by network and outcome
        self.announced = 0  # relays
        self.defects = Defects(self.log)
        self.reasons = Reasons()
        self._stamps: socket | None = None
        self._cleaned_at: float | None = None

    def metrics(self) -> Iterator[Sample]:
        """What was found of relays, and how many were announced."""
        for (network, outcome), times in self.met.items():
            yield Sample("connections", times, (self.SERVICE_NAME, network, outcome))
        for (network, verdict), times in self.checked.items():
            yield Sample("checks", times, (network, verdict))
        if self.announcer is not None:
            yield Sample("announcements", self.announced)

    @property
    def networks(self) -> Networks:
        """How relays are reached."""
        return self.context.config.networks

    async def __aenter__(self) -> Self:
        await self.brotr.release_monitoring(self.owner)
        self._stamps = keep_stamps()
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        self.checker.geoip.close()
        if self._stamps is not None:
            self._stamps.close()

    async def run(self) -> None:
        """Examines every relay that is due, and posts what there is to announce."""
        await self.checker.geoip.refresh()
        await self._clean_up()
        if self.announcer is not None:
            await self.announcer.introduce()
        async with anyio.create_task_group() as sweeps:
            for network, link in self.networks.enabled():
                sweeps.start_soon(self._work_off, network, link)

    async def _clean_up(self) -> None:
        now = time.monotonic()
        if self._cleaned_at is None or now - self._cleaned_at > CLEAN_UP_S:
            self._cleaned_at = now
            before = int(time.time()) - 86_400 * self.settings.retention_days
            if gone := await self.brotr.delete_old_measurements(before):
                self.log.info("deleted old measurements", rows=gone)

    # Examining

    async def _work_off(self, network: Network, link: Link) -> None:
        while not self._stop.is_set():
            dues = await self.brotr.claim_checks(
                network,
                limit=ROUNDS * link.width,
                owner=self.owner,
                lease_s=(ROUNDS + 1) * self.checker.budget_s(link),
            )
            if not dues:
                return
            found = await self._sweep(dues, link)
            is_offline = await self._is_offline(network, link, dues, found)
            results = [
                self._try_to_conclude(due, each, is_offline=is_offline)
                for due, each in zip(dues, found, strict=True)
            ]
            await one_by_one(results, self._record, self._instead)
            self._tell(network, results)
            if network is Network.CLEARNET:  # another network tells nothing of this one
                trouble = f"{OFFLINE}: relays that were up cannot be reached"
                self.trouble = trouble if is_offline else ""
            if is_offline:
                self.log.warning(
                    f"{OFFLINE}: nothing is recorded against relays that could not be reached",
                    network=network,
                    relays=sum(result.verdict == Verdict.VOID for result in results),
                )
                return

    async def _sweep(self, dues: Sequence[DueCheck], link: Link) -> list[Findings]:
        width = anyio.CapacityLimiter(link.width)
        found: dict[int, Findings] = {}

        async def one(due: DueCheck) -> None:
            async with width:
                try:
                    found[due.relay_id] = await self.checker.examine(due.relay, link)
                except Exception as error:  # this relay's, and nobody else's
                    words = self.defects.note(error, relay=due.relay.url)
                    found[due.relay_id] = Findings(Unreached(Failure.DEFECT, words))

        async with anyio.create_task_group() as group:
            for due in dues:
                group.start_soon(one, due)
        return [found[due.relay_id] for due in dues]

    async def _is_offline(
        self,
        network: Network,
        link: Link,
        dues: Sequence[DueCheck],
        found: Sequence[Findings],
    ) -> bool:
        """Whether a sweep failed for our own fault: half of what was not dead before cannot be
        reached, nor can any other that was up."""
        lively = [each for due, each in zip(dues, found, strict=True) if due.state != "down"]
        lost = sum(each.failure in PERHAPS_OURS for each in lively)
        if not lost or 2 * lost < len(lively):
            return False
        apart = [due.relay_id for due in dues]
        others = await self.brotr.some_relays_up(network, apart, OFFLINE_SAMPLE)
        if not others:
            return lost >= OFFLINE_SAMPLE and lost == len(lively)
        return all(await asyncio.gather(*(self._is_missed(relay, link) for relay in others)))

    async def _is_missed(self, relay: Relay, link: Link) -> bool:
        try:
            met = await self.checker.meet(relay, link)
        except Exception as error:
            self.defects.note(error, relay=relay.url)
            return False
        if isinstance(met, Missed):
            return met.why.failure in PERHAPS_OURS | UNTRIED
        async with met:
            return False

    async def _record(self, results: Sequence[CheckResult]) -> None:
        await self.brotr.record_checks(results, self.settings.check_every_s)

    def _instead(self, result: CheckResult, error: Exception) -> CheckResult | None:
        """What is recorded of a check whose result the database refuses."""
        if result.verdict == Verdict.DEFECT:
            return None
        return self._defect(result.due, error)

    def _defect(self, due: DueCheck, error: Exception) -> CheckResult:
        words = self.defects.note(error, relay=due.relay.url)
        return CheckResult(due, Verdict.DEFECT, Failure.DEFECT.value, words)

    def _try_to_conclude(self, due: DueCheck, found: Findings, *, is_offline: bool) -> CheckResult:
        try:
            return self._conclude(due, found, is_offline=is_offline)
        except Exception as error:  # this relay's, and nobody else's
            return self._defect(due, error)

    def _conclude(self, due: DueCheck, found: Findings, *, is_offline: bool) -> CheckResult:
        """What is recorded of an examination."""
        judgement = judge(found, is_down=due.state == "down", is_suspect=due.suspect_at is not None)
        if is_offline and judgement.verdict not in (Verdict.UP, Verdict.DEFECT):
            judgement = Judgement(Verdict.VOID, judgement.outcome, judgement.detail)
        if judgement.verdict not in (Verdict.UP, Verdict.DOWN):
            return CheckResult(due, *judgement)
        now = int(time.time())
        snapshots = [
            RelayMetadata(due.relay, metadata, kind, now)
            for kind, metadata in documents(found).items()
        ]
        raws = []
        if isinstance(found.nip11, Measured):
            document = found.nip11.value
            if document.raw != document.metadata.canonical:
                raws.append((document.metadata.id, document.raw))
        ttl_s = found.dns.value.ttl_s if isinstance(found.dns, Measured) else None
        digest: bytes | None = None
        posts: Sequence[Post] = ()
        if judgement.verdict is Verdict.UP and self.announcer is not None:
            digest, posts = self.announcer.announcement(due, found, now)
        if self.announcer is not None:
            posts = [*posts, *self.announcer.history(due, judgement, found, now)]
        return CheckResult(
            due,
            *judgement,
            failed=failures(found),
            rtts=Rtts(**milliseconds(found), ttl_s=ttl_s),
            snapshots=snapshots,
            raws=raws,
            digest=digest,
            posts=posts,
        )

    def _tell(self, network: Network, results: Sequence[CheckResult]) -> None:
        verdicts = Counter(str(result.verdict) for result in results)
        self.checked.update((str(network), verdict) for verdict in verdicts.elements())
        self.met.update((str(network), str(result.outcome)) for result in results)
        self.announced += sum(result.digest is not None for result in results)
        failing = self.reasons.words(
            Trouble(str(result.outcome), result.due.relay.url, result.detail)
            for result in results
            if result.verdict == Verdict.DOWN
        )
        self.log.info(
            "checked relays",
            network=network,
            checked=len(results),
            **verdicts,
            **({"failing": failing} if failing else {}),
        )


def keys_of(settings: MonitorSettings) -> Keys | None:
    """The monitor's key, PRIVATE_KEY.

    Raises:
        ConfigError: it is wrong, or missing where something is to be published.
    """
    if not (settings.publish.enabled or settings.write.enabled):
        return None
    keys = Keys.from_env("PRIVATE_KEY")
    if keys is None and settings.publish.enabled:
        raise ConfigError("[monitor.publish] enabled: needs the environment variable PRIVATE_KEY")
    return keys
