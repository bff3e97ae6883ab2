"""What is shown: in the room that there is, and nothing of it steers a terminal."""

import io
import json
import time

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.upkeep import Totals
from bigbrotr.core.logger import json_line
from bigbrotr.models.relay import Relay
from bigbrotr.reads import relays, status
from bigbrotr.reads.relays import Counts, RelayProgress, Stage, Way
from bigbrotr.reads.status import LastRound
from bigbrotr.reads.where import where
from bigbrotr.runner import State
from bigbrotr.view import archive, panel
from bigbrotr.view.table import Column, lay_out
from bigbrotr.view.words import due_in, duration, moment, roughly, stretch

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


# Tables


def relay(number: int, **changes: object) -> RelayProgress:
    """One of many relays."""
    progress = RelayProgress(
        url=f"wss://relay-number-{number}.somewhere.example.com",
        network="clearnet",
        stage=Stage.WAITING,
        discovered_at=1_700_000_000,
        holds=12_345_678 // (number + 1),
        brought=5,
        gaps=number % 3,
        rejected=number % 2,
        withheld=0,
        due_at=int(time.time()) + 60,
        visited_at=int(time.time()) - 300,
        outcome="complete",
        detail="",
        failures=0,
        retired_at=None,
        filter="",
        identity=None,
        proven=((1_600_000_000, 1_700_000_000),),
        ways={"paging": Way(((1_600_000_000, 1_700_000_000),), 1_700_000_000, 1_700_000_000)},
        nip77=None,
        nip77_tried_at=None,
    )
    return msgspec.structs.replace(progress, **changes)


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


def test_a_table_of_wide_characters() -> None:
    columns = [
        Column("name", ["\u65e5\u672c\u8a9e", "b"], least=4),
        Column("n", ["1", "22"], is_number=True),
    ]
    wide = [line.plain for line in lay_out(columns, None)]
    assert wide == ["name     n", "\u65e5\u672c\u8a9e   1", "b       22"]
    narrow = [line.plain for line in lay_out(columns, 8)]
    assert narrow == ["name   n", "\u65e5 \u2026   1", "b     22"]


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


def test_words() -> None:
    assert moment(1_769_817_600) == "2026-01-31 00:00:00 UTC"
    assert moment(2**60) == str(2**60)
    assert duration(3 * 86400 + 7200 + 5) == "3 d 2 h"
    assert duration(0) == "0 s"
    assert due_in(int(time.time()) - 5) == "now"
    assert due_in(int(time.time()) + 3700) == "in 1 h 1 min"
    assert stretch((0, None)) == "the beginning to now"
    assert [roughly(n) for n in (7, 99, 1234, 345_678, 2_345_678)] == [
        *("7", "99", "1,200", "350,000", "2.3 million")
    ]


# The panel


PICTURE = panel.Picture(
    profile="lite",
    up_s=754.0,
    services=(
        panel.Service("seeder", State.RUNNING),
        panel.Service("finder", State.RUNNING),
        panel.Service("validator", State.RUNNING, "this machine seems to be offline"),
        panel.Service("monitor", State.RUNNING, "this machine seems to be offline"),
        panel.Service("publisher", State.RUNNING),
        panel.Service("synchronizer", State.RESTARTING, "the database is gone"),
        panel.Service("maintenance", State.RUNNING),
    ),
    totals=Totals(1234, 56_789, 12_345_678, 23_456_789, 12, 3456),
    counts=Counts(1200, 340, 45, 20, 67, 4_567_890),
    new_per_s=1234.5,
    pairs_per_s=2000.0,
)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
def test_the_panel_fits(width: int, height: int) -> None:
    rows = panel.rows_of(height)
    shown = [relay(n, stage=Stage.COPYING if n < 3 else Stage.WAITING) for n in range(rows)]
    out = io.StringIO()
    console = Console(file=out, width=width, height=height)
    console.print(panel.draw(msgspec.structs.replace(PICTURE, relays=tuple(shown)), width))
    lines = out.getvalue().splitlines()
    assert len(lines) <= height - 4  # the log's newest lines are seen as well
    assert all(cell_len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert_harmless(text)
    for words in (
        "bigbrotr  lite  up 12 min 34 s",
        "running    seeder finder validator monitor publisher maintenance",
        "restarting synchronizer",
        "validator, monitor: this machine seems to be offline",
        "synchronizer: the database is gone",
        "complete 340 of 1,200",
        "copying now",
        f"and {1234 - rows:,} more relays",
        *(each.url for each in shown),
    ):
        assert words in text, words
    assert "about 4.6 million left to copy: 38 min 3 s at this pace" in text
    assert "1,234 new events/s" in text or "1,235 new events/s" in text


def test_the_panel_before_there_is_a_database() -> None:
    bare = panel.Picture(
        profile="full",
        up_s=2,
        services=(panel.Service("seeder", State.STARTING),),
        doing="starting",
    )
    out = io.StringIO()
    Console(file=out, width=80).print(panel.draw(bare, 80))
    assert "bigbrotr  full  up 2 s  starting" in out.getvalue()
    assert "starting   seeder" in out.getvalue()


def test_pace() -> None:
    samples = [panel.Moment(float(at), 10 * at, 100 * at) for at in range(30)]
    assert panel.rates(samples, 10.0) == (10.0, 100.0)
    assert panel.rates(samples[:1], 10.0) == panel.rates([], 10.0) == (0.0, 0.0)


async def test_how_far_all_relays_are(brotr: Brotr) -> None:
    """What is complete, what is left: in proportion to the time that is proven."""
    now = int(time.time())
    urls = [f"wss://relay{n}.example" for n in range(3)]
    await brotr.insert_relays([Relay(url) for url in urls])
    assert await relays.counts(brotr.pool) == Counts(3, 0, 0, 0, 0, 0)
    await brotr.pool.execute("UPDATE bigbrotr.visits SET until = $1", now)
    middle = (now + relays.BEGINNING) // 2
    for url, since in ((urls[0], 0), (urls[1], middle)):
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at) SELECT id, 'paging',"
            " int8multirange(int8range($2, $3)), $3 FROM bigbrotr.relays WHERE url = $1",
            url,
            since,
            now,
        )
        await brotr.pool.execute(
            "UPDATE bigbrotr.tallies SET pairs = 1000"
            " FROM bigbrotr.relays WHERE id = relay_id AND url = $1",
            url,
        )
    assert await relays.counts(brotr.pool) == Counts(3, 1, 0, 0, 0, 1000)
    await brotr.pool.execute("UPDATE bigbrotr.visits SET owner = 'me'")
    assert (await relays.counts(brotr.pool)).copying == 3
    first, *_ = await relays.progress(brotr.pool, 1, is_active_first=True)
    assert (first.stage, first.holds) == (Stage.COPYING, 1000)
    assert (await relays.due(brotr.pool)).visits is not None
    assert await relays.counts(brotr.pool, []) == Counts(0, 0, 0, 0, 0, 0)
