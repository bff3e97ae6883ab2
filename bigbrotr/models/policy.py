"""What is shown of the archive: reasons not to show an event, rules for them, and views."""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import IntFlag, StrEnum
from typing import NamedTuple

from bigbrotr.models.event import MAX_CREATED_AT
from bigbrotr.models.relay import Relay

DELETION = 5  # kinds
VANISHING = 62
GIFT_WRAP = 1059
ALL_RELAYS = "ALL_RELAYS"  # what a request to vanish says where all are meant
EPHEMERAL = range(20_000, 30_000)  # kinds that a relay passes on and does not hold (NIP-01)


class Reason(IntFlag):
    """Why an event may be hidden; the bits of `why` in the table hidden."""

    SUPERSEDED = 1
    DELETED = 2
    EXPIRED = 4
    VANISHED = 8
    PROTECTED = 16
    EPHEMERAL = 32
    TAKEN_DOWN = 64
    ERASED = 128  # the event's content is gone: no view shows it

    @property
    def words(self) -> str:
        """What it means, in a few words."""
        return WORDS[self]


WORDS = {
    Reason.SUPERSEDED: "a newer version of it is archived",
    Reason.DELETED: "its author has asked for its deletion (NIP-09)",
    Reason.EXPIRED: "its time is over (NIP-40)",
    Reason.VANISHED: "its author has asked to vanish (NIP-62)",
    Reason.PROTECTED: "only its author may publish it (NIP-70)",
    Reason.EPHEMERAL: "it was not meant to be kept (its kind is ephemeral)",
    Reason.TAKEN_DOWN: "the operator has taken it down",
    Reason.ERASED: "its content was erased here",
}


class Rule(StrEnum):
    """What is done with events that have a reason."""

    SERVE = "serve"  # as if there were no reason
    ARCHIVE = "archive"  # hidden in the current view, shown in that of the archive
    HIDE = "hide"  # hidden in both
    ERASE = "erase"  # hidden, and the content erased for good


class View(StrEnum):
    """What a reader looks at."""

    CURRENT = "current"  # what a relay would serve today
    ARCHIVE = "archive"  # history included
    KEPT = "kept"  # all that is kept: for the operator


# The rules that hide an event from a view.
HIDING = {
    View.CURRENT: (Rule.ARCHIVE, Rule.HIDE, Rule.ERASE),
    View.ARCHIVE: (Rule.HIDE, Rule.ERASE),
    View.KEPT: (),
}


def hides(rules: Mapping[Reason, Rule], view: View) -> int:
    """The bits of the reasons for which a view hides events, under some rules."""
    return Reason.ERASED + sum(reason for reason, rule in rules.items() if rule in HIDING[view])


def erasing(rules: Mapping[Reason, Rule]) -> int:
    """The bits of the reasons for which content is erased."""
    return sum(reason for reason, rule in rules.items() if rule is Rule.ERASE)


class Request(NamedTuple):
    """A request for deletion: of one event, or of all versions of one up to some time."""

    target: bytes  # an id (32 bytes) or an address (20)
    until: int  # Unix seconds, included


class Facts(NamedTuple):
    """What an event says that matters to whether it, and others, may be shown."""

    why: int = 0  # reasons that it has by itself
    expires_at: int | None = None  # Unix seconds
    address: bytes | None = None  # what it is a version of, see `address_of`
    recipients: tuple[bytes, ...] = ()  # of a gift wrap: keys that may have it deleted
    requests: tuple[Request, ...] = ()  # for the deletion of its author's events
    vanishes: bool = False  # it asks us to forget its author up to its own time
    vanishes_from: tuple[str, ...] = ()  # URLs of other relays that it asks for that


def facts_of(
    pubkey: bytes,
    created_at: int,
    kind: int,
    tags: Sequence[Sequence[str]] | None,
    urls: Collection[str] = (),
) -> Facts:
    """What an event says of itself and others. Without `tags` (None: they are not kept, or say
    nothing of this) as far as one can tell. `urls` are our own addresses as a relay."""
    why = int(Reason.EPHEMERAL) if kind in EPHEMERAL else 0
    if tags is None:
        address = address_of(kind, "") if is_replaceable(kind) else None
        return Facts(why, address=address)
    if any(tag[0] == "-" for tag in tags):
        why |= Reason.PROTECTED
    is_all, named = _asked(tags) if kind == VANISHING else (False, frozenset[str]())
    is_meant = is_all or not named.isdisjoint(urls)
    return Facts(
        int(why),
        expires_at=_expires_at(tags),
        address=_address(kind, tags),
        recipients=tuple(_keys(tags, "p")) if kind == GIFT_WRAP else (),
        requests=tuple(_requests(pubkey, created_at, tags)) if kind == DELETION else (),
        vanishes=is_meant,
        vanishes_from=() if is_all else tuple(sorted(named.difference(urls))),
    )


def askers_of(event_id: bytes, pubkey: bytes, facts: Facts) -> Iterator[tuple[bytes, bytes]]:
    """Who may have asked for the deletion of an event, each with what of: an id or an address."""
    yield pubkey, event_id
    if facts.address is not None:
        yield pubkey, facts.address
    for recipient in facts.recipients:
        yield recipient, event_id


def is_replaceable(kind: int) -> bool:
    """Whether an author has one event of a kind, of which the newest counts (NIP-01)."""
    return kind in (0, 3) or 10_000 <= kind < 20_000


def is_addressable(kind: int) -> bool:
    """Whether an author has one event of a kind for each value of a d tag (NIP-01)."""
    return 30_000 <= kind < 40_000


def address_of(kind: int, d: str) -> bytes:
    """What replaceable events of one author are versions of: 20 bytes, the kind and a hash of the
    d tag's value."""
    digest = hashlib.sha256(d.encode("utf-8", "surrogatepass")).digest()
    return kind.to_bytes(4, "big") + digest[:16]


def urls_of(public_url: str | None) -> frozenset[str]:
    """Our addresses as a relay, as requests to vanish name them."""
    if public_url is None:
        return frozenset()
    bare = public_url.rstrip("/").replace("http", "ws", 1)
    return frozenset(Relay(f"{bare}{path}").url for path in ("", "/archive"))


def _address(kind: int, tags: Sequence[Sequence[str]]) -> bytes | None:
    if is_replaceable(kind):
        return address_of(kind, "")
    if not is_addressable(kind):
        return None
    values = (tag[1] if len(tag) > 1 else "" for tag in tags if tag[0] == "d")
    return address_of(kind, next(values, ""))


def _expires_at(tags: Sequence[Sequence[str]]) -> int | None:
    for tag in tags:
        if tag[0] == "expiration" and len(tag) > 1:
            text = tag[1]
            if text.isascii() and text.isdigit() and len(text) < 19:
                return int(text)
    return None


def _keys(tags: Sequence[Sequence[str]], letter: str) -> Iterator[bytes]:
    """The ids or public keys in tags of a letter, each once."""
    texts = {tag[1]: None for tag in tags if tag[0] == letter and len(tag) > 1}
    for text in texts:
        if len(text) == 64:
            with suppress(ValueError):
                yield bytes.fromhex(text)


def _requests(pubkey: bytes, created_at: int, tags: Sequence[Sequence[str]]) -> Iterator[Request]:
    for target in _keys(tags, "e"):
        yield Request(target, MAX_CREATED_AT)
    for tag in tags:
        if tag[0] != "a" or len(tag) < 2:
            continue
        kind_text, author, d = (*tag[1].split(":", 2), "", "")[:3]
        if author != pubkey.hex() or not re.fullmatch("[0-9]{1,5}", kind_text):
            continue
        kind = int(kind_text)
        if is_addressable(kind) or (is_replaceable(kind) and not d):
            yield Request(address_of(kind, d), created_at)


def _asked(tags: Sequence[Sequence[str]]) -> tuple[bool, frozenset[str]]:
    """Whether all relays are asked to vanish, and which ones are named."""
    values = {tag[1] for tag in tags if tag[0] == "relay" and len(tag) > 1}
    urls = set()
    for value in values:
        with suppress(ValueError):
            urls.add(Relay(value).url)
    return ALL_RELAYS in values, frozenset(urls)
