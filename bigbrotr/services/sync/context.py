"""What a visit goes by (context), what changes in its course (state), and what it came to."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from bigbrotr.config.settings import Config, Link, SynchronizerSettings, SyncPolicy
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Patience, Visit
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import Failure
from bigbrotr.net.politeness import Politeness
from bigbrotr.nostr.auth import Signer
from bigbrotr.nostr.questions import GapReason
from bigbrotr.nostr.session import Bounds
from bigbrotr.services.sync.contention import ContentionGate
from bigbrotr.services.sync.dialect import LEAST_LIMIT, Dialect, dialect_of
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.verifier import Here, Verifier

PAGE_ROUNDS = 12  # reply time-outs that a whole page may take: three bounds, the third is the slice
PAGES_AT_WORK = 8  # in one worker: verified, or waiting for the database
STORING = 2  # in one worker: being stored, each by a connection of its own
WINDOWS_AT_WORK = 4  # in one worker: reconciled

Ending: TypeAlias = Literal[
    "complete", "unfinished", "stopped", "subscription-ended", "rate-limited", "timeout"
]


class VisitResult(NamedTuple):
    """What a visit came to, in the words of `finish_visit` in sql/."""

    verdict: str  # 'done', 'failed', 'refused', 'throttled' or 'unfinished'
    outcome: Ending | Failure | GapReason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitContext:
    """What a visit goes by: the same from its beginning to its end.

    The gates and `stop` are shared by all visits of a worker.
    """

    brotr: Brotr
    config: Config
    relay: Relay
    network: Network
    report: Callable[[Report], None]  # adds to what the worker reports
    signer: Signer | None = None  # for a relay that insists on knowing who asks
    politeness: Politeness | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    page_gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PAGES_AT_WORK))
    store_gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STORING))
    window_gate: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(WINDOWS_AT_WORK)
    )
    contention: ContentionGate = field(default_factory=ContentionGate)
    verifier: Verifier = field(default_factory=Here)
    settings: SynchronizerSettings = field(init=False)
    policy: SyncPolicy = field(init=False)
    link: Link = field(init=False)
    bounds: Bounds = field(init=False)

    def __post_init__(self) -> None:
        settings, link = self.config.synchronizer, self.config.networks.link(self.network)
        bounds = Bounds(link.timeout_s, PAGE_ROUNDS * link.timeout_s, settings.max_page_bytes)
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "policy", settings.policy(self.relay.url))
        object.__setattr__(self, "link", link)
        object.__setattr__(self, "bounds", bounds)


@dataclass(slots=True)
class VisitState:
    """What changes in the course of a visit: one object, shared by all that work on it."""

    claim: Visit  # the lease, and what is missing
    deadline: float = float("inf")  # of the slice under way, in monotonic seconds
    dialect: Dialect = field(init=False)  # from earlier visits; and what this one teaches
    limit: int = field(init=False, default=LEAST_LIMIT)  # events in a question, at present
    identity: str | None = None  # the public key, in hex, that the relay knows us by
    is_live: bool = False
    new: int = 0  # events so far
    known: int = 0
    timeouts: int = 0  # pages that ended in one
    has_proven: bool = False

    def __post_init__(self) -> None:
        self.dialect = dialect_of(self.claim.dialect)

    @property
    def taken(self) -> int:
        """Valid events that the relay has handed over so far."""
        return self.new + self.known


def is_over(context: VisitContext, state: VisitState) -> bool:
    """Whether the visit is to end with the page that is under way."""
    return context.stop.is_set() or time.monotonic() > state.deadline


def is_stuck(context: VisitContext, state: VisitState) -> bool:
    """Whether the visit has only waited in vain: the next one must not begin at once, nor with the
    same question."""
    return state.timeouts > 0 and not state.has_proven and not context.stop.is_set()


def most_at_once(context: VisitContext, state: VisitState) -> int:
    """Returns how many events to ask for: as configured, as the relay's document says, and as it
    has taken."""
    most = state.claim.limits.get("max_limit", 0)
    limits = (context.policy.page_limit, state.dialect.limit, most)
    return max(LEAST_LIMIT, min(limit for limit in limits if limit > 0))


def lease_s(slice_s: float, revisit_s: float, timeout_s: float) -> float:
    """Returns how long a lease lasts: longer than a slice, the page that is under way at its end,
    and what a live visit lets pass before it renews it. `timeout_s` is the network's."""
    return 2 * slice_s + revisit_s + PAGE_ROUNDS * timeout_s


def patience(settings: SynchronizerSettings) -> Patience:
    """Returns when what is proven is looked at again."""
    return Patience(settings.audit_s, settings.lookback_s, settings.rewalk_s)
