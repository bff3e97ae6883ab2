"""The publisher: delivers the events of our own that wait in the outbox."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, get_args

import anyio
import msgspec

from bigbrotr.config.settings import MonitorSettings, PublisherSettings
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import OutboxEntry
from bigbrotr.core.defects import Defects, is_outside, one_by_one
from bigbrotr.core.metrics import Sample
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.net.politeness import politeness_of
from bigbrotr.nostr.auth import Signer, Throwaway
from bigbrotr.nostr.delivery import Delivery, Outcome, deliver

TARGETS = 50  # relays that are delivered to at once
ENTRIES = 500  # that are claimed at once


class Settled(NamedTuple):
    """What became of an entry of the outbox, as it is recorded."""

    entry: OutboxEntry
    outcome: Outcome
    reason: str
    detail: str


class Publisher(BaseService[PublisherSettings]):
    """Hands over what is in the outbox. A target that fails is tried again later, and costs the
    others nothing."""

    SERVICE_NAME = "publisher"
    CONFIG_CLASS = PublisherSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: PublisherSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self.defects = Defects(self.log)
        # Events, by what became of them; each from the start on, or no rise would be seen.
        self.offered: Counter[str] = Counter(dict.fromkeys(get_args(Outcome), 0))
        self._networks = self.context.config.networks
        self._politeness = politeness_of(self.context.config.politeness)
        self._signer = signer_of(self.context.config.monitor)

    def metrics(self) -> Iterator[Sample]:
        """What became of the events that were offered."""
        for outcome, events in self.offered.items():
            yield Sample("deliveries", events, (outcome,))

    async def __aenter__(self) -> Self:
        await self.brotr.release_monitoring(self.owner)
        return await super().__aenter__()

    async def run(self) -> None:
        """Delivers until nothing is due."""
        link_s = max((link.timeout_s for _, link in self._networks.enabled()), default=0.0)
        while not self._stop.is_set():
            entries = await self.brotr.claim_outbox(
                targets=TARGETS, limit=ENTRIES, owner=self.owner, lease_s=(ENTRIES + 2) * link_s
            )
            if not entries:
                return
            await self._hand_over(entries)

    async def _hand_over(self, entries: Sequence[OutboxEntry]) -> None:
        by_target: dict[str, list[OutboxEntry]] = {}
        for entry in entries:
            by_target.setdefault(entry.target, []).append(entry)

        async def one(target: str, batch: list[OutboxEntry]) -> None:
            try:
                settled = await self._hand_to(Relay(target), batch)
            except Exception as error:  # this target's, and nobody else's
                if is_outside(error):
                    raise
                words = self.defects.note(error, relay=target)
                settled = [Settled(entry, "failed", "defect", words) for entry in batch]
            await one_by_one(settled, self._settle, self._instead)
            outcomes = Counter(str(each.outcome) for each in settled)
            self.offered.update(outcomes)
            self.log.info("published", relay=target, **outcomes)

        async with anyio.create_task_group() as group:
            for target, batch in by_target.items():
                group.start_soon(one, target, batch)

    async def _settle(self, settled: Sequence[Settled]) -> None:
        await self.brotr.settle_outbox(settled, self.settings.max_attempts)

    def _instead(self, settled: Settled, error: Exception) -> Settled | None:
        """What is recorded where the database refuses what was to be."""
        if settled.reason == "defect":
            return None
        words = self.defects.note(error, relay=settled.entry.target)
        return Settled(settled.entry, "failed", "defect", words)

    async def _hand_to(self, relay: Relay, batch: Sequence[OutboxEntry]) -> list[Settled]:
        by_id = {msgspec.json.decode(entry.event)["id"]: entry for entry in batch}
        offered = {event_id: entry.event.encode() for event_id, entry in by_id.items()}
        found = await self._offer(relay, offered)
        return [Settled(entry, *found[event_id]) for event_id, entry in by_id.items()]

    async def _offer(self, relay: Relay, offered: dict[str, bytes]) -> dict[str, Delivery]:
        link = self._networks.link(relay.network)
        if not link.enabled:
            off = Delivery("failed", "network-off", f"{relay.network} is not enabled")
            return dict.fromkeys(offered, off)
        return await deliver(
            relay,
            link,
            offered,
            self._signer,
            allow_local=self._networks.local.enabled,
            politeness=self._politeness,
        )


def signer_of(settings: MonitorSettings) -> Signer:
    """Returns the key for relays that ask who we are (NIP-42): PRIVATE_KEY, where announcements are
    signed with it, or a new one. What is delivered is signed already.

    Raises:
        ConfigError: PRIVATE_KEY is wrong.
    """
    keys = Keys.from_env("PRIVATE_KEY") if settings.publish.enabled else None
    return keys or Throwaway()
