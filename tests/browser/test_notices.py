"""A person says in a real browser what they want to be told, and is told it: by the worker and the beat of a whole Berth,
by mail and to a receiver of their own, each event once. The receiver is slow, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler

import pytest
from playwright.async_api import Browser, Page, expect

from tests import sinks
from tests.browser.people import ADDRESS, READER, hand_in, known, lines, logged_in
from tests.sinks import Mailbox, Receiver, is_ours, says
from tests.slurm.whole import POOL, Whole

pytestmark = pytest.mark.slurm
COLD_MS = 60_000
BATCH = "a batch of mine is finished or has failed"


async def test_a_person_is_told_what_they_asked_to_be_told(
    whole: Whole, browser: Browser, letters: Mailbox
) -> None:
    reader = await asyncio.to_thread(known, whole, READER)
    await asyncio.to_thread(whole.empty)
    whole.tune(load_s=1, tokens_per_s=200)
    begun = whole.one("SELECT now()")

    def mails() -> list[str]:
        return letters.subjects(ADDRESS)

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        """Answer once the mail is there and the loop went on: a look that waits for it would wait in vain."""
        whole.until(mails, 8, "the mail, beside a receiver that does not answer yet")
        whole.ticks(1)
        says(200)(handler)

    with sinks.receiver() as sink:
        sink.next = [slowly]
        async with logged_in(browser, whole, *reader) as page:
            secret = await set_up(page, sink)
            await page.get_by_role("link", name="Models", exact=True).click()
            await (
                page.get_by_role("row")
                .filter(has_text=POOL)
                .get_by_role("button", name="Start and notify me")
                .click()
            )
            await expect(page.get_by_role("status").filter(has_text="You will be notified")).to_be_visible()
            await asyncio.to_thread(whole.until, lambda: sink.got and mails(), 120, "the model's notice")

            await hand_in(page, "bad.jsonl", lines("one") + b"{no json}\n")
            await hand_in(page, "good.jsonl", lines("ebb", "flood"))
            await asyncio.to_thread(
                whole.until, lambda: kinds(sink)["batch_ended"] == 2, 120, "the batches' notices"
            )
            sent = "SELECT count(*) FROM notices_delivery WHERE state = 'sent' AND created_at >= %s"
            await asyncio.to_thread(whole.until, lambda: whole.one(sent, begun) >= 4, 120, "all that is sent")
            await page.get_by_role("link", name="Notices").click()
            lately = page.get_by_role("region", name="Recent notices")
            await expect(lately.get_by_text("Sent")).to_have_count(4)
            await asyncio.to_thread(whole.ticks, 3)
            await page.get_by_role("button", name="Remove").click()
            await expect(page.get_by_role("status")).to_contain_text("The webhook is removed")

    told = [json.loads(got.body) for got in sink.got]
    assert kinds(sink) == {"model_ready": 1, "batch_ended": 2}, "once each"
    assert sorted(one["data"]["state"] for one in told[1:]) == ["completed", "failed"]
    assert len({one["id"] for one in told}) == 3
    assert all(is_ours(got, secret) for got in sink.got)
    assert mails() == [f"{POOL} is ready"], "of batches this person wants no mail"


async def set_up(page: Page, sink: Receiver) -> str:
    """Set up her webhook, and no mail of batches; return the webhook's secret."""
    await page.get_by_role("link", name="Notices").click()
    await expect(page.get_by_text(f"Send mail to {ADDRESS} when:")).to_be_visible()
    await page.get_by_label(BATCH).uncheck()
    await page.get_by_role("region", name="By mail").get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status")).to_contain_text("Saved")
    await expect(page.get_by_label(BATCH)).not_to_be_checked()
    mine = page.get_by_role("region", name="By webhook: mine")
    await mine.get_by_label("Address").fill("http://me:pw@127.0.0.1/")
    await mine.get_by_role("button", name="Save").click()
    await expect(mine.get_by_role("alert")).to_contain_text("must not have a user name")
    await mine.get_by_label("Address").fill(sink.url)
    await mine.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status")).to_contain_text("The webhook is saved.")
    await mine.get_by_text("Signing secret").click()
    return await mine.locator("pre.secret").inner_text()


def kinds(sink: Receiver) -> Counter[str]:
    return Counter(json.loads(got.body)["kind"] for got in sink.got)
