"""Single sign-on in a real browser: the button, the provider's own page, the page of who waits, and in."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from portal.accounts.models import Membership, User
from portal.config import config
from tests import oidc
from tests.flow.batch_world import in_thread
from tests.flow.dataplane import Plane
from tests.oidc import Idp

# WhiteNoise answers with an iterator; what the tests are about is not served by it.
pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")


@pytest.fixture
async def door(
    browser: Browser, with_pages: Plane, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Plane, Idp, Page]]:
    with oidc.running() as idp:
        oidc.configure(monkeypatch, idp)
        context = await browser.new_context()
        yield with_pages, idp, await context.new_page()
        await context.close()
        monkeypatch.undo()
        config.cache_clear()


async def test_who_comes_for_the_first_time_waits_and_then_sees_the_models(door: Any) -> None:
    plane, idp, tab = door
    name = f"ada-{secrets.token_hex(3)}"
    await asyncio.to_thread(idp.person, "s-1", preferred_username=name)

    async def log_in() -> None:
        await tab.goto(plane.url + "/tokens/")
        await tab.get_by_role("button", name="Log in with Campus").click()
        await tab.get_by_placeholder("sub").fill("s-1")
        await tab.get_by_role("button", name="Authorize").first.click()

    await log_in()
    await expect(tab.get_by_role("heading")).to_have_text("Your account is waiting for approval")
    await expect(tab.locator("main")).to_contain_text(name)
    await in_thread(let_in, name, plane)
    await log_in()
    await expect(tab.get_by_role("heading", name="Tokens", exact=True)).to_be_visible()
    await tab.get_by_role("link", name="Models").click()
    await expect(tab.locator("table")).to_contain_text("demo")
    await tab.get_by_role("button", name="Log out").click()
    await expect(tab.get_by_role("button", name="Log in with Campus")).to_be_visible()


def let_in(name: str, plane: Plane) -> None:
    user = User.objects.get(username=name)
    user.is_active = True
    user.save()
    Membership.objects.create(user=user, project_id=plane.seeded.project)
