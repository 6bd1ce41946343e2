"""Every page can be used by everybody: axe-core finds nothing serious on it, light or dark; keys reach all of it; no
page scrolls sideways. Users' pages, operators', the admin's, and what strangers and those who err see."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import redis as redis_library
from devstack import checkout
from django.apps import apps
from django.db import connections
from django.test import Client
from django.urls import reverse
from playwright.async_api import Browser, Page
from psycopg2.extensions import connection as Connection

from portal.accounts.models import User
from tests.authorisation import SITE, rows
from tests.browser.axe import findings, walk
from tests.browser.furniture import Furnished, furnish
from tests.flow import dataplane
from tests.flow.dataplane import Plane, Seeded

pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
SHOTS = checkout.ROOT / "screenshots"
FILES = ("/input", "/output", "/errors", "/csv")  # to take away
MAIN = (
    "accounts.User", "accounts.Project", "accounts.Quota", "catalog.Profile", "catalog.Pool", "catalog.Model",
    "ledger.Request", "fleet.Decision", "audit.Change",
)  # fmt: skip


@pytest.fixture
def furnished(transactional_db: None) -> Furnished:
    return furnish()


@pytest.fixture
async def site(
    furnished: Furnished,
    test_dsn: str,
    pg: Connection,
    redis: redis_library.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Plane]:
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
    world = furnished.world
    token = world.owner.token
    seeded = Seeded(token, 1, world.project.pk, world.owner.user.pk, pool="surf", model="surf")
    async with dataplane.running(seeded, test_dsn, pg, redis, serve="all") as plane:
        yield plane


@pytest.fixture
def looks(furnished: Furnished) -> dict[str, tuple[str, list[str]]]:
    """Return by caller the cookie, and the pages to look at: each once, as somebody who has something on
    it."""
    owner, operator = furnished.world.owner.user, furnished.world.operator.user
    return {
        "stranger": ("", ["/login/", "/nothing-here/"]),
        "user": (_cookie(owner), [*pages_of("user", furnished), "/now/", "/nothing-here/"]),
        "manager": (_cookie(furnished.world.manager.user), pages_of("manager", furnished)),
        "operator": (
            _cookie(operator),
            [
                *pages_of("operator", furnished),
                "/requests/?whose=everybody",
                "/usage/?whose=everybody&span=7d&by=user",
                "/now/?window=7d",
            ],
        ),
        "administrator": (_cookie(furnished.admin), admin_pages()),
    }


def _cookie(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def pages_of(caller: str, furnished: Furnished) -> list[str]:
    """List the whole pages that this caller is the first to see."""
    found = []
    for (method, address), gets in rows(SITE).items():
        whole = method == "GET" and "fragments" not in address and not address.startswith(("api/", "login/"))
        first = next((who for who in ("user", "manager", "operator") if gets[who] == "200"), "")
        if whole and first == caller and not address.endswith(FILES):
            found += paths(address, furnished)
    return found


def paths(address: str, furnished: Furnished) -> list[str]:
    if "<" not in address:
        return [f"/{address}"]
    of: dict[str, list[Any]] = {
        "fleet": [furnished.pilot.pk],
        "requests": [furnished.done.pk, furnished.waiting.pk, furnished.failed.pk],
        "batches": [batch.pk for batch in furnished.batches],
        "models": [furnished.candidate.pk],
        "projects": [furnished.world.project.slug],
    }
    return ["/" + re.sub(r"<\w+:\w+>", str(key), address) for key in of[address.split("/")[0]]]


def admin_pages() -> list[str]:
    """List the index, and of the tables that people work with the list and a form.

    `bin/bench pages` looks at all of them.
    """
    found = ["/admin/"]
    for label in MAIN:
        row = apps.get_model(label)
        name = f"admin:{row._meta.app_label}_{row._meta.model_name}"
        first = row._default_manager.order_by("pk").first()
        assert first is not None, label
        found += [reverse(f"{name}_changelist"), reverse(f"{name}_change", args=[first.pk])]
    return found


@pytest.mark.timeout(900)  # minutes of work, on a busy machine three times as many
async def test_no_page_has_a_serious_finding(
    browser: Browser, site: Plane, looks: dict[str, tuple[str, list[str]]]
) -> None:
    bad: list[str] = []
    for cookie, wanted in looks.values():
        bad += await walk(browser, site.url, cookie, wanted)
    assert bad == []


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_scrolls_sideways_and_each_has_its_picture(
    browser: Browser,
    site: Plane,
    furnished: Furnished,
    looks: dict[str, tuple[str, list[str]]],
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    """The pictures go to screenshots/, for people to look at."""
    wide: list[str] = []
    for caller, (cookie, wanted) in looks.items():
        tab = await _tab(browser, site, cookie, color_scheme=scheme, viewport={"width": width, "height": 900})
        for path in wanted:
            if caller == "administrator" and width < 600:
                continue  # the admin is Django's, and made for a desk
            await tab.goto(site.url + path)
            if await tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append(path)
            picture = f"{caller}-{_name(path, furnished)}-{scheme}-{width}.png"
            await tab.screenshot(path=SHOTS / picture, full_page=True)
        await tab.context.close()
    assert wide == []


def _name(path: str, furnished: Furnished) -> str:
    for key, word in furnished.names().items():
        path = path.replace(key, word)
    return re.sub(r"[^a-z0-9-]+", "-", path.strip("/").lower()).strip("-") or "models"


async def _tab(browser: Browser, site: Plane, cookie: str, **options: Any) -> Page:
    context = await browser.new_context(**options)
    if cookie:
        await context.add_cookies([{"name": "sessionid", "value": cookie, "url": site.url}])
    return await context.new_page()


# What is in the page and could be used, each marked; then, at each step, which one has the focus and whether it shows.
MARKED = """() => {
  const usable = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
    .filter((it) => !it.disabled && it.type !== "hidden" && it.checkVisibility({ visibilityProperty: true }));
  usable.forEach((it, n) => (it.dataset.walked = n));
  return usable.map((it) => it.outerHTML.slice(0, 80));
}"""
FOCUSED = """() => {
  const it = document.activeElement, look = getComputedStyle(it), box = it.getBoundingClientRect();
  const shows = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2 && box.right > 0 && box.bottom > 0;
  return [Number(it.dataset.walked ?? -1), shows];
}"""


@pytest.mark.nightly
async def test_keys_reach_everything_in_the_order_of_the_page_and_show_where_one_is(
    browser: Browser, site: Plane, looks: dict[str, tuple[str, list[str]]]
) -> None:
    bad: list[str] = []
    for caller, (cookie, wanted) in looks.items():
        if caller == "administrator":
            continue  # the admin is Django's
        tab = await _tab(browser, site, cookie)
        await tab.route("**/fragments/**", lambda route: route.abort())  # what was marked stays as it is
        for path in wanted:
            await tab.goto(site.url + path)
            texts = await tab.evaluate(MARKED)
            await tab.evaluate(
                "document.body.tabIndex = -1, document.body.focus()"
            )  # the log-in page has a focus
            seen: list[int] = []
            for _ in range(len(texts)):
                await tab.keyboard.press("Tab")
                at, shows = await tab.evaluate(FOCUSED)
                if not shows:
                    bad.append(f"{path}: no focus is seen on {texts[at] if at >= 0 else 'the page'}")
                seen.append(at)
            bad += [f"{path}: not reached: {texts[n]}" for n in range(len(texts)) if n not in seen]
            if seen != sorted(seen):
                bad.append(f"{path}: out of order: {seen}")
            if "skip" not in texts[0]:
                bad.append(f"{path}: the first is no skip link")
        await tab.context.close()
    assert bad == []


async def test_it_would_find_one(browser: Browser) -> None:
    """Or the test above would prove nothing."""
    tab = await browser.new_page()
    await tab.set_content(
        "<html lang=en><title>x</title><main><h1>x</h1><img src=x><p style='color:#ccc'>pale</p></main>"
    )
    found = await findings(tab, "x")
    assert any("image-alt" in line for line in found) and any("color-contrast" in line for line in found)
