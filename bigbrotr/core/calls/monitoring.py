"""Monitoring: documents and measurements of relays, and the letters that announce them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bigbrotr.core.calls.base import UPKEEP_S, Calls, by_column, relay_ids, valid_relays
from bigbrotr.core.pool import Connection
from bigbrotr.models.event import storable
from bigbrotr.models.metadata import RelayMetadata
from bigbrotr.models.relay import Network, Relay


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


class MonitoringCalls(Calls):
    """Checks, documents, and the outbox."""

    async def insert_relay_metadata(self, snapshots: Sequence[RelayMetadata]) -> int:
        """Adds snapshots of relays, and the relays; returns how many snapshots were new."""
        added = 0
        for batch in self._batches(snapshots):

            async def store(connection: Connection, batch: Sequence[RelayMetadata] = batch) -> int:
                await relay_ids(connection, {snapshot.relay for snapshot in batch})
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
        relays = {relay.url: relay for relay in valid_relays(row["url"] for row in rows)}
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
                *by_column([result.rtts for result in batch], 7),
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
                "SELECT public.insert_raw_metadata($1, $2)", *by_column(raws, 2)
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
        return valid_relays(row["url"] for row in urls)

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
            [storable(reason)[:100] for _, _, reason, _ in settled],
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

    async def monitoring(self, since: int) -> Monitoring:
        """What the monitor knows, and what it has measured from `since` (Unix seconds) on, at the
        cost of two rows a relay."""
        row = await self.pool.fetchrow("SELECT * FROM public.monitoring($1)", since)
        assert row is not None
        return Monitoring(*row)

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
        "SELECT public.post_events($1, $2, $3, $4, $5)", *by_column(posts, 4), int(time.time())
    )
