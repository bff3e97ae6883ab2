"""Feeds (Atom, RFC 4287): incidents of a relay, and relays that are new."""

import uuid
from typing import NamedTuple

from bigbrotr.reads import relays
from bigbrotr.reads.relays import Incident, LatestCheck
from bigbrotr.serve.pages import words
from bigbrotr.serve.pages.page import ATOM, Ask, Page
from bigbrotr.serve.readers import relays_of
from bigbrotr.view.words import moment

DAYS = 60  # of which incidents are told; the series reaches further back
MOST = 100  # entries of a feed, the newest
FRESH_S = 60


class Entry(NamedTuple):
    """Something that has happened."""

    id: str
    title: str
    href: str
    published_at: int  # Unix seconds
    updated_at: int
    text: str


async def incidents(ask: Ask) -> Page | None:
    """The incidents of a relay; one that ends is the same entry, changed."""
    url: str = ask.query.relay
    found = await relays.incidents(ask.pool, url, DAYS)
    if found is None:
        return None
    discovered_at, check, known = found
    href = f"{ask.site}{words.path_of(url, 'relay')}"
    entries = []
    for each in sorted(known, key=lambda each: each.since, reverse=True)[:MOST]:
        since = _since(each, check)
        reason = words.clean(each.reason or "no answer")
        if each.until is None:
            title, text = "Down", f"Down since {moment(since)}: {reason}."
        else:
            length = words.duration(each.until - since)
            title = f"Was down for {length}"
            text = f"Down from {moment(since)} to {moment(each.until)}: {reason}."
        entries.append(
            Entry(
                _id(ask, url, "incident", str(since)),
                f"{words.host(url)}: {title.lower()}",
                href,
                since,
                each.until or since,
                text,
            )
        )
    title = f"Incidents of {words.host(url)}"
    return _feed(ask, title, (f"{href}/incidents.atom", href), entries, discovered_at)


async def new_relays(ask: Ask) -> Page:
    """The relays that were added last."""
    entries = []
    for row in await relays_of(ask.pool).newest(MOST):
        name = words.clean(row.name, 200) if row.name else ""
        software = f" It runs {words.clean(row.software, 100)}." if row.software else ""
        said = f'It calls itself "{name}".' if name else "It does not say its name."
        entries.append(
            Entry(
                _id(ask, row.url, "relay"),
                words.host(row.url),
                f"{ask.site}{words.path_of(row.url, 'relay')}",
                row.discovered_at,
                row.discovered_at,
                f"A relay of the network {row.network}. {said}{software}",
            )
        )
    href = f"{ask.site}/relays"
    return _feed(ask, "New relays", (f"{href}.atom", href), entries, 0)


def _since(incident: Incident, check: LatestCheck | None) -> int:
    """The beginning of an incident; the series forgets, and the state of the relay does not."""
    if incident.until is None and check is not None and check.state == "down" and check.since:
        return min(incident.since, check.since)
    return incident.since


def _id(ask: Ask, *names: str) -> str:
    """An id that is the same whenever the feed is made."""
    name = "\n".join(["bigbrotr", ask.settings.public_url or "", *names])
    return uuid.uuid5(uuid.NAMESPACE_URL, name).urn


def _feed(
    ask: Ask, title: str, hrefs: tuple[str, str], entries: list[Entry], begun_at: int
) -> Page:
    """A feed; `hrefs`: its own address, and that of the page that shows the same."""
    updated_at = max((each.updated_at for each in entries), default=begun_at)
    return Page(
        "feed.atom",
        {
            "id": _id(ask, "feed", hrefs[0].removeprefix(ask.site)),
            "title": title,
            "self": hrefs[0],
            "href": hrefs[1],
            "updated_at": updated_at,
            "author": ask.settings.relay.name,
            "entries": entries,
        },
        max_age_s=FRESH_S,
        kind=ATOM,
    )
