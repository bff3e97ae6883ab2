"""Sends what waits in the queue of rescues: a few events a conversation, and no faster than a relay
takes them."""

import math
import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import anyio

from bigbrotr.config.settings import Config, Link
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.exchange import HeldEvent
from bigbrotr.core.calls.rescues import Rescue, RescueOutcome, TargetOutcome
from bigbrotr.core.defects import Defects, is_outside
from bigbrotr.core.logger import Logger
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import Event, Identified, Unsigned, identify
from bigbrotr.models.plain import Plain
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query
from bigbrotr.models.relay import Relay
from bigbrotr.models.rescue import Left, Sendable, closed_by, refusal_in_advance
from bigbrotr.net.connect import OURS, Failure, Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.politeness import politeness_of
from bigbrotr.nostr.auth import Signer, Throwaway
from bigbrotr.nostr.delivery import FRAME_BYTES, Delivery, hand_over
from bigbrotr.nostr.document import ask_document
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Bounds, Page, Session
from bigbrotr.reads.events import EventReads, StoredEvent
from bigbrotr.services.rescue.judging import Judgement, judge, settle_policy

BATCH = 50  # events of a conversation
PAGE_BYTES = 16 << 20  # that an answer may have: of so many events
ID_BYTES, ENVELOPE_BYTES = 67, 200  # of a question for ids
SPARE_COPIES = 10  # more events than ids are asked for: some relays send forged copies first
SENT_AGAIN = 2  # times that a relay may accept an event and not keep it
RESEND_S = 600  # until an event is sent again that was accepted and not kept
FOR_GOOD = frozenset({Failure.OPTED_OUT, Failure.UNJUDGED})  # that does not pass by itself
SPARED_S = 60  # until a relay is tried again that we could not reach by our own fault
DOCUMENT_S = 3600.0  # for which a relay's document is believed
MOST_DOCUMENTS = 1000
CONVERSATION_S = 300.0  # the longest, beside the time for its answers


def signer_of(auth: str) -> Signer | None:
    """The key with which relays may know us, by the setting `auth`.

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
        raise ConfigError('[rescue] auth = "configured", but PRIVATE_KEY is not set')
    return keys


def owner_of_this_process() -> str:
    """A name for leases that nobody else has, which tells later whether we still live."""
    return f"rescue@{socket.gethostname()}:{os.getpid()}:{_begun(os.getpid())}"


def has_ended(owner: str) -> bool:
    """Whether the process of such a name is of this machine, and has ended."""
    name, _, rest = owner.partition("@")
    host, pid, begun = (*rest.rsplit(":", 2), "", "")[:3]
    if name != "rescue" or host != socket.gethostname() or not pid.isdigit():
        return False
    return _begun(int(pid)) != begun


def _begun(pid: int) -> str:
    """When a process began, as the kernel has it; empty: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class _Work:
    """What is to be done at one target, and what has become of it."""

    def __init__(self, batch: Sequence[Rescue]) -> None:
        self.batch = {each.id: each for each in batch}
        self.outcomes: dict[bytes, RescueOutcome] = {}
        self.sendable: dict[bytes, Sendable] = {}
        self.held: set[bytes] = set()

    @property
    def open(self) -> list[bytes]:
        """The ids of which nothing is decided yet."""
        return [each for each in self.batch if each not in self.outcomes]

    def leave(self, event_id: bytes, why: Left) -> None:
        """Notes that an event is not sent."""
        self.outcomes[event_id] = RescueOutcome(event_id, "left", why.value, why.words)


class Sender:
    """Claims what is due, sends it, and notes what became of it. `counts`: events by state."""

    def __init__(self, brotr: Brotr, config: Config, *, owner: str, log: Logger) -> None:
        self.counts: Counter[str] = Counter()
        self.defects = Defects(log)
        self._brotr = brotr
        self._config, self._settings = config, config.rescue
        self._networks = config.networks
        self._politeness = politeness_of(config.politeness)
        self._signer = signer_of(self._settings.auth)
        self._owner, self._log = owner, log
        self._reads = EventReads(brotr.pool, View.KEPT)
        self._documents: dict[str, tuple[float, Mapping[str, int | bool]]] = {}

    async def send(self, urls: Collection[str] | None = None) -> int:
        """Sends what is due to some targets (None: any), a batch each; returns to how many."""
        slowest = max((link.timeout_s for _, link in self._networks.enabled()), default=0.0)
        lease_s = CONVERSATION_S + 8 * slowest
        claimed = await self._brotr.claim_rescues(
            urls,
            limit=min(BATCH, self._settings.per_minute),
            owner=self._owner,
            lease_s=lease_s + 60,
        )
        if not claimed:
            return 0
        # What has been deleted meanwhile is not sent.
        await settle_policy(self._brotr, self._config)
        async with anyio.create_task_group() as group:
            for batch in claimed:
                group.start_soon(self._serve, batch, lease_s)
        return len(claimed)

    async def _serve(self, batch: Sequence[Rescue], most_s: float) -> None:
        """Does what is due at one target, within its lease."""
        target = batch[0]
        work = _Work(batch)
        outcome = TargetOutcome("timeout", f"not done within {most_s:g} s", is_failed=True)
        try:
            with anyio.move_on_after(most_s):
                outcome = await self._talk_to(target.url, work)
        except Exception as error:  # this target's, and nobody else's
            if is_outside(error):
                raise
            words = self.defects.note(error, relay=target.url)
            outcome = TargetOutcome("defect", words, is_failed=True)
        await self._note_held(target.url, work)
        for event_id in work.open:  # nothing was said of it, and it is asked for first next time
            entry = work.batch[event_id]
            work.outcomes[event_id] = RescueOutcome(
                event_id, entry.state, outcome.outcome, outcome.detail
            )
        await self._brotr.settle_rescues(
            target.target_id,
            list(work.outcomes.values()),
            outcome,
            owner=self._owner,
            max_attempts=self._settings.max_attempts,
        )
        states = Counter(each.state for each in work.outcomes.values())
        self.counts.update(states)
        self._log.info(
            "offered archived events", relay=target.url, outcome=outcome.outcome, **states
        )

    async def _talk_to(self, url: str, work: _Work) -> TargetOutcome:
        try:
            relay = Relay(url)
        except ValueError as error:  # written by a release with other rules
            for event_id in work.open:
                work.leave(event_id, Left.NETWORK_OFF)
            return TargetOutcome("no-relay", str(error))
        link = self._networks.link(relay.network)
        if not link.enabled:
            for event_id in work.open:
                work.leave(event_id, Left.NETWORK_OFF)
            return TargetOutcome("network-off", f"{relay.network} is not enabled")
        await self._judge(work, url)
        limits = await self._limits_of(relay, link)
        self._heed(work, limits, url)
        if not work.open:
            return TargetOutcome("nothing-to-send")
        stream = await dial(
            relay,
            link,
            max_frame_bytes=FRAME_BYTES,
            allow_local=self._networks.local.enabled,
            politeness=self._politeness,
        )
        if isinstance(stream, Unreached):
            # What is our own fault is no reason to give the relay up.
            is_theirs = stream.failure not in OURS or stream.failure in FOR_GOOD
            return TargetOutcome(
                stream.failure.value, stream.detail, is_failed=is_theirs, pause_s=SPARED_S
            )
        async with Session(stream, relay.url, self._signer) as session:
            return await self._converse(session, link, limits, work)

    async def _judge(self, work: _Work, url: str) -> None:
        """Leaves out what may not be sent, as of now."""
        entries = list(work.batch.values())
        stored = await self._read(entries)
        judged: dict[bytes, Judgement] = await judge(
            self._brotr, list(stored.values()), int(time.time())
        )
        away = await self._brotr.vanished_from([url], {event.pubkey for event in stored.values()})
        for entry in entries:
            verdict = judged.get(entry.id, Left.NOT_KEPT)
            event = stored.get(entry.id)
            if event is not None and away.get((url, event.pubkey), -1) >= event.created_at:
                verdict = Left.VANISHED
            if isinstance(verdict, Sendable):
                work.sendable[entry.id] = verdict
            elif entry.state == "waiting":
                work.leave(entry.id, verdict)

    async def _read(self, entries: Sequence[Rescue]) -> dict[bytes, StoredEvent]:
        times = [entry.created_at for entry in entries]
        wanted = Query(
            ids=frozenset(entry.id for entry in entries), since=min(times), until=max(times)
        )
        return {event.id: event async for event in self._reads.all(wanted)}

    async def _limits_of(self, relay: Relay, link: Link) -> Mapping[str, int | bool]:
        """What the relay says of its limits; nothing, where it says nothing that can be read."""
        known = self._documents.get(relay.url)
        if known is not None and time.monotonic() - known[0] < DOCUMENT_S:
            return known[1]
        document = await ask_document(
            relay, self._networks, timeout_s=link.timeout_s, politeness=self._politeness
        )
        limits = {} if document is None else document.limits
        if len(self._documents) >= MOST_DOCUMENTS:
            self._documents.clear()
        self._documents[relay.url] = (time.monotonic(), limits)
        return limits

    def _heed(self, work: _Work, limits: Mapping[str, int | bool], url: str) -> None:
        """Leaves out what the relay says that it would not take."""
        closed = None if url in self._settings.known_at else closed_by(limits)
        now = int(time.time())
        for event_id in work.open:
            if work.batch[event_id].state == "waiting":
                why = closed or refusal_in_advance(limits, work.sendable[event_id], now)
                if why is not None:
                    work.leave(event_id, why)

    async def _converse(
        self, session: Session, link: Link, limits: Mapping[str, int | bool], work: _Work
    ) -> TargetOutcome:
        there = await self._ask(session, link, limits, work.open)
        if isinstance(there, TargetOutcome):
            return there
        for event_id in list(work.open):
            entry = work.batch[event_id]
            if event_id in there:
                work.held.add(event_id)
                reason = "" if entry.state == "accepted" else "there"
                work.outcomes[event_id] = RescueOutcome(event_id, "held", reason)
            elif entry.state == "accepted":
                work.outcomes[event_id] = _absent(entry)
        offered = {event_id.hex(): work.sendable[event_id].text for event_id in work.open}
        if not offered:
            return TargetOutcome("done")
        said = await hand_over(session, link.timeout_s, offered)
        taken = [bytes.fromhex(key) for key, each in said.items() if each.outcome == "accepted"]
        kept: set[bytes] = set()
        if taken and session.is_open:
            asked = await self._ask(session, link, limits, taken)
            kept = set() if isinstance(asked, TargetOutcome) else asked
        return self._conclude(work, said, kept)

    def _conclude(
        self, work: _Work, said: Mapping[str, Delivery], kept: Collection[bytes]
    ) -> TargetOutcome:
        """Notes what the relay said of each event, and says when it may be sent more."""
        pause: Delivery | None = None
        answered = 0
        for key, delivery in said.items():
            event_id, (outcome, reason, detail) = bytes.fromhex(key), delivery
            if outcome == "accepted":
                answered += 1
                state, wait_s = "accepted", math.ceil(self._settings.verify_s)
                if event_id in kept:
                    work.held.add(event_id)
                    state, wait_s = "held", 0
                work.outcomes[event_id] = RescueOutcome(
                    event_id, state, reason, detail, wait_s, is_answer=True
                )
            elif outcome == "refused":
                answered += 1
                work.outcomes[event_id] = RescueOutcome(
                    event_id, "refused", reason, detail, is_answer=True
                )
            elif reason in ("error", "auth-required"):
                answered += 1
                work.outcomes[event_id] = RescueOutcome(
                    event_id, "waiting", reason, detail, None, is_answer=True
                )
            else:  # it wants a pause, or has said nothing: the whole target waits
                pause = delivery
        has_taken = any(each.outcome == "accepted" for each in said.values())
        pause_s = math.ceil(answered * 60 / self._settings.per_minute)
        if pause is None:
            return TargetOutcome("done", has_taken=has_taken, pause_s=pause_s)
        return TargetOutcome(
            pause.reason, pause.detail, is_failed=True, has_taken=has_taken, pause_s=pause_s
        )

    async def _ask(
        self,
        session: Session,
        link: Link,
        limits: Mapping[str, int | bool],
        ids: Sequence[bytes],
    ) -> set[bytes] | TargetOutcome:
        """Those of the events that the relay holds: it was asked by id, and has shown them."""
        fits = (int(limits.get("max_message_length") or 1 << 20) - ENVELOPE_BYTES) // ID_BYTES
        most = int(limits.get("max_limit") or BATCH)
        size = max(1, min(BATCH, fits, most))
        bounds = Bounds(link.timeout_s, 4 * link.timeout_s, PAGE_BYTES)
        found: set[bytes] = set()
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            wanted = {
                "ids": [each.hex() for each in batch],
                "limit": min(len(batch) + SPARE_COPIES, max(most, len(batch))),
            }
            page = await session.fetch(wanted, bounds)
            shown = _shown(page) & set(batch)
            found |= shown
            if page.end is not End.EOSE and len(shown) < len(batch):
                return TargetOutcome(
                    page.end.value, page.reason or "it does not say what it holds", is_failed=True
                )
        return found

    async def _note_held(self, url: str, work: _Work) -> None:
        """Notes what the relay was seen to hold, where it is one of ours; else it may be one."""
        if not work.held:
            return
        number = (await self._brotr.known_relays()).get(url)
        if number is None:
            await self._brotr.insert_candidates([Relay(url)], "rescue")
            return
        now = int(time.time())
        await self._brotr.note_held(
            number,
            [
                HeldEvent(each.created_at, each.id, now)
                for each in sorted(work.batch.values(), key=lambda each: (each.created_at, each.id))
                if each.id in work.held
            ],
        )


def _absent(entry: Rescue) -> RescueOutcome:
    """What becomes of an event that was accepted and is not there."""
    words = "it said OK, and does not hold it"
    if entry.sends >= SENT_AGAIN:
        return RescueOutcome(entry.id, "unkept", "not-there", words)
    return RescueOutcome(entry.id, "waiting", "not-there", words, RESEND_S)


def _shown(page: Page) -> set[bytes]:
    """The ids of the events on a page, as far as their bytes hash to them."""
    ids = set()
    for event in page.events:
        found: Event | Identified | Unsigned | Plain
        try:
            found = event if isinstance(event, Event | Plain) else identify(event)
        except ValueError:
            continue
        ids.add(found.id)
    return ids
