"""What a check of a relay comes to: a value that was measured, a failure with its reason, or
nothing because nobody looked."""

from typing import Generic, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")


class Measured(NamedTuple, Generic[T]):
    """The relay was looked at, and this is what was seen."""

    value: T


class Failed(NamedTuple):
    """The relay was looked at, and did not do what was asked; never data, never success."""

    reason: str  # one word, machine-readable
    detail: str = ""  # for people


class Unmeasured(NamedTuple):
    """Nobody looked: the check is off, or nothing was there to look at."""

    why: str


Check: TypeAlias = Measured[T] | Failed | Unmeasured


def value_of(check: Check[T]) -> T | None:
    """What was measured, None otherwise."""
    return check.value if isinstance(check, Measured) else None
