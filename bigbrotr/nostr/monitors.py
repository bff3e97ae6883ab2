"""What monitors say of relays (NIP-66), read page by page: a pure machine over the paging one."""

import time
from typing import Any

from bigbrotr.models.coverage import Span
from bigbrotr.models.event import Event, WireEvent
from bigbrotr.models.mentions import mentioned
from bigbrotr.models.plain import unpacked
from bigbrotr.models.witnesses import Word, read_word
from bigbrotr.nostr.paging import Paging
from bigbrotr.nostr.questions import GapReason, PageAnswer, Progress
from bigbrotr.nostr.session import Page

DISCOVERY = 30166  # one monitor's word on one relay, whose URL stands in `d`


class MonitorReading:
    """What the monitors of these public keys (hex) have said at one relay within a span."""

    def __init__(self, pubkeys: frozenset[str], span: Span) -> None:
        self.urls: dict[str, None] = {}  # of the relays that they have seen
        self.events = 0  # good ones
        self.rejected = 0  # forged, or not asked for
        self.words: list[Word] = []  # what they say that is new
        self.trouble = ""  # why not everything could be read
        self._pubkeys = pubkeys
        self._paging = Paging(span)
        self._seen: set[bytes] = set()

    def request(self) -> dict[str, Any] | None:
        """What to ask next, None at the end."""
        ask = self._paging.ask()
        if ask is None:
            return None
        request = {
            "kinds": [DISCOVERY],
            "authors": sorted(self._pubkeys),
            "since": ask.since,
            "limit": ask.limit,
        }
        return request if ask.until is None else request | {"until": ask.until}

    def take(self, page: Page) -> None:
        """Takes the answer: of its events those that are signed by a monitor.

        What is forged or cannot be read took the place of another: the walk goes on below it.
        """
        now = int(time.time())
        times: list[int] = []
        off_filter = 0
        here: set[bytes] = set()
        for wire in map(unpacked, page.events):
            if wire.kind != DISCOVERY or self._author(wire) not in self._pubkeys:
                self.rejected += 1
                off_filter += 1
            elif (event := self._verify(wire)) is None:
                self.rejected += 1
                times.append(wire.created_at)
            elif event.id not in here:
                here.add(event.id)
                times.append(event.created_at)
                if event.id not in self._seen:
                    self._seen.add(event.id)
                    self.events += 1
                    self.urls |= dict.fromkeys(mentioned(event.kind, event.tags, ""))
                    word = read_word(event.pubkey, event.created_at, event.id, event.tags, now)
                    if isinstance(word, Word):
                        self.words.append(word)
        self.rejected += page.unreadable
        if times:  # of what cannot be read nobody knows the time
            times += [min(times)] * page.unreadable
        progress = self._paging.answer(
            PageAnswer(
                created_ats=times,
                end=page.end,
                off_filter=off_filter,
                reason=page.reason,
                finish="finish" in page.hints,
                more="more" in page.hints,
                elapsed_s=page.elapsed_s,
            )
        )
        self._note(progress)

    def give_up(self) -> None:
        """The conversation cannot go on."""
        self._note(self._paging.give_up(GapReason.CUT))

    def _note(self, progress: Progress) -> None:
        for gap in progress.gaps:
            self.trouble = self.trouble or gap.reason

    def _author(self, wire: WireEvent | Event) -> str:
        return wire.pubkey.hex() if isinstance(wire, Event) else wire.pubkey

    def _verify(self, wire: WireEvent | Event) -> Event | None:
        try:
            return wire if isinstance(wire, Event) else Event.from_wire(wire)
        except ValueError:
            return None
