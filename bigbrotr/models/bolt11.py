"""Reads what a Lightning invoice (BOLT 11) says of its amount; its signature is not looked at."""

import re
from typing import NamedTuple

MOST_LETTERS = 8000  # of an invoice
MOST_MSAT = 21_000_000 * 10**11  # all the bitcoins there can be

_LETTERS = {letter: value for value, letter in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_HEAD = re.compile("ln(bcrt|bc|tbs|tb|sb)(?:([0-9]{1,20})([munp]?))?")
_TENTHS = {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}  # of a millisatoshi
_TIMESTAMP, _SIGNATURE = 7, 104  # their letters
_DESCRIPTION_HASH, _HASH_LETTERS = 23, 52


class Invoice(NamedTuple):
    """What an invoice asks for."""

    network: str  # bc: bitcoin
    msat: int | None  # millisatoshi; None: the payer chooses
    description_hash: bytes | None  # 32 bytes; None: it has a description, or nothing


def read_invoice(text: str) -> Invoice:
    """Reads an invoice.

    Raises:
        ValueError: it is none; with a short reason.
    """
    if len(text) > MOST_LETTERS or not text.isascii():
        raise ValueError("not an invoice")
    if text.lower() != text and text.upper() != text:
        raise ValueError("capitals and small letters")
    head, one, data = text.lower().rpartition("1")
    found = _HEAD.fullmatch(head)
    if not one or found is None:
        raise ValueError("not an invoice")
    try:
        words = [_LETTERS[letter] for letter in data]
    except KeyError:
        raise ValueError("not an invoice") from None
    if len(words) < _TIMESTAMP + _SIGNATURE + 6 or _checksum(head, words) != 1:
        raise ValueError("a letter is missing or wrong")
    network, digits, unit = found.groups()
    msat = None
    if digits is not None:
        msat, rest = divmod(int(digits) * _TENTHS[unit], 10)
        if rest or msat > MOST_MSAT:
            raise ValueError("not an amount")
    fields = words[_TIMESTAMP : -_SIGNATURE - 6]
    return Invoice(network, msat, _description_hash(fields))


def _checksum(head: str, words: list[int]) -> int:
    """What is left of the code of bech32: 1, if no letter is wrong."""
    codes = [ord(letter) for letter in head]
    rest = 1
    for value in (*(code >> 5 for code in codes), 0, *(code & 31 for code in codes), *words):
        top = rest >> 25
        rest = (rest & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                rest ^= generator
    return rest


def _description_hash(fields: list[int]) -> bytes | None:
    place = 0
    while place + 3 <= len(fields):
        kind, length = fields[place], fields[place + 1] * 32 + fields[place + 2]
        value = fields[place + 3 : place + 3 + length]
        if len(value) < length:
            raise ValueError("a field is cut off")
        if kind == _DESCRIPTION_HASH and length == _HASH_LETTERS:
            number = 0
            for word in value:
                number = number << 5 | word
            return (number >> 4).to_bytes(32, "big")  # 260 bits, the last four of them zero
        place += 3 + length
    return None
