"""What a model's folder says (wire.ModelFacts, as JSON) → how it might be served, with the reasons. Pure.

A proposal only: a person looks at it before anything is saved. Each value is checked here for what it may be, because
whoever registers a model may have written every file of it; words that become engine arguments come from lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

GIB = 2**30
MOST_CONTEXT = 10_000_000
USUAL_CONTEXT = (
    32_768  # proposed at most: a longer one is asked for by who needs it, and pays for it in memory
)
MOST_CACHE_GIB = 1024
KV_BYTES = 2  # of one number in the key-value cache
ACTIVATIONS_GIB = 2.0
USED = 0.9  # of a GPU's memory, vLLM's own default
READ_BYTES_S = 500 * 2**20  # a parallel file system that others use, too
START_S = 60.0
USES = {"chat": "chat", "completion": "text completion", "embedding": "embeddings"}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal for a model. `use`: one of USES. `admin_only`: why only an administrator may save it."""

    use: str
    context_tokens: int | None
    gpus: int
    gpu_mem_gib: float
    mem_mb: int
    load_estimate_s: float
    args: dict[str, Any]  # of the vLLM engine
    notes: list[str] = field(default_factory=list)
    admin_only: list[str] = field(default_factory=list)


def propose(facts: Mapping[str, Any], most_gpus: int, most_mem_mb: int) -> Proposal:
    """Propose for a job with so many GPUs and so much host memory."""
    use = (
        "embedding"
        if facts.get("is_embedding")
        else "chat"
        if facts.get("has_chat_template")
        else "completion"
    )
    said = _number(facts, "context_tokens", MOST_CONTEXT)
    context = min(said, USUAL_CONTEXT) or None
    notes = []
    if said > USUAL_CONTEXT:
        notes.append(
            f"The model supports a context of {said:,} tokens; {USUAL_CONTEXT:,} are proposed, which need less memory."
        )
    weights = _number(facts, "weights_bytes", 2**50)
    need_gib = weights / GIB + _cache_gib(facts, context or 4096) + ACTIVATIONS_GIB
    gpus, why = _gpus(facts, need_gib, most_gpus)
    notes.append(why)
    if quantisation := str(facts.get("quantisation") or ""):
        notes.append(f"Its weights are quantised ({quantisation}); the engine detects that by itself.")
    args: dict[str, Any] = {"max_model_len": context} if context else {}
    if gpus > 1:
        args["tensor_parallel_size"] = gpus
    if not gpus:
        args |= cpu_args(facts, context or 4096)
    if use == "embedding":
        args["runner"] = "pooling"
    on_cpu_mb = 0 if gpus else ceil(2**10 * int(args["kv_cache_gib"]))
    mem_mb = min(most_mem_mb, 6_000 + ceil(weights / 2**20) + on_cpu_mb)
    return Proposal(
        use, context, gpus, round(need_gib, 1), mem_mb, round(START_S + weights / READ_BYTES_S), args, notes,
        _admin_only(facts),
    )  # fmt: skip


def cpu_args(facts: Mapping[str, Any], context: int) -> dict[str, Any]:
    """Return what vLLM's build for CPUs is told: its key-value cache is host memory."""
    return {"device": "cpu", "kv_cache_gib": min(MOST_CACHE_GIB, max(1, ceil(_cache_gib(facts, context))))}


def _cache_gib(facts: Mapping[str, Any], context: int) -> float:
    """Estimate the GiB of keys and values of four requests of full length."""
    per_token = 2 * KV_BYTES
    for name in ("layers", "kv_heads", "head_dim"):
        per_token *= _number(facts, name, 2**14)
    return 4 * context * per_token / GIB


def _gpus(facts: Mapping[str, Any], need_gib: float, most: int) -> tuple[int, str]:
    if not most:
        return (
            0,
            f"Jobs of this profile have no GPU: it runs on CPUs, and needs about {need_gib:.1f} GiB of host memory.",
        )
    one_gib = _number(facts, "gpu_mem_mb", 2**24) / 1024 * USED
    if not one_gib:
        return (
            1,
            f"It needs about {need_gib:.1f} GiB of GPU memory; the job could not determine how much its GPUs have.",
        )
    heads = _number(facts, "heads", 2**14)
    gpus = 1
    while gpus * one_gib < need_gib and gpus < most:
        gpus *= 2
    gpus = min(gpus, most)
    while heads and heads % gpus:
        gpus -= 1
    said = f"It needs about {need_gib:.1f} GiB of GPU memory; one GPU here offers {one_gib:.1f} GiB."
    if gpus * one_gib < need_gib:
        return gpus, f"{said} It does not fit on the GPUs of one job of this profile."
    return gpus, said


def _admin_only(facts: Mapping[str, Any]) -> list[str]:
    found = []
    if facts.get("needs_code"):
        found.append("it contains Python code of its own, which would run in the engine")
    if other := facts.get("other_weights"):
        named = ", ".join(map(str, other[:3])) if isinstance(other, list) else "unknown"
        found.append(f"its weights are not safetensors files ({named}), and loading those may run code")
    return found


def _number(facts: Mapping[str, Any], name: str, most: int) -> int:
    value = facts.get(name)
    return min(value, most) if type(value) is int and value > 0 else 0
