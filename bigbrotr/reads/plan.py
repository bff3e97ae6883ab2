"""Chooses how to look for events: which index, and through how much of the past at once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from bigbrotr.models.event import MAX_CREATED_AT, tag_hash
from bigbrotr.models.query import Query

# What things cost, in microseconds: measured on an archive of 10,000,000 events that is in memory.
LOOK_US = 0.7  # at the next event of a walk
FETCH_US = 2.0  # an event that an index names
NAME_US = 0.09  # an event in the index of tags or of kinds, before it is fetched
PROBE_US = 6.0  # a key in the index of a partition
EMPTY_US = 1.0  # ... that was empty
ENOUGH_US = 10_000.0  # for one statement: then see whether it was enough
MOST_STRETCHES = 64  # that are looked at one by one: a statement each
LEAST_ROWS = 1_000.0  # that a partition is thought to have: statistics may be old


class Way(StrEnum):
    """How to look; the names of functions of the database."""

    WALK = "walk_events"
    PUBKEYS = "find_by_pubkeys"
    KINDS = "find_by_kinds"
    TAGS = "find_by_tags"


class Plan(NamedTuple):
    """A way, for a tag's letter, through the first so many pieces; through the last of them back to
    `since` (Unix seconds). All that is wanted is thought to take `cost_us` microseconds."""

    way: Way
    letter: str
    pieces: int
    since: int
    cost_us: float = 0.0

    def cut(self, pieces: Sequence["Piece"]) -> tuple[list["Piece"], list["Piece"]]:
        """Returns the pieces that the way goes through now, and those that are left."""
        run, rest = list(pieces[: self.pieces]), list(pieces[self.pieces :])
        if self.since > run[-1].since:
            rest.insert(0, replace(run[-1], until=self.since - 1))
            run[-1] = replace(run[-1], since=self.since)
        return run, rest


class Stretch(NamedTuple):
    """A time from `since` to `until`, both included, in Unix seconds."""

    since: int
    until: int


def without(pieces: Sequence["Piece"], empty: Sequence[Stretch]) -> list["Piece"]:
    """What is left of pieces (newest first) without stretches in which nothing matches (oldest
    first, apart from each other). Of more than MOST_STRETCHES parts those that are closest are one.
    """
    parts: list[Piece] = []
    for piece in pieces:
        until = piece.until
        for each in reversed(empty):
            if each.since <= until and each.until >= piece.since:
                if each.until < until:
                    parts.append(replace(piece, since=each.until + 1, until=until))
                until = each.since - 1
        if until >= piece.since:
            parts.append(replace(piece, until=until))
    while len(parts) > MOST_STRETCHES:
        near = [
            (newer.since - older.until, number)
            for number, (newer, older) in enumerate(pairwise(parts))
            if newer.partition is older.partition
        ]
        if not near:
            break
        number = min(near)[1]
        newer, older = parts[number : number + 2]
        parts[number : number + 2] = [replace(newer, since=older.since)]
    return parts


class Shares(Struct, frozen=True):
    """Which share of the events have a value: those that are common, and any other."""

    common: Mapping[Any, float]
    other: float

    def of(self, values: Iterable[Any]) -> float:
        """Which share has one of these values, at most 1."""
        return min(1.0, sum(self.common.get(value, self.other) for value in values))


class Partition(Struct, frozen=True):
    """Events of a stretch of time (both ends included, Unix seconds), as PostgreSQL's statistics
    have it."""

    since: int
    until: int
    rows: float
    kinds: Shares
    authors: Shares
    hashes: Shares
    is_filled: bool = True  # it had rows when PostgreSQL last looked


class Piece(Struct, frozen=True):
    """A partition, and the part of its time that a query asks for; both ends included."""

    partition: Partition
    since: int
    until: int

    @property
    def rows(self) -> float:
        """About how many events there are."""
        whole = self.partition.until - self.partition.since + 1
        return self.partition.rows * (self.until - self.since + 1) / whole

    def follows(self, newer: "Piece") -> bool:
        """Whether nothing lies between them that is not to be looked at."""
        return self.until >= newer.since - 1


def partitions_of(rows: Sequence[Mapping[str, Any]]) -> list[Partition]:
    """The partitions, newest first, from the rows of `events_statistics`."""
    top = max((row["upper_at"] for row in rows if row["upper_at"] <= MAX_CREATED_AT - 1), default=0)
    partitions = []
    for row in rows:
        is_default = row["upper_at"] >= MAX_CREATED_AT
        count = max(row["row_count"], LEAST_ROWS)
        known = max(row["authors"] or 1.0, 1.0)
        listed = row["pubkey_shares"] or ()
        partitions.append(
            Partition(
                top if is_default else row["lower_at"],
                MAX_CREATED_AT if is_default else row["upper_at"] - 1,
                count,
                _shares(row["kinds"], row["kind_shares"], 1 / count),
                _shares(
                    row["pubkeys"],
                    listed,
                    max(1 - sum(listed), 0.0) / max(known - len(listed), 1.0),
                ),
                _shares(
                    row["hashes"],
                    row["hash_shares"],
                    min(row["hash_shares"] or (1 / count,))
                    / 10,  # the rarest listed is far above it
                ),
                row["row_count"] > 0,
            )
        )
    partitions.sort(key=lambda each: -each.since)
    # Where a quarter is detached, the default partition holds what has come since: it is looked for
    # together with the quarter after it.
    return [
        replace(each, since=min(each.since, older.until + 1))
        for each, older in pairwise(partitions)
    ] + partitions[-1:]


def _shares(values: Sequence[Any] | None, shares: Sequence[float] | None, other: float) -> Shares:
    return Shares(dict(zip(values or (), shares or (), strict=True)), other)


def choose(
    pieces: Sequence[Piece],
    query: Query,
    wanted: int,
    *,
    share: float | None = None,
    is_first: bool = False,
) -> Plan:
    """How to find the next `wanted` events that match, in pieces that come newest first.

    `share` of the events were seen to match, where a walk has begun: conditions may exclude each
    other, of which statistics know nothing. The first look may be at a part of a piece: where that
    is not enough, estimates are wrong, and all of it is next.
    """
    hashes = hashes_of(query)
    estimates = [_Estimate.of(piece, query, hashes, wanted, share) for piece in pieces]
    ways = list(estimates[0].costs)
    best = min(ways, key=lambda way: _cost(estimates, way, wanted))
    cost = found = 0.0
    taken = 0
    for piece, each in zip(pieces, estimates, strict=True):
        if taken and (
            cost > ENOUGH_US or found > 1.5 * wanted or not piece.follows(pieces[taken - 1])
        ):
            break
        taken += 1
        cost += each.costs[best]
        found += each.matches
    since = pieces[taken - 1].since
    if is_first and taken == 1 and best[0] is Way.TAGS and query.kinds is not None:
        # The index of kinds knows time: what is older need not be named.
        length = pieces[0].until - since + 1
        since = pieces[0].until + 1 - math.ceil(length * _part(estimates[0].matches, wanted))
    return Plan(*best, taken, since, _cost(estimates, best, wanted))


def common_letters(pieces: Sequence[Piece], query: Query) -> list[str]:
    """The letters of the tags of which all values are common in one of the partitions."""
    return [
        letter
        for letter, hashes in hashes_of(query).items()
        if any(set(hashes) <= piece.partition.hashes.common.keys() for piece in pieces)
    ]


def _part(matches: float, wanted: int) -> float:
    """The part of a piece in which twice as many as are wanted should be."""
    return min(1.0, 2 * wanted / max(matches, 1.0))


def expected(pieces: Sequence[Piece], query: Query) -> float:
    """About how many events match, as far as the statistics tell."""
    hashes = hashes_of(query)
    return sum(_Estimate.of(each, query, hashes, 1).matches for each in pieces)


def hashes_of(query: Query) -> dict[str, list[int]]:
    """The hashes of the values of each letter."""
    return {
        letter: [tag_hash(letter, text) for text in texts] for letter, texts in query.tags.items()
    }


def _cost(estimates: Sequence["_Estimate"], way: tuple[Way, str], wanted: float) -> float:
    """What it costs to find as many in one way, in microseconds; a walk ends within a piece."""
    cost = 0.0
    for each in estimates:
        part = 1.0 if way[0] is not Way.WALK else min(1.0, wanted / max(each.matches, 1e-9))
        cost += each.costs[way] * part
        wanted -= each.matches
        if wanted <= 0:
            break
    return cost


class _Estimate(NamedTuple):
    """What there is in a piece, and what each way through all of it costs."""

    rows: float
    matches: float
    costs: dict[tuple[Way, str], float]

    @classmethod
    def of(
        cls,
        piece: Piece,
        query: Query,
        hashes: Mapping[str, Sequence[int]],
        wanted: int,
        known: float | None = None,
    ) -> "_Estimate":
        part, rows = piece.partition, piece.rows
        costs: dict[tuple[Way, str], float] = {(Way.WALK, ""): rows * LOOK_US}
        matches = rows
        conditions = (query.kinds is not None) + (query.authors is not None) + len(query.tags)
        for way, values, shares in (
            (Way.PUBKEYS, query.authors, part.authors),
            (Way.KINDS, query.kinds, part.kinds),
        ):
            if values is not None:
                share = shares.of(values)
                matches *= share
                fetched = rows * share
                if not part.is_filled:
                    fetched = 0.0
                elif conditions == 1:  # then each key is read as far as it is wanted
                    fetched = min(fetched, len(values) * wanted)
                    fetched = fetched if known is None else min(fetched, rows * known)
                probe_us = PROBE_US if part.is_filled else EMPTY_US
                costs[way, ""] = len(values) * probe_us + fetched * FETCH_US
        borne = {letter: part.hashes.of(texts) for letter, texts in hashes.items()}
        matches *= math.prod(borne.values())
        if known is not None:
            matches = min(matches, rows * known)
        for letter, texts in hashes.items():
            # The index of tags knows nothing of time: what it names is read in the whole partition,
            # or what the index of kinds names as well.
            named = part.rows * borne[letter]
            fetches = named * FETCH_US
            if query.kinds is not None:
                both = rows * part.kinds.of(query.kinds)
                both = both * NAME_US + matches * FETCH_US
                fetches = min(fetches, both * _part(matches, wanted))
            probe_us = PROBE_US if part.is_filled else EMPTY_US
            costs[Way.TAGS, letter] = len(texts) * probe_us + named * NAME_US + fetches
        # What was empty most often is: one statement looks there and further.
        return cls(rows, matches if part.is_filled else 0.0, costs)
