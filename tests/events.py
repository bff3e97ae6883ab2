"""Events for tests: signed by a key of their own, in any serialisation that is in use."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import count

from coincurve import PrivateKey

from bigbrotr.models.event import Event

NOW = 1_750_000_000
_numbers = count()


@cache
def key(number: int = 1) -> PrivateKey:
    return PrivateKey.from_int(number)


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


def fields(
    content: str = "",
    tags: Sequence[Sequence[str]] = (),
    *,
    kind: int = 1,
    created_at: int = NOW,
    signer: int = 1,
    verbatim: bool = False,
) -> dict[str, object]:
    """A validly signed event as decoded JSON."""
    pubkey = key(signer).public_key_xonly.format().hex()
    tags = [list(tag) for tag in tags]
    hashed = serialise([0, pubkey, created_at, kind, tags, content], verbatim=verbatim)
    digest = hashlib.sha256(hashed.encode()).digest()
    return {
        "id": digest.hex(),
        "pubkey": pubkey,
        "created_at": created_at,
        "kind": kind,
        "tags": tags,
        "content": content,
        "sig": key(signer).sign_schnorr(digest, b"\0" * 32).hex(),
    }


def on_the_wire(event: dict[str, object]) -> str:
    """An event as a relay sends it; lone surrogates are escaped."""
    return serialise(event)


def make_event(
    content: str | None = None,
    tags: Sequence[Sequence[str]] = (),
    *,
    kind: int = 1,
    created_at: int = NOW,
    signer: int = 1,
    verbatim: bool = False,
) -> Event:
    """A verified event; without content it is unlike any other."""
    text = f"event {next(_numbers)}" if content is None else content
    made = fields(text, tags, kind=kind, created_at=created_at, signer=signer, verbatim=verbatim)
    return Event.from_json(on_the_wire(made))
