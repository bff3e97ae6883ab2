"""Reads statistics: figures by day and by relay, each a list of its own."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from bigbrotr.core.pool import Pool

DAY_S = 86_400
LAST_DAY = 2**53  # no day is later


class Day(Struct, frozen=True):
    """Events created on a day of UTC; "infinity" is after the year 9999."""

    day: str
    events: int
    pairs: int  # of event and relay: what all relays together hold
    held: int  # events that a relay holds still


class Authors(Struct, frozen=True):
    """Authors of a day, and of the days up to it. Events of the kinds 445 and 1059, which throwaway
    keys sign, make nobody an author."""

    day: str
    group: str  # all; with profile (kind 0); with follow list (kind 3)
    authors: int
    new_authors: int  # whose first archived event is of the day
    authors_7_days: int | None  # estimated, 1.6 % standard error; None: not yet
    authors_30_days: int | None


class Kind(Struct, frozen=True):
    """Events of a kind, created on a day."""

    day: str
    kind: int
    events: int


class Replication(Struct, frozen=True):
    """Events of a kind, created on a day, that just so many relays hold."""

    day: str
    kind: int
    relays: int  # 0: all have dropped them
    events: int


class TopRelays(Struct, frozen=True):
    """What the relays that hold most of a day hold together."""

    day: str
    relays: int  # so many of them
    events: int
    share: float | None  # of the events that any relay holds; None: there are none


class NetworkDay(Struct, frozen=True):
    """What the relays of a network hold of a day."""

    day: str
    network: str
    events: int
    pairs: int


class Growth(Struct, frozen=True):
    """Events that were first seen on a day at one of the relays that hold them."""

    day: str
    events: int


class RelayDay(Struct, frozen=True):
    """What a relay holds of a day."""

    day: str
    relay: str
    events: int
    alone: int  # that no other relay holds
    dropped: int  # that it once held


class RelayFigures(Struct, frozen=True):
    """What a relay holds, and how soon it has dropped what it no longer holds."""

    relay: str
    network: str
    events: int
    alone: int  # that no other relay holds
    dropped_in_hour: int  # after they were first seen there
    dropped_in_day: int
    dropped_in_week: int
    dropped_in_30_days: int
    dropped_in_year: int
    dropped_later: int


class Compliance(Struct, frozen=True):
    """What a relay has done about requests for deletion (NIP-09) and to vanish (NIP-62) that it
    holds, or accepted from this archive, as far as this archive holds what they are about."""

    relay: str
    network: str
    deleted: int  # events that it held, was asked to delete, and holds no more
    kept: int  # that it was seen to hold after it was asked
    unknown: int  # of which nothing was proven since
    kept_as_of: int | None  # the oldest of the proofs for what is kept, in Unix seconds


class CheckDay(Struct, frozen=True):
    """Uptime and round trips of all relays together, in milliseconds."""

    day: str
    relays: int  # that were checked
    relays_up: int  # at one check at least
    checks: int
    checks_up: int
    uptime: float  # share of the checks
    open_ms: float | None  # the median
    open_ms_90: float | None  # of nine in ten, at most
    read_ms: float | None
    read_ms_90: float | None


class Completeness(Struct, frozen=True):
    """What the events of a sample refer to, and how much of it is archived."""

    month: str  # in which the referring events were created
    kind: int  # of the referring events
    via: str  # e, q, a: by such a tag; repost (6, 16); zap (9735)
    references: int  # in the sample
    archived: int  # of these, to events that are archived
    archived_share: float


class Moves(Struct, frozen=True):
    """Who has changed their list of relays (kind 10002) in a month."""

    month: str
    authors: int  # who have published a list
    moved: int  # who have added or removed a relay
    added: int  # relays; first lists do not count
    removed: int
    made_at: int  # when this was counted, in Unix seconds


class Listed(Struct, frozen=True):
    """A relay that authors list today (kind 10002)."""

    relay: str
    authors: int  # whose newest list names it
    state: str  # up, failing (or retired), never (reached), unknown
    made_at: int


class ListedState(Struct, frozen=True):
    """Relays that authors list today, by how they are."""

    state: str  # up, failing (or retired), never (reached), unknown
    relays: int
    entries: int  # of the newest lists of all authors
    entries_share: float
    made_at: int


class Software(Struct, frozen=True):
    """What relays say they run; "": they do not say."""

    software: str
    version: str
    relays: int
    operators: int  # of these relays, as far as they are known


class Nip(Struct, frozen=True):
    """A NIP: relays that claim it, and what was seen."""

    nip: str
    claimed: int
    tested: int  # of which it is known
    seen: int
    refuted: int  # that claim it and do not have it


class Country(Struct, frozen=True):
    """Where relays are, by their addresses: two letters (ISO 3166); "": it is not known."""

    country: str
    relays: int
    operators: int  # of these relays, as far as they are known


class Access(Struct, frozen=True):
    """Relays of a network, and whom they say they are for (NIP-11)."""

    network: str
    relays: int
    up: int
    documents: int  # that describe themselves
    auth: int  # that require authentication
    payment: int
    restricted: int  # not everybody may write
    operators: int  # of these relays, as far as they are known


class Statistic(Struct, frozen=True):
    """A list of figures. `key` names the columns that order it: by day, the newest day comes first,
    and a key begins with its number."""

    name: str
    words: str
    item: type[Struct]
    key: tuple[type, ...]
    key_columns: tuple[str, ...]
    query: str

    @property
    def is_by_day(self) -> bool:
        """Whether it can be asked for some days alone."""
        return "number" in self.key_columns

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its figures."""
        return tuple(field.name for field in fields(self.item))


class Description(Struct, frozen=True):
    """What a list of figures is about."""

    name: str
    words: str
    columns: tuple[str, ...]


STATISTICS: dict[str, Statistic] = {
    each.name: each
    for each in (
        Statistic(
            "days",
            "Events by the day of their creation.",
            Day,
            (int,),
            ("number",),
            "SELECT s.day::pg_catalog.text, s.events, s.pairs, s.held, s.number"
            " FROM bigbrotr.statistics_days AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4) ORDER BY s.number DESC LIMIT $1",
        ),
        Statistic(
            "authors",
            "Authors by day: all, with a profile, with a follow list; active, new, in windows.",
            Authors,
            (int, str),
            ("number", "group"),
            'SELECT s.day::pg_catalog.text, s."group", s.authors, s.new_authors, s.authors_7_days,'
            " s.authors_30_days, s.number FROM bigbrotr.statistics_authors AS s"
            " WHERE s.number >= $2 AND s.number <= $3 AND ($4::pg_catalog.int8 IS NULL"
            ' OR s.number < $4 OR (s.number = $4 AND s."group" > $5::pg_catalog.text))'
            ' ORDER BY s.number DESC, s."group" LIMIT $1',
        ),
        Statistic(
            "kinds",
            "Events by day and kind.",
            Kind,
            (int, int),
            ("number", "kind"),
            "SELECT s.day::pg_catalog.text, s.kind, s.events, s.number"
            " FROM bigbrotr.statistics_kinds AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4"
            "  OR (s.number = $4 AND s.kind > $5::pg_catalog.int8))"
            " ORDER BY s.number DESC, s.kind LIMIT $1",
        ),
        Statistic(
            "replication",
            "How many relays hold an event: a histogram by day and kind.",
            Replication,
            (int, int, int),
            ("number", "kind", "relays"),
            "SELECT s.day::pg_catalog.text, s.kind, s.relays, s.events, s.number"
            " FROM bigbrotr.statistics_replication AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4 OR (s.number = $4"
            "  AND (s.kind, s.relays) > ($5::pg_catalog.int8, $6::pg_catalog.int8)))"
            " ORDER BY s.number DESC, s.kind, s.relays LIMIT $1",
        ),
        Statistic(
            "top_relays",
            "The share of a day's events that the relays which hold most of it hold together.",
            TopRelays,
            (int, int),
            ("number", "relays"),
            "SELECT s.day::pg_catalog.text, s.relays, s.events, s.share, s.number"
            " FROM bigbrotr.statistics_top_relays AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4"
            "  OR (s.number = $4 AND s.relays > $5::pg_catalog.int8))"
            " ORDER BY s.number DESC, s.relays LIMIT $1",
        ),
        Statistic(
            "networks",
            "What the relays of each network hold, by day.",
            NetworkDay,
            (int, str),
            ("number", "network"),
            "SELECT s.day::pg_catalog.text, s.network, s.events, s.pairs, s.number"
            " FROM bigbrotr.statistics_networks AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4"
            "  OR (s.number = $4 AND s.network > $5::pg_catalog.text))"
            " ORDER BY s.number DESC, s.network LIMIT $1",
        ),
        Statistic(
            "growth",
            "Growth of the archive: events by the day on which they were first seen.",
            Growth,
            (int,),
            ("number",),
            "SELECT s.day::pg_catalog.text, s.events, s.number"
            " FROM bigbrotr.statistics_growth AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4) ORDER BY s.number DESC LIMIT $1",
        ),
        Statistic(
            "relay_days",
            "What each relay holds and has dropped, by day of creation.",
            RelayDay,
            (int, str),
            ("number", "relay"),
            "SELECT s.day::pg_catalog.text, s.relay_url, s.events, s.alone, s.dropped, s.number"
            " FROM bigbrotr.statistics_relay_days AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number <= $4)"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4"
            "  OR s.relay_url > $5::pg_catalog.text)"
            " ORDER BY s.number DESC, s.relay_url LIMIT $1",
        ),
        Statistic(
            "relays",
            "What each relay holds, what it alone holds, and how soon it drops events.",
            RelayFigures,
            (str,),
            ("relay",),
            "SELECT * FROM bigbrotr.statistics_relays AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.relay_url > $2)"
            " ORDER BY s.relay_url LIMIT $1",
        ),
        Statistic(
            "compliance",
            "What relays do when they are asked to delete events: deleted, kept, not known.",
            Compliance,
            (str,),
            ("relay",),
            "SELECT * FROM bigbrotr.statistics_compliance AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.relay_url > $2)"
            " ORDER BY s.relay_url LIMIT $1",
        ),
        Statistic(
            "completeness",
            "Which share of what archived events refer to is archived, on a sample of the archive.",
            Completeness,
            (str, int, str),
            ("month", "kind", "via"),
            "SELECT * FROM bigbrotr.statistics_completeness AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.month < $2 OR (s.month = $2"
            "  AND (s.kind, s.via) > ($3::pg_catalog.int8, $4::pg_catalog.text)))"
            " ORDER BY s.month DESC, s.kind, s.via LIMIT $1",
        ),
        Statistic(
            "moves",
            "Who has changed their list of relays (kind 10002), by month.",
            Moves,
            (str,),
            ("month",),
            "SELECT * FROM bigbrotr.statistics_moves AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.month < $2)"
            " ORDER BY s.month DESC LIMIT $1",
        ),
        Statistic(
            "listed",
            "Relays that authors list today (kind 10002), and how they are.",
            Listed,
            (str,),
            ("relay",),
            "SELECT * FROM bigbrotr.statistics_listed AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.relay_url > $2)"
            " ORDER BY s.relay_url LIMIT $1",
        ),
        Statistic(
            "listed_states",
            "How the relays are that authors list today: which share of the entries is dead.",
            ListedState,
            (str,),
            ("state",),
            "SELECT * FROM bigbrotr.statistics_listed_states AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.state > $2) ORDER BY s.state LIMIT $1",
        ),
        Statistic(
            "checks",
            "Uptime and round trips of all relays together, by day.",
            CheckDay,
            (int,),
            ("number",),
            "SELECT s.day::pg_catalog.text, s.relays, s.relays_up, s.checks, s.checks_up, s.uptime,"
            " s.open_ms, s.open_ms_90, s.read_ms, s.read_ms_90, s.number"
            " FROM bigbrotr.statistics_checks AS s WHERE s.number >= $2 AND s.number <= $3"
            " AND ($4::pg_catalog.int8 IS NULL OR s.number < $4) ORDER BY s.number DESC LIMIT $1",
        ),
        Statistic(
            "software",
            "What relays say they run.",
            Software,
            (str, str),
            ("software", "version"),
            "SELECT * FROM bigbrotr.statistics_software AS s WHERE ($2::pg_catalog.text IS NULL"
            " OR (s.software, s.version) > ($2, $3::pg_catalog.text))"
            " ORDER BY s.software, s.version LIMIT $1",
        ),
        Statistic(
            "nips",
            "Which NIPs relays claim to support, and which were seen.",
            Nip,
            (str,),
            ("nip",),
            "SELECT * FROM bigbrotr.statistics_nips AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.nip > $2) ORDER BY s.nip LIMIT $1",
        ),
        Statistic(
            "countries",
            "Where relays are, by their addresses.",
            Country,
            (str,),
            ("country",),
            "SELECT * FROM bigbrotr.statistics_countries AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.country > $2) ORDER BY s.country LIMIT $1",
        ),
        Statistic(
            "access",
            "Relays by network, and whom they say they are for: authentication, payment.",
            Access,
            (str,),
            ("network",),
            "SELECT * FROM bigbrotr.statistics_access AS s"
            " WHERE ($2::pg_catalog.text IS NULL OR s.network > $2) ORDER BY s.network LIMIT $1",
        ),
    )
}


def descriptions() -> list[Description]:
    """What there is."""
    return [Description(each.name, each.words, each.columns) for each in STATISTICS.values()]


async def figures(
    pool: Pool,
    statistic: Statistic,
    after: Sequence[Any] | None = None,
    limit: int | None = None,
    *,
    since: int | None = None,
    until: int | None = None,
) -> list[tuple[tuple[Any, ...], Any]]:
    """Up to `limit` rows behind the key `after`, each with its key.

    `since` and `until` (Unix seconds, the latter not included) choose days, where it is by day.
    """
    days: tuple[int, ...] = ()
    if statistic.is_by_day:
        first = 0 if since is None else since // DAY_S
        last = LAST_DAY if until is None else (until - 1) // DAY_S
        days = (first, last)
    begun = (None,) * len(statistic.key) if after is None else tuple(after)
    rows = await pool.fetch(statistic.query, limit, *days, *begun)
    columns = len(statistic.columns)
    found = []
    for row in rows:
        item = statistic.item(*list(row)[:columns])
        key = tuple(
            row["number"] if name == "number" else getattr(item, name)
            for name in statistic.key_columns
        )
        found.append((key, item))
    return found
