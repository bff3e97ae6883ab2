"""The panel of a run: it fits the terminal, and says how far everything is."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from bigbrotr.config.settings import Config, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.maintenance import Totals
from bigbrotr.reads import status
from bigbrotr.reads.relays import Counts, Stage
from bigbrotr.runner import State
from bigbrotr.supervisor import Supervisor
from bigbrotr.view import panel
from tests.view.conftest import assert_harmless, relay

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


async def test_a_run_that_ends_while_it_is_looked_at(
    brotr: Brotr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(Config(), Profile.FULL, tmp_path)
    supervisor.brotr = brotr
    really = status.totals

    async def totals(asked: Brotr) -> Totals:
        found = await really(asked)
        await asked.pool.close()
        return found

    monkeypatch.setattr(status, "totals", totals)
    assert (await panel.Panel(supervisor).look(5)).totals is None
