"""Declares what a resource of the API is: a path, its parameters, its items, and who reads them."""

import base64
import binascii
import zlib
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct

from bigbrotr.core.pool import Pool
from bigbrotr.serve.parameters import Parameter, parameters_of
from bigbrotr.serve.problems import RefusedError

ROWS = 100  # of an answer, unless `limit` says otherwise
MAX_ROWS = 1000
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
BIGINT = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # what a cursor may hold of whole numbers


class Query(Struct, frozen=True, kw_only=True):
    """The parameters of a resource: fields that stand in its path come from there."""


class ListQuery(Query, frozen=True, kw_only=True):
    """The parameters of a list."""

    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_ROWS)] | None,
        Meta(description=f"most items of the answer; default: {ROWS}, and in NDJSON all"),
    ] = None
    cursor: Annotated[
        Annotated[str, Meta(min_length=1, max_length=4000)] | None,
        Meta(description="`next` of the answer before: goes on from there"),
    ] = None


# A row with its key: the next page begins behind the key.
Keyed: TypeAlias = tuple[Any, Any]


class Part(NamedTuple):
    """Rows of a list that may end early, and the key behind which the next begin; None: the end."""

    rows: Sequence[Keyed]
    next: Any | None


class Lines(NamedTuple):
    """The same, where the items are JSON already: one a line, without a newline at the end."""

    text: bytes
    number: int
    next: Any | None

    @property
    def array(self) -> bytes:
        """The items as a JSON array: no item holds a newline."""
        return b"[%b]" % self.text.replace(b"\n", b",")


class Form(NamedTuple):
    """How rows are written into a stream, and the name under which it is kept."""

    kind: str
    line: Callable[[Any], bytes]
    head: bytes = b""
    name: str = ""


LINES = Form(NDJSON, lambda item: msgspec.json.encode(item) + b"\n")


ReadOne: TypeAlias = Callable[[Pool, Any], Awaitable[Any | None]]
ReadMany: TypeAlias = Callable[
    [Pool, Any, Any | None, int], Awaitable[Sequence[Keyed] | Part | Lines | None]
]


class Resource(Struct, frozen=True, kw_only=True, dict=True):
    """One thing that can be asked for. `read` returns None where it does not exist."""

    name: str  # one word in snake_case
    path: str  # below /api/v1/, with {parameters}
    words: str  # the first sentence is the summary
    query: type[Query]
    item: Any
    max_age_s: int = 30  # how long an answer may be kept
    is_kept: bool = False  # the answer is made once in `max_age_s`, whoever asks: no parameters
    fresh_s: float = 1.0  # how long the same question is answered with the same words

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The path in its parts."""
        return tuple(self.path.split("/"))

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """By name."""
        return parameters_of(self.query, self.path)

    @property
    def summary(self) -> str:
        """One line about it."""
        return self.words.partition(". ")[0].rstrip(".")


class One(Resource, frozen=True, kw_only=True, dict=True):
    """A resource that is one thing: `read(pool, query)`."""

    read: ReadOne


class Many(Resource, frozen=True, kw_only=True, dict=True):
    """A resource that is a list: `read(pool, query, after, limit)` returns up to `limit` rows, each
    as (key, item), behind the key `after`. `key` is the type of the keys. With `is_parted` it
    returns a `Part` or `Lines`, which may hold fewer rows before their end."""

    read: ReadMany
    key: Any
    is_parted: bool = False
    at_once: int = MAX_ROWS  # rows of a stream that are in memory
    # What comes later is sent as events (text/event-stream) to who wants it: `follows(query)` says
    # behind which number, and which items are wanted.
    follows: Callable[[Any], tuple[int | None, Callable[[Any], bool]]] | None = None


def sign(query: ListQuery) -> int:
    """What a cursor is about: the conditions and the order, not how many rows."""
    plain = msgspec.structs.replace(query, limit=None, cursor=None)
    return zlib.crc32(msgspec.json.encode(plain))


def make_cursor(query: ListQuery, key: Any) -> str:
    """An opaque text that leads to what follows the row with this key."""
    data = msgspec.json.encode([sign(query), key])
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read_cursor(text: str, query: ListQuery, key: Any) -> Any:
    """The key in a cursor.

    Raises:
        RefusedError: nobody has made it, or for another question.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        signature, found = msgspec.json.decode(data, type=tuple[int, Any])
        value = msgspec.convert(found, key)
    except (binascii.Error, ValueError):  # msgspec's are some
        raise RefusedError(
            "bad-cursor", "the cursor is none of ours: give `next` as it is", parameter="cursor"
        ) from None
    if signature != sign(query) or b"\\u0000" in data or b"\0" in data:
        raise RefusedError(
            "bad-cursor",
            "the cursor is of another question: keep all other parameters, or leave it out",
            parameter="cursor",
        )
    return value
