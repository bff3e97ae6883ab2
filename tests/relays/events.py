"""Signed events for tests: deterministic keys, anything else as wanted."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import coincurve

EVENT_KEYS = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")


@cache
def secret(key: int) -> coincurve.PrivateKey:
    """The test key number `key`."""
    return coincurve.PrivateKey(hashlib.sha256(b"bigbrotr test key %d" % key).digest())


@cache
def pubkey(key: int = 0) -> str:
    """The x-only public key of a test key, in hex."""
    return secret(key).public_key_xonly.format().hex()


def make_event(
    created_at: int = 1_700_000_000,
    kind: int = 1,
    tags: Sequence[Sequence[str]] = (),
    content: str = "",
    key: int = 0,
) -> dict[str, Any]:
    """A validly signed event; the same arguments make the same event."""
    event: dict[str, Any] = {
        "pubkey": pubkey(key),
        "created_at": created_at,
        "kind": kind,
        "tags": [list(tag) for tag in tags],
        "content": content,
    }
    event["id"] = event_id(event).hex()
    event["sig"] = secret(key).sign_schnorr(bytes.fromhex(event["id"]), bytes(32)).hex()
    return {name: event[name] for name in EVENT_KEYS}


def event_id(event: Mapping[str, Any]) -> bytes:
    """The hash that an event's id must be, by Python's own JSON encoder."""
    fields = [0, *(event[name] for name in EVENT_KEYS[1:-1])]
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    # NIP-01 names seven escapes; Python adds \\u00XX for the other control characters
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


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
    """An event as compact JSON."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
