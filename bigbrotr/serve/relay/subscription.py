"""A subscription: the stored events that match, and then those that come, each once."""

from bigbrotr.models.query import Query
from bigbrotr.reads.events import StoredEvent
from bigbrotr.serve.relay import messages
from bigbrotr.serve.relay.outbox import Outbox

MAX_HELD = 4 << 20  # bytes of events that come while the stored ones are sent


class Subscription:
    """One subscription of a client.

    It is told of new events from before its stored ones are read, so that none falls between; what
    comes meanwhile is held back until they are through. An event may be in both: the ids that were
    sent are kept until the log of arrivals is past all that the stored ones can have been.
    """

    __slots__ = ("_head", "_held", "_held_bytes", "_outbox", "_sent", "name", "past", "queries")

    def __init__(self, name: str, queries: list[Query], outbox: Outbox) -> None:
        self.name = name
        self.queries = queries
        self.past: int | None = None  # the transaction from which on nothing can have been sent
        self._outbox = outbox
        self._head = messages.event_head(name)
        self._held: list[tuple[bytes, bytes]] | None = []
        self._held_bytes = 0
        self._sent: set[bytes] | None = set()

    def frame(self, event: StoredEvent) -> bytes:
        """A stored event, which is going to be sent."""
        if self._sent is not None:
            self._sent.add(event.id)
        return b"%b%b]" % (self._head, event.to_json())

    def tell(self, event_id: bytes, event: bytes) -> bool:
        """Sends an event, given as JSON, that has just come; False: too many are held back."""
        if self._held is not None:
            self._held.append((event_id, event))
            self._held_bytes += len(event) + 200
            return self._held_bytes <= MAX_HELD
        if self._sent is None or event_id not in self._sent:
            self._outbox.put(b"%b%b]" % (self._head, event))
        return True

    def go_live(self) -> None:
        """Sends what was held back, and from now on what comes at once."""
        held, self._held = self._held or (), None
        for event_id, event in held:
            self.tell(event_id, event)

    def forget_sent(self) -> None:
        """Nothing that was sent can come any more."""
        self._sent = None
