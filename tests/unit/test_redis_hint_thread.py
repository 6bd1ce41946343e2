"""The control loop is told at once, and no faster than it makes sense where somebody asks without end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from portal.redis import hints
from portal.redis.hint_thread import LEAST_S, MOST_S, HintThread


def test_it_is_told_at_once_and_ever_more_slowly_while_asked_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wake = HintThread()
    pauses: list[float] = []
    told = threading.Event()
    monkeypatch.setattr(hints, "tick_soon", told.set)

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            """Wait without time: somebody asks again meanwhile, until there have been enough."""
            pauses.append(timeout or 0.0)
            wake.stop() if len(pauses) == 5 else wake.soon()
            return False

    wake._stopping = Stopping()
    wake.start()
    wake.soon()
    wake._thread.join(60)
    assert not wake._thread.is_alive() and told.is_set()
    assert pauses == [LEAST_S, 2 * LEAST_S, 4 * LEAST_S, MOST_S, MOST_S]


@pytest.mark.parametrize(
    ("make", "whom"), [(HintThread, "tick_soon"), (lambda: HintThread("batches"), "batches_soon")]
)
def test_each_tells_its_own(
    make: Callable[[], HintThread], whom: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {name: threading.Event() for name in ("tick_soon", "batches_soon")}
    for name, event in told.items():
        monkeypatch.setattr(hints, name, event.set)
    wake = make()
    wake.start()
    wake.soon()
    assert told.pop(whom).wait(60)
    wake.stop()
    wake._thread.join(60)
    assert not any(event.is_set() for event in told.values())
