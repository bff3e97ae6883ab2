"""The pages: every link leads somewhere, whatever strangers say stays text, nothing is foreign."""

import io
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import nostr_sdk
import pytest
from PIL import Image, ImageDraw

from bigbrotr.config.settings import Config, Profile, SearchSettings, StatisticsSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.models.relay import Relay
from bigbrotr.reads import samples
from bigbrotr.reads.statistics import STATISTICS
from bigbrotr.serve.pages import charts, kinds, picture, words
from bigbrotr.serve.pages.page import POLICY, WITH_PICTURES
from bigbrotr.services.search import Search
from bigbrotr.services.statistics import Statistics
from tests.conftest import Filling
from tests.kit.archive import BOTH, A, ordered, pairs
from tests.kit.events import NOW, pubkey, verified
from tests.kit.policy import judge
from tests.kit.processes import until
from tests.kit.served import Reply, Served, fill, fill_events, served
from tests.services import test_operators, test_witnesses

VOID = {"meta", "link", "input", "br", "img"}
EVIL = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> javascript:alert(3)"
    " \x1b[31mred \u202egnp.exe \u2066x"
)


class Elements(HTMLParser):
    """What is in a page: whether its elements nest, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.ids: list[str] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "a" and given.get("href"):
            self.links.add(given["href"] or "")
        for name in ("src", "srcset", "data", "poster"):
            if given.get(name):
                self.loads.add(given[name] or "")
        if tag == "link":
            self.loads.add(given["href"] or "")
        if tag in ("script", "style", "iframe", "object", "base"):
            self.wrong.append(f"<{tag}>")
        self.wrong += [name for name in given if name.startswith("on") or name == "style"]
        if "id" in given:
            self.ids.append(given["id"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}>")


class Browser:
    """Asks for pages as a browser does, and looks at each."""

    def __init__(self, api: Served) -> None:
        self._api = api
        self.root = api.url.removesuffix("/api/v1")

    async def get(self, path: str, status: int = 200) -> tuple[Reply, Elements]:
        reply = await self._api.get(f"../..{path}", status=status, Accept="text/html,*/*")
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert reply.headers["Content-Security-Policy"] == POLICY
        assert len(reply.body) < 400_000
        page = Elements(reply.body.decode())
        assert not page.wrong, (path, page.wrong)
        assert len(page.ids) == len(set(page.ids))
        assert all(each.startswith(("/", "data:image/svg+xml")) for each in page.loads)
        return reply, page


async def fill_all(brotr: Brotr) -> list[Event]:
    await fill(brotr)
    return await fill_events(brotr)


@pytest.fixture
def filling(request: pytest.FixtureRequest) -> Filling | None:
    return fill_all if "events" in request.fixturenames else None


@pytest.fixture
def events(filled: list[Event]) -> list[Event]:
    return filled


@pytest.fixture
async def site(
    dsn: str, events: list[Event], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Browser]:
    """The pages of an archive in which there is something; nothing goes wrong there."""
    assert events
    async with served(dsn) as api:
        yield Browser(api)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@BOTH
async def test_every_link_leads_somewhere(
    brotr: Brotr, dsn: str, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(brotr)
    if profile is Profile.FULL:
        await fill_events(brotr)
    else:
        await brotr.insert_events(pairs([verified(f"{n}") for n in range(5)], A))
    async with served(dsn) as api:
        site = Browser(api)
        seen: dict[str, int] = {}
        found = ["/"]
        by_kind: dict[str, int] = {}
        while found:
            path = found.pop(0).partition("#")[0]
            if not path or path in seen:
                continue
            assert path.startswith("/"), path
            kind = path.split("/")[1].split("?")[0]
            if by_kind.get(kind, 0) >= 40:
                continue
            by_kind[kind] = by_kind.get(kind, 0) + 1
            if path.startswith("/api/") or path.endswith((".csv", ".jsonl", ".json", ".atom")):
                async with api.client.get(site.root + path) as response:
                    await response.read()
                    # Pages tell of events that may not be shown as they are.
                    assert response.status in (200, 404), path
                seen[path] = response.status
                continue
            async with api.client.get(
                site.root + path, headers={"Accept": "text/html"}
            ) as response:
                await response.read()
            # Events are named that are not here, and relays that were never tried.
            assert response.status == 200 or kind in ("events", "relays", "search"), path
            seen[path] = response.status
            _, page = await site.get(response.url.raw_path_qs, response.status)
            found += sorted(page.links)
            found += sorted(each for each in page.loads if each.endswith(".atom"))
        assert {"/", "/relays", "/map", "/statistics", "/at-risk", "/about", "/data"} <= seen.keys()
        for kind in ("events", "authors", "relays", "statistics"):
            assert by_kind[kind] > 1
        assert len(seen) > 60
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_what_strangers_say_stays_text(brotr: Brotr, dsn: str) -> None:
    """In contents, tags, profiles, documents and paths; a megabyte of it is cut."""
    await fill(brotr)
    evil = [
        verified(EVIL, [["t", EVIL], [EVIL, EVIL], ["r", "wss://x/<b>"], []][:3], kind=1),
        verified(json.dumps({"name": EVIL, "about": "<b>x"}), kind=0),
        verified("<i>" * 300_000, kind=1, created_at=NOW + 1),
        verified("", [["r", "wss://a.example.com/%22%3E%3Cscript%3E"]], kind=10002),
    ]
    await brotr.insert_events(pairs(sorted(evil, key=lambda e: (e.created_at, e.id)), A))
    document = {
        "name": EVIL * 5000,
        "software": EVIL,
        "version": [EVIL],
        "description": {"x": EVIL},
        "supported_nips": EVIL,
        "limitation": {EVIL: EVIL, "items": 1},
        "items": 7,
        "get": None,
        "pubkey": EVIL,
        "contact": 12.5,
    }
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.metadata (id, data) VALUES (sha256('evil'), $1::jsonb)",
        json.dumps(document),
    )
    await brotr.pool.execute(
        "UPDATE bigbrotr.snapshots_latest SET metadata_id = sha256('evil') WHERE type = 'nip11'"
    )
    async with served(dsn) as api:
        site = Browser(api)
        relays = await brotr.pool.fetch(
            "SELECT r.url FROM bigbrotr.snapshots_latest s JOIN bigbrotr.relays r"
            " ON r.id = s.relay_id WHERE s.type = 'nip11' LIMIT 1"
        )
        paths = [f"/events/{event.id.hex()}" for event in evil]
        paths += [f"/authors/{pubkey(0)}", f"/relays/{relays[0]['url'][6:]}", "/", "/relays"]
        paths += [f"/relays?text={quote(EVIL)}", f"/search?q=npub1{quote(EVIL)}"]
        for path in paths:
            reply, _ = await site.get(path)
            text = reply.body.decode()
            assert "<script" not in text
            assert "<img" not in text.replace('<img class="badge"', "")
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
        await site.get(f"/{quote(EVIL)}", 404)
        await site.get(f"/statistics/{quote(EVIL)}", 404)


async def test_search_leads_to_what_is_meant(site: Browser, events: list[Event]) -> None:
    async def leads(text: str) -> str:
        reply = await site._api.get(f"../../search?q={quote(text)}", status=302)
        return str(reply.headers["Location"])

    event = events[0]
    assert await leads(words.npub(pubkey(1))) == f"/authors/{pubkey(1)}"
    assert await leads(f" nostr:{words.npub(pubkey(1))} ") == f"/authors/{pubkey(1)}"
    assert await leads(pubkey(1)) == f"/authors/{pubkey(1)}"
    assert await leads(event.id.hex()) == f"/events/{event.id.hex()}"
    assert await leads("relay1.example.com") == "/relays/relay1.example.com"
    assert await leads("WSS://Relay1.example.com/") == "/relays/relay1.example.com"
    assert await leads("unknown.example.com") == "/relays?text=unknown.example.com"
    assert await leads("strfry") == "/relays?text=strfry"
    naddr = _naddr(30023, pubkey(1), "")
    article = next(event for event in events if event.kind == 30023)
    assert await leads(naddr) == f"/events/{article.id.hex()}"
    for damaged in ("npub1x", "note1x", naddr[:-1], _naddr(30023, pubkey(3), "x")):
        reply, _ = await site.get(f"/search?q={damaged}")
        assert 'class="note"' in reply.body.decode()
    secret = "nsec1" + "q" * 58
    reply, _ = await site.get(f"/search?q={secret}")
    assert "private key" in reply.body.decode()


def _naddr(kind: int, author: str, name: str) -> str:
    coordinate = nostr_sdk.Coordinate(nostr_sdk.Kind(kind), nostr_sdk.PublicKey.parse(author), name)
    return str(nostr_sdk.Nip19Coordinate(coordinate, []).to_bech32())


async def test_tables_filter_sort_and_go_on(site: Browser) -> None:
    """…by their address; every relay stands on one page."""
    found: list[str] = []
    path: str | None = "/relays?limit=10&sort=holds"
    while path is not None:
        reply, page = await site.get(path)
        links = [each for each in page.links if re.fullmatch("/relays/relay[0-9.a-z]+", each)]
        assert 0 < len(links) <= 10
        found += links
        onward = re.search('href="([^"]+)" rel="next"', reply.body.decode())
        path = None if onward is None else onward[1].replace("&amp;", "&") + "&limit=10"
    assert len(found) == len(set(found)) == 25
    for query, wanted in {"state=down": "down", "text=relay7": "relay7"}.items():
        reply, _ = await site.get(f"/relays?{query}")
        assert wanted in reply.body.decode()
    reply, _ = await site.get("/relays?text=nothing-is-called-that")
    assert "No relay is like that" in reply.body.decode()
    reply, _ = await site.get("/relays?stat=down", 400)
    assert "do you mean state?" in reply.body.decode()
    await site.get("/relays?cursor=nonsense", 400)


async def test_downloads(site: Browser, events: list[Event]) -> None:
    """All events of a person as JSON lines; all rows of a list of figures for a spreadsheet."""
    api = site._api
    reply = await api.get(f"../../authors/{pubkey(1)}/events.jsonl")
    assert reply.headers["Content-Disposition"] == f'attachment; filename="{pubkey(1)}.jsonl"'
    own = (await api.get(f"events?author={pubkey(1)}&limit=500")).json["items"]
    assert len(reply.body.splitlines()) == len(own) > 0
    for name in STATISTICS:
        reply = await api.get(f"../../statistics/{name}.csv")
        header, *rows = reply.body.decode().splitlines()
        assert header.split(",") == list(STATISTICS[name].columns)
        assert len(rows) == len(await api.all(f"statistics/{name}", 1000))
    await api.get("../../statistics/nothing.csv", status=404)
    assert events


async def test_what_is_hidden_is_not_on_any_page(brotr: Brotr, dsn: str) -> None:
    event = verified("a secret that was taken back")
    request = verified(kind=5, created_at=NOW + 5, tags=[["e", event.id.hex()]])
    await brotr.insert_events(pairs(sorted([event, request], key=lambda e: e.created_at), A))
    await judge(brotr)
    async with served(dsn) as api:
        site = Browser(api)
        for path, status in (("/", 200), (f"/authors/{pubkey(0)}", 200)):
            reply, _ = await site.get(path, status)
            assert b"taken back" not in reply.body
        reply, _ = await site.get(f"/events/{event.id.hex()}", 404)
        text = reply.body.decode()
        assert "taken back" not in text
        assert "its author has asked for its deletion" in text


async def test_an_empty_archive(brotr: Brotr, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every page says what will be there."""
    assert brotr.pool is not None
    async with served(dsn) as api:
        site = Browser(api)
        for path in ("/", "/relays", "/map", "/statistics", "/at-risk", "/about", "/data"):
            await site.get(path)
        for name in STATISTICS:
            await site.get(f"/statistics/{name}")
        await site.get(f"/authors/{pubkey(9)}")
        await site.get(f"/events/{64 * '0'}", 404)
        await site.get("/relays/nowhere.example.com", 404)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


PICTURES = [
    "https://media.example.com/a.JPG?x=1",
    "https://media.example.com/b.webp",
    "https://other.example/c",
]


async def test_pictures_are_loaded_where_somebody_asks_for_them(brotr: Brotr, dsn: str) -> None:
    """…from hosts with public names; no address of somebody's own network, and no document."""
    never = [
        *("https://10.0.0.1/a.png", "https://localhost/a.png", "https://[::1]/a.png"),
        *("http://media.example.com/a.png", "https://media.example.com/a.svg"),
        *("https://user@media.example.com/a.png", "https://media.example.com:8443/a.png"),
        *('https://x.example/"onerror="alert(1)/a.png', "https://media.example.com/a.png.html"),
    ]
    text = f"look: {PICTURES[0]}, {PICTURES[0]} and\n({PICTURES[1]}) {' '.join(never)}"
    tags = [
        ["imeta", f"url {PICTURES[2]}", "m image/png"],
        ["imeta", "url https://v.example/v.mp4", "m video/mp4"],
        ["imeta"],
        ["imeta", "url"],
    ]
    note = verified(text, tags)
    other = verified(text, tags, kind=7)  # of a kind that shows none
    about = json.dumps({"name": "Ann", "picture": PICTURES[1], "banner": "javascript:alert(1)"})
    profile = verified(about, kind=0)
    await brotr.insert_events(pairs(sorted([note, other, profile], key=lambda e: e.id), A))
    async with served(dsn) as api:
        for path, wanted in {
            f"/events/{note.id.hex()}": PICTURES,
            f"/events/{other.id.hex()}": [],
            f"/authors/{pubkey(0)}": PICTURES[1:2],
        }.items():
            _, page = await Browser(api).get(path)  # loads nothing from elsewhere
            assert ("?pictures=show" in page.links) is bool(wanted)
            reply = await api.get(f"../..{path}?pictures=show", Accept="text/html")
            assert reply.headers["Content-Security-Policy"] == WITH_PICTURES
            shown = Elements(reply.body.decode())
            assert not shown.wrong
            loaded = sorted(each for each in shown.loads if each.startswith("http"))
            assert loaded == sorted(wanted)
            assert reply.body.count(b'referrerpolicy="no-referrer"') == len(wanted)
        await Browser(api).get(f"/authors/{pubkey(0)}?pictures=all", 400)


async def test_pictures_of_pages(brotr: Brotr, dsn: str, events: list[Event]) -> None:
    """Those who show a link find one of the page; who has no public address names none."""
    event = next(each for each in events if each.kind == 1 and each.tags)
    paths = {
        "/": "/picture.png",
        "/statistics": "/picture.png",
        "/relays/relay1.example.com": "/relays/relay1.example.com/picture.png",
        f"/events/{event.id.hex()}": f"/events/{event.id.hex()}/picture.png",
        f"/authors/{pubkey(0)}": f"/authors/{words.npub(pubkey(0))}/picture.png",
    }
    evil = verified(EVIL * 50, created_at=NOW + 9)
    await brotr.insert_events(pairs([evil], A))
    made = set()
    async with served(dsn, public_url="https://archive.example/") as api:
        for path, wanted in paths.items():
            reply = await api.get(f"../..{path}", Accept="text/html")
            named = re.search('og:image" content="([^"]+)"', reply.body.decode())
            assert named is not None
            assert named[1] == f"https://archive.example{wanted}"
            reply = await api.get(f"../..{wanted}")
            assert reply.headers["Content-Type"] == "image/png"
            image = Image.open(io.BytesIO(reply.body))
            image.verify()
            assert (image.format, image.size, len(reply.body) < 60_000) == (
                "PNG",
                (1200, 630),
                True,
            )
            made.add(reply.body)
        assert len(made) == 4
        reply = await api.get(f"../../events/{evil.id.hex()}/picture.png")
        Image.open(io.BytesIO(reply.body)).verify()
        for path in (f"/events/{64 * '0'}", "/relays/nowhere.example.com", f"/authors/{64 * 'a'}"):
            await api.get(f"../..{path}/picture.png", status=404)
    async with served(dsn) as api:
        reply = await api.get("../..", Accept="text/html")
        assert b"og:image" not in reply.body


@pytest.mark.parametrize("text", [200 * "W", 100 * "W ", "WWW " + 200 * "W", "ab" + 90 * " cde"])
def test_a_long_text_is_cut_in_a_few_looks(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure a text costs as much as to draw it: nobody makes us do so for each letter."""
    measured: list[str] = []
    written: list[str] = []
    pen = ImageDraw.ImageDraw
    measure, write = pen.textlength, pen.text

    def textlength(self: ImageDraw.ImageDraw, said: str, *rest: Any) -> float:
        measured.append(said)
        return measure(self, said, *rest)

    def text_at(self: ImageDraw.ImageDraw, at: Any, said: str, *rest: Any, **more: Any) -> None:
        written.append(said)
        write(self, at, said, *rest, **more)

    monkeypatch.setattr(pen, "textlength", textlength)
    monkeypatch.setattr(pen, "text", text_at)
    picture.draw(picture.Picture("over", text, "under", []))
    assert len(measured) < 40
    first, rest = written[2:4]
    cut = rest.removesuffix("...")
    assert text.replace(" ", "").startswith((first + cut).replace(" ", ""))
    assert text.startswith(first)
    assert text[len(first)] == " " or " " not in text  # between words, where there are some


async def test_programs_get_problems_and_people_get_pages(site: Browser) -> None:
    reply = await site._api.get("../../nowhere", status=404)
    assert reply.headers["Content-Type"] == "application/problem+json"
    reply, page = await site.get("/nowhere", 404)
    assert "/" in page.links
    parts = urlsplit(site.root)
    assert parts.hostname is not None
    reply = await site._api.get("../..", Accept="text/html", Accept_Encoding="gzip")
    assert reply.headers["Content-Encoding"] == "gzip"
    known = reply.headers["ETag"]
    await site._api.get("../..", status=304, If_None_Match=known, Accept="text/html")


async def test_without_pages(brotr: Brotr, dsn: str) -> None:
    await fill(brotr, 1)
    async with served(dsn, pages=False) as api:
        assert (await api.get("../..", status=302)).headers["Location"] == "/api/v1/"
        await api.get("../../relays", status=404)


def test_numbers_and_times_in_words() -> None:
    assert words.number(1234567) == "1\u202f234\u202f567"
    assert [words.short(n) for n in (0, 12.5, 999, 1000, 12_345, 999_500, 10**9)] == [
        *("0", "12.5", "999", "1\u202fk", "12.3\u202fk", "1\u202fM", "1\u202fG")
    ]
    assert [words.share(n) for n in (None, 0, 0.5, 0.9999, 1)] == [
        *("\u2013", "0\u202f%", "50\u202f%", "99.9\u202f%", "100\u202f%")
    ]
    assert words.size(1_500_000) == "1.5\u202fMB"
    assert words.milliseconds(12_345) == "12.3\u202fs"
    found = str(words.when(1_700_000_000 - 7200, 1_700_000_000))
    assert found == (
        '<time datetime="2023-11-14T20:13:20Z" title="2023-11-14 20:13:20 UTC">2 h ago</time>'
    )
    assert str(words.when(2**62, NOW)).startswith("in ")  # no date has a name then
    assert words.clean("a\x1b\u202eb") == "a\ufffd\ufffdb"
    assert words.clean("x" * 400) == "x" * 300 + "…"


def test_charts_hold_what_they_draw() -> None:
    chart = charts.bars(["a", "b"], [charts.Series("x", [1, None]), charts.Series("y", [2.0, 7])])
    assert chart.top == 8
    assert chart.rows == [("a", [1, 2.0]), ("b", [None, 7])]
    assert chart.svg.count('<rect class="s') == 3
    assert charts.bars([], []).is_empty
    broken = charts.lines(["a", "b", "c"], [charts.Series("<x>", [1, None, 3])])
    assert broken.svg.count("<polyline") == 2
    assert "<x>" not in broken.svg
    assert [charts.nice(n) for n in (0, 0.3, 1, 7, 26, 1001)] == pytest.approx(
        [1, 0.3, 1, 8, 30, 1500]
    )
    strip = charts.strip([charts.Part(0, 0.5, "good", '"<')])
    assert "&#34;&lt;" in strip


def test_lines_of_events() -> None:
    assert kinds.name(1) == "note"
    assert kinds.name(54321) == "kind 54321"
    assert kinds.text_of(0, '{"name": "Ann"}') == "Ann"
    assert kinds.text_of(0, "[") == ""
    assert kinds.text_of(4, "abc") == "encrypted"


async def test_words_are_looked_for_where_there_is_an_index(brotr: Brotr, dsn: str) -> None:
    await fill(brotr)
    events = [verified("a lantern by the harbour"), verified("no light", key=1)]
    await brotr.insert_events(pairs(events, A))
    config = Config(search=SearchSettings(enabled=True))
    async with Search(brotr, config.search, context=Context(config)) as service:
        await service.run()
    async with served(dsn) as api:
        site = Browser(api)
        reply, page = await site.get('/search?q=lantern+"the+harbour"')
        assert f"/events/{events[0].id.hex()}" in page.links
        assert f"/events/{events[1].id.hex()}" not in page.links
        reply, page = await site.get("/search?q=relay7")
        assert "No event has them" in reply.body.decode()
        assert "/relays/relay7.example.com" in page.links
        reply, _ = await site.get(f"/search?q={'x' * 3000}")
        assert "2000 characters at most" in reply.body.decode()


def _strictly(reply: Reply, kind: str) -> ElementTree.Element:
    """The XML of an answer, as a strict parser reads it."""
    assert reply.headers["Content-Type"].startswith(kind)
    assert reply.headers["Content-Security-Policy"] == POLICY
    assert reply.headers["Cache-Control"] == "public, max-age=60"
    return ElementTree.fromstring(reply.body)


ATOM = "{http://www.w3.org/2005/Atom}"
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "wss://relay1.example.com/%22%3E%3Cscript%3E&'"


async def test_a_badge_says_how_a_relay_is(site: Browser, brotr: Brotr) -> None:
    """…for known relays, for those that are not, and for those with a hostile URL."""
    await brotr.insert_relays([Relay(HOSTILE)])

    async def badge(path: str) -> tuple[str, ElementTree.Element]:
        reply = await site._api.get(f"../../relays/{path}/badge.svg")
        drawn = _strictly(reply, "image/svg+xml")
        assert b"<script" not in reply.body
        assert b"style" not in reply.body  # which the policy forbids
        wide = sum(int(each.attrib["width"]) for each in drawn.iter(f"{SVG}rect"))
        assert int(drawn.attrib["width"]) == wide
        texts = [each.text or "" for each in drawn.iter(f"{SVG}text")]
        for text in drawn.iter(f"{SVG}text"):
            assert 0 < int(text.attrib["textLength"]) < wide
        title = drawn.find(f"{SVG}title")
        assert title is not None
        assert (title.text or "").endswith(texts[1])
        return texts[1], drawn

    state = await brotr.pool.fetchval(
        "SELECT state FROM bigbrotr.relay_states WHERE relay_url = 'wss://relay1.example.com'"
    )
    said, _ = await badge("relay1.example.com")
    assert re.fullmatch(rf"{state} · \d+ events", said)
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.rtts (relay_id, holds_s, checked_at, outcome)"
        " SELECT r.id, 3600, $1::bigint - 3600 * n, CASE n WHEN 2 THEN 'refused' END"
        " FROM bigbrotr.relays r, generate_series(1, 4) AS n"
        " WHERE r.url = 'wss://relay1.example.com'",
        int(time.time()),
    )
    site._api.service._fresh._answers.clear()
    assert (await badge("relay1.example.com"))[0] == said.replace(
        "· ", "· 75\u202f% of 30 days · ", 1
    )
    assert (await badge("unknown.example.com"))[0] == "not known here"
    said, drawn = await badge(quote(HOSTILE.removeprefix("wss://"), safe=""))
    assert said == "not checked · 0 events"
    assert words.host(Relay(HOSTILE).url) in drawn.attrib["aria-label"]
    long = f"{'x' * 60}.example.com/{'y' * 400}"
    assert int((await badge(long))[1].attrib["width"]) < 500
    await site._api.get("../../relays/no%20relay/badge.svg", status=400)


async def test_the_page_of_a_relay_shows_its_badge(site: Browser, brotr: Brotr) -> None:
    await brotr.insert_relays([Relay(HOSTILE)])
    for path in ("relay1.example.com", quote(HOSTILE.removeprefix("wss://"), safe="")):
        reply, page = await site.get(f"/relays/{path}")
        (badge,) = (each for each in page.loads if each.endswith("/badge.svg"))
        await site._api.get(f"../..{badge}")
        (feed,) = (each for each in page.loads if each.endswith(".atom"))
        await site._api.get(f"../..{feed}")
        snippets = re.findall(
            '<pre class="scroll" tabindex="0">(.*?)</pre>', reply.body.decode(), re.DOTALL
        )
        html, markdown = (unescape(each) for each in snippets[-2:])
        shown = Elements(html)
        assert not shown.wrong
        (link,), (image,) = shown.links, shown.loads
        assert image == f"{link}/badge.svg"
        assert link.endswith(badge.removesuffix("/badge.svg"))
        assert markdown == f"[![status of this relay]({image})]({link})"


async def test_incidents_are_a_feed(site: Browser, brotr: Brotr) -> None:
    """An incident that ends is the same entry, changed; strangers' words stay text."""
    url = "wss://down.example.com"
    await brotr.insert_relays([Relay(url, NOW)])
    now = int(time.time())

    async def checked(at: int, outcome: str | None) -> None:
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.rtts (relay_id, holds_s, checked_at, outcome)"
            " SELECT r.id, 7200, $2, $3 FROM bigbrotr.relays r WHERE r.url = $1",
            url,
            at,
            outcome,
        )

    async def entries(status: int = 200) -> list[ElementTree.Element]:
        site._api.service._fresh._answers.clear()
        reply = await site._api.get("../../relays/down.example.com/incidents.atom", status=status)
        feed = _strictly(reply, "application/atom+xml")
        for name in ("id", "title", "updated", "author"):
            assert feed.find(f"{ATOM}{name}") is not None
        links = {each.attrib["rel"]: each.attrib["href"] for each in feed.iter(f"{ATOM}link")}
        assert links["alternate"].endswith("/relays/down.example.com")
        return feed.findall(f"{ATOM}entry")

    def told(entry: ElementTree.Element, name: str) -> str:
        found = entry.find(f"{ATOM}{name}")
        assert found is not None
        return found.text or ""

    assert await entries() == []
    await checked(now - 9000, EVIL)
    (begun,) = await entries()
    assert told(begun, "title") == "down.example.com: down"
    assert "<script>" in told(begun, "summary")  # as text
    await checked(now - 3000, None)
    (ended,) = await entries()
    assert told(ended, "id") == told(begun, "id")
    assert told(ended, "title") == "down.example.com: was down for 1 h 40 min"
    assert told(ended, "updated") > told(begun, "updated") == told(ended, "published")
    await checked(now - 60, "refused")
    again, before = await entries()
    assert told(again, "id") != told(before, "id") == told(ended, "id")
    await site._api.get("../../relays/unknown.example.com/incidents.atom", status=404)


async def test_new_relays_are_a_feed(site: Browser, brotr: Brotr) -> None:
    """The newest first, with ids that stay; valid whatever a relay says of itself."""
    await brotr.insert_relays([Relay(HOSTILE, NOW)])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.metadata (id, data) VALUES (sha256('evil'), $1::jsonb)",
        json.dumps({"name": f"{EVIL}\ufffe\uffff]]>", "software": EVIL}),
    )
    await brotr.pool.execute(
        "UPDATE bigbrotr.snapshots_latest SET metadata_id = sha256('evil') WHERE type = 'nip11'"
    )
    found = []
    for _ in range(2):
        site._api.service._fresh._answers.clear()
        feed = _strictly(await site._api.get("../../relays.atom"), "application/atom+xml")
        entries = feed.findall(f"{ATOM}entry")
        titles = [each.findtext(f"{ATOM}title") for each in entries]
        assert titles[0] == words.host(Relay(HOSTILE).url)
        assert len(titles) == len(set(titles)) == 26
        assert any("<script>" in (each.findtext(f"{ATOM}summary") or "") for each in entries)
        found.append([each.findtext(f"{ATOM}id") for each in entries])
    assert found[0] == found[1]
    assert len(set(found[0])) == 26
    for path in ("/", "/relays"):
        _, page = await site.get(path)
        assert "/relays.atom" in page.loads


async def test_what_others_say_of_a_relay_and_what_it_holds_alone(brotr: Brotr, dsn: str) -> None:
    await test_witnesses.judge(brotr, test_witnesses.RELAYS[:5], test_witnesses.RELAYS[5:])
    url = test_witnesses.URLS[0]
    words_of_one = [test_witnesses.introduced(1), test_witnesses.said(url, 1, ["rtt-open", "77"])]
    await test_witnesses.keep(brotr, *words_of_one)  # at A
    await test_witnesses.cycle(brotr)
    mine = [verified(f"only here {n}", created_at=NOW - 90_000 * n) for n in range(12)]
    both = [verified(f"here and there {n}", created_at=NOW - 90_000 * n - 1) for n in range(12)]
    gone = verified(kind=5, created_at=NOW + 1, tags=[["e", mine[1].id.hex()]])
    relay = Relay(url)
    await brotr.insert_events(pairs(ordered([*mine, *both, gone]), relay))
    await brotr.insert_events(pairs(ordered([*both, gone]), A))
    await judge(brotr)
    async with Statistics(brotr, StatisticsSettings(every_s=0)) as statistics:
        await statistics.run()
    await test_operators.certificate(brotr, relay, A, names=[relay.host, A.host])
    await test_operators.look(brotr)
    assert await samples.held_alone(brotr.pool, url, 5) == [each.id for each in mine[:5]]
    assert await samples.held_alone(brotr.pool, url, 99) == [each.id for each in mine]
    assert await samples.held_alone(brotr.pool, url, 99, examined=6) == [e.id for e in mine[:3]]
    assert await samples.held_alone(brotr.pool, A.url, 99) == [e.id for e in words_of_one[::-1]]
    async with served(dsn) as api:
        reply, page = await Browser(api).get(f"/relays/{url.removeprefix('wss://')}")
    text = reply.body.decode()
    assert f"/authors/{words.npub(pubkey(1))}" in page.links
    assert "Together, by how reliable each is: online" in text
    assert f"/relays/{A.url.removeprefix('wss://')}" in page.links
    shown = [each for each in mine if f"/events/{each.id.hex()}" in page.links]
    assert shown == [mine[0], *mine[2:8]]  # of the newest eight, what may be shown
    assert "12 events that it alone" in text
    assert "here and there" not in text.partition('id="alone"')[2].partition("</section>")[0]


async def test_no_event_is_shown_before_it_is_known_which_may_be(brotr: Brotr, dsn: str) -> None:
    """What is no event is; as soon as the walk through all of the archive is over, all are."""
    event = verified("perhaps a secret")
    await brotr.insert_events(pairs([event], A))
    await brotr.begin_policy([], 0, 255, 254)  # as at the first start: all is to be judged
    paths = (f"/events/{event.id.hex()}", f"/authors/{pubkey(0)}")
    async with served(dsn) as api:
        site = Browser(api)
        for path in paths:
            reply, _ = await site.get(path, 503)
            assert reply.headers["Retry-After"] == "30"
            assert b"perhaps a secret" not in reply.body
        reply, _ = await site.get("/")
        assert b"It is being looked for" in reply.body
        assert b"perhaps a secret" not in reply.body
        await site.get(f"/relays/{A.url.removeprefix('wss://')}")
        for path in ("events", f"events/{event.id.hex()}", f"authors/{pubkey(0)}/relays"):
            problem = (await api.get(path, status=503)).json
            assert problem["type"].endswith("#problem-not-settled")
        await api.get("relays")
        while not (await brotr.judge_review([])).is_done:
            pass

        async def is_shown() -> bool:
            async with api.client.get(site.root + paths[0]) as response:
                return response.status == 200

        await until(is_shown, "the end of the walk")
