"""Learns who a client is (NIP-42), where the relay asks for it."""

import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from bigbrotr.models.event import Event
from bigbrotr.nostr.auth import CLIENT_AUTH

APART_S = 600  # that the clocks of a client and ours may differ by


class Authentication:
    """What one client has to prove, and has proven. `readers`: whose keys may read, in hex; none:
    anybody's. `hosts`: by what names the client may call us."""

    def __init__(self, readers: Collection[str], hosts: Collection[str]) -> None:
        self.challenge = secrets.token_hex(16)
        self.is_known = False
        self._readers = readers
        self._hosts = hosts
        self._is_wrong = False

    def try_event(self, value: object) -> tuple[str, bool, str]:
        """Judges an answer to the challenge: its event's id, whether it is right, and why not."""
        given = value.get("id") if isinstance(value, dict) else None
        event_id = given if isinstance(given, str) and len(given) <= 64 else ""
        try:
            event = Event.from_object(value)
        except (ValueError, UnicodeEncodeError) as error:
            return event_id, False, f"invalid: {error}"
        tags = {tag[0]: tag[1] for tag in reversed(event.tags) if len(tag) > 1}
        if event.kind != CLIENT_AUTH:
            return event_id, False, f"invalid: its kind is not {CLIENT_AUTH}"
        if abs(event.created_at - time.time()) > APART_S:
            return event_id, False, "invalid: its time is not now"
        if tags.get("challenge") != self.challenge:
            return event_id, False, "invalid: it answers another challenge"
        if netloc(tags.get("relay", "")) not in self._hosts:
            return event_id, False, "invalid: it is meant for another relay"
        if self._readers and event.pubkey.hex() not in self._readers:
            self._is_wrong = True
            return event_id, False, "restricted: this key may not read here"
        self.is_known = True
        return event_id, True, ""

    @property
    def refusal(self) -> str | None:
        """Why the client may not read; None: it may."""
        if self.is_known:
            return None
        if self._is_wrong:
            return "restricted: this key may not read here"
        return "auth-required: only those who authenticate may read here"


def netloc(url: str) -> str:
    """Host and port of a URL, in lower case."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
