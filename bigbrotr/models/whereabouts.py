"""Where an event is: the relays that hold it, those that are proven not to, and the rest."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bigbrotr.models.event import WireEvent
from bigbrotr.models.filter import Filter


class Present(NamedTuple):
    """A relay that holds the event."""

    relay: str
    first_seen: int  # Unix seconds
    is_withheld: bool  # it says that it holds it, and has not handed it over


class Absent(NamedTuple):
    """A relay that was proven not to hold the event."""

    relay: str
    as_of: int  # Unix seconds; it may have come since
    how: str  # it was proven
    first_seen: int | None  # it did hold it, from then on ...
    dropped_at: int | None  # ... until it was found to hold it no longer


class Whereabouts(NamedTuple):
    """Each relay that the archive knows stands in one of the three."""

    present: list[Present]
    absent: list[Absent]
    unknown: list[str]


class Proof(Struct):
    """When the second of the event was proven complete, for the events of a filter."""

    filter: str
    how: str
    proven_at: int


def parse_event_id(text: str) -> bytes:
    """The id (32 bytes) in 64 hex digits, a note or an nevent (NIP-19), also after `nostr:`.

    Raises:
        ValueError: it is none of these.
    """
    bare = text.strip().removeprefix("nostr:")
    if re.fullmatch("[0-9a-fA-F]{64}", bare):
        return bytes.fromhex(bare)
    import nostr_sdk  # slow to import

    try:
        if bare.startswith("note1"):
            return bytes.fromhex(nostr_sdk.EventId.parse(bare).to_hex())
        if bare.startswith("nevent1"):
            return bytes.fromhex(nostr_sdk.Nip19Event.from_bech32(bare).event_id().to_hex())
    except nostr_sdk.NostrSdkError:
        pass
    raise ValueError(f"{text[:70]!r} is no event id: 64 hex digits, a note or an nevent")


def locate(event: WireEvent | None, rows: Iterable[Mapping[str, Any]]) -> Whereabouts:
    """Sorts the relays by what is known of each (the rows of `whereabouts` in sql/) and an event;
    None: it is not archived. `tags` are null where the archive does not keep them."""
    found = Whereabouts([], [], [])
    for row in rows:
        seen = [at for at in (row["seen_at"], row["withheld_at"]) if at is not None]
        proof = None
        if event is not None and not seen:
            proofs = msgspec.json.decode(row["proofs"], type=list[Proof])
            proof = newest_about(event, proofs)
        dropped_at = row["dropped_at"]
        if seen:
            first_seen = min([*seen, row["dropped_seen_at"] or seen[0]])
            found.present.append(Present(row["url"], first_seen, row["seen_at"] is None))
        elif proof is not None or dropped_at is not None:
            # Of a second that was proven before it had come nothing can be said: the event's own
            # time is the earliest that the proof can be of.
            times = [] if proof is None or event is None else [proof.proven_at, event.created_at]
            as_of = max([*times, dropped_at or 0])
            how = "reconciliation" if proof is None else proof.how
            found.absent.append(Absent(row["url"], as_of, how, row["dropped_seen_at"], dropped_at))
        else:
            found.unknown.append(row["url"])
    return found


def newest_about(event: WireEvent, proofs: Sequence[Proof]) -> Proof | None:
    """The newest proof that is about events like this one."""
    about = [proof for proof in proofs if is_about(event, proof.filter)]
    return max(about, key=lambda proof: proof.proven_at, default=None)


def is_about(event: WireEvent, key: str) -> bool:
    """Whether the event fulfils the conditions of a filter's key, as far as one can tell."""
    filter_ = Filter.from_key(key)
    if filter_ is None or (filter_.tags and bytes(event.tags) == b"null"):
        return False
    return filter_.matches(event)
