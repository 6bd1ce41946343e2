"""One portal and two private clusters of different releases: a request is answered in each, and what happens to one
controller, or on the way to it, is nothing to the other."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from devstack import ask, berth, demomodel, trees
from devstack.say import Progress
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from tests.slurm import releases
from tests.slurm.whole import QUICK, WORDS, Whole

pytestmark = pytest.mark.slurm

SPEC = SlurmSpec(nodes=1, sched_interval_s=1)
FAR = "far-echo"


@dataclasses.dataclass
class Two:
    """A pair of clusters. `whole` submits to its own by Slurm's commands, to `far` by an access."""

    whole: Whole
    far: Slurm
    folder: Path

    def ask(self, model: str, text: str = WORDS) -> str:
        return ask.ask(self.whole.site.url, self.whole.berth.token, model, text, lambda _: None).text

    def apply(self, **sections: dict[str, Any]) -> None:
        """Apply a catalog by the command that an administrator gives."""
        file = self.folder / "catalog.yaml"
        file.write_text(yaml.safe_dump(sections))
        self.whole.site.manage(["catalog", "apply", str(file)])

    def error(self, cluster: str) -> str:
        return str(self.whole.one("SELECT error FROM fleet_waystate WHERE cluster_id = %s", cluster))

    def live(self) -> dict[str, tuple[str, int, str]]:
        """Return by pool the cluster, job and node of the pilot that serves it."""
        rows = self.whole.rows(
            """SELECT r.pool_id, p.cluster, p.job_id, p.node FROM fleet_replica r JOIN fleet_pilot p ON p.id = r.pilot_id
               WHERE r.state = 'hot' AND p.state = 'up'"""
        )
        return {pool: (cluster, job, node) for pool, cluster, job, node in rows}

    def let_go(self) -> None:
        """Let every pilot in either cluster go."""
        for pool in ("echo", FAR):
            self.whole.rows("UPDATE fleet_poolstate SET interest_until = NULL WHERE pool_id = %s", pool)
        self.far.cancel_jobs()
        self.whole.empty()


def catalog(far: Slurm, portal: str) -> dict[str, dict[str, Any]]:
    return {
        "accesses": {"far": {"cluster": "far", "submit_prefix": list(far.prefix)}},
        "profiles": {
            "far": {
                "access": "far", "partition": "gpu", "gpu_type": "a100", "gpus": 2, "cpus": 1, "mem_mb": 4000,
                "walltime_min": 60, "walltime_least_min": 30, "portal_url_from_nodes": portal,
            }
        },
        "pools": {
            FAR: {
                "environment": "demo-echo", "profiles": ["far"], "gpus": 1, "mem_mb": 100, "load_estimate_s": 1,
                "load_limit_s": 60, "args": {"load_s": 0, "tokens_per_s": 200},
            }
        },
        "models": {FAR: {"pool": FAR}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two")
    tree = releases.tree("trixie") if os.getuid() == 0 and not trees.chosen() else None
    with (
        Slurm(folder / "far", dataclasses.replace(SPEC, rest=tree is not None), tree=tree) as far,
        berth.running(
            folder / "berth", demomodel.ensure(Progress()), Progress(), SPEC, QUICK, also=far.portal_addresses
        ) as running,
    ):
        made = Two(Whole(running), far, folder)
        made.apply(**catalog(far, f"http://{far.portal_addresses[0]}:{running.site.port}"))
        made.whole.tune(load_s=0, tokens_per_s=200)
        yield made
        far.cancel_jobs()


def test_a_request_is_answered_in_each_cluster_although_names_and_numbers_are_the_same(two: Two) -> None:
    if two.far.tree is not None:
        assert two.far.run("sbatch", "--version") != two.whole.slurm.run("sbatch", "--version")
    answers: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda m=model: answers.update({m: two.ask(m)}), daemon=True)
        for model in ("echo", FAR)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert answers == {"echo": WORDS, FAR: WORDS}
    two.whole.until(lambda: set(two.live()) == {"echo", FAR}, what="two replicas")
    here, there = two.live()["echo"], two.live()[FAR]
    assert (here[0], there[0]) == ("main", "far")
    assert here[1:] == there[1:], "the same number of job, on nodes of the same name"
    said = two.whole.site.manage(["fleet", "status"])
    assert "Cluster far: Slurm answered" in said and "Cluster main: Slurm answered" in said
    two.let_go()


def test_one_controller_is_gone_and_the_others_models_start(two: Two) -> None:
    before = two.whole.last_decision()
    two.far.stop_controller()
    try:
        two.whole.until(lambda: two.error("far"), what="silence of the far one")
        waiting = two.whole.ask(WORDS)  # the near one's
        assert waiting.result(120) == WORDS
        assert two.error("main") == ""
        two.whole.until(lambda: two.live().get("echo", ("",))[0] == "main", what="a replica in main")
        silent = [row for row in two.whole.story(before) if row.startswith("slurm_silent")]
        assert len(silent) == 1 and "slurm_silent: Slurm (far, by " in silent[0], silent
        assert two.whole.site.get("/readyz") == 200
        said = two.whole.site.manage(["fleet", "why", FAR])
        assert "Slurm (far" in said and "has not answered since" in said, said
        held = threading.Thread(target=two.ask, args=(FAR,), daemon=True)
        held.start()
        two.whole.until(
            lambda: "does not answer" in str(
                two.whole.one("SELECT reason FROM fleet_poolstate WHERE pool_id = %s", FAR)
            ),
            what="the reason",
        )  # fmt: skip
    finally:
        two.far.start_controller()
    held.join(180)
    assert not held.is_alive() and two.live()[FAR][0] == "far", "it waited, and is answered now"
    two.let_go()


def test_a_shell_that_greets_on_the_way_changes_nothing_and_one_that_talks_nonsense_holds_its_own(
    two: Two,
) -> None:
    """Issue 13: such a way made every listing unreadable, and then no job of any profile was submitted."""
    prefix = list(two.far.prefix)
    shell = two.folder / "ssh"
    shell.write_text(
        '#!/bin/sh\necho "Welcome to login01. Maintenance on Monday."\n"$@"\ncode=$?\necho Bye\nexit $code\n'
    )
    shell.chmod(0o755)
    try:
        two.apply(accesses={"far": {"submit_prefix": [str(shell), *prefix]}})
        assert two.ask(FAR) == WORDS
        assert two.error("far") == ""
        shell.write_text('#!/bin/sh\necho "Your password has expired."\n')
        two.whole.until(lambda: "Your password has expired" in two.error("far"), what="what was heard")
        assert two.ask("echo") == WORDS and two.error("main") == ""
        assert two.ask(FAR) == WORDS, "what runs goes on"
    finally:
        # The way itself may not change while jobs live that are found by it.
        shell.write_text('#!/bin/sh\nexec "$@"\n')
        two.whole.until(lambda: two.error("far") == "", what="an answer again")
        two.let_go()
        two.apply(accesses={"far": {"submit_prefix": prefix}})


@pytest.mark.nightly
def test_the_far_one_is_reached_by_slurmrestd_and_the_near_one_by_its_commands(two: Two) -> None:
    if two.far.tree is None:
        pytest.skip("the far cluster has no slurmrestd")
    token = [*two.far.prefix, "scontrol", "token", "lifespan=1800"]
    rest = {"kind": "rest", "cluster": "far", "address": two.far.rest_url, "token_command": token}
    two.apply(accesses={"far-rest": rest}, profiles={"far": {"access": "far-rest"}})
    try:
        assert two.ask(FAR) == WORDS and two.ask("echo") == WORDS
        assert two.live()[FAR][0] == "far"
        said = two.whole.site.manage(["fleet", "status"])
        assert "Cluster far: Slurm answered" in said, said
    finally:
        two.let_go()
        two.apply(profiles={"far": {"access": "far"}})
