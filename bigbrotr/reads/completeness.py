"""Reads how complete the archive is: which share of what its events refer to it has."""

from msgspec import Struct

from bigbrotr.core.pool import Pool


class CompletenessSummary(Struct, frozen=True):
    """Which share of what a sample of the archived events refers to is archived. Times are Unix
    seconds."""

    references: int  # of the events of the sample
    held: int  # of these, to events that are archived
    share: float | None  # None: there are none
    sample: float  # share of the archived events that are in the sample
    is_whole: bool  # all archived events of the sample were looked at
    waiting: int  # missing events that relays are to be asked for
    found: int  # that were missing, and are archived now
    gone: int  # that relays were asked for in vain
    relays: int  # of which anything is archived
    begun_at: int | None  # when the sample was begun; None: that was never measured
    as_of: int | None


NOTHING = CompletenessSummary(0, 0, None, 0.0, False, 0, 0, 0, 0, None, None)


async def completeness_summary(pool: Pool) -> CompletenessSummary:
    """How complete the archive is."""
    row = await pool.fetchrow("SELECT * FROM bigbrotr.completeness_basis()")
    if row is None:
        return NOTHING
    total, held = row["total"], row["held"]
    return CompletenessSummary(
        references=total,
        held=held,
        share=round(held / total, 4) if total else None,
        sample=min(1.0, round(int.from_bytes(row["bound"][:4]) / 2**32, 6)),
        is_whole=row["is_whole"],
        waiting=row["waiting"],
        found=row["found"],
        gone=row["gone"],
        relays=row["relays"],
        begun_at=row["begun_at"],
        as_of=row["as_of"],
    )
