"""A selection: which archived events go into a file, and in which order."""

import re

import msgspec
from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import tag_hash
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query

POSITION = re.compile(r"(\d{1,19})[:-]([0-9a-f]{64})")


class Selection(Struct, frozen=True, kw_only=True):
    """Which events are wanted, and where to begin: behind `after`, in the order of (created_at,
    id), or reversed. `relays`: held by one of these (URLs); none: by anybody."""

    query: Query = Query()
    relays: tuple[str, ...] = ()
    view: View = View.ARCHIVE
    is_reversed: bool = False
    after: Position | None = None

    @property
    def since(self) -> int:
        """The first second that is left."""
        if self.after is None or self.is_reversed:
            return self.query.since
        return max(self.query.since, self.after.created_at)

    @property
    def until(self) -> int:
        """The last second that is left."""
        if self.after is None or not self.is_reversed:
            return self.query.until
        return min(self.query.until, self.after.created_at)

    @property
    def is_indexed(self) -> bool:
        """Whether an index leads to the events: then one look finds them in the whole past."""
        query = self.query
        return query.ids is not None or query.authors is not None or bool(query.tags)

    def conditions(self, relay_ids: list[int] | None) -> dict[str, object]:
        """What the functions in SQL take."""
        query = self.query
        hashes = None
        for letter, values in sorted(query.tags.items(), key=lambda each: len(each[1])):
            hashes = sorted({tag_hash(letter, value) for value in values})
            break
        return {
            "p_ids": None if query.ids is None else sorted(query.ids),
            "p_kinds": None if query.kinds is None else sorted(query.kinds),
            "p_pubkeys": None if query.authors is None else sorted(query.authors),
            "p_tag_hashes": hashes,
            "p_tags": None
            if not query.tags
            else msgspec.json.encode({k: sorted(v) for k, v in query.tags.items()}).decode(),
            "p_relay_ids": relay_ids,
        }


def position(text: str) -> Position:
    """The position in `created_at:id` or `created_at-id`.

    Raises:
        ValueError: it is none.
    """
    found = POSITION.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text[:90]!r} is no created_at:id, such as 1700000000:5c83da77…")
    return Position(int(found[1]), bytes.fromhex(found[2]))


def position_text(at: Position) -> str:
    """The position as `created_at-id`: behind a colon, an id on a terminal would be taken for a
    secret, and not be shown."""
    return f"{at.created_at}-{at.id.hex()}"


async def relay_ids_of(pool: Pool, urls: tuple[str, ...]) -> list[int] | None:
    """The numbers of the relays of a selection; None: it names none.

    Raises:
        ConfigError: one is unknown here.
    """
    if not urls:
        return None
    rows = await pool.fetch("SELECT url, id FROM bigbrotr.relays WHERE url = ANY ($1)", list(urls))
    known = {row["url"]: row["id"] for row in rows}
    for url in urls:
        if url not in known:
            raise ConfigError(f"no relay {url} is known here: `bigbrotr status` shows the relays")
    return [known[url] for url in urls]
