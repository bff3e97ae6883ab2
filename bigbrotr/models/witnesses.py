"""Reads what other monitors announce (NIP-66), strictly, and compares it: quorum, outliers, and how
far a witness can be relied on. Pure: a clock comes in as a parameter.

A witness is a monitor other than ours. Its word on a relay is its newest event of kind 30166 with
that relay's URL. Such a word says that the relay was up; that it was down, no event says. So
silence counts instead: a witness that has announced how often it speaks (kind 10166), that speaks
of other relays still, and has spoken of this one before, says by its silence that the relay is
down.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final, Literal, NamedTuple, TypeAlias

from bigbrotr.models.nip66 import BASE32, Announcement, unsigned
from bigbrotr.models.relay import Relay

AHEAD_S = 900  # clocks differ; what is later yet is from the future
FRESH_S = 2 * 86_400  # what is older when it comes says nothing of today
KEPT_S = 14 * 86_400  # after that, a word is forgotten, and silence says nothing
MIN_ALLOWED_S = 7200  # until a word is old, however often its witness speaks...
MAX_ALLOWED_S = FRESH_S  # ...and however seldom
CHECKED_S = 86_400  # for so long our own verdict counts
MAX_TAGS = 2000  # of an event; no honest one has so many
MAX_MS = 600_000  # a longer round trip is none
MAX_FREQUENCY_S = 30 * 86_400
MAX_CHECKS = 30
MAX_CHECK = 30  # characters
MAX_TIMEOUT_MS = 3_600_000
MAX_GEOHASH = 12

QUORUM = 0.5  # of the weights
DEVIATIONS = 3.0  # median absolute deviations, beyond which a round trip is an outlier
LEAST_DEVIATION_MS = 1.0  # where all are as good as equal
LEAST_ROUND_TRIPS = 4  # of fewer none is an outlier
PRIOR = 20  # comparisons that a new witness is taken to have failed
HALF_LIFE_S = 3 * 86_400  # of what was compared before
MAX_STEP_S = 86_400  # a clock that jumps on ages no figure by more

Field: TypeAlias = Literal["online", "auth", "payment", "tls"]
FIELDS: Final[tuple[Field, ...]] = ("online", "auth", "payment", "tls")
Refusal: TypeAlias = Literal["future", "old", "no-relay", "too-large", "no-frequency"]


class Word(NamedTuple):
    """What one event of kind 30166 says. None: it does not say, or says both."""

    pubkey: bytes
    url: str  # of the relay
    said_at: int  # Unix seconds
    id: bytes
    open_ms: int | None = None
    read_ms: int | None = None
    write_ms: int | None = None
    auth: bool | None = None  # it requires authentication
    payment: bool | None = None
    tls: bool | None = None  # its certificate is valid


class Introduction(NamedTuple):
    """What one event of kind 10166 says."""

    pubkey: bytes
    said_at: int  # Unix seconds
    id: bytes
    frequency_s: int
    timeouts_ms: Mapping[str, int]  # by check; "": for all
    checks: tuple[str, ...]
    geohash: str | None


class Statement(NamedTuple):
    """What somebody says of a relay now; None: nothing."""

    online: bool | None = None
    auth: bool | None = None
    payment: bool | None = None
    tls: bool | None = None
    open_ms: float | None = None


class Quorum(NamedTuple):
    """What witnesses say together of one thing."""

    share: float  # of the weights, that say yes
    weight: float  # of all that say something
    witnesses: int

    @property
    def verdict(self) -> bool | None:
        """What more than half of the weights say; None: neither."""
        return None if self.share == QUORUM else self.share > QUORUM


# Reading


def read_word(
    pubkey: bytes,
    created_at: int,
    event_id: bytes,
    tags: Sequence[Sequence[str]],
    now: int,
    fresh_s: int = FRESH_S,
) -> Word | Refusal:
    """The word in an event of kind 30166, or why there is none. Never raises."""
    if len(tags) > MAX_TAGS:
        return "too-large"
    if created_at > now + AHEAD_S:
        return "future"
    if created_at < now - fresh_s:
        return "old"
    addresses = {tag[1] for tag in tags if len(tag) > 1 and tag[0] == "d"}
    if len(addresses) != 1:
        return "no-relay"
    try:
        url = Relay.discovered(addresses.pop()).url
    except ValueError:
        return "no-relay"
    values = _values(tags)
    return Word(
        pubkey,
        url,
        created_at,
        event_id,
        _milliseconds(values.get("rtt-open", ())),
        _milliseconds(values.get("rtt-read", ())),
        _milliseconds(values.get("rtt-write", ())),
        _switch(values.get("R", ()), "auth"),
        _switch(values.get("R", ()), "payment"),
        _agreed(_switch(values.get("ssl", ()), "valid"), _switch(values.get("R", ()), "ssl")),
    )


def read_introduction(
    pubkey: bytes, created_at: int, event_id: bytes, tags: Sequence[Sequence[str]], now: int
) -> Introduction | Refusal:
    """What an event of kind 10166 says of its monitor, or why that is nothing. Never raises."""
    if len(tags) > MAX_TAGS:
        return "too-large"
    if created_at > now + AHEAD_S:
        return "future"
    try:
        said = Announcement.parse(tags)
    except ValueError:
        return "no-frequency"
    if not 1 <= said.frequency_s <= MAX_FREQUENCY_S:
        return "no-frequency"
    timeouts = {
        check: ms
        for check, ms in said.timeouts_ms.items()
        if (not check or _is_check(check)) and 0 < ms <= MAX_TIMEOUT_MS
    }
    geohash = said.geohash or ""
    is_place = 0 < len(geohash) <= MAX_GEOHASH and set(geohash) <= set(BASE32)
    return Introduction(
        pubkey,
        created_at,
        event_id,
        said.frequency_s,
        dict(list(timeouts.items())[:MAX_CHECKS]),
        tuple(filter(_is_check, said.checks))[:MAX_CHECKS],
        geohash if is_place else None,
    )


def _values(tags: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for tag in tags:
        if len(tag) > 1:
            found.setdefault(tag[0], set()).add(tag[1])
    return found


def _milliseconds(values: Iterable[str]) -> int | None:
    found = set(values)
    text = found.pop() if len(found) == 1 else ""
    is_number = text.isascii() and text.isdigit() and len(text) <= 9
    return int(text) if is_number and int(text) <= MAX_MS else None


def _switch(values: Iterable[str], name: str) -> bool | None:
    found = {yes for said, yes in map(unsigned, values) if said == name}
    return found.pop() if len(found) == 1 else None


def _agreed(one: bool | None, other: bool | None) -> bool | None:
    if one is None or other is None:
        return other if one is None else one
    return one if one is other else None


def _is_check(text: str) -> bool:
    return (
        0 < len(text) <= MAX_CHECK and text.isascii() and text.replace("-", "").isalnum()
    ) and text == text.lower()


# Comparing


def allowed_s(frequency_s: int | None) -> int:
    """For how long a word counts, of a witness that says it speaks each `frequency_s`."""
    return max(MIN_ALLOWED_S, min(MAX_ALLOWED_S, 2 * (frequency_s or 0)))


def statement(word: Word, *, frequency_s: int | None, heard_at: int, now: int) -> Statement:
    """What a word says now. `heard_at`: when its witness last said anything."""
    allowed = allowed_s(frequency_s)
    if word.said_at > now + AHEAD_S:  # our clock was ahead when it came
        return Statement()
    if now - word.said_at <= allowed:
        return Statement(True, word.auth, word.payment, word.tls, word.open_ms)
    is_heard = -AHEAD_S <= now - heard_at <= allowed
    is_known = now - word.said_at <= KEPT_S
    return Statement(False if frequency_s is not None and is_heard and is_known else None)


def quorum(said: Iterable[tuple[bool | None, float]]) -> Quorum | None:
    """What is said, with the weight of who says it; None: nothing is, or by nobody of weight."""
    yes = weight = 0.0
    witnesses = 0
    for value, each in said:
        if value is not None and each > 0:
            weight += each
            yes += each if value else 0.0
            witnesses += 1
    return Quorum(yes / weight, weight, witnesses) if weight > 0 else None


def outliers(times_ms: Sequence[float]) -> list[bool]:
    """Which round trips lie more than three median absolute deviations from the median."""
    if len(times_ms) < LEAST_ROUND_TRIPS:
        return [False] * len(times_ms)
    middle = median(times_ms)
    deviations = [abs(each - middle) for each in times_ms]
    most = DEVIATIONS * max(LEAST_DEVIATION_MS, median(deviations))
    return [each > most for each in deviations]


class Tally:
    """Counts how far one witness agrees, relay by relay."""

    def __init__(self) -> None:
        self.relays = 0  # of which it says something now
        self.compared = 0  # statements of its that we can compare with ours...
        self.agreed = 0
        self.others_compared = 0  # ...and with what the others say together
        self.others_agreed = 0
        self.timed = 0  # round trips
        self.outliers = 0
        self._ratios: list[float] = []  # its round trips by ours

    @property
    def ratio(self) -> float | None:
        """The median of its round trips by ours; None: there are none."""
        return median(self._ratios) if self._ratios else None

    def ratio_of(self, theirs: float, ours: float) -> None:
        """Notes a round trip beside ours."""
        self._ratios.append(theirs / ours)


def compare(
    said: Mapping[bytes, Statement],
    ours: Statement,
    weights: Mapping[bytes, float],
    tallies: Mapping[bytes, Tally],
) -> None:
    """Adds to the tallies what the witnesses say of one relay: each beside us, and beside what the
    others say together, by their weights."""
    for field in FIELDS:
        values = {
            key: value for key, each in said.items() if (value := getattr(each, field)) is not None
        }
        yes = sum(weights.get(key, 0.0) for key, value in values.items() if value)
        total = sum(weights.get(key, 0.0) for key in values)
        our_word = getattr(ours, field)
        for key, value in values.items():
            tally = tallies[key]
            if our_word is not None:
                tally.compared += 1
                tally.agreed += value is our_word
            weight = weights.get(key, 0.0)
            rest = total - weight
            if rest > 1e-9 and len(values) > 1:
                share = (yes - (weight if value else 0.0)) / rest
                if abs(share - QUORUM) > 1e-9:
                    tally.others_compared += 1
                    tally.others_agreed += value is (share > QUORUM)
    for key, each in said.items():
        tallies[key].relays += each != Statement()
    timed = [(key, each.open_ms) for key, each in said.items() if each.open_ms is not None]
    for (key, theirs), is_outlier in zip(timed, outliers([ms for _, ms in timed]), strict=True):
        tally = tallies[key]
        tally.timed += 1
        tally.outliers += is_outlier
        if ours.open_ms:
            tally.ratio_of(theirs, ours.open_ms)


def reliability(before: float, agreed: int, compared: int, step_s: float) -> float:
    """How far a witness can be relied on, from 0 (nothing is known of it) towards 1.

    The share of its statements that agree with ours, `agreed / (compared + 20)`: so few comparisons
    count for little, and none for nothing. Of the figure before, half is left after three days of
    `step_s`; a step counts for a day at most, and none back in time.
    """
    kept: float = 0.5 ** (min(max(step_s, 0.0), MAX_STEP_S) / HALF_LIFE_S)
    return kept * before + (1.0 - kept) * agreed / (compared + PRIOR)
