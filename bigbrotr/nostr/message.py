"""Frames: the JSON arrays that clients and relays exchange (NIP-01, 42, 67, 77), each way."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from bigbrotr.models.event import Event, WireEvent, decode_loosely
from bigbrotr.models.plain import Heard
from bigbrotr.net.frames import Oversized

HINTS = frozenset({"finish", "more"})  # of EOSE (NIP-67)

_encode = msgspec.json.Encoder().encode
_event_frame = msgspec.json.Decoder(tuple[str, str, WireEvent])
_any_frame = msgspec.json.Decoder(list[Any])


class EventMessage(NamedTuple):
    """An event for a subscription; nothing about it is verified."""

    subscription: str
    event: Heard  # an Event (verified) where WireEvent cannot hold it


class Eose(NamedTuple):
    """The stored events are through; `hints` are NIP-67's, unknown ones included."""

    subscription: str
    hints: tuple[str, ...]


class Refusal(StrEnum):
    """Why a relay refuses: how the words of a CLOSED, a NEG-ERR or a NOTICE begin (NIP-01, 42)."""

    AUTH_REQUIRED = "auth-required"
    RESTRICTED = "restricted"
    RATE_LIMITED = "rate-limited"
    BLOCKED = "blocked"
    POW = "pow"
    MUTE = "mute"
    PAYMENT = "payment"


class Closed(NamedTuple):
    """The relay ended a subscription; `reason` begins with a machine-readable prefix, if any."""

    subscription: str
    reason: str


class Ok(NamedTuple):
    """The relay took an event, or refused it."""

    event_id: str
    is_accepted: bool
    reason: str


class Notice(NamedTuple):
    """Words for a person."""

    text: str


class Auth(NamedTuple):
    """The relay's challenge (NIP-42)."""

    challenge: str


class NegMsg(NamedTuple):
    """One message of a reconciliation (NIP-77)."""

    subscription: str
    payload: bytes


class NegErr(NamedTuple):
    """The relay ended a reconciliation, or refused it; `most` is how many events it would take."""

    subscription: str
    reason: str
    most: int | None = None


class Other(NamedTuple):
    """A frame of the right shape and of a type that concerns nobody here, e.g. COUNT."""

    type: str
    values: list[Any]


class Malformed(NamedTuple):
    """What is no frame; `is_event` says that it would have been one for a subscription."""

    reason: str
    is_event: bool


class TooLarge(NamedTuple):
    """A message that was skipped, of so many bytes; `subscription` is None where its head does not
    tell, and empty where it has none."""

    type: str
    subscription: str | None
    size: int


Message = (
    EventMessage
    | Eose
    | Closed
    | Ok
    | Notice
    | Auth
    | NegMsg
    | NegErr
    | Other
    | Malformed
    | TooLarge
)
# The beginning of a message: its type, and what follows if that is a short string.
_head = re.compile(rb'\s*\[\s*"([A-Z-]{1,16})"\s*,\s*(?:"([^"\\]{0,64})"\s*,)?')
_claimed_time = re.compile(rb'(?<!\\)"created_at"\s*:\s*(\d{1,18})\b')


def request(subscription: str, *filters: Mapping[str, Any]) -> bytes:
    """The REQ frame: subscribes to what matches any of the filters."""
    return _encode(["REQ", subscription, *filters])


def close(subscription: str) -> bytes:
    """The CLOSE frame: ends a subscription."""
    return _encode(["CLOSE", subscription])


def publish(event: Event) -> bytes:
    """The EVENT frame: offers an event."""
    return offer(event.to_json().encode("utf-8", "surrogatepass"))


def offer(event: bytes) -> bytes:
    """The EVENT frame: offers an event, given as JSON."""
    return b'["EVENT",%b]' % event


def authenticate(event: bytes) -> bytes:
    """The AUTH frame: answers a challenge with an event, given as JSON."""
    return b'["AUTH",%b]' % event


def open_reconciliation(subscription: str, filter_: Mapping[str, Any], payload: bytes) -> bytes:
    """The NEG-OPEN frame: begins to reconcile what matches."""
    return _encode(["NEG-OPEN", subscription, filter_, payload.hex()])


def reconcile(subscription: str, payload: bytes) -> bytes:
    """The NEG-MSG frame: goes on reconciling."""
    return b'["NEG-MSG",%b,"%b"]' % (_encode(subscription), payload.hex().encode())


def close_reconciliation(subscription: str) -> bytes:
    """The NEG-CLOSE frame: ends reconciling."""
    return _encode(["NEG-CLOSE", subscription])


def decode(frame: bytes) -> Message:
    """The message in a frame that a relay sent, which may be any bytes at all."""
    if type(frame) is Oversized:
        return _too_large(frame)
    try:
        kind, subscription, event = _event_frame.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_slowly(frame)
    return EventMessage(subscription, event) if kind == "EVENT" else _decode_slowly(frame)


def claimed_time(frame: bytes) -> int | None:
    """When an event that cannot be read says that it was created, in a frame or a part of it."""
    found = _claimed_time.search(frame)
    return None if found is None else int(found[1])


def _too_large(sample: Oversized) -> TooLarge:
    head = _head.match(sample)
    if head is None:
        return TooLarge("", None, sample.size)
    subscription = (head[2] or b"").decode(errors="replace")
    return TooLarge(head[1].decode(), subscription, sample.size)


def _decode_slowly(frame: bytes) -> Message:
    looks_like_event = frame[:16].lstrip(b" \t\r\n[").startswith(b'"EVENT"')
    try:
        values: Any = _any_frame.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            values = decode_loosely(frame)  # lone surrogates: valid as JavaScript writes them
        except ValueError as error:
            return Malformed(str(error), looks_like_event)
    match values:
        case ["EVENT", str(subscription), dict(event)]:
            try:
                return EventMessage(subscription, Event.from_object(event))
            except ValueError as error:
                return Malformed(str(error), True)
        case ["EOSE", str(subscription), *rest]:
            if rest and isinstance(rest[0], list):
                return Eose(subscription, tuple(hint for hint in rest[0] if isinstance(hint, str)))
            # Words, of which NIP-67 knows nothing: they may be why nothing came.
            words = [each for each in rest if isinstance(each, str) and each not in HINTS]
            return Eose(subscription, tuple(words))
        case ["CLOSED", str(subscription), *rest]:
            return Closed(subscription, rest[0] if rest and isinstance(rest[0], str) else "")
        case ["OK", str(event_id), bool(is_accepted), *rest]:
            reason = rest[0] if rest and isinstance(rest[0], str) else ""
            return Ok(event_id, is_accepted, reason)
        case ["NOTICE", str(text), *_]:
            return Notice(text)
        case ["AUTH", str(challenge), *_]:
            return Auth(challenge)
        case ["NEG-MSG", str(subscription), str(payload), *_]:
            try:
                return NegMsg(subscription, bytes.fromhex(payload))
            except ValueError:
                return Malformed("malformed: not hexadecimal", False)
        case ["NEG-ERR", str(subscription), *rest]:
            reason = rest[0] if rest and isinstance(rest[0], str) else ""
            most = rest[1] if len(rest) > 1 and isinstance(rest[1], int) else None
            return NegErr(subscription, reason, most)
        case ["EVENT" | "EOSE" | "CLOSED" | "OK" | "NOTICE" | "AUTH" | "NEG-MSG" | "NEG-ERR", *_]:
            return Malformed("malformed: wrong shape", looks_like_event)
        case [str(kind), *rest]:
            return Other(kind, rest)
        case _:
            return Malformed("malformed: not a message", looks_like_event)


def refusal_of(words: str) -> Refusal | None:
    """Returns what the words of a relay refuse us for; None for any other words. Many relays leave
    the colon out."""
    return next((refusal for refusal in Refusal if words.startswith(refusal)), None)


def prefix_of(reason: str, otherwise: str) -> str:
    """The machine-readable prefix of an OK or CLOSED (NIP-01), `otherwise` without one."""
    prefix, colon, _ = reason.partition(":")
    is_one = colon and prefix.isascii() and prefix.replace("-", "").isalpha() and len(prefix) < 30
    return prefix.lower() if is_one else otherwise
