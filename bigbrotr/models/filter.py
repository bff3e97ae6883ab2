"""A filter: which events are wanted, how that is asked for, and how it is told apart in a table."""

import hashlib
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bigbrotr.models.event import MAX_CREATED_AT, MAX_KIND, Unsigned, WireEvent
from bigbrotr.models.plain import Heard, unpacked

MOMENT = "moment"  # in the `extra` of a type: Unix seconds, which a file may give as a date
MAX_KEY = 1000  # characters; PostgreSQL's index rows end at 2,704 bytes

_tags_decoder = msgspec.json.Decoder(tuple[tuple[str, ...], ...])

Kinds = frozenset[Annotated[int, Meta(ge=0, le=MAX_KIND)]]
Texts = Annotated[frozenset[str], Meta(min_length=1)]


class Filter(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events are wanted, as NIP-01 has it: one of each list that is given; None is no list.

    `authors` may be given as npub, and are hex here. `until` bounds the time, and is no part of
    the conditions: what is proven for some conditions holds for every stretch of time.

    Raises:
        ValueError: an author is no public key, or a tag's name is not a single letter.
    """

    kinds: Annotated[
        Annotated[Kinds, Meta(min_length=1)] | None, Meta(description="e.g. [0, 1, 10002]")
    ] = None
    authors: Annotated[Texts | None, Meta(description="64 hex digits or npub")] = None
    tags: Annotated[
        dict[str, Texts], Meta(description='by single letter, e.g. { t = ["nostr"] }')
    ] = {}
    until: Annotated[
        Annotated[int, Meta(ge=0, le=2**53, extra={MOMENT: True})] | None,
        Meta(description="a date (of UTC) or Unix seconds; newer events are not wanted"),
    ] = None

    def __post_init__(self) -> None:
        for name in self.tags:
            if not (len(name) == 1 and name.isascii() and name.isalpha()):
                raise ValueError(f"tags: {name!r} is not a single letter")
        if self.authors is not None:
            try:
                keys = frozenset(map(public_key, self.authors))
            except ValueError as error:
                raise ValueError(f"authors: {error}") from None
            msgspec.structs.force_setattr(self, "authors", keys)

    @property
    def is_open(self) -> bool:
        """Whether every event fulfils the conditions."""
        return self.kinds is None and self.authors is None and not self.tags

    @property
    def newest(self) -> int:
        """The last second that is wanted."""
        return MAX_CREATED_AT if self.until is None else self.until

    def matches(self, event: Heard | Unsigned) -> bool:
        """Whether an event fulfils the conditions, whatever its time.

        Raises:
            ValueError: its tags are malformed.
        """
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        if self.authors is not None:
            pubkey = event.pubkey if isinstance(event, WireEvent) else event.pubkey.hex()
            if pubkey not in self.authors:
                return False
        if not self.tags:
            return True
        found = tags_of(event)
        return all(
            any(len(tag) > 1 and tag[0] == name and tag[1] in values for tag in found)
            for name, values in self.tags.items()
        )

    def to_request(self) -> dict[str, Any]:
        """The conditions in the words of a REQ, always in the same order."""
        request: dict[str, Any] = {}
        if self.kinds is not None:
            request["kinds"] = sorted(self.kinds)
        if self.authors is not None:
            request["authors"] = sorted(self.authors)
        return request | {f"#{name}": sorted(self.tags[name]) for name in sorted(self.tags)}

    @property
    def key(self) -> str:
        """The conditions as text, the same for equal ones: '' for none, a hash for very long."""
        request = self.to_request()
        if not request:
            return ""
        text = msgspec.json.encode(request)
        if len(text) <= MAX_KEY:
            return text.decode()
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    @classmethod
    def from_key(cls, key: str) -> "Filter | None":
        """The filter of a `key`; None for one that is a hash."""
        if key.startswith("sha256:"):
            return None
        request = msgspec.json.decode(key, type=dict[str, Any]) if key else {}
        kinds, authors = request.pop("kinds", None), request.pop("authors", None)
        return cls(
            kinds=None if kinds is None else frozenset(kinds),
            authors=None if authors is None else frozenset(authors),
            tags={name.removeprefix("#"): frozenset(values) for name, values in request.items()},
        )


def public_key(text: str) -> str:
    """The hex of a public key in hex or as npub.

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch("[0-9a-fA-F]{64}", text):
        return text.lower()
    if text.startswith("npub1"):
        import nostr_sdk  # slow to import, and most filters need none

        try:
            return str(nostr_sdk.PublicKey.parse(text).to_hex())
        except nostr_sdk.NostrSdkError:
            pass
    if text.startswith("nsec1"):
        raise ValueError("an nsec is a private key; the npub is needed")
    raise ValueError(f"{text[:70]!r} is no public key: 64 hex digits or an npub")


def tags_of(event: Heard | Unsigned) -> tuple[tuple[str, ...], ...]:
    """The tags of an event, decoded.

    Raises:
        ValueError: they are malformed.
    """
    found = event if isinstance(event, Unsigned) else unpacked(event)
    if not isinstance(found, WireEvent):
        return found.tags
    try:
        return _tags_decoder.decode(found.tags)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"malformed: {error}") from None
