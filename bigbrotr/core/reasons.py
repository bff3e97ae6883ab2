"""Sums up what went wrong with relays: each reason with a relay or two, and not for ever."""

import time
from collections.abc import Iterable
from typing import NamedTuple

SHOWN = 2  # relays of each reason
AGAIN_S = 3600.0  # until the same is told of the same relay again
REMEMBERED = 10_000


class Trouble(NamedTuple):
    """What went wrong with a relay."""

    reason: str
    url: str
    detail: str = ""


class Reasons:
    """Remembers what was told of whom, so that what repeats is counted and not named again."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def words(self, troubles: Iterable[Trouble]) -> str:
        """What is new, in words: "timeout: wss://a (no answer), wss://b; refused: wss://c"; empty
        where all was told within the last hour."""
        now = time.monotonic()
        by_reason: dict[str, list[str]] = {}
        for reason, url, detail in troubles:
            told_at = self._told.pop((url, reason), None)
            is_new = told_at is None or now - told_at >= AGAIN_S
            named = by_reason.setdefault(reason, []) if is_new else []
            if is_new and len(named) < SHOWN:
                named.append(f"{url} ({detail})" if detail else url)
                told_at = now
            if told_at is not None:
                self._told[url, reason] = told_at
        while len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        return "; ".join(f"{reason}: {', '.join(urls)}" for reason, urls in by_reason.items())
