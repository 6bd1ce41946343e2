"""Channels → a call for each message, for ever: the connection is made again when it is lost.

Separate from who listens, so that there is one loop that waits for a Redis that is away. What is said meanwhile is not
heard; listeners look by themselves when they are back (invariant 10).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from portal.redis import clients

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
_SUBSCRIBED = ("subscribe", "psubscribe")
_MESSAGES = ("message", "pmessage")


async def listen(
    url: str,
    name: str,
    heard: Callable[[str, bytes], None],
    *,
    channels: Sequence[str] = (),
    patterns: Sequence[str] = (),
    began: Callable[[], None] = lambda: None,
    ended: Callable[[], None] = lambda: None,
) -> None:
    """Call `heard` with the channel and the text of each message until this task is cancelled.

    `name` is what CLIENT LIST shows. `began` is called each time that all subscriptions stand, `ended` each time that
    the connection is over."""
    pause_s = FIRST_PAUSE_S
    while True:
        client = clients.listener(url, name)
        try:
            async with client.pubsub() as ear:
                if channels:
                    await ear.subscribe(*channels)
                if patterns:
                    await ear.psubscribe(*patterns)
                missing = len(channels) + len(patterns)
                async for message in ear.listen():
                    if message["type"] in _SUBSCRIBED:
                        missing -= 1
                        if missing == 0:
                            pause_s = FIRST_PAUSE_S
                            began()
                    elif message["type"] in _MESSAGES:
                        heard(message["channel"].decode(errors="replace"), message["data"])
        except (RedisError, OSError) as error:
            log.warning("%s: Redis: %s; again in %.1f s", name, error, pause_s)
        finally:
            ended()
            await client.aclose()
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
