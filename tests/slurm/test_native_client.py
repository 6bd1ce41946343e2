"""The native client on a real private Slurm, where pyslurm can be built for its release."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devstack import pyslurm, trees
from devstack.say import Progress
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from scheduler.slurm.native import NativeClient
from scheduler.slurm.protocol import NoAnswer
from scheduler.slurm.way import Way
from tests.slurm.contract import PARTITIONS, QUICK, Contract, spec, standing_still, until
from tests.slurm.late import LATE, behind
from tests.unit.fake_pyslurm import interpreter

__all__ = ["spec"]

pytestmark = pytest.mark.slurm


def why_not() -> str:
    tree = trees.chosen()
    return (
        pyslurm.refusal(tree) if tree else "there is no pyslurm for Slurm 22.05: run bin/test --slurm testing"
    )


@pytest.fixture(scope="module")
def python() -> str:
    """Return the interpreter, inside the tree."""
    tree = trees.chosen()
    if why := why_not():
        pytest.skip(why)
    assert tree is not None
    return pyslurm.ensure(tree, Progress())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, python: str) -> Iterator[Slurm]:
    spec = SlurmSpec(nodes=2, sched_interval_s=1, partitions=PARTITIONS, extra=(QUICK,))
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        yield slurm


@pytest.fixture
def make(cluster: Slurm) -> Iterator[Callable[..., NativeClient]]:
    made: list[NativeClient] = []

    def one(interpreter: str, limit_s: float, behind: tuple[str, ...] = ()) -> NativeClient:
        way = Way(
            kind="native", prefix=(*cluster.prefix, *behind), conf=str(cluster.conf), python=interpreter
        )
        made.append(NativeClient(way, limit_s=limit_s))
        return made[-1]

    yield one
    for client in made:
        client.close()


Make = Callable[..., NativeClient]


class TestNativeClient(Contract):
    kind = "native"

    @pytest.fixture
    def client(self, make: Make, python: str) -> NativeClient:
        return make(python, 8)

    @pytest.fixture
    def broken(self, make: Make, python: str, tmp_path: Path) -> Callable[[str], NativeClient]:
        """Give a client whose interpreter prints something else."""

        def one(situation: str) -> NativeClient:
            if situation in LATE:
                delay_s, limit_s = LATE[situation]
                return make(python, limit_s, behind(delay_s))
            if situation == "forbidden":
                return make(interpreter(tmp_path, "FAILS.update({60_000_000: 2002})"), 8)
            path = tmp_path / "python"
            path.write_text("#!/bin/sh\necho 'Have a nice day'\n")
            path.chmod(0o755)
            return make(str(path), 8)

        return one


def test_a_helper_that_waits_for_munge_is_ended_and_the_next_one_answers(
    cluster: Slurm, make: Make, python: str
) -> None:
    client = make(python, 15)
    client.jobs()
    first = client.helper_pid
    client._helper._limit_s = 3.0
    with standing_still(cluster.munge_pid), pytest.raises(NoAnswer, match="within 3 s"):
        client.jobs()
    assert client.helper_pid is None
    client._helper._limit_s = 15.0

    def answers() -> bool:
        try:
            client.jobs()
        except NoAnswer:
            return False
        return True

    until(answers, 60)
    assert client.helper_pid not in (None, first)


def test_a_configuration_that_is_wrong_is_no_answer(cluster: Slurm, python: str, tmp_path: Path) -> None:
    way = Way(kind="native", prefix=cluster.prefix, conf=f"{tmp_path}/no.conf", python=python)
    client = NativeClient(way, limit_s=5)
    with pytest.raises(NoAnswer):
        client.jobs()
    client.close()
