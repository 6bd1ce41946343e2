"""Pages are forms and links: without JavaScript one logs in, starts a model, makes a token, hands in a batch, cancels."""

from __future__ import annotations

import json
import re

import pytest
from playwright.async_api import Browser, expect

from portal.accounts.models import User
from tests.flow.dataplane import Plane, Seeded

pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
PASSWORD = "correct horse battery"
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}}  # fmt: skip


@pytest.fixture
def name(seeded: Seeded) -> str:
    person = User.objects.get(pk=seeded.user)
    person.set_password(PASSWORD)
    person.save()
    return person.username


async def test_a_person_needs_no_script(browser: Browser, name: str, with_pages: Plane) -> None:
    context = await browser.new_context(java_script_enabled=False, base_url=with_pages.url)
    page = await context.new_page()
    await page.goto("/requests/")
    await page.get_by_label("User name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="Requests")).to_be_visible()

    await page.get_by_role("link", name="Models", exact=True).click()
    await page.get_by_role("button", name=re.compile("^Start ?: demo")).click()
    await expect(page.locator("ul.messages")).to_contain_text("demo will be started")
    await page.get_by_role("link", name="Example for demo").click()
    await expect(page.get_by_text("from openai import OpenAI")).to_be_visible()

    await page.get_by_role("link", name="Tokens", exact=True).click()
    await page.get_by_label("Name").fill("laptop")
    await page.get_by_role("button", name="Create token").click()
    await expect(page.locator("#token")).to_contain_text("berth_")

    await page.get_by_role("link", name="Batches", exact=True).click()
    file = {"name": "one.jsonl", "mimeType": "application/jsonl", "buffer": json.dumps(LINE).encode()}
    await page.get_by_label("File").set_input_files(file)  # type: ignore[arg-type]
    await page.get_by_role("button", name="Upload and start").click()
    await expect(page.get_by_role("heading", name="one.jsonl")).to_be_visible()
    await page.get_by_role("button", name="Cancel batch").click()
    await expect(page.locator("ul.messages")).to_contain_text("is being cancelled")

    body = {"model": "demo", "api": "/v1/chat/completions", "body": LINE["body"]}
    async with with_pages.client.post(
        f"{with_pages.url}/api/v1/requests", json=body, headers=with_pages.headers()
    ) as answer:
        assert answer.status == 202
    await page.get_by_role("link", name="Requests", exact=True).click()
    await page.get_by_label("State").select_option("queued")
    await page.get_by_role("button", name="Show").click()
    await page.locator("td a[href^='/requests/']").click()
    await page.get_by_role("button", name="Cancel request").click()
    await expect(page.locator("ul.messages")).to_contain_text("The request is cancelled.")

    await page.get_by_role("link", name="Playground").click()
    await expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    # A browser that is told by a debugger to run no script still parses as one that would: it does not show this.
    assert "The playground needs JavaScript." in await page.content()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    await context.close()
