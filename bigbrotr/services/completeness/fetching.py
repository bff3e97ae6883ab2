"""Asks relays for events that others refer to and that are missing: those that are named with them,
those to which the author writes, and the largest."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import anyio

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.completeness import Missing
from bigbrotr.core.defects import Defects, is_outside
from bigbrotr.core.logger import Logger
from bigbrotr.models.event import Event, EventRelay, WireEvent, decode_tags
from bigbrotr.models.plain import unpacked
from bigbrotr.models.policy import EPHEMERAL, View, facts_of
from bigbrotr.models.query import Query
from bigbrotr.models.references import kind_of_address
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.politeness import politeness_of
from bigbrotr.nostr.auth import Signer, Throwaway
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Bounds, Page, Session
from bigbrotr.reads.authors import RELAY_LISTS, relays_in
from bigbrotr.reads.events import EventReads

OUTCOMES = ("found", "asked", "gone")
PER_RELAY = 50  # events that one relay is asked for in a cycle
RELAYS_EACH = 3  # that are asked for one event in one try
LARGEST = 10  # relays that are asked where nobody names others
AT_ONCE = 10  # conversations
CONVERSATION_S = 120.0
PAGE_BYTES = 16 << 20
MAX_FRAME_BYTES = 4 << 20
SPARE_COPIES = 10  # more events than ids are asked for: some relays send forged copies first


class Fetching:
    """Empties the queue of what is missing, a bounded part of it at once. Only relays of the
    archive are asked, whatever others name: what is named becomes one by way of the finder."""

    def __init__(self, brotr: Brotr, config: Config, *, owner: str, log: Logger) -> None:
        self.counts: Counter[str] = Counter()
        self._brotr = brotr
        self._settings = config.completeness
        self._networks = config.networks
        self._filter = config.synchronizer.filter
        self._politeness = politeness_of(config.politeness)
        self._signer: Signer | None = None if config.synchronizer.auth == "never" else Throwaway()
        self._owner, self._log = owner, log
        self._defects = Defects(log)
        self._lists = EventReads(brotr.pool, View.CURRENT)
        self._reached = 0  # relays, in the last cycle

    async def fetch(self) -> int:
        """Asks for what is due; returns how many events were found."""
        missing = await self._brotr.claim_missing(
            self._settings.fetch_at_once, owner=self._owner, lease_s=3 * CONVERSATION_S
        )
        if not missing:
            return 0
        numbers = await self._brotr.known_relays()
        urls = {number: url for url, number in numbers.items()}
        plan = await self._plan(missing, numbers, urls)
        by_relay: dict[int, list[Missing]] = {}
        for each in missing:
            for number in plan.get(each.target, ()):
                by_relay.setdefault(number, []).append(each)
        asked: dict[bytes, set[int]] = {target: set() for target in plan}
        found: set[bytes] = set()
        limiter = anyio.CapacityLimiter(AT_ONCE)
        self._reached = 0

        async def ask(number: int, wanted: Sequence[Missing]) -> None:
            async with limiter:
                got = await self._ask_safely(Relay(urls[number]), wanted)
            if got is not None:
                found.update(got)
                for each in wanted:
                    asked[each.target].add(number)

        async with anyio.create_task_group() as group:
            for number, wanted in by_relay.items():
                group.start_soon(ask, number, wanted)
        gone = 0
        if self._reached or not by_relay:  # else it is us who cannot be heard
            in_vain = {target: relays for target, relays in asked.items() if target not in found}
            exhausted = {target for target, relays in plan.items() if not relays}
            gone = await self._brotr.settle_missing(
                in_vain, exhausted, owner=self._owner, max_attempts=self._settings.max_attempts
            )
        # For what there was no room, or nobody to hear us, the next time is as good.
        await self._brotr.release_missing(self._owner)
        self.counts.update({"found": len(found), "asked": len(plan), "gone": gone})
        self._log.info("missing events were asked for", asked=len(plan), found=len(found))
        return len(found)

    async def _plan(
        self, missing: Sequence[Missing], numbers: Mapping[str, int], urls: Mapping[int, str]
    ) -> dict[bytes, list[int]]:
        """Which relays to ask for each: those that were named first, and none twice; nobody, where
        there is no other to ask. What those that are left have no room for now is left out."""
        unwell = await self._brotr.unwell_relays()
        largest = await self._brotr.largest_relays(LARGEST, unwell)
        written = await self._written({each.pubkey for each in missing if each.pubkey})
        plan = {}
        load: Counter[int] = Counter()
        for each in missing:
            named = [*each.hints, *written.get(each.pubkey or b"", ())]
            places = [
                number
                for number in dict.fromkeys(
                    [*(numbers[url] for url in named if url in numbers), *largest]
                )
                if number not in each.asked
                and number not in unwell
                and self._networks.link(Relay(urls[number]).network).enabled
            ]
            chosen = [number for number in places if load[number] < PER_RELAY][:RELAYS_EACH]
            if chosen or not places:
                plan[each.target] = chosen
                load.update(chosen)
        return plan

    async def _written(self, authors: Collection[bytes]) -> dict[bytes, list[str]]:
        """The relays to which some authors write, as their newest lists say."""
        written: dict[bytes, list[str]] = {}
        if authors:
            query = Query(authors=frozenset(authors), kinds=frozenset([RELAY_LISTS]))
            async for event in self._lists.all(query):
                if event.pubkey not in written:  # the newest comes first
                    listed, _ = relays_in(event.kind, decode_tags(event.tags or "[]"))
                    written[event.pubkey] = [each.url for each in listed if each.write]
        return written

    async def _ask_safely(self, relay: Relay, wanted: Sequence[Missing]) -> set[bytes] | None:
        """What one relay had of the events, and is archived now; None: it could not be asked."""
        try:
            with anyio.move_on_after(CONVERSATION_S):
                return await self._ask(relay, wanted)
        except Exception as error:  # this relay's, and nobody else's
            if is_outside(error):
                raise
            self._defects.note(error, relay=relay.url)
        return None

    async def _ask(self, relay: Relay, wanted: Sequence[Missing]) -> set[bytes] | None:
        link = self._networks.link(relay.network)
        stream = await dial(
            relay,
            link,
            max_frame_bytes=MAX_FRAME_BYTES,
            allow_local=self._networks.local.enabled,
            politeness=self._politeness,
        )
        if isinstance(stream, Unreached):
            return None
        self._reached += 1
        bounds = Bounds(link.timeout_s, 4 * link.timeout_s, PAGE_BYTES)
        events: dict[bytes, Event] = {}  # by what was missing
        ids = [each.target for each in wanted if len(each.target) == 32]
        addresses = [each for each in wanted if len(each.target) != 32]
        is_answered = False
        async with Session(stream, relay.url, self._signer) as session:
            if ids:
                question = {"ids": [each.hex() for each in ids], "limit": len(ids) + SPARE_COPIES}
                page = await session.fetch(question, bounds)
                is_answered = page.end is End.EOSE
                events |= {event.id: event for event in _valid(page) if event.id in set(ids)}
            for each in addresses:
                if not session.is_open:
                    break
                page = await session.fetch(_question(each), bounds)
                is_answered = is_answered or page.end is End.EOSE
                versions = [event for event in _valid(page) if _is_at(event, each.target)]
                if versions:
                    events[each.target] = max(
                        versions, key=lambda event: (event.created_at, event.id)
                    )
        stored = {
            target: event
            for target, event in events.items()
            if event.kind not in EPHEMERAL and self._filter.matches(event)
        }
        if stored:
            now = int(time.time())
            await self._brotr.insert_events(
                [EventRelay(event, relay, now) for event in stored.values()]
            )
            await self._brotr.note_found(stored, relay.url)
        return set(stored) if is_answered or stored else None


def _question(each: Missing) -> dict[str, object]:
    """The filter for the newest version at an address."""
    kind = kind_of_address(each.target)
    wanted: dict[str, object] = {
        "kinds": [kind],
        "authors": [each.target[:32].hex()],
        "limit": 1 + SPARE_COPIES,
    }
    return wanted | ({"#d": [each.d or ""]} if kind >= 30_000 else {})


def _valid(page: Page) -> list[Event]:
    """The events of a page whose ids and signatures are right."""
    found = []
    for each in map(unpacked, page.events):
        try:
            found.append(Event.from_wire(each) if isinstance(each, WireEvent) else each)
        except ValueError:
            continue
    return found


def _is_at(event: Event, target: bytes) -> bool:
    facts = facts_of(event.pubkey, event.created_at, event.kind, event.tags)
    return event.pubkey == target[:32] and facts.address == target[32:]
