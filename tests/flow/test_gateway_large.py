"""What is far larger than usual: prompts of 10 MB by every way in, and answers that nobody could give."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.flow.dataplane import Plane, answered, both_links_nightly, chat
from tests.flow.fake_ingress import reject
from tests.flow.gpuworker_job import START_S, job, planned
from tests.flow.test_gateway_limits import _quota

pytestmark = both_links_nightly

WORD = "prompt" * 100 + " "  # long ones, which the echo engine counts in no time
PROMPT = WORD * (10 * 2**20 // len(WORD))


def _large(**more: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": PROMPT}], max_tokens=2, **more)


async def test_ten_megabytes_cold_hot_and_later_through_a_real_gpuworker(
    plane: Plane, tmp_path: Path
) -> None:
    """Each of the three ways to an engine: a row and a grant, at once, and a lease."""
    pilot, _ = planned(plane)
    cold = asyncio.create_task(answered(plane, _large(stream=True)))
    (first,) = await plane.waiting()
    with job(plane, pilot, tmp_path, plane.link):
        async with asyncio.timeout(START_S):
            status, text, request = await cold
        assert (status, request) == (200, first) and text.count('"content":"prompt') == 2
        assert '"finish_reason":"length"' in text
        status, text, hot = await answered(plane, _large())
        assert (status, json.loads(text)["choices"][0]["message"]["content"]) == (200, WORD * 2)
        async with plane.post(_large(), headers={"Prefer": "respond-async"}) as answer:
            later = (await answer.json())["id"]
        assert (await plane.ended(later))["state"] == "done"
    words = len(PROMPT) // len(WORD)
    for request in (first, hot, later):
        row = await plane.ended(request)
        assert (row["state"], row["prompt_tokens"], row["completion_tokens"]) == ("done", words, 2)
    # Only what its owner will still fetch is kept.
    (kept,) = plane.sql("SELECT request::text, octet_length(result) FROM ledger_payload")
    assert kept[0] == later and kept[1] < 2000


async def test_a_huge_limit_of_the_answer_is_the_engines_to_judge(plane: Plane) -> None:
    """It travels as it is, whatever its size, and costs no more than any engine could give."""
    plane.route()
    await _quota(plane, tokens_per_min=140_000)
    for limit in (10**9, 10**30):
        plane.ingress.next = [reject(400, "max_tokens is too large: this model's context has 2048 tokens")]
        async with plane.post(chat(max_tokens=limit)) as answer:
            said = (await answer.json())["error"]
            assert (answer.status, said["code"]) == (400, "engine_rejected") and "2048" in said["message"]
        assert plane.ingress.seen[-1].body["max_tokens"] == limit
        # All but 131,072 tokens of its reservation were never meant, and a refusal gives back the rest.
        async with plane.post(chat(max_tokens=10)) as answer:
            assert answer.status == 200 and int(answer.headers["x-ratelimit-remaining-tokens"]) > 139_000


async def test_a_huge_limit_does_not_cost_its_project_the_line(plane: Plane) -> None:
    """Fair order goes by estimated tokens: an absurd one must not put what its project asks next behind for ever."""
    asking = []
    for limit in (10**30, 10, 10):
        asking.append(asyncio.create_task(answered(plane, chat(max_tokens=limit))))
        await plane.waiting(len(asking))
    order = [float(row[0]) for row in plane.sql("SELECT order_key FROM ledger_request ORDER BY accepted_at")]
    assert order[0] < order[1] < order[2] < order[0] + 200_000
    await plane.open()
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200, 200, 200]
