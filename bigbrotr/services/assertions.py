"""Puts ranks that have changed into the outbox (NIP-85), signed by the key of the algorithm."""

import time
from collections import Counter

import msgspec

from bigbrotr.config.settings import RanksSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.ranks import Assertion
from bigbrotr.errors import ConfigError
from bigbrotr.models.assertions import (
    OF_PUBKEY,
    TRUSTED,
    Said,
    has_changed,
    relays_in,
    said_of,
    tags_of,
)
from bigbrotr.models.keys import Keys
from bigbrotr.models.query import Query
from bigbrotr.reads.events import EventReads

KEY_NAME = "RANKS_PRIVATE_KEY"  # of the environment
PROFILE = 0
LISTED_RELAYS = 50  # of users' lists that are published to, those that most name first

_decode_tags = msgspec.json.Decoder(list[list[str]]).decode


def keys_of(settings: RanksSettings) -> Keys | None:
    """The key of the algorithm, RANKS_PRIVATE_KEY; None: nothing is published.

    Raises:
        ConfigError: it is wrong, missing, or another's: each algorithm has a key of its own.
    """
    if not settings.publish.enabled:
        return None
    keys = Keys.from_env(KEY_NAME)
    if keys is None:
        raise ConfigError(f"[ranks.publish] enabled: needs the environment variable {KEY_NAME}")
    if keys == Keys.from_env("PRIVATE_KEY"):
        raise ConfigError(
            f"{KEY_NAME} is PRIVATE_KEY: ranks need a key of their own (NIP-85); make another"
        )
    return keys


class Assertions:
    """Says what has changed, to the relays of the settings and those that users' lists name."""

    def __init__(self, brotr: Brotr, settings: RanksSettings, keys: Keys) -> None:
        self._brotr = brotr
        self._settings = settings.publish
        self._keys = keys
        self._signer = bytes.fromhex(keys.public_key)

    async def publish(self, reads: EventReads) -> int:
        """Puts into the outbox what has changed, up to `most` events; returns how many."""
        targets = list(dict.fromkeys([*self._settings.relays, *await self._listed(reads)]))
        if not targets:
            return 0
        told = await self._brotr.rank_published(self._signer)
        posts: list[Assertion] = []
        now = int(time.time())
        profile = {
            name: value
            for name, value in msgspec.structs.asdict(self._settings.profile).items()
            if value is not None
        }
        events: dict[str, str] = {}
        for target in targets:
            if told.get((target, PROFILE, "")) != profile:
                event = events.get("") or self._keys.sign_event(
                    PROFILE, msgspec.json.encode(profile).decode(), [], now
                )
                events[""] = event
                posts.append(Assertion(target, PROFILE, "", profile, event))
        for row in await self._brotr.read_assertions(self._settings.pubkeys, self._signer):
            pubkey, said = row["pubkey"].hex(), said_of(dict(row))
            for target in targets:
                if len(posts) >= self._settings.most:
                    break
                before: Said | None = told.get((target, OF_PUBKEY, pubkey))
                if has_changed(before, said, self._settings.tolerance):
                    event = events.get(pubkey) or self._keys.sign_event(
                        OF_PUBKEY, "", tags_of(pubkey, said), now
                    )
                    events[pubkey] = event
                    posts.append(Assertion(target, OF_PUBKEY, pubkey, said, event))
        await self._brotr.post_assertions(self._keys.public_key, posts)
        return len(posts)

    async def _listed(self, reads: EventReads) -> list[str]:
        """The relays where users look for what our key says (kind 10040), as far as this archive
        knows them: anybody may name any address."""
        if not self._settings.to_listed:
            return []
        named: Counter[str] = Counter()
        async for event in reads.all(Query(kinds=frozenset((TRUSTED,)))):
            tags = [tag for tag in _decode_tags(event.tags or "[]") if tag]
            named.update(relays_in(tags, self._keys.public_key))
        known = await self._brotr.pool.fetch(
            "SELECT r.url FROM bigbrotr.relays AS r"
            " WHERE r.url OPERATOR(pg_catalog.=) ANY ($1) AND r.network <> 'local'",
            list(named),
        )
        there = {row["url"] for row in known}
        return [url for url, _ in named.most_common() if url in there][:LISTED_RELAYS]
