"""The verified sleep of one engine: what is believed, what is not, and what memory an engine holds on its GPUs."""

from __future__ import annotations

import os

import pytest

from gpuworker import devicemem
from gpuworker.engines.protocol import EngineFailed, EngineStats, NotOffered
from gpuworker.sleep import Sleeper, Spoiled


class FakeEngine:
    """An engine at the process boundary, with what goes wrong as attributes."""

    def __init__(self) -> None:
        self.phase = ""
        self.held: int | None = 1000
        self.frees = 900
        self.answer = "Wednesday"
        self.answers_at_random = False
        self.garbage_after: int | None = None
        self.sleep_error: Exception | None = None
        self.wake_error: Exception | None = None
        self.asleep = 0
        self.woken_from: list[int] = []

    async def sleep(self, level: int) -> None:
        if self.sleep_error:
            raise self.sleep_error
        self.asleep = level

    async def wake(self, level: int) -> None:
        if self.wake_error:
            raise self.wake_error
        self.woken_from.append(level)
        self.asleep = 0

    async def canary(self) -> str:
        if self.asleep:
            raise EngineFailed("it sleeps")
        if self.answers_at_random:
            self.answer += "!"
        garbage = self.garbage_after is not None and len(self.woken_from) >= self.garbage_after
        return "!!!" if garbage else self.answer

    async def device_mb(self) -> int | None:
        return self.held if self.held is None or not self.asleep else self.held - self.frees

    async def stats(self) -> EngineStats:
        return EngineStats(mem_mb=300)


def sleeper(engine: FakeEngine, most_wakes: int = 20) -> Sleeper:
    return Sleeper(engine, most_wakes)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [1, 2])
async def test_one_that_frees_its_gpu_and_answers_as_before_can_sleep(level: int) -> None:
    engine = FakeEngine()
    tried = sleeper(engine)
    await tried.trial(level)
    assert (tried.can_sleep, engine.woken_from, engine.asleep) == (level, [level], 0)
    assert tried.wake_s is not None
    await tried.sleep(level)
    assert tried.asleep_mem_mb == 300
    await tried.wake()
    assert tried.wakes == 2


async def test_nothing_is_tried_where_the_pool_does_not_ask() -> None:
    engine = FakeEngine()
    tried = sleeper(engine)
    await tried.trial(0)
    assert (tried.can_sleep, engine.woken_from) == (0, [])


@pytest.mark.parametrize("frees", [0, 500])
async def test_one_that_frees_half_or_less_cannot_and_is_woken_again(frees: int) -> None:
    engine = FakeEngine()
    engine.frees = frees
    tried = sleeper(engine)
    await tried.trial(1)
    assert (tried.can_sleep, engine.asleep, engine.woken_from) == (0, 0, [1])


@pytest.mark.parametrize("held", [None, 0])
async def test_where_nobody_knows_what_it_holds_it_is_not_even_tried(held: int | None) -> None:
    engine = FakeEngine()
    engine.held = held
    tried = sleeper(engine)
    await tried.trial(1)
    assert (tried.can_sleep, engine.woken_from) == (0, [])


async def test_one_whose_answers_differ_by_themselves_cannot_be_checked() -> None:
    engine = FakeEngine()
    engine.answers_at_random = True
    tried = sleeper(engine)
    await tried.trial(1)
    assert (tried.can_sleep, engine.woken_from) == (0, [])


async def test_one_that_offers_no_sleep_stays_awake() -> None:
    engine = FakeEngine()
    engine.sleep_error = NotOffered("no")
    tried = sleeper(engine)
    await tried.trial(1)
    assert (tried.can_sleep, engine.woken_from) == (0, [])


async def test_after_a_sleep_that_failed_it_must_be_awake_and_sound() -> None:
    engine = FakeEngine()
    engine.sleep_error = EngineFailed("status 500")
    tried = sleeper(engine)
    await tried.trial(1)
    assert (tried.can_sleep, engine.woken_from) == (0, [1])
    engine.wake_error = EngineFailed("gone")
    with pytest.raises(Spoiled, match="gone"):
        await sleeper(engine).trial(1)


async def test_garbage_after_a_wake_spoils_it() -> None:
    engine = FakeEngine()
    engine.garbage_after = 2
    tried = sleeper(engine)
    await tried.trial(1)
    assert tried.can_sleep == 1
    await tried.sleep(1)
    with pytest.raises(Spoiled, match="changed over wake 2"):
        await tried.wake()


async def test_a_later_sleep_that_frees_nothing_fails() -> None:
    engine = FakeEngine()
    tried = sleeper(engine)
    await tried.trial(1)
    engine.frees = 0
    with pytest.raises(EngineFailed, match="holds 1000 MiB of its 1000 MiB"):
        await tried.sleep(1)


async def test_wakes_have_a_cap() -> None:
    engine = FakeEngine()
    tried = sleeper(engine, most_wakes=3)
    await tried.trial(1)
    for left in (1, 0):
        assert tried.can_sleep == 1
        await tried.sleep(1)
        await tried.wake()
        assert tried.can_sleep == left


def test_gpu_memory_is_that_of_the_whole_tree_and_of_nobody_else() -> None:
    said = f"{os.getpid()}, 700\n{os.getppid()}, 40\n{os.getpid()}, 50\n1, 9\n"
    assert devicemem.held_mb(os.getpid(), lambda: said) == 750
    assert devicemem.held_mb(os.getpid(), lambda: "") == 0


def test_what_the_driver_does_not_say_is_unknown_not_free() -> None:
    assert devicemem.held_mb(os.getpid(), lambda: None) is None
    assert devicemem.held_mb(os.getpid(), lambda: f"{os.getpid()}, [N/A]\n") is None
