"""The main job, through every real part: a cold model answers, the job is reused, and let go when idle."""

from __future__ import annotations

import urllib.request

import pytest

from tests.slurm.whole import WORDS, Whole

pytestmark = pytest.mark.slurm


def test_a_cold_model_answers_the_job_is_reused_and_let_go_when_idle(whole: Whole) -> None:
    whole.empty()
    whole.tune(keep_alive_s=3, load_s=1, tokens_per_s=200)
    before = whole.jobs()
    cold = whole.ask()
    assert cold.result() == WORDS
    assert any("place" in beat or "position" in beat for beat in cold.heard), "nothing was said while waiting"
    [job] = whole.live_jobs()
    assert whole.ask("again please").result() == "again please"
    detached = whole.post("and in the background")
    whole.until(lambda: whole.detail(detached)["state"] == "done")
    assert whole.text_of(detached) == "and in the background"
    assert whole.live_jobs() == {job}, "the second and third request must reuse the job"
    assert whole.detail(detached)["timeline"]["pilot"]["job_id"] == job
    whole.until(lambda: not whole.live_jobs(), what="an idle job's end")
    whole.until(lambda: whole.model()["berth"]["residency"] == "not_loaded")
    assert whole.jobs() - before == {job}
    story = [row[0] for row in whole.rows("SELECT reason FROM fleet_decision ORDER BY id DESC LIMIT 3")][::-1]
    assert story[0].startswith("1 request waiting for echo"), story
    assert story[1].startswith("Nobody has used echo for"), story
    assert story[2].startswith("It has hosted no model for"), story


def test_a_model_without_gpus_answers_from_a_job_without_after_its_prologue_ran(whole: Whole) -> None:
    whole.empty()
    whole.tune(load_s=0, tokens_per_s=200)
    gpus = "UPDATE catalog_pool SET gpus = %s WHERE name = 'echo'"
    prologue = """UPDATE catalog_environment SET prologue = %s
                  WHERE id = (SELECT environment_id FROM catalog_pool WHERE name = 'echo')"""
    with whole.profile(gpus=0, gpu_type="", nice=5, exclusive="node"):
        whole.rows(gpus, 0)
        whole.rows(prologue, 'load() { export LIBS=/cuda/$1; }\nload 12\n[ "$LIBS" = /cuda/12 ]')
        try:
            assert whole.ask("no GPU at all").result() == "no GPU at all"
            [job] = whole.live_jobs()
            shown = whole.slurm.run("scontrol", "show", "job", str(job))
            assert "gres" not in shown.lower() and "Nice=5" in shown and "OverSubscribe=NO" in shown
            assert whole.one("SELECT gpus FROM fleet_pilot WHERE job_id = %s", job) == 0
        finally:
            whole.rows(gpus, 1)
            whole.rows(prologue, "")
            whole.empty()


def test_a_prologue_that_fails_is_what_those_who_wait_are_told(whole: Whole) -> None:
    whole.empty()
    whole.tune(load_s=0)
    prologue = """UPDATE catalog_environment SET prologue = %s
                  WHERE id = (SELECT environment_id FROM catalog_pool WHERE name = 'echo')"""
    whole.rows(prologue, "module load cuda/99\nexport A=1")
    error = "SELECT end_reason FROM fleet_replica WHERE state = 'failed' ORDER BY wanted_at DESC LIMIT 1"
    try:
        waits = whole.ask("anything")
        whole.until(lambda: "prologue" in str(whole.rows(error)), what="a replica that says why it failed")
        assert "prologue of the engine's environment failed with exit code 127: module load cuda/99" in str(
            whole.one(error)
        )
        whole.rows(prologue, "")
        whole.tune(load_s=0, tokens_per_s=200)
        assert waits.result(180) == "anything"
    finally:
        whole.rows(prologue, "")
        whole.relaunch()


def test_a_cancelled_request_stops_while_it_runs(whole: Whole) -> None:
    whole.empty()
    whole.tune(load_s=0, tokens_per_s=1)
    running = whole.post(" ".join(["word"] * 200))
    whole.until(lambda: whole.detail(running)["state"] == "running")
    request = urllib.request.Request(
        f"{whole.site.url}/api/v1/requests/{running}",
        method="DELETE",
        headers={"Authorization": f"Bearer {whole.berth.token}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    assert whole.detail(running)["state"] == "cancelled"
    idle = "SELECT count(*) FROM ledger_request WHERE state IN ('queued', 'running')"
    assert whole.one(idle) == 0


def test_a_model_that_cannot_load_is_latched_and_those_who_wait_are_told(whole: Whole) -> None:
    whole.empty()
    whole.tune(fail_on_start=True)
    failed = "SELECT count(*) FROM fleet_replica WHERE state = 'failed'"
    before = whole.one(failed)
    connected, detached = whole.ask(), whole.post()
    assert "model_unavailable" in connected.result(), (
        "a client on a connection is told, and not kept for ever"
    )
    latched = "SELECT reason FROM fleet_poolstate WHERE latched_at IS NOT NULL"
    reason = whole.one(latched)
    assert "3 times" in reason and reason in connected.error
    assert whole.one(failed) - before == 3
    assert whole.model()["berth"]["residency"] == "unavailable"
    assert whole.detail(detached)["state"] == "queued"

    whole.tune(load_s=0, tokens_per_s=200)
    whole.relaunch()
    whole.until(lambda: whole.detail(detached)["state"] == "done", what="the answer after a relaunch")
    assert whole.text_of(detached) == WORDS
    assert whole.one(failed) - before == 3
