"""How a relay wants to be asked: what visits have found out, and the questions that follow.

A relay that refuses a question may answer another one. A visit that gets nowhere asks in the next
way, and what worked is remembered with the relay, so that no visit begins with what has failed.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bigbrotr.config.settings import SyncPolicy
from bigbrotr.models.coverage import Gap
from bigbrotr.nostr.message import Refusal
from bigbrotr.nostr.questions import WHENEVER, GapReason, Habits, Probe, Question

NARROW_KINDS = (0, 1, 3, 10002)  # what any relay with users holds
# What is asked for at a relay that wants to be told kinds: all that are in common use.
COMMON_KINDS = (
    *range(45),
    *(1018, 1021, 1022, 1040, 1059, 1060, 1063, 1068, 1111, 1222, 1244, 1311, 1337, 1617, 1618),
    *(1619, 1621, 1622, 1630, 1631, 1632, 1633, 1971, 1984, 1985, 1986, 1987, 2003, 2004, 2022),
    *(4550, 5000, 5050, 5100, 5300, 6000, 6050, 6100, 6300, 7000, 7374, 7375, 7376, 8000, 8001),
    *range(9000, 9023),
    *(9041, 9321, 9467, 9734, 9735, 9802, *range(10000, 10021), 10030, 10050, 10051, 10063),
    *(10096, 10101, 10102, 10166, 10312, 10317, 10377, 11111, 13004, 13194, 13534, 14388),
    *(17375, 30000, 30001, *range(30002, 30010), 30015, 30017, 30018, 30019, 30020, 30023, 30024),
    *(30030, 30040, 30041, 30063, 30078, 30166, 30267, 30311, 30312, 30313, 30315, 30388, 30402),
    *(30403, 30617, 30618, 30818, 30819, 31234, 31388, 31890, *range(31922, 31926), 31989, 31990),
    *(32267, 34235, 34236, 34237, 34550, 37516, 38172, 38173, 38383, *range(39000, 39004), 39089),
    *(39092, 39701),
)
SMALL, TINY = 100, 20  # events at once, from relays that refuse more
LEAST_LIMIT = 2  # events at once: a page of one never goes beyond its second
# These are about us, or about the moment, and not about the question.
ABOUT_US = frozenset(
    {
        Refusal.AUTH_REQUIRED,
        Refusal.RESTRICTED,
        Refusal.RATE_LIMITED,
        Refusal.POW,
        Refusal.MUTE,
        Refusal.PAYMENT,
    }
)
# Where nothing came at all: what another question may bring.
NOTHING = frozenset(
    {
        GapReason.CLOSED,
        GapReason.SUSPECTED_EMPTY,
        GapReason.TIMEOUT,
        GapReason.CUT,
        GapReason.OVERSIZE,
        GapReason.MALFORMED,
    }
)


class WayToAsk(StrEnum):
    """How the past is asked for."""

    PLAIN = "plain"  # by time alone
    DAYS = "days"  # by time, a short stretch at once
    KINDS = "kinds"  # of common kinds: proves nothing
    AUTHORS = "authors"  # by authors that are known from elsewhere: proves nothing


ASIDE = frozenset({WayToAsk.KINDS, WayToAsk.AUTHORS})  # with conditions that are not the archive's


class KnownElsewhere(NamedTuple):
    """Some authors and events, in hex, that are known from other relays."""

    authors: Sequence[str] = ()
    ids: Sequence[str] = ()


NOBODY = KnownElsewhere()


class Dialect(Struct, frozen=True, omit_defaults=True):
    """How a relay is asked; kept from visit to visit."""

    habits: Habits = Habits()
    habits_at: int = 0  # Unix seconds, when what is pending was shown ...
    habits_for: str = ""  # ... for the conditions of this filter
    way: WayToAsk = WayToAsk.PLAIN
    limit: int = 0  # events at once, where more was refused; 0: as many as configured
    linger_s: float = 0.0  # it says EOSE before its events come: how long to wait for them

    def others(self, reason: GapReason, refusal: Refusal | None) -> Iterator["Dialect"]:
        """Yields what to try next at a relay that has shown nothing, for a reason."""
        if reason not in NOTHING or (reason is GapReason.CLOSED and refusal in ABOUT_US):
            return
        if reason is not GapReason.SUSPECTED_EMPTY:
            for limit in (SMALL, TINY):
                if self.way is WayToAsk.PLAIN and not 0 < self.limit <= limit:
                    yield replace(self, limit=limit)
            if self.way is WayToAsk.PLAIN:
                yield replace(self, way=WayToAsk.DAYS, limit=self.limit or SMALL)
        if reason in (GapReason.CLOSED, GapReason.SUSPECTED_EMPTY):
            if self.way in (WayToAsk.PLAIN, WayToAsk.DAYS):
                yield replace(self, way=WayToAsk.KINDS)
            if self.way is not WayToAsk.AUTHORS:
                yield replace(self, way=WayToAsk.AUTHORS)


def dialect_of(text: str) -> Dialect:
    """Returns how a relay wants to be asked, as earlier visits have left it (JSON)."""
    try:
        return msgspec.json.decode(text, type=Dialect)
    except msgspec.MsgspecError:  # of another release
        return Dialect()


def common_reason(gaps: Sequence[Gap]) -> GapReason | None:
    """Returns why a walk that left nothing but these gaps has failed; None if not for one reason
    that another question may do away with."""
    reasons = {GapReason(gap.reason) for gap in gaps}
    return reasons.pop() if len(reasons) == 1 and reasons <= NOTHING else None


def filters_for(
    ask: Question, policy: SyncPolicy, known: KnownElsewhere = NOBODY, authors: Sequence[str] = ()
) -> list[dict[str, object]]:
    """Returns the filters of the REQ that asks for what is wanted; `authors` narrow it down."""
    conditions = policy.filter.to_request()
    asked: dict[str, Any] = {"since": ask.since, "limit": min(ask.limit, policy.page_limit)}
    asked |= conditions
    until = policy.filter.until if ask.until is None else ask.until
    if until is not None:
        asked["until"] = until
    if authors:
        asked["authors"] = list(authors)
    if ask.probe in WHENEVER:
        asked = {key: value for key, value in asked.items() if key not in ("since", "until")}
        if policy.filter.until is not None:
            asked["until"] = policy.filter.until
    if ask.probe is Probe.KINDS:
        kinds = conditions.get("kinds", NARROW_KINDS)
        common = [kind for kind in kinds if kind in NARROW_KINDS]
        asked["kinds"] = common or list(kinds[: len(NARROW_KINDS)])
    elif ask.probe is Probe.KNOWN and known.authors:
        asked.setdefault("authors", list(known.authors))
        return [asked, {"ids": list(known.ids), "limit": len(known.ids)}] if known.ids else [asked]
    return [asked]
