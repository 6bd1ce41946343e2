"""From the catalog's words to an engine's command and environment."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gpuworker.engines import make_engine
from gpuworker.engines.echo_prompt import prompt_of, tokens_of
from gpuworker.engines.process import engine_environment
from gpuworker.engines.protocol import BadArgument, EngineExit, EngineFailed, EngineSpec
from gpuworker.engines.vllm import VllmEngine


def spec(folder: Path, **args: Any) -> EngineSpec:
    (folder / "config.json").touch()
    return EngineSpec(
        model="demo",
        path=str(folder),
        python="/env/bin/python",
        gpus=["2"],
        cap=8,
        seats=10,
        args=args,
        socket_path=folder / "1.sock",
        log_path=folder / "1.log",
    )


def test_vllm_gets_its_arguments_as_flags(tmp_path: Path) -> None:
    engine = VllmEngine(
        spec(tmp_path, max_model_len=2048, enforce_eager=True, enable_prefix_caching=False, dtype="float32")
    )
    command = engine.command()
    assert command[:3] == ["/env/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    joined = " ".join(command)
    assert f"--uds {tmp_path}/1.sock" in joined
    assert f"--model {tmp_path} --served-model-name demo --max-num-seqs 10" in joined
    assert "--max-model-len 2048 --enforce-eager --no-enable-prefix-caching --dtype float32" in joined
    assert "VLLM_TARGET_DEVICE" not in engine.environment()


def test_vllm_on_the_cpu_gets_its_cache_size_by_environment(tmp_path: Path) -> None:
    engine = VllmEngine(
        spec(tmp_path, device="cpu", kv_cache_gib=3, omp_threads=1, omp_threads_bind="nobind")
    )
    own = engine.environment()
    assert own["VLLM_TARGET_DEVICE"] == "cpu"
    assert own["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert own["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert own["OMP_NUM_THREADS"] == "1"
    assert not any(word in " ".join(engine.command()) for word in ("kv-cache-gib", "device", "omp"))
    assert engine.capabilities == frozenset()


def test_vllms_sleep_and_what_comes_with_it_is_opened_only_where_the_pool_asks(tmp_path: Path) -> None:
    awake = VllmEngine(spec(tmp_path))
    assert "--enable-sleep-mode" not in awake.command()
    assert "VLLM_SERVER_DEV_MODE" not in awake.environment()
    sleeps = VllmEngine(replace(spec(tmp_path), may_sleep=1))
    assert "--enable-sleep-mode" in sleeps.command()
    assert sleeps.environment()["VLLM_SERVER_DEV_MODE"] == "1"


@pytest.mark.parametrize(
    "args",
    [
        {"api_key": "x"},
        {"max_model_len": "2048"},
        {"max_model_len": True},
        {"enforce_eager": 1},
        {"dtype": "--trust-remote-code"},
        {"dtype": "half --x"},
        {"device": "tpu"},
    ],
)
def test_arguments_outside_the_allow_list_are_refused_by_name(tmp_path: Path, args: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match=next(iter(args))):
        make_engine("vllm", spec(tmp_path, **args))


@pytest.mark.parametrize(
    ("gpus", "args", "wrong"),
    [
        (["0", "1"], {"tensor_parallel_size": 2}, ""),
        (["0", "1"], {"pipeline_parallel_size": 2}, ""),
        (["0", "1"], {}, "is 1, and the model has 2 GPUs: set"),
        (["0"], {"tensor_parallel_size": 8}, "is 8, and the model has 1 GPUs"),
        (["0", "1"], {"device": "cpu"}, ""),
        ([], {"tensor_parallel_size": 2}, ""),  # which GPUs it has is not known
    ],
)
def test_the_processes_of_a_model_are_as_many_as_its_gpus(
    tmp_path: Path, gpus: list[str], args: dict[str, Any], wrong: str
) -> None:
    made = replace(spec(tmp_path, **args), gpus=gpus)
    if not wrong:
        make_engine("vllm", made)
        return
    with pytest.raises(BadArgument, match=wrong):
        make_engine("vllm", made)


def test_a_model_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    good = spec(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadArgument, match=r"config\.json"):
        make_engine("vllm", good)


def test_an_engine_this_agent_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="no engine 'torch'"):
        make_engine("torch", spec(tmp_path))


def test_the_environment_loses_what_confuses_engines_and_keeps_the_rest() -> None:
    inherited = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/cuda",
        "VLLM_CACHE_ROOT": "/cache",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "VLLM_PORT": "8000",
        "SQUEUE_FORMAT": "%i",
        "SLURM_PROCID": "0",
        "MASTER_PORT": "1",
        "PYTHONPATH": "/agent",
        "BERTH_SCRATCH": "/x",
    }
    assert engine_environment(inherited, {"CUDA_VISIBLE_DEVICES": "2,3"}, {"OWN": "1"}) == {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/cuda",
        "VLLM_CACHE_ROOT": "/cache",
        "CUDA_VISIBLE_DEVICES": "2,3",
        "PYTHONUNBUFFERED": "1",
        "OWN": "1",
    }


def test_a_clean_end_is_no_crash() -> None:
    assert [EngineExit(code).crashed for code in (0, 143, 1, 137, 139)] == [False, False, True, True, True]


def test_the_echo_engines_tokens_lose_nothing() -> None:
    for text in ("one two  three\n", " lead", "", "   ", "é ü"):
        assert "".join(tokens_of(text)) == text
    assert prompt_of({"messages": [{"role": "user", "content": [{"type": "text", "text": "a b"}]}]}) == (
        "a b",
        2,
    )
    assert prompt_of({"prompt": "a b c"}) == ("a b c", 3)


class FakeVllm:
    """A fake of vLLM's answers on its socket."""

    def __init__(self, forgets: bool = True) -> None:
        self.asked: list[str] = []
        self.forgets = forgets

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.asked.append(f"{request.path_qs} {body}".strip())
        return web.json_response({"success": self.forgets or request.path != "/reset_prefix_cache"})


@contextlib.asynccontextmanager
async def sleepy_vllm(folder: Path, fake: FakeVllm) -> AsyncIterator[VllmEngine]:
    app = web.Application()
    app.router.add_post("/{path}", fake.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    short = Path(tempfile.mkdtemp(prefix="berth-unit-"))  # pytest's own are too long for a socket's path
    try:
        await web.UnixSite(runner, str(short / "1.sock")).start()
        yield VllmEngine(replace(spec(folder), may_sleep=2, socket_path=short / "1.sock"))
    finally:
        await runner.cleanup()
        shutil.rmtree(short)


@pytest.mark.parametrize(
    ("level", "asked"),
    [
        (1, ["/sleep?level=1", "/wake_up", "/reset_prefix_cache"]),
        (
            2,
            [
                "/sleep?level=2",
                "/wake_up?tags=weights",
                '/collective_rpc {"method": "reload_weights"}',
                "/wake_up?tags=kv_cache",
                "/reset_prefix_cache",
            ],
        ),
    ],
)
async def test_vllm_wakes_from_where_it_slept(tmp_path: Path, level: int, asked: list[str]) -> None:
    fake = FakeVllm()
    async with sleepy_vllm(tmp_path, fake) as engine:
        await engine.sleep(level)
        await engine.wake(level)
    assert fake.asked == asked


async def test_a_prefix_cache_that_is_not_forgotten_is_no_wake(tmp_path: Path) -> None:
    async with sleepy_vllm(tmp_path, FakeVllm(forgets=False)) as engine:
        await engine.sleep(1)
        with pytest.raises(EngineFailed, match="prefix cache"):
            await engine.wake(1)
