"""The search: one box for keys, ids, addresses and URLs; other words look for relays."""

import re
from typing import Annotated
from urllib.parse import quote, urlencode

from msgspec import Meta

from bigbrotr.models.mentions import decode_bech32, records
from bigbrotr.models.policy import address_of
from bigbrotr.models.query import Query as EventFilter
from bigbrotr.models.relay import Relay
from bigbrotr.models.search import Search
from bigbrotr.models.target import parse_target
from bigbrotr.reads import relay_list
from bigbrotr.reads.measurements import is_relay
from bigbrotr.serve.pages import kinds
from bigbrotr.serve.pages.page import Ask, Page, Redirect
from bigbrotr.serve.readers import events_of, relays_of
from bigbrotr.serve.resource import Query

FOUND = 50  # events
RELAYS = 10
_looks_like_a_host = re.compile(r"[\w.-]+\.[a-z]{2,}(:\d+)?(/\S*)?", re.IGNORECASE)


class SearchQuery(Query, frozen=True, kw_only=True):
    """What to look for."""

    q: Annotated[str, Meta(max_length=5000)] = ""


async def page(ask: Ask) -> Page | Redirect:
    """Leads to the page of what was typed; where nothing is meant that has one, says so."""
    text: str = ask.query.q.strip()
    if not text:
        return Page("search.html", {"q": "", "problem": None})
    bare = text.removeprefix("nostr:").lower()
    if bare.startswith("naddr1"):
        return await _address(ask, bare)
    try:
        target = parse_target(text)
    except ValueError as error:
        problem = str(error)
    else:
        if target.what is not None:
            kind = "events" if target.what == "event" else "authors"
            return Redirect(f"/{kind}/{target.key.hex()}")
        return await _key(ask, target.key)
    if "://" in text or _looks_like_a_host.fullmatch(text):
        try:
            url = Relay(text if "://" in text else f"wss://{text}").url
        except ValueError:
            pass
        else:
            if await is_relay(ask.pool, url) or "://" in text:
                return Redirect(f"/relays/{quote(url.removeprefix('wss://'), safe='/:')}")
    if re.match("(note|nevent|npub|nprofile|nsec|ncryptsec)1", bare):
        return Page("search.html", {"q": text, "problem": problem}, 0)
    return await _words(ask, text)


async def _words(ask: Ask, text: str) -> Page | Redirect:
    """What has these words: events, where there is an index of them, and relays."""
    reads = events_of(ask.pool)
    to_relays = f"/relays?{urlencode({'text': text[:200]})}"
    if await reads.searched_kinds() is None:
        return Redirect(to_relays)
    try:
        wanted = Search.parse(text)
    except ValueError as error:
        return Page("search.html", {"q": text, "problem": str(error)}, 0)
    if wanted is None:  # no word in it
        return Redirect(to_relays)
    found = await reads.page(EventFilter(search=wanted), FOUND, budget_s=1.0)
    relays = await relays_of(ask.pool).page(
        relay_list.RelayFilter(text=text[:200]), "holds", None, RELAYS
    )
    return Page(
        "found.html",
        {
            "q": text,
            "events": [kinds.shown(event) for event in found.events],
            "is_more": found.next is not None,
            "relays": [row for _, row in relays],
            "to_relays": to_relays,
            "api": f"/api/v1/events?{urlencode({'search': text})}",
        },
    )


async def _key(ask: Ask, key: bytes) -> Redirect:
    """Hex digits are an event if there is one, and else an author."""
    found = await ask.pool.fetchval("SELECT * FROM bigbrotr.what_is(p_key => $1)", key)
    return Redirect(f"/{'authors' if found == 'pubkey' else 'events'}/{key.hex()}")


async def _address(ask: Ask, bare: str) -> Page | Redirect:
    """The newest version of what an naddr names."""
    parts = dict(records(decode_bech32(bare)))
    d, author, kind = parts.get(0), parts.get(2), parts.get(3)
    if d is None or author is None or len(author) != 32 or kind is None or len(kind) != 4:
        problem = "this naddr is damaged: a letter is missing, wrong or too many"
        return Page("search.html", {"q": bare, "problem": problem}, 0)
    number, name = int.from_bytes(kind, "big"), d.decode(errors="replace")
    wanted = EventFilter(
        authors=frozenset([author]),
        kinds=frozenset([number]),
        tags={"d": frozenset([name])} if address_of(number, name) and name else {},
    )
    found = await events_of(ask.pool).page(wanted, 1)
    if not found.events:
        problem = "no version of what this naddr names is archived here"
        return Page("search.html", {"q": bare, "problem": problem}, 0)
    return Redirect(f"/events/{found.events[0].id.hex()}")
