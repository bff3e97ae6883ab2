"""What follows from what the checks of a relay found."""

from typing import Any

import pytest

from bigbrotr.models.check import Failed, Measured
from bigbrotr.net.connect import Failure, Unreached
from bigbrotr.services.monitor.probe import Opening
from bigbrotr.services.monitor.verdict import Findings, Verdict, failures, judge


def unreached(failure: Failure) -> Findings:
    return Findings(Unreached(failure, "words"))


@pytest.mark.parametrize(
    ("failure", "first", "second"),
    [
        (Failure.TIMEOUT, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.SLOW, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.UNREACHABLE, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.NO_NAME, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.OFFLINE, Verdict.SUSPECT, Verdict.DOWN),
        (Failure.REFUSED, Verdict.DOWN, Verdict.DOWN),
        (Failure.TLS_EXPIRED, Verdict.DOWN, Verdict.DOWN),
        (Failure.NOT_WEBSOCKET, Verdict.DOWN, Verdict.DOWN),
        (Failure.PROXY, Verdict.VOID, Verdict.VOID),
        (Failure.BUSY, Verdict.VOID, Verdict.VOID),
        (Failure.RESTING, Verdict.VOID, Verdict.VOID),
        (Failure.OPTED_OUT, Verdict.SPARED, Verdict.SPARED),
        (Failure.RATE_LIMITED, Verdict.SPARED, Verdict.SPARED),
    ],
)
def test_what_failures_mean(failure: Failure, first: Verdict, second: Verdict) -> None:
    found = unreached(failure)
    assert judge(found, is_down=False, is_suspect=False) == (first, failure.value, "words")
    assert judge(found, is_down=False, is_suspect=True).verdict is second
    assert judge(found, is_down=True, is_suspect=False).verdict is second


@pytest.mark.parametrize(
    ("read", "is_challenged", "verdict"),
    [
        (Measured(0.1), False, Verdict.UP),
        (Failed("restricted", "members only"), False, Verdict.UP),
        (Failed("no-answer"), False, Verdict.SUSPECT),
        (Failed("lost"), False, Verdict.SUSPECT),
        (Failed("no-answer"), True, Verdict.UP),
    ],
)
def test_what_answers_mean(read: Any, is_challenged: bool, verdict: Verdict) -> None:
    found = Findings(Opening(None, 0.1, None, 0.1), is_challenged, read)
    assert judge(found, is_down=False, is_suspect=False).verdict is verdict
    assert failures(found) == ({"read": read.reason} if isinstance(read, Failed) else {})
