"""What people see of a model: one pure function from the facts of its pool to a word, an ETA and a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Residency = Literal["ready", "starting", "not_loaded", "unavailable"]


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What is known of a pool at one moment. Times are seconds; None = unknown."""

    replica_states: Sequence[str]
    pilot_states: Sequence[str]  # of the pilots that its live replicas are in
    slurm_reason_text: str  # in plain words, of the pilot that is pending
    paused: bool
    latched_reason: str  # why a person has to look first
    hold_reason: str  # why the loop starts nothing just now: no room, a back-off, Slurm's silence…
    load_s: float | None  # measured or estimated load time
    loading_for_s: float | None  # since the engine started


@dataclass(frozen=True, slots=True)
class Phase:
    """Ready · Starting (≈ 4 min) · Not loaded · Unavailable, with the reason in English."""

    residency: Residency
    eta_s: float | None
    reason: str


def phase_of(facts: PoolFacts) -> Phase:
    """1 hot → ready. 2 latched → unavailable. 3 an engine starts → starting, load time left. 4 a job is on its
    way → starting, ETA unknown until Slurm runs it. 5 else not loaded, with what holds it back."""
    if "hot" in facts.replica_states:
        return Phase("ready", 0.0, "")
    if facts.latched_reason:
        return Phase("unavailable", None, facts.latched_reason)
    if "starting" in facts.replica_states:
        left = None
        if facts.load_s is not None:
            left = max(1.0, facts.load_s - (facts.loading_for_s or 0.0))
        return Phase("starting", left, "The model is being loaded.")
    if "wanted" in facts.replica_states:
        if any(state in ("up", "draining") for state in facts.pilot_states):
            return Phase("starting", facts.load_s, "A GPU is ready; the model is about to be loaded.")
        waiting = facts.slurm_reason_text or "waiting for Slurm to start it"
        return Phase("starting", None, f"A GPU job has been submitted; {waiting}.")
    if facts.paused:
        return Phase("not_loaded", None, "An operator has paused this model.")
    if facts.hold_reason:
        return Phase("not_loaded", None, facts.hold_reason)
    return Phase("not_loaded", None, "The model is not loaded; the first request starts it.")
