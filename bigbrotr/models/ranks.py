"""What events say of public keys, of other events and of addresses, as it is counted (NIP-85)."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from bigbrotr.models.bolt11 import read_invoice
from bigbrotr.models.event import Event
from bigbrotr.models.policy import is_addressable, is_replaceable

Tags = Sequence[Sequence[str]]

FOLLOWS = 3  # kinds
NOTE, COMMENT = 1, 1111
REPOSTS = (6, 16)
REACTION = 7
REPORT = 1984
ZAP_REQUEST, ZAP = 9734, 9735
POSTS = (NOTE, 20, 21, 22, 30023)  # notes, pictures, videos, articles
COUNTED = frozenset((*POSTS, COMMENT, *REPOSTS, REACTION, REPORT, ZAP))
MOST_ADDRESS = 1000  # bytes of an address
MOST_SUBJECTS = 100  # that one event counts for

_HEX = re.compile("[0-9a-f]{64}")
_ADDRESS = re.compile("([0-9]{1,5}):([0-9a-f]{64}):(.*)", re.DOTALL)


class What(IntEnum):
    """What is counted; the column `what` of the table rank_facts."""

    # Of a public key
    POST = 1
    REPLY = 2
    REACTED = 3
    ZAP_RECEIVED = 4
    ZAP_SENT = 5
    REPORT_RECEIVED = 6
    REPORT_SENT = 7
    # Of an event; of an address, that is 10 more
    COMMENTED = 11
    QUOTED = 12
    REPOSTED = 13
    REACTION_TO = 14
    ZAPPED = 15


OF_ADDRESS = 10


class Fact(NamedTuple):
    """One thing to be counted."""

    what: int
    subject: bytes  # a public key, the id of an event (32 bytes each), or an address in UTF-8
    msat: int = 0  # of a zap, in millisatoshi


class Zap(NamedTuple):
    """A zap, as its receipt has it. That it was paid is the word of who has signed the receipt."""

    sender: str  # public keys
    receiver: str
    msat: int
    request: Event


def facts_of(pubkey: bytes, kind: int, tags: Tags) -> list[Fact]:
    """What an event says that is counted, each once: a function of the event alone."""
    return list(dict.fromkeys(_facts(pubkey, kind, tags)))[:MOST_SUBJECTS]


def _facts(pubkey: bytes, kind: int, tags: Tags) -> Iterator[Fact]:
    if kind == ZAP:
        found = read_zap(tags)
        if isinstance(found, Zap):
            yield Fact(What.ZAP_RECEIVED, bytes.fromhex(found.receiver), found.msat)
            yield Fact(What.ZAP_SENT, bytes.fromhex(found.sender), found.msat)
            asked = found.request.tags
            yield from _of(What.ZAPPED, [*_first(asked, "e"), *_first(asked, "a")], found.msat)
    elif kind in REPOSTS:
        yield from _of(What.REPOSTED, [*_first(tags, "e"), *_first(tags, "a")])
    elif kind == REACTION:
        yield Fact(What.REACTED, pubkey)
        # Of several, the last is meant (NIP-25).
        yield from _of(What.REACTION_TO, [*_first(tags[::-1], "e"), *_first(tags[::-1], "a")])
    elif kind == REPORT:
        yield Fact(What.REPORT_SENT, pubkey)
        for tag in _first(tags, "p"):
            if _HEX.fullmatch(tag[1]):
                yield Fact(What.REPORT_RECEIVED, bytes.fromhex(tag[1]))
    elif kind in POSTS or kind == COMMENT:
        answered = _answered(kind, tags)
        yield Fact(What.REPLY if answered or kind == COMMENT else What.POST, pubkey)
        yield from _of(What.COMMENTED, answered)
        yield from _of(What.QUOTED, _all(tags, "q"))


def _answered(kind: int, tags: Tags) -> list[Sequence[str]]:
    """The tags of the roots and parents that an event answers."""
    if kind == COMMENT:  # NIP-22
        return [tag for letter in "EeAa" for tag in _all(tags, letter)]
    if kind != NOTE:
        return []
    named = [*_all(tags, "e"), *_all(tags, "a")]
    marked = [tag for tag in named if len(tag) > 3 and tag[3] in ("root", "reply")]
    if marked or any(len(tag) > 3 and tag[3] == "mention" for tag in named):
        return marked
    # Before there were markers, the first was the root and the last the parent (NIP-10).
    events = _all(tags, "e")
    return [events[0], events[-1]] if events else []


def _all(tags: Tags, letter: str) -> list[Sequence[str]]:
    return [tag for tag in tags if len(tag) > 1 and tag[0] == letter]


def _first(tags: Tags, letter: str) -> list[Sequence[str]]:
    return _all(tags, letter)[:1]


def _of(what: What, tags: Tags, msat: int = 0) -> Iterator[Fact]:
    """What is said of the events and addresses that tags name."""
    for tag in tags:
        if _HEX.fullmatch(tag[1]):
            yield Fact(what, bytes.fromhex(tag[1]), msat)
        elif (address := address_in(tag[1])) is not None:
            yield Fact(what + OF_ADDRESS, address, msat)


def address_in(text: str) -> bytes | None:
    """An address `kind:pubkey:d` (NIP-01) as it is kept; None: it is none, or too long."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return None
    kind, pubkey, d = int(found[1]), found[2], found[3]
    if not is_addressable(kind) and not (is_replaceable(kind) and not d):
        return None
    try:
        address = f"{kind}:{pubkey}:{d}".encode()
    except UnicodeEncodeError:  # lone surrogates
        return None
    return address if len(address) <= MOST_ADDRESS else None


def read_zap(tags: Tags) -> Zap | str:
    """The zap of a receipt (NIP-57); or in a word why it does not count."""
    invoices, requests = _all(tags, "bolt11"), _all(tags, "description")
    receivers = _all(tags, "p")
    if len(invoices) != 1 or len(requests) != 1 or len(receivers) != 1:
        return "incomplete"
    try:
        invoice = read_invoice(invoices[0][1])
    except ValueError:
        return "bad-invoice"
    if invoice.network != "bc" or not invoice.msat:
        return "bad-invoice"
    text = requests[0][1]
    try:
        request = Event.from_json(text)
    except ValueError:
        return "bad-request"
    if request.kind != ZAP_REQUEST:
        return "bad-request"
    receiver = receivers[0][1]
    if _HEX.fullmatch(receiver) is None or [tag[1] for tag in _all(request.tags, "p")] != [
        receiver
    ]:
        return "other-receiver"
    amounts = {tag[1] for tag in _all(request.tags, "amount")}
    if amounts and amounts != {str(invoice.msat)}:
        return "other-amount"
    if invoice.description_hash is not None and (
        invoice.description_hash != hashlib.sha256(text.encode("utf-8", "replace")).digest()
    ):
        return "other-request"
    return Zap(request.pubkey.hex(), receiver, invoice.msat, request)


def followed_in(tags: Tags) -> list[bytes]:
    """The public keys that a list of follows (kind 3) names."""
    return [bytes.fromhex(tag[1]) for tag in _all(tags, "p") if _HEX.fullmatch(tag[1])]
