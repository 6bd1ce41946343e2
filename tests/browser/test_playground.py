"""The playground in a real browser, against the gateway: streaming, a cold model, stop, and what is kept where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from django.utils import timezone
from playwright.async_api import Browser, Page, expect

from portal.catalog.models import Environment, Model, Pool, Profile
from portal.fleet.models import Pilot, Replica
from portal.redis import keys
from tests.flow.dataplane import Plane, Seeded, until
from tests.flow.fake_ingress import FakeIngress, Seen, event, go_on_for_ever

# WhiteNoise answers with an iterator; what the tests are about is not served by it.
pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")


@pytest.fixture
async def page(browser: Browser, with_pages: Plane, session: str) -> AsyncIterator[tuple[Plane, Page]]:
    context = await browser.new_context()
    await context.add_cookies([{"name": "sessionid", "value": session, "url": with_pages.url}])
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    await page.goto(with_pages.url + "/playground/")
    yield with_pages, page
    await context.close()
    assert wrong == []


async def _ask(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.keyboard.press("Enter")


async def test_a_cold_model_says_why_and_then_answers_as_it_comes(page: tuple[Plane, Page]) -> None:
    plane, tab = page
    await tab.get_by_label("Temperature").fill("0.5")
    await tab.get_by_label("Max tokens").fill("12")
    await _ask(tab, "hi")
    await expect(tab.locator("#waiting")).to_contain_text("demo is not loaded", timeout=60_000)
    await expect(tab.locator("#waiting")).to_contain_text("Queue position: 1.")
    await plane.open()
    await expect(tab.locator("li.assistant span")).to_have_text("hello world", timeout=60_000)
    await expect(tab.locator("#waiting")).to_be_hidden()
    await expect(tab.get_by_label("Model").locator("option:checked")).to_have_text("demo · Ready")
    (seen,) = plane.ingress.seen
    assert (seen.body["temperature"], seen.body["max_tokens"], seen.body["model"]) == (0.5, 12, "demo")
    # Also after the page was loaded anew the model hears what was said before.
    await tab.reload()
    await expect(tab.locator("li.assistant span")).to_have_text("hello world")
    await _ask(tab, "and?")
    await expect(tab.locator("li.assistant")).to_have_count(2, timeout=60_000)
    said = [(message["role"], message["content"]) for message in plane.ingress.seen[1].body["messages"]]
    assert said == [("user", "hi"), ("assistant", "hello world"), ("user", "and?")]
    kept: Any = await tab.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert "hello world" in kept and "berth_" not in kept, "the chat is kept in the window, its token nowhere"


@pytest.fixture
def quick(seeded: Seeded) -> Replica:
    """Make a hot replica of another model."""
    now = timezone.now()
    pool = Pool.objects.create(name="quick", environment=Environment.objects.get(), cap=4)
    Model.objects.create(name="quick", pool=pool)
    pilot = Pilot.objects.create(
        cluster="main", profile=Profile.objects.get(), state="up", job_name="berth-test-quick", job_id=7, gpus=1,
        mem_mb=8000, walltime_min=60, planned_at=now, submitted_at=now, up_at=now,
    )  # fmt: skip
    return Replica.objects.create(
        pilot=pilot, pool=pool, model="quick", engine="echo", state="hot", gpu_indices=[0], mem_mb=500, cap=4,
        wanted_at=now, hot_at=now,
    )  # fmt: skip


async def test_while_one_waits_a_model_that_is_ready_can_be_asked_instead(
    quick: Replica, page: tuple[Plane, Page]
) -> None:
    plane, tab = page
    route = {
        "transport": plane.ingress.url,
        "pilot": str(quick.pilot_id),
        "cap": 4,
        "state": "hot",
        "model": "quick",
    }
    plane.redis.hset(keys.ROUTES.of("quick"), str(quick.id), json.dumps(route))
    await tab.get_by_label("Model").select_option("demo")
    await _ask(tab, "hi")
    await tab.get_by_role("button", name="Use quick instead").click(timeout=60_000)
    await expect(tab.locator("li.assistant")).to_have_text("quickhello world", timeout=60_000)
    await expect(tab.locator("#waiting")).to_be_hidden()
    assert [seen.body["model"] for seen in plane.ingress.seen] == ["quick"]
    await until(lambda: not plane.redis.zcard(keys.WAIT.of("demo")), "the first one waits no more")


async def test_what_a_model_says_is_text(page: tuple[Plane, Page]) -> None:
    plane, tab = page
    bad = "<img src=x onerror=document.title='gone'><b>bold</b>"

    async def answer(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        await out.write(event(bad) + b"data: [DONE]\n\n")
        return out

    plane.ingress.next = [answer]
    plane.route()
    await _ask(tab, bad)
    await expect(tab.locator("li.assistant span")).to_have_text(bad, timeout=60_000)
    assert await tab.locator("#talk :is(img, b)").count() == 0


async def test_stop_ends_the_answer_at_the_engine_too(page: tuple[Plane, Page]) -> None:
    plane, tab = page
    plane.ingress.next = [go_on_for_ever]
    plane.route()
    await _ask(tab, "hi")
    await expect(tab.locator("li.assistant span")).to_contain_text("again", timeout=60_000)
    await tab.get_by_role("button", name="Stop").click()
    await until(lambda: plane.ingress.seen[0].cut, "the engine hears of it")
    await expect(tab.get_by_role("button", name="Send")).to_be_enabled()


async def test_an_error_is_shown_in_its_words(page: tuple[Plane, Page]) -> None:
    plane, tab = page
    await asyncio.to_thread(plane.sql, "UPDATE catalog_model SET enabled = false")
    plane.gateway.directory.refresh_soon()
    await until(lambda: not plane.gateway.directory.snapshot.models, "the gateway knows")
    await _ask(tab, "hi")
    await expect(tab.locator("li.failed")).to_contain_text("does not exist or your project may not use it")
