"""Every page of a running site under axe-core, as each kind of caller: `python -m tests.bench._pages_axe JSON`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from devstack import apt
from playwright.async_api import async_playwright

from tests.browser.axe import walk


async def look(url: str, door: dict[str, str], pages: list[list[str]]) -> list[str]:
    bad: list[str] = []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=apt.program("chromium"), args=["--no-sandbox"])
        for caller, cookie in door.items():
            bad += await walk(browser, url, cookie, [path for of, path in pages if of == caller])
        bad += await walk(browser, url, "", ["/login/"])
        await browser.close()
    return bad


if __name__ == "__main__":
    asked: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps(asyncio.run(look(**asked))))
