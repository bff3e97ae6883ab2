"""The fuzz, a small part of it; and that it finds what there is to find."""

import pytest

from bigbrotr.models import event
from bigbrotr.services.sync import ingest
from tests.bench import fuzz

FRAMES = 1_500


@pytest.mark.slow
def test_nothing_is_accepted_but_what_was_signed() -> None:
    found = fuzz.run(FRAMES)
    assert found.wrong == []
    assert found.accepted > FRAMES // 5
    assert sum(map(bool, found.outcomes.values())) > 12
    for outcome in ("bad id", "bad signature", "malformed", "too large"):
        assert found.outcomes[f"rejected: {outcome}"] > 0
    again = fuzz.run(FRAMES)
    assert again.outcomes == found.outcomes
    assert fuzz.run(FRAMES, seed=2).outcomes != found.outcomes


@pytest.mark.slow
def test_what_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(event, "is_signed", lambda *_: True)
        assert fuzz.measure(FRAMES, 1) == 1
        assert "accepted, and not signed" in capsys.readouterr().out
    monkeypatch.setattr(ingest, "claimed_time", lambda _: 1 // 0)
    assert any("ZeroDivisionError" in words for words in fuzz.run(FRAMES).wrong)
