"""Monitoring: documents and measurements of relays, and the outbox entries that announce them."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from bigbrotr.core.calls.base import (
    MAINTENANCE_S,
    Calls,
    by_column,
    relay_ids,
    valid_relays,
    value_of,
)
from bigbrotr.core.pool import Connection
from bigbrotr.models.event import storable
from bigbrotr.models.metadata import RelayMetadata
from bigbrotr.models.relay import Network, Relay

INTRODUCED = ("monitor", "introduced")  # where service data keeps what our monitor says of itself


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


class OutboxEntry(NamedTuple):
    """A claimed event on its way to a relay."""

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
                return await _insert_metadata(connection, batch)

            added += await self._transact(store)
        return added

    async def claim_checks(
        self, network: Network, *, limit: int, owner: str, lease_s: float
    ) -> list[DueCheck]:
        """Relays of a network that are due for a check; nobody else's within the lease."""
        rows = await self._rows(
            "claim_checks",
            p_networks=[network.value],
            p_limit=limit,
            p_owner=owner,
            p_lease_s=int(lease_s),
            p_now=int(time.time()),
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
            await value_of(
                connection,
                "record_checks",
                p_relay_ids=[result.due.relay_id for result in batch],
                p_epochs=[result.due.epoch for result in batch],
                p_verdicts=[result.verdict for result in batch],
                p_outcomes=[result.outcome for result in batch],
                p_details=[storable(result.detail)[:500] for result in batch],
                p_failed=[msgspec.json.encode(dict(result.failed)).decode() for result in batch],
                p_dns_ms=[result.rtts.dns_ms for result in batch],
                p_tcp_ms=[result.rtts.tcp_ms for result in batch],
                p_tls_ms=[result.rtts.tls_ms for result in batch],
                p_upgrade_ms=[result.rtts.upgrade_ms for result in batch],
                p_read_ms=[result.rtts.read_ms for result in batch],
                p_write_ms=[result.rtts.write_ms for result in batch],
                p_ttls=[result.rtts.ttl_s for result in batch],
                p_digests=[result.digest for result in batch],
                p_every_s=int(every_s),
                p_now=int(time.time()),
            )
        )

    async def _record_documents(
        self, connection: Connection, results: Sequence[CheckResult]
    ) -> None:
        if snapshots := [each for result in results for each in result.snapshots]:
            await _insert_metadata(connection, snapshots)
        if raws := [each for result in results for each in result.raws]:
            ids, documents = by_column(raws, 2)
            await value_of(connection, "insert_raw_metadata", p_ids=ids, p_raws=documents)
        if posts := [each for result in results for each in result.posts]:
            await _post(connection, posts)

    async def some_relays_up(
        self, network: Network, apart: Sequence[int], limit: int
    ) -> list[Relay]:
        """A few relays that were up when they were last looked at, but for the numbers `apart`."""
        urls = await self._rows(
            "some_relays_up", p_network=network.value, p_apart=apart, p_limit=limit
        )
        return valid_relays(row[0] for row in urls)

    async def post_events(self, posts: Sequence[Post]) -> None:
        """Puts events of ours into the outbox, each in the place of what it replaces."""
        for batch in self._batches(posts):

            async def store(connection: Connection, batch: Sequence[Post] = batch) -> None:
                await _post(connection, batch)

            await self._transact(store)

    async def claim_outbox(
        self, *, targets: int, limit: int, owner: str, lease_s: float
    ) -> list[OutboxEntry]:
        """Events that are due, of at most so many targets; nobody else's within the lease."""
        rows = await self._rows(
            "claim_outbox",
            p_targets=targets,
            p_limit=limit,
            p_owner=owner,
            p_lease_s=int(lease_s),
            p_now=int(time.time()),
        )
        return [OutboxEntry(*row) for row in rows]

    async def settle_outbox(
        self, settled: Sequence[tuple[OutboxEntry, str, str, str]], max_attempts: int
    ) -> int:
        """Records (entry, outcome, reason, detail) of each that was claimed: 'accepted',
        'refused' or 'failed'. Returns how many have left the outbox."""
        if not settled:
            return 0
        gone: int = await self._value(
            "settle_outbox",
            p_ids=[entry.id for entry, *_ in settled],
            p_versions=[entry.version for entry, *_ in settled],
            p_targets=[entry.target for entry, *_ in settled],
            p_outcomes=[outcome for _, outcome, _, _ in settled],
            p_reasons=[storable(reason)[:100] for _, _, reason, _ in settled],
            p_details=[storable(detail)[:500] for *_, detail in settled],
            p_max_attempts=max_attempts,
            p_now=int(time.time()),
        )
        return gone

    async def release_monitoring(self, owner: str) -> int:
        """Gives back the checks and events that `owner` held when it crashed; returns how many."""
        now = int(time.time())
        checks: int = await self._value("release_checks", p_owner=owner, p_now=now)
        entries: int = await self._value("release_outbox", p_owner=owner, p_now=now)
        return checks + entries

    async def monitoring(self, since: int) -> Monitoring:
        """What the monitor knows, and what it has measured from `since` (Unix seconds) on, at the
        cost of two rows a relay."""
        row = await self._row("monitoring", p_since=since)
        assert row is not None
        return Monitoring(*row)

    async def delete_old_measurements(self, before: int) -> int:
        """Deletes what was measured before a time, but for the newest of each relay and type, and
        the documents that nothing names any more; returns how many rows."""
        gone: int = await self._value(
            "delete_old_measurements", p_before=before, timeout=MAINTENANCE_S
        )
        return gone + await self.delete_orphan_metadata()

    async def delete_orphan_metadata(self) -> int:
        """Deletes the documents that no snapshot names; returns how many."""
        gone: int = await self._value("delete_orphan_metadata", timeout=MAINTENANCE_S)
        return gone

    async def refresh_metadata_latest(self) -> None:
        """Rebuilds the newest snapshots from the time series."""
        await self._value("refresh_metadata_latest")


async def _insert_metadata(connection: Connection, snapshots: Sequence[RelayMetadata]) -> int:
    added: int = await value_of(
        connection,
        "insert_relay_metadata",
        p_urls=[snapshot.relay.url for snapshot in snapshots],
        p_types=[snapshot.type.value for snapshot in snapshots],
        p_snapshot_ats=[snapshot.snapshot_at for snapshot in snapshots],
        p_ids=[snapshot.metadata.id for snapshot in snapshots],
        p_datas=[snapshot.metadata.canonical.decode() for snapshot in snapshots],
    )
    return added


async def _post(connection: Connection, posts: Sequence[Post]) -> None:
    targets, kinds, ds, events = by_column(posts, 4)
    await value_of(
        connection,
        "post_events",
        p_targets=targets,
        p_kinds=kinds,
        p_ds=ds,
        p_events=events,
        p_now=int(time.time()),
    )
