"""The private key of an identity, and everything that signs with it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, Self

import nostr_sdk

from bigbrotr.errors import ConfigError
from bigbrotr.secret import read_secret


class Keys:
    """A secp256k1 key pair. The secret half is never shown, copied or pickled.

    `public_key` is 64 lower-case hex digits, `npub` the same in bech32 (NIP-19).
    """

    __slots__ = ("__pair", "npub", "public_key")

    __pair: "nostr_sdk.Keys"
    npub: str
    public_key: str

    def __init__(self, secret: str) -> None:
        """`secret` is 64 hex digits or an nsec; ValueError otherwise, without repeating it."""
        pair = parse_secret(secret)
        if pair is None:
            raise ValueError(f"not a private key: {what_is_wrong(secret)}")
        public = pair.public_key()
        object.__setattr__(self, "_Keys__pair", pair)
        object.__setattr__(self, "public_key", public.to_hex())
        object.__setattr__(self, "npub", public.to_bech32())

    @classmethod
    def generate(cls) -> Self:
        """A new random identity."""
        return cls(nostr_sdk.Keys.generate().secret_key().to_hex())

    @classmethod
    def from_env(cls, name: str, environ: Mapping[str, str] | None = None) -> Self | None:
        """The key that `read_secret(name)` finds; None if unset, ConfigError if malformed."""
        secret = read_secret(name, environ)
        if secret is None:
            return None
        try:
            return cls(secret.strip())
        except ValueError as error:
            raise ConfigError(f"{name} is {error}") from None

    def sign(self, message: bytes) -> bytes:
        """The BIP-340 signature (64 bytes) of a message, for an event its id of 32 bytes."""
        return bytes.fromhex(self.__pair.sign_schnorr(message))

    def sign_event(
        self, kind: int, content: str, tags: Iterable[Sequence[str]], created_at: int
    ) -> str:
        """A complete event as JSON; `created_at` in Unix seconds.

        ValueError for what cannot be an event: an empty tag, a lone surrogate, a number out of
        range.
        """
        try:
            event = (
                nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), content)
                .tags([nostr_sdk.Tag.parse(list(tag)) for tag in tags])
                .custom_created_at(nostr_sdk.Timestamp.from_secs(created_at))
                .finalize(self.__pair)
            )
        except nostr_sdk.NostrSdkError as error:
            raise ValueError(f"cannot sign this event: {error}") from None
        return str(event.as_json())

    def wrap_message(self, receiver: str, text: str, created_at: int) -> str:
        """A private message to a public key (hex or npub), gift-wrapped (NIP-17), as JSON: the
        wrap is signed with a key of its own. `created_at` in Unix seconds.

        ValueError for what is no public key.
        """
        try:
            to = nostr_sdk.PublicKey.parse(receiver)
            rumor = (
                nostr_sdk.EventBuilder(nostr_sdk.Kind(14), text)
                .tags([nostr_sdk.Tag.parse(["p", to.to_hex()])])
                .custom_created_at(nostr_sdk.Timestamp.from_secs(created_at))
                .finalize_unsigned(self.__pair.public_key())
            )
            return str(nostr_sdk.nip59_make_gift_wrap(self.__pair, to, rumor).as_json())
        except nostr_sdk.NostrSdkError as error:
            raise ValueError(f"cannot wrap this message: {error}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keys) and other.public_key == self.public_key

    def __hash__(self) -> int:
        return hash(self.public_key)

    def __repr__(self) -> str:
        return f"Keys({self.npub})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("keys are immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("keys are immutable")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("private keys are not pickled or copied")

    def __getstate__(self) -> NoReturn:
        raise TypeError("private keys are not pickled or copied")


def parse_secret(secret: str) -> "nostr_sdk.Keys | None":
    """nostr-sdk's key pair, None if `secret` is no private key."""
    try:
        return nostr_sdk.Keys.parse(secret)
    except (nostr_sdk.NostrSdkError, UnicodeError):
        return None


def what_is_wrong(secret: str) -> str:
    """A hint that helps the owner without showing anything of the secret."""
    if secret.lower().startswith("npub1"):
        return "it is a public one (npub); the nsec is needed"
    if secret.lower().startswith("ncryptsec1"):
        return "it is encrypted (ncryptsec); decrypt it first"
    if re.fullmatch("[0-9a-fA-F]{64}", secret):
        return "the number is out of range"
    return "64 hex digits or an nsec are expected"
