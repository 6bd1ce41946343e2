"""Ticks run in any of several processes: an answer that one of them asked for before another one asked anew is
outdated, whatever it says. And a clock that is set back holds nobody for as long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from portal.catalog.models import Profile
from portal.fleet.models import WayState
from scheduler.observe.ways import way_of
from scheduler.slurm import fan_out
from scheduler.slurm.protocol import Jobs, NoAnswer
from scheduler.slurm.spec import JobSpec
from tests.flow.test_tick_ways import pilot_of, serve, world
from tests.flow.tick_world import FakeSlurm, World

__all__ = ["world"]

pytestmark = pytest.mark.django_db(transaction=True)


class Late(FakeSlurm):
    """A Slurm whose listing is taken when it is asked for, and comes when `go` is set.

    `old`: what comes then instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.late = False
        self.go = threading.Event()
        self.old: Exception | None = None

    def jobs(self) -> Jobs:
        found = super().jobs()
        if self.late:
            assert self.go.wait(60)
            if self.old is not None:
                raise self.old
        return found


@pytest.fixture
def far(world: World, monkeypatch: pytest.MonkeyPatch) -> Late:
    monkeypatch.setattr(fan_out, "WAIT_S", 0.2)
    world.slurms["alps"] = Late()
    return world.slurms["alps"]  # type: ignore[return-value]


@contextmanager
def another_process(far: Late) -> Iterator[None]:
    """Tick as another process, which shares nothing with the one before but the database.

    Meanwhile the answer that that one waits for comes.
    """
    kept = dict(fan_out._under_way)
    [future] = [asked.future for asked in kept.values()]
    fan_out._under_way.clear()
    far.late = False
    yield
    far.go.set()
    deadline = time.monotonic() + 30
    while not future.done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fan_out._under_way.clear()
    fan_out._under_way.update(kept)


@pytest.mark.parametrize("old", [None, NoAnswer("squeue: an old silence")], ids=["listing", "silence"])
def test_an_answer_is_outdated_once_another_process_has_asked(
    world: World, far: Late, old: Exception | None
) -> None:
    world.tick()
    far.late, far.old = True, old
    world.tick(15)
    with another_process(far):
        pilot = serve(world, "alpaca", far, "far")
        heard = world.way("alps", "alps")
        assert list(heard.jobs) == [str(pilot.pk)]
    world.tick(60)
    row = world.way("alps", "alps")
    assert (row.answered_at, row.jobs, row.error) == (heard.answered_at, heard.jobs, "")
    world.tick(5)
    newer = world.way("alps", "alps").answered_at
    assert newer is not None and heard.answered_at is not None and newer > heard.answered_at, "and asks anew"
    pilot.refresh_from_db()
    assert pilot.state == "up"


def test_a_job_is_not_submitted_again_because_of_a_listing_that_was_asked_for_before(
    world: World, far: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process submits it and loses the answer; the listing that was asked for before lacks the job."""
    with monkeypatch.context() as patch:

        def unheard(script: str, spec: JobSpec) -> int:
            raise NoAnswer("sbatch: Unable to contact slurm controller")

        patch.setattr(far, "submit", unheard)
        world.ask("alpaca")
        world.tick()
    assert pilot_of("far").state == "planned"

    def lose_the_answer() -> None:
        raise NoAnswer("sbatch: Socket timed out on send/recv operation")

    far.late, far.on_submit = True, lose_the_answer
    world.tick(15)
    with another_process(far):
        world.tick(5)
        assert len(far.submitted) == 1 and pilot_of("far").state == "planned"
    world.tick(5)
    assert len(far.submitted) == 1 and world.way("alps", "alps").error, "nothing newer has been heard"
    world.tick(5)
    assert (pilot_of("far").state, pilot_of("far").job_id, len(far.submitted)) == ("pending", 101, 1)


def test_only_a_listing_that_is_asked_for_after_a_lost_answer_counts(world: World, far: Late) -> None:
    """Also where the question was asked after the last answer, and before the submission."""

    def lose_the_answer() -> None:
        raise NoAnswer("sbatch: Socket timed out on send/recv operation")

    world.tick()
    far.late, far.on_submit = True, lose_the_answer
    world.tick(15)  # it asks, and waits
    way = way_of(Profile.objects.select_related("access").get(name="far"))
    asked_at = fan_out._under_way[way].at
    world.ask("alpaca")
    world.tick(5)  # and submits by what it knew
    assert len(far.submitted) == 1
    row = world.way("alps", "alps")
    assert row.tried_at is not None and row.tried_at.timestamp() > asked_at
    far.late = False
    far.go.set()
    deadline = time.monotonic() + 30
    while pilot_of("far").state == "planned":
        assert time.monotonic() < deadline
        world.tick(5)
        assert len(far.submitted) == 1


def test_a_clock_that_is_set_back_holds_no_way(world: World) -> None:
    world.tick()
    ahead = world.at() + timedelta(hours=1)
    WayState.objects.update(tried_at=ahead, busy_until=ahead, answered_at=ahead)
    world.tick(5)
    for row in WayState.objects.all():
        assert row.answered_at is not None and row.answered_at.timestamp() == world.now, row.said
