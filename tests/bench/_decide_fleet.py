"""What `decide` costs by itself: 100 models that compete for 64 GPUs, the same in every run.

`python -m tests.bench._decide_fleet` prints the median milliseconds of one call. A fleet in which much has to be
weighed: two types of GPU, six of ten models resident, half of those idle, the rest waiting for room.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from random import Random

from portal.fleet.states import PilotState, ReplicaState
from scheduler.policy.decide import decide
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import FitView, Limits, PilotView, PoolView, ProfileView, ReplicaView

NOW = 1_000_000.0
POOLS, PILOTS, GPUS_EACH, MEM_MB = 100, 16, 4, 256_000
TYPES = ("a100", "h100")
ROUNDS = 41


def fleet(seed: int = 0, pools: int = POOLS, pilots: int = PILOTS) -> Snapshot:
    rng = Random(seed)
    made = tuple(_pool(rng, f"model-{n:03}") for n in range(pools))
    jobs: list[PilotView] = []
    replicas: list[ReplicaView] = []
    for n in range(pilots):
        jobs.append(_pilot(rng, n))
        replicas += _hosted(rng, jobs[-1], made, len(replicas))
    return Snapshot(
        made, tuple(jobs), tuple(replicas), tuple(_profile(kind) for kind in TYPES),
        Limits(pilot_idle_s=300.0, launch_backoff_s=30.0, latch_after=3, max_gpus=pilots * GPUS_EACH), NOW,
    )  # fmt: skip


def median_ms(decide_it: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median of the CPU milliseconds of a call. Without collections of garbage, as a tick runs."""
    took = []
    gc.disable()
    try:
        for _ in range(rounds):
            began = time.thread_time()
            decide_it()
            took.append(time.thread_time() - began)
    finally:
        gc.enable()
    return sorted(took)[rounds // 2] * 1000.0


def measure() -> float:
    """Measure each call on a snapshot of its own, as in a tick: nothing that a snapshot remembers is used twice."""
    fresh = iter([fleet() for _ in range(ROUNDS)])
    return median_ms(lambda: decide(next(fresh)))


def _pool(rng: Random, name: str) -> PoolView:
    queued = rng.choice([0, 0, 0, 1, 4, 40])
    return PoolView(
        name,
        profiles=TYPES,
        gpus=rng.choice([1, 1, 1, 2, 4]),
        mem_mb=rng.choice([16_000, 32_000, 64_000]),
        keep_alive_s=rng.choice([600.0, 3600.0]),
        load_s=rng.choice([40.0, 120.0, 300.0]),
        max_replicas=rng.choice([1, 2, 4]),
        queued=queued,
        queued_held=queued // 2,
        queued_batch=queued // 4,
        waited_s=rng.uniform(0, 900) if queued else None,
        service_s=rng.choice([None, 0.5, 5.0]),
        interest_until=NOW + 60 if rng.random() < 0.1 else None,
        sleep_level=rng.choice([0, 0, 1]),
        asleep_mem_mb=16_000,
        wake_s=5.0,
        fits={"a100": FitView(load_s=100.0)} if rng.random() < 0.5 else {},
    )


def _profile(gpu_type: str) -> ProfileView:
    return ProfileView(
        gpu_type, True, GPUS_EACH, MEM_MB, PILOTS // 2, gpu_type=gpu_type, wait_p50_s=120.0, wait_p90_s=600.0
    )


def _pilot(rng: Random, n: int) -> PilotView:
    kind = TYPES[n % len(TYPES)]
    return PilotView(
        f"pilot-{n:02}", kind, PilotState.UP, GPUS_EACH, MEM_MB, alive=True, ends_at=NOW + rng.uniform(300, 14_400),
        gpu_type=kind, node=f"node{n:02}",
    )  # fmt: skip


def _hosted(rng: Random, pilot: PilotView, pools: tuple[PoolView, ...], first: int) -> list[ReplicaView]:
    hosted: list[ReplicaView] = []
    gpu, free_mb = 0, pilot.mem_mb
    for pool in rng.sample(pools, 12):
        asleep = pool.sleep_level > 0 and rng.random() < 0.5
        mem_mb = pool.asleep_mem_mb if asleep else pool.mem_mb
        if mem_mb > free_mb or (not asleep and gpu + pool.gpus > pilot.gpus):
            continue
        idle_s = rng.choice([None, 10.0, 100.0, 1000.0])
        home = tuple(range(pilot.gpus))[: pool.gpus] if asleep else tuple(range(gpu, gpu + pool.gpus))
        hosted.append(
            ReplicaView(
                f"replica-{first + len(hosted):03}", pool.name, pilot.id,
                ReplicaState.ASLEEP if asleep else ReplicaState.HOT, () if asleep else home, mem_mb,
                in_flight=None if asleep else 4 if idle_s is None else 0,
                idle_since=None if asleep or idle_s is None else NOW - idle_s,
                hot_at=NOW - 2000, can_sleep=1, asleep_at=NOW - 500 if asleep else None, home_gpus=home,
            )
        )  # fmt: skip
        free_mb -= mem_mb
        gpu += 0 if asleep else pool.gpus
    return hosted


if __name__ == "__main__":
    print(f"decide_ms {measure():.2f}")
