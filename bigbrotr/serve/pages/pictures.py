"""Finds the pictures that events name. They lie elsewhere: only who asks for them loads them."""

import re
from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from msgspec import Meta

from bigbrotr.reads.events import StoredEvent
from bigbrotr.serve.pages import kinds

MOST = 12  # pictures of an event
MOST_URL = 2_000  # characters
MOST_HOST = 253
SEARCHED = 20_000  # characters of a content
SHOWING = frozenset({1, 20, 42, 1063, 1111, 30023, 30402})  # kinds that people show pictures with
# No SVG: it is a document, not a picture.
_url = re.compile(
    r"https://[^\s\"'<>()\[\]\\]{1,500}?\.(?:jpe?g|png|gif|webp|avif)(?:\?[^\s\"'<>()\[\]\\]*[\w=/%&-])?(?![\w/.])",
    re.IGNORECASE,
)
_name = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]", re.IGNORECASE)

Pictures: TypeAlias = Annotated[
    Literal["show"] | None, Meta(description="load pictures from where they are")
]


class Found(NamedTuple):
    """A picture elsewhere."""

    url: str
    host: str


def named_in(event: StoredEvent) -> list[Found]:
    """The pictures that an event names in its content and tags, each once."""
    if event.kind not in SHOWING:
        return []
    named = _url.findall((event.content or "")[:SEARCHED])
    for tag in kinds.tags_of(event):
        if tag[:1] == ["imeta"]:  # NIP-92: "url https://…", "m image/png"
            fields = dict(each.split(" ", 1) for each in tag[1:] if " " in each)
            if fields.get("m", "image/").startswith("image/"):
                named.append(fields.get("url", ""))
        elif tag[:1] == ["url"] and event.kind == 1063:
            named += [each for each in tag[1:2] if _url.fullmatch(each)]
        elif tag[:1] == ["image"]:
            named += tag[1:2]
    return distinct(named)


def distinct(urls: Iterable[str | None]) -> list[Found]:
    """Those that a browser may be sent to: over TLS, to a host with a public name; each once."""
    found = {}
    for url in urls:
        if not url or len(url) > MOST_URL or not url.startswith("https://"):
            continue
        try:
            parts = urlsplit(url)
            host, port, is_plain = parts.hostname or "", parts.port, parts.username is None
        except ValueError:
            continue
        is_svg = parts.path.lower().endswith((".svg", ".svgz"))
        # No event sends a reader's browser to an address of the reader's own network.
        if (
            is_plain
            and port in (None, 443)
            and not is_svg
            and len(host) <= MOST_HOST
            and _name.fullmatch(host)
        ):
            found[url] = Found(url, host)
        if len(found) == MOST:
            break
    return list(found.values())
