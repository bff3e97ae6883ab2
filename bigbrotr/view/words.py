"""Says times, lengths of time and numbers as people read them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from bigbrotr.reads.relays import RelayProgress, Span, Stage, Way


def moment(seconds: int) -> str:
    """A time as date and time in UTC; as it is, where it is no date of this millennium."""
    return _date(seconds, "%Y-%m-%d %H:%M:%S UTC")


def day(seconds: int) -> str:
    """A time as a date in UTC; as it is, where it is no date of this millennium."""
    return _date(seconds, "%Y-%m-%d")


def _date(seconds: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = int(max(0, seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def roughly(number: float) -> str:
    """A number to two digits, for what is estimated: 1,200 or 3.4 million."""
    if number >= 1e6:
        return f"{number / 1e6:,.1f} million"
    digits = max(0, len(str(int(number))) - 2)
    return f"{round(int(number), -digits):,}"


def ago(seconds: int) -> str:
    """How long ago a time was."""
    return f"{duration(time.time() - seconds)} ago"


def due_in(seconds: int) -> str:
    """How long it is until a time."""
    left = seconds - time.time()
    return "now" if left <= 0 else f"in {duration(left)}"


def last_visit(relay: RelayProgress) -> str:
    """What the last visit came to, and when."""
    if relay.stage is Stage.LIVE:
        return "followed live"
    if relay.stage is Stage.COPYING:
        return "copying now"
    if relay.visited_at is None:
        return "not visited yet"
    words = (relay.outcome or "-") + (f" ({relay.detail})" if relay.detail else "")
    told = f"{words}, {ago(relay.visited_at)}"
    return f"retired: {told}" if relay.stage is Stage.RETIRED else told


def how_proven(ways: dict[str, Way]) -> str:
    """In which ways a relay's past is proven, the one of most seconds first, and when last."""
    names = sorted(ways, key=lambda name: -ways[name].seconds)
    return ", ".join(f"{name} {ago(ways[name].newest_at)}" for name in names) or "-"


def proven_back_to(proven: tuple[Span, ...]) -> str:
    """Up to which day of the past the newest unbroken stretch is proven complete."""
    return _end(proven[-1][0], "the beginning", day) if proven else "-"


def stretch(span: Span) -> str:
    """A span of time in words."""
    since, until = span
    begin = _end(since, "the beginning", moment)
    return f"{begin} to {'now' if until is None else moment(until)}"


def _end(since: int | None, first: str, say: Callable[[int], str]) -> str:
    return say(since) if since else first
