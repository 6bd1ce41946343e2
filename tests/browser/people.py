"""What the browser's tests of a whole Berth share: people who log in, and somebody of another project."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Page, expect

from tests.slurm.whole import Whole

STRANGER, PASSWORD = "stranger", "correct horse battery"
_MAKE = f"""
from portal.accounts.models import Membership, Project, User
user = User.objects.create_user({STRANGER!r}, password={PASSWORD!r})
Membership.objects.create(user=user, project=Project.objects.create(slug="elsewhere", name="Elsewhere"))
"""


@asynccontextmanager
async def logged_in(
    browser: Browser, whole: Whole, username: str = "", password: str = "", **look: Any
) -> AsyncIterator[Page]:
    """A browser of one's own, after the log-in page; the demo's user where nobody is named. Scripts made no error."""
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


def stranger(whole: Whole) -> tuple[str, str]:
    """Name and password of somebody who belongs to another project."""
    if not whole.one("SELECT count(*) FROM accounts_user WHERE username = %s", STRANGER):
        whole.site.manage(["shell", "-v", "0", "-c", _MAKE])
    return STRANGER, PASSWORD
