"""Why a model or a request does not run yet, and when: each situation with the sentence that people read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.fleet.explain import explain, in_line
from portal.fleet.phase import JobFacts, PoolFacts, ProfileFacts, ReplicaFacts
from portal.fleet.times import FOR_EVER, between, clock, span, until

NOW = datetime(2026, 11, 21, 9, 20, tzinfo=UTC).timestamp()
MIN = 60.0
WAITS = ProfileFacts("gpu", wait_p50_s=6 * MIN, wait_p90_s=25 * MIN)


def job(state: str = "pending", *, ago_s: float = 8 * MIN, **known: object) -> JobFacts:
    said = {"slurm_state": "PENDING", "slurm_reason": "Priority"} | known
    return JobFacts(state, "gpu", 4711, NOW - ago_s, **said)  # type: ignore[arg-type]


def replica(state: str, of: JobFacts | None = None, **known: object) -> ReplicaFacts:
    return ReplicaFacts(state, of or job("up"), **known)  # type: ignore[arg-type]


def pool(*replicas: ReplicaFacts, **known: object) -> PoolFacts:
    given = {"profiles": (WAITS,), "load_s": 4 * MIN, "cap": 4} | known
    return PoolFacts(replicas, **given)  # type: ignore[arg-type]


SITUATIONS = [
    (pool(replica("hot")), "ready", 0.0, ""),
    (
        pool(replica("hot"), hold_reason="Its job ends at 09:40, and no other may start before."),
        "ready", 0.0,
        "Its job ends at 09:40, and no other may start before.",
    ),
    (
        pool(latched_reason="config.json is missing"), "unavailable", None,
        "The model cannot be started. config.json is missing. An operator has to resolve this and "
        "relaunch it.",
    ),
    (
        pool(replica("starting", started_at=NOW - MIN, says="Loading weights.")), "starting", 3 * MIN,
        "The model is being loaded (Loading weights); loading takes 4 min.",
    ),
    (
        pool(
            replica("starting", started_at=NOW - MIN),
            failures=1,
            hold_reason="Starting it failed: Job 7 could not serve: a firewall",
        ), "starting", 3 * MIN,
        "The model is being loaded; loading takes 4 min. The previous attempt failed: Job 7 could not serve: a firewall.",
    ),
    (
        pool(replica("wanted", job()), failures=2, hold_reason="Starting it failed: out of memory"), "starting",
        21 * MIN,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 09:12 UTC: other jobs are ahead of it; jobs "
        "like it waited 6–25 min today, and loading takes 4 min. The last of 2 attempts failed: Out of memory.",
    ),
    (
        pool(replica("starting", started_at=NOW - 9 * MIN)), "starting", None,
        "The model is being loaded; that has taken 9 min so far, longer than the usual 4 min.",
    ),
    (
        pool(replica("wanted")), "starting", 4 * MIN,
        "The model is not loaded yet. A running job has room for it; loading takes 4 min.",
    ),
    (
        pool(replica("wanted", job())), "starting", 21 * MIN,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 09:12 UTC: other jobs are ahead of it; jobs "
        "like it waited 6–25 min today, and loading takes 4 min.",
    ),
    (
        pool(replica("wanted", job(ago_s=2 * MIN))), "starting", 8 * MIN,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 09:18 UTC: other jobs are ahead of it; jobs "
        "like it waited 6–25 min today, and loading takes 4 min.",
    ),
    (
        pool(replica("wanted", job(ago_s=180 * MIN))), "starting", None,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 06:20 UTC: other jobs are ahead of it; jobs "
        "like it waited 6–25 min today, this one has waited 3 h 0 min, and loading takes 4 min.",
    ),
    (
        pool(replica("wanted", job(slurm_reason="Resources", starts_at=NOW + 10 * MIN))), "starting", 14 * MIN,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 09:12 UTC: it is next, and waits for GPUs to "
        "become free; Slurm expects to start it at 09:30 UTC, and loading takes 4 min.",
    ),
    (
        pool(replica("wanted", job()), profiles=()), "starting", None,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 09:12 UTC: other jobs are ahead of it; no job "
        "like it started today, so its wait cannot be estimated, and loading takes 4 min.",
    ),
    (
        pool(replica("wanted", JobFacts("planned", "gpu"))), "starting", 10 * MIN,
        "The model is not loaded yet. Its Slurm job is being submitted: Slurm has not shown it yet; jobs like it waited "
        "6–25 min today, and loading takes 4 min.",
    ),
    (
        pool(replica("wanted", job("submitted", slurm_state="RUNNING", node="gpu03"))), "starting", 4 * MIN,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 09:12 UTC and runs on gpu03: its worker "
        "starts; loading takes 4 min.",
    ),
    (
        pool(replica("wanted", job(silent="Slurm", silent_since=NOW - 5 * MIN))), "starting", 21 * MIN,
        "The model is not loaded yet. Its Slurm job 4711 was submitted at 09:12 UTC: Slurm has not answered since 09:15 "
        "UTC, so this may be old: other jobs are ahead of it; jobs like it waited 6–25 min today, and loading takes "
        "4 min.",
    ),
    (
        pool(fleet_paused=True), "not_loaded", None,
        "The model is not loaded: an operator has paused the whole fleet, and nothing is started. Requests keep their "
        "place in the queue; it starts when an operator resumes it.",
    ),
    (
        pool(paused=True), "not_loaded", None,
        "The model is not loaded: an operator has paused it, and nothing is started for it. Requests keep their "
        "place in the queue; it starts when an operator resumes it.",
    ),
    (
        pool(profiles=(ProfileFacts("gpu", silent="Slurm", silent_since=NOW - 26 * 3600),)), "not_loaded", None,
        "The model is not loaded: Slurm has not answered since 20 Nov 07:20 UTC, and nothing is started until it "
        "does. Requests keep their place in the queue.",
    ),
    (
        pool(
            profiles=(
                ProfileFacts("gpu", silent="Slurm (main)", silent_since=NOW - 5 * MIN),
                ProfileFacts("far", silent="Slurm (alps, at slurm:6820)"),
            )
        ), "not_loaded", None,
        "The model is not loaded: Slurm (main) has not answered since 09:15 UTC and Slurm (alps, at slurm:6820) does not "
        "answer, and nothing is started until it does. Requests keep their place in the queue.",
    ),
    (
        pool(profiles=(WAITS, ProfileFacts("far", silent="Slurm (alps)", starts_at=NOW))), "not_loaded", 10 * MIN,
        "The model is not loaded; the first request starts it: jobs like it waited 6–25 min today, and loading takes "
        "4 min.",
    ),
    (
        pool(hold_reason="Starting it failed: out of memory", retry_at=NOW + 2 * MIN), "not_loaded", None,
        "The model is not loaded. Starting it failed: out of memory. The next attempt is at 09:22 UTC.",
    ),
    (
        pool(hold_reason="All 8 jobs allowed by gpu are in use; it waits for room."), "not_loaded", None,
        "The model is not loaded. All 8 jobs allowed by gpu are in use; it waits for room.",
    ),
    (
        pool(profiles=(ProfileFacts("gpu", latched="its account is not valid (InvalidAccount)"),)), "not_loaded", None,
        "The model is not loaded, and no job may be submitted for it. gpu: its account is not valid "
        "(InvalidAccount). An operator has to resolve this and relaunch it.",
    ),
    (
        pool(replica("starting", started_at=NOW - 2, wakes=True), wake_s=9.0), "starting", 7,
        "The model is being woken; waking takes 9 s.",
    ),
    (
        pool(replica("asleep"), wake_s=9.2), "not_loaded", None,
        "The model is not loaded, but quick to start (≈ 9 s): it is kept in memory on a GPU node. The first request "
        "wakes it once its GPU is free.",
    ),
    (
        pool(replica("asleep")), "not_loaded", None,
        "The model is not loaded, but quick to start: it is kept in memory on a GPU node. The first request wakes it "
        "once its GPU is free.",
    ),
    (
        pool(), "not_loaded", 10 * MIN,
        "The model is not loaded; the first request starts it: jobs like it waited 6–25 min today, and loading takes "
        "4 min.",
    ),
    (
        pool(profiles=(WAITS, ProfileFacts("idle", starts_at=NOW - 5, load_s=MIN))), "not_loaded", MIN,
        "The model is not loaded; the first request starts it: Slurm would start a job for it at once, and loading "
        "takes 60 s.",
    ),
    (
        pool(profiles=(replace(WAITS, has_room=True),)), "not_loaded", 4 * MIN,
        "The model is not loaded; the first request starts it: a running job has room for it now, and loading "
        "takes 4 min.",
    ),
    (
        pool(profiles=(ProfileFacts("gpu"),)), "not_loaded", None,
        "The model is not loaded; the first request starts it: its wait in Slurm cannot be estimated, because "
        "no job like it started today, and loading takes 4 min.",
    ),
    (pool(profiles=()), "not_loaded", None, "The model is not loaded; the first request starts it."),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "residency", "eta_s", "says"), SITUATIONS)
def test_each_situation_has_its_sentence(
    facts: PoolFacts, residency: str, eta_s: float | None, says: str
) -> None:
    told = explain(facts, NOW)
    assert (told.residency, told.says) == (residency, says)
    assert told.eta_s == (pytest.approx(eta_s) if eta_s is not None else None)


def test_a_name_takes_the_place_of_the_model() -> None:
    told = explain(pool(), NOW).named("llama-70b")
    assert told.reason.startswith("llama-70b is not loaded; the first request starts it")
    assert explain(pool(replica("hot")), NOW).named("x").reason == ""


def test_an_eta_is_the_sum_of_its_parts_and_unknown_if_one_of_them_is() -> None:
    told = explain(pool(replica("wanted", job())), NOW)
    assert [(part.name, part.seconds) for part in told.parts] == [("slurm", 17 * MIN), ("load", 4 * MIN)]
    told = explain(pool(replica("wanted", job()), load_s=None), NOW)
    assert (told.eta_s, [part.seconds for part in told.parts]) == (None, [17 * MIN, None])


def test_a_request_behind_a_hot_model_hears_its_place_and_how_long_that_takes() -> None:
    hot = explain(pool(replica("hot"), replica("hot"), service_s=16.0), NOW)
    told = in_line(hot, 4)
    assert (
        told.reason == "The model is loaded, and all its slots are in use; 3 requests are ahead of this one."
    )
    assert told.eta_s == 16.0 * 4 / 8
    assert in_line(hot, 1).reason.endswith("; this request is next.")
    assert in_line(explain(pool(replica("hot")), NOW), 1).eta_s is None
    assert in_line(hot, None) is hot


def test_a_request_for_a_cold_model_waits_for_its_turn_once_it_is_loaded() -> None:
    cold = explain(pool(replica("wanted", job(ago_s=2 * MIN)), service_s=8.0), NOW)
    assert in_line(cold, 4).eta_s == 8 * MIN
    told = in_line(cold, 6)
    assert told.eta_s == 8 * MIN + 2 * 8.0 / 4
    assert told.reason.endswith("loading takes 4 min. 5 requests are ahead of this one.")
    assert [part.name for part in told.parts] == ["slurm", "load", "queue"]
    assert in_line(explain(pool(replica("wanted", job())), NOW), 6).eta_s is None


@pytest.mark.parametrize(
    ("least_s", "most_s", "text"),
    [
        (360, 1500, "6–25 min"),
        (40, 90, "40–90 s"),
        (40, 720, "40 s – 12 min"),
        (360, 361, "about 6 min"),
        (360, 11_100, "6 min – 3 h 5 min"),
        (7200, 11_100, "2 h 0 min – 3 h 5 min"),
        (900, 60, "about 15 min"),
    ],
)
def test_ranges_read_as_people_write_them(least_s: float, most_s: float, text: str) -> None:
    assert between(least_s, most_s) == text


def test_moments_are_told_in_utc_with_the_day_when_it_is_another() -> None:
    assert clock(NOW, NOW) == "09:20 UTC"
    assert clock(NOW - 86_400, NOW) == "20 Nov 09:20 UTC"
    assert clock(NOW - 400 * 86_400, NOW) == "17 Oct 2025 09:20 UTC"
    assert until(FOR_EVER) == "for ever"
    assert until(datetime.fromtimestamp(NOW, UTC)) == "until 2026-11-21 09:20 UTC"


numbers = st.none() | st.floats(0, 1e6)
moments = st.none() | st.floats(NOW - 1e6, NOW + 1e6)
texts = st.sampled_from(["", "No room", "It waits."])
states = st.sampled_from(["wanted", "starting", "hot", "draining", "asleep"])
jobs = st.builds(
    JobFacts,
    state=st.sampled_from(["planned", "submitted", "pending", "up", "draining"]),
    profile=st.sampled_from(["gpu", "gone"]), job_id=st.none() | st.just(1), submitted_at=moments,
    slurm_state=st.sampled_from(["", "PENDING", "RUNNING", "NEW"]), slurm_reason=st.sampled_from(["", "Priority"]),
    starts_at=moments, node=texts, silent=st.sampled_from(["", "Slurm", "Slurm (alps)"]), silent_since=moments,
)  # fmt: skip
profiles = st.builds(
    ProfileFacts, name=st.just("gpu"), wait_p50_s=numbers, wait_p90_s=numbers, starts_at=moments, load_s=numbers,
    latched=texts, silent=st.sampled_from(["", "Slurm", "Slurm (alps)"]), silent_since=moments, paused=st.booleans(),
)  # fmt: skip
pools = st.builds(
    PoolFacts,
    replicas=st.lists(st.builds(ReplicaFacts, states, jobs, moments, texts), max_size=3),
    profiles=st.lists(profiles, max_size=2), paused=st.booleans(), fleet_paused=st.booleans(),
    latched_reason=texts, hold_reason=texts, retry_at=moments,
    load_s=numbers, service_s=numbers, cap=st.integers(1, 64),
)  # fmt: skip


@given(pools, st.none() | st.integers(1, 1000))
def test_whatever_is_known_the_story_is_whole(facts: PoolFacts, position: int | None) -> None:
    told = in_line(explain(facts, NOW), position)
    assert told.reason or told.residency == "ready"
    assert not told.reason or told.reason.endswith(".")
    assert ".." not in told.says and "  " not in told.says
    assert told.eta_s is None or told.eta_s >= 0
    known = [part.seconds for part in told.parts]
    if told.eta_s and None not in known:
        assert told.eta_s == pytest.approx(sum(s for s in known if s is not None))
    if None in known:
        assert told.eta_s is None


def test_lengths_read_as_people_say_them() -> None:
    assert [span(s) for s in (-1, 119, 120, 7200, 200_000)] == [
        "0 s",
        "119 s",
        "2 min",
        "2 h 0 min",
        "2 d 7 h",
    ]
