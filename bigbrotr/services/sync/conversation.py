"""The conversation with one relay: dialled, and dialled again when the relay hangs up."""

from contextlib import AsyncExitStack
from typing import Self

from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.websocket import Stream
from bigbrotr.nostr.session import Session
from bigbrotr.services.sync.context import VisitContext, VisitState, is_over

MOST_RETURNS = 20  # in a visit, to a relay that hangs up


class Conversation:
    """Talks to one relay, in one session after the other; closes them at the end of the block.

    `answers` counts what the relay has answered on this connection.
    """

    def __init__(self, context: VisitContext, state: VisitState) -> None:
        self._context, self._state = context, state
        self._sessions = AsyncExitStack()
        self._stream: Stream | None = None  # once it is open
        self._session: Session | None = None
        self._returns = 0  # to a relay that hung up
        self._has_gained = True  # an answer, on this connection; or the relay has one try more
        self.answers = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sessions.aclose()

    @property
    def session(self) -> Session:
        """The newest session, which may be lost."""
        assert self._session is not None, "nobody has begun"
        return self._session

    @property
    def is_contested(self) -> bool:
        """Whether others wait for this one's place among those with the relay's address."""
        return self._stream is not None and self._stream.is_contested

    async def begin(self) -> Unreached | None:
        """Dials the relay; returns why it could not be reached, if so."""
        stream = await dial(
            self._context.relay,
            self._context.link,
            max_frame_bytes=self._context.settings.max_event_bytes,
            allow_local=self._context.config.networks.local.enabled,
            politeness=self._context.politeness,
        )
        if isinstance(stream, Unreached):
            return stream
        self._stream, self.answers = stream, 0
        session = Session(stream, self._context.relay.url, self._context.signer)
        self._session = await self._sessions.enter_async_context(session)
        return None

    async def come_back(self) -> bool:
        """Dials a relay again that has hung up: some do after each answer, or at a word that they
        don't know. Not without end, and only once where a session has brought nothing."""
        is_enough = self._returns >= MOST_RETURNS or not self._has_gained
        if is_enough or is_over(self._context, self._state):
            return False
        self._returns += 1
        if await self.begin() is not None:
            return False
        self._has_gained = False
        return True

    @property
    def has_returned(self) -> bool:
        """Whether the relay was dialled again, and has answered something since."""
        return self._has_gained and self._returns > 0

    def note_answer(self) -> None:
        """Takes note that the relay has answered something, so that a return is worth it."""
        self.answers += 1
        self._has_gained = True
