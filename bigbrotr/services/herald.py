"""The herald: what is told of relays and of the monitor itself, signed, posted and delivered."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, get_args

import anyio
import msgspec

from bigbrotr.config import MonitorSettings, Networks
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import DueCheck, OutboxEntry, Post
from bigbrotr.core.defects import Defects, is_outside, one_by_one
from bigbrotr.core.logger import Logger
from bigbrotr.models.keys import Keys
from bigbrotr.models.nip66 import ANNOUNCEMENT, DISCOVERY, Announcement, Tags, relay_list_tags
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.delivery import Delivery, Outcome, deliver
from bigbrotr.nostr.examination import Examination, announce, digest_of
from bigbrotr.nostr.manners import Manners

PROFILE, RELAY_LIST = 0, 10002
INTRODUCED_S = 86_400.0  # until the monitor introduces itself again
MEMORY = ("monitor", "introduced")  # where service data says what it has said
TARGETS = 50  # relays that are delivered to at once
LETTERS = 500  # that are claimed at once
IDLE_S = 0.5  # between looks into the outbox while relays are examined


class Settled(NamedTuple):
    """What became of a letter, as it is recorded."""

    letter: OutboxEntry
    outcome: Outcome
    reason: str
    detail: str


class Herald:
    """Announces relays that are up, and who it is that does; what goes wrong on the way to those
    who are told costs nobody a check."""

    def __init__(
        self,
        brotr: Brotr,
        settings: MonitorSettings,
        networks: Networks,
        manners: Manners,
        keys: Keys,
        owner: str,
    ) -> None:
        # Events, by what became of them; each from the start on, or no rise would be seen.
        self.offered: Counter[str] = Counter(dict.fromkeys(get_args(Outcome), 0))
        self._brotr = brotr
        self._settings = settings
        self._networks = networks
        self._manners = manners
        self._keys = keys
        self._owner = owner
        self._log = Logger("monitor")
        self._defects = Defects(self._log)

    def word(self, due: DueCheck, found: Examination, now: int) -> tuple[bytes | None, list[Post]]:
        """The 30166 of a relay that is up, if it says something new or the last one is old."""
        publish = self._settings.publish
        announcement = announce(due.relay, found)
        digest = digest_of(announcement)
        # This look, or the next one: whichever is nearer to the time.
        is_stale = (
            due.published_at is None
            or now - due.published_at + self._settings.check_every_s / 2 >= publish.refresh_s
        )
        if digest == due.published_digest and not is_stale:
            return None, []
        event = self._keys.sign_event(DISCOVERY, announcement.content, announcement.tags(), now)
        targets = dict.fromkeys([*publish.relays, *([due.relay.url] * publish.to_monitored)])
        if due.relay.network is Network.LOCAL:  # nobody elsewhere could reach it
            targets = {url: None for url in targets if Relay(url).network is Network.LOCAL}
        return digest, [Post(target, DISCOVERY, due.relay.url, event) for target in targets]

    async def introduce(self) -> None:
        """Posts who the monitor is, where it writes and what it does, when that has changed or was
        long ago."""
        now = int(time.time())
        told = {row["key"]: row["value"] for row in await self._brotr.get_service_data(*MEMORY)}
        for kind, content, tags in self.introductions():
            said = [self._keys.public_key, content, tags, list(self._settings.publish.relays)]
            before = told.get(str(kind), {})
            if before.get("said") == said and now - before["at"] < INTRODUCED_S:
                continue
            event = self._keys.sign_event(kind, content, tags, now)
            await self._brotr.post_events(
                [Post(target, kind, "", event) for target in self._settings.publish.relays]
            )
            await self._brotr.upsert_service_data([(*MEMORY, str(kind), {"said": said, "at": now})])

    def introductions(self) -> list[tuple[int, str, Tags]]:
        """Kind, content and tags of what the monitor says of itself."""
        publish, checks = self._settings.publish, self._settings
        profile = {
            name: value
            for name, value in msgspec.structs.asdict(publish.profile).items()
            if value is not None
        }
        clearnet_s = self._networks.clearnet.timeout_s
        timeouts = {"open": clearnet_s}
        names = ["open"]
        for name, each in (("read", checks.read), ("write", checks.write), ("nip11", checks.nip11)):
            if each.enabled:
                names.append(name)
                timeouts[name] = each.timeout_s or clearnet_s
        if checks.dns.enabled:
            names.append("dns")
            timeouts["dns"] = checks.dns.timeout_s
        names += ["geo"] * (checks.geo.city_db is not None)
        names += ["ssl"] * checks.tls
        announcement = Announcement(
            frequency_s=round(publish.refresh_s),
            timeouts_ms={name: round(1000 * seconds) for name, seconds in timeouts.items()},
            checks=("ws", *names),
            geohash=publish.geohash,
        )
        return [
            (PROFILE, msgspec.json.encode(profile).decode(), []),
            (RELAY_LIST, "", relay_list_tags(publish.relays)),
            (ANNOUNCEMENT, "", announcement.tags()),
        ]

    async def deliver(self, is_over: asyncio.Event, is_stopping: asyncio.Event) -> None:
        """Hands over what is in the outbox until nothing is due and `is_over`, or `is_stopping`."""
        link_s = max(link.timeout_s for _, link in self._networks.enabled())
        while not is_stopping.is_set():
            is_last = is_over.is_set()
            letters = await self._brotr.claim_outbox(
                targets=TARGETS, limit=LETTERS, owner=self._owner, lease_s=(LETTERS + 2) * link_s
            )
            if letters:
                await self._hand_over(letters)
            elif is_last:
                return
            else:
                with anyio.move_on_after(IDLE_S):
                    await is_over.wait()

    async def _hand_over(self, letters: Sequence[OutboxEntry]) -> None:
        by_target: dict[str, list[OutboxEntry]] = {}
        for letter in letters:
            by_target.setdefault(letter.target, []).append(letter)

        async def one(target: str, batch: list[OutboxEntry]) -> None:
            try:
                settled = await self._hand_to(Relay(target), batch)
            except Exception as error:  # this target's, and nobody else's
                if is_outside(error):
                    raise
                words = self._defects.note(error, relay=target)
                settled = [Settled(letter, "failed", "defect", words) for letter in batch]
            await one_by_one(settled, self._settle, self._instead)
            outcomes = Counter(str(each.outcome) for each in settled)
            self.offered.update(outcomes)
            self._log.info("published", relay=target, **outcomes)

        async with anyio.create_task_group() as group:
            for target, batch in by_target.items():
                group.start_soon(one, target, batch)

    async def _settle(self, settled: Sequence[Settled]) -> None:
        await self._brotr.settle_outbox(settled, self._settings.publish.max_attempts)

    def _instead(self, settled: Settled, error: Exception) -> Settled | None:
        """What is recorded where the database refuses what was to be."""
        if settled.reason == "defect":
            return None
        words = self._defects.note(error, relay=settled.letter.target)
        return Settled(settled.letter, "failed", "defect", words)

    async def _hand_to(self, relay: Relay, batch: Sequence[OutboxEntry]) -> list[Settled]:
        by_id = {msgspec.json.decode(letter.event)["id"]: letter for letter in batch}
        offered = {event_id: letter.event.encode() for event_id, letter in by_id.items()}
        found = await self._offer(relay, offered)
        return [Settled(letter, *found[event_id]) for event_id, letter in by_id.items()]

    async def _offer(self, relay: Relay, offered: dict[str, bytes]) -> dict[str, Delivery]:
        link = self._networks.link(relay.network)
        if not link.enabled:
            off = Delivery("failed", "network-off", f"{relay.network} is not enabled")
            return dict.fromkeys(offered, off)
        return await deliver(
            relay,
            link,
            offered,
            self._keys,
            allow_local=self._networks.local.enabled,
            manners=self._manners,
        )
