"""Pages of relays: which stand there is asked each time, what is shown of one once a moment."""

import time

import asyncpg
import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.reads import relay_list, relays
from bigbrotr.reads.relay_list import RelayFilter, RelayList
from bigbrotr.reads.relays import BEGINNING
from tests.kit.served import fill, fill_events

ANY = RelayFilter()


async def test_what_is_shown_of_a_relay_is_read_once_a_moment(brotr: Brotr) -> None:
    urls = await fill(brotr)
    patient, eager = RelayList(brotr.pool, fresh_s=1000), RelayList(brotr.pool, fresh_s=0)
    first = await patient.page(ANY, "holds", None, 3)
    assert first == await eager.page(ANY, "holds", None, 3)
    assert [row.holds for _, row in first] == [60, 60, 60]
    await brotr.pool.execute("UPDATE bigbrotr.tallies SET pairs = relay_id, events = 77")
    for reader, is_new in ((patient, False), (eager, True)):
        (_, row), *_ = await reader.page(ANY, "holds", None, 3)
        assert row.url == urls[-1]  # found by what is true now
        again = {row.url: row for _, row in await reader.page(ANY, "url", None, 100)}
        for _, before in first:
            assert (again[before.url].brought == 77) is is_new
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", urls[0])
    for reader in (patient, eager):
        assert [row.url for _, row in await reader.page(ANY, "url", None, 100)] == urls[1:]


async def test_memory_has_a_bound(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = await fill(brotr)
    monkeypatch.setattr(relay_list, "MOST_KEPT", 12)
    reader = RelayList(brotr.pool, fresh_s=1000)
    found: list[str] = []
    after = None
    while page := await reader.page(ANY, "url", after, 5):
        found += [row.url for _, row in page]
        after = page[-1][0]
        assert len(reader._rows) <= 12
    assert found == urls


async def test_sums_are_those_of_the_relays_own_pages(brotr: Brotr) -> None:
    """Uptime, coverage and what a relay alone holds; again when something has changed."""
    urls = await fill(brotr)
    await fill_events(brotr)  # makes the sums as well
    now = int(time.time())
    whole = now - BEGINNING
    reader = RelayList(brotr.pool, fresh_s=0)
    async with brotr.pool.acquire() as connection:
        await connection.execute(
            "UPDATE bigbrotr.coverage SET proven = $1 WHERE relay_id = 1",
            [asyncpg.Range(0, BEGINNING + whole // 4), asyncpg.Range(now - whole // 4, None)],
        )
        await connection.execute(
            "UPDATE bigbrotr.rtts SET checked_at = $1::bigint - n.back"
            " FROM (SELECT x.relay_id, x.checked_at, 60 * row_number() OVER () AS back"
            "  FROM bigbrotr.rtts x) AS n"
            " WHERE n.relay_id = rtts.relay_id AND n.checked_at = rtts.checked_at",
            now,
        )
    before = {row.url: row for _, row in await reader.page(ANY, "url", None, 100)}
    assert await brotr.sum_relays(BEGINNING, now - 900, now) == 0  # nothing has happened to them
    await brotr.pool.execute("UPDATE bigbrotr.checks SET checked_at = $1", now + 1)
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET visited_at = $1, outcome = CASE WHEN relay_id > 20"
        " THEN 'live' ELSE 'complete' END WHERE relay_id IN (1, 21)",
        now + 1,
    )
    made = 0
    while number := await brotr.sum_relays(BEGINNING, now - 900, now + 2, 7):
        assert number <= 7 + 1
        made += number
    checked = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.checks")
    assert made == checked + 1  # of one that is followed, the coverage is not summed up so soon
    assert checked < len(urls)
    rows = {row.url: row for _, row in await reader.page(ANY, "url", None, 100)}
    assert rows != before
    for url in urls:
        report = await relays.report(brotr.pool, url, days=30)
        assert report is not None
        row = rows[url]
        assert row.alone == report.alone
        if row.checked_at is not None:
            assert row.uptime == pytest.approx(report.uptime.uptime, rel=0.01)
    assert rows[urls[0]].coverage == pytest.approx(0.5, abs=0.001)
    assert sum(row.alone or 0 for row in rows.values()) == await relays.alone(brotr.pool) > 0
    assert {row.uptime for row in rows.values()} >= {0.0, 1.0}
    for sort in ("uptime", "coverage", "alone"):
        found = [row for _, row in await reader.page(ANY, sort, None, 100)]
        values = [-1 if (value := getattr(row, sort)) is None else value for row in found]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) > 1
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", urls[0])
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.relay_sums") == len(urls) - 1
