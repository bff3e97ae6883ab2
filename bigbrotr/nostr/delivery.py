"""Events of our own, handed to a relay: each is accepted, refused with a reason, or fails."""

import asyncio
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from bigbrotr.config import Link
from bigbrotr.models.relay import Relay
from bigbrotr.nostr import message
from bigbrotr.nostr.auth import MAX_CHALLENGE, Signer, prove
from bigbrotr.nostr.contact import FRAME_BYTES, prefix_of
from bigbrotr.nostr.dial import dial
from bigbrotr.nostr.manners import Manners
from bigbrotr.nostr.message import Auth, Ok
from bigbrotr.nostr.reach import Unreached
from bigbrotr.nostr.stream import DisconnectedError, Stream

WINDOW = 20  # events on the way without an answer
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
    manners: Manners,
) -> dict[str, Delivery]:
    """Offers events, JSON by id, to a relay; what became of each. A relay that wants to know who
    we are is shown the signer's key. Each answer may take `link.timeout_s`."""
    stream = await dial(
        relay, link, max_frame_bytes=FRAME_BYTES, allow_local=allow_local, manners=manners
    )
    if isinstance(stream, Unreached):
        failed = Delivery("failed", stream.failure.value, stream.detail)
        return dict.fromkeys(events, failed)
    counter = _Counter(stream, relay.url, link.timeout_s, events, signer)
    try:
        await counter.work_off()
        left = Delivery("failed", "no-answer", f"no OK within {link.timeout_s:g} s")
    except DisconnectedError as error:
        left = Delivery("failed", "lost", str(error))
    finally:
        stream.abort()
    return {event_id: counter.settled.get(event_id, left) for event_id in events}


class _Counter:
    """One conversation in which events are handed over, a few at a time."""

    def __init__(
        self,
        stream: Stream,
        url: str,
        timeout_s: float,
        events: Mapping[str, bytes],
        signer: Signer,
    ) -> None:
        self.settled: dict[str, Delivery] = {}
        self._stream = stream
        self._url = url
        self._timeout_s = timeout_s
        self._events = events
        self._signer = signer
        self._waiting = list(events)
        self._under_way: set[str] = set()
        self._challenge = ""
        self._proof_id = ""  # of the answer that the relay has not judged yet
        self._is_known = False
        self._is_refused = False  # our answer
        self._is_answered = False  # something of ours, since the clock was set

    async def work_off(self) -> None:
        """Hands over everything; returns early when the relay says nothing of it in time.

        Raises:
            DisconnectedError: the connection has ended.
        """
        while self._waiting or self._under_way or self._proof_id:
            self._is_answered = False
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._send()
                    while not self._is_answered:
                        for frame in await self._stream.receive():
                            await self._take(frame)
            except TimeoutError:
                return

    async def _send(self) -> None:
        while self._waiting and len(self._under_way) < WINDOW and not self._proof_id:
            event_id = self._waiting.pop(0)
            self._under_way.add(event_id)
            await self._stream.send(b'["EVENT",%b]' % self._events[event_id])

    async def _take(self, frame: bytes) -> None:
        said = message.decode(frame)
        if isinstance(said, Auth) and len(said.challenge) <= MAX_CHALLENGE:
            self._challenge = said.challenge
        elif isinstance(said, Ok) and self._proof_id and said.event_id == self._proof_id:
            self._proof_id, self._is_answered = "", True
            self._is_known, self._is_refused = said.is_accepted, not said.is_accepted
        elif isinstance(said, Ok) and said.event_id in self._under_way:
            self._under_way.discard(said.event_id)
            self._is_answered = True
            await self._judge(said)

    async def _judge(self, said: Ok) -> None:
        reason = prefix_of(said.reason, "")
        if said.is_accepted:
            self.settled[said.event_id] = Delivery("accepted", reason, said.reason)
        elif reason == "auth-required" and self._may_prove():
            self._waiting.append(said.event_id)
            if not self._proof_id and not self._is_known:
                proof = prove(self._signer, self._url, self._challenge, int(time.time()))
                self._proof_id = proof.event_id
                await self._stream.send(message.authenticate(proof.event))
        elif reason in PASSING:
            self.settled[said.event_id] = Delivery("failed", reason, said.reason)
        else:
            self.settled[said.event_id] = Delivery("refused", reason or "refused", said.reason)

    def _may_prove(self) -> bool:
        """Whether showing who we are may still help: once is enough."""
        return bool(self._challenge) and not self._is_known and not self._is_refused
