"""What is told of relays that fail: new reasons by name, the same ones once an hour."""

import pytest

from bigbrotr.core import reasons
from bigbrotr.core.reasons import Reasons, Trouble


def test_each_reason_with_a_relay_or_two() -> None:
    told = Reasons()
    some = [Trouble("timeout", f"wss://{n}.example", "no answer" if n else "") for n in range(5)]
    words = told.words([*some, Trouble("refused", "wss://r.example")])
    assert (
        words == "timeout: wss://0.example, wss://1.example (no answer); refused: wss://r.example"
    )
    assert told.words(some) == "timeout: wss://2.example (no answer), wss://3.example (no answer)"
    assert told.words(some) == "timeout: wss://4.example (no answer)"
    assert told.words(some) == ""
    assert told.words([Trouble("refused", "wss://0.example")]) == "refused: wss://0.example"


def test_again_after_a_while_and_not_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Reasons()
    trouble = [Trouble("timeout", "wss://a.example")]
    assert told.words(trouble)
    assert not told.words(trouble)
    monkeypatch.setattr(reasons, "AGAIN_S", 0.0)
    assert told.words(trouble)
    monkeypatch.setattr(reasons, "REMEMBERED", 3)
    for number in range(10):
        told.words([Trouble("timeout", f"wss://{number}.example")])
    assert len(told._told) == 3
