"""Refreshes in a real browser: how often a page asks, seen and hidden; that nothing moves when nothing changed, or for
whom nothing shall; and that who reads, types or listens is not disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, Request, expect

from tests.flow.dataplane import Plane, until

pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")


class Looked:
    """The models' page with the browser's clock in our hands, and the answers to its refreshes."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked = 0
        self.statuses: list[int] = []
        page.on("request", self._count)
        page.on("requestfinished", self._note)

    def _count(self, request: Request) -> None:
        self.asked += "/fragments/" in request.url

    async def _note(self, request: Request) -> None:
        answer = await request.response()
        if "/fragments/" in request.url and answer is not None:
            self.statuses.append(answer.status)

    async def pass_s(self, seconds: int, *, asks: int) -> None:
        """Let so much time go by in the browser, in which it asks so often."""
        before = self.asked
        for _ in range(seconds):
            await self.page.clock.run_for(1000)
            await until(lambda: len(self.statuses) == self.asked, "every question is answered")
        await until(
            lambda: len(self.statuses) == self.asked and self.asked - before >= asks, "the last of them"
        )
        assert self.asked - before == asks, self.statuses

    async def hide(self, hidden: bool) -> None:
        await self.page.evaluate(
            "hidden => Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden})",
            hidden,
        )


@pytest.fixture
async def looked(browser: Browser, with_pages: Plane, session: str) -> AsyncIterator[Looked]:
    context = await browser.new_context()
    await context.add_cookies([{"name": "sessionid", "value": session, "url": with_pages.url}])
    page = await context.new_page()
    # Stopped: time goes by when a test says so, however long the test takes.
    await page.clock.install(time=0)
    await page.clock.pause_at(1000)
    looked = Looked(page)
    await page.goto(with_pages.url + "/")
    yield looked
    await context.close()


async def test_a_page_asks_every_three_seconds_when_seen_and_once_a_minute_when_hidden(
    looked: Looked,
) -> None:
    await looked.pass_s(9, asks=3)
    await looked.hide(True)
    await looked.pass_s(57, asks=0)
    await looked.pass_s(6, asks=1)
    await looked.pass_s(60, asks=1)
    await looked.hide(False)
    await looked.pass_s(3, asks=1)


async def test_nothing_is_swapped_until_something_changed(looked: Looked, with_pages: Plane) -> None:
    page = looked.page
    await looked.pass_s(3, asks=1)
    await page.evaluate("document.querySelector('[data-polled] table').mine = true")
    await looked.pass_s(6, asks=2)
    assert looked.statuses == [200, 304, 304]
    assert await page.evaluate("document.querySelector('[data-polled] table').mine")
    await asyncio.to_thread(with_pages.sql, "UPDATE catalog_model SET description = 'A new one'")
    await looked.pass_s(3, asks=1)
    await expect(page.get_by_text("A new one").first).to_be_visible()


async def test_a_refresh_takes_neither_the_focus_nor_what_is_marked(
    looked: Looked, with_pages: Plane
) -> None:
    page = looked.page
    await page.get_by_role("link", name="Example for demo").focus()
    await asyncio.to_thread(with_pages.sql, "UPDATE catalog_model SET description = 'A new one'")
    await looked.pass_s(3, asks=1)
    await expect(page.get_by_text("A new one").first).to_be_visible()
    await expect(page.get_by_role("link", name="Example for demo")).to_be_focused()
    await page.evaluate(
        """() => new Promise(done => {
          document.addEventListener("selectionchange", done, {once: true});
          getSelection().selectAllChildren(document.querySelector("[data-polled] th[scope=row]"));
        })"""
    )
    await asyncio.to_thread(with_pages.sql, "UPDATE catalog_model SET description = 'A newer one'")
    await looked.pass_s(57, asks=19)
    assert "A new one" in await page.evaluate("getSelection().toString()")
    await looked.pass_s(6, asks=2)  # it was forgotten
    await expect(page.get_by_text("A newer one").first).to_be_visible()


async def test_who_listens_hears_of_changes_and_not_of_each_at_once(
    looked: Looked, with_pages: Plane
) -> None:
    page, chip = looked.page, looked.page.locator("tr[data-tells=demo] .chip")
    news = page.locator("#news[aria-live=polite]")
    await expect(news).to_be_empty()
    latch = "INSERT INTO fleet_poolstate (pool_id, failures, reason, latched_at) VALUES ('demo', 3, 'It failed.', now())"
    await asyncio.to_thread(with_pages.sql, latch)
    await looked.pass_s(3, asks=1)
    await expect(chip).to_have_text("✕ Unavailable")
    await looked.pass_s(1, asks=0)
    await expect(news).to_have_text("demo: Unavailable.")
    await asyncio.to_thread(with_pages.sql, "DELETE FROM fleet_poolstate")
    await looked.pass_s(2, asks=1)
    await expect(chip).to_have_text("○ Not loaded")
    await looked.pass_s(6, asks=2)
    assert await news.text_content() == "demo: Unavailable."
    await looked.pass_s(3, asks=1)
    await expect(news).to_have_text("demo: Not loaded.")


async def test_nothing_moves_for_whom_wants_that(browser: Browser, with_pages: Plane) -> None:
    """Neither on pages nor in the admin, whatever Django's style sheets and the browser's would do."""
    page = await browser.new_page(reduced_motion="reduce")
    moves = """[...document.querySelectorAll("*")].filter((it) => {
      const look = getComputedStyle(it);
      return parseFloat(look.transitionDuration) || look.animationName !== "none" || look.scrollBehavior !== "auto";
    }).map((it) => it.outerHTML.slice(0, 80))"""
    await page.goto(with_pages.url + "/healthz")
    for sheet in ("berth", "admin"):
        await page.set_content(
            "<html lang=en><style>p { transition: color 1s; animation: a 1s; } html { scroll-behavior: smooth; }"
            f"</style><link rel=stylesheet href='{with_pages.url}/static/css/{sheet}.css'><p>x</p>"
        )
        await expect(page.locator("p")).to_have_css("transition-duration", "0s")
        assert await page.evaluate(moves) == []
    await page.close()
