"""Events, handed to a relay: each is accepted, refused with a reason, or fails."""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from bigbrotr.config.settings import Link
from bigbrotr.models.plain import unpacked
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.politeness import Politeness
from bigbrotr.nostr.auth import Signer
from bigbrotr.nostr.message import Ok, prefix_of
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import GRACE_S, Bounds, Session, Verdicts

WINDOW = 20  # events on the way without an answer
ANSWER_BYTES = 4 << 20  # that may come until a question is answered
# The prefixes of OK (NIP-01); of others there could be any number.
FRAME_BYTES = 1 << 20
PREFIXES = frozenset(
    {
        *("duplicate", "pow", "blocked", "rate-limited", "invalid", "restricted", "mute"),
        *("error", "auth-required", "unsupported"),
    }
)
# Of OK: it may well be taken later.
PASSING = frozenset({"rate-limited", "error", "auth-required"})


Outcome: TypeAlias = Literal["accepted", "refused", "failed"]


class Delivery(NamedTuple):
    """What became of an event; a machine-readable reason, empty for a plain yes; and the relay's
    words."""

    outcome: Outcome
    reason: str = ""
    detail: str = ""


async def deliver(
    relay: Relay,
    link: Link,
    events: Mapping[str, bytes],
    signer: Signer,
    *,
    allow_local: bool,
    politeness: Politeness,
) -> dict[str, Delivery]:
    """Offers events, JSON by id, to a relay; what became of each. A relay that wants to know who
    we are is shown the signer's key. Each answer may take `link.timeout_s`."""
    stream = await dial(
        relay, link, max_frame_bytes=FRAME_BYTES, allow_local=allow_local, politeness=politeness
    )
    if isinstance(stream, Unreached):
        failed = Delivery("failed", stream.failure.value, stream.detail)
        return dict.fromkeys(events, failed)
    async with Session(stream, relay.url, signer) as session:
        return await hand_over(session, link.timeout_s, events)


async def hand_over(
    session: Session, timeout_s: float, events: Mapping[str, bytes]
) -> dict[str, Delivery]:
    """Offers events, JSON by id, in a conversation that is open; what became of each."""
    counter = _Counter(session, timeout_s, events)
    left = await counter.work_off()
    return {event_id: counter.settled.get(event_id, left) for event_id in events}


class _Counter:
    """One conversation in which events are handed over, a few at a time."""

    def __init__(self, session: Session, timeout_s: float, events: Mapping[str, bytes]) -> None:
        self.settled: dict[str, Delivery] = {}
        self._session = session
        self._bounds = Bounds(timeout_s, timeout_s, ANSWER_BYTES)
        self._events = events
        self._waiting = list(events)
        self._under_way: dict[str, None] = {}
        self._again: set[str] = set()  # were offered once more, by somebody who is known
        self._is_shown = False  # the relay has been told who we are, and has not refused that
        self._throttled = ""  # the words with which the relay asked for a pause
        self._is_mute = False  # it takes events without a word

    async def work_off(self) -> Delivery:
        """Hands over everything, as far as the relay says something of it in time; what has become
        of those that are not settled then."""
        while self._under_way or (self._waiting and not self._throttled):
            await self._send()
            said = await self._session.verdicts(self._patience())
            if not said.oks and not await self._make_do(said):
                return self._failed(said)
            await self._judge(said.oks)
        return Delivery("failed", "rate-limited", self._throttled)

    async def _send(self) -> None:
        while self._waiting and len(self._under_way) < WINDOW and not self._throttled:
            event_id = self._waiting.pop(0)
            self._under_way[event_id] = None
            await self._session.offer(event_id, self._events[event_id], self._bounds)

    def _patience(self) -> Bounds:
        """How long an answer is waited for: not for one that never comes."""
        if not self._is_mute:
            return self._bounds
        grace_s = min(GRACE_S, self._bounds.reply_s)
        return replace(self._bounds, reply_s=grace_s, page_s=grace_s)

    async def _make_do(self, said: Verdicts) -> bool:
        """Goes on without an OK: a relay may want to know who we are first, or have taken events
        without a word; whether there is something to go on with."""
        session = self._session
        if not session.is_open or not self._under_way:
            return False
        if said.reason.startswith("rate-limited"):
            self._throttled = said.reason
        elif self._may_know_us() and await self._prove():
            self._offer_again(self._under_way)
            return True
        identity = session.identity
        page = await session.fetch(
            {"ids": list(self._under_way), "limit": len(self._under_way)}, self._bounds
        )
        there = {str(event.id) for event in map(unpacked, page.events)} & set(self._under_way)
        for event_id in there:
            del self._under_way[event_id]
            self.settled[event_id] = Delivery("accepted", "", "no OK, but it is there")
        self._is_mute = bool(there)
        if there or session.has_verdicts:
            return True
        is_new = session.identity not in (None, identity)  # it has asked who we are meanwhile
        if is_new and not self._again.issuperset(self._under_way):
            self._is_shown = True
            self._offer_again(self._under_way)
            return True
        prefix = _known(said.reason)
        if said.end is End.CLOSED and prefix and prefix not in PASSING:
            for event_id in self._under_way:
                self.settled[event_id] = Delivery("refused", prefix, said.reason)
            self._under_way.clear()
            return True
        return False

    def _failed(self, said: Verdicts) -> Delivery:
        """What has become of events on which nothing was said."""
        if not self._session.is_open:
            return Delivery("failed", "lost", self._session.lost)
        if said.end is not End.CLOSED:
            detail = f"no OK within {self._bounds.reply_s:g} s"
            if self._session.notice:
                detail += f"; {self._session.notice}"
            return Delivery("failed", "no-answer", detail)
        words = self._with_words(said.reason)
        return Delivery("failed", _known(said.reason) or "notice", words)

    async def _judge(self, oks: Collection[Ok]) -> None:
        """Takes note of what was said, and says who we are where that is asked for."""
        turned_away: dict[str, None] = {}
        for ok in oks:
            self._under_way.pop(ok.event_id, None)
            reason = _known(ok.reason)
            if ok.is_accepted:
                self.settled[ok.event_id] = Delivery("accepted", reason, ok.reason)
                continue
            if reason == "auth-required" and ok.event_id not in self._again:
                turned_away[ok.event_id] = None
            if reason == "rate-limited":
                self._throttled = self._throttled or ok.reason
            outcome: Outcome = "failed" if reason in PASSING else "refused"
            self.settled[ok.event_id] = Delivery(outcome, reason or "refused", ok.reason)
        if not turned_away:
            return
        if (self._is_shown and not self._session.is_challenged) or await self._prove():
            self._offer_again(turned_away)
            return
        for event_id in turned_away:
            outcome, reason, detail = self.settled[event_id]
            self.settled[event_id] = Delivery(outcome, reason, self._with_words(detail))

    def _may_know_us(self) -> bool:
        """Whether the relay wants to know who we are, and some of what is under way was offered by
        nobody that it knows."""
        return self._session.is_challenged and not self._again.issuperset(self._under_way)

    async def _prove(self) -> bool:
        self._is_shown = await self._session.authenticate(self._bounds)
        return self._is_shown

    def _offer_again(self, event_ids: Collection[str]) -> None:
        """Offers events once more, ahead of the others."""
        self._again.update(event_ids)
        self._waiting[:0] = event_ids
        for event_id in list(event_ids):
            self.settled.pop(event_id, None)
            self._under_way.pop(event_id, None)

    def _with_words(self, detail: str) -> str:
        words = self._session.auth_words
        return f"{detail}; our AUTH: {words}" if words else detail


def _known(reason: str) -> str:
    """The prefix of an OK, if it is one that the protocol knows."""
    prefix = prefix_of(reason, "")
    return prefix if prefix in PREFIXES else ""
