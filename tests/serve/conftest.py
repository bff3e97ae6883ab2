"""What the tests of what is served share: a running archive, and its page of metrics."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.kit.events import make_event
from tests.kit.processes import Place, until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

EVENTS = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]


OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Page:
    """The samples of a page by name and labels; strictly, as OpenMetrics."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }


def read(url: str) -> Page:
    asked = urllib.request.Request(f"{url}/metrics", headers={"Accept": OPENMETRICS})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        return parse(answer.read().decode())


@pytest.fixture(scope="package")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Place, str]]:
    """A running archive of one relay, and where it serves."""
    port = free_port()
    bad = make_event(1_600_000_100, content="tampered with")
    async with ScriptedRelay([*EVENTS, bad | {"content": "by hand"}]) as relay:
        more = f'[web]\nlisten = "127.0.0.1:{port}"\n'
        dead = f"ws://127.0.0.1:{free_port()}"
        place = Place(
            tmp_path_factory.mktemp("archive") / "place", [relay.url, dead], more=more, workers=2
        )
        async with place.start() as running:
            await running.says("ready")
            url = f"http://127.0.0.1:{port}"

            async def is_copied() -> bool:
                page = await asyncio.to_thread(read, url)
                return page.get(("bigbrotr_events_new_total", frozenset()), 0) == 40

            await until(is_copied, "the copy")
            yield place, url
            assert await running.end() == 0
