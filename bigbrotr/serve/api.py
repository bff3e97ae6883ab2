"""Declares the resources of the API, version 1: each with its parameters and who reads them."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct, structs

from bigbrotr.core.pool import Pool
from bigbrotr.models.event import MAX_CREATED_AT, MAX_KIND
from bigbrotr.models.filter import public_key
from bigbrotr.models.metadata import MetadataType
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position
from bigbrotr.models.query import Query as EventQuery
from bigbrotr.models.ranks import address_in
from bigbrotr.models.relay import Network, Relay
from bigbrotr.models.search import MOST_CHARACTERS, Search
from bigbrotr.models.where import parse_event_id
from bigbrotr.reads import (
    at_risk,
    author_history,
    authors,
    changes,
    completeness,
    coverage,
    measurements,
    operators,
    ranks,
    relay_list,
    relays,
    rescues,
    samples,
    statistics,
    status,
    witnesses,
)
from bigbrotr.reads.events import NotKeptError, NotSearchedError, StoredEvent
from bigbrotr.reads.relays import Stage, Uptime
from bigbrotr.reads.where import Where, where
from bigbrotr.serve.parameters import PARSE, WHOLE
from bigbrotr.serve.problems import RefusedError
from bigbrotr.serve.readers import at_risk_of, events_of, relays_of
from bigbrotr.serve.resource import (
    BIGINT,
    Keyed,
    Lines,
    ListQuery,
    Many,
    One,
    Part,
    Query,
    Resource,
)

Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
Seconds: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Since = Annotated[Seconds | None, Meta(description="from then on, in Unix seconds")]
Until = Annotated[Seconds | None, Meta(description="before then, in Unix seconds")]


def _relay_url(text: str) -> str:
    return Relay(text if "://" in text else f"wss://{text}").url


def _event_id(text: str) -> str:
    return parse_event_id(text).hex()


RelayUrl = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2048,
        description="URL of the relay, percent-encoded; without a scheme it is one of wss://",
        extra={PARSE: _relay_url},
    ),
]
Networks = Annotated[tuple[Network, ...] | None, Meta(description="on one of these networks")]
States = Annotated[
    tuple[relay_list.State, ...] | None, Meta(description="as the monitor found them")
]
Stages = Annotated[
    tuple[Stage, ...] | None, Meta(description="what the synchronizer is up to with them")
]


def keyed(rows: Sequence[Any] | None, key: Callable[[Any], Any]) -> list[Keyed] | None:
    """Rows with their keys, where the key is in the row."""
    return None if rows is None else [(key(row), row) for row in rows]


# The archive


async def _status(pool: Pool, _: Query) -> status.Overview:
    return await status.overview(pool)


# Relays


class RelaysQuery(ListQuery, frozen=True, kw_only=True):
    """Which relays, in which order."""

    network: Networks = None
    state: States = None
    stage: Stages = None
    country: Annotated[
        Annotated[str, Meta(min_length=2, max_length=2, extra={PARSE: str.upper})] | None,
        Meta(description="of their address: two letters (ISO 3166)"),
    ] = None
    software: Annotated[
        Text | None, Meta(description="a part of the software that they say they run")
    ] = None
    nip: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=99_999)], ...] | None,
        Meta(description="claims to support all of these NIPs"),
    ] = None
    text: Annotated[
        Text | None, Meta(description="a part of their URL, name or description, in any case")
    ] = None
    sort: Annotated[
        relay_list.RelaySort,
        Meta(description="largest first, but for url and open_ms; what is not known comes last"),
    ] = "url"


async def _relays(
    pool: Pool, query: RelaysQuery, after: relay_list.RelayKey | None, limit: int
) -> list[Keyed]:
    wanted = relay_list.RelayFilter(
        networks=query.network,
        states=query.state,
        stages=query.stage,
        country=query.country,
        software=query.software,
        nips=query.nip,
        text=query.text,
    )
    found: list[Keyed] = []
    found += await relays_of(pool).page(wanted, query.sort, after, limit)
    return found


class RelayQuery(Query, frozen=True, kw_only=True):
    """Which relay."""

    relay: RelayUrl


class RelayDetail(Struct, frozen=True, kw_only=True):
    """What is known of one relay. Times are Unix seconds, spans [since, until); null: open."""

    url: str
    network: str
    discovered_at: int
    # What the monitor found
    state: str
    since: int | None
    checked_at: int | None
    outcome: str | None
    failed: dict[str, str]  # checks that failed, and why
    uptime: Uptime  # of the last 30 days
    documents: dict[str, measurements.Document]  # the newest of each type
    # What the synchronizer has copied
    stage: str
    holds: int  # archived events that it holds
    alone: int  # of these, events that no other relay is known to hold, of the days counted
    brought: int  # archived events that were first met there
    rejected: dict[str, int]  # invalid events of its, by reason
    withheld: int  # events that it says it holds and does not hand over
    visited_at: int | None
    visit_outcome: str | None
    retired_at: int | None
    nip77: str | None  # what came of comparing ids
    filter: str  # which events are wanted; "": all
    proven: tuple[relays.Span, ...]
    missing: tuple[relays.Span, ...]  # neither proven nor a gap that has to wait
    gaps: int
    ways: dict[str, relays.Way]  # how it was proven


async def _relay(pool: Pool, query: RelayQuery) -> RelayDetail | None:
    found = await relays.report(pool, query.relay)
    if found is None:
        return None
    progress, check = found.progress, found.check
    newest = await measurements.newest_documents(pool, query.relay)
    return RelayDetail(
        url=progress.url,
        network=progress.network,
        discovered_at=progress.discovered_at,
        state="unknown" if check is None else check.state,
        since=None if check is None else check.since,
        checked_at=None if check is None else check.checked_at,
        outcome=None if check is None else check.outcome,
        failed={} if check is None else check.failed,
        uptime=found.uptime,
        documents={each.type: each for each in newest},
        stage=progress.stage,
        holds=progress.holds,
        alone=found.alone,
        brought=progress.brought,
        rejected=found.rejected,
        withheld=progress.withheld,
        visited_at=progress.visited_at,
        visit_outcome=progress.outcome,
        retired_at=progress.retired_at,
        nip77=progress.nip77,
        filter=progress.filter,
        proven=progress.proven,
        missing=found.missing,
        gaps=progress.gaps,
        ways=progress.ways,
    )


class UptimeQuery(RelayQuery, frozen=True, kw_only=True):
    """Which relay, and how long."""

    days: Annotated[int, Meta(ge=1, le=365, description="the last days")] = 30


async def _uptime(pool: Pool, query: UptimeQuery) -> Uptime | None:
    return await measurements.uptime(pool, query.relay, query.days)


class RttsQuery(ListQuery, frozen=True, kw_only=True):
    """Which relay, and when."""

    relay: RelayUrl
    since: Since = None
    until: Until = None


async def _rtts(pool: Pool, query: RttsQuery, after: int | None, limit: int) -> list[Keyed] | None:
    rows = await measurements.list_rtts(
        pool, query.relay, after, limit, since=query.since, until=query.until
    )
    return keyed(rows, lambda row: row.checked_at)


class DocumentsQuery(ListQuery, frozen=True, kw_only=True):
    """Which documents of which relay, and when."""

    relay: RelayUrl
    type: Annotated[tuple[MetadataType, ...] | None, Meta(description="of these types")] = None
    since: Since = None
    until: Until = None


async def _documents(
    pool: Pool, query: DocumentsQuery, after: measurements.DocumentKey | None, limit: int
) -> list[Keyed] | None:
    rows = await measurements.list_documents(
        pool, query.relay, after, limit, types=query.type, since=query.since, until=query.until
    )
    return keyed(rows, lambda row: (row.snapshot_at, row.type))


async def _claims(pool: Pool, query: RelayQuery) -> measurements.Claims | None:
    return await measurements.claims(pool, query.relay)


class GapsQuery(ListQuery, frozen=True, kw_only=True):
    """Which gaps of which relay."""

    relay: RelayUrl
    reason: Annotated[
        tuple[Text, ...] | None, Meta(description="for one of these reasons, as in the answer")
    ] = None


async def _gaps(
    pool: Pool, query: GapsQuery, after: coverage.GapKey | None, limit: int
) -> list[Keyed] | None:
    rows = await coverage.list_gaps(pool, query.relay, after, limit, reasons=query.reason)
    return keyed(rows, lambda row: (row.since, row.until, row.filter))


class CoverageQuery(ListQuery, frozen=True, kw_only=True):
    """Which proofs of which relay."""

    relay: RelayUrl
    how: Annotated[
        tuple[Literal["paging", "finish", "reconciliation", "import"], ...] | None,
        Meta(description="proven in one of these ways"),
    ] = None


async def _coverage(
    pool: Pool, query: CoverageQuery, after: coverage.ProofKey | None, limit: int
) -> list[Keyed] | None:
    rows = await coverage.list_coverage(pool, query.relay, after, limit, hows=query.how)
    return keyed(rows, lambda row: (row.proven_at, row.filter, row.how))


# What is at risk


class AtRiskQuery(ListQuery, frozen=True, kw_only=True):
    """Which relays, in which order."""

    network: Networks = None
    state: States = None
    stage: Stages = None
    kind: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MAX_KIND)], ...] | None,
        Meta(description="only events of these kinds are counted"),
    ] = None
    sort: Annotated[
        at_risk.RiskSort,
        Meta(
            description="risk: retired relays first, then those that are down, unknown, up; alone: "
            "those that alone hold most first"
        ),
    ] = "risk"


async def _at_risk(
    pool: Pool, query: AtRiskQuery, after: at_risk.RiskKey | None, limit: int
) -> list[Keyed]:
    found: list[Keyed] = []
    found += await at_risk_of(pool).page(
        query.sort,
        after,
        limit,
        networks=query.network,
        states=query.state,
        stages=query.stage,
        kinds=query.kind,
    )
    return found


async def _risk_summary(pool: Pool, _: Query) -> at_risk.RiskSummary:
    return await at_risk.risk_summary(pool)


class RiskKindsQuery(ListQuery, frozen=True, kw_only=True):
    """Of which relay."""

    relay: Annotated[
        RelayUrl | None, Meta(description="only what this relay holds: its URL, percent-encoded")
    ] = None


async def _kinds_at_risk(
    pool: Pool, query: RiskKindsQuery, after: int | None, limit: int
) -> list[Keyed] | None:
    rows = await at_risk.kinds_at_risk(pool, query.relay)
    if rows is None:
        return None
    behind = [row for row in rows if after is None or row.kind > after]
    return keyed(behind[:limit], lambda row: row.kind)


class RescuesQuery(ListQuery, frozen=True, kw_only=True):
    """Which events, where."""

    relay: Annotated[RelayUrl | None, Meta(description="sent to this relay")] = None
    author: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200, extra={PARSE: public_key})] | None,
        Meta(description="by this author: 64 hex digits or npub"),
    ] = None
    state: Annotated[
        tuple[rescues.RescueState, ...] | None, Meta(description="what became of them")
    ] = None


async def _rescues(
    pool: Pool, query: RescuesQuery, after: rescues.RescueKey | None, limit: int
) -> list[Keyed] | None:
    found: list[Keyed] = []
    found += await rescues.list_rescues(
        pool, after, limit, relay=query.relay, author=query.author, states=query.state
    )
    return found


async def _rescue_targets(
    pool: Pool, _: ListQuery, after: str | None, limit: int
) -> list[Keyed] | None:
    rows = await rescues.list_targets(pool)
    behind = [row for row in rows if after is None or row.relay > after]
    return keyed(behind[:limit], lambda row: row.relay)


# Changes of state


class ChangesQuery(ListQuery, frozen=True, kw_only=True):
    """Which changes."""

    after: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)] | None,
        Meta(
            description="behind the change of this number; default: the oldest first, or of "
            "events those to come"
        ),
    ] = None
    relay: Annotated[RelayUrl | None, Meta(description="of the relay at this URL")] = None


async def _changes(
    pool: Pool, query: ChangesQuery, after: int | None, limit: int
) -> list[Keyed] | None:
    start = query.after or 0 if after is None else after
    rows = await changes.changes_after(pool, start, limit, relay=query.relay)
    return keyed(rows, lambda row: row.id)


def _follow_changes(query: ChangesQuery) -> tuple[int | None, Callable[[changes.Change], bool]]:
    return query.after, lambda each: query.relay in (None, each.relay)


# Operators


class OperatorsQuery(ListQuery, frozen=True, kw_only=True):
    """Which operators."""


async def _operators(pool: Pool, _: OperatorsQuery, after: int | None, limit: int) -> list[Keyed]:
    found: list[Keyed] = []
    found += await operators.list_operators(pool, after, limit)
    return found


async def _relay_operator(pool: Pool, query: RelayQuery) -> operators.RelayOperator | None:
    return await operators.relay_operator(pool, query.relay)


# Witnesses


class WitnessesQuery(ListQuery, frozen=True, kw_only=True):
    """Which witnesses."""


async def _witnesses(
    pool: Pool, _: WitnessesQuery, after: witnesses.WitnessKey | None, limit: int
) -> list[Keyed]:
    found: list[Keyed] = []
    found += await witnesses.list_witnesses(pool, after, limit)
    return found


async def _relay_witnesses(pool: Pool, query: RelayQuery) -> witnesses.RelayWitnesses | None:
    return await witnesses.relay_witnesses(pool, query.relay)


# Ranks


class RanksQuery(ListQuery, frozen=True, kw_only=True):
    """Which ranks."""


async def _ranks(pool: Pool, _: RanksQuery, after: ranks.TopKey | None, limit: int) -> list[Keyed]:
    found: list[Keyed] = []
    found += await ranks.list_ranks(pool, after, limit)
    return found


async def _rank_basis(pool: Pool, _: Query) -> ranks.RankBasis:
    return await ranks.rank_basis(pool)


# Candidates


class CandidatesQuery(ListQuery, frozen=True, kw_only=True):
    """Which candidates."""

    network: Networks = None
    source: Annotated[Text | None, Meta(description="where they were first seen")] = None
    outcome: Annotated[Text | None, Meta(description="of the last try")] = None
    text: Annotated[Text | None, Meta(description="a part of their URL")] = None
    alias: Annotated[
        bool | None, Meta(description="those that repeat a relay alone, or the others alone")
    ] = None


async def _candidates(
    pool: Pool, query: CandidatesQuery, after: str | None, limit: int
) -> list[Keyed] | None:
    rows = await relay_list.list_candidates(
        pool,
        after,
        limit,
        networks=query.network,
        source=query.source,
        outcome=query.outcome,
        text=query.text,
        aliases=query.alias,
    )
    return keyed(rows, lambda row: row.url)


# Events


EventId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2000,
        description="id of the event: 64 hex digits, a note or an nevent",
        extra={PARSE: _event_id},
    ),
]
Author = Annotated[str, Meta(min_length=1, max_length=200, extra={PARSE: public_key})]
TAG = "^[A-Za-z]:"
EVENTS = 500  # most of an answer: some are as large as a megabyte
EVENTS_AT_ONCE = 100  # of a stream


BUDGET_S = 1.0  # of a search: then the page ends, wherever it is
MOST_BYTES = 8 * 1024 * 1024  # of content and tags in one page
MOST_COUNTED = 10_000  # events
EventIds = Annotated[tuple[EventId, ...] | None, Meta(description="with one of these ids")]
Authors = Annotated[
    tuple[Author, ...] | None, Meta(description="by one of these: 64 hex digits or npub")
]
Kinds = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=MAX_KIND)], ...] | None,
    Meta(description="of one of these kinds"),
]
Tags = Annotated[
    tuple[Annotated[str, Meta(max_length=1000, pattern=TAG)], ...] | None,
    Meta(
        description="with a tag, as `t:nostr`; repeated: one of each letter has to be there",
        extra={WHOLE: True},
    ),
]
SearchText = Annotated[
    Annotated[str, Meta(min_length=1, max_length=MOST_CHARACTERS)] | None,
    Meta(
        description='words that all occur, "phrases", and -words that do not (NIP-50); where there '
        "is an index of them"
    ),
]
UntilThen = Annotated[
    Seconds | None, Meta(description="until then, that second included, in Unix seconds")
]


class OneEventQuery(Query, frozen=True, kw_only=True):
    """Which event."""

    event: EventId


class EventsQuery(ListQuery, frozen=True, kw_only=True):
    """A filter of NIP-01, part by part."""

    limit: Annotated[
        Annotated[int, Meta(ge=1, le=EVENTS)] | None,
        Meta(description="most events of the answer; default: 100, and in NDJSON all"),
    ] = None
    id: EventIds = None
    author: Authors = None
    kind: Kinds = None
    tag: Tags = None
    since: Since = None
    until: UntilThen = None
    search: SearchText = None


class CountsQuery(Query, frozen=True, kw_only=True):
    """A filter of NIP-01, part by part."""

    id: EventIds = None
    author: Authors = None
    kind: Kinds = None
    tag: Tags = None
    since: Since = None
    until: UntilThen = None
    search: SearchText = None


class Counted(Struct, frozen=True):
    """How many archived events match."""

    count: int
    approximate: bool  # about so many, as statistics of the archive have it


class EventItem(Struct, frozen=True, omit_defaults=True):
    """An event as it was signed (NIP-01). The profile lite keeps the first four fields."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...] | None = None
    content: str | None = None
    sig: str | None = None


HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # of a pair of UTF-16
EventKey: TypeAlias = tuple[BIGINT, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]]


def _filter(query: EventsQuery | CountsQuery) -> EventQuery:
    tags: dict[str, frozenset[str]] = {}
    for text in query.tag or ():
        tags[text[0]] = tags.get(text[0], frozenset()) | {text[2:]}
    return EventQuery(
        ids=None if query.id is None else frozenset(map(bytes.fromhex, query.id)),
        authors=None if query.author is None else frozenset(map(bytes.fromhex, query.author)),
        kinds=None if query.kind is None else frozenset(query.kind),
        tags=tags,
        since=query.since or 0,
        until=MAX_CREATED_AT if query.until is None else query.until,
        search=None if query.search is None else _search(query.search),
    )


def _search(text: str) -> Search | None:
    try:
        return Search.parse(text)
    except ValueError as error:
        raise RefusedError("bad-parameter", str(error), parameter="search") from None


def _position(after: tuple[int, str] | None) -> Position | None:
    return None if after is None else Position(after[0], bytes.fromhex(after[1]))


def _key_of(position: Position | None) -> tuple[int, str] | None:
    return None if position is None else (position.created_at, position.id.hex())


async def _events(
    pool: Pool, query: EventsQuery, after: tuple[int, str] | None, limit: int
) -> Lines:
    try:
        page = await events_of(pool).lines(
            _filter(query), limit, _position(after), budget_s=BUDGET_S, most_bytes=MOST_BYTES
        )
    except NotKeptError as error:
        raise RefusedError("bad-parameter", str(error), parameter="tag") from None
    except NotSearchedError as error:
        raise RefusedError("bad-parameter", str(error), parameter="search") from None
    return Lines(page.lines, page.number, _key_of(page.next))


async def _counts(pool: Pool, query: CountsQuery) -> Counted:
    try:
        found = await events_of(pool).count(_filter(query), MOST_COUNTED, budget_s=BUDGET_S)
    except NotKeptError as error:
        raise RefusedError("bad-parameter", str(error), parameter="tag") from None
    except NotSearchedError as error:
        raise RefusedError("bad-parameter", str(error), parameter="search") from None
    return Counted(found.events, not found.is_exact)


async def _event(pool: Pool, query: OneEventQuery) -> Raw | None:
    wanted = EventQuery(ids=frozenset([bytes.fromhex(query.event)]))
    page = await events_of(pool).page(wanted, 1)
    return Raw(page.events[0].to_json()) if page.events else None


async def _where(pool: Pool, query: OneEventQuery) -> Where:
    return await where(pool, bytes.fromhex(query.event))


# Statistics


async def _statistics(
    pool: Pool, _: ListQuery, after: str | None, limit: int
) -> Sequence[Keyed] | None:
    known = sorted(statistics.descriptions(), key=lambda each: each.name)
    return keyed([each for each in known if after is None or each.name > after][:limit], _name)


def _name(found: statistics.Description) -> str:
    return found.name


class FiguresQuery(ListQuery, frozen=True, kw_only=True):
    """Which figures."""


class DaysQuery(ListQuery, frozen=True, kw_only=True):
    """Which days."""

    since: Since = None
    until: Until = None


def _figures(of: statistics.Statistic) -> Many:
    """The resource of a list of figures."""

    async def read(pool: Pool, query: ListQuery, after: Any, limit: int) -> Sequence[Keyed] | None:
        days = {}
        if isinstance(query, DaysQuery):
            days = {"since": query.since, "until": query.until}
        return await statistics.figures(pool, of, after, limit, **days)

    return Many(
        name=f"statistics_{of.name}",
        path=f"statistics/{of.name}",
        words=of.words,
        query=DaysQuery if of.is_by_day else FiguresQuery,
        item=of.item,
        read=read,
        key=tuple[tuple(BIGINT if part is int else part for part in of.key)],  # type: ignore[misc]
        max_age_s=60,
    )


async def _completeness(pool: Pool, _: Query) -> completeness.CompletenessSummary:
    return await completeness.completeness_summary(pool)


# Authors


class AuthorQuery(Query, frozen=True, kw_only=True):
    """Which author."""

    author: Annotated[Author, Meta(description="64 hex digits, or npub")]


async def _author_rank(pool: Pool, query: AuthorQuery) -> ranks.AuthorRank:
    return await ranks.author_rank(pool, bytes.fromhex(query.author))


def _address(text: str) -> str:
    address = address_in(text)
    if address is None:
        raise ValueError("an address is kind:pubkey:d, of a kind that is replaced")
    return address.decode()


class AddressQuery(Query, frozen=True, kw_only=True):
    """Which address."""

    address: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=2000,
            description="kind:pubkey:d, percent-encoded: all versions of an event",
            extra={PARSE: _address},
        ),
    ]


async def _address_rank(pool: Pool, query: AddressQuery) -> ranks.SubjectRank:
    return await ranks.subject_rank(pool, query.address.encode())


async def _event_rank(pool: Pool, query: OneEventQuery) -> ranks.SubjectRank:
    return await ranks.subject_rank(pool, bytes.fromhex(query.event))


class AuthorThenQuery(AuthorQuery, frozen=True, kw_only=True):
    """Which author, and when."""

    at: Annotated[
        Seconds | None, Meta(description="`then` is as of then, in Unix seconds; default: now")
    ] = None


class AuthorHistoryQuery(AuthorQuery, frozen=True, kw_only=True):
    """Which author, and when."""

    since: Annotated[Seconds | None, Meta(description="what was so or was said from then on")] = (
        None
    )
    until: Annotated[
        Seconds | None, Meta(description="until then, that second included, in Unix seconds")
    ] = None


class AuthorDetail(authors.AuthorSummary, frozen=True, kw_only=True):
    """What is archived of an author, and what they had said by then. Times are Unix seconds."""

    then: author_history.AuthorThen | None  # None: the profile lite keeps nothing of it


class AuthorRelaysQuery(ListQuery, frozen=True, kw_only=True):
    """Which lists of which author."""

    author: Annotated[Author, Meta(description="64 hex digits, or npub")]
    kind: Annotated[
        tuple[Literal[10002, 10050], ...] | None,
        Meta(description="10002: relays to read and write; 10050: relays for direct messages"),
    ] = None


async def _author_risk(pool: Pool, query: AuthorQuery) -> at_risk.AuthorRisk:
    return await at_risk.author_risk(pool, bytes.fromhex(query.author))


async def _author(pool: Pool, query: AuthorThenQuery) -> AuthorDetail:
    author = bytes.fromhex(query.author)
    summary = await authors.author_summary(pool, author)
    then = None
    with suppress(NotKeptError):
        reads = events_of(pool, View.ARCHIVE)
        then = await author_history.author_then(reads, pool, author, query.at)
    return AuthorDetail(**structs.asdict(summary), then=then)


async def _author_history(pool: Pool, query: AuthorHistoryQuery) -> author_history.AuthorHistory:
    try:
        return await author_history.author_history(
            events_of(pool, View.ARCHIVE),
            pool,
            bytes.fromhex(query.author),
            since=query.since or 0,
            until=MAX_CREATED_AT if query.until is None else query.until,
        )
    except NotKeptError as error:
        raise RefusedError("not-kept", str(error)) from None


def _signed(event: StoredEvent, what: str) -> EventItem:
    """An event with what was signed; where that is no Unicode, with a sign in its place."""
    if event.tags is None and event.raw is None:
        raise RefusedError(
            "not-kept",
            f"this archive keeps no content and no tags (its profile is lite): no {what}",
        )
    text = event.to_json()
    try:
        return msgspec.json.decode(text, type=EventItem)
    except msgspec.DecodeError:  # half of a pair
        return msgspec.json.decode(HALF.sub(rb"\\ufffd", text), type=EventItem)


async def _profile(pool: Pool, query: AuthorQuery) -> authors.Profile | None:
    wanted = EventQuery(authors=frozenset([bytes.fromhex(query.author)]), kinds=frozenset([0]))
    page = await events_of(pool).page(wanted, 1)
    if not page.events:
        return None
    event = page.events[0]
    content = _signed(event, "profiles").content or ""
    return authors.profile_in(query.author, event.id.hex(), event.created_at, content)


async def _author_relays(
    pool: Pool, query: AuthorRelaysQuery, after: tuple[int, str] | None, limit: int
) -> Part:
    wanted = EventQuery(
        authors=frozenset([bytes.fromhex(query.author)]),
        kinds=frozenset(query.kind or (10002, 10050)),
    )
    page = await events_of(pool, View.ARCHIVE).page(
        wanted, limit, _position(after), budget_s=BUDGET_S, most_bytes=MOST_BYTES
    )
    found: list[Keyed] = []
    for event in page.events:
        tags = _signed(event, "lists of relays").tags or ()
        item = authors.AuthorRelays(
            event.kind, event.id.hex(), event.created_at, *authors.relays_in(event.kind, tags)
        )
        found.append((None, item))
    return Part(found, _key_of(page.next))


# Samples


class SampleQuery(RelayQuery, frozen=True, kw_only=True):
    """Which relay, and when."""

    until: Annotated[
        Seconds | None, Meta(description="of events from before then, in Unix seconds")
    ] = None


async def _relay_kinds(pool: Pool, query: SampleQuery) -> samples.RelayKinds | None:
    return await samples.relay_kinds(pool, query.relay, query.until)


async def _relay_overlap(pool: Pool, query: SampleQuery) -> samples.RelayOverlap | None:
    return await samples.relay_overlap(pool, query.relay, query.until)


SAMPLE_S = 300  # how long a sample is as good as a new one

RESOURCES: tuple[Resource, ...] = (
    One(
        name="status",
        path="status",
        words="What is in the archive, and how far it is. Made anew every half minute.",
        query=Query,
        item=status.Overview,
        read=_status,
        is_kept=True,
    ),
    Many(
        name="relays",
        path="relays",
        words="Relays, by what is known of them. All conditions have to hold.",
        query=RelaysQuery,
        item=relay_list.RelayRow,
        read=_relays,
        key=tuple[float, str],
    ),
    One(
        name="relay",
        path="relays/{relay}",
        words="A relay: what it says, what was measured, what was copied.",
        query=RelayQuery,
        item=RelayDetail,
        read=_relay,
    ),
    One(
        name="relay_uptime",
        path="relays/{relay}/uptime",
        words="How much of the last days a relay was up. `uptime` is the share of the known time.",
        query=UptimeQuery,
        item=Uptime,
        read=_uptime,
        max_age_s=60,
    ),
    Many(
        name="relay_rtts",
        path="relays/{relay}/rtts",
        words="Checks of a relay with their round-trip times, the newest first.",
        query=RttsQuery,
        item=measurements.Rtt,
        read=_rtts,
        key=BIGINT,
        max_age_s=60,
    ),
    Many(
        name="relay_documents",
        path="relays/{relay}/documents",
        words="What a relay has said of itself (NIP-11) and what was measured, the newest first.",
        query=DocumentsQuery,
        item=measurements.Document,
        read=_documents,
        key=tuple[BIGINT, str],
        max_age_s=60,
    ),
    One(
        name="relay_claims",
        path="relays/{relay}/claims",
        words="What a relay claims beside what was seen of it. null: nothing is claimed, or known.",
        query=RelayQuery,
        item=measurements.Claims,
        read=_claims,
        max_age_s=60,
    ),
    Many(
        name="relay_coverage",
        path="relays/{relay}/coverage",
        words="Which seconds of a relay's past are proven complete, the newest proofs first.",
        query=CoverageQuery,
        item=coverage.Proof,
        read=_coverage,
        key=tuple[BIGINT, str, str],
    ),
    Many(
        name="relay_gaps",
        path="relays/{relay}/gaps",
        words="Which seconds of a relay's past could not be copied, and why, the oldest first.",
        query=GapsQuery,
        item=coverage.Gap,
        read=_gaps,
        key=tuple[BIGINT | None, BIGINT | None, str],
    ),
    One(
        name="relay_kinds",
        path="relays/{relay}/kinds",
        words="Which kinds of events a relay holds, of a sample of the archive: its newest "
        f"{samples.KINDS_EXAMINED:,} events, from the newest week in which the relay holds any.",
        query=SampleQuery,
        item=samples.RelayKinds,
        read=_relay_kinds,
        max_age_s=SAMPLE_S,
        fresh_s=SAMPLE_S,
    ),
    One(
        name="relay_overlap",
        path="relays/{relay}/overlap",
        words="Which other relays hold what a relay holds, of a sample of the archive: its newest "
        f"{samples.OVERLAP_EXAMINED:,} events, from the newest week in which the relay holds any.",
        query=SampleQuery,
        item=samples.RelayOverlap,
        read=_relay_overlap,
        max_age_s=SAMPLE_S,
        fresh_s=SAMPLE_S,
    ),
    Many(
        name="at_risk",
        path="at-risk",
        words="Relays that hold events which no other relay is known to hold, or none but failing "
        "ones, the relays most likely to vanish first. All conditions have to hold. The events "
        "stay in this archive. It is as old as the statistics of a day, and made anew every "
        "minute; what more than three relays hold counts as safe.",
        query=AtRiskQuery,
        item=at_risk.AtRisk,
        read=_at_risk,
        key=tuple[BIGINT, BIGINT, str],
        max_age_s=60,
    ),
    One(
        name="relay_witnesses",
        path="relays/{relay}/witnesses",
        words="What other monitors (NIP-66) say of a relay, each and together, beside what ours "
        "has found. Nobody corrects ours.",
        query=RelayQuery,
        item=witnesses.RelayWitnesses,
        read=_relay_witnesses,
    ),
    Many(
        name="witnesses",
        path="witnesses",
        words="Other monitors (NIP-66), and how far each agrees with ours and with the others; the "
        "most reliable first.",
        query=WitnessesQuery,
        item=witnesses.Witness,
        read=_witnesses,
        key=tuple[float, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]],
    ),
    Many(
        name="ranks",
        path="ranks",
        words="Public keys by PageRank over the follow graph, the highest first: who follows whom, "
        "by the lists that are archived and shown now. `rank-basis` says which share of the "
        "network that is. Anybody can make keys that follow each other.",
        query=RanksQuery,
        item=ranks.TopRank,
        read=_ranks,
        key=tuple[float, Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]],
        max_age_s=60,
    ),
    One(
        name="author_rank",
        path="ranks/{author}",
        words="Followers, posts, replies, zaps and the rank of a public key, and of what they are "
        "known. A zap counts if its receipt, its request and its invoice agree; that it was paid "
        "is the word of who has signed the receipt.",
        query=AuthorQuery,
        item=ranks.AuthorRank,
        read=_author_rank,
    ),
    One(
        name="rank_basis",
        path="rank-basis",
        words="Which share of the network ranks and counts are of, and as of when.",
        query=Query,
        item=ranks.RankBasis,
        read=_rank_basis,
    ),
    One(
        name="event_rank",
        path="events/{event}/rank",
        words="How many answer, quote, repost, react to and zap an event, and of what that is "
        "known.",
        query=OneEventQuery,
        item=ranks.SubjectRank,
        read=_event_rank,
    ),
    One(
        name="address_rank",
        path="addresses/{address}/rank",
        words="The same of all versions of an addressable or replaceable event together.",
        query=AddressQuery,
        item=ranks.SubjectRank,
        read=_address_rank,
    ),
    Many(
        name="operators",
        path="operators",
        words="Operators that are known to have several relays, and their relays. Every other "
        "relay counts as one operator's of its own.",
        query=OperatorsQuery,
        item=operators.Operator,
        read=_operators,
        key=BIGINT,
        max_age_s=60,
    ),
    One(
        name="relay_operator",
        path="relays/{relay}/operator",
        words="Which relays are joined with a relay under one operator, and the evidence: that "
        "which suffices, and that which does not.",
        query=RelayQuery,
        item=operators.RelayOperator,
        read=_relay_operator,
        max_age_s=60,
    ),
    Many(
        name="changes",
        path="changes",
        words="Changes of state of relays, the oldest first: who went down, why, and who came "
        "back. With `Accept: text/event-stream` they are sent as they come (Server-Sent Events); "
        "who was cut goes on behind the last one by the header Last-Event-ID. An event `reset` "
        "says that changes behind that are not kept any more.",
        query=ChangesQuery,
        item=changes.Change,
        read=_changes,
        key=BIGINT,
        max_age_s=1,
        follows=_follow_changes,
    ),
    One(
        name="at_risk_summary",
        path="at-risk/summary",
        words="How many events are at risk, of how many that were counted, and of how many relays "
        "that is known. Made anew every half minute.",
        query=Query,
        item=at_risk.RiskSummary,
        read=_risk_summary,
        is_kept=True,
    ),
    Many(
        name="at_risk_kinds",
        path="at-risk/kinds",
        words="Events at risk by kind, of all relays or of one.",
        query=RiskKindsQuery,
        item=at_risk.KindAtRisk,
        read=_kinds_at_risk,
        key=BIGINT,
        max_age_s=60,
        fresh_s=30.0,
    ),
    Many(
        name="rescues",
        path="rescues",
        words="Archived events that were to be at other relays, and what each relay answered, the "
        "last ones queued first. All conditions have to hold.",
        query=RescuesQuery,
        item=rescues.RescueRow,
        read=_rescues,
        key=rescues.RescueKey,
    ),
    Many(
        name="rescue_targets",
        path="rescues/targets",
        words="Relays to which archived events were to be sent: how many are in which state.",
        query=ListQuery,
        item=rescues.RescueTarget,
        read=_rescue_targets,
        key=str,
    ),
    Many(
        name="candidates",
        path="candidates",
        words="URLs that may be relays, by URL. All conditions have to hold.",
        query=CandidatesQuery,
        item=relay_list.CandidateRow,
        read=_candidates,
        key=str,
    ),
    Many(
        name="events",
        path="events",
        words="Events, the newest first. All conditions have to hold. A page may be short or "
        "empty before the end: where little of much matches, or events are large. What its "
        "author has deleted or replaced, what has expired or was taken down is left out.",
        query=EventsQuery,
        item=EventItem,
        read=_events,
        key=EventKey,
        is_parted=True,
        at_once=EVENTS_AT_ONCE,
    ),
    One(
        name="event",
        path="events/{event}",
        words="An event as it was signed.",
        query=OneEventQuery,
        item=EventItem,
        read=_event,
        max_age_s=60,
    ),
    One(
        name="event_where",
        path="events/{event}/where",
        words="Which relays hold an event, which are proven not to, and which nobody knows about.",
        query=OneEventQuery,
        item=Where,
        read=_where,
    ),
    Many(
        name="statistics",
        path="statistics",
        words="Which figures there are. Each is a list below, by its name.",
        query=ListQuery,
        item=statistics.Description,
        read=_statistics,
        key=str,
    ),
    *map(_figures, statistics.STATISTICS.values()),
    One(
        name="completeness",
        path="completeness",
        words="Which share of what a sample of the archived events refers to is archived, and what "
        "is missing of it. By month, kind and way: the statistics of this name.",
        query=Query,
        item=completeness.CompletenessSummary,
        read=_completeness,
        max_age_s=60,
    ),
    One(
        name="counts",
        path="counts",
        words="How many events match a filter. All conditions have to hold. It is counted up to "
        f"{MOST_COUNTED:,}, as far as a second reaches; beyond, statistics tell about how many.",
        query=CountsQuery,
        item=Counted,
        read=_counts,
    ),
    One(
        name="author",
        path="authors/{author}",
        words="What is archived of an author: how many events of which kinds, and which relays "
        f"hold them. Counted are the newest {authors.COUNTED:,}; the newest {authors.SAMPLE} are "
        "looked for at relays. `then`: their profile, relays and contacts, as of `at`.",
        query=AuthorThenQuery,
        item=AuthorDetail,
        read=_author,
        fresh_s=30.0,
    ),
    One(
        name="author_history",
        path="authors/{author}/history",
        words="Profiles, relays and contacts of an author through time: which relay was listed "
        "from when to when, and each move. Of each kind the newest "
        f"{author_history.MOST_VERSIONS} versions are read, as far as two seconds reach.",
        query=AuthorHistoryQuery,
        item=author_history.AuthorHistory,
        read=_author_history,
        fresh_s=30.0,
    ),
    One(
        name="author_at_risk",
        path="authors/{author}/at-risk",
        words="How safe the events of an author are: which one relay alone is known to hold, or "
        f"failing ones only. The newest {at_risk.AUTHOR_EVENTS:,} are looked at.",
        query=AuthorQuery,
        item=at_risk.AuthorRisk,
        read=_author_risk,
        fresh_s=30.0,
    ),
    One(
        name="author_profile",
        path="authors/{author}/profile",
        words="The newest profile of an author. It is read as far as it can be.",
        query=AuthorQuery,
        item=authors.Profile,
        read=_profile,
    ),
    Many(
        name="author_relays",
        path="authors/{author}/relays",
        words="The lists of relays of an author, the newest first: the first of each kind counts, "
        "the others are its history.",
        query=AuthorRelaysQuery,
        item=authors.AuthorRelays,
        read=_author_relays,
        key=EventKey,
        is_parted=True,
        at_once=EVENTS_AT_ONCE,
    ),
)
