"""Reads pages of relays and of candidates, by what is known of them."""

import time
from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.relay import Network
from bigbrotr.reads.relays import Stage

State: TypeAlias = Literal["up", "down", "unknown"]
RelaySort: TypeAlias = Literal[
    "url",
    "holds",
    "brought",
    "discovered_at",
    "checked_at",
    "open_ms",
    "uptime",
    "coverage",
    "alone",
]


class RelayRow(Struct, frozen=True):
    """A relay in a list. Times are Unix seconds."""

    url: str
    network: str
    stage: str  # what the synchronizer is up to with it
    state: str  # what the monitor found
    since: int | None  # the beginning of the state
    checked_at: int | None
    discovered_at: int
    holds: int  # archived events that it holds
    brought: int  # archived events that were first met there
    name: str | None  # as its NIP-11 document says, and so the next three
    software: str | None
    version: str | None
    nips: tuple[int, ...] | None
    country: str | None  # of its address
    open_ms: float | None  # TCP, TLS and upgrade at the newest check
    read_ms: float | None  # until the first answer to a question
    # As of the newest check or visit; None: not summed up yet
    uptime: float | None  # of the last 30 days, of what is known
    coverage: float | None  # the share of the time since the protocol began that is proven
    alone: int | None  # archived events that no other relay is known to hold


class RelayFilter(Struct, frozen=True, kw_only=True):
    """Conditions on relays; None: any."""

    networks: Collection[Network] | None = None
    states: Collection[State] | None = None
    stages: Collection[Stage] | None = None
    country: str | None = None
    software: str | None = None
    nips: Collection[int] | None = None
    text: str | None = None


class CandidateRow(Struct, frozen=True):
    """A candidate in a list. Times are Unix seconds."""

    url: str
    network: str
    source: str  # where it was first seen
    discovered_at: int
    named: int  # how often events and lists have named it
    attempts: int  # failures in a row
    tried_at: int | None
    outcome: str | None  # of the last try
    alias_of: str | None  # the relay that answers the same


MAX_NIP = 99_999
FRESH_S = 1.0  # for which what is shown of a relay is not read again
MOST_KEPT = 20_000  # relays, of a kilobyte each
NIPS = RelayRow.__struct_fields__.index("nips")
RelayKey: TypeAlias = tuple[float, str]  # rank and URL


class RelayList:
    """Reads pages of relays.

    Which relays stand on a page is asked for each time; what is shown of one is read again when it
    is older than a second: one relay stands on many pages.
    """

    def __init__(self, pool: Pool, *, fresh_s: float = FRESH_S) -> None:
        self._pool = pool
        self._fresh_s = fresh_s
        self._rows: dict[int, tuple[float, RelayRow]] = {}  # with the time (monotonic) of each

    async def page(
        self, wanted: RelayFilter, sort: RelaySort, after: RelayKey | None, limit: int
    ) -> list[tuple[RelayKey, RelayRow]]:
        """A page of relays, each with its key: the next page begins after that of the last row.

        Largest first, but for `url` and `open_ms`; what is not known comes last.
        """
        found = await self._pool.fetchrow(
            "SELECT * FROM bigbrotr.find_relays(p_networks => $1, p_states => $2, p_stages => $3,"
            " p_country => $4, p_software => $5, p_nips => $6, p_text => $7, p_sort => $8,"
            " p_after_rank => $9, p_after_url => $10, p_limit => $11)",
            wanted.networks,
            wanted.states,
            wanted.stages,
            wanted.country,
            wanted.software,
            wanted.nips,
            wanted.text,
            sort,
            None if after is None else after[0],
            None if after is None else after[1],
            limit,
        )
        assert found is not None
        ids, ranks = found
        rows = await self._rows_of(ids or ())
        # One that is deleted meanwhile is left out.
        return [
            ((rank, row.url), row)
            for number, rank in zip(ids or (), ranks or (), strict=True)
            if (row := rows.get(number)) is not None
        ]

    async def newest(self, limit: int) -> list[RelayRow]:
        """The relays that were added last, the newest first."""
        found = await self._pool.fetch(
            "SELECT r.id FROM bigbrotr.relays r ORDER BY r.id DESC LIMIT $1", limit
        )
        ids = [row["id"] for row in found]
        rows = await self._rows_of(ids)
        return [rows[number] for number in ids if number in rows]

    async def _rows_of(self, ids: Sequence[int]) -> dict[int, RelayRow]:
        """What is shown of these relays, by id."""
        since = time.monotonic() - self._fresh_s
        rows, missing = {}, []
        for number in ids:
            known = self._rows.get(number)
            if known is not None and known[0] > since:
                rows[number] = known[1]
            else:
                missing.append(number)
        if missing:
            if len(self._rows) + len(missing) > MOST_KEPT:
                self._rows.clear()
            now = time.monotonic()
            for number, *values in await self._pool.fetch(
                "SELECT * FROM bigbrotr.relay_rows(p_ids => $1)", missing
            ):
                values[NIPS] = nips_in(values[NIPS])
                rows[number] = RelayRow(*values)
                self._rows[number] = now, rows[number]
        return rows


def nips_in(text: str | None) -> tuple[int, ...] | None:
    """The numbers in the JSON of a list of NIPs, whatever else a relay wrote into it; None: it is
    no list."""
    found = None if text is None else msgspec.json.decode(text)
    if not isinstance(found, list):
        return None
    return tuple(sorted({each for each in found if type(each) is int and 0 <= each <= MAX_NIP}))


async def list_candidates(
    pool: Pool,
    after: str | None,
    limit: int,
    *,
    networks: Collection[Network] | None = None,
    source: str | None = None,
    outcome: str | None = None,
    text: str | None = None,
    aliases: bool | None = None,
) -> list[CandidateRow]:
    """A page of candidates by URL, after the URL `after`. `aliases`: only those, or the others."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.list_candidates(p_networks => $1, p_source => $2,"
        " p_outcome => $3, p_text => $4, p_aliases => $5, p_after_url => $6, p_limit => $7)",
        networks,
        source,
        outcome,
        text,
        aliases,
        after,
        limit,
    )
    return [CandidateRow(*row) for row in rows]
