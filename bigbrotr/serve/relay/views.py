"""What the relay shows: the current view, and the archive."""

from collections.abc import AsyncIterator

from bigbrotr.core.pool import Pool
from bigbrotr.models import policy
from bigbrotr.models.query import Query
from bigbrotr.reads.events import EventReads
from bigbrotr.reads.ids import PackedIds, packed_ids
from bigbrotr.serve.relay.matching import Index
from bigbrotr.serve.relay.subscription import Subscription

CURRENT = "/"
ARCHIVE = "/archive"
SHOWN = {CURRENT: policy.View.CURRENT, ARCHIVE: policy.View.ARCHIVE}
PAGE_BYTES = 1 << 20  # of contents and tags that are read at once


class View:
    """One of the relay's addresses: what it may show, and who waits for more of it.

    This is the one place where the relay gets at events: whatever may not be shown is left out by
    `events` and by `ids`.
    """

    def __init__(self, pool: Pool, path: str) -> None:
        self.path = path
        self.events = EventReads(pool, SHOWN[path])
        self.live: Index[Subscription] = Index()
        self._pool = pool

    def ids(self, query: Query) -> AsyncIterator[PackedIds]:
        """The ids of all events that match, some at a time."""
        return packed_ids(self._pool, self.events, query, most_bytes=PAGE_BYTES)


def views_of(pool: Pool, *, with_archive: bool) -> dict[str, View]:
    """The views by path."""
    paths = (CURRENT, ARCHIVE) if with_archive else (CURRENT,)
    return {path: View(pool, path) for path in paths}
