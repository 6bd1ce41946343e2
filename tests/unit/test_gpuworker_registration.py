"""How patient an agent is with a portal that does not reach its ingress, and its words when it gives up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuworker import exits, registration, wire
from gpuworker.exits import CannotServe, JobOver
from gpuworker.portal_client import IngressUnreached, Lost, Unavailable

ANSWER = wire.SyncAnswer([], False, None, [], 1.0, False)
AT = 4_000_000_000.0  # no limit is over
MESSAGE = wire.Register(
    "p", 7, 0, "gpu01", "http://10.0.0.7:20000", AT, AT, "1", [], 1, others=["http://10.1.0.7:20000"]
)


def _unreached(known: bool = False) -> IngressUnreached:
    tried = [
        wire.Tried("http://10.0.0.7:20000", "no answer within 4 s"),
        wire.Tried("http://10.1.0.7:20000", "no route to it from the portal"),
    ]
    return IngressUnreached(wire.Unreached(tried, known))


class Portal:
    """A portal that answers one by one; the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def register(self, message: wire.Register) -> wire.SyncAnswer:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


async def _register(portal: Portal, **more: Any) -> wire.SyncAnswer:
    """Register without pauses: somebody wakes it all the time."""
    wake = asyncio.Event()

    async def hurry() -> None:
        while True:
            wake.set()
            await asyncio.sleep(0)

    hurrying = asyncio.create_task(hurry())
    try:
        return await registration.register(portal, MESSAGE, 10.0, wake, lambda: False, **more)  # type: ignore[arg-type]
    finally:
        hurrying.cancel()


async def test_after_five_tries_it_ends_with_the_words_and_the_addresses() -> None:
    portal = Portal(_unreached())
    with pytest.raises(CannotServe) as over:
        await _register(portal, ports=(20000, 20100))
    assert (portal.asked, over.value.code) == (5, exits.UNREACHED)
    assert str(over.value) == (
        "The portal does not reach its ingress on gpu01 (http://10.0.0.7:20000: no answer within 4 s; "
        "http://10.1.0.7:20000: no route to it from the portal). Open ports 20000-20100 from the portal to the nodes, "
        "set door_address to a network of the nodes that the portal can reach, or use link: reverse."
    )


async def test_a_firewall_that_opens_late_is_waited_for() -> None:
    portal = Portal(_unreached(), _unreached(), ANSWER)
    assert await _register(portal) == ANSWER


async def test_a_portal_that_is_down_or_busy_does_not_count_as_a_try() -> None:
    down = Unavailable("register: HTTP 503")
    portal = Portal(_unreached(), *[down] * 20, _unreached(), *[down] * 20, ANSWER)
    assert await _register(portal) == ANSWER


@pytest.mark.parametrize(("known", "served"), [(True, False), (False, True)])
async def test_one_that_serves_already_is_given_minutes(known: bool, served: bool) -> None:
    portal = Portal(*[_unreached(known)] * 20, ANSWER)
    assert await _register(portal, served=served) == ANSWER
    assert 240 <= sum(registration.KNOWN_RETRY_S) <= 600
    with pytest.raises(CannotServe):
        await _register(Portal(_unreached(known)), served=served)


async def test_another_job_that_became_the_pilot_meanwhile_ends_this_one() -> None:
    with pytest.raises(JobOver) as over:
        await _register(Portal(_unreached(), Lost("register: HTTP 409")))
    assert over.value.code == exits.LOST


def test_the_tries_outlast_twenty_seconds_without_a_way_and_end_within_a_minute() -> None:
    """Where each is refused at once, and where each takes its 4 s."""
    pauses_s = sum(registration.REACH_RETRY_S)
    assert pauses_s > 20 and pauses_s + 4 * (len(registration.REACH_RETRY_S) + 1) < 50
