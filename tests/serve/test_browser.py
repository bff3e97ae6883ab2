"""The pages in a real browser: Debian's Chromium, at three widths, light and dark."""

import shutil
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from tests.conftest import Filling
from tests.kit.archive import A, pairs
from tests.kit.events import NOW, pubkey, verified
from tests.kit.served import fill, fill_events, served
from tests.serve.test_pages import EVIL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (390, 1280, 1920)
LOADED = [(390, "light"), (1280, "dark")]  # a page, and checked by axe-core, which takes its time
AXE = files("axe_playwright_python").joinpath("axe.min.js")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian's package)"),
]


async def fill_all(brotr: Brotr) -> list[Event]:
    await fill(brotr)
    evil = verified(EVIL, [["t", EVIL]], created_at=NOW + 9)
    await brotr.insert_events(pairs([evil], A))
    return [evil, *await fill_events(brotr)]


@pytest.fixture
def filling() -> Filling:
    return fill_all


@pytest.fixture
def events(filled: list[Event]) -> list[Event]:
    return filled


@pytest.fixture
async def root(dsn: str, events: list[Event]) -> AsyncIterator[str]:
    """Where the pages of an archive are in which there is something."""
    assert events
    async with served(dsn) as api:
        yield api.url.removesuffix("/api/v1")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # As root, Chromium refuses to run within its sandbox.
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        await started.close()


class Watched:
    """A page of a browser, and what went wrong on it."""

    def __init__(self, page: Page, root: str) -> None:
        self.page, self.root = page, root
        self.wrong: list[str] = []
        page.on("console", lambda said: self._note("console", said.type, said.text))
        page.on("pageerror", lambda error: self._note("error", "error", str(error)))
        page.on("dialog", lambda said: self._note("dialog", "error", said.message))
        page.on("request", lambda asked: self._asked(asked.url))

    def _note(self, what: str, how: str, text: str) -> None:
        is_ours = "404" in text or "400" in text  # of pages that say so
        if how in ("error", "warning") and not is_ours:
            self.wrong.append(f"{what}: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith((f"{self.root}/", "data:")):
            self.wrong.append(f"asks {url}")

    async def goto(self, path: str) -> None:
        answer = await self.page.goto(self.root + path)
        assert answer is not None
        assert answer.status < 500
        assert not self.wrong, (path, self.wrong)

    async def value(self, script: str) -> Any:
        return await self.page.evaluate(script)


def paths(events: list[Event]) -> list[str]:
    return [
        *("/", "/relays", "/relays?state=down&sort=holds", "/relays?text=nothing", "/map"),
        *("/relays/relay1.example.com", "/relays/relay5.example.com", "/relays/unknown.example"),
        *(f"/events/{events[0].id.hex()}", f"/events/{events[3].id.hex()}"),
        *(f"/authors/{pubkey(0)}", f"/authors/{pubkey(2)}", "/search", "/search?q=npub1x"),
        *("/statistics", "/statistics/kinds", "/statistics/checks", "/statistics/nips"),
        *("/at-risk", "/data", "/about", "/nowhere"),
    ]


async def open_page(
    browser: Browser, root: str, width: int, scheme: str = "light", **more: Any
) -> tuple[BrowserContext, Watched]:
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
        **more,
    )
    return context, Watched(await context.new_page(), root)


@pytest.mark.parametrize(("width", "scheme"), LOADED)
async def test_pages_fit_and_nothing_goes_wrong(
    browser: Browser, root: str, events: list[Event], width: int, scheme: str
) -> None:
    """No error, no request elsewhere, nothing beyond the right edge; and everybody can use them."""
    context, watched = await open_page(browser, root, width, scheme, bypass_csp=True)
    for path in paths(events):
        await watched.goto(path)
        # Contrast, names, order of headings, labels.
        await watched.page.evaluate(AXE.read_text("utf-8"))
        found = await watched.value(
            "axe.run(document, {resultTypes: ['violations']})"
            ".then(found => found.violations.filter("
            "each => ['serious', 'critical'].includes(each.impact)).map("
            "each => [each.id, each.nodes.slice(0, 3).map(node => node.html)]))"
        )
        assert found == [], path
        for each in (*WIDTHS, width):  # the last as it was loaded
            await watched.page.set_viewport_size({"width": each, "height": 900})
            beyond = await watched.value("document.documentElement.scrollWidth - innerWidth")
            assert beyond <= 0, f"{path} is {beyond} pixels too wide, of {each}"
        assert not watched.wrong, (path, watched.wrong)
    await context.close()


async def test_pages_are_walked_by_links_and_by_keyboard(browser: Browser, root: str) -> None:
    context, watched = await open_page(browser, root, 1280, java_script_enabled=True)
    page = watched.page
    await watched.goto("/")
    for name, heading in {
        "Relays": "Relays",
        "Map": "Where are the relays?",
        "Statistics": "Statistics",
        "At risk": "What is at risk?",
        "Data": "Take it home",
        "About": "About this archive",
        "Overview": "The Nostr network, archived",
    }.items():
        await page.get_by_role("navigation").get_by_role("link", name=name).click()
        assert await page.locator("h1").inner_text() == heading
        current = page.locator("nav a[aria-current=page]")
        assert await current.inner_text() == name
    await page.keyboard.press("Tab")
    assert await page.locator(":focus").inner_text() == "Skip to the content"
    await page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    await page.keyboard.press("Tab")  # within the content, not in the navigation again
    assert await watched.value("document.querySelector('main').contains(document.activeElement)")
    box = page.get_by_role("searchbox")
    await box.focus()
    await page.keyboard.type("relay1.example.com")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/relays/relay1.example.com")
    await page.goto(f"{root}/relays")
    await page.get_by_label("State").select_option("down")
    await page.get_by_role("button", name="Show").click()
    await page.wait_for_url("**state=down**")
    states = await page.locator("tbody .state").all_inner_texts()
    assert set(states) == {"down"}
    assert not watched.wrong
    await context.close()


async def test_pages_work_with_scripts_off(
    browser: Browser, root: str, events: list[Event]
) -> None:
    context, watched = await open_page(browser, root, 390, java_script_enabled=False)
    await watched.goto(f"/authors/{pubkey(0)}")
    await watched.page.get_by_role("link", name="relay0.example.com").first.click()
    assert await watched.page.locator("h1").inner_text() == "relay0.example.com"
    details = watched.page.locator("details").first
    await details.locator("summary").click()
    assert await details.get_attribute("open") is not None
    assert events
    await context.close()


async def test_what_is_hostile_does_nothing(
    browser: Browser, root: str, events: list[Event]
) -> None:
    """It is shown as text, and does not turn what stands beside it."""
    context, watched = await open_page(browser, root, 1280)
    await watched.goto(f"/events/{events[0].id.hex()}")
    text = await watched.page.locator(".content").inner_text()
    assert text.startswith("<script>alert(1)</script>")
    assert await watched.value("document.scripts.length + document.images.length") == 0
    assert not watched.wrong
    await context.close()


async def test_a_page_prints(browser: Browser, root: str) -> None:
    context, watched = await open_page(browser, root, 1280)
    await watched.goto("/relays/relay1.example.com")
    await watched.page.emulate_media(media="print")
    assert not await watched.page.locator(".bar").is_visible()
    assert len(await watched.page.pdf()) > 10_000
    await context.close()
