"""Reads what is archived of an author, and which relays hold it."""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.relay import Relay

COUNTED = 50_000  # newest events of an author that are counted by kind
SAMPLE = 500  # newest events of an author that are looked for at relays
MAX_TEXT = 5_000  # characters of a field of a profile
MAX_RELAYS = 500  # of a list
RELAY_LISTS = 10002  # the kind that names where somebody reads and writes (NIP-65)
INBOXES = 10050  # the kind that names relays for direct messages (NIP-17)


class KindCount(Struct, frozen=True):
    """Events of one kind. Times are Unix seconds."""

    kind: int
    events: int
    first_at: int
    last_at: int


class Holder(Struct, frozen=True):
    """A relay that holds some of the events."""

    relay: str
    held: int
    alone: int  # that no other relay is known to hold


class Holders(Struct, frozen=True):
    """Where the newest events are: each in as many relays as hold it."""

    sample: int  # how many events were looked for
    alone: int  # that one relay alone is known to hold
    relays: tuple[Holder, ...]


class AuthorSummary(Struct, frozen=True, kw_only=True):
    """What is archived of an author. Times are Unix seconds."""

    pubkey: str
    events: int  # counted by kind
    is_complete: bool  # these are all; else the newest
    first_at: int | None
    last_at: int | None
    kinds: tuple[KindCount, ...]
    holders: Holders


class Profile(Struct, frozen=True, kw_only=True):
    """A profile (kind 0), as far as it can be read; null: it does not say."""

    pubkey: str
    id: str  # of the event
    created_at: int
    is_readable: bool  # its content is a JSON object
    name: str | None = None
    display_name: str | None = None
    about: str | None = None
    picture: str | None = None
    banner: str | None = None
    website: str | None = None
    nip05: str | None = None
    lud16: str | None = None


class ListedRelay(Struct, frozen=True):
    """A relay in an author's list."""

    url: str
    read: bool  # its author reads there
    write: bool  # its author writes there


class AuthorRelays(Struct, frozen=True):
    """A list of relays that an author has published."""

    kind: int  # 10002: to read and write; 10050: for direct messages
    id: str
    created_at: int
    relays: tuple[ListedRelay, ...]
    invalid: int  # entries that name no relay


async def author_summary(
    pool: Pool, pubkey: bytes, *, counted: int = COUNTED, sample: int = SAMPLE
) -> AuthorSummary:
    """What is archived of the author with this public key (32 bytes)."""
    rows = await pool.fetch(
        "SELECT * FROM bigbrotr.author_kinds(p_pubkey => $1, p_most => $2)", pubkey, counted
    )
    kinds = tuple(KindCount(*row) for row in rows)
    events = sum(each.events for each in kinds)
    return AuthorSummary(
        pubkey=pubkey.hex(),
        events=events,
        is_complete=events < counted,
        first_at=await pool.fetchval("SELECT * FROM bigbrotr.author_began(p_pubkey => $1)", pubkey),
        last_at=max((each.last_at for each in kinds), default=None),
        kinds=kinds,
        holders=await holders_of(pool, pubkey, sample),
    )


async def holders_of(pool: Pool, pubkey: bytes, sample: int = SAMPLE) -> Holders:
    """Which relays hold the newest `sample` events of this author (32 bytes)."""
    first, *holders = await pool.fetch(
        "SELECT * FROM bigbrotr.author_holders(p_pubkey => $1, p_most => $2)", pubkey, sample
    )
    return Holders(
        first["sample"],
        sum(row["alone"] for row in holders),
        tuple(Holder(row["url"], row["held"], row["alone"]) for row in holders),
    )


def profile_in(pubkey: str, event_id: str, created_at: int, content: str) -> Profile:
    """A profile from the content of its event, whatever stands in it."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        found = None
    is_readable = isinstance(found, dict)
    texts = {
        name: found[name][:MAX_TEXT]
        for name in Profile.__struct_fields__[4:]
        if is_readable and isinstance(found.get(name), str)
    }
    return Profile(
        pubkey=pubkey, id=event_id, created_at=created_at, is_readable=is_readable, **texts
    )


def relays_in(kind: int, tags: Iterable[Iterable[str]]) -> tuple[tuple[ListedRelay, ...], int]:
    """The relays in the tags of a list, each once, and how many entries name none."""
    found: dict[str, ListedRelay] = {}
    invalid = 0
    letter = "relay" if kind == INBOXES else "r"
    for name, *values in filter(None, map(tuple, tags)):
        if name != letter or len(found) >= MAX_RELAYS:
            continue
        try:
            url = Relay(values[0] if values else "").url
        except ValueError:
            invalid += 1
            continue
        use = values[1] if len(values) > 1 and letter == "r" else ""
        before = found.get(url, ListedRelay(url, read=False, write=False))
        reads, writes = use != "write", letter == "r" and use != "read"
        found[url] = ListedRelay(url, before.read or reads, before.write or writes)
    return tuple(found.values()), invalid
