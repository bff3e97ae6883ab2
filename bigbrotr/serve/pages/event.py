"""The page of an event: what it says, where it is, and what became of it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bigbrotr.models.query import Query as EventFilter
from bigbrotr.models.where import parse_event_id
from bigbrotr.reads import ranks
from bigbrotr.reads.where import where
from bigbrotr.serve.api import HALF
from bigbrotr.serve.pages import kinds, pictures, words
from bigbrotr.serve.pages.page import POLICY, WITH_PICTURES, Ask, Page
from bigbrotr.serve.pages.pictures import Pictures
from bigbrotr.serve.parameters import PARSE
from bigbrotr.serve.readers import events_of
from bigbrotr.serve.resource import Query

ANSWERS = 20  # events that are shown below


def _id(text: str) -> str:
    return parse_event_id(text).hex()


class EventQuery(Query, frozen=True, kw_only=True):
    """Which event."""

    event: Annotated[str, Meta(min_length=1, max_length=2000, extra={PARSE: _id})]
    pictures: Pictures = None


async def page(ask: Ask) -> Page | None:
    """The page. What may not be shown is not; that it is known, and where it is, can be."""
    event_id: str = ask.query.event
    reads = events_of(ask.pool)
    found = await reads.page(EventFilter(ids=frozenset([bytes.fromhex(event_id)])), 1)
    places = await where(ask.pool, bytes.fromhex(event_id))
    event = found.events[0] if found.events else None
    if event is None and not places.is_archived and not places.present:
        return Page("event_unknown.html", {"id": event_id}, status=404)
    answers: list[kinds.Shown] = []
    if event is not None and event.tags is not None:
        named = await reads.page(
            EventFilter(tags={"e": frozenset([event_id])}), ANSWERS, budget_s=0.3
        )
        answers = [kinds.shown(each) for each in named.events]
    return Page(
        "event.html",
        {
            "id": event_id,
            "event": None if event is None else kinds.shown(event),
            "content": None if event is None else event.content,
            "fields": kinds.fields_in(event.content or "")
            if event is not None and event.kind == 0
            else {},
            "tags": [] if event is None else _tags(kinds.tags_of(event)),
            "sig": None if event is None or event.sig is None else event.sig.hex(),
            "json": None if event is None else _pretty(event.to_json()),
            "is_whole": event is not None and event.sig is not None,
            "places": places,
            "answers": answers,
            "rank": await ranks.subject_rank(ask.pool, bytes.fromhex(event_id)),
            "most": words.MOST_SHOWN,
            "pictures": [] if event is None else pictures.named_in(event),
            "with_pictures": ask.query.pictures is not None,
        },
        policy=POLICY if ask.query.pictures is None else WITH_PICTURES,
        max_age_s=10,
        status=200 if event is not None else 404,
    )


def _pretty(text: bytes) -> str:
    try:
        return msgspec.json.format(text).decode("utf-8", "replace")
    except msgspec.DecodeError:  # half of a pair
        return msgspec.json.format(HALF.sub(rb"\\ufffd", text)).decode("utf-8", "replace")


def _tags(tags: list[list[str]]) -> list[dict[str, Any]]:
    """Tags with where they lead."""
    found = []
    for tag in tags[:200]:
        name, value = tag[0] if tag else "", tag[1] if len(tag) > 1 else ""
        link = None
        is_key = len(value) == 64 and all(each in "0123456789abcdef" for each in value)
        if is_key and name in ("e", "q", "E"):
            link = f"/events/{value}"
        elif is_key and name in ("p", "P"):
            link = f"/authors/{words.npub(value)}"
        elif name in ("r", "relay") and value.startswith(("wss://", "ws://")):
            link = f"/search?q={msgspec.json.encode(value).decode()[1:-1]}"
        found.append({"name": name, "value": value, "rest": tag[2:], "link": link})
    return found
