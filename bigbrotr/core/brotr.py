"""The database in the words of the domain: each change is one call of a stored function."""

import asyncio
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import asyncpg
import msgspec

from bigbrotr.config import TOMBSTONE_S
from bigbrotr.core.figures import Sample
from bigbrotr.core.pool import Connection, Pool
from bigbrotr.errors import LeaseLostError
from bigbrotr.models.coverage import Gap, How, Proof, Span
from bigbrotr.models.event import Event, EventRelay, storable, tag_values
from bigbrotr.models.mentions import mentioned
from bigbrotr.models.metadata import RelayMetadata
from bigbrotr.models.relay import Network, Relay

T = TypeVar("T")

UPKEEP_S = 86_400.0  # for what reads every partition
OLD_TRANSACTIONS = 1_000_000_000  # of the 2**31 that there are; autovacuum acts at a fifth of it
DEAD_ROWS = 100_000  # fewer are never worth a word
TRIES = 5  # of a call that met a deadlock: each function may be repeated
BROKEN_OFF = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.ForeignKeyViolationError,  # a relay or a document was deleted in between
)
LEASE_LOST = "BB001"  # raised by record_coverage
WINDOW_CHANGED = "BB002"  # raised by mark_window
TURN_S = 5  # a page takes some hundredths of a second
TURN = 0x62_69_67_74_75_72_6E  # "bigturn": an advisory lock
WALK = ("finder", "walk", "archive")  # where service data says how far it is; ordered by migrations


class Visit(NamedTuple):
    """A claimed relay: what the synchronizer is to do there."""

    relay_id: int
    url: str
    epoch: int  # the fence: a holder of an older one is refused
    pairs: int  # archived events that it is known to hold
    missing: list[tuple[int, int]]  # half-open spans of Unix seconds, oldest first
    wanted: tuple[int, int]  # the span that they are missing of
    stale: Sequence[tuple[int, int]] = ()  # proven so long ago that they are looked at again
    may_reconcile: bool = False  # whether it speaks NIP-77, or that is to be tried
    most_items: int | None = None  # how many events a window may hold, if it has refused more


class Patience(NamedTuple):
    """After how many seconds what is proven is looked at again: see `stale_spans` in sql/."""

    audit_s: int = 2**40
    lookback_s: int = 0
    rewalk_s: int = 0  # 0: never


ENDLESS = Patience()


class Window(NamedTuple):
    """What a reconciliation found out about one window of a relay's past."""

    span: Span
    digest_span: Span  # this window, maybe with the one before it ...
    items: int  # ... in which the relay holds so many events
    sum: bytes  # of their ids: 32 bytes, little-endian
    withheld: Sequence[bytes] = ()  # of its ids, those that it does not hand over
    dropped: Sequence[tuple[int, bytes]] = ()  # (created_at, id) that it held, and no longer does


class Wanted(NamedTuple):
    """Which events of a relay are wanted: half-open in Unix seconds, and a filter's key."""

    since: int
    until: int
    filter: str = ""
    by_ids: bool = True  # whether to compare ids with relays that can


class Rejected(NamedTuple):
    """Events of one relay that were refused for one reason."""

    reason: str
    times: int
    sample: bytes


class Sighting(NamedTuple):
    """A relay that was named: where, and how often."""

    relay: Relay
    source: str
    times: int = 1  # 0: by whoever repeats itself; an unknown one becomes a candidate all the same


class Walk(NamedTuple):
    """How far the archive from before the queue of sightings has been looked through."""

    until: int  # what was first seen from then on has passed the queue
    created_at: int  # the last event that was looked at
    id: str  # in hex


class Archived(NamedTuple):
    """What an archived event may name relays in; `tags` is JSON."""

    created_at: int
    id: bytes
    kind: int
    tags: str
    content: str
    seen_at: int  # first


class DueCheck(NamedTuple):
    """A claimed relay that is to be checked, and what is known of it."""

    relay_id: int
    relay: Relay
    epoch: int  # the fence: a holder of an older one is refused
    state: str  # unknown, up, down
    suspect_at: int | None  # a first time-out that nothing has confirmed yet
    published_at: int | None
    published_digest: bytes | None


class Rtts(NamedTuple):
    """What a check measured in numbers: milliseconds, and the seconds that an address holds."""

    dns_ms: float | None = None
    tcp_ms: float | None = None
    tls_ms: float | None = None
    upgrade_ms: float | None = None
    read_ms: float | None = None
    write_ms: float | None = None
    ttl_s: int | None = None


class Post(NamedTuple):
    """An event of ours for a relay; it replaces an older one of the same kind and `d`."""

    target: str
    kind: int
    d: str
    event: str


class CheckResult(NamedTuple):
    """What a check came to; the verdict is one of those of `record_checks` in sql/."""

    due: DueCheck
    verdict: str
    outcome: str
    detail: str = ""
    failed: Mapping[str, str] = {}
    rtts: Rtts = Rtts()
    snapshots: Sequence[RelayMetadata] = ()
    raws: Sequence[tuple[bytes, bytes]] = ()  # (id of the metadata, the bytes that came)
    digest: bytes | None = None  # of the announcement in `posts`
    posts: Sequence[Post] = ()


class Letter(NamedTuple):
    """An event on its way to a relay."""

    id: int
    version: int
    target: str
    event: str
    attempts: int


class Resolution(NamedTuple):
    """What a try of a candidate came to, in the words of `resolve_candidates` in sql/."""

    url: str
    verdict: str  # 'relay', 'failed', 'postponed' or 'alias'
    outcome: str
    detail: str = ""
    wait_s: float = 0.0  # to leave it alone at least
    target: str = ""  # of an alias: the URL of the relay


class Totals(NamedTuple):
    """What is in the database."""

    relays: int
    candidates: int
    events: int
    pairs: int
    gaps: int
    rejected: int


class Monitoring(NamedTuple):
    """What the monitor knows: relays by state, and what was measured since some time."""

    relays: int
    up: int
    down: int
    checked: int  # since then, by the newest verdict of each, as are the following
    open: int
    readable: int  # answered a question
    writable: int  # took an event
    open_ms: float | None  # the median; None: nothing was open
    newest_at: int | None  # when the newest verdict of all was, in Unix seconds
    undelivered: int  # events of our own


class Brotr:
    """The database in the words of the domain, over a pool.

    Times are Unix seconds. Batches of any size are taken and split at `max_batch_size`.
    """

    def __init__(self, pool: Pool, *, notes_sightings: bool = True) -> None:
        self.pool = pool
        self.notes_sightings = notes_sightings  # of relays that new events name, for the finder
        self._kept: frozenset[str] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the tables that `Pool.from_dict` takes."""
        return cls(Pool.from_dict(values))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """From the tables [database] and [pool] of a configuration file."""
        return cls(Pool.from_toml(path))

    async def __aenter__(self) -> Self:
        await self.pool.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()

    @property
    def max_batch_size(self) -> int:
        """Rows that go into one call."""
        return self.pool.settings.max_batch_size

    # Events

    async def insert_events(self, pairs: Sequence[EventRelay]) -> tuple[int, int]:
        """Stores events, the relays that hold them and the pairs of both.

        Each batch of `max_batch_size` is stored whole or not at all. Returns how many events were
        new and how many were not.
        """
        inserted = 0
        for batch in self._batches(pairs):
            inserted += await self._insert_batch(batch)
        return inserted, len(pairs) - inserted

    async def _insert_batch(self, batch: Sequence[EventRelay]) -> int:
        kept = await self._kept_columns()

        async def store(connection: Connection) -> int:
            ids = await _relay_ids(connection, {pair.relay for pair in batch})
            inserted = 0
            if len(ids) > 1:  # several runs through the keys: no common order with other writers
                await connection.execute("SELECT public.lock_presence(true)")
            ordered = sorted(
                batch,
                key=lambda p: (ids[p.relay.url], p.event.created_at, p.event.id, -p.seen_at),
            )
            for relay_id, group in groupby(ordered, key=lambda p: ids[p.relay.url]):
                seen = {pair.event: pair.seen_at for pair in group}  # the earliest comes last
                new_events, _ = await _insert_events(
                    connection,
                    relay_id,
                    list(seen),
                    list(seen.values()),
                    kept,
                    self.notes_sightings,
                )
                inserted += new_events
            return inserted

        return await self._transact(store)

    async def note_presence(
        self, relay_id: int, keys: Sequence[tuple[int, bytes]], seen_at: int
    ) -> list[int]:
        """Notes that a relay holds those of the events that are archived.

        `keys` are (created_at, id), sorted. Returns the positions of the others.
        """
        unknown = await self._retry(
            lambda: self.pool.fetchval(
                "SELECT public.note_presence($1, $2, $3, $4)",
                relay_id,
                [key[0] for key in keys],
                [key[1] for key in keys],
                seen_at,
            )
        )
        return [position - 1 for position in unknown]

    async def store_page(
        self,
        visit: Visit,
        events: Sequence[Event],
        *,
        proofs: Sequence[Proof] = (),
        gaps: Sequence[Gap] = (),
        rejected: Sequence[Rejected] = (),
        identity: str | None = None,
        now: int,
    ) -> tuple[int, int]:
        """Stores what one page brought and what it proved, in one transaction.

        `events` are sorted by (created_at, id). `identity` is the public key, in hex, with which
        the relay answered, if it insisted on one. Returns how many events and pairs were new.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was stored.
        """
        kept = await self._kept_columns()

        async def store(connection: Connection) -> tuple[int, int]:
            counts = (0, 0)
            if events:
                counts = await _insert_events(
                    connection,
                    visit.relay_id,
                    events,
                    [now] * len(events),
                    kept,
                    self.notes_sightings,
                )
            if rejected:
                await connection.execute(
                    "SELECT public.record_rejected($1, $2, $3, $4, $5)",
                    visit.relay_id,
                    *_columns(rejected, 3),
                    now,
                )
            # Last, and always: it is the fence.
            await _record_coverage(connection, visit, proofs, gaps, identity, now)
            return counts

        return await self._transact(store)

    # Reconciliation

    async def read_ids(
        self,
        span: Span,
        after: bytes,
        limit: int,
        *,
        kinds: Collection[int] | None = None,
        authors: Collection[str] | None = None,
        held_by: int | None = None,
    ) -> tuple[bytes, bytes]:
        """The archived ids of a span in the order (created_at, id), or those that the relay of the
        number `held_by` is known to hold: at most `limit`, after the id `after` of its first
        second. Their times, 8 bytes each, most significant first, and they themselves, 32 each.
        """
        conditions = (
            span.since,
            span.until,
            after,
            limit,
            None if kinds is None else sorted(kinds),
            None if authors is None else [bytes.fromhex(author) for author in sorted(authors)],
        )
        if held_by is None:
            query = "SELECT * FROM public.read_ids($1, $2, $3, $4, $5, $6)"
            row = await self.pool.fetchrow(query, *conditions)
        else:
            query = "SELECT * FROM public.read_held_ids($1, $2, $3, $4, $5, $6, $7)"
            row = await self.pool.fetchrow(query, held_by, *conditions)
        assert row is not None
        return row["created_ats"] or b"", row["ids"] or b""

    async def find_events(self, ids: Sequence[bytes], span: Span) -> list[int | None]:
        """When the events of these ids were created; None for those not archived in the span."""
        if not ids:
            return []
        found: list[int | None] = await self.pool.fetchval(
            "SELECT public.find_events($1, $2, $3)", ids, *span
        )
        return found

    async def digests(self, visit: Visit, filter: str) -> list[tuple[Span, int, bytes]]:  # noqa: A002
        """What the relay was found to hold by window, oldest first: span, number, sum of ids."""
        rows = await self.pool.fetch(
            "SELECT span, items, sum FROM public.digests"
            " WHERE relay_id = $1 AND filter = $2 ORDER BY span",
            visit.relay_id,
            filter,
        )
        return [(Span(row[0].lower, row[0].upper), row[1], row[2]) for row in rows]

    async def withheld(self, visit: Visit, span: Span) -> dict[bytes, tuple[int, int]]:
        """What the relay has not handed over in a span, by id: how often it was asked in vain, and
        when it is to be asked again."""
        rows = await self.pool.fetch(
            "SELECT event_id, attempts, due_at FROM public.withheld"
            " WHERE relay_id = $1 AND span && $2",
            visit.relay_id,
            asyncpg.Range(*span),
        )
        return {row["event_id"]: (row["attempts"], row["due_at"]) for row in rows}

    async def note_withheld(
        self, visit: Visit, reasons: Mapping[bytes, str], span: Span, *, is_final: bool = True
    ) -> int:
        """Notes events that the relay did not hand over, by id, and why. They wait for longer each
        time; not at all if that is not final."""
        return await self._count(
            "SELECT public.note_withheld($1, $2, $3, $4, $5, $6)",
            visit.relay_id,
            list(reasons),
            list(reasons.values()),
            asyncpg.Range(*span),
            is_final,
            int(time.time()),
        )

    async def note_reconciliation(
        self, visit: Visit, outcome: str, detail: str, *, due_at: int, most_items: int | None
    ) -> None:
        """Notes what came of trying NIP-77: 'works', 'refused', 'silent', 'broken' or 'lies'."""
        await self.pool.execute(
            "SELECT public.note_reconciliation($1, $2, $3, $4, $5, $6)",
            visit.relay_id,
            outcome,
            storable(detail)[:500],
            due_at,
            most_items,
            int(time.time()),
        )

    async def distrust(self, visit: Visit) -> int:
        """Takes back what a relay's reconciliations have told us; returns how many pairs."""
        return await self._count("SELECT public.distrust($1)", visit.relay_id, timeout=UPKEEP_S)

    async def mark_window(
        self, visit: Visit, span: Span, expected: int, absent: Sequence[bytes]
    ) -> int | None:
        """Notes that the relay holds all archived events of a span but for the ids `absent`.

        Returns how many of these pairs are new; None, and nothing is noted, unless the span holds
        as many events as `expected`: name those that the relay holds to `note_presence` then.
        """
        arguments = (visit.relay_id, *span, expected, absent, int(time.time()))
        try:
            return await self._count(
                "SELECT public.mark_window($1, $2, $3, $4, $5, $6)", *arguments
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate == WINDOW_CHANGED:
                return None
            raise

    async def record_window(
        self,
        visit: Visit,
        window: Window,
        *,
        filter: str,  # noqa: A002 -- the field's own word
        identity: str | None,
        now: int,
    ) -> int:
        """Records what a reconciliation found out, and that the window is proven, in one
        transaction. Which archived events the relay holds is noted before. Returns how many pairs
        have ended.

        Raises:
            LeaseLostError: another process has taken over the relay; nothing was recorded.
        """

        async def record(connection: Connection) -> int:
            ended = 0
            span = asyncpg.Range(*window.span)
            if window.dropped:
                ended = await connection.fetchval(
                    "SELECT public.note_drops($1, $2, $3, $4)",
                    visit.relay_id,
                    *_columns(window.dropped, 2),
                    now,
                )
            await connection.execute(
                "SELECT public.forget_withheld($1, $2, $3)", visit.relay_id, span, window.withheld
            )
            await connection.execute(
                "SELECT public.keep_digest($1, $2, $3, $4, $5)",
                visit.relay_id,
                filter,
                asyncpg.Range(*window.digest_span),
                window.items,
                window.sum,
            )
            proof = Proof(window.span, How.RECONCILIATION)
            await _record_coverage(connection, visit, [proof], [], identity, now)
            return ended

        return await self._transact(record)

    async def whereabouts(self, event_id: bytes) -> list[asyncpg.Record]:
        """What is known of each relay and an event: the rows of `whereabouts` in sql/."""
        return await self.pool.fetch("SELECT * FROM public.whereabouts($1)", event_id)

    async def event(self, event_id: bytes) -> asyncpg.Record | None:
        """An archived event by its id, as the columns of `events` have it."""
        return await self.pool.fetchrow("SELECT * FROM public.events WHERE id = $1", event_id)

    async def delete_orphan_events(self) -> int:
        """Deletes the events that no relay of ours holds; returns how many."""
        return await self._count("SELECT public.delete_orphan_events()", timeout=UPKEEP_S)

    # Relays and candidates

    async def insert_relays(self, relays: Sequence[Relay]) -> int:
        """Adds relays; returns how many were new."""
        now = int(time.time())
        added = 0
        for batch in self._batches(relays):
            added += await self._count(
                "SELECT public.insert_relays($1, $2, $3)",
                [relay.url for relay in batch],
                [relay.network.value for relay in batch],
                [_discovered_at(relay, now) for relay in batch],
            )
        return added

    async def delete_orphan_relays(self) -> int:
        """Deletes the relays of which no event and no snapshot is known; returns how many."""
        return await self._count("SELECT public.delete_orphan_relays()", timeout=UPKEEP_S)

    async def insert_candidates(
        self, relays: Iterable[Relay], source: str, *, is_typed: bool = False
    ) -> int:
        """Adds what people have listed, due at once; known ones keep their history.

        `is_typed` just now: then it is no obstacle that one was given up. Returns how many are new.
        """
        sightings = [Sighting(relay, source, 0) for relay in relays]
        return await self._transact(
            lambda connection: self._insert_sightings(
                connection, sightings, None, is_typed=is_typed
            )
        )

    async def absorb_sightings(
        self, limit: int, networks: Collection[Network], max_per_host: int
    ) -> tuple[int, int, int]:
        """Takes up to `limit` pages of what new events name out of the queue, into candidates.

        Relays of other networks are left out. Returns how many pages, how many names and how many
        new candidates there were.
        """

        async def absorb(connection: Connection) -> tuple[int, int, int]:
            pages = await connection.fetch("SELECT * FROM public.take_sightings($1)", limit)
            sources: dict[str, str] = {}
            times: Counter[str] = Counter()
            for page in pages:
                for url, source, count in zip(*page.values(), strict=True):
                    sources.setdefault(url, source)
                    times[url] += count
            found = [
                Sighting(relay, sources[relay.url], times[relay.url])
                for relay in await asyncio.to_thread(_valid_relays, times)  # there may be many
                if relay.network in networks
            ]
            new = await self._insert_sightings(connection, found, max_per_host)
            return len(pages), times.total(), new

        return await self._transact(absorb)

    async def read_walk(self) -> Walk | None:
        """How far the walk through the archive is, None when there is nothing to walk."""
        for row in await self.get_service_data(*WALK):
            return Walk(**row["value"])
        return None

    async def read_archive(self, walk: Walk, limit: int) -> list[Archived]:
        """The next `limit` archived events of a walk; none in an archive without tags."""
        if "tags" not in await self._kept_columns():
            return []
        rows = await self.pool.fetch(
            # Presence is probed for each event: a join would read all of it for each batch.
            "SELECT e.*, coalesce(("
            "  SELECT public.unpack_seen(p.seen_ats[1]) FROM public.presence p"
            "  WHERE p.created_at = e.created_at AND p.event_id = e.id), 0) AS seen_at"
            " FROM (SELECT created_at, id, kind, tags, content FROM public.events"
            "  WHERE (created_at, id) > ($1, $2) ORDER BY created_at, id LIMIT $3) AS e"
            " ORDER BY e.created_at, e.id",
            walk.created_at,
            bytes.fromhex(walk.id),
            limit,
        )
        return [Archived(*row) for row in rows]

    async def advance_walk(
        self, walk: Walk, goal: Walk | None, sightings: Sequence[Sighting], max_per_host: int
    ) -> int:
        """Adds what was found between two places of a walk, and moves it; None ends it.

        In one transaction, and only once: nothing is done when somebody else has moved it
        meanwhile. Returns how many candidates are new.
        """

        async def advance(connection: Connection) -> int:
            # The order of the keys in a jsonb is PostgreSQL's: compared decoded.
            row = await connection.fetchval(
                "SELECT data FROM public.service_data WHERE service_name = $1 AND data_type = $2"
                " AND data_key = $3 FOR UPDATE",
                *WALK,
            )
            if row is None or Walk(**msgspec.json.decode(row)) != walk:
                return 0
            if goal is None:
                await connection.execute(
                    "SELECT public.delete_service_data($1, $2, $3)", *([part] for part in WALK)
                )
            else:
                await connection.execute(
                    "SELECT public.upsert_service_data($1, $2, $3, $4, $5)",
                    *([part] for part in WALK),
                    [msgspec.json.encode(goal._asdict()).decode()],
                    int(time.time()),
                )
            return await self._insert_sightings(connection, sightings, max_per_host)

        return await self._transact(advance)

    async def add_sightings(self, sightings: Sequence[Sighting], max_per_host: int) -> int:
        """Adds what was named elsewhere than in archived events; returns how many are new.

        `max_per_host` bounds the addresses of one host with a path or a port of their own.
        """
        return await self._transact(
            lambda connection: self._insert_sightings(connection, sightings, max_per_host)
        )

    async def _insert_sightings(
        self,
        connection: Connection,
        sightings: Sequence[Sighting],
        max_per_host: int | None,
        *,
        is_typed: bool = False,
    ) -> int:
        now = int(time.time())
        added = 0
        for batch in self._batches(sightings):
            added += await connection.fetchval(
                "SELECT public.insert_candidates($1, $2, $3, $4, $5, $6, $7)",
                [each.relay.url for each in batch],
                [each.relay.network.value for each in batch],
                [each.source for each in batch],
                [each.times for each in batch],
                max_per_host,
                is_typed,
                now,
            )
        return added

    async def claim_candidates(
        self, network: Network, *, limit: int, max_attempts: int, owner: str, lease_s: float
    ) -> list[Relay]:
        """Candidates of a network that are due; they are nobody else's within the lease."""
        rows = await self.pool.fetch(
            "SELECT url FROM public.claim_candidates($1, $2, $3, $4, $5, $6)",
            [network.value],
            limit,
            max_attempts,
            owner,
            int(lease_s),
            int(time.time()),
        )
        relays, invalid = [], []
        for row in rows:
            try:
                relays.append(Relay(row["url"]))
            except ValueError as error:  # written by hand, or by a release with other rules
                invalid.append(Resolution(row["url"], "failed", "invalid-url", str(error)))
        await self.resolve_candidates(invalid)
        return relays

    async def resolve_candidates(self, tried: Sequence[Resolution]) -> int:
        """Records what became of candidates; returns how many became relays."""
        if not tried:
            return 0
        urls, verdicts, outcomes, details, waits, targets = _columns(tried, 6)
        return await self._count(
            "SELECT public.resolve_candidates($1, $2, $3, $4, $5, $6, $7)",
            urls,
            verdicts,
            outcomes,
            [storable(detail)[:500] for detail in details],
            [int(wait) for wait in waits],
            targets,
            int(time.time()),
        )

    async def retire_relays(self, after_s: float, failures: int = 5) -> int:
        """Makes candidates again of relays whose visits have only failed, `failures` times or more
        and for `after_s`; what is archived of them stays. Returns how many."""
        return await self._count(
            "SELECT public.retire_relays($1, $2, $3)", int(after_s), failures, int(time.time())
        )

    async def relays_at(self, origins: Sequence[str]) -> list[Relay]:
        """The relays on hosts, whatever their paths; `origins` are URLs without one."""
        rows = await self.pool.fetch(
            "SELECT r.url FROM public.relays r JOIN public.visits v ON v.relay_id = r.id"
            " WHERE v.rests_since IS NULL AND EXISTS (SELECT FROM unnest($1::text[]) AS o (url)"
            " WHERE r.url = o.url OR starts_with(r.url, o.url || '/')) ORDER BY r.url",
            list(origins),
        )
        return _valid_relays(row["url"] for row in rows)

    async def some_relays(self, network: Network, limit: int) -> list[Relay]:
        """A few relays of a network, by chance."""
        rows = await self.pool.fetch(
            "SELECT url FROM public.relays WHERE network = $1 ORDER BY random() LIMIT $2",
            network.value,
            limit,
        )
        return _valid_relays(row["url"] for row in rows)

    async def delete_failed_candidates(
        self, max_attempts: int, tombstone_s: float = TOMBSTONE_S
    ) -> int:
        """Gives up the candidates that failed `max_attempts` times or more; returns how many.

        For `tombstone_s` seconds nothing but a person makes them candidates again.
        """
        return await self._count(
            "SELECT public.delete_failed_candidates($1, $2, $3)",
            max_attempts,
            int(tombstone_s),
            int(time.time()),
        )

    # Visits

    async def claim_visits(
        self,
        networks: Sequence[Network],
        *,
        limit: int,
        owner: str,
        lease_s: float,
        since: int,
        until: int,
        filter: str = "",  # noqa: A002 -- the field's own word
        by_ids: bool = True,
        apart: Mapping[str, Wanted] | None = None,
        refused: Collection[str] = (),
        patience: Patience = ENDLESS,
    ) -> list[Visit]:
        """Relays that are due, but for the URLs `refused`, each with what is missing within
        [since, until) for the conditions `filter`; `apart` says what else is wanted by URL."""
        apart = apart or {}
        sinces, untils, filters, by_idss = _columns(list(apart.values()), 4)
        rows = await self.pool.fetch(
            "SELECT * FROM public.claim_visits"
            "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
            [network.value for network in networks],
            limit,
            owner,
            int(lease_s),
            since,
            until,
            filter,
            by_ids,
            list(refused),
            list(apart),
            sinces,
            untils,
            filters,
            by_idss,
            *patience,
            int(time.time()),
        )
        return [
            Visit(
                row["relay_id"],
                row["url"],
                row["epoch"],
                row["pairs"],
                _spans(row["missing"]),
                apart[row["url"]][:2] if row["url"] in apart else (since, until),
                _spans(row["stale"]),
                row["may_reconcile"],
                row["most_items"],
            )
            for row in rows
        ]

    async def renew_visit(
        self,
        visit: Visit,
        *,
        lease_s: float,
        until: int,
        by_ids: bool = True,
        patience: Patience = ENDLESS,
    ) -> Visit:
        """The same visit with a prolonged lease, and what is missing and stale up to `until`.

        Raises:
            LeaseLostError: another process has taken over the relay.
        """
        since = visit.wanted[0]
        row = await self.pool.fetchrow(
            "SELECT * FROM public.renew_visit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            visit.relay_id,
            visit.epoch,
            int(lease_s),
            since,
            until,
            by_ids,
            *patience,
            int(time.time()),
        )
        if row is None:
            raise LeaseLostError(f"{visit.url} has passed to another process")
        return visit._replace(
            missing=_spans(row["missing"]), stale=_spans(row["stale"]), wanted=(since, until)
        )

    async def finish_visit(
        self, visit: Visit, verdict: str, *, next_at: int, outcome: str, detail: str = ""
    ) -> bool:
        """Ends a visit as 'done', 'failed' or 'unfinished'; False when the lease has passed on."""
        return bool(
            await self.pool.fetchval(
                "SELECT public.finish_visit($1, $2, $3, $4, $5, $6, $7)",
                visit.relay_id,
                visit.epoch,
                verdict,
                next_at,
                outcome,
                storable(detail)[:500],
                int(time.time()),
            )
        )

    async def release_leases(self, owner: str) -> int:
        """Gives back what `owner` held when it crashed; returns how much."""
        return await self._count("SELECT public.release_leases($1, $2)", owner, int(time.time()))

    async def next_visit_at(
        self, networks: Sequence[Network], refused: Collection[str] = ()
    ) -> int | None:
        """When the next relay is due, but for the URLs `refused`; None without relays."""
        due: int | None = await self.pool.fetchval(
            "SELECT public.next_visit_at($1, $2)",
            [network.value for network in networks],
            list(refused),
        )
        return due

    # Metadata

    async def insert_relay_metadata(self, snapshots: Sequence[RelayMetadata]) -> int:
        """Adds snapshots of relays, and the relays; returns how many snapshots were new."""
        added = 0
        for batch in self._batches(snapshots):

            async def store(connection: Connection, batch: Sequence[RelayMetadata] = batch) -> int:
                await _relay_ids(connection, {snapshot.relay for snapshot in batch})
                count: int = await connection.fetchval(_INSERT_METADATA, *_snapshot_columns(batch))
                return count

            added += await self._transact(store)
        return added

    async def claim_checks(
        self, network: Network, *, limit: int, owner: str, lease_s: float
    ) -> list[DueCheck]:
        """Relays of a network that are due for a check; nobody else's within the lease."""
        rows = await self.pool.fetch(
            "SELECT * FROM public.claim_checks($1, $2, $3, $4, $5)",
            [network.value],
            limit,
            owner,
            int(lease_s),
            int(time.time()),
        )
        relays = {relay.url: relay for relay in _valid_relays(row["url"] for row in rows)}
        return [
            DueCheck(row["relay_id"], relays[row["url"]], *list(row.values())[2:])
            for row in rows
            if row["url"] in relays
        ]

    async def record_checks(self, results: Sequence[CheckResult], every_s: float) -> int:
        """Records what checks came to, with their documents and the events that were made of them,
        in one transaction a batch. `every_s`: until a relay that is up is checked again. Returns
        how many were recorded: those whose lease had not passed on."""
        recorded = 0
        for batch in self._batches(results):

            async def store(
                connection: Connection, batch: Sequence[CheckResult] = batch
            ) -> Sequence[CheckResult]:
                ids = await self._record_verdicts(connection, batch, every_s)
                ours = [result for result in batch if result.due.relay_id in ids]
                await self._record_documents(connection, ours)
                return ours

            recorded += len(await self._transact(store))
        return recorded

    async def _record_verdicts(
        self, connection: Connection, batch: Sequence[CheckResult], every_s: float
    ) -> set[int]:
        return set(
            await connection.fetchval(
                "SELECT public.record_checks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,"
                " $13, $14, $15, $16)",
                [result.due.relay_id for result in batch],
                [result.due.epoch for result in batch],
                [result.verdict for result in batch],
                [result.outcome for result in batch],
                [storable(result.detail)[:500] for result in batch],
                [msgspec.json.encode(dict(result.failed)).decode() for result in batch],
                *_columns([result.rtts for result in batch], 7),
                [result.digest for result in batch],
                int(every_s),
                int(time.time()),
            )
        )

    async def _record_documents(
        self, connection: Connection, results: Sequence[CheckResult]
    ) -> None:
        if snapshots := [each for result in results for each in result.snapshots]:
            await connection.execute(_INSERT_METADATA, *_snapshot_columns(snapshots))
        if raws := [each for result in results for each in result.raws]:
            await connection.execute(
                "SELECT public.insert_raw_metadata($1, $2)", *_columns(raws, 2)
            )
        if posts := [each for result in results for each in result.posts]:
            await _post(connection, posts)

    async def some_relays_up(
        self, network: Network, apart: Sequence[int], limit: int
    ) -> list[Relay]:
        """A few relays that were up when they were last looked at, but for the numbers `apart`."""
        urls = await self.pool.fetch(
            "SELECT url FROM public.some_relays_up($1, $2, $3) AS url", network.value, apart, limit
        )
        return _valid_relays(row["url"] for row in urls)

    async def post_events(self, posts: Sequence[Post]) -> None:
        """Puts events of ours into the outbox, each in the place of what it replaces."""
        for batch in self._batches(posts):

            async def store(connection: Connection, batch: Sequence[Post] = batch) -> None:
                await _post(connection, batch)

            await self._transact(store)

    async def claim_letters(
        self, *, targets: int, limit: int, owner: str, lease_s: float
    ) -> list[Letter]:
        """Events that are due, of at most so many targets; nobody else's within the lease."""
        rows = await self.pool.fetch(
            "SELECT * FROM public.claim_outbox($1, $2, $3, $4, $5)",
            targets,
            limit,
            owner,
            int(lease_s),
            int(time.time()),
        )
        return [Letter(*row) for row in rows]

    async def settle_letters(
        self, settled: Sequence[tuple[Letter, str, str, str]], max_attempts: int
    ) -> int:
        """Records (letter, outcome, reason, detail) of each that was claimed: 'accepted',
        'refused' or 'failed'. Returns how many have left the outbox."""
        if not settled:
            return 0
        return await self._count(
            "SELECT public.settle_outbox($1, $2, $3, $4, $5, $6, $7, $8)",
            [letter.id for letter, *_ in settled],
            [letter.version for letter, *_ in settled],
            [letter.target for letter, *_ in settled],
            [outcome for _, outcome, _, _ in settled],
            [reason for _, _, reason, _ in settled],
            [storable(detail)[:500] for *_, detail in settled],
            max_attempts,
            int(time.time()),
        )

    async def release_monitoring(self, owner: str) -> int:
        """Gives back the checks and events that `owner` held when it crashed; returns how many."""
        now = int(time.time())
        return await self._count(
            "SELECT public.release_checks($1, $2) + public.release_outbox($1, $2)", owner, now
        )

    async def delete_old_measurements(self, before: int) -> int:
        """Deletes what was measured before a time, but for the newest of each relay and type, and
        the documents that nothing names any more; returns how many rows."""
        gone = await self._count(
            "SELECT public.delete_old_measurements($1)", before, timeout=UPKEEP_S
        )
        return gone + await self.delete_orphan_metadata()

    async def delete_orphan_metadata(self) -> int:
        """Deletes the documents that no snapshot names; returns how many."""
        return await self._count("SELECT public.delete_orphan_metadata()", timeout=UPKEEP_S)

    async def refresh_metadata_latest(self) -> None:
        """Rebuilds the newest snapshots from the time series."""
        await self.pool.execute("SELECT public.refresh_metadata_latest()")

    async def cleanup_orphans(self, include_relays: bool = True) -> dict[str, int]:
        """Deletes what nothing refers to: {"metadata": n, "events": n, "relays": n}."""
        return {
            "metadata": await self.delete_orphan_metadata(),
            "events": await self.delete_orphan_events(),
            "relays": await self.delete_orphan_relays() if include_relays else 0,
        }

    # Service data

    async def backoff_s(self, failures: int) -> int:
        """Seconds to wait after so many failures in a row: growing, and never quite the same."""
        seconds: int = await self.pool.fetchval("SELECT public.backoff_s($1)", failures)
        return seconds

    async def upsert_service_data(self, records: Sequence[tuple[str, str, str, Any]]) -> int:
        """Writes (service, type, key, value); values are JSON. Returns how many keys."""
        now = int(time.time())
        written = 0
        for batch in self._batches(records):
            services, types, keys, values = _columns(batch, 4)
            written += await self._count(
                "SELECT public.upsert_service_data($1, $2, $3, $4, $5)",
                services,
                types,
                keys,
                [msgspec.json.encode(value).decode() for value in values],
                now,
            )
        return written

    async def get_service_data(
        self,
        service: str,
        type: str,  # noqa: A002 -- the contract's name
        key: str | None = None,
    ) -> list[dict[str, Any]]:
        """[{"key", "value", "updated_at"}] of a service and type, by key."""
        rows = await self.pool.fetch(
            "SELECT data_key, data, updated_at FROM public.service_data"
            " WHERE service_name = $1 AND data_type = $2 AND ($3::text IS NULL OR data_key = $3)"
            " ORDER BY data_key",
            service,
            type,
            key,
        )
        return [
            {
                "key": row["data_key"],
                "value": msgspec.json.decode(row["data"]),
                "updated_at": row["updated_at"],
            }
            for row in rows
        ]

    async def delete_service_data(self, keys: Sequence[tuple[str, str, str]]) -> int:
        """Deletes (service, type, key); returns how many there were."""
        gone = 0
        for batch in self._batches(keys):
            gone += await self._count(
                "SELECT public.delete_service_data($1, $2, $3)", *_columns(batch, 3)
            )
        return gone

    # What is there

    async def totals(self) -> Totals:
        """What is in the database, exactly, at the cost of one row a relay."""
        row = await self.pool.fetchrow("SELECT * FROM public.totals()")
        assert row is not None
        return Totals(*row)

    async def monitoring(self, since: int) -> Monitoring:
        """What the monitor knows, and what it has measured from `since` (Unix seconds) on, at the
        cost of two rows a relay."""
        row = await self.pool.fetchrow("SELECT * FROM public.monitoring($1)", since)
        assert row is not None
        return Monitoring(*row)

    async def figures(self) -> list[Sample]:
        """The state of the archive in numbers: see `FIGURES`."""
        rows = await self.pool.fetch("SELECT * FROM public.figures($1)", int(time.time()))
        return [Sample(row["name"], row["value"], tuple(row["labels"])) for row in rows]

    async def candidate_sources(self) -> dict[str, int]:
        """How many candidates were first seen where, the most frequent first."""
        rows = await self.pool.fetch(
            "SELECT source, count(*) AS found FROM public.candidates"
            " GROUP BY source ORDER BY found DESC, source"
        )
        return {row["source"]: row["found"] for row in rows}

    async def progress(self, limit: int | None = None) -> list[asyncpg.Record]:
        """How far each relay is: the rows of `relay_progress`, the largest first."""
        return await self.pool.fetch(
            "SELECT * FROM public.relay_progress ORDER BY pairs DESC, url LIMIT $1", limit
        )

    async def failing_relays(self, failures: int) -> list[asyncpg.Record]:
        """The relays that failed so often in a row, summed up by `outcome`: how many `relays`, and
        of the one that has failed most the `url` and `failures`."""
        return await self.pool.fetch(
            "SELECT v.outcome, count(*) AS relays,"
            " (array_agg(r.url ORDER BY v.failures DESC, r.url))[1] AS url,"
            " max(v.failures) AS failures"
            " FROM public.visits v JOIN public.relays r ON r.id = v.relay_id"
            " WHERE v.failures >= $1 AND v.rests_since IS NULL"
            " GROUP BY v.outcome ORDER BY relays DESC, v.outcome",
            failures,
        )

    async def make_roles(self) -> int:
        """Makes the roles bigbrotr_reader, _writer and _admin and gives them their rights.

        Returns how many were made.
        """
        made = await self._count("SELECT public.make_roles()")
        await self.grant_roles()
        return made

    async def grant_roles(self) -> None:
        """Gives those of the roles that exist their rights in this database."""
        await self.pool.execute("SELECT public.grant_roles()")

    async def analyze(self) -> None:
        """Renews the statistics of whole tables: autovacuum sees to their partitions alone."""
        await self.pool.execute("ANALYZE public.events, public.presence", timeout=UPKEEP_S)

    async def vacuum_debt(self) -> list[asyncpg.Record]:
        """Tables that autovacuum does not get to: `name`, `dead` rows, and the `age` of the oldest
        transaction; the worst first."""
        return await self.pool.fetch(
            "SELECT s.relname AS name, s.n_dead_tup AS dead, age(c.relfrozenxid) AS age"
            " FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid"
            " WHERE c.relkind = 'r' AND (age(c.relfrozenxid) > $1"
            "  OR (s.n_dead_tup > $2 AND s.n_dead_tup > s.n_live_tup / 2))"
            " ORDER BY age(c.relfrozenxid) > $1 DESC, s.n_dead_tup DESC LIMIT 5",
            OLD_TRANSACTIONS,
            DEAD_ROWS,
        )

    async def ensure_partitions(self) -> int:
        """Makes the partitions up to the quarter after the next; returns how many."""
        return await self._count(
            "SELECT public.ensure_partitions($1)", int(time.time()), timeout=UPKEEP_S
        )

    # How calls are made

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Holds, among all processes, the one turn to verify and store new events; yields whether
        it had to be waited for. It takes a connection of the pool for itself.

        Turns save work; nothing depends on them. After TURN_S one goes on without: the process
        whose turn it is may be stopped. So does a pool that has no connection to spare.
        """
        if self.pool.settings.limits.max_size < 2:
            yield False
            return
        async with self.pool.transaction() as connection:
            is_free = await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", TURN)
            if not is_free:
                with suppress(asyncpg.LockNotAvailableError):
                    await connection.execute(f"SET LOCAL lock_timeout = '{TURN_S}s'")
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", TURN)
            yield not is_free

    async def _kept_columns(self) -> frozenset[str]:
        """What the database's profile keeps of an event."""
        if self._kept is None:
            self._kept = frozenset(await self.pool.fetchval("SELECT public.kept_columns()"))
        return self._kept

    def _batches(self, rows: Sequence[T]) -> Iterable[Sequence[T]]:
        for start in range(0, len(rows), self.max_batch_size):
            yield rows[start : start + self.max_batch_size]

    async def _count(self, query: str, *arguments: object, timeout: float | None = None) -> int:
        count: int = await self._retry(
            lambda: self.pool.fetchval(query, *arguments, timeout=timeout)
        )
        return count

    async def _transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def attempt() -> T:
            async with self.pool.transaction() as connection:
                return await work(connection)

        try:
            return await self._retry(attempt)
        except asyncpg.PostgresError as error:
            if error.sqlstate == LEASE_LOST:
                raise LeaseLostError(str(error)) from None
            raise

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats a call that PostgreSQL broke off in favour of another."""
        for _ in range(TRIES - 1):
            try:
                return await call()
            except BROKEN_OFF:
                continue
        return await call()


_INSERT_METADATA = "SELECT public.insert_relay_metadata($1, $2, $3, $4, $5)"


def _snapshot_columns(snapshots: Sequence[RelayMetadata]) -> list[list[Any]]:
    return [
        [snapshot.relay.url for snapshot in snapshots],
        [snapshot.type.value for snapshot in snapshots],
        [snapshot.snapshot_at for snapshot in snapshots],
        [snapshot.metadata.id for snapshot in snapshots],
        [snapshot.metadata.canonical.decode() for snapshot in snapshots],
    ]


async def _post(connection: Connection, posts: Sequence[Post]) -> None:
    await connection.execute(
        "SELECT public.post_events($1, $2, $3, $4, $5)", *_columns(posts, 4), int(time.time())
    )


async def _relay_ids(connection: Connection, relays: Iterable[Relay]) -> dict[str, int]:
    """The numbers of relays, added where they are new; they stay until the transaction ends."""
    known = sorted(relays, key=lambda relay: relay.url)
    now = int(time.time())
    while True:
        await connection.execute(
            "SELECT public.insert_relays($1, $2, $3)",
            [relay.url for relay in known],
            [relay.network.value for relay in known],
            [_discovered_at(relay, now) for relay in known],
        )
        # Locked against being deleted; one that was deleted just now is added again.
        rows = await connection.fetch(
            "SELECT url, id FROM public.relays WHERE url = ANY ($1) FOR KEY SHARE",
            [relay.url for relay in known],
        )
        if len(rows) == len(known):
            return {row["url"]: row["id"] for row in rows}


def _spans(multirange: Iterable["asyncpg.Range[int]"]) -> list[tuple[int, int]]:
    return [(span.lower, span.upper) for span in multirange]  # type: ignore[misc]


async def _record_coverage(
    connection: Connection,
    visit: Visit,
    proofs: Sequence[Proof],
    gaps: Sequence[Gap],
    identity: str | None,
    now: int,
) -> None:
    await connection.execute(
        "SELECT public.record_coverage($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        visit.relay_id,
        visit.epoch,
        [asyncpg.Range(*proof.span) for proof in proofs],
        [proof.how for proof in proofs],
        [asyncpg.Range(*gap.span) for gap in gaps],
        [gap.reason for gap in gaps],
        [storable(gap.detail)[:500] for gap in gaps],
        None if identity is None else bytes.fromhex(identity),
        now,
    )


def _valid_relays(urls: Iterable[str]) -> list[Relay]:
    """Without those that were written by hand, or by a release with other rules."""
    relays = []
    for url in urls:
        with suppress(ValueError):
            relays.append(Relay(url))
    return relays


def _discovered_at(relay: Relay, now: int) -> int:
    return now if relay.discovered_at is None else relay.discovered_at


async def _insert_events(
    connection: Connection,
    relay_id: int,
    events: Sequence[Event],
    seen_ats: Sequence[int],
    kept: frozenset[str],
    notes_sightings: bool,
) -> tuple[int, int]:
    """Stores sorted events of one relay; returns how many events and pairs were new."""

    def column(name: str, value: Callable[[Event], object]) -> list[object] | None:
        return [value(event) for event in events] if name in kept else None

    row = await connection.fetchrow(
        "SELECT new_events, new_pairs, new_ids FROM public.insert_events"
        "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        relay_id,
        seen_ats,
        [event.created_at for event in events],
        [event.kind for event in events],
        [event.id for event in events],
        [event.pubkey for event in events],
        column("sig", lambda event: event.sig),
        column("tags", _tags_json),
        column("tagvalues", _tagvalues_literal),
        column("content", lambda event: storable(event.content) if event.raw else event.content),
        column("raw", lambda event: event.raw),
    )
    assert row is not None
    if notes_sightings and row["new_events"]:
        await _note_sightings(connection, events, row["new_ids"])
    return row["new_events"], row["new_pairs"]


async def _note_sightings(
    connection: Connection, events: Sequence[Event], new_ids: Sequence[bytes] | None
) -> None:
    """Puts the relays that new events name into the queue, so that each event counts once; None
    says that all of them are new."""
    new = None if new_ids is None else frozenset(new_ids)
    sources: dict[str, str] = {}
    times: dict[str, int] = {}
    for event in events:
        if new is not None and event.id not in new:
            continue
        for url in mentioned(event.kind, event.tags, event.content):
            if url not in times:
                sources[url], times[url] = f"kind {event.kind}", 0
            times[url] += 1
    if times:
        await connection.execute(
            "SELECT public.note_sightings($1, $2, $3)",
            list(times),
            list(sources.values()),
            list(times.values()),
        )


def _tags_json(event: Event) -> str:
    tags = _storable_tags(event) if event.raw else event.tags
    return msgspec.json.encode(tags).decode()


def _tagvalues_literal(event: Event) -> str:
    """The indexed tags as PostgreSQL writes a text array; rows differ in length, so no text[][]."""
    values = tag_values(_storable_tags(event) if event.raw else event.tags)
    text = msgspec.json.encode(values).decode()
    if "\\" in text:  # JSON escapes more than an array does
        quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
        return "{" + ",".join(f'"{value}"' for value in quoted) + "}"
    return f"{{{text[1:-1]}}}"


def _storable_tags(event: Event) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(storable, tag)) for tag in event.tags)


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(width)]
