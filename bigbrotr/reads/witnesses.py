"""Reads what other monitors say of relays, beside what ours has found."""

import time
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.witnesses import (
    CHECKED_S,
    FIELDS,
    Statement,
    Word,
    outliers,
    quorum,
    statement,
)


class Witness(Struct, frozen=True, kw_only=True):
    """Another monitor (NIP-66), and how far it agrees with ours. Times are Unix seconds."""

    pubkey: str
    first_at: int  # when it was first noted here
    heard_at: int  # its newest word
    introduced_at: int | None  # its announcement of itself; None: there is none
    frequency_s: int | None  # how often it says that it speaks of each relay
    timeouts_ms: dict[str, int]  # time-outs that it says it has, by check; "": for all
    checks: tuple[str, ...]  # that it says it makes
    geohash: str | None  # where it says it is
    relays: int  # of which it said something when it was last compared
    share: float | None  # these, of all relays that ours had judged; None: there were none
    compared: int  # statements of its that could be compared with ours
    agreed: int
    others_compared: int  # and with what the other witnesses say together
    others_agreed: int
    timed: int  # round trips
    outliers: int  # more than three median absolute deviations from the median
    ratio: float | None  # the median of its round trips by ours
    reliability: float  # 0 to 1: agreement with ours, few comparisons and old ones count for little
    as_of: int | None  # when all that was counted; None: not yet


class Says(Struct, frozen=True):
    """What somebody says of a relay; None: nothing."""

    online: bool | None
    auth: bool | None  # it requires authentication
    payment: bool | None
    tls: bool | None  # its certificate is valid
    open_ms: float | None  # time to open a connection, in milliseconds


class Together(Struct, frozen=True):
    """What the witnesses say of one thing together, by their reliability; ours is not among
    them."""

    verdict: bool | None  # more than half of the weights; None: neither
    share: float  # of the weights, that say yes
    weight: float  # of all that say something
    witnesses: int
    agrees: bool | None  # with ours; None: one of both does not say


class RelayWord(Struct, frozen=True):
    """What one witness says of a relay. Times are Unix seconds."""

    pubkey: str
    reliability: float
    said_at: int
    event: str  # the id of the event
    says: Says  # now: online is false where it fell silent of this relay alone
    read_ms: int | None
    write_ms: int | None
    is_outlier: bool  # its open_ms, among those of the others
    agrees: bool | None  # with ours on all that both say; None: there is nothing


class RelayWitnesses(Struct, frozen=True):
    """What witnesses say of a relay, beside ours: nobody corrects ours."""

    relay: str
    as_of: int  # Unix seconds
    ours: Says
    checked_at: int | None  # when ours was found
    together: dict[str, Together]  # by online, auth, payment, tls; where nobody says, none
    witnesses: tuple[RelayWord, ...]  # the most reliable first
    known: int  # witnesses of this archive, whether they speak of this relay or not


WitnessKey: TypeAlias = tuple[float, str]


async def list_witnesses(
    pool: Pool, after: WitnessKey | None, limit: int
) -> list[tuple[WitnessKey, Witness]]:
    """A page of witnesses, each with its key, the most reliable first."""
    rows = await pool.fetch(
        "SELECT w.*, s.judged FROM bigbrotr.witnesses AS w"
        " LEFT JOIN bigbrotr.witness_state AS s ON true"
        " WHERE $1::pg_catalog.float8 IS NULL OR (-w.reliability, w.pubkey) > ($1, $2)"
        " ORDER BY -w.reliability, w.pubkey LIMIT $3",
        None if after is None else after[0],
        None if after is None else bytes.fromhex(after[1]),
        limit,
    )
    found = []
    for row in rows:
        timeouts = msgspec.json.decode(row["timeouts_ms"] or "{}", type=dict[str, int])
        witness = Witness(
            pubkey=row["pubkey"].hex(),
            timeouts_ms=timeouts,
            checks=tuple(row["checks"] or ()),
            share=min(1.0, row["relays"] / row["judged"]) if row["judged"] else None,
            as_of=row["compared_at"],
            **{
                name: row[name]
                for name in Witness.__struct_fields__
                if name not in ("pubkey", "timeouts_ms", "checks", "share", "as_of")
            },
        )
        found.append(((-witness.reliability, witness.pubkey), witness))
    return found


async def relay_witnesses(pool: Pool, url: str, now: int | None = None) -> RelayWitnesses | None:
    """What witnesses say of a relay by its normalised URL; None: it is no relay of this archive."""
    now = int(time.time()) if now is None else now
    row = await pool.fetchrow(
        "SELECT r.id, c.checked_at FROM bigbrotr.relays r"
        " LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id WHERE r.url = $1",
        url,
    )
    if row is None:
        return None
    own = await pool.fetchrow(
        "SELECT * FROM bigbrotr.own_words(p_after => $1, p_relays => 1, p_since => $2)",
        row["id"] - 1,
        now - CHECKED_S,
    )
    ours = Statement()
    if own is not None and own["relay_id"] == row["id"]:
        ours = Statement(own["online"], own["auth"], own["payment"], own["tls"], own["open_ms"])
    words = await pool.fetch("SELECT * FROM bigbrotr.relay_words(p_url => $1)", url)
    said = [
        statement(
            Word(
                each["pubkey"],
                url,
                each["said_at"],
                each["event_id"],
                open_ms=each["open_ms"],
                auth=each["auth"],
                payment=each["payment"],
                tls=each["tls"],
            ),
            frequency_s=each["frequency_s"],
            heard_at=each["heard_at"],
            now=now,
        )
        for each in words
    ]
    timed = [n for n, each in enumerate(said) if each.open_ms is not None]
    are_outliers = dict(zip(timed, outliers([said[n].open_ms or 0.0 for n in timed]), strict=True))
    known = await pool.fetchval("SELECT pg_catalog.count(*) FROM bigbrotr.witnesses")
    return RelayWitnesses(
        relay=url,
        as_of=now,
        ours=Says(*ours),
        checked_at=row["checked_at"],
        together=_together(said, [each["reliability"] for each in words], ours),
        witnesses=tuple(
            RelayWord(
                each["pubkey"].hex(),
                each["reliability"],
                each["said_at"],
                each["event_id"].hex(),
                Says(*says),
                each["read_ms"],
                each["write_ms"],
                are_outliers.get(number, False),
                _agrees(says, ours),
            )
            for number, (each, says) in enumerate(zip(words, said, strict=True))
        ),
        known=known,
    )


def _together(
    said: Sequence[Statement], weights: Sequence[float], ours: Statement
) -> dict[str, Together]:
    found: dict[str, Together] = {}
    for field in FIELDS:
        values = [getattr(each, field) for each in said]
        if (all_say := quorum(zip(values, weights, strict=True))) is None:
            continue
        verdict, own = all_say.verdict, getattr(ours, field)
        agrees = None if verdict is None or own is None else verdict is own
        found[field] = Together(verdict, all_say.share, all_say.weight, all_say.witnesses, agrees)
    return found


def _agrees(theirs: Statement, ours: Statement) -> bool | None:
    both = [
        getattr(theirs, field) is getattr(ours, field)
        for field in FIELDS
        if getattr(theirs, field) is not None and getattr(ours, field) is not None
    ]
    return all(both) if both else None
