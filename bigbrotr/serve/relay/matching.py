"""Finds the subscriptions that an event matches, without looking at all of them."""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from bigbrotr.models.query import Query
from bigbrotr.reads.events import StoredEvent, has_words

T = TypeVar("T", bound=Hashable)
EVERY = ("",)  # where those are that ask for no id, author, tag or kind
MANY_KINDS = 100.0  # a kind is as common as a hundred authors or tags


class Index(Generic[T]):
    """Queries by what is rarest in them: the ids that they ask for, the authors, the values of a
    tag, or the kinds. Each belongs to somebody, who is found once for an event."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, dict[tuple[T, int], Query]] = {}
        self._queries: dict[T, list[Query]] = {}

    def __len__(self) -> int:
        return len(self._queries)

    def __iter__(self) -> Iterator[T]:
        return iter(self._queries)

    def __contains__(self, owner: T) -> bool:
        return owner in self._queries

    def add(self, owner: T, queries: list[Query]) -> None:
        """Takes somebody's queries, who has none yet."""
        self._queries[owner] = queries
        for number, query in enumerate(queries):
            for key in keys_of(query):
                self._entries.setdefault(key, {})[owner, number] = query

    def remove(self, owner: T) -> None:
        """Forgets somebody's queries, if there are any."""
        for number, query in enumerate(self._queries.pop(owner, ())):
            for key in keys_of(query):
                entries = self._entries[key]
                del entries[owner, number]
                if not entries:
                    del self._entries[key]

    def matching(self, event: StoredEvent, tags: list[list[str]]) -> list[T]:
        """Whose queries an event matches; `tags` are its own, decoded."""
        keys: list[Hashable] = [EVERY, ("i", event.id), ("a", event.pubkey), ("k", event.kind)]
        keys += {("#" + tag[0], tag[1]) for tag in tags if len(tag) > 1 and len(tag[0]) == 1}
        found: dict[T, None] = {}
        for key in keys:
            for (owner, _), query in self._entries.get(key, {}).items():
                if owner not in found and is_match(query, event, tags):
                    found[owner] = None
        return list(found)


def keys_of(query: Query) -> list[Hashable]:
    """Where a query is kept: at one of these, any event is looked for that could match it."""
    if query.is_empty:
        return []
    choices: list[tuple[float, list[Hashable]]] = []
    if query.ids is not None:
        choices.append((0.0, [("i", each) for each in query.ids]))
    if query.authors is not None:
        choices.append((len(query.authors), [("a", each) for each in query.authors]))
    for letter, texts in query.tags.items():
        choices.append((len(texts), [("#" + letter, each) for each in texts]))
    if query.kinds is not None:
        number = len(query.kinds) * MANY_KINDS
        choices.append((number, [("k", each) for each in query.kinds]))
    return min(choices, key=lambda each: each[0])[1] if choices else [EVERY]


def is_match(query: Query, event: StoredEvent, tags: list[list[str]]) -> bool:
    """Whether an event is wanted; `tags` are its own, decoded."""
    return (
        query.since <= event.created_at <= query.until
        and (query.kinds is None or event.kind in query.kinds)
        and (query.authors is None or event.pubkey in query.authors)
        and (query.ids is None or event.id in query.ids)
        and (not query.tags or query.has_tags(tags))
        and (query.search is None or has_words(query.search, event, tags))
    )
