"""Lightning invoices and receipts of zaps for tests: whole, and signed by nobody."""

import hashlib
import json
from typing import Any

from bigbrotr.models.event import Event
from tests.kit.events import NOW, make_event, pubkey, verified

LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def _polymod(values: list[int]) -> int:
    """As BIP-173 has it."""
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for number in range(5):
            check ^= GENERATORS[number] if (top >> number) & 1 else 0
    return check


def _fives(data: bytes) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    return [int(bits[place : place + 5], 2) for place in range(0, len(bits), 5)]


def invoice(amount: str, description_hash: bytes | None = None, *, network: str = "bc") -> str:
    """An invoice over an amount as it is written, `20m` say."""
    words = [0] * 7 + [1, 52 // 32, 52 % 32, *_fives(bytes(32))]  # the time, the payment's hash
    if description_hash is not None:
        words += [23, 52 // 32, 52 % 32, *_fives(description_hash)]
    words += [0] * 104
    head = f"ln{network}{amount}"
    spread = [ord(letter) >> 5 for letter in head] + [0] + [ord(letter) & 31 for letter in head]
    check = _polymod([*spread, *words, *[0] * 6]) ^ 1
    words += [check >> 5 * (5 - number) & 31 for number in range(6)]
    return head + "1" + "".join(LETTERS[word] for word in words)


def zap(
    sender: int,
    receiver: int,
    sats: int,
    *tags: list[str],
    created_at: int = NOW,
    said_msat: int | None = None,
    key: int = 99,
    **changed: Any,
) -> Event:
    """The receipt of a zap from one test key to another. `said_msat`: what the request says instead
    of the amount; `changed`: other values of tags of the receipt."""
    said = sats * 1000 if said_msat is None else said_msat
    asked = [["p", pubkey(receiver)], ["amount", str(said)], ["relays", "wss://r"], *tags]
    request = json.dumps(make_event(created_at, 9734, asked, key=sender))
    digest = hashlib.sha256(request.encode()).digest()
    told = {
        "p": pubkey(receiver),
        "bolt11": invoice(f"{sats * 10}n", digest),
        "description": request,
        **changed,
    }
    receipt = [[name, value] for name, value in told.items()]
    return verified("", receipt, kind=9735, created_at=created_at, key=key)
