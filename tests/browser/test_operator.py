"""An operator in a real browser, over a real Slurm: drains a pilot from the page and sees it end."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Browser, expect

from tests.slurm.whole import POOL, Whole

pytestmark = pytest.mark.slurm
WITHIN_MS = 60_000


async def test_an_operator_drains_a_pilot_from_the_page(browser: Browser, whole: Whole) -> None:
    await asyncio.to_thread(_hot, whole)
    (job,) = whole.live_jobs()
    name, password = whole.berth.logins["user"]
    whole.rows("UPDATE accounts_user SET is_operator = true WHERE username = %s", name)
    tab = await browser.new_page()
    await tab.goto(f"{whole.site.url}/fleet/")
    await tab.get_by_label("User name").fill(name)
    await tab.get_by_label("Password").fill(password)
    await tab.get_by_role("button", name="Log in").click()

    await tab.get_by_role("link", name="Now", exact=True).click()
    await expect(tab.get_by_role("img", name=re.compile(f"Job {job}: .*{POOL}, hot"))).to_be_visible()
    await tab.get_by_role("link", name=f"Job {job}").click()
    await expect(tab.get_by_role("heading", name=f"Job {job} Up")).to_be_visible()
    await tab.get_by_role("button", name="Drain").first.click()
    await expect(tab.get_by_role("status")).to_contain_text("(drain) is queued")
    # Without a click: the page asks again by itself.
    await expect(tab.get_by_role("heading", name=f"Job {job} Ended")).to_be_visible(timeout=WITHIN_MS)
    await expect(tab.get_by_role("region", name="Decisions")).to_contain_text(f"{name} asked to drain it")

    await tab.get_by_role("link", name="Fleet").first.click()
    commands = tab.get_by_role("region", name="Commands")
    await expect(commands.get_by_role("row", name=f"drain job {job} {name}").first).to_contain_text("Done")
    await asyncio.to_thread(whole.until, lambda: job not in whole.live_jobs(), what="the end of its job")
    await tab.close()


def _hot(whole: Whole) -> None:
    """Make one pilot with a ready model and nothing to do."""
    whole.empty()
    whole.tune(keep_alive_s=600)
    request = whole.post()
    whole.until(lambda: whole.detail(request)["state"] == "done", what="an answer")
