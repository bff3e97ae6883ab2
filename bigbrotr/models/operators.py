"""Decides which relays are one operator's, from pieces of evidence. Pure.

A piece is about two relays. What one side alone can say or copy joins nothing:

- `word`: the document (NIP-11) of each names the URL of the other. Each was fetched from its own
  address, so both say so. Friends in the open network do as well.
- `certificate`: both show one valid certificate that names both hosts, and few others. Whoever got
  it controlled both; a neighbour under a wildcard, or on the same host, has not.
- `events`: both are proven complete for weeks by chance, and hold the same events there. A mirror
  does as well.
- `alike`: asked at the same moments by chance, both hand out the same events, which are verified
  (`nostr/likeness.py`). A mirror does as well.
- `self`: both documents give the same key as their own. Anybody can copy it.
- `document`: both documents are equal, and name a key or a contact. Anybody can copy it.

The word suffices where no certificate could be: one of the addresses is of an overlay network, or
both are of one host. Together suffice: the word with any other piece; the certificate with any
other; and, where no certificate could be, the same events with the same key or document. But the
last not if it leads to several hosts of the open network, of which one may be a mirror. Who copies
all events and the document of a relay to an overlay network cannot be told from its twin: he is
counted as its operator, and nothing else follows from it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from bigbrotr.models.relay import Network, Relay

Kind: TypeAlias = Literal["word", "certificate", "events", "alike", "self", "document"]
KINDS: Final[tuple[Kind, ...]] = ("word", "certificate", "events", "alike", "self", "document")
OVERLAYS = frozenset({Network.TOR, Network.I2P, Network.LOKI})
MAX_NAMED = 20  # relays that one document may name
MAX_TEXTS = 200  # of a document that are looked at
MAX_TEXT = 10_000  # characters of one
MIN_EVENTS = 100  # that were compared: fewer may be equal by chance
MIN_WEEKS = 3  # in which there were any
MIN_EQUAL = 0.99  # of all that one of both holds, what both hold
WEEKS = 8  # with events, that are compared
LOOKS = 24  # weeks by chance, at most

_urls = re.compile(r"wss?://[^\s\"'<>()\[\],;]+", re.IGNORECASE)
_onions = re.compile(r"(?<![\w./@-])[a-z2-7]{56}\.onion(?![\w/:-]|\.\w)")


class Pair(NamedTuple):
    """What is known of two relays together."""

    a: int  # their numbers, the smaller first
    b: int
    kinds: frozenset[str]
    is_apart: bool  # no certificate could join them: an overlay network, or one host
    hosts: tuple[str, str] = ("", "")  # of both; empty: of an overlay network


class Compared(NamedTuple):
    """Events of two relays in weeks by chance."""

    weeks: int  # in which one of both holds any
    both: int
    one: int  # that one alone holds

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same, beyond chance."""
        total = self.both + self.one
        return self.weeks >= MIN_WEEKS and total >= MIN_EVENTS and self.both >= MIN_EQUAL * total


def is_joined(pair: Pair) -> bool:
    """Whether the evidence on two relays is enough."""
    kinds = pair.kinds
    if "word" in kinds:
        return pair.is_apart or len(kinds) > 1
    has_claim = bool(kinds & {"self", "document"})
    is_same = bool(kinds & {"events", "alike"})
    if "certificate" in kinds:
        return has_claim or is_same
    return is_same and has_claim and pair.is_apart


def join(pairs: Iterable[Pair]) -> dict[int, int]:
    """For each relay that is joined with another, the smallest number of its group.

    What no certificate could confirm joins nothing where it leads to two hosts of the open
    network: one of them may be a mirror that copies the document.
    """
    strong = Groups()
    enough = [pair for pair in pairs if is_joined(pair)]
    weak = [pair for pair in enough if not pair.kinds & {"word", "certificate"}]
    for pair in enough:
        if pair.kinds & {"word", "certificate"}:
            strong.join(pair.a, pair.b)
    reach = Groups()
    for pair in weak:
        reach.join(strong.root(pair.a), strong.root(pair.b))
    hosts: dict[int, dict[str, int]] = {}  # of the open network, and where each belongs
    for pair in enough:
        for number, host in zip((pair.a, pair.b), pair.hosts, strict=True):
            if host:
                place = strong.root(number)
                hosts.setdefault(reach.root(place), {})[host] = place
    for pair in weak:
        found = hosts.get(reach.root(strong.root(pair.a)), {})
        if len(found) <= 1 or len(set(found.values())) == 1:
            strong.join(pair.a, pair.b)
    return strong.all()


class Groups:
    """Numbers that belong together; the smallest stands for its group."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def root(self, number: int) -> int:
        """The smallest number of the group of a number."""
        while (parent := self._parents.get(number, number)) != number:
            number = parent
        return number

    def join(self, one: int, other: int) -> None:
        """Makes one group of the groups of both."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parents.setdefault(low, low)
        self._parents[high] = low

    def all(self) -> dict[int, int]:
        """The smallest number of its group, by each number in a group of several."""
        return {number: self.root(number) for number in sorted(self._parents)}


def named_relays(document: Any, own: str) -> list[str]:
    """The URLs of other relays that a document (NIP-11) names, each once; never more than
    `MAX_NAMED`. `own`: the URL of the relay whose it is. Never raises."""
    found: dict[str, None] = {}
    for number, text in enumerate(_texts(document, 0)):
        if number >= MAX_TEXTS:
            break
        for url in _urls_in(text[:MAX_TEXT]):
            if url != own:
                found[url] = None
            if len(found) >= MAX_NAMED:
                return list(found)
    return list(found)


def _texts(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < 8 and isinstance(value, dict):
        for each in value.values():
            yield from _texts(each, depth + 1)
    elif depth < 8 and isinstance(value, list):
        for each in value:
            yield from _texts(each, depth + 1)


def _urls_in(text: str) -> Iterator[str]:
    for match in _urls.finditer(text):
        try:
            yield Relay.discovered(match[0].rstrip(".:!?")).url
        except ValueError:
            continue
    for match in _onions.finditer(text):
        for scheme in ("ws", "wss"):
            try:
                yield Relay(f"{scheme}://{match[0]}").url
            except ValueError:
                continue
