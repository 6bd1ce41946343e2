"""The page Now: for operators, with nodes, their models and what is left of each job, and samples as charts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.dashboard import now as page_now
from portal.dashboard.nodes import nodes
from portal.fleet.models import Pilot, Sample
from tests.api.world import World, pilot_row, replica_row, request_row
from tests.ways import way_row

PATHS = ("/now/", "/now/fragments/now", "/now/fragments/charts")


def sample(at: datetime, **figures: Any) -> Sample:
    none = dict.fromkeys(
        (*page_now.COLUMNS[:9], "running"),
        0,
    )  # fmt: skip
    return Sample.objects.create(cluster="main", at=at, **(none | figures))


def minute() -> datetime:
    return timezone.now().replace(second=0, microsecond=0)


def text(world: World, path: str = "/now/") -> str:
    answer = world.operator.browser.get(path)
    assert answer.status_code == 200
    return str(answer.content.decode())


@pytest.mark.parametrize("path", PATHS)
def test_it_is_for_operators(world: World, path: str) -> None:
    assert world.operator.browser.get(path).status_code == 200
    for who in (world.owner, world.mate, world.manager, world.outsider):
        assert who.browser.get(path).status_code == 403


def test_an_empty_fleet_is_said_to_be_empty(world: World) -> None:
    assert "No job of Berth is running." in text(world)


def test_gpus_have_the_names_that_their_driver_gives_them_and_jobs_over_nodes_one_figure(
    world: World,
) -> None:
    slices = ["MIG-377e0049-554c-540b-93c6-d0976f8426cb", "1"]
    pilot = pilot_row(world, gpus=2, nodes=2, gpu_ids=slices, node="gpu[01-02]")
    replica_row(world, pilot, gpu_indices=[0, 1])
    page = text(world)
    assert f"GPU 0 ({slices[0]}): surf, hot" in page and "<title>GPU 1: surf, hot" in page
    assert page.count("gpu[01-02]") and "GPU 0–1: surf, hot" in page
    facts = world.operator.browser.get(f"/fleet/pilots/{pilot.id}/").content.decode()
    assert "2 on 2 nodes" in facts and slices[0] in facts


def test_a_node_is_drawn_with_its_models_and_what_is_left_of_the_job(world: World) -> None:
    pilot = pilot_row(world, gpus=2)
    replica_row(world, pilot)
    coming = pilot_row(world, state="pending", up_at=None, node="", job_id=4712, slurm_state="PENDING",
                       slurm_reason="Priority")  # fmt: skip
    pilot_row(world, state="ended", ended_at=timezone.now(), job_id=4713)
    page = text(world)
    assert "GPU 0: surf, hot; GPU 1: no model; 59 min left" in page
    assert "Job 4711" in page and "59 min left" in page
    assert f"/fleet/pilots/{coming.id}/" in page and "other jobs are ahead of it" in page
    assert "4713" not in page
    assert "10.1.2.3" not in page


def test_a_job_without_gpus_is_drawn_with_the_models_that_run_on_its_cpus(world: World) -> None:
    empty, used = pilot_row(world, gpus=0), pilot_row(world, gpus=0, job_id=4714)
    replica_row(world, used, gpu_indices=[])
    page = text(world)
    assert "Job 4711: CPUs: no model; 59 min left" in page
    assert "Job 4714: CPUs: surf, hot; 59 min left" in page
    assert 'width="-' not in page
    assert empty.gpus == 0
    waits = pilot_row(world, gpus=0, state="pending", up_at=None, node="", job_id=4715, slurm_state="PENDING")
    assert f"/fleet/pilots/{waits.id}/" in text(world) and "no GPU, profile gpu" in text(world)


def test_the_queue_is_counted_as_it_is_now(world: World) -> None:
    for state in ("queued", "queued", "running", "parked"):
        request_row(world, state)
    page = " ".join(text(world).split())
    assert '<dt>Requests queued</dt><dd class="num">2</dd>' in page
    assert '<dt>Requests parked</dt><dd class="num">1</dd>' in page


def test_samples_are_drawn_and_listed(world: World) -> None:
    at = step("3h", 2)
    sample(at, busy=3, asked=4, wait_p95_s=181)
    page = text(world)
    assert "GPUs by state" in page and "3 min" in page and f"{at:%H:%M}" in page
    assert f'sampled at</dt><dd class="num">{at:%H:%M} UTC<' in page, (
        "its figures are older than the picture below them"
    )


def step(window: str, back: int) -> datetime:
    """Return the beginning of one of the window's steps, so many before now."""
    length_s = page_now.WINDOWS[window].step.total_seconds()
    return datetime.fromtimestamp((timezone.now().timestamp() // length_s - back) * length_s, UTC)


def test_what_nobody_saw_is_a_gap_and_not_zero(world: World) -> None:
    early, late = step("3h", 5), step("3h", 1)
    sample(early, busy=3)
    sample(late, busy=5)
    moments, found = page_now.read(page_now.WINDOWS["3h"], late + timedelta(minutes=2))
    assert moments[-1] == late and len(moments) == 90
    assert {moment: row["busy"] for moment, row in found.items()} == {early: 3, late: 5}


def test_longer_windows_take_the_mean_of_gpus_and_the_most_of_waits(world: World) -> None:
    begin = step("7d", 3)
    for n, wait_s in enumerate((10.0, None, 50.0)):
        sample(begin + timedelta(minutes=n), busy=n, wait_p95_s=wait_s, queued_async=10 * n)
    _, found = page_now.read(page_now.WINDOWS["7d"], timezone.now())
    assert (found[begin]["busy"], found[begin]["wait_p95_s"], found[begin]["queued_async"]) == (1, 50, 20)


def test_samples_of_another_cluster_are_not_ours(world: World) -> None:
    sample(minute(), busy=3)
    Sample.objects.update(cluster="other")
    assert page_now.read(page_now.WINDOWS["3h"], timezone.now())[1] == {}


def test_silence_is_said_first(world: World) -> None:
    now = timezone.now()
    way_row(tried_at=now, answered_at=now - timedelta(hours=1), error="timed out")
    page = text(world)
    assert "Slurm does not answer." in page and "The control loop does not run." in page


def test_as_many_queries_for_many_pilots(world: World) -> None:
    browser = world.operator.browser

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert browser.get("/now/fragments/now").status_code == 200
        return len(seen)

    replica_row(world, pilot_row(world))
    few = queries()
    for n in range(12):
        replica_row(world, pilot_row(world, job_id=n, node=f"gpu{n}"))
    assert queries() == few


def test_the_bar_of_a_jobs_life(world: World) -> None:
    now = timezone.now()
    half = pilot_row(world, now, gpus=6, walltime_min=60, slurm_end_at=now + timedelta(minutes=30))
    soon = pilot_row(world, now, job_id=1, slurm_end_at=now + timedelta(minutes=5))
    over = pilot_row(world, now, job_id=2, slurm_end_at=now - timedelta(minutes=5))
    unknown = pilot_row(world, now, job_id=3, slurm_end_at=None)
    (node,) = nodes(Pilot.objects.all(), {}, now)
    jobs = {job.pilot.pk: job for job in node.jobs}
    assert jobs[half.pk].life == jobs[half.pk].width / 2 and not jobs[half.pk].ends_soon
    assert 'y="48"' in jobs[half.pk].figure() and 'y="0"' in jobs[half.pk].figure(), "four side by side"
    assert jobs[soon.pk].ends_soon and jobs[over.pk].ends_soon
    assert (jobs[over.pk].life, jobs[unknown.pk].life, jobs[unknown.pk].left_s) == (0, 0, None)


def test_names_are_shown_as_text(world: World) -> None:
    replica_row(world, pilot_row(world, node="<b>n"), model='<i>"x')
    page = text(world)
    assert "<b>n" not in page and "<i>" not in page and "&lt;i&gt;&quot;x" in page


def test_one_asleep_holds_no_gpu(world: World) -> None:
    pilot = pilot_row(world)
    replica_row(world, pilot, state="asleep", asleep_at=timezone.now())
    page = text(world)
    assert "GPU 0: no model" in page and "asleep: surf" in page
