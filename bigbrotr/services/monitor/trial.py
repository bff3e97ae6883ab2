"""Ephemeral events to try whether a relay takes any: kept by nobody, made with as much proof of
work (NIP-13) as is worth it."""

from hashlib import sha256

import msgspec

from bigbrotr.models.event import preimage
from bigbrotr.nostr.auth import SignedEvent, Signer, seal

TRIAL = 20166  # the kind: ephemeral (NIP-01), used by nobody
MAX_BITS = 24  # about ten seconds


def make_trial(
    signer: Signer, now: int, bits: int = 0, *, is_protected: bool = False
) -> SignedEvent:
    """A signed event with `bits` of work, which takes about 2**bits microseconds; `now` in Unix
    seconds. A protected one (NIP-70) is to be refused unless its author has authenticated."""
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"{bits} bits of work")
    pubkey = signer.public_key.encode()
    tags: list[list[str]] = [["-"]] if is_protected else []
    limit = 1 << 256 - bits
    nonce = 0
    while True:
        worked = [*tags, ["nonce", str(nonce), str(bits)]] if bits else tags
        hashed = preimage(pubkey, now, TRIAL, msgspec.json.encode(worked), b'""')
        digest = sha256(hashed).digest()
        if not bits or int.from_bytes(digest, "big") < limit:
            break
        nonce += 1
    return seal(signer, digest, now, TRIAL, worked)
