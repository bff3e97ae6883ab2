"""A query: what a client asks an archive for (a filter of NIP-01), and a place in the answer."""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bigbrotr.models.event import MAX_CREATED_AT, MAX_KIND
from bigbrotr.models.search import Search

FIELDS = ("ids", "authors", "kinds", "since", "until", "limit", "search")


class Position(NamedTuple):
    """An event's place in an answer: newest first, and by id within a second."""

    created_at: int  # Unix seconds
    id: bytes  # 32 bytes


class Query(Struct, frozen=True, kw_only=True):
    """Which events are wanted: one of each list that is given; None is no list, an empty one
    matches nothing. `since` and `until` are Unix seconds, both included."""

    ids: frozenset[bytes] | None = None  # 32 bytes each
    authors: frozenset[bytes] | None = None  # public keys, 32 bytes each
    kinds: frozenset[int] | None = None
    tags: dict[str, frozenset[str]] = {}  # by single letter
    since: int = 0
    until: int = MAX_CREATED_AT
    limit: int | None = None
    search: Search | None = None  # words that are looked for

    @classmethod
    def from_json(cls, text: str | bytes) -> "Query":
        """The query in a filter's JSON.

        Raises:
            ValueError: it is no filter; the message says what is wrong with which field.
        """
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ValueError(f"the filter is no JSON: {error}") from None
        return cls.from_object(value)

    @classmethod
    def from_object(cls, value: object) -> "Query":
        """The query in a filter that was decoded.

        Raises:
            ValueError: it is no filter; the message says what is wrong with which field.
        """
        if not isinstance(value, dict):
            raise ValueError("a filter is a JSON object")
        tags = {}
        for name, given in value.items():
            if name.startswith("#") and len(name) == 2 and name[1].isascii() and name[1].isalpha():
                tags[name[1]] = frozenset(_listed(name, given, str, "texts"))
            elif name not in FIELDS:
                raise ValueError(
                    f"{name[:50]!r} is no part of a filter; there are {', '.join(FIELDS)}"
                    " and single letters like #e"
                )
        kinds = _listed("kinds", value["kinds"], int, "numbers") if "kinds" in value else None
        if kinds is not None and not all(0 <= kind <= MAX_KIND for kind in kinds):
            raise ValueError(f"kinds: each is a number from 0 to {MAX_KIND}")
        text = value.get("search", "")
        if not isinstance(text, str):
            raise ValueError("search: a text")
        return cls(
            search=Search.parse(text),
            ids=_keys("ids", value),
            authors=_keys("authors", value),
            kinds=None if kinds is None else frozenset(kinds),
            tags=tags,
            since=_number("since", value, 0),
            until=_number("until", value, MAX_CREATED_AT),
            limit=_number("limit", value, None),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing can match."""
        lists = (self.ids, self.authors, self.kinds, *self.tags.values())
        return self.since > self.until or any(each is not None and not each for each in lists)

    def has_tags(self, tags: list[list[str]]) -> bool:
        """Whether an event with these tags has one of each letter that is wanted."""
        return all(
            any(len(tag) > 1 and tag[0] == letter and tag[1] in values for tag in tags)
            for letter, values in self.tags.items()
        )


def _listed(name: str, given: object, kind: type, words: str) -> list[Any]:
    if not isinstance(given, list) or not all(
        isinstance(each, kind) and not isinstance(each, bool) for each in given
    ):
        raise ValueError(f"{name}: a list of {words}")
    return given


def _keys(name: str, value: dict[str, Any]) -> frozenset[bytes] | None:
    if name not in value:
        return None
    keys = set()
    for text in _listed(name, value[name], str, "64 hex digits each"):
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != 32 or len(text) != 64:
            raise ValueError(f"{name}: 64 hex digits each, not {text[:70]!r}")
        keys.add(key)
    return frozenset(keys)


def _number(name: str, value: dict[str, Any], default: Any) -> Any:
    if name not in value:
        return default
    given = value[name]
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise ValueError(f"{name}: a number that is not negative")
    return min(given, MAX_CREATED_AT)
