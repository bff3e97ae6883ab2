"""Declares every metric once: its kind, labels and meaning.

Base units (seconds, bytes), one prefix, and no label whose values a relay could choose: there are
tens of thousands of relays, and one series each would bury everything else.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

PREFIX = "bigbrotr_"


class Metric(NamedTuple):
    """What a metric is."""

    kind: Literal["counter", "gauge"]
    words: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """The value of a metric now, for values of its labels."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


# Counters begin at nothing with each start (of the process, or of the service that counts).
METRICS: dict[str, Metric] = {
    # The process and its services
    "info": Metric("gauge", "Always 1: what runs.", ("version", "profile")),
    "start_time_seconds": Metric("gauge", "When the process started, in Unix seconds."),
    "loop_lag_seconds": Metric("gauge", "How late the event loop of the supervisor is."),
    "memory_bytes": Metric("gauge", "Resident memory, without PostgreSQL's.", ("process",)),
    "workers": Metric("gauge", "Worker processes that are alive."),
    "service_state": Metric("gauge", "1 for the state that a service is in.", ("service", "state")),
    "service_restarts": Metric("counter", "Times that a service crashed.", ("service",)),
    "service_cycles": Metric("counter", "Cycles that ended well.", ("service",)),
    "service_failed_cycles": Metric("gauge", "Failed cycles in a row.", ("service",)),
    "service_last_success_timestamp_seconds": Metric(
        "gauge", "When a cycle last ended well, in Unix seconds.", ("service",)
    ),
    # What is done
    "connections": Metric(
        "counter",
        "Conversations with relays and candidates, by how they ended.",
        ("service", "network", "outcome"),
    ),
    "events_received": Metric("counter", "Events that relays sent."),
    "events_new": Metric("counter", "Events that were not archived before."),
    "events_known": Metric("counter", "Events that were archived already."),
    "events_rejected": Metric("counter", "Events that were not valid.", ("reason",)),
    "events_matched": Metric("counter", "Events found to be held without being sent."),
    "events_dropped": Metric("counter", "Archived events found to be held no longer."),
    "events_withheld": Metric("counter", "Events that a relay holds and did not hand over."),
    "pages": Metric("counter", "Pages of events that were stored."),
    "received_bytes": Metric("counter", "Size of these pages."),
    "reconciliations": Metric("counter", "Windows that were compared by ids (NIP-77)."),
    "gaps_noted": Metric("counter", "Gaps in coverage that were noted."),
    "checks": Metric("counter", "Examinations of relays, by verdict.", ("network", "verdict")),
    "announcements": Metric("counter", "Times that a relay was announced (NIP-66)."),
    "deliveries": Metric(
        "counter", "Events of our own offered to relays, by what became of them.", ("outcome",)
    ),
    "witness_words": Metric(
        "counter", "Announcements of other monitors, by what became of them.", ("outcome",)
    ),
    "rescues": Metric(
        "counter",
        "Archived events that were to be at other relays, by what became of them.",
        ("state",),
    ),
    "missing_events": Metric(
        "counter", "Missing events that relays were asked for, by what came of it.", ("outcome",)
    ),
    "finder_requests": Metric(
        "counter",
        "Times that a list on the web, or a relay about monitors, was asked for relays.",
        ("source", "outcome"),
    ),
    "candidates_found": Metric(
        "counter", "Candidates that were not known, by who named them.", ("source",)
    ),
    "politeness_waits": Metric(
        "counter",
        "Times that a connection waited for its turn (pace) or for room (address).",
        ("process", "reason"),
    ),
    "politeness_wait_seconds": Metric("counter", "How long they waited.", ("process", "reason")),
    # What is served
    "serve_processes": Metric("gauge", "Processes that serve the archive and are alive."),
    "serve_restarts": Metric("counter", "Times that one of them was started again."),
    "serve_connections": Metric("gauge", "Connections that readers have open."),
    "serve_change_streams": Metric("gauge", "Readers that follow the changes of state of relays."),
    "serve_answers": Metric("counter", "Answers to readers, by class of status.", ("status",)),
    "serve_relay_connections": Metric("gauge", "Clients of the relay that are connected."),
    "serve_relay_subscriptions": Metric("gauge", "Subscriptions that they have open."),
    "serve_relay_reconciliations": Metric("gauge", "Reconciliations that they have open."),
    "serve_relay_ids": Metric("gauge", "Ids in memory to be reconciled."),
    "serve_relay_requests": Metric("counter", "What clients of the relay asked.", ("kind",)),
    "serve_relay_events": Metric("counter", "Events that were sent to clients of the relay."),
    "serve_relay_cut": Metric("counter", "Clients of the relay that were cut: they did not read."),
    # The database, as the processes see it
    "database_up": Metric("gauge", "Whether the database answered."),
    "database_size_bytes": Metric("gauge", "Size of the database."),
    "disk_free_bytes": Metric("gauge", "Free room where the embedded database lies."),
    "pool_connections": Metric("gauge", "Connections of the supervisor's pool.", ("state",)),
    "pool_max_connections": Metric("gauge", "How many it may have."),
    "database_uses": Metric("counter", "Times that a connection was used.", ("process",)),
    "database_seconds": Metric("counter", "How long they were used.", ("process",)),
    "database_wait_seconds": Metric("counter", "How long they were waited for.", ("process",)),
    # The archive
    "archive_events": Metric("gauge", "Events in the archive."),
    "archive_pairs": Metric("gauge", "Pairs of event and relay in the archive."),
    "relays": Metric("gauge", "Relays, by what they are up to.", ("network", "state")),
    "relays_complete": Metric(
        "gauge", "Relays of which all that is wanted is proven or a noted gap.", ("network",)
    ),
    "relays_checked": Metric(
        "gauge", "Relays, by what the monitor found last.", ("network", "state")
    ),
    "candidates": Metric("gauge", "Candidates, by what they are up to.", ("network", "state")),
    "gaps": Metric("gauge", "Gaps in what is wanted, by reason.", ("reason",)),
    "backlog": Metric("gauge", "What is due and waits.", ("queue",)),
    "search_filling": Metric(
        "gauge", "1 while the index of words has not all that was archived before it."
    ),
    "completeness_filling": Metric(
        "gauge", "1 while not all that was archived before was looked at for references."
    ),
    "backlog_age_seconds": Metric("gauge", "For how long the oldest of it waits.", ("queue",)),
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
