"""Puts ranks that have changed into the outbox (NIP-85), signed by the key of the algorithm."""

import time
from collections import Counter

import msgspec

from bigbrotr.config.settings import RanksSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.ranks import Assertion
from bigbrotr.errors import ConfigError
from bigbrotr.models.assertions import (
    KINDS,
    OF_ADDRESS,
    OF_EVENT,
    OF_PUBKEY,
    TRUSTED,
    Said,
    has_changed,
    places_in,
    said_of,
    said_of_subject,
    tags_of,
)
from bigbrotr.models.event import decode_tags
from bigbrotr.models.keys import Keys
from bigbrotr.models.query import Query
from bigbrotr.reads.events import EventReads

KEY_NAME = "RANKS_PRIVATE_KEY"  # of the environment
PROFILE = 0
LISTED_RELAYS = 50  # of users' lists that get a kind, those that most name first


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
        targets = await self._targets(reads)
        if not any(targets.values()):
            return 0
        told = await self._brotr.rank_published(self._signer)
        posts: list[Assertion] = []
        now = int(time.time())
        profile = {
            name: value
            for name, value in msgspec.structs.asdict(self._settings.profile).items()
            if value is not None
        }
        text = msgspec.json.encode(profile).decode()
        new = [
            target
            for target in dict.fromkeys(url for urls in targets.values() for url in urls)
            if told.get((target, PROFILE, "")) != profile
        ]
        if new:
            event = self._keys.sign_event(PROFILE, text, [], now)
            posts += [Assertion(target, PROFILE, "", profile, event) for target in new]
        for kind, d, said in await self._known():
            changed = [
                target
                for target in targets[kind]
                if has_changed(told.get((target, kind, d)), said, self._settings.tolerance)
            ][: max(0, self._settings.most - len(posts))]
            if changed:
                event = self._keys.sign_event(kind, "", tags_of(kind, d, said), now)
                posts += [Assertion(target, kind, d, said, event) for target in changed]
        await self._brotr.post_assertions(self._keys.public_key, posts)
        return len(posts)

    async def _known(self) -> list[tuple[int, str, Said]]:
        """What there is to say: kind, d tag and values."""
        found = [
            (OF_PUBKEY, row["pubkey"].hex(), said_of(dict(row)))
            for row in await self._brotr.read_assertions(self._settings.pubkeys, self._signer)
        ]
        for row in await self._brotr.read_subject_assertions(self._settings.subjects, self._signer):
            said, subject = said_of_subject(dict(row)), row["subject"]
            if len(subject) == 32:  # an address is longer
                found.append((OF_EVENT, subject.hex(), said))
            else:
                found.append((OF_ADDRESS, subject.decode(), said))
        return found

    async def _targets(self, reads: EventReads) -> dict[int, list[str]]:
        """Which relays get which kind: those of the settings, and those where users look for what
        our key says (kind 10040), as far as this archive knows them: anybody may name any
        address."""
        named: Counter[tuple[int, str]] = Counter()
        if self._settings.to_listed:
            async for event in reads.all(Query(kinds=frozenset((TRUSTED,)))):
                tags = [tag for tag in decode_tags(event.tags or "[]") if tag]
                named.update(places_in(tags, self._keys.public_key))
        known = await self._brotr.pool.fetch(
            "SELECT r.url FROM bigbrotr.relays AS r"
            " WHERE r.url OPERATOR(pg_catalog.=) ANY ($1) AND r.network <> 'local'",
            list({url for _, url in named}),
        )
        there = {row["url"] for row in known}
        most = [place for place, _ in named.most_common() if place[1] in there]
        listed = {kind: [url for each, url in most if each == kind] for kind in KINDS}
        return {
            kind: list(dict.fromkeys([*self._settings.relays, *listed[kind][:LISTED_RELAYS]]))
            for kind in KINDS
        }
