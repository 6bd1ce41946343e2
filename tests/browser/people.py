"""What the browser's tests of a whole Berth share: people who log in, and the files that they hand in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Page, expect

from tests.slurm.whole import POOL, Whole

STRANGER, PASSWORD = "stranger", "correct horse battery"
# Who manages a project of their own, who belongs to none, and who gets mail.
MANAGER, NEWCOMER, READER = "maya", "noor", "rita"
ADDRESS = f"{READER}@example.org"
_MAKE = f"""
from django.contrib.auth.hashers import make_password
from portal.accounts.models import Membership, Project, User
hashed = make_password({PASSWORD!r})  # takes a moment on purpose: once for all
def person(name, slug="", role="member", email=""):
    user = User.objects.create(username=name, email=email, password=hashed)
    if slug:
        project, _ = Project.objects.get_or_create(slug=slug, defaults={{"name": slug.title()}})
        Membership.objects.create(user=user, project=project, role=role)
person({STRANGER!r}, "elsewhere")
person({MANAGER!r}, "reef", "manager")
person({NEWCOMER!r})
person({READER!r}, "demo", email={ADDRESS!r})
"""


@asynccontextmanager
async def logged_in(
    browser: Browser, whole: Whole, username: str = "", password: str = "", **look: Any
) -> AsyncIterator[Page]:
    """Open a browser of one's own, after the log-in page; it is the demo's user's where nobody is named.

    Its scripts may make no error.
    """
    if not username:
        username, password = whole.berth.logins["user"]
    context = await browser.new_context(base_url=whole.site.url, **look)
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    await page.goto("/")
    await page.get_by_label("User name").fill(username)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="Models")).to_be_visible()
    yield page
    await context.close()
    assert wrong == []


def known(whole: Whole, name: str) -> tuple[str, str]:
    """Name and password of one of those above, who are made at their first use."""
    if not whole.one("SELECT count(*) FROM accounts_user WHERE username = %s", STRANGER):
        whole.site.manage(["shell", "-v", "0", "-c", _MAKE])
    return name, PASSWORD


def lines(*texts: str) -> bytes:
    """Write a batch's file."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"line-{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": POOL, "messages": [{"role": "user", "content": text}]},
            }
        ).encode()
        + b"\n"
        for n, text in enumerate(texts)
    )


async def hand_in(page: Page, name: str, content: bytes) -> None:
    await page.goto("/batches/")
    file = {"name": name, "mimeType": "application/jsonl", "buffer": content}
    await page.get_by_label("File").set_input_files(file)  # type: ignore[arg-type]
    await page.get_by_role("button", name="Upload and start").click()
    await expect(page.get_by_role("heading", name=name)).to_be_visible()


async def new_token(page: Page, name: str) -> str:
    """Make a token, and return its text, which the page shows once."""
    await page.get_by_role("link", name="Tokens", exact=True).click()
    await page.get_by_label("Name").fill(name)
    await page.get_by_role("button", name="Create token").click()
    text = await page.locator("#token").inner_text()
    await page.reload()
    await expect(page.locator("#token")).to_have_count(0)
    return text
