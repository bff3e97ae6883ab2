"""The tables that are published as files: what is in them, declared once.

The files themselves, their documentation and its test are made from this page.
"""

import re
import types
from datetime import UTC, datetime
from typing import NamedTuple, Union, get_args, get_origin, get_type_hints

from bigbrotr.reads.statistics import STATISTICS, Statistic

FORMAT_KEY = "nostr.event_archive.version"  # in the footer of files of events, and of no others
FORMAT_VERSION = "1"


class Column(NamedTuple):
    """A column of a table. `type` is a name that `parquet.TYPES` knows."""

    name: str
    type: str
    words: str
    is_optional: bool = False


class Dataset(NamedTuple):
    """A table. With `month`, its rows are divided into files by the month of that column."""

    name: str  # also that of the folder, or of the one file
    words: str
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    month: str | None = None
    is_pruned: bool = False  # the archive forgets old rows: a month may only grow

    @property
    def is_events(self) -> bool:
        """Whether its files are of the published schema nostr_event_archive_v1."""
        return self.name == "events"


_RELAY = Column("relay", "string", "URL of the relay.")
_BORN = Column("created_at", "uint64", "When the event was created, in Unix seconds.")
_EVENT = Column("event_id", "fixed(32)", "Id of the event: 32 bytes.")
_FILTER = Column(
    "filter", "string", "For which events: the canonical conditions of a filter; empty: all events."
)
_SPAN = (
    Column("since", "int64", "First second of the span (Unix).", is_optional=True),
    Column(
        "until", "int64", "The second after the last one (Unix); NULL: no end.", is_optional=True
    ),
)
_ID = Column("id", "fixed(32)", "Id of the event: 32 bytes, the SHA-256 of its serialisation.")
_PUBKEY = Column("pubkey", "fixed(32)", "Public key of the author: 32 bytes.")
_KIND = Column("kind", "uint16", "Kind of the event.")
_SIG = Column("sig", "fixed(64)", "Schnorr signature of the id (BIP-340): 64 bytes.")

EVENTS = Dataset(
    "events",
    "Events as they were signed, of the schema nostr_event_archive_v1. Ids and signatures were "
    "verified. Not in a lite archive, see `headers`.",
    (
        _ID,
        _PUBKEY,
        Column("created_at", "uint64", "When the author says it was created, in Unix seconds."),
        _KIND,
        Column("tags", "tags", "The tags: lists of strings."),
        Column("content", "string", "The content."),
        _SIG,
    ),
    ("created_at", "id"),
    "created_at",
)
SURROGATES = Dataset(
    "surrogates",
    "The rare events with lone surrogates, which no UTF-8 string can hold: they are not in "
    "`events`. Few archives have any.",
    (
        _ID,
        _BORN,
        Column("serialised", "binary", "The bytes that were hashed: a JSON array (NIP-01)."),
        _SIG,
    ),
    ("created_at", "id"),
    "created_at",
)
HEADERS = Dataset(
    "headers",
    "What a lite archive keeps of events, which was verified when they came, and no longer can be.",
    (_ID, _PUBKEY, _BORN, _KIND),
    ("created_at", "id"),
    "created_at",
)
PRESENCE = Dataset(
    "presence",
    "Which relays hold which event, and since when that is known: a row a pair.",
    (
        _BORN,
        _EVENT,
        _RELAY,
        Column(
            "seen_at", "uint64", "When it was first seen that the relay holds it, in Unix seconds."
        ),
    ),
    ("created_at", "event_id"),
    "created_at",
)
DROPPED = Dataset(
    "dropped",
    "Events that a relay once held and was later proven not to hold. If `presence` has the pair as "
    "well, the relay holds it again.",
    (
        _BORN,
        _EVENT,
        _RELAY,
        Column(
            "seen_at", "uint64", "When it was first seen that the relay held it, in Unix seconds."
        ),
        Column(
            "dropped_at",
            "uint64",
            "When it was last proven that the relay no longer holds it, in Unix seconds.",
        ),
    ),
    ("created_at", "event_id", "relay"),
    "created_at",
)
ROUND_TRIPS = Dataset(
    "round_trips",
    "Verdicts and round-trip times of all checks, as measured from where the archive stands.",
    (
        _RELAY,
        Column("checked_at", "uint64", "When the relay was checked, in Unix seconds."),
        Column("is_up", "bool", "Whether the relay was up."),
        Column("outcome", "string", "Why it was down, in one word; NULL if up.", is_optional=True),
        Column("holds_s", "int32", "How long the verdict counts if no other follows, in seconds."),
        Column("dns_ms", "float", "Time to look up the address, in ms.", is_optional=True),
        Column("tcp_ms", "float", "Time to connect by TCP, in ms.", is_optional=True),
        Column("tls_ms", "float", "Time for the TLS handshake, in ms.", is_optional=True),
        Column(
            "upgrade_ms", "float", "Time for the upgrade to a WebSocket, in ms.", is_optional=True
        ),
        Column(
            "read_ms", "float", "Time until the first EVENT or EOSE came, in ms.", is_optional=True
        ),
        Column("write_ms", "float", "Time until an event was accepted, in ms.", is_optional=True),
    ),
    ("checked_at", "relay"),
    "checked_at",
    is_pruned=True,
)
DOCUMENTS = Dataset(
    "documents",
    "Documents of relays over time: what they say of themselves (NIP-11) and what was measured.",
    (
        _RELAY,
        Column(
            "type",
            "string",
            "Type of the document: nip11, nip66_ssl, nip66_dns, nip66_geo, nip66_net, nip66_http, "
            "nip66_rtt or claims.",
        ),
        Column("noted_at", "uint64", "When it was fetched or measured, in Unix seconds."),
        Column("id", "fixed(32)", "SHA-256 of the document's canonical JSON: 32 bytes."),
        Column("document", "string", "The document: a JSON object."),
    ),
    ("noted_at", "relay", "type"),
    "noted_at",
    is_pruned=True,
)
RELAYS = Dataset(
    "relays",
    "The relays that the other tables speak of.",
    (
        _RELAY,
        Column("network", "string", "Network of the relay: clearnet, tor, i2p, loki or local."),
        Column("discovered_at", "uint64", "When it was first heard of, in Unix seconds."),
    ),
    ("relay",),
)
COVERAGE = Dataset(
    "coverage",
    "For each relay the seconds of the past that are proven complete: all that the relay held of "
    "them was then in the archive. What it hides (see its view) may be missing from `events`.",
    (
        _RELAY,
        _FILTER,
        Column(
            "how",
            "string",
            "How it was proven: paging, finish (the relay says that there is no more), "
            "reconciliation (ids were compared), or import (trusted from another archive).",
        ),
        *_SPAN,
        Column("proven_at", "uint64", "When the first of it was proven, in Unix seconds."),
    ),
    ("relay", "filter", "proven_at", "how", "since"),
)
GAPS = Dataset(
    "gaps",
    "For each relay the seconds of the past that could not be copied, and why.",
    (
        _RELAY,
        _FILTER,
        *_SPAN,
        Column("reason", "string", "Why, in one word, e.g. timeout or full."),
        Column("detail", "string", "Why, in words."),
        Column("attempts", "int32", "Tries in vain in a row."),
        Column("noted_at", "uint64", "When it was last met, in Unix seconds."),
    ),
    ("relay", "filter", "since"),
)
CHECKS = Dataset(
    "checks",
    "Whether each relay is up, and its newest verdict.",
    (
        _RELAY,
        Column("state", "string", "unknown, up or down."),
        Column("since", "int64", "When that began, in Unix seconds.", is_optional=True),
        Column("failures", "int32", "Checks in a row that found it down."),
        Column("checked_at", "int64", "When the newest verdict was made (Unix).", is_optional=True),
        Column("outcome", "string", "The newest verdict in one word.", is_optional=True),
        Column("detail", "string", "The newest verdict in words.", is_optional=True),
    ),
    ("relay",),
)

# What the columns of statistics mean; a name means the same wherever it stands, but for …
_FIGURES = {
    "day": "Day of created_at, of UTC, e.g. 2024-05-01.",
    "events": "Archived events.",
    "pairs": "Pairs of event and relay.",
    "held": "Events that a relay holds.",
    "group": "all authors; profile: those with a kind 0; follows: those with a kind 3.",
    "moved": "Authors who have added a relay to their list (kind 10002), or removed one.",
    "added": "Relays that were added to lists; first lists do not count.",
    "removed": "Relays that were removed from lists.",
    "made_at": "When that was counted, in Unix seconds.",
    "state": "How the relays are: up, failing (or retired), never (reached) or unknown.",
    "entries": "Entries of the newest lists of all authors.",
    "entries_share": "Their share of all entries, 0 to 1.",
    "month": "Month of created_at, of UTC, e.g. 2024-05.",
    "via": "How events refer to others: by an e, q or a tag, as a repost or as a zap.",
    "references": "References of the events of the sample.",
    "archived": "Those of them to events that are archived.",
    "archived_share": "The share of these, 0 to 1.",
    "authors": "Authors of events of the day.",
    "new_authors": "Authors whose first archived event is of the day.",
    "authors_7_days": "About how many authors the seven days up to this one have.",
    "authors_30_days": "About how many authors the 30 days up to this one have.",
    "kind": "Kind of the events.",
    "relays": "Relays.",
    "operators": "Operators of these relays: those that are known to be of one count once.",
    "share": "Their share of the day's events, 0 to 1.",
    "network": "Network of the relays: clearnet, tor, i2p, loki or local.",
    "relay": "URL of the relay.",
    "alone": "Events that no other relay holds.",
    "dropped": "Events that the relay once held.",
    "dropped_in_hour": "Events that it dropped within an hour after they were first seen there.",
    "dropped_in_day": "… after an hour, within a day.",
    "dropped_in_week": "… after a day, within a week.",
    "dropped_in_30_days": "… after a week, within 30 days.",
    "dropped_in_year": "… after 30 days, within a year.",
    "dropped_later": "… after a year.",
    "deleted": "Events that it held, was asked to delete, and holds no more.",
    "kept": "Events that it was seen to hold after it was asked to delete them.",
    "unknown": "Events that it was asked to delete, and of which nothing was proven since.",
    "kept_as_of": "The oldest of the proofs for what is kept, in Unix seconds.",
    "relays_up": "Relays that were up at one check at least.",
    "checks": "Checks.",
    "checks_up": "Checks that found the relay up.",
    "uptime": "Share of the checks that found the relay up, 0 to 1.",
    "open_ms": "Time to open a connection: the median, in ms.",
    "open_ms_90": "Time to open a connection: nine in ten are not slower, in ms.",
    "read_ms": "Time until a first answer: the median, in ms.",
    "read_ms_90": "Time until a first answer: nine in ten are not slower, in ms.",
    "software": "What relays say they run; empty: they do not say.",
    "version": "Its version, as they say it.",
    "nip": "The NIP.",
    "claimed": "Relays that claim it.",
    "tested": "Relays of which it is known whether they have it.",
    "seen": "Relays where it was seen to work.",
    "refuted": "Relays that claim it and do not have it.",
    "country": "Two letters (ISO 3166); empty: it is not known.",
    "up": "Relays that are up.",
    "documents": "Relays that describe themselves (NIP-11).",
    "auth": "Relays that say they require authentication.",
    "payment": "Relays that say they require payment.",
    "restricted": "Relays that say that not everybody may write.",
}
_FIGURES_OF = {
    ("replication", "relays"): "How many relays hold an event.",
    ("replication", "events"): "Events that just so many relays hold.",
    ("top_relays", "relays"): "How many relays, those that hold most of the day.",
    ("top_relays", "events"): "Events of the day that they hold together.",
    ("networks", "events"): "Events of the day that a relay of the network holds.",
    ("growth", "day"): "Day (UTC) on which events were first seen, e.g. 2024-05-01.",
    ("growth", "events"): "Events that were first seen on that day.",
    ("relay_days", "events"): "Events of the day that the relay holds.",
    ("relays", "events"): "Events that the relay holds.",
    ("checks", "day"): "Day of the checks, of UTC.",
    ("checks", "relays"): "Relays that were checked.",
}
_TYPES = {str: "string", int: "int64", float: "double", bool: "bool"}


def _figures(statistic: Statistic) -> Dataset:
    columns = []
    for name, hint in get_type_hints(statistic.item).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        (kind,) = (each for each in kinds if each is not type(None))
        # A test wants words for each.
        words = _FIGURES_OF.get((statistic.name, name), _FIGURES.get(name, ""))
        columns.append(Column(name, _TYPES[kind], words, is_optional=len(kinds) > 1))
    order = tuple("day" if name == "number" else name for name in statistic.key_columns)
    return Dataset(f"statistics/{statistic.name}", statistic.words, tuple(columns), order)


FIGURES = {_figures(each).name: each for each in STATISTICS.values()}
BY_MONTH = (EVENTS, SURROGATES, HEADERS, PRESENCE, DROPPED, ROUND_TRIPS, DOCUMENTS)
WHOLE = (RELAYS, COVERAGE, GAPS, CHECKS, *map(_figures, STATISTICS.values()))
DATASETS = {each.name: each for each in (*BY_MONTH, *WHOLE)}

# Months

FIRST_LATER = "2100-01"
LATER = "later"  # all from then on: dates that authors make up would fill any number of months
LAST_SECOND = 2**63 - 1
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


def month_of(at: int) -> str:
    """The month of a time (Unix seconds, UTC), e.g. 2024-05; `later` from 2100 on."""
    if at >= month_span(LATER)[0]:
        return LATER
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")


def month_span(month: str) -> tuple[int, int]:
    """The first and the last second of a month (Unix, UTC).

    Raises:
        ValueError: it is none.
    """
    if month == LATER:
        return _month_start(2100, 1), LAST_SECOND
    found = _MONTH.fullmatch(month)
    if found is None or not "1970-01" <= month < FIRST_LATER:
        raise ValueError(
            f"{month!r} is no month: give one such as 2024-05, from 1970-01 to 2099-12, or {LATER}"
        )
    year, number = int(found[1]), int(found[2])
    return _month_start(year, number), _month_start(year + number // 12, number % 12 + 1) - 1


def _month_start(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())


def months_between(first: int, last: int) -> list[str]:
    """The months from that of one time to that of another (Unix seconds), in order."""
    months = [month_of(first)]
    end = month_of(last)
    while months[-1] != end:
        months.append(month_of(month_span(months[-1])[1] + 1))
    return months
