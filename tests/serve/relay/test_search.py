"""Searches by words (NIP-50) through the relay and the API, where there is an index, or is none."""

import json
from collections.abc import AsyncIterator

import pytest

from bigbrotr.cli import parser
from bigbrotr.cli.events import query_of
from bigbrotr.config.settings import Config, Profile, SearchSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.nip11 import Nip11
from bigbrotr.models.search import Search as Words
from bigbrotr.net.timed_socket import keep_stamps
from bigbrotr.reads import events as reading
from bigbrotr.services.monitor.claims import compare
from bigbrotr.services.search import Search
from tests.kit.events import NOW, verified
from tests.serve.relay.client import client_of, newest_first, relay_of, store
from tests.serve.relay.test_document import document
from tests.services.monitor.contact import contact

EVENTS = [
    verified(
        f"{'odd' if n % 2 else 'even'} Wörter {n} 東京タワー", kind=n % 3 and 1, created_at=NOW + n
    )
    for n in range(30)
]
NOTES = [event for event in EVENTS if event.kind == 1]


@pytest.fixture(autouse=True)
def _looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SEARCH_FRESH_S", -1.0)


@pytest.fixture
async def search(brotr: Brotr) -> AsyncIterator[Search]:
    config = Config(search=SearchSettings(enabled=True))
    async with Search(brotr, context=Context(config)) as made:
        yield made


async def test_the_relay_searches(brotr: Brotr, dsn: str, search: Search) -> None:
    await store(brotr, EVENTS)
    await search.run()
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert 50 in (await document(place))["supported_nips"]
        odd = newest_first(event for event in NOTES if "odd" in event.content)
        assert await client.stored({"search": "ODD wörter"}) == (odd, ["finish"])
        assert await client.stored({"search": '"odd WÖRTER" -5', "limit": 3}) == (
            [each for each in odd if each != EVENTS[5].id.hex()][:3],
            ["more"],
        )
        assert await client.stored({"search": "タワー", "kinds": [1, 7]}, {"search": "odd"}) == (
            newest_first(NOTES),
            ["finish"],
        )
        ids = [event.id.hex() for event in EVENTS]
        assert await client.stored({"search": "odd language:en", "ids": ids}) == (odd, ["finish"])
        # Extensions alone ask for nothing in particular.
        assert (await client.stored({"search": "include:spam"}))[0] == newest_first(EVENTS)
        counted = await client.ask("COUNT", "n", {"search": "odd"})
        assert counted == ["COUNT", "n", {"count": len(odd)}]
        refused = await client.ask("NEG-OPEN", "n", {"search": "odd"}, "6100000200")
        assert refused[0] == "NEG-ERR"
        assert refused[2].startswith("invalid: ")
        # Half a character of UTF-16 is in no word.
        assert await client.stored({"search": "\ud800odd\x00"}) == (odd, ["finish"])
        # What comes is looked at as well.
        await client.say("REQ", "live", {"search": "new -old", "limit": 0})
        assert (await client.hear())[:2] == ["EOSE", "live"]
        old, new = verified("new and old"), verified("NEW!")
        await store(brotr, [old, new])
        assert (await client.hear())[2]["id"] == new.id.hex()


async def test_without_an_index_a_search_is_not_supported(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert 50 not in (await document(place))["supported_nips"]
        for kind in ("REQ", "COUNT"):
            answer = await client.ask(kind, "s", {"search": "odd"})
            assert answer == ["CLOSED", "s", "unsupported: this archive has no index of words"]


async def test_our_monitor_sees_that_it_searches(brotr: Brotr, dsn: str, search: Search) -> None:
    await store(brotr, EVENTS)
    await search.run()
    async with relay_of(dsn) as place:
        claimed = Nip11.parse(json.dumps(await document(place)).encode())
        with keep_stamps():
            async with await contact(place.url) as met:
                await met.read(5.0)
                claims = await compare(met, claimed, 5.0)
    assert claims["nips"]["50"]["claimed"] is True
    assert claims["nips"]["50"]["seen"] in (True, None)


async def test_the_api_searches(brotr: Brotr, dsn: str, search: Search) -> None:
    await store(brotr, EVENTS)
    async with relay_of(dsn) as place:
        refused = (await place.server.get("events?search=odd", status=400)).json
        assert "no index of words" in refused["detail"]
        assert (await place.server.get("counts?search=odd", status=400)).json["parameter"] == (
            "search"
        )
        await search.run()
        odd = newest_first(event for event in NOTES if "odd" in event.content)
        found = await place.server.all("events?search=odd%20-7", 4)
        assert [each["id"] for each in found] == [
            each for each in odd if each != EVENTS[7].id.hex()
        ]
        counted = (await place.server.get("counts?search=odd&kind=1")).json
        assert counted == {"count": len(odd), "approximate": False}
        lines = await place.server.stream("events?search=%22odd%20w%C3%B6rter%22&since=0")
        assert [each["id"] for each in lines] == odd
        long = (await place.server.get(f"events?search={'+'.join('a' * 1001)}", status=400)).json
        assert long["parameter"] == "search"


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_contents_does_not_search(dsn: str) -> None:
    async with relay_of(dsn) as place:
        assert (await document(place))["supported_nips"] == [11, 45, 77]


def test_the_terminal_takes_words() -> None:
    options = parser().parse_args(["events", "--search", 'odd "a b" -c', "--kind", "1"])
    query = query_of(options)
    assert query.search == Words.parse('odd "a b" -c')
    assert query.kinds == frozenset([1])
