"""Why a model, or a request for it, does not run yet, and when it will: facts → a sentence, parts and an ETA. Pure.

Gateways, API, pages and the command line say the same of the same moment because they all ask here. Sentences are
written for a scientist; what is not known is said to be unknown, beside what is usual.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from portal.fleet.phase import JobFacts, Part, Phase, PoolFacts, ProfileFacts, ReplicaFacts
from portal.fleet.slurm_words import meaning
from portal.fleet.states import ON_ITS_WAY, ReplicaState
from portal.fleet.times import between, clock, span

_RELAUNCH = "An operator has to resolve this and relaunch it."
_RESUME = "Requests keep their place in the queue; it starts when an operator resumes it."


def explain(facts: PoolFacts, now: float) -> Phase:
    """Return the phase of a pool, with its reason and estimate, by the first of these that is true.

    1. A replica is hot: ready, with what holds further replicas back.
    2. It is latched: unavailable.
    3. An engine starts: the load time that is left.
    4. A replica is wanted in a job that runs: the load time.
    5. Its job is on its way: Slurm's reason and wait, then the load.
    6. Else it is not loaded: a pause, Slurm's silence, a back-off, no room, a held profile, sleep, or nobody asked.
    """
    return replace(
        _explained(facts, now),
        seats=facts.cap * max(1, sum(replica.state == ReplicaState.HOT for replica in facts.replicas)),
        service_s=facts.service_s,
    )


def _explained(facts: PoolFacts, now: float) -> Phase:
    by_state = {replica.state: replica for replica in reversed(facts.replicas)}
    # 1.
    if ReplicaState.HOT in by_state:
        return Phase("ready", 0.0, _sentence(facts.hold_reason))
    # 2.
    if facts.latched_reason:
        reason = f"The model cannot be started. {_sentence(facts.latched_reason)}"
        return Phase("unavailable", None, reason, next_step=_RELAUNCH)
    # 3.
    if ReplicaState.STARTING in by_state:
        return _after_failures(_loading(by_state[ReplicaState.STARTING], facts, now), facts)
    # 4.
    wanted = [replica for replica in facts.replicas if replica.state == ReplicaState.WANTED]
    if any(replica.job.state not in ON_ITS_WAY for replica in wanted):
        load = _load(_profile(wanted[0].job, facts), facts)
        ready = _starting("The model is not loaded yet. A running job has room for it", (load,))
        return _after_failures(ready, facts)
    # 5.
    if wanted:
        return _after_failures(_submitted(wanted[0], facts, now), facts)
    # 6.
    return _absent(facts, ReplicaState.ASLEEP in by_state, now)


def _after_failures(phase: Phase, facts: PoolFacts) -> Phase:
    """Return the phase with why the try before this one failed: whoever looks during a retry has to see it, too."""
    if not facts.failures or not facts.hold_reason:
        return phase
    tried = "The previous attempt" if facts.failures == 1 else f"The last of {facts.failures} attempts"
    why = _sentence(facts.hold_reason.removeprefix("Starting it failed: "))
    return replace(phase, reason=f"{phase.reason} {tried} failed: {why}")


def _loading(replica: ReplicaFacts, facts: PoolFacts, now: float) -> Phase:
    if replica.wakes:
        doing, usual = "The model is being woken", _wake(facts)
    else:
        words = f" ({replica.says.rstrip('.')})" if replica.says else ""
        doing, usual = f"The model is being loaded{words}", _load(_profile(replica.job, facts), facts)
    if usual.seconds is None or replica.started_at is None:
        return _starting(doing, (usual,))
    loading_s = max(0.0, now - replica.started_at)
    left_s = usual.seconds - loading_s
    if left_s > 0:
        part = Part("load", usual.text, left_s)
    else:
        late = f"that has taken {span(loading_s)} so far, longer than the usual {span(usual.seconds)}"
        part = Part("load", late, None)
    return _starting(doing, (part,))


def _submitted(replica: ReplicaFacts, facts: PoolFacts, now: float) -> Phase:
    """Its job has been asked of Slurm, and no agent has called home from it."""
    job = replica.job
    profile = _profile(job, facts)
    load = _load(profile, facts)
    name = f"Slurm job {job.job_id}" if job.job_id is not None else "Slurm job"
    if job.submitted_at is None:
        what = f"Its {name} is being submitted"
    else:
        what = f"Its {name} was submitted at {clock(job.submitted_at, now)}"
    said = meaning(job.slurm_state, job.slurm_reason) if job.slurm_state else None
    if said is not None and said.phase == "running":
        on = f" on {job.node}" if job.node else ""
        return _starting(f"The model is not loaded yet. {what} and runs{on}: its worker starts", (load,))
    words = said.text if said is not None else "Slurm has not shown it yet"
    if job.silent:
        words = f"{_silence(job, now)}, so this may be old: {words}"
    return _starting(f"The model is not loaded yet. {what}: {words}", (_wait(job, profile, now), load))


def _wait(job: JobFacts, profile: ProfileFacts, now: float) -> Part:
    """What is left of Slurm's wait: its own estimate, or else what jobs of the profile waited today."""
    if job.starts_at is not None and job.starts_at > now:
        return Part("slurm", f"Slurm expects to start it at {clock(job.starts_at, now)}", job.starts_at - now)
    p50_s, p90_s = profile.wait_p50_s, profile.wait_p90_s
    if p50_s is None:
        return Part("slurm", "no job like it started today, so its wait cannot be estimated", None)
    usual = f"jobs like it waited {between(p50_s, p90_s if p90_s is not None else p50_s)} today"
    waited_s = now - job.submitted_at if job.submitted_at is not None else 0.0
    for mark_s in (p50_s, p90_s or 0.0):
        if waited_s < mark_s:
            return Part("slurm", usual, mark_s - waited_s)
    return Part("slurm", f"{usual}, this one has waited {span(waited_s)}", None)


def _absent(facts: PoolFacts, asleep: bool, now: float) -> Phase:
    """No replica of it is on its way."""
    if facts.fleet_paused:
        reason = "The model is not loaded: an operator has paused the whole fleet, and nothing is started."
        return Phase("not_loaded", None, reason, next_step=_RESUME)
    if facts.paused:
        reason = "The model is not loaded: an operator has paused it, and nothing is started for it."
        return Phase("not_loaded", None, reason, next_step=_RESUME)
    if asleep:
        soon = f" (≈ {span(facts.wake_s)})" if facts.wake_s is not None else ""
        reason = f"The model is not loaded, but quick to start{soon}: it is kept in memory on a GPU node."
        return Phase("not_loaded", None, reason, next_step="The first request wakes it once its GPU is free.")
    if facts.profiles and all(profile.silent for profile in facts.profiles):
        silences = " and ".join(dict.fromkeys(_silence(profile, now) for profile in facts.profiles))
        reason = f"The model is not loaded: {silences}, and nothing is started until it does."
        return Phase("not_loaded", None, reason, next_step="Requests keep their place in the queue.")
    if facts.retry_at is not None and facts.retry_at > now:
        why = _sentence(facts.hold_reason or "Starting it failed")
        again = f"The next attempt is at {clock(facts.retry_at, now)}."
        return Phase("not_loaded", None, f"The model is not loaded. {why} {again}")
    if facts.profiles and all(profile.latched for profile in facts.profiles):
        held = "; ".join(f"{p.name}: {p.latched.rstrip('.')}" for p in facts.profiles)
        reason = f"The model is not loaded, and no job may be submitted for it. {held}."
        return Phase("not_loaded", None, reason, next_step=_RELAUNCH)
    if facts.hold_reason:
        return Phase("not_loaded", None, f"The model is not loaded. {_sentence(facts.hold_reason)}")
    return _first_request(facts, now)


def _first_request(facts: PoolFacts, now: float) -> Phase:
    """Nobody has asked for it. What it would take: the profile that would bring it soonest."""
    begin = "The model is not loaded; the first request starts it"
    usable = [
        profile
        for profile in facts.profiles
        if not (profile.latched or profile.paused) and (profile.has_room or not profile.silent)
    ]
    if not usable:
        return Phase("not_loaded", None, f"{begin}.")
    ways = [(_new_job(profile, now), _load(profile, facts)) for profile in usable]
    way = min(ways, key=lambda parts: inf if (eta_s := _sum(parts)) is None else eta_s)
    return Phase("not_loaded", _sum(way), f"{begin}: {', and '.join(part.text for part in way)}.", way)


def _new_job(profile: ProfileFacts, now: float) -> Part:
    """The wait of a job that would be submitted now, if it takes one."""
    if profile.has_room:
        return Part("slurm", "a running job has room for it now", 0.0)
    p50_s, p90_s = profile.wait_p50_s, profile.wait_p90_s
    if profile.starts_at is not None:
        left_s = profile.starts_at - now
        when = f"at {clock(profile.starts_at, now)}" if left_s > 60 else "at once"
        if profile.of_wider and left_s > 60:
            when += " or before"  # smaller jobs find their place sooner
        return Part("slurm", f"Slurm would start a job for it {when}", max(0.0, left_s))
    if p50_s is None:
        return Part(
            "slurm", "its wait in Slurm cannot be estimated, because no job like it started today", None
        )
    usual = between(p50_s, p90_s if p90_s is not None else p50_s)
    return Part("slurm", f"jobs like it waited {usual} today", p50_s)


def _profile(job: JobFacts, facts: PoolFacts) -> ProfileFacts:
    """That of the job, as far as it is still one of the pool's."""
    return next((p for p in facts.profiles if p.name == job.profile), ProfileFacts(job.profile))


def _load(profile: ProfileFacts, facts: PoolFacts) -> Part:
    """On the profile's type of GPU where that was measured."""
    load_s = profile.load_s if profile.load_s is not None else facts.load_s
    if load_s is None:
        return Part("load", "how long loading takes has not been measured", None)
    return Part("load", f"loading takes {span(load_s)}", load_s)


def _wake(facts: PoolFacts) -> Part:
    if facts.wake_s is None:
        return Part("load", "how long waking takes has not been measured", None)
    return Part("load", f"waking takes {span(facts.wake_s)}", facts.wake_s)


def in_line(phase: Phase, position: int | None) -> Phase:
    """The phase as the request at this place of the line sees it; 1 = next."""
    if position is None:
        return phase
    ahead = position - 1
    before = "1 request is" if ahead == 1 else f"{ahead} requests are"
    place = f"{before} ahead of this one" if ahead else "this request is next"
    if phase.residency == "ready":
        left_s = phase.service_s * position / phase.seats if phase.service_s is not None else None
        queue = Part("queue", place, left_s)
        hold = f" {phase.reason}" if phase.reason else ""
        reason = f"The model is loaded, and all its slots are in use; {place}.{hold}"
        return replace(phase, reason=reason, eta_s=_sum((queue,)), parts=(queue,))
    # Once it is loaded, so many run at once.
    turns = max(0, position - phase.seats)
    after_s = 0.0 if turns == 0 else None
    if turns and phase.service_s is not None:
        after_s = phase.service_s * turns / phase.seats
    parts = (*phase.parts, Part("queue", place, after_s))
    eta_s = None if phase.eta_s is None or after_s is None else round(phase.eta_s + after_s, 1)
    return replace(phase, reason=f"{phase.reason} {_sentence(place)}", eta_s=eta_s, parts=parts)


def _starting(begin: str, parts: tuple[Part, ...]) -> Phase:
    texts = ", and ".join(part.text for part in parts)
    return Phase("starting", _sum(parts), f"{begin}; {texts}.", parts)


def _sum(parts: tuple[Part, ...]) -> float | None:
    known = [part.seconds for part in parts if part.seconds is not None]
    return round(sum(known), 1) if len(known) == len(parts) else None


def _silence(of: JobFacts | ProfileFacts, now: float) -> str:
    if of.silent_since is None:
        return f"{of.silent} does not answer"
    return f"{of.silent} has not answered since {clock(of.silent_since, now)}"


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a name such as config.json, and with a full stop."""
    text = text.strip()
    if text.partition(" ")[0].isalpha():
        text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
