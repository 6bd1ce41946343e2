"""A job that Slurm calls RUNNING and whose agent says nothing more: it stops counting, then it goes."""

from __future__ import annotations

import os
import signal

import pytest

from tests.slurm.whole import WORDS, Whole

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]


def test_a_silent_agents_work_is_served_elsewhere_and_its_job_given_up(whole: Whole) -> None:
    whole.empty()
    whole.tune(load_s=0, tokens_per_s=200)
    assert whole.ask().result() == WORDS
    [job] = whole.live_jobs()
    since = whole.last_decision()
    agent = whole._pid_of("gpuworker.agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        silent = f"silent: Its agent on {whole.pilot(job)['node']} has been silent for"
        whole.until(lambda: any(line.startswith(silent) for line in whole.story(since)), 60, "its notice")
        request = whole.post()
        whole.until(lambda: whole.detail(request)["state"] == "done", 60, "the answer of a replacement")
        assert whole.text_of(request) == WORDS
        whole.until(lambda: whole.pilot(job)["state"] == "ended", 60, "the silent job's end")
    finally:
        try:
            os.kill(agent, signal.SIGCONT)
        except ProcessLookupError:
            pass  # its job was given up and Slurm killed it, as it should
    assert job not in whole.live_jobs()
    assert len(whole.live_jobs()) == 1
    assert any("has been silent" in line for line in whole.story(since) if line.startswith("cancel:"))
    assert whole.failures() == 0


def test_a_flushed_redis_makes_nobody_silent(whole: Whole) -> None:
    whole.empty()
    whole.tune(load_s=0, tokens_per_s=200)
    assert whole.ask().result() == WORDS
    [job] = whole.live_jobs()
    since = whole.last_decision()
    whole.kill("redis")
    whole.ticks(8)
    assert whole.live_jobs() == {job}
    assert not [line for line in whole.story(since) if line.startswith(("silent", "launch", "cancel"))]
