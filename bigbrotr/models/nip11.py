"""NIP-11: what a relay says of itself, read tolerantly: a wrong field costs that field alone."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bigbrotr.models.metadata import Metadata

MAX_NIP = 9999  # as far as numbers are believed
MAX_NIPS = 500  # of one document
MAX_WORDS = 100  # of a list of short texts
MAX_WORD = 100  # characters of one
MAX_NUMBER = 2**53  # what JavaScript can count to

TEXTS = (
    "name",
    "description",
    "banner",
    "icon",
    "pubkey",
    "self",
    "contact",
    "software",
    "version",
    "terms_of_service",
    "payments_url",
    "posting_policy",
    "privacy_policy",
)
WORD_LISTS = ("relay_countries", "language_tags", "tags", "attributes")
NUMBERS = (
    "max_message_length",
    "max_subscriptions",
    "max_filters",
    "max_limit",
    "max_subid_length",
    "max_event_tags",
    "max_content_length",
    "min_pow_difficulty",
    "created_at_lower_limit",
    "created_at_upper_limit",
    "default_limit",
)
SWITCHES = ("auth_required", "payment_required", "restricted_writes")
TRUE, FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Nip11:
    """A relay's information document.

    `raw` is what came, byte for byte, and `charset` how it was read: "utf-8", or something else
    that a document must not be; `metadata` the whole of it as jsonb can hold it, unknown fields
    included; `texts`, `words`, `nips` and `limits` are the known fields that could be understood;
    `dropped` names the known ones that could not. `names_more` says that `nips` is not all: there
    were words in it that nobody understands.
    """

    raw: bytes
    metadata: Metadata
    texts: Mapping[str, str]
    words: Mapping[str, tuple[str, ...]]
    nips: tuple[int, ...] | None  # in ascending order; None: nothing is said
    limits: Mapping[str, int | bool]
    dropped: tuple[str, ...]
    names_more: bool = False
    charset: str = "utf-8"

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The document in the bytes of an answer.

        ValueError if they are no JSON object, or one that is nested without measure.
        """
        text, charset = _decode(raw)
        metadata = Metadata.from_json(text)
        data = metadata.data
        texts: dict[str, str] = {}
        words: dict[str, tuple[str, ...]] = {}
        limits: dict[str, int | bool] = {}
        dropped: list[str] = []
        for name in TEXTS:
            if (words_of := _text(data.get(name))) is not None:
                texts[name] = words_of
            elif data.get(name) is not None:
                dropped.append(name)
        for name in WORD_LISTS:
            if (found := _words(data.get(name))) is not None:
                words[name] = found
            elif data.get(name) is not None:
                dropped.append(name)
        nips, names_more = _nips(data.get("supported_nips"))
        if nips is None and data.get("supported_nips") is not None:
            dropped.append("supported_nips")
        limitation = data.get("limitation")
        if isinstance(limitation, dict):
            for name in (*NUMBERS, *SWITCHES):
                value = limitation.get(name)
                limit = _switch(value) if name in SWITCHES else _number(value)
                if limit is not None:
                    limits[name] = limit
                elif value is not None:
                    dropped.append(f"limitation.{name}")
        elif limitation is not None:
            dropped.append("limitation")
        return cls(raw, metadata, texts, words, nips, limits, tuple(dropped), names_more, charset)

    def claims(self, nip: int) -> bool | None:
        """Whether the relay says that it speaks a NIP; None when that cannot be told, since it says
        nothing, or something that nobody understands."""
        if self.nips is None:
            return None
        return True if nip in self.nips else None if self.names_more else False

    def requires(self, switch: str) -> bool | None:
        """One of `SWITCHES`; None when nothing is said."""
        value = self.limits.get(switch)
        return value if isinstance(value, bool) else None

    def limit(self, name: str) -> int | None:
        """One of `NUMBERS`; None when nothing is said."""
        value = self.limits.get(name)
        return None if isinstance(value, bool) else value


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # "version": 1.2
    return None


def _number(value: Any) -> int | None:
    """A whole number that is not negative, however it is written."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,16}(\.0+)?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= MAX_NUMBER or not math.isfinite(value) or value != int(value):
        return None
    return int(value)


def _switch(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in TRUE else False if word in FALSE else None
    return None


def _words(value: Any) -> tuple[str, ...] | None:
    """A list of short texts: anything else in it is left out, and a single text is a list."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return None
    found = (each.strip() for each in value if isinstance(each, str))
    return tuple(dict.fromkeys(each for each in found if 0 < len(each) <= MAX_WORD))[:MAX_WORDS]


# As people write them: "11", "NIP-42", "nip 09: deletion", 1.0.
NIP = re.compile(r"\s*(?:nip)?[-_#\s]*0*([0-9]{1,4})(?:\.0+)?(?![\w.])", re.IGNORECASE)
OTHER_NIP = re.compile(r"\s*(?:nip)?[-_#\s]*[0-9a-f]{2}\s*", re.IGNORECASE)  # such as B7, no number


def _nips(value: Any) -> tuple[tuple[int, ...] | None, bool]:
    """The numbers in a list of NIPs, or in a text with commas, None if there is nothing that can be
    read; and whether there is something else that cannot."""
    if isinstance(value, str):
        value = value.split(",")
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list):
        return None, False
    known: set[int] = set()
    is_read, names_more = not value, False
    for each in value:
        number = _nip(each)
        if number is not None:
            known.add(number)
        is_other = isinstance(each, str) and OTHER_NIP.fullmatch(each) is not None
        is_read = is_read or number is not None or is_other
        names_more = names_more or (number is None and not is_other)
    if not is_read:
        return None, False
    return tuple(sorted(known)[:MAX_NIPS]), names_more or len(known) > MAX_NIPS


def _nip(value: Any) -> int | None:
    if isinstance(value, str):
        found = NIP.match(value)
        value = int(found[1]) if found else None
    number = _number(value)
    return number if number is not None and 0 < number <= MAX_NIP else None


def _decode(raw: bytes) -> tuple[str, str]:
    """A document's text, and in what character set it came. JSON is UTF-8; what is something else
    by mistake is read as what it most likely is."""
    try:
        return raw.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    wide = json.detect_encoding(raw)  # by the zeros in it
    for charset in (*([wide] if wide.startswith(("utf-16", "utf-32")) else []), "cp1252"):
        try:
            return raw.decode(charset), charset
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"
