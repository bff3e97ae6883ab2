"""Reads what an author has said of themselves through time: profile, relays, contacts, and moves.

Relays keep the newest version of these; the archive keeps each that it has met."""

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.event import MAX_CREATED_AT, decode_tags
from bigbrotr.models.query import Position, Query
from bigbrotr.reads.authors import (
    INBOXES,
    RELAY_LISTS,
    AuthorRelays,
    ListedRelay,
    Profile,
    profile_in,
    relays_in,
)
from bigbrotr.reads.events import EventReads, NotKeptError, StoredEvent

MOST_VERSIONS = 500  # of one kind that are read
PAGE = 50  # versions that are read at once
PAGE_BYTES = 4 << 20
MOST_MOVES = 2_000
BUDGET_S = 2.0  # for the versions of one kind


class ListedNow(Struct, frozen=True):
    """A relay in an author's list, and how it is today."""

    url: str
    read: bool  # its author reads there
    write: bool  # its author writes there
    # up; failing: retired, down or failing; never: nobody here has ever reached it; unknown
    state: str


class ListThen(Struct, frozen=True, kw_only=True):
    """The list of relays that was in force. Times are Unix seconds."""

    kind: int  # 10002: to read and write; 10050: for direct messages
    id: str
    created_at: int
    relays: tuple[ListedNow, ...]
    invalid: int  # entries that name no relay
    dead: int  # relays that are failing today, or were never reached ...
    known: int  # ... of those of which it is known
    dead_share: float | None  # None: of none


class Contacts(Struct, frozen=True):
    """How many people an author followed (kind 3). Times are Unix seconds."""

    created_at: int
    contacts: int  # distinct public keys


class AuthorThen(Struct, frozen=True, kw_only=True):
    """What an author had said by then. Times are Unix seconds. None: nothing that is archived, and
    that the archive's view shows."""

    pubkey: str
    at: int
    profile: Profile | None
    relays: ListThen | None  # kind 10002
    inboxes: ListThen | None  # kind 10050
    contacts: Contacts | None
    as_of: int  # when this was read: relays are as they were then
    relays_known: int  # relays of which anything is archived: others may hold more versions


class Move(Struct, frozen=True):
    """A change of an author's list of relays (kind 10002)."""

    at: int  # when the new version was created, in Unix seconds
    relay: str
    change: str  # added, removed, or changed: what it is used for
    read: bool  # from then on
    write: bool


class Stay(Struct, frozen=True):
    """How long a relay was listed for the same use: [since, until) in Unix seconds; None: it still
    is."""

    relay: str
    read: bool
    write: bool
    since: int
    until: int | None


class AuthorHistory(Struct, frozen=True, kw_only=True):
    """An author's lists through time, as far as they were met. Times are Unix seconds."""

    pubkey: str
    versions: int  # of the list of relays (kind 10002)
    is_complete: bool  # all versions of all kinds were read; else the newest
    stays: tuple[Stay, ...]  # the newest first
    moves: tuple[Move, ...]  # the newest first; the first list adds all it names
    contacts: tuple[Contacts, ...]  # the newest first
    profiles: tuple[Profile, ...]  # the newest first
    as_of: int
    relays_known: int


class _Versions(NamedTuple):
    events: list[StoredEvent]  # the newest first
    is_complete: bool


async def author_then(
    reads: EventReads, pool: Pool, pubkey: bytes, at: int | None = None
) -> AuthorThen:
    """What the author with this public key (32 bytes) had said by `at` (Unix seconds; default:
    now). `reads` has the view of the archive.

    Raises:
        NotKeptError: this archive keeps no tags.
    """
    now = int(time.time())
    at = now if at is None else min(at, MAX_CREATED_AT)
    found = {}
    for kind in (0, 3, RELAY_LISTS, INBOXES):
        query = Query(authors=frozenset([pubkey]), kinds=frozenset([kind]), until=at)
        page = await reads.page(query, 1)
        if page.events:
            found[kind] = _kept(page.events[0])
    lists = {
        kind: relays_in(kind, decode_tags(found[kind].tags or "[]"))
        for kind in (RELAY_LISTS, INBOXES)
        if kind in found
    }
    states = await _states(pool, {each.url for relays, _ in lists.values() for each in relays})
    then = {kind: _list_then(found[kind], *lists[kind], states) for kind in lists}
    profile = found.get(0)
    contacts = found.get(3)
    return AuthorThen(
        pubkey=pubkey.hex(),
        at=at,
        profile=None if profile is None else _profile(pubkey, profile),
        relays=then.get(RELAY_LISTS),
        inboxes=then.get(INBOXES),
        contacts=None if contacts is None else _contacts(contacts),
        as_of=now,
        relays_known=await _relays_known(pool),
    )


async def author_history(
    reads: EventReads,
    pool: Pool,
    pubkey: bytes,
    *,
    since: int = 0,
    until: int = MAX_CREATED_AT,
    most: int = MOST_VERSIONS,
    budget_s: float | None = BUDGET_S,
) -> AuthorHistory:
    """The author's lists through time; `since` and `until` (Unix seconds, included) choose what is
    shown: stays that lasted then, and what was said then.

    Raises:
        NotKeptError: this archive keeps no tags.
    """
    lists = await _versions(reads, pubkey, RELAY_LISTS, until, most, budget_s)
    contacts = await _versions(reads, pubkey, 3, until, most, budget_s)
    profiles = await _versions(reads, pubkey, 0, until, most, budget_s)
    oldest_first = [
        AuthorRelays(
            event.kind,
            event.id.hex(),
            event.created_at,
            *relays_in(event.kind, decode_tags(event.tags or "[]")),
        )
        for event in reversed(lists.events)
    ]
    moves, stays = _moves(oldest_first)
    return AuthorHistory(
        pubkey=pubkey.hex(),
        versions=len(oldest_first),
        is_complete=lists.is_complete and contacts.is_complete and profiles.is_complete,
        stays=tuple(
            stay
            for stay in stays
            if stay.since <= until and (stay.until is None or stay.until > since)
        )[:MOST_MOVES],
        moves=tuple(move for move in moves if move.at >= since)[:MOST_MOVES],
        contacts=tuple(_contacts(each) for each in contacts.events if each.created_at >= since),
        profiles=tuple(
            _profile(pubkey, each) for each in profiles.events if each.created_at >= since
        ),
        as_of=int(time.time()),
        relays_known=await _relays_known(pool),
    )


def _moves(versions: Sequence[AuthorRelays]) -> tuple[list[Move], list[Stay]]:
    """What has changed from one version to the next, and how long each relay was listed; versions
    come oldest first, and the answers newest first."""
    moves: list[Move] = []
    stays: list[Stay] = []
    listed: dict[str, tuple[ListedRelay, int]] = {}  # with the time from which on
    for version in versions:
        at = version.created_at
        now = {each.url: each for each in version.relays}
        for url, (before, since) in list(listed.items()):
            after = now.get(url)
            if after == before:
                continue
            stays.append(Stay(url, before.read, before.write, since, at))
            del listed[url]
            if after is None:
                moves.append(Move(at, url, "removed", read=False, write=False))
            else:
                moves.append(Move(at, url, "changed", after.read, after.write))
                listed[url] = (after, at)
        for url, each in now.items():
            if url not in listed:
                moves.append(Move(at, url, "added", each.read, each.write))
                listed[url] = (each, at)
    still = [Stay(url, each.read, each.write, since, None) for url, (each, since) in listed.items()]
    moves.sort(key=lambda each: (-each.at, each.change, each.relay))
    stays.sort(key=lambda each: (-each.since, each.relay))
    still.sort(key=lambda each: (-each.since, each.relay))
    return moves, [*still, *stays]


async def _versions(
    reads: EventReads, pubkey: bytes, kind: int, until: int, most: int, budget_s: float | None
) -> _Versions:
    """The newest versions of one kind, as far as bytes and time reach."""
    query = Query(authors=frozenset([pubkey]), kinds=frozenset([kind]), until=until)
    events: list[StoredEvent] = []
    after: Position | None = None
    began = time.monotonic()
    while True:
        page = await reads.page(query, PAGE, after, most_bytes=PAGE_BYTES)
        # What is read of a list of contacts is its number: its text need not stay in memory.
        events += [_slim(_kept(event)) if kind == 3 else _kept(event) for event in page.events]
        if (after := page.next) is None:
            return _Versions(events[:most], len(events) <= most)
        is_late = budget_s is not None and time.monotonic() - began > budget_s
        if len(events) >= most or is_late:
            return _Versions(events[:most], is_complete=False)


def _kept(event: StoredEvent) -> StoredEvent:
    if event.tags is None:
        raise NotKeptError("this archive keeps no content and no tags (its profile is lite)")
    return event


def _slim(event: StoredEvent) -> StoredEvent:
    """A list of contacts with as many tags as it has contacts."""
    return event._replace(content="", raw=None, tags=str(_contacts(event).contacts))


def _contacts(event: StoredEvent) -> Contacts:
    text = event.tags or "[]"
    if text.isdigit():  # slim
        return Contacts(event.created_at, int(text))
    keys = {tag[1].lower() for tag in decode_tags(text) if len(tag) > 1 and tag[0] == "p"}
    return Contacts(event.created_at, len(keys))


def _profile(pubkey: bytes, event: StoredEvent) -> Profile:
    return profile_in(pubkey.hex(), event.id.hex(), event.created_at, event.content or "")


def _list_then(
    event: StoredEvent, relays: Sequence[ListedRelay], invalid: int, states: dict[str, str]
) -> ListThen:
    listed = [
        ListedNow(each.url, each.read, each.write, states.get(each.url, "unknown"))
        for each in relays
    ]
    dead = sum(each.state in ("failing", "never") for each in listed)
    known = sum(each.state != "unknown" for each in listed)
    return ListThen(
        kind=event.kind,
        id=event.id.hex(),
        created_at=event.created_at,
        relays=tuple(listed),
        invalid=invalid,
        dead=dead,
        known=known,
        dead_share=round(dead / known, 4) if known else None,
    )


async def _states(pool: Pool, urls: Collection[str]) -> dict[str, str]:
    """How relays are, by URL, as far as it is known."""
    if not urls:
        return {}
    rows = await pool.fetch("SELECT * FROM bigbrotr.listed_states(p_urls => $1)", sorted(urls))
    return {row["url"]: row["state"] for row in rows}


async def _relays_known(pool: Pool) -> int:
    found = await pool.fetchval(
        "SELECT pg_catalog.count(*) FROM bigbrotr.tallies t WHERE t.pairs > 0"
    )
    return int(found)
