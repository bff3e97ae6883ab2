"""Who we are to relays that insist on knowing (NIP-42): keys, and the answer to a challenge."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

import msgspec
from coincurve import PrivateKey

from bigbrotr.models.event import preimage, storable

CLIENT_AUTH = 22242  # the kind of an answer
MAX_CHALLENGE = 1024  # characters; what is longer is not answered


class Signer(Protocol):
    """A key that can answer; `public_key` is 64 hex digits."""

    public_key: str

    def sign(self, message: bytes) -> bytes:
        """The BIP-340 signature (64 bytes) of an event's id."""


class Throwaway:
    """A new key that nobody keeps: enough for relays that only want to see one."""

    def __init__(self) -> None:
        self._key = PrivateKey()
        self.public_key = self._key.public_key_xonly.format().hex()

    def sign(self, message: bytes) -> bytes:
        """The BIP-340 signature (64 bytes) of an event's id."""
        return self._key.sign_schnorr(message)


class SignedEvent(NamedTuple):
    """An event of ours, signed: its id in hex, and the event as JSON."""

    event_id: str
    event: bytes


def answer_challenge(signer: Signer, relay_url: str, challenge: str, now: int) -> SignedEvent:
    """Signs the answer to a relay's challenge; `now` in Unix seconds."""
    # storable: a lone surrogate cannot be hashed, and no honest challenge has one.
    tags: Sequence[Sequence[str]] = [["relay", relay_url], ["challenge", storable(challenge)]]
    pubkey = signer.public_key.encode()
    event_id = sha256(preimage(pubkey, now, CLIENT_AUTH, msgspec.json.encode(tags), b'""')).digest()
    return seal(signer, event_id, now, CLIENT_AUTH, tags)


def seal(
    signer: Signer, event_id: bytes, now: int, kind: int, tags: Sequence[Sequence[str]]
) -> SignedEvent:
    """Signs an event without content, whose id is known."""
    event = {
        "id": event_id.hex(),
        "pubkey": signer.public_key,
        "created_at": now,
        "kind": kind,
        "tags": tags,
        "content": "",
        "sig": signer.sign(event_id).hex(),
    }
    return SignedEvent(event_id.hex(), msgspec.json.encode(event))
