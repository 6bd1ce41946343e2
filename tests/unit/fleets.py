"""Arbitrary fleets for the policies' properties, and what becomes of a fleet once decisions are carried out."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from random import Random

from hypothesis import strategies as st

from portal.fleet.states import PilotState, ReplicaState
from scheduler.policy.decisions import (
    CancelPilot,
    Decision,
    DrainPilot,
    DrainReplica,
    HoldPool,
    HoldProfile,
    LaunchPilot,
    PlaceReplica,
    StageWeights,
    WakeReplica,
)
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import (
    Failure,
    FitView,
    HoldView,
    Limits,
    PilotView,
    PoolView,
    ProfileView,
    ReplicaView,
)

NOW = 1_000_000.0
BOUND_S, RESIDENCY_S = 600.0, 60.0
PROFILES = ("gpu", "spare", "own")


def snapshots() -> st.SearchStrategy[Snapshot]:
    """Make snapshots from a seed, and not draw them value by value.

    Hypothesis draws mostly empty and extreme fleets, in which hardly anything is decided, and takes a hundred
    times as long. The seed of a failure is printed.
    """
    return st.builds(lambda seed: fleet(Random(seed)), st.integers(0, 2**48))


def fleet(rng: Random) -> Snapshot:
    made = tuple(pool(rng, name) for name in rng.sample("abcde", rng.randint(1, 5)))
    profiles = tuple(profile(rng, name) for name in PROFILES)
    pilots: list[PilotView] = []
    replicas: list[ReplicaView] = []
    for number in range(rng.randint(0, 6)):
        where, hosted = pilot(rng, f"p{number}", made, len(replicas))
        pilots.append(where)
        replicas += hosted
    limits = Limits(
        pilot_idle_s=60,
        launch_backoff_s=5,
        latch_after=3,
        min_residency_s=RESIDENCY_S,
        wait_bound_s=BOUND_S,
        max_gpus=rng.choice([None, None, rng.randint(0, 16)]),
        project_gpus=rng.choice([{}, {"physics": 2}, {"physics": 6}]),
    )
    found = Snapshot(
        made, tuple(pilots), tuple(replicas), profiles, limits, NOW, silences(rng), some(rng, 0.1)
    )
    return crowded(rng, found) if rng.random() < 0.4 else found


def beside(fleet: Snapshot) -> Snapshot:
    """Return the same fleet once more, under names of its own."""

    def other(name: str) -> str:
        return f"other-{name}" if name else ""

    return replace(
        fleet,
        pools=tuple(
            replace(p, name=other(p.name), profiles=tuple(map(other, p.profiles)), project=other(p.project))
            for p in fleet.pools
        ),
        pilots=tuple(
            replace(
                p, id=other(p.id), profile=other(p.profile), replaces=other(p.replaces), stage_wish=other(p.stage_wish),
                staged=frozenset(map(other, p.staged)),
            )
            for p in fleet.pilots
        ),
        replicas=tuple(
            replace(r, id=other(r.id), pool=other(r.pool), pilot=other(r.pilot)) for r in fleet.replicas
        ),
        profiles=tuple(replace(p, name=other(p.name), project=other(p.project)) for p in fleet.profiles),
    )  # fmt: skip


def silences(rng: Random) -> dict[str, str]:
    return dict.fromkeys(some(rng, 0.2), "Slurm does not answer.")


def some(rng: Random, chance: float) -> frozenset[str]:
    """Choose all profiles, or none, or some."""
    if rng.random() < 0.5:
        return frozenset(PROFILES) if rng.random() < chance else frozenset()
    return frozenset(name for name in PROFILES if rng.random() < chance)


def crowded(rng: Random, fleet: Snapshot) -> Snapshot:
    """Return the same pools with as many jobs as may be, each full: what gets in has to switch."""
    asking, *there = (
        replace(
            pool, profiles=("gpu",), fits={}, failures=(), hold=HoldView(), mem_mb=2_000, project="", nodes=1
        )
        for pool in (*fleet.pools, pool(rng, "x"), pool(rng, "y"))
    )
    asking = replace(asking, queued=rng.choice([1, 3, 500]), queued_batch=0, gpus=rng.choice([1, 1, 2]))
    pilots, replicas = [], []
    for number in range(rng.randint(1, 4)):
        pilots.append(
            PilotView(
                f"p{number}", "gpu", PilotState.UP, gpus=3, mem_mb=rng.choice([6_000, 16_000]), alive=True
            )
        )
        for gpu in range(3):
            plain = ReplicaView(
                f"r{number}{gpu}", rng.choice(there).name, f"p{number}", ReplicaState.HOT, (gpu,), 2_000
            )
            idle = rng.random() < 0.6
            replicas.append(
                replace(
                    plain,
                    in_flight=0 if idle else 2,
                    idle_since=past(rng) if idle else None,
                    hot_at=NOW - rng.uniform(0, 1000),
                    can_sleep=rng.randint(0, 2),
                )
            )
    full = tuple(replace(profile, max_pilots=0) for profile in fleet.profiles)
    return replace(
        fleet, pools=(asking, *there), pilots=tuple(pilots), replicas=tuple(replicas), profiles=full
    )


def moment(rng: Random) -> float | None:
    return rng.choice([None, None, NOW + rng.uniform(-100, 2000)])


def past(rng: Random) -> float:
    return NOW - rng.choice([rng.uniform(0, 40), rng.uniform(0, 2000)])


def seconds(rng: Random) -> float | None:
    return rng.choice([None, 0.0, 5.0, 400.0])


def profile(rng: Random, name: str) -> ProfileView:
    return ProfileView(
        name,
        enabled=rng.random() < 0.9,
        gpus=rng.choice([0, 1, 2, 3, 4]),
        nodes=rng.choice([1, 1, 2]),
        mem_mb=16_000,
        max_pilots=rng.randint(0, 6),
        preemptible=name == "spare",
        gpu_type=rng.choice(["", "a100"]),
        project="physics" if name == "own" else "",
        cost=rng.choice([0.5, 1.0]),
        least_s=rng.choice([0.0, 300.0]),
        free_until=moment(rng),
        wait_p50_s=seconds(rng),
        starts_in_s=seconds(rng),
        latched=rng.choice(["", "", "", "bad account"]),
    )


def pool(rng: Random, name: str) -> PoolView:
    queued = rng.choice([0, 0, 1, 3, 500])
    held = rng.randint(0, queued)
    low = rng.choice([0, 0, 0, 1, 2])
    nodes = rng.choice([1, 1, 1, 2])
    return PoolView(
        name,
        profiles=tuple(p for p in PROFILES if rng.random() < 0.8),
        gpus=2 * rng.choice([1, 2]) if nodes > 1 else rng.choice([0, 1, 1, 1, 2, 4]),
        nodes=nodes,
        mem_mb=rng.choice([1_000, 2_000, 8_000]),
        keep_alive_s=rng.choice([0.0, 10.0, 600.0]),
        load_s=rng.choice([0.0, 10.0, 200.0]),
        min_replicas=low,
        max_replicas=rng.randint(max(1, low), 4),
        queued=queued,
        queued_held=held,
        queued_batch=rng.randint(0, queued - held),
        running=rng.randint(0, 2),
        interest_until=moment(rng),
        pinned_until=rng.choice([None, None, moment(rng)]),
        paused=rng.random() < 0.1,
        failures=tuple(Failure(past(rng), "x") for _ in range(rng.choice([0, 0, 0, 0, 1, 4]))),
        hold=rng.choice([HoldView()] * 8 + [HoldView(3, None, True, "latched")]),
        cap=rng.choice([1, 32]),
        waited_s=rng.choice([0.0, 30.0, BOUND_S, 5 * BOUND_S]) if queued else None,
        service_s=rng.choice([None, 0.1, 5.0, 400.0]),
        weight=rng.choice([1.0, 3.0]),
        project=rng.choice(["", "physics"]),
        sleep_level=rng.randint(0, 2) if nodes == 1 else 0,
        asleep_mem_mb=rng.choice([0, 500, 6_000]),
        wake_s=seconds(rng),
        fits={"a100": FitView(rng.random() < 0.7, seconds(rng))} if rng.random() < 0.5 else {},
        gpu_types=rng.choice([(), (), (), ("a100",), ("h100",)]),
    )


def pilot(
    rng: Random, name: str, made: tuple[PoolView, ...], first: int
) -> tuple[PilotView, list[ReplicaView]]:
    """Make a pilot with replicas that fit into it."""
    nodes, mem_mb = rng.choice([1, 1, 1, 2]), 16_000
    gpus = rng.randint(0, 6) if nodes == 1 else rng.choice([2, 4])
    state = PilotState(rng.choice(["planned", "submitted", "pending", *["up"] * 6, "draining"]))
    alive = state == "up" and rng.random() < 0.9
    free, free_mb = list(range(gpus)), mem_mb
    hosted: list[ReplicaView] = []
    for resident in rng.choices(made, k=rng.randint(0, 10)):
        states = ["hot"] * 5 + ["asleep", "draining", "starting"] if state == "up" else ["wanted"]
        seen = ReplicaState(rng.choice(states))
        if resident.nodes != nodes or (nodes > 1 and (resident.gpus != gpus or seen == "asleep")):
            continue
        need = 0 if seen == "asleep" else resident.gpus
        holds_mb = resident.asleep_mem_mb if seen == "asleep" else resident.mem_mb
        if need > len(free) or holds_mb > free_mb:
            continue
        busy = rng.choice([0, 0, 0, 2, None]) if alive else None
        hosted.append(
            ReplicaView(
                f"r{first + len(hosted)}",
                resident.name,
                name,
                seen,
                tuple(free[:need]),
                holds_mb,
                in_flight=busy,
                idle_since=past(rng) if busy == 0 else None,
                draining_at=past(rng) if seen == ReplicaState.DRAINING else None,
                hot_at=NOW - rng.uniform(0, 1000) if seen in ("hot", "draining", "asleep") else None,
                can_sleep=rng.randint(0, 2),
                asleep_at=past(rng) if seen == "asleep" else None,
                home_gpus=tuple(sorted(rng.sample(range(gpus), min(gpus, resident.gpus))))
                if seen == "asleep"
                else (),
            )
        )
        free, free_mb = free[need:], free_mb - holds_mb
    where = PilotView(
        name,
        rng.choice(PROFILES),
        state,
        gpus,
        mem_mb,
        alive=alive,
        ends_at=moment(rng),
        empty_since=None if hosted else past(rng),
        hopeless=rng.choice(["", "held"]) if state == PilotState.PENDING else "",
        gpu_type=rng.choice(["", "a100"]),
        staged=frozenset(x.name for x in made if rng.random() < 0.3),
        scratch=rng.random() < 0.5,
        stage_wish=rng.choice(["", "", made[0].name]) if made else "",
        nodes=nodes,
    )
    return where, hosted


serial = count()


def acted(snapshot: Snapshot, decisions: list[Decision], now: float) -> Snapshot:
    """Return the fleet after the decisions were carried out and nothing else happened."""
    pilots = {p.id: p for p in snapshot.pilots}
    replicas = {r.id: r for r in snapshot.replicas}
    pools = {p.name: p for p in snapshot.pools}
    profiles = {p.name: p for p in snapshot.profiles}
    for decision in decisions:
        number = next(serial)
        if isinstance(decision, LaunchPilot):
            asked, nodes = profiles[decision.profile], pools[decision.pool].nodes
            new = PilotView(
                f"new{number}",
                asked.name,
                PilotState.SUBMITTED,
                asked.gpus * nodes,
                asked.mem_mb,
                alive=False,
                nodes=nodes,
            )
            pilots[new.id] = new
        if isinstance(decision, LaunchPilot | PlaceReplica):
            where = decision.pilot if isinstance(decision, PlaceReplica) else f"new{number}"
            mem_mb = pools[decision.pool].mem_mb
            made = ReplicaView(
                f"n{number}", decision.pool, where, ReplicaState.WANTED, decision.gpu_indices, mem_mb
            )
            replicas[made.id] = made
            pilots[where] = replace(pilots[where], empty_since=None)
        elif isinstance(decision, WakeReplica):
            woken = replace(
                replicas[decision.replica], state=ReplicaState.STARTING, gpu_indices=decision.gpu_indices
            )
            replicas[woken.id] = replace(woken, mem_mb=pools[decision.pool].mem_mb, asleep_at=None)
        elif isinstance(decision, DrainReplica) and (leaving := replicas.get(decision.replica)):
            level = decision.sleep_level
            drained = replace(leaving, state=ReplicaState.DRAINING, draining_at=now, sleep_level=level)
            replicas[leaving.id] = drained
        elif isinstance(decision, StageWeights):
            pilots[decision.pilot] = replace(pilots[decision.pilot], stage_wish=decision.pool)
        elif isinstance(decision, DrainPilot):
            pilots[decision.pilot] = replace(
                pilots[decision.pilot], state=PilotState.DRAINING, draining_at=now
            )
            for here in [r for r in replicas.values() if r.pilot == decision.pilot]:
                replicas[here.id] = replace(here, state=ReplicaState.DRAINING, draining_at=now)
        elif isinstance(decision, CancelPilot):
            del pilots[decision.pilot]
            replicas = {k: r for k, r in replicas.items() if r.pilot != decision.pilot}
        elif isinstance(decision, HoldPool):
            pools[decision.pool] = replace(pools[decision.pool], hold=decision.hold)
        elif isinstance(decision, HoldProfile):
            profiles[decision.profile] = replace(profiles[decision.profile], latched=decision.reason)
    return replace(
        snapshot,
        pools=tuple(pools.values()),
        pilots=tuple(pilots.values()),
        replicas=tuple(replicas.values()),
        profiles=tuple(profiles.values()),
    )


def drained(snapshot: Snapshot, now: float) -> Snapshot:
    """Return the fleet once what drains has ended or sleeps."""
    memory = {pool.name: pool.asleep_mem_mb for pool in snapshot.pools}
    left = []
    for replica in snapshot.replicas:
        if replica.state != "draining":
            left.append(replica)
        elif replica.sleep_level and memory.get(replica.pool) is not None:
            asleep = replace(replica, state=ReplicaState.ASLEEP, gpu_indices=(), asleep_at=now, sleep_level=0)
            left.append(
                replace(
                    asleep,
                    mem_mb=memory[replica.pool],
                    in_flight=0,
                    idle_since=None,
                    home_gpus=replica.gpu_indices,
                )
            )
    return replace(snapshot, replicas=tuple(left))
