"""What the checks of a relay found, and what follows: a verdict, and documents to keep."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from bigbrotr.models.check import Check, Failed, Measured, Unmeasured, value_of
from bigbrotr.models.metadata import Metadata, MetadataType
from bigbrotr.models.nip11 import Nip11
from bigbrotr.net.connect import PERHAPS_OURS, UNTRIED, Failure, Unreached
from bigbrotr.net.dns import DnsRecords
from bigbrotr.services.monitor.probe import UNANSWERED, Opening, Secured

OFF = Unmeasured("switched off")
# A relay that takes this long, or breaks off, has to do so twice until it counts as down.
DOUBTFUL = PERHAPS_OURS | {Failure.SLOW}
SPARED = frozenset({Failure.OPTED_OUT, Failure.RATE_LIMITED, Failure.UNJUDGED})


class Verdict(StrEnum):
    """What the findings mean; the words are those of `record_checks` in sql/."""

    UP = "up"
    DOWN = "down"
    SUSPECT = "suspect"  # down, if the next one says so as well
    VOID = "void"  # says nothing of the relay
    SPARED = "spared"  # it is left alone for a while, since it wants that or we do
    DEFECT = "defect"  # what it sent made our own code fail: says nothing of the relay


class Findings(NamedTuple):
    """What each check found."""

    opened: Opening | Unreached
    is_challenged: bool = False  # NIP-42
    read: Check[float] = OFF  # in seconds
    write: Check[float] = OFF
    nip11: Check[Nip11] = OFF
    tls: Check[Secured] = OFF
    http: Check[dict[str, str]] = OFF
    dns: Check[DnsRecords] = OFF
    geo: Check[dict[str, Any]] = OFF
    net: Check[dict[str, Any]] = OFF
    claims: Check[dict[str, Any]] = OFF

    @property
    def failure(self) -> Failure | None:
        """Why there was no connection."""
        return self.opened.failure if isinstance(self.opened, Unreached) else None


class Judgement(NamedTuple):
    """A verdict, why, and details for people."""

    verdict: Verdict
    outcome: str
    detail: str = ""


def judge(found: Findings, *, is_down: bool, is_suspect: bool) -> Judgement:
    """What the findings mean for a relay that was `is_down` before, or `is_suspect`, since the
    last one could not tell.

    A relay is up when it can be talked to: it answers a question, be it by a refusal, or wants to
    know who asks.
    """
    if isinstance(found.opened, Unreached):
        failure, detail = found.opened
        if failure is Failure.DEFECT:
            return Judgement(Verdict.DEFECT, failure.value, detail)
        if failure in SPARED:
            return Judgement(Verdict.SPARED, failure.value, detail)
        if failure in UNTRIED or failure is Failure.PROXY:
            return Judgement(Verdict.VOID, failure.value, detail)
        is_doubtful, outcome = failure in DOUBTFUL, failure.value
    elif isinstance(found.read, Failed) and found.read.reason in UNANSWERED:
        if found.is_challenged:
            return Judgement(Verdict.UP, "up")
        is_doubtful, (outcome, detail) = True, found.read
    else:
        return Judgement(Verdict.UP, "up")
    if is_doubtful and not is_down and not is_suspect:
        return Judgement(Verdict.SUSPECT, outcome, detail)
    return Judgement(Verdict.DOWN, outcome, detail)


def failures(found: Findings) -> dict[str, str]:
    """The checks that failed, and why: neither data nor success."""
    return {name: check.reason for name, check in _checks(found) if isinstance(check, Failed)}


def _checks(found: Findings) -> Iterator[tuple[str, Check[Any]]]:
    for name in ("read", "write", "nip11", "tls", "http", "dns", "geo", "net", "claims"):
        yield name, getattr(found, name)


def milliseconds(found: Findings) -> dict[str, float | None]:
    """The round-trip times by the names that they have in the database."""
    opened = found.opened
    times: dict[str, float | None] = {"read_ms": value_of(found.read)}
    times["write_ms"] = value_of(found.write)
    if isinstance(opened, Opening):
        times |= {
            "dns_ms": opened.dns_s,
            "tcp_ms": opened.tcp_s,
            "tls_ms": opened.tls_s,
            "upgrade_ms": opened.upgrade_s,
        }
    return {name: None if time is None else 1000.0 * time for name, time in times.items()}


def documents(found: Findings) -> dict[MetadataType, Metadata]:
    """What was measured as documents; what changes from one look to the next is not in them."""
    kept: dict[MetadataType, Any] = {
        MetadataType.NIP66_HTTP: value_of(found.http),
        MetadataType.NIP66_GEO: value_of(found.geo),
        MetadataType.NIP66_NET: value_of(found.net),
        MetadataType.CLAIMS: value_of(found.claims),
    }
    if isinstance(found.dns, Measured):
        kept[MetadataType.NIP66_DNS] = found.dns.value.document()
    if isinstance(found.tls, Measured):
        kept[MetadataType.NIP66_SSL] = _secured(found.tls.value)
    metadata = {kind: Metadata(data) for kind, data in kept.items() if data is not None}
    if isinstance(found.nip11, Measured):
        metadata[MetadataType.NIP11] = found.nip11.value.metadata
    return metadata


def _secured(tls: Secured) -> dict[str, Any]:
    document: dict[str, Any] = {
        "valid": tls.is_valid,
        "protocol": tls.protocol,
        "cipher": tls.cipher,
    }
    if not tls.is_valid:
        document["reason"] = tls.reason
    if tls.certificate is not None:
        document |= tls.certificate._asdict()
    return document
