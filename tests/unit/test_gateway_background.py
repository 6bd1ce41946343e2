"""Pilots are told of rows that wait: of the first at once, and of a flood now and then, not of each."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from portal.gateway.background import Background
from portal.redis import keys


async def test_a_flood_is_told_of_at_once_and_again_at_its_end() -> None:
    sent: list[str] = []
    slots: Any = SimpleNamespace(hint=lambda channel, _message: sent.append(channel))
    unused: Any = None
    background = Background(slots, unused, unused, unused, lambda _pool: None)
    for _ in range(100):
        background._tell("a")
    background._tell("b")
    assert sent == [keys.ROWS.of("a"), keys.ROWS.of("b")]
    async with asyncio.timeout(60):
        while background._told:
            await asyncio.sleep(0.005)
    assert sent == [keys.ROWS.of("a"), keys.ROWS.of("b"), keys.ROWS.of("a")]
    background._tell("b")
    assert sent[-1] == keys.ROWS.of("b"), "one that comes later is told of at once again"
