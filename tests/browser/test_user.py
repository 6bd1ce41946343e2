"""A person's way through the pages, in a real browser against a whole Berth: real Slurm, the echo engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.people import STRANGER, hand_in, known, lines, logged_in, new_token
from tests.slurm.whole import POOL, Whole

pytestmark = pytest.mark.slurm

COLD_MS = 60_000
SCREENSHOTS = Path(__file__).resolve().parents[2] / "screenshots"
PAGES = {
    "models": "/", "playground": "/playground/", "requests": "/requests/", "batches": "/batches/",
    "usage": "/usage/", "usage-7d": "/usage/?span=7d&by=project", "tokens": "/tokens/", "projects": "/projects/",
    "notices": "/notices/",
    "help": "/help/",
}  # fmt: skip


async def ask_in_the_playground(page: Page, model: str, text: str, answer: str | re.Pattern[str]) -> None:
    await page.goto(f"/playground/?model={model}")
    await page.get_by_label("Message").fill(text)
    await page.keyboard.press("Enter")
    await expect(page.locator("li.assistant span")).to_have_text(answer, timeout=COLD_MS)


async def test_a_person_makes_a_token_chats_with_a_cold_model_and_runs_a_batch(
    whole: Whole, browser: Browser
) -> None:
    whole.empty()
    whole.tune(load_s=3, tokens_per_s=200)
    async with logged_in(browser, whole) as page:
        token = await new_token(page, "laptop")

        # Cold: the page says what is waited for, and then the answer comes.
        await page.goto(f"/playground/?model={POOL}")
        await page.get_by_label("Message").fill("hello from the browser")
        await page.keyboard.press("Enter")
        await expect(page.locator("#waiting")).to_contain_text("Queue position", timeout=COLD_MS)
        await expect(page.locator("li.assistant span")).to_have_text(
            "hello from the browser", timeout=COLD_MS
        )
        await page.get_by_role("link", name="Models", exact=True).click()
        row = page.get_by_role("row").filter(has_text=POOL)
        await expect(row.locator(".chip", has_text="Ready")).to_be_visible(timeout=COLD_MS)

        # The token of the page works as a program's.
        async with openai.AsyncOpenAI(base_url=whole.site.url + "/v1", api_key=token) as client:
            said = await client.chat.completions.create(
                model=POOL, messages=[{"role": "user", "content": "hello from a program"}]
            )
        assert said.choices[0].message.content == "hello from a program"

        # A file that is wrong is told by its line, a good one is answered.
        await hand_in(page, "bad.jsonl", lines("one") + b"{no json}\n")
        await expect(page.get_by_role("cell", name="The line is not JSON.")).to_be_visible(timeout=60_000)
        await hand_in(page, "good.jsonl", lines("ebb", "flood"))
        batch = page.url
        await expect(page.get_by_role("heading", name="Completed")).to_be_visible(timeout=COLD_MS)
        async with page.expect_download() as coming:
            await page.get_by_role("link", name="Download the output").click()
        content = Path(await (await coming.value).path()).read_text()
        answers = {
            line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
            for line in map(json.loads, content.splitlines())
        }
        assert answers == {"line-0": "ebb", "line-1": "flood"}

        await page.get_by_role("link", name="Usage", exact=True).click()
        await expect(page.locator("dt:text-is('Requests') + dd")).not_to_have_text("0")
        await expect(page.get_by_role("img", name=re.compile("^Requests from .*echo"))).to_be_visible()
        await page.get_by_role("link", name="Requests", exact=True).click()
        request = page.locator("td a[href^='/requests/']").first
        await expect(request).to_be_visible()
        one = await request.get_attribute("href") or ""

    async with logged_in(browser, whole, *known(whole, STRANGER)) as page:
        for path in ("/requests/", "/batches/", "/tokens/"):
            await page.goto(path)
            await expect(page.get_by_text("None yet.").first).to_be_visible()
        for path in (one, batch, batch + "output"):
            answer = await page.goto(path)
            assert answer is not None and answer.status == 404, path
        await page.goto("/usage/")
        await expect(page.locator("dt:text-is('Requests') + dd")).to_have_text("0")


@pytest.mark.nightly
async def test_a_real_model_answers_in_the_playground(whole: Whole, browser: Browser) -> None:
    async with logged_in(browser, whole) as page:
        await page.goto(f"/playground/?model={whole.berth.model}")
        await page.get_by_label("Temperature").fill("0")
        await page.get_by_label("Message").fill("What is Slurm?")
        await page.keyboard.press("Enter")
        await expect(page.locator("li.assistant span")).to_contain_text("Slurm", timeout=200_000)


@pytest.mark.nightly
async def test_screenshots_of_every_page_of_a_user(whole: Whole, browser: Browser) -> None:
    """For people to look at: light and dark, wide and narrow, in screenshots/. No page scrolls sideways."""
    whole.tune(load_s=0, tokens_per_s=200)
    SCREENSHOTS.mkdir(exist_ok=True)
    paths = dict(PAGES)
    async with logged_in(browser, whole) as page:
        await new_token(page, "screenshots")
        await ask_in_the_playground(page, POOL, "What is a wave?", "What is a wave?")
        await page.goto("/requests/")
        paths["request"] = await page.locator("td a[href^='/requests/']").first.get_attribute("href") or ""
        await hand_in(page, "bad.jsonl", lines("one") + b"{no json}\n" * 3)
        await expect(page.get_by_role("heading", name="Failed")).to_be_visible(timeout=60_000)
        paths["batch-failed"] = page.url
        await hand_in(page, "good.jsonl", lines(*("ebb and flood",) * 20))
        await expect(page.get_by_role("heading", name="Completed")).to_be_visible(timeout=COLD_MS)
        paths["batch"] = page.url
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            size = {"width": width, "height": 900}
            async with logged_in(browser, whole, color_scheme=scheme, viewport=size) as page:
                for name, path in paths.items():
                    await page.goto(path)
                    await page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}-{width}.png", full_page=True)
                    wide = await page.evaluate("document.documentElement.scrollWidth")
                    assert wide <= width, f"{path} is {wide} px wide on {width}"
