"""What is to be taken down, as people write it."""

import nostr_sdk
import pytest

from bigbrotr.models.target import Target, parse_target
from tests.models.test_where import AUTHOR, ID, bech32

EVENT = Target("event", bytes.fromhex(ID))
PUBKEY = Target("pubkey", bytes.fromhex(AUTHOR))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ID, Target(None, EVENT.key)),
        (f"  {ID.upper()} ", Target(None, EVENT.key)),
        (bech32("note", EVENT.key), EVENT),
        (f"nostr:{bech32('nevent', bytes([0, 32]) + EVENT.key)}", EVENT),
        (nostr_sdk.PublicKey.parse(AUTHOR).to_bech32(), PUBKEY),
        (f"https://x.example/{bech32('npub', PUBKEY.key).upper()}?a=b", PUBKEY),
        (bech32("nprofile", bytes([1, 1, 120, 0, 32]) + PUBKEY.key), PUBKEY),
    ],
)
def test_a_target(text: str, expected: Target) -> None:
    assert parse_target(text) == expected


SECRET = bech32("nsec", bytes(range(32)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "'hello' is not an event id or a public key: give 64 hex digits"),
        (bech32("npub", bytes(31)), "this npub is not a public key"),
        (bech32("npub", PUBKEY.key)[:-1], "this npub is not a public key"),
        (bech32("nprofile", bytes([1, 1, 120])), "this nprofile is not a public key"),
        (bech32("note", EVENT.key)[:-1], "this note is not an event id"),
        (SECRET, "an nsec is a private key"),
        (bech32("nrelay", b"x"), "an nrelay names a relay"),
    ],
)
def test_no_target(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_target(text)
    assert SECRET not in str(caught.value)
