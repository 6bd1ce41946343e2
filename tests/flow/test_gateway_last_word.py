"""A client that hangs up on [DONE] has had its whole answer: it did not cancel."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tests.flow.dataplane import Plane, both_links_nightly, chat
from tests.flow.fake_ingress import FakeIngress, Seen, event

pytestmark = both_links_nightly


async def linger(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
    """Send [DONE], and end the connection only later."""
    out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await out.prepare(request)
    await out.write(event("hello"))
    await out.write(b"data: [DONE]\n\n")
    await ingress.gate.wait()
    await out.write_eof()
    return out


async def break_off_late(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
    """Send [DONE] and break the connection instead of ending it."""
    out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await out.prepare(request)
    await out.write(event("hello"))
    await out.write(b"data: [DONE]\n\n")
    assert request.transport is not None
    request.transport.close()
    return out


async def test_a_client_that_leaves_after_the_last_word_is_done_and_not_cancelled(plane: Plane) -> None:
    plane.route()
    plane.ingress.next = [linger]
    plane.ingress.gate.clear()
    async with plane.post(chat(stream=True)) as answer:
        request = answer.headers["x-request-id"]
        while b"[DONE]" not in await answer.content.readline():
            pass
        answer.close()
    await asyncio.sleep(0.1)  # the gateway learns that the client is gone, while the ingress has not ended
    assert plane.row(request) is None
    plane.ingress.gate.set()
    assert (await plane.ended(request))["state"] == "done"


async def test_an_ingress_that_breaks_off_after_the_last_word_lost_nothing(plane: Plane) -> None:
    plane.route()
    plane.ingress.next = [break_off_late]
    async with plane.post(chat(stream=True)) as answer:
        assert (await answer.text()).count("data:") == 2, "no error event may follow [DONE]"
        request = answer.headers["x-request-id"]
    assert (await plane.ended(request))["state"] == "done"
