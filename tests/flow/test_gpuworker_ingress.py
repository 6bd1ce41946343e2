"""What gateways meet at a pilot's port: the real agent with the echo engine."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from tests.flow.gpuworker_portal import chat_body, echo, fake_portal, fence, worker

CHAT = "/v1/chat/completions"


async def test_a_stream_passes_through_with_usage_and_done(tmp_path: Path) -> None:
    async with fake_portal() as portal, aiohttp.ClientSession() as client:
        portal.set(desired=[echo()])
        with worker(portal, tmp_path) as job:
            await portal.state("hot")
            url = job.address + CHAT
            async with client.post(url, data=chat_body("one two three", stream=True), headers=fence()) as answer:
                assert answer.status == 200
                text = (await answer.read()).decode()
            assert text.count("data: ") == 5
            assert text.endswith("data: [DONE]\n\n")
