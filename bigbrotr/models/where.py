"""Where an event is: the relays that hold it, those that are proven not to, and the rest."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bigbrotr.models.event import WireEvent
from bigbrotr.models.filter import Filter
from bigbrotr.models.mentions import decode_bech32, records
from bigbrotr.secret import without_secrets

ID_BYTES = 32
WANTED = "64 hex digits, a note or an nevent"
BECH32 = re.compile("[a-z]+1[qpzry9x8gf2tvdw0s3jn54khce6mua7l]+")
MAX_SHOWN = 30  # characters
AROUND = " \t\r\n\"'`<>()[]{}.,;!?\u200b\u200e\u200f\u2060\ufeff\xa0"  # what comes along
OTHERS = {  # of NIP-19 (and NIP-49)
    "npub": "an npub names an author",
    "nprofile": "an nprofile names an author",
    "naddr": "an naddr names what an author replaces from time to time, event by event",
    "nrelay": "an nrelay names a relay",
    "nsec": "an nsec is a private key, not to be shown to anybody",
    "ncryptsec": "an ncryptsec is a private key, not to be shown to anybody",
}


class Known(Struct, frozen=True):
    """What is known of a relay and an event. Times are Unix seconds; None: it never was."""

    url: str
    seen_at: int | None  # the relay showed it
    dropped_seen_at: int | None  # it had shown it, ...
    dropped_at: int | None  # ... and was found to hold it no longer
    withheld_at: int | None  # it named it, and did not hand it over
    proofs: str  # of the event's second, as JSON: see `ProvenSecond`


class Present(Struct, frozen=True):
    """A relay that holds the event."""

    relay: str
    first_seen: int  # Unix seconds
    is_withheld: bool  # it says that it holds it, and has not handed it over


class Absent(Struct, frozen=True):
    """A relay that was proven not to hold the event."""

    relay: str
    as_of: int  # Unix seconds; it may have come since
    how: str  # it was proven
    first_seen: int | None  # it did hold it, from then on ...
    dropped_at: int | None  # ... until it was found to hold it no longer


class Located(NamedTuple):
    """Each relay that the archive knows stands in one of the three."""

    present: list[Present]
    absent: list[Absent]
    unknown: list[str]


class ProvenSecond(Struct):
    """When, and how, the second of the event was proven complete, for the events of a filter."""

    filter: str
    how: str
    proven_at: int


def parse_event_id(text: str) -> bytes:
    """The id (32 bytes) in 64 hex digits, a note or an nevent (NIP-19), also after `nostr:` or the
    address of a web page, and in capitals.

    Raises:
        ValueError: it is none of these; the reason, which repeats no private key.
    """
    # Behind whatever it was a link of; bech32 is the same in capitals, and hex as well.
    bare = re.split(r"[:/@]", re.split("[?#]", text.strip(AROUND).lower())[0])[-1]
    if re.fullmatch("[0-9a-f]{64}", bare):
        return bytes.fromhex(bare)
    kind = bare.partition("1")[0]
    if kind in OTHERS:
        raise ValueError(f"{OTHERS[kind]}, and is not an event id: give {WANTED}")
    if kind not in ("note", "nevent"):
        shown = without_secrets(repr(text))
        if len(text) > MAX_SHOWN:  # perhaps a key, with one letter too many
            what = "hex digits" if re.fullmatch("[0-9a-f]+", bare) else "characters"
            shown = f"a text of {len(bare)} {what}"
        raise ValueError(f"{shown} is not an event id: give {WANTED}")
    data = decode_bech32(bare) if BECH32.fullmatch(bare) else b""
    if not data:
        raise ValueError(
            f"this {kind} is not an event id: a letter is missing, wrong or too many (its checksum "
            "says so)"
        )
    # Of an nevent the id alone counts, whatever else it says of relays, author and kind.
    ids = [data] if kind == "note" else [value for type_, value in records(data) if type_ == 0]
    if not ids:
        raise ValueError("this nevent is not an event id: there is none in it")
    if len(ids[0]) != ID_BYTES:
        raise ValueError(
            f"this {kind} is not an event id: it holds {len(ids[0])} bytes instead of 32"
        )
    return ids[0]


def locate(event: WireEvent | None, relays: Iterable[Known]) -> Located:
    """Sorts the relays by what is known of each and an event; None: it is not archived. `tags` are
    null where the archive does not keep them."""
    found = Located([], [], [])
    for known in relays:
        seen = [at for at in (known.seen_at, known.withheld_at) if at is not None]
        proof = None
        if event is not None and not seen:
            proofs = msgspec.json.decode(known.proofs, type=list[ProvenSecond])
            proof = newest_about(event, proofs)
        dropped_at = known.dropped_at
        if seen:
            first_seen = min([*seen, known.dropped_seen_at or seen[0]])
            found.present.append(Present(known.url, first_seen, known.seen_at is None))
        elif proof is not None or dropped_at is not None:
            # Of a second that was proven before it had come nothing can be said: the event's own
            # time is the earliest that the proof can be of.
            times = [] if proof is None or event is None else [proof.proven_at, event.created_at]
            as_of = max([*times, dropped_at or 0])
            how = "reconciliation" if proof is None else proof.how
            found.absent.append(Absent(known.url, as_of, how, known.dropped_seen_at, dropped_at))
        else:
            found.unknown.append(known.url)
    return found


def newest_about(event: WireEvent, proofs: Sequence[ProvenSecond]) -> ProvenSecond | None:
    """The newest proof that is about events like this one."""
    about = [proof for proof in proofs if is_about(event, proof.filter)]
    return max(about, key=lambda proof: proof.proven_at, default=None)


def is_about(event: WireEvent, key: str) -> bool:
    """Whether the event fulfils the conditions of a filter's key, as far as one can tell."""
    filter_ = Filter.from_key(key)
    if filter_ is None or (filter_.tags and bytes(event.tags) == b"null"):
        return False
    return filter_.matches(event)
