"""Events to try whether a relay takes any."""

import json

import pytest

from bigbrotr.nostr.auth import Throwaway
from bigbrotr.services.monitor.trial import make_trial
from tests.kit.events import is_valid


@pytest.mark.parametrize("bits", [0, 8, 12])
def test_trials_carry_the_work_that_was_asked_for(bits: int) -> None:
    trial = make_trial(Throwaway(), 1_700_000_000, bits, is_protected=True)
    event = json.loads(trial.event)
    assert is_valid(event)
    assert trial.event_id == event["id"]
    assert int(event["id"], 16) < 1 << 256 - bits
    assert ["-"] in event["tags"]
    with pytest.raises(ValueError, match="200 bits"):
        make_trial(Throwaway(), 0, 200)
