"""`bigbrotr stats`: figures for people, programs and spreadsheets."""

import csv
import json

import pytest

from bigbrotr.reads.statistics import STATISTICS
from tests.cli.conftest import EVENTS
from tests.kit.processes import Place


async def test_what_there_is(archive: Place) -> None:
    done = await archive.call("stats")
    assert done.code == 0
    assert all(name in done.out for name in STATISTICS)
    done = await archive.call("stats", "--json")
    assert [each["name"] for each in json.loads(done.out)] == list(STATISTICS)


@pytest.mark.slow
async def test_figures_in_each_form(archive: Place) -> None:
    for name in STATISTICS:
        done = await archive.call("stats", name, "--csv")
        assert (done.code, done.err) == (0, "")
        header, *rows = csv.reader(done.out.splitlines())
        assert tuple(header) == STATISTICS[name].columns
        found = json.loads((await archive.call("stats", name, "--json")).out)
        assert len(found) == len(rows)
    async with archive.look() as connection:
        days = await connection.fetchval("SELECT count(*) FROM bigbrotr.day_totals")
    assert days in (0, 1)  # the service may not have come to it before the archive was stopped
    done = await archive.call("stats", "days", "--since", "2020-01-01", "--limit", "5")
    assert done.code == 0
    assert done.out.split()[:4] == ["day", "events", "pairs", "held"]
    assert len(EVENTS) > days


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["weather"], "invalid choice"),
        (["days", "--json", "--csv"], "--json or --csv, not both"),
        (["nips", "--since", "2024-01-01"], "not by day"),
    ],
)
async def test_what_is_wrong_is_told(archive: Place, options: list[str], words: str) -> None:
    done = await archive.call("stats", *options)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
