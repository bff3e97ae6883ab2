"""Pages of relays: which stand there is asked each time, what is shown of one once a moment."""

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.reads import relay_list
from bigbrotr.reads.relay_list import RelayFilter, RelayList
from tests.kit.served import fill

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
