"""What a relay answers, as a pure and deliberately stupid function, with the vices one meets."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

Event = Mapping[str, Any]  # id, pubkey, created_at, kind, tags, content, sig: as on the wire
Filter = Mapping[str, Any]

Order = Literal["newest", "oldest", "random"]
Garbage = Literal["not-json", "wrong-shape", "binary", "huge", "endless"]
Reconciling = Literal[
    "unknown",
    "honestly",
    "silent",
    "refused",
    "cut",
    "garbage",
    "always-equal",
    "chatters",
    "floods",
]
Forgery = Literal["id", "content", "signature", "type", "copy"]


@dataclass(frozen=True)
class Vices:
    """How a relay misbehaves; the default is an honest one."""

    # what it shows
    clamp: int | None = None  # hands out at most this many, whatever `limit` says
    pick: Order = "newest"  # which ones, if there are more
    order: Order = "newest"  # in what order it sends them
    until_excluded: bool = False  # as the nostr-relay package does
    ignores: frozenset[str] = frozenset()  # keys of the filter: since, until, limit, kinds, ...
    repeats: int = 0  # sends each event so many times, each in a place of its own
    page_bytes: int | None = None  # ends a page here; an event without content has 250 bytes
    extras: int = 0  # events outside the filter, among the others
    empty_when_broad: bool = False  # a bare EOSE unless kinds, authors or ids are given
    empty_unless: frozenset[str] = frozenset()  # a bare EOSE unless one of these keys is given
    eose_words: str = ""  # ... with these words as its third element
    refuses_unless: frozenset[str] = frozenset()  # CLOSED unless one of these keys is given
    most_limit: int | None = None  # refuses a larger `limit`, by a NOTICE
    most_span_s: int | None = None  # CLOSED for a question about a longer time
    pinned: int = 0  # adds its newest events to each answer
    late: float = 0.0  # this share of each page comes after EOSE, the newest last
    empty_below: int | None = None  # slow and then empty for any `until` below this
    slow_s: float = 0.0  # how slow (really waited for on the wire)
    # how it ends
    no_eose: bool = False
    closed_after: int | None = None  # CLOSED after this many events, if there are more
    closed_text: str = "error: too much"
    drop_after: int | None = None  # the connection is cut after this many events, if more
    hints: bool = False  # NIP-67, truthful
    finishes_always: bool = False  # NIP-67: says so after each page
    refuses: str | None = None  # CLOSED with this text at once

    # on the wire: the scripted relay does these, the model knows nothing of them
    silent: bool = False  # answers no REQ at all
    delay_s: float = 0.0  # before each answer
    drip_s: float = 0.0  # between frames, or between bytes
    drips_bytes: bool = False  # each frame byte by byte
    drop_after_pages: int | None = None  # the connection is cut at the REQ after so many
    rate_limited_after: int | None = None  # CLOSED rate-limited: from then on, per connection
    needs_auth: bool = False  # NIP-42, before any REQ or EVENT
    http_only: bool = False  # never upgrades to a WebSocket
    garbage: frozenset[Garbage] = frozenset()  # before the events of each page
    forged: frozenset[Forgery] = frozenset()  # at the beginning of each page
    huge_bytes: int = 8 << 20  # of the huge frame
    # NIP-77; "unknown": answers with a NOTICE, as to any word that it does not know
    reconciles: Reconciling = "unknown"
    most_items: int | None = None  # "blocked:" above this many events in a reconciliation
    names_most: bool = False  # "blocked:" says so in a number
    hides: frozenset[str] = frozenset()  # ids that a reconciliation does not name
    refuses_ids: bool = False  # CLOSED for filters with ids
    max_message_bytes: int | None = None  # the connection is closed with 1009 after a longer frame
    greets: str = ""  # a NOTICE at the beginning
    takes: int | None = None  # so many EVENTs a connection; the others are rate-limited
    forgets: bool = False  # says OK to an EVENT, and does not keep it
    says_no: str = ""  # to each EVENT, with these words
    withholds: frozenset[str] = frozenset()  # ids that it names, and never hands out


@dataclass(frozen=True)
class Reply:
    """What a relay sends for one filter, and how it ends."""

    events: list[Event]
    end: Literal["eose", "closed", "silence", "drop"] = "eose"
    reason: str = ""
    hints: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0


def matches(event: Event, wanted: Filter) -> bool:
    """Whether an event matches one filter, as NIP-01 has it."""
    for key, value in wanted.items():
        if key == "ids" and event["id"] not in value:
            return False
        if key == "authors" and event["pubkey"] not in value:
            return False
        if key == "kinds" and event["kind"] not in value:
            return False
        if key == "since" and event["created_at"] < value:
            return False
        if key == "until" and event["created_at"] > value:
            return False
        if key.startswith("#"):
            values = {tag[1] for tag in event["tags"] if len(tag) > 1 and tag[0] == key[1:]}
            if values.isdisjoint(value):
                return False
    return True


def respond(events: Iterable[Event], wanted: Filter, vices: Vices) -> Reply:
    """What a relay that holds `events` and has these vices answers to one filter."""
    if vices.refuses is not None:
        return Reply([], "closed", vices.refuses)
    everything = sorted(events, key=lambda event: (-event["created_at"], event["id"]))
    until = wanted.get("until")
    if vices.empty_below is not None and until is not None and until < vices.empty_below:
        return Reply([], elapsed_s=vices.slow_s)
    if vices.empty_when_broad and wanted.keys().isdisjoint({"kinds", "authors", "ids"}):
        return Reply([])
    if vices.empty_unless and wanted.keys().isdisjoint(vices.empty_unless):
        return Reply([])
    if vices.refuses_unless and wanted.keys().isdisjoint(vices.refuses_unless):
        return Reply([], "closed", "blocked: can't handle empty filters")
    if vices.most_span_s is not None and "ids" not in wanted:
        newest = everything[0]["created_at"] if everything else 0
        if wanted.get("until", newest) - wanted.get("since", 0) > vices.most_span_s:
            return Reply([], "closed", "error: time range too large")
    asked = {key: value for key, value in wanted.items() if key not in vices.ignores}
    if vices.until_excluded and "until" in asked:
        asked["until"] -= 1
    matching = [event for event in everything if matches(event, asked)]
    if vices.repeats > 1:
        matching = [event for event in matching for _ in range(vices.repeats)]
    page = select(matching, asked.get("limit"), vices, seed=json.dumps(wanted, sort_keys=True))
    if vices.page_bytes is not None:
        room = vices.page_bytes
        page = [event for event in page if (room := room - size_of(event)) >= 0]
    is_whole = len(page) == len(matching)
    page[:0] = [event for event in everything[: vices.pinned] if event not in page]
    if vices.extras:
        others = [event for event in everything if not matches(event, wanted)][: vices.extras]
        for place, other in enumerate(others):
            page.insert(2 * place, other)
    for limit, end in ((vices.drop_after, "drop"), (vices.closed_after, "closed")):
        if limit is not None and len(page) > limit:
            reason = vices.closed_text if end == "closed" else ""
            return Reply(page[:limit], end, reason)  # type: ignore[arg-type]
    hints = [] if not vices.hints else ["finish"] if is_whole else ["more"]
    if vices.finishes_always:
        hints = ["finish"]
    return Reply(page, "silence" if vices.no_eose else "eose", hints=hints)


def select(matching: Sequence[Event], limit: int | None, vices: Vices, seed: str) -> list[Event]:
    """The events that are handed out, in the order in which they are sent."""
    chance = random.Random(seed)  # the same question gets the same answer
    most = min(n for n in (limit, vices.clamp, len(matching)) if n is not None)
    if vices.pick == "newest":
        page = list(matching[:most])
    elif vices.pick == "oldest":
        page = list(matching[len(matching) - most :])
    else:
        places = sorted(chance.sample(range(len(matching)), most))
        page = [matching[place] for place in places]
    if vices.order == "oldest":
        page.reverse()
    elif vices.order == "random":
        chance.shuffle(page)
        page = next(filter(is_disordered, [page, *shifted(page)]), page)
    return page


def size_of(event: Event) -> int:
    """About what an event takes on the wire."""
    return 250 + len(event.get("content", ""))


def is_disordered(page: Sequence[Event]) -> bool:
    """Whether it shows that a page is in no order: one that looks sorted by chance does not."""
    times = [event["created_at"] for event in page]
    return times not in (sorted(times), sorted(times, reverse=True))


def shifted(page: Sequence[Event]) -> Iterator[list[Event]]:
    """The page with one event moved elsewhere."""
    for origin, target in product(range(len(page)), repeat=2):
        moved = list(page)
        moved.insert(target, moved.pop(origin))
        yield moved
