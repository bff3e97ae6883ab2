"""Mentions: the relay URLs that an event names in its tags and its content."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from itertools import chain, islice
from operator import xor

import msgspec

from bigbrotr.models.relay import MAX_URL, Relay

MAX_TEXTS = 1000  # different texts of one event that are looked at
MAX_MENTIONS = 200  # URLs that are taken of one event; no honest list is that long
MAX_ENTITIES = 50  # nprofile and the like of one content that are decoded
RECOMMENDATION = 2  # the content is a relay's URL
CONTACTS = 3  # the content is, in old events, an object of relay URLs

_begins_like_a_relay = re.compile(r"\s*wss?://", re.IGNORECASE).match
_keys_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

# NIP-19: what is written in bech32 and may carry relays.
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CHECKSUM = 6  # letters
_entity = re.compile(rf"n(?:profile|event|addr|relay)1q[{_ALPHABET}]{{{_CHECKSUM},5000}}")
_TO_VALUES = bytes.maketrans(_ALPHABET.encode(), bytes(range(32)))
_TO_DIGITS = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_FOLDED = [  # by the five bits that fall out at the top
    reduce(xor, (each for bit, each in enumerate(_GENERATORS) if high >> bit & 1), 0)
    for high in range(32)
]


def mentioned(kind: int, tags: Sequence[Sequence[str]], content: str) -> list[str]:
    """The normalised URLs of the relays that an event names, each once, in order.

    Any value of a tag that begins like a relay URL counts, whatever the tag: so relay lists
    (10002, 10050, 30002, ...), `r` tags, hints of `e`, `p`, `a` and `q`, and `d` of 30166 need no
    table, nor what comes after them. In contents: kinds 2 and 3, and NIP-19 entities with relays.
    Never raises; what is no relay URL is left out. Whoever makes this find more orders another walk
    through older archives, in a migration, as 0003 did.
    """
    texts: Iterable[str] = [
        value for tag in tags for value in tag if "://" in value and _begins_like_a_relay(value)
    ]
    if kind == CONTACTS:
        texts = chain(texts, _keys(content))
    elif kind == RECOMMENDATION:
        texts = chain(texts, (content,))
    if "1q" in content:  # each begins with a type below 8, whose first five bits are a q
        texts = chain(texts, _carried(content))
    return normal_urls(texts)


def normal_urls(texts: Iterable[str]) -> list[str]:
    """The normalised URLs among texts that may be such, each once, in order."""
    if not texts:
        return []
    urls: dict[str, None] = {}
    for text in islice(dict.fromkeys(texts), MAX_TEXTS):
        if len(text) <= MAX_URL and (url := _normal(text)) is not None:
            urls[url] = None
            if len(urls) == MAX_MENTIONS:
                break
    return list(urls)


@lru_cache(maxsize=8192)  # of at most MAX_URL characters; the same few are named all the time
def _normal(text: str) -> str | None:
    """Normalises the URL of a relay; None if the text names no relay."""
    if "\ufffd" in text:  # it stands for what was lost
        return None
    try:
        return Relay.discovered(text).url
    except ValueError:
        return None


def _keys(content: str) -> Iterable[str]:
    """The keys of a JSON object that begin like a relay URL."""
    try:
        return filter(_begins_like_a_relay, _keys_decoder.decode(content))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ()


def _carried(content: str) -> Iterable[str]:
    """What NIP-19 entities in a text say about where to look."""
    found = dict.fromkeys(match[0] for match in _entity.finditer(content))
    for entity in islice(found, MAX_ENTITIES):
        data = decode_bech32(entity)
        # Type 1 is a relay in all of them but nrelay, where it is type 0.
        wanted = 0 if entity.startswith("nrelay") else 1
        for kind, value in records(data):
            if kind == wanted:
                yield value.decode(errors="replace")


def records(data: bytes) -> Iterable[tuple[int, bytes]]:
    """Type and value of each record: a byte of type, one of length, the value."""
    start = 0
    while start + 2 <= len(data):
        kind, length = data[start], data[start + 1]
        start += 2 + length
        if start <= len(data):
            yield kind, data[start - length : start]


def _checksum(values: Iterable[int], state: int = 1) -> int:
    for value in values:
        state = (state & 0x1FFFFFF) << 5 ^ value ^ _FOLDED[state >> 25]
    return state


def decode_bech32(text: str) -> bytes:
    """The bytes in a bech32 text in lower case (BIP-173), empty if it is something else."""
    prefix, _, letters = text.partition("1")
    values = letters.encode().translate(_TO_VALUES)
    spread = [ord(each) >> 5 for each in prefix] + [0] + [ord(each) & 31 for each in prefix]
    if len(letters) <= _CHECKSUM or _checksum(values, _checksum(spread)) != 1:
        return b""
    bits = 5 * (len(letters) - _CHECKSUM)
    number = int(letters[:-_CHECKSUM].translate(_TO_DIGITS), 32)
    return (number >> bits % 8).to_bytes(bits // 8, "big")
