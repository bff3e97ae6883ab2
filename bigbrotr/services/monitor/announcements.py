"""Words what the monitor publishes: relays that are up (NIP-66), and the monitor itself."""

import hashlib
import time
from typing import Any

import msgspec

from bigbrotr.config.settings import MonitorSettings, Networks
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import INTRODUCED, DueCheck, Post
from bigbrotr.models.check import value_of
from bigbrotr.models.keys import Keys
from bigbrotr.models.nip11 import Nip11
from bigbrotr.models.nip66 import (
    ANNOUNCEMENT,
    ASN,
    CITY,
    COUNTRY,
    DISCOVERY,
    IPV4,
    IPV6,
    LANGUAGE,
    MAX_CONTENT,
    MAX_TAG,
    OPERATOR,
    REQUIREMENTS,
    RTTS,
    ZONE,
    Announcement,
    Nip66,
    Tags,
    address,
    relay_list_tags,
)
from bigbrotr.models.relay import Network, Relay
from bigbrotr.services.monitor.probe import Opening
from bigbrotr.services.monitor.verdict import Findings, Judgement, milliseconds

PROFILE, RELAY_LIST = 0, 10002
INTRODUCED_S = 86_400.0  # until the monitor introduces itself again
LANGUAGES_SHOWN = 20
TOPICS_SHOWN = 20
ADDRESSES_SHOWN = 8  # of each family
DELTA = 1066  # of the state of a relay: an event that stays
HISTORY = 1166  # what was announced at a change of state, to stay


class Announcer:
    """Signs what there is to say; the publisher delivers it."""

    def __init__(
        self, brotr: Brotr, settings: MonitorSettings, networks: Networks, keys: Keys
    ) -> None:
        self._brotr = brotr
        self._settings = settings
        self._networks = networks
        self._keys = keys

    def announcement(
        self, due: DueCheck, found: Findings, now: int
    ) -> tuple[bytes | None, list[Post]]:
        """The 30166 of a relay that is up, if it says something new or the last one is old; and the
        digest of what it says."""
        publish = self._settings.publish
        described = describe(due.relay, found)
        digest = digest_of(described)
        # This look, or the next one: whichever is nearer to the time.
        is_stale = (
            due.published_at is None
            or now - due.published_at + self._settings.check_every_s / 2 >= publish.refresh_s
        )
        if digest == due.published_digest and not is_stale:
            return None, []
        event = self._keys.sign_event(DISCOVERY, described.content, described.tags(), now)
        return digest, [
            Post(target, DISCOVERY, due.relay.url, event) for target in self._targets(due.relay)
        ]

    def history(self, due: DueCheck, judged: Judgement, found: Findings, now: int) -> list[Post]:
        """The events that tell a change of state and stay, where they are switched on.

        NIP-66 has none. Kind 1066 has the form in which nostr-watch publishes deltas (Kind1066.js
        in its internal/publisher): `r` the relay, `a` its announcement, and for each delta `D` its
        name and a tag of that name. Of kind 1166 we know no definition: it holds what 30166 would,
        whether the relay is `online`, and `since` when.
        """
        before, state = due.state, str(judged.verdict)
        if before not in ("up", "down") or state not in ("up", "down") or state == before:
            return []
        is_up = state == "up"
        since = now if is_up or due.suspect_at is None else due.suspect_at
        place = address(due.relay)
        told: dict[int, Tags] = {}
        for kind in self._settings.publish.history:
            if kind == DELTA:
                told[kind] = [
                    ["r", place],
                    ["a", f"{DISCOVERY}:{self._keys.public_key}:{place}"],
                    ["D", "online"],
                    ["online", str(is_up).lower()],
                ]
                if not is_up:
                    told[kind] += [["D", "reason"], ["reason", str(judged.outcome)[:MAX_TAG]]]
            else:
                described = (
                    describe(due.relay, found)
                    if is_up
                    else Nip66(due.relay, network=due.relay.network)
                )
                told[kind] = [
                    *described.tags(),
                    ["online", str(is_up).lower()],
                    ["since", str(since)],
                ]
        return [
            # Of its own `d` each: a later change does not replace it in the outbox.
            Post(target, kind, f"{due.relay.url} {now}", event)
            for kind, tags in told.items()
            for event in [self._keys.sign_event(kind, "", tags, now)]
            for target in self._targets(due.relay, is_up=is_up)
        ]

    def _targets(self, relay: Relay, *, is_up: bool = True) -> dict[str, None]:
        """Where what is said of a relay goes."""
        publish = self._settings.publish
        own = [relay.url] * (publish.to_monitored and is_up)
        targets = dict.fromkeys([*publish.relays, *own])
        if relay.network is Network.LOCAL:  # nobody elsewhere could reach it
            targets = {url: None for url in targets if Relay(url).network is Network.LOCAL}
        return targets

    async def introduce(self) -> None:
        """Posts who the monitor is, where it writes and what it does, when that has changed or was
        posted long ago."""
        now = int(time.time())
        told = {row["key"]: row["value"] for row in await self._brotr.get_service_data(*INTRODUCED)}
        for kind, content, tags in self.introductions():
            said = [self._keys.public_key, content, tags, list(self._settings.publish.relays)]
            before = told.get(str(kind), {})
            if before.get("said") == said and now - before["at"] < INTRODUCED_S:
                continue
            event = self._keys.sign_event(kind, content, tags, now)
            await self._brotr.post_events(
                [Post(target, kind, "", event) for target in self._settings.publish.relays]
            )
            await self._brotr.upsert_service_data(
                [(*INTRODUCED, str(kind), {"said": said, "at": now})]
            )

    def introductions(self) -> list[tuple[int, str, Tags]]:
        """Kind, content and tags of what the monitor says of itself."""
        publish, checks = self._settings.publish, self._settings
        profile = {
            name: value
            for name, value in msgspec.structs.asdict(publish.profile).items()
            if value is not None
        }
        clearnet_s = self._networks.clearnet.timeout_s
        timeouts = {"open": clearnet_s}
        names = ["open"]
        for name, each in (("read", checks.read), ("write", checks.write), ("nip11", checks.nip11)):
            if each.enabled:
                names.append(name)
                timeouts[name] = each.timeout_s or clearnet_s
        if checks.dns.enabled:
            names.append("dns")
            timeouts["dns"] = checks.dns.timeout_s
        names += ["geo"] * (checks.geo.city_db is not None)
        names += ["ssl"] * checks.tls
        announcement = Announcement(
            frequency_s=round(publish.refresh_s),
            timeouts_ms={name: round(1000 * seconds) for name, seconds in timeouts.items()},
            checks=("ws", *names),
            geohash=publish.geohash,
        )
        return [
            (PROFILE, msgspec.json.encode(profile).decode(), []),
            (RELAY_LIST, "", relay_list_tags(publish.relays)),
            (ANNOUNCEMENT, "", announcement.tags()),
        ]


def describe(relay: Relay, found: Findings) -> Nip66:
    """What is announced of a relay that is up: where a claim was tested, what was seen counts;
    where it was not, what the relay says."""
    document = value_of(found.nip11)
    claims = value_of(found.claims)
    place, network = value_of(found.geo) or {}, value_of(found.net) or {}
    times = milliseconds(found)
    opened = found.opened
    rtts = {"read": times["read_ms"], "write": times["write_ms"]}
    if isinstance(opened, Opening):
        rtts["open"] = 1000.0 * opened.open_s
    tls, zone = value_of(found.tls), value_of(found.dns)
    labels = [
        (COUNTRY, place.get("country")),
        (CITY, place.get("city")),
        (ZONE, place.get("time_zone")),
        (ASN, network.get("asn")),
        (OPERATOR, network.get("operator")),
        *((IPV4, each) for each in (zone.a if zone else ())[:ADDRESSES_SHOWN]),
        *((IPV6, each) for each in (zone.aaaa if zone else ())[:ADDRESSES_SHOWN]),
        *((LANGUAGE, each) for each in _languages(document)),
    ]
    content = document.metadata.canonical if document else b""
    return Nip66(
        relay=relay,
        rtts={name: round(rtt) for name in RTTS if (rtt := rtts.get(name)) is not None},
        network=relay.network,
        nips=_nips(document, claims),
        requirements=_requirements(document, claims),
        topics=_topics(document),
        geohash=place.get("geohash"),
        labels=tuple((space, str(value)[:MAX_TAG]) for space, value in labels if value),
        software=document.texts.get("software", "")[:MAX_TAG] or None if document else None,
        is_tls_valid=None if tls is None else tls.is_valid,
        content=content.decode() if len(content) <= MAX_CONTENT else "",
    )


def _nips(document: Nip11 | None, claims: dict[str, Any] | None) -> tuple[int, ...]:
    nips = set(document.nips or ()) if document else set()
    for nip, claim in (claims or {}).get("nips", {}).items():
        if claim["seen"] is True:
            nips.add(int(nip))
        elif claim["seen"] is False:
            nips.discard(int(nip))
    return tuple(sorted(nips))


def _requirements(document: Nip11 | None, claims: dict[str, Any] | None) -> dict[str, bool]:
    said: dict[str, bool | None] = {}
    if document is not None:
        bits = document.limit("min_pow_difficulty")
        said = {
            "auth": document.requires("auth_required"),
            "writes": document.requires("restricted_writes"),
            "pow": None if bits is None else bits > 0,
            "payment": document.requires("payment_required"),
        }
    for name in ("auth", "payment"):
        seen = (claims or {}).get(name, {}).get("seen")
        said[name] = said.get(name) if seen is None else seen
    return {name: yes for name in REQUIREMENTS if (yes := said.get(name)) is not None}


def _languages(document: Nip11 | None) -> list[str]:
    """Two letters each, as ISO 639-1 has them; the region goes."""
    tags = document.words.get("language_tags", ()) if document else ()
    codes = (tag.partition("-")[0].lower() for tag in tags)
    return list(dict.fromkeys(c for c in codes if len(c) == 2 and c.isascii() and c.isalpha()))[
        :LANGUAGES_SHOWN
    ]


def _topics(document: Nip11 | None) -> tuple[str, ...]:
    return document.words.get("tags", ())[:TOPICS_SHOWN] if document else ()


def digest_of(described: Nip66) -> bytes:
    """Changes when an announcement does, except for its round-trip times and addresses."""
    tags = [
        tag
        for tag in described.tags()
        # A name server that hands out some of many addresses says nothing new each time.
        if not tag[0].startswith("rtt-") and tag[-1] not in (IPV4, IPV6)
    ]
    return hashlib.sha256(msgspec.json.encode([tags, described.content])).digest()
