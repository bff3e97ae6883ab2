"""What is shown of an archive: in the room that there is, and nothing of it steers a terminal."""

import json
import time

import msgspec
import pytest
from rich.cells import cell_len

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import json_line
from bigbrotr.models.relay import Relay
from bigbrotr.reads import relays, status
from bigbrotr.reads.relays import Stage
from bigbrotr.reads.status import LastRound
from bigbrotr.reads.where import where
from bigbrotr.view import archive
from tests.view.conftest import HOSTILE, assert_harmless, relay


async def test_what_strangers_wrote(brotr: Brotr, capsys: pytest.CaptureFixture[str]) -> None:
    relay = Relay("wss://relay.example")
    await brotr.insert_relays([relay])
    await brotr.insert_candidates([Relay("wss://candidate.example")], f"list {HOSTILE}")
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET visited_at = 1, outcome = 'closed', detail = $1", HOSTILE
    )
    found = await status.status(brotr, 3600.0)
    archive.print_status(found, f"a database in {HOSTILE}", 4320.0)
    archive.print_where(await where(brotr.pool, bytes(32)))
    report = await relays.report(brotr.pool, relay.url)
    candidate = await relays.candidate(brotr.pool, "wss://candidate.example")
    assert report is not None
    assert candidate is not None
    archive.print_relay(report)
    archive.print_candidate(candidate)
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert "by source: list" in shown
    assert "found 20" in shown
    text = archive.in_json(found)
    assert_harmless(text)
    assert text.isascii()
    plain = json.loads(text)
    assert plain["progress"][0]["detail"] == HOSTILE
    assert f"list {HOSTILE}" in plain["candidate_sources"]
    assert json.loads(archive.in_json(await where(brotr.pool, bytes(32))))["unknown"] == [relay.url]


def test_a_line_of_the_log() -> None:
    line = json_line(0.0, "INFO", "finder", HOSTILE, {"words": HOSTILE})
    assert_harmless(line)
    assert json.loads(line)["words"] == HOSTILE


MANY = [
    relay(0, stage=Stage.COPYING),
    relay(1, stage=Stage.LIVE),
    relay(2, outcome="timeout", detail="no answer to the third question", failures=4),
    relay(3, url=f"wss://{'long.' * 20}example.com", visited_at=None, proven=()),
    *(relay(number) for number in range(4, 12)),
]


def test_whole_urls_where_it_is_no_terminal() -> None:
    lines = [line.plain for line in archive.relay_lines(MANY, None, ways=True)]
    for each, line in zip(MANY, lines[1:], strict=True):
        assert line.startswith(each.url)
    assert lines[0].split() == [
        *("relay", "holds", "gaps", "rejected", "proven", "back", "to", "by", "last", "visit")
    ]
    assert "no answer to the third question" in lines[3]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_the_least_wanted_columns_go_first(width: int) -> None:
    lines = [line.plain for line in archive.relay_lines(MANY, width, ways=True)]
    assert all(cell_len(line) <= width for line in lines), lines
    if width >= 80:
        for each, line in zip(MANY, lines[1:], strict=True):
            assert line.startswith(each.url if len(each.url) < 50 else each.url[:39]), line
        assert "copying now" in lines[1]
        assert "followed live" in lines[2]
    assert ("rejected" in lines[0]) is (width >= 120)


def test_choice_and_order_of_relays() -> None:
    failing = archive.chosen(MANY, is_failing=True)
    assert [each.url for each in failing] == [MANY[2].url]
    assert [each.url for each in archive.chosen(MANY, sort="url")] == sorted(r.url for r in MANY)
    assert archive.chosen(MANY, sort="gaps")[0].gaps == 2
    assert archive.chosen(MANY, sort="failures")[0] == MANY[2]
    assert archive.chosen(MANY)[0] == MANY[0]
    for sort in archive.SORTS:
        assert len(archive.chosen(MANY, sort=sort)) == len(MANY)


def measured(**changes: object) -> LastRound:
    found = LastRound(
        relays=5,
        up=3,
        down=1,
        unchecked=1,
        newest_at=int(time.time()) - 7200,
        since=0,
        checked=4,
        open=3,
        open_ms=35.0,
        readable=2,
        writable=1,
        undelivered=1,
    )
    return msgspec.structs.replace(found, **changes)


def test_what_the_monitor_has_found() -> None:
    first, second = archive.measured_lines(measured(), 4320.0)
    assert first.startswith("monitored 5   up 3   down 1   not checked yet 1   newest check 2 h")
    assert first.endswith(" ago   undelivered 1")
    words = "checked within 1 h 12 min 4   open 3 in 35 ms (median)   readable 2   writable 1"
    assert second == words
    (only,) = archive.measured_lines(measured(up=0, down=0, unchecked=5, newest_at=None), 60.0)
    assert only == "monitored 5   up 0   down 0   not checked yet 5   undelivered 1"
    assert archive.measured_lines(measured(writable=None), 60.0)[1].endswith("writable not tried")
    none = measured(relays=0, undelivered=0)
    assert archive.measured_lines(none, 60.0) == []
