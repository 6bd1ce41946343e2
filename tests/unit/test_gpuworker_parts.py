"""Log tails, restarts and the outbox: small parts with limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from gpuworker import logtail, outbox, wire
from gpuworker.portal_client import PortalClient, Unavailable
from gpuworker.row import give_back
from gpuworker.supervisor import Restarts


def test_a_tail_starts_at_a_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first line\nsecond line\nthird\n")
    assert logtail.tail(log, 1000) == "first line\nsecond line\nthird\n"
    assert logtail.tail(log, 10) == "third\n"
    assert logtail.tail(tmp_path / "none", 10) == ""


def test_sections_share_the_limit_and_keep_it_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"\xff" * 5000)
    text = logtail.sections([("A", tmp_path / "a"), ("B", tmp_path / "b")], 2000)
    assert len(text.encode()) <= 2000
    assert "== B ==" in text
    assert logtail.sections([], 100) == ""


def test_restarts_are_bounded_in_a_window_and_back_off() -> None:
    restarts = Restarts(most=3, window_s=100.0, first_pause_s=1.0)
    assert [restarts.pause_s(float(now)) for now in (0, 1, 2, 3)] == [1.0, 4.0, 16.0, None]
    assert restarts.pause_s(101.5) == 4.0, "the first two have left the window"


class Portal:
    """A portal that takes every result but those it cannot store; with one of them a call fails as a
    whole."""

    def __init__(self, poison: str) -> None:
        self.poison = poison
        self.taken: list[str] = []

    async def results(self, message: wire.Results) -> wire.ResultsAnswer:
        names = [r.request for r in message.results]
        if self.poison in names:
            raise Unavailable("results: HTTP 500")
        self.taken += names
        return wire.ResultsAnswer(taken=names, late=[])


async def test_one_result_that_cannot_be_stored_does_not_hold_up_the_others() -> None:
    portal = Portal(poison="q3")
    box = outbox.Outbox("pilot", cast(PortalClient, portal))
    sending = asyncio.create_task(box.run())
    try:
        for n in range(6):
            box.put(give_back(wire.LeasedRow(f"q{n}", 1, "r", "/v1/completions", False, b""), "draining"))
        async with asyncio.timeout(20):
            while len(portal.taken) < 5:
                await asyncio.sleep(0.01)
        assert sorted(portal.taken) == ["q0", "q1", "q2", "q4", "q5"]
        assert box.rows() == [wire.RowRef("q3", 1)]
    finally:
        sending.cancel()
