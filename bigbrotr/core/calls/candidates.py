"""Relays and candidates: how URLs come in, are tried, and become relays or are given up."""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from bigbrotr.config.settings import TOMBSTONE_S
from bigbrotr.core.calls.base import (
    MAINTENANCE_S,
    by_column,
    discovered_at,
    rows_of,
    valid_relays,
    value_of,
)
from bigbrotr.core.calls.service_data import ServiceDataCalls
from bigbrotr.core.pool import Connection
from bigbrotr.models.event import storable
from bigbrotr.models.relay import Network, Relay

WALK = ("finder", "walk", "archive")  # where service data says how far it is; ordered by migrations


class Mention(NamedTuple):
    """A relay that was named: where, and how often."""

    relay: Relay
    source: str
    times: int = 1  # 0: by whoever repeats itself; an unknown one becomes a candidate all the same


class Walk(NamedTuple):
    """How far the archive from before the queue of mentions has been looked through."""

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


class Resolution(NamedTuple):
    """What a try of a candidate came to, in the words of `resolve_candidates` in sql/."""

    url: str
    verdict: str  # 'relay', 'failed', 'postponed' or 'alias'
    outcome: str
    detail: str = ""
    wait_s: float = 0.0  # to leave it alone at least
    target: str = ""  # of an alias: the URL of the relay


class CandidateCalls(ServiceDataCalls):
    """Relays, and what may become one."""

    async def insert_relays(self, relays: Sequence[Relay]) -> int:
        """Adds relays; returns how many were new."""
        now = int(time.time())
        added = 0
        for batch in self._batches(relays):
            added += await self._value(
                "insert_relays",
                p_urls=[relay.url for relay in batch],
                p_networks=[relay.network.value for relay in batch],
                p_discovered_ats=[discovered_at(relay, now) for relay in batch],
            )
        return added

    async def delete_orphan_relays(self) -> int:
        """Deletes the relays of which no event and no snapshot is known; returns how many."""
        gone: int = await self._value("delete_orphan_relays", timeout=MAINTENANCE_S)
        return gone

    async def insert_candidates(
        self, relays: Iterable[Relay], source: str, *, is_typed: bool = False
    ) -> int:
        """Adds what people have listed, due at once; known ones keep their history.

        `is_typed` just now: then it is no obstacle that one was given up. Returns how many are new.
        """
        mentions = [Mention(relay, source, 0) for relay in relays]
        return await self._transact(
            lambda connection: self._insert_mentions(connection, mentions, None, is_typed=is_typed)
        )

    async def absorb_mentions(
        self, limit: int, networks: Collection[Network], max_per_host: int
    ) -> tuple[int, int, int]:
        """Takes up to `limit` pages of what new events name out of the queue, into candidates.

        Relays of other networks are left out. Returns how many pages, how many names and how many
        new candidates there were.
        """

        async def absorb(connection: Connection) -> tuple[int, int, int]:
            pages = await rows_of(connection, "take_mentions", p_limit=limit)
            sources: dict[str, str] = {}
            times: Counter[str] = Counter()
            for page in pages:
                for url, source, count in zip(*page.values(), strict=True):
                    sources.setdefault(url, source)
                    times[url] += count
            found = [
                Mention(relay, sources[relay.url], times[relay.url])
                for relay in await asyncio.to_thread(valid_relays, times)  # there may be many
                if relay.network in networks
            ]
            new = await self._insert_mentions(connection, found, max_per_host)
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
        rows = await self._rows(
            "read_archive",
            p_after_at=walk.created_at,
            p_after_id=bytes.fromhex(walk.id),
            p_limit=limit,
        )
        return [Archived(*row) for row in rows]

    async def advance_walk(
        self, walk: Walk, goal: Walk | None, mentions: Sequence[Mention], max_per_host: int
    ) -> int:
        """Adds what was found between two places of a walk, and moves it; None ends it.

        In one transaction, and only once: nothing is done when somebody else has moved it
        meanwhile. Returns how many candidates are new.
        """

        async def advance(connection: Connection) -> int:
            # The order of the keys in a jsonb is PostgreSQL's: compared decoded.
            row = await connection.fetchval(
                "SELECT data FROM bigbrotr.service_data WHERE service_name = $1 AND data_type = $2"
                " AND data_key = $3 FOR UPDATE",
                *WALK,
            )
            if row is None or Walk(**msgspec.json.decode(row)) != walk:
                return 0
            service, type_, key = WALK
            if goal is None:
                await value_of(
                    connection,
                    "delete_service_data",
                    p_services=[service],
                    p_types=[type_],
                    p_keys=[key],
                )
            else:
                await value_of(
                    connection,
                    "upsert_service_data",
                    p_services=[service],
                    p_types=[type_],
                    p_keys=[key],
                    p_datas=[msgspec.json.encode(goal._asdict()).decode()],
                    p_now=int(time.time()),
                )
            return await self._insert_mentions(connection, mentions, max_per_host)

        return await self._transact(advance)

    async def add_mentions(self, mentions: Sequence[Mention], max_per_host: int) -> int:
        """Adds what was named elsewhere than in archived events; returns how many are new.

        `max_per_host` bounds the addresses of one host with a path or a port of their own.
        """
        return await self._transact(
            lambda connection: self._insert_mentions(connection, mentions, max_per_host)
        )

    async def _insert_mentions(
        self,
        connection: Connection,
        mentions: Sequence[Mention],
        max_per_host: int | None,
        *,
        is_typed: bool = False,
    ) -> int:
        now = int(time.time())
        added = 0
        for batch in self._batches(mentions):
            added += await value_of(
                connection,
                "insert_candidates",
                p_urls=[each.relay.url for each in batch],
                p_networks=[each.relay.network.value for each in batch],
                p_sources=[each.source for each in batch],
                p_times=[each.times for each in batch],
                p_max_per_host=max_per_host,
                p_is_typed=is_typed,
                p_now=now,
            )
        return added

    async def claim_candidates(
        self, network: Network, *, limit: int, max_attempts: int, owner: str, lease_s: float
    ) -> list[Relay]:
        """Candidates of a network that are due; they are nobody else's within the lease."""
        rows = await self._rows(
            "claim_candidates",
            p_networks=[network.value],
            p_limit=limit,
            p_max_attempts=max_attempts,
            p_owner=owner,
            p_lease_s=int(lease_s),
            p_now=int(time.time()),
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
        urls, verdicts, outcomes, details, waits, targets = by_column(tried, 6)
        became: int = await self._value(
            "resolve_candidates",
            p_urls=urls,
            p_verdicts=verdicts,
            p_outcomes=outcomes,
            p_details=[storable(detail)[:500] for detail in details],
            p_waits=[int(wait) for wait in waits],
            p_targets=targets,
            p_now=int(time.time()),
        )
        return became

    async def retire_relays(self, after_s: float, failures: int = 5) -> int:
        """Makes candidates again of relays whose visits have only failed, `failures` times or more
        and for `after_s`; what is archived of them stays. Returns how many."""
        retired: int = await self._value(
            "retire_relays", p_after_s=int(after_s), p_failures=failures, p_now=int(time.time())
        )
        return retired

    async def relays_at(self, origins: Sequence[str]) -> list[Relay]:
        """The relays on hosts, whatever their paths; `origins` are URLs without one."""
        rows = await self.pool.fetch(
            "SELECT r.url FROM bigbrotr.relays r JOIN bigbrotr.visits v ON v.relay_id = r.id"
            " WHERE v.retired_at IS NULL AND EXISTS ("
            "  SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]) AS o (url)"
            "  WHERE r.url = o.url OR pg_catalog.starts_with(r.url, o.url || '/'))"
            " ORDER BY r.url",
            list(origins),
        )
        return valid_relays(row["url"] for row in rows)

    async def some_relays(self, network: Network, limit: int) -> list[Relay]:
        """A few relays of a network, by chance."""
        rows = await self.pool.fetch(
            "SELECT url FROM bigbrotr.relays WHERE network = $1"
            " ORDER BY pg_catalog.random() LIMIT $2",
            network.value,
            limit,
        )
        return valid_relays(row["url"] for row in rows)

    async def delete_failed_candidates(
        self, max_attempts: int, tombstone_s: float = TOMBSTONE_S
    ) -> int:
        """Gives up the candidates that failed `max_attempts` times or more; returns how many.

        For `tombstone_s` seconds nothing but a person makes them candidates again.
        """
        given_up: int = await self._value(
            "delete_failed_candidates",
            p_max_attempts=max_attempts,
            p_tombstone_s=int(tombstone_s),
            p_now=int(time.time()),
        )
        return given_up
