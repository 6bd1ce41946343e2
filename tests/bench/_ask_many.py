"""A client with 32 requests in flight for so many seconds, against a URL or a unix socket. → answers a second.

    python _ask_many.py '{"url": …, "socket": … or null, "token": …, "model": …, "stream": …, "seconds": …}'

A process of its own, and the same one on both sides of a comparison.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop

AT_ONCE = 32
TOKENS = 32


async def main(asked: dict[str, Any]) -> dict[str, float]:
    body = {
        "model": asked["model"],
        "messages": [{"role": "user", "content": "What is Slurm?"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": asked["stream"],
    }
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {asked['token']}"}
    connector: aiohttp.BaseConnector = aiohttp.TCPConnector(limit=0)
    if asked["socket"]:
        connector = aiohttp.UnixConnector(asked["socket"], limit=0)
    until = time.monotonic() + asked["seconds"]
    done = 0

    async def one_after_the_other() -> None:
        nonlocal done
        while time.monotonic() < until:
            async with session.post(
                asked["url"] + "/v1/chat/completions", data=data, headers=headers
            ) as answer:
                said = await answer.read()
                if answer.status != 200 or (asked["stream"] and b"[DONE]" not in said[-64:]):
                    raise RuntimeError(f"{answer.status}: {said[-300:]!r}")
            done += 1

    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        began = time.monotonic()
        await asyncio.gather(*[one_after_the_other() for _ in range(AT_ONCE)])
        return {"per_s": done / (time.monotonic() - began), "requests": done}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))
