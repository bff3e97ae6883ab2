"""Events for tests: validly signed by deterministic keys, in any serialisation that is in use."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any

import coincurve

from bigbrotr.models.event import Event

NOW = 1_750_000_000
EVENT_KEYS = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")
_numbers = count()


@cache
def secret(key: int) -> coincurve.PrivateKey:
    """The test key number `key`."""
    return coincurve.PrivateKey(hashlib.sha256(b"bigbrotr test key %d" % key).digest())


@cache
def pubkey(key: int = 0) -> str:
    """The x-only public key of a test key, in hex."""
    return secret(key).public_key_xonly.format().hex()


def serialise(value: object, *, verbatim: bool = False) -> str:
    """JSON as it is hashed: as JavaScript writes it, or with control characters as they are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if verbatim:
        text = re.sub(
            r"\\(?:\\|u00([01][0-9a-f]))",
            lambda found: chr(int(found[1], 16)) if found[1] else found[0],
            text,
        )
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def make_event(
    created_at: int = NOW,
    kind: int = 1,
    tags: Sequence[Sequence[str]] = (),
    content: str = "",
    key: int = 0,
    *,
    verbatim: bool = False,
) -> dict[str, Any]:
    """A validly signed event as decoded JSON; the same arguments make the same event."""
    event: dict[str, Any] = {
        "pubkey": pubkey(key),
        "created_at": created_at,
        "kind": kind,
        "tags": [list(tag) for tag in tags],
        "content": content,
    }
    event["id"] = event_id(event, verbatim=verbatim).hex()
    event["sig"] = secret(key).sign_schnorr(bytes.fromhex(event["id"]), bytes(32)).hex()
    return {name: event[name] for name in EVENT_KEYS}


def verified(
    content: str | None = None,
    tags: Sequence[Sequence[str]] = (),
    *,
    kind: int = 1,
    created_at: int = NOW,
    key: int = 0,
    verbatim: bool = False,
) -> Event:
    """Such an event, read and verified; without content it is unlike any other."""
    text = f"event {next(_numbers)}" if content is None else content
    return Event.from_json(wire(make_event(created_at, kind, tags, text, key, verbatim=verbatim)))


def event_id(event: Mapping[str, Any], *, verbatim: bool = False) -> bytes:
    """The hash that an event's id must be, by Python's own JSON encoder."""
    fields = [0, *(event[name] for name in EVENT_KEYS[1:-1])]
    return hashlib.sha256(serialise(fields, verbatim=verbatim).encode()).digest()


def is_valid(event: Mapping[str, Any]) -> bool:
    """Whether the id is the hash and the signature is good; never raises."""
    try:
        if event_id(event).hex() != event["id"]:
            return False
        author = coincurve.PublicKeyXOnly(bytes.fromhex(event["pubkey"]))
        return bool(author.verify(bytes.fromhex(event["sig"]), bytes.fromhex(event["id"])))
    except (KeyError, TypeError, ValueError):
        return False


def wire(event: Mapping[str, Any]) -> bytes:
    """An event as a relay sends it: compact JSON; lone surrogates are escaped."""
    return serialise(event).encode()
