"""What was measured about relays: JSON documents addressed by their content."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self

from bigbrotr.models.relay import Relay, check_seconds

MAX_DEPTH = 64  # levels of nesting; also ends data that contains itself
MAX_BITS = 1024  # of an integer: the range of a double, and 309 digits are enough for anybody
MAX_DIGITS = 4000  # Python refuses to convert more than 4,300
MAX_DECIMAL = 10**MAX_DIGITS


class MetadataType(StrEnum):
    """What a document says about a relay; the values are stored."""

    NIP11 = "nip11"
    NIP66_RTT = "nip66_rtt"
    NIP66_SSL = "nip66_ssl"
    NIP66_GEO = "nip66_geo"
    NIP66_DNS = "nip66_dns"
    NIP66_NET = "nip66_net"
    NIP66_HTTP = "nip66_http"
    CLAIMS = "claims"  # what the relay says of itself beside what was seen


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Metadata:
    """A JSON object that PostgreSQL's jsonb can hold, and the SHA-256 of its canonical form.

    `canonical` is UTF-8 with sorted keys, without blanks, with no escapes but those that JSON
    demands; `id` its SHA-256 (32 bytes). Equal documents have equal ids, whatever the order of
    their keys and after a journey through jsonb. For that, and because relays send anything:

    - U+0000 becomes U+2400 (its picture), a lone surrogate U+FFFD, in strings and keys. Of keys
      that become equal the unchanged one is kept, else the lowest.
    - A whole number is written as an integer (1.0 and 1 are one number in JSON; -0.0 is 0); one
      of more than 1,024 bits becomes the string of its digits (hexadecimal beyond 4,000 digits).

    ValueError for NaN and Infinity, for nesting deeper than 64 levels, and if the whole is not
    an object; TypeError for what JSON has no word for.
    """

    id: bytes
    canonical: bytes

    def __init__(self, data: Mapping[str, Any]) -> None:
        if not isinstance(data, Mapping):
            raise ValueError(f"metadata is a JSON object, not {type(data).__name__}")
        plain = clean(data, 0)
        text = json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        canonical = text.encode()
        object.__setattr__(self, "canonical", canonical)
        object.__setattr__(self, "id", hashlib.sha256(canonical).digest())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The document in a JSON text from anywhere (UTF-8); ValueError if it is something else.

        Numbers that Python cannot hold (1e400) are kept as strings, as they were written.
        """
        try:
            data = json.loads(
                text.decode("utf-8-sig") if isinstance(text, bytes) else text,
                parse_int=parse_integer,
                parse_float=parse_fraction,
                parse_constant=refuse_constant,
            )
        except RecursionError:
            raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels") from None
        return cls(data)

    @property
    def data(self) -> dict[str, Any]:
        """The document, decoded anew each time: changing it changes nothing here."""
        data: dict[str, Any] = json.loads(self.canonical)
        return data

    def __repr__(self) -> str:
        return f"Metadata({self.id.hex()}, {len(self.canonical)} bytes)"


@dataclass(frozen=True, slots=True)
class RelayMetadata:
    """One measurement of one relay; `snapshot_at` in Unix seconds."""

    relay: Relay
    metadata: Metadata
    type: MetadataType
    snapshot_at: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", MetadataType(self.type))
        check_seconds("snapshot_at", self.snapshot_at)


UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # in PostgreSQL's text and jsonb


def clean(value: Any, depth: int) -> Any:
    """A copy of `value` made of plain JSON types that jsonb holds and gives back unchanged."""
    if depth > MAX_DEPTH:
        raise ValueError(f"metadata nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return clean_integer(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        # By its shortest decimal form, since that is what jsonb would keep and print in full.
        return int(Decimal(repr(float(value)))) if value.is_integer() else float(value)
    if isinstance(value, Mapping):
        return clean_object(value, depth)
    if isinstance(value, (list, tuple)):
        return [clean(each, depth + 1) for each in value]
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def clean_object(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    """An object with storable keys; see `Metadata` for keys that become equal."""
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"a key of a JSON object is a string, not {type(key).__name__}")
    pairs = sorted((clean_text(key) != key, key) for key in value)
    cleaned: dict[str, Any] = {}
    for _, key in pairs:
        cleaned.setdefault(clean_text(key), clean(value[key], depth + 1))
    return cleaned


def clean_text(text: str) -> str:
    """The text without U+0000 and lone surrogates, as a plain `str`."""
    return UNSTORABLE.sub(lambda found: "\u2400" if found[0] == "\x00" else "\ufffd", str(text))


def clean_integer(number: int) -> int | str:
    """The number, or its digits in a string if no double could come near it."""
    if number.bit_length() <= MAX_BITS:
        return number
    return str(number) if abs(number) < MAX_DECIMAL else hex(number)


def parse_integer(digits: str) -> int | str:
    """The integer of a JSON text, or the text where Python would refuse."""
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def parse_fraction(digits: str) -> float | str:
    """The float of a JSON text, or the text where it would be infinite."""
    number = float(digits)
    return number if math.isfinite(number) else digits


def refuse_constant(name: str) -> float:
    """What Python's parser would take for a number, and JSON does not."""
    raise ValueError(f"{name} is not a JSON number")
