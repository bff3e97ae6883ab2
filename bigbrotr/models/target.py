"""What is to be taken down: an event or a public key, as people write them."""

import re
from typing import Literal, NamedTuple, TypeAlias

from bigbrotr.models.mentions import decode_bech32, records
from bigbrotr.models.where import AROUND, BECH32, parse_event_id

What: TypeAlias = Literal["event", "pubkey"]


class Target(NamedTuple):
    """An event or a public key; of bare hex digits alone nobody can tell which (None)."""

    what: What | None
    key: bytes  # 32 bytes


def parse_target(text: str) -> Target:
    """The target in 64 hex digits, a note, nevent, npub or nprofile (NIP-19), also after `nostr:`
    or the address of a web page.

    Raises:
        ValueError: it is none of these; the reason, which repeats no private key.
    """
    bare = re.split(r"[:/@]", re.split("[?#]", text.strip(AROUND).lower())[0])[-1]
    kind = bare.partition("1")[0]
    if kind in ("npub", "nprofile"):
        data = decode_bech32(bare) if BECH32.fullmatch(bare) else b""
        keys = [data] if kind == "npub" else [value for type_, value in records(data) if type_ == 0]
        if not keys or len(keys[0]) != 32:
            raise ValueError(
                f"this {kind} is not a public key: a letter is missing, wrong or too many"
            )
        return Target("pubkey", keys[0])
    try:
        key = parse_event_id(text)
    except ValueError as error:
        words = str(error).replace("an event id: give", "an event id or a public key: give")
        raise ValueError(f"{words}, or an npub or nprofile") from None
    return Target(None if re.fullmatch("[0-9a-f]{64}", bare) else "event", key)
