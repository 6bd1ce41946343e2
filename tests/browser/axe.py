"""axe-core over a page, light and dark → what it finds serious or critical, as lines that name the place.

Shared by the tests, which want none on a furnished site, and by `bin/bench pages`, which counts them on a large one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page

BAD = frozenset({"serious", "critical"})
_EVERYTHING = {"resultTypes": ["violations"]}
# All that the other scheme can change.
_COLOURS = {**_EVERYTHING, "runOnly": ["color-contrast"]}
# Everything is open, and nothing fades from one scheme's colour to the other's while it is looked at.
_STILL = """() => {
  document.querySelectorAll("details").forEach(fold => (fold.open = true));
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("* { transition: none !important; animation: none !important; }");
  document.adoptedStyleSheets = [sheet];
}"""
_axe = Axe()


async def findings(page: Page, where: str, options: dict[str, Any] = _EVERYTHING) -> list[str]:
    """Return axe's findings on the page as it stands."""
    found: Any = await _axe.run(page, options=options)
    return [
        f"{where}: {violation['id']} ({violation['impact']}): {node['target']} {node['html'][:120]}"
        for violation in found.response["violations"]
        if violation["impact"] in BAD
        for node in violation["nodes"][:3]
    ]


async def walk(browser: Browser, url: str, cookie: str, paths: Iterable[str]) -> list[str]:
    """Visit all pages as one person, in both schemes: the page is loaded once, and its colours are
    changed."""
    bad: list[str] = []
    context = await browser.new_context()
    if cookie:
        await context.add_cookies([{"name": "sessionid", "value": cookie, "url": url}])
    tab = await context.new_page()
    for path in paths:
        answer = await tab.goto(url + path)
        assert answer is not None and answer.status < 500, (path, answer and answer.status)
        await tab.evaluate(_STILL)
        for scheme, options in (("light", _EVERYTHING), ("dark", _COLOURS)):
            await tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            bad += await findings(tab, f"{path} {scheme}", options)
    await context.close()
    return bad
