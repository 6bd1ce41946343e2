"""A real browser: Debian's Chromium, which `bin/test` installs because this folder has tests."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.flow.conftest import seeded as seeded
from tests.flow.conftest import session as session
from tests.flow.conftest import with_pages as with_pages

expect.set_options(timeout=30_000)  # its own five seconds are short on a busy machine


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    assert path, "chromium is not on PATH; bin/test installs it"
    async with async_playwright() as driver:
        started = await driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        await started.close()
