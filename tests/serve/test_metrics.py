"""Metrics: what /metrics serves."""

import asyncio
import re
import urllib.request

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.metrics import METRICS, PREFIX, Sample
from bigbrotr.models.relay import Network, Relay
from bigbrotr.serve import metrics
from tests.kit.processes import Place, until
from tests.kit.promtool import run_promtool
from tests.serve.conftest import OPENMETRICS, Page, parse, read


@pytest.mark.slow
async def test_what_a_running_archive_tells(archive: tuple[Place, str]) -> None:
    place, url = archive
    page: Page = {}

    async def is_told() -> bool:  # metrics of the archive may be some seconds old
        nonlocal page
        page = await asyncio.to_thread(read, url)
        return page.get(("bigbrotr_archive_events", frozenset())) == 40 and {
            "bigbrotr_relays_complete",
            "bigbrotr_candidates",
        } <= {name for name, _ in page}

    await until(is_told, "all that is archived")

    def value(name: str, **labels: str) -> float:
        return page[PREFIX + name, frozenset(labels.items())]

    assert value("database_up") == value("service_state", service="seeder", state="running") == 1
    assert value("archive_pairs") == 40
    assert value("events_received_total") >= 41
    assert value("events_rejected_total", reason="bad id") >= 1
    assert value("relays_complete", network="local") == 1
    assert value("pages_total") >= 1
    assert value("received_bytes_total") > 1000
    spoke = {"service": "validator", "network": "local", "outcome": "speaks-nostr"}
    assert value("connections_total", **spoke) == 1
    assert value("connections_total", **(spoke | {"outcome": "refused"})) >= 1
    assert value("candidates", network="local", state="failing") == 1
    done = [labels for name, labels in page if name == "bigbrotr_connections_total"]
    assert {"synchronizer", "validator"} == {dict(labels)["service"] for labels in done}
    assert value("workers") == 2
    assert value("memory_bytes", process="workers") > value("memory_bytes", process="supervisor")
    assert value("database_size_bytes") > 1e6
    assert value("disk_free_bytes") > 0
    for process in ("supervisor", "workers"):
        assert value("database_uses_total", process=process) > 10
        assert value("database_seconds_total", process=process) > 0
        assert value("database_wait_seconds_total", process=process) >= 0
        for reason in ("pace", "address"):
            assert value("politeness_waits_total", process=process, reason=reason) == 0  # local
    assert value("loop_lag_seconds") < 10
    assert value("service_last_success_timestamp_seconds", service="validator") > 1.7e9
    assert value("backlog", queue="mentions") >= 0
    assert not [labels for _, labels in page if "ws://" in str(labels)]
    assert str(place.data_dir) not in str(page)


async def test_figures_of_the_archive(brotr: Brotr) -> None:
    """Relays wait from the start, an empty archive has no age, and everything is declared."""
    before = {(name, labels): value for name, value, labels in await brotr.metrics()}
    for queue in ("visits", "candidates", "checks", "outbox"):
        assert before["backlog_age_seconds", (queue,)] == 0
    await brotr.insert_relays([Relay("wss://a.example"), Relay("wss://b.example")])
    await brotr.insert_candidates([Relay("wss://c.example")], "seed")
    after = {(name, labels): value for name, value, labels in await brotr.metrics()}
    assert after["relays", ("clearnet", "waiting")] == after["backlog", ("visits",)] == 2
    assert after["candidates", ("clearnet", "new")] == after["backlog", ("candidates",)] == 1
    for name, labels in after:
        assert len(labels) == len(METRICS[name].labels), name
    # Their network is switched off: they are there, but do not wait for a turn.
    off = {(name, labels): value for name, value, labels in await brotr.metrics([Network.TOR])}
    assert off["relays", ("clearnet", "waiting")] == 2
    assert off["candidates", ("clearnet", "new")] == 1
    for queue in ("visits", "candidates", "checks"):
        assert off["backlog", (queue,)] == off["backlog_age_seconds", (queue,)] == 0


def test_page_is_openmetrics() -> None:
    samples = [Sample("gaps", 3, ('a "reason"\n',)), Sample("pages", 7)]
    body, kind = metrics.page(samples, OPENMETRICS)
    text = body.decode()
    assert kind.startswith("application/openmetrics-text")
    page = parse(text)
    assert page["bigbrotr_gaps", frozenset({("reason", 'a "reason"\n')})] == 3
    assert page["bigbrotr_pages_total", frozenset()] == 7
    assert text.endswith("# EOF\n")
    for name, figure in METRICS.items():
        assert f"# TYPE {PREFIX}{name} {figure.kind}\n" in text
        assert not name.endswith("_total")
    with pytest.raises(KeyError):
        metrics.page([Sample("undeclared", 1)])


async def test_plain_text_where_nothing_else_is_asked_for(archive: tuple[Place, str]) -> None:
    """As a person or an older program sees it; Prometheus itself finds no fault with it."""
    _, url = archive

    def plain() -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text: str = answer.read().decode()
            return text

    text = await asyncio.to_thread(plain)
    assert "# EOF" not in text
    assert "# TYPE bigbrotr_events_new_total counter\nbigbrotr_events_new_total 40.0\n" in text
    for name in ("resident_memory_bytes", "open_fds", "cpu_seconds_total", "start_time_seconds"):
        assert re.search(rf"(?m)^process_{name} [0.]*[1-9]", text), name
    run_promtool("check", "metrics", stdin=text)
