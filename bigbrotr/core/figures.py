"""Every figure that is told to whoever watches, declared once: its kind, labels and words.

Base units (seconds, bytes), one prefix, and no label whose values a relay could choose: there are
tens of thousands of relays, and one series each would bury everything else.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

PREFIX = "bigbrotr_"


class Figure(NamedTuple):
    """What a figure is."""

    kind: Literal["counter", "gauge"]
    words: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """A figure's value now, for values of its labels."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


# Counters begin at nothing with each start (of the process, or of the service that counts).
FIGURES: dict[str, Figure] = {
    # The process and its services
    "info": Figure("gauge", "Always 1: what runs.", ("version", "profile")),
    "start_time_seconds": Figure("gauge", "When the process started, in Unix seconds."),
    "loop_lag_seconds": Figure("gauge", "How late the event loop of the supervisor is."),
    "memory_bytes": Figure("gauge", "Resident memory, without PostgreSQL's.", ("process",)),
    "workers": Figure("gauge", "Worker processes that are alive."),
    "service_state": Figure("gauge", "1 for the state that a service is in.", ("service", "state")),
    "service_restarts": Figure("counter", "Times that a service crashed.", ("service",)),
    "service_cycles": Figure("counter", "Cycles that ended well.", ("service",)),
    "service_failed_cycles": Figure("gauge", "Failed cycles in a row.", ("service",)),
    "service_last_success_timestamp_seconds": Figure(
        "gauge", "When a cycle last ended well, in Unix seconds.", ("service",)
    ),
    # What is done
    "connections": Figure(
        "counter",
        "Conversations with relays and candidates, by how they ended.",
        ("service", "network", "outcome"),
    ),
    "events_received": Figure("counter", "Events that relays sent."),
    "events_new": Figure("counter", "Events that were not archived before."),
    "events_known": Figure("counter", "Events that were archived already."),
    "events_rejected": Figure("counter", "Events that were not valid.", ("reason",)),
    "events_matched": Figure("counter", "Events found to be held without being sent."),
    "events_dropped": Figure("counter", "Archived events found to be held no longer."),
    "events_withheld": Figure("counter", "Events that a relay holds and did not hand over."),
    "pages": Figure("counter", "Pages of events that were stored."),
    "received_bytes": Figure("counter", "Size of these pages."),
    "reconciliations": Figure("counter", "Windows that were compared by ids (NIP-77)."),
    "gaps_noted": Figure("counter", "Gaps in coverage that were noted."),
    "checks": Figure("counter", "Examinations of relays, by verdict.", ("network", "verdict")),
    "announcements": Figure("counter", "Times that a relay was announced (NIP-66)."),
    "deliveries": Figure(
        "counter", "Events of our own offered to relays, by what became of them.", ("outcome",)
    ),
    "finder_requests": Figure(
        "counter",
        "Times that a list on the web, or a relay about monitors, was asked for relays.",
        ("source", "outcome"),
    ),
    "candidates_found": Figure(
        "counter", "Candidates that were not known, by who named them.", ("source",)
    ),
    "manners_waits": Figure(
        "counter",
        "Times that a connection waited for its turn (pace) or for room (address).",
        ("process", "reason"),
    ),
    "manners_wait_seconds": Figure("counter", "How long they waited.", ("process", "reason")),
    # The database, as the processes see it
    "database_up": Figure("gauge", "Whether the database answered."),
    "database_size_bytes": Figure("gauge", "Size of the database."),
    "disk_free_bytes": Figure("gauge", "Free room where the embedded database lies."),
    "pool_connections": Figure("gauge", "Connections of the supervisor's pool.", ("state",)),
    "pool_max_connections": Figure("gauge", "How many it may have."),
    "database_uses": Figure("counter", "Times that a connection was used.", ("process",)),
    "database_seconds": Figure("counter", "How long they were used.", ("process",)),
    "database_wait_seconds": Figure("counter", "How long they were waited for.", ("process",)),
    # The archive
    "archive_events": Figure("gauge", "Events in the archive."),
    "archive_pairs": Figure("gauge", "Pairs of event and relay in the archive."),
    "relays": Figure("gauge", "Relays, by what they are up to.", ("network", "state")),
    "relays_complete": Figure(
        "gauge", "Relays of which all that is wanted is proven or a noted gap.", ("network",)
    ),
    "relays_checked": Figure(
        "gauge", "Relays, by what the monitor found last.", ("network", "state")
    ),
    "candidates": Figure("gauge", "Candidates, by what they are up to.", ("network", "state")),
    "gaps": Figure("gauge", "Gaps in what is wanted, by reason.", ("reason",)),
    "backlog": Figure("gauge", "What is due and waits.", ("queue",)),
    "backlog_age_seconds": Figure("gauge", "For how long the oldest of it waits.", ("queue",)),
}


def memory_of(pids: Iterable[int]) -> int:
    """The resident memory of processes, in bytes; those that have gone have none."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")
