"""The API: what it answers about an archive, page by page and as a stream."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any, get_args
from urllib.parse import quote

import pytest

from bigbrotr.config.settings import Profile, ServeLimits
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Relay
from bigbrotr.reads.relay_list import RelaySort
from bigbrotr.reads.statistics import STATISTICS
from bigbrotr.serve.api import RESOURCES
from bigbrotr.serve.resource import Many
from bigbrotr.serve.service import Answer, Fresh
from bigbrotr.services.statistics import Statistics
from tests.conftest import Filling
from tests.kit.archive import BOTH
from tests.kit.events import NOW, make_event, pubkey
from tests.kit.served import RELAYS, Served, fill, served

DAY = 86_400
RELAY = "wss://relay1.example.com"
SORTS = list(get_args(RelaySort))


@pytest.fixture
def filling(request: pytest.FixtureRequest) -> Filling | None:
    return fill if "urls" in request.fixturenames else None


@pytest.fixture
def urls(filled: list[str]) -> list[str]:
    return filled


@pytest.fixture
async def api(dsn: str, urls: list[str]) -> AsyncIterator[Served]:
    """The API of an archive in which there is something."""
    async with served(dsn) as found:
        yield found


@pytest.mark.parametrize("sort", SORTS)
async def test_relays_page_by_page(api: Served, urls: list[str], sort: str) -> None:
    """Every relay once, in order, whatever the page's size; and the same as a stream."""
    whole = (await api.get(f"relays?sort={sort}&limit=1000")).json
    assert whole["next"] is None
    assert sorted(item["url"] for item in whole["items"]) == urls
    for size in (1, 7, RELAYS - 1, RELAYS):
        assert await api.all(f"relays?sort={sort}", size) == whole["items"]
    assert await api.stream(f"relays?sort={sort}") == whole["items"]
    assert await api.stream(f"relays?sort={sort}&limit=9") == whole["items"][:9]

    def rank(item: dict[str, Any]) -> tuple[float, str]:
        value = item[sort]
        if sort == "url":
            return 0, item["url"]
        if sort == "open_ms":
            return (1e12 if value is None else value), item["url"]
        return -(value or 0), item["url"]

    assert whole["items"] == sorted(whole["items"], key=rank)


async def test_a_relay_in_the_list(api: Served, brotr: Brotr) -> None:
    number = await brotr.pool.fetchval("SELECT id FROM bigbrotr.relays WHERE url = $1", RELAY)
    assert number == 2  # by URL: relay0, relay1, relay10, …
    (item,) = (await api.get("relays?text=RELAY1.example")).json["items"]
    assert item == {
        "url": RELAY,
        "network": "clearnet",
        "stage": "waiting",
        "state": "up",
        "since": NOW - 100,
        "checked_at": NOW + 2,
        "discovered_at": NOW + 1,
        "holds": 20,
        "brought": 2,
        "name": "Relay 2",
        "software": "git+https://x/strfry.git",
        "version": "1.0",
        "nips": [1, 11],  # what else stood in the document is none
        "country": None,
        "open_ms": 37.1,
        "read_ms": 30.25,
        "uptime": None,  # nothing has been summed up
        "coverage": None,
        "alone": None,
    }


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("state=down", lambda item: item["state"] == "down"),
        ("state=up,unknown", lambda item: item["state"] in ("up", "unknown")),
        ("state=up&state=unknown", lambda item: item["state"] in ("up", "unknown")),
        ("network=clearnet,tor", lambda _: True),
        ("network=tor", lambda _: False),
        ("stage=waiting", lambda _: True),
        ("stage=live", lambda _: False),
        ("country=de", lambda item: item["country"] == "DE"),
        ("software=STRFRY", lambda item: item["software"] is not None),
        ("nip=77", lambda item: 77 in (item["nips"] or ())),
        ("nip=1,11", lambda item: {1, 11} <= set(item["nips"] or ())),
        ("text=relay%202", lambda item: (item["name"] or "").startswith("Relay 2")),
        ("state=up&nip=77&sort=holds", lambda i: i["state"] == "up" and 77 in (i["nips"] or ())),
    ],
)
async def test_conditions_on_relays(api: Served, query: str, condition: Any) -> None:
    every = (await api.get("relays?limit=1000")).json["items"]
    wanted = [item["url"] for item in every if condition(item)]
    assert len(wanted) < RELAYS or query.startswith(("network", "stage"))
    found = await api.all(f"relays?{query}", 4)
    assert sorted(item["url"] for item in found) == sorted(wanted)


async def test_one_relay(api: Served) -> None:
    """By its URL, or without the scheme of most; no figure of the operator's is in it."""
    found = (await api.get(f"relays/{quote(RELAY, safe='')}")).json
    assert found == (await api.get("relays/relay1.example.com")).json
    assert (found["url"], found["state"], found["holds"]) == (RELAY, "up", 20)
    assert found["documents"]["nip11"]["data"]["name"] == "Relay 2"
    assert found["uptime"]["days"] == 30
    assert {"identity", "owner", "detail", "due_at"}.isdisjoint(found)
    other = (await api.get("relays/relay0.example.com")).json
    assert (other["gaps"], len(other["ways"])) == (15, 2)
    problem = (await api.get("relays/relay.example.net", status=404)).json
    assert problem["type"] == "/api/v1/#problem-not-found"
    problem = (await api.get("relays/http%3A%2F%2Fx", status=400)).json
    assert problem["parameter"] == "relay"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("relays/relay0.example.com/rtts", 30),
        ("relays/relay0.example.com/documents", 10),
        ("relays/relay0.example.com/coverage", 15),
        ("relays/relay0.example.com/gaps", 15),
        ("candidates", RELAYS),
    ],
)
async def test_lists_page_by_page(api: Served, path: str, number: int) -> None:
    whole = (await api.get(f"{path}?limit=1000")).json["items"]
    assert len(whole) == number
    for size in (1, 4, number - 1, number):
        assert await api.all(path, size) == whole
    assert await api.stream(path) == whole


async def test_conditions_on_what_a_relay_has(api: Served) -> None:
    rtts = (await api.get("relays/relay0.example.com/rtts")).json["items"]
    assert [item["checked_at"] for item in rtts] == [NOW + 1 - 60 * n for n in range(30)]
    assert rtts[0]["open_ms"] == 36.1
    middle = rtts[10]["checked_at"]
    later = await api.all(f"relays/relay0.example.com/rtts?since={middle}", 3)
    earlier = await api.all(f"relays/relay0.example.com/rtts?until={middle}", 3)
    assert later + earlier == rtts
    gaps = (await api.get("relays/relay0.example.com/gaps?reason=full")).json["items"]
    assert len(gaps) == 10
    first = (await api.get("relays/relay0.example.com/gaps?limit=1")).json["items"][0]
    assert (first["since"], first["until"]) == (None, 600)
    proofs = (await api.get("relays/relay0.example.com/coverage?how=finish")).json["items"]
    assert [proof["proven"] for proof in proofs[:2]] == [[[1000, 1500]], [[3000, 3500]]]
    documents = await api.all("relays/relay0.example.com/documents?type=nip11", 4)
    assert len(documents) == 10
    assert await api.all("relays/relay0.example.com/documents?type=nip66_dns", 4) == []
    claims = (await api.get("relays/relay12.example.com/claims")).json
    assert claims["nips"] == {"77": {"claimed": True, "seen": False}}
    assert claims["max_limit"] == {"claimed": 500, "seen": None}
    for name in ("rtts", "documents", "coverage", "gaps", "uptime", "claims"):
        await api.get(f"relays/relay.example.net/{name}", status=404)


async def test_conditions_on_candidates(api: Served, brotr: Brotr) -> None:
    await brotr.pool.execute(
        "UPDATE bigbrotr.candidates SET outcome = 'timeout', alias_of = 1 WHERE url LIKE '%e1%'"
    )
    failed = await api.all("candidates?outcome=timeout", 3)
    assert failed
    assert failed == await api.all("candidates?alias=true", 3)
    assert failed[0]["alias_of"] == "wss://relay0.example.com"
    assert len(await api.all("candidates?alias=false", 3)) + len(failed) == RELAYS
    assert len(await api.all("candidates?source=seed", 7)) == RELAYS
    assert await api.all("candidates?text=date24.", 7) == await api.all(
        "candidates?text=DATE24.", 7
    )


@BOTH
async def test_where_an_event_is(brotr: Brotr, dsn: str) -> None:
    event = Event.from_object(make_event(NOW, content="somewhere"))
    await brotr.insert_events([EventRelay(event, Relay(RELAY), NOW)])
    await brotr.insert_relays([Relay("wss://other.example.com")])
    async with served(dsn) as api:
        found = (await api.get(f"events/{event.id.hex()}/where")).json
        assert found["is_archived"]
        assert [each["relay"] for each in found["present"]] == [RELAY]
        assert found["unknown"] == ["wss://other.example.com"]
        none = (await api.get(f"events/{64 * '0'}/where")).json
        assert not none["is_archived"]
        problem = (await api.get("events/nsec1abc/where", status=400)).json
        assert "private key" in problem["detail"]
        status = (await api.get("status")).json
        assert (status["events"], status["pairs"], status["relays"]) == (1, 1, 2)


async def test_status_is_made_once_for_all(api: Served, brotr: Brotr) -> None:
    first = (await api.get("status")).json
    assert (first["relays"], first["candidates"], first["profile"]) == (RELAYS, RELAYS, "full")
    await brotr.insert_relays([Relay("wss://another.example.com")])
    assert (await api.get("status")).json == first


async def test_a_cursor_is_of_one_question(api: Served) -> None:
    cursor = (await api.get("relays?limit=3")).json["next"]
    assert (await api.get(f"relays?limit=5&cursor={cursor}")).json["items"]
    for query in (f"sort=holds&cursor={cursor}", f"state=up&cursor={cursor}", "cursor=AAAA"):
        problem = (await api.get(f"relays?{query}", status=400)).json
        assert problem["type"].endswith("#problem-bad-cursor")
    problem = (await api.get(f"candidates?cursor={cursor}", status=400)).json
    assert problem["parameter"] == "cursor"


async def test_what_has_not_changed_is_not_sent_again(api: Served) -> None:
    reply = await api.get("relays")
    assert reply.headers["Cache-Control"] == "public, max-age=30"
    etag = reply.headers["ETag"]
    for known in (etag, f'"x", {etag}', "*"):
        again = await api.get("relays", status=304, If_None_Match=known)
        assert not again.body
        assert again.headers["ETag"] == etag
    assert (await api.get("relays?limit=3", If_None_Match=etag)).headers["ETag"] != etag
    head = await api.get("relays", method="HEAD")
    assert (head.body, head.headers["ETag"]) == (b"", etag)
    assert not (await api.get("relays", method="HEAD", Accept="application/x-ndjson")).body


async def test_answers_are_packed(api: Served) -> None:
    plain = await api.get("relays", Accept_Encoding="identity")
    assert "Content-Encoding" not in plain.headers
    packed = await api.get("relays", Accept_Encoding="gzip, br")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.json == plain.json
    assert packed.headers["ETag"] == plain.headers["ETag"]
    refused = await api.get("relays", Accept_Encoding="gzip; q=0")
    assert "Content-Encoding" not in refused.headers
    for packing in ("gzip", "identity"):
        assert await api.stream("relays", packing) == plain.json["items"]


async def test_a_private_server_is_for_its_own_machine(api: Served) -> None:
    host = api.url.split("/")[2]
    for origin in (f"http://{host}", "http://localhost:3000"):
        reply = await api.get("status", Origin=origin)
        assert reply.headers["Access-Control-Allow-Origin"] == origin
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example", "x://["):
        reply = await api.get("status", status=403, Origin=origin)
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert reply.json["type"].endswith("#problem-foreign-origin")
    await api.get("status", status=403, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")
    await api.get("status", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    await api.get("status", status=421, Host="evil.example")


async def test_a_public_server_is_for_all_pages(dsn: str) -> None:
    async with served(dsn, public_url="https://archive.example.com") as api:
        reply = await api.get("status", Origin="https://any.example", Host="archive.example.com")
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        await api.get("status", status=421, Host="other.example.com")
        reply = await api.get("status", method="OPTIONS", status=204, Origin="https://any.example")
        assert reply.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
        assert b"https://archive.example.com/api/v1" in (await api.get("")).body


async def test_what_there_is_to_ask(api: Served) -> None:
    """A page for people without anything of another host, and one for programs."""
    page = await api.get("")
    text = page.body.decode()
    for resource in RESOURCES:
        assert f"GET {resource.path}" in text
        for name in resource.parameters:
            assert f"<code>{name}</code>" in text
    assert "<td>archived events that it holds</td>" in text  # as the code says of the field
    assert "<h4>Incident</h4>" in text  # a type within another
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "<script" not in text
    assert not [word for word in ("src=", "http://", "https://", "//") if f'"{word}' in text]
    schema = (await api.get("openapi.json")).json
    fields = schema["components"]["schemas"]["RelayRow"]["properties"]
    assert fields["holds"]["description"] == "archived events that it holds"
    assert set(schema["paths"]) == {f"/{resource.path}" for resource in RESOURCES}


def test_every_resource_has_its_own_name_and_words() -> None:
    assert len({resource.name for resource in RESOURCES}) == len(RESOURCES)
    for resource in RESOURCES:
        assert resource.words.endswith(".")
        for parameter in resource.parameters.values():
            assert parameter.words, (resource.name, parameter.name)
        lists = {"limit", "cursor"} & resource.parameters.keys()
        assert bool(lists) is isinstance(resource, Many)


@BOTH
async def test_events_by_a_filter(brotr: Brotr, dsn: str, profile: Profile) -> None:
    """Part by part, page by page and as a stream: what `Query` says of the same events."""
    events = [
        Event.from_object(
            make_event(
                NOW - n // 3, kind=n % 4, content=f"note {n}", key=n % 2, tags=[["t", f"a,{n % 5}"]]
            )
        )
        for n in range(40)
    ]
    await brotr.insert_events([EventRelay(event, Relay(RELAY), NOW) for event in events])
    events.sort(key=lambda event: (-event.created_at, event.id))
    async with served(dsn) as api:
        for query, condition in (
            ("events", lambda _: True),
            ("events?kind=1,2", lambda e: e.kind in (1, 2)),
            (f"events?author={pubkey(1)}&kind=3", lambda e: e.kind == 3),
            (f"events?since={NOW - 5}&until={NOW - 2}", lambda e: -5 <= e.created_at - NOW <= -2),
            (f"events?id={events[3].id.hex()}", lambda e: e.id == events[3].id),
        ):
            wanted = [event.id.hex() for event in events if condition(event)]
            for found in (await api.all(query, 3), await api.stream(query)):
                assert [item["id"] for item in found] == wanted, query
        one = (await api.get(f"events/{events[0].id.hex()}")).json
        tagged = "events?tag=t:a,1&tag=t:a,2"
        if profile is Profile.FULL:
            assert one == json.loads(events[0].to_json())
            found = await api.all(tagged, 3)
            assert {item["tags"][0][1] for item in found} == {"a,1", "a,2"}
            assert len(found) == 16
        else:
            assert one.keys() == {"id", "pubkey", "created_at", "kind"}
            assert "keeps no tags" in (await api.get(tagged, status=400)).json["detail"]
        await api.get(f"events/{64 * '0'}", status=404)
        assert (await api.get("events?author=nobody", status=400)).json["parameter"] == "author"
        assert (await api.get("events?tag=tt:x", status=400)).json["parameter"] == "tag"
    async with served(dsn, public_url="https://archive.example.com") as api:
        await api.get(f"events/{events[0].id.hex()}")
        await api.get(f"events/{events[0].id.hex()}/where")
        await brotr.take_down("event", events[0].id, why="law", who="me")
        assert events[0].id.hex() not in [item["id"] for item in await api.all("events", 100)]
    async with served(dsn) as api:
        await api.get(f"events/{events[0].id.hex()}", status=404)
        where = (await api.get(f"events/{events[0].id.hex()}/where")).json
        assert [why["reason"] for why in where["hidden"]] == ["taken_down"]


async def test_a_search_ends_when_its_time_is_over(
    brotr: Brotr, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is short or empty, and `next` goes on from where it was; what is counted is told as
    approximate. A stream goes on by itself."""
    events = [Event.from_object(make_event(NOW - n * 20 * DAY, n % 2)) for n in range(80)]
    await brotr.insert_events([EventRelay(event, Relay(RELAY), NOW) for event in events])
    await brotr.analyze()
    monkeypatch.setattr("bigbrotr.serve.api.BUDGET_S", 0.0)
    async with served(dsn) as api:
        for query, wanted in (
            ("", events),
            (f"until={NOW - 1}", events[1:]),
            ("kind=1", events[1::2]),
        ):
            found: list[str] = []
            short = 0
            cursor = ""
            while True:
                page = (await api.get(f"events?{query}&limit=60{cursor}")).json
                found += [item["id"] for item in page["items"]]
                if page["next"] is None:
                    break
                short += len(page["items"]) < 60
                cursor = f"&cursor={page['next']}"
            assert found == [event.id.hex() for event in wanted]
            assert short or query == "kind=1"  # an index has these at once
            streamed = await api.stream(f"events?{query}")
            assert [item["id"] for item in streamed] == found
        assert (await api.get("counts")).json["approximate"] is True


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("relays?sort=holds", "find_relays"),
        # A cluster asks its slices one after the other, and has none yet.
        pytest.param("events?kind=1", "event_lines", marks=pytest.mark.one_server),
        pytest.param("events?tag=t:x", "read_by_tags", marks=pytest.mark.one_server),
        ("candidates", "list_candidates"),
        ("at-risk", "relays_at_risk"),
        (f"events/{64 * '0'}/where", "where_is"),
    ],
)
async def test_a_statement_that_takes_too_long(
    dsn: str, brotr: Brotr, path: str, function: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is broken off, who asked is told what to do, and the connection serves the next."""
    arguments = await brotr.pool.fetchval(
        "SELECT pg_catalog.pg_get_functiondef(p.oid) FROM pg_catalog.pg_proc AS p"
        " WHERE p.proname = $1 AND p.pronamespace = 'bigbrotr'::pg_catalog.regnamespace",
        function,
    )
    head, _, _ = arguments.partition("AS $function$")
    await brotr.pool.execute(
        f"{head} AS $function$ BEGIN PERFORM pg_catalog.pg_sleep(60); END $function$"
    )
    limits = ServeLimits(requests_per_s=0, statement_timeout_s=0.1, database_connections=1)
    async with served(dsn, limits=limits) as api:
        reply = await api.get(path, status=503)
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert int(reply.headers["Retry-After"]) > 0
        assert reply.json["type"].endswith("#problem-too-slow")
        assert "0.1 s: ask for less" in reply.json["detail"]
        reply = await api.get(path, status=503, Accept="application/x-ndjson")
        assert reply.json["type"].endswith("#problem-too-slow")
        await api.get("statistics/days")
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_statistics(api: Served, brotr: Brotr) -> None:
    """Each list of figures, page by page, as it was counted."""
    events = [Event.from_json(json.dumps(make_event(NOW - 90_000 * n)).encode()) for n in range(9)]
    await brotr.insert_events([EventRelay(event, Relay(RELAY), NOW) for event in events])
    async with Statistics(brotr) as statistics:
        await statistics.run()
    names = [each["name"] for each in await api.all("statistics", 3)]
    assert names == sorted(STATISTICS)
    for name in names:
        whole = (await api.get(f"statistics/{name}?limit=1000")).json["items"]
        assert await api.all(f"statistics/{name}", 4) == whole
    total = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events")
    days = await api.all("statistics/days", 2)
    assert sum(day["events"] for day in days) == total > 0
    await api.get("statistics/weather", status=404)
    await api.get("statistics/nips?since=5", status=400)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("relay", "do you mean /api/v1/relays? /api/v1/ lists what there is"),
        ("statistics/day", "do you mean /api/v1/statistics/days?"),
        ("relays/relay1.example.com/uptim", "do you mean /api/v1/relays/{relay}/uptime?"),
        ("Relays", "do you mean /api/v1/relays?"),
        ("at_risk", "do you mean /api/v1/at-risk?"),
        ("zzz/" * 40, "there is no '/api/v1/zzz"),
        ("relays/nowhere.example.com", "known of the relay 'wss://nowhere.example.com'"),
        ("relays/nowhere.example.com/rtts", "known of the relay 'wss://nowhere.example.com'"),
        (f"events/{64 * '0'}", f"known of the event '{60 * '0'}"),
    ],
)
async def test_what_there_is_not(api: Served, path: str, words: str) -> None:
    """It is told what is nearest, or of what nothing is known."""
    problem = (await api.get(path, status=404)).json
    assert words in problem["detail"]
    assert problem["detail"].isascii()


@BOTH
async def test_an_author(brotr: Brotr, dsn: str, profile: Profile) -> None:
    """Profile, lists of relays and where the events live; lite says what it cannot answer."""
    author = pubkey(1)
    events = [
        make_event(NOW - 3, 0, [], '{"name": "old"}', 1),
        make_event(NOW - 1, 0, [], '{"name": "Ann"}', 1),
        make_event(NOW - 5, 10002, [["r", "wss://a.example.com"]], "", 1),
        make_event(NOW - 4, 10002, [["r", "wss://b.example.com", "read"]], "", 1),
        make_event(NOW - 2, 10050, [["relay", "wss://c.example.com"]], "", 1),
    ]
    relay = Relay(RELAY)
    await brotr.insert_events([EventRelay(Event.from_object(e), relay, NOW) for e in events])
    async with served(dsn) as api:
        found = (await api.get(f"authors/{author}")).json
        assert (found["events"], found["first_at"], found["last_at"]) == (5, NOW - 5, NOW - 1)
        assert found["holders"] == {
            "sample": 5,
            "alone": 5,
            "relays": [{"relay": RELAY, "held": 5, "alone": 5}],
        }
        assert (await api.get(f"authors/{pubkey(2)}")).json["events"] == 0
        assert (await api.get("authors/nobody", status=400)).json["parameter"] == "author"
        if profile is Profile.LITE:
            for name in ("profile", "relays"):
                problem = (await api.get(f"authors/{author}/{name}", status=404)).json
                assert problem["type"].endswith("#problem-not-kept")
                assert "lite" in problem["detail"]
            return
        found = (await api.get(f"authors/{author}/profile")).json
        assert (found["name"], found["is_readable"]) == ("Ann", True)
        await api.get(f"authors/{pubkey(2)}/profile", status=404)
        whole = (await api.get(f"authors/{author}/relays")).json["items"]
        assert [(each["kind"], each["relays"][0]["url"]) for each in whole] == [
            (10050, "wss://c.example.com"),
            (10002, "wss://b.example.com"),
            (10002, "wss://a.example.com"),
        ]
        assert await api.all(f"authors/{author}/relays", 1) == whole
        assert await api.stream(f"authors/{author}/relays?kind=10002") == whole[1:]
    async with served(dsn, public_url="https://archive.example.com") as api:  # the same
        assert (await api.get(f"authors/{author}/profile")).json == found
        assert await api.all(f"authors/{author}/relays", 1) == whole


@BOTH
async def test_how_many_events_match(brotr: Brotr, dsn: str, profile: Profile) -> None:
    events = [make_event(NOW - n, n % 3, [["t", "x"]], f"{n}") for n in range(9)]
    relay = Relay(RELAY)
    await brotr.insert_events([EventRelay(Event.from_object(e), relay, NOW) for e in events])
    async with served(dsn) as api:
        for query, number in (("", 9), ("?kind=0,1", 6), (f"?since={NOW - 1}", 2), ("?kind=7", 0)):
            found = (await api.get(f"counts{query}")).json
            assert found == {"count": number, "approximate": False}
        if profile is Profile.FULL:
            assert (await api.get("counts?tag=t:x&kind=2")).json["count"] == 3
        else:
            assert "keeps no tags" in (await api.get("counts?tag=t:x", status=400)).json["detail"]
        kinds = (await api.get("relays/relay1.example.com/kinds")).json
        assert (kinds["held"], kinds["sample"]["events"], len(kinds["kinds"])) == (9, 9, 3)
        overlap = (await api.get("relays/relay1.example.com/overlap")).json
        assert (overlap["alone"], overlap["others"]) == (9, [])
        for name in ("kinds", "overlap"):
            await api.get(f"relays/none.example.com/{name}", status=404)


async def test_the_same_question_is_answered_once_a_moment(
    brotr: Brotr, dsn: str, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed or not; another question is none of it, nor is a later one."""
    async with served(dsn) as api:
        asked = 0
        ask = api.service._ask

        async def count(question: Any) -> Any:
            nonlocal asked
            asked += 1
            return await ask(question)

        monkeypatch.setattr(api.service, "_ask", count)
        first = await api.get("relays?limit=20")
        for packing in ("gzip", "identity"):
            again = await api.get("relays?limit=20", Accept_Encoding=packing)
            assert again.json == first.json
        assert asked == 1
        await api.get("relays?limit=19")
        assert asked == 2
        for _ in range(3):
            await api.get("relays?limit=0", status=400)
        monkeypatch.setattr(api.service, "_fresh", Fresh(0))
        await api.get("relays?limit=20")
        await api.get("relays?limit=20")
        assert asked == 4


def test_answers_that_are_kept_take_no_more_than_they_may() -> None:
    fresh = Fresh(100_000)
    for number in range(100):
        fresh.keep(f"{number}", Answer(bytes(2000), "", 1, "", float("inf")))
        assert fresh.bytes <= fresh.most_bytes
        assert fresh.get(f"{number}") is not None
    assert fresh.get("0") is None
    fresh.keep("99", Answer(b"", "", 1, "", float("-inf")))
    assert fresh.get("99") is None  # too old
    fresh.keep("large", Answer(bytes(50_000), "", 1, "", float("inf")))
    assert fresh.get("large") is None
    assert fresh.bytes == sum(each.size for each in fresh._answers.values())
