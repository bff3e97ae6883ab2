"""The validator: a candidate that speaks Nostr becomes a relay, another is tried again later."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from enum import StrEnum
from typing import Final, Literal, NamedTuple, Self, TypeAlias

import anyio

from bigbrotr.config.settings import Link, Networks, ValidatorSettings
from bigbrotr.core.base_service import OFFLINE, BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.candidates import Resolution
from bigbrotr.core.defects import Defects, is_outside, one_by_one
from bigbrotr.core.metrics import Sample
from bigbrotr.core.reasons import Reasons, Trouble
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import (
    OFFLINE_SAMPLE,
    OURS,
    PERHAPS_OURS,
    UNTRIED,
    Failure,
    Unreached,
    is_offline,
)
from bigbrotr.net.dial import dial
from bigbrotr.net.politeness import Politeness, politeness_of
from bigbrotr.nostr.likeness import Ask, Look, is_alike, newest
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Bounds, Page, Session

FRAME_BYTES = 1 << 20
RECORD_S = 0.5  # until what is decided is recorded
FIRST_LOOKS_S, FIRST_LOOK_S = 15.0, 0.5  # after the start, if nothing has been tried yet
ANSWER_BYTES = 4 << 20
OFFLINE_CROWD = 20  # hosts none of which is reached, in an archive that knows no relay yet
CLAIM_ROUNDS = 8  # times the width: the slow ones wait beside those whose turn it is
LEASE_ROUNDS = 12  # time-outs that a claim outlasts
DAY_S = 86_400.0
REST_S = 600.0  # for a host that asked us to slow down
RECHECK_S = 30 * DAY_S  # until an alias is looked at again
TWINS_S = 300.0  # from one look at pairs that may be one operator's to the next
TWINS = 2  # such pairs
MAX_SIBLINGS = 8  # relays of one host that a new one is compared with

SPEAKS: Final = "speaks-nostr"
Answer: TypeAlias = Literal["speaks-nostr", "needs-auth", "alias", "not-nostr", "no-answer"]


class Decision(StrEnum):
    """What becomes of a candidate; the words are those of `resolve_candidates` in sql/."""

    RELAY = "relay"
    FAILED = "failed"
    POSTPONED = "postponed"
    ALIAS = "alias"


class Greeting(NamedTuple):
    """What a candidate did when it was asked for one event."""

    relay: Relay
    decision: Decision
    outcome: Answer | Failure
    detail: str = ""
    failure: Failure | None = None
    wait_s: float = 0.0  # to leave it alone at least
    target: str = ""  # of an alias: the URL of its relay


class Validator(BaseService[ValidatorSettings]):
    """Promotes the candidates that speak Nostr; postpones the others, each time for longer."""

    SERVICE_NAME = "validator"
    CONFIG_CLASS = ValidatorSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: ValidatorSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self.greeted: Counter[tuple[str, str]] = Counter()  # by network and outcome
        self.defects = Defects(self.log)
        self.reasons = Reasons()
        self._began = time.monotonic()
        self._twins_at = float("-inf")

    def metrics(self) -> Iterator[Sample]:
        """How conversations with candidates ended."""
        for (network, outcome), times in self.greeted.items():
            yield Sample("connections", times, (self.SERVICE_NAME, network, outcome))

    @property
    def networks(self) -> Networks:
        """How relays are reached."""
        return self.context.config.networks

    @property
    def politeness(self) -> Politeness:
        """What this process allows itself."""
        return politeness_of(self.context.config.politeness)

    async def __aenter__(self) -> Self:
        await self.brotr.release_leases(self.owner)
        return await super().__aenter__()

    async def run(self) -> None:
        """Tries every candidate that is due, also the relays that have failed for long."""
        retired = await self.brotr.retire_relays(self.settings.retire_after_s)
        if retired:
            self.log.info("relays that have failed for long are candidates again", relays=retired)
        async with anyio.create_task_group() as group:
            for network, link in self.networks.enabled():
                group.start_soon(self._work_off, network, link)
        await self._compare_twins()

    async def _work_off(self, network: Network, link: Link) -> None:
        while not self._stop.is_set():
            candidates = await self.brotr.claim_candidates(
                network,
                limit=CLAIM_ROUNDS * link.width,
                max_attempts=self.settings.max_attempts,
                owner=self.owner,
                lease_s=LEASE_ROUNDS * link.timeout_s,
            )
            if not candidates:
                return
            await self._try(network, link, candidates)

    async def _try(self, network: Network, link: Link, candidates: list[Relay]) -> None:
        """Tries candidates side by side. A host that speaks is recorded as soon as it is known; of
        the others one can tell only together whether the fault is theirs."""
        answered: list[Greeting] = []  # of hosts that speak, not recorded yet
        recorded: list[Greeting] = []
        new = 0
        is_over = asyncio.Event()

        async def record(some: list[Greeting]) -> None:
            nonlocal new
            joined = await self._join_aliases(some, link)
            new += await self._record(joined)
            recorded.extend(joined)

        async def record_at_once() -> None:
            while not is_over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(RECORD_S):
                        await is_over.wait()
                some, answered[:] = list(answered), []
                if some:
                    await record(some)

        def note(of_host: list[Greeting]) -> None:
            if any(each.decision is Decision.RELAY for each in of_host):
                answered.extend(of_host)

        async with anyio.create_task_group() as group:
            group.start_soon(record_at_once)
            greetings = await self._sweep(candidates, link, note)
            is_over.set()
        known = {each.relay for each in recorded}
        rest = [greeting for greeting in greetings if greeting.relay not in known]
        is_offline = network is Network.CLEARNET and await self._is_offline(greetings, link)
        if is_offline:
            rest = [greeting._replace(decision=Decision.POSTPONED) for greeting in rest]
            self.log.warning(
                f"{OFFLINE}: no candidate could be reached, none is blamed, and all are tried "
                "again in a minute",
                candidates=len(rest),
                example=f"{rest[0].relay.url}: {rest[0].detail}" if rest else "",
            )
        if network is Network.CLEARNET:
            self.trouble = f"{OFFLINE}: no relay can be reached" if is_offline else ""
        if rest:
            await record(rest)
        self._log_tried(network, recorded, new)

    async def _is_offline(self, greetings: list[Greeting], link: Link) -> bool:
        """Whether a sweep failed for our own fault: all of it, and relays that we know as well."""
        failures = list(
            {
                endpoint(greeting.relay): greeting.failure
                for greeting in greetings
                if greeting.failure not in UNTRIED
            }.values()
        )
        if not is_offline(failures):
            return False
        known = await self.brotr.some_relays(Network.CLEARNET, OFFLINE_SAMPLE)
        if not known:  # a few may all be dead; so many are not, or no name server answers
            is_telling = 2 * failures.count(Failure.OFFLINE) >= len(failures)
            return is_telling or len(failures) >= OFFLINE_CROWD
        return all(each.failure in PERHAPS_OURS for each in await self._sweep(known, link))

    # A sweep

    async def _sweep(
        self,
        candidates: list[Relay],
        link: Link,
        note: Callable[[list[Greeting]], None] = lambda greetings: None,
    ) -> list[Greeting]:
        """Greets candidates side by side, but those of one host one after the other; `note` takes
        what came of each host."""
        width = asyncio.Semaphore(link.width)
        greetings: list[Greeting] = []

        async def greet_in_turn(relays: list[Relay]) -> None:
            last: Greeting | None = None
            of_host: list[Greeting] = []
            for relay in relays:
                if self._stop.is_set():
                    break  # its lease passes
                last = inherit(last, relay) or await self._greet(relay, link, width)
                of_host.append(last)
            greetings.extend(of_host)
            note(of_host)

        async with anyio.create_task_group() as group:
            for relays in by_endpoint(candidates).values():
                group.start_soon(greet_in_turn, relays)
        return greetings

    async def _greet(self, relay: Relay, link: Link, width: asyncio.Semaphore) -> Greeting:
        """Greets one. Two time-outs: after the quick one its turn is over, so that the dead don't
        hold up the others; the patient one is what it is judged by."""
        await width.acquire()
        with ExitStack() as turn:
            turn.callback(width.release)
            timer = asyncio.get_running_loop().call_later(link.quick_s, turn.close)
            turn.callback(timer.cancel)
            try:
                return await greet(
                    relay, link, allow_local=self.networks.local.enabled, politeness=self.politeness
                )
            except Exception as error:  # this candidate's, and nobody else's
                words = self.defects.note(error, relay=relay.url)
                return decide_unreached(relay, Unreached(Failure.DEFECT, words))

    # Aliases

    async def _join_aliases(self, greetings: list[Greeting], link: Link) -> list[Greeting]:
        """Of new relays that answer like another path on the same host, makes aliases of that."""
        speakers = {each.relay: each for each in greetings if each.outcome == SPEAKS}
        if not speakers:
            return greetings
        hosts = by_endpoint(speakers)
        known = by_endpoint(await self.brotr.relays_at([origin(relay) for relay in speakers]))
        targets: dict[Relay, Relay] = {}
        width = asyncio.Semaphore(link.width)

        async def compare(siblings: list[Relay], new: list[Relay]) -> None:
            try:
                await join(siblings, new)
            except Exception as error:  # this host's, and nobody else's: what was not joined stays
                self.defects.note(error, relay=new[0].url)

        async def join(siblings: list[Relay], new: list[Relay]) -> None:
            looks: dict[Relay, Look | None] = {}
            for relay in new:
                others = siblings[:MAX_SIBLINGS]
                for each in (relay, *others) if others else ():
                    if each not in looks:
                        async with width:
                            looks[each] = await self._newest(each, link)
                for other in others:
                    if looks[relay] is None or looks[relay] != looks[other]:
                        continue
                    async with width:
                        is_one = await self._is_alike(relay, other, link)
                    if is_one:
                        targets[relay] = other
                        break
                else:
                    siblings.append(relay)

        async with anyio.create_task_group() as group:
            for key, new in hosts.items():
                group.start_soon(compare, [r for r in known.get(key, []) if r not in new], new)
        return [
            greeting._replace(
                decision=Decision.ALIAS,
                outcome="alias",
                detail=f"answers like {target.url}",
                wait_s=RECHECK_S,
                target=target.url,
            )
            if (target := targets.get(greeting.relay))
            else greeting
            for greeting in greetings
        ]

    async def _newest(self, relay: Relay, link: Link) -> Look | None:
        """A first look at a relay; None when it says nothing that could be compared."""
        async with AsyncExitStack() as stack:
            ask = await self._open(relay, link, stack)
            return None if ask is None else await newest(ask)

    async def _is_alike(self, relay: Relay, other: Relay, link: Link) -> bool:
        async with AsyncExitStack() as stack:
            ours = await self._open(relay, link, stack)
            theirs = await self._open(other, link, stack)
            return ours is not None and theirs is not None and await is_alike(ours, theirs)

    # Twins: relays that something says are one operator's

    async def _compare_twins(self) -> None:
        """Asks pairs for the same from time to time: evidence that they are one operator's."""
        if time.monotonic() - self._twins_at < TWINS_S:
            return
        self._twins_at = time.monotonic()
        networks = [network for network, _ in self.networks.enabled()]
        for a, b, one, other in await self.brotr.claim_twins(networks, TWINS):
            if self._stop.is_set():
                return  # the claim passes
            try:
                are_alike = await self._are_twins(one, other)
            except Exception as error:  # these two's, and nobody else's
                if is_outside(error):
                    raise
                self.defects.note(error, relay=one.url)
                are_alike = None
            if are_alike is not None:
                await self.brotr.note_twins(a, b, are_alike=are_alike)
                self.log.debug(
                    "asked for the same", relay=one.url, other=other.url, alike=are_alike
                )

    async def _are_twins(self, one: Relay, other: Relay) -> bool | None:
        """Whether two relays answer alike; None: one of both cannot be reached."""
        async with AsyncExitStack() as stack:
            asks = [
                await self._open(relay, self.networks.link(relay.network), stack)
                for relay in (one, other)
            ]
            if asks[0] is None or asks[1] is None:
                return None
            return await is_alike(asks[0], asks[1])

    async def _open(self, relay: Relay, link: Link, stack: AsyncExitStack) -> Ask | None:
        """A conversation as long as the stack; None when there is none."""
        connection = await dial(
            relay,
            link,
            max_frame_bytes=FRAME_BYTES,
            allow_local=self.networks.local.enabled,
            politeness=self.politeness,
        )
        if isinstance(connection, Unreached):
            return None
        session = await stack.enter_async_context(Session(connection))
        bounds = Bounds(link.timeout_s, 2 * link.timeout_s, ANSWER_BYTES)
        return lambda wanted: session.fetch(wanted, bounds)

    async def _record(self, greetings: list[Greeting]) -> int:
        """Records what was decided; returns how many became relays."""
        new = 0

        async def record(some: Sequence[Greeting]) -> None:
            nonlocal new
            new += await self.brotr.resolve_candidates(
                [
                    Resolution(
                        g.relay.url, g.decision.value, g.outcome, g.detail, g.wait_s, g.target
                    )
                    for g in some
                ]
            )

        def instead(greeting: Greeting, error: Exception) -> Greeting | None:
            if greeting.failure is Failure.DEFECT:
                return None
            words = self.defects.note(error, relay=greeting.relay.url)
            return decide_unreached(greeting.relay, Unreached(Failure.DEFECT, words))

        await one_by_one(greetings, record, instead)
        return new

    def _log_tried(self, network: Network, greetings: list[Greeting], new: int) -> None:
        outcomes = Counter(str(greeting.outcome) for greeting in greetings)
        self.greeted.update((str(network), outcome) for outcome in outcomes.elements())
        failing = self.reasons.words(
            Trouble(str(each.outcome), each.relay.url, each.detail)
            for each in greetings
            if each.decision is Decision.FAILED
        )
        self.log.info(
            "tried candidates",
            network=network,
            tried=len(greetings),
            new_relays=new,
            **outcomes,
            **({"failing": failing} if failing else {}),
        )

    def hurry_s(self) -> float | None:
        """At first looks soon again: the seeder may be about to bring candidates."""
        is_new = time.monotonic() < self._began + FIRST_LOOKS_S
        return FIRST_LOOK_S if is_new and not self.greeted else None


def origin(relay: Relay) -> str:
    """A relay's URL without its path."""
    return relay.url.removesuffix(relay.path)


def endpoint(relay: Relay) -> tuple[str, str, int]:
    """What all paths on a relay's host share."""
    return relay.scheme, relay.host, relay.port


def by_endpoint(relays: Iterable[Relay]) -> dict[tuple[str, str, int], list[Relay]]:
    """Relays by host, those of the shortest path first."""
    hosts = defaultdict(list)
    for relay in sorted(relays, key=lambda relay: (len(relay.path), relay.path)):
        hosts[endpoint(relay)].append(relay)
    return dict(hosts)


async def greet(
    relay: Relay, link: Link, *, allow_local: bool, politeness: Politeness | None = None
) -> Greeting:
    """Asks a candidate for one event; only an answer in protocol makes it a relay."""
    connection = await dial(
        relay, link, max_frame_bytes=FRAME_BYTES, allow_local=allow_local, politeness=politeness
    )
    if isinstance(connection, Unreached):
        greeting = decide_unreached(relay, connection)
    else:
        bounds = Bounds(link.timeout_s, 2 * link.timeout_s, ANSWER_BYTES)
        async with Session(connection) as session:
            page = await session.fetch({"limit": 1}, bounds)
            greeting = decide(
                relay, page, is_challenged=session.challenge is not None, notice=session.notice
            )
    if politeness is not None and greeting.outcome == Failure.RATE_LIMITED:
        politeness.cool_down(relay.host, relay.port, REST_S)
    return greeting


# Of these the path is not to blame: they are the same for every relay of the host.
PATHLESS = frozenset(Failure) - {
    Failure.NOT_WEBSOCKET,
    Failure.REFUSES_US,
    Failure.SLOW,
    Failure.DEFECT,
}


def inherit(last: Greeting | None, relay: Relay) -> Greeting | None:
    """What `relay` need not be asked, given another path on its host; None if it does."""
    if last is None:
        return None
    if last.outcome == Failure.SLOW:  # one wait a host is enough: this one's turn comes
        return last._replace(relay=relay, decision=Decision.POSTPONED)
    return last._replace(relay=relay) if last.failure in PATHLESS else None


def decide_unreached(relay: Relay, unreached: Unreached) -> Greeting:
    """What it means for a candidate that there was no conversation."""
    failure, detail = unreached
    decision = Decision.POSTPONED if failure in OURS else Decision.FAILED
    waits = {
        Failure.OPTED_OUT: DAY_S,
        Failure.UNJUDGED: DAY_S,
        Failure.DEFECT: DAY_S,  # the same again until somebody has mended it
        Failure.RESTING: REST_S,
        Failure.RATE_LIMITED: REST_S,
    }
    return Greeting(relay, decision, failure, detail, failure, waits.get(failure, 0.0))


def decide(relay: Relay, page: Page, *, is_challenged: bool, notice: str = "") -> Greeting:
    """What an answer makes of a candidate: a CLOSED or AUTH is Nostr as well as an EVENT."""
    if page.end is End.EOSE or page.events:
        return Greeting(relay, Decision.RELAY, SPEAKS)
    is_closed = page.end is End.CLOSED and not page.is_guess
    prefix = page.reason.partition(":")[0] if is_closed else ""
    if prefix == "rate-limited":
        return Greeting(relay, Decision.RELAY, Failure.RATE_LIMITED, page.reason, wait_s=REST_S)
    if prefix == "auth-required" or (is_challenged and not is_closed):
        return Greeting(relay, Decision.RELAY, "needs-auth", page.reason)
    if is_closed:
        return Greeting(relay, Decision.RELAY, Failure.REFUSES_US, page.reason)
    detail = page.reason or notice
    if page.malformed:
        return Greeting(relay, Decision.FAILED, "not-nostr", detail)
    if page.end is End.TIMEOUT and not page.strays:
        return Greeting(relay, Decision.FAILED, Failure.SLOW, detail)
    return Greeting(relay, Decision.FAILED, "no-answer", detail)
