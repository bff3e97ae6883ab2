"""Says what events are: the names of their kinds, and what of them a line shows."""

from typing import Any, NamedTuple

import msgspec

from bigbrotr.models.event import decode_tags
from bigbrotr.reads.events import StoredEvent

NAMES = {
    -1: "erased",
    0: "profile",
    1: "note",
    3: "follow list",
    4: "direct message",
    5: "deletion request",
    6: "repost",
    7: "reaction",
    8: "badge award",
    9: "chat message",
    13: "seal",
    14: "direct message",
    16: "repost",
    20: "picture",
    21: "video",
    22: "short video",
    40: "channel",
    42: "channel message",
    62: "request to vanish",
    443: "key package",
    445: "group message",
    1059: "gift wrap",
    1063: "file",
    1111: "comment",
    1311: "live chat message",
    1984: "report",
    1985: "label",
    4550: "approval",
    9041: "zap goal",
    9321: "nutzap",
    9734: "zap request",
    9735: "zap",
    9802: "highlight",
    10000: "mute list",
    10001: "pinned notes",
    10002: "relay list",
    10003: "bookmarks",
    10050: "relays for messages",
    10063: "media servers",
    10166: "monitor",
    13194: "wallet service",
    17375: "wallet",
    22242: "authentication",
    24133: "remote signing",
    27235: "signed HTTP request",
    30000: "follow set",
    30001: "set",
    30002: "relay set",
    30003: "bookmark set",
    30008: "badges",
    30009: "badge",
    30017: "stall",
    30018: "product",
    30023: "article",
    30024: "draft",
    30030: "emoji set",
    30063: "release",
    30078: "application data",
    30166: "relay report",
    30311: "live event",
    30315: "status",
    30402: "classified",
    31922: "date",
    31923: "appointment",
    31990: "application",
    34550: "community",
    39000: "group",
}
MOST_IN_LINE = 280  # characters of a content


class Shown(NamedTuple):
    """An event in a list."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    kind_name: str
    text: str | None  # of its content; None: the archive keeps none


def name(kind: int) -> str:
    """What a kind of events is called."""
    return NAMES.get(kind, f"kind {kind}")


def shown(event: StoredEvent) -> Shown:
    """What a line shows of an event."""
    return Shown(
        event.id.hex(),
        event.pubkey.hex(),
        event.created_at,
        event.kind,
        name(event.kind),
        None if event.content is None else text_of(event.kind, event.content),
    )


def text_of(kind: int, content: str) -> str:
    """What people would read of a content, in a line."""
    if kind == 0:
        return str(fields_in(content).get("name") or "")[:MOST_IN_LINE]
    if kind in (4, 13, 14, 445, 1059, 24133):
        return "encrypted"
    if kind in (6, 16, 9735, 3, 10002):
        return ""
    return content[:MOST_IN_LINE]


def fields_in(content: str) -> dict[str, Any]:
    """The fields of a JSON object; none, if it is something else."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def tags_of(event: StoredEvent) -> list[list[str]]:
    """The tags of an event; none, where they are not kept."""
    return [] if event.tags is None else decode_tags(event.tags)
