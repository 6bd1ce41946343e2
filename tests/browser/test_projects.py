"""A manager looks after a project in a real browser; what its members may then, and what they may not."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.people import MANAGER, NEWCOMER, known, logged_in, new_token
from tests.slurm.whole import Whole

pytestmark = pytest.mark.slurm
PAGE = "/projects/reef/"


async def test_a_manager_adds_somebody_gives_a_role_and_revokes_a_token(
    whole: Whole, browser: Browser
) -> None:
    manager = await asyncio.to_thread(known, whole, MANAGER)
    async with (
        logged_in(browser, whole, *manager) as boss,
        logged_in(browser, whole, NEWCOMER, manager[1]) as page,
    ):
        boss.on("dialog", lambda question: question.accept())
        await page.get_by_role("link", name="Projects").click()
        await expect(page.get_by_text("You belong to no project yet")).to_contain_text(NEWCOMER)

        await boss.get_by_role("link", name="Projects").click()
        await boss.get_by_role("link", name="Members and tokens of Reef").click()
        await add(boss, "nobody-of-that-name")
        await expect(boss.get_by_text("There is nobody called")).to_be_visible()
        await add(boss, NEWCOMER)
        await expect(boss.get_by_role("status")).to_contain_text(f"{NEWCOMER} was added to the project")
        await expect(row(boss)).to_contain_text("Member")

        # A plain member: its models by a token, but not its members.
        await page.reload()
        await expect(page.get_by_role("region", name="Reef")).to_contain_text("You are a member.")
        await expect(page.get_by_role("link", name="Members and tokens")).to_have_count(0)
        assert await opens(page, PAGE) == 404
        await page.goto("/")
        token = await new_token(page, "laptop")
        assert await asyncio.to_thread(asked, whole, token) == 200

        # A manager: those, too.
        await row(boss).get_by_role("button", name="Make manager").click()
        await expect(row(boss)).to_contain_text("Manager")
        assert await opens(page, PAGE) == 200
        await expect(page.get_by_role("button", name=f"Remove {MANAGER}")).to_be_visible()
        await row(boss).get_by_role("button", name="Make member").click()
        await expect(row(boss)).to_contain_text("Member")
        assert await opens(page, PAGE) == 404

        await boss.get_by_role("button", name=f"Revoke laptop of {NEWCOMER}").click()
        await expect(boss.get_by_role("status")).to_contain_text(f"{NEWCOMER}'s token “laptop” is revoked")
        await asyncio.to_thread(
            whole.until, lambda: asked(whole, token) == 401, 10, "a gateway that knows of the revocation"
        )
        await page.goto("/tokens/")
        await expect(page.get_by_text("None yet. Create one below.")).to_be_visible()

        await boss.get_by_role("button", name=f"Remove {NEWCOMER}").click()
        await expect(row(boss)).to_have_count(0)
        await page.goto("/projects/")
        await expect(page.get_by_text("You belong to no project yet")).to_be_visible()


async def add(page: Page, name: str) -> None:
    await page.get_by_label("User name").fill(name)
    await page.get_by_role("button", name="Add to the project").click()


def row(page: Page) -> Locator:
    """Find the newcomer's row among the members."""
    return page.get_by_role("region", name="Members").get_by_role("row").filter(has_text=NEWCOMER)


async def opens(page: Page, path: str) -> int:
    answer = await page.goto(path)
    assert answer is not None
    return answer.status


def asked(whole: Whole, token: str) -> int:
    """Return the status that a gateway answers to a program with this token."""
    request = urllib.request.Request(
        f"{whole.site.url}/v1/models", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
