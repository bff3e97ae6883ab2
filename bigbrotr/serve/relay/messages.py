"""What a client of the relay says, and what it is answered: frames of NIP-01, 42, 45, 67 and 77."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from bigbrotr.models.event import decode_loosely
from bigbrotr.models.query import Query

MAX_SUBSCRIPTION = 64  # characters of a subscription's id (NIP-01)

_encode = msgspec.json.Encoder().encode
_any_frame = msgspec.json.Decoder(list[Any])


class Req(NamedTuple):
    """Asks for the stored events that match, and for those that come."""

    subscription: str
    queries: list[Query]


class Close(NamedTuple):
    """Ends a subscription."""

    subscription: str


class Count(NamedTuple):
    """Asks how many events match; `first_tag` is the first value of the first tag of a lone filter,
    which NIP-45 hashes by."""

    subscription: str
    queries: list[Query]
    first_tag: str | None


class NegOpen(NamedTuple):
    """Begins a reconciliation of what matches any of the queries."""

    subscription: str
    queries: list[Query]
    payload: bytes


class NegMessage(NamedTuple):
    """Goes on reconciling."""

    subscription: str
    payload: bytes


class NegClose(NamedTuple):
    """Ends a reconciliation."""

    subscription: str


class Offer(NamedTuple):
    """Offers an event; its id, if it has one."""

    event_id: str | None


class Login(NamedTuple):
    """Answers a challenge with an event, which nobody has looked at."""

    event: object


class Refused(NamedTuple):
    """A request that makes no sense; it is answered on its subscription."""

    kind: str  # of the answer: CLOSED or NEG-ERR
    subscription: str
    reason: str


class Garbage(NamedTuple):
    """What is no message."""

    reason: str


Message = Req | Close | Count | NegOpen | NegMessage | NegClose | Offer | Login | Refused | Garbage


def read(frame: bytes, max_filters: int) -> Message:
    """The message in a frame of a client, which may be any bytes at all."""
    try:
        values: Any = _any_frame.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            values = decode_loosely(frame)  # lone surrogates: valid as JavaScript writes them
        except ValueError:
            return Garbage("invalid: a message is a JSON array")
    match values:
        case ["EVENT", dict(event), *_]:
            event_id = event.get("id")
            return Offer(event_id if isinstance(event_id, str) and len(event_id) <= 64 else None)
        case ["EVENT", *_]:
            return Offer(None)
        case ["AUTH", event, *_]:
            return Login(event)
        case [
            ("REQ" | "CLOSE" | "COUNT" | "NEG-OPEN" | "NEG-MSG" | "NEG-CLOSE") as verb,
            str(name),
            *rest,
        ]:
            if not 0 < len(name) <= MAX_SUBSCRIPTION or not _is_text(name):
                return Garbage(
                    f"invalid: a subscription id is a text of 1 to {MAX_SUBSCRIPTION} characters"
                )
            return _read(verb, name, rest, max_filters)
        case [("REQ" | "CLOSE" | "COUNT" | "NEG-OPEN" | "NEG-MSG" | "NEG-CLOSE") as verb, *_]:
            return Garbage(f"invalid: {verb} is followed by a subscription id, a text")
        case [str(verb), *_] if _is_text(verb):
            return Garbage(f"invalid: {verb[:30]} is no message of a client's")
        case _:
            return Garbage("invalid: a message begins with its type, a text")


def _read(verb: str, name: str, rest: list[Any], max_filters: int) -> Message:
    answer = "NEG-ERR" if verb.startswith("NEG") else "CLOSED"
    try:
        match verb:
            case "REQ" | "COUNT":
                if not rest:
                    raise ValueError(f"{verb} takes a filter")
                if len(rest) > max_filters:
                    raise ValueError(f"{max_filters} filters at most, not {len(rest)}")
                queries = [_query(each) for each in rest]
                if verb == "REQ":
                    return Req(name, queries)
                return Count(name, queries, _first_tag(rest[0]) if len(rest) == 1 else None)
            case "NEG-OPEN":
                if len(rest) < 2:
                    raise ValueError("NEG-OPEN takes a filter and a message")
                # A list of filters, as some clients send it, means any of them, as in a REQ.
                filters = rest[0] if isinstance(rest[0], list) else [rest[0]]
                if not 0 < len(filters) <= max_filters:
                    raise ValueError(f"1 to {max_filters} filters, not {len(filters)}")
                queries = [_query(each) for each in filters]
                if any(query.search is not None for query in queries):
                    raise ValueError("what is searched for by words is not reconciled")
                return NegOpen(name, queries, _payload(rest[1]))
            case "NEG-MSG":
                return NegMessage(name, _payload(rest[0] if rest else None))
            case "NEG-CLOSE":
                return NegClose(name)
            case _:
                return Close(name)
    except ValueError as error:
        return Refused(answer, name, f"invalid: {error}")


def _query(value: object) -> Query:
    query = Query.from_object(value)
    if not all(map(_is_text, (text for texts in query.tags.values() for text in texts))):
        raise ValueError("tags: half a character of UTF-16 is no text")
    return query


def _is_text(text: str) -> bool:
    """Whether there is UTF-8 for it: none is for the lone surrogates that JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _payload(value: object) -> bytes:
    try:
        if isinstance(value, str):
            return bytes.fromhex(value)
    except ValueError:
        pass
    raise ValueError("a message of a reconciliation is a text of hex digits")


def _first_tag(value: dict[str, Any]) -> str | None:
    """The first value of the first tag in a filter, in the order in which it was sent."""
    for name, texts in value.items():
        if name.startswith("#"):
            return str(texts[0]) if texts else None
    return None


def values_of(queries: Sequence[Query]) -> int:
    """How many ids, authors, kinds and tags there are."""
    return sum(
        len(query.ids or ())
        + len(query.authors or ())
        + len(query.kinds or ())
        + sum(map(len, query.tags.values()))
        for query in queries
    )


# What is answered


def event_head(subscription: str) -> bytes:
    """What precedes an event, as JSON, in its frame; `]` follows it."""
    return b'["EVENT",%b,' % _encode(subscription)


def eose(subscription: str, hint: str | None) -> bytes:
    """The EOSE frame; with NIP-67's `finish` or `more`."""
    return _encode(["EOSE", subscription] if hint is None else ["EOSE", subscription, [hint]])


def closed(subscription: str, reason: str) -> bytes:
    """The CLOSED frame."""
    return _encode(["CLOSED", subscription, reason])


def refused(refusal: Refused) -> bytes:
    """The frame that ends what a request wanted to begin."""
    return _encode([refusal.kind, refusal.subscription, refusal.reason])


def notice(text: str) -> bytes:
    """The NOTICE frame."""
    return _encode(["NOTICE", text])


def ok(event_id: str, is_accepted: bool, reason: str) -> bytes:
    """The OK frame."""
    return _encode(["OK", event_id, is_accepted, reason])


def auth(challenge: str) -> bytes:
    """The AUTH frame."""
    return _encode(["AUTH", challenge])


def count(subscription: str, number: int, *, is_exact: bool, hll: bytes | None) -> bytes:
    """The COUNT frame."""
    found: dict[str, Any] = {"count": number}
    if not is_exact:
        found["approximate"] = True
    if hll is not None:
        found["hll"] = hll.hex()
    return _encode(["COUNT", subscription, found])


def neg_message(subscription: str, payload: bytes) -> bytes:
    """The NEG-MSG frame."""
    return b'["NEG-MSG",%b,"%b"]' % (_encode(subscription), payload.hex().encode())


def neg_error(subscription: str, reason: str, most: int | None = None) -> bytes:
    """The NEG-ERR frame; `most`: how many events would be compared."""
    values: list[Any] = ["NEG-ERR", subscription, reason]
    return _encode(values if most is None else [*values, most])
