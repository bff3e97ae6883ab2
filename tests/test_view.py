"""What is shown of what strangers wrote: nothing of it steers a terminal or forges a line."""

import json

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import json_line
from bigbrotr.models.relay import Relay
from bigbrotr.view import in_json, print_status, print_where, state, where

# C0, DEL, C1 (with CSI as one byte), what turns the direction of text, what has no width, what ends
# a line for some, and what is no character.
HOSTILE = (
    "a\x1b[2J\x7f\x85\x9b31m\u00ad\u061c\u200b\u200e\u202e\u2028\u2029\u2066\u2069\ufeff\U000e0041b"
)
PASSING = {" ", "\n"}


def assert_harmless(text: str) -> None:
    assert text
    assert all(each.isprintable() or each in PASSING for each in text), repr(text)


async def test_what_strangers_wrote(brotr: Brotr, capsys: pytest.CaptureFixture[str]) -> None:
    relay = Relay("wss://relay.example")
    await brotr.insert_relays([relay])
    await brotr.insert_candidates([Relay("wss://candidate.example")], f"list {HOSTILE}")
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET visited_at = 1, outcome = 'closed', detail = $1", HOSTILE
    )
    await print_status(brotr, f"a database in {HOSTILE}", 3600.0)
    await print_where(brotr, bytes(32))
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert "by source: list" in shown.replace("\n", " ")
    text = in_json(await state(brotr, 3600.0))
    assert_harmless(text)
    assert text.isascii()
    found = json.loads(text)
    assert found["progress"][0]["detail"] == HOSTILE
    assert f"list {HOSTILE}" in found["candidate_sources"]
    assert json.loads(in_json(await where(brotr, bytes(32))))["unknown"] == [{"relay": relay.url}]


def test_a_line_of_the_log() -> None:
    line = json_line(0.0, "INFO", "finder", HOSTILE, {"words": HOSTILE})
    assert_harmless(line)
    assert json.loads(line)["words"] == HOSTILE
