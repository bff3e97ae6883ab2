"""The page of a person: profile, relays, activity, and how safely their events live."""

from contextlib import suppress
from typing import Annotated, Any

from msgspec import Meta

from bigbrotr.models.filter import public_key
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query as EventFilter
from bigbrotr.reads import author_history, authors, ranks
from bigbrotr.reads.events import NotKeptError
from bigbrotr.serve.api import RESOURCES, EventsQuery
from bigbrotr.serve.pages import kinds, pictures, words
from bigbrotr.serve.pages.page import POLICY, WITH_PICTURES, Ask, Page, Redirect
from bigbrotr.serve.pages.pictures import Pictures
from bigbrotr.serve.parameters import PARSE
from bigbrotr.serve.readers import events_of
from bigbrotr.serve.resource import LINES, Form, ListQuery, Many, Query

NEWEST = 20
LISTS = 20  # versions of lists of relays
HOLDERS = 15
MOVES = 30


class PersonQuery(Query, frozen=True, kw_only=True):
    """Whose page."""

    author: Annotated[str, Meta(min_length=1, max_length=200, extra={PARSE: public_key})]
    pictures: Pictures = None


async def page(ask: Ask) -> Page | Redirect:
    """The page."""
    pubkey: str = ask.query.author
    key = frozenset([bytes.fromhex(pubkey)])
    reads = events_of(ask.pool)
    summary = await authors.author_summary(ask.pool, bytes.fromhex(pubkey))
    newest = await reads.page(EventFilter(authors=key), NEWEST, budget_s=0.5)
    profile = None
    about = await reads.page(EventFilter(authors=key, kinds=frozenset([0])), 1)
    if about.events and about.events[0].content is not None:
        event = about.events[0]
        profile = authors.profile_in(pubkey, event.id.hex(), event.created_at, event.content or "")
    lists: list[dict[str, Any]] = []
    history = await events_of(ask.pool, View.ARCHIVE).page(
        EventFilter(authors=key, kinds=frozenset([authors.RELAY_LISTS, authors.INBOXES])),
        LISTS,
        budget_s=0.5,
    )
    for event in history.events:
        relays, invalid = authors.relays_in(event.kind, kinds.tags_of(event))
        lists.append(
            {
                "kind": event.kind,
                "id": event.id.hex(),
                "created_at": event.created_at,
                "relays": relays,
                "invalid": invalid,
            }
        )
    then = moves = None
    with suppress(NotKeptError):
        reads = events_of(ask.pool, View.ARCHIVE)
        then = await author_history.author_then(reads, ask.pool, bytes.fromhex(pubkey))
        moves = await author_history.author_history(
            reads, ask.pool, bytes.fromhex(pubkey), most=LISTS, budget_s=0.5
        )
    holders = sorted(summary.holders.relays, key=lambda each: -each.held)
    return Page(
        "person.html",
        {
            "pubkey": pubkey,
            "npub": words.npub(pubkey),
            "profile": profile,
            "rank": await ranks.author_rank(ask.pool, bytes.fromhex(pubkey), summary.holders),
            "pictures": []
            if profile is None
            else pictures.distinct([profile.picture, profile.banner]),
            "with_pictures": ask.query.pictures is not None,
            "summary": summary,
            "kinds": [
                (kinds.name(each.kind), each)
                for each in sorted(summary.kinds, key=lambda each: -each.events)[:12]
            ],
            "holders": holders[:HOLDERS],
            "more_holders": max(0, len(holders) - HOLDERS),
            "lists": lists,
            "then": then,
            "moves": [] if moves is None else moves.moves[:MOVES],
            "contacts": [] if moves is None else moves.contacts,
            "events": [kinds.shown(each) for each in newest.events],
        },
        policy=POLICY if ask.query.pictures is None else WITH_PICTURES,
    )


def download(pubkey: str) -> tuple[Many, ListQuery, None, Form]:
    """All events of a person, as JSON lines."""
    (resource,) = (each for each in RESOURCES if each.name == "events")
    assert isinstance(resource, Many)
    query = EventsQuery(author=(pubkey,))
    return resource, query, None, LINES._replace(name=f"{pubkey}.jsonl")
