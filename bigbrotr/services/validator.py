"""The validator: a candidate that speaks Nostr becomes a relay, another is tried again later."""

from collections import Counter
from enum import StrEnum
from typing import NamedTuple, Self

import anyio

from bigbrotr.config import Link, Networks, ValidatorSettings
from bigbrotr.core.base_service import BaseService
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.dial import dial
from bigbrotr.nostr.paging import End
from bigbrotr.nostr.reach import OFFLINE_SAMPLE, OURS, Failure, Unreached, is_offline
from bigbrotr.nostr.session import Bounds, Page, Session

FRAME_BYTES = 1 << 20
ANSWER_BYTES = 4 << 20
LEASE_ROUNDS = 6  # time-outs that a claim outlasts


class Verdict(StrEnum):
    """What becomes of a candidate; the words are those of `resolve_candidates` in sql/."""

    RELAY = "relay"
    FAILED = "failed"
    POSTPONED = "postponed"


class Greeting(NamedTuple):
    """What a candidate did when it was asked for one event."""

    relay: Relay
    verdict: Verdict
    outcome: str
    detail: str = ""
    failure: Failure | None = None


class Validator(BaseService[ValidatorSettings]):
    """Promotes the candidates that speak Nostr; postpones the others, each time for longer."""

    SERVICE_NAME = "validator"
    CONFIG_CLASS = ValidatorSettings

    @property
    def networks(self) -> Networks:
        """How relays are reached."""
        return self.around.config.networks

    async def __aenter__(self) -> Self:
        await self.brotr.release_leases(self.owner)
        return await super().__aenter__()

    async def run(self) -> None:
        """Tries every candidate that is due."""
        async with anyio.create_task_group() as group:
            for network, link in self.networks.enabled():
                group.start_soon(self._work_off, network, link)

    async def _work_off(self, network: Network, link: Link) -> None:
        while not self._stop.is_set():
            candidates = await self.brotr.claim_candidates(
                network,
                limit=2 * link.width,
                max_attempts=self.settings.max_attempts,
                owner=self.owner,
                lease_s=LEASE_ROUNDS * link.timeout_s,
            )
            if not candidates:
                return
            greetings = await self._sweep(candidates, link)
            if network is Network.CLEARNET and await self._is_offline(greetings, link):
                greetings = [greeting._replace(verdict=Verdict.POSTPONED) for greeting in greetings]
                self.log.warning(
                    "this machine seems to be offline: no candidate could be reached, none is "
                    "blamed, and all are tried again in a minute",
                    candidates=len(greetings),
                    example=f"{greetings[0].relay.url}: {greetings[0].detail}",
                )
            await self._record(network, greetings)

    async def _is_offline(self, greetings: list[Greeting], link: Link) -> bool:
        """Whether a sweep failed for our own fault: all of it, and relays that we know as well."""
        if not is_offline([greeting.failure for greeting in greetings]):
            return False
        known = await self.brotr.some_relays(Network.CLEARNET, OFFLINE_SAMPLE)
        return all(greeting.failure is not None for greeting in await self._sweep(known, link))

    async def _sweep(self, candidates: list[Relay], link: Link) -> list[Greeting]:
        width = anyio.CapacityLimiter(link.width)
        greetings: list[Greeting] = []

        async def one(relay: Relay) -> None:
            async with width:
                greetings.append(await greet(relay, link, allow_local=self.networks.local.enabled))

        async with anyio.create_task_group() as group:
            for relay in candidates:
                group.start_soon(one, relay)
        return greetings

    async def _record(self, network: Network, greetings: list[Greeting]) -> None:
        new = await self.brotr.resolve_candidates(
            [(g.relay.url, g.verdict.value, g.outcome, g.detail) for g in greetings]
        )
        outcomes = Counter(greeting.outcome for greeting in greetings)
        self.log.info(
            "tried candidates", network=network, tried=len(greetings), new_relays=new, **outcomes
        )


async def greet(relay: Relay, link: Link, *, allow_local: bool) -> Greeting:
    """Asks a candidate for one event; only an answer in protocol makes it a relay."""
    connection = await dial(relay, link, max_frame_bytes=FRAME_BYTES, allow_local=allow_local)
    if isinstance(connection, Unreached):
        verdict = Verdict.POSTPONED if connection.failure in OURS else Verdict.FAILED
        return Greeting(
            relay, verdict, connection.failure.value, connection.detail, connection.failure
        )
    bounds = Bounds(link.timeout_s, 2 * link.timeout_s, ANSWER_BYTES)
    async with Session(connection) as session:
        page = await session.fetch({"limit": 1}, bounds)
        return judge(relay, page, is_challenged=session.challenge is not None)


def judge(relay: Relay, page: Page, *, is_challenged: bool) -> Greeting:
    """What an answer makes of a candidate: a CLOSED or AUTH is Nostr as well as an EVENT."""
    if page.end is End.EOSE or page.events:
        return Greeting(relay, Verdict.RELAY, "speaks-nostr")
    if page.end is End.CLOSED:
        return Greeting(relay, Verdict.RELAY, "closed", page.reason)
    if is_challenged:
        return Greeting(relay, Verdict.RELAY, "needs-auth")
    outcome = "not-nostr" if page.malformed else "no-answer"
    return Greeting(relay, Verdict.FAILED, outcome, page.reason)
