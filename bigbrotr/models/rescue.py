"""Rescue: which archived events may be sent to other relays, and what a relay says it takes."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from bigbrotr.models.event import decode_loosely
from bigbrotr.models.policy import EPHEMERAL, Reason, facts_of

REPOSTS = frozenset({6, 16})
PRIVATE = frozenset({1059})  # gift wraps (NIP-59)
MOST_NESTED = 8  # reposts of reposts that are looked into


class Left(StrEnum):
    """Why an event is not sent."""

    # Of the event itself, to whomever
    SUPERSEDED = "superseded"
    DELETED = "deleted"
    EXPIRED = "expired"
    VANISHED = "vanished"
    PROTECTED = "protected"
    EPHEMERAL = "ephemeral"
    TAKEN_DOWN = "taken-down"
    ERASED = "erased"
    PRIVATE = "private"  # only the relays of its reader are to have it
    EMBEDS = "embeds"  # a repost of something that is not sent
    NOT_KEPT = "not-kept"  # it is archived no longer, or not whole
    # Of the target
    HELD = "held"  # it has it
    NO_LIST = "no-relay-list"
    NETWORK_OFF = "network-off"
    PAYMENT = "payment-required"
    RESTRICTED = "restricted-writes"
    MESSAGE = "message-too-long"
    CONTENT = "content-too-long"
    TAGS = "too-many-tags"
    TOO_OLD = "too-old"
    TOO_NEW = "too-new"
    WORK = "too-little-work"

    @property
    def words(self) -> str:
        """What it means, for people."""
        return WORDS[self]


WORDS = {
    Left.SUPERSEDED: "a newer version of it is archived",
    Left.DELETED: "its author has asked for its deletion",
    Left.EXPIRED: "its time is over",
    Left.VANISHED: "its author has asked to vanish",
    Left.PROTECTED: "only its author may publish it",
    Left.EPHEMERAL: "relays do not keep its kind",
    Left.TAKEN_DOWN: "the operator has taken it down",
    Left.ERASED: "its content was erased here",
    Left.PRIVATE: "it is a private message: only relays of its reader are to have it",
    Left.EMBEDS: "it holds another event that is not sent",
    Left.NOT_KEPT: "it is not archived, or not whole",
    Left.HELD: "the relay holds it, as far as is known",
    Left.NO_LIST: "its author has no list of relays to write to",
    Left.NETWORK_OFF: "the network of the relay is not enabled",
    Left.PAYMENT: "the relay wants to be paid",
    Left.RESTRICTED: "the relay takes events from some only",
    Left.MESSAGE: "it is longer than the relay takes (max_message_length)",
    Left.CONTENT: "its content is longer than the relay takes (max_content_length)",
    Left.TAGS: "it has more tags than the relay takes (max_event_tags)",
    Left.TOO_OLD: "it is older than the relay takes (created_at_lower_limit)",
    Left.TOO_NEW: "it is newer than the relay takes (created_at_upper_limit)",
    Left.WORK: "it has less work than the relay wants (min_pow_difficulty)",
}
# The first that holds is said.
HIDDEN = {
    Reason.ERASED: Left.ERASED,
    Reason.TAKEN_DOWN: Left.TAKEN_DOWN,
    Reason.VANISHED: Left.VANISHED,
    Reason.DELETED: Left.DELETED,
    Reason.PROTECTED: Left.PROTECTED,
    Reason.EPHEMERAL: Left.EPHEMERAL,
    Reason.SUPERSEDED: Left.SUPERSEDED,
}


class Embedded(NamedTuple):
    """What a repost holds: the ids that it claims to hold, and whether one of these events is not
    to be published by us, as it says itself."""

    ids: tuple[bytes, ...] = ()
    is_forbidden: bool = False


class Sendable(NamedTuple):
    """An event that may be sent, as far as it counts for what a relay takes."""

    id: bytes
    created_at: int
    tags: int
    characters: int  # of its content
    text: bytes  # as JSON


def left_of(
    pubkey: bytes,
    created_at: int,
    kind: int,
    tags: Sequence[Sequence[str]],
    why: int,
    expires_at: int | None,
    now: int,
) -> Left | None:
    """Why an event is sent to nobody; None: it may be. `why` and `expires_at`: what the policy has
    noted of it. It need not have looked at it yet: what the event says itself counts as well."""
    said = facts_of(pubkey, created_at, kind, tags)
    why |= said.why
    for reason, left in HIDDEN.items():
        if why & reason:
            return left
    if kind in PRIVATE:
        return Left.PRIVATE
    ends = [at for at in (expires_at, said.expires_at) if at is not None]
    return Left.EXPIRED if ends and min(ends) <= now else None


def embedded_in(kind: int, content: str, now: int) -> Embedded:
    """What the content of a repost (6, 16) holds; of another kind it holds nothing."""
    ids: list[bytes] = []
    for _ in range(MOST_NESTED):
        if kind not in REPOSTS:
            return Embedded(tuple(ids))
        if not content.strip():
            return Embedded(tuple(ids))
        try:
            found = decode_loosely(content)
        except ValueError:
            # Somebody may read it more tolerantly than we do.
            return Embedded(tuple(ids), '"-"' in content)
        if not isinstance(found, dict):
            return Embedded(tuple(ids), '"-"' in content)
        if _is_forbidden(found, now):
            return Embedded(tuple(ids), is_forbidden=True)
        ids += _id_in(found)
        kind = found["kind"] if type(found.get("kind")) is int else 0
        content = found["content"] if isinstance(found.get("content"), str) else ""
    return Embedded(tuple(ids), is_forbidden=True)


def _id_in(found: Mapping[str, Any]) -> list[bytes]:
    text = found.get("id")
    try:
        key = bytes.fromhex(text) if isinstance(text, str) and len(text) == 64 else b""
    except ValueError:
        key = b""
    return [key] if len(key) == 32 else []


def _is_forbidden(found: Mapping[str, Any], now: int) -> bool:
    """Whether an embedded event says that it is protected, over, or not to be kept."""
    if type(found.get("kind")) is int and found["kind"] in EPHEMERAL:
        return True
    tags = found.get("tags")
    if not isinstance(tags, list):
        return False
    read = [
        [each for each in tag if isinstance(each, str)]
        for tag in tags
        if isinstance(tag, list) and tag and isinstance(tag[0], str)
    ]
    said = facts_of(b"", 0, 1, read)
    is_over = said.expires_at is not None and said.expires_at <= now
    return bool(said.why & Reason.PROTECTED) or is_over


def refusal_in_advance(limits: Mapping[str, int | bool], event: Sendable, now: int) -> Left | None:
    """Why a relay with these limits (of NIP-11) would not take an event; None: it might."""

    def limit(name: str) -> int | None:
        value = limits.get(name)
        return None if isinstance(value, bool) else value

    most = limit("max_message_length")
    if most and len(event.text) + len(b'["EVENT",]') > most:
        return Left.MESSAGE
    # 0 stands for none in many documents.
    if (most := limit("max_content_length")) and event.characters > most:
        return Left.CONTENT
    if (most := limit("max_event_tags")) and event.tags > most:
        return Left.TAGS
    if (back := limit("created_at_lower_limit")) and event.created_at < oldest(back, now):
        return Left.TOO_OLD
    if (ahead := limit("created_at_upper_limit")) is not None:
        newest = ahead if ahead > now // 2 else now + ahead
        if event.created_at > newest:
            return Left.TOO_NEW
    bits = limit("min_pow_difficulty") or 0
    return Left.WORK if bits > work_of(event.id) else None


def oldest(limit: int, now: int) -> int:
    """The time of the oldest event that a relay takes: its limit is a number of seconds (NIP-11),
    and in some documents the time itself."""
    return limit if limit > now // 2 else now - limit


def closed_by(limits: Mapping[str, int | bool]) -> Left | None:
    """Why a relay takes nothing from somebody whom it does not know."""
    if limits.get("payment_required") is True:
        return Left.PAYMENT
    return Left.RESTRICTED if limits.get("restricted_writes") is True else None


def work_of(event_id: bytes) -> int:
    """The zero bits at the beginning of an id (NIP-13)."""
    return 8 * len(event_id) - int.from_bytes(event_id).bit_length()
