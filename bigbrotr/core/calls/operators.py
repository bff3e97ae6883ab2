"""Operators: which relays are one operator's, and the evidence for it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bigbrotr.core.calls.base import MAINTENANCE_S, Calls, valid_relays
from bigbrotr.models.operators import MIN_EVENTS, OVERLAYS, WEEKS, Compared, Pair
from bigbrotr.models.relay import Network, Relay

TESTED_S = 7 * 86_400  # then the events of a pair are compared again
ASKED_S = 30 * 86_400  # then both are asked again
CERTIFIED_S = 30 * 86_400  # for so long a certificate that was shown counts


class NamingDocument(NamedTuple):
    """A document (NIP-11) of a relay that may name others."""

    relay_id: int
    url: str
    metadata_id: bytes
    data: Any


class OperatorCalls(Calls):
    """Evidence, and what follows. Each step is a transaction of its own, and may be repeated."""

    async def operators_joined_at(self) -> int | None:
        """When relays were last joined, in Unix seconds; None: never."""
        joined: int | None = await self.pool.fetchval(
            "SELECT s.joined_at FROM bigbrotr.operator_state AS s"
        )
        return joined

    async def operator_documents_due(self, limit: int) -> list[NamingDocument]:
        """Documents that are new since their names were read."""
        rows = await self._rows("operator_documents_due", p_limit=limit)
        return [
            NamingDocument(
                row["relay_id"], row["url"], row["metadata_id"], msgspec.json.decode(row["data"])
            )
            for row in rows
        ]

    async def note_operator_names(
        self, documents: Sequence[NamingDocument], named: Sequence[tuple[int, str]]
    ) -> int:
        """Notes the relays that documents name, as (number of the relay, URL that it names);
        returns how many."""
        noted: int = await self._value(
            "note_operator_names",
            p_relay_ids=[each.relay_id for each in documents],
            p_metadata_ids=[each.metadata_id for each in documents],
            p_naming=[relay_id for relay_id, _ in named],
            p_named=[url for _, url in named],
        )
        return noted

    async def gather_evidence(self, now: int) -> int:
        """Notes what documents and certificates say now; returns how many pieces."""
        pieces: int = await self._value(
            "gather_evidence",
            p_certified_since=now - CERTIFIED_S,
            p_now=now,
            timeout=MAINTENANCE_S,
        )
        return pieces

    async def operator_tests_due(self, limit: int, now: int) -> list[tuple[int, int]]:
        """Pairs of relays whose events are to be compared."""
        rows = await self._rows(
            "operator_tests_due",
            p_least=MIN_EVENTS,
            p_before=now - TESTED_S,
            p_certified_since=now - CERTIFIED_S,
            p_limit=limit,
        )
        return [(row["relay_a"], row["relay_b"]) for row in rows]

    async def proven_weeks(self, a: int, b: int) -> list[int]:
        """Weeks of which both relays are proven complete."""
        rows = await self._rows("proven_weeks", p_a=a, p_b=b, p_now=int(time.time()))
        return [row[0] for row in rows]

    async def compare_weeks(self, weeks: Sequence[int], a: int, b: int) -> Compared:
        """The events of two relays, of the first of these weeks in which there are any."""
        row = await self._row("compare_weeks", p_weeks=weeks, p_a=a, p_b=b, p_most=WEEKS)
        assert row is not None
        return Compared(*row)

    async def note_operator_test(self, a: int, b: int, found: Compared) -> None:
        """Notes what came of comparing the events of two relays."""
        await self._value(
            "note_operator_test",
            p_a=a,
            p_b=b,
            p_weeks=found.weeks,
            p_both=found.both,
            p_one=found.one,
            p_is_equal=found.is_equal,
            p_now=int(time.time()),
        )

    async def claim_twins(
        self, networks: Sequence[Network], limit: int
    ) -> list[tuple[int, int, Relay, Relay]]:
        """Pairs of relays to be asked for the same: their numbers, and the relays; nobody else's
        for an hour."""
        rows = await self._rows(
            "claim_twins",
            p_networks=list(networks),
            p_every_s=ASKED_S,
            p_lease_s=3600,
            p_limit=limit,
            p_now=int(time.time()),
        )
        return [
            (row["relay_a"], row["relay_b"], *relays)
            for row in rows
            if len(relays := valid_relays((row["url_a"], row["url_b"]))) == 2
        ]

    async def note_twins(self, a: int, b: int, *, are_alike: bool) -> None:
        """Notes whether two relays have answered alike."""
        await self._value(
            "note_twins",
            p_a=a,
            p_b=b,
            p_are_alike=are_alike,
            p_every_s=ASKED_S,
            p_now=int(time.time()),
        )

    async def operator_pairs(self) -> list[Pair]:
        """All pairs of relays of which there is evidence."""
        rows = await self.pool.fetch(
            "SELECT e.relay_a, e.relay_b, pg_catalog.array_agg(e.kind) AS kinds,"
            " bigbrotr.are_apart(p_a => e.relay_a, p_b => e.relay_b) AS is_apart,"
            " pg_catalog.array_agg(a.network || ' ' || bigbrotr.host_of(p_url => a.url)) AS of_a,"
            " pg_catalog.array_agg(b.network || ' ' || bigbrotr.host_of(p_url => b.url)) AS of_b"
            " FROM bigbrotr.operator_evidence AS e"
            " JOIN bigbrotr.relays AS a ON a.id = e.relay_a"
            " JOIN bigbrotr.relays AS b ON b.id = e.relay_b"
            " GROUP BY e.relay_a, e.relay_b"
        )
        return [
            Pair(
                row["relay_a"],
                row["relay_b"],
                frozenset(row["kinds"]),
                row["is_apart"],
                (_open_host(row["of_a"][0]), _open_host(row["of_b"][0])),
            )
            for row in rows
        ]

    async def keep_operators(self, joined: Mapping[int, int], now: int) -> int:
        """Notes which relays are joined, by the smallest number of each group; returns how many
        have changed."""
        changed: int = await self._value(
            "keep_operators",
            p_relay_ids=list(joined),
            p_operator_ids=list(joined.values()),
            p_now=now,
        )
        return changed


def _open_host(text: str) -> str:
    """The host in "network host"; empty: of an overlay network."""
    network, _, host = text.partition(" ")
    return "" if network in OVERLAYS else host
