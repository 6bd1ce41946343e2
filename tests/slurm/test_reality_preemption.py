"""Slurm gives a pilot's GPUs to a job of higher priority, with a minute's grace or with none."""

from __future__ import annotations

import pytest

from tests.slurm.whole import WORDS, Whole

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


@pytest.mark.parametrize("partition", ["grace", "spare"])
def test_a_preempted_pilot_gives_its_work_back_and_is_replaced(whole: Whole, partition: str) -> None:
    whole.empty()
    whole.tune(load_s=0, tokens_per_s=2)
    since = whole.last_decision()
    with whole.profile(partition=partition):
        request = whole.post()
        whole.until(lambda: whole.detail(request)["state"] == "running")
        [victim] = whole.live_jobs()
        node = whole.pilot(victim)["node"]
        whole.tune(load_s=0, tokens_per_s=100)
        rival = whole.slurm.run(
            "sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", "--partition=gpu",
            f"--nodelist={node}", "--gres=gpu:a100:4", "--mem=1000", "--wrap=sleep 600",
        ).strip()  # fmt: skip
        try:
            whole.until(lambda: whole.pilot(victim)["state"] == "ended", 60, "the preempted pilot's end")
            whole.until(lambda: whole.detail(request)["state"] == "done", 60, "the answer")
        finally:
            whole.slurm.run("scancel", rival)
    assert whole.text_of(request) == WORDS
    # Neither end is the model's fault.
    assert whole.failures() == 0
    assert (
        whole.one(
            "SELECT count(*) FROM fleet_replica WHERE state = 'failed' AND pilot_id = %s",
            whole.pilot(victim)["id"],
        )
        == 0
    )
    story = whole.story(since)
    assert story[0].startswith("launch: 1 request waiting for echo"), story
    if partition == "grace":
        # Nothing but the listing says so: the signal of that moment goes to job steps, not to the batch script.
        assert any(line.startswith("drain_pilot: Slurm wants its GPUs back") for line in story), story
    else:
        assert whole.pilot(victim)["end_reason"] in (
            "Its agent ended it: preempted.",
            f"Job {victim}: Slurm gave its GPUs to a job of higher priority.",
        )
        # Its rows went back before it ended: the agent had seconds, and the queue had them at once.
        assert whole.detail(request)["attempt"] == 2
        assert any(line.startswith("launch:") for line in story[1:]), story
