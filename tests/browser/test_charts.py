"""A chart in a real browser: the exact values of a moment come by pointer, finger and keys, and go again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from devstack.checkout import ROOT
from django.template.loader import render_to_string
from playwright.async_api import Browser, Locator, Page, expect

from portal.dashboard.charts import Series, draw

HOURS = [datetime(2026, 11, 20, 12, tzinfo=UTC) + timedelta(hours=n) for n in range(5)]
SERIES = [Series("surf", [1, 2, 3, 4, 5]), Series("turf", [0, 0, 1234, 0, 0])]


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """Open a page with bars and lines of the same, one below the other."""
    context = await browser.new_context(has_touch=True)
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    drawn = [draw(kind, kind, HOURS, SERIES, of="counts") for kind in ("bars", "lines")]
    charts = "".join(render_to_string("dashboard/_chart.html", {"chart": chart}) for chart in drawn)
    await page.set_content(f"<html lang=en><body><p>above</p>{charts}")
    for kind, path in (("css", "css/berth.css"), ("js", "js/charts.js")):
        content = (ROOT / "static" / path).read_text()
        await (page.add_style_tag if kind == "css" else page.add_script_tag)(content=content)
    yield page
    await context.close()
    assert wrong == []


def legend(page: Page, kind: str) -> Locator:
    return page.locator(f"[data-kind={kind}] .key li")


def moment(page: Page, kind: str) -> Locator:
    return page.locator(f"[data-kind={kind}] .moment")


async def place(page: Page, kind: str, part: float) -> tuple[float, float]:
    box = await page.locator(f"[data-kind={kind}] .plot").bounding_box()
    assert box is not None
    return box["x"] + part * box["width"], box["y"] + 50


async def test_the_pointer_reads_exact_values_and_leaves_the_sums(page: Page) -> None:
    await page.mouse.move(*await place(page, "bars", 0.5))
    await expect(moment(page, "bars")).to_have_text("14:00")
    await expect(legend(page, "bars")).to_have_text(["surf 3", "turf 1.23k"])
    await page.mouse.move(*await place(page, "bars", 0.99))
    await expect(legend(page, "bars")).to_have_text(["surf 5", "turf 0"])
    await page.mouse.move(*await place(page, "lines", 0.02))
    await expect(legend(page, "bars")).to_have_text(["surf 15", "turf 1.23k"])
    await expect(moment(page, "lines")).to_have_text("12:00")
    await expect(page.locator("[data-kind=lines] .here")).to_have_attribute("x1", "0%")
    await page.get_by_text("above").hover()
    await expect(legend(page, "lines")).to_have_text(["surf", "turf"])
    await expect(page.locator(".here:visible")).to_have_count(0)


async def test_a_finger_reads_until_it_touches_something_else(page: Page) -> None:
    await page.touchscreen.tap(*await place(page, "bars", 0.5))
    await expect(legend(page, "bars")).to_have_text(["surf 3", "turf 1.23k"])
    await page.get_by_text("above").tap()
    await expect(moment(page, "bars")).to_have_text("")


async def test_keys_go_from_moment_to_moment_and_are_heard(page: Page) -> None:
    for _ in range(3):  # past the first one's table
        await page.keyboard.press("Tab")
    plot = page.locator("[data-kind=lines] .plot")
    await expect(plot).to_be_focused()
    await expect(moment(page, "lines")).to_have_text("16:00")
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("ArrowLeft")
    said = page.locator("[data-kind=lines]").get_by_role("status")
    await expect(said).to_have_text("14:00: surf 3, turf 1.23k.")
    await page.keyboard.press("Home")
    await page.keyboard.press("ArrowLeft")
    await expect(said).to_have_text("12:00: surf 1, turf 0.")
    await page.keyboard.press("Tab")
    await expect(said).to_be_empty()
