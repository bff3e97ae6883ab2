"""What visits have done, counted in plain values: workers hand it to the service."""

from msgspec import Struct

from bigbrotr.core.reasons import Trouble

MAX_TROUBLES = 100  # that are kept until the log names some of them
REASONS = ("malformed", "bad id", "bad signature", "too large")  # why events are rejected


class Report(Struct):
    """Counts what was done."""

    visits: int = 0
    received: int = 0  # events that were sent to us
    new: int = 0  # events that were not archived before
    known: int = 0  # events that were archived already
    rejected: int = 0
    pages: int = 0
    bytes: int = 0
    gaps: int = 0
    windows: int = 0  # reconciled
    matched: int = 0  # archived events that the relay was found to hold without sending them
    dropped: int = 0  # archived events that it no longer holds
    withheld: int = 0  # events that it holds and did not hand over
    database_uses: int = 0  # times that a connection of the pool was used ...
    database_s: float = 0.0  # ... for how long ...
    database_wait_s: float = 0.0  # ... and waited for
    paced: int = 0  # times that a connection waited for its turn ...
    paced_s: float = 0.0
    crowded: int = 0  # ... or for room at an address
    crowded_s: float = 0.0
    live: int = 0  # relays that are subscribed to now: not added up
    outcomes: dict[str, int] = {}
    visited: dict[tuple[str, str], int] = {}  # visits by network and outcome
    reasons: dict[str, int] = {}  # rejected events by reason
    troubles: list[Trouble] = []  # some of the relays whose visits failed, and why

    def add(self, other: "Report") -> None:
        """Adds what another report counts."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for outcome, times in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + times
        for ended, times in other.visited.items():
            self.visited[ended] = self.visited.get(ended, 0) + times
        for reason, times in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + times
        self.troubles += other.troubles[: max(0, MAX_TROUBLES - len(self.troubles))]

    def since(self, before: "Report") -> "Report":
        """Returns what an older report did not count yet; numbers only."""
        return Report(**{name: getattr(self, name) - getattr(before, name) for name in COUNTED})


COUNTED = [
    name
    for name in Report.__struct_fields__
    if name not in ("live", "outcomes", "visited", "reasons", "troubles")
]
