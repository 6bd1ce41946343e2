"""A gpuworker whose job has two nodes: the agent on one, a helper on the other, an engine over both.

`srun` is a stand-in that runs the helper here under the other node's name; everything else is real, the connection and
the ranks' meeting included. On hosts of their own: tests/slurm/test_two_nodes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from gpuworker import exits, wire
from tests.flow.gpuworker_job import Worker, alive, fence, serving, worker
from tests.flow.gpuworker_portal import FakePortal, chat_body, echo, fake_portal, until

SRUN = """#!/bin/sh
for word; do case $word in --nodelist=*) export SLURMD_NODENAME=${word#*=};; esac; done
export CUDA_VISIBLE_DEVICES=4,5 SLURM_STEP_ID=0
while [ "${1#--}" != "$1" ]; do shift; done
echo "$$" >> "$SRUN_LOG"; echo "$@" >> "$SRUN_LOG"
exec "$@"
"""
RANK, HEAD, NODE = "gpuworker.engines.echo_rank", "gpuworker.engines.echo_server", "gpuworker.node"
WIDE = [0, 1, 2, 3]


def two_nodes(folder: Path, srun: str = SRUN) -> dict[str, str]:
    program = folder / "bin" / "srun"
    program.parent.mkdir(exist_ok=True)
    program.write_text(srun)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "SRUN_LOG": str(folder / "srun.log"),
        "SLURM_JOB_NODELIST": "gpu[01-02]",
        "SLURM_CPUS_PER_TASK": "3",
        "BERTH_NODES": "2",
        "BERTH_GPUS": "2",
    }


def wide(name: str = "r1", **how: Any) -> wire.DesiredReplica:
    return replace(echo(name, **how), gpus=WIDE)


@contextlib.asynccontextmanager
async def both(
    folder: Path, *wishes: wire.DesiredReplica
) -> AsyncIterator[tuple[FakePortal, Worker, aiohttp.ClientSession]]:
    async with serving(folder, *(wishes or [wide()]), env=two_nodes(folder)) as (portal, job, client):
        yield portal, job, client


def env_of(pid: int) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0")]
    return {name: value for name, _, value in pairs}


async def answer(client: aiohttp.ClientSession, text: str, name: str = "q1") -> tuple[int, str]:
    async with client.post("/v1/chat/completions", data=chat_body(text), headers=fence(name)) as said:
        return said.status, await said.text()


async def test_a_replica_over_two_nodes_answers_by_both(tmp_path: Path) -> None:
    async with both(tmp_path) as (portal, job, client):
        said = portal.registers[-1]
        assert (said.node, said.gpus) == ("gpu[01-02]", ["0", "1", "4", "5"])
        status, text = await answer(client, "hello by both")
        assert status == 200 and "hello by both" in text
        (head,), (rank,) = job.pids(HEAD), job.pids(RANK)
        assert env_of(head)["CUDA_VISIBLE_DEVICES"] == "0,1" and env_of(rank)["CUDA_VISIBLE_DEVICES"] == "4,5"


async def test_the_key_of_the_helpers_stands_in_no_argument_and_no_environment(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, job, _):
        (helper,) = job.pids(NODE)
        line = Path(f"/proc/{helper}/cmdline").read_text()
        hexes = [word for word in (line + "\0".join(env_of(helper).values())).split("\0") if len(word) == 64]
        assert hexes == [] and line.split("\0")[1:4] == ["-m", NODE, ""]


async def test_when_a_rank_dies_the_replica_fails_once_and_as_a_whole(tmp_path: Path) -> None:
    for victim in (RANK, HEAD):
        folder = tmp_path / victim
        folder.mkdir()
        async with both(folder) as (portal, job, client):
            pids = [*job.pids(RANK), *job.pids(HEAD)]
            os.kill(job.pids(victim)[0], signal.SIGKILL)
            seen = await portal.state("failed")
            assert seen.crashes == 1
            where = "its part on node gpu02: ended with exit code 137" if victim == RANK else "exit code 137"
            assert where in seen.error and "rank 1 on gpu02" in seen.error
            await until(lambda p=pids: not any(map(alive, p)), "the end of every part")  # type: ignore[misc]
            # The next one runs in the same job.
            portal.set(desired=[wide("r2")])
            await portal.state("hot", "r2")
            async with client.post(
                "/v1/chat/completions", data=chat_body("again"), headers=fence("q2", replica="r2")
            ) as said:
                assert said.status == 200


async def test_a_request_under_a_rank_that_dies_is_lost_as_under_any_crash(tmp_path: Path) -> None:
    async with both(tmp_path, wide(args={"tokens_per_s": 0.5})) as (_, job, client):
        asked = asyncio.create_task(answer(client, "one two three four"))
        stats = {"active": 0}
        while not stats["active"]:
            stats = await job.engine_stats()
        os.kill(job.pids(RANK)[0], signal.SIGKILL)
        status, text = await asked
        assert (status, "crash" in text) == (502, True)


async def test_a_helper_that_dies_takes_its_part_and_comes_again(tmp_path: Path) -> None:
    async with both(tmp_path) as (portal, job, _):
        (helper,), (rank,) = job.pids(NODE), job.pids(RANK)
        os.kill(helper, signal.SIGKILL)
        seen = await portal.state("failed")
        assert "node gpu02 of the job was lost" in seen.error and seen.crashes == 0
        await until(lambda: not alive(rank), "the end of its part")
        portal.set(desired=[wide("r2")])
        await portal.state("hot", "r2")
        assert job.pids(NODE) != [helper]


async def test_a_node_that_does_not_come_back_ends_the_job(tmp_path: Path) -> None:
    async with both(tmp_path) as (portal, job, _):
        (tmp_path / "bin" / "srun").write_text("#!/bin/sh\necho 'srun: error: gpu02 is down' >&2\nexit 1\n")
        os.kill(job.pids(NODE)[0], signal.SIGKILL)
        assert await job.exit_code() == exits.DONE
        assert portal.syncs[-1].ending == "node lost"


async def test_when_the_agent_goes_the_helpers_go_and_when_it_comes_again_so_do_they(tmp_path: Path) -> None:
    async with both(tmp_path) as (portal, job, _):
        pids = [*job.pids(NODE), *job.pids(RANK), *job.pids(HEAD)]
        agent = job.pids("gpuworker.agent")[0]
        os.kill(agent, signal.SIGKILL)
        await until(lambda: not any(map(alive, pids)), "the end of helper and engine")
        await until(lambda: len(portal.registers) == 2, "the next agent's registration")
        await until(lambda: job.pids(RANK), "the next engine")


async def test_at_the_end_nothing_is_left_on_any_node(tmp_path: Path) -> None:
    async with both(tmp_path) as (portal, job, _):
        pids = [*job.pids(NODE), *job.pids(RANK), *job.pids(HEAD)]
        assert len(list(job.scratch.glob("berth-*"))) == 2
        portal.set(desired=[], drain=True)
        assert await job.exit_code() == exits.DONE
        await until(lambda: not any(map(alive, pids)), "the end of helper and engine")
        await until(lambda: not list(job.scratch.glob("berth-*")), "clean scratch folders")


async def test_a_node_that_does_not_come_is_a_refusal_in_words(tmp_path: Path) -> None:
    words = "srun: error: Unable to create step: Requested node configuration is not available"
    broken = f"#!/bin/sh\necho '{words}' >&2\nexit 1\n"
    async with fake_portal() as portal:
        with worker(portal, tmp_path, two_nodes(tmp_path, broken)) as job:
            assert await job.exit_code() == exits.UNFIT
            (said,) = portal.registers
            assert "Node gpu02 of this job does not serve: srun ended with exit code 1" in said.refusal
            assert words in said.refusal


async def test_fewer_gpus_on_another_node_are_refused_with_its_name(tmp_path: Path) -> None:
    fewer = SRUN.replace("CUDA_VISIBLE_DEVICES=4,5", "CUDA_VISIBLE_DEVICES=4")
    async with fake_portal() as portal:
        with worker(portal, tmp_path, two_nodes(tmp_path, fewer)) as job:
            assert await job.exit_code() == exits.UNFIT
            assert portal.registers[0].refusal.startswith(
                "On node gpu02: This job asked for 2 GPUs and has 1"
            )


async def test_fewer_nodes_than_asked_are_refused(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        with worker(portal, tmp_path, two_nodes(tmp_path) | {"SLURM_JOB_NODELIST": "gpu01"}) as job:
            assert await job.exit_code() == exits.UNFIT
            assert "asked for 2 nodes and has 1 (gpu01)" in portal.registers[0].refusal


ODD_HELPER = """
import asyncio, json, sys
from gpuworker import nodelink

async def main():
    told = json.loads(sys.stdin.readline())
    streams = await asyncio.open_connection(told["address"], told["port"], limit=nodelink.MOST_LINE)
    about = {"ids": ["4", "5"], "names": ["4", "5"], "maker": "nvidia", "mem_mb": 16000}
    link = await nodelink.prove_as_helper(*streams, told["key"], "gpu02", about)
    while True:
        said = await link.hear()
        if said["kind"] == "start":
            link.say("ended", part=said["part"])  # neither how nor why

asyncio.run(main())
"""


async def test_an_agent_that_cannot_go_on_with_a_helper_tries_again_and_then_ends_the_job(
    tmp_path: Path,
) -> None:
    """Nothing else ends a job whose GPUs serve nobody while the portal is answered."""
    helper = tmp_path / "helper.py"
    helper.write_text(ODD_HELPER)
    env = two_nodes(tmp_path, f"#!/bin/sh\nexec {sys.executable} {helper}\n")
    async with fake_portal() as portal:
        portal.set(desired=[wide()])
        with worker(portal, tmp_path, env) as job:
            assert "node gpu02" in (await portal.state("failed")).error
            await until(lambda: "the agent cannot go on with its helper: KeyError" in job.said(), "words")
            portal.set(desired=[wide("r2")])
            assert await job.exit_code() == exits.DONE
            assert portal.syncs[-1].ending == "node lost"
