"""The slurmrestd client on a real private Slurm, of the release that the run chose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from devstack import slurmrestd, trees
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from scheduler.slurm.protocol import NoAnswer, Rejected, SlurmClient
from scheduler.slurm.render import render
from scheduler.slurm.rest import VERSIONS, RestClient
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way
from tests.secret_file import put_secret
from tests.slurm.contract import PARTITIONS, QUICK, Contract, spec, standing_still, until
from tests.slurm.late import LATE, relay
from tests.unit.restd import fine, job, jwt, number, restd

__all__ = ["spec"]

pytestmark = pytest.mark.slurm


def why_not() -> str:
    tree = trees.chosen()
    if tree is None:
        return "Slurm 22.05's slurmrestd speaks neither v0.0.40 nor v0.0.42: run bin/test --slurm trixie or testing"
    return slurmrestd.refusal()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if why := why_not():
        pytest.skip(why)
    spec = SlurmSpec(nodes=2, sched_interval_s=1, rest=True, partitions=PARTITIONS, extra=(QUICK,))
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        yield slurm


@pytest.fixture
def token(cluster: Slurm, tmp_path: Path) -> Path:
    path = tmp_path / "token"
    put_secret(path, cluster.token(3600))
    return path


class TestRestClient(Contract):
    kind = "rest"

    @pytest.fixture(params=VERSIONS)
    def client(self, cluster: Slurm, token: Path, request: pytest.FixtureRequest) -> RestClient:
        found = RestClient(way(cluster, token), limit_s=8, versions=(request.param,))
        if request.param == "v0.0.40":
            try:
                found.jobs()
            except NoAnswer as error:
                pytest.skip(str(error))
        return found

    @pytest.fixture
    def broken(self, cluster: Slurm, token: Path, tmp_path: Path) -> Iterator[Callable[[str], RestClient]]:
        """Give clients of a server that is none, and with a token that another cluster would take."""
        with restd() as other, ExitStack() as relays:

            def one(situation: str) -> RestClient:
                if situation in LATE:
                    delay_s, limit_s = LATE[situation]
                    url = relays.enter_context(relay(cluster.rest_url, delay_s))
                    return RestClient(replace(way(cluster, token), address=url), limit_s=limit_s)
                path = tmp_path / "other-token"
                put_secret(path, jwt(sun="root", iat=int(time.time()), exp=int(time.time()) + 3600))
                if situation == "token":
                    return RestClient(way(cluster, path), limit_s=8)
                other.serve()
                if situation == "forbidden":
                    error = {"code": 2002, "message": "Access/permission denied", "string": ""}
                    status = [{"job_id": number(60_000_000), "step_id": "60000000", "error": error}]
                    other.answers["GET /slurm/v0.0.42/job/60000000"] = fine(
                        jobs=[job(60_000_000, "berth-x-1", "RUNNING", user="root")]
                    )
                    other.answers["DELETE /slurm/v0.0.42/jobs/"] = fine(status=status)
                    return RestClient(Way(kind="rest", address=other.url, token_file=str(path)), limit_s=8)
                for method, paths in {
                    "GET": ("jobs/", "job/60000000", "partitions/", "nodes/", "reservations/"),
                    "POST": ("job/submit",),
                    "DELETE": ("jobs/",),
                }.items():
                    for name in paths:
                        other.answers[f"{method} /slurm/v0.0.42/{name}"] = (200, b"<h1>It works!</h1>")
                return RestClient(Way(kind="rest", address=other.url, token_file=str(path)), limit_s=8)

            yield one


def way(cluster: Slurm, token: Path) -> Way:
    return Way(kind="rest", address=cluster.rest_url, token_file=str(token))


def test_a_token_that_the_server_takes_no_longer_is_renewed_once(
    cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    put_secret(path, cluster.token(3))
    client = RestClient(way(cluster, path), limit_s=8)
    client.jobs()
    ended_at = time.time() + 4
    until(lambda: time.time() > ended_at)
    # As if this machine's clock were behind: the client believes in the token, and the server does not.
    monkeypatch.setattr("scheduler.slurm.rest_link.time.time", lambda: ended_at - 60)
    client._whole_at = -1000.0
    with pytest.raises(NoAnswer, match="token is not accepted"):
        client.jobs()
    put_secret(path, cluster.token(3600))
    client.jobs()


def test_a_server_that_has_ended_or_stands_still_is_no_answer_until_it_is_back(
    cluster: Slurm, token: Path, spec: JobSpec
) -> None:
    client = RestClient(way(cluster, token), limit_s=3)
    client.jobs()
    with standing_still(cluster.rest.pid):
        for verb in (client.jobs, client.partitions, lambda: client.submit(render(spec), spec)):
            with pytest.raises(NoAnswer, match="within 3 s"):
                verb()
    cluster.rest.stop()
    try:
        with pytest.raises(NoAnswer, match="refused"):
            client.partitions()
    finally:
        cluster.rest.start()
    client.partitions()


def test_the_number_of_a_strangers_job_is_left_alone(
    cluster: Slurm, token: Path, spec: JobSpec, tmp_path: Path
) -> None:
    """Not for manners alone: slurmctld 24.11.5 stands still for good once slurmrestd has asked it to end a job for
    somebody who may not, and of 26.05.5 the next listing got no answer."""
    client = RestClient(way(cluster, token), limit_s=8)
    job_id = client.submit(render(spec), spec)
    other = tmp_path / "other"
    put_secret(other, cluster.run("scontrol", "token", "lifespan=600", "username=nobody").strip())
    stranger = RestClient(way(cluster, other), limit_s=8)
    assert spec.name not in stranger.jobs()
    with pytest.raises(Rejected, match=f"job {job_id}"):
        stranger.cancel([job_id])
    until(lambda: client.jobs()[spec.name][0].state == "RUNNING")
    client.cancel([job_id])
    until(lambda: client.jobs()[spec.name][0].state == "CANCELLED")


def test_a_listing_of_an_unchanged_cluster_is_short_and_a_change_shows_at_once(
    cluster: Slurm, token: Path, spec: JobSpec
) -> None:
    client: SlurmClient = RestClient(way(cluster, token), limit_s=8)
    job_id = client.submit(render(spec), spec)
    until(lambda: client.jobs()[spec.name][0].state == "RUNNING")
    assert client.jobs() == client.jobs()
    client.cancel([job_id])
    until(lambda: client.jobs()[spec.name][0].state == "CANCELLED", 30)
