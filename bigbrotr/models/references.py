"""References: which other events an event refers to, where these are said to be, and by whom."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bigbrotr.models.event import storable
from bigbrotr.models.policy import EPHEMERAL, address_of, is_addressable, is_replaceable
from bigbrotr.models.relay import Relay
from bigbrotr.models.rescue import REPOSTS, embedded_in

MOST = 50  # of one event
MAX_HINT = 300  # characters
MAX_D = 1000
ZAP = 9735
# A request for deletion (5) or to vanish (62), and a gift wrap: nobody is to fetch what they name.
SILENT = frozenset({5, 62, 1059})
KINDS = re.compile("[0-9]{1,5}")
HEX = re.compile("[0-9a-fA-F]{64}")
MONTHS = 12 * 8030 - 1  # December 9999: what is later counts as of then


class Reference(NamedTuple):
    """What an event refers to. Empty texts and keys: nobody says."""

    via: str  # e, q, a, repost, zap
    target: bytes  # an id (32 bytes), or a public key and an address (52)
    hint: str = ""  # URL of a relay that is said to have it
    pubkey: bytes = b""  # its author, as is said
    d: str = ""  # of an address


def references(
    event_id: bytes, kind: int, tags: Sequence[Sequence[str]], content: str | None
) -> list[Reference]:
    """What an event refers to, each once, the first 50. Never raises; what is no reference is left
    out. `content` counts for reposts alone."""
    if kind in SILENT or kind in EPHEMERAL:
        return []
    found: dict[bytes, Reference] = {}
    for each in _in_tags(kind, tags):
        if each.target != event_id and any(each.target):
            found.setdefault(each.target, each)
        if len(found) >= MOST:
            break
    if kind in REPOSTS and content:
        for target in embedded_in(kind, content, 0).ids[:1]:
            found.setdefault(target, Reference("repost", target))
    return list(found.values())[:MOST]


def _in_tags(kind: int, tags: Sequence[Sequence[str]]) -> Iterator[Reference]:
    for name, *values in filter(None, tags):
        if name not in ("e", "q", "a") or not values:
            continue
        hint = _hint(values[1]) if len(values) > 1 else ""
        via = "repost" if kind in REPOSTS else "zap" if kind == ZAP else name
        if name != "a" and HEX.fullmatch(values[0]):
            # NIP-10: an e tag has a marker before the author, a q tag has none.
            said = values[2:] if name == "q" else values[3:]
            pubkey = bytes.fromhex(said[0]) if said and HEX.fullmatch(said[0]) else b""
            yield Reference(via, bytes.fromhex(values[0]), hint, pubkey)
        elif name != "e" and (found := _address(values[0])) is not None:
            pubkey, address, d = found
            yield Reference(via, pubkey + address, hint, pubkey, d)


def _address(text: str) -> tuple[bytes, bytes, str] | None:
    kind_text, author, d = (*text.split(":", 2), "", "")[:3]
    if not (KINDS.fullmatch(kind_text) and HEX.fullmatch(author)) or len(d) > MAX_D:
        return None
    kind = int(kind_text)
    if not (is_addressable(kind) or (is_replaceable(kind) and not d)):
        return None
    if storable(d) != d:  # the archive could not tell it from another
        return None
    return bytes.fromhex(author), address_of(kind, d), d


def _hint(text: str) -> str:
    if not text or len(text) > MAX_HINT:
        return ""
    try:
        return Relay(text).url
    except ValueError:
        return ""


def kind_of_address(target: bytes) -> int:
    """The kind in a public key and an address."""
    return int.from_bytes(target[32:36])


def month_of(created_at: int) -> int:
    """Months since 1970 (of UTC) of a time in Unix seconds; the last one that has a name, for what
    is later."""
    days = created_at // 86_400
    # Civil from days (Howard Hinnant): in whole numbers, for any time that an event may claim.
    days += 719_468
    era, of_era = divmod(days, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = era * 400 + year_of_era + (month <= 2)
    return min((year - 1970) * 12 + month - 1, MONTHS)


def bound_of(share: float) -> bytes:
    """The smallest beginning of an id (4 bytes) that is not in a sample of this share; for all of
    them five bytes, which none reaches."""
    number = round(share * 2**32)
    return b"\xff\xff\xff\xff\xff" if number >= 2**32 else number.to_bytes(4)


def is_sampled(event_id: bytes, bound: bytes) -> bool:
    """Whether an event is in the sample."""
    return event_id[:4] < bound
