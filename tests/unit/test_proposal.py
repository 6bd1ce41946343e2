"""What is proposed for a model's folder: enough GPUs, a context that fits, and never a value that nobody checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.catalog import rules
from portal.catalog.proposal import propose
from tests.api.world import FOUND


def test_a_small_chat_model_fits_one_gpu() -> None:
    said = propose(FOUND, 4, 64_000)
    assert (said.use, said.gpus, said.context_tokens) == ("chat", 1, 8192)
    assert said.args == {"max_model_len": 8192} and said.admin_only == []
    assert 4 < said.gpu_mem_gib < 6 and 6_000 < said.mem_mb < 10_000
    assert said.notes == ["It needs about 4.9 GiB of GPU memory; one GPU here offers 35.2 GiB."]


@pytest.mark.parametrize(
    ("change", "most", "gpus"),
    [
        ({"weights_bytes": 140 * 2**30}, 8, 8),
        ({"weights_bytes": 60 * 2**30}, 8, 2),
        ({"weights_bytes": 60 * 2**30, "heads": 25}, 8, 1),
        ({"weights_bytes": 60 * 2**30, "gpu_mem_mb": 0}, 8, 1),
        ({"weights_bytes": 600 * 2**30}, 4, 4),
    ],
)
def test_as_many_gpus_as_hold_it_and_divide_its_heads(change: dict[str, Any], most: int, gpus: int) -> None:
    said = propose(FOUND | change, most, 500_000)
    assert said.gpus == gpus
    assert said.args.get("tensor_parallel_size", 1) == gpus


def test_what_it_is_for_and_what_only_an_administrator_may_do() -> None:
    assert propose(FOUND | {"has_chat_template": False}, 1, 9000).use == "completion"
    embeds = propose(FOUND | {"is_embedding": True}, 1, 9000)
    assert (embeds.use, embeds.args["runner"]) == ("embedding", "pooling")
    long = propose(FOUND | {"context_tokens": 131_072}, 1, 9000)
    assert long.context_tokens == 32_768 and "131,072" in long.notes[0]
    risky = propose(FOUND | {"needs_code": True, "other_weights": ["a.bin"]}, 1, 9000)
    assert len(risky.admin_only) == 2 and "trust_remote_code" not in risky.args


_ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=3)


def test_under_a_profile_without_gpus_it_runs_on_cpus_with_its_cache_in_host_memory() -> None:
    said = propose(FOUND, 0, 64_000)
    assert said.gpus == 0
    assert said.args["device"] == "cpu" and said.args["kv_cache_gib"] >= 1
    assert said.mem_mb > propose(FOUND, 1, 64_000).mem_mb
    assert "no GPU: it runs on CPUs" in said.notes[0]


@given(st.dictionaries(st.sampled_from(sorted(FOUND)), _ANY), st.integers(0, 16))
def test_whatever_a_pilot_says_the_proposal_is_sound(found: dict[str, Any], most: int) -> None:
    said = propose(FOUND | found, most, 64_000)
    assert min(1, most) <= said.gpus <= most and 0 < said.mem_mb <= 64_000 and said.load_estimate_s > 0
    assert said.context_tokens is None or 0 < said.context_tokens <= 32_768
    rules.arguments("args", said.args)
    assert set(said.args) <= {"max_model_len", "tensor_parallel_size", "runner", "device", "kv_cache_gib"}
