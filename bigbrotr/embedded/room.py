"""Says whether there is room for the database, and finds the cause in what PostgreSQL has said."""

import re
import shutil
from pathlib import Path

NO_ROOM = 32 << 20  # bytes: PostgreSQL writes its log of changes in pieces of 16 MB
NO_SPACE = "No space left on device"  # the system's words, whatever the locale
MAX_CAUSES = 3

_SERIOUS = re.compile(r"\b(FATAL|PANIC): |No space left on device")
_LESS = re.compile(r"\bERROR: |could not |error: |unrecognized |invalid ")
_PREFIX = re.compile(r"^\d{4}-\S+ \S+ \S+ \[\d+\] (LOG: +)?")


def is_full(data_dir: Path) -> bool:
    """Whether the disk of a data directory has no room left for a database."""
    place = next((each for each in (data_dir, *data_dir.parents) if each.exists()), None)
    try:
        return place is not None and shutil.disk_usage(place).free < NO_ROOM
    except OSError:
        return False


def without_space(place: Path) -> str:
    """What is said of a full disk."""
    return f"no space left on the disk of {place}: make room; nothing that was stored is lost"


def causes(said: str) -> list[str]:
    """The lines, without their times, that say why PostgreSQL failed: the serious ones, and what
    was wrong right before; else those that speak of an error; else the last."""
    lines = [_PREFIX.sub("", line.strip()) for line in said.split("\n") if line.strip()]
    found = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=False)
        if _SERIOUS.search(line) or (_SERIOUS.search(after) and _LESS.search(line))
    ]
    found = found or [line for line in lines if _LESS.search(line)] or lines
    return list(dict.fromkeys(found))[-MAX_CAUSES:]


def serious_lines(said: bytes) -> bytes:
    """The lines of a log that must not get lost, as they are."""
    return b"".join(
        line
        for line in said.splitlines(keepends=True)
        if _SERIOUS.search(line.decode(errors="replace"))
    )
