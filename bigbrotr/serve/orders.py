"""What the process that watches and one that serves tell each other."""

import msgspec
from msgspec import Struct

from bigbrotr.config.settings import Config

EVERY_S = 2.0  # from one report to the next
STOP_S = 2.0  # for requests that are under way at the end
LENGTH = 8  # bytes before an order, which say how long it is


class Order(Struct, frozen=True):
    """What a process is to serve."""

    config: Config
    dsn: str | None  # of the embedded server
    identity: str  # of the archive


class RelayReport(Struct, frozen=True, omit_defaults=True):
    """How the relay of a process is."""

    connections: int = 0  # open now
    subscriptions: int = 0  # open now
    reconciliations: int = 0  # open now
    ids: int = 0  # in memory
    requests: dict[str, int] = {}  # since its start, by kind: REQ, COUNT, NEG-OPEN
    events: int = 0  # sent since its start, stored ones and new ones
    cut: int = 0  # clients that did not read, since its start


class Report(Struct, frozen=True, omit_defaults=True):
    """How a process that serves is: a line of JSON."""

    url: str | None = None  # it listens
    error: str | None = None  # it gives up, for this reason
    answers: dict[str, int] = {}  # since its start, by class of status
    connections: int = 0  # open now
    change_streams: int = 0  # open now
    memory_bytes: int = 0
    relay: RelayReport | None = None  # where there is one


def write(report: Report) -> bytes:
    """A report as a line."""
    return msgspec.json.encode(report) + b"\n"


def read(line: bytes) -> Report:
    """The report in a line."""
    return msgspec.json.decode(line, type=Report)
