"""vLLM as an engine: one OpenAI server per replica on a unix socket.

Facts behind the choices, seen with vLLM 0.32 on the CPU: the socket file appears only when everything is loaded;
uvicorn inside vLLM closes idle connections after 5 s unless told otherwise, which a keep-alive client meets as a
reset under its next request; SIGTERM with requests in flight cuts them off as "abort" unless --shutdown-timeout
lets them end; `/sleep` answers success and frees nothing, and `--enable-sleep-mode` is refused. That the calls below
put an engine on a GPU to sleep is from vLLM's documentation and source; `gpuworker.sleep` looks whether they did.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpuworker.engines import arguments
from gpuworker.engines.http_engine import HttpEngine
from gpuworker.engines.protocol import BadArgument, EngineFailed, EngineSpec, NotOffered

# Catalog name → kind. As a flag it is the same name with dashes; a false switch is --no-<name>.
FLAGS: dict[str, arguments.Kind] = {
    "dtype": "word",
    "enable_auto_tool_choice": "bool",
    "enable_chunked_prefill": "bool",
    "enable_prefix_caching": "bool",
    "enforce_eager": "bool",
    "generation_config": "word",
    "gpu_memory_utilization": "float",
    "kv_cache_dtype": "word",
    "max_model_len": "int",
    "max_num_batched_tokens": "int",
    "pipeline_parallel_size": "int",
    "quantization": "word",
    "reasoning_parser": "word",
    "runner": "word",
    "scheduling_policy": "word",
    "seed": "int",
    "tensor_parallel_size": "int",
    "tokenizer_mode": "word",
    "tool_call_parser": "word",
    "trust_remote_code": "bool",
}
# Not flags but environment variables, on the CPU only.
CPU_ARGS: dict[str, arguments.Kind] = {
    "device": "word",  # "cpu": vLLM's CPU build; otherwise it finds the GPUs itself
    "kv_cache_gib": "int",
    "omp_threads": "int",
    "omp_threads_bind": "word",
}
KEEP_ALIVE_S = 3600
SHUTDOWN_S = 20


class VllmEngine(HttpEngine):
    name = "vLLM"
    phases = (
        ("Initializing a V1 LLM engine", "initialising"),
        ("Loading weights", "loading weights"),
        ("Starting to load model", "loading weights"),
        ("Loading safetensors checkpoint shards", "loading weights"),
        ("Model loading took", "weights loaded"),
        ("Using cache directory", "compiling"),
        ("torch.compile takes", "compiled"),
        ("Capturing CUDA graph", "capturing graphs"),
        ("KV cache size", "key-value cache allocated"),
        ("Starting vLLM", "opening its door"),
    )

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._args = arguments.checked(self.name, spec.args, FLAGS | CPU_ARGS)
        if self._args.get("device", "cpu") != "cpu":
            raise BadArgument(
                'engine argument device: only "cpu" can be asked for; GPUs are found by vLLM itself'
            )
        self._parallel()
        if not Path(spec.path).is_absolute() or not Path(spec.path, "config.json").is_file():
            raise BadArgument(f"model folder {spec.path!r} holds no config.json on this node")

    def _parallel(self) -> None:
        """Raise BadArgument where what is asked for cannot be cut into one process per GPU."""
        if sum(name.startswith("MIG-") for name in self.spec.gpus) > 1:
            raise BadArgument("CUDA gives a process one MIG slice: a model on slices has 1 GPU, not more")
        if not self.spec.others and self._on_cpu:
            return
        counts = {len(self.spec.gpus), *(len(span.gpus) for span in self.spec.others)}
        ranks = int(self._args.get("tensor_parallel_size", 1)) * int(
            self._args.get("pipeline_parallel_size", 1)
        )
        nodes = len(self.spec.others) + 1
        if len(counts) > 1 or (self.spec.gpus and ranks != nodes * len(self.spec.gpus)):
            over = f"{nodes} nodes with " if nodes > 1 else ""
            raise BadArgument(
                f"tensor_parallel_size x pipeline_parallel_size is {ranks}, and the model has {over}"
                f"{' and '.join(map(str, sorted(counts)))} GPUs: set them in its pool's args, or the pool's gpus"
            )

    def command(self) -> list[str]:
        argv = [self.spec.python, "-m", "vllm.entrypoints.openai.api_server"]
        argv += ["--uds", str(self.socket_path), "--model", self.spec.path]
        return [*argv, *self._flags(), *self._over_nodes(0)]

    def rank_command(self, rank: int) -> list[str]:
        """Return the command of workers that listen to nobody; the module is what the `vllm` program runs."""
        argv = [self.spec.python, "-m", "vllm.entrypoints.cli.main", "serve", self.spec.path, "--headless"]
        return [*argv, *self._flags(), *self._over_nodes(rank)]

    def rank_environment(self, address: str) -> Mapping[str, str]:
        # The folder of sockets is its own node's: vLLM's default, /tmp.
        here = {name: value for name, value in self.environment().items() if name != "VLLM_RPC_BASE_PATH"}
        return {**here, "VLLM_HOST_IP": address}

    def _over_nodes(self, rank: int) -> list[str]:
        """Return the arguments of vLLM's own executor for several nodes, which needs nothing but itself;
        Ray is left out."""
        if not self.spec.others:
            return []
        argv = ["--distributed-executor-backend", "mp", "--nnodes", str(len(self.spec.others) + 1)]
        return [
            *argv,
            "--node-rank",
            str(rank),
            "--master-addr",
            self.spec.meet,
            "--master-port",
            str(self.port),
        ]

    def _flags(self) -> list[str]:
        argv = ["--served-model-name", self.spec.model]
        argv += ["--max-num-seqs", str(self.spec.seats)]
        argv += ["--shutdown-timeout", str(SHUTDOWN_S), "--disable-uvicorn-access-log"]
        if self.spec.may_sleep and not self._on_cpu:
            argv.append("--enable-sleep-mode")
        for name, value in self._args.items():
            if name in CPU_ARGS:
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                argv.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                argv += [f"--{flag}", str(value)]
        return argv

    def environment(self) -> Mapping[str, str]:
        own = {
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            # vLLM's processes talk through sockets that it would put into /tmp, where others of the node could
            # reach them and a killed engine leaves them behind; ours is 0700 and goes with the replica.
            "VLLM_RPC_BASE_PATH": str(self.socket_path.parent),
        }
        if self.spec.others:
            own["VLLM_HOST_IP"] = self.spec.meet
        if self._on_cpu:
            own["VLLM_TARGET_DEVICE"] = "cpu"
            own["VLLM_CPU_KVCACHE_SPACE"] = str(self._args.get("kv_cache_gib", 1))
            if bind := self._args.get("omp_threads_bind"):
                own["VLLM_CPU_OMP_THREADS_BIND"] = str(bind)
            if threads := self._args.get("omp_threads"):
                own["OMP_NUM_THREADS"] = str(threads)
        if self.spec.may_sleep:
            # Opens more than sleeping, on the socket only: its folder is ours alone, and the ingress forwards
            # an allow-list of paths.
            own["VLLM_SERVER_DEV_MODE"] = "1"
        return own

    @property
    def _on_cpu(self) -> bool:
        return bool(self._args.keys() & CPU_ARGS.keys())

    async def sleep(self, level: int) -> None:
        self._offered()
        await self._told("a request to sleep", f"/sleep?level={level}", self.sleep_limit_s)

    async def wake(self, level: int) -> None:
        """Wake it. After level 2 the weights' memory is there again and holds nothing: they are read from
        disk."""
        self._offered()
        what, limit_s = "a request to wake", self.wake_limit_s
        if level == 2:
            await self._told(what, "/wake_up?tags=weights", limit_s)
            await self._told(what, "/collective_rpc", limit_s, {"method": "reload_weights"})
            await self._told(what, "/wake_up?tags=kv_cache", limit_s)
        else:
            await self._told(what, "/wake_up", limit_s)
        # Its blocks' content is gone; should any still be held, answers built on them would be garbage.
        if b'"success":false' in (await self._told(what, "/reset_prefix_cache", limit_s)).replace(b" ", b""):
            raise EngineFailed("the vLLM engine did not forget its prefix cache")

    async def device_mb(self) -> int | None:
        return (await self.stats()).mem_mb if self._on_cpu else await super().device_mb()

    def _offered(self) -> None:
        if not self.spec.may_sleep:
            raise NotOffered("this vLLM engine was started without sleep mode")
